//! The lab that teaches, as `make lab` starts it: what its tour says works in every mode.

use pktgen_tests::lab::program;
use std::io::Write;
use std::process::{Command, Stdio};

/// What a newcomer types, and what the shell printed.
fn shell(mode: &str, lines: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-lab"));
    let folder = program("sluiced").parent().unwrap().to_owned();
    command.args(["shell", mode]).env("SLUICE_BIN", folder);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode}: {text}");
    text.into_owned()
}

/// Asks until `command` prints `wanted`.
fn until(command: &str, wanted: &str) -> String {
    format!(
        "for try in $(seq 300); do {command} | grep -q '{wanted}' && echo \"came: {wanted}\" && break; sleep 0.1; done\n"
    )
}

#[test]
fn the_tour_works_in_every_mode() {
    for mode in ["fullnat", "nat", "dr", "tunnel", "ipv6"] {
        let first = if mode == "ipv6" { "[2001:db8:b::11]:80" } else { "$RS1:80" };
        let network = if matches!(mode, "dr" | "tunnel") { "192.0.2" } else { "10.0.0" };
        let lines = format!("RS1={network}.11\n")
            + "ask 20; break-server 1\n"
            + &until("sluice server list", "down")
            + "echo healthy: $(ask 20)\nsluice service show web\nmend-server 1\n"
            + &until("sluice server list | grep -c ' up '", "^2$")
            + &format!("sluice server drain web '{first}'\n").replace('\'', "\"")
            + &until("sluice server list", "drain")
            + "sluice config diff\nsluice config rollback\n"
            + &until("sluice server list | grep -c ' up '", "^2$")
            + "echo at last: $(ask 20); exit\n";
        let text = shell(mode, &lines);
        for words in [
            "10 rs1",
            "healthy: 20 rs2",
            "500",
            "came: down",
            "came: drain",
            "at last: 10 rs1 10 rs2",
            "sluiced.log",
            "sluice lab (client)#",
        ] {
            assert!(text.contains(words), "{mode}: no {words:?} in {text}");
        }
    }
}

#[test]
fn the_tour_shows_source_nat() {
    let text = shell("snat", "ask 5; sluice session list; sluice stats drops; exit\n");
    assert!(text.contains("5 rs1") && text.contains("10.0.0.20"), "{text}");
}

#[test]
fn an_unknown_mode_is_told_which_there_are() {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice-lab")).args(["shell", "dsr"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("MODE=dsr is unknown; there are fullnat, nat, dr, tunnel, snat, ipv6"), "{text}");
}
