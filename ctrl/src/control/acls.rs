//! Lists of addresses: of the configuration, of files, and of the operator's bans.

use super::Control;
use super::changes::Outcome;
use crate::admin::{Refusal, Reply};
use crate::config::{AclSpec, Config};
use crate::devices::Devices;
use crate::lists::{self, BANS, List, Lists, News};
use crate::view::{AclView, BanView, ListedView};
use dataplane::clock::Instant;
use dataplane::ids::{AclId, MAX_ACLS};
use dataplane::prefixes::Prefixes;
use dataplane::snapshot::{Acl, AclAction, Acls, Network, Snapshot};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Bans that fit: of operators, and of sources that came too often.
const BANS_MAX: usize = 8_192;
/// Shorter prefixes are no ban.
const SHORTEST: [u8; 2] = [8, 16];
/// The slot of the bans.
const OF_BANS: AclId = AclId(MAX_ACLS as u16 - 1);
/// The longest that a ban may last.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The lists, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Listing {
    files: Option<Lists>,
    /// By name.
    known: HashMap<String, Known>,
    bans: BTreeMap<Network, Ban>,
    banned: Arc<Prefixes>,
    /// Whether there are bans that are not published, and published ones that are over.
    is_longer: bool,
    is_shorter: bool,
    /// Whether it was told that there is no room.
    is_full: bool,
}

#[derive(Debug)]
struct Known {
    id: AclId,
    /// What the slot had counted before.
    before: u64,
    list: List,
    prefixes: Arc<Prefixes>,
    /// When they were read.
    read: Option<SystemTime>,
    problem: Option<String>,
}

#[derive(Clone, Debug)]
struct Ban {
    until: Option<Instant>,
    reason: String,
    /// Whether an operator said so.
    is_said: bool,
}

impl Listing {
    pub(super) fn new(files: Option<Lists>) -> Self {
        Self { files, ..Self::default() }
    }

    /// The lowest slot that no list has.
    fn free_id(&self) -> AclId {
        let is_free = |id: &AclId| *id != OF_BANS && self.known.values().all(|known| known.id != *id);
        (0..MAX_ACLS as u16).map(AclId).find(is_free).unwrap_or(OF_BANS)
    }
}

impl<D: Devices> Control<D> {
    fn hits(&self, id: AclId) -> u64 {
        self.workers.stats.iter().map(|stats| stats.acl_hits(id).value()).sum()
    }

    /// Follows the lists of the configuration.
    pub(super) fn follow_lists(&mut self) {
        let specs = self.wanted.config.acls.clone();
        self.listing.known.retain(|name, _| specs.iter().any(|spec| spec.name == *name));
        for AclSpec { name, prefixes, files, .. } in &specs {
            let list = List { prefixes: prefixes.clone(), files: files.clone() };
            let is_whole = files.is_empty();
            match self.listing.known.get_mut(name) {
                Some(known) if known.list == list => {}
                Some(known) => {
                    if is_whole {
                        known.prefixes = Arc::new(prefixes.iter().copied().collect());
                        known.problem = None;
                        known.read = Some(SystemTime::now());
                    }
                    known.list = list;
                }
                None => {
                    let id = self.listing.free_id();
                    let known = Known {
                        id,
                        before: self.hits(id),
                        list,
                        prefixes: Arc::new(prefixes.iter().copied().collect()),
                        read: is_whole.then(SystemTime::now),
                        problem: None,
                    };
                    self.listing.known.insert(name.clone(), known);
                }
            }
        }
        if let Some(files) = &self.listing.files {
            let with_files = specs.iter().filter(|spec| !spec.files.is_empty()).map(|spec| {
                let (prefixes, files) = (spec.prefixes.clone(), spec.files.clone());
                (spec.name.clone(), List { prefixes, files })
            });
            files.follow(with_files.collect());
        }
    }

    /// What workers have to know of lists.
    pub(super) fn acls(&self, config: &Config) -> Arc<Acls> {
        let bans = Acl::new(OF_BANS, AclAction::Deny, Arc::clone(&self.listing.banned), None::<[_; 0]>);
        let of_config = config.acls.iter().filter_map(|spec| {
            let known = self.listing.known.get(&spec.name)?;
            let services = spec.services.as_ref().map(|names| {
                names.iter().filter_map(|name| self.workers.registry.service_id(name)).collect::<Vec<_>>()
            });
            Some(Acl::new(known.id, spec.action, Arc::clone(&known.prefixes), services))
        });
        Arc::new(Acls::new(std::iter::once(bans).chain(of_config)))
    }

