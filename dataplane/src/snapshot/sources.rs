//! By which port packets of whom may come (RFC 2827, RFC 3704).

use super::{Routes, Service};
use crate::flow::Direction;
use crate::ids::PortId;
use crate::session::ForwardMode;

/// How a port's packets are checked for whether their sources can be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceCheck {
    /// Not at all.
    Off,
    /// Servers' packets come only by ports that lead to the server.
    #[default]
    Loose,
    /// Those of clients too come only by ports that lead to the client.
    Strict,
}

impl SourceCheck {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Loose, Self::Off];

    /// The name in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Loose => "loose",
            Self::Strict => "strict",
        }
    }
}

/// What a port admits of sessions' packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Whatever comes.
    All,
    /// Clients' packets: it leads to no server.
    Clients,
    /// What each packet's own routes say.
    ByRoute {
        /// Those of clients too.
        clients: bool,
    },
}

/// Where servers whose answers come back are, as ports, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSides {
    /// Ports that lead to every one.
    all: u64,
    /// Ports that lead to any.
    any: u64,
}

impl ServerSides {
    /// Of all services.
    pub fn of<'s>(services: impl Iterator<Item = &'s Service>, routes: &Routes) -> Self {
        let mut sides = Self { all: u64::MAX, any: 0 };
        for service in services.filter(|service| service.mode.sees_answers()) {
            if service.mode == ForwardMode::Snat {
                // Hidden hosts' servers are anywhere.
                sides = Self { all: 0, any: u64::MAX };
            }
            for server in &*service.servers {
                let ports = routes.ports_towards(server.endpoint.address);
                sides.all &= ports;
                sides.any |= ports;
            }
        }
        sides.all &= sides.any;
        sides
    }
}

impl Admits {
    /// What a port of this check admits.
    pub fn of(check: SourceCheck, port: PortId, sides: ServerSides) -> Self {
        let has = |ports: u64| ports >> (port.0 & 63) & 1 == 1;
        match check {
            SourceCheck::Off => Self::All,
            SourceCheck::Strict => Self::ByRoute { clients: true },
            SourceCheck::Loose if has(sides.all) => Self::All,
            SourceCheck::Loose if has(sides.any) => Self::ByRoute { clients: false },
            SourceCheck::Loose => Self::Clients,
        }
    }

    /// Whether packets of sessions in `direction` are looked at one by one.
    #[inline(always)]
    pub fn asks(self, direction: Direction) -> bool {
        match self {
            Self::All => false,
            Self::Clients | Self::ByRoute { clients: false } => direction == Direction::Outbound,
            Self::ByRoute { clients: true } => true,
        }
    }
}
