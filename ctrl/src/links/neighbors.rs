//! Who is on the links: the neighbour table and its states, on a clock that is an argument.
//!
//! An entry starts INCOMPLETE and is asked for once a second; an answer makes it
//! REACHABLE for thirty seconds, then it is asked again, first by unicast, while its
//! address stays in use. Without an answer it FAILED; it stays listed for a while, and
//! gateways and servers are asked again for ever, because packets will come for them.
//!
//! A station that says, without being asked, that it has the address of one that confirmed its own, replaces nothing: the
//! known one is asked by unicast, and stays while it answers. Only when it did not, everybody is asked, and who answers then
//! is believed: a takeover takes 2 to 3 s, and a forged message nothing. Strangers, those that are neither gateways nor servers,
//! have bounded places until they confirm their addresses.

use dataplane::clock::Instant;
use dataplane::snapshot::{Neighbor, Neighbors, NextHop};
use dataplane::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac, ethernet_header};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Entries in all; a scan of a /16 must not use up memory.
const CAPACITY: usize = 16_384;
/// Strangers that have not confirmed their addresses; one more ends the oldest.
const STRANGERS: usize = CAPACITY / 4;
/// How often it is told that a neighbour's address is claimed by another station.
const TOLD: Duration = Duration::from_secs(60);
/// How often workers are told of neighbours for which nothing waits.
const TOLD_WORKERS: Duration = Duration::from_millis(100);
/// How long a neighbour that just answered is not asked again because another claims its address.
const SETTLED: Duration = Duration::from_secs(1);
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
    /// The configuration says where it is.
    Permanent,
}

impl Standing {
    /// The name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "INCOMPLETE",
            Self::Reachable => "REACHABLE",
            Self::Probing => "PROBE",
            Self::Failed => "FAILED",
            Self::Permanent => "PERMANENT",
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
    /// Who else said that it has the address, since the neighbour last answered.
    claimed_by: Option<Mac>,
    /// When such a claim was last told.
    told: Option<Instant>,
    /// Whether packets wait for it, or will; not for one that only spoke.
    is_waited_for: bool,
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
            claimed_by: None,
            told: None,
            is_waited_for: false,
        }
    }

    /// Whether everybody was asked last, and an answer is awaited.
    fn has_asked_all(&self) -> bool {
        match self.standing {
            Standing::Incomplete => self.tries > 0,
            Standing::Probing => self.tries == TRIES,
            Standing::Reachable | Standing::Failed | Standing::Permanent => false,
        }
    }
}

/// What a frame says of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where it is.
    pub station: Mac,
    /// Whether the frame answers a question, as far as it says so itself.
    pub is_answer: bool,
    /// Whether the neighbour speaks to the appliance, so that it is learned though nobody asked for it.
    pub is_for_us: bool,
}

/// What became of a claim to the address of a neighbour that was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The neighbour.
    pub hop: NextHop,
    /// Where it was.
    pub known: Mac,
    /// Who claimed its address.
    pub claimant: Mac,
    /// Whether it is there now.
    pub has_moved: bool,
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
    /// Places that were in use, the oldest first: sessions may remember who was there.
    free: VecDeque<usize>,
    changed: bool,
    /// Whether what changed is waited for, and not before when it is told otherwise.
    is_urgent: bool,
    not_before: Instant,
    moved: bool,
    /// Those that became absent, or are there again, since that was last asked.
    turned: Vec<NextHop>,
    /// Strangers in the order in which they came; some have confirmed their addresses since.
    strangers: VecDeque<NextHop>,
    /// What became of claims since that was last asked.
    settled: Vec<Settlement>,
}

impl NeighborTable {
    /// Sets the neighbours that are always to be known: gateways and servers.
    pub fn want(&mut self, hops: HashSet<NextHop>, now: Instant) {
        self.wanted = hops;
        for hop in self.wanted.iter().copied().collect::<Vec<_>>() {
            self.resolve(hop, now);
        }
    }

