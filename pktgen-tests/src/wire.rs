//! Raw frames on an interface of a namespace, with a small ARP responder.
//!
//! `socat` holds the packet socket inside the namespace and passes each frame as a datagram
//! over a Unix socket, so that no unsafe code and no other crate is needed here.

use crate::frames::{ETHERNET, Route, be16, ip_frame};
use crate::netns::Namespace;
use crate::process::{Daemon, wait_until};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

/// One end of a cable, in the hands of a test.
#[derive(Debug)]
pub struct Wire {
    _socat: Option<Daemon>,
    socket: UnixDatagram,
    peer: std::path::PathBuf,
    mac: [u8; 6],
    addresses: Vec<Ipv4Addr>,
    addresses6: Vec<Ipv6Addr>,
}

/// What an ARP frame says: operation, sender, target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// The sender's station and address.
    pub sender: ([u8; 6], Ipv4Addr),
    /// The target's station and address.
    pub target: ([u8; 6], Ipv4Addr),
}

impl Wire {
    /// Takes hold of `interface`. ARP for `addresses` is answered with `mac`.
    ///
    /// # Errors
    /// When socat cannot be started.
    pub fn open(
        namespace: &Namespace,
        interface: &str,
        folder: &Path,
        mac: [u8; 6],
        addresses: &[Ipv4Addr],
    ) -> Result<Self, String> {
        Self::start(namespace, &format!("INTERFACE:{interface}"), folder, mac, addresses)
    }

    /// Makes a TAP interface and takes hold of its other end. Unlike packet sockets it shows VLAN tags.
    ///
    /// # Errors
    /// When socat cannot be started.
    pub fn tap(namespace: &Namespace, interface: &str, folder: &Path) -> Result<Self, String> {
        let device = format!("TUN,tun-type=tap,tun-name={interface},iff-no-pi,iff-up");
        // No station has this address, so nothing is taken for an echo.
        Self::start(namespace, &device, folder, [0; 6], &[])
    }

