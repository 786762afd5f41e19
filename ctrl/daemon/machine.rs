//! The process's surroundings: devices as control sees them, signals, systemd.

use ctrl::control::{DeviceCounters, Devices, Request};
use dataplane::dpdk::{Device, Pool};
use dataplane::ids::PortId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::Sender;

/// The started devices and the pool behind them. Dropping it closes the devices.
pub(crate) struct Hardware {
    pub(crate) devices: Vec<Device>,
    pub(crate) pool: Pool,
}

impl Devices for Hardware {
    fn link(&self, port: PortId) -> Option<(bool, u32)> {
        self.devices[usize::from(port.0)].link()
    }

    fn counters(&self, port: PortId) -> DeviceCounters {
        let stats = self.devices[usize::from(port.0)].stats();
        DeviceCounters {
            missed: stats.missed,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
            no_buffer: stats.no_mbuf,
        }
    }

    fn buffers(&self) -> (u32, u32) {
        (self.pool.in_use(), self.pool.size())
    }
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
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to(b"READY=1", path);
    }
}
