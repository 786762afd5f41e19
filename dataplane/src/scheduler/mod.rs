//! Choose a real server for a new session.
//!
//! Pure: no clock, no I/O, no allocation after build. Health is already folded
//! into the weights, so a server with weight 0 is never chosen here.
//!
//! Sequences are those of kernel IPVS, which looks at servers in the reverse of
//! the order in which they were added.

mod maglev;
mod table;

pub use table::SlotTable;

use crate::flow::Endpoint;
use std::net::IpAddr;

/// How a service spreads new sessions; LVS's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// Round robin.
    RoundRobin,
    /// Weighted round robin.
    WeightedRoundRobin,
    /// Least connections.
    LeastConnection,
    /// Weighted least connections.
    WeightedLeastConnection,
    /// Hashing of the client's address over slots that are given out in turn.
    SourceHashing,
    /// The same of the address that the client asks for.
    DestinationHashing,
    /// Shortest expected delay: fewest active sessions, the new one counted, for the weight.
    ShortestExpectedDelay,
    /// Never queue: an idle server if there is one, else shortest expected delay.
    NeverQueue,
    /// Maglev hashing of the client's address.
    Maglev,
    /// Consistent hashing of the client's address on a ring.
    ConsistentHashing,
    /// Weighted failover: the heaviest.
    FailOver,
    /// Overflow: the heaviest that has fewer active sessions than its weight.
    Overflow,
    /// The less loaded of two, drawn by weight (Mitzenmacher, 2001).
    TwoChoices,
}

impl Scheduler {
    /// Every scheduler.
    pub const ALL: [Self; 13] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnection,
        Self::WeightedLeastConnection,
        Self::SourceHashing,
        Self::DestinationHashing,
        Self::ShortestExpectedDelay,
        Self::NeverQueue,
        Self::Maglev,
        Self::ConsistentHashing,
        Self::FailOver,
        Self::Overflow,
        Self::TwoChoices,
    ];

    /// The name in configuration and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::LeastConnection => "lc",
            Self::WeightedLeastConnection => "wlc",
            Self::SourceHashing => "sh",
            Self::DestinationHashing => "dh",
            Self::ShortestExpectedDelay => "sed",
            Self::NeverQueue => "nq",
            Self::Maglev => "mh",
            Self::ConsistentHashing => "conhash",
            Self::FailOver => "fo",
            Self::Overflow => "ovf",
            Self::TwoChoices => "twos",
        }
    }

    /// Whether it looks servers up in a [`SlotTable`].
    pub const fn has_table(self) -> bool {
        use Scheduler::{ConsistentHashing, DestinationHashing, Maglev, SourceHashing};
        matches!(self, SourceHashing | DestinationHashing | Maglev | ConsistentHashing)
    }

    /// The table for servers with these endpoints and weights; `None` when the scheduler needs none, or
    /// when all weights are 0. The same servers and the same `seed` give the same table on every node.
    ///
    /// # Panics
    /// When there are 65,535 servers or more.
    pub fn table(self, servers: &[(Endpoint, u32)], seed: u64) -> Option<SlotTable> {
        match self {
            Self::SourceHashing | Self::DestinationHashing => SlotTable::in_turn(servers, seed),
            Self::Maglev => SlotTable::maglev(servers, seed),
            Self::ConsistentHashing => SlotTable::ring(servers, seed),
            _ => None,
        }
    }
}

/// What a scheduler must know of a service's real servers, by their place in its list.
pub trait Candidates {
    /// How many there are.
    fn len(&self) -> usize;
    /// A server's share; 0 takes no new sessions.
    fn weight(&self, at: usize) -> u32;
    /// A server's active sessions.
    fn active(&self, at: usize) -> u64;
    /// A server's load for lc and wlc: 256 for each active session, 1 for each other.
    fn load(&self, at: usize) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What of a flow a scheduler may look at.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Who asks.
    pub client: Endpoint,
    /// Whom the client asks.
    pub vip: IpAddr,
    /// A number that is different for every flow, all bits well mixed.
    pub random: u64,
}

