//! Sockets that ask from where a service's packets come.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// Ports that sessions never have: what comes back to them from a server is a check's.
const CHECK_PORTS: std::ops::Range<u16> = 512..1_024;
/// Ports that are tried when others use them towards the same server.
const TRIES: usize = 8;

/// Calls `open` with a place to bind to, again with another port when that one is in use.
async fn bound<T, F: Future<Output = io::Result<T>>>(
    source: Option<IpAddr>,
    open: impl Fn(Option<SocketAddr>) -> F,
) -> io::Result<T> {
    let Some(address) = source else { return open(None).await };
    let mut last = None;
    for _ in 0..TRIES {
        let result = open(Some(SocketAddr::new(address, fastrand::u16(CHECK_PORTS)))).await;
        match result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = Some(error),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && last.is_none() => {
                last = Some(error)
            }
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// A connection to `target`. It ends by a reset, so that no port rests.
pub(super) async fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    bound(source, |source| async move {
        let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = source {
            socket.set_reuseaddr(true)?;
            socket.bind(source)?;
        }
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        socket.connect(target).await
    })
    .await
}

/// A socket for datagrams that hears only `target`, and its ICMP errors.
pub(super) async fn datagrams(target: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    bound(source, |source| async move {
        let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if let Some(source) = source {
            socket.set_reuse_address(true)?;
            socket.bind(&SockAddr::from(source))?;
        }
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(target).await?;
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
    socket.connect(&SockAddr::from(target))?;
    // Sending and receiving is the same for both.
    UdpSocket::from_std(socket.into())
}
