//! Looks for attacks on services, has clients asked for proof while they go on, and tells both edges.

use super::Control;
use crate::attacks::{Chronicle, Ongoing, Pace, Past, Reading, SynWatch, Turn};
use crate::config::ServiceSpec;
use crate::devices::Devices;
use crate::journal::Edge;
use crate::view::AttackView;
use dataplane::clock::Instant;
use dataplane::director::UNPROVEN_SHARE;
use dataplane::flow::Protocol;
use dataplane::ids::{ServerId, ServiceId};
use dataplane::session::ForwardMode;
use dataplane::snapshot::{Proofs, Snapshot, SynProxy};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Cookies that were sent are good for so long.
const LATE: Duration = Duration::from_secs(128);

/// Attacks that go on and that are over.
#[derive(Debug, Default)]
pub(super) struct Attacks {
    guarded: HashMap<ServiceId, Guarded>,
    chronicle: Chronicle,
    pace: Pace<Edge>,
}

/// What is known of a service.
#[derive(Debug, Default)]
struct Guarded {
    service: String,
    watch: SynWatch,
    /// Whose counters were read.
    servers: Vec<ServerId>,
    /// Whether its clients are asked for proof.
    asks: bool,
    /// Until when the proof of those is taken that were asked before.
    late_until: Option<Instant>,
}

impl Guarded {
    /// Follows what is wanted of a service; returns whether workers must know.
    fn follow(&mut self, mode: SynProxy, now: Instant) -> bool {
        let asks = match mode {
            SynProxy::Off | SynProxy::Monitor => false,
            SynProxy::Auto => self.watch.attack().is_some(),
            SynProxy::Always => true,
        };
        let was_late = self.late_until.is_some();
        self.late_until = match (self.asks, asks) {
            (_, true) => None,
            (true, false) => Some(now + LATE),
            (false, false) => self.late_until.filter(|until| *until > now),
        };
        std::mem::replace(&mut self.asks, asks) != asks || was_late != self.late_until.is_some()
    }
}

impl Attacks {
    /// What workers have to know.
    fn proofs(&self) -> Proofs {
        let of = |wanted: fn(&Guarded) -> bool| {
            self.guarded.iter().filter(move |(_, guarded)| wanted(guarded)).map(|(id, _)| *id)
        };
        Proofs::new(of(|guarded| guarded.asks), of(|guarded| guarded.late_until.is_some()))
    }

    /// Whether a service is attacked.
    pub(super) fn is_attacked(&self, id: ServiceId) -> bool {
        self.guarded.get(&id).is_some_and(|guarded| guarded.watch.attack().is_some())
    }

    /// Attacks that go on.
    fn ongoing(&self) -> impl Iterator<Item = (&str, &Ongoing)> {
        self.guarded.values().filter_map(|guarded| Some((&*guarded.service, guarded.watch.attack()?)))
    }

    /// Forgets services that are gone.
    pub(super) fn keep(&mut self, is_there: impl Fn(&ServiceId) -> bool) {
        self.guarded.retain(|id, _| is_there(id));
    }

    /// The state of a service.
    fn guarded(&mut self, id: ServiceId, spec: &ServiceSpec) -> &mut Guarded {
        let guarded = self.guarded.entry(id).or_default();
        if guarded.service != spec.name {
            // The slot is another's now.
            *guarded = Guarded { service: spec.name.clone(), ..Guarded::default() };
        }
        guarded
    }
}

/// What is done while a service is flooded.
fn done(spec: &ServiceSpec) -> &'static str {
    match (spec.options.syn_proxy, spec.forward) {
        (SynProxy::Auto, _) => "clients are asked for proof by SYN cookies",
        (_, ForwardMode::FullNat | ForwardMode::Nat) => {
            "half-open connections make room; syn_proxy = \"auto\" would ask clients for proof"
        }
        _ => "half-open connections make room",
    }
}

/// Whether somebody looks for floods of a service.
fn is_watched(spec: &ServiceSpec) -> bool {
    spec.options.syn_proxy.is_watched()
        && spec.protocols.has(Protocol::Tcp)
        && spec.forward != ForwardMode::Snat
}

impl<D: Devices> Control<D> {
    /// Looks whether a service is flooded, and has its clients asked for proof if it wants that.
    pub(super) fn look_for_flood(
        &mut self,
        id: ServiceId,
        spec: &ServiceSpec,
        is_pressed: bool,
        now: Instant,
    ) {
        let is_watched = is_watched(spec);
        if !is_watched
            && !self.attacks.guarded.contains_key(&id)
            && spec.options.syn_proxy != SynProxy::Always
        {
            return;
        }
        let turn = if is_watched { self.flood_turn(id, spec, is_pressed, now) } else { None };
        let guarded = self.attacks.guarded(id, spec);
        let turn = turn.or_else(|| {
            let given_up = (!is_watched).then(|| guarded.watch.give_up()).flatten();
            given_up.map(Turn::Ended)
        });
        let changed = guarded.follow(spec.options.syn_proxy, now);
        if let Some(turn) = turn {
            self.note_turn(spec, turn, now);
            if let Some(at) = self.wanted.config.place_of(&spec.name) {
                self.metering.note(&[at]);
            }
        }
        if changed {
            let snapshot = Snapshot::clone(&self.workers.world);
            self.publish(Snapshot { proofs: Arc::new(self.attacks.proofs()), ..snapshot });
        }
    }

