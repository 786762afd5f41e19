//! `explain`: every worker says what it would do with a packet, and control says it in words.

use super::Control;
use crate::admin::{Refusal, Reply};
use crate::devices::Devices;
use crate::view::{ExplainView, FLAGS, Question, answer_to, owner};
use dataplane::clock::Instant;
use dataplane::director::Explanation;
use dataplane::flow::{Endpoint, Protocol};
use dataplane::ids::PortId;
use dataplane::session::ForwardMode;
use dataplane::wire;
use dataplane::worker::{Command, ControlFrame, Inquiry};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// How long a worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Packets that may be asked for at a time: each takes a place in every worker's queue.
const OPEN_MAX: usize = 16;

/// Clients of nobody's network (RFC 5737, RFC 3849), and their port.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const ELSEWHERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7);
const CLIENT_PORT: u16 = 40_007;

/// A packet that workers have been asked for.
#[derive(Debug)]
pub(super) struct Open {
    id: u64,
    question: Question,
    /// How many such packets there are for the service that was asked for.
    endpoints: usize,
    /// By worker.
    said: Vec<Option<Explanation>>,
    /// Whether the server's answer is to be asked for next.
    wants_reply: bool,
    /// What was found of the packet to which this one is the answer.
    first: Option<Box<ExplainView>>,
    deadline: Instant,
    reply: Sender<Reply>,
}

impl Open {
    fn new(question: Question, reply: Sender<Reply>) -> Self {
        let (said, deadline) = (Vec::new(), Instant::default());
        Self { id: 0, question, endpoints: 1, said, wants_reply: false, first: None, deadline, reply }
    }
}