    /// Publishes other lists. Sessions look once whether they may go on, if somebody may be denied that was not.
    fn publish_lists(&mut self, looks_again: bool) {
        let mut snapshot = Snapshot::clone(&self.workers.world);
        snapshot.acls = self.acls(&self.wanted.config);
        snapshot.routing_epoch = snapshot.routing_epoch.wrapping_add(u16::from(looks_again));
        self.publish(snapshot);
    }

    /// Takes in what files say.
    pub(super) fn hear_list(&mut self, news: News) {
        let Some(known) = self.listing.known.get_mut(&news.name).filter(|known| known.list == news.list)
        else {
            return;
        };
        let name = &news.name;
        if let Some(problem) =
            news.problem.as_ref().filter(|problem| known.problem.as_ref() != Some(*problem))
        {
            log::warn!(target: "acls", why = problem; "acl {name}: {problem}; what was known of it stays");
        }
        let is_other = known.prefixes != news.prefixes;
        if is_other || news.problem.is_none() {
            let [four, six] = news.prefixes.counts();
            log::info!(target: "acls", "acl {name}: {four} prefixes of IPv4 and {six} of IPv6");
            known.read = Some(SystemTime::now());
        }
        known.problem = news.problem;
        if is_other {
            known.prefixes = news.prefixes;
            self.publish_lists(true);
        }
    }

    /// Lists that are not as their files are.
    pub(super) fn list_warnings(&self) -> Vec<String> {
        let mut names: Vec<_> = self.listing.known.iter().collect();
        names.sort_by_key(|(name, _)| *name);
        let line = |(name, known): (&String, &Known)| match (&known.problem, known.read) {
            (Some(problem), Some(_)) => Some(format!("acl {name}: {problem}; what was known of it stays")),
            (Some(problem), None) => Some(format!("acl {name}: {problem}; nothing is known of such files")),
            (None, None) => Some(format!("acl {name}: its files are not yet read")),
            (None, Some(_)) => None,
        };
        names.into_iter().filter_map(line).collect()
    }

    /// All lists, in the order in which they are asked.
    pub(super) fn acl_views(&self) -> Vec<AclView> {
        let bans = AclView {
            name: BANS.into(),
            action: AclAction::Deny.name(),
            services: None,
            ipv4: self.listing.banned.counts()[0],
            ipv6: self.listing.banned.counts()[1],
            bytes: self.listing.banned.bytes(),
            hits: self.hits(OF_BANS),
            files: Vec::new(),
            read: None,
            problem: None,
        };
        let of_config = self.wanted.config.acls.iter().filter_map(|spec| {
            let known = self.listing.known.get(&spec.name)?;
            Some(AclView {
                name: spec.name.clone(),
                action: spec.action.name(),
                services: spec.services.clone(),
                ipv4: known.prefixes.counts()[0],
                ipv6: known.prefixes.counts()[1],
                bytes: known.prefixes.bytes(),
                hits: self.hits(known.id).wrapping_sub(known.before),
                files: known.list.files.iter().map(|path| path.display().to_string()).collect(),
                read: known.read.map(|time| humantime::format_rfc3339_seconds(time).to_string()),
                problem: known.problem.clone(),
            })
        });
        std::iter::once(bans)
            .filter(|bans| bans.ipv4 + bans.ipv6 > 0 || bans.hits > 0)
            .chain(of_config)
            .collect()
    }

    /// The lists that an address is in.
    pub(super) fn find_in_lists(&self, params: &Value) -> Reply {
        let text = params["address"].as_str().unwrap_or_default();
        let address: IpAddr = text
            .parse()
            .map_err(|_| Refusal::parameters(format!("`{text}` is not an address; write it as 192.0.2.7")))?;
        let views = self.acl_views();
        let has = |view: &AclView| match self.listing.known.get(&view.name) {
            Some(known) => known.prefixes.contains(address),
            None => self.listing.banned.contains(address),
        };
        let lists: Vec<_> = views
            .into_iter()
            .filter(has)
            .map(|view| ListedView { name: view.name, action: view.action, services: view.services })
            .collect();
        super::requests::written(&json!({ "address": address.to_string(), "lists": lists }))
    }

