//! Choose a real server for a new session.
//!
//! Pure: no clock, no I/O, no allocation after build. Health is already folded
//! into the weights, so a server with weight 0 is never chosen here.
//!
//! Sequences are those of kernel IPVS, which looks at servers in the reverse of
//! the order in which they were added.

mod maglev;

pub use maglev::MaglevTable;

use std::net::IpAddr;

/// How a service spreads new sessions; LVS's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheduler {
    /// Round robin.
    RoundRobin,
    /// Weighted round robin.
    WeightedRoundRobin,
    /// Weighted least connections.
    WeightedLeastConnection,
    /// Maglev hashing of the client's address.
    Maglev,
}

impl Scheduler {
    /// Every scheduler of this version.
    pub const ALL: [Self; 4] =
        [Self::RoundRobin, Self::WeightedRoundRobin, Self::WeightedLeastConnection, Self::Maglev];

    /// The name in configuration and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::WeightedLeastConnection => "wlc",
            Self::Maglev => "mh",
        }
    }
}

/// What a scheduler must know of a service's real servers, by their place in its list.
pub trait Candidates {
    /// How many there are.
    fn len(&self) -> usize;
    /// A server's share; 0 takes no new sessions.
    fn weight(&self, at: usize) -> u32;
    /// A server's load for wlc: 256 for each active session, 1 for each other.
    fn load(&self, at: usize) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
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

/// The place of the next real server. `None` when all weights are 0.
///
/// `maglev` must be the table built for these servers; only `mh` reads it.
#[inline]
pub fn choose<S: Candidates>(
    scheduler: Scheduler,
    servers: &S,
    maglev: Option<&MaglevTable>,
    cursor: &mut Cursor,
    client: IpAddr,
) -> Option<usize> {
    match scheduler {
        Scheduler::RoundRobin => round_robin(servers, cursor),
        Scheduler::WeightedRoundRobin => weighted_round_robin(servers, cursor),
        Scheduler::WeightedLeastConnection => weighted_least_connection(servers),
        Scheduler::Maglev => maglev?.lookup(client),
    }
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

fn weighted_least_connection<S: Candidates>(servers: &S) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    for at in (0..servers.len()).rev() {
        let (load, weight) = (servers.load(at), u64::from(servers.weight(at)));
        if weight == 0 {
            continue;
        }
        // load / weight < best_load / best_weight, without dividing.
        let better = best.is_none_or(|(_, best_load, best_weight)| {
            u128::from(load) * u128::from(best_weight) < u128::from(best_load) * u128::from(weight)
        });
        if better {
            best = Some((at, load, weight));
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

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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
            match choose(scheduler, &servers, None, &mut cursor, CLIENT) {
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
        assert_eq!(sequence(Scheduler::WeightedLeastConnection, &[5, 3, 1], 9), "321121121");
    }

    #[test]
    fn workers_begin_their_rounds_at_different_servers() {
        let servers: Vec<_> = (0..8).map(|_| Server { weight: 1, sessions: 0 }).collect();
        for scheduler in [Scheduler::RoundRobin, Scheduler::WeightedRoundRobin] {
            let mut first = [0; 8];
            for worker in 0..4 {
                let mut cursor = Cursor::of_worker(worker, 4);
                for _ in 0..2 {
                    let at = choose(scheduler, &servers, None, &mut cursor, CLIENT).unwrap();
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
            choose(Scheduler::WeightedRoundRobin, &heavy, None, &mut cursor, CLIENT);
        }
        let light = vec![Server { weight: 1, sessions: 0 }];

        let chosen = choose(Scheduler::WeightedRoundRobin, &light, None, &mut cursor, CLIENT);

        assert_eq!(chosen, Some(0));
    }
}
