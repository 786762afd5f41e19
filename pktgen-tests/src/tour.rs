//! The lab that teaches: one forwarding mode with health checks, small commands to break and mend things with, and a
//! tour that says what to try.

use crate::lab::{Lab, Plan, VIP, VIP6, program};
use crate::process::wait_until;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// What the lab shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// FullNAT.
    FullNat,
    /// NAT.
    Nat,
    /// Direct routing.
    Dr,
    /// IPIP tunnels.
    Tunnel,
    /// Source NAT, from the client to a server as if that were outside.
    Snat,
    /// FullNAT over IPv6.
    Ipv6,
}

impl Mode {
    /// All of them, by their names.
    pub const ALL: [(&str, Self); 6] = [
        ("fullnat", Self::FullNat),
        ("nat", Self::Nat),
        ("dr", Self::Dr),
        ("tunnel", Self::Tunnel),
        ("snat", Self::Snat),
        ("ipv6", Self::Ipv6),
    ];

    /// The mode of that name; FullNAT for none.
    ///
    /// # Errors
    /// With the names that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let name = if name.is_empty() { "fullnat" } else { name };
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("MODE={name} is unknown; there are {}", names.join(", "))
        })
    }

    fn forward(self) -> &'static str {
        match self {
            Self::FullNat | Self::Ipv6 => "fullnat",
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Tunnel => "tunnel",
            Self::Snat => "snat",
        }
    }

    /// Whom the client connects to, as in a URL.
    fn host(self, lab: &Lab) -> String {
        match self {
            Self::Snat => lab.server_ip(0),
            Self::Ipv6 => format!("[{VIP6}]"),
            _ => VIP.to_owned(),
        }
    }

    fn server(self, lab: &Lab, at: usize) -> String {
        if self == Self::Ipv6 { lab.server_ip6(at) } else { lab.server_ip(at) }
    }

    /// What the tour says of the way of packets.
    fn way(self) -> &'static str {
        match self {
            Self::FullNat | Self::Ipv6 => {
                "a server sees a local address of the appliance; LOCAL in `sluice session list`"
            }
            Self::Nat => "a server sees the client, and answers through the appliance (its route)",
            Self::Dr => "a server has the VIP on lo, sees the client, and answers it past the appliance",
            Self::Tunnel => "packets reach a server in IPIP; it has the VIP, and answers past the appliance",
            Self::Snat => "the client leaves as a local address; the server is any host outside",
        }
    }
}

/// Builds the lab, servers and appliance running.
///
/// # Errors
/// With what could not be started.
pub fn build(mode: Mode) -> Result<Lab, String> {
    let one_arm = matches!(mode, Mode::Dr | Mode::Tunnel);
    let mut lab = Lab::new(Plan { one_arm, ipv6: mode == Mode::Ipv6, ..Plan::default() })?;
    for at in 0..2 {
        let lines = "listen 80; listen [::]:80; if (-f $document_root/broken) { return 500 \"500\\n\"; }";
        lab.start_nginx_with(at, lines, 80)?;
        match mode {
            Mode::Nat => lab.server(at).ip("route add 192.0.2.0/24 via 10.0.0.2")?,
            Mode::Dr | Mode::Tunnel => lab.give_vip(at)?,
            Mode::Snat => lab.client().ip("route replace 10.0.0.0/24 via 192.0.2.2")?,
            Mode::FullNat | Mode::Ipv6 => {}
        }
        if mode == Mode::Tunnel {
            lab.unpack_tunnel(at, "ipip", false, false)?;
        }
    }
    let config = lab.config_head() + &service(mode, &lab);
    lab.start_sluiced(&config)?;
    let is_ready =
        || lab.json(&["service", "list"]).is_ok_and(|list| list[0]["state"].as_str() == Some("ready"));
    match wait_until(Duration::from_secs(10), is_ready) {
        true => Ok(lab),
        false => Err(format!("the service did not become ready:\n{}", lab.sluice(&["status"])?)),
    }
}

