//! Sockets that ask from where a service's packets come.

use super::NoRoute;
use super::ports::{self, Lease, Ports};
use crate::kernel::{CHECKS_INTERFACE, CheckFlow, VipChecks, VipPass};
use dataplane::snapshot::Tunnel;
use dataplane::wire::protocol;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// Ports that are tried when others use them towards the same server.
const TRIES: usize = 32;

/// Who is asked, from where, and by which way.
pub(super) struct Aim<'a> {
    pub(super) target: SocketAddr,
    pub(super) source: Option<IpAddr>,
    /// Set when the target is a VIP.
    pub(super) way: Option<Way<'a>>,
    /// Where source ports come from.
    pub(super) ports: &'a Rc<Ports>,
}

/// What must be kept as long as a socket: its port, and where it asks a VIP its way there.
pub(super) type Held = (Option<Lease>, Option<VipPass>);

impl Aim<'_> {
    /// What a source port must be alone with; none where the kernel chooses the source.
    fn port_way(&self, protocol: u8) -> Option<ports::Way> {
        Some(ports::Way { protocol, source: self.source?, target: self.target })
    }

    /// Waits until there is a port for a question by this protocol.
    pub(super) async fn wait_for_port(&self, protocol: u8) {
        if let Some(way) = self.port_way(protocol) {
            self.ports.wait(way).await;
        }
    }
}

/// The way to a VIP on one server.
pub(super) struct Way<'a> {
    pub(super) checks: &'a Arc<VipChecks>,
    pub(super) server: IpAddr,
    pub(super) tunnel: Option<&'a Tunnel>,
}

/// Opens with `open` a socket that is bound to where `aim` asks from; again with another port when somebody else on this
/// host uses that one.
async fn bound<T, F: Future<Output = io::Result<T>>>(
    aim: &Aim<'_>,
    protocol: u8,
    open: impl Fn(Option<SocketAddr>) -> F,
) -> io::Result<(T, Held)> {
    let Some(way) = aim.port_way(protocol) else { return Ok((open(None).await?, (None, None))) };
    let mut last = None;
    // Ports of which the system says that they are in use; they are not tried twice.
    let mut used = Vec::new();
    for _ in 0..TRIES {
        let Some(lease) = aim.ports.lend(way) else { break };
        let local = SocketAddr::new(way.source, lease.port());
        let mut pass = None;
        if let Some(Way { checks, server, tunnel }) = &aim.way {
            let flow = CheckFlow { protocol, local, vip: aim.target };
            pass = checks.begin(flow, *server, tunnel.cloned(), Instant::now());
            if pass.is_none() {
                used.push(lease);
                continue;
            }
        }
        match open(Some(local)).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) =>
            {
                last = Some(error);
                used.push(lease);
            }
            other => return Ok((other?, (Some(lease), pass))),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// Binds a socket before it is connected.
fn bind(socket: SockRef<'_>, local: Option<SocketAddr>, aim: &Aim<'_>) -> io::Result<()> {
    let Some(local) = local else { return Ok(()) };
    if aim.way.is_some() {
        socket.bind_device(Some(CHECKS_INTERFACE.as_bytes()))?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(local))
}

/// A connection to the target. It ends by a reset, so that no port rests.
pub(super) async fn connect(aim: &Aim<'_>) -> io::Result<(TcpStream, Held)> {
    let target = aim.target;
    bound(aim, protocol::TCP, |local| async move {
        let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        bind(SockRef::from(&socket), local, aim)?;
        SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        match socket.connect(target).await {
            Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable => Err(whose(error, aim)),
            other => other,
        }
    })
    .await
}

/// What goes wrong with a socket that sends nothing to be connected: that there is no way is the host's own trouble.
fn own_way(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NetworkUnreachable => io::Error::other(NoRoute),
        _ => error,
    }
}

/// An error about the network, told as the host's own if its kernel has no way to the target at all. To connect a
/// socket for datagrams asks for the way, and sends nothing.
fn whose(error: io::Error, aim: &Aim<'_>) -> io::Error {
    let asks = || {
        let socket = Socket::new(Domain::for_address(aim.target), Type::DGRAM, Some(Protocol::UDP))?;
        bind(SockRef::from(&socket), aim.source.map(|source| SocketAddr::new(source, 0)), aim)?;
        socket.connect(&SockAddr::from(aim.target))
    };
    match asks() {
        Err(own) if own.kind() == io::ErrorKind::NetworkUnreachable => io::Error::other(NoRoute),
        _ => error,
    }
}

/// A socket for datagrams that hears only the target, and its ICMP errors.
pub(super) async fn datagrams(aim: &Aim<'_>) -> io::Result<(UdpSocket, Held)> {
    let target = aim.target;
    bound(aim, protocol::UDP, |local| async move {
        let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        bind(SockRef::from(&socket), local, aim)?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(target).await.map_err(own_way)?;
        Ok(socket)
    })
    .await
}

/// A raw socket for pings, that hears only `target`.
pub(super) fn pings(target: IpAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let protocol = if target.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let target = SocketAddr::new(target, 0);
    let socket = Socket::new(Domain::for_address(target), Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    socket.connect(&SockAddr::from(target)).map_err(own_way)?;
    // Sending and receiving is the same for both.
    UdpSocket::from_std(socket.into())
}
