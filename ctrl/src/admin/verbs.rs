//! Every method of the admin protocol: its name, its parameters, the right that it needs, and what it says.

use serde::Serialize;
use serde_json::Value;

/// What a peer must be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To look: all users of the socket may.
    Look,
    /// To change things: root, the daemon's user, and `admin.operators`.
    Change,
    /// To change things where the named parameter is true, and to look otherwise.
    ChangeWhere(&'static str),
}

impl Right {
    /// Whether a call with these parameters changes anything.
    pub fn changes(self, params: &Value) -> bool {
        match self {
            Self::Look => false,
            Self::Change => true,
            Self::ChangeWhere(parameter) => params[parameter] == true,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Look => "look".into(),
            Self::Change => "change".into(),
            Self::ChangeWhere(parameter) => format!("look; change with {parameter}"),
        }
    }
}

macro_rules! methods {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, [$($parameter:literal),*], $right:expr;)+) => {
        /// A method of the admin protocol. The names are part of it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Method {
            /// Every method, in the order of the enum.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name on the wire.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The names of its parameters.
            pub const fn parameters(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => &[$($parameter),*],)+
                }
            }

            /// The right that it needs.
            pub const fn right(self) -> Right {
                match self {
                    $(Self::$variant => $right,)+
                }
            }

            /// What it says or does.
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

// A macro, because a method's name, parameters, right and words must never part; there is no default right.
methods! {
    /// All methods: name, parameters, right, words.
    Methods = "methods", [], Right::Look;
    /// The appliance on one page: state of each service, capacities, warnings.
    Status = "status", [], Right::Look;
    /// The services with their servers, in pages.
    ServiceList = "service.list", ["cursor", "limit"], Right::Look;
    /// One service with its servers and its settings.
    ServiceShow = "service.show", ["name"], Right::Look;
    /// Adds a service.
    ServiceAdd = "service.add", ["name", "keys"], Right::Change;
    /// Changes the named keys of a service.
    ServiceSet = "service.set", ["name", "keys"], Right::Change;
    /// Removes a service.
    ServiceRemove = "service.remove", ["name"], Right::Change;
    /// Gives a service no new sessions; removes it after so many seconds, if they are said.
    ServiceDrain = "service.drain", ["name", "seconds"], Right::Change;
    /// Sends a service's new sessions to a tier or to the named servers, for so many seconds; `off` ends that.
    ServiceSwitch = "service.switch", ["name", "to", "seconds"], Right::Change;
    /// The servers of all services, in pages.
    ServerList = "server.list", ["cursor", "limit"], Right::Look;
    /// Adds a server to a service.
    ServerAdd = "server.add", ["service", "address", "keys"], Right::Change;
    /// Changes the named keys of a server.
    ServerSet = "server.set", ["service", "address", "keys"], Right::Change;
    /// Removes a server.
    ServerRemove = "server.remove", ["service", "address"], Right::Change;
    /// Gives a server no new sessions; removes it after so many seconds, if they are said.
    ServerDrain = "server.drain", ["service", "address", "seconds"], Right::Change;
    /// The live sessions, in pages; of those the ones that have these endpoints, protocol and state.
    SessionList = "session.list", ["cursor", "limit", "client", "vip", "local", "server", "protocol", "state"], Right::Look;
    /// The number of live sessions of both families, beside the capacities.
    SessionCount = "session.count", [], Right::Look;
    /// The local addresses and their ports in use, in pages.
    LocalList = "local.list", ["cursor", "limit"], Right::Look;
    /// The ports with their links and counters, in pages.
    PortList = "port.list", ["cursor", "limit"], Right::Look;
    /// The stations on the links, in pages.
    NeighborList = "neighbor.list", ["cursor", "limit"], Right::Look;
    /// The routes, in pages: of the file, of the ports' networks, and of IPv6 routers.
    RouteList = "route.list", ["cursor", "limit"], Right::Look;
    /// The way to an address: port, next hop, and whether that answers.
    RouteGet = "route.get", ["address"], Right::Look;
    /// What would become of a packet, and why: by its port, or the one that its source is behind; or of a new client of a service's endpoint. Nothing is sent or changed.
    Explain = "explain", ["protocol", "source", "destination", "port", "flags", "reply", "service", "endpoint"], Right::Look;
    /// The health checks with their last answers, each once, in pages.
    HealthList = "health.list", ["cursor", "limit"], Right::Look;
    /// The workers and their load, in pages.
    WorkerList = "worker.list", ["cursor", "limit"], Right::Look;
    /// The lists of addresses in the order in which they are asked, in pages.
    AclList = "acl.list", ["cursor", "limit"], Right::Look;
    /// The lists that have an address.
    AclGet = "acl.get", ["address"], Right::Look;
    /// Prefixes that commands banned, in pages.
    BanList = "ban.list", ["cursor", "limit"], Right::Look;
    /// Bans a prefix from all services; for so many seconds, if they are said.
    BanAdd = "ban.add", ["prefix", "seconds", "reason"], Right::Change;
    /// Ends a ban.
    BanRemove = "ban.remove", ["prefix"], Right::Change;
    /// The sources that broke services' rates, the worst first: how often they were refused, and whether they are banned.
    SourceList = "source.list", ["cursor", "limit"], Right::Look;
    /// Attacks that go on, the strongest first, and the last ones that are over, in pages.
    AttackList = "attack.list", ["cursor", "limit"], Right::Look;
    /// The counters of the appliance.
    Stats = "stats", [], Right::Look;
    /// The number of packets dropped, by reason, with the reason's meaning.
    StatsDrops = "stats.drops", [], Right::Look;
    /// What happened lately: events behind a number, since a time, of a service or a kind; the last ones if none is said.
    EventList = "event.list", ["after", "since_ms", "service", "kind", "limit"], Right::Look;
    /// Reads the files again and follows them; goes back after so many seconds unless that is confirmed, if they are said.
    ConfigReload = "config.reload", ["confirm_s"], Right::Change;
    /// Keeps what was reloaded with `confirm_s`.
    ConfigConfirm = "config.confirm", [], Right::Change;
    /// What ran before, the newest first: until when, and which change ended it.
    ConfigHistory = "config.history", [], Right::Look;
    /// The differences between the files and what runs.
    ConfigDiff = "config.diff", [], Right::Look;
    /// What runs, as files; writes them with `write`.
    ConfigExport = "config.export", ["write"], Right::ChangeWhere("write");
    /// Goes back to what ran before the last change or reload.
    ConfigRollback = "config.rollback", [], Right::Change;
}

