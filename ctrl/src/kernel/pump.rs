//! Moves frames between the workers' rings and the kernel's interfaces, on a thread of its own.

use super::connections::Connections;
use super::vip::VipChecks;
use dataplane::frame::Frame;
use dataplane::ids::PortId;
use dataplane::wire::{ETHERNET_LEN, connection_of_host};
use dataplane::worker::KernelLane;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use tun_rs::SyncDevice;

/// How long the thread sleeps when nothing comes from the kernel; a frame from a worker waits at most so long.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000 };
/// Frames that one side may move before the other has its turn.
const FRAMES_PER_ROUND: usize = 256;
/// Room in front of a packet for the headers of a tunnel and of the link.
const HEADROOM: usize = 128;
/// The largest frame of any link.
const FRAME_MAX: usize = 16 * 1024;

/// The thread. Dropping it ends it and removes the interfaces.
#[derive(Debug)]
pub(super) struct Pump {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Begins to move frames; the lane of the first worker takes what the kernel sends.
    pub(super) fn start(
        taps: Vec<(PortId, SyncDevice)>,
        checks: Option<(SyncDevice, Arc<VipChecks>)>,
        lanes: Vec<KernelLane>,
        connections: Arc<Connections>,
    ) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || run(&taps, checks.as_ref(), lanes, &connections, &seen))
            .map_err(|error| format!("a thread cannot be started: {error}"))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    taps: &[(PortId, SyncDevice)],
    checks: Option<&(SyncDevice, Arc<VipChecks>)>,
    mut lanes: Vec<KernelLane>,
    connections: &Connections,
    stop: &AtomicBool,
) {
    let mut room = Vec::with_capacity(FRAME_MAX);
    let mut frame = vec![0; HEADROOM + FRAME_MAX];
    while !stop.load(Ordering::Relaxed) {
        let mut moved = 0;
        for lane in &mut lanes {
            let give = |port: PortId, bytes: &[u8]| {
                // A kernel that is busy loses frames, as behind a NIC.
                if let Some((device, packet)) = answer_to_check(checks, bytes) {
                    let _ = device.send(packet);
                } else if let Some((_, tap)) = taps.iter().find(|(id, _)| *id == port) {
                    let _ = tap.send(bytes);
                }
            };
            moved += (0..FRAMES_PER_ROUND).take_while(|_| lane.pop(&mut room, give)).count();
        }
        if let Some(lane) = lanes.first_mut() {
            for (port, tap) in taps {
                for _ in 0..FRAMES_PER_ROUND {
                    let Ok(len) = tap.recv(&mut frame) else { break };
                    if let Some((flow, ends)) = connection_of_host(&frame[..len]) {
                        connections.note(flow, ends, Instant::now());
                    }
                    // What the worker has no room for is lost, as in a full queue of a device.
                    lane.push(*port, &frame[..len]);
                    moved += 1;
                }
            }
            if let Some((device, checks)) = checks {
                for _ in 0..FRAMES_PER_ROUND {
                    let Ok(len) = device.recv(&mut frame[HEADROOM..]) else { break };
                    let mut frame = Frame::new(&mut frame, HEADROOM - ETHERNET_LEN..HEADROOM + len);
                    if let Some(port) = checks.send(&mut frame) {
                        lane.push(port, frame.bytes());
                    }
                    moved += 1;
                }
            }
        }
        if moved == 0 {
            let devices = taps.iter().map(|(_, tap)| tap).chain(checks.map(|(device, _)| device));
            let mut files: Vec<_> = devices.map(|device| PollFd::new(device, PollFlags::IN)).collect();
            let _ = poll(&mut files, Some(&NAP));
        }
    }
}

/// The device and the packet, if a frame is for a check of a VIP.
fn answer_to_check<'a>(
    checks: Option<&'a (SyncDevice, Arc<VipChecks>)>,
    frame: &'a [u8],
) -> Option<(&'a SyncDevice, &'a [u8])> {
    let (device, checks) = checks?;
    let packet = frame.get(ETHERNET_LEN..)?;
    checks.expects(packet).then_some((device, packet))
}
