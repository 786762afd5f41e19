//! Changes by command: services and servers that come, change and go, and the way back.
//!
//! Each is checked as the file is, made at once or not at all, noted so that it can be written back, and logged with
//! who made it.

use super::requests;
use super::{Control, discovery};
use crate::admin::{Method, Refusal};
use crate::config::Weight;
use crate::config::{self, Config, LoadError, ServerSpec, ServiceSpec, Text};
use crate::desired::diff;
use crate::desired::history::Drain;
use crate::desired::{self, Change};
use crate::devices::Devices;
use crate::servers::balance::{Switch, TIER_NAMES};
use crate::users::Peer;
use dataplane::clock::Instant;
use dataplane::flow::Endpoint;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const NOTHING: &str = "no key was named, so nothing changes; write as weight=5";

/// What a change led to, or why it was not made.
pub(super) type Outcome = Result<Value, Refusal>;

/// The longest that a switch or a drain may last.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

impl<D: Devices> Control<D> {
    /// Makes a change that `peer` asks for, and logs it.
    pub(super) fn change(
        &mut self,
        method: Method,
        make: requests::Change<D>,
        params: &Value,
        peer: &Peer,
        now: Instant,
    ) -> Outcome {
        // A switch and bans are no part of what would be undone.
        let ends_waiting = matches!(
            method,
            Method::ConfigConfirm
                | Method::ConfigRollback
                | Method::ServiceSwitch
                | Method::BanAdd
                | Method::BanRemove
        );
        let waits = self.wanted.unconfirmed.as_ref().filter(|_| !ends_waiting).map(|one| one.refusal(now));
        let done = match owners_key(&params["keys"]).filter(|_| !peer.is_owner) {
            None if waits.is_some() => Err(Refusal::no(waits.unwrap_or_default())),
            None => make(self, params, now),
            Some(key) => Err(Refusal::no(format!(
                "{key} makes the appliance run a program, read a file or tell a password; root sets it, or writes it in the files"
            ))),
        };
        let (method, who) = (method.name(), &peer.name);
        let service = params["service"].as_str().or(params["name"].as_str()).unwrap_or_default();
        self.wanted.history.ended_by(&format!("{method} by {who}"));
        match &done {
            Ok(_) => log::info!(target: &peer.log_kind(), service, who; "{method} by {who}: done: {params}"),
            Err(Refusal { message, .. }) => {
                log::warn!(target: &peer.log_kind(), service, who, why = message;
                    "{method} by {who}: refused: {message}: {params}");
            }
        }
        done
    }

    pub(super) fn add_server(&mut self, params: &Value, now: Instant) -> Outcome {
        let (at, address, keys) =
            (self.service_at(params, "service")?, text(params, "address")?, keys(params));
        let spec = &self.wanted.config.services[at];
        let lines = desired::server_lines(address, &keys).map_err(Refusal::parameters)?;
        let server = config::parse_server(&lines, spec, &self.wanted.config).map_err(problems)?;
        if spec.servers.iter().any(|other| other.endpoint == server.endpoint) {
            let message = format!(
                "{} is a server of {} already; `sluice server set` changes it",
                server.endpoint, spec.name
            );
            return Err(Refusal::no(message));
        }
        let mut new = ServiceSpec::clone(spec);
        new.add_servers([server]);
        let (service, address) = (spec.name.clone(), address.to_owned());
        self.replace_service(at, new, Change::AddServer { service, address, keys }, now)
    }

    pub(super) fn set_server(&mut self, params: &Value, now: Instant) -> Outcome {
        let (at, address, keys) =
            (self.service_at(params, "service")?, text(params, "address")?, keys(params));
        let place = self.own_server_at(at, address)?;
        if keys.is_empty() {
            return Err(Refusal::parameters(NOTHING));
        }
        let spec = &self.wanted.config.services[at];
        let old = &spec.servers[place];
        let mut all = keys_of(old);
        all.extend(keys.clone());
        all.retain(|_, value| !value.is_null());
        let lines = desired::server_lines(address, &all).map_err(Refusal::parameters)?;
        let server = config::parse_server(&lines, spec, &self.wanted.config).map_err(problems)?;
        let mut new = ServiceSpec::clone(spec);
        new.servers[place] = ServerSpec { endpoint: old.endpoint, ..server };
        let (service, address) = (spec.name.clone(), old.endpoint.to_string());
        self.replace_service(at, new, Change::SetServer { service, address, keys }, now)
    }