    /// Adds to the neighbours that are always to be known.
    pub fn want_more(&mut self, hops: impl IntoIterator<Item = NextHop>, now: Instant) {
        for hop in hops {
            self.wanted.insert(hop);
            self.resolve(hop, now);
        }
    }

    /// Sets the neighbours of which the configuration says where they are; others are asked for again.
    pub fn fix(&mut self, fixed: &BTreeMap<NextHop, Mac>, now: Instant) {
        let was_fixed = |entry: &&mut Entry| entry.standing == Standing::Permanent;
        for entry in self.slots.iter_mut().flatten().filter(was_fixed) {
            (entry.standing, entry.tries, entry.next) = (Standing::Probing, 0, now);
        }
        for (hop, station) in fixed {
            self.wanted.insert(*hop);
            self.resolve(*hop, now);
            let Some(entry) = self.by_hop.get(hop).and_then(|at| self.slots[*at].as_mut()) else { continue };
            self.changed |= entry.mac != Some(*station);
            self.is_urgent |= self.changed;
            (entry.mac, entry.standing) = (Some(*station), Standing::Permanent);
            if std::mem::take(&mut entry.is_absent) {
                self.turned.push(*hop);
            }
        }
    }

    /// Starts to ask for a neighbour if it is not known yet. A failed one is left to its pause.
    pub fn resolve(&mut self, hop: NextHop, now: Instant) {
        if let Some(entry) = self.by_hop.get(&hop).and_then(|at| self.slots[*at].as_mut()) {
            // Packets wait for it. If it is known, workers do not know that yet.
            entry.is_waited_for = true;
            self.is_urgent |= entry.mac.is_some();
            return;
        }
        self.insert(Entry { is_waited_for: true, ..Entry::fresh(hop, now) });
    }

    /// Takes in what a frame says of a neighbour.
    pub fn hear(&mut self, hop: NextHop, claim: &Claim, now: Instant) {
        let station = claim.station;
        if !self.by_hop.contains_key(&hop)
            && (!claim.is_for_us || self.insert(Entry::fresh(hop, now)).is_none())
        {
            return;
        }
        let Some(entry) = self.by_hop.get(&hop).and_then(|at| self.slots[*at].as_mut()) else { return };
        match entry.mac {
            Some(known) if known == station && entry.standing == Standing::Permanent => {}
            Some(known) if known == station => {
                if claim.is_answer {
                    self.confirm(hop, station, now);
                }
            }
            Some(known) if !(claim.is_answer && entry.has_asked_all()) => {
                self.dispute(hop, known, station, now)
            }
            None if !(claim.is_answer && entry.has_asked_all()) => self.doubt(hop, station, now),
            _ => self.confirm(hop, station, now),
        }
    }

    /// Believes that a neighbour is at a station.
    fn confirm(&mut self, hop: NextHop, station: Mac, now: Instant) {
        let Some(entry) = self.by_hop.get(&hop).and_then(|at| self.slots[*at].as_mut()) else { return };
        let before = entry.mac.replace(station);
        self.changed |= before != Some(station);
        self.is_urgent |= before != Some(station) && entry.is_waited_for;
        entry.standing = Standing::Reachable;
        entry.confirmed = Some(now);
        if std::mem::take(&mut entry.is_absent) {
            self.turned.push(hop);
        }
        entry.tries = 0;
        entry.next = now + REACHABLE;
        let claimant = entry.claimed_by.take();
        let settlement = match (before, claimant) {
            (Some(known), _) if known != station => {
                Some(Settlement { hop, known, claimant: station, has_moved: true })
            }
            (Some(known), Some(claimant)) if entry.told.is_none_or(|told| now.since(told) >= TOLD) => {
                entry.told = Some(now);
                Some(Settlement { hop, known, claimant, has_moved: false })
            }
            _ => None,
        };
        self.settled.extend(settlement);
    }

