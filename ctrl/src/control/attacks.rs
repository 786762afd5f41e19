//! Looks for attacks on services, has clients asked for proof while they go on, and tells both edges.

use super::Control;
use crate::attacks::{Chronicle, Kind, Ongoing, Pace, Past, Reading, Turn, Watch};
use crate::config::ServiceSpec;
use crate::devices::Devices;
use crate::health::Order;
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
    /// What programs are to be told.
    calls: Vec<Call>,
}

/// An edge, as programs are told of it.
#[derive(Clone, Debug)]
struct Call {
    event: Event,
    kind: Kind,
    service: String,
    listen: String,
    attack: Ongoing,
    at: Instant,
}

/// What programs are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Begin,
    /// Its peak is twice as high as when it was told last.
    Grow,
    End,
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Grow => "grow",
            Self::End => "end",
        }
    }
}

/// What is known of a service.
#[derive(Debug, Default)]
struct Guarded {
    service: String,
    /// What it listened on when something was told of it.
    listen: String,
    /// By [`Kind`].
    watches: [Watch; Kind::ALL.len()],
    /// The peaks that programs were told, by [`Kind`].
    told: [u64; Kind::ALL.len()],
    /// Whose counters were read.
    servers: Vec<ServerId>,
    /// Whether its clients are asked for proof.
    asks: bool,
    /// Until when the proof of those is taken that were asked before.
    late_until: Option<Instant>,
}

impl Guarded {
    /// The service is gone, and what was done to it over.
    fn end(&mut self, chronicle: &mut Chronicle, pace: &mut Pace<Edge>, calls: &mut Vec<Call>, now: Instant) {
        for (kind, watch) in Kind::ALL.into_iter().zip(&mut self.watches) {
            let Some(attack) = watch.give_up() else { continue };
            let name = &self.service;
            pace.say(over(kind, name, &attack, now));
            let (service, listen) = (name.clone(), self.listen.clone());
            calls.push(Call { event: Event::End, kind, service, listen, attack, at: now });
            chronicle.keep(Past {
                kind,
                service: name.clone(),
                attack,
                ended: now,
                done: "the service is gone",
            });
        }
    }

