//! Who gets how much: from weights, health, places and load to what schedulers use.
//!
//! Pure. A service's servers stand in tiers by where they are: the director's own zone, its region, the rest.
//! A tier keeps all of its traffic as long as enough of it is healthy, and passes the rest on (as VIPServer and
//! Envoy do). When too few servers are healthy in all, health is no longer believed and all are used
//! (Nacos's protectThreshold, evaluated after spilling), until clearly more are.

use crate::config::{Policy, Weight};
use crate::health::Health;

/// How many tiers there are: the same zone, the same region, the rest.
pub const TIERS: usize = 3;
/// The tiers' names.
pub const TIER_NAMES: [&str; TIERS] = ["zone", "region", "rest"];

/// One server of a service, as far as its share is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// What the operator gave it.
    pub weight: Weight,
    /// Its tier, from 0.
    pub tier: usize,
    /// What checks say.
    pub health: Health,
    /// Slow start: how much of its weight it has reached, up to 1.
    pub ramp: f64,
    /// Overload protection: how much of its weight its load leaves, up to 1.
    pub relief: f64,
    /// Whether it serves only when no other does.
    pub is_sorry: bool,
}

/// What the operator decided about a service for a while, against what is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switch {
    /// One tier alone.
    Tier(usize),
    /// Every server, whatever checks say, as in protection.
    All,
    /// These servers alone, by their places, whatever checks say.
    Servers(Vec<usize>),
}

/// One tier.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TierPicture {
    /// Servers with a weight.
    pub servers: usize,
    /// Those that are up.
    pub healthy: usize,
    /// The share of the traffic that goes there.
    pub share: f64,
}

/// What comes out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// The weights that schedulers use, server by server.
    pub weights: Vec<u32>,
    /// Whether too few are healthy, so that all are used.
    pub protected: bool,
    /// Whether the sorry server serves.
    pub sorry: bool,
    /// The tiers.
    pub tiers: [TierPicture; TIERS],
}

/// The picture of a service. `was_protected` is what it was before; with `whole` weights keep their size, because
/// the scheduler takes them as numbers of sessions.
pub fn balance(
    candidates: &[Candidate],
    policy: &Policy,
    was_protected: bool,
    switch: Option<&Switch>,
    whole: bool,
) -> Picture {
    let mut picture = Picture { weights: vec![0; candidates.len()], ..Picture::default() };
    let weighted = |server: &Candidate| !server.is_sorry && server.weight > Weight::ZERO;
    // By weight, so that ten small servers do not outvote a large one.
    let (mut all, mut healthy, mut unknown) = ([0.0; TIERS], [0.0; TIERS], 0.0);
    for server in candidates.iter().filter(|server| weighted(server)) {
        let tier = &mut picture.tiers[server.tier];
        tier.servers += 1;
        let weight = server.weight.value();
        all[server.tier] += weight;
        match server.health {
            Health::Up => {
                tier.healthy += 1;
                healthy[server.tier] += weight;
            }
            Health::Down => {}
            Health::Checking => unknown += weight,
        }
    }
    let (total, up): (f64, f64) = (all.iter().sum(), healthy.iter().sum());
    let has_sorry = candidates.iter().any(|server| server.is_sorry && server.weight > Weight::ZERO);
    picture.sorry = has_sorry && up == 0.0 && unknown == 0.0 && switch.is_none();
    let protects = || policy.protects(up, total, unknown, was_protected);
    picture.protected = !picture.sorry && switch.is_none() && protects();

    let is_used = |at: usize, server: &Candidate| match switch {
        _ if picture.sorry => server.is_sorry,
        Some(Switch::All) => weighted(server),
        Some(Switch::Servers(list)) => list.contains(&at) && server.weight > Weight::ZERO,
        // A tier of which nobody is up is used whole: the operator says that it serves.
        Some(Switch::Tier(tier)) => {
            let dead = picture.tiers[*tier].healthy == 0;
            weighted(server) && server.tier == *tier && (dead || server.health == Health::Up)
        }
        None => weighted(server) && (picture.protected || server.health == Health::Up),
    };
    let by_tiers = switch.is_none() && !picture.protected && !picture.sorry;
    let shares = if by_tiers { shares(&all, &healthy, policy.spill_below) } else { [1.0; TIERS] };
    let alone = shares.iter().filter(|share| **share > 0.0).count() <= 1;
    let effective: Vec<f64> = candidates
        .iter()
        .enumerate()
        .map(|(at, server)| {
            if !is_used(at, server) {
                return 0.0;
            }
            // What is said about one server is not believed when too little is believed.
            let believed = if picture.protected { 1.0 } else { server.ramp * server.relief };
            let of_tier = match by_tiers {
                true if alone => f64::from(u8::from(shares[server.tier] > 0.0)),
                true => shares[server.tier] / healthy[server.tier],
                false => 1.0,
            };
            server.weight.value() * believed * of_tier
        })
        .collect();
    let sum: f64 = effective.iter().sum();
    for (server, weight) in candidates.iter().zip(&effective).filter(|(server, _)| !server.is_sorry) {
        picture.tiers[server.tier].share += if sum > 0.0 { weight / sum } else { 0.0 };
    }
    picture.weights = scale(&effective, whole);
    picture
}

