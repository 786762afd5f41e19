//! The header of the PROXY protocol (haproxy's specification, versions 1 and 2): the client's address
//! and the one that it asked for, in front of what it says.

use crate::flow::{Endpoint, Protocol};
use arrayvec::ArrayVec;
use std::fmt::Write;
use std::net::IpAddr;

/// Most bytes of a header: a line of version 1 has 107, and what we add to version 2 is less.
const HEADER_MAX: usize = 108;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const UNIQUE_ID: u8 = 0x05;
/// The first of the types for private use.
const VIP: u8 = 0xe0;

/// What a service's servers are told by the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// A line of text, or bytes.
    pub version: ProxyVersion,
    /// With version 2: a number that no other session has for long, as TLV 0x05.
    pub unique_id: bool,
    /// With version 2: port and address of the VIP, as TLV 0xE0.
    pub vip: bool,
}

/// The forms of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// A line of text, for TCP.
    One,
    /// Bytes, for TCP and UDP.
    Two,
}

/// One session's header.
pub type ProxyHeader = ArrayVec<u8, HEADER_MAX>;

impl Proxy {
    /// Bytes of the header of every datagram of a client.
    pub const fn datagram_len(&self, client: IpAddr) -> usize {
        // Two addresses and ports; a TLV's three bytes, and a port with an address.
        let (endpoints, vip) = if client.is_ipv4() { (12, 3 + 6) } else { (36, 3 + 18) };
        let unique_id = if self.unique_id { 3 + 8 } else { 0 };
        SIGNATURE.len() + 4 + endpoints + unique_id + if self.vip { vip } else { 0 }
    }

    /// The header of a session whose client asks for `vip`, an address of its own family. `id` is the
    /// session's number.
    pub fn header(&self, protocol: Protocol, client: Endpoint, vip: Endpoint, id: u64) -> ProxyHeader {
        match self.version {
            ProxyVersion::One => line(client, vip),
            ProxyVersion::Two => self.bytes(protocol, client, vip, id),
        }
    }

    fn bytes(&self, protocol: Protocol, client: Endpoint, vip: Endpoint, id: u64) -> ProxyHeader {
        let mut header = ProxyHeader::new();
        let mut put = |bytes: &[u8]| header.extend(bytes.iter().copied());
        let transport = match protocol {
            Protocol::Tcp => 1,
            Protocol::Udp => 2,
            // None of its own: what follows the header is not said to be a stream or datagrams.
            Protocol::Sctp | Protocol::Icmp => 0,
        };
        let family = if client.address.is_ipv4() { 0x10 } else { 0x20 };
        put(&SIGNATURE);
        // Version 2, and not the balancer's own connection; the length comes at the end.
        put(&[0x21, family | transport, 0, 0]);
        for endpoint in [client, vip] {
            match endpoint.address {
                IpAddr::V4(address) => put(&address.octets()),
                IpAddr::V6(address) => put(&address.octets()),
            }
        }
        put(&client.l4_port.to_be_bytes());
        put(&vip.l4_port.to_be_bytes());
        if self.unique_id {
            put(&[UNIQUE_ID, 0, 8]);
            put(&id.to_be_bytes());
        }
        if self.vip {
            let len = if vip.address.is_ipv4() { 6 } else { 18 };
            put(&[VIP, 0, len]);
            put(&vip.l4_port.to_be_bytes());
            match vip.address {
                IpAddr::V4(address) => put(&address.octets()),
                IpAddr::V6(address) => put(&address.octets()),
            }
        }
        let len = (header.len() - SIGNATURE.len() - 4) as u16;
        header[14..16].copy_from_slice(&len.to_be_bytes());
        header
    }
}

fn line(client: Endpoint, vip: Endpoint) -> ProxyHeader {
    struct Text(ProxyHeader);
    impl Write for Text {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.try_extend_from_slice(text.as_bytes()).map_err(|_| std::fmt::Error)
        }
    }
    let mut text = Text(ProxyHeader::new());
    let family = if client.address.is_ipv4() { "TCP4" } else { "TCP6" };
    let written = write!(
        text,
        "PROXY {family} {} {} {} {}\r\n",
        client.address, vip.address, client.l4_port, vip.l4_port
    );
    // The longest addresses and ports fit.
    debug_assert!(written.is_ok());
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn endpoint(text: &str) -> Endpoint {
        let socket: SocketAddr = text.parse().unwrap();
        Endpoint::new(socket.ip(), socket.port())
    }

    #[test]
    fn headers_are_those_of_the_specification() {
        let (client, vip) = (endpoint("198.51.100.7:4711"), endpoint("192.0.2.10:443"));
        let one = Proxy { version: ProxyVersion::One, unique_id: false, vip: false };
        assert_eq!(
            &one.header(Protocol::Tcp, client, vip, 0)[..],
            b"PROXY TCP4 198.51.100.7 192.0.2.10 4711 443\r\n"
        );
        let two = Proxy { version: ProxyVersion::Two, unique_id: true, vip: true };
        let expected = [
            &b"\r\n\r\n\0\r\nQUIT\n"[..],
            &[0x21, 0x12, 0, 12 + 11 + 9],
            &[198, 51, 100, 7, 192, 0, 2, 10, 0x12, 0x67, 1, 187],
            &[5, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2],
            &[0xe0, 0, 6, 1, 187, 192, 0, 2, 10],
        ];
        assert_eq!(&two.header(Protocol::Udp, client, vip, 258)[..], expected.concat());
    }

    #[test]
    fn the_longest_headers_fit() {
        let longest = endpoint("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
        for version in [ProxyVersion::One, ProxyVersion::Two] {
            let proxy = Proxy { version, unique_id: true, vip: true };
            let header = proxy.header(Protocol::Tcp, longest, longest, u64::MAX);
            assert!(version == ProxyVersion::Two || header.ends_with(b"65535\r\n"), "{header:?}");
        }
    }

    #[test]
    fn the_length_of_a_datagrams_header_is_known_without_it() {
        for client in ["198.51.100.7:4711", "[2001:db8::7]:4711"].map(endpoint) {
            for (unique_id, vip) in [(false, false), (true, false), (false, true), (true, true)] {
                let proxy = Proxy { version: ProxyVersion::Two, unique_id, vip };
                let header = proxy.header(Protocol::Udp, client, client, 7);
                assert_eq!(header.len(), proxy.datagram_len(client.address));
            }
        }
    }
}
