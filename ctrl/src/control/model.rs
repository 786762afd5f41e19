//! A model test: whatever operators, checks, files and time do in whatever order, what is published is what a plain twin
//! has, compiled from nothing.

use super::requests::Action;
use super::*;
use crate::admin::Method;
use crate::compile::{self, Sources};
use crate::config::Reader;
use crate::devices::DeviceCounters;
use crate::health::Finding;
use crate::health::Health;
use crate::links::neighbors::Claim;
use crate::servers::Standings;
use crate::servers::balance::{Switch, TIER_NAMES};
use crate::users::Peer;
use dataplane::flow::Endpoint;
use dataplane::ids::{PortId, ServerId};
use dataplane::snapshot::LocalAddress;
use dataplane::snapshot::mailboxes;
use dataplane::steering::Steering;
use dataplane::steering::ladder::{self, Facts};
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::mpsc::channel;

const SERVICES: usize = 3;
const SERVERS: usize = 4;
const SCHEDULERS: [&str; 3] = ["rr", "mh", "wlc"];
/// As many states as control goes back to.
const HISTORY: usize = 16;

struct NoDevices;

impl Devices for NoDevices {
    fn link(&self, _: PortId) -> Option<(bool, u32)> {
        Some((true, 10_000))
    }

    fn counters(&self, _: PortId) -> DeviceCounters {
        DeviceCounters::default()
    }

    fn buffers(&self) -> (u32, u32) {
        (0, 0)
    }

    fn steer(&mut self, _: &[LocalAddress], _: &Steering) -> Result<(), String> {
        Ok(())
    }
}

/// What the operator wants, plainly: services by their numbers, in the order of their making.
type Plain = Vec<PlainService>;

#[derive(Clone, Debug, PartialEq)]
struct PlainService {
    number: usize,
    scheduler: usize,
    /// Numbers and weights.
    servers: Vec<(usize, u32)>,
}

#[derive(Clone, Debug)]
enum Operation {
    AddServer {
        service: usize,
        server: usize,
        weight: u32,
    },
    SetServer {
        service: usize,
        server: usize,
        weight: u32,
    },
    RemoveServer {
        service: usize,
        server: usize,
    },
    Drain {
        service: usize,
        server: usize,
        seconds: Option<u64>,
    },
    AddService(PlainService),
    SetScheduler {
        service: usize,
        scheduler: usize,
    },
    RemoveService(usize),
    /// To a tier, all, or servers.
    Switch {
        service: usize,
        to: Target,
        seconds: u64,
    },
    SwitchOff(usize),
    Found {
        server: usize,
        is_up: bool,
    },
    Reload(Plain),
    /// With a file that says what runs.
    ReloadSame,
    ReloadBroken,
    RollBack,
    Wait(u64),
}

#[derive(Clone, Debug)]
enum Target {
    Tier(usize),
    All,
    Servers(Vec<usize>),
}

fn name(service: usize) -> String {
    format!("s{service}")
}

fn address(server: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, 11 + server as u8).into(), 80)
}

/// The file of a state. Odd services are checked; each third server is of another zone.
fn text(plain: &Plain) -> String {
    let mut text = String::from(
        "[dataplane]\nworkers = [0]\n[location]\nzone = \"a\"\nregion = \"r\"\n[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\naddresses = [\"10.0.0.2/24\"]\n",
    );
    for service in plain {
        let _ = write!(
            text,
            "\n[[service]]\nname = \"{}\"\nlisten = \"192.0.2.10:{}\"\nscheduler = \"{}\"\nlocal_addresses = [\"10.0.0.{}\"]\nprotect_hysteresis = 0.0\n",
            name(service.number),
            8_000 + service.number,
            SCHEDULERS[service.scheduler],
            200 + service.number % 2,
        );
        for (server, weight) in &service.servers {
            let _ = write!(
                text,
                "[[service.server]]\naddress = \"{}\"\nweight = {weight}\n{}",
                address(*server),
                place_of(*server)
            );
        }
        if service.number % 2 == 1 {
            text += "[service.health]\ntype = \"tcp\"\n";
        }
    }
    text
}