    pub(super) fn remove_server(&mut self, params: &Value, now: Instant) -> Outcome {
        let (at, address) = (self.service_at(params, "service")?, text(params, "address")?);
        let place = self.own_server_at(at, address)?;
        let mut new = ServiceSpec::clone(&self.wanted.config.services[at]);
        let gone = new.servers.remove(place);
        let (service, address) = (new.name.clone(), gone.endpoint.to_string());
        self.replace_service(at, new, Change::RemoveServer { service, address }, now)
    }

    /// The server gets no new sessions; with a deadline it is removed then.
    pub(super) fn drain_server(&mut self, params: &Value, now: Instant) -> Outcome {
        let (at, address) = (self.service_at(params, "service")?, text(params, "address")?);
        let endpoint = self.wanted.config.services[at].servers[self.server_at(at, address)?].endpoint;
        let deadline = seconds(params)?;
        let service = self.wanted.config.services[at].name.clone();
        let set = json!({ "service": service, "address": address, "keys": { "weight": 0 } });
        let answer = self.set_server(&set, now)?;
        self.leave_after(deadline, service, Some(endpoint), now);
        Ok(answer)
    }

    /// The service gets no new sessions; with a deadline it is removed then.
    pub(super) fn drain_service(&mut self, params: &Value, now: Instant) -> Outcome {
        let at = self.service_at(params, "name")?;
        let service = self.wanted.config.services[at].name.clone();
        let deadline = seconds(params)?;
        if deadline.is_some() {
            self.check_unlisted(at)?;
        }
        let answer = self.set_service(&json!({ "name": service, "keys": { "drain": true } }), now)?;
        self.leave_after(deadline, service, None, now);
        Ok(answer)
    }

    /// Notes when something leaves, instead of what was noted of it before.
    fn leave_after(
        &mut self,
        deadline: Option<Duration>,
        service: String,
        endpoint: Option<Endpoint>,
        now: Instant,
    ) {
        let drains = &mut self.wanted.history.drains;
        drains.retain(|other| (&other.service, other.endpoint) != (&service, endpoint));
        drains.extend(deadline.map(|deadline| Drain { until: now + deadline, service, endpoint }));
    }

    /// Removes what had its time to drain; what sessions it has end with their next packet.
    pub(super) fn end_drains(&mut self, now: Instant) {
        // Nothing changes under a reload that may be undone.
        if self.wanted.unconfirmed.is_some() {
            return;
        }
        let (over, later): (Vec<_>, Vec<_>) =
            self.wanted.history.drains.drain(..).partition(|drain| drain.until <= now);
        self.wanted.history.drains = later;
        for Drain { service, endpoint, .. } in over {
            let Some(at) = self.wanted.config.place_of(&service) else { continue };
            let spec = Arc::clone(&self.wanted.config.services[at]);
            // An operator who gave it a weight again, or took the drain back, wants it to stay.
            let is_leaving =
                |server: &&ServerSpec| server.weight == Weight::ZERO && Some(server.endpoint) == endpoint;
            let leaving = match endpoint {
                None => spec.drain.then(|| spec.servers.iter().collect::<Vec<_>>()),
                Some(_) => spec.servers.iter().find(is_leaving).map(|server| vec![server]),
            };
            let Some(leaving) = leaving else { continue };
            let drained = leaving.iter().map(|server| (service.clone(), server.endpoint));
            self.wanted.history.drained.extend(drained);
            let (peer, address) = (Peer::inside("its deadline to drain"), endpoint.map(|it| it.to_string()));
            let _ = match address {
                Some(address) => {
                    let params = json!({ "service": service, "address": address });
                    self.change(Method::ServerRemove, Self::remove_server, &params, &peer, now)
                }
                None => {
                    let params = json!({ "name": service });
                    self.change(Method::ServiceRemove, Self::remove_service, &params, &peer, now)
                }
            };
        }
    }

    pub(super) fn add_service(&mut self, params: &Value, now: Instant) -> Outcome {
        let (name, keys) = (text(params, "name")?, keys(params));
        if self.wanted.config.place_of(name).is_some() {
            return Err(Refusal::no(format!(
                "there is a service `{name}` already; `sluice service set` changes it"
            )));
        }
        let lines = desired::service_lines(name, &keys).map_err(Refusal::parameters)?;
        let spec = config::parse_service(&lines, &self.wanted.config).map_err(problems)?;
        let mut config = self.wanted.config.clone();
        config.services.push(Arc::new(spec));
        self.replace_all(config, Change::AddService { name: name.to_owned(), keys }, now)
    }

