//! How replies find the worker that owns their session.
//!
//! A FullNAT reply comes to the queue that its device chooses. Where the device's choice is known, a
//! local port is chosen whose replies come to the chooser's own queue: no rule in the device, no
//! table that workers share. [`Toeplitz`] is the hash by which devices choose, [`PortSpace`] numbers
//! the ports that are a worker's own, [`Plan`] says whose a packet is, [`ladder`] finds the best plan
//! for a device. What comes to the wrong worker all the same is handed over, because every worker
//! can compute the owner.

mod classes;
pub mod ladder;
mod space;
mod toeplitz;

pub(crate) use classes::Region;
pub use space::PortSpace;
pub use toeplitz::{KEY_LEN_MIN, Toeplitz};

use crate::flow::{Endpoint, Family, FlowHasher, FlowKey6, Key, Protocol};
use crate::ids::{PortId, WorkerId};
use std::net::IpAddr;
use std::sync::Arc;

/// The lowest local port that is given out; those below belong to well-known services.
pub const FIRST_PORT: u16 = 1024;
/// Most entries of a device's indirection table that are followed.
pub const TABLE_MAX: usize = 2_048;

/// What of a reply decides about its queue.
#[derive(Clone, Debug)]
pub enum Spread {
    /// The Toeplitz hash of addresses and ports.
    Ports(Arc<Toeplitz>),
    /// The Toeplitz hash of the addresses alone.
    Addresses(Arc<Toeplitz>),
    /// The low bits of the local port: a flow rule, or nothing that the device does.
    LocalPort,
}

/// Whose a reply is, by what a device (or a rule in it) does with it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The owner for each value that the low bits of the hash can have.
    table: Box<[WorkerId]>,
    /// By family, TCP's, UDP's and the others'.
    transports: [[Transport; 3]; 2],
}

#[derive(Clone, Debug)]
struct Transport {
    spread: Spread,
    space: PortSpace,
}

impl Plan {
    /// The plan by which `table[hash % table.len()]` owns a packet; `spreads` are, by family, TCP's and UDP's.
    /// Of other protocols devices are expected to know nothing.
    ///
    /// # Panics
    /// When the table's length is not a power of two up to [`TABLE_MAX`], or when it names a worker
    /// that is not below `workers`.
    pub fn new(table: Box<[WorkerId]>, spreads: [[Spread; 2]; 2], workers: usize) -> Self {
        assert!(table.len().is_power_of_two() && table.len() <= TABLE_MAX, "{} entries", table.len());
        assert!(table.iter().all(|worker| usize::from(worker.0) < workers), "a worker that is not there");
        let transport = |family: Family, spread: Spread| {
            let share = |l4_port: u16| match &spread {
                Spread::Ports(toeplitz) => toeplitz.port_share(tuple_len(family), l4_port),
                Spread::Addresses(_) => 0,
                Spread::LocalPort => u32::from(l4_port),
            };
            let space = PortSpace::new(share, &table, workers);
            Transport { spread, space }
        };
        let [v4, v6] = spreads.map(|[tcp, udp]| [tcp, udp, Spread::LocalPort]);
        let transports =
            [v4.map(|spread| transport(Family::V4, spread)), v6.map(|spread| transport(Family::V6, spread))];
        Self { table, transports }
    }

    /// The plan of a worker that is alone.
    pub fn alone() -> Self {
        Self::new([WorkerId(0)].into(), BY_LOCAL_PORT, 1)
    }

    /// The owner of packets with this key, if the device does as planned.
    #[inline]
    pub fn owner<K: Key>(&self, key: K) -> WorkerId {
        let hash = match &self.transport::<K>(key.protocol()).spread {
            Spread::Ports(toeplitz) => toeplitz.hash(key.tuple().as_ref()),
            Spread::Addresses(toeplitz) => toeplitz.hash(addresses_of(key.tuple().as_ref())),
            Spread::LocalPort => key.port_word() & 0xffff,
        };
        self.table[hash as usize & (self.table.len() - 1)]
    }

    /// The ports that can be chosen for `protocol`.
    #[inline]
    pub fn space<K: Key>(&self, protocol: Protocol) -> &PortSpace {
        &self.transport::<K>(protocol).space
    }

    /// Where the ports stand of a pair whose replies have this key but for the port, which is zero.
    #[inline]
    pub(crate) fn region<K: Key>(&self, key: K) -> Region {
        let transport = self.transport::<K>(key.protocol());
        let base = match &transport.spread {
            Spread::Ports(toeplitz) => toeplitz.hash(key.tuple().as_ref()),
            Spread::Addresses(toeplitz) => toeplitz.hash(addresses_of(key.tuple().as_ref())),
            Spread::LocalPort => 0,
        };
        transport.space.region(base)
    }