fn place_of(server: usize) -> &'static str {
    ["zone = \"a\"\nregion = \"r\"\n", "zone = \"b\"\nregion = \"r\"\n", ""][server % 3]
}

fn keys_of(server: usize, weight: u32) -> serde_json::Value {
    let mut keys = json!({ "weight": weight });
    for (key, value) in [("zone", ["a", "b", ""]), ("region", ["r", "r", ""])] {
        if !value[server % 3].is_empty() {
            keys[key] = json!(value[server % 3]);
        }
    }
    keys
}

/// The slow and obvious twin.
#[derive(Debug, Default)]
struct Twin {
    plain: Plain,
    before: Vec<Plain>,
    /// Deadline, service, server.
    drains: Vec<(u64, usize, usize)>,
    switches: BTreeMap<usize, (Target, u64)>,
    health: BTreeMap<usize, Health>,
    now: u64,
}

impl Twin {
    /// Does what is asked for if it can be; says whether.
    fn follow(&mut self, operation: &Operation) -> bool {
        let mut next = self.plain.clone();
        let find = |number: usize| self.plain.iter().position(|service| service.number == number);
        let place = |service: usize, server: usize| {
            let servers = &self.plain[find(service)?].servers;
            Some((find(service)?, servers.iter().position(|(number, _)| *number == server)?))
        };
        match operation {
            Operation::AddServer { service, server, weight } => {
                match (find(*service), place(*service, *server)) {
                    (Some(at), None) => next[at].servers.push((*server, *weight)),
                    _ => return false,
                }
            }
            Operation::SetServer { service, server, weight } => match place(*service, *server) {
                Some((at, place)) => next[at].servers[place].1 = *weight,
                None => return false,
            },
            Operation::RemoveServer { service, server } => match place(*service, *server) {
                Some((at, place)) => drop(next[at].servers.remove(place)),
                None => return false,
            },
            Operation::Drain { service, server, seconds } => match place(*service, *server) {
                Some((at, place)) => {
                    next[at].servers[place].1 = 0;
                    self.drains.retain(|(_, one, other)| (one, other) != (service, server));
                    self.drains.extend(seconds.map(|seconds| (self.now + seconds, *service, *server)));
                }
                None => return false,
            },
            Operation::AddService(new) => match find(new.number) {
                None => next.push(new.clone()),
                Some(_) => return false,
            },
            Operation::SetScheduler { service, scheduler } => match find(*service) {
                Some(at) => next[at].scheduler = *scheduler,
                None => return false,
            },
            Operation::RemoveService(service) => match find(*service) {
                Some(at) => drop(next.remove(at)),
                None => return false,
            },
            Operation::Switch { service, to, seconds } => {
                let names_all = match to {
                    Target::Servers(list) => list.iter().all(|server| place(*service, *server).is_some()),
                    // Each server's place in the list of places is its tier.
                    Target::Tier(tier) => find(*service).is_some_and(|at| {
                        self.plain[at]
                            .servers
                            .iter()
                            .any(|(server, weight)| server % 3 == *tier && *weight > 0)
                    }),
                    Target::All => true,
                };
                if find(*service).is_none() || !names_all {
                    return false;
                }
                self.switches.insert(*service, (to.clone(), self.now + seconds));
                return true;
            }
            Operation::SwitchOff(service) => {
                self.switches.remove(service);
                return find(*service).is_some();
            }
            Operation::Found { server, is_up } => {
                let health = if *is_up { Health::Up } else { Health::Down };
                self.health.entry(*server).and_modify(|old| *old = health);
                return true;
            }
            Operation::Reload(plain) => next.clone_from(plain),
            Operation::ReloadSame => {}
            Operation::ReloadBroken => return false,
            Operation::RollBack => {
                let Some(plain) = self.before.pop() else { return false };
                self.plain = plain;
                self.tidy();
                return true;
            }
            Operation::Wait(seconds) => {
                self.now += seconds;
                let (over, later): (Vec<_>, Vec<_>) =
                    self.drains.drain(..).partition(|(deadline, ..)| *deadline <= self.now);
                self.drains = later;
                for (_, service, server) in over {
                    let is_drained = |plain: &PlainService| {
                        plain.number == service && plain.servers.contains(&(server, 0))
                    };
                    if self.plain.iter().any(is_drained) {
                        self.follow(&Operation::RemoveServer { service, server });
                    }
                }
                let now = self.now;
                self.switches.retain(|_, (_, until)| *until > now);
                return true;
            }
        }
        self.before.push(std::mem::replace(&mut self.plain, next));
        if self.before.len() > HISTORY {
            self.before.remove(0);
        }
        self.tidy();
        true
    }

