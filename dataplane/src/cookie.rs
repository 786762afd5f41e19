//! SYN cookies: first sequence numbers by which a client proves that it is where it says, without anything being kept of
//! it (RFC 4987 §3.6).
//!
//! A cookie has three bits of the time and, in the others, a keyed hash of the flow, to which one of eight segment sizes
//! is added. The time goes in slots of 64 s, each with keys of its own, made from a secret by SipHash. A cookie of the slot
//! now or of the one before is taken. So a segment that was made up passes with 2/8 x 8/2^29 = 2^-28.
//!
//! What else the client's SYN said has no room there. If the client keeps timestamps, it gives ours back, whose lowest six
//! bits have its window scale and whether it takes selective acknowledgements. One that is not of the last 128 s is
//! refused. Each flow has a clock of its own, by a keyed hash that stays, so that nobody else knows what it shows.

use crate::clock::Instant;
use crate::flow::{Family, Key};
use siphasher::sip::SipHasher24;
use std::time::Duration;

/// Seconds of a slot, as a power of two.
const SLOT_SHIFT: u32 = 6;
const SLOT_BITS: u32 = 3;
const MAC_BITS: u32 = 32 - SLOT_BITS;
const MAC_MASK: u32 = (1 << MAC_BITS) - 1;
/// The oldest clock that is taken back, in milliseconds: two slots, and what is cut off by the options.
const OLDEST: u32 = (2 << SLOT_SHIFT) * 1_000 + OPTIONS;

/// Segment sizes that a cookie can tell, in bytes of payload; others are rounded down, and smaller ones up.
const SIZES: [u16; 8] = [216, 536, 1_200, 1_300, 1_400, 1_440, 1_460, 8_960];
/// The same of IPv6.
const SIZES_IPV6: [u16; 8] = [1_220, 1_280, 1_340, 1_380, 1_400, 1_420, 1_440, 8_940];

/// Makes cookies and knows them again. All workers have the same, and so has the next process with the same secret.
#[derive(Clone, Copy, Debug)]
pub struct Cookies {
    secret: [u64; 2],
    /// By which flows' clocks differ.
    clock_keys: [u64; 2],
    /// What the common clock showed when the process began.
    origin: Duration,
    /// The slot now and its keys, and those of the slot before.
    slot: u64,
    keys: [[u64; 2]; 2],
}

/// What a client's SYN offered, as far as a cookie keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The largest segment that it takes.
    pub segment_size: u16,
    /// Its window scale (RFC 7323), if it has one; needs timestamps.
    pub window_scale: Option<u8>,
    /// Whether it takes selective acknowledgements (RFC 2018); needs timestamps.
    pub sack: bool,
    /// Whether it keeps timestamps.
    pub timestamps: bool,
}

impl Cookies {
    /// Cookies by a secret that is made of a key which others use too. `origin` as in [`new`](Self::new).
    pub fn of_key(key: [u64; 4], origin: Duration) -> Self {
        let [first, second, third, fourth] = key;
        let secret = [0_u64, 1].map(|half| {
            let mut input = [0; 24];
            input[..8].copy_from_slice(&third.to_le_bytes());
            input[8..16].copy_from_slice(&fourth.to_le_bytes());
            input[16..].copy_from_slice(&half.to_le_bytes());
            SipHasher24::new_with_keys(first, second).hash(&input)
        });
        Self::new(secret, origin)
    }

    /// Cookies by a secret of the process, or of several. `origin` is what a clock that they share shows when the process begins.
    pub fn new(secret: [u64; 2], origin: Duration) -> Self {
        // No slot has this number.
        let clock_keys = keys_of(secret, u64::MAX);
        let mut cookies = Self { secret, clock_keys, origin, slot: u64::MAX, keys: [[0; 2]; 2] };
        cookies.turn(Instant::default());
        cookies
    }

    /// Milliseconds of the common clock, as timestamps of TCP have them.
    pub fn millis(&self, now: Instant) -> u32 {
        (self.origin + now.since(Instant::default())).as_millis() as u32
    }

    /// Takes the keys of the slot now.
    fn turn(&mut self, now: Instant) {
        let slot = (self.origin + now.since(Instant::default())).as_secs() >> SLOT_SHIFT;
        if slot != self.slot {
            self.slot = slot;
            self.keys = [slot, slot.wrapping_sub(1)].map(|slot| keys_of(self.secret, slot));
        }
    }

    /// Milliseconds of a flow's own clock.
    fn clock_of<K: Key>(&self, flow: K, now: Instant) -> u32 {
        self.millis(now).wrapping_add(hash(self.clock_keys, flow, 0) as u32)
    }

