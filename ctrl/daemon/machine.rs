//! The process's surroundings: devices as control sees them, signals, systemd.

use ctrl::config::{self, Config, PortSpec, RssSpec};
use ctrl::control::Request;
use ctrl::devices::{DeviceCounters, Devices};
use dataplane::dpdk::{self, Device, Pool};
use dataplane::flow::FlowHasher;
use dataplane::ids::PortId;
use dataplane::snapshot::LocalAddress;
use dataplane::steering::ladder::{self, Choice, Facts, Rss, Rung};
use dataplane::steering::{PortSteering, Steering};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::Sender;

/// The started devices and the pool behind them. Dropping it closes the devices.
pub(crate) struct Hardware {
    pub(crate) devices: Vec<Device>,
    /// By port, its device's place.
    pub(crate) device_of: Vec<usize>,
    pub(crate) pools: Vec<Pool>,
    /// By device, the addresses for whose answers the device has rules.
    pub(crate) rules: Vec<Option<Vec<IpAddr>>>,
}

impl Devices for Hardware {
    fn link(&self, port: PortId) -> Option<(bool, u32)> {
        self.devices[self.device_of[usize::from(port.0)]].link()
    }

    fn counters(&self, port: PortId) -> DeviceCounters {
        let Some(device) = self.devices.get(usize::from(port.0)) else {
            // What a sub-interface's device counts is its parent's.
            return DeviceCounters::default();
        };
        let stats = device.stats();
        DeviceCounters {
            sent: stats.sent,
            missed: stats.missed,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
            no_buffer: stats.no_mbuf,
        }
    }

    fn buffers(&self) -> (u32, u32) {
        self.pools.iter().fold((0, 0), |(in_use, size), pool| (in_use + pool.in_use(), size + pool.size()))
    }

    fn steer(&mut self, locals: &[LocalAddress], steering: &Steering) -> Result<(), String> {
        for (at, have) in self.rules.iter_mut().enumerate() {
            let Some(have) = have else { continue };
            let of_port = locals.iter().filter(|local| self.device_of[usize::from(local.port.0)] == at);
            let new: Vec<_> =
                of_port.map(|local| local.address).filter(|address| !have.contains(address)).collect();
            let table = ladder::port_table(steering.workers);
            self.devices[at].add_rules(&new, &table)?;
            have.extend(new);
        }
        Ok(())
    }
}

/// By port, the place of its device.
pub(crate) fn devices_of(config: &Config) -> Vec<usize> {
    let device = |(at, port): (usize, &PortSpec)| port.vlan.map_or(at, |sub| usize::from(sub.parent.0));
    config.ports.iter().enumerate().map(device).collect()
}

/// Asks each device how it steers, and chooses.
pub(crate) fn steering(
    hardware: &mut Hardware,
    config: &Config,
    hasher: FlowHasher,
) -> (Steering, Vec<Choice>) {
    let workers = config.dataplane.workers.len() as u16;
    let asked =
        config.ports.iter().zip(&mut hardware.devices).map(|(spec, device)| facts(spec, device, config));
    let (choices, ports): (Vec<_>, Vec<_>) = asked.map(|facts| ladder::choose(&facts, workers)).unzip();
    hardware.rules = choices.iter().map(|choice| (choice.rung == Rung::FlowRules).then(Vec::new)).collect();
    // A sub-interface's packets are spread with its parent's.
    let of_device = hardware.device_of.iter();
    let (choices, ports): (Vec<_>, Vec<_>) =
        of_device.map(|at| (Choice::clone(&choices[*at]), PortSteering::clone(&ports[*at]))).unzip();
    (Steering { workers, ports: ports.into(), hasher }, choices)
}

/// What a device is able to, as it shows now.
fn facts(spec: &PortSpec, device: &mut Device, config: &Config) -> Facts {
    /// Tuples on which our hash must agree with DPDK's.
    const TUPLES: usize = 1_000;
    let workers = config.dataplane.workers.len() as u16;
    if workers == 1 {
        let unasked = || "nobody asked".to_owned();
        return Facts { rules: Err(unasked()), rss: Err(unasked()), keeps_flows: true };
    }
    let is_virtual = matches!(spec.device, config::Device::Vdev(_));
    let rss = match &spec.rss {
        Some(RssSpec::Nothing) => {
            Err("rss = { fields = \"nothing\" } says that it spreads nothing".to_owned())
        }
        Some(RssSpec::Toeplitz { fields, key, entries }) => {
            let table = (0..*entries).map(|entry| (entry % usize::from(workers)) as u16).collect();
            Ok(Rss { key: key.clone(), table, fields: [[*fields; 2]; 2] })
        }
        None if is_virtual => Err("a virtual device spreads packets as its other side likes".to_owned()),
        None => device.rss(),
    };
    let rss = rss.and_then(|rss| {
        // The seed matters little: any thousand tuples will do.
        let agrees = dpdk::agrees_with_dpdk(&rss.key, TUPLES, 0x9e37_79b9_7f4a_7c15);
        if agrees {
            Ok(rss)
        } else {
            Err("the self-test failed: our hash and DPDK's differ under its key".into())
        }
    });
    let first = config.services.iter().find_map(|service| service.local_addresses.first());
    let rules = match first {
        // One address is enough to ask; the others follow with the first snapshot.
        Some(address) => device.try_rules(*address, &ladder::port_table(workers)),
        None => Err("no service has a local address yet".into()),
    };
    let keeps_flows = match &spec.rss {
        Some(RssSpec::Nothing) => false,
        Some(RssSpec::Toeplitz { .. }) => true,
        None => !is_virtual && device.hashes(),
    };
    Facts { rules, rss, keeps_flows }
}

/// SIGTERM and SIGINT end the control thread, SIGHUP makes it read its file again.
pub(crate) fn forward_signals(requests: Sender<Request>) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let request = if signal == SIGHUP { Request::Reload } else { Request::Stop };
            if requests.send(request).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Tells systemd that the service is up (sd_notify(3)), when it asked for that.
pub(crate) fn notify_ready() {
    notify("READY=1");
}

/// What tells systemd that all is well, if it wants to be told (sd_watchdog_enabled(3)).
pub(crate) fn watchdog() -> Option<Box<dyn FnMut() + Send>> {
    let wants = std::env::var_os("WATCHDOG_USEC").is_some();
    let of_us = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    (wants && of_us).then(|| Box::new(|| notify("WATCHDOG=1")) as Box<dyn FnMut() + Send>)
}

fn notify(message: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = UnixDatagram::unbound() else { return };
    // A manager that does not read is not waited for.
    let _ = socket.set_nonblocking(true);
    // A name that begins with @ is abstract.
    let _ = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)
            .and_then(|address| socket.send_to_addr(message.as_bytes(), &address)),
        None => socket.send_to(message.as_bytes(), path),
    };
}
