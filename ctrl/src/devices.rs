//! What devices are, and what they say while they run.

use dataplane::ids::PortId;
use dataplane::snapshot::LocalAddress;
use dataplane::steering::Steering;
use dataplane::wire::Mac;

/// What a started device says of itself.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// The driver's name.
    pub driver: String,
    /// Station address.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// What devices say while they run.
pub trait Devices {
    /// Whether the link is up, and its speed in Mbit/s; `None` when the device cannot tell.
    fn link(&self, port: PortId) -> Option<(bool, u32)>;
    /// What the device counted.
    fn counters(&self, port: PortId) -> DeviceCounters;
    /// Packet buffers: (in use, in all).
    fn buffers(&self) -> (u32, u32);
    /// Brings answers to these local addresses to their workers, where that takes rules in a device.
    ///
    /// # Errors
    /// When a device that took such rules before does not take these.
    fn steer(&mut self, locals: &[LocalAddress], steering: &Steering) -> Result<(), String>;
}

/// What a device counts itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceCounters {
    /// Packets sent.
    pub sent: u64,
    /// Packets lost because nobody took them.
    pub missed: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets not sent because of errors.
    pub tx_errors: u64,
    /// Receptions that failed for want of buffers.
    pub no_buffer: u64,
}