impl Policy {
    /// Whether too few are healthy, by weights. Servers of which nothing is known yet are no sign of trouble, but
    /// neither of its end.
    fn protects(&self, up: f64, total: f64, unknown: f64, was_protected: bool) -> bool {
        let Some(threshold) = self.protect_threshold else { return false };
        let known = total - unknown;
        let leave = (threshold + self.protect_hysteresis).min(1.0);
        known > 0.0 && (up <= threshold * known || was_protected && up < leave * total)
    }
}

/// Each tier's share of the traffic: what it is able to take of what those before it left.
fn shares(all: &[f64; TIERS], healthy: &[f64; TIERS], spill_below: f64) -> [f64; TIERS] {
    let mut left = 1.0;
    let mut shares = [0.0; TIERS];
    for (at, share) in shares.iter_mut().enumerate() {
        if healthy[at] > 0.0 {
            *share = f64::min(left, healthy[at] / all[at] / spill_below);
            left -= *share;
        }
    }
    // When all together are too weak, they share what there is.
    let sum: f64 = shares.iter().sum();
    if sum > 0.0 { shares.map(|share| share / sum) } else { shares }
}

/// The largest of weights that are no whole numbers: finer than anybody can measure, and few enough rounds for wrr.
const SCALE: f64 = 1_000.0;

