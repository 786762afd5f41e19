//! ARP frames (RFC 826), with smoltcp's wire formats.

use dataplane::wire::Mac;
use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr,
};
use std::net::Ipv4Addr;

/// What an ARP frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whether it asks (or announces) rather than answers.
    pub is_request: bool,
    /// Who speaks.
    pub sender: (Mac, Ipv4Addr),
    /// Who is asked for, or answered.
    pub target: (Mac, Ipv4Addr),
}

/// The station address of everybody.
pub const BROADCAST: Mac = [0xff; 6];

impl Arp {
    /// The question whether anybody else has `address` (RFC 5227 §2.1.1): nobody learns anything from it.
    pub fn probe(mac: Mac, address: Ipv4Addr) -> Self {
        Self { is_request: true, sender: (mac, Ipv4Addr::UNSPECIFIED), target: ([0; 6], address) }
    }

    /// Reads a frame; `None` when it is no well-formed ARP for Ethernet and IPv4, or when its
    /// sender has no station address of its own.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Arp {
            return None;
        }
        let packet = ArpPacket::new_checked(ethernet.payload()).ok()?;
        if packet.hardware_type() != ArpHardware::Ethernet {
            return None;
        }
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_hardware_addr,
            target_protocol_addr,
        } = ArpRepr::parse(&packet).ok()?
        else {
            return None;
        };
        let is_request = match operation {
            ArpOperation::Request => true,
            ArpOperation::Reply => false,
            ArpOperation::Unknown(_) => return None,
        };
        source_hardware_addr.is_unicast().then_some(Self {
            is_request,
            sender: (source_hardware_addr.0, source_protocol_addr),
            target: (target_hardware_addr.0, target_protocol_addr),
        })
    }

    /// The frame to send to station `to`.
    pub fn frame(&self, to: Mac) -> Vec<u8> {
        let arp = ArpRepr::EthernetIpv4 {
            operation: if self.is_request { ArpOperation::Request } else { ArpOperation::Reply },
            source_hardware_addr: EthernetAddress(self.sender.0),
            source_protocol_addr: self.sender.1,
            target_hardware_addr: EthernetAddress(self.target.0),
            target_protocol_addr: self.target.1,
        };
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(self.sender.0),
            dst_addr: EthernetAddress(to),
            ethertype: EthernetProtocol::Arp,
        };
        let mut bytes = vec![0; EthernetFrame::<&[u8]>::header_len() + arp.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.emit(&mut frame);
        arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
        bytes
    }

    /// An announcement that `station` has `address` (RFC 5227 §2.3), for everybody.
    pub fn announcement(station: Mac, address: Ipv4Addr) -> Self {
        Self { is_request: true, sender: (station, address), target: ([0; 6], address) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_what_it_was_made_of() {
        let arp = Arp {
            is_request: true,
            sender: ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(192, 0, 2, 2)),
            target: ([0; 6], Ipv4Addr::new(192, 0, 2, 1)),
        };

        assert_eq!(Arp::parse(&arp.frame(BROADCAST)), Some(arp));
    }

    #[test]
    fn truncated_and_foreign_frames_are_ignored() {
        let frame = Arp::announcement([2, 0, 0, 0, 0, 1], Ipv4Addr::new(192, 0, 2, 2)).frame(BROADCAST);
        for len in 0..frame.len() {
            assert_eq!(Arp::parse(&frame[..len]), None);
        }
        let group = Arp::announcement([3, 0, 0, 0, 0, 1], Ipv4Addr::new(192, 0, 2, 2)).frame(BROADCAST);
        assert_eq!(Arp::parse(&group), None);
    }
}
