//! What is known of every service's servers, and the weights that follow.
//!
//! The checks that services want, each once; what checks found; who was first seen healthy when; what the operator
//! decided for a while. No I/O: orders to the engine come out, findings and the time come in.

pub mod balance;
pub mod passive;

use crate::config::{Config, ServerSpec, ServiceSpec};
use crate::health::Health;
use crate::health::{CheckId, CheckKey, Finding, Last, Order};
use crate::journal::Edge;
use crate::kernel::VipWay;
use crate::servers::passive::Pace;
use balance::{Candidate, Picture, Switch, TIERS};
use dataplane::clock::Instant;
use dataplane::flow::{Endpoint, Family};
use dataplane::scheduler::Scheduler;
use dataplane::session::ForwardMode;
use dataplane::snapshot;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Steps in which a server comes to its whole weight.
const RAMP_STEPS: u32 = 10;

/// What is known of all services' servers.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    services: Vec<Service>,
    checks: HashMap<CheckId, Check>,
    by_key: HashMap<CheckKey, CheckId>,
    next_id: u64,
    /// Local addresses by which the kernel can ask.
    sources: HashSet<IpAddr>,
    /// Services whose weights may have changed.
    dirty: BTreeSet<usize>,
    /// When something changes by itself, and whose.
    due: BTreeSet<(Instant, usize)>,
}

#[derive(Clone, Debug, Default)]
struct Service {
    spec: Option<Arc<ServiceSpec>>,
    servers: Vec<Server>,
    picture: Picture,
    switch: Option<(Switch, Instant)>,
}

#[derive(Clone, Debug)]
struct Server {
    endpoint: Endpoint,
    check: Option<CheckId>,
    tier: usize,
    /// When it was first seen healthy, of late.
    healthy_since: Option<Instant>,
    /// Until when passive checks keep it out.
    inhibited_until: Option<Instant>,
    /// Whether it does not answer on its link, so that no packet reaches it.
    is_absent: bool,
    /// What the time that it takes to answer connections leaves it of its weight, and that time in milliseconds.
    pace: (f64, Option<f64>),
}

#[derive(Clone, Debug)]
struct Check {
    key: CheckKey,
    source: Option<IpAddr>,
    /// Services and places in them.
    users: BTreeSet<(usize, Endpoint)>,
    health: Health,
    relief: f64,
    last: Arc<Mutex<Last>>,
}

/// What one check is now.
#[derive(Clone, Debug)]
pub struct CheckPicture {
    /// The address that is asked.
    pub target: SocketAddr,
    /// The kind of question.
    pub probe: &'static str,
    /// The services that share it.
    pub services: Vec<String>,
    /// What it says.
    pub health: Health,
    /// Its last answers.
    pub last: Last,
}

/// What one server is now, for who wants to see it.
#[derive(Clone, Debug)]
pub struct ServerPicture {
    /// What checks say.
    pub health: Health,
    /// Whether anybody asks.
    pub is_checked: bool,
    /// The weight that the scheduler uses.
    pub effective: u32,
    /// Its tier.
    pub tier: usize,
    /// Slow start: how much of its weight it has.
    pub ramp: f64,
    /// Overload protection: how much of its weight its load leaves it.
    pub relief: f64,
    /// How long it took to answer connections of late, in milliseconds, where that is looked at.
    pub connect_ms: Option<f64>,
    /// How long passive checks keep it out from now on.
    pub inhibited: Duration,
    /// The last answer.
    pub last: Option<Last>,
}

impl Standings {
    /// What is known at the start, of servers that nobody asks.
    pub fn of(config: &Config) -> Self {
        let mut all = Self::default();
        let now = Instant::default();
        all.follow(config, now);
        for at in all.take_dirty(now) {
            all.weigh(at, now);
        }
        all
    }

    /// Says by which local addresses checks can ask; others ask from wherever the host has a way.
    pub fn set_sources(&mut self, sources: HashSet<IpAddr>) {
        self.sources = sources;
    }

