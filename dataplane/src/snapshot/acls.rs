//! Lists of addresses that decide who may have a session.

use super::proofs::Set;
use crate::ids::{AclId, ServiceId};
use crate::prefixes::Prefixes;
use std::net::IpAddr;
use std::sync::Arc;

/// What becomes of those whose address is in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclAction {
    /// They may have sessions, whatever later lists say.
    Allow,
    /// They may not.
    Deny,
}

impl AclAction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Allow, Self::Deny];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub struct Acl {
    /// Its counter's slot.
    pub id: AclId,
    /// What it does.
    pub action: AclAction,
    /// The addresses.
    pub prefixes: Arc<Prefixes>,
    /// The services that it is for; all without it.
    services: Option<Set>,
}

impl Acl {
    /// A list for these services; for all if none are said.
    pub fn new(
        id: AclId,
        action: AclAction,
        prefixes: Arc<Prefixes>,
        services: Option<impl IntoIterator<Item = ServiceId>>,
    ) -> Self {
        Self { id, action, prefixes, services: services.map(Set::of) }
    }

    #[inline]
    fn is_for(&self, service: Option<ServiceId>) -> bool {
        let has = |services: &Set| service.is_some_and(|service| services.has(service));
        self.services.as_ref().is_none_or(has)
    }
}

/// All lists, in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct Acls(Vec<Acl>);

impl Acls {
    /// Those lists that have addresses.
    pub fn new(lists: impl IntoIterator<Item = Acl>) -> Self {
        Self(lists.into_iter().filter(|list| !list.prefixes.is_empty()).collect())
    }

    /// Whether no list has any address.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first list for a service, or for all if there is none, that an address is in. Who is in none may have a session.
    #[inline]
    pub fn find(&self, service: Option<ServiceId>, address: IpAddr) -> Option<&Acl> {
        self.0.iter().find(|list| list.is_for(service) && list.prefixes.contains(address))
    }

    /// Whether a client of a service may not have a session.
    #[inline]
    pub fn deny(&self, service: Option<ServiceId>, address: IpAddr) -> bool {
        self.find(service, address).is_some_and(|list| list.action == AclAction::Deny)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Network;

    fn list(id: u16, action: AclAction, texts: &[&str], services: &[u32]) -> Acl {
        let prefixes: Prefixes = texts.iter().map(|text| text.parse::<Network>().unwrap()).collect();
        Acl::new(
            AclId(id),
            action,
            Arc::new(prefixes),
            (!services.is_empty()).then(|| services.iter().copied().map(ServiceId)),
        )
    }

    #[test]
    fn the_first_list_that_has_an_address_decides() {
        let acls = Acls::new([
            list(0, AclAction::Allow, &["192.0.2.7/32", "2001:db8::/64"], &[]),
            list(1, AclAction::Deny, &["192.0.2.0/24", "2001:db8::/32"], &[3]),
            list(2, AclAction::Deny, &[], &[]),
            list(3, AclAction::Deny, &["198.51.100.0/24"], &[]),
        ]);
        for (service, address, by) in [
            (3, "192.0.2.7", Some(0)),
            (3, "192.0.2.8", Some(1)),
            (4, "192.0.2.8", None),
            (4, "198.51.100.1", Some(3)),
            (3, "2001:db8::1", Some(0)),
            (3, "2001:db8:1::1", Some(1)),
            (3, "203.0.113.1", None),
        ] {
            let (service, address) = (Some(ServiceId(service)), address.parse().unwrap());
            assert_eq!(acls.find(service, address).map(|list| list.id.0), by, "{address}");
            assert_eq!(acls.deny(service, address), by.is_some_and(|by| by != 0));
        }
    }
}
