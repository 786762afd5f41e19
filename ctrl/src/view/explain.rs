//! What would become of a packet, in sentences: what its worker says, with what control knows of service, servers,
//! routes and links.

use super::build::{mac_text, server_text};
use super::{Observer, SessionView, TierView};
use crate::remedies::remedy;
use crate::servers::balance::TIER_NAMES;
use dataplane::director::{Chosen, Explanation, Leaving, Verdict};
use dataplane::flow::{Direction, Endpoint, FlowKey6, Key, Protocol};
use dataplane::ids::{PortId, ServerId, ServiceId};
use dataplane::session::{ForwardMode, State};
use dataplane::snapshot::AddressRole;
use serde::Serialize;

/// The packet that somebody imagines.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The port by which it comes.
    pub port: PortId,
    /// Its protocol.
    pub protocol: Protocol,
    /// Whom it is from.
    pub source: Endpoint,
    /// Whom it is for.
    pub destination: Endpoint,
    /// TCP's flags, in their octet on the wire.
    pub flags: u8,
}

impl Question {
    /// Its key, as both families write it.
    pub fn flow(&self) -> FlowKey6 {
        FlowKey6::new(self.protocol, self.source, self.destination)
    }

    /// The packet in words: `TCP SYN from 198.51.100.7:4000 to 192.0.2.10:80`.
    fn words(&self) -> String {
        let kind = match self.protocol {
            Protocol::Tcp => format!("TCP {}", flags_text(self.flags)),
            Protocol::Udp => "UDP datagram".into(),
            Protocol::Sctp if self.flags == 0x02 => "SCTP INIT".into(),
            Protocol::Sctp => "SCTP data".into(),
            Protocol::Icmp => {
                let (from, to) = (self.source.address, self.destination.address);
                return format!("ICMP echo request from {from} to {to}");
            }
        };
        format!("{kind} from {} to {}", self.source, self.destination)
    }
}

/// TCP's flags as tcpdump writes them, and their bits.
pub const FLAGS: [(char, u8, &str); 6] = [
    ('S', 0x02, "SYN"),
    ('A', 0x10, "ACK"),
    ('F', 0x01, "FIN"),
    ('R', 0x04, "RST"),
    ('P', 0x08, "PSH"),
    ('U', 0x20, "URG"),
];

fn flags_text(flags: u8) -> String {
    let names: Vec<_> = FLAGS.iter().filter(|(_, bit, _)| flags & bit != 0).map(|(.., name)| *name).collect();
    names.join("+")
}

/// `explain`.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainView {
    /// The port by which the packet comes.
    pub port: String,
    /// `tcp`, `udp`, `sctp` or `icmp`.
    pub protocol: String,
    /// Whom it is from.
    pub source: String,
    /// Whom it is for.
    pub destination: String,
    /// TCP's flags: `SYN`, `SYN+ACK`.
    pub flags: String,
    /// `forwarded`, `answered`, `waits` (for a next hop's station address), `kernel` or `dropped`.
    pub verdict: String,
    /// Why it is dropped: a name of `sluice stats drops`.
    pub reason: Option<String>,
    /// What that means.
    pub meaning: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// The worker that decides.
    pub worker: u16,
    /// How replies find their worker on the port: its rung.
    pub steering: String,
    /// The service.
    pub service: Option<String>,
    /// Its state, and why it is not ready.
    pub service_state: Option<String>,
    /// Its tiers.
    pub tiers: Vec<TierView>,
    /// The session that the packet belongs to.
    pub session: Option<SessionView>,
    /// The session's state after it.
    pub state_after: Option<String>,
    /// The server that gets it.
    pub server: Option<String>,
    /// `session`, `persistence` or `scheduler`: why that server.
    pub chosen_by: Option<String>,
    /// What leaves.
    pub leaves: Option<LeavesView>,
    /// All of it in sentences.
    pub sentences: Vec<String>,
    /// How many such packets there are for the service, if one was asked for.
    pub endpoints: usize,
    /// The server's answer, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Box<ExplainView>>,
}

/// A packet as it leaves.
#[derive(Clone, Debug, Serialize)]
pub struct LeavesView {
    /// The port.
    pub port: String,
    /// Whom it is from.
    pub source: String,
    /// Whom it is for.
    pub destination: String,
    /// `ipip`, `gre` or `gue`, and the outer addresses, for packets that go by a tunnel.
    pub tunnel: Option<String>,
    /// The next hop.
    pub next_hop: String,
    /// Its station address, if it is known.
    pub mac: Option<String>,
}