    /// Follows a new configuration; every service counts as changed. Returns what the engine is to do.
    pub fn follow(&mut self, config: &Config, now: Instant) -> Vec<Order> {
        let mut old: HashMap<String, Service> = HashMap::new();
        for service in self.services.drain(..) {
            if let Some(spec) = &service.spec {
                old.insert(spec.name.clone(), service);
            }
        }
        for check in self.checks.values_mut() {
            check.users.clear();
        }
        self.due.clear();
        self.dirty = (0..config.services.len()).collect();
        let mut orders = Vec::new();
        for (at, spec) in config.services.iter().enumerate() {
            let before = old.remove(&spec.name).unwrap_or_default();
            let service = self.meet(at, spec, before, config, now, &mut orders);
            self.services.push(service);
        }
        self.forget_unused(&mut orders);
        orders
    }

    /// Follows a change of the one service in place `at`.
    pub fn follow_service(&mut self, at: usize, config: &Config, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        let before = std::mem::take(&mut self.services[at]);
        let old: Vec<_> =
            before.servers.iter().filter_map(|server| Some((server.check?, server.endpoint))).collect();
        for (id, endpoint) in &old {
            if let Some(check) = self.checks.get_mut(id) {
                check.users.remove(&(at, *endpoint));
            }
        }
        self.services[at] = self.meet(at, &config.services[at], before, config, now, &mut orders);
        for (id, _) in old {
            self.forget_if_unused(id, &mut orders);
        }
        self.dirty.insert(at);
        orders
    }

    /// A service as it is now, with what is still true of before.
    fn meet(
        &mut self,
        at: usize,
        spec: &Arc<ServiceSpec>,
        before: Service,
        config: &Config,
        now: Instant,
        orders: &mut Vec<Order>,
    ) -> Service {
        let is_new = before.spec.is_none();
        let switch = before.switch.and_then(|(switch, until)| match switch {
            // The same servers, wherever they are now; it ends with the last of them.
            Switch::Servers(places) => {
                let chosen: HashSet<_> =
                    places.iter().filter_map(|place| Some(before.servers.get(*place)?.endpoint)).collect();
                let places: Vec<_> = (0..spec.servers.len())
                    .filter(|place| chosen.contains(&spec.servers[*place].endpoint))
                    .collect();
                (!places.is_empty()).then_some((Switch::Servers(places), until))
            }
            other => Some((other, until)),
        });
        let mut known: HashMap<Endpoint, Server> =
            before.servers.into_iter().map(|server| (server.endpoint, server)).collect();
        let mut servers = Vec::with_capacity(spec.servers.len());
        for server in &spec.servers {
            let old = known.remove(&server.endpoint);
            // Nobody asked an old one without a check, so it served.
            let health_of = |all: &Self, check: Option<CheckId>| {
                check.map_or(Health::Up, |id| {
                    all.checks.get(&id).map_or(Health::Checking, |check| check.health)
                })
            };
            let before = old.as_ref().map_or(Health::Checking, |old| health_of(self, old.check));
            let check =
                check_of(spec, server).map(|key| self.take_check(at, key, spec, server, before, orders));
            let health = health_of(self, check);
            let healthy_since = match (health, old.as_ref()) {
                (Health::Up, Some(old)) if before == Health::Up => old.healthy_since,
                // Nobody has to be careful with servers that were there from the start.
                (Health::Up, None) if is_new => None,
                (Health::Up, _) => Some(now),
                _ => None,
            };
            let tier = if spec.locality { config.location.tier_of(&server.location) } else { TIERS - 1 };
            let inhibited_until = old.as_ref().and_then(|old| old.inhibited_until);
            let is_absent = old.as_ref().is_some_and(|old| old.is_absent);
            // Who does not look any more takes nothing away.
            let pace = old.filter(|_| spec.connect_limit.is_some()).map_or((1.0, None), |old| old.pace);
            let endpoint = server.endpoint;
            servers.push(Server { endpoint, check, tier, healthy_since, inhibited_until, is_absent, pace });
        }
        if let Some((_, until)) = &switch {
            self.due.insert((*until, at));
        }
        self.due.insert((now, at));
        Service { spec: Some(Arc::clone(spec)), servers, picture: before.picture, switch }
    }