    /// Bans a prefix, for a while or until it is removed.
    pub(super) fn add_ban(&mut self, params: &Value, now: Instant) -> Outcome {
        let network = prefix_of(params)?;
        if network.prefix_len < SHORTEST[usize::from(network.address.is_ipv6())] {
            return Err(Refusal::no(format!(
                "{network} is too wide for a ban; write an [[acl]] into the configuration if it is meant"
            )));
        }
        let lasting = match &params["seconds"] {
            Value::Null => None,
            value => {
                let lasting = value.as_u64().map(Duration::from_secs).filter(|lasting| *lasting <= LONGEST);
                Some(lasting.ok_or_else(|| Refusal::parameters("`seconds` is a whole number up to a year"))?)
            }
        };
        let said = self.listing.bans.values().filter(|ban| ban.is_said).count();
        if said >= BANS_MAX && !self.listing.bans.contains_key(&network) {
            return Err(Refusal::no(format!(
                "there are {BANS_MAX} bans; remove some, or write an [[acl]] with a file"
            )));
        }
        let reason = params["reason"].as_str().unwrap_or_default().chars().take(128).collect();
        let ban = Ban { until: lasting.map(|lasting| now + lasting), reason, is_said: true };
        self.listing.is_longer |= self.listing.bans.insert(network, ban).is_none();
        self.follow_bans();
        Ok(json!({ "generation": self.workers.world.generation.0 }))
    }

    /// Bans a source that came too often, if there is room. It is published presently, with others. What an operator said, and
    /// what lasts longer, stays as it is.
    pub(super) fn ban(&mut self, network: Network, until: Instant, reason: String) {
        let Listing { bans, is_longer, is_full, .. } = &mut self.listing;
        if let Some(known) = bans.get_mut(&network) {
            let extends = !known.is_said && known.until.is_some_and(|known| known < until);
            known.until = if extends { Some(until) } else { known.until };
        } else if bans.values().filter(|ban| !ban.is_said).count() < BANS_MAX {
            bans.insert(network, Ban { until: Some(until), reason, is_said: false });
            *is_longer = true;
        } else if !std::mem::replace(is_full, true) {
            log::warn!(target: "acls", "{BANS_MAX} sources are banned because they came too often; no more are");
        }
    }

    /// Whether a source is banned.
    pub(super) fn is_banned(&self, source: Network) -> bool {
        self.listing.bans.contains_key(&source)
    }

    /// Publishes bans that are not yet. When some are over no session must look again.
    pub(super) fn follow_bans(&mut self) {
        let (is_longer, is_shorter) =
            (std::mem::take(&mut self.listing.is_longer), std::mem::take(&mut self.listing.is_shorter));
        if is_longer || is_shorter {
            self.listing.banned = Arc::new(self.listing.bans.keys().copied().collect());
            self.publish_lists(is_longer);
        }
    }

    /// Ends a ban.
    pub(super) fn remove_ban(&mut self, params: &Value, _: Instant) -> Outcome {
        let network = prefix_of(params)?;
        if self.listing.bans.remove(&network).is_none() {
            return Err(Refusal::no(format!("{network} is not banned; `sluice ban list` has all")));
        }
        self.listing.is_shorter = true;
        self.follow_bans();
        Ok(json!({ "generation": self.workers.world.generation.0 }))
    }

    /// Once a second: ends bans that lasted long enough, and publishes those that came.
    pub(super) fn end_bans(&mut self, now: Instant) {
        let before = self.listing.bans.len();
        self.listing.bans.retain(|_, ban| ban.until.is_none_or(|until| until > now));
        let over = before - self.listing.bans.len();
        if over > 0 {
            log::info!(target: "acls", "{over} bans are over, {} go on", self.listing.bans.len());
            (self.listing.is_shorter, self.listing.is_full) = (true, false);
        }
        self.follow_bans();
    }

    /// All bans.
    pub(super) fn ban_views(&self) -> Vec<BanView> {
        let view = |(network, ban): (&Network, &Ban)| BanView {
            prefix: network.to_string(),
            seconds: ban.until.map(|until| until.since(self.now).as_secs()),
            reason: ban.reason.clone(),
        };
        self.listing.bans.iter().map(view).collect()
    }
}

/// The prefix that a command names, without bits behind it.
fn prefix_of(params: &Value) -> Result<Network, Refusal> {
    let text = params["prefix"].as_str().unwrap_or_default();
    let network = lists::network(text).ok_or_else(|| {
        Refusal::parameters(format!(
            "`{text}` is no prefix; write it as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/64"
        ))
    })?;
    Ok(Network { address: network.base(), ..network })
}
