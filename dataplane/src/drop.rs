//! Why a packet was not forwarded: one public enum, one counter for each reason.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped. The names are part of the admin protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of the enum.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason's name in `sluice stats drops`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What the reason means, for an operator.
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

// A macro, because the variant, its name, its text and its place in `ALL` must never part.
reasons! {
    /// The frame is shorter than an Ethernet header.
    EthernetShort = "ethernet_short",
    /// The frame is addressed to another station, or is a broadcast or multicast that carries unicast IP.
    EthernetNotOurs = "ethernet_not_ours",
    /// The device gave the frame in several buffers, because it is longer than the port's MTU lets it be: look at the MTU of the stations on the link, and at the port's.
    FrameTooLong = "frame_too_long",
    /// The EtherType is none of IPv4, IPv6 and ARP.
    EthertypeUnsupported = "ethertype_unsupported",
    /// The ARP frame is cut short, is neither request nor reply, or is not for IPv4 over Ethernet.
    ArpMalformed = "arp_malformed",
    /// The frame's VLAN tag names a VLAN for which the port has no sub-interface.
    VlanUnknown = "vlan_unknown",
    /// The frame ends before the 20 bytes of an IPv4 header.
    Ipv4Short = "ipv4_short",
    /// The IP version field is not 4.
    Ipv4Version = "ipv4_version",
    /// The IPv4 header length is below 20 bytes or past the end of the frame.
    Ipv4HeaderLength = "ipv4_header_length",
    /// The IPv4 total length is smaller than the header.
    Ipv4TotalLength = "ipv4_total_length",
    /// The IPv4 total length is larger than the frame.
    Ipv4Truncated = "ipv4_truncated",
    /// A super-frame (GSO) that is longer than the port's MTU, or that the device cut short: switch off tso and gso at the sender.
    SuperFrame = "super_frame",
    /// The IPv4 header checksum is wrong.
    Ipv4Checksum = "ipv4_checksum",
    /// An IPv4 option is malformed.
    Ipv4Options = "ipv4_options",
    /// The packet asks for source routing.
    Ipv4SourceRoute = "ipv4_source_route",
    /// The frame ends before the 40 bytes of an IPv6 header.
    Ipv6Short = "ipv6_short",
    /// The IP version field is not 6.
    Ipv6Version = "ipv6_version",
    /// The IPv6 payload length is larger than the frame.
    Ipv6Truncated = "ipv6_truncated",
    /// An IPv6 extension header is cut off or out of place, or there are too many.
    Ipv6Extension = "ipv6_extension",
    /// The packet asks to be routed through other nodes (RFC 5095).
    Ipv6Routing = "ipv6_routing",
    /// The source address is zero, loopback, multicast, broadcast or reserved.
    SourceInvalid = "source_invalid",
    /// The source is one of the appliance's own addresses, VIPs or local addresses.
    SourceOurs = "source_ours",
    /// A fragment of a flow that has no session, or that cannot pass between the families.
    Fragment = "fragment",
    /// A fragment whose length is no multiple of eight and which is not the last, or which is empty.
    FragmentMalformed = "fragment_malformed",
    /// A first fragment that ends before its TCP or UDP header does (RFC 1858).
    FragmentTiny = "fragment_tiny",
    /// A fragment that overlaps another of its datagram (RFC 5722), or came twice.
    FragmentOverlap = "fragment_overlap",
    /// A fragment that would make a datagram longer than 65,535 bytes.
    FragmentTooLong = "fragment_too_long",
    /// A fragment that waited for the first of its datagram in vain.
    FragmentTimeout = "fragment_timeout",
    /// Too many datagrams in fragments at a time.
    FragmentTableFull = "fragment_table_full",
    /// The TTL ended here; the sender was told by ICMP unless the rate limit was reached.
    TtlExceeded = "ttl_exceeded",
    /// The packet is larger than the MTU of the port it must leave by; the sender was told by ICMP if it asked for that.
    ExceedsMtu = "exceeds_mtu",
    /// The TCP header is cut off.
    TcpShort = "tcp_short",
    /// The TCP data offset is below 20 bytes or past the end of the segment.
    TcpHeaderLength = "tcp_header_length",
    /// The TCP checksum is wrong; asked only of segments that the SYN proxy answers itself.
    TcpChecksum = "tcp_checksum",
    /// A segment of a connection whose server the SYN proxy still asks: the client sends it again.
    HandshakePending = "handshake_pending",
    /// The TCP flags form no valid combination (none, SYN+FIN, SYN+RST, FIN without ACK and the like).
    TcpFlags = "tcp_flags",
    /// The UDP header is cut off.
    UdpShort = "udp_short",
    /// The UDP length is below 8 or past the end of the packet.
    UdpLength = "udp_length",
    /// The ICMP message is cut off.
    IcmpShort = "icmp_short",
    /// The ICMP checksum is wrong.
    IcmpChecksum = "icmp_checksum",
    /// An ICMP error or query that this version does not handle.
    IcmpUnsupported = "icmp_unsupported",
    /// An ICMP error whose quoted packet is cut short, or cannot be one that Sluice sent.
    IcmpQuote = "icmp_quote",
    /// An ICMP error about a packet of no session, or an echo reply of none.
    IcmpNoSession = "icmp_no_session",
    /// The ICMP error quotes a TCP segment with a sequence number that its sender has not reached: a blind attack (RFC 5927).
    IcmpOutOfWindow = "icmp_out_of_window",
    /// The ICMP error tells an MTU below 576 bytes (IPv6: 1,280), as blind attackers do to slow a connection down (RFC 5927).
    IcmpMtu = "icmp_mtu",
    /// The SCTP header or its first chunk is cut off.
    SctpShort = "sctp_short",
    /// The first SCTP chunk does not fit, or is an INIT that is not alone or has a tag.
    SctpChunk = "sctp_chunk",
    /// The transport protocol is neither TCP, UDP, SCTP nor ICMP, or it is SCTP in fragments.
    ProtocolUnsupported = "protocol_unsupported",
    /// The source cannot come by this port: the routes place it elsewhere, or it is a server's and this port does not lead there.
    SourceElsewhere = "source_elsewhere",
    /// A list of addresses denies the client a session with the service.
    AclDenied = "acl_denied",
    /// The client's network begins more sessions in a second than the service lets it.
    SourceRate = "source_rate",
    /// More sessions begin in a second than the service takes.
    ServiceRate = "service_rate",
    /// The destination is none of the appliance's addresses.
    NotForUs = "not_for_us",
    /// A VIP is addressed on a port or protocol for which there is no service.
    NoService = "no_service",
    /// A TCP segment that opens nothing and belongs to no session of the service.
    NoSession = "no_session",
    /// A packet to a local address that belongs to no session (late server data, scans).
    LocalNoSession = "local_no_session",
    /// The service has no real server with a weight above zero.
    NoRealServer = "no_real_server",
    /// Every real server with a weight has as many sessions as its max_sessions lets it have.
    ServersFull = "servers_full",
    /// The service has as many sessions as it may have.
    ServiceLimit = "service_limit",
    /// Every local port towards the chosen real server is in use.
    LocalPortsExhausted = "local_ports_exhausted",
    /// The worker's session table is full.
    SessionTableFull = "session_table_full",
    /// No route leads to the next hop.
    NoRoute = "no_route",
    /// The next hop did not answer ARP or neighbour solicitations in time.
    NeighborUnresolved = "neighbor_unresolved",
    /// Too many packets wait for the same or for all unresolved next hops.
    NeighborQueueFull = "neighbor_queue_full",
    /// ARP or neighbour discovery came faster than the control thread takes it.
    ControlQueueFull = "control_queue_full",
    /// Packets for the appliance's own kernel came faster than the kernel path lets through.
    KernelLimit = "kernel_limit",
    /// The ring to the kernel path was full.
    KernelQueueFull = "kernel_queue_full",
    /// The buffer has no room in front for a tunnel's headers.
    NoHeadroom = "no_headroom",
    /// A datagram in which the server could not be told where its client is: a fragment, or no room for the header.
    AddressUntold = "address_untold",
    /// The link by which the packet would have left is down.
    LinkDown = "link_down",
    /// The device's transmit queue was full.
    TransmitRefused = "transmit_refused",
    /// The ring to the worker that owns the packet's session was full.
    HandOverFull = "hand_over_full",
    /// No buffer was left for a packet that Sluice itself makes.
    NoBuffer = "no_buffer",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_name_and_an_explanation() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();

        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(reason.explanation().ends_with('.') || reason.explanation().ends_with("sender"));
        }
    }
}