    pub(super) fn set_service(&mut self, params: &Value, now: Instant) -> Outcome {
        let (at, keys) = (self.service_at(params, "name")?, keys(params));
        let name = self.wanted.config.services[at].name.clone();
        if keys.is_empty() {
            return Err(Refusal::parameters(NOTHING));
        }
        if keys.contains_key("name") {
            return Err(Refusal::parameters("a service keeps its name; add another and remove this one"));
        }
        let change = Change::SetService { name: name.clone(), keys };
        let lines = self.wanted.history.desired.service_with(&change, &name).map_err(Refusal::no)?;
        let spec = config::parse_service(&lines, &self.wanted.config).map_err(problems)?;
        let mut config = self.wanted.config.clone();
        config.services[at] = Arc::new(spec);
        self.replace_all(config, change, now)
    }

    pub(super) fn remove_service(&mut self, params: &Value, now: Instant) -> Outcome {
        let at = self.service_at(params, "name")?;
        self.check_unlisted(at)?;
        let mut config = self.wanted.config.clone();
        let name = config.services.remove(at).name.clone();
        self.replace_all(config, Change::RemoveService { name }, now)
    }

    /// A service that a list names cannot go: the file would be wrong.
    fn check_unlisted(&self, at: usize) -> Result<(), Refusal> {
        let name = &self.wanted.config.services[at].name;
        let names_it =
            |acl: &&config::AclSpec| acl.services.as_ref().is_some_and(|names| names.contains(name));
        match self.wanted.config.acls.iter().find(names_it) {
            None => Ok(()),
            Some(acl) => Err(Refusal::no(format!(
                "the list {} is for {name}; change `services` of that [[acl]] in the file and reload first",
                acl.name
            ))),
        }
    }

    /// The operator's switch, for disasters: a tier, all, or a list of servers, whatever checks say. It ends by
    /// itself.
    pub(super) fn switch_service(&mut self, params: &Value, now: Instant) -> Outcome {
        let at = self.service_at(params, "name")?;
        let to = text(params, "to")?;
        if to == "off" {
            return self.set_switch(at, None, now);
        }
        let tier = TIER_NAMES.iter().position(|name| *name == to);
        let switch = match tier {
            Some(tier) if self.servers.standings.picture(at).tiers[tier].servers == 0 => {
                let message = format!(
                    "{} has no server in tier {to}; `sluice service show {}` has its tiers",
                    self.wanted.config.services[at].name, self.wanted.config.services[at].name
                );
                return Err(Refusal::no(message));
            }
            Some(tier) => Switch::Tier(tier),
            None if to == "all" => Switch::All,
            None => {
                let places: Result<Vec<_>, _> =
                    to.split(',').map(|address| self.server_at(at, address.trim())).collect();
                Switch::Servers(places?)
            }
        };
        let Some(lasting) = seconds(params)? else {
            return Err(Refusal::parameters("say for how long, so that nobody forgets it: --for 1h"));
        };
        self.set_switch(at, Some((switch, now + lasting)), now)
    }

    fn set_switch(&mut self, at: usize, switch: Option<(Switch, Instant)>, now: Instant) -> Outcome {
        self.servers.standings.set_switch(at, switch);
        self.servers.standings.weigh(at, now).iter().for_each(|edge| edge.tell("servers"));
        self.refresh(&[at]).map_err(Refusal::no)?;
        Ok(json!({ "generation": self.workers.world.generation.0 }))
    }

    /// Puts another specification in the place of a service whose listeners stay.
    fn replace_service(&mut self, at: usize, new: ServiceSpec, change: Change, now: Instant) -> Outcome {
        let before = (self.wanted.config.clone(), self.wanted.history.desired.clone());
        let old = std::mem::replace(&mut self.wanted.config.services[at], Arc::new(new));
        self.settle_service(at, old, now).map_err(Refusal::no)?;
        self.wanted.history.keep(before.0, before.1);
        self.wanted.history.desired.push(change);
        Ok(json!({ "generation": self.workers.world.generation.0 }))
    }

