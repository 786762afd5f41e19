//! `make bench`: what a packet and a session cost, beside testpmd on the same packets.
//!
//! Without arguments this program runs everything and writes `target/bench/report.json` and two
//! plots; `QUICK=1` runs the small cases. Every measurement is a process of its own (EAL starts once
//! per process, and memory is measured from a clean start), so the other arguments name the cases
//! that it starts itself with. `guard` compares instruction counts with the recorded ones; `soft-nic` runs the daemon behind soft NICs;
//! `against` compares this program with another build of itself, by turns; `packets` writes the pcap file of a case, to be
//! tried by hand.

mod against;
mod assembly;
mod control;
mod defence;
mod device;
mod instructions;
mod latency;
mod loaded;
mod machine;
mod pcap;
mod peer;
mod plots;
mod report;
mod rig;
mod run;
mod sessions;
mod softnic;
mod source;
mod startup;
mod steering;
mod world;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> Result<(), String> {
    let case = match words {
        [] => return run::everything(std::env::var("QUICK").is_ok_and(|text| text == "1")),
        ["guard"] => return instructions::guard(),
        ["soft-nic", flows] => return softnic::everything(number(flows)?),
        ["soft-nic-case", wire, case, workers, flows] => {
            return softnic::case(wire, case, number(workers)?, number(flows)?);
        }
        ["packets", path, protocol, flows] => {
            let flows = number(flows)? as u32;
            return pcap::write(
                Path::new(path),
                world::Way::FULLNAT,
                protocol,
                flows,
                true,
                run::PCAP_STATION,
            )
            .map_err(|error| format!("{path}: {error}"));
        }
        ["traffic", arm, packets] => {
            sessions::traffic(arm, number(packets)? as u64);
            return Ok(());
        }
        ["ways"] => return run::ways(),
        ["against", other, cases @ ..] => return against::against(other, cases),
        ["device", plan @ ..] => return device::serve(&device::Plan::from_words(plan)?),
        ["generator", plan @ ..] => return latency::serve(&device::Plan::from_words(plan)?),
        ["steady", protocol, sessions, packets] => {
            sessions::steady(protocol, number(sessions)?, number(packets)? as u64)
        }
        ["sustained", seconds] => sessions::sustained(number(seconds)? as u64),
        ["connections", seconds] => sessions::connections(number(seconds)? as u64),
        ["new-at", live] => sessions::new_at(number(live)?),
        ["new-with-services", services, servers] => {
            sessions::new_with_services(number(services)?, *servers == "shared")
        }
        ["defence", packets] => defence::cost(number(packets)? as u64),
        ["port-choice"] => steering::port_choice(),
        ["hand-over", packets] => steering::hand_over(number(packets)? as u64),
        ["control"] => {
            println!("{}", control::measure(machine::measuring_core())?);
            return Ok(());
        }
        ["loaded", rounds] => {
            println!("{}", loaded::measure(machine::measuring_core(), number(rounds)?, 2.0)?);
            return Ok(());
        }
        ["locals", locals] => sessions::locals(number(locals)?),
        _ => {
            return Err(
                "usage: sluice-bench [guard | ways | against PROGRAM [CASE...] | soft-nic FLOWS | packets FILE udp|tcp FLOWS]".into()
            );
        }
    };
    println!("{case}");
    Ok(())
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}
