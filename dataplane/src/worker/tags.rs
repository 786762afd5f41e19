//! Ports that are a VLAN on another's link: which tag a frame has, and which it gets.

use crate::frame::BURST_SIZE;
use crate::ids::PortId;
use crate::port::{Buffer, Burst};
use crate::wire;
use arrayvec::ArrayVec;

/// A port without a device of its own (IEEE 802.1Q).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubInterface {
    /// The port whose link it shares.
    pub parent: PortId,
    /// The VLAN, 1 to 4,094.
    pub vlan: u16,
}

/// The sub-interfaces of a worker's ports. Their ids follow those of the ports with devices.
#[derive(Debug)]
pub(super) struct Tags {
    first: usize,
    list: Vec<SubInterface>,
}

impl Tags {
    pub(super) fn new(first: usize, list: Vec<SubInterface>) -> Self {
        Self { first, list }
    }

    /// The sub-interface that a port is, if it is one.
    #[inline]
    pub(super) fn get(&self, port: PortId) -> Option<SubInterface> {
        self.list.get(usize::from(port.0).wrapping_sub(self.first)).copied()
    }

    /// Whether frames of a device's port may belong to sub-interfaces.
    #[inline]
    pub(super) fn share(&self, port: PortId) -> bool {
        self.list.iter().any(|sub| sub.parent == port)
    }

    /// The port that a frame from the link of `port` belongs to, without its tag then; `None` for a VLAN
    /// that nobody has.
    fn take_tag<B: Buffer>(&self, port: PortId, buffer: &mut B) -> Option<PortId> {
        let window = {
            let mut frame = buffer.frame();
            let Some(vlan) = wire::vlan_of(frame.bytes()) else { return Some(port) };
            let wanted = SubInterface { parent: port, vlan };
            let at = self.list.iter().position(|sub| *sub == wanted);
            // A tag without VLAN has a priority only.
            let port = if vlan == 0 { port } else { PortId((self.first + at?) as u16) };
            wire::strip_tag(&mut frame);
            (port, frame.window())
        };
        buffer.set_window(window.1);
        Some(window.0)
    }

    /// Splits a burst from the link of `port` by the ports that its frames belong to, keeping their order.
    /// Calls `each` with the frames of one port at a time, and with `None` for those of unknown VLANs.
    pub(super) fn split<B: Buffer>(
        &self,
        port: PortId,
        mut burst: Burst<B>,
        mut each: impl FnMut(Option<PortId>, Burst<B>),
    ) {
        let mut owners: ArrayVec<Option<PortId>, BURST_SIZE> =
            burst.iter_mut().map(|buffer| self.take_tag(port, buffer)).collect();
        while let Some(owner) = owners.first().copied() {
            let mut others = Burst::new();
            let mut mine = Burst::new();
            for (buffer, of) in burst.drain(..).zip(&owners) {
                if *of == owner { mine.push(buffer) } else { others.push(buffer) }
            }
            owners.retain(|of| *of != owner);
            burst = others;
            each(owner, mine);
        }
    }
}