fn service(mode: Mode, lab: &Lab) -> String {
    let mut text =
        format!("\n[[service]]\nname = \"web\"\nforward = \"{}\"\nscheduler = \"wrr\"\n", mode.forward());
    match mode {
        Mode::FullNat | Mode::Snat => text += "local_addresses = [\"10.0.0.200\", \"10.0.0.201\"]\n",
        Mode::Ipv6 => text += "local_addresses = [\"2001:db8:b::200\", \"2001:db8:b::201\"]\n",
        Mode::Tunnel => text += "tunnel = { type = \"ipip\" }\n",
        Mode::Nat | Mode::Dr => {}
    }
    if mode == Mode::Snat {
        return text + "listen = \"0.0.0.0/0:80\"\nsources = [\"192.0.2.0/24\"]\n";
    }
    let _ = writeln!(text, "listen = \"{}:80\"", mode.host(lab));
    text += "\n[service.health]\ntype = \"http\"\ninterval = \"1s\"\nfall = 2\n";
    for at in 0..2 {
        let _ = write!(text, "\n[[service.server]]\naddress = \"{}\"\n", mode.server(lab, at));
    }
    text
}

/// What to try, in the order of a first visit.
pub fn text(mode: Mode, lab: &Lab) -> String {
    let mut text = format!(
        "\nThe lab is up, with forward = \"{}\": {}.\n\n  client  {}, this shell\n  sluiced {}, ports {}\n",
        mode.forward(),
        mode.way(),
        lab.client().name(),
        lab.director().name(),
        if matches!(mode, Mode::Dr | Mode::Tunnel) { "lan" } else { "wan and lan" },
    );
    for at in 0..2 {
        let _ = writeln!(text, "  rs{}     {}, {}", at + 1, lab.server(at).name(), mode.server(lab, at));
    }
    let _ = write!(
        text,
        "\n  another shell in one of them: ip netns exec NAME bash\n  configuration: {}\n  log:           {}\n\n",
        lab.config_path().display(),
        lab.folder().join("sluiced.log").display()
    );
    let mut step = |command: &str, what: &str| {
        let _ = writeln!(text, "  {command:<52} {what}");
    };
    step("ask 20", "20 requests, and the servers that answered");
    step("sluice status", "how the appliance is");
    step("sluice session list", "the flows, with the worker that owns each");
    if mode != Mode::Snat {
        let first = format!("{}:80", bracketed(&mode.server(lab, 0)));
        step("break-server 1; sleep 3; sluice server list", "it answers 500, and goes down");
        step("ask 20; sluice service show web", "nobody meets it, and why it is down");
        step("mend-server 1; sleep 3; sluice server list", "up again");
        step(&format!("sluice server drain web {first}"), "no new sessions for it");
        step("sluice config diff", "what runs and the file does not say");
        step("sluice config rollback", "as before");
    }
    step("sluice stats drops", "each packet that was dropped, by its reason");
    step("tour", "this page again");
    step("exit", "takes everything down");
    text
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Writes the tour's commands, and what a shell reads at its start; gives the latter's path.
///
/// # Errors
/// When they cannot be written.
pub fn commands(mode: Mode, lab: &Lab) -> Result<PathBuf, String> {
    let folder = lab.folder().join("bin");
    let page = lab.folder().join("tour.txt");
    let root = lab.folder().display().to_string();
    // curl counts by brackets, and the shell takes one of two backslashes.
    let host = mode.host(lab).replace('[', r"\\[").replace(']', r"\\]");
    let server = |verb: &str, action: &str| {
        format!(
            "case \"$1\" in 1|2) {action} \"{root}/nginx-$1/broken\" ;; *) echo 'usage: {verb} 1|2' >&2; exit 2 ;; esac\n"
        )
    };
    let scripts = [
        (
            "sluice",
            format!(
                "exec {} --socket {} --config {} \"$@\"\n",
                program("sluice").display(),
                lab.socket().display(),
                lab.config_path().display()
            ),
        ),
        (
            "ask",
            format!(
                "exec curl -sS --max-time 5 -H 'Connection: close' \"http://{host}:80/?[1-${{1:-1}}]\" 2>&1 | sort | uniq -c\n"
            ),
        ),
        ("break-server", server("break-server", ":>")),
        ("mend-server", server("mend-server", "rm -f")),
        ("tour", format!("exec cat {}\n", page.display())),
    ];
    let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(fail)?;
    std::fs::write(&page, text(mode, lab)).map_err(fail)?;
    for (name, script) in scripts {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}")).map_err(fail)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(fail)?;
    }
    let rc = lab.folder().join("shellrc");
    let lines = format!(
        "[ -n \"$BASH\" ] && [ -r ~/.bashrc ] && . ~/.bashrc\nPATH={}:$PATH\nPS1='sluice lab (client)# '\ntour\n",
        folder.display()
    );
    std::fs::write(&rc, lines).map_err(fail)?;
    Ok(rc)
}
