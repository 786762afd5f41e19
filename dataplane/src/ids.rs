//! Names for things that are counted. Two numbers that mean different things
//! are two types, so that they cannot be exchanged.

/// A NIC or virtual device, numbered in the order of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// A worker, numbered from 0 in the order of `dataplane.workers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// A service's slot in every counter block; stable while the service exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// A real server's slot in every counter block; stable while the server exists
/// and while any session still uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// A local address's slot in every counter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalId(pub u16);

impl LocalId {
    /// The value that stands for no local address.
    pub const NONE: Self = Self(u16::MAX);
}

/// The slot of a list of addresses in every counter block; stable while the list exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AclId(pub u16);

/// A neighbour's slot in the snapshot; stable within one routing epoch. Control keeps far fewer than these can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeighborId(pub u16);

impl NeighborId {
    /// The value that stands for "not resolved yet".
    pub const NONE: Self = Self(u16::MAX);
}

/// Counts the snapshots that control published, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// Most real servers (over all services, counting those that drain) one process can hold.
pub const MAX_SERVERS: usize = 131_072;
/// Most services one process can hold.
pub const MAX_SERVICES: usize = 16_384;
/// Most lists of addresses.
pub const MAX_ACLS: usize = 64;
/// Most local addresses one process can hold.
pub const MAX_LOCALS: usize = 4_096;