    /// The first sequence number for the client of `flow`, whose own is `initial`, and our timestamp for it if it keeps
    /// timestamps.
    pub fn make<K: Key>(&mut self, flow: K, initial: u32, offer: &Offer, now: Instant) -> (u32, u32) {
        self.turn(now);
        let index = sizes::<K>().iter().rposition(|size| *size <= offer.segment_size).unwrap_or(0);
        let code = mac(self.keys[0], flow, initial).wrapping_add(index as u32) & MAC_MASK;
        let mut clock = 0;
        if offer.timestamps {
            let shows = self.clock_of(flow, now);
            clock = shows & !OPTIONS | options(offer);
            // It may not run ahead, or the client would see it go back.
            if clock > shows {
                clock = clock.wrapping_sub(OPTIONS + 1);
            }
        }
        ((self.slot as u32) << MAC_BITS | code, clock)
    }

    /// Whether a number has the time that a cookie of now or a moment ago would have: without this,
    /// [`check`](Self::check) finds nothing.
    pub fn is_recent(&mut self, cookie: u32, now: Instant) -> bool {
        self.turn(now);
        self.age(cookie) < self.keys.len()
    }

    /// Slots since a cookie was made, modulo what it can tell.
    fn age(&self, cookie: u32) -> usize {
        ((self.slot as u32).wrapping_sub(cookie >> MAC_BITS) & ((1 << SLOT_BITS) - 1)) as usize
    }

    /// What the client of `flow` offered whose segment says that its first number was `initial` and ours was `cookie`;
    /// `None` if it does not know the cookie. `echo` is what it gives back as our timestamp, if it has any.
    pub fn check<K: Key>(
        &mut self,
        flow: K,
        initial: u32,
        cookie: u32,
        echo: Option<u32>,
        now: Instant,
    ) -> Option<Offer> {
        self.turn(now);
        let keys = self.keys.get(self.age(cookie))?;
        let index = (cookie & MAC_MASK).wrapping_sub(mac(*keys, flow, initial)) & MAC_MASK;
        let segment_size = *sizes::<K>().get(index as usize)?;
        if echo.is_some_and(|echo| self.clock_of(flow, now).wrapping_sub(echo) > OLDEST) {
            return None;
        }
        let said = echo.map_or(NO_OPTIONS, |echo| echo & OPTIONS);
        Some(Offer {
            segment_size,
            window_scale: Some((said & 0xf) as u8).filter(|scale| *scale <= MOST_SCALE),
            sack: said & SACK != 0,
            timestamps: echo.is_some(),
        })
    }
}

/// The bits of a timestamp that have options.
const OPTIONS: u32 = 0x3f;
const SACK: u32 = 0x10;
/// No window scale, no selective acknowledgements.
const NO_OPTIONS: u32 = 0xf;
/// RFC 7323 §2.3.
const MOST_SCALE: u8 = 14;

fn options(offer: &Offer) -> u32 {
    let scale = offer.window_scale.map_or(NO_OPTIONS, |scale| u32::from(scale.min(MOST_SCALE)));
    scale | if offer.sack { SACK } else { 0 }
}

fn sizes<K: Key>() -> &'static [u16; 8] {
    match K::FAMILY {
        Family::V4 => &SIZES,
        Family::V6 => &SIZES_IPV6,
    }
}

/// Keys of a slot.
fn keys_of([first, second]: [u64; 2], slot: u64) -> [u64; 2] {
    [0_u64, 1].map(|half| {
        let mut input = [0; 16];
        input[..8].copy_from_slice(&slot.to_le_bytes());
        input[8..].copy_from_slice(&half.to_le_bytes());
        SipHasher24::new_with_keys(first, second).hash(&input)
    })
}

/// What a cookie has of the keyed hash of a flow and its client's first sequence number.
fn mac<K: Key>(keys: [u64; 2], flow: K, initial: u32) -> u32 {
    hash(keys, flow, initial) as u32 & MAC_MASK
}