    /// The check with this key, begun if nobody wanted it so far. Another check of a server that was asked before
    /// begins with what is known: a change of its words takes nobody out, and brings nobody back.
    fn take_check(
        &mut self,
        at: usize,
        key: CheckKey,
        spec: &ServiceSpec,
        server: &ServerSpec,
        before: Health,
        orders: &mut Vec<Order>,
    ) -> CheckId {
        let source = source_of(spec, server).filter(|source| self.sources.contains(source));
        let id = match self.by_key.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let id = CheckId(self.next_id);
                self.next_id += 1;
                let key = new.key().clone();
                let last = Arc::default();
                let health = match before {
                    Health::Checking if key.spec.initially_up => Health::Up,
                    known => known,
                };
                orders.push(Order::Start { id, key: key.clone(), source, health, last: Arc::clone(&last) });
                self.checks
                    .insert(id, Check { key, source, users: BTreeSet::new(), health, relief: 1.0, last });
                new.insert(id);
                id
            }
        };
        if let Some(check) = self.checks.get_mut(&id) {
            // Who asks first says from where.
            if check.users.is_empty() && check.source != source {
                check.source = source;
                orders.push(Order::Move { id, source });
            }
            check.users.insert((at, server.endpoint));
        }
        id
    }

    fn forget_unused(&mut self, orders: &mut Vec<Order>) {
        let unused: Vec<_> =
            self.checks.iter().filter(|(_, check)| check.users.is_empty()).map(|(id, _)| *id).collect();
        for id in unused {
            self.forget_if_unused(id, orders);
        }
    }

    fn forget_if_unused(&mut self, id: CheckId, orders: &mut Vec<Order>) {
        if self.checks.get(&id).is_some_and(|check| check.users.is_empty())
            && let Some(check) = self.checks.remove(&id)
        {
            self.by_key.remove(&check.key);
            orders.push(Order::Stop(id));
        }
    }

    /// Takes in what a check found. Returns what to say about it.
    pub fn note(&mut self, finding: Finding, now: Instant) -> Option<Edge> {
        // A check that ended may have had something to say still.
        let check = self.checks.get_mut(&finding.id)?;
        let before = check.health;
        let changed = before != finding.health;
        (check.health, check.relief) = (finding.health, finding.relief);
        for (at, endpoint) in &check.users {
            self.dirty.insert(*at);
            let service = &mut self.services[*at];
            if changed && let Some(server) = service.servers.iter_mut().find(|one| one.endpoint == *endpoint)
            {
                server.healthy_since = (finding.health == Health::Up).then_some(now);
                self.due.insert((now, *at));
            }
        }
        changed.then(|| {
            let probe = check.key.spec.probe.name();
            let target = check.key.target;
            let last = check.last.lock().map(|last| last.error.clone()).unwrap_or_default();
            let edge = match (finding.health, &last) {
                (Health::Up, _) => Edge::better(format!("server {target} is up ({probe})")),
                (_, Some(error)) => {
                    Edge::worse(format!("server {target} is down ({probe}): {error}")).of("why", error)
                }
                (_, None) => Edge::worse(format!("server {target} is down ({probe})")),
            };
            let users = check.users.iter().filter_map(|(at, _)| self.services.get(*at)?.spec.as_ref());
            edge.of("server", target)
                .from_to(before.name(), finding.health.name())
                .of_services(users.map(|spec| spec.name.as_str()))
        })
    }

    /// Every check, in the order in which they began.
    pub fn check_ids(&self) -> Vec<CheckId> {
        let mut ids: Vec<_> = self.checks.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The servers whose load is asked for and cannot be read, and why.
    pub fn load_errors(&self) -> Vec<(SocketAddr, String)> {
        let with_load = self.checks.values().filter(|check| check.key.spec.load.is_some());
        let mut odd: Vec<_> = with_load
            .filter_map(|check| Some((check.key.target, check.last.lock().ok()?.load_error.clone()?)))
            .collect();
        odd.sort();
        odd
    }

    /// One check with its last answers.
    pub fn check_picture(&self, id: CheckId) -> Option<CheckPicture> {
        let check = self.checks.get(&id)?;
        let services = check.users.iter().filter_map(|(at, _)| self.services.get(*at)?.spec.as_ref());
        Some(CheckPicture {
            target: check.key.target,
            probe: check.key.spec.probe.name(),
            services: services.map(|spec| spec.name.clone()).collect(),
            health: check.health,
            last: check.last.lock().map(|last| last.clone()).unwrap_or_default(),
        })
    }

    /// Keeps a server of a service out until `until`, because of what its traffic shows.
    pub fn inhibit(&mut self, at: usize, endpoint: Endpoint, until: Instant) {
        let Some(service) = self.services.get_mut(at) else { return };
        if let Some(server) = service.servers.iter_mut().find(|server| server.endpoint == endpoint) {
            server.inhibited_until = Some(until);
            self.dirty.insert(at);
            self.due.insert((until, at));
        }
    }

    /// Takes in whether a server answers on its link. Returns what to say, if it did otherwise before.
    pub fn set_absent(&mut self, at: usize, place: usize, is_absent: bool) -> Option<Edge> {
        let server = self.services.get_mut(at)?.servers.get_mut(place)?;
        if server.is_absent == is_absent {
            return None;
        }
        server.is_absent = is_absent;
        self.dirty.insert(at);
        let address = server.endpoint.address;
        Some(match is_absent {
            true => Edge::worse(format!(
                "server {address} does not answer on its link; it gets no sessions until it does"
            ))
            .of("server", address)
            .from_to("reachable", "unreachable"),
            false => Edge::better(format!("server {address} answers on its link again"))
                .of("server", address)
                .from_to("unreachable", "reachable"),
        })
    }

    /// Takes in how fast the server in place `place` of the service in place `at` answers connections.
    pub fn note_pace(&mut self, at: usize, place: usize, pace: &Pace) {
        let server = &mut self.services[at].servers[place];
        if server.pace.0 != pace.share() {
            self.dirty.insert(at);
        }
        server.pace = (pace.share(), pace.connect_ms());
    }

    /// Sets or takes away the operator's switch of a service.
    pub fn set_switch(&mut self, at: usize, switch: Option<(Switch, Instant)>) {
        if let Some((_, until)) = &switch {
            self.due.insert((*until, at));
        }
        self.services[at].switch = switch;
        self.dirty.insert(at);
    }

    /// The services whose weights must be looked at again now.
    pub fn take_dirty(&mut self, now: Instant) -> Vec<usize> {
        while let Some((at, service)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, service));
            self.dirty.insert(service);
        }
        std::mem::take(&mut self.dirty).into_iter().filter(|at| *at < self.services.len()).collect()
    }

    /// Works out a service's weights. Returns what to say, when something became different that matters.
    pub fn weigh(&mut self, at: usize, now: Instant) -> Vec<Edge> {
        let service = &mut self.services[at];
        let is_over = service.switch.take_if(|(_, until)| *until <= now).is_some();
        let service = &self.services[at];
        let Some(spec) = &service.spec else { return Vec::new() };
        let all = spec.servers.iter().zip(&service.servers);
        let (candidates, steps): (Vec<_>, Vec<_>) =
            all.map(|(spec_of, server)| self.candidate(spec, spec_of, server, now)).unzip();
        if let Some(step) = steps.into_iter().flatten().min() {
            self.due.insert((step, at));
        }
        let service = &mut self.services[at];
        let Some(spec) = &service.spec else { return Vec::new() };
        let switch = service.switch.as_ref().map(|(switch, _)| switch);
        // Overflow takes weights as numbers of sessions.
        let whole = spec.scheduler == Scheduler::Overflow;
        let before = &service.picture;
        let mut picture = balance::balance(&candidates, &spec.policy, before.protected, switch, whole);
        if spec.drain {
            picture =
                Picture { weights: vec![0; candidates.len()], tiers: picture.tiers, ..Picture::default() };
        }
        let mut says = Vec::new();
        if is_over {
            let name = &spec.name;
            let line = format!("service {name}: the switch is over; checks and tiers decide again");
            says.push(Edge::better(line).of("service", name).from_to("switched", "ready"));
        }
        let is_first = before.weights.is_empty();
        let down = || candidates.iter().filter(|one| one.health != Health::Up && !one.is_sorry).count();
        // At the start nothing is known, which is no news.
        let checking = candidates.iter().any(|one| one.health == Health::Checking);
        if picture.protected != before.protected && !(is_first && picture.protected) && !checking {
            let name = &spec.name;
            says.push(match picture.protected {
                true => Edge::worse(format!(
                    "service {name}: {} of {} servers are down; health is not believed, all are used",
                    down(),
                    candidates.len()
                ))
                .of("service", name)
                .from_to("ready", "protected"),
                false => {
                    Edge::better(format!("service {name}: enough servers are healthy again; checks decide"))
                        .of("service", name)
                        .from_to("protected", "ready")
                }
            });
        }
        if picture.sorry != before.sorry {
            let name = &spec.name;
            says.push(
                match picture.sorry {
                    true => Edge::worse(format!(
                        "service {name}: no other server is left; the sorry server serves"
                    )),
                    false => Edge::better(format!("service {name}: the sorry server rests")),
                }
                .of("service", name),
            );
        }
        service.picture = picture;
        says
    }

    /// A service's picture.
    pub fn picture(&self, at: usize) -> &Picture {
        &self.services[at].picture
    }

    /// A service's switch, and when it ends.
    pub fn switch(&self, at: usize) -> Option<&(Switch, Instant)> {
        self.services[at].switch.as_ref()
    }

    /// A service's servers as they are given out by name: with health, slow start and load, but for their tier.
    pub fn candidates(&self, at: usize, now: Instant) -> Vec<Candidate> {
        let service = &self.services[at];
        let Some(spec) = &service.spec else { return Vec::new() };
        let all = spec.servers.iter().zip(&service.servers);
        all.map(|(spec_of, server)| self.candidate(spec, spec_of, server, now).0).collect()
    }

    /// A server as it is weighed, and when its slow start goes on.
    fn candidate(
        &self,
        spec: &ServiceSpec,
        spec_of: &ServerSpec,
        server: &Server,
        now: Instant,
    ) -> (Candidate, Option<Instant>) {
        let check = server.check.and_then(|id| self.checks.get(&id));
        let inhibited = server.inhibited_until.is_some_and(|until| until > now);
        let health = check.map_or(Health::Up, |check| check.health);
        let (ramp, step) = ramp(server.healthy_since, spec.slow_start, now);
        let candidate = Candidate {
            // One that no packet reaches is as good as one without weight: no protection makes it serve.
            weight: if server.is_absent { crate::config::Weight::ZERO } else { spec_of.weight },
            tier: server.tier,
            health: if inhibited { Health::Down } else { health },
            ramp,
            relief: check.map_or(1.0, |check| check.relief).min(server.pace.0),
            is_sorry: spec_of.is_sorry,
        };
        (candidate, step)
    }

    /// What becomes of the sessions of a service's servers.
    pub fn standing(&self, at: usize, place: usize, spec: &ServerSpec) -> snapshot::Standing {
        let service = &self.services[at];
        let weight = service.picture.weights.get(place).copied().unwrap_or(0);
        let server = &service.servers[place];
        let check = server.check.and_then(|id| self.checks.get(&id));
        match weight {
            1.. => snapshot::Standing::Serving,
            0 if check.is_some_and(|check| check.health == Health::Down) => snapshot::Standing::Down,
            0 if spec.weight == crate::config::Weight::ZERO => snapshot::Standing::Quiescent,
            // Another tier serves now, or it is kept out for a while: what it has goes on.
            0 => snapshot::Standing::Serving,
        }
    }

    /// What a server is, in place `place` of the service in place `at`.
    pub fn server(&self, at: usize, place: usize, now: Instant) -> ServerPicture {
        let service = &self.services[at];
        let server = &service.servers[place];
        let check = server.check.and_then(|id| self.checks.get(&id));
        let slow_start = service.spec.as_ref().map_or(Duration::ZERO, |spec| spec.slow_start);
        ServerPicture {
            health: check.map_or(Health::Up, |check| check.health),
            is_checked: check.is_some(),
            effective: service.picture.weights.get(place).copied().unwrap_or(0),
            tier: server.tier,
            ramp: ramp(server.healthy_since, slow_start, now).0,
            relief: check.map_or(1.0, |check| check.relief).min(server.pace.0),
            connect_ms: server.pace.1,
            inhibited: server.inhibited_until.map_or(Duration::ZERO, |until| until.since(now)),
            last: check.and_then(|check| check.last.lock().ok().map(|last| last.clone())),
        }
    }

    /// What checks say of a server, and whether its traffic keeps it out.
    pub fn condition(&self, at: usize, place: usize, now: Instant) -> (Health, bool) {
        let server = &self.services[at].servers[place];
        let check = server.check.and_then(|id| self.checks.get(&id));
        (
            check.map_or(Health::Up, |check| check.health),
            server.inhibited_until.is_some_and(|until| until > now),
        )
    }

    /// The check that asks `target`, if one does.
    #[cfg(test)]
    pub(crate) fn check_of(&self, target: SocketAddr) -> Option<CheckId> {
        self.checks.iter().find(|(_, check)| check.key.target == target).map(|(id, _)| *id)
    }

    /// How many checks run.
    pub fn checks(&self) -> usize {
        self.checks.len()
    }
}

