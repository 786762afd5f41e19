//! The page in a browser: it shows what `sluice -j` says, and soon; nothing of it comes from elsewhere, and no other site
//! gets it.

use pktgen_tests::browser::Browser;
use pktgen_tests::lab::{Lab, Plan};
use pktgen_tests::process::{run, wait_until};
use rustix::process::Signal;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
const HEALTH: &str =
    "\n[service.health]\ntype = \"http\"\ninterval = \"400ms\"\ntimeout = \"300ms\"\nfall = 2\n";
const PAGE: &str = "http://127.0.0.1:9798/";

fn lab(more: &str) -> Lab {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80, 8080]).unwrap();
    }
    let config = lab.config_head()
        + "\n[web]\nlisten = [\"127.0.0.1:9798\"]\n"
        + more
        + &lab.service("web", "tcp", 80, "rr", &[0, 1])
        + HEALTH
        + &lab.service("api", "tcp", 8080, "wlc", &[0, 1])
        + HEALTH
        + &lab.service("mail", "tcp", 25, "wrr", &[0, 1])
        + &lab.service("old", "tcp", 8443, "rr", &[1])
        + "\n[service.health]\ntype = \"tcp\"\ninterval = \"400ms\"\ntimeout = \"300ms\"\n";
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "up"]);
    lab
}

/// The text of a cell: of the table's row with this key, in the column of this title.
fn cell(page: &Browser, table: &str, key: &str, column: &str) -> String {
    let script = format!(
        "(() => {{ const t = document.getElementById({table:?}); if (!t) return ''; const at = [...t.tHead.querySelectorAll('th')].findIndex((c) => c.textContent.replace(/ [\\u25b4\\u25be]$/, '') === {column:?}); const row = t.querySelector(`tr[data-key=\"${{CSS.escape({key:?})}}\"]`); return row && at >= 0 ? row.cells[at].textContent : '' }})()"
    );
    page.text(&script).unwrap()
}

fn await_cell(page: &Browser, [table, key, column]: [&str; 3], wanted: &str) {
    assert!(
        wait_until(SOON, || cell(page, table, key, column) == wanted),
        "{table} {key} {column}: {:?} is not {wanted:?}; the page: {}; errors: {:?}",
        cell(page, table, key, column),
        page.text("document.body.innerText").unwrap(),
        page.errors()
    );
}

/// The page in a browser on the appliance.
fn open(lab: &Lab) -> Browser {
    let page = Browser::start(lab.director(), (1280, 900)).unwrap();
    page.go(PAGE).unwrap();
    await_cell(&page, ["service-table", "web", "state"], "ready");
    page
}