    /// Forgets what nobody has any more: checks without users, switches to servers that are gone.
    fn tidy(&mut self) {
        let checked: Vec<usize> = self
            .plain
            .iter()
            .filter(|service| service.number % 2 == 1)
            .flat_map(|service| service.servers.iter().map(|(server, _)| *server))
            .collect();
        self.health.retain(|server, _| checked.contains(server));
        for server in checked {
            self.health.entry(server).or_insert(Health::Checking);
        }
        let plain = &self.plain;
        self.switches.retain(|number, (to, _)| {
            let Some(service) = plain.iter().find(|service| service.number == *number) else { return false };
            let Target::Servers(list) = to else { return true };
            list.retain(|server| service.servers.iter().any(|(other, _)| other == server));
            !list.is_empty()
        });
    }

    /// The world that should be published, compiled from nothing.
    fn world(&self) -> (Config, Snapshot) {
        let config = config::parse(&text(&self.plain), Path::new("twin.toml")).unwrap().config;
        let now = Instant::from_millis(self.now * 1_000);
        let mut standings = Standings::default();
        standings.follow(&config, now);
        for (server, health) in &self.health {
            let id = standings.check_of(address(*server)).unwrap();
            if *health != Health::Checking {
                standings.note(Finding { id, health: *health, relief: 1.0 }, now);
            }
        }
        for (at, service) in self.plain.iter().enumerate() {
            if let Some((to, until)) = self.switches.get(&service.number) {
                let place = |server: &usize| service.servers.iter().position(|(other, _)| other == server);
                let switch = match to {
                    Target::Tier(tier) => Switch::Tier(*tier),
                    Target::All => Switch::All,
                    Target::Servers(list) => Switch::Servers(list.iter().filter_map(place).collect()),
                };
                standings.set_switch(at, Some((switch, Instant::from_millis(until * 1_000))));
            }
        }
        for at in standings.take_dirty(now) {
            standings.weigh(at, now);
        }
        let stats = [];
        let read = |id| crate::view::read_slot(&stats, id);
        let sources = Sources { config: &config, standings: &standings, read: &read };
        let neighbors = Arc::default();
        let mut registry = Registry::default();
        let world =
            compile::compile(&sources, None, &facts(), &[], neighbors, 0, &mut registry).ok().unwrap();
        (config, world)
    }
}

fn facts() -> Vec<DeviceFacts> {
    vec![DeviceFacts { driver: "none".into(), mac: [2, 0, 0, 0, 0, 1], mtu: 1_500 }]
}