    /// Publishes a service whose specification is another than `old`; goes back to that when it cannot be.
    pub(super) fn settle_service(
        &mut self,
        at: usize,
        old: Arc<ServiceSpec>,
        now: Instant,
    ) -> Result<(), String> {
        self.follow_service(at, now);
        let done = self.refresh(&[at]).and_then(|()| {
            let service = self.workers.world.services.iter().nth(at);
            service
                .map_or(Ok(()), |service| self.workers.ladder.check_service(&self.wanted.config, at, service))
        });
        if let Err(error) = done {
            self.wanted.config.services[at] = old;
            self.follow_service(at, now);
            // What was there fits.
            let _ = self.refresh(&[at]);
            return Err(error);
        }
        let hops = self.server_hops(&self.wanted.config.services[at], &self.workers.world);
        self.links.neighbors.want_more(hops, now);
        self.links.absences.add(&[at]);
        self.publish_neighbors();
        self.workers.collect_after = Some(self.workers.world.generation);
        Ok(())
    }

    fn follow_service(&mut self, at: usize, now: Instant) {
        let orders = self.servers.standings.follow_service(at, &self.wanted.config, now);
        self.order(orders);
        self.servers.standings.weigh(at, now).iter().for_each(|edge| edge.tell("servers"));
    }

    /// Goes to another configuration by a change.
    fn replace_all(&mut self, config: Config, change: Change, now: Instant) -> Outcome {
        discovery::check_found(&config, &self.wanted.config).map_err(Refusal::no)?;
        let before = (self.wanted.config.clone(), self.wanted.history.desired.clone());
        self.apply(config, now).map_err(Refusal::no)?;
        self.wanted.history.keep(before.0, before.1);
        self.wanted.history.desired.push(change);
        Ok(json!({ "generation": self.workers.world.generation.0 }))
    }

    /// Goes back to what ran before the last change or reload.
    pub(super) fn roll_back(&mut self, now: Instant) -> Outcome {
        let Some(before) = self.wanted.history.before.pop() else {
            return Err(Refusal::no("nothing was changed since sluiced started"));
        };
        let changes = diff::lines(&self.wanted.config, &before.config);
        if let Err(error) = self.apply(before.config.clone(), now) {
            self.wanted.history.before.push(before);
            return Err(Refusal::no(error));
        }
        self.wanted.history.desired = before.desired;
        self.wanted.unconfirmed = None;
        self.wanted.keep_last_good();
        Ok(json!({ "generation": self.workers.world.generation.0, "changes": changes }))
    }

    /// Keeps what was reloaded for a while.
    pub(super) fn confirm(&mut self, _: &Value, _: Instant) -> Outcome {
        match self.wanted.unconfirmed.take() {
            Some(_) => Ok(json!({ "generation": self.workers.world.generation.0 })),
            None => Err(Refusal::no("no reload waits to be confirmed")),
        }
    }

    /// Goes back when a reload was not confirmed in time.
    pub(super) fn end_unconfirmed(&mut self, now: Instant) {
        let Some(unconfirmed) = self.wanted.unconfirmed.take_if(|one| one.until <= now) else { return };
        let who = unconfirmed.by;
        match self.roll_back(now) {
            Ok(_) => {
                log::warn!(target: "config", who = who; "the reload by {who} was not confirmed; what ran before runs again");
            }
            Err(Refusal { message, .. }) => {
                log::error!(target: "config", who = who, why = message; "the reload by {who} was not confirmed, and cannot be undone: {message}");
            }
        }
    }

    pub(super) fn service_at(&self, params: &Value, key: &str) -> Result<usize, Refusal> {
        let name = text(params, key)?;
        self.wanted.config.place_of(name).ok_or_else(|| {
            Refusal::no(format!("there is no service `{name}`; `sluice service list` names all"))
        })
    }

    /// [`server_at`](Self::server_at), if the operator named the server.
    fn own_server_at(&self, at: usize, address: &str) -> Result<usize, Refusal> {
        let place = self.server_at(at, address)?;
        let spec = &self.wanted.config.services[at];
        match &spec.discover {
            Some(discover) if spec.servers[place].is_found => Err(Refusal::no(format!(
                "{address} is known by {}; change it there, or send sessions elsewhere: sluice service switch {}",
                discover.source.name(),
                spec.name
            ))),
            _ => Ok(place),
        }
    }

