//! How many new sessions a service takes in a second, from all clients and from each source, without a record of any
//! source.
//!
//! Each rate is a generic cell rate algorithm (GCRA, ITU-T I.371): the moment up to which sessions are paid for. For sources
//! these moments stand in a sketch of four rows, as counts do in a count-min sketch (Cormode and Muthukrishnan 2005): the
//! earliest of a source's four is its own, or later. A session sets back only those that are earlier than it (conservative update),
//! and one that is refused sets back none. So a source that keeps its rate is wronged only if in each row another that has
//! used up its own shares its cell: with 1,000 of those one in a million.
//!
//! Sources that break their rate are remembered, the most frequent ones (Space-Saving, Metwally et al. 2005, in buckets).

use super::Director;
use super::budget::Budget;
use super::side::HasSide;
use crate::clock::Instant;
use crate::drop::DropReason;
use crate::flow::{Endpoint, FlowHasher, FlowKey6, Key, Protocol};
use crate::ids::{MAX_SERVICES, ServiceId};
use crate::network::Network;
use crate::snapshot::{NewSessions, Service};
use crate::wire::Packet;
use std::collections::VecDeque;
use std::net::IpAddr;

const ROWS: usize = 4;
const CELL_BITS: u32 = 15;
const CELLS: usize = 1 << CELL_BITS;
/// Sources that are remembered: buckets of so many.
const BUCKETS: usize = 128;
const TALKERS: usize = 8;
/// Sources that wait until control is told of them.
const TOLD: usize = 16;
const SECOND: u64 = 1_000_000_000;

/// A source that broke its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talker {
    /// Whose.
    pub service: ServiceId,
    /// The source.
    pub source: Network,
    /// Sessions that it was refused of late, as those before the last question count for half, and so on: never fewer than
    /// there were, and at most as many more as the bucket's least had.
    pub refused: u64,
}

/// Sources of a worker that are told to control in a second, to be banned.
const TOLD_A_SECOND: u64 = 100;
/// A source is banned when of late it was refused as much as it may have in a second, and so often at least.
const LEAST_REFUSED: u64 = 8;

/// Where a source is remembered.
#[derive(Clone, Copy, Debug)]
struct Place {
    talker: Talker,
    /// What of its count may be another's, whose place it took.
    inherited: u64,
}

/// The rates of one worker; 2.2 MB of which only what is used takes memory.
#[derive(Debug)]
pub(super) struct Rates {
    hasher: FlowHasher,
    /// The sketch of sources that anybody can pretend to be, and that of sources that proved themselves: floods of the one must
    /// not reach the other.
    cells: [Vec<u64>; 2],
    services: Vec<u64>,
    talkers: Vec<Option<Place>>,
    /// Sources that are to be banned.
    offenders: VecDeque<(ServiceId, Network)>,
    told: Budget,
}

impl Rates {
    pub(super) fn new(hasher: FlowHasher) -> Self {
        Self {
            hasher,
            // Zeroed memory that nobody wrote to is none.
            cells: [vec![0; ROWS * CELLS], vec![0; ROWS * CELLS]],
            services: vec![0; MAX_SERVICES],
            talkers: vec![None; BUCKETS * TALKERS],
            offenders: VecDeque::with_capacity(TOLD),
            told: Budget::new(TOLD_A_SECOND, TOLD as u64),
        }
    }

    /// The places of a source's cells.
    fn places(hash: u64) -> [usize; ROWS] {
        std::array::from_fn(|row| row * CELLS + (hash >> (row as u32 * CELL_BITS)) as usize % CELLS)
    }

    /// The moment up to which a source has paid, or later.
    fn paid_until(&self, limit: &NewSessions, hash: u64) -> u64 {
        let cells = &self.cells[usize::from(limit.bans)];
        Self::places(hash).map(|at| cells[at]).into_iter().min().unwrap_or(0)
    }

    /// Why a session is too much; `None` if it is not.
    fn exceeds(&self, service: &Service, limit: &NewSessions, hash: u64, now: Instant) -> Option<DropReason> {
        let is_over = |paid: u64, each: u64, burst: u64| {
            each > 0 && after(paid, each, now) > now.nanos() + burst.max(each)
        };
        let of_service = self.services[service.id.0 as usize];
        if is_over(self.paid_until(limit, hash), limit.each_of_source, limit.burst_of_source) {
            return Some(DropReason::SourceRate);
        }
        is_over(of_service, limit.each, limit.burst).then_some(DropReason::ServiceRate)
    }

