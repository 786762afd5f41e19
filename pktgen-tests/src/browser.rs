//! Chromium without a screen, led by its DevTools protocol over two pipes.

use crate::netns::Namespace;
use crate::process::{Daemon, Folder};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long the browser may take over one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A browser with one page. It ends when this is dropped.
pub struct Browser {
    commands: RefCell<File>,
    messages: Receiver<Value>,
    /// What it said besides answers.
    said: RefCell<Vec<Value>>,
    next: RefCell<u64>,
    session: String,
    _program: Daemon,
    _folder: Folder,
}

impl Browser {
    /// Whether the distribution has no Chromium that could be installed: Ubuntu has it as a snap only.
    pub fn is_not_to_be_had() -> bool {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let is_there = Path::new("/usr/bin/chromium").exists();
        !is_there && release.lines().any(|line| line == "ID=ubuntu")
    }

    /// A browser inside a namespace, with a window of this size.
    ///
    /// # Errors
    /// When there is no Chromium, or it does not answer.
    pub fn start(inside: &Namespace, (width, height): (u32, u32)) -> Result<Self, String> {
        let folder = Folder::new("browser")?;
        let pipe = |name: &str| -> Result<PathBuf, String> {
            let path = folder.path().join(name);
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(path)
        };
        let (to, from) = (pipe("to")?, pipe("from")?);
        let mut command = inside.command("sh");
        command.arg("-c").arg("exec chromium \"$@\" 3<\"$TO\" 4>\"$FROM\"").arg("chromium");
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--window-size={width},{height}"));
        command.arg(format!("--user-data-dir={}", folder.path().join("user").display()));
        command.arg("about:blank").env("TO", &to).env("FROM", &from).env("HOME", folder.path());
        let program = Daemon::start(&mut command, &folder.path().join("chromium.log"))?;
        let open = |path: &PathBuf| {
            // Both ways, so that opening does not wait for a program that does not start.
            let file = File::options().read(true).write(true).open(path);
            file.map_err(|error| format!("{}: {error}", path.display()))
        };
        let (commands, mut answers) = (open(&to)?, open(&from)?);
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let (mut piece, mut text) = (vec![0; 65_536], Vec::new());
            while let Ok(len @ 1..) = answers.read(&mut piece) {
                for byte in &piece[..len] {
                    if *byte != 0 {
                        text.push(*byte);
                        continue;
                    }
                    let message = serde_json::from_slice(&text).unwrap_or_default();
                    text.clear();
                    if sender.send(message).is_err() {
                        return;
                    }
                }
            }
        });
        let mut browser = Self {
            commands: RefCell::new(commands),
            messages,
            said: RefCell::default(),
            next: RefCell::new(1),
            session: String::new(),
            _program: program,
            _folder: folder,
        };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().unwrap_or_default().to_owned();
        for method in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            browser.call(method, json!({}))?;
        }
        Ok(browser)
    }

    /// Calls a method of the DevTools protocol.
    ///
    /// # Errors
    /// When the browser refuses, or does not answer.
    pub fn call(&self, method: &str, params: Value) -> Result<Value, String> {
        let id = self.next.replace_with(|next| *next + 1);
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let text = format!("{message}\0");
        self.commands
            .borrow_mut()
            .write_all(text.as_bytes())
            .map_err(|error| format!("{method}: {error}"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self
                .messages
                .recv_timeout(left)
                .map_err(|_| format!("{method}: Chromium does not answer"))?;
            if message["id"] != id {
                self.said.borrow_mut().push(message);
                continue;
            }
            return match message.get("error") {
                Some(error) => Err(format!("{method}: {error}")),
                None => Ok(message["result"].clone()),
            };
        }
    }

    /// Goes to a page.
    ///
    /// # Errors
    /// When it is not there.
    pub fn go(&self, url: &str) -> Result<(), String> {
        let went = self.call("Page.navigate", json!({ "url": url }))?;
        went.get("errorText").map_or(Ok(()), |error| Err(format!("{url}: {error}")))
    }

    /// What a script of the page's comes to.
    ///
    /// # Errors
    /// When it throws.
    pub fn value(&self, script: &str) -> Result<Value, String> {
        let params = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params)?;
        match result.get("exceptionDetails") {
            Some(details) => Err(format!("{script}: {details}")),
            None => Ok(result["result"]["value"].clone()),
        }
    }

    /// What a script comes to, as text.
    ///
    /// # Errors
    /// When it throws.
    pub fn text(&self, script: &str) -> Result<String, String> {
        Ok(self.value(script)?.as_str().unwrap_or_default().to_owned())
    }

    /// Presses a key, by its name (UI Events KeyboardEvent key Values).
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn press(&self, key: &str) -> Result<(), String> {
        for kind in ["rawKeyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key });
            if key.chars().count() == 1 && kind == "rawKeyDown" {
                event["type"] = "keyDown".into();
                event["text"] = key.into();
            }
            self.call("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }

    /// The window as a PNG.
    ///
    /// # Errors
    /// When the browser is gone.
    pub fn picture(&self) -> Result<Vec<u8>, String> {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        let text = picture["data"].as_str().unwrap_or_default();
        data_encoding::BASE64.decode(text.as_bytes()).map_err(|error| error.to_string())
    }

    /// Errors that the page or the browser said so far: exceptions, the console, and what the policy kept away.
    pub fn errors(&self) -> Vec<String> {
        let said = self.said.borrow();
        let wrong = said.iter().filter(|message| match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                ["error", "warning"].iter().any(|kind| message["params"]["type"] == *kind)
            }
            Some("Log.entryAdded") => {
                ["error", "warning"].iter().any(|level| message["params"]["entry"]["level"] == *level)
            }
            _ => false,
        });
        wrong.map(|message| message["params"].to_string()).collect()
    }
}
