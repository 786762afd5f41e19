//! Metrics, judged by promtool, by the OpenMetrics parser of Prometheus's Python client, and by a Prometheus that scrapes
//! the lab: its answers are those of `sluice -j`.

use pktgen_tests::lab::{Lab, Plan};
use pktgen_tests::process::{run, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
const HEALTH: &str =
    "\n[service.health]\ntype = \"http\"\ninterval = \"200ms\"\ntimeout = \"500ms\"\nfall = 2\n";

/// Two services, the first with two checked servers, and metrics on loopback.
fn lab(metrics: &str) -> (Lab, String) {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80]).unwrap();
    }
    let config = lab.config_head()
        + metrics
        + "\n[timeouts]\ntime_wait = \"1s\"\nclose = \"1s\"\n"
        + &lab
            .service("web", "tcp", 80, "rr", &[0, 1])
            .replace("local_addresses", "session_histograms = true\nlocal_addresses")
        + HEALTH
        + &lab.service("idle", "udp", 53, "rr", &[0]);
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "up"]);
    (lab, config)
}

/// curl in the appliance's namespace.
fn curl(lab: &Lab, words: &[&str]) -> Result<String, String> {
    let mut curl = lab.director().command("curl");
    run(curl.args(["--silent", "--show-error", "--max-time", "10"]).args(words))
}

/// Runs a program on a text, and gives what it says of it.
fn judge(program: &str, arguments: &[&str], text: &str) -> Result<String, String> {
    let mut command = std::process::Command::new(program);
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    child.stdin.take().unwrap().write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() && said.trim().is_empty() { Ok(said) } else { Err(said) }
}