    /// Asks a neighbour whether it is where it was, because another station has its address, or says so.
    fn dispute(&mut self, hop: NextHop, known: Mac, claimant: Mac, now: Instant) {
        let Some(entry) = self.by_hop.get(&hop).and_then(|at| self.slots[*at].as_mut()) else { return };
        match entry.standing {
            Standing::Permanent if entry.told.is_none_or(|told| now.since(told) >= TOLD) => {
                entry.told = Some(now);
                self.settled.push(Settlement { hop, known, claimant, has_moved: false });
            }
            Standing::Reachable => {
                entry.claimed_by = Some(claimant);
                entry.next = entry.confirmed.map_or(now, |at| now.max(at + SETTLED)).min(entry.next);
            }
            _ => {}
        }
    }

    /// Takes in an advertisement (RFC 4861 §7.2.5). What does not say that it overrides replaces nothing.
    pub fn hear_advertised(&mut self, hop: NextHop, said: &Advertised, now: Instant) {
        let Some(entry) = self.entry(hop) else { return };
        let station = match (entry.mac, said.station) {
            // One that is not known yet must say where it is.
            (None, None) => return,
            (Some(known), None) => known,
            (Some(known), Some(station)) if station != known && !said.overrides => {
                return self.dispute(hop, known, station, now);
            }
            (_, Some(station)) => station,
        };
        self.hear(hop, &Claim { station, is_answer: said.solicited, is_for_us: false }, now);
    }

