//! What is kept of a session whose client has proved itself by a SYN cookie, before and after its server has answered.

use crate::cookie::Offer;
use crate::ids::PortId;
use crate::wire::ServerShift;

/// The client's handshake, and what separates it from the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The first sequence number that the client was given.
    pub cookie: u32,
    /// The client's own.
    pub initial: u32,
    /// What its SYN offered.
    pub offer: Offer,
    /// Its clock when it proved itself, and ours that it gave back.
    pub clocks: (u32, u32),
    /// Its window then, as it stood there.
    pub window: u16,
    /// The port by which it came.
    pub port: PortId,
    /// How often its server was asked again.
    pub tries: u8,
    /// What separates the server's numbers from those that the client knows.
    pub shift: ServerShift,
}

/// [`Proven`] in words that are all zero at first, so that a table of them takes no memory before it is used.
pub(super) type Words = [u32; 10];

const SCALE_NONE: u32 = 0xff;

impl Proven {
    pub(super) fn words(&self) -> Words {
        let Self { offer, shift, .. } = self;
        let scale = offer.window_scale.map_or(SCALE_NONE, u32::from);
        let flags = u32::from(offer.sack) << 24 | u32::from(offer.timestamps) << 25;
        let windows = [shift.server_window as u8, shift.client_window as u8, self.tries, 0];
        [
            self.cookie,
            self.initial,
            u32::from(offer.segment_size) | scale << 16 | flags,
            self.clocks.0,
            self.clocks.1,
            u32::from(self.window) | u32::from(self.port.0) << 16,
            shift.sequence,
            shift.server_clock,
            shift.client_clock,
            u32::from_le_bytes(windows),
        ]
    }

    pub(super) fn from_words(words: &Words) -> Self {
        let [cookie, initial, offered, clock, echo, window, sequence, server_clock, client_clock, small] =
            *words;
        let [server_window, client_window, tries, _] = small.to_le_bytes();
        let scale = offered >> 16 & SCALE_NONE;
        Self {
            cookie,
            initial,
            offer: Offer {
                segment_size: offered as u16,
                window_scale: (scale != SCALE_NONE).then_some(scale as u8),
                sack: offered >> 24 & 1 == 1,
                timestamps: offered >> 25 & 1 == 1,
            },
            clocks: (clock, echo),
            window: window as u16,
            port: PortId((window >> 16) as u16),
            tries,
            shift: ServerShift {
                sequence,
                server_clock,
                client_clock,
                server_window: server_window as i8,
                client_window: client_window as i8,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_say_the_same(numbers: [u32; 4], size: u16, scale in prop::option::of(0_u8..15), flags: (bool, bool),
            window: u16, port: u16, tries: u8, clocks: [u32; 3], windows: (i8, i8)) {
            let proven = Proven {
                cookie: numbers[0],
                initial: numbers[1],
                offer: Offer { segment_size: size, window_scale: scale, sack: flags.0, timestamps: flags.1 },
                clocks: (numbers[2], numbers[3]),
                window,
                port: PortId(port),
                tries,
                shift: ServerShift { sequence: clocks[0], server_clock: clocks[1], client_clock: clocks[2],
                    server_window: windows.0, client_window: windows.1 },
            };
            prop_assert_eq!(Proven::from_words(&proven.words()), proven);
        }
    }
}