/// What changes the hashing schedulers; `ipvsadm`'s scheduler flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The client's port is hashed too.
    pub port: bool,
    /// When the server that was found takes no more, others are tried.
    pub fallback: bool,
}

/// Where a service's round stands; owned by one worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// Places passed in the current round.
    position: u32,
    /// wrr: the weight that a server must have in this round; 0 before the first.
    level: u32,
    /// Where the first round begins, in shares of 1/65,536 of it; 0 afterwards.
    stagger: u16,
}

impl Cursor {
    /// Where a worker's first round begins, so that the workers do not all begin with the same server:
    /// the first of them as the kernel does.
    pub fn of_worker(worker: usize, workers: usize) -> Self {
        Self { stagger: (worker * 65_536 / workers) as u16, ..Self::default() }
    }

    /// Begins the first round, over `count` servers.
    #[inline]
    fn begin(&mut self, count: usize) {
        if self.stagger != 0 {
            self.position = (count * usize::from(self.stagger) / 65_536) as u32;
            self.stagger = 0;
        }
    }
}

/// The place of the next real server. `None` when all weights are 0, or when every server is full
/// that the scheduler may choose.
///
/// `table` must be the one built for these servers; only schedulers that have one read it.
#[inline]
pub fn choose<S: Candidates>(
    (scheduler, flags): (Scheduler, Flags),
    servers: &S,
    table: Option<&SlotTable>,
    cursor: &mut Cursor,
    flow: &Flow,
) -> Option<usize> {
    use Scheduler::{LeastConnection, NeverQueue, ShortestExpectedDelay, WeightedLeastConnection};
    match scheduler {
        Scheduler::RoundRobin => round_robin(servers, cursor),
        Scheduler::WeightedRoundRobin => weighted_round_robin(servers, cursor),
        LeastConnection => least(servers, |at| (servers.load(at), 1)),
        WeightedLeastConnection => least(servers, |at| (servers.load(at), servers.weight(at))),
        ShortestExpectedDelay => shortest_expected_delay(servers),
        NeverQueue => {
            let is_idle = |at: &usize| servers.weight(*at) > 0 && servers.active(*at) == 0;
            let idle = (0..servers.len()).rev().find(is_idle);
            idle.or_else(|| shortest_expected_delay(servers))
        }
        Scheduler::DestinationHashing => by_hash(servers, table?, flags, flow.vip, 0),
        Scheduler::SourceHashing | Scheduler::Maglev | Scheduler::ConsistentHashing => {
            let l4_port = if flags.port { flow.client.l4_port } else { 0 };
            by_hash(servers, table?, flags, flow.client.address, l4_port)
        }
        Scheduler::FailOver => heaviest(servers, |_| true),
        Scheduler::Overflow => heaviest(servers, |at| servers.active(at) < u64::from(servers.weight(at))),
        Scheduler::TwoChoices => two_choices(servers, flow.random),
    }
}

/// Tries of a hashing scheduler whose server is full.
const FALLBACK_TRIES: u32 = 64;

fn by_hash<S: Candidates>(
    servers: &S,
    table: &SlotTable,
    flags: Flags,
    address: IpAddr,
    l4_port: u16,
) -> Option<usize> {
    let tries = if flags.fallback { FALLBACK_TRIES } else { 1 };
    // A table may be older than a server's last weight.
    (0..tries).map(|attempt| table.lookup(address, l4_port, attempt)).find(|at| servers.weight(*at) > 0)
}

/// The heaviest server that `takes` a session, the last added of equals.
fn heaviest<S: Candidates>(servers: &S, takes: impl Fn(usize) -> bool) -> Option<usize> {
    let all = (0..servers.len()).filter(|at| servers.weight(*at) > 0 && takes(*at));
    all.max_by_key(|at| servers.weight(*at))
}

fn shortest_expected_delay<S: Candidates>(servers: &S) -> Option<usize> {
    least(servers, |at| (servers.active(at) + 1, servers.weight(at)))
}

