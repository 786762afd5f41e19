//! What the admin socket and signals ask of the control thread, and its answers.

use super::changes::Outcome;
use super::explain::Open;
use super::{Control, Done};
use crate::admin::{AccessHandle, Call, Method, Refusal, Reply};
use crate::config::{self, Config, ServiceSpec};
use crate::devices::Devices;
use crate::discovery::News;
use crate::health::Finding;
use crate::journal;
use crate::lists;
use crate::users::Peer;
use crate::view::{HealthView, ServiceState, SessionView, StatusView};
use dataplane::clock::Instant;
use dataplane::flow::Protocol;
use dataplane::ids::{Generation, PortId};
use dataplane::session::State;
use dataplane::worker::{Answer, Command, EndpointFilter, SessionFilter, SessionQuery};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

/// Most objects in one page.
const PAGE_MAX: usize = 1_000;
/// Servers from which on a page of services ends, so that it is written in a few milliseconds.
const PAGE_SERVERS: usize = 10_000;
/// How long a worker may take to follow a snapshot or to write a page.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sessions' lists that may be open at a time.
const QUERIES_MAX: usize = 64;

/// Something to do.
#[derive(Debug)]
pub enum Request {
    /// A method of the admin protocol.
    Call(Call),
    /// A health check found something out.
    Found(Finding),
    /// Something came of what was asked of the files.
    Files(Done),
    /// A source of servers said something.
    Discovered(News),
    /// Files of a list of addresses were read.
    Listed(lists::News),
    /// Read the configuration file again (SIGHUP).
    Reload,
    /// End the thread (SIGTERM).
    Stop,
}

impl From<Call> for Request {
    fn from(call: Call) -> Self {
        Self::Call(call)
    }
}

/// Where requests come in, and answers that wait.
pub(super) struct Desk {
    pub(super) requests: Receiver<Request>,
    pub(super) access: Option<AccessHandle>,
    pub(super) pending: Pending,
    pub(super) stopping: bool,
}

/// Answers that wait for workers.
#[derive(Debug, Default)]
pub(super) struct Pending {
    changes: Vec<(Generation, Instant, Box<RawValue>, Sender<Reply>)>,
    lists: Vec<(u64, usize, Instant, Sender<Reply>)>,
    pub(super) explaining: Vec<Open>,
    pub(super) next_query: u64,
}

impl<D: Devices> Control<D> {
    pub(super) fn answer(&mut self, request: Request, now: Instant) {
        self.now = now;
        if let Request::Call(_) = request {
            // Who looks sees what workers get.
            self.follow_findings_now(now);
        }
        match request {
            Request::Stop => self.desk.stopping = true,
            Request::Files(done) => self.hear_of_files(done, now),
            Request::Discovered(news) => self.hear_source(news, now),
            Request::Listed(news) => self.hear_list(news),
            Request::Found(finding) => {
                if let Some(edge) = self.servers.standings.note(finding, now) {
                    edge.tell("health");
                }
            }
            Request::Reload => self.reload_by_signal(),
            Request::Call(Call { method, params, peer, reply }) => {
                self.call(&method, params, peer, reply, now)
            }
        }
    }

