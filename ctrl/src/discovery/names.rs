//! Servers by name: the addresses of a name, or the servers of its SRV records (RFC 2782).
//!
//! What one question does not give is not the end: the family that answered is used, and of the other what was last
//! known (RFC 4074); a target that is not found leaves the others.

use super::{Found, List, dns};
use crate::dns::{address, addresses, records};
use futures_util::future::join_all;
use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Names are asked for no more often than that, whatever they say.
const TTL_MIN: Duration = Duration::from_secs(1);
/// Targets that are asked for side by side.
const OPEN_MAX: usize = 64;

/// What is asked, and whom.
pub(super) struct Asked<'a> {
    pub(super) name: &'a str,
    pub(super) resolver: SocketAddr,
    /// The servers' port; without one SRV records are asked for.
    pub(super) l4_port: Option<u16>,
    /// The families that the service can use.
    pub(super) families: &'a [RecordType],
}

/// The addresses that names had when they were last told.
#[derive(Default)]
pub(super) struct Memory(HashMap<(Name, RecordType), Vec<IpAddr>>);

/// What is known of one name.
struct Known {
    addresses: Vec<IpAddr>,
    ttl: u32,
    /// The families that were told now, with what was told.
    told: Vec<(RecordType, Vec<IpAddr>)>,
    /// Why other families were not.
    troubles: Vec<String>,
}

/// The servers of a name, and for how long.
pub(super) async fn ask(asked: &Asked<'_>, memory: &mut Memory) -> Result<(List, Duration), String> {
    let text = asked.name;
    if asked.families.is_empty() {
        return Err(
            "VIPs of both families leave this service no address that its servers could have".to_owned()
        );
    }
    let mut name = Name::from_str(text).map_err(|error| format!("`{text}` is not a name: {error}"))?;
    name.set_fqdn(true);
    let (list, ttl) = match asked.l4_port {
        Some(l4_port) => of_name(asked, &name, l4_port, memory).await?,
        None => of_targets(asked, &name, memory).await?,
    };
    Ok((list, Duration::from_secs(ttl.into()).max(TTL_MIN)))
}

async fn of_name(
    asked: &Asked<'_>,
    name: &Name,
    l4_port: u16,
    memory: &mut Memory,
) -> Result<(List, u32), String> {
    let known = look_up(asked, name, None, memory).await;
    if known.told.is_empty() {
        return Err(known.troubles.join("; "));
    }
    memory.keep(name, &known);
    let servers = known.addresses.iter().map(|address| server(*address, l4_port)).collect();
    Ok((List { servers, notes: known.troubles }, known.ttl))
}

async fn of_targets(asked: &Asked<'_>, name: &Name, memory: &mut Memory) -> Result<(List, u32), String> {
    let answer = dns::ask(asked.resolver, name, RecordType::SRV).await?;
    let (found, mut ttl) = records(&answer, name, RecordType::SRV);
    // By priority: the targets with their ports and weights. The root says that there is no server (RFC 2782).
    let mut ranks: BTreeMap<u16, Vec<(&Name, u16, u16)>> = BTreeMap::new();
    for record in found {
        if let RData::SRV(srv) = &record.data
            && !srv.target.is_root()
        {
            ranks.entry(srv.priority).or_default().push((&srv.target, srv.port, srv.weight));
        }
    }
    let mut notes = Vec::new();
    for rank in ranks.values() {
        let open = Semaphore::new(OPEN_MAX);
        let (open, answer, past) = (&open, &answer, &*memory);
        let questions = rank.iter().map(|(target, ..)| async move {
            let _turn = open.acquire().await;
            look_up(asked, target, Some(answer), past).await
        });
        let all = join_all(questions).await;
        let mut servers = Vec::new();
        for ((target, l4_port, weight), known) in rank.iter().zip(all) {
            memory.keep(target, &known);
            if known.addresses.is_empty() {
                let why = known.troubles.first().map_or("it has no address", String::as_str);
                notes.push(format!("{target}: {why}"));
            } else {
                notes.extend(known.troubles.iter().map(|trouble| format!("{target}: {trouble}")));
            }
            ttl = ttl.min(known.ttl);
            servers.extend(known.addresses.iter().map(|address| {
                let mut one = server(*address, *l4_port);
                one.keys.insert("weight".into(), json!((*weight).max(1)));
                one
            }));
        }
        if !servers.is_empty() {
            return Ok((List { servers, notes }, ttl));
        }
        // Clients go on to the next priority where nobody of this one is reached; so does this.
    }
    if notes.is_empty() { Ok((List::default(), ttl)) } else { Err(notes.join("; ")) }
}

/// Asks for a name in all families side by side, as far as `beside`, which came with its SRV record, does not tell.
async fn look_up(asked: &Asked<'_>, name: &Name, beside: Option<&Message>, memory: &Memory) -> Known {
    let questions = asked.families.iter().map(|kind| async move {
        let additional = beside.map(|answer| {
            let of_name =
                |record: &&hickory_proto::rr::Record| record.name == *name && record.record_type() == *kind;
            answer.additionals.iter().filter(of_name).collect::<Vec<_>>()
        });
        if let Some(additional) = additional.filter(|records| !records.is_empty()) {
            let ttl = additional.iter().map(|record| record.ttl).min().unwrap_or(u32::MAX);
            return Ok((additional.into_iter().filter_map(address).collect(), ttl));
        }
        let answer = dns::ask(asked.resolver, name, *kind).await?;
        Ok::<_, String>(addresses(&answer, name, *kind))
    });
    let answers = join_all(questions).await;
    let mut known = Known { addresses: Vec::new(), ttl: u32::MAX, told: Vec::new(), troubles: Vec::new() };
    let is_told = answers.iter().any(Result::is_ok);
    for (kind, answer) in asked.families.iter().zip(answers) {
        match answer {
            Ok((addresses, ttl)) => {
                known.ttl = known.ttl.min(ttl);
                known.addresses.extend(&addresses);
                known.told.push((*kind, addresses));
            }
            Err(error) => match memory.0.get(&(name.clone(), *kind)).filter(|last| !last.is_empty()) {
                Some(last) => {
                    known.addresses.extend(last);
                    known.troubles.push(format!("{error}; its last addresses stay"));
                }
                // Many servers answer for one family and not for the other.
                None if is_told => {}
                None => known.troubles.push(error),
            },
        }
    }
    known
}

impl Memory {
    fn keep(&mut self, name: &Name, known: &Known) {
        for (kind, addresses) in &known.told {
            self.0.insert((name.clone(), *kind), addresses.clone());
        }
    }
}

fn server(address: IpAddr, l4_port: u16) -> Found {
    Found {
        address: SocketAddr::new(address, l4_port).to_string(),
        keys: serde_json::Map::new(),
        wrong: None,
    }
}
