//! Which services ask their clients for proof at the moment, of those that do so by need.

use crate::flow::{Key, Protocol};
use crate::ids::ServiceId;
use crate::snapshot::Service;
use crate::wire::Packet;

/// When clients of TCP have to prove by a SYN cookie that they are where they say (RFC 4987).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynProxy {
    /// Never.
    Off,
    /// Never; floods are told.
    #[default]
    Monitor,
    /// While a flood goes on.
    Auto,
    /// Always.
    Always,
}

impl SynProxy {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::Monitor, Self::Auto, Self::Always];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Monitor => "monitor",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }

    /// Whether somebody looks for floods.
    #[inline]
    pub const fn is_watched(self) -> bool {
        matches!(self, Self::Monitor | Self::Auto)
    }
}

/// The services that ask for proof now, and those that take it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proofs {
    asking: Set,
    accepting: Set,
}

impl Proofs {
    /// These ask; and those that asked until a moment ago take cookies still.
    pub fn new(
        asking: impl IntoIterator<Item = ServiceId>,
        late: impl IntoIterator<Item = ServiceId>,
    ) -> Self {
        let asking = Set::of(asking);
        let mut accepting = asking.clone();
        late.into_iter().for_each(|id| accepting.add(id));
        Self { asking, accepting }
    }

    /// Whether a segment without session has to do with proof: a SYN that is answered by a cookie, or another one that
    /// may have one.
    #[inline]
    pub fn concern<K: Key>(&self, packet: &Packet<K>, protocol: Protocol, service: &Service) -> bool {
        if protocol != Protocol::Tcp {
            return false;
        }
        match (service.options.syn_proxy, packet.flags.opens()) {
            (SynProxy::Always, _) => true,
            (SynProxy::Auto, true) => self.asking.has(service.id),
            (SynProxy::Off | SynProxy::Monitor, true) => false,
            (_, false) => self.accepting.has(service.id),
        }
    }

    /// Whether a service that does so by need asks now.
    pub fn asks(&self, id: ServiceId) -> bool {
        self.asking.has(id)
    }
}

/// A bit for each service, as far as there are some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(Vec<u64>);

impl Set {
    pub(super) fn of(ids: impl IntoIterator<Item = ServiceId>) -> Self {
        let mut set = Self::default();
        ids.into_iter().for_each(|id| set.add(id));
        set
    }

    fn add(&mut self, ServiceId(id): ServiceId) {
        let word = id as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (id % 64);
    }

    #[inline]
    pub(super) fn has(&self, ServiceId(id): ServiceId) -> bool {
        self.0.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_added() {
        let ids = [0, 63, 64, 9_999].map(ServiceId);
        let set = Set::of(ids);
        let found: Vec<_> = (0..10_100).map(ServiceId).filter(|id| set.has(*id)).collect();
        assert_eq!(found, ids);
        assert!(!Set::default().has(ServiceId(0)));
    }

    #[test]
    fn services_that_no_longer_ask_take_proof_still() {
        let proofs = Proofs::new([ServiceId(1)], [ServiceId(2)]);
        assert_eq!([0, 1, 2].map(|id| proofs.asks(ServiceId(id))), [false, true, false]);
        assert_eq!([0, 1, 2].map(|id| proofs.accepting.has(ServiceId(id))), [false, true, true]);
    }
}