    /// Uses an address that is not confirmed, and asks for it at once.
    fn doubt(&mut self, hop: NextHop, mac: Mac, now: Instant) {
        let Some(entry) = self.by_hop.get(&hop).and_then(|at| self.slots[*at].as_mut()) else { return };
        self.changed |= entry.mac != Some(mac);
        self.is_urgent |= entry.mac != Some(mac) && entry.is_waited_for;
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
                Standing::Permanent => continue,
                Standing::Incomplete | Standing::Probing => {}
            }
            if entry.tries == TRIES {
                entry.standing = Standing::Failed;
                if !std::mem::replace(&mut entry.is_absent, true) {
                    self.turned.push(entry.hop);
                }
                self.changed |= entry.mac.is_some();
                self.is_urgent |= entry.mac.is_some() && entry.is_waited_for;
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
    /// own station addresses. What nobody waits for is told ten times a second: strangers that only speak, however many.
    pub fn take_changes(&mut self, sources: &[Mac], now: Instant) -> Option<(Neighbors, bool)> {
        if !self.changed || !self.is_urgent && now < self.not_before {
            return None;
        }
        (self.changed, self.is_urgent) = (false, false);
        self.not_before = now + TOLD_WORKERS;
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

    /// What became of claims to known neighbours' addresses, since the last call.
    pub fn take_settled(&mut self) -> Vec<Settlement> {
        std::mem::take(&mut self.settled)
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
        *self = Self { changed: true, is_urgent: true, moved: true, ..Self::default() };
    }

    fn insert(&mut self, entry: Entry) -> Option<usize> {
        let is_stranger = !self.wanted.contains(&entry.hop);
        if is_stranger && self.strangers.len() >= STRANGERS {
            self.end_stranger();
        }
        if self.free.is_empty() && self.slots.len() == CAPACITY && !self.end_stranger() && !is_stranger {
            self.end_least_heard();
        }
        let at = if self.slots.len() < CAPACITY {
            self.slots.push(None);
            self.slots.len() - 1
        } else {
            let at = self.free.pop_front()?;
            self.moved = true;
            at
        };
        if is_stranger {
            self.strangers.push_back(entry.hop);
        }
        self.slots[at] = Some(entry);
        self.by_hop.insert(entry.hop, at);
        Some(at)
    }

    /// Ends the oldest stranger that has not confirmed its address, if there is one.
    fn end_stranger(&mut self) -> bool {
        while let Some(hop) = self.strangers.pop_front() {
            let Some(at) = self.by_hop.get(&hop).copied() else { continue };
            let is_one = |entry: &Entry| entry.confirmed.is_none() && !self.wanted.contains(&hop);
            if self.slots[at].as_ref().is_some_and(is_one) {
                self.remove(at);
                return true;
            }
        }
        false
    }

    /// Ends the stranger that has confirmed its address longest ago: a gateway or a server needs its place.
    fn end_least_heard(&mut self) {
        let strangers = self.slots.iter().enumerate().filter_map(|(at, slot)| {
            let entry = slot.as_ref().filter(|entry| !self.wanted.contains(&entry.hop))?;
            Some((entry.confirmed, at))
        });
        if let Some((_, at)) = strangers.min() {
            self.changed = true;
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) {
        if let Some(entry) = self.slots[at].take() {
            self.by_hop.remove(&entry.hop);
            self.free.push_back(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::ids::PortId;
    use std::net::Ipv4Addr;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    const OTHER: Mac = [2, 0, 0, 0, 0, 7];
    const ANSWER: Claim = Claim { station: MAC, is_answer: true, is_for_us: false };

    /// Lets a neighbour answer.
    fn known(table: &mut NeighborTable) {
        table.resolve(hop(1), at(0));
        table.tick(at(0));
        table.hear(hop(1), &ANSWER, at(0));
    }

    fn hop(last: u8) -> NextHop {
        NextHop { port: PortId(0), address: Ipv4Addr::new(10, 0, 0, last).into() }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn header(table: &mut NeighborTable) -> Option<dataplane::wire::EthernetHeader> {
        table
            .take_changes(&[[2, 0, 0, 0, 0, 1]], at(1_000_000))
            .and_then(|(neighbors, _)| neighbors.header(hop(1)))
    }

    #[test]
    fn an_answer_makes_the_header_known() {
        let mut table = NeighborTable::default();
        table.resolve(hop(1), at(0));
        assert_eq!(table.tick(at(0)), [Question { hop: hop(1), station: None }]);
        assert_eq!(header(&mut table), None);

        table.hear(hop(1), &ANSWER, at(5));

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

        // What comes without a question is asked about.
        table.hear(hop(1), &ANSWER, at(31_000));
        assert_eq!(table.tick(at(31_000)), [Question { hop: hop(1), station: Some(MAC) }]);
        table.hear(hop(1), &ANSWER, at(31_001));

        assert_eq!(table.take_turned(), [hop(1)]);
        assert!(!table.is_absent(hop(1)));
    }

    #[test]
    fn a_known_neighbour_is_confirmed_by_unicast_and_stays_in_use_meanwhile() {
        let mut table = NeighborTable::default();
        known(&mut table);
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
    fn a_claim_to_a_known_neighbour_s_address_is_believed_only_when_it_does_not_answer() {
        for is_answer in [false, true] {
            let claim = Claim { station: OTHER, is_answer, is_for_us: true };
            let mut table = NeighborTable::default();
            known(&mut table);
            // Forged once a millisecond for a minute, while the station answers.
            let mut questions = 0;
            for millis in 2_000..62_000 {
                table.hear(hop(1), &claim, at(millis));
                for question in table.tick(at(millis)) {
                    questions += 1;
                    assert_eq!(question.station, Some(MAC), "only the known one is asked");
                    table.hear(hop(1), &ANSWER, at(millis));
                }
                assert_eq!(table.entry(hop(1)).unwrap().mac, Some(MAC));
            }
            assert!(questions <= 60, "{questions} questions in a minute");
            let settled = table.take_settled();
            let stays = Settlement { hop: hop(1), known: MAC, claimant: OTHER, has_moved: false };
            assert_eq!(settled, [stays], "told once a minute");

            // The station is gone, and another has its address.
            let claimed = at(63_000);
            table.hear(hop(1), &claim, claimed);
            let mut moved = None;
            for millis in (63_000..67_000).step_by(100) {
                let asked_all = table.tick(at(millis)).iter().any(|question| question.station.is_none());
                if asked_all {
                    table.hear(hop(1), &Claim { is_answer: true, ..claim }, at(millis + 1));
                    moved = Some(millis + 1);
                }
            }
            assert!(moved.is_some_and(|millis| millis <= 66_000), "{moved:?}");
            assert_eq!(table.entry(hop(1)).unwrap().mac, Some(OTHER));
            let moved = Settlement { hop: hop(1), known: MAC, claimant: OTHER, has_moved: true };
            assert_eq!(table.take_settled(), [moved]);
        }
    }

    #[test]
    fn a_claim_right_after_an_answer_is_looked_into_a_little_later() {
        let mut table = NeighborTable::default();
        known(&mut table);
        table.hear(hop(1), &Claim { station: OTHER, ..ANSWER }, at(10));
        assert_eq!(table.tick(at(990)), []);
        assert_eq!(table.tick(at(1_000)), [Question { hop: hop(1), station: Some(MAC) }]);
    }

    #[test]
    fn what_is_said_without_a_question_is_used_and_asked_about_at_once() {
        let mut table = NeighborTable::default();
        table.want([hop(1)].into(), at(0));
        table.hear(hop(1), &Claim { is_answer: false, ..ANSWER }, at(0));
        let entry = table.entry(hop(1)).unwrap();
        assert_eq!((entry.standing, entry.mac), (Standing::Probing, Some(MAC)));
        assert_eq!(table.tick(at(0)), [Question { hop: hop(1), station: Some(MAC) }]);
        // Another's answer before everybody is asked is none.
        table.hear(hop(1), &Claim { station: OTHER, ..ANSWER }, at(1));
        assert_eq!(table.entry(hop(1)).unwrap().mac, Some(MAC));
        table.tick(at(1_000));
        table.tick(at(2_000));
        table.hear(hop(1), &Claim { station: OTHER, ..ANSWER }, at(2_001));
        assert_eq!(table.entry(hop(1)).unwrap().mac, Some(OTHER));
    }

    #[test]
    fn a_permanent_neighbour_stays_where_the_configuration_says() {
        let mut table = NeighborTable::default();
        table.fix(&[(hop(1), MAC)].into(), at(0));
        assert!(header(&mut table).is_some());
        for millis in (0..120_000).step_by(500) {
            table.hear(hop(1), &Claim { station: OTHER, ..ANSWER }, at(millis));
            assert_eq!(table.tick(at(millis)), []);
        }
        let entry = table.entry(hop(1)).unwrap();
        assert_eq!((entry.standing, entry.mac), (Standing::Permanent, Some(MAC)));
        assert_eq!(table.take_settled().len(), 2, "once a minute");
        // No longer: it is asked for like others.
        table.fix(&BTreeMap::new(), at(120_000));
        assert_eq!(table.tick(at(120_000)), [Question { hop: hop(1), station: Some(MAC) }]);
    }

    #[test]
    fn strangers_have_bounded_places_and_gateways_always_one() {
        let far = |n: u32| NextHop { port: PortId(0), address: Ipv4Addr::from_bits(0x0b00_0000 + n).into() };
        let mut table = NeighborTable::default();
        // Of a scan of a /14 nobody answers, but somebody good does now and then.
        for n in 0..200_000_u32 {
            let millis = u64::from(n / 100);
            table.resolve(far(n), at(millis));
            if n % 1_000 == 0 {
                table.tick(at(millis));
                table.hear(far(n), &ANSWER, at(millis));
            }
        }
        let confirmed =
            |table: &NeighborTable| table.entries().iter().filter(|entry| entry.mac.is_some()).count();
        assert_eq!(confirmed(&table), 200);
        assert!(table.entries().len() <= STRANGERS + 200, "{}", table.entries().len());
        // Strangers that are really there fill the table.
        for n in 0..CAPACITY as u32 + 100 {
            table.hear(far(1_000_000 + n), &ANSWER, at(10_000));
            table.tick(at(10_000));
            table.hear(far(1_000_000 + n), &ANSWER, at(10_000));
        }
        let gateways: HashSet<_> = (1..=99).map(hop).collect();
        table.want(gateways.clone(), at(20_000));
        assert!(gateways.iter().all(|gateway| table.entry(*gateway).is_some()));
        assert!(table.entries().len() <= CAPACITY);
    }

    #[test]
    fn strangers_are_learned_only_when_they_ask_for_us() {
        let mut table = NeighborTable::default();

        table.hear(hop(1), &ANSWER, at(0));
        assert!(table.entries().is_empty());

        table.hear(hop(1), &Claim { is_for_us: true, is_answer: false, ..ANSWER }, at(0));
        assert_eq!(table.entries().len(), 1);
    }

    #[test]
    fn advertisements_are_believed_as_far_as_they_go() {
        let said = |station, solicited, overrides| Advertised { station, solicited, overrides };
        // By the RFC's table, but for what was confirmed: what is known, what is said, what is known then.
        let reachable = |table: &mut NeighborTable| known(table);
        let unknown = |table: &mut NeighborTable| {
            table.resolve(hop(1), at(0));
            table.tick(at(0));
        };
        type Begin<'a> = &'a dyn Fn(&mut NeighborTable);
        let cases: [(Begin<'_>, Advertised, Standing, Option<Mac>); 9] = [
            (&unknown, said(None, true, true), Standing::Incomplete, None),
            (&unknown, said(Some(OTHER), true, false), Standing::Reachable, Some(OTHER)),
            (&unknown, said(Some(OTHER), false, true), Standing::Probing, Some(OTHER)),
            // Another station makes the known one doubtful, and no more.
            (&reachable, said(Some(OTHER), true, false), Standing::Probing, Some(MAC)),
            (&reachable, said(Some(OTHER), false, false), Standing::Probing, Some(MAC)),
            (&reachable, said(Some(OTHER), true, true), Standing::Probing, Some(MAC)),
            (&reachable, said(Some(OTHER), false, true), Standing::Probing, Some(MAC)),
            (&reachable, said(Some(MAC), false, true), Standing::Reachable, Some(MAC)),
            (&reachable, said(None, true, false), Standing::Reachable, Some(MAC)),
        ];
        for (number, (begin, said, standing, mac)) in cases.into_iter().enumerate() {
            let mut table = NeighborTable::default();
            begin(&mut table);
            table.hear_advertised(hop(1), &said, at(1_500));
            table.tick(at(1_500));
            let entry = table.entry(hop(1)).unwrap();
            assert_eq!((entry.standing, entry.mac), (standing, mac), "case {number}: {said:?}");
        }
        let mut table = NeighborTable::default();
        table.hear_advertised(hop(1), &said(Some(MAC), true, true), at(0));
        assert!(table.entries().is_empty(), "strangers are not learned");
    }

    #[test]
    fn a_reused_slot_voids_what_sessions_remember_and_is_the_last_resort() {
        let far = |n: u32| NextHop { port: PortId(0), address: Ipv4Addr::from_bits(0x0b00_0000 + n).into() };
        let spoke = Claim { is_for_us: true, is_answer: false, ..ANSWER };
        let mut table = NeighborTable::default();
        let moved = |table: &mut NeighborTable, millis| {
            table.take_changes(&[[2, 0, 0, 0, 0, 1]], at(millis)).map(|(_, moved)| moved)
        };
        (0..10_000).for_each(|n| table.hear(far(n), &spoke, at(0)));
        assert_eq!(moved(&mut table, 0), Some(false), "{} are kept", table.entries().len());
        (10_000..20_000).for_each(|n| table.hear(far(n), &spoke, at(0)));
        assert_eq!(moved(&mut table, 50), None, "nobody waits for strangers");
        assert_eq!(moved(&mut table, 100), Some(true));
        table.hear(far(20_000), &spoke, at(101));
        assert_eq!(moved(&mut table, 101), None);
        // A packet is for it.
        table.resolve(far(20_000), at(102));
        assert_eq!(moved(&mut table, 102), Some(true));
    }
}