impl Observer<'_> {
    /// What becomes of a packet, by what each worker says: that one's word counts that owns its session, or would.
    pub fn explain(&self, question: &Question, said: &[Explanation]) -> ExplainView {
        let owner = owner(said);
        let said = owner.and_then(|at| said.get(at)).copied().unwrap_or(said[0]);
        let port = usize::from(question.port.0);
        let service_at = said.service.and_then(|id| self.service_place(id));
        let (verdict, reason) = match said.verdict {
            Verdict::Transmit(_) if said.is_answered => ("answered", None),
            Verdict::Transmit(_) | Verdict::HandOver(_) => ("forwarded", None),
            Verdict::Await(_) => ("waits", None),
            Verdict::Kernel(_) => ("kernel", None),
            Verdict::Drop(reason) => ("dropped", Some(reason)),
            Verdict::Punt(_) | Verdict::Hold(_) | Verdict::Untag => ("answered", None),
        };
        let condition = service_at.map(|at| self.condition(at));
        let state = condition.map(|(state, why)| match why {
            Some(why) => format!("{}: {why}", state.name()),
            None => state.name().to_owned(),
        });
        let mut view = ExplainView {
            port: self.port_name(question.port),
            protocol: question.protocol.name().into(),
            source: question.source.to_string(),
            destination: question.destination.to_string(),
            flags: if question.protocol == Protocol::Tcp {
                flags_text(question.flags)
            } else {
                String::new()
            },
            verdict: verdict.into(),
            reason: reason.map(|reason| reason.name().to_owned()),
            meaning: reason.map(|reason| reason.explanation().to_owned()),
            remedy: reason.map(|reason| remedy(reason).to_owned()),
            worker: said.worker.0,
            steering: self.ladder.choice(question.port).rung.name().into(),
            service: service_at.map(|at| self.config.services[at].name.clone()),
            service_state: state,
            tiers: service_at.map(|at| self.tiers(at)).unwrap_or_default(),
            session: said.session.map(|(record, _)| SessionView::from(&record)),
            state_after: said.state.map(|state| state.name().to_owned()),
            server: said.server.and_then(|(id, _)| Some(server_text(self.endpoint_of(id)?))),
            chosen_by: said.server.map(|(_, chosen)| chosen_by(chosen).to_owned()),
            leaves: said.leaving.map(|leaving| self.leaves(&leaving)),
            sentences: Vec::new(),
            endpoints: 1,
            reply: None,
        };
        let mut tell = vec![format!("{} comes by port {}", question.words(), view.port)];
        if self.links[port].is_some_and(|(is_up, _)| !is_up) {
            tell.push(format!("the link of port {} is down: nothing comes by it now", view.port));
        }
        tell.extend(self.about_destination(question, &said, service_at));
        tell.extend(self.about_session(&said));
        tell.extend(self.about_server(&said, service_at));
        tell.extend(self.about_way(&view, &said));
        if owner.is_none() && self.stats.len() > 1 {
            tell.push("which worker gets it is the device's choice; the others would say the same but for the turn of scheduler and port".into());
        } else if self.stats.len() > 1 {
            let worker = said.worker.0;
            let core = self.config.dataplane.workers[usize::from(worker)];
            tell.push(format!(
                "worker {worker} on core {core} decides ({} on port {})",
                view.steering, view.port
            ));
        }
        if let Some(reason) = reason {
            let meaning = reason.explanation().trim_end_matches('.');
            tell.push(format!("it is dropped as {}: {meaning}", reason.name()));
            tell.push(format!("remedy: {}", remedy(reason)));
        }
        view.sentences = tell;
        view
    }

    /// The tiers of a service that have servers.
    pub(super) fn tiers(&self, at: usize) -> Vec<TierView> {
        let tiers = TIER_NAMES.iter().zip(&self.standings.picture(at).tiers);
        let used = tiers.filter(|(_, tier)| tier.servers > 0);
        used.map(|(name, tier)| TierView {
            name: (*name).to_owned(),
            servers: tier.servers,
            healthy: tier.healthy,
            share: tier.share,
        })
        .collect()
    }

    fn service_place(&self, id: ServiceId) -> Option<usize> {
        self.config.services.iter().position(|spec| self.registry.service_id(&spec.name) == Some(id))
    }

    fn endpoint_of(&self, id: ServerId) -> Option<Endpoint> {
        let service = self.world.services.of_server(id)?;
        Some(service.servers.iter().find(|server| server.id == id)?.endpoint)
    }

    fn leaves(&self, leaving: &Leaving) -> LeavesView {
        let mac = self.neighbors.entry(leaving.hop).and_then(|entry| entry.mac).map(mac_text);
        LeavesView {
            port: self.port_name(leaving.hop.port),
            source: leaving.source.to_string(),
            destination: leaving.destination.to_string(),
            tunnel: leaving.outer.map(|outer| {
                format!("{} {} -> {}", outer.encapsulation.name(), outer.source, outer.destination)
            }),
            next_hop: leaving.hop.address.to_string(),
            mac,
        }
    }

    /// The service, or the nearest one and what does not fit.
    fn about_destination(
        &self,
        question: &Question,
        said: &Explanation,
        service_at: Option<usize>,
    ) -> Vec<String> {
        let to = question.destination;
        let role = self.world.role(to.address);
        if let Some(at) = service_at {
            let spec = &self.config.services[at];
            let mut tell = vec![format!(
                "service {} listens on {} ({}, {}, {})",
                spec.name,
                spec.listen_text(),
                spec.protocols,
                spec.forward.name(),
                spec.scheduler.name()
            )];
            if let (state, Some(why)) = self.condition(at) {
                tell.push(format!("the service is {}: {why}", state.name()));
            }
            return tell;
        }
        if said.session.is_some() {
            return Vec::new();
        }
        match role {
            Some(AddressRole::Vip) => {
                let near: Vec<_> = self
                    .config
                    .services
                    .iter()
                    .filter(|spec| spec.listens.iter().any(|listen| listen.network.contains(to.address)))
                    .map(|spec| format!("{} ({} {})", spec.name, spec.protocols, spec.listen_text()))
                    .collect();
                let what = if question.protocol == Protocol::Icmp {
                    return vec![format!("{} is a VIP of {}", to.address, near.join("; "))];
                } else {
                    format!("{} {}", question.protocol.name(), to)
                };
                vec![format!("no service listens on {what}; those of this address are {}", near.join("; "))]
            }
            Some(AddressRole::Local(port)) => vec![format!(
                "{} is a local address on port {}: what comes there are servers' answers, and no session has this one",
                to.address,
                self.port_name(port)
            )],
            Some(AddressRole::Own) => vec![format!("{} is the appliance's own address", to.address)],
            None => {
                let mut vips: Vec<_> = self.config.services.iter().map(|spec| spec.listen_text()).collect();
                let count = vips.len();
                vips.truncate(5);
                let more = if count > vips.len() {
                    format!(" and {} more", count - vips.len())
                } else {
                    String::new()
                };
                vec![format!(
                    "{} is no address of this appliance; services listen on {}{more}",
                    to.address,
                    if vips.is_empty() { "nothing".to_owned() } else { vips.join(", ") }
                )]
            }
        }
    }

    fn about_session(&self, said: &Explanation) -> Vec<String> {
        let Some((record, direction)) = &said.session else {
            return match (said.server, said.state) {
                (Some(_), Some(_)) => vec!["it has no session yet, and begins one".into()],
                (Some(_), None) => vec!["no session is kept for it".into()],
                _ => Vec::new(),
            };
        };
        let who = match direction {
            Direction::Inbound => "it belongs to a session of the client's",
            Direction::Outbound => "it is the server's packet of a session",
        };
        let mut tell = vec![format!(
            "{who}: {} -> {}, {} -> {}, {}, last packet {:.1} s ago",
            record.client,
            record.vip,
            record.local,
            record.real,
            record.state.name(),
            f64::from(record.idle_ms) / 1_000.0
        )];
        if said.begins_anew {
            tell.push("that session is over, or its server left: it ends, and another begins".into());
        }
        match said.state {
            Some(state) if state != record.state && !said.begins_anew => {
                tell.push(format!("its state becomes {}", state.name()));
            }
            _ => {}
        }
        tell
    }

    /// Which server, why, and why not the others.
    fn about_server(&self, said: &Explanation, service_at: Option<usize>) -> Vec<String> {
        let Some(at) = service_at else { return Vec::new() };
        let spec = &self.config.services[at];
        let mut tell = Vec::new();
        if matches!(said.server, Some((_, Chosen::ByScheduler))) || said.server.is_none() {
            let tiers = self.tiers(at);
            if tiers.len() > 1 {
                let text = |tier: &TierView| {
                    format!(
                        "{} {} of {} up, {:.0} %",
                        tier.name,
                        tier.healthy,
                        tier.servers,
                        100.0 * tier.share
                    )
                };
                tell.push(format!("tiers: {}", tiers.iter().map(text).collect::<Vec<_>>().join("; ")));
            }
            if spec.forward != ForwardMode::Snat {
                tell.extend(self.about_others(at));
            }
        }
        let Some((id, chosen)) = said.server else { return tell };
        let Some(endpoint) = self.endpoint_of(id) else {
            tell.push("the server of its session was removed; the session goes on until it ends".into());
            return tell;
        };
        if spec.forward == ForwardMode::Snat {
            return tell;
        }
        let why = match chosen {
            Chosen::BySession => "its session has server",
            Chosen::ByPersistence => "its client's earlier sessions went to server",
            Chosen::ByScheduler => "the scheduler's turn is at server",
        };
        let place = spec.servers.iter().position(|server| server.endpoint == endpoint);
        let state = place.map_or(String::new(), |place| {
            let view = self.server(at, place);
            let since = view.check.and_then(|check| check.since).map(|since| format!(" since {since}"));
            format!(" ({}{}, weight {})", view.state, since.unwrap_or_default(), view.effective_weight)
        });
        tell.push(format!("{why} {}{state}", server_text(endpoint)));
        tell
    }

    /// The servers that get nothing new, and why.
    fn about_others(&self, at: usize) -> Option<String> {
        const NAMED: usize = 5;
        let spec = &self.config.services[at];
        let idle =
            |place: &usize| self.standings.picture(at).weights.get(*place).is_none_or(|weight| *weight == 0);
        let all: Vec<_> = (0..spec.servers.len()).filter(idle).collect();
        if all.is_empty() {
            return None;
        }
        let text = |place: &usize| {
            let view = self.server(at, *place);
            let error =
                view.check.as_ref().and_then(|check| check.error.as_deref()).filter(|_| view.state == "down");
            let error = error.map(|error| format!(": {error}")).unwrap_or_default();
            format!("{} is {}{error}", view.address, view.state)
        };
        let named: Vec<_> = all.iter().take(NAMED).map(text).collect();
        let more =
            if all.len() > NAMED { format!("; and {} more", all.len() - NAMED) } else { String::new() };
        Some(format!(
            "{} of {} servers get nothing new: {}{more}",
            all.len(),
            spec.servers.len(),
            named.join("; ")
        ))
    }

    fn about_way(&self, view: &ExplainView, said: &Explanation) -> Vec<String> {
        if let Verdict::Kernel(_) = said.verdict {
            return vec!["the host's kernel gets it".into()];
        }
        let Some(leaves) = &view.leaves else { return Vec::new() };
        if said.is_answered {
            return vec![format!("the appliance answers it itself, by port {}", leaves.port)];
        }
        let mut tell = Vec::new();
        let around = leaves.tunnel.as_ref().map(|tunnel| format!(" inside {tunnel}")).unwrap_or_default();
        tell.push(format!(
            "it leaves by port {} as {} -> {}{around}",
            leaves.port, leaves.source, leaves.destination
        ));
        tell.push(match &leaves.mac {
            Some(mac) => format!("the next hop {} is the station {mac}", leaves.next_hop),
            None => format!(
                "the station address of the next hop {} is not known: the packet waits until it answers, up to a second",
                leaves.next_hop
            ),
        });
        tell
    }
}