    /// Follows what is wanted of a service; returns whether workers must know.
    fn follow(&mut self, mode: SynProxy, now: Instant) -> bool {
        let asks = match mode {
            SynProxy::Off | SynProxy::Monitor => false,
            SynProxy::Auto => self.watches[Kind::SynFlood as usize].attack().is_some(),
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

    /// Whether a service is attacked, by [`Kind`].
    pub(super) fn on(&self, id: ServiceId) -> [bool; Kind::ALL.len()] {
        let guarded = self.guarded.get(&id);
        guarded.map_or_else(Default::default, |guarded| {
            guarded.watches.each_ref().map(|watch| watch.attack().is_some())
        })
    }

    /// Attacks that go on.
    fn ongoing(&self) -> impl Iterator<Item = (Kind, &str, &Ongoing)> {
        self.guarded.values().flat_map(|guarded| {
            let watches = Kind::ALL.into_iter().zip(&guarded.watches);
            watches.filter_map(|(kind, watch)| Some((kind, &*guarded.service, watch.attack()?)))
        })
    }

    /// Forgets services that are gone, and tells that attacks on them are over.
    pub(super) fn keep(&mut self, is_there: impl Fn(&ServiceId) -> bool, now: Instant) {
        let Self { guarded, chronicle, pace, calls } = self;
        guarded.retain(|id, guarded| {
            let stays = is_there(id);
            if !stays {
                guarded.end(chronicle, pace, calls, now);
            }
            stays
        });
    }

    /// The state of a service.
    fn guarded(&mut self, id: ServiceId, spec: &ServiceSpec, now: Instant) -> &mut Guarded {
        let guarded = self.guarded.entry(id).or_default();
        if guarded.service != spec.name {
            // The slot is another's now.
            guarded.end(&mut self.chronicle, &mut self.pace, &mut self.calls, now);
            *guarded = Guarded { service: spec.name.clone(), ..Guarded::default() };
        }
        guarded
    }
}

/// An attack is over.
fn over(kind: Kind, name: &str, attack: &Ongoing, now: Instant) -> Edge {
    let (what, counted) = kind.words();
    let (seconds, peak) = (now.since(attack.since).as_secs(), attack.peak);
    Edge::better(format!("service {name}: {what} no more, after {seconds} s; at the peak {peak} {counted}"))
        .from_to(kind.name(), "quiet")
        .of("service", name)
}

/// What is done while a service is attacked.
fn done(kind: Kind, spec: &ServiceSpec) -> &'static str {
    match (kind, spec.options.syn_proxy, spec.forward) {
        (Kind::SynFlood, SynProxy::Auto, _) => "clients are asked for proof by SYN cookies",
        (Kind::SynFlood, _, ForwardMode::FullNat | ForwardMode::Nat) => {
            "half-open connections make room; syn_proxy = \"auto\" would ask clients for proof"
        }
        (Kind::SynFlood, ..) => "half-open connections make room",
        (Kind::SourceRate, ..) if spec.ban.is_some() => {
            "they are refused and banned; `sluice top sources` has them"
        }
        (Kind::SourceRate, ..) => "they are refused; `sluice top sources` has them",
        (Kind::ServiceRate, ..) => "they are refused",
    }
}

/// Whether somebody looks for attacks of a kind on a service.
fn is_watched(kind: Kind, spec: &ServiceSpec) -> bool {
    let limit = spec.options.new_sessions;
    match kind {
        Kind::SynFlood => {
            spec.options.syn_proxy.is_watched()
                && spec.protocols.has(Protocol::Tcp)
                && spec.forward != ForwardMode::Snat
        }
        Kind::SourceRate => limit.is_some_and(|limit| limit.each_of_source > 0),
        Kind::ServiceRate => limit.is_some_and(|limit| limit.each > 0),
    }
}

impl<D: Devices> Control<D> {
    /// Looks whether a service is attacked, and has its clients asked for proof if it wants that.
    pub(super) fn look_for_attacks(
        &mut self,
        id: ServiceId,
        spec: &ServiceSpec,
        is_pressed: bool,
        now: Instant,
    ) {
        let is_any = Kind::ALL.into_iter().any(|kind| is_watched(kind, spec));
        let asks = spec.options.syn_proxy == SynProxy::Always;
        if !is_any && !asks && !self.attacks.guarded.contains_key(&id) {
            return;
        }
        for kind in Kind::ALL {
            let reading = is_watched(kind, spec).then(|| self.reading(kind, id, spec, now));
            let guarded = self.attacks.guarded(id, spec, now);
            let watch = &mut guarded.watches[kind as usize];
            let rate = if kind == Kind::SynFlood { spec.syn_flood_rate } else { 1 };
            let turn = match reading {
                Some(reading) => watch.note(reading, rate, is_pressed && kind == Kind::SynFlood, now),
                // Nobody looks any more.
                None => watch.give_up().map(Turn::Ended),
            };
            let told = guarded.told[kind as usize];
            let grown =
                guarded.watches[kind as usize].attack().filter(|attack| attack.peak >= 2 * told).copied();
            if let (None, Some(attack)) = (turn, grown) {
                self.note_call(Event::Grow, kind, spec, attack, now);
            }
            if let Some(turn) = turn {
                self.note_turn(kind, spec, turn, now);
                if let Some(at) = self.wanted.config.place_of(&spec.name) {
                    self.metering.note(&[at]);
                }
            }
        }
        if self.attacks.guarded(id, spec, now).follow(spec.options.syn_proxy, now) {
            let snapshot = Snapshot::clone(&self.workers.world);
            self.publish(Snapshot { proofs: Arc::new(self.attacks.proofs()), ..snapshot });
        }
    }

