//! Who is on the links: the neighbour table and its states, on a clock that is an argument.
//!
//! An entry starts INCOMPLETE and is asked for once a second; an answer makes it
//! REACHABLE for thirty seconds, then it is asked again, first by unicast, while its
//! address stays in use. Without an answer it FAILED; it stays listed for a while, and
//! gateways and servers are asked again for ever, because packets will come for them.

use dataplane::clock::Instant;
use dataplane::snapshot::{Neighbor, Neighbors, NextHop};
use dataplane::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac, ethernet_header};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

/// Entries in all; a scan of a /16 must not use up memory.
const CAPACITY: usize = 16_384;
const RETRY: Duration = Duration::from_secs(1);
/// Questions until a neighbour counts as absent; the first at once.
const TRIES: u32 = 3;
const REACHABLE: Duration = Duration::from_secs(30);
/// How long a failed neighbour stays listed, and how often a wanted one is asked again.
const FAILED: Duration = Duration::from_secs(5);

/// Where a neighbour stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Asked for, never answered.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Its address is in use and being confirmed.
    Probing,
    /// Did not answer.
    Failed,
}

impl Standing {
    /// The name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "INCOMPLETE",
            Self::Reachable => "REACHABLE",
            Self::Probing => "PROBE",
            Self::Failed => "FAILED",
        }
    }
}

/// One neighbour, as lists show it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Address and port.
    pub hop: NextHop,
    /// Station address, if known.
    pub mac: Option<Mac>,
    /// Where it stands.
    pub standing: Standing,
    /// When it last answered.
    pub confirmed: Option<Instant>,
    /// Whether it did not answer when it was asked for, and has not since: also while it is asked again.
    pub is_absent: bool,
    tries: u32,
    next: Instant,
}

impl Entry {
    /// One that is to be asked for at once.
    fn fresh(hop: NextHop, now: Instant) -> Self {
        Self {
            hop,
            mac: None,
            standing: Standing::Incomplete,
            confirmed: None,
            is_absent: false,
            tries: 0,
            next: now,
        }
    }
}

/// What an advertisement says of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Where it is, if it says so.
    pub station: Option<Mac>,
    /// Whether it answers a question.
    pub solicited: bool,
    /// Whether it replaces what was known.
    pub overrides: bool,
}

/// A question to send: who has this address? To one station, or to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The neighbour asked for.
    pub hop: NextHop,
    /// The station asked; `None`: everybody.
    pub station: Option<Mac>,
}

/// All neighbours.
#[derive(Debug, Default)]
pub struct NeighborTable {
    slots: Vec<Option<Entry>>,
    by_hop: HashMap<NextHop, usize>,
    wanted: HashSet<NextHop>,
    free: Vec<usize>,
    changed: bool,
    moved: bool,
    /// Those that became absent, or are there again, since that was last asked.
    turned: Vec<NextHop>,
}

impl NeighborTable {
    /// Sets the neighbours that are always to be known: gateways and servers.
    pub fn want(&mut self, hops: HashSet<NextHop>, now: Instant) {
        for hop in &hops {
            self.resolve(*hop, now);
        }
        self.wanted = hops;
    }

    /// Adds to the neighbours that are always to be known.
    pub fn want_more(&mut self, hops: impl IntoIterator<Item = NextHop>, now: Instant) {
        for hop in hops {
            self.resolve(hop, now);
            self.wanted.insert(hop);
        }
    }

    /// Starts to ask for a neighbour if it is not known yet. A failed one is left to its pause.
    pub fn resolve(&mut self, hop: NextHop, now: Instant) {
        if self.by_hop.contains_key(&hop) {
            return;
        }
        self.insert(Entry::fresh(hop, now));
    }

    /// Notes that a neighbour has a station address. With `create`, also one that nobody asked for.
    pub fn learn(&mut self, hop: NextHop, mac: Mac, create: bool, now: Instant) {
        let at = match self.by_hop.get(&hop) {
            Some(at) => *at,
            None if create => match self.insert(Entry::fresh(hop, now)) {
                Some(at) => at,
                None => return,
            },
            None => return,
        };
        let Some(entry) = &mut self.slots[at] else { return };
        self.changed |= entry.mac != Some(mac);
        entry.mac = Some(mac);
        entry.standing = Standing::Reachable;
        entry.confirmed = Some(now);
        if std::mem::take(&mut entry.is_absent) {
            self.turned.push(hop);
        }
        entry.tries = 0;
        entry.next = now + REACHABLE;
    }

