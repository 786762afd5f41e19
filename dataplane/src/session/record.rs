//! One session, as lists show it.

use super::{ForwardMode, Session, State};
use crate::clock::Stamp;
use crate::flow::{Endpoint, Key, Protocol};
use crate::ids::WorkerId;

/// One session, as lists show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its transport protocol, or that of pings.
    pub protocol: Protocol,
    /// What becomes of its packets.
    pub mode: ForwardMode,
    /// The four endpoints.
    pub client: Endpoint,
    /// What the client addresses.
    pub vip: Endpoint,
    /// The director's side towards the server.
    pub local: Endpoint,
    /// The server.
    pub real: Endpoint,
    /// Where it stands.
    pub state: State,
    /// Who owns it.
    pub worker: WorkerId,
    /// Since when no packet passed, in milliseconds.
    pub idle_ms: u32,
}

impl SessionRecord {
    /// A worker's session.
    pub fn of<K: Key>(session: &Session<K>, worker: WorkerId, now: Stamp) -> Self {
        Self {
            protocol: session.protocol(),
            mode: session.mode,
            client: session.client(),
            vip: session.vip(),
            local: session.local(),
            real: session.real(),
            state: session.state(),
            worker,
            idle_ms: now.millis_since(session.last_seen),
        }
    }
}
