//! Numbers of IP protocols (IANA), as headers carry them.

use crate::flow::Protocol;

/// ICMP (RFC 792).
pub const ICMP: u8 = Protocol::Icmp as u8;
/// TCP (RFC 9293).
pub const TCP: u8 = Protocol::Tcp as u8;
/// UDP (RFC 768).
pub const UDP: u8 = Protocol::Udp as u8;
/// ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;
/// SCTP (RFC 9260).
pub const SCTP: u8 = Protocol::Sctp as u8;
