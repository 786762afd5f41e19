//! Checks that ask the VIP on each server, by the way that the service's traffic takes.

use pktgen_tests::lab::{Lab, Plan, VIP, VIP6};
use pktgen_tests::process::{run, wait_until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(6);

/// A service of two servers, and its check.
fn service(lab: &Lab, forward: &str, vip: &str, more: &str, health: &str) -> String {
    let servers: String = (0..2)
        .map(|at| {
            let address =
                if vip.starts_with('[') && forward == "dr" { lab.server_ip6(at) } else { lab.server_ip(at) };
            format!("[[service.server]]\naddress = \"{address}\"\n")
        })
        .collect();
    format!(
        "\n[[service]]\nname = \"web\"\nlisten = \"{vip}:80\"\nforward = \"{forward}\"\nscheduler = \"rr\"\n{more}\n{servers}\n[service.health]\naim = \"vip\"\n{health}\ninterval = \"200ms\"\ntimeout = \"500ms\"\nrise = 2\nfall = 2\n"
    )
}

/// Two servers, of which the first ones have the VIP.
fn lab(with_vip: usize) -> Lab {
    let mut lab = Lab::new(Plan { servers: 2, ipv6: true, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_with(at, "listen 80; listen [::]:80;", 80).unwrap();
    }
    for at in 0..with_vip {
        lab.give_vip(at).unwrap();
    }
    lab
}

#[test]
fn a_server_without_the_vip_is_down_though_its_own_address_answers() {
    for vip in [VIP.to_owned(), format!("[{VIP6}]")] {
        let mut lab = lab(1);
        let config = lab.config_head() + &service(&lab, "dr", &vip, "", "type = \"http\"\npath = \"/\"");
        lab.start_sluiced(&config).unwrap();
        lab.await_states(&["up", "down"]);
        lab.give_vip(1).unwrap();
        lab.await_states(&["up", "up"]);

        // Asked by their own addresses they are checked anew.
        lab.write_config(&config.replace("aim = \"vip\"", "aim = \"server\"")).unwrap();
        lab.sluice(&["config", "reload"]).unwrap();
        lab.await_states(&["up", "up"]);
    }
}

#[test]
fn a_server_that_does_not_unpack_is_down() {
    let mut lab = lab(2);
    lab.unpack_tunnel(0, "gre", false, false).unwrap();
    let tunnel = "tunnel = { type = \"gre\" }";
    let config = lab.config_head() + &service(&lab, "tunnel", VIP, tunnel, "type = \"tcp\"");
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "down"]);
    lab.unpack_tunnel(1, "gre", false, false).unwrap();
    lab.await_states(&["up", "up"]);
    // The reset at a check's end finds its server, which would wait for a request for a minute otherwise.
    let asked = || lab.json(&["server", "list"]).unwrap()[0]["check"]["asked"].as_u64().unwrap();
    assert!(wait_until(SOON, || asked() >= 20));
    let mut ss = lab.server(0).command("ss");
    let open = run(ss.args(["-Htn", "state", "established"])).unwrap().lines().count();
    assert!(open <= 2, "{open} connections stayed open");
    // The two nginx came first.
    lab.program(2).stop();
    lab.await_states(&["down", "up"]);
}

#[test]
fn a_vip_where_nobody_takes_datagrams_is_down_at_once() {
    let mut lab = lab(2);
    let config =
        lab.config_head() + &service(&lab, "dr", VIP, "protocol = \"udp\"", "type = \"udp\"\nsend = \"x\"");
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["down", "down"]);
    let show = lab.sluice(&["service", "show", "web"]).unwrap();
    assert!(show.contains("Connection refused"), "{show}");
}