/// What packets meet of the services, but for the numbers of their counters, and without `kept`: local addresses that
/// are gone and whose sessions may still be there.
fn picture(config: &Config, world: &Snapshot, kept: &[IpAddr]) -> Vec<String> {
    let mut lines: Vec<_> = world
        .services
        .iter()
        .zip(&config.services)
        .map(|(service, spec)| {
            let servers =
                service.servers.iter().map(|server| (server.endpoint, server.weight, server.standing));
            let locals: Vec<_> = service.locals.iter().map(|local| (local.address, local.port)).collect();
            format!(
                "{} {:?} {:?} {:?} {locals:?} {:?} {:?}",
                spec.name,
                service.mode,
                service.scheduler,
                servers.collect::<Vec<_>>(),
                service.table,
                service.options
            )
        })
        .collect();
    for number in 0..SERVICES {
        let listen = Endpoint::new(Ipv4Addr::new(192, 0, 2, 10), 8_000 + number as u16);
        let found = world.services.index_of(dataplane::flow::Protocol::Tcp, listen);
        let at = found.map(|index| world.services.at(index).servers.len());
        lines.push(format!("{number}: {at:?}"));
    }
    let roles = world.addresses.iter().filter(|(address, _)| !kept.contains(address));
    let mut roles: Vec<_> = roles.map(|(address, role)| format!("{address} {role:?}")).collect();
    roles.sort();
    lines.extend(roles);
    lines
}

/// The counters' slots of servers, by service and endpoint.
fn slots(config: &Config, world: &Snapshot) -> BTreeMap<(String, String), ServerId> {
    let pairs = world.services.iter().zip(&config.services);
    pairs
        .flat_map(|(service, spec)| {
            service.servers.iter().map(|server| ((spec.name.clone(), server.endpoint.to_string()), server.id))
        })
        .collect()
}

/// A folder for the file, also gone when a story fails.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("sluice-model-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Run {
    control: Control<NoDevices>,
    mailbox: dataplane::snapshot::Mailbox,
    current: Arc<Snapshot>,
    file: PathBuf,
    reader: Reader,
}

impl Run {
    fn new(folder: &Path, plain: &Plain) -> Self {
        let file = folder.join("sluice.toml");
        std::fs::write(&file, text(plain)).unwrap();
        let (publisher, mailboxes) = mailboxes(1);
        let choice =
            ladder::choose(&Facts { rules: Ok(()), rss: Err(String::new()), keeps_flows: true }, 1).0;
        let (_, requests) = channel();
        let loaded = config::load(&file).unwrap();
        let reader = Reader::of(&loaded);
        let parts = Parts {
            identity: Identity {
                version: String::new(),
                dpdk: String::new(),
                memory: String::new(),
                config_path: file.clone(),
                fallback: None,
                missing: Vec::new(),
            },
            loaded,
            facts: facts(),
            devices: NoDevices,
            publisher,
            links: vec![dataplane::worker::link().0],
            files: None,
            keeper: None,
            watchdog: None,
            kernel: None,
            engine: None,
            access: None,
            ask: None,
            discovery: None,
            lists: None,
            ladder: Ladder::new(Arc::new(Steering::alone(1)), vec![choice]),
            stats: vec![Arc::new(WorkerStats::with_slots(1, 1_024, 256, 64))],
            requests,
        };
        let control = Control::new(parts, Instant::from_millis(0)).unwrap();
        let current = Arc::clone(&control.workers.world);
        Self { control, mailbox: mailboxes.into_iter().next().unwrap(), current, file, reader }
    }

    fn reload(&mut self, now: Instant) -> bool {
        let read = self.reader.load(&self.file);
        self.control.follow_files(read, now).is_ok()
    }