    /// Pays for a session.
    fn pay(&mut self, service: &Service, limit: &NewSessions, hash: u64, now: Instant) {
        if limit.each > 0 {
            let paid = &mut self.services[service.id.0 as usize];
            *paid = after(*paid, limit.each, now);
        }
        if limit.each_of_source > 0 {
            let until = after(self.paid_until(limit, hash), limit.each_of_source, now);
            let cells = &mut self.cells[usize::from(limit.bans)];
            for at in Self::places(hash) {
                cells[at] = cells[at].max(until);
            }
        }
    }

    /// Remembers a source that broke its rate; returns how often it did of late.
    fn note(&mut self, hash: u64, service: ServiceId, source: Network) -> u64 {
        let first = (hash >> 57) as usize % BUCKETS * TALKERS;
        let bucket = &mut self.talkers[first..first + TALKERS];
        let is_same = |place: &Option<Place>| {
            place.is_some_and(|place| (place.talker.service, place.talker.source) == (service, source))
        };
        let refused = |place: &Option<Place>| place.map_or(0, |place| place.talker.refused);
        let known = bucket.iter().position(is_same);
        let least = (0..TALKERS).min_by_key(|at| refused(&bucket[*at]));
        let Some(at) = known.or(least) else { return 0 };
        // Another takes the place and the count of the one with the fewest.
        let before = refused(&bucket[at]);
        let inherited = match (known, bucket[at]) {
            (Some(_), Some(place)) => place.inherited,
            _ => before,
        };
        bucket[at] = Some(Place { talker: Talker { service, source, refused: before + 1 }, inherited });
        before + 1 - inherited
    }

    /// Tells of a source that came far too often.
    fn tell(&mut self, service: ServiceId, source: Network, now: Instant) {
        let offender = (service, source);
        if self.offenders.len() < TOLD && !self.offenders.contains(&offender) && self.told.take(now) {
            self.offenders.push_back(offender);
        }
    }
}

/// The moment up to which one more is paid for.
fn after(paid: u64, each: u64, now: Instant) -> u64 {
    paid.max(now.nanos()) + each
}

impl Director {
    /// Whether a new session of a service is too much for its limits, and why; nothing changes.
    pub(super) fn exceeds_rate<K: Key>(
        &self,
        service: &Service,
        packet: &Packet<K>,
        now: Instant,
    ) -> Option<DropReason> {
        let limit = service.options.new_sessions.as_ref()?;
        let (_, hash) = self.rates.source(service.id, limit, packet.source());
        self.rates.exceeds(service, limit, hash, now)
    }

    /// Pays for a new session of a service with limits.
    ///
    /// # Errors
    /// When it is too much.
    #[inline(never)]
    pub(super) fn pay_for_session<K: HasSide>(
        &mut self,
        service: &Service,
        limit: &NewSessions,
        packet: &Packet<K>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let (source, hash) = self.rates.source(service.id, limit, packet.source());
        let Some(reason) = self.rates.exceeds(service, limit, hash, now) else {
            self.rates.pay(service, limit, hash, now);
            return Ok(());
        };
        if reason == DropReason::SourceRate {
            let refused = self.rates.note(hash, service.id, source);
            let many = (SECOND / limit.each_of_source).max(LEAST_REFUSED);
            if limit.bans && refused >= many {
                self.rates.tell(service.id, source, now);
            }
        }
        Err(reason)
    }

    /// A source that is to be banned, because it broke the rate of a service that wants that.
    pub fn next_offender(&mut self) -> Option<(ServiceId, Network)> {
        self.rates.offenders.pop_front()
    }

    /// The sources that broke their rates, in no order. What each was refused counts for half from now on, so that those who
    /// stopped are forgotten.
    pub fn take_talkers(&mut self) -> impl Iterator<Item = Talker> {
        self.rates.talkers.iter_mut().filter_map(|place| {
            let Place { talker, inherited } = (*place)?;
            let (refused, inherited) = (talker.refused / 2, inherited / 2);
            *place = (refused > 0).then_some(Place { talker: Talker { refused, ..talker }, inherited });
            Some(talker)
        })
    }
}

impl Rates {
    /// The source that an address counts for, and its hash.
    fn source(&self, service: ServiceId, limit: &NewSessions, address: IpAddr) -> (Network, u64) {
        let prefix_len = if address.is_ipv4() { limit.prefix4 } else { limit.prefix6 };
        let base = Network { address, prefix_len }.base();
        let end = |l4_port| Endpoint::new(base, l4_port);
        let key = FlowKey6::new(Protocol::Tcp, end(service.0 as u16), end((service.0 >> 16) as u16));
        (Network { address: base, prefix_len }, self.hasher.hash(key))
    }
}