    /// An end of a cable that is a pair of datagram sockets: ours, which is made, and the one of who has the other end.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn between(own: &Path, peer: &Path) -> Result<Self, String> {
        let socket = UnixDatagram::bind(own).map_err(|error| format!("{}: {error}", own.display()))?;
        let (addresses, addresses6) = (Vec::new(), Vec::new());
        // No station has this address, so nothing is taken for an echo.
        Ok(Self { _socat: None, socket, peer: peer.to_owned(), mac: [0; 6], addresses, addresses6 })
    }

    /// ARP for `address` is answered too.
    pub fn add_ipv4(&mut self, address: Ipv4Addr) {
        self.addresses.push(address);
    }

    /// Neighbour solicitations for `address` are answered too.
    pub fn add_ipv6(&mut self, address: Ipv6Addr) {
        self.addresses6.push(address);
    }

    fn start(
        namespace: &Namespace,
        device: &str,
        folder: &Path,
        mac: [u8; 6],
        addresses: &[Ipv4Addr],
    ) -> Result<Self, String> {
        let own = folder.join(format!("{}-test.sock", namespace.name()));
        let peer = folder.join(format!("{}-socat.sock", namespace.name()));
        let socket = UnixDatagram::bind(&own).map_err(|error| format!("{}: {error}", own.display()))?;
        let mut command = namespace.command("socat");
        command.args(["-b", "65536", device]);
        command.arg(format!("UNIX-SENDTO:{},bind={}", own.display(), peer.display()));
        let mut socat = Daemon::start(&mut command, &folder.join(format!("{}-socat.log", namespace.name())))?;
        if !wait_until(Duration::from_secs(5), || peer.exists() || socat.ended().is_some())
            || socat.ended().is_some()
        {
            return Err(format!("socat does not run: {}", socat.output()));
        }
        Ok(Self {
            _socat: Some(socat),
            socket,
            peer,
            mac,
            addresses: addresses.to_vec(),
            addresses6: Vec::new(),
        })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When socat is gone.
    pub fn send(&self, frame: &[u8]) -> Result<(), String> {
        self.socket.send_to(frame, &self.peer).map(drop).map_err(|error| format!("sending a frame: {error}"))
    }

    /// The next frame that another station sent, within `patience`. ARP questions for our
    /// addresses are answered on the way, and still returned.
    pub fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        let mut room = vec![0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).ok()?;
            match self.socket.recv(&mut room) {
                Ok(len) if len >= 14 && room[6..12] != self.mac => {
                    let frame = room[..len].to_vec();
                    self.answer_arp(&frame);
                    self.answer_solicitation(&frame);
                    return Some(frame);
                }
                Ok(_) => {}
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }

    /// The IP frames that come until none has come for `quiet`, but for those about neighbours.
    pub fn receive_ip(&self, quiet: Duration) -> Vec<Vec<u8>> {
        let about_neighbours = |frame: &[u8]| {
            let is_icmp6 = be16(frame, 12) == 0x86dd && frame.get(20) == Some(&58);
            // RFC 4861, and listener reports (RFC 3810).
            let message = frame.get(54).copied().unwrap_or_default();
            is_icmp6 && (133..=137).contains(&message) || frame.get(20) == Some(&0) && frame[0] == 0x33
        };
        std::iter::from_fn(|| self.receive(quiet))
            .filter(|frame| matches!(be16(frame, 12), 0x0800 | 0x86dd) && !about_neighbours(frame))
            .collect()
    }

    /// The IPv4 frames that come until none has come for `quiet`.
    pub fn receive_ipv4(&self, quiet: Duration) -> Vec<Vec<u8>> {
        let (mut frames, mut until) = (Vec::new(), Instant::now() + quiet);
        // What is not IPv4 does not break the quiet: hosts ask for each other all the time.
        while let Some(frame) = self.receive(until.saturating_duration_since(Instant::now())) {
            if be16(&frame, 12) == 0x0800 {
                frames.push(frame);
                until = Instant::now() + quiet;
            }
        }
        frames
    }

    /// The next ARP frame that `wanted` accepts.
    pub fn expect_arp(&self, patience: Duration, wanted: impl Fn(&Arp) -> bool) -> Option<Arp> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            let frame = self.receive(deadline.saturating_duration_since(Instant::now()))?;
            if let Some(arp) = Arp::parse(&frame).filter(&wanted) {
                return Some(arp);
            }
        }
        None
    }

    /// Asks for `target` from `sender`.
    ///
    /// # Errors
    /// When socat is gone.
    pub fn ask(&self, sender: Ipv4Addr, target: Ipv4Addr) -> Result<(), String> {
        self.send(
            &Arp { operation: 1, sender: (self.mac, sender), target: ([0; 6], target) }.frame([0xff; 6]),
        )
    }

    fn answer_arp(&self, frame: &[u8]) {
        let Some(arp) = Arp::parse(frame) else { return };
        if arp.operation == 1 && self.addresses.contains(&arp.target.1) && arp.sender.1 != arp.target.1 {
            let answer = Arp { operation: 2, sender: (self.mac, arp.target.1), target: arp.sender };
            let _ = self.send(&answer.frame(arp.sender.0));
        }
    }
}

impl Wire {
    /// RFC 4861 §7.2.4.
    fn answer_solicitation(&self, frame: &[u8]) {
        let is_solicitation =
            frame.len() >= ETHERNET + 64 && be16(frame, 12) == 0x86dd && (frame[20], frame[54]) == (58, 135);
        if !is_solicitation {
            return;
        }
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&frame[at..at + 16]);
            Ipv6Addr::from(octets)
        };
        let (sender, target) = (address(ETHERNET + 8), address(ETHERNET + 48));
        if !self.addresses6.contains(&target) {
            return;
        }
        let mut station = [0; 6];
        station.copy_from_slice(&frame[6..12]);
        let route = Route {
            source_mac: self.mac,
            destination_mac: station,
            source: (IpAddr::V6(target), 0),
            destination: (IpAddr::V6(sender), 0),
        };
        // Solicited, and to override; with the target's station.
        let flags_and_option = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &target.octets(), &[2, 1], &self.mac];
        let _ = self.send(&ip_frame(&route, 58, 255, &flags_and_option.concat()));
    }
}

impl Arp {
    /// Reads an ARP frame.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        if frame.len() < 42 || be16(frame, 12) != 0x0806 {
            return None;
        }
        let mac = |at: usize| frame[at..at + 6].try_into().ok();
        let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
        Some(Self {
            operation: be16(frame, 20),
            sender: (mac(22)?, address(28)),
            target: (mac(32)?, address(38)),
        })
    }

    /// The frame, to station `to`.
    pub fn frame(&self, to: [u8; 6]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(42);
        frame.extend_from_slice(&to);
        frame.extend_from_slice(&self.sender.0);
        frame.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
        frame.extend_from_slice(&self.operation.to_be_bytes());
        for (mac, address) in [self.sender, self.target] {
            frame.extend_from_slice(&mac);
            frame.extend_from_slice(&address.octets());
        }
        frame
    }
}
