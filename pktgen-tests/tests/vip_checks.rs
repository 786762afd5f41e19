//! Checks that ask the VIP on each server, by the way that the service's traffic takes.

use pktgen_tests::lab::{Lab, Plan, VIP, VIP6};
use pktgen_tests::process::wait_until;
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

fn await_states(lab: &Lab, wanted: &[&str]) {
    let states = || {
        let services = lab.json(&["service", "list"]).unwrap();
        let servers = services[0]["servers"].as_array().unwrap().clone();
        servers.iter().map(|server| server["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let came = wait_until(SOON, || states() == wanted);
    assert!(came, "wanted {wanted:?}: {}", lab.sluice(&["service", "show", "web"]).unwrap());
}

fn lab() -> Lab {
    let mut lab = Lab::new(Plan { servers: 2, ipv6: true, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_with(at, "listen 80; listen [::]:80;", 80).unwrap();
    }
    lab
}

#[test]
fn a_server_without_the_vip_is_down_though_its_own_address_answers() {
    for vip in [VIP.to_owned(), format!("[{VIP6}]")] {
        let mut lab = lab();
        lab.give_vip(0).unwrap();
        let config = lab.config_head() + &service(&lab, "dr", &vip, "", "type = \"http\"\npath = \"/\"");
        lab.start_sluiced(&config).unwrap();
        await_states(&lab, &["up", "down"]);
        lab.give_vip(1).unwrap();
        await_states(&lab, &["up", "up"]);

        // What is reset when the check is over does not stay behind at the server.
        let open = || {
            let list = lab.server(0).command("ss").args(["-Htn", "state", "established"]).output().unwrap();
            String::from_utf8(list.stdout).unwrap().lines().count()
        };
        assert!(wait_until(SOON, || open() <= 2), "{} connections stay open", open());

        // With its configuration gone and back there are no rests of the check.
        lab.write_config(&config.replace("aim = \"vip\"", "aim = \"server\"")).unwrap();
        lab.sluice(&["config", "reload"]).unwrap();
        await_states(&lab, &["up", "up"]);
    }
}

#[test]
fn a_server_that_does_not_unpack_is_down() {
    let mut lab = lab();
    for at in 0..2 {
        lab.give_vip(at).unwrap();
    }
    lab.unpack_tunnel(0, "gre", false, false).unwrap();
    let tunnel = "tunnel = { type = \"gre\" }";
    let config = lab.config_head() + &service(&lab, "tunnel", VIP, tunnel, "type = \"tcp\"");
    lab.start_sluiced(&config).unwrap();
    await_states(&lab, &["up", "down"]);
    lab.unpack_tunnel(1, "gre", false, false).unwrap();
    await_states(&lab, &["up", "up"]);
    // The two nginx came first.
    lab.program(2).stop();
    await_states(&lab, &["down", "up"]);
}

#[test]
fn a_vip_where_nobody_takes_datagrams_is_down_at_once() {
    let mut lab = lab();
    for at in 0..2 {
        lab.give_vip(at).unwrap();
    }
    let config =
        lab.config_head() + &service(&lab, "dr", VIP, "protocol = \"udp\"", "type = \"udp\"\nsend = \"x\"");
    lab.start_sluiced(&config).unwrap();
    await_states(&lab, &["down", "down"]);
    let show = lab.sluice(&["service", "show", "web"]).unwrap();
    assert!(show.contains("Connection refused"), "{show}");
}
