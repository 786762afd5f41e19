//! What each of the appliance's addresses is for, and which addresses send nothing.

use super::{Map, Network};
use crate::drop::DropReason;
use crate::ids::PortId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What one of the appliance's addresses is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRole {
    /// An address of a port.
    Own,
    /// An address that services listen on.
    Vip,
    /// An address that FullNAT uses towards servers; replies come by this port.
    Local(PortId),
}

/// The appliance's addresses by family, because a word is found in half the time of an [`IpAddr`].
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// `None` stands at the broadcast addresses of the appliance's links.
    narrow: Map<u32, Option<AddressRole>>,
    wide: Map<u128, AddressRole>,
}

impl Addresses {
    /// Adds an address; one that is known already gets another role.
    pub fn insert(&mut self, address: IpAddr, role: AddressRole) {
        match address {
            IpAddr::V4(address) => {
                self.narrow.insert(address.to_bits(), Some(role));
            }
            IpAddr::V6(address) => {
                self.wide.insert(address.to_bits(), role);
            }
        }
    }

    /// Adds a port's own address with its network, whose broadcast addresses send nothing.
    pub fn insert_link(&mut self, network: Network) {
        for address in network.broadcasts().into_iter().flatten() {
            self.narrow.entry(address.to_bits()).or_insert(None);
        }
        self.insert(network.address, AddressRole::Own);
    }

    /// Takes an address out.
    pub fn remove(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.narrow.remove(&address.to_bits());
            }
            IpAddr::V6(address) => {
                self.wide.remove(&address.to_bits());
            }
        }
    }

    /// What an address is for.
    #[inline]
    pub fn get(&self, address: IpAddr) -> Option<AddressRole> {
        match address {
            IpAddr::V4(address) => self.narrow.get(&address.to_bits()).copied().flatten(),
            IpAddr::V6(address) => self.wide.get(&address.to_bits()).copied(),
        }
    }

    /// Every address with its role, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, AddressRole)> {
        let narrow = self.narrow.iter().filter_map(|(bits, role)| {
            let address = Ipv4Addr::from_bits(*bits).into();
            role.map(|role| (address, role))
        });
        narrow.chain(self.wide.iter().map(|(bits, role)| (Ipv6Addr::from_bits(*bits).into(), *role)))
    }

    /// Whether packets may come from an address: from none of our own, and from no broadcast address
    /// of our links (RFC 1812 §5.3.7).
    ///
    /// # Errors
    /// Why they may not.
    #[inline]
    pub fn check_source(&self, address: IpAddr) -> Result<(), DropReason> {
        let entry = match address {
            IpAddr::V4(address) => self.narrow.get(&address.to_bits()).copied(),
            IpAddr::V6(address) => self.wide.get(&address.to_bits()).map(|role| Some(*role)),
        };
        match entry {
            None => Ok(()),
            Some(None) => Err(DropReason::SourceInvalid),
            Some(Some(_)) => Err(DropReason::SourceOurs),
        }
    }
}

impl FromIterator<(IpAddr, AddressRole)> for Addresses {
    fn from_iter<T: IntoIterator<Item = (IpAddr, AddressRole)>>(pairs: T) -> Self {
        let mut all = Self::default();
        for (address, role) in pairs {
            all.insert(address, role);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_brings_its_address_and_its_broadcast_addresses() {
        let mut all = Addresses::default();
        all.insert_link("192.0.2.2/24".parse().unwrap());
        all.insert("192.0.2.255".parse().unwrap(), AddressRole::Vip);
        all.insert_link("192.0.2.3/24".parse().unwrap());
        all.insert_link("2001:db8::2/64".parse().unwrap());
        let check = |text: &str| all.check_source(text.parse().unwrap());

        assert_eq!(all.get("192.0.2.2".parse().unwrap()), Some(AddressRole::Own));
        assert_eq!(all.get("192.0.2.0".parse().unwrap()), None);
        assert_eq!(all.get("192.0.2.255".parse().unwrap()), Some(AddressRole::Vip));
        assert_eq!(check("192.0.2.0"), Err(DropReason::SourceInvalid));
        assert_eq!(check("192.0.2.255"), Err(DropReason::SourceOurs));
        assert_eq!(check("2001:db8::2"), Err(DropReason::SourceOurs));
        assert_eq!(check("192.0.2.1"), Ok(()));
        assert_eq!(all.iter().count(), 4);
    }
}
