//! Names, asked by dig and curl: healthy VIPs, and healthy servers near the client, by the kernel path.

use pktgen_tests::lab::{CLIENT, Lab, Plan, VIP};
use pktgen_tests::process::{run, wait_until};
use rustix::process::Signal;
use std::time::Duration;

const OWN: &str = "192.0.2.2";
const SOON: Duration = Duration::from_secs(6);

fn dig(lab: &Lab, words: &str) -> Vec<String> {
    let mut dig = lab.client().command("dig");
    dig.args([&format!("@{OWN}"), "+short", "+tries=1", "+time=2"]).args(words.split_whitespace());
    let mut lines: Vec<_> = run(&mut dig).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn resolve(lab: &Lab, path: &str) -> serde_json::Value {
    let mut curl = lab.client().command("curl");
    let text = run(curl.args(["--silent", "--max-time", "3", &format!("http://{OWN}:8053{path}")])).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn names_give_what_serves_and_the_nearest_first() {
    let mut lab = Lab::new(Plan { servers: 3, ..Plan::default() }).unwrap();
    for at in 0..3 {
        lab.start_nginx_on(at, &[80]).unwrap();
    }
    let names = format!(
        "\n[names]\nzone = \"lb.example.com\"\nlisten = [\"{OWN}:53\"]\nhttp = [\"{OWN}:8053\"]\nttl = \"7s\"\n[[names.client]]\nnetworks = [\"{CLIENT}/32\"]\nzone = \"a\"\nregion = \"r\"\n[[names.client]]\nnetworks = [\"203.0.113.0/24\"]\nzone = \"b\"\nregion = \"r\"\n"
    );
    let mut direct =
        lab.service("direct", "tcp", 81, "rr", &[0, 1, 2]).replace("listen", "names = \"servers\"\nlisten");
    for (at, place) in ["zone = \"a\"\nregion = \"r\"", "zone = \"b\"\nregion = \"r\"", "region = \"far\""]
        .iter()
        .enumerate()
    {
        let address = format!("address = \"{}:81\"", lab.server_ip(at));
        direct = direct.replace(&address, &format!("address = \"{}:80\"\n{place}", lab.server_ip(at)));
    }
    let health = "\n[service.health]\ntype = \"http\"\ninterval = \"200ms\"\ntimeout = \"500ms\"\nfall = 2\n";
    let config =
        lab.config_head() + &names + &lab.service("web", "tcp", 80, "rr", &[0, 1]) + &direct + health;
    lab.start_sluiced(&config).unwrap();

    assert!(wait_until(SOON, || dig(&lab, "direct.lb.example.com") == ["10.0.0.11"]));
    assert_eq!(dig(&lab, "web.lb.example.com"), [VIP]);
    assert_eq!(dig(&lab, "+tcp WEB.LB.example.com A"), [VIP]);
    let of_b = || dig(&lab, "direct.lb.example.com +subnet=203.0.113.0/24");
    assert!(wait_until(SOON, || of_b() == ["10.0.0.12"]), "{:?}", of_b());
    assert_eq!(dig(&lab, "none.lb.example.com"), [""; 0]);
    let full = {
        let mut dig = lab.client().command("dig");
        run(dig.args([&format!("@{OWN}"), "none.lb.example.com"])).unwrap()
    };
    assert!(full.contains("status: NXDOMAIN") && full.contains("flags: qr aa"), "{full}");
    let full = {
        let mut dig = lab.client().command("dig");
        run(dig.args([&format!("@{OWN}"), "web.lb.example.com"])).unwrap()
    };
    assert!(full.contains("7\tIN\tA\t192.0.2.10"), "{full}");

    // The client's own zone is lost: its region is next; then the rest.
    lab.program(0).signal(Signal::STOP);
    assert!(wait_until(SOON, || dig(&lab, "direct.lb.example.com") == ["10.0.0.12"]));
    lab.program(1).signal(Signal::STOP);
    assert!(wait_until(SOON, || dig(&lab, "direct.lb.example.com") == ["10.0.0.13"]));
    let answer = resolve(&lab, "/v1/resolve/direct");
    assert_eq!((&answer["zone"], &answer["ttl"]), (&"a".into(), &7.into()));
    assert_eq!(answer["servers"][0]["address"], "10.0.0.13");
    assert_eq!(answer["servers"][0]["tier"], "rest");
    assert_eq!(answer["servers"].as_array().unwrap().len(), 1);
    lab.program(1).signal(Signal::CONT);
    let of_b = || resolve(&lab, "/v1/resolve/direct?client=203.0.113.9")["servers"][0].clone();
    assert!(wait_until(SOON, || of_b()["tier"] == "zone"), "{}", of_b());
    assert_eq!(resolve(&lab, "/v1/resolve/none")["error"], "there is no service `none`");
    assert_eq!(resolve(&lab, "/v1/resolve/web?client=x")["error"], "`client` is not an address");
    lab.program(0).signal(Signal::CONT);

    // The operator's switch holds for names too, whoever asks.
    assert!(wait_until(SOON, || dig(&lab, "direct.lb.example.com") == ["10.0.0.11"]));
    lab.sluice(&["service", "switch", "direct", "10.0.0.13:80", "--for", "1h"]).unwrap();
    assert!(wait_until(SOON, || dig(&lab, "direct.lb.example.com") == ["10.0.0.13"]));
    assert_eq!(resolve(&lab, "/v1/resolve/direct?client=203.0.113.9")["servers"][0]["address"], "10.0.0.13");
    lab.sluice(&["service", "switch", "direct", "off"]).unwrap();
    assert!(wait_until(SOON, || dig(&lab, "direct.lb.example.com") == ["10.0.0.11"]));

    // A reload follows the zone, the TTL and the addresses; and takes the responders away.
    let elsewhere =
        config.replace("lb.example.com", "other.example").replace("7s", "9s").replace(":8053", ":8054");
    lab.write_config(&elsewhere).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    assert!(wait_until(SOON, || dig(&lab, "web.other.example") == [VIP]));
    assert_eq!(dig(&lab, "web.lb.example.com"), [""; 0]);
    let curl = |port: &str| {
        let mut curl = lab.client().command("curl");
        run(curl.args(["--silent", "--max-time", "3", &format!("http://{OWN}:{port}/v1/resolve/web")]))
    };
    assert!(curl("8054").unwrap().contains("\"ttl\":9"));
    assert!(wait_until(SOON, || curl("8053").is_err()));
    lab.write_config(&config.replace(&names, "")).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    assert!(wait_until(SOON, || curl("8054").is_err()));
}

#[test]
fn a_port_that_somebody_has_takes_the_names_and_not_the_traffic() {
    let mut lab = Lab::new(Plan { servers: 1, ..Plan::default() }).unwrap();
    lab.start_nginx(0, 80).unwrap();
    lab.start_host_nginx(8053).unwrap();
    let names = format!("\n[names]\nzone = \"lb.example.com\"\nhttp = [\"{OWN}:8053\"]\n");
    let config = lab.config_head() + &names + &lab.service("web", "tcp", 80, "rr", &[0]);
    lab.start_sluiced(&config).unwrap();
    assert_eq!(lab.http(1, 1).unwrap(), ["rs1"]);
    let warnings = lab.json(&["status"]).unwrap()["warnings"].to_string();
    assert!(warnings.contains("names: 192.0.2.2:8053: Address already in use"), "{warnings}");
    // It is tried again until it works.
    lab.program(1).stop();
    assert!(wait_until(SOON, || lab.json(&["status"]).unwrap()["warnings"] == serde_json::json!([])));
    assert_eq!(resolve(&lab, "/v1/resolve/web")["servers"][0]["address"], VIP);
}
