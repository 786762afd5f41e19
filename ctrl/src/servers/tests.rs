//! Standings against a twin that works everything out anew, and what checks keep.

use super::*;
use crate::servers::balance::TIER_NAMES;
use proptest::prelude::*;
use std::path::Path;

/// Three services; the first two share servers and the check.
fn config(weights: [u32; 8]) -> Config {
    let mut text = String::from(
        "[location]\nzone = \"a\"\nregion = \"r\"\n[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\naddresses = [\"10.0.0.2/24\"]\n",
    );
    for (service, places) in [("one", 0..4), ("two", 2..6), ("three", 4..8)] {
        text += &format!(
            "[[service]]\nname = \"{service}\"\nlisten = \"192.0.2.10:{}\"\nlocal_addresses = [\"10.0.0.200\"]\nslow_start = \"10s\"\nprotect_threshold = 0.3\n",
            80 + places.start
        );
        for at in places {
            let place = ["zone = \"a\"", "region = \"r\"", ""][at % 3];
            text += &format!(
                "[[service.server]]\naddress = \"10.0.0.{}:80\"\nweight = {}\n{place}\n",
                at + 11,
                weights[at]
            );
        }
        text += "[service.health]\ntype = \"tcp\"\n";
    }
    crate::config::parse(&text, Path::new("t.toml")).unwrap().config
}

/// The slow and obvious twin: everything worked out anew from what happened.
#[derive(Clone, Debug)]
struct Twin {
    weights: [u32; 8],
    health: [Health; 8],
    relief: [f64; 8],
    since: [[Option<u64>; 8]; 3],
    inhibited: [[u64; 8]; 3],
    switch: [Option<(usize, u64)>; 3],
    protected: [bool; 3],
}

impl Twin {
    fn weigh(&mut self, at: usize, now: u64) -> Vec<u32> {
        let switch = self.switch[at].filter(|(_, until)| *until > now);
        self.switch[at] = switch;
        let candidates: Vec<_> = (at * 2..at * 2 + 4)
            .map(|server| {
                let seconds = self.since[at][server].map_or(u64::MAX, |since| now - since);
                let inhibited = self.inhibited[at][server] > now;
                Candidate {
                    weight: crate::config::Weight::new(f64::from(self.weights[server])).unwrap(),
                    tier: server % 3,
                    health: if inhibited { Health::Down } else { self.health[server] },
                    ramp: if seconds >= 9 { 1.0 } else { (seconds + 1) as f64 / 10.0 },
                    relief: self.relief[server],
                    is_sorry: false,
                }
            })
            .collect();
        let policy =
            crate::config::Policy { protect_threshold: Some(0.3), ..crate::config::Policy::default() };
        let switch = switch.map(|(tier, _)| Switch::Tier(tier));
        let picture = balance::balance(&candidates, &policy, self.protected[at], switch.as_ref(), false);
        self.protected[at] = picture.protected;
        picture.weights
    }
}

#[derive(Clone, Debug)]
enum Event {
    Found(usize, Health, f64),
    Weigh(usize, u32),
    Inhibit(usize, usize, u64),
    Switch(usize, Option<usize>, u64),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let health = prop_oneof![3 => Just(Health::Up), 2 => Just(Health::Down)];
    let relief = prop_oneof![3 => Just(1.0), 1 => Just(0.5)];
    prop_oneof![
        4 => (0..8_usize, health, relief).prop_map(|(server, health, relief)| Event::Found(server, health, relief)),
        1 => (0..8_usize, 0..5_u32).prop_map(|(server, weight)| Event::Weigh(server, weight)),
        1 => (0..3_usize, 0..4_usize, 1..20_u64).prop_map(|(at, place, lasting)| Event::Inhibit(at, at * 2 + place, lasting)),
        1 => (0..3_usize, prop::option::of(0..3_usize), 1..20_u64).prop_map(|(at, tier, lasting)| Event::Switch(at, tier, lasting)),
        3 => (1..8_u64).prop_map(Event::Wait),
    ]
}

fn endpoint(server: usize) -> Endpoint {
    Endpoint::new(std::net::Ipv4Addr::new(10, 0, 0, server as u8 + 11), 80)
}