fn two_choices<S: Candidates>(servers: &S, random: u64) -> Option<usize> {
    let total: u64 = (0..servers.len()).map(|at| u64::from(servers.weight(at))).sum();
    let draw = |random: u64| {
        let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        (0..servers.len()).find(|at| {
            let weight = u64::from(servers.weight(*at));
            let is_here = left < weight;
            left = left.saturating_sub(weight);
            is_here
        })
    };
    let (one, other) = (draw(random)?, draw(random.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32))?);
    let cost = |at: usize| (u128::from(servers.load(at)), u128::from(servers.weight(at)));
    let ((load, weight), (other_load, other_weight)) = (cost(one), cost(other));
    Some(if other_load * weight < load * other_weight { other } else { one })
}

fn round_robin<S: Candidates>(servers: &S, cursor: &mut Cursor) -> Option<usize> {
    let count = servers.len();
    cursor.begin(count);
    for _ in 0..count {
        if cursor.position as usize >= count {
            cursor.position = 0;
        }
        let at = count - 1 - cursor.position as usize;
        cursor.position += 1;
        if servers.weight(at) > 0 {
            return Some(at);
        }
    }
    None
}

/// Rounds at falling levels: in each, every server whose weight reaches the level is
/// chosen once. The level falls by the greatest common divisor of the weights and
/// starts again from the largest; the very first round is the lowest.
fn weighted_round_robin<S: Candidates>(servers: &S, cursor: &mut Cursor) -> Option<usize> {
    let count = servers.len();
    let (mut step, mut largest) = (0, 0);
    for at in 0..count {
        step = greatest_common_divisor(step, servers.weight(at));
        largest = largest.max(servers.weight(at));
    }
    if largest == 0 {
        return None;
    }
    cursor.begin(count);
    if cursor.level == 0 || cursor.level > largest {
        cursor.level = step;
    }
    // The largest weight reaches every level, so a server is found within two rounds.
    for _ in 0..=count * 2 {
        if cursor.position as usize >= count {
            cursor.position = 0;
            cursor.level = if cursor.level > step { cursor.level - step } else { largest };
        }
        let at = count - 1 - cursor.position as usize;
        cursor.position += 1;
        if servers.weight(at) >= cursor.level {
            return Some(at);
        }
    }
    None
}

