//! A switch with one tagged port and an untagged one for each VLAN, in user space: kernels of test
//! machines may have no VLANs.

use crate::netns::{Namespace, cable};
use crate::wire::Wire;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running switch. Dropping it ends its threads and removes its namespaces.
#[derive(Debug)]
pub struct TagSwitch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _wires: Vec<Arc<Wire>>,
    _spaces: Vec<Namespace>,
}

impl TagSwitch {
    /// Makes the interface `trunk` and connects it with those of `links`, each in its VLAN. `number` tells switches
    /// of one process apart.
    ///
    /// # Errors
    /// When namespaces, cables or sockets cannot be made.
    pub fn new(
        number: usize,
        trunk: (&Namespace, &str),
        links: &[(&Namespace, &str, u16)],
        folder: &Path,
    ) -> Result<Self, String> {
        Self::on(number, Wire::tap(trunk.0, trunk.1, folder)?, links, folder)
    }

    /// The same on a trunk that there is already.
    ///
    /// # Errors
    /// When namespaces, cables or sockets cannot be made.
    pub fn on(
        number: usize,
        trunk: Wire,
        links: &[(&Namespace, &str, u16)],
        folder: &Path,
    ) -> Result<Self, String> {
        let mut spaces = Vec::new();
        let mut plug = |role: &str, host: (&Namespace, &str)| -> Result<Arc<Wire>, String> {
            let space = Namespace::new(&format!("{number}-{role}"))?;
            cable(host, (&space, "plug"))?;
            host.0.set_offloads(host.1, "off")?;
            // No station has this address, so nothing is taken for an echo.
            let wire = Wire::open(&space, "plug", folder, [0; 6], &[])?;
            spaces.push(space);
            Ok(Arc::new(wire))
        };
        let mut links_by_vlan = Vec::new();
        for (host, interface, vlan) in links {
            links_by_vlan.push((*vlan, plug(&format!("vlan{vlan}"), (host, interface))?));
        }
        let trunk = Arc::new(trunk);
        let mut switch = Self {
            stop: Arc::default(),
            threads: Vec::new(),
            _wires: links_by_vlan.iter().map(|(_, wire)| wire).chain([&trunk]).map(Arc::clone).collect(),
            _spaces: spaces,
        };
        // Who reads never waits for who writes: two that wait for each other would stand still.
        let to_trunk = switch.writer(&trunk);
        let mut targets = Vec::new();
        for (vlan, wire) in links_by_vlan {
            targets.push((vlan, switch.writer(&wire)));
            let (tag, to_trunk) = (vlan.to_be_bytes(), to_trunk.clone());
            switch.reader(&wire, move |frame| {
                let _ = to_trunk.send([&frame[..12], &[0x81, 0], &tag, &frame[12..]].concat());
            });
        }
        switch.reader(&trunk, move |frame| {
            let Some([0x81, 0, high, low]) = frame.get(12..16) else { return };
            let vlan = u16::from_be_bytes([*high, *low]) & 0xfff;
            if let Some((_, target)) = targets.iter().find(|(other, _)| *other == vlan) {
                let _ = target.send([&frame[..12], &frame[16..]].concat());
            }
        });
        Ok(switch)
    }

    fn reader(&mut self, wire: &Arc<Wire>, each: impl Fn(&[u8]) + Send + 'static) {
        let (wire, stop) = (Arc::clone(wire), Arc::clone(&self.stop));
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Some(frame) = wire.receive(Duration::from_millis(50)) {
                    each(&frame);
                }
            }
        }));
    }

    fn writer(&mut self, wire: &Arc<Wire>) -> Sender<Vec<u8>> {
        let (sender, frames) = channel::<Vec<u8>>();
        let wire = Arc::clone(wire);
        self.threads.push(std::thread::spawn(move || {
            for frame in frames {
                let _ = wire.send(&frame);
            }
        }));
        sender
    }
}

impl Drop for TagSwitch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Readers end by themselves, and writers when no reader is left.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
