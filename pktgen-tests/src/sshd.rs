//! An ssh server of a lab, and its one user.

use crate::lab::Lab;
use crate::netns::Namespace;
use crate::process::{run, wait_until};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::time::Duration;

/// The keys, and the empty folder that sshd wants, made where no start script did, and taken away again.
#[derive(Debug)]
pub struct Ssh {
    key: String,
    known: String,
    made_folder: bool,
    /// Held while the folder is needed: other tests run beside this one. It ends with the process, too.
    _turn: UnixListener,
}

const FOLDER: &str = "/run/sshd";

impl Ssh {
    /// Starts sshd on an address: of a server, or of the director's host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(lab: &mut Lab, server: Option<usize>, address: &str) -> Result<Self, String> {
        let turn = turn()?;
        let made_folder = std::fs::create_dir(FOLDER).is_ok();
        let path = |name: &str| lab.folder().join(name).display().to_string();
        let this = Self { key: path("user"), known: path("known_hosts"), made_folder, _turn: turn };
        for key in ["host", "user"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]))?;
        }
        let config = format!(
            "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPermitRootLogin yes\nUsePAM no\nPidFile none\n",
            path("host"),
            path("user.pub")
        );
        let file = path("sshd_config");
        std::fs::write(&file, config).map_err(|error| format!("{file}: {error}"))?;
        let host = server.map_or(lab.director(), |at| lab.server(at));
        let mut sshd = host.command("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f", &file]);
        lab.start("sshd", &mut sshd)?;
        Ok(this)
    }

    /// What a command says, by ssh from a namespace.
    ///
    /// # Errors
    /// What ssh says.
    pub fn run(&self, from: &Namespace, host: &str, command: &str) -> Result<String, String> {
        let mut ssh = from.command("ssh");
        let options = "-F none -o StrictHostKeyChecking=no -o ConnectTimeout=10 -o ConnectionAttempts=3 -o BatchMode=yes";
        ssh.args(options.split_whitespace()).args(["-i", &self.key]);
        let known = format!("UserKnownHostsFile={}", self.known);
        run(ssh.args(["-o", &known, &format!("root@{host}"), command]))
    }
}

/// Waits until no other test has an sshd.
fn turn() -> Result<UnixListener, String> {
    let name = SocketAddr::from_abstract_name("sluice-lab-sshd").map_err(|error| error.to_string())?;
    let mut turn = None;
    wait_until(Duration::from_secs(60), || {
        turn = UnixListener::bind_addr(&name).ok();
        turn.is_some()
    });
    turn.ok_or_else(|| "another test has an sshd for a minute".to_owned())
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if self.made_folder {
            let _ = std::fs::remove_dir(FOLDER);
        }
    }
}