    /// Answers a call, at once or later.
    fn call(&mut self, name: &str, params: Value, peer: Peer, reply: Sender<Reply>, now: Instant) {
        let Some(method) = Method::named(name) else {
            let message = format!("there is no method `{name}`; `methods` lists them");
            return drop(reply.send(Err(Refusal { code: -32601, message })));
        };
        if method.right().changes(&params) && !peer.may_change {
            let message = format!(
                "{} may look and not change anything; admin.operators in the configuration names those who may",
                peer.name
            );
            log::warn!(target: &peer.log_kind(), "{name}: refused: {message}: {params}");
            return drop(reply.send(Err(Refusal::no(message))));
        }
        match Action::of(method) {
            Action::Look(look) => drop(reply.send(look(self, &params))),
            // Who changed something waits until every worker follows.
            Action::Change(change) => match self.change(method, change, &params, &peer, now) {
                Ok(answer) => self.promise(&answer, reply, now),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Action::Later(begin) => begin(self, params, peer, reply, now),
        }
    }

    /// Answers when every worker follows what is published now.
    pub(super) fn promise(&mut self, answer: &Value, reply: Sender<Reply>, now: Instant) {
        match written(answer) {
            Ok(answer) => {
                self.desk.pending.changes.push((
                    self.workers.world.generation,
                    now + PATIENCE,
                    answer,
                    reply,
                ));
            }
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    fn list_services(&self, params: &Value) -> Reply {
        let observer = self.observer();
        let servers = |at: usize| self.wanted.config.services[at].servers.len();
        page_of_services(self.wanted.config.services.len(), params, servers, |at| observer.service(at))
    }

    fn list_servers(&self, params: &Value) -> Reply {
        let observer = self.observer();
        let places = observer.server_places();
        page_of_places(places.len(), params, |at| observer.server(places[at].0, places[at].1))
    }

    fn status(&self) -> StatusView {
        let observer = self.observer();
        let (in_use, buffers) = self.workers.devices.buffers();
        let count = observer.session_count();
        let mut service_states = BTreeMap::new();
        let (mut not_ready, mut unready) = (BTreeMap::new(), BTreeMap::new());
        for (at, spec) in self.wanted.config.services.iter().enumerate() {
            let (state, reason) = observer.condition(at);
            *service_states.entry(state.name().to_owned()).or_insert(0) += 1;
            let Some(reason) = reason else { continue };
            not_ready.insert(spec.name.clone(), state.name().to_owned());
            if state != ServiceState::Protected {
                unready.insert(spec.name.clone(), reason);
            }
        }
        // That each is a warning is said where they stand.
        let of_files = config::shown(&self.wanted.warnings).into_iter();
        let mut warnings: Vec<_> = of_files.map(|line| line.replacen(": warning: ", ": ", 1)).collect();
        warnings.extend(self.identity.fallback.clone());
        warnings.extend(self.wanted.failed_reload.as_ref().map(|problem| {
            format!(
                "the files were not followed when they were last read, and what ran before goes on: {problem}"
            )
        }));
        warnings.extend(self.wanted.unconfirmed.as_ref().map(|waiting| waiting.refusal(self.now)));
        warnings.extend(
            self.identity.missing.iter().chain(&self.naming.problems).chain(&self.metering.problems).cloned(),
        );
        warnings.extend(self.sourcing.sources.iter().filter_map(|(name, state)| {
            Some(format!("service {name}: its source: {}", state.trouble.as_ref()?))
        }));
        warnings.extend(self.load_warnings());
        warnings.extend(observer.port_warnings());
        for (port, state) in self.wanted.config.ports.iter().zip(&self.links.ports) {
            let troubles = state.trouble.iter().chain(&state.account.trouble);
            warnings.extend(troubles.map(|trouble| format!("port {}: {trouble}", port.name)));
        }
        for (at, _) in self.workers.turns.iter().enumerate().filter(|(_, (_, is_still))| *is_still) {
            let core = self.wanted.config.dataplane.workers[at];
            warnings.push(format!("worker {at} on core {core} stands still: something else has its core"));
        }
        warnings.extend(self.attack_warnings());
        warnings.extend(self.list_warnings());
        warnings.extend(self.double_warnings());
        warnings.extend(observer.scarce().into_iter().map(|(_, words)| words));
        warnings.extend(observer.gateway_warnings());
        let asks_vip = |spec: &Arc<ServiceSpec>| spec.health.as_ref().is_some_and(|health| health.at_vip);
        let asks_vips = self.wanted.config.services.iter().any(asks_vip);
        warnings.extend(self.kernel.iter().flat_map(|kernel| kernel.warnings(asks_vips)));
        let draining = self.workers.registry.draining().into_iter();
        StatusView {
            version: self.identity.version.clone(),
            dpdk: self.identity.dpdk.clone(),
            pid: std::process::id(),
            uptime_s: self.now.nanos() / 1_000_000_000,
            config: self.identity.config_path.display().to_string(),
            generation: self.workers.publisher.published().0,
            applied: self.workers.publisher.applied().0,
            memory: self.identity.memory.clone(),
            buffers: u64::from(buffers),
            buffers_in_use: u64::from(in_use),
            sessions: count.sessions,
            session_capacity: count.capacity,
            sessions_ipv6: count.sessions_ipv6,
            session_capacity_ipv6: count.capacity_ipv6,
            services: self.wanted.config.services.len(),
            service_states,
            not_ready,
            unready,
            servers: observer.server_states(),
            checks: self.servers.standings.checks(),
            protected: observer.protected(),
            switched: observer.switched(),
            draining: draining.map(|(service, endpoint)| format!("{service} {endpoint}")).collect(),
            steering: self
                .wanted
                .config
                .ports
                .iter()
                .enumerate()
                .map(|(at, port)| (port.name.clone(), self.workers.ladder.sentence(PortId(at as u16))))
                .collect(),
            ports: self
                .wanted
                .config
                .ports
                .iter()
                .enumerate()
                .map(|(at, port)| (port.name.clone(), observer.link_text(at)))
                .collect(),
            warnings,
            hints: observer.hints(),
        }
    }

    /// Servers whose load cannot be read, so that they are not relieved.
    fn load_warnings(&self) -> Vec<String> {
        const NAMED: usize = 5;
        let has_load =
            |spec: &Arc<ServiceSpec>| spec.health.as_ref().is_some_and(|health| health.load.is_some());
        if !self.wanted.config.services.iter().any(has_load) {
            return Vec::new();
        }
        let odd = self.servers.standings.load_errors().into_iter().map(|(target, error)| {
            format!("server {target}: its load cannot be read, so it is not relieved: {error}")
        });
        let mut warnings: Vec<_> = odd.collect();
        let more = warnings.len().saturating_sub(NAMED);
        warnings.truncate(NAMED);
        if more > 0 {
            warnings
                .push(format!("{more} more servers tell no load that can be read; see `sluice health list`"));
        }
        warnings
    }

    /// Asks a worker for a page of sessions. A cursor is the worker's number and a line of its table.
    fn begin_list(&mut self, params: &Value, reply: Sender<Reply>, now: Instant) {
        let asked = page_of(params).and_then(|(cursor, limit)| {
            let filter = session_filter(params)?;
            let (worker, line) = (cursor >> LINE_BITS, cursor & ((1 << LINE_BITS) - 1));
            if worker >= self.workers.links.len() {
                return Err(Refusal::parameters("the cursor is none that a page gave"));
            }
            if self.desk.pending.lists.len() == QUERIES_MAX {
                return Err(Refusal::no("too many lists are being written; try again"));
            }
            let id = self.desk.pending.next_query;
            let query = Box::new(SessionQuery::new(id, line, limit, filter));
            match self.workers.links[worker].ask(Command::List(query)) {
                Ok(()) => Ok((id, worker)),
                Err(_) => Err(Refusal::no(format!("worker {worker} has too much to do; try again"))),
            }
        });
        match asked {
            Ok((id, worker)) => {
                self.desk.pending.next_query += 1;
                self.desk.pending.lists.push((id, worker, now + PATIENCE, reply));
            }
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
            }
        }
    }

    /// Sends answers that workers made possible, and gives up on those that are overdue.
    pub(super) fn collect_answers(&mut self, now: Instant) {
        for worker in 0..self.workers.links.len() {
            while let Some(answer) = self.workers.links[worker].next_answer() {
                let query = match answer {
                    Answer::List(query) => query,
                    Answer::Sources(query) => {
                        self.hear_sources(worker, query.talkers);
                        continue;
                    }
                    Answer::Explained(inquiry) => {
                        self.hear_explanation(worker, &inquiry, now);
                        continue;
                    }
                };
                let Some(at) = self.desk.pending.lists.iter().position(|(id, ..)| *id == query.id) else {
                    continue;
                };
                let (_, _, _, reply) = self.desk.pending.lists.swap_remove(at);
                let items: Vec<_> = query.records.iter().map(SessionView::from).collect();
                let next = match (query.finished, worker + 1 < self.workers.links.len()) {
                    (false, _) => Some(worker << LINE_BITS | query.line),
                    (true, true) => Some((worker + 1) << LINE_BITS),
                    (true, false) => None,
                };
                let _ = reply.send(written(&Page { items, next }));
            }
        }
        self.end_overdue_explanations(now);
        let applied = self.workers.publisher.applied();
        self.desk.pending.changes.retain(|(generation, deadline, answer, reply)| {
            if applied >= *generation {
                let _ = reply.send(Ok(answer.clone()));
            } else if now >= *deadline {
                let message = format!("generation {} was published, but not every worker follows it yet; see `sluice worker list`", generation.0);
                let _ = reply.send(Err(Refusal::no(message)));
            } else {
                return true;
            }
            false
        });
        self.desk.pending.lists.retain(|(_, worker, deadline, reply)| {
            if now < *deadline {
                return true;
            }
            let _ = reply
                .send(Err(Refusal::no(format!("worker {worker} did not answer; see `sluice worker list`"))));
            false
        });
    }
}

/// What a method does.
pub(super) enum Action<D: Devices> {
    /// It is answered at once, and nothing changes.
    Look(fn(&Control<D>, &Value) -> Reply),
    /// It is made at once or refused, and answered when every worker follows.
    Change(Change<D>),
    /// It is answered later, because another thread or a worker has the answer.
    Later(fn(&mut Control<D>, Value, Peer, Sender<Reply>, Instant)),
}

/// A change by command.
pub(super) type Change<D> = fn(&mut Control<D>, &Value, Instant) -> Outcome;

impl<D: Devices> Action<D> {
    /// What a method does.
    pub(super) fn of(method: Method) -> Self {
        use Action::{Change, Later, Look};
        match method {
            Method::Methods => {
                Look(|_, _| written(&Method::ALL.iter().map(|m| m.view()).collect::<Vec<_>>()))
            }
            Method::Status => Look(|control, _| written(&control.status())),
            Method::ServiceList => Look(Control::list_services),
            Method::ServiceShow => Look(|control, params| {
                written(&control.observer().service_in_full(control.service_at(params, "name")?))
            }),
            Method::ServiceAdd => Change(Control::add_service),
            Method::ServiceSet => Change(Control::set_service),
            Method::ServiceRemove => Change(Control::remove_service),
            Method::ServiceDrain => Change(Control::drain_service),
            Method::ServiceSwitch => Change(Control::switch_service),
            Method::ServerList => Look(Control::list_servers),
            Method::ServerAdd => Change(Control::add_server),
            Method::ServerSet => Change(Control::set_server),
            Method::ServerRemove => Change(Control::remove_server),
            Method::ServerDrain => Change(Control::drain_server),
            Method::SessionList => {
                Later(|control, params, _, reply, now| control.begin_list(&params, reply, now))
            }
            Method::SessionCount => Look(|control, _| written(&control.observer().session_count())),
            Method::LocalList => Look(|control, params| page(&control.observer().locals(), params)),
            Method::PortList => Look(|control, params| page(&control.observer().ports(), params)),
            Method::NeighborList => Look(|control, params| page(&control.observer().neighbors(), params)),
            Method::AclList => Look(|control, params| page(&control.acl_views(), params)),
            Method::AclGet => Look(Control::find_in_lists),
            Method::BanList => Look(|control, params| page(&control.ban_views(), params)),
            Method::BanAdd => Change(Control::add_ban),
            Method::BanRemove => Change(Control::remove_ban),
            Method::SourceList => Look(|control, params| page(&control.source_views(), params)),
            Method::AttackList => Look(|control, params| page(&control.attack_views(), params)),
            Method::WorkerList => Look(|control, params| page(&control.observer().workers(), params)),
            Method::RouteList => Look(|control, params| page(&control.observer().routes(), params)),
            Method::RouteGet => Look(|control, params| {
                let address = params["address"].as_str().unwrap_or_default();
                let address = address.parse().map_err(|_| {
                    Refusal::parameters(format!("`{address}` is not an address; write it as 192.0.2.7"))
                })?;
                written(&control.observer().route(address))
            }),
            Method::Explain => {
                Later(|control, params, _, reply, now| control.begin_explaining(&params, reply, now))
            }
            Method::HealthList => Look(|control, params| {
                let (standings, ids) = (&control.servers.standings, control.servers.standings.check_ids());
                page_of_places(ids.len(), params, |at| standings.check_picture(ids[at]).map(HealthView::from))
            }),
            Method::ConfigHistory => Look(|control, _| written(&control.wanted.history.list())),
            Method::ConfigConfirm => Change(Control::confirm),
            Method::EventList => Look(|control, params| events(&control.wanted.config, params)),
            Method::Stats => Look(|control, _| written(&control.observer().stats())),
            Method::StatsDrops => Look(|control, _| written(&control.observer().drops())),
            Method::ConfigReload => Later(|control, params, peer, reply, _| match reload_for(&params) {
                Ok(confirm) => control.reload_by_call(peer, reply, confirm),
                Err(refusal) => drop(reply.send(Err(refusal))),
            }),
            Method::ConfigDiff => Later(|control, _, _, reply, _| control.differences(reply)),
            Method::ConfigExport => Later(|control, params, peer, reply, _| {
                if Method::ConfigExport.right().changes(&params) {
                    control.write_back(peer, reply)
                } else {
                    control.export(peer, reply)
                }
            }),
            Method::ConfigRollback => Change(|control, _, now| control.roll_back(now)),
        }
    }
}

/// Bits of a cursor that number a line; session_capacity is at most 2^30.
const LINE_BITS: usize = 32;

pub(super) fn written<T: Serialize>(value: &T) -> Reply {
    to_raw_value(value).map_err(|error| Refusal::no(format!("the answer cannot be written: {error}")))
}

/// A part of a list, and where the next one begins.
#[derive(Serialize)]
struct Page<T> {
    items: Vec<T>,
    next: Option<usize>,
}

/// The cursor and page size that the parameters name.
fn page_of(params: &Value) -> Result<(usize, usize), Refusal> {
    let number = |name: &str, default: usize| match &params[name] {
        Value::Null => Ok(default),
        value => value
            .as_u64()
            .map(|number| number as usize)
            .ok_or_else(|| Refusal::parameters(format!("`{name}` is not a whole number"))),
    };
    Ok((number("cursor", 0)?, number("limit", PAGE_MAX)?.clamp(1, PAGE_MAX)))
}

/// One page of a list that is at hand.
fn page<T: Serialize>(list: &[T], params: &Value) -> Reply {
    page_of_places(list.len(), params, |at| &list[at])
}

/// One page of the list of services, of which some have many servers.
fn page_of_services<T: Serialize>(
    len: usize,
    params: &Value,
    servers: impl Fn(usize) -> usize,
    item: impl Fn(usize) -> T,
) -> Reply {
    let (cursor, limit) = page_of(params)?;
    let mut count = 0;
    let fits = |at: &usize| {
        let is_first = *at == cursor;
        count += servers(*at);
        is_first || count <= PAGE_SERVERS
    };
    let items: Vec<_> = (cursor.min(len)..len).take(limit).take_while(fits).map(item).collect();
    let end = cursor + items.len();
    written(&Page { items, next: (end < len).then_some(end) })
}

/// One page of a list of `len` items, of which only the page's are made.
fn page_of_places<T: Serialize>(len: usize, params: &Value, item: impl Fn(usize) -> T) -> Reply {
    let (cursor, limit) = page_of(params)?;
    let end = cursor.saturating_add(limit).min(len);
    let items = (cursor.min(end)..end).map(item).collect();
    written(&Page { items, next: (end < len).then_some(end) })
}

/// The sessions that are asked for.
fn session_filter(params: &Value) -> Result<SessionFilter, Refusal> {
    let endpoint = |key: &str| match params[key].as_str() {
        None => Ok(None),
        Some(text) => text.parse::<EndpointFilter>().map(Some).map_err(Refusal::parameters),
    };
    let known = |what: &str, word: &str, names: &[&str]| {
        Refusal::parameters(format!("`{word}` is not a {what}; use one of {}", names.join(", ")))
    };
    let protocol = match params["protocol"].as_str() {
        None => None,
        Some(word) => {
            let found = Protocol::ALL.into_iter().find(|protocol| protocol.name() == word);
            Some(found.ok_or_else(|| known("protocol", word, &Protocol::ALL.map(Protocol::name)))?)
        }
    };
    let state = match params["state"].as_str() {
        None => None,
        Some(word) => {
            let names: Vec<_> = State::ALL.into_iter().map(State::name).collect();
            let found = State::ALL.into_iter().find(|state| state.name().eq_ignore_ascii_case(word));
            Some(found.ok_or_else(|| known("state", word, &names))?)
        }
    };
    Ok(SessionFilter {
        client: endpoint("client")?,
        vip: endpoint("vip")?,
        local: endpoint("local")?,
        real: endpoint("server")?,
        protocol,
        state,
    })
}

/// How long a reload waits to be confirmed, if it is to.
fn reload_for(params: &Value) -> Result<Option<Duration>, Refusal> {
    /// A day: nobody waits longer for an answer to a change.
    const LONGEST: u64 = 86_400;
    match &params["confirm_s"] {
        Value::Null => Ok(None),
        value => match value.as_u64().filter(|seconds| (1..=LONGEST).contains(seconds)) {
            Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
            None => Err(Refusal::parameters("`confirm_s` is a whole number of seconds from 1 to 86400")),
        },
    }
}

/// `event.list`: a page, and the number behind which the next one begins.
fn events(config: &Config, params: &Value) -> Reply {
    let number = |key: &str| match &params[key] {
        Value::Null => Ok(None),
        value => {
            let number = value.as_u64().map(Some);
            number.ok_or_else(|| Refusal::parameters(format!("`{key}` is a whole number")))
        }
    };
    let text = |key: &str| params[key].as_str().map(str::to_owned);
    let asked = journal::Asked {
        after: number("after")?,
        since: number("since_ms")?,
        service: text("service"),
        kind: text("kind"),
    };
    let is_kind = |kind: &str| journal::KINDS.contains(&kind) || kind.starts_with(journal::CALLS);
    if let Some(kind) = asked.kind.as_ref().filter(|kind| !is_kind(kind)) {
        let kinds = journal::KINDS.join(", ");
        return Err(Refusal::parameters(format!(
            "`{kind}` is no kind of event; use one of {kinds}, or `{}USER`",
            journal::CALLS
        )));
    }
    let limit = number("limit")?.map_or(PAGE_MAX, |limit| (limit as usize).clamp(1, PAGE_MAX));
    let (items, last) = journal::events(&asked, limit);
    if let Some(name) =
        asked.service.as_ref().filter(|name| items.is_empty() && config.place_of(name).is_none())
    {
        let ever = journal::Asked { service: Some(name.clone()), ..journal::Asked::default() };
        if journal::events(&ever, 1).0.is_empty() {
            return Err(Refusal::parameters(format!(
                "there is no service `{name}`, and no event of one; `sluice service list` names all"
            )));
        }
    }
    // A full page may have more behind it; after any other, all that there are were looked at.
    let next = items.last().filter(|_| items.len() == limit).map_or(last, |event| event.number);
    let items: Vec<_> = items.iter().map(Arc::as_ref).collect();
    written(&serde_json::json!({ "items": items, "next": next }))
}