proptest! {
    /// Whatever happens in whatever order, weights are those of a twin that works everything out anew each second.
    #[test]
    fn weights_are_always_those_of_the_twin(events in prop::collection::vec(event(), 1..60)) {
        let at = |second: u64| Instant::from_millis(second * 1_000);
        let mut now = 1_000;
        let mut twin = Twin {
            weights: [1; 8],
            health: [Health::Checking; 8],
            relief: [1.0; 8],
            since: [[None; 8]; 3],
            inhibited: [[0; 8]; 3],
            switch: [None; 3],
            protected: [false; 3],
        };
        let mut current = config(twin.weights);
        let mut standings = Standings::default();
        let mut ids = HashMap::new();
        for order in standings.follow(&current, at(now)) {
            if let Order::Start { id, key, .. } = order {
                prop_assert!(ids.insert(key.target.ip(), id).is_none(), "one check for each server");
            }
        }
        prop_assert_eq!(ids.len(), 8);
        for event in events {
            let mut seconds = 0;
            match event {
                Event::Found(server, health, relief) => {
                    let id = ids[&endpoint(server).address];
                    standings.note(Finding { id, health, relief }, at(now));
                    if twin.health[server] != health {
                        for service in 0..3 {
                            twin.since[service][server] = (health == Health::Up).then_some(now);
                        }
                    }
                    (twin.health[server], twin.relief[server]) = (health, relief);
                }
                Event::Weigh(server, weight) => {
                    twin.weights[server] = weight;
                    let new = config(twin.weights);
                    for service in 0..3 {
                        if *new.services[service] != *current.services[service] {
                            current.services[service] = Arc::clone(&new.services[service]);
                            let orders = standings.follow_service(service, &current, at(now));
                            prop_assert!(orders.is_empty(), "no check begins or ends for a weight");
                        }
                    }
                }
                Event::Inhibit(service, server, lasting) => {
                    standings.inhibit(service, endpoint(server), at(now + lasting));
                    twin.inhibited[service][server] = now + lasting;
                }
                Event::Switch(service, tier, lasting) => {
                    let switch = tier.map(|tier| (Switch::Tier(tier), at(now + lasting)));
                    standings.set_switch(service, switch);
                    twin.switch[service] = tier.map(|tier| (tier, now + lasting));
                    prop_assert!(tier.is_none_or(|tier| tier < TIER_NAMES.len()));
                }
                Event::Wait(lasting) => seconds = lasting,
            }
            for _ in 0..=seconds {
                for service in standings.take_dirty(at(now)) {
                    standings.weigh(service, at(now));
                }
                for service in 0..3 {
                    let expected = twin.weigh(service, now);
                    prop_assert_eq!(&standings.picture(service).weights, &expected, "service {} at {}", service, now);
                }
                now += u64::from(seconds > 0);
            }
        }
    }
}

#[test]
fn checks_end_with_their_last_user_and_keep_what_they_know() {
    let now = Instant::from_millis(1_000);
    let mut current = config([1; 8]);
    let mut standings = Standings::default();
    let started = standings.follow(&current, now).len();
    assert_eq!((started, standings.checks()), (8, 8));
    standings.note(Finding { id: CheckId(2), health: Health::Up, relief: 1.0 }, now);
    // The first service goes; two of its servers are the second's too.
    current.services.remove(0);
    let orders = standings.follow(&current, now);
    assert_eq!(orders.len(), 2);
    assert!(orders.iter().all(|order| matches!(order, Order::Stop(_))));
    assert_eq!(standings.condition(0, 0, now), (Health::Up, false));
}

#[test]
fn other_words_of_a_check_take_nobody_out_and_bring_nobody_back() {
    let now = Instant::from_millis(1_000);
    let mut current = config([1; 8]);
    let mut standings = Standings::default();
    standings.follow(&current, now);
    for (id, health) in [(0, Health::Up), (1, Health::Up), (2, Health::Down)] {
        standings.note(Finding { id: CheckId(id), health, relief: 1.0 }, now);
    }
    let later = now + Duration::from_secs(60);
    let weigh = |standings: &mut Standings| {
        for at in standings.take_dirty(later) {
            standings.weigh(at, later);
        }
        standings.picture(0).weights.clone()
    };
    let before = weigh(&mut standings);
    let spec = Arc::make_mut(&mut current.services[0]);
    let health = spec.health.as_mut().map(Arc::make_mut).unwrap();
    health.interval = Duration::from_secs(7);

    let orders = standings.follow_service(0, &current, later);

    let begun = |order: &Order| match order {
        Order::Start { health, .. } => Some(*health),
        Order::Move { .. } | Order::Stop(_) | Order::Hook { .. } => None,
    };
    let begun: Vec<_> = orders.iter().filter_map(begun).collect();
    assert_eq!(begun, [Health::Up, Health::Up, Health::Down, Health::Checking]);
    assert_eq!(weigh(&mut standings), before, "no slow start either");
    assert!(before[0] > 0 && before[1] > 0 && before[2..] == [0, 0], "{before:?}");
}