/// The server of which load by share is the least, the last added of equals; `cost` gives both.
fn least<S: Candidates>(servers: &S, cost: impl Fn(usize) -> (u64, u32)) -> Option<usize> {
    let mut best: Option<(usize, u64, u32)> = None;
    for at in (0..servers.len()).rev() {
        if servers.weight(at) == 0 {
            continue;
        }
        let (load, share) = cost(at);
        // load / share < best_load / best_share, without dividing.
        let better = best.is_none_or(|(_, best_load, best_share)| {
            u128::from(load) * u128::from(best_share) < u128::from(best_load) * u128::from(share)
        });
        if better {
            best = Some((at, load, share));
        }
    }
    best.map(|(at, ..)| at)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn flow(number: u32) -> Flow {
        let client = Endpoint::new(Ipv4Addr::from_bits(0xc633_0000 + number), number as u16);
        let random = (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Flow { client, vip: Ipv4Addr::new(192, 0, 2, 10).into(), random }
    }

    struct Server {
        weight: u32,
        sessions: u64,
    }

    impl Candidates for Vec<Server> {
        fn len(&self) -> usize {
            self.as_slice().len()
        }

        fn weight(&self, at: usize) -> u32 {
            self[at].weight
        }

        fn active(&self, at: usize) -> u64 {
            self[at].sessions
        }

        fn load(&self, at: usize) -> u64 {
            self[at].sessions * 256
        }
    }

    /// The first `count` choices, servers numbered from 1, each keeping its sessions.
    fn sequence(scheduler: Scheduler, weights: &[u32], count: usize) -> String {
        let mut servers: Vec<_> =
            weights.iter().map(|weight| Server { weight: *weight, sessions: 0 }).collect();
        let mut cursor = Cursor::default();
        let mut text = String::new();
        for _ in 0..count {
            match choose((scheduler, Flags::default()), &servers, None, &mut cursor, &flow(0)) {
                Some(at) => {
                    servers[at].sessions += 1;
                    text.push_str(&(at + 1).to_string());
                }
                None => text.push('-'),
            }
        }
        text
    }

    #[test]
    fn sequences_are_the_kernels() {
        assert_eq!(sequence(Scheduler::RoundRobin, &[5, 3, 1], 6), "321321");
        assert_eq!(sequence(Scheduler::WeightedRoundRobin, &[5, 3, 1], 18), "321112121321112121");
        assert_eq!(sequence(Scheduler::WeightedRoundRobin, &[4, 2], 6), "211211");
        assert_eq!(sequence(Scheduler::WeightedLeastConnection, &[5, 3, 1], 9), "321121121");
        assert_eq!(sequence(Scheduler::LeastConnection, &[5, 3, 1], 6), "321321");
        assert_eq!(sequence(Scheduler::ShortestExpectedDelay, &[5, 3, 1], 9), "121121321");
        assert_eq!(sequence(Scheduler::NeverQueue, &[5, 3, 1], 12), "321112121121");
    }

    #[test]
    fn failover_and_overflow_take_the_heaviest_first() {
        assert_eq!(sequence(Scheduler::FailOver, &[1, 3, 2], 4), "2222");
        assert_eq!(sequence(Scheduler::Overflow, &[1, 3, 2], 8), "222331--");
    }

    #[test]
    fn on_a_ring_losing_a_server_moves_only_its_own_clients() {
        let endpoints = |count: u8| -> Vec<_> {
            (0..count).map(|at| (Endpoint::new(Ipv4Addr::new(10, 0, 0, at), 80), 1)).collect()
        };
        let [before, after] = [10, 9].map(|count| Scheduler::ConsistentHashing.table(&endpoints(count), 0));
        let (before, after) = (before.unwrap(), after.unwrap());
        let moved = (0..1_000)
            .map(|number| flow(number).client.address)
            .filter(|client| {
                let old = before.lookup(*client, 0, 0);
                old != 9 && old != after.lookup(*client, 0, 0)
            })
            .count();
        assert!(moved < 20, "{moved} of 1,000 clients moved between servers that stayed");
    }

    #[test]
    fn of_two_choices_the_less_loaded_is_taken() {
        let servers = vec![Server { weight: 1, sessions: 10 }, Server { weight: 1, sessions: 0 }];
        let kind = (Scheduler::TwoChoices, Flags::default());
        let idle = (0..1_000)
            .filter(|number| choose(kind, &servers, None, &mut Cursor::default(), &flow(*number)) == Some(1))
            .count();
        // Both draws meet the loaded one a quarter of the time.
        assert!((650..850).contains(&idle), "{idle}");
    }

    /// How often each server is chosen for a thousand flows that leave again at once.
    fn shares(scheduler: Scheduler, flags: Flags, weights: &[u32]) -> Vec<u32> {
        let servers: Vec<_> = weights.iter().map(|weight| Server { weight: *weight, sessions: 0 }).collect();
        let endpoints: Vec<_> = (0..weights.len())
            .map(|at| (Endpoint::new(Ipv4Addr::new(10, 0, 0, at as u8), 80), weights[at]))
            .collect();
        let table = scheduler.table(&endpoints, 0);
        let mut counts = vec![0; weights.len()];
        for number in 0..1_000 {
            let mut cursor = Cursor::default();
            let at =
                choose((scheduler, flags), &servers, table.as_ref(), &mut cursor, &flow(number)).unwrap();
            counts[at] += 1;
        }
        counts
    }

    #[test]
    fn hashing_and_drawing_follow_the_weights() {
        use Scheduler::{ConsistentHashing, Maglev, SourceHashing, TwoChoices};
        for scheduler in [SourceHashing, Maglev, ConsistentHashing, TwoChoices] {
            let counts = shares(scheduler, Flags::default(), &[4, 3, 2, 0, 1]);
            for (count, weight) in counts.iter().zip([4, 3, 2, 0, 1]) {
                assert!(count.abs_diff(weight * 100) <= 60, "{scheduler:?}: {counts:?}");
            }
        }
        assert_eq!(
            shares(Scheduler::DestinationHashing, Flags::default(), &[1, 1]).iter().max(),
            Some(&1_000)
        );
    }

    #[test]
    fn a_client_s_port_is_hashed_when_that_is_asked_for() {
        let servers: Vec<_> = (0..8).map(|_| Server { weight: 1, sessions: 0 }).collect();
        let endpoints: Vec<_> =
            (0..8).map(|at| (Endpoint::new(Ipv4Addr::new(10, 0, 0, at), 80), 1)).collect();
        for scheduler in [Scheduler::Maglev, Scheduler::SourceHashing] {
            let table = scheduler.table(&endpoints, 0);
            let seen = |port: bool| {
                let flags = Flags { port, ..Flags::default() };
                let of = |l4_port: u16| {
                    let client = Endpoint { l4_port, ..flow(1).client };
                    let flow = Flow { client, ..flow(1) };
                    choose((scheduler, flags), &servers, table.as_ref(), &mut Cursor::default(), &flow)
                };
                (0..200).map(of).collect::<std::collections::HashSet<_>>().len()
            };
            assert_eq!((seen(false), seen(true)), (1, 8), "{scheduler:?}");
        }
    }

    #[test]
    fn a_full_server_s_clients_go_elsewhere_only_with_fallback() {
        let endpoints: Vec<_> =
            (0..4).map(|at| (Endpoint::new(Ipv4Addr::new(10, 0, 0, at), 80), 1)).collect();
        let table = Scheduler::Maglev.table(&endpoints, 0);
        // The second was full when it was asked; the table still has it.
        let servers: Vec<_> = [1, 0, 1, 1].map(|weight| Server { weight, sessions: 0 }).into();
        let refused = |fallback| {
            let flags = Flags { fallback, ..Flags::default() };
            let choose = |number| {
                choose(
                    (Scheduler::Maglev, flags),
                    &servers,
                    table.as_ref(),
                    &mut Cursor::default(),
                    &flow(number),
                )
            };
            (0..400).filter(|number| choose(*number).is_none()).count()
        };
        assert!((60..140).contains(&refused(false)), "{}", refused(false));
        assert_eq!(refused(true), 0);
    }

    #[test]
    fn workers_begin_their_rounds_at_different_servers() {
        let servers: Vec<_> = (0..8).map(|_| Server { weight: 1, sessions: 0 }).collect();
        for scheduler in [Scheduler::RoundRobin, Scheduler::WeightedRoundRobin] {
            let mut first = [0; 8];
            for worker in 0..4 {
                let mut cursor = Cursor::of_worker(worker, 4);
                for _ in 0..2 {
                    let at =
                        choose((scheduler, Flags::default()), &servers, None, &mut cursor, &flow(0)).unwrap();
                    first[at] += 1;
                }
            }
            assert_eq!(first, [1; 8], "{scheduler:?}: eight sessions on four workers");
        }
    }

    #[test]
    fn weight_zero_is_never_chosen() {
        for scheduler in
            [Scheduler::RoundRobin, Scheduler::WeightedRoundRobin, Scheduler::WeightedLeastConnection]
        {
            assert_eq!(sequence(scheduler, &[0, 2, 0], 4), "2222", "{scheduler:?}");
            assert_eq!(sequence(scheduler, &[0, 0], 2), "--", "{scheduler:?}");
            assert_eq!(sequence(scheduler, &[], 2), "--", "{scheduler:?}");
        }
    }

    #[test]
    fn wrr_survives_a_change_of_weights_in_mid_round() {
        let mut cursor = Cursor::default();
        let heavy = vec![Server { weight: 100, sessions: 0 }, Server { weight: 50, sessions: 0 }];
        for _ in 0..7 {
            choose((Scheduler::WeightedRoundRobin, Flags::default()), &heavy, None, &mut cursor, &flow(0));
        }
        let light = vec![Server { weight: 1, sessions: 0 }];

        let chosen =
            choose((Scheduler::WeightedRoundRobin, Flags::default()), &light, None, &mut cursor, &flow(0));

        assert_eq!(chosen, Some(0));
    }
}
