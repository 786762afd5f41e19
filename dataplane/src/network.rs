//! Networks: addresses with the length of a prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with the length of its network's prefix; `192.0.2.2/24`, `2001:db8::2/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    /// The address, host part included.
    pub address: IpAddr,
    /// Bits of the network part, 0 to 32 or 128.
    pub prefix_len: u8,
}

/// An address's bits, counted from the left as if it had 128.
pub(crate) fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The first `prefix_len` of 128 bits.
pub(crate) fn mask_of(prefix_len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0)
}

impl Network {
    /// The address alone.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix_len: Self::len_max(address) }
    }

    fn len_max(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// Whether the prefix leaves nothing open.
    pub fn is_host(self) -> bool {
        self.prefix_len == Self::len_max(self.address)
    }

    /// The network with its host part zero.
    pub fn base(self) -> IpAddr {
        let bits = bits_of(self.address) & mask_of(self.prefix_len);
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
        }
    }

    /// An address of the network for a flow: `flow`, of which the low bits are well mixed, fills what the
    /// prefix leaves open.
    pub fn pick(self, flow: u64) -> IpAddr {
        let host = !mask_of(self.prefix_len);
        match self.base() {
            IpAddr::V4(base) => {
                Ipv4Addr::from_bits(base.to_bits() | flow as u32 & (host >> 96) as u32).into()
            }
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() | u128::from(flow) & host).into(),
        }
    }

    /// Whether `address` lies in the network.
    #[inline]
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && (bits_of(address) ^ bits_of(self.address)) & mask_of(self.prefix_len) == 0
    }

    /// The network itself and its broadcast address (RFC 1122 §3.2.1.3). Links of one or two addresses
    /// have neither (RFC 3021), nor has IPv6.
    pub fn broadcasts(self) -> Option<[Ipv4Addr; 2]> {
        let IpAddr::V4(own) = self.address else { return None };
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0);
        let base = own.to_bits() & mask;
        (self.prefix_len < 31).then_some([base, base | !mask].map(Ipv4Addr::from_bits))
    }

    /// Whether `address` is one of [`broadcasts`](Self::broadcasts).
    pub fn is_broadcast(self, address: IpAddr) -> bool {
        self.broadcasts().is_some_and(|both| both.map(IpAddr::from).contains(&address))
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is not ADDRESS/PREFIX; write it as 192.0.2.2/24 or 2001:db8::2/64");
        let (address, prefix_len) = text.split_once('/').ok_or_else(wanted)?;
        let (address, prefix_len): (IpAddr, u8) =
            (address.parse().map_err(|_| wanted())?, prefix_len.parse().map_err(|_| wanted())?);
        let most = Self::len_max(address);
        if prefix_len > most {
            let family = if most == 32 { "IPv4" } else { "IPv6" };
            return Err(format!("`{text}` has a prefix of {prefix_len}; {family} prefixes are 0 to {most}"));
        }
        Ok(Self { address, prefix_len })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn broadcast_addresses_are_known() {
        assert!(network("192.0.2.2/24").is_broadcast(Ipv4Addr::new(192, 0, 2, 255).into()));
        assert!(network("192.0.2.2/24").is_broadcast(Ipv4Addr::new(192, 0, 2, 0).into()));
        assert!(!network("192.0.2.2/31").is_broadcast(Ipv4Addr::new(192, 0, 2, 3).into()));
        assert!(!network("192.0.2.2/24").is_broadcast(Ipv4Addr::new(192, 0, 3, 255).into()));
    }

    #[test]
    fn bad_networks_are_refused_with_the_right_form() {
        for text in ["192.0.2.2", "192.0.2.2/33", "192.0.2/24", "x/24", "192.0.2.2/-1", "::/129"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