    /// What has been counted of a kind of attack on a service.
    fn reading(&mut self, kind: Kind, id: ServiceId, spec: &ServiceSpec, now: Instant) -> Reading {
        let stats = || self.workers.stats.iter();
        match kind {
            Kind::SynFlood => {}
            Kind::SourceRate => {
                return Reading::refused(stats().map(|stats| stats.service(id).source_rate.value()).sum());
            }
            Kind::ServiceRate => {
                return Reading::refused(stats().map(|stats| stats.service(id).service_rate.value()).sum());
            }
        }
        let registry = &self.workers.registry;
        let servers: Vec<_> = spec
            .servers
            .iter()
            .filter_map(|server| registry.server_id(&spec.name, server.endpoint))
            .collect();
        let sees_answers = spec.forward.sees_answers();
        let mut reading = Reading::default();
        for stats in stats() {
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
        let guarded = self.attacks.guarded(id, spec, now);
        if guarded.servers != servers {
            guarded.servers = servers;
            guarded.watches[kind as usize].begin_anew();
        }
        reading
    }

    /// Tells that an attack began or ended, soon.
    fn note_turn(&mut self, kind: Kind, spec: &ServiceSpec, turn: Turn, now: Instant) {
        let (name, done, (what, counted)) = (&spec.name, done(kind, spec), kind.words());
        let (Turn::Began(attack) | Turn::Ended(attack)) = turn;
        let event = if matches!(turn, Turn::Began(_)) { Event::Begin } else { Event::End };
        self.note_call(event, kind, spec, attack, now);
        let edge = match turn {
            Turn::Began(Ongoing { rate, threshold, .. }) => {
                Edge::worse(format!("service {name}: {what}: {rate} {counted} (from {threshold} on); {done}"))
                    .from_to("quiet", kind.name())
            }
            Turn::Ended(attack) => {
                self.attacks.chronicle.keep(Past { kind, service: name.clone(), attack, ended: now, done });
                over(kind, name, &attack, now)
            }
        };
        self.attacks.pace.say(edge);
    }

    /// Tells what attacks began and ended: programs at once, and the log a line a second.
    pub(super) fn tell_of_attacks(&mut self, now: Instant) {
        for call in std::mem::take(&mut self.attacks.calls) {
            self.call_hooks(&call);
        }
        let Some((edge, untold)) = self.attacks.pace.next(now) else { return };
        edge.tell("attacks");
        if untold > 0 {
            log::warn!(target: "attacks", "{untold} more attacks began or ended; `sluice attack list` has them");
        }
    }

    /// Has programs told of an attack.
    fn note_call(&mut self, event: Event, kind: Kind, spec: &ServiceSpec, attack: Ongoing, now: Instant) {
        let (service, listen) = (spec.name.clone(), spec.listen_text());
        if let Some(id) = self.workers.registry.service_id(&spec.name) {
            let guarded = self.attacks.guarded(id, spec, now);
            guarded.told[kind as usize] = attack.peak;
            guarded.listen.clone_from(&listen);
        }
        self.attacks.calls.push(Call { event, kind, service, listen, attack, at: now });
    }

    fn call_hooks(&self, call: &Call) {
        let Call { event, kind, service, listen, attack, at } = call;
        for hook in self.wanted.config.hooks.iter().filter(|hook| hook.kinds.contains(kind)) {
            let variables = vec![
                ("SLUICE_EVENT", event.name().to_owned()),
                ("SLUICE_KIND", kind.name().to_owned()),
                ("SLUICE_SERVICE", service.clone()),
                ("SLUICE_LISTEN", listen.clone()),
                ("SLUICE_RATE", attack.rate.to_string()),
                ("SLUICE_PEAK", attack.peak.to_string()),
                ("SLUICE_SECONDS", at.since(attack.since).as_secs().to_string()),
            ];
            let (command, is_needed) = (Arc::clone(&hook.command), *event == Event::End);
            self.order(vec![Order::Hook { command, variables, is_needed }]);
        }
    }

    /// Gives a snapshot what workers have to know of proof, by what the services that run want.
    pub(super) fn follow_proofs(&mut self, snapshot: &mut Snapshot, now: Instant) {
        for at in 0..self.wanted.config.services.len() {
            let spec = Arc::clone(&self.wanted.config.services[at]);
            let Some(id) = self.workers.registry.service_id(&spec.name) else { continue };
            if spec.options.syn_proxy == SynProxy::Always || self.attacks.guarded.contains_key(&id) {
                self.attacks.guarded(id, &spec, now).follow(spec.options.syn_proxy, now);
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
                let (what, counted) = view.kind.words();
                format!(
                    "service {}: {what} for {} s: {} {counted}; {}",
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
        ongoing.sort_by_key(|(_, service, attack)| (std::cmp::Reverse(attack.rate), *service));
        let now = ongoing.into_iter().map(|(kind, service, attack)| {
            let spec = self.wanted.config.place_of(service).map(|at| &self.wanted.config.services[at]);
            let done = spec.map_or("", |spec| done(kind, spec));
            AttackView::of((kind, service), attack, done, None, self.now)
        });
        let past = self.attacks.chronicle.iter();
        let past = past.map(|past| {
            AttackView::of((past.kind, &past.service), &past.attack, past.done, Some(past.ended), self.now)
        });
        now.chain(past).collect()
    }
}
