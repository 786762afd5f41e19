//! The source ports of checks: each is lent to one question at a time, so that no two have the same four numbers.
//!
//! Answers to these ports that belong to no session are given to the host's kernel, because sessions never have one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use tokio::sync::Notify;

/// The ports.
const FIRST: u16 = 512;
const COUNT: usize = 512;
const WORDS: usize = COUNT / 64;

/// What a port must be alone with: the IP protocol, the source, and who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Way {
    pub(super) protocol: u8,
    pub(super) source: IpAddr,
    pub(super) target: SocketAddr,
}

/// All ports that are lent. On one thread.
#[derive(Debug, Default)]
pub(super) struct Ports {
    ways: RefCell<HashMap<Way, Lent>>,
    returned: Notify,
}

#[derive(Debug, Default)]
struct Lent {
    bits: [u64; WORDS],
    count: usize,
    /// Where the search goes on, so that a port rests as long as it can.
    next: usize,
}

/// A port that is lent until this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    ports: Rc<Ports>,
    way: Way,
    at: usize,
}

impl Lease {
    pub(super) fn port(&self) -> u16 {
        FIRST + self.at as u16
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut ways = self.ports.ways.borrow_mut();
        if let Some(lent) = ways.get_mut(&self.way) {
            lent.bits[self.at / 64] &= !(1 << (self.at % 64));
            lent.count -= 1;
        }
        drop(ways);
        self.ports.returned.notify_waiters();
    }
}

impl Ports {
    /// Waits until a port is free.
    pub(super) async fn wait(&self, way: Way) {
        loop {
            // Before the look, so that nothing is missed.
            let returned = self.returned.notified();
            if self.ways.borrow().get(&way).is_none_or(|lent| lent.count < COUNT) {
                return;
            }
            returned.await;
        }
    }

    /// Lends a port, if one is free.
    pub(super) fn lend(self: &Rc<Self>, way: Way) -> Option<Lease> {
        let mut ways = self.ways.borrow_mut();
        // Begin anywhere, so that a daemon that was restarted begins elsewhere than the last one.
        let fresh = || Lent { next: fastrand::usize(..COUNT), ..Lent::default() };
        let lent = ways.entry(way).or_insert_with(fresh);
        let free = |at: &usize| lent.bits[at / 64] & (1 << (at % 64)) == 0;
        let at = (0..COUNT).map(|step| (lent.next + step) % COUNT).find(free)?;
        lent.bits[at / 64] |= 1 << (at % 64);
        lent.count += 1;
        lent.next = (at + 1) % COUNT;
        Some(Lease { ports: Rc::clone(self), way, at })
    }

    /// Forgets ways that no port is lent for; called now and then, because servers come and go.
    pub(super) fn forget_unused(&self) {
        self.ways.borrow_mut().retain(|_, lent| lent.count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_port_is_lent_once_and_rests_as_long_as_it_can() {
        let ports = Rc::new(Ports::default());
        let way = |port: u16| Way {
            protocol: 6,
            source: "10.0.0.200".parse().unwrap(),
            target: SocketAddr::new("10.0.0.11".parse().unwrap(), port),
        };
        let mut leases: Vec<_> = std::iter::from_fn(|| ports.lend(way(80))).collect();
        let distinct: HashSet<u16> = leases.iter().map(Lease::port).collect();
        assert_eq!((leases.len(), distinct.len()), (COUNT, COUNT));
        assert!(distinct.iter().all(|port| (512..1_024).contains(port)));
        // Another server has its own.
        assert!(ports.lend(way(81)).is_some());
        let back = [leases.remove(7).port(), leases.remove(100).port()];
        let again = ports.lend(way(80)).unwrap();
        assert!(back.contains(&again.port()));
        drop(again);
        assert!(back.contains(&ports.lend(way(80)).unwrap().port()), "the one that rested longer");
        drop(leases);
        ports.forget_unused();
        assert!(ports.ways.borrow().is_empty());
    }
}
