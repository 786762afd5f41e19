//! A NIC or virtual device: found, configured, started, stopped and closed.

use super::{Eal, Pool, Queue, error_text, spread};
use crate::ids::{PortId, WorkerId};
use crate::steering::ladder::Rss;
use crate::wire::Mac;
use dpdk_sys as sys;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// A started device. Dropping it stops and closes it.
#[derive(Debug)]
pub struct Device {
    device: u16,
    id: PortId,
    driver: String,
    mac: Mac,
    mtu: u16,
    queues_left: u16,
    queues: u16,
    /// Of each queue.
    pools: Vec<Pool>,
    /// The packet sockets of an af_packet device, whose losses its driver does not count.
    sockets: Vec<RawFd>,
    /// What they lost so far.
    socket_drops: AtomicU64,
}

/// How a device is set up.
#[derive(Clone, Debug)]
pub struct DeviceSettings {
    /// Queue pairs, one per worker.
    pub queues: u16,
    /// The key by which the device shall spread packets, if it takes one; as long as the longest.
    pub rss_key: Vec<u8>,
    /// Frames that a queue holds in each direction.
    pub descriptors: u16,
    /// Largest IP packet of the link, in bytes; `None` for what the device has already.
    pub mtu: Option<u16>,
    /// VLANs whose frames come by it; without any it is not asked to keep others away.
    pub vlans: Vec<u16>,
}

/// What a device counts itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceStats {
    /// Packets sent.
    pub sent: u64,
    /// Packets the device lost because nobody took them.
    pub missed: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets not sent because of errors.
    pub tx_errors: u64,
    /// Receptions that failed for want of mbufs.
    pub no_mbuf: u64,
}

impl Device {
    /// Whether a driver took the device.
    pub fn is_taken(_: &Eal, name: &str) -> bool {
        find(name).is_some()
    }

    /// Finds the device that EAL knows as `name`, configures and starts it.
    ///
    /// # Errors
    /// With the step that failed and DPDK's reason.
    pub fn start(
        _: &Eal,
        id: PortId,
        name: &str,
        pools: Vec<Pool>,
        settings: &DeviceSettings,
    ) -> Result<Self, String> {
        let device = find(name).ok_or("DPDK does not know it")?;

        let info = info(device)?;
        let driver = if info.driver_name.is_null() {
            "unknown".to_owned()
        } else {
            // SAFETY: drivers' names are static terminated strings.
            unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
        };
        if settings.queues > info.max_rx_queues || settings.queues > info.max_tx_queues {
            return Err(format!(
                "it has {} receive and {} transmit queues, {} workers need one of each; name fewer workers, or give it more queues",
                info.max_rx_queues, info.max_tx_queues, settings.queues
            ));
        }
        // From here on a failure must close the device, which dropping does.
        let is_socket = |fd: &RawFd| {
            // SAFETY: asks a descriptor of this process what it is; any number may be asked.
            info.if_index != 0 && unsafe { sys::sluice_packet_socket(*fd) } == info.if_index
        };
        let sockets = match driver.as_str() {
            "net_af_packet" => open_files().into_iter().filter(is_socket).collect(),
            _ => Vec::new(),
        };
        let mut this = Self {
            device,
            id,
            driver,
            mac: [0; 6],
            mtu: 0,
            queues_left: 0,
            queues: settings.queues,
            pools,
            sockets,
            socket_drops: AtomicU64::new(0),
        };
        this.configure(settings, is_virtual(name))?;
        this.queues_left = settings.queues;
        Ok(this)
    }