    /// Does what is asked for; says whether it was done.
    fn follow(&mut self, operation: &Operation, now: u64) -> bool {
        let now = Instant::from_millis(now * 1_000);
        let server = |service: &usize, server: &usize| json!({ "service": name(*service), "address": address(*server).to_string() });
        let (method, params) = match operation {
            Operation::AddServer { service, server: number, weight } => {
                let mut params = server(service, number);
                params["keys"] = keys_of(*number, *weight);
                ("server.add", params)
            }
            Operation::SetServer { service, server: number, weight } => {
                let mut params = server(service, number);
                params["keys"] = json!({ "weight": weight });
                ("server.set", params)
            }
            Operation::RemoveServer { service, server: number } => ("server.remove", server(service, number)),
            Operation::Drain { service, server: number, seconds } => {
                let mut params = server(service, number);
                params["seconds"] = json!(seconds);
                ("server.drain", params)
            }
            Operation::AddService(new) => {
                let servers: Vec<_> = new
                    .servers
                    .iter()
                    .map(|(number, weight)| {
                        let mut keys = keys_of(*number, *weight);
                        keys["address"] = json!(address(*number).to_string());
                        keys
                    })
                    .collect();
                let mut keys = json!({
                    "listen": format!("192.0.2.10:{}", 8_000 + new.number), "scheduler": SCHEDULERS[new.scheduler],
                    "local_addresses": [format!("10.0.0.{}", 200 + new.number % 2)], "protect_hysteresis": 0.0, "server": servers,
                });
                if new.number % 2 == 1 {
                    keys["health.type"] = json!("tcp");
                }
                ("service.add", json!({ "name": name(new.number), "keys": keys }))
            }
            Operation::SetScheduler { service, scheduler } => (
                "service.set",
                json!({ "name": name(*service), "keys": { "scheduler": SCHEDULERS[*scheduler] } }),
            ),
            Operation::RemoveService(service) => ("service.remove", json!({ "name": name(*service) })),
            Operation::Switch { service, to, seconds } => {
                let to = match to {
                    Target::Tier(tier) => TIER_NAMES[*tier].to_owned(),
                    Target::All => "all".to_owned(),
                    Target::Servers(list) => {
                        list.iter().map(|server| address(*server).to_string()).collect::<Vec<_>>().join(",")
                    }
                };
                ("service.switch", json!({ "name": name(*service), "to": to, "seconds": seconds }))
            }
            Operation::SwitchOff(service) => {
                ("service.switch", json!({ "name": name(*service), "to": "off" }))
            }
            Operation::Found { server, is_up } => {
                if let Some(id) = self.control.servers.standings.check_of(address(*server)) {
                    let health = if *is_up { Health::Up } else { Health::Down };
                    self.control.servers.standings.note(Finding { id, health, relief: 1.0 }, now);
                }
                return true;
            }
            Operation::Reload(plain) => {
                std::fs::write(&self.file, text(plain)).unwrap();
                return self.reload(now);
            }
            Operation::ReloadSame => return self.reload(now),
            Operation::ReloadBroken => {
                std::fs::write(&self.file, "[[service]]\nname = \"broken\"\n").unwrap();
                return self.reload(now);
            }
            Operation::RollBack => ("config.rollback", json!({})),
            Operation::Wait(_) => {
                // Everybody is on the link.
                for entry in self.control.links.neighbors.entries() {
                    let claim = Claim { station: [2, 0, 0, 0, 0, 9], is_answer: true, is_for_us: false };
                    self.control.links.neighbors.hear(entry.hop, &claim, now);
                }
                self.control.turn(now);
                return true;
            }
        };
        let method = Method::named(method).unwrap();
        let Action::Change(make) = Action::of(method) else { panic!("{} changes nothing", method.name()) };
        self.control.change(method, make, &params, &Peer::inside("the test"), now).is_ok()
    }
}

fn plain_service() -> impl Strategy<Value = PlainService> {
    let servers = prop::collection::btree_map(0..SERVERS, 0..4_u32, 0..SERVERS);
    (0..SERVICES, 0..SCHEDULERS.len(), servers).prop_map(|(number, scheduler, servers)| PlainService {
        number,
        scheduler,
        servers: servers.into_iter().collect(),
    })
}