/// The keyed hash of a flow and a number.
fn hash<K: Key>([first, second]: [u64; 2], flow: K, initial: u32) -> u64 {
    let hasher = SipHasher24::new_with_keys(first, second);
    let wide = flow.widen();
    match wide.narrow() {
        Some(flow) => {
            let mut input = [0; 16];
            input[..8].copy_from_slice(&flow.address_word().to_le_bytes());
            input[8..12].copy_from_slice(&flow.port_word().to_le_bytes());
            input[12..].copy_from_slice(&initial.to_le_bytes());
            hasher.hash(&input)
        }
        None => {
            let mut input = [0; 40];
            input[..32].copy_from_slice(&wide.address_bytes());
            input[32..36].copy_from_slice(&wide.port_word().to_le_bytes());
            input[36..].copy_from_slice(&initial.to_le_bytes());
            hasher.hash(&input)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Endpoint, FlowKey, FlowKey6, Protocol};
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn flow<K: Key>(client: &str) -> K {
        let client: IpAddr = client.parse().unwrap();
        let vip: IpAddr = if client.is_ipv4() { "192.0.2.10" } else { "2001:db8::10" }.parse().unwrap();
        K::new(Protocol::Tcp, Endpoint::new(client, 4_000), Endpoint::new(vip, 80))
    }

    fn cookies() -> Cookies {
        Cookies::new([1, 2], Duration::from_secs(1_800_000_000))
    }

    proptest! {
        #[test]
        fn what_was_offered_comes_back(
            initial: u32, size in 216_u16..9_000, scale in prop::option::of(0_u8..15), sack: bool,
            made in 0_u64..1_000_000, later in 0_u64..64_000,
        ) {
            let mut cookies = cookies();
            let (made, later) = (Instant::from_millis(made), Instant::from_millis(made + later));
            let offer = Offer { segment_size: size, window_scale: scale, sack, timestamps: true };
            let narrow: FlowKey = flow("198.51.100.7");
            let (cookie, clock) = cookies.make(narrow, initial, &offer, made);
            prop_assert!(cookies.clock_of(narrow, made).wrapping_sub(clock) <= OPTIONS, "never ahead");
            let said = cookies.check(narrow, initial, cookie, Some(clock), later).unwrap();
            prop_assert_eq!(said.window_scale, scale);
            prop_assert_eq!((said.sack, said.timestamps), (sack, true));
            prop_assert!(said.segment_size <= size && SIZES.contains(&said.segment_size));
            // Without timestamps there is no more than the segment's size.
            let bare = cookies.check(narrow, initial, cookie, None, later).unwrap();
            prop_assert_eq!(bare, Offer { segment_size: said.segment_size, ..Offer::default() });
        }

        #[test]
        fn another_flow_number_or_time_is_refused(initial: u32, other: u32) {
            let mut cookies = cookies();
            let offer = Offer { segment_size: 1_460, timestamps: true, ..Offer::default() };
            let wide: FlowKey6 = flow("2001:db8:c::7");
            let now = Instant::from_millis(5_000);
            let (cookie, clock) = cookies.make(wide, initial, &offer, now);
            prop_assert!(cookies.check(wide, initial, cookie, Some(clock), now).is_some());
            prop_assert_eq!(cookies.check(flow::<FlowKey6>("2001:db8:c::8"), initial, cookie, None, now), None);
            prop_assert!(other == initial || cookies.check(wide, other, cookie, None, now).is_none());
            prop_assert_eq!(cookies.check(wide, initial, cookie, Some(clock.wrapping_add(1 << 20)), now), None);
            let public = cookies.millis(now);
            prop_assert_eq!(cookies.check(wide, initial, cookie, Some(public), now), None, "the time is no secret");
            let stale = Instant::from_millis(5_000 + 129_000);
            prop_assert_eq!(cookies.check(wide, initial, cookie, None, stale), None);
        }
    }

    #[test]
    fn one_made_up_number_in_two_to_the_28_passes() {
        // The numbers that pass, counted one by one over a 64th of them all: 16 of 2^32, a few in any part.
        let mut cookies = cookies();
        let narrow: FlowKey = flow("198.51.100.7");
        let now = Instant::from_millis(0);
        let offer = |size| Offer { segment_size: size, ..Offer::default() };
        let all: Vec<u32> = SIZES.iter().map(|size| cookies.make(narrow, 7, &offer(*size), now).0).collect();
        assert_eq!(all.windows(2).filter(|pair| pair[1] == pair[0] + 1).count(), 7, "{all:?}");
        let around = all[0].wrapping_sub(500_000)..all[0].wrapping_add(500_000);
        let passing = around.filter(|cookie| cookies.check(narrow, 7, *cookie, None, now).is_some()).count();
        assert_eq!(passing, 8, "of this slot; there are as many of the one before, elsewhere");
    }

    #[test]
    fn the_next_process_with_the_secret_knows_them_again() {
        let offer = Offer { segment_size: 1_460, ..Offer::default() };
        let narrow: FlowKey = flow("198.51.100.7");
        let (cookie, _) = cookies().make(narrow, 7, &offer, Instant::from_millis(3_000));
        let mut next = Cookies::new([1, 2], Duration::from_secs(1_800_000_010));
        assert!(next.check(narrow, 7, cookie, None, Instant::default()).is_some());
        let mut stranger = Cookies::new([1, 3], Duration::from_secs(1_800_000_010));
        assert_eq!(stranger.check(narrow, 7, cookie, None, Instant::default()), None);
    }
}
