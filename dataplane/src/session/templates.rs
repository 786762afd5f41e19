//! Persistence: which server a client, or a network of clients, was given last.
//!
//! A template lives until its sessions are gone and its time has passed since (as IPVS's does). The
//! table has a fixed size; when it is full, new clients are spread as if their service had no persistence.

use crate::clock::Stamp;
use crate::ids::{ServerId, ServiceId};
use crate::network::Network;
use std::collections::HashMap;
use std::net::IpAddr;

/// Templates that fit.
const CAPACITY: usize = 65_536;
/// Templates looked at in one turn for those whose time is over.
const LOOKS: usize = 16;

/// Whose template it is: a service and its client's network, host part zero.
type Key = (ServiceId, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Template {
    key: Key,
    server: ServerId,
    last_used: Stamp,
    /// Milliseconds.
    timeout: u32,
    sessions: u32,
}

/// One worker's templates. Its keys are random, as the standard library's maps are.
#[derive(Debug)]
pub struct Templates {
    by_key: HashMap<Key, u32>,
    list: Vec<Template>,
    next_look: usize,
}

impl Default for Templates {
    fn default() -> Self {
        Self { by_key: HashMap::with_capacity(CAPACITY), list: Vec::with_capacity(CAPACITY), next_look: 0 }
    }
}

/// How a service's clients stay on their servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// How long a client is remembered without a session, in milliseconds.
    pub timeout: u32,
    /// Bits of a client's IPv4 address that count, 1 to 32.
    pub prefix4: u8,
    /// Bits of a client's IPv6 address that count, 1 to 128.
    pub prefix6: u8,
}

impl Persistence {
    /// What of a client's address counts.
    pub fn network(self, client: IpAddr) -> IpAddr {
        let prefix_len = if client.is_ipv4() { self.prefix4 } else { self.prefix6 };
        Network { address: client, prefix_len }.base()
    }
}

impl Templates {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The server that a client's network was given, if it is remembered.
    pub fn find(&self, service: ServiceId, network: IpAddr, now: Stamp) -> Option<ServerId> {
        let template = self.list.get(*self.by_key.get(&(service, network))? as usize)?;
        (!template.is_over(now)).then_some(template.server)
    }

    /// A client got a session on a server.
    pub fn add(
        &mut self,
        service: ServiceId,
        network: IpAddr,
        server: ServerId,
        persistence: Persistence,
        now: Stamp,
    ) {
        let key = (service, network);
        let timeout = persistence.timeout;
        if let Some(template) = self.by_key.get(&key).and_then(|at| self.list.get_mut(*at as usize)) {
            let sessions = if template.server == server { template.sessions + 1 } else { 1 };
            *template = Template { key, server, last_used: now, timeout, sessions };
        } else if self.list.len() < CAPACITY {
            self.by_key.insert(key, self.list.len() as u32);
            self.list.push(Template { key, server, last_used: now, timeout, sessions: 1 });
        }
    }

    /// One of a client's sessions ended.
    pub fn end(&mut self, service: ServiceId, network: IpAddr, server: ServerId, now: Stamp) {
        let Some(at) = self.by_key.get(&(service, network)) else { return };
        if let Some(template) = self.list.get_mut(*at as usize).filter(|template| template.server == server) {
            template.sessions = template.sessions.saturating_sub(1);
            template.last_used = now;
        }
    }

    /// Forgets templates whose time is over; looks at a few.
    #[inline]
    pub fn expire(&mut self, now: Stamp) {
        if self.list.is_empty() {
            return;
        }
        for _ in 0..LOOKS.min(self.list.len()) {
            self.next_look = if self.next_look >= self.list.len() { 0 } else { self.next_look };
            if self.list.get(self.next_look).is_some_and(|template| template.is_over(now)) {
                let over = self.list.swap_remove(self.next_look);
                self.by_key.remove(&over.key);
                if let Some(moved) = self.list.get(self.next_look) {
                    self.by_key.insert(moved.key, self.next_look as u32);
                }
            } else {
                self.next_look += 1;
            }
        }
    }
}

impl Template {
    fn is_over(&self, now: Stamp) -> bool {
        self.sessions == 0 && now.millis_since(self.last_used) >= self.timeout
    }
}