/// How much of its weight a server has that is healthy since `since`, and when it gets more.
fn ramp(since: Option<Instant>, slow_start: Duration, now: Instant) -> (f64, Option<Instant>) {
    let Some(since) = since.filter(|_| !slow_start.is_zero()) else { return (1.0, None) };
    let step = slow_start / RAMP_STEPS;
    let steps = (now.since(since).as_nanos() / step.as_nanos().max(1)) as u32;
    if steps + 1 >= RAMP_STEPS {
        return (1.0, None);
    }
    (f64::from(steps + 1) / f64::from(RAMP_STEPS), Some(since + step * (steps + 1)))
}

/// The check that a service wants of a server.
fn check_of(spec: &ServiceSpec, server: &ServerSpec) -> Option<CheckKey> {
    let health = spec.health.as_ref().filter(|_| spec.forward != ForwardMode::Snat)?;
    let l4_port = health.l4_port.unwrap_or(server.endpoint.l4_port);
    let target = SocketAddr::new(server.endpoint.address, l4_port);
    let vip = spec.listens.first().filter(|_| health.at_vip).map(|listen| VipWay {
        vip: SocketAddr::new(listen.network.address, l4_port),
        tunnel: (spec.forward == ForwardMode::Tunnel).then(|| spec.options.tunnel.clone()),
    });
    Some(CheckKey { target, spec: Arc::clone(health), vip })
}

/// From where a service's check asks: the first local address of the server's family.
fn source_of(spec: &ServiceSpec, server: &ServerSpec) -> Option<IpAddr> {
    let family = Family::of(server.endpoint.address);
    spec.local_addresses.iter().copied().find(|local| Family::of(*local) == family)
}

#[cfg(test)]
mod tests;