fn scale(effective: &[f64], whole: bool) -> Vec<u32> {
    let largest = effective.iter().copied().fold(0.0, f64::max);
    let is_whole = |weight: &f64| (weight - weight.round()).abs() < 1e-9;
    let factor = if whole || effective.iter().all(is_whole) { 1.0 } else { SCALE / largest };
    // Who is used at all is not rounded away.
    let round = |weight: &f64| if *weight > 0.0 { ((weight * factor).round() as u32).max(1) } else { 0 };
    effective.iter().map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UP: Health = Health::Up;
    const DOWN: Health = Health::Down;

    fn server(tier: usize, health: Health) -> Candidate {
        Candidate { weight: Weight::ONE, tier, health, ramp: 1.0, relief: 1.0, is_sorry: false }
    }

    fn weights(candidates: &[Candidate]) -> Vec<u32> {
        balance(candidates, &Policy::default(), false, None, false).weights
    }

    fn tiers(counts: [(usize, usize); TIERS]) -> Vec<Candidate> {
        let tier = |(tier, (up, down)): (usize, (usize, usize))| {
            let healths = std::iter::repeat_n(UP, up).chain(std::iter::repeat_n(DOWN, down));
            healths.map(move |health| server(tier, health))
        };
        counts.into_iter().enumerate().flat_map(tier).collect()
    }

    #[test]
    fn the_nearest_tier_takes_all_while_enough_of_it_is_healthy() {
        assert_eq!(weights(&tiers([(2, 0), (2, 0), (2, 0)])), [1, 1, 0, 0, 0, 0]);
        assert_eq!(weights(&tiers([(7, 3), (1, 0), (0, 0)])), [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(
            weights(&tiers([(0, 2), (1, 1), (2, 0)])),
            [0, 0, 1_000, 0, 200, 200],
            "5/7 and twice 1/7"
        );
        assert_eq!(weights(&tiers([(0, 2), (0, 2), (2, 0)])), [0, 0, 0, 0, 1, 1]);
        assert_eq!(weights(&tiers([(0, 0), (0, 0), (1, 1)])), [1, 0], "without places there is one tier");
    }

    #[test]
    fn what_a_tier_cannot_take_spills_to_the_next() {
        let picture = balance(&tiers([(35, 65), (10, 0), (5, 0)]), &Policy::default(), false, None, false);
        let shares = picture.tiers.map(|tier| (tier.share * 100.0).round());
        assert_eq!(shares, [50.0, 50.0, 0.0]);
    }

    #[test]
    fn too_few_healthy_ones_and_all_are_used_until_clearly_more_are() {
        let policy = Policy { protect_threshold: Some(0.3), ..Policy::default() };
        let protected = |up: usize, was: bool| {
            balance(&tiers([(up, 10 - up), (0, 0), (0, 0)]), &policy, was, None, false).protected
        };
        assert!(!protected(4, false));
        assert!(protected(3, false), "Nacos: at the threshold too");
        assert!(protected(3, true));
        assert!(!protected(4, true), "0.4 is threshold and hysteresis");
        let sticky = Policy { protect_hysteresis: 0.2, ..policy };
        let picture = balance(&tiers([(4, 6), (0, 0), (0, 0)]), &sticky, true, None, false);
        assert!(picture.protected);
        assert_eq!(picture.weights, [1; 10]);
    }

    #[test]
    fn all_down_serves_all_unless_somebody_says_otherwise() {
        let down = tiers([(0, 2), (0, 1), (0, 0)]);
        assert_eq!(weights(&down), [1, 1, 1]);
        let never = Policy { protect_threshold: None, ..Policy::default() };
        assert_eq!(balance(&down, &never, false, None, false).weights, [0, 0, 0]);
        let mut with_sorry = down;
        with_sorry.push(Candidate { is_sorry: true, ..server(2, UP) });
        let picture = balance(&with_sorry, &Policy::default(), false, None, false);
        assert_eq!((picture.weights, picture.sorry), (vec![0, 0, 0, 1], true));
        with_sorry[0].health = Health::Checking;
        assert!(!balance(&with_sorry, &Policy::default(), false, None, false).sorry, "nobody knows yet");
    }

    #[test]
    fn servers_of_which_nothing_is_known_get_nothing_and_are_no_sign_of_trouble() {
        let mut servers = tiers([(4, 0), (0, 0), (0, 0)]);
        servers.iter_mut().for_each(|server| server.health = Health::Checking);
        assert_eq!(weights(&servers), [0; 4], "at the start");
        // One is up, and many more come: that they are not known yet must not make all be used.
        let policy = Policy { protect_threshold: Some(0.3), ..Policy::default() };
        servers[0].health = UP;
        let protected = |servers: &[Candidate], was| balance(servers, &policy, was, None, false).protected;
        assert_eq!(weights(&servers), [1, 0, 0, 0]);
        assert!(!protected(&servers, false));
        // But protection does not end by them.
        servers[1].health = DOWN;
        servers[2].health = DOWN;
        assert!(!protected(&servers, false), "a third of those that are known");
        assert!(protected(&servers, true), "and a quarter of all");
    }

    #[test]
    fn spilling_comes_before_protection() {
        let policy = Policy { protect_threshold: Some(0.3), ..Policy::default() };
        let picture = balance(&tiers([(0, 4), (6, 0), (0, 0)]), &policy, false, None, false);
        assert!(!picture.protected);
        assert_eq!(picture.weights, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn fractions_slow_start_and_load_scale_weights() {
        let half = Candidate { weight: Weight::new(0.5).unwrap(), ..server(0, UP) };
        assert_eq!(weights(&[half, server(0, UP)]), [500, 1_000]);
        let fresh = Candidate { ramp: 0.1, ..server(0, UP) };
        let loaded = Candidate { relief: 0.25, ..server(0, UP) };
        assert_eq!(weights(&[fresh, loaded, server(0, UP)]), [100, 250, 1_000]);
        assert_eq!(balance(&[half, server(0, UP)], &Policy::default(), false, None, true).weights, [1, 1]);
    }

    #[test]
    fn the_operators_switch_is_above_all() {
        let servers = tiers([(1, 1), (2, 0), (0, 1)]);
        let with =
            |switch: Switch| balance(&servers, &Policy::default(), false, Some(&switch), false).weights;
        assert_eq!(with(Switch::Tier(1)), [0, 0, 1, 1, 0]);
        assert_eq!(with(Switch::Tier(2)), [0, 0, 0, 0, 1], "a dead tier too");
        assert_eq!(with(Switch::All), [1, 1, 1, 1, 1]);
        assert_eq!(with(Switch::Servers(vec![1, 4])), [0, 1, 0, 0, 1]);
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        let health = prop_oneof![Just(UP), Just(DOWN), Just(Health::Checking)];
        (0..2_000_u32, 0..TIERS, health, 0.1..1.0, 0.1..1.0, prop::bool::weighted(0.05)).prop_map(
            |(weight, tier, health, ramp, relief, is_sorry)| {
                let weight = Weight(if weight < 300 { 0 } else { weight });
                Candidate { weight, tier, health, ramp, relief, is_sorry }
            },
        )
    }

    proptest! {
        /// Whatever happens, a service that knows of a server with a weight has somewhere to send sessions, servers
        /// without weight get none, and unless health is not believed only healthy ones do.
        #[test]
        fn a_service_with_servers_always_serves(
            servers in prop::collection::vec(any_candidate(), 0..40),
            was in any::<bool>(),
            threshold in 0.0..1.0_f64,
        ) {
            let policy = Policy { protect_threshold: Some(threshold), ..Policy::default() };
            let picture = balance(&servers, &policy, was, None, false);
            let known = |server: &Candidate| server.health != Health::Checking;
            if servers.iter().any(|server| server.weight > Weight::ZERO && !server.is_sorry && known(server)) {
                prop_assert!(picture.weights.iter().any(|weight| *weight > 0));
                let shares: f64 = picture.tiers.iter().map(|tier| tier.share).sum();
                prop_assert!(picture.sorry || (shares - 1.0).abs() < 1e-6, "{shares}");
            }
            for (server, weight) in servers.iter().zip(&picture.weights) {
                prop_assert!(server.weight > Weight::ZERO || *weight == 0);
                if *weight > 0 && !picture.protected {
                    prop_assert!(picture.sorry == server.is_sorry);
                    prop_assert!(server.is_sorry || server.health == Health::Up);
                }
            }
        }

        /// Within a tier that is believed, what each gets is its weight's part, but for rounding.
        #[test]
        fn weights_are_kept_within_a_tier(numbers in prop::collection::vec(1..1_000_u32, 2..20)) {
            let servers: Vec<_> = numbers
                .iter()
                .map(|number| Candidate { weight: Weight(number * 100), ..server(1, UP) })
                .collect();
            let picture = weights(&servers);
            let (sum, of) = (f64::from(picture.iter().sum::<u32>()), f64::from(numbers.iter().sum::<u32>()));
            for (weight, number) in picture.iter().zip(&numbers) {
                prop_assert!((f64::from(*weight) / sum - f64::from(*number) / of).abs() < 0.01);
            }
        }
    }
}
