//! What happened, when, to what and why: `sluice events`, the log's formats, and what checks lately said.

use pktgen_tests::lab::{CLIENT, Lab, Plan};
use pktgen_tests::process::{run, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const HEALTH: &str =
    "\n[service.health]\ntype = \"http\"\ninterval = \"200ms\"\ntimeout = \"500ms\"\nfall = 2\n";

fn events(lab: &Lab, words: &[&str]) -> Vec<Value> {
    let mut all = vec!["-j", "events"];
    all.extend(words);
    let text = lab.sluice(&all).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn events_tell_what_happened_to_whom_and_why_also_after_a_restart() {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80]).unwrap();
    }
    let config = lab.config_head()
        + "\n[log]\nformat = \"json\"\n"
        + &lab.service("web", "tcp", 80, "rr", &[0])
        + HEALTH
        + &lab.service("other", "tcp", 81, "rr", &[1]);
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up"]);

    // No thread but the worker's may run on its core.
    let tasks = format!("/proc/{}/task", lab.sluiced().unwrap().pid());
    for task in std::fs::read_dir(tasks).unwrap() {
        let task = task.unwrap().path();
        let [name, status] = ["comm", "status"].map(|file| std::fs::read_to_string(task.join(file)).unwrap());
        let cores = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap()
            .trim()
            .to_owned();
        assert!(
            name.starts_with("rte-worker") || cores != "1" && !cores.contains("0-1"),
            "{name} may run on {cores}"
        );
    }

    // Somebody looks on while the only server dies and comes back.
    let mut follow = lab.sluice_command();
    let mut follow =
        follow.args(["-j", "events", "--follow", "--service", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut followed = BufReader::new(follow.stdout.take().unwrap()).lines();
    lab.program(0).signal(Signal::STOP);
    let is_down =
        |event: &Value| event["service"] == "web" && event["to"] == "down" && event["server"].is_null();
    assert!(wait_until(SOON, || events(&lab, &[]).iter().any(is_down)), "{:?}", events(&lab, &[]));
    lab.program(0).signal(Signal::CONT);
    let is_ready =
        |event: &Value| event["service"] == "web" && event["from"] == "down" && event["to"] == "ready";
    assert!(wait_until(SOON, || events(&lab, &[]).iter().any(is_ready)));

    let of_web = events(&lab, &["--service", "web", "--since", "10m"]);
    let edges: Vec<_> = of_web
        .iter()
        .filter(|event| event["kind"] == "health")
        .map(|event| format!("{} {}->{}", event["server"], event["from"], event["to"]).replace('"', ""))
        .collect();
    let server = format!("{}:80", lab.server_ip(0));
    assert!(
        edges.contains(&format!("{server} up->down")) && edges.contains(&format!("{server} down->up")),
        "{edges:?}"
    );
    let fault = of_web.iter().find(|event| event["kind"] == "health" && event["to"] == "down").unwrap();
    assert!(fault["why"].as_str().is_some_and(|why| !why.is_empty()), "{fault}");
    assert!(events(&lab, &["--service", "other"]).iter().all(|event| event["service"] != "web"));
    assert!(followed.by_ref().map_while(Result::ok).any(|line| line.contains("\"to\":\"ready\"")));
    follow.kill().unwrap();
    follow.wait().unwrap();

    // A person reads when, how bad, and what.
    let text = lab.sluice(&["events", "--kind", "services"]).unwrap();
    let down = text.lines().find(|line| line.contains("service web is down")).unwrap();
    assert!(down.starts_with("20") && down.contains("  warn   services   "), "{down}");
    let shown = lab.sluice(&["-w", "service", "show", "web"]).unwrap();
    assert!(shown.contains("up since 20") && shown.contains("answers          10.0.0.11:80: "), "{shown}");
    let check = || lab.json(&["service", "show", "web"]).unwrap()["servers"][0]["check"].clone();
    assert!(
        wait_until(SOON, || check()["recent"].as_array().is_some_and(|all| all.len() == 10)),
        "{}",
        check()
    );
    assert_eq!(check()["flaps"], 2, "{}", check());
    let lists = lab.json(&["server", "list"]).unwrap();
    assert!(lists[0]["check"]["recent"].is_null(), "{lists}");

    // A change tells its author; a server that is removed and a reload are events too.
    lab.sluice(&["server", "set", "other", &format!("{}:81", lab.server_ip(1)), "weight=3"]).unwrap();
    let set = events(&lab, &["--service", "other"]).pop().unwrap();
    assert!(set["who"].as_str().is_some_and(|who| who.starts_with("root")), "{set}");
    lab.write_config(&config.replace("\"json\"", "\"logfmt\"")).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    lab.sluice(&["server", "set", "other", &format!("{}:81", lab.server_ip(1)), "weight=4"]).unwrap();

    // The log: JSON objects, and logfmt behind the reload.
    let log = lab.sluiced().unwrap().output();
    let objects = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    assert!(objects.filter(|line| line["service"] == "web").count() >= 2, "{log}");
    let last = log.lines().last().unwrap();
    assert!(
        last.starts_with("ts=20")
            && last.contains(" level=info kind=\"calls of root\" msg=\"server.set by root"),
        "{last}"
    );

    // After a kill -9 what happened before it is still known.
    let before = events(&lab, &["--limit", "1000"]).len();
    lab.sluiced().unwrap().signal(Signal::KILL);
    assert!(wait_until(SOON, || lab.sluiced().unwrap().ended().is_some()));
    lab.start_sluiced(&config).unwrap();
    let after = events(&lab, &["--limit", "1000"]);
    assert!(after.len() > before && after.iter().any(is_down) && after.iter().any(is_ready), "{after:?}");
    let numbers: Vec<_> = after.iter().map(|event| event["number"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    run(lab.sluice_command().args(["events", "--since", "nonsense"])).unwrap_err();
}

#[test]
fn lists_say_what_is_asked_for_and_a_reload_that_nobody_confirms_is_undone() {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80]).unwrap();
    }
    let config = lab.config_head()
        + &lab.service("web", "tcp", 80, "rr", &[0, 1])
        + HEALTH
        + &lab.service("idle", "tcp", 81, "rr", &[1]);
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "up"]);
    assert_eq!(lab.http(10, 2).unwrap().len(), 10);

    let count = |words: &[&str]| {
        let mut all = vec!["session", "list"];
        all.extend(words);
        lab.json(&all).unwrap().as_array().unwrap().len()
    };
    let first = format!("{}:80", lab.server_ip(0));
    assert_eq!((count(&[]), count(&["--server", &first])), (10, 5));
    assert_eq!((count(&["--limit", "3"]), count(&["--client", CLIENT, "--protocol", "tcp"])), (3, 10));
    assert_eq!((count(&["--client", "203.0.113.0/24"]), count(&["--state", "established"])), (0, 0));
    let refused = lab.sluice(&["session", "list", "--state", "OPEN"]).unwrap_err();
    assert!(refused.contains("ESTABLISHED"), "{refused}");

    // Nothing is wrong, but clients from elsewhere could not be answered.
    let hints = lab.json(&["status"]).unwrap()["hints"].to_string();
    assert!(hints.contains("no route leads to IPv4 clients") && !hints.contains("IPv6"), "{hints}");
    let routes = lab.sluice(&["route", "list"]).unwrap();
    assert!(routes.contains("ORIGIN") && routes.contains("link"), "{routes}");
    let way = lab.json(&["route", "get", &lab.server_ip(0)]).unwrap();
    assert_eq!((&way["port"], &way["neighbor"]), (&"lan".into(), &"REACHABLE".into()), "{way}");
    let nowhere = lab.sluice(&["route", "get", "203.0.113.7"]).unwrap_err();
    assert!(nowhere.contains("no route leads to 203.0.113.7"), "{nowhere}");
    let health = lab.json(&["health", "list"]).unwrap();
    assert_eq!(health.as_array().unwrap().len(), 2, "{health}");
    assert_eq!((&health[0]["state"], &health[0]["services"][0]), (&"up".into(), &"web".into()), "{health}");
    let one = lab.json(&["service", "list", "idle"]).unwrap();
    assert_eq!((one.as_array().unwrap().len(), &one[0]["name"]), (1, &"idle".into()));
    let bash = lab.sluice(&["completions", "bash"]).unwrap();
    assert!(bash.contains("session"), "{bash:.200}");
    // A list in another order, with other columns, and as rates.
    let sorted =
        lab.sluice(&["service", "list", "--sort", "pkts-in", "--columns", "SERVICE,PKTS-IN"]).unwrap();
    let lines: Vec<_> = sorted.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!((&lines[0][..], lines[1][0]), (&["SERVICE", "PKTS-IN"][..], "web"), "{sorted}");
    let refused = lab.sluice(&["server", "list", "--sort", "PACKETS"]).unwrap_err();
    assert!(refused.contains("there is no column PACKETS; use one of SERVICE, SERVER"), "{refused}");
    let rates = lab.json(&["service", "list", "--rate"]).unwrap();
    let web = rates.as_array().unwrap().iter().find(|service| service["name"] == "web").unwrap();
    assert_eq!(
        (&web["packets_in"], &web["servers"][0]["weight"]),
        (&0.into(), &1.into()),
        "nothing goes on: {web}"
    );

    lab.sluice(&["--watch", "1", "server", "remove", "web", &first]).unwrap_err();

    // A reload that waits: nothing else changes meanwhile, and it is undone when nobody confirms it.
    let weight = || lab.json(&["service", "show", "web"]).unwrap()["servers"][0]["weight"].clone();
    let before = weight();
    let heavier = config.replacen("weight = 1", "weight = 7", 1);
    assert_ne!(heavier, config);
    lab.write_config(&heavier).unwrap();
    let said = lab.sluice(&["config", "reload", "--confirm", "2s"]).unwrap();
    assert!(said.contains("sluice config confirm"), "{said}");
    assert_eq!(weight(), 7);
    let refused = lab.sluice(&["server", "set", "web", &first, "weight=9"]).unwrap_err();
    assert!(refused.contains("to be confirmed"), "{refused}");
    assert!(wait_until(SOON, || weight() == before));
    assert!(
        events(&lab, &["--kind", "config"])
            .iter()
            .any(|event| event["text"].as_str().unwrap().contains("not confirmed"))
    );
    lab.sluice(&["config", "confirm"]).unwrap_err();
    // Confirmed in time it stays.
    lab.sluice(&["config", "reload", "--confirm", "5s"]).unwrap();
    lab.sluice(&["config", "confirm"]).unwrap();
    lab.sluice(&["server", "set", "web", &first, "weight=9"]).unwrap();
    let history = lab.json(&["config", "history"]).unwrap();
    assert!(history[0]["ended_by"].as_str().unwrap().starts_with("server.set by root"), "{history}");
    assert!(history[1]["ended_by"].as_str().unwrap().starts_with("config.reload by root"), "{history}");
    lab.sluice(&["config", "rollback"]).unwrap();
    assert_eq!(weight(), 7);
}