    /// The place of a server of the service in place `at`.
    fn server_at(&self, at: usize, address: &str) -> Result<usize, Refusal> {
        let spec = &self.wanted.config.services[at];
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        let endpoint = match (address.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Ok(socket), _) => Some(Endpoint::new(socket.ip(), socket.port())),
            // Without a port it is the service's, as in the file.
            (_, Ok(address)) => {
                let of_host = spec.servers.iter().filter(|server| server.endpoint.address == address);
                of_host.map(|server| server.endpoint).next()
            }
            _ => None,
        };
        let found =
            spec.servers.iter().position(|server| Some(server.endpoint) == endpoint && !server.is_sorry);
        found.ok_or_else(|| {
            Refusal::no(format!(
                "{} has no server {address}; `sluice service show {}` lists them",
                spec.name, spec.name
            ))
        })
    }
}

/// A text as an answer, with the files that were written.
pub(super) fn exported(text: &Text, written: &[String]) -> Value {
    let files: Vec<_> = text.pieces().map(|(path, piece)| json!({ "path": path, "text": piece })).collect();
    json!({ "files": files, "written": written })
}

/// What is wrong with the keys of a command, in its words: there are no file and no line.
fn problems(error: LoadError) -> Refusal {
    let lines = error.problems().iter().map(|problem| {
        // `service[0].server[0].weight` of the text that was made of the command.
        let key = problem.key.strip_prefix("service[0].").unwrap_or(&problem.key);
        let key = key.strip_prefix("server[0].").or(key.strip_prefix("server.")).unwrap_or(key);
        match key {
            "" | "server" | "service" => problem.message.clone(),
            key => format!("{key}: {}", problem.message),
        }
    });
    Refusal::no(lines.collect::<Vec<_>>().join("\n"))
}

fn text<'a>(params: &'a Value, key: &str) -> Result<&'a str, Refusal> {
    params[key].as_str().ok_or_else(|| Refusal::parameters(format!("`{key}` is missing")))
}

fn keys(params: &Value) -> Map<String, Value> {
    params["keys"].as_object().cloned().unwrap_or_default()
}

/// The first of the keys, which may have dots or be nested, that none but the appliance's owner may set: by it an operator
/// would run programs with the daemon's rights, or read its files.
fn owners_key(keys: &Value) -> Option<String> {
    fn find(above: &str, value: &Value) -> Option<String> {
        match value {
            Value::Object(object) => object.iter().find_map(|(key, value)| {
                let whole = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
                if config::is_owners(&whole) { Some(whole) } else { find(&whole, value) }
            }),
            Value::Array(list) => list.iter().find_map(|value| find(above, value)),
            _ => None,
        }
    }
    find("", keys)
}

fn seconds(params: &Value) -> Result<Option<Duration>, Refusal> {
    match &params["seconds"] {
        Value::Null => Ok(None),
        value => {
            let lasting = value.as_u64().map(Duration::from_secs).filter(|lasting| *lasting <= LONGEST);
            lasting.map(Some).ok_or_else(|| Refusal::parameters("`seconds` is a whole number up to 30 days"))
        }
    }
}

/// A server's keys as the file would have them, but for its address.
fn keys_of(server: &ServerSpec) -> Map<String, Value> {
    let mut keys = Map::new();
    keys.insert("weight".into(), json!(server.weight));
    let places = [("zone", &server.location.zone), ("region", &server.location.region)];
    keys.extend(places.iter().filter_map(|(key, value)| Some(((*key).to_owned(), json!(value.as_ref()?)))));
    if server.thresholds.0 > 0 {
        keys.insert("max_sessions".into(), json!(server.thresholds.0));
        keys.insert("min_sessions".into(), json!(server.thresholds.1));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_reach_into_the_host_are_found_however_they_are_written() {
        for (keys, found) in [
            (json!({ "weight": 5, "health.type": "http", "health.path": "/" }), None),
            (json!({ "health.command": ["/bin/sh"] }), Some("health.command")),
            (json!({ "health": { "type": "script", "command": "/bin/sh" } }), Some("health.command")),
            (json!({ "health.ca_file": "/etc/shadow" }), Some("health.ca_file")),
            (json!({ "discover": { "type": "file" } }), Some("discover")),
            (json!({ "discover.endpoint": "203.0.113.9:2379" }), Some("discover.endpoint")),
            (json!({ "discover.interval": "1s" }), Some("discover.interval")),
            (json!({ "server": [{ "address": "10.0.0.1:80" }] }), None),
            (Value::Null, None),
        ] {
            assert_eq!(owners_key(&keys).as_deref(), found, "{keys}");
        }
    }
}