    /// Takes in an advertisement (RFC 4861 §7.2.5). What nobody asked for is not believed before it is confirmed, and what
    /// does not say that it overrides replaces nothing.
    pub fn hear(&mut self, hop: NextHop, said: &Advertised, now: Instant) {
        let Some(entry) = self.by_hop.get(&hop).and_then(|at| self.slots[*at].as_ref()) else { return };
        let known = entry.mac;
        let mac = match (known, said.station) {
            // One that is not known yet must say where it is.
            (None, None) => return,
            (Some(known), None) => known,
            (Some(known), Some(station)) if station != known && !said.overrides => {
                if entry.standing == Standing::Reachable {
                    self.doubt(hop, known, now);
                }
                return;
            }
            (_, Some(station)) => station,
        };
        if said.solicited {
            self.learn(hop, mac, false, now);
        } else if known != Some(mac) {
            self.doubt(hop, mac, now);
        }
    }

    /// Notes where a neighbour says that it is, without being asked (RFC 4861 §7.2.3): it is used, and confirmed at once.
    /// With `create`, also one that nobody asked for.
    pub fn note(&mut self, hop: NextHop, mac: Mac, create: bool, now: Instant) {
        let known = self.entry(hop).map(|entry| entry.mac);
        if known == Some(Some(mac)) || known.is_none() && !create {
            return;
        }
        if known.is_none() && self.insert(Entry::fresh(hop, now)).is_none() {
            return;
        }
        self.doubt(hop, mac, now);
    }

    /// Uses an address that is not confirmed, and asks for it at once.
    fn doubt(&mut self, hop: NextHop, mac: Mac, now: Instant) {
        let Some(entry) = self.by_hop.get(&hop).and_then(|at| self.slots[*at].as_mut()) else { return };
        self.changed |= entry.mac != Some(mac);
        entry.mac = Some(mac);
        entry.standing = Standing::Probing;
        entry.tries = 0;
        entry.next = now;
    }

    /// What is to be asked at `now`; also lets entries age.
    pub fn tick(&mut self, now: Instant) -> Vec<Question> {
        let mut questions = Vec::new();
        for at in 0..self.slots.len() {
            let Some(entry) = &mut self.slots[at] else { continue };
            if entry.next > now {
                continue;
            }
            match entry.standing {
                Standing::Reachable => {
                    entry.standing = Standing::Probing;
                    entry.tries = 0;
                }
                Standing::Failed if self.wanted.contains(&entry.hop) => {
                    entry.standing = Standing::Incomplete;
                    entry.tries = 0;
                }
                Standing::Failed => {
                    self.remove(at);
                    continue;
                }
                Standing::Incomplete | Standing::Probing => {}
            }
            if entry.tries == TRIES {
                entry.standing = Standing::Failed;
                if !std::mem::replace(&mut entry.is_absent, true) {
                    self.turned.push(entry.hop);
                }
                self.changed |= entry.mac.is_some();
                entry.mac = None;
                entry.next = now + FAILED;
                continue;
            }
            // The last question goes to everybody: the station may have been replaced.
            let station = entry.mac.filter(|_| entry.tries + 1 < TRIES);
            questions.push(Question { hop: entry.hop, station });
            entry.tries += 1;
            entry.next = now + RETRY;
        }
        questions
    }