#[test]
fn the_page_shows_what_the_command_says_and_a_server_that_dies_within_two_seconds() {
    if Browser::is_not_to_be_had() {
        return eprintln!("not tried: Ubuntu has Chromium as a snap only");
    }
    let mut lab = lab("");
    let page = open(&lab);
    lab.http(200, 4).unwrap();
    let mut load = lab.client().command("bash");
    let address = lab.json(&["service", "show", "web"]).unwrap()["listen"].as_str().unwrap().to_owned();
    let host = address.split(':').next().unwrap();
    let command = format!(
        "for n in $(seq 4000); do curl -s -o /dev/null http://{host}/ http://{host}/ http://{host}:8080/; sleep 0.0$((RANDOM % 4)); done"
    );
    let _load = pktgen_tests::process::Daemon::start(load.args(["-c", &command]), &lab.folder().join("load"))
        .unwrap();
    assert!(wait_until(SOON, || !["", "0"].contains(&cell(&page, "service-table", "web", "new/s").as_str())));

    // Every service, server, worker, port and drop stands there as the command has it.
    for service in lab.json(&["service", "list"]).unwrap().as_array().unwrap() {
        let name = service["name"].as_str().unwrap();
        let text = |key: &str| service[key].as_str().unwrap();
        await_cell(&page, ["service-table", name, "state"], text("state"));
        await_cell(
            &page,
            ["service-table", name, "how"],
            &format!("{} {}", text("forward"), text("scheduler")),
        );
        await_cell(
            &page,
            ["service-table", name, "listens on"],
            &format!("{} {}", text("listen"), text("protocol")),
        );
    }
    if std::env::var_os("SLUICE_WRITE").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/page.png");
        // More of an hour than a test has time for.
        let minutes = Duration::from_secs(150);
        assert!(wait_until(minutes, || page.value("seen.points.at.length").unwrap().as_u64() > Some(120)));
        std::fs::write(path, page.picture().unwrap()).unwrap();
    }

    // A server that dies: since its check failed twice no two seconds pass.
    page.press("Enter").unwrap();
    let second = format!("{}:80", lab.server_ip(1));
    await_cell(&page, ["server-table", &second, "state"], "up");
    assert!(page.text("location.hash").unwrap() == "#service/web");
    lab.program(1).signal(Signal::STOP);
    let is_down = |lab: &Lab| {
        let show = lab.json(&["service", "show", "web"]).unwrap();
        show["servers"].as_array().unwrap().iter().any(|server| server["state"] == "down")
    };
    assert!(wait_until(SOON, || is_down(&lab)));
    let since = Instant::now();
    await_cell(&page, ["server-table", &second, "state"], "down");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    let wrong = cell(&page, "server-table", &second, "what was wrong");
    assert!(wrong.contains("no answer within 300 ms"), "{wrong}");
    let told = || page.text("document.getElementById('service-events').innerText").unwrap();
    assert!(wait_until(SOON, || told().contains(&second)), "{}", told());
    lab.program(1).signal(Signal::CONT);
    await_cell(&page, ["server-table", &second, "state"], "up");
    assert!(wait_until(SOON, || lab.http(1, 1).is_ok()));

    // Keys lead to workers and ports, drops and events.
    page.press("2").unwrap();
    let ports = lab.json(&["port", "list"]).unwrap();
    for port in ports.as_array().unwrap() {
        let text = |key: &str| port[key].as_str().unwrap();
        let device = format!("{} {}", text("device"), text("driver"));
        await_cell(&page, ["port-table", text("name"), "device"], &device);
        await_cell(&page, ["port-table", text("name"), "replies find their worker"], text("steering"));
    }
    await_cell(
        &page,
        ["worker-table", "0", "core"],
        &lab.json(&["worker", "list"]).unwrap()[0]["core"].to_string(),
    );
    // Somebody asks for a port that no service has.
    let mut nobody = lab.client().command("curl");
    let _ = run(nobody.args(["--max-time", "1", "-s", &format!("http://{host}:8181/")]));
    page.press("3").unwrap();
    let count = || lab.json(&["stats", "drops"]).unwrap()["no_service"].as_u64().unwrap();
    assert!(count() > 0);
    assert!(wait_until(SOON, || cell(&page, "drop-table", "no_service", "packets") == count().to_string()));
    assert!(cell(&page, "drop-table", "no_service", "what to do").contains("service's listen"));
    page.press("4").unwrap();
    let events = || page.text("document.getElementById('event-table').innerText").unwrap();
    assert!(wait_until(SOON, || events().contains(&second)), "{}", events());
    page.press("t").unwrap();
    page.press("1").unwrap();

    // The search finds services by their servers, too.
    page.press("/").unwrap();
    for letter in "mail".chars() {
        page.press(&letter.to_string()).unwrap();
    }
    let rows = || page.value("document.querySelectorAll('#service-table tbody tr').length").unwrap();
    assert!(wait_until(SOON, || rows() == 1), "{}", rows());
    page.press("Escape").unwrap();
    assert!(wait_until(SOON, || rows() == 4));

    assert_eq!(page.errors(), Vec::<String>::new());
    let elsewhere = "performance.getEntriesByType('resource').filter((one) => !one.name.startsWith(location.origin)).length";
    assert_eq!(page.value(elsewhere).unwrap(), 0);
}