fn plain() -> impl Strategy<Value = Plain> {
    prop::collection::vec(plain_service(), 0..SERVICES).prop_map(|mut services| {
        services.sort_by_key(|service| service.number);
        services.dedup_by_key(|service| service.number);
        services
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let target = prop_oneof![
        (0..3_usize).prop_map(Target::Tier),
        Just(Target::All),
        prop::collection::btree_set(0..SERVERS, 1..3)
            .prop_map(|list| Target::Servers(list.into_iter().collect())),
    ];
    let (service, server) = (0..SERVICES, 0..SERVERS);
    let pair = (service.clone(), server.clone());
    prop_oneof![
        4 => (pair.clone(), 0..4_u32).prop_map(|((service, server), weight)| Operation::AddServer { service, server, weight }),
        3 => (pair.clone(), 0..4_u32).prop_map(|((service, server), weight)| Operation::SetServer { service, server, weight }),
        2 => pair.clone().prop_map(|(service, server)| Operation::RemoveServer { service, server }),
        2 => (pair, prop::option::of(1..10_u64)).prop_map(|((service, server), seconds)| Operation::Drain { service, server, seconds }),
        3 => plain_service().prop_map(Operation::AddService),
        1 => (service.clone(), 0..SCHEDULERS.len()).prop_map(|(service, scheduler)| Operation::SetScheduler { service, scheduler }),
        1 => service.clone().prop_map(Operation::RemoveService),
        2 => (service.clone(), target, 1..10_u64).prop_map(|(service, to, seconds)| Operation::Switch { service, to, seconds }),
        1 => service.prop_map(Operation::SwitchOff),
        6 => (server, any::<bool>()).prop_map(|(server, is_up)| Operation::Found { server, is_up }),
        1 => plain().prop_map(Operation::Reload),
        2 => Just(Operation::ReloadSame),
        1 => Just(Operation::ReloadBroken),
        1 => Just(Operation::RollBack),
        4 => (1..6_u64).prop_map(Operation::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_published_is_what_a_plain_twin_has(operations in prop::collection::vec(operation(), 1..60)) {
        let folder = Folder::new();
        let full: Plain = (0..SERVICES)
            .map(|number| PlainService { number, scheduler: 0, servers: (0..SERVERS).map(|server| (server, 1)).collect() })
            .collect();
        let mut run = Run::new(&folder.0, &full);
        let mut twin = Twin { plain: full, ..Twin::default() };
        twin.tidy();
        for (at, operation) in operations.iter().enumerate() {
            let next = operations.get(at + 1);
            let before = slots(&run.control.wanted.config, &run.control.workers.world);
            let (old, epoch) = (picture(&run.control.wanted.config, &run.control.workers.world, &run.control.workers.removed_locals), run.control.workers.world.routing_epoch);

            let should = twin.follow(operation);
            if matches!(operation, Operation::ReloadSame) {
                std::fs::write(&run.file, text(&twin.plain)).unwrap();
            }
            let done = run.follow(operation, twin.now);
            run.mailbox.refresh(&mut run.current);
            // What checks find is published a little later, unless something else is published before.
            if matches!(operation, Operation::Found { .. }) && next.is_some_and(|next| matches!(next, Operation::ReloadSame)) {
                continue;
            }
            run.control.follow_findings_now(Instant::from_millis(twin.now * 1_000));

            prop_assert_eq!(done, should, "{:?}", operation);
            let control = &run.control;
            let (config, world) = twin.world();
            prop_assert_eq!(&control.wanted.config.services, &config.services, "after {:?}", operation);
            let new = picture(&control.wanted.config, &control.workers.world, &control.workers.removed_locals);
            prop_assert_eq!(&new, &picture(&config, &world, &[]), "after {:?}", operation);
            prop_assert!(new == old || control.workers.world.routing_epoch != epoch, "sessions look again after {:?}", operation);

            // What would be written back says the same.
            let written = control.wanted.history.desired.written().unwrap();
            let read = config::parse(written.whole(), Path::new("written.toml")).unwrap().config;
            prop_assert_eq!(&read.services, &config.services, "written after {:?}: {}", operation, written.whole());

            // Who stays keeps its counters, and nobody has another's.
            let now = slots(&control.wanted.config, &control.workers.world);
            for (server, id) in &now {
                prop_assert!(before.get(server).is_none_or(|old| old == id), "{:?} moved after {:?}", server, operation);
            }
            let distinct: HashSet<_> = now.values().collect();
            prop_assert_eq!(distinct.len(), now.len(), "after {:?}", operation);
        }
    }
}