impl Method {
    /// The method of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.name() == name)
    }

    /// Its entry in `methods`.
    pub fn view(self) -> MethodView {
        MethodView {
            method: self.name(),
            parameters: self.parameters(),
            right: self.right().words(),
            explanation: self.explanation(),
        }
    }
}

/// An entry of `methods`.
#[derive(Debug, Serialize)]
pub struct MethodView {
    method: &'static str,
    parameters: &'static [&'static str],
    right: String,
    explanation: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whoever_may_only_look_changes_nothing() {
        let changing: Vec<_> = Method::ALL
            .iter()
            .filter(|method| method.right().changes(&json!({})))
            .map(|m| m.name())
            .collect();
        assert_eq!(
            changing,
            [
                "service.add",
                "service.set",
                "service.remove",
                "service.drain",
                "service.switch",
                "server.add",
                "server.set",
                "server.remove",
                "server.drain",
                "ban.add",
                "ban.remove",
                "config.reload",
                "config.confirm",
                "config.rollback",
            ]
        );
        assert!(Method::ConfigExport.right().changes(&json!({ "write": true })));
        assert!(!Method::ConfigExport.right().changes(&json!({ "write": false })));
    }

    #[test]
    fn the_page_names_every_method() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating/admin.md");
        let page = std::fs::read_to_string(page).unwrap();
        for method in Method::ALL {
            let MethodView { method, parameters, right, explanation } = method.view();
            let row = format!("| `{method}` | {} | {right} | {explanation} |", parameters.join(", "));
            assert!(page.contains(&row), "docs/operating/admin.md lacks this row:\n{row}");
        }
    }
}