    fn configure(&mut self, settings: &DeviceSettings, is_virtual: bool) -> Result<(), String> {
        let device = self.device;
        // af_packet says that it has frames of 1,514 bytes, and takes what its ring has room for.
        let told = settings.mtu.filter(|_| self.driver != "net_af_packet");
        // 0 for DPDK's own choice.
        let mtu = told.unwrap_or(0);
        check(
            "it cannot be configured",
            self.choose(settings, mtu, !is_virtual && !settings.vlans.is_empty()),
        )?;
        if let Some(mtu) = told {
            // A device that has no limit of its own need not take one.
            const ENOTSUP: i32 = 95;
            // SAFETY: contract 1.
            let result = unsafe { sys::rte_eth_dev_set_mtu(device, mtu) };
            if result != -ENOTSUP {
                check(&format!("it does not take an MTU of {mtu}"), result)?;
            }
        }

        let (mut rx, mut tx) = (settings.descriptors, settings.descriptors);
        // SAFETY: both are written before the call returns.
        let result = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(device, &mut rx, &mut tx) };
        check("its queues cannot be sized", result)?;
        // SAFETY: asks a number.
        let socket = unsafe { sys::rte_eth_dev_socket_id(device) };
        for queue in 0..settings.queues {
            // SAFETY: contracts 1 and 2; a null configuration means the driver's defaults.
            let result = unsafe {
                sys::rte_eth_rx_queue_setup(
                    device,
                    queue,
                    rx,
                    socket as u32,
                    std::ptr::null(),
                    self.pools[usize::from(queue)].as_ptr(),
                )
            };
            check("a receive queue cannot be set up", result)?;
            // SAFETY: contract 1; as above.
            let result =
                unsafe { sys::rte_eth_tx_queue_setup(device, queue, tx, socket as u32, std::ptr::null()) };
            check("a transmit queue cannot be set up", result)?;
        }
        // SAFETY: contract 1.
        check("it cannot be started", unsafe { sys::rte_eth_dev_start(device) })?;
        if !is_virtual && !settings.vlans.is_empty() {
            self.take_vlans(&settings.vlans)?;
        }
        // A NIC keeps other stations' frames away by itself; neighbour discovery, OSPF and VRRP need every group. What
        // a virtual device opens may have another station address than the device, so there nothing is kept away.
        // SAFETY: contract 1.
        let is_nic = !is_virtual && unsafe { sys::rte_eth_allmulticast_enable(device) } == 0;
        if !is_nic {
            // A refusal is no failure: then there is nothing that keeps frames away.
            // SAFETY: contract 1.
            unsafe { sys::rte_eth_promiscuous_enable(device) };
        }