    /// The table for workers, if it changed since the last call; and whether a slot was given
    /// to another neighbour, so that what sessions remember is void. `sources` are the ports'
    /// own station addresses.
    pub fn take_changes(&mut self, sources: &[Mac]) -> Option<(Neighbors, bool)> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let neighbor = |entry: &Entry| {
            let ethertype = match entry.hop.address {
                IpAddr::V4(_) => ETHERTYPE_IPV4,
                IpAddr::V6(_) => ETHERTYPE_IPV6,
            };
            let source = sources[usize::from(entry.hop.port.0)];
            let header = |mac| ethernet_header(mac, source, ethertype);
            Neighbor { hop: entry.hop, header: entry.mac.map(header) }
        };
        let slots = self.slots.iter().map(|slot| slot.as_ref().map(neighbor)).collect();
        Some((Neighbors::new(slots), std::mem::take(&mut self.moved)))
    }

    /// The neighbours that became absent, or are there again, since the last call.
    pub fn take_turned(&mut self) -> Vec<NextHop> {
        std::mem::take(&mut self.turned)
    }

    /// Whether a neighbour did not answer when it was asked for, and has not since.
    pub fn is_absent(&self, hop: NextHop) -> bool {
        self.entry(hop).is_some_and(|entry| entry.is_absent)
    }

    /// How many neighbours are in each state, by its name.
    pub fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        for entry in self.slots.iter().flatten() {
            *states.entry(entry.standing.name()).or_default() += 1;
        }
        states
    }

    /// Every neighbour, by address.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<_> = self.slots.iter().flatten().copied().collect();
        entries.sort_by_key(|entry| (entry.hop.port, entry.hop.address));
        entries
    }

    /// One neighbour.
    pub fn entry(&self, hop: NextHop) -> Option<&Entry> {
        self.slots[*self.by_hop.get(&hop)?].as_ref()
    }

    /// Forgets everything, because the ports' networks changed.
    pub fn clear(&mut self) {
        *self = Self { changed: true, moved: true, ..Self::default() };
    }

    fn insert(&mut self, entry: Entry) -> Option<usize> {
        let at = match self.free.pop() {
            Some(at) => {
                self.moved = true;
                at
            }
            None if self.slots.len() < CAPACITY => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => return None,
        };
        self.slots[at] = Some(entry);
        self.by_hop.insert(entry.hop, at);
        Some(at)
    }

    fn remove(&mut self, at: usize) {
        if let Some(entry) = self.slots[at].take() {
            self.by_hop.remove(&entry.hop);
            self.free.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::ids::PortId;
    use std::net::Ipv4Addr;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    fn hop(last: u8) -> NextHop {
        NextHop { port: PortId(0), address: Ipv4Addr::new(10, 0, 0, last).into() }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn header(table: &mut NeighborTable) -> Option<dataplane::wire::EthernetHeader> {
        table.take_changes(&[[2, 0, 0, 0, 0, 1]]).and_then(|(neighbors, _)| neighbors.header(hop(1)))
    }

    #[test]
    fn an_answer_makes_the_header_known() {
        let mut table = NeighborTable::default();
        table.resolve(hop(1), at(0));
        assert_eq!(table.tick(at(0)), [Question { hop: hop(1), station: None }]);
        assert_eq!(header(&mut table), None);

        table.learn(hop(1), MAC, false, at(5));

        assert_eq!(header(&mut table), Some(ethernet_header(MAC, [2, 0, 0, 0, 0, 1], ETHERTYPE_IPV4)));
    }

    #[test]
    fn an_absent_neighbour_is_asked_three_times_and_then_forgotten() {
        let mut table = NeighborTable::default();
        table.resolve(hop(1), at(0));

        let asked: Vec<_> = (0..12).map(|second| table.tick(at(second * 1000)).len()).collect();

        assert_eq!(asked, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(table.entries().is_empty());
    }

    #[test]
    fn a_wanted_neighbour_is_asked_again_after_a_pause() {
        let mut table = NeighborTable::default();
        table.want([hop(1)].into(), at(0));

        let asked: Vec<_> = (0..12).map(|second| table.tick(at(second * 1000)).len()).collect();

        assert_eq!(asked, [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0]);
    }

    #[test]
    fn one_that_does_not_answer_is_absent_until_it_does() {
        let mut table = NeighborTable::default();
        table.want([hop(1)].into(), at(0));
        let mut turns = Vec::new();
        for second in 0..30 {
            table.tick(at(second * 1000));
            turns.extend(table.take_turned().into_iter().map(|hop| (second, hop)));
        }
        assert_eq!(turns, [(3, hop(1))], "once, however often it is asked again");
        assert!(table.is_absent(hop(1)));

        table.learn(hop(1), MAC, false, at(31_000));

        assert_eq!(table.take_turned(), [hop(1)]);
        assert!(!table.is_absent(hop(1)));
    }

    #[test]
    fn a_known_neighbour_is_confirmed_by_unicast_and_stays_in_use_meanwhile() {
        let mut table = NeighborTable::default();
        table.learn(hop(1), MAC, true, at(0));
        header(&mut table);
        assert!(table.tick(at(29_000)).is_empty());

        assert_eq!(table.tick(at(30_000)), [Question { hop: hop(1), station: Some(MAC) }]);
        assert_eq!(table.tick(at(31_000)), [Question { hop: hop(1), station: Some(MAC) }]);
        assert_eq!(table.tick(at(32_000)), [Question { hop: hop(1), station: None }]);
        assert_eq!(table.entry(hop(1)).unwrap().mac, Some(MAC));

        table.tick(at(33_000));
        assert_eq!(table.entry(hop(1)).unwrap().standing, Standing::Failed);
        assert_eq!(header(&mut table), None);
    }

    #[test]
    fn a_new_station_address_is_followed_at_once() {
        let mut table = NeighborTable::default();
        table.learn(hop(1), MAC, true, at(0));
        header(&mut table);

        table.learn(hop(1), [2, 0, 0, 0, 0, 7], false, at(10));

        assert_eq!(
            header(&mut table),
            Some(ethernet_header([2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 1], ETHERTYPE_IPV4))
        );
    }

    #[test]
    fn strangers_are_learned_only_when_they_ask_for_us() {
        let mut table = NeighborTable::default();

        table.learn(hop(1), MAC, false, at(0));

        assert!(table.entries().is_empty());
    }

    #[test]
    fn advertisements_are_believed_as_far_as_they_go() {
        const OTHER: Mac = [2, 0, 0, 0, 0, 7];
        let said = |station, solicited, overrides| Advertised { station, solicited, overrides };
        // By the RFC's table: what is known, what is said, what is known then.
        let reachable = |table: &mut NeighborTable| table.learn(hop(1), MAC, true, at(0));
        let unknown = |table: &mut NeighborTable| table.resolve(hop(1), at(0));
        type Begin<'a> = &'a dyn Fn(&mut NeighborTable);
        let cases: [(Begin<'_>, Advertised, Standing, Option<Mac>); 9] = [
            (&unknown, said(None, true, true), Standing::Incomplete, None),
            (&unknown, said(Some(OTHER), true, false), Standing::Reachable, Some(OTHER)),
            (&unknown, said(Some(OTHER), false, true), Standing::Probing, Some(OTHER)),
            // A station without Override makes the known one doubtful, and no more.
            (&reachable, said(Some(OTHER), true, false), Standing::Probing, Some(MAC)),
            (&reachable, said(Some(OTHER), false, false), Standing::Probing, Some(MAC)),
            (&reachable, said(Some(OTHER), true, true), Standing::Reachable, Some(OTHER)),
            (&reachable, said(Some(OTHER), false, true), Standing::Probing, Some(OTHER)),
            (&reachable, said(Some(MAC), false, true), Standing::Reachable, Some(MAC)),
            (&reachable, said(None, true, false), Standing::Reachable, Some(MAC)),
        ];
        for (number, (begin, said, standing, mac)) in cases.into_iter().enumerate() {
            let mut table = NeighborTable::default();
            begin(&mut table);
            table.hear(hop(1), &said, at(10));
            let entry = table.entry(hop(1)).unwrap();
            assert_eq!((entry.standing, entry.mac), (standing, mac), "case {number}: {said:?}");
        }
        // One that asks us is used, and confirmed at once.
        let mut table = NeighborTable::default();
        table.note(hop(1), MAC, true, at(0));
        assert_eq!(table.entry(hop(1)).unwrap().standing, Standing::Probing);
        assert_eq!(table.tick(at(0)), [Question { hop: hop(1), station: Some(MAC) }]);
        let mut table = NeighborTable::default();
        table.hear(hop(1), &said(Some(MAC), true, true), at(0));
        table.note(hop(1), MAC, false, at(0));
        assert!(table.entries().is_empty(), "strangers are not learned");
    }

    #[test]
    fn a_reused_slot_voids_what_sessions_remember() {
        let mut table = NeighborTable::default();
        table.resolve(hop(1), at(0));
        for second in 0..12 {
            table.tick(at(second * 1000));
        }
        table.learn(hop(2), MAC, true, at(20_000));

        let (_, moved) = table.take_changes(&[[2, 0, 0, 0, 0, 1]]).unwrap();

        assert!(moved);
    }
}