/// The value of one sample.
fn sample(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn the_text_is_right_by_the_judges_of_both_formats_and_follows_what_happens() {
    let (mut lab, config) = lab(
        "\n[metrics]\nlisten = [\"127.0.0.1:9797\", \"[::1]:9797\", \"unix:/tmp/sluice-metrics-test.sock\"]\n",
    );
    assert_eq!(lab.http(20, 2).unwrap().len(), 20);
    let url = "http://127.0.0.1:9797/metrics";

    let text = curl(&lab, &[url]).unwrap();
    judge("promtool", &["check", "metrics"], &text).unwrap();
    assert!(wait_until(SOON, || {
        let text = curl(&lab, &[url]).unwrap();
        sample(&text, "sluice_service_sessions_total{service=\"web\"}") == Some(20.0)
            && sample(&text, "sluice_service_state{service=\"web\",state=\"ready\"}") == Some(1.0)
    }));
    // Each of twenty connections took some time, and all of it is in the last bucket.
    let text = curl(&lab, &[url]).unwrap();
    let all = sample(&text, "sluice_service_connect_seconds_bucket{service=\"web\",le=\"+Inf\"}");
    assert_eq!(
        (all, sample(&text, "sluice_service_connect_seconds_count{service=\"web\"}")),
        (Some(20.0), Some(20.0))
    );
    // Workers took packets in bursts, and some pair of local address and server had the sessions' ports.
    let of_worker =
        |name: &str| sample(&text, &format!("sluice_worker_{name}{{worker=\"0\"}}")).unwrap_or(0.0);
    assert!(of_worker("burst_packets_count") > 20.0 && of_worker("burst_packets_sum") > 100.0);
    assert!(of_worker("turn_seconds_count") > 20.0 && of_worker("turn_seconds_sum") > 0.0);
    assert!(of_worker("fullest_pair_used") >= 2.0 && of_worker("fullest_pair_ports") > 1_000.0);
    // When the sessions have ended, all that they carried is in their histogram, and they took no time worth telling.
    assert!(wait_until(SOON, || {
        let text = curl(&lab, &[url]).unwrap();
        let of = |name: &str| sample(&text, &format!("sluice_service_{name}{{service=\"web\"}}"));
        let carried =
            of("incoming_bytes_total").zip(of("outgoing_bytes_total")).map(|(one, other)| one + other);
        of("session_duration_seconds_count") == Some(20.0)
            && of("session_bytes_count") == Some(20.0)
            && of("session_bytes_sum") == carried
    }));
    let text = curl(&lab, &[url]).unwrap();
    let quick = sample(&text, "sluice_service_session_duration_seconds_bucket{service=\"web\",le=\"1.0\"}");
    assert_eq!(quick, Some(20.0));
    assert!(!text.contains("session_bytes_sum{service=\"idle\"}"), "who does not count them says nothing");
    let open = ["-H", "Accept: application/openmetrics-text; version=1.0.0", url];
    let openmetrics = curl(&lab, &open).unwrap();
    let parse = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as families\nassert len(list(families(sys.stdin.read()))) > 50";
    judge("/usr/bin/python3", &["-c", parse], &openmetrics).unwrap();
    let zipped = curl(&lab, &["--compressed", "-D", "-", url]).unwrap();
    assert!(
        zipped.contains("content-encoding: gzip") && zipped.contains("sluice_build_info{"),
        "{zipped:.400}"
    );
    // An address that is not there is told, and used as soon as it is.
    let warnings = || lab.json(&["status"]).unwrap()["warnings"].to_string();
    assert!(warnings().contains("metrics: [::1]:9797: "), "{}", warnings());
    lab.director().sysctl("net.ipv6.conf.lo.disable_ipv6=0").unwrap();
    assert!(wait_until(SOON, || curl(&lab, &["http://[::1]:9797/metrics"]).is_ok()));
    assert!(wait_until(SOON, || !warnings().contains("metrics")), "{}", warnings());
    let socket = ["--unix-socket", "/tmp/sluice-metrics-test.sock", "http://x/metrics?scope=worker"];
    let workers = curl(&lab, &socket).unwrap();
    assert!(
        workers.contains("sluice_worker_busy_ratio{worker=\"0\"}") && !workers.contains("sluice_build"),
        "{workers}"
    );

    // A query narrows it; a wrong one is told.
    let one = curl(&lab, &[&format!("{url}?scope=service&service=idle")]).unwrap();
    assert!(one.contains("service=\"idle\"") && !one.contains("service=\"web\""), "{one}");
    assert!(curl(&lab, &[&format!("{url}?scope=none")]).unwrap().starts_with("scope is one of"));
    assert!(!curl(&lab, &[&format!("{url}?servers=false")]).unwrap().contains("sluice_server_"));

    // A server that dies is seen, and is the only one that is not well.
    lab.program(1).signal(Signal::STOP);
    let down =
        |text: &str| sample(text, "sluice_service_servers{service=\"web\",state=\"down\"}") == Some(1.0);
    assert!(wait_until(SOON, || down(&curl(&lab, &[url]).unwrap())));
    let unhealthy = curl(&lab, &[&format!("{url}?scope=server&servers=unhealthy")]).unwrap();
    assert_eq!(unhealthy.matches("sluice_server_up{").count(), 1, "{unhealthy}");
    lab.program(1).signal(Signal::CONT);

    // A removed server takes its series along, and leaves its counts to its service.
    let before = sample(&curl(&lab, &[url]).unwrap(), "sluice_service_sessions_total{service=\"web\"}");
    let second = format!("{}:80", lab.server_ip(1));
    lab.sluice(&["server", "remove", "web", &second]).unwrap();
    let gone = format!("server=\"{second}\"");
    assert!(wait_until(SOON, || !curl(&lab, &[url]).unwrap().contains(&gone)));
    let text = curl(&lab, &[url]).unwrap();
    assert_eq!(sample(&text, "sluice_service_sessions_total{service=\"web\"}"), before);
    assert!(wait_until(SOON, || sample(&curl(&lab, &[url]).unwrap(), "sluice_config_changed_by_command")
        == Some(1.0)));

    // Slots of servers that come and go are given back.
    for last in 21..24 {
        let address = format!("10.0.0.{last}:8080");
        lab.sluice(&["server", "add", "web", &address]).unwrap();
        lab.sluice(&["server", "remove", "web", &address]).unwrap();
    }
    let draining = || lab.json(&["status"]).unwrap()["draining"].to_string();
    assert!(wait_until(SOON, || !draining().contains("10.0.0.2")), "{}", draining());

    // Files that are wrong are a failed reload; right ones end it, and may take the listeners away.
    lab.write_config(&config.replace("rr", "xx")).unwrap();
    lab.sluice(&["config", "reload"]).unwrap_err();
    let reloaded = || sample(&curl(&lab, &[url]).unwrap_or_default(), "sluice_config_last_reload_successful");
    assert!(wait_until(SOON, || reloaded() == Some(0.0)));
    lab.write_config(&config).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    assert!(wait_until(SOON, || reloaded() == Some(1.0)));
    lab.write_config(
        &config
            .replace("\n[metrics]", "\n[metrics]\n")
            .replace(", \"unix:/tmp/sluice-metrics-test.sock\"", ""),
    )
    .unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    assert!(wait_until(SOON, || curl(&lab, &socket).is_err()));
    assert!(reloaded().is_some());
}

#[test]
fn prometheus_scrapes_it_and_answers_as_sluice_does() {
    let (mut lab, _) = lab("\n[metrics]\nlisten = [\"127.0.0.1:9797\"]\n");
    let folder = lab.folder().to_owned();
    let settings = "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: sluice\n    static_configs:\n      - targets: ['127.0.0.1:9797']\n";
    std::fs::write(folder.join("prometheus.yml"), settings).unwrap();
    let mut prometheus = lab.director().command("prometheus");
    prometheus.args([
        format!("--config.file={}", folder.join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", folder.join("tsdb").display()),
        "--web.listen-address=127.0.0.1:9090".to_owned(),
    ]);
    lab.start("prometheus", &mut prometheus).unwrap();
    let ask = |lab: &Lab, query: &str| -> Option<Value> {
        let query = format!("query={query}");
        let text =
            curl(lab, &["--get", "--data-urlencode", &query, "http://127.0.0.1:9090/api/v1/query"]).ok()?;
        let answer: Value = serde_json::from_str(&text).ok()?;
        Some(answer["data"]["result"].clone())
    };
    let number =
        |lab: &Lab, query: &str| -> Option<f64> { ask(lab, query)?[0]["value"][1].as_str()?.parse().ok() };
    assert!(
        wait_until(Duration::from_secs(60), || number(&lab, "up") == Some(1.0)),
        "Prometheus does not scrape"
    );
    assert_eq!(lab.http(50, 5).unwrap().len(), 50);

    // When nothing moves any more, both say the same.
    let same = || {
        let services = lab.json(&["service", "list"]).unwrap();
        let web = services.as_array().unwrap().iter().find(|one| one["name"] == "web").unwrap().clone();
        let stats = lab.json(&["stats"]).unwrap();
        let drops: f64 = stats["drops"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
        let received: f64 =
            stats["ports"].as_array().unwrap().iter().filter_map(|port| port["rx_packets"].as_f64()).sum();
        let pairs = [
            ("sluice_service_incoming_bytes_total{service=\"web\"}", web["bytes_in"].as_f64()),
            ("sluice_service_outgoing_packets_total{service=\"web\"}", web["packets_out"].as_f64()),
            ("sluice_service_sessions_total{service=\"web\"}", web["sessions_created"].as_f64()),
            (
                "sum by (service) (sluice_server_incoming_bytes_total{service=\"web\"})",
                web["bytes_in"].as_f64(),
            ),
            ("sum(sluice_drops_total)", Some(drops)),
            ("sum(sluice_port_receive_packets_total) > 0", Some(received)),
            (
                "sluice_service_state{service=\"web\"} * on(service) group_left(vip) sluice_service_info == 1",
                Some(1.0),
            ),
        ];
        pairs.iter().all(|(query, said)| number(&lab, query).is_some() && number(&lab, query) == *said)
    };
    assert!(
        wait_until(Duration::from_secs(30), same),
        "{:?}",
        ask(&lab, "{__name__=~\"sluice_service_.*\"}")
    );
    // Every panel of the dashboard has something to show.
    let dashboard = std::fs::read_to_string(configs().join("grafana/sluice.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let query =
                query.replace("$instance", ".*").replace("$service", ".*").replace("$__rate_interval", "30s");
            let answered = || {
                ask(&lab, &query).is_some_and(|result| result.as_array().is_some_and(|all| !all.is_empty()))
            };
            assert!(wait_until(SOON, answered), "{}: {query}", panel["title"]);
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    let vip = ask(&lab, "sluice_service_info{service=\"web\"}").unwrap();
    assert_eq!(vip[0]["metric"]["scheduler"], "rr", "{vip}");
}

/// Where the repository's own files for Prometheus and Grafana are.
fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

/// The names of Sluice's metrics in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with("sluice_")).map(str::to_owned).collect()
}

#[test]
fn the_alerts_fire_and_are_quiet_as_they_should() {
    let folder = configs().join("prometheus");
    for words in [["check", "rules", "sluice.rules.yml"], ["test", "rules", "sluice.rules.test.yml"]] {
        let mut promtool = std::process::Command::new("promtool");
        run(promtool.args(words).current_dir(&folder)).unwrap();
    }
    // Each alert is tried, and looks at metrics that there are.
    let rules = std::fs::read_to_string(folder.join("sluice.rules.yml")).unwrap();
    let tests = std::fs::read_to_string(folder.join("sluice.rules.test.yml")).unwrap();
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 15);
    for alert in alerts {
        assert!(
            tests.contains(&format!("{alert} fires")) && tests.contains(&format!("{alert} is quiet")),
            "{alert}"
        );
    }
    let (lab, _) = lab("\n[metrics]\nlisten = [\"127.0.0.1:9797\"]\n");
    let there = names_in(&curl(&lab, &["http://127.0.0.1:9797/metrics"]).unwrap());
    let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    for name in expressions.flat_map(names_in) {
        assert!(there.contains(&name), "an alert asks for {name}, which there is not");
    }
}

#[test]
fn users_certificates_and_wildcards_are_minded() {
    let folder = std::env::temp_dir().join(format!("sluice-metrics-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let mut openssl = std::process::Command::new("openssl");
    run(openssl
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&cert))
    .unwrap();
    // The C library's bcrypt.
    let mut perl = std::process::Command::new("perl");
    let hash = run(perl.args(["-e", "print crypt('myPassword', '$2b$05$abcdefghijklmnopqrstuu')"])).unwrap();
    let metrics = format!(
        "\n[metrics]\nlisten = [\"0.0.0.0:9797\"]\ntls_server_config = {{ cert_file = {cert:?}, key_file = {key:?} }}\nbasic_auth_users = {{ prometheus = \"{}\" }}\n",
        hash.trim()
    );
    let (mut lab, config) = lab(&metrics);
    let cacert = cert.display().to_string();
    let ask = |lab: &Lab, user: &str| {
        let words =
            ["--cacert", &cacert, "-o", "/dev/null", "-w", "%{http_code}", "https://127.0.0.1:9797/metrics"];
        let mut all = vec!["-u", user];
        all.extend(words);
        curl(lab, &all)
    };
    assert_eq!(ask(&lab, "prometheus:myPassword").unwrap(), "200");
    assert_eq!(ask(&lab, "prometheus:wrong").unwrap(), "401");
    assert_eq!(ask(&lab, "nobody:myPassword").unwrap(), "401");
    curl(&lab, &["http://127.0.0.1:9797/metrics"]).unwrap_err();

    // One who guesses holds up nobody else, also one who has not been here before.
    let reload = |lab: &Lab, text: &str| {
        lab.write_config(text).unwrap();
        lab.sluice(&["config", "reload"]).unwrap();
    };
    reload(&lab, &config.replace("prometheus = ", "other = "));
    let guessing: Vec<_> = (0..8)
        .map(|_| {
            let mut curl = lab.director().command("curl");
            let words = ["--silent", "--interface", "127.0.0.2", "--max-time", "20", "-u", "other:wrong"];
            curl.args(words).args(["--cacert", &cacert, "https://127.0.0.1:9797/metrics"]);
            curl.stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let began = Instant::now();
    assert_eq!(ask(&lab, "other:myPassword").unwrap(), "200");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for mut guess in guessing {
        let _ = guess.kill();
        guess.wait().unwrap();
    }
    reload(&lab, &config);

    // A certificate that is gone takes metrics away, and not the traffic, also at a start.
    let away = folder.join("away");
    std::fs::rename(&cert, &away).unwrap();
    lab.sluiced().unwrap().stop();
    lab.start_sluiced(&config).unwrap();
    assert_eq!(lab.http(5, 1).unwrap().len(), 5);
    let warnings = lab.json(&["status"]).unwrap()["warnings"].to_string();
    assert!(warnings.contains("nothing is served until it can be read"), "{warnings}");
    std::fs::rename(&away, &cert).unwrap();
    assert!(wait_until(SOON, || ask(&lab, "prometheus:myPassword").is_ok_and(|code| code == "200")));

    // Without users everybody could ask.
    let open = config.replace("basic_auth_users", "# basic_auth_users");
    lab.write_config(&open).unwrap();
    let refused = lab.sluice(&["config", "reload"]).unwrap_err();
    assert!(refused.contains("metrics.listen[0]") && refused.contains("insecure = true"), "{refused}");
    lab.write_config(&open.replace("[metrics]", "[metrics]\ninsecure = true")).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    assert_eq!(ask(&lab, "x:y").unwrap(), "200");

    // A connection that was let in ends with its listener.
    let plain = config.replace(&metrics, "\n[metrics]\nlisten = [\"127.0.0.1:9798\"]\n");
    lab.write_config(&plain).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    let mut stream = lab.director().inside(|| TcpStream::connect("127.0.0.1:9798").unwrap());
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut room = [0; 4_096];
    assert!(stream.read(&mut room).unwrap() > 0);
    lab.write_config(&plain.replace(":9798", ":9799")).unwrap();
    lab.sluice(&["config", "reload"]).unwrap();
    assert!(matches!(stream.read(&mut room), Ok(0) | Err(_)));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn clients_that_are_slow_or_silent_keep_nobody_out() {
    let (lab, _) = lab("\n[metrics]\nlisten = [\"127.0.0.1:9797\"]\n");
    let silent: Vec<_> = lab.director().inside(|| {
        let ask = |at: usize| {
            let mut stream = TcpStream::connect("127.0.0.1:9797").unwrap();
            // Some say nothing, some half of a request, and some never read what they asked for.
            let said =
                ["", "GET /metrics HTTP/1.1\r\nHost: x\r\n", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"];
            let _ = stream.write_all(said[at % 3].as_bytes());
            stream
        };
        (0..300).map(ask).collect()
    });
    for _ in 0..20 {
        let began = Instant::now();
        assert!(curl(&lab, &["http://127.0.0.1:9797/metrics"]).unwrap().contains("sluice_build_info"));
        assert!(began.elapsed() < Duration::from_secs(3));
        assert!(lab.json(&["status"]).is_ok());
    }
    drop(silent);
    assert_eq!(lab.http(10, 2).unwrap().len(), 10);
}
