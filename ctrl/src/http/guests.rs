//! The connections of a listener: each client has few, and a new one always gets in.

use dataplane::snapshot::Network;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Connections at a time, and of one client; for another the one that has said nothing for longest goes.
const CONNECTIONS_MAX: usize = 256;
const PER_CLIENT_MAX: usize = 8;
/// How long nobody is let in after that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The client that an address stands for: in IPv6 all of a /64 are one host's (RFC 6177).
pub(crate) fn client_of(address: IpAddr) -> IpAddr {
    network_of(address, 32, 64)
}

/// The network whose clients guess passwords as one: a guesser who has one address of it may have all.
pub(crate) fn neighborhood_of(address: IpAddr) -> IpAddr {
    network_of(address, 24, 48)
}

/// The first address of an address's network, with so many bits in each family.
fn network_of(address: IpAddr, bits: u8, bits_ipv6: u8) -> IpAddr {
    let address = address.to_canonical();
    Network { address, prefix_len: if address.is_ipv4() { bits } else { bits_ipv6 } }.base()
}

/// The next connection; after an error, such as too many open files, not at once.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// The connections of one listener: each client has few, and a new one always gets in.
#[derive(Clone, Default)]
pub(crate) struct Guests(Rc<RefCell<GuestList>>);

#[derive(Default)]
struct GuestList {
    next: u64,
    list: BTreeMap<u64, Guest>,
}

struct Guest {
    from: IpAddr,
    /// When it last said something whole.
    spoke: Rc<Cell<Instant>>,
    task: AbortHandle,
}

impl Guests {
    /// Sends everybody away.
    pub(crate) fn dismiss(&self) {
        for (_, guest) in std::mem::take(&mut self.0.borrow_mut().list) {
            guest.task.abort();
        }
    }

    /// Lets a connection in, and sends another away where there are too many. `serve` gets where to note when it speaks.
    pub(crate) fn admit<F: Future<Output = ()> + 'static>(
        &self,
        from: IpAddr,
        serve: impl FnOnce(Rc<Cell<Instant>>) -> F,
    ) {
        let from = client_of(from);
        let mut guests = self.0.borrow_mut();
        let quietest = |list: &BTreeMap<u64, Guest>, is_one: &dyn Fn(&Guest) -> bool| {
            let those = list.iter().filter(|(_, guest)| is_one(guest));
            those.min_by_key(|(_, guest)| guest.spoke.get()).map(|(id, _)| *id)
        };
        let of_client = guests.list.values().filter(|guest| guest.from == from).count();
        let leaving = match () {
            () if of_client >= PER_CLIENT_MAX => quietest(&guests.list, &|guest| guest.from == from),
            () if guests.list.len() >= CONNECTIONS_MAX => quietest(&guests.list, &|_| true),
            () => None,
        };
        if let Some(guest) = leaving.and_then(|id| guests.list.remove(&id)) {
            guest.task.abort();
        }
        let id = guests.next;
        guests.next += 1;
        let spoke = Rc::new(Cell::new(Instant::now()));
        let (served, list) = (serve(Rc::clone(&spoke)), Rc::clone(&self.0));
        let task = tokio::task::spawn_local(async move {
            served.await;
            list.borrow_mut().list.remove(&id);
        });
        guests.list.insert(id, Guest { from, spoke, task: task.abort_handle() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_prefix_is_one_client_and_one_guesser() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (one, other, is_client, is_neighbor) in [
            ("192.0.2.1", "192.0.2.1", true, true),
            ("192.0.2.1", "192.0.2.200", false, true),
            ("192.0.2.1", "192.0.3.1", false, false),
            ("192.0.2.1", "::ffff:192.0.2.1", true, true),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true, true),
            ("2001:db8::1", "2001:db8:0:1::1", false, true),
            ("2001:db8::1", "2001:db8:1::1", false, false),
        ] {
            let (one, other) = (address(one), address(other));
            assert_eq!(client_of(one) == client_of(other), is_client, "{one} {other}");
            assert_eq!(neighborhood_of(one) == neighborhood_of(other), is_neighbor, "{one} {other}");
        }
    }
}