        // SAFETY: plain data, overwritten by the call.
        let mut mac: sys::rte_ether_addr = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: written before the call returns.
        check("it has no station address", unsafe { sys::rte_eth_macaddr_get(device, &mut mac) })?;
        self.mac = mac.addr_bytes;
        // SAFETY: written before the call returns.
        check("it has no MTU", unsafe { sys::rte_eth_dev_get_mtu(device, &mut self.mtu) })?;
        self.mtu = settings.mtu.unwrap_or(self.mtu);
        Ok(())
    }

    /// Configures the device; a driver that cannot keep VLANs apart is not asked to.
    fn choose(&self, settings: &DeviceSettings, mtu: u16, vlans: bool) -> i32 {
        let configure =
            |vlans| spread::configure(self.device, settings.queues, mtu, vlans, &settings.rss_key);
        match configure(vlans) {
            refused if refused != 0 && vlans => configure(false),
            result => result,
        }
    }

    /// Asks for the frames of VLANs. Some devices keep all away that nobody asked for, virtio's among them.
    fn take_vlans(&self, vlans: &[u16]) -> Result<(), String> {
        /// It has no filter, or was not asked to use it.
        const NO_FILTER: [i32; 2] = [-38, -95];
        // Frames of VLAN 0 have a priority and are otherwise untagged (IEEE 802.1Q).
        for vlan in [0].iter().chain(vlans) {
            // SAFETY: contract 1.
            let result = unsafe { sys::rte_eth_dev_vlan_filter(self.device, *vlan, 1) };
            if NO_FILTER.contains(&result) {
                return Ok(());
            }
            check(&format!("it does not let VLAN {vlan} through"), result)?;
        }
        Ok(())
    }

    /// The next queue pair that nobody has yet, for one worker.
    pub fn take_queue(&mut self) -> Option<Queue> {
        let queue = self.queues - self.queues_left;
        self.queues_left = self.queues_left.checked_sub(1)?;
        Some(Queue::new(self.id, self.device, queue, self.pools[usize::from(queue)]))
    }

    /// Whether the driver gives frames in several buffers, as it says itself: it knows what it rounds a buffer's room to.
    pub fn scatters(&self) -> bool {
        (0..self.queues).any(|queue| {
            // SAFETY: plain data, overwritten by the call.
            let mut info: sys::rte_eth_rxq_info = unsafe { MaybeUninit::zeroed().assume_init() };
            // SAFETY: contract 1; written before the call returns. A driver that does not say leaves it zero.
            let result = unsafe { sys::rte_eth_rx_queue_info_get(self.device, queue, &mut info) };
            result == 0 && info.scattered_rx != 0
        })
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The station address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Largest IP packet, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// How the device spreads packets over its queues, as it says itself.
    ///
    /// # Errors
    /// When it does not spread them, or does not say how.
    pub fn rss(&self) -> Result<Rss, String> {
        spread::read(self.device, self.queues)
    }

    /// Whether the driver can spread TCP and UDP over queues by a hash, known or not.
    pub fn hashes(&self) -> bool {
        spread::hashes(self.device)
    }

    /// Whether the device takes rules as [`add_rules`](Self::add_rules) makes them; none is left.
    ///
    /// # Errors
    /// With the driver's words, when it does not.
    pub fn try_rules(&mut self, address: IpAddr, table: &[WorkerId]) -> Result<(), String> {
        spread::add_rules(self.device, &[address], table)?;
        spread::flush_rules(self.device);
        Ok(())
    }

    /// Sends servers' answers to these addresses to the queue that `table` names for the low bits of
    /// their destination port.
    ///
    /// # Errors
    /// With the driver's words, when it does not take such rules. It has none of them then.
    pub fn add_rules(&mut self, addresses: &[IpAddr], table: &[WorkerId]) -> Result<(), String> {
        spread::add_rules(self.device, addresses, table)
    }

    /// Whether the link is up, and its speed in Mbit/s (0 when unknown). `None` when the
    /// driver cannot tell.
    pub fn link(&self) -> Option<(bool, u32)> {
        let mut mbps = 0;
        // SAFETY: contract 1; does not wait.
        match unsafe { sys::sluice_link_up(self.device, &mut mbps) } {
            up @ 0.. => Some((up == 1, mbps)),
            _ => None,
        }
    }

    /// What the device counted.
    pub fn stats(&self) -> DeviceStats {
        // SAFETY: plain data, overwritten by the call.
        let mut stats: sys::rte_eth_stats = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: written before the call returns.
        if unsafe { sys::rte_eth_stats_get(self.device, &mut stats) } != 0 {
            return DeviceStats::default();
        }
        for fd in &self.sockets {
            // SAFETY: the device's own socket, which is open as long as the device; asking takes nothing away.
            let lost = unsafe { sys::sluice_packet_drops(*fd) };
            self.socket_drops.fetch_add(lost.into(), Ordering::Relaxed);
        }
        DeviceStats {
            sent: stats.opackets,
            missed: stats.imissed + self.socket_drops.load(Ordering::Relaxed),
            rx_errors: stats.ierrors,
            tx_errors: stats.oerrors,
            no_mbuf: stats.rx_nombuf,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: contract 4 — the daemon joins its workers first, so no queue is polled any more.
        unsafe {
            sys::rte_eth_dev_stop(self.device);
            sys::rte_eth_dev_close(self.device);
        }
    }
}

/// Whether a device is made by EAL, not found on the PCI bus: `net_tap0`, not `0000:3b:00.0`.
fn is_virtual(name: &str) -> bool {
    !name.contains(':')
}

/// The number of the device that EAL knows as `name`.
fn find(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut device = 0;
    // SAFETY: contract 1, which the callers have; the name is terminated, the result is written to `device`.
    let result = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut device) };
    (result == 0).then_some(device)
}

/// The descriptors of this process.
fn open_files() -> Vec<RawFd> {
    let folder = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    folder.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn info(device: u16) -> Result<sys::rte_eth_dev_info, String> {
    // SAFETY: plain data, overwritten by the call.
    let mut info: sys::rte_eth_dev_info = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: written before the call returns.
    check("it does not describe itself", unsafe { sys::rte_eth_dev_info_get(device, &mut info) })?;
    Ok(info)
}

pub(super) fn check(what: &str, result: i32) -> Result<(), String> {
    if result < 0 { Err(format!("{what} ({})", error_text(result))) } else { Ok(()) }
}
