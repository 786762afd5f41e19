//! What an operator can do about packets that are dropped for a reason.

use dataplane::drop::DropReason;

/// What to do about a reason, in a sentence.
pub fn remedy(reason: DropReason) -> &'static str {
    use DropReason::*;
    match reason {
        EthernetShort | Ipv4Short | Ipv4Version | Ipv4HeaderLength | Ipv4TotalLength | Ipv4Truncated
        | Ipv4Checksum | Ipv6Short | Ipv6Version | Ipv6Truncated | TcpShort | TcpHeaderLength | TcpFlags
        | TcpChecksum | UdpShort | UdpLength | IcmpShort | IcmpChecksum | SctpShort | SctpChunk
        | ArpMalformed => {
            "the sender, or something on the way, makes broken packets: look for it with a capture at the port"
        }
        EthernetNotOurs => {
            "see that senders have learnt this port's station address, and that no switch floods"
        }
        FrameTooLong | ExceedsMtu => {
            "give all stations of the link the same MTU, and set the port's mtu to it"
        }
        EthertypeUnsupported => "nothing: other protocols than IPv4, IPv6 and ARP are not for this appliance",
        VlanUnknown => "add a [[port]] with this vlan and the port as its parent, if the VLAN is meant",
        SuperFrame => "switch segmentation off at the sender: `ethtool -K IFACE tso off gso off tx off`",
        Ipv4Options | Ipv4SourceRoute | Ipv6Extension | Ipv6Routing => {
            "send packets without such headers; they are refused on purpose"
        }
        SourceInvalid => {
            "look for the sender of packets with impossible sources; a router should filter them"
        }
        SourceOurs => "look for a loop, or for a station that pretends to be this appliance",
        SourceElsewhere => {
            "look for a forger, or add the [[route]] by which such packets come; source_check = \"off\" on the port admits them"
        }
        SourceRate => {
            "`sluice top sources` has the worst; raise limits.new_per_source if they are good clients"
        }
        ServiceRate => "raise the service's limits.new_per_second, or see who comes so often",
        AclDenied => "`sluice acl get ADDRESS` says which list has a client; change the list if it is wrong",
        Fragment | FragmentMalformed | FragmentTiny | FragmentOverlap | FragmentTooLong | FragmentTimeout => {
            "lower the MTU at the sender, so that datagrams are not cut"
        }
        FragmentTableFull => {
            "lower the MTU at senders, so that fewer datagrams are cut; more came than are kept"
        }
        TtlExceeded => "look for a routing loop between the sender and here",
        IcmpUnsupported | IcmpQuote | IcmpNoSession => {
            "nothing: the packet is about no session of this appliance"
        }
        IcmpOutOfWindow | IcmpMtu => {
            "nothing: they are refused; if they go on, ask the provider where they come from"
        }
        HandshakePending => {
            "nothing: clients send it again; if it goes on, see whether the service's servers answer SYNs"
        }
        ProtocolUnsupported => "use tcp, udp or sctp; other protocols have no service here",
        NotForUs => "add the address to a service's listen, or see why a router sends it here",
        NoService => "add the port and protocol to a service's listen, or ask for one that is there",
        NoSession => {
            "the client begins again by itself; set sloppy on the service to take over connections of another balancer"
        }
        LocalNoSession => "see whether the server answers twice or after the session's timeout",
        NoRealServer => "see `sluice service show`: why its servers have no weight, or are down",
        ServersFull => "raise max_sessions of the servers, or add servers",
        ServiceLimit => "raise the service's session_limit",
        LocalPortsExhausted => {
            "add local_addresses to the service, or servers; with forward = \"nat\" the ports are the client's own"
        }
        SessionTableFull => {
            "raise session_capacity in [dataplane] (session_capacity_ipv6 for sessions with an IPv6 address), and restart"
        }
        NoRoute => "add a [[route]] that leads there, or the network to a port's addresses",
        NeighborUnresolved | NeighborQueueFull => {
            "see whether the next hop is up and answers ARP or neighbour solicitations on its link"
        }
        ControlQueueFull => "look for a flood of ARP or neighbour discovery on the link",
        KernelLimit | KernelQueueFull => "look for a flood of packets to the appliance's own addresses",
        NoHeadroom => "lower the MTU of the service's clients: the packet has no room for another header",
        AddressUntold => "raise the MTU towards the servers, so that the client's address fits the packet",
        LinkDown => "bring the link up: see the cable, the switch and `sluice port list`",
        TransmitRefused => {
            "spread the load over more ports or workers: the device takes packets more slowly than they come"
        }
        HandOverFull => {
            "use a NIC with predicted RSS, or more workers: one gets packets faster than it can handle them"
        }
        NoBuffer => "see what holds buffers: next hops that do not answer, or a device that sends too slowly",
    }
}