#[test]
fn a_daemon_that_comes_back_is_shown_again_and_ten_thousand_services_do_not_freeze_the_page() {
    if Browser::is_not_to_be_had() {
        return eprintln!("not tried: Ubuntu has Chromium as a snap only");
    }
    let mut lab = lab("");
    let page = open(&lab);
    let mut config = lab.config_head() + "\n[web]\nlisten = [\"127.0.0.1:9798\"]\n";
    for at in 0..10_000 {
        let mut service = lab.service(&format!("s{at}"), "udp", 10_000 + (at % 50_000) as u16, "rr", &[0]);
        service.push('\n');
        let _ = write!(config, "{service}");
    }
    lab.sluiced().unwrap().stop();
    let is_told =
        || page.text("document.getElementById('link').textContent").unwrap().contains("no answer since");
    assert!(wait_until(SOON, is_told));
    lab.start_sluiced(&config).unwrap();
    let shown = || page.text("document.getElementById('range').textContent").unwrap();
    assert!(wait_until(Duration::from_secs(30), || shown().contains("1 to 100 of 10,000")), "{}", shown());
    // The browser's own clock says how long the longest piece of work was.
    let longest = "new Promise((done) => { let most = 0; new PerformanceObserver((list) => { for (const one of list.getEntries()) most = Math.max(most, one.duration); }).observe({ type: 'longtask' }); setTimeout(() => done(most), 4000); })";
    let longest = page.value(longest).unwrap();
    assert!(longest.as_f64().unwrap() < 500.0, "{longest} ms");
    page.press("n").unwrap();
    assert!(wait_until(SOON, || shown().contains("101 to 200 of 10,000")), "{}", shown());
    page.press("/").unwrap();
    for letter in "s9999".chars() {
        page.press(&letter.to_string()).unwrap();
    }
    assert!(wait_until(SOON, || shown().contains("1 to 1 of 1 found")), "{}", shown());
    let errors: Vec<_> =
        page.errors().into_iter().filter(|error| !error.contains("ERR_CONNECTION_REFUSED")).collect();
    // While the daemon was away the stream was refused, which the browser itself says.
    assert!(errors.iter().all(|error| error.contains("/live?")), "{errors:?}");
}

/// The answer to a request, with its headers.
fn ask(lab: &Lab, words: &[&str]) -> String {
    let mut curl = lab.director().command("curl");
    // A stream has no end: what came until then counts.
    let output = curl.args(["-s", "-i", "--max-time", "3"]).args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn other_sites_and_strangers_get_nothing_and_many_slow_ones_hold_nobody_up() {
    let lab = lab("");
    let page = ask(&lab, &[PAGE]);
    for part in ["200 OK", "default-src 'none'", "frame-ancestors 'none'", "nosniff", "no-store"] {
        assert!(page.contains(part), "{part}: {page:.900}");
    }
    for wrong in [
        ["-H", "Host: evil.example.com"],
        ["-H", "Origin: http://evil.example.com"],
        ["-H", "Sec-Fetch-Site: cross-site"],
    ] {
        let answer = ask(&lab, &[wrong[0], wrong[1], "http://127.0.0.1:9798/live"]);
        assert!(answer.contains("403 Forbidden") && !answer.contains("status"), "{wrong:?}: {answer}");
    }
    assert!(ask(&lab, &["-X", "POST", PAGE]).contains("405"));
    assert!(ask(&lab, &["http://127.0.0.1:9798/live?sort=x"]).contains("sort is one of"));

    // Two hundred that ask for a stream and read nothing.
    let held: Vec<_> = lab.director().inside(|| {
        let ask = |_| {
            let mut stream = TcpStream::connect("127.0.0.1:9798").unwrap();
            let _ = stream.write_all(b"GET /live?count=500 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            stream
        };
        (0..200).map(ask).collect()
    });
    let answer = ask(&lab, &["http://127.0.0.1:9798/live"]);
    assert!(answer.contains("event: now"), "{answer:.500}");
    let begin = Instant::now();
    lab.json(&["status"]).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    drop(held);
    assert_eq!(lab.http(10, 2).unwrap().len(), 10);
}