fn chosen_by(chosen: Chosen) -> &'static str {
    match chosen {
        Chosen::BySession => "session",
        Chosen::ByPersistence => "persistence",
        Chosen::ByScheduler => "scheduler",
    }
}

/// The worker whose word counts: it has the session, or the others would give the packet to it. `None` where each would
/// keep it.
pub(crate) fn owner(said: &[Explanation]) -> Option<usize> {
    if let Some(at) = said.iter().position(|one| one.session.is_some() && !one.begins_anew) {
        return Some(at);
    }
    let given = said.iter().find_map(|one| match one.verdict {
        Verdict::HandOver(worker) => Some(usize::from(worker.0)),
        _ => None,
    });
    given.or_else(|| (said.len() == 1).then_some(0))
}

/// The flags of the answer to a packet, and whether it has one.
pub(crate) fn answer_to(said: &Explanation, question: &Question) -> Option<Question> {
    let leaving = said.leaving.filter(|_| !said.is_answered)?;
    let is_answer = matches!(said.session, Some((_, Direction::Outbound)));
    let flags = match said.state {
        Some(State::SynRecv) if question.flags == 0x02 => 0x12,
        _ => 0x10,
    };
    (!is_answer && leaving.outer.is_none()).then_some(Question {
        port: leaving.hop.port,
        protocol: question.protocol,
        source: leaving.destination,
        destination: leaving.source,
        flags,
    })
}