    /// Whether a worker has any local port for such a pair.
    pub fn has_ports<K: Key>(&self, worker: WorkerId, key: K) -> bool {
        self.space::<K>(key.protocol()).len(worker, self.region(key)) > 0
    }

    /// How many local ports a worker can use for a pair whose replies have this key but for the port,
    /// which is zero.
    pub fn capacity<K: Key>(&self, worker: WorkerId, key: K) -> usize {
        self.space::<K>(key.protocol()).capacity(worker, self.region(key))
    }

    /// Whether the device is known to bring packets of this kind to [`owner`](Self::owner).
    #[inline]
    fn is_of_device<K: Key>(&self, protocol: Protocol) -> bool {
        !matches!(self.transport::<K>(protocol).spread, Spread::LocalPort)
    }

    #[inline]
    fn transport<K: Key>(&self, protocol: Protocol) -> &Transport {
        let at = match protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1,
            Protocol::Sctp | Protocol::Icmp => 2,
        };
        &self.transports[K::FAMILY as usize][at]
    }
}

/// Every reply is the worker's whose number the local port tells.
pub const BY_LOCAL_PORT: [[Spread; 2]; 2] = [const { [Spread::LocalPort, Spread::LocalPort] }; 2];

/// Bytes of the tuple that is hashed.
fn tuple_len(family: Family) -> usize {
    match family {
        Family::V4 => 12,
        Family::V6 => 36,
    }
}

/// The part of a tuple that is not ports.
#[inline]
fn addresses_of(tuple: &[u8]) -> &[u8] {
    &tuple[..tuple.len() - 4]
}

/// Who makes the session of a client's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Whoever gets it: the device keeps a flow on one queue, in a way that nobody knows.
    Receiver,
    /// The owner by the port's plan: should the device change its mind, sessions stay found.
    Planned,
    /// A hash of the flow: the device gives everything to one queue, or a flow to several.
    Hashed,
}

/// What all workers know of each other's share.
#[derive(Clone, Debug)]
pub struct Steering {
    /// How many workers there are.
    pub workers: u16,
    /// By [`PortId`].
    pub ports: Box<[PortSteering]>,
    /// The same for all workers: for [`Clients::Hashed`].
    pub hasher: FlowHasher,
}

/// One port's share of it.
#[derive(Clone, Debug)]
pub struct PortSteering {
    /// Whose replies that come by this port are.
    pub plan: Plan,
    /// Who makes sessions of packets that come by this port.
    pub clients: Clients,
}

impl Steering {
    /// One worker on so many ports.
    pub fn alone(ports: usize) -> Self {
        let port = PortSteering { plan: Plan::alone(), clients: Clients::Receiver };
        Self { workers: 1, ports: vec![port; ports].into(), hasher: FlowHasher::new([0; 4]) }
    }

    /// A port's share.
    ///
    /// # Panics
    /// When there is no such port.
    #[inline]
    pub fn port(&self, id: PortId) -> &PortSteering {
        &self.ports[usize::from(id.0)]
    }

    /// Whether on every port the device's own hash is known, ports included.
    pub fn predicts_ports<K: Key>(&self, protocol: Protocol) -> bool {
        let is_predicted = |port: &PortSteering| {
            matches!(port.plan.transport::<K>(protocol).spread, Spread::Ports(_)) || self.workers == 1
        };
        self.ports.iter().all(is_predicted)
    }

    /// The owner of all sessions of a client, where nothing but its address tells both directions.
    pub fn owner_of_client(&self, client: IpAddr) -> WorkerId {
        let client = Endpoint::new(client, 0);
        self.owner_of(FlowKey6::new(Protocol::Tcp, client, client))
    }

    /// The owner of what nothing but a hash tells.
    pub fn owner_of(&self, key: impl Key) -> WorkerId {
        self.share(self.hasher.hash(key))
    }

    /// The worker whose share of all hashes this one is in.
    fn share(&self, hash: u64) -> WorkerId {
        WorkerId((((hash & 0xffff_ffff) * u64::from(self.workers)) >> 32) as u16)
    }

    /// Who makes the session of a client's packet that worker `receiver` got by port `from`.
    #[inline]
    pub fn client_owner<K: Key>(&self, from: PortId, key: K, receiver: WorkerId) -> WorkerId {
        let port = self.port(from);
        match port.clients {
            Clients::Receiver => receiver,
            Clients::Planned if port.plan.is_of_device::<K>(key.protocol()) => port.plan.owner(key),
            Clients::Planned | Clients::Hashed => self.share(self.hasher.hash(key)),
        }
    }
}

