//! What can be typed: nouns, verbs and options.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// The configuration of a daemon that is installed as usual.
const CONFIG: &str = "/etc/sluice/sluice.toml";

/// Looks at and steers a running sluiced.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, max_term_width = 100)]
pub struct Arguments {
    /// Print JSON.
    #[arg(short = 'j', long = "json", global = true)]
    pub(super) json: bool,
    /// Print every column, as wide as it is, and whole numbers.
    #[arg(short = 'w', long = "wide", global = true)]
    pub(super) wide: bool,
    /// Ask again every so many seconds, until Ctrl-C.
    #[arg(long, global = true, value_name = "SECONDS")]
    pub(super) watch: Option<u64>,
    /// Sort lists by this column, as its title stands there; numbers begin with the largest.
    #[arg(long, global = true, value_name = "COLUMN")]
    pub(super) sort: Option<String>,
    /// Print these columns of lists, with commas between.
    #[arg(long, global = true, value_name = "COLUMNS", value_delimiter = ',')]
    pub(super) columns: Vec<String>,
    /// Show the counters of lists as what they grow in a second, which is waited for.
    #[arg(long, global = true)]
    pub(super) rate: bool,
    /// The daemon's admin socket; the one that the configuration names, if this is not said.
    #[arg(long, global = true, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// The configuration of the daemon that is meant.
    #[arg(long, global = true, default_value = CONFIG, value_name = "FILE")]
    pub(super) config: PathBuf,
    #[command(subcommand)]
    pub(super) noun: Noun,
}

#[derive(Debug, Subcommand)]
pub(super) enum Noun {
    /// How the appliance is, on one page.
    Status {
        /// Say it by the exit status, too, for monitors: 0 all is well, 3 there are warnings, or a service is protected,
        /// 4 there is a service that new clients cannot use.
        #[arg(long)]
        exit_code: bool,
    },
    /// What clients connect to.
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Who answers.
    #[command(subcommand)]
    Server(ServerVerb),
    /// Flows between clients and servers.
    #[command(subcommand)]
    Session(SessionVerb),
    /// The director's addresses towards the servers.
    #[command(subcommand)]
    Local(ListVerb),
    /// Devices.
    #[command(subcommand)]
    Port(ListVerb),
    /// Stations on the links.
    #[command(subcommand)]
    Neighbor(ListVerb),
    /// Ways to destinations.
    #[command(subcommand)]
    Route(RouteVerb),
    /// What happens now: totals, workers, ports, services by rate; `?` has the keys.
    Top {
        /// Print one picture of a second as text.
        #[arg(long)]
        once: bool,
        #[command(subcommand)]
        part: Option<TopPart>,
    },
    /// Whether a new client of every service would be served, and what of the host costs packets; 4 if not.
    Doctor,
    /// What would become of a packet, and why. Nothing is sent or changed.
    Explain(Imagined),
    /// Health checks, each once, however many services share it.
    #[command(subcommand)]
    Health(ListVerb),
    /// Workers and their load.
    #[command(subcommand)]
    Worker(ListVerb),
    /// Lists of addresses that may or may not have sessions.
    #[command(subcommand)]
    Acl(AclVerb),
    /// Prefixes that get no sessions, for a while.
    #[command(subcommand)]
    Ban(BanVerb),
    /// Attacks on services, those that are over too.
    #[command(subcommand)]
    Attack(ListVerb),
    /// Counters.
    Stats {
        #[command(subcommand)]
        part: Option<StatsPart>,
    },
    /// What happened lately: states that changed, and commands.
    Events {
        /// Go on, and print what happens from now on.
        #[arg(long, short = 'f')]
        follow: bool,
        /// Events of this time before now: 10m, 2h.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Events of this service and its servers.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Events of this kind: services, servers, links, attacks, capacity, config, discovery, health, kernel, start, workers.
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// So many of the last ones, without --since.
        #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        limit: u16,
    },
    /// The configuration file.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Completions for a shell, to be put where it looks for them: `sluice completions bash > /etc/bash_completion.d/sluice`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Methods of the admin protocol: what a program can ask by the socket.
    Methods,
}

