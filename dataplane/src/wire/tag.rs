//! VLAN tags (IEEE 802.1Q): four bytes behind the station addresses.

use super::{be16, put16};
use crate::frame::Frame;

/// EtherType of a tag.
pub(super) const TAG: u16 = 0x8100;
const ADDRESSES_LEN: usize = 12;
const TAG_LEN: usize = 4;
const VLAN_MASK: u16 = 0x0fff;

/// The VLAN that a frame's tag names; `None` without tag. 0: a tag that has a priority only.
pub fn vlan_of(frame: &[u8]) -> Option<u16> {
    let tagged = frame.len() >= ADDRESSES_LEN + TAG_LEN && be16(frame, ADDRESSES_LEN) == TAG;
    tagged.then(|| be16(frame, ADDRESSES_LEN + 2) & VLAN_MASK)
}

/// Takes the tag off a frame that has one.
///
/// # Panics
/// When the frame ends before the tag does.
pub fn strip_tag(frame: &mut Frame<'_>) {
    frame.bytes_mut().copy_within(..ADDRESSES_LEN, TAG_LEN);
    frame.advance(TAG_LEN);
}

/// Puts a tag on a frame. False, and nothing changed, when the buffer's headroom has no place for it.
///
/// # Panics
/// When the frame is shorter than two station addresses.
pub fn add_tag(frame: &mut Frame<'_>, vlan: u16) -> bool {
    if !frame.prepend(TAG_LEN) {
        return false;
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
    put16(bytes, ADDRESSES_LEN, TAG);
    put16(bytes, ADDRESSES_LEN + 2, vlan & VLAN_MASK);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_and_goes() {
        let plain: Vec<u8> = (0..60).collect();
        let mut room = [&[0; 4][..], &plain].concat();
        let mut frame = Frame::new(&mut room, 4..64);
        assert_eq!(vlan_of(frame.bytes()), None);
        assert!(add_tag(&mut frame, 0x1234));
        assert_eq!(frame.bytes()[..16], [&plain[..12], &[0x81, 0, 0x02, 0x34]].concat());
        assert_eq!(vlan_of(frame.bytes()), Some(0x234));
        assert!(!add_tag(&mut frame, 1), "no headroom is left");
        strip_tag(&mut frame);
        assert_eq!(frame.bytes(), plain);
        assert_eq!(vlan_of(&[0x81; 13]), None);
    }
}