/// Who a worker is among the others.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its number.
    pub worker: WorkerId,
    /// What all know.
    pub steering: Arc<Steering>,
}

impl Seat {
    /// The only worker, on so many ports.
    pub fn alone(ports: usize) -> Self {
        Self { worker: WorkerId(0), steering: Arc::new(Steering::alone(ports)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowKey;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn tables() -> impl Strategy<Value = (u16, Vec<u16>)> {
        (1u16..9, 6u32..10).prop_flat_map(|(workers, bits)| {
            let entries = prop::collection::vec(0..workers, 1 << bits);
            (Just(workers), entries)
        })
    }

    fn owners(table: &[u16]) -> Box<[WorkerId]> {
        table.iter().map(|queue| WorkerId(*queue)).collect()
    }

    /// Every port of a worker leads replies to it, and all workers' ports together are all ports.
    fn chosen_ports_lead_home<K: Key>(
        (workers, table): &(u16, Vec<u16>),
        key: &[u8],
        addresses: bool,
        real: Endpoint,
        local: IpAddr,
    ) -> Result<(), TestCaseError> {
        let toeplitz = Arc::new(Toeplitz::new(key).unwrap());
        let spread = if addresses {
            Spread::Addresses(Arc::clone(&toeplitz))
        } else {
            Spread::Ports(Arc::clone(&toeplitz))
        };
        let both = [spread.clone(), spread];
        let plan = Plan::new(owners(table), [both.clone(), both], (*workers).into());
        let reply = |l4_port| K::new(Protocol::Udp, real, Endpoint::new(local, l4_port));
        let (region, mut seen) = (plan.region(reply(0)), HashSet::new());
        for worker in (0..*workers).map(WorkerId) {
            let space = plan.space::<K>(Protocol::Udp);
            let mut usable = 0;
            for number in 0..space.len(worker, region) {
                let l4_port = space.l4_port(worker, region, number);
                let tuple = reply(l4_port).tuple();
                let hash =
                    toeplitz.hash(if addresses { addresses_of(tuple.as_ref()) } else { tuple.as_ref() });
                prop_assert_eq!(table[hash as usize % table.len()], worker.0);
                prop_assert_eq!(plan.owner(reply(l4_port)), worker);
                prop_assert_eq!(space.number(worker, region, l4_port), Some(number));
                prop_assert!(seen.insert(l4_port));
                usable += usize::from(l4_port >= FIRST_PORT);
            }
            prop_assert_eq!(plan.capacity(worker, reply(0)), usable);
        }
        prop_assert_eq!(seen.len(), 65_536);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_chosen_port_s_reply_comes_to_its_chooser(
            tables in tables(),
            key in prop::collection::vec(any::<u8>(), 40..53),
            addresses in any::<bool>(),
            (real, local, real_port) in (any::<u128>(), any::<u128>(), any::<u16>()),
        ) {
            let narrow = |bits: u128| Ipv4Addr::from_bits(bits as u32);
            let real4 = Endpoint::new(narrow(real), real_port);
            chosen_ports_lead_home::<FlowKey>(&tables, &key, addresses, real4, narrow(local).into())?;
            let [real, local] = [real, local].map(Ipv6Addr::from_bits);
            let real6 = Endpoint::new(real, real_port);
            chosen_ports_lead_home::<FlowKey6>(&tables, &key, addresses, real6, local.into())?;
        }

        #[test]
        fn the_hash_is_the_one_of_a_nic(
            key in prop::collection::vec(any::<u8>(), 40..53),
            tuple in prop::collection::vec(any::<u8>(), 0..37),
        ) {
            let toeplitz = Toeplitz::new(&key).unwrap();
            prop_assert_eq!(toeplitz.hash(&tuple), pktgen_tests::softnic::toeplitz(&key, &tuple));
        }
    }

    #[test]
    fn a_hash_of_the_flow_employs_all_workers_alike() {
        let steering = Steering { workers: 3, ..Steering::alone(1) };
        let steering = Steering {
            ports: vec![PortSteering { clients: Clients::Hashed, ..steering.ports[0].clone() }].into(),
            hasher: FlowHasher::new([3, 5, 7, 11].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            ..steering
        };
        let mut shares = [0; 3];
        for flow in 0..3_000u16 {
            let client = Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), flow);
            let key = FlowKey::new(Protocol::Tcp, client, Endpoint::new(Ipv4Addr::new(192, 0, 2, 10), 80));
            shares[usize::from(steering.client_owner(PortId(0), key, WorkerId(0)).0)] += 1;
        }
        assert!(shares.iter().all(|share| (900..1_100).contains(share)), "{shares:?}");
    }
}