#[derive(Debug, Subcommand)]
pub(super) enum ListVerb {
    /// List all.
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum AclVerb {
    /// List all, in the order in which they are asked.
    List,
    /// The lists that have an address; the first one decides.
    Get {
        /// The address.
        address: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BanVerb {
    /// List all.
    List,
    /// Ban a prefix from all services. Its sessions end.
    Add {
        /// ADDRESS or ADDRESS/LENGTH.
        prefix: String,
        /// How long: 30s, 10m, 2h; until it is removed, or the daemon ends, otherwise.
        #[arg(long = "for", value_name = "TIME")]
        lasting: Option<String>,
        /// Why, for those who look at the list.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// End a ban.
    Remove {
        /// ADDRESS or ADDRESS/LENGTH.
        prefix: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ServiceVerb {
    /// List all, or those that are named, with their servers.
    List {
        /// Services' names.
        names: Vec<String>,
    },
    /// Everything about one.
    Show {
        /// The service's name.
        name: String,
    },
    /// Add a service: `listen=192.0.2.10:80 local_addresses=10.0.0.200 server=10.0.0.11:80,10.0.0.12:80`.
    Add {
        /// Its name.
        name: String,
        #[command(flatten)]
        keys: Keys,
    },
    /// Change a service, as `scheduler=wrr`.
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        keys: Keys,
    },
    /// Give a service no new sessions; with --for remove it then.
    Drain {
        /// Its name.
        name: String,
        /// How long until it is removed: 30s, 10m, 2h.
        #[arg(long = "for", value_name = "TIME")]
        lasting: Option<String>,
    },
    /// Remove a service.
    Remove {
        /// Its name.
        name: String,
    },
    /// Overrule tiers and checks for a while: `zone`, `region`, `rest`, `all`, servers with commas between, or `off`.
    Switch {
        /// Its name.
        name: String,
        /// Where new sessions go.
        to: String,
        /// How long: 30s, 10m, 2h.
        #[arg(long = "for", value_name = "TIME")]
        lasting: Option<String>,
    },
}

/// Keys as in the file: `weight=10`, `health.type=http`, `local_addresses=10.0.0.200,10.0.0.201`; `key=` takes one away.
#[derive(Debug, Args)]
pub(super) struct Keys {
    /// KEY=VALUE, as in the file; `KEY=` takes a key away.
    #[arg(value_name = "KEY=VALUE")]
    pub(super) keys: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ServerVerb {
    /// List all.
    List,
    /// Add a server to a service.
    Add {
        /// The service.
        service: String,
        /// ADDRESS:PORT.
        address: String,
        #[command(flatten)]
        keys: Keys,
    },
    /// Change a server, as `weight=5`.
    Set {
        /// The service.
        service: String,
        /// ADDRESS:PORT.
        address: String,
        #[command(flatten)]
        keys: Keys,
    },
    /// Give a server no new sessions; with --for remove it then.
    Drain {
        /// The service.
        service: String,
        /// ADDRESS:PORT.
        address: String,
        /// How long until it is removed: 30s, 10m, 2h.
        #[arg(long = "for", value_name = "TIME")]
        lasting: Option<String>,
    },
    /// Remove a server.
    Remove {
        /// The service.
        service: String,
        /// ADDRESS:PORT.
        address: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RouteVerb {
    /// List all: of the file, of the ports' networks, and of IPv6 routers.
    List,
    /// The way to an address, and whether its next hop answers.
    Get {
        /// The destination.
        address: String,
    },
}

/// A packet, as somebody imagines it.
#[derive(Debug, Args)]
pub(super) struct Imagined {
    /// tcp, udp, sctp or icmp.
    pub(super) protocol: String,
    /// Whom it is from: ADDRESS:PORT; for icmp ADDRESS.
    pub(super) source: String,
    /// Whom it is for: ADDRESS:PORT; for icmp ADDRESS.
    pub(super) destination: String,
    /// The port by which it comes; the one that leads to its source otherwise.
    #[arg(long)]
    pub(super) port: Option<String>,
    /// TCP's flags as tcpdump writes them: S, SA, A, FA, R; S otherwise.
    #[arg(long, value_name = "LETTERS")]
    pub(super) flags: Option<String>,
    /// Follow the server's answer too.
    #[arg(long)]
    pub(super) reply: bool,
}

/// Which sessions; conditions that are not said do not matter.
#[derive(Debug, Args)]
pub(super) struct SessionConditions {
    /// The client: ADDRESS, ADDRESS:PORT or ADDRESS/LENGTH.
    #[arg(long, value_name = "ENDPOINT")]
    pub(super) client: Option<String>,
    /// What the client addresses.
    #[arg(long, value_name = "ENDPOINT")]
    pub(super) vip: Option<String>,
    /// The director's side towards the server.
    #[arg(long, value_name = "ENDPOINT")]
    pub(super) local: Option<String>,
    /// The server.
    #[arg(long, value_name = "ENDPOINT")]
    pub(super) server: Option<String>,
    /// tcp, udp, sctp or icmp.
    #[arg(long)]
    pub(super) protocol: Option<String>,
    /// As lists show it: ESTABLISHED, SYN_RECV, UDP, ...
    #[arg(long)]
    pub(super) state: Option<String>,
    /// So many at most.
    #[arg(long, value_name = "COUNT")]
    pub(super) limit: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(super) enum SessionVerb {
    /// List live sessions.
    List(SessionConditions),
    /// How many there are.
    Count,
}

#[derive(Debug, Subcommand)]
pub(super) enum TopPart {
    /// The sources that broke services' rates, the worst first.
    Sources,
}

#[derive(Debug, Subcommand)]
pub(super) enum StatsPart {
    /// Packets dropped, by reason.
    Drops,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Check a file without using it: exit 0 good, 1 cannot be read or parsed, 2 wrong.
    Check {
        /// The file; the running daemon's, if none is said.
        file: Option<PathBuf>,
    },
    /// Have the daemon read its files again.
    Reload {
        /// Go back after this time unless `sluice config confirm` comes first: 60s, 10m.
        #[arg(long, value_name = "TIME")]
        confirm: Option<String>,
    },
    /// Keep what was reloaded with --confirm.
    Confirm,
    /// What ran before, and which change ended it.
    History,
    /// What a reload would change.
    Diff,
    /// The running state, changes by command included, as text.
    Export {
        /// Write it back into the files that it came from, with their comments and order.
        #[arg(long)]
        write: bool,
    },
    /// Go back to what ran before the last change.
    Rollback,
}