    fn flood_turn(
        &mut self,
        id: ServiceId,
        spec: &ServiceSpec,
        is_pressed: bool,
        now: Instant,
    ) -> Option<Turn> {
        let registry = &self.workers.registry;
        let servers: Vec<_> = spec
            .servers
            .iter()
            .filter_map(|server| registry.server_id(&spec.name, server.endpoint))
            .collect();
        let sees_answers = spec.forward.sees_answers();
        let mut reading = Reading::default();
        for stats in &self.workers.stats {
            let proxy = stats.syn_proxy(id);
            let sent = proxy.cookies_sent.value();
            reading.begun += proxy.unasked.value() + sent;
            reading.answered += if sees_answers { sent } else { proxy.unasked.value() + sent };
            reading.finished += proxy.cookies_accepted.value();
            for server in &servers {
                let connects = stats.connects(*server);
                reading.answered += if sees_answers { connects.answered.value() } else { 0 };
                reading.finished += connects.finished.value();
            }
        }
        let guarded = self.attacks.guarded(id, spec);
        if guarded.servers != servers {
            guarded.servers = servers;
            guarded.watch.begin_anew();
        }
        guarded.watch.note(reading, spec.syn_flood_rate, is_pressed, now)
    }

    /// Tells that an attack began or ended, soon.
    fn note_turn(&mut self, spec: &ServiceSpec, turn: Turn, now: Instant) {
        let (name, done) = (&spec.name, done(spec));
        let edge = match turn {
            Turn::Began(Ongoing { rate, threshold, .. }) => Edge::worse(format!(
                "service {name}: a flood of SYNs began: {rate} connections/s that clients do not finish ({threshold} are one); {done}"
            ))
            .from_to("quiet", "syn_flood"),
            Turn::Ended(attack) => {
                let seconds = now.since(attack.since).as_secs();
                self.attacks.chronicle.keep(Past { service: name.clone(), attack, ended: now, done });
                Edge::better(format!(
                    "service {name}: the flood of SYNs is over, after {seconds} s; at its peak {} connections/s were not finished",
                    attack.peak
                ))
                .from_to("syn_flood", "quiet")
            }
        };
        self.attacks.pace.say(edge.of("service", name));
    }

    /// Tells what attacks began and ended, a line a second.
    pub(super) fn tell_of_attacks(&mut self, now: Instant) {
        let Some((edge, untold)) = self.attacks.pace.next(now) else { return };
        edge.tell("attacks");
        if untold > 0 {
            log::warn!(target: "attacks", "{untold} more attacks began or ended; `sluice attack list` has them");
        }
    }

    /// Gives a snapshot what workers have to know of proof, by what the services that run want.
    pub(super) fn follow_proofs(&mut self, snapshot: &mut Snapshot, now: Instant) {
        for at in 0..self.wanted.config.services.len() {
            let spec = Arc::clone(&self.wanted.config.services[at]);
            let Some(id) = self.workers.registry.service_id(&spec.name) else { continue };
            if spec.options.syn_proxy == SynProxy::Always || self.attacks.guarded.contains_key(&id) {
                self.attacks.guarded(id, &spec).follow(spec.options.syn_proxy, now);
            }
        }
        snapshot.proofs = Arc::new(self.attacks.proofs());
    }

    /// Whether half-open connections have half of their places in some table.
    pub(super) fn is_pressed(&self) -> bool {
        let tables = self.observer().tables();
        tables.iter().any(|table| table.half_open * 2 * UNPROVEN_SHARE as u64 >= table.capacity.max(1))
    }

    /// What an operator should know of attacks now.
    pub(super) fn attack_warnings(&self) -> Vec<String> {
        const NAMED: usize = 5;
        let views = self.attack_views();
        let ongoing: Vec<_> = views.iter().filter(|view| view.ended.is_none()).collect();
        let mut warnings: Vec<_> = ongoing
            .iter()
            .take(NAMED)
            .map(|view| {
                format!(
                    "service {}: a flood of SYNs for {} s: {} connections/s that clients do not finish; {}",
                    view.service, view.seconds, view.rate, view.action
                )
            })
            .collect();
        if ongoing.len() > NAMED {
            warnings.push(format!("{} more attacks; see `sluice attack list`", ongoing.len() - NAMED));
        }
        warnings
    }

    /// Attacks that go on, the strongest first, and those that are over.
    pub(super) fn attack_views(&self) -> Vec<AttackView> {
        let mut ongoing: Vec<_> = self.attacks.ongoing().collect();
        ongoing.sort_by_key(|(service, attack)| (std::cmp::Reverse(attack.rate), *service));
        let now = ongoing.into_iter().map(|(service, attack)| {
            let spec = self.wanted.config.place_of(service).map(|at| &self.wanted.config.services[at]);
            AttackView::of(service, attack, spec.map_or("", |spec| done(spec)), None, self.now)
        });
        let past = self.attacks.chronicle.iter();
        let past = past
            .map(|past| AttackView::of(&past.service, &past.attack, past.done, Some(past.ended), self.now));
        now.chain(past).collect()
    }
}