impl<D: Devices> Control<D> {
    /// Asks every worker for a packet.
    pub(super) fn begin_explaining(&mut self, params: &Value, reply: Sender<Reply>, now: Instant) {
        let asked = match params["service"].as_str() {
            Some(_) => self.question_of_service(params),
            None => self.question(params).map(|question| (question, 1)),
        };
        let asked = asked.and_then(|question| {
            if self.desk.pending.explaining.len() >= OPEN_MAX {
                return Err(Refusal::no("too many packets are being explained; try again"));
            }
            Ok(question)
        });
        match asked {
            Ok((question, endpoints)) => {
                let wants_reply = params["reply"] == true;
                self.ask_all(Open { endpoints, wants_reply, ..Open::new(question, reply) }, now);
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    fn ask_all(&mut self, mut open: Open, now: Instant) {
        let question = open.question;
        let station = self.workers.facts[usize::from(question.port.0)].mac;
        let frame = wire::imagined_frame(question.flow(), question.flags, station);
        let id = self.desk.pending.next_query;
        self.desk.pending.next_query += 1;
        for (at, link) in self.workers.links.iter().enumerate() {
            let inquiry =
                Inquiry { id, port: question.port, frame: ControlFrame::copy_of(&frame), explanation: None };
            if link.ask(Command::Explain(Box::new(inquiry))).is_err() {
                let refusal = Refusal::no(format!("worker {at} has too much to do; try again"));
                return drop(open.reply.send(Err(refusal)));
            }
        }
        (open.id, open.deadline) = (id, now + PATIENCE);
        open.said = vec![None; self.workers.links.len()];
        self.desk.pending.explaining.push(open);
    }

    /// A worker said what it would do.
    pub(super) fn hear_explanation(&mut self, worker: usize, inquiry: &Inquiry, now: Instant) {
        let open = &mut self.desk.pending.explaining;
        let Some(at) = open.iter().position(|one| one.id == inquiry.id) else { return };
        open[at].said[worker] = inquiry.explanation;
        if open[at].said.iter().any(Option::is_none) {
            return;
        }
        let Open { question, endpoints, said, wants_reply, first, reply, .. } = open.swap_remove(at);
        let said: Vec<_> = said.into_iter().flatten().collect();
        let mut view = self.observer().explain(&question, &said);
        view.endpoints = endpoints;
        let of_owner = said[owner(&said).unwrap_or(0)];
        if let Some(mut first) = first {
            first.sentences.extend(view.sentences.iter().map(|line| format!("answer: {line}")));
            first.reply = Some(Box::new(view));
            return drop(reply.send(super::requests::written(&first)));
        }
        if wants_reply && self.is_one_way(&of_owner) {
            view.sentences
                .push("answer: the server answers the client itself; it does not come by here".into());
        } else if wants_reply {
            match answer_to(&of_owner, &question) {
                Some(answer) if of_owner.session.is_some() && !of_owner.begins_anew => {
                    let first = Some(Box::new(view));
                    return self.ask_all(Open { first, ..Open::new(answer, reply) }, now);
                }
                Some(answer) => view.sentences.extend(self.foreseen_answer(&of_owner, &question, &answer)),
                None => {}
            }
        }
        drop(reply.send(super::requests::written(&view)));
    }

    /// Whether servers answer the packet's sender past the appliance.
    fn is_one_way(&self, said: &Explanation) -> bool {
        let of_service = || {
            let service = self.workers.world.services.iter().find(|service| Some(service.id) == said.service);
            service.map(|service| service.mode)
        };
        let mode = said.session.map(|(record, _)| record.mode).or_else(of_service);
        said.server.is_some() && mode.is_some_and(|mode| !mode.sees_answers())
    }

    /// What becomes of the answer to a packet that has no session yet.
    fn foreseen_answer(&self, said: &Explanation, question: &Question, answer: &Question) -> Option<String> {
        let id = said.service?;
        let services = &self.wanted.config.services;
        services.iter().find(|spec| self.workers.registry.service_id(&spec.name) == Some(id))?;
        let way = self.observer().route(question.source.address);
        Some(match (way.port, way.via) {
            (Some(port), Some(via)) => format!(
                "answer: {} -> {} comes back by the session that this packet begins, and leaves by port {port} as {} -> {}, next hop {via}",
                answer.source, answer.destination, question.destination, question.source
            ),
            _ => format!("answer: no route leads back to {}; add a [[route]]", question.source.address),
        })
    }

    /// Gives up on packets that a worker said nothing of.
    pub(super) fn end_overdue_explanations(&mut self, now: Instant) {
        self.desk.pending.explaining.retain(|one| {
            if now < one.deadline {
                return true;
            }
            let silent = one.said.iter().position(Option::is_none).unwrap_or(0);
            let refusal = Refusal::no(format!("worker {silent} did not answer; see `sluice worker list`"));
            let _ = one.reply.send(Err(refusal));
            false
        });
    }

    /// A new client's packet to an endpoint of a service, and how many endpoints that has.
    fn question_of_service(&self, params: &Value) -> Result<(Question, usize), Refusal> {
        let spec = &self.wanted.config.services[self.service_at(params, "service")?];
        let endpoints: Vec<_> = spec
            .listens
            .iter()
            .flat_map(|listen| spec.protocols.iter().map(move |protocol| (listen, protocol)))
            .collect();
        let at = params["endpoint"].as_u64().unwrap_or(0) as usize;
        let (listen, protocol) = *endpoints
            .get(at)
            .ok_or_else(|| Refusal::parameters(format!("the service has {} endpoints", endpoints.len())))?;
        let is_ipv4 = listen.network.address.is_ipv4();
        let elsewhere = if is_ipv4 { IpAddr::V4(ELSEWHERE) } else { IpAddr::V6(ELSEWHERE6) };
        let address = match listen.network {
            network if network.is_host() => network.address,
            network if network.contains(elsewhere) && spec.forward == ForwardMode::Snat => elsewhere,
            network => network.pick(1),
        };
        let world = &self.workers.world;
        let is_free = |address: &IpAddr| address.is_ipv4() == is_ipv4 && world.role(*address).is_none();
        let hidden = spec.options.sources.iter().map(|network| network.pick(77)).find(is_free);
        let near = self.wanted.config.ports.iter().flat_map(|port| &port.addresses);
        let near = near.filter(|network| network.contains(address)).map(|network| network.pick(77));
        let routed = |address: &IpAddr| world.routes.lookup(*address, 0).is_some();
        let client = match spec.forward {
            ForwardMode::Snat => hidden,
            _ => Some(elsewhere).filter(routed).filter(is_free).or(near.into_iter().find(is_free)),
        };
        let client = client.ok_or_else(|| {
            Refusal::no(format!(
                "no route leads to clients of {address}; add a [[route]], or a port's address on the VIP's network"
            ))
        })?;
        let port = world.routes.lookup(client, 0).map(|hop| hop.port).ok_or_else(|| {
            Refusal::no(format!(
                "no route leads to {client}, which the service's sources have; add a [[route]]"
            ))
        })?;
        let flags = if protocol.has_connections() { 0x02 } else { 0 };
        let source = Endpoint::new(client, CLIENT_PORT);
        let destination = Endpoint::new(address, *listen.l4_ports.start());
        Ok((Question { port, protocol, source, destination, flags }, endpoints.len()))
    }

    fn question(&self, params: &Value) -> Result<Question, Refusal> {
        let word = params["protocol"].as_str().unwrap_or_default();
        if word == "icmp" && params["reply"] == true {
            return Err(Refusal::parameters("the answer to a ping is not followed; leave --reply out"));
        }
        let names = Protocol::ALL.map(Protocol::name);
        let protocol =
            Protocol::ALL.into_iter().find(|protocol| protocol.name() == word).ok_or_else(|| {
                Refusal::parameters(format!("`{word}` is not a protocol; use one of {}", names.join(", ")))
            })?;
        let end = |key: &str| endpoint(params[key].as_str().unwrap_or_default(), protocol);
        let (source, destination) = (end("source")?, end("destination")?);
        if source.address.is_ipv4() != destination.address.is_ipv4() {
            return Err(Refusal::parameters("source and destination are of different families"));
        }
        let port = match params["port"].as_str() {
            Some(name) => {
                let ports = &self.wanted.config.ports;
                let at = ports.iter().position(|port| port.name == name).ok_or_else(|| {
                    let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
                    Refusal::parameters(format!("there is no port `{name}`; use one of {}", names.join(", ")))
                })?;
                PortId(at as u16)
            }
            None => {
                let way = self.workers.world.routes.lookup(source.address, 0).ok_or_else(|| {
                    Refusal::parameters(format!(
                        "no route leads back to {}; name the port by which it comes with --port, and add a [[route]] for its answers",
                        source.address
                    ))
                })?;
                way.port
            }
        };
        let flags = match params["flags"].as_str() {
            Some(text) => flags(text)?,
            None if protocol.has_connections() => 0x02,
            None => 0,
        };
        Ok(Question { port, protocol, source, destination, flags })
    }
}

/// `198.51.100.7:4000`, or an address alone for a ping.
fn endpoint(text: &str, protocol: Protocol) -> Result<Endpoint, Refusal> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(Endpoint::new(socket.ip().to_canonical(), socket.port()));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match (bare, protocol) {
        (Ok(address), Protocol::Icmp) => Ok(Endpoint::new(address.to_canonical(), 1)),
        (Ok(_), _) => Err(Refusal::parameters(format!("`{text}` has no port; write {text}:4000"))),
        (Err(_), _) => Err(Refusal::parameters(format!(
            "`{text}` is not ADDRESS:PORT; write it as 198.51.100.7:4000 or [2001:db8::7]:4000"
        ))),
    }
}

/// Flags as tcpdump writes them.
fn flags(text: &str) -> Result<u8, Refusal> {
    text.chars().try_fold(0, |flags, letter| {
        let found = FLAGS.iter().find(|(name, ..)| name.eq_ignore_ascii_case(&letter));
        found.map(|(_, bit, _)| flags | bit).ok_or_else(|| {
            Refusal::parameters(format!(
                "`{text}` are no TCP flags; write letters of SAFRPU: S, SA, A, FA, R"
            ))
        })
    })
}
