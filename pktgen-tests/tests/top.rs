//! `sluice top` on a terminal: keys are typed as a user types them, and the screen is read as a user reads it.

use pktgen_tests::lab::{CLIENT, Lab, Plan};
use pktgen_tests::process::wait_until;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(8);

/// A terminal with a program in it.
struct Terminal {
    program: Child,
    keys: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    fn new(lab: &Lab, words: &[&str], (rows, columns): (u16, u16)) -> Self {
        let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&own).unwrap();
        unlockpt(&own).unwrap();
        let path = ptsname(&own, Vec::new()).unwrap();
        let other = || File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        let own = File::from(own);
        let size = |rows, columns| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&own, size(rows, columns)).unwrap();
        let mut command = lab.sluice_command();
        command.args(words).env("TERM", "xterm-256color");
        command.stdin(Stdio::from(other())).stdout(Stdio::from(other())).stderr(Stdio::from(other()));
        let program = command.spawn().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let (mut reader, shown) = (own.try_clone().unwrap(), Arc::clone(&screen));
        // It ends when the program has, and nobody else has the other end.
        std::thread::spawn(move || {
            let mut piece = [0; 4_096];
            while let Ok(len @ 1..) = reader.read(&mut piece) {
                shown.lock().unwrap().process(&piece[..len]);
            }
        });
        Self { program, keys: own, screen }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn await_text(&self, part: &str) {
        assert!(
            wait_until(SOON, || self.text().contains(part)),
            "`{part}` is not on the screen:\n{}",
            self.text()
        );
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.screen.lock().unwrap().set_size(rows, columns);
        tcsetwinsize(&self.keys, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
            .unwrap();
        let pid = rustix::process::Pid::from_child(&self.program);
        // Without a controlling terminal nobody tells it.
        rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn lab() -> Lab {
    let mut lab = Lab::new(Plan { servers: 2, ..Plan::default() }).unwrap();
    for at in 0..2 {
        lab.start_nginx_on(at, &[80]).unwrap();
    }
    let config = lab.config_head()
        + &lab.service("web", "tcp", 80, "rr", &[0, 1])
        + &lab.service("mail", "tcp", 25, "rr", &[1]);
    lab.start_sluiced(&config).unwrap();
    lab.await_states(&["up", "up"]);
    lab
}

#[test]
fn what_happens_is_on_the_screen_and_keys_lead_to_servers_clients_drops_and_events() {
    let lab = lab();
    let mut top = Terminal::new(&lab, &["top"], (24, 80));
    for part in ["worker 0", "PORT", "wan", "SERVICE", "web", "mail", "q quit"] {
        top.await_text(part);
    }
    lab.http(200, 4).unwrap();
    // The busy one stands first, with its rate.
    let is_first = || {
        let text = top.text();
        let line = |name: &str| text.lines().position(|line| line.starts_with(name));
        let busy = text.lines().find(|line| line.starts_with("web")).unwrap_or_default();
        line("web") < line("mail") && busy.contains("ready") && !busy.contains(" 0 ")
    };
    let seen = wait_until(SOON, || {
        lab.http(50, 4).unwrap();
        is_first()
    });
    assert!(seen, "{}", top.text());

    top.press("\r");
    top.await_text("service web: 2 servers");
    top.await_text("10.0.0.12:80");
    top.press("\r");
    top.await_text("clients of service web");
    top.await_text(CLIENT);
    top.press("\x1b");
    top.await_text("service web: 2 servers");
    top.press("3");
    top.await_text("dropped packets by reason");
    top.press("4");
    top.await_text("what happened, the newest first");
    top.await_text("ready");
    top.press("1");
    top.await_text("2 services");
    top.press("/mai");
    let only_mail = || top.text().contains("/mai") && !top.text().lines().any(|line| line.starts_with("web"));
    assert!(wait_until(SOON, only_mail), "{}", top.text());
    top.press("\x1b");
    // A key right behind it would be taken for one with Alt.
    assert!(wait_until(SOON, || top.text().lines().any(|line| line.starts_with("web"))), "{}", top.text());
    top.press("?");
    top.await_text("hold the picture still");
    top.press("?");
    top.resize(40, 120);
    assert!(wait_until(SOON, || top.text().lines().count() > 30), "{}", top.text());
    top.press("q");
    let mut ended = None;
    assert!(wait_until(SOON, || {
        ended = top.program.try_wait().unwrap();
        ended.is_some()
    }));
    assert!(ended.unwrap().success());
}

#[test]
fn a_daemon_that_restarts_is_found_again_and_one_picture_is_plain_text() {
    let mut lab = lab();
    let once = lab.sluice(&["top", "--once"]).unwrap();
    assert_eq!(once.lines().count(), 24, "{once}");
    assert!(once.lines().all(|line| line.chars().count() <= 80) && !once.contains('\x1b'), "{once}");
    for part in ["worker 0", "wan", "web", "ready", "sessions 0 of 200k"] {
        assert!(once.contains(part), "`{part}`: {once}");
    }
    let refused = lab.sluice(&["top"]).unwrap_err();
    assert!(refused.contains("--once prints one picture"), "{refused}");

    let top = Terminal::new(&lab, &["top"], (24, 80));
    top.await_text("web");
    let config = std::fs::read_to_string(lab.config_path()).unwrap();
    lab.sluiced().unwrap().signal(rustix::process::Signal::KILL);
    assert!(wait_until(SOON, || lab.sluice(&["status"]).is_err()));
    top.await_text("daemon");
    lab.start_sluiced(&config.replace("\"mail\"", "\"letters\"")).unwrap();
    top.await_text("letters");
}
