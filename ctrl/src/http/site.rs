//! A thread that serves pages to many: listeners that come and go, TLS, users, and clients that cost only themselves.
//!
//! A client that is slow, silent or wrong holds a connection of its own for a bounded time, and nothing else. Passwords
//! are compared one at a time of each network, and slowly after a wrong one, so that nobody can guess or burn a core. A
//! large answer that is slow makes room for another.

use super::guests::{Guests, accept, client_of, neighborhood_of};
use crate::files;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// How long a connection may say nothing: longer than scrapes are apart.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// How long a client may take over the handshake of TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take to leave.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long the next password waits after a wrong one.
const WRONG_PAUSE: Duration = Duration::from_secs(1);

/// A listener's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Address {
    /// An address and a TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The clients that are let in.
#[derive(Clone, Default)]
pub(crate) struct Rules {
    /// TLS, if it is spoken.
    pub(crate) tls: Option<TlsAcceptor>,
    /// The users, each with the bcrypt hash of a password; none: everybody may ask.
    pub(crate) users: Arc<BTreeMap<String, String>>,
}

/// The pieces of an answer.
pub(crate) trait Pieces {
    /// The next one, or later; `None` behind the last.
    fn piece(&mut self, waiting: &mut Context<'_>) -> Poll<Option<Bytes>>;

    /// Whether the answer goes on for as long as the client reads it. Any other must leave in time.
    fn is_endless(&self) -> bool {
        false
    }
}

impl Pieces for Option<Bytes> {
    fn piece(&mut self, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Poll::Ready(self.take())
    }
}

/// The path of answers that cost more than others, and how many of them there are at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// The path.
    pub(crate) path: &'static str,
    /// Of all clients; one that is slow makes room for another.
    pub(crate) most: usize,
    /// Of one client.
    pub(crate) per_client: usize,
    /// What the others are told.
    pub(crate) refusal: &'static str,
}

/// An answer.
pub(crate) type Answer = Response<Box<dyn Pieces>>;

/// A short text with a status.
pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> Answer {
    let body: Box<dyn Pieces> = Box::new(Some(Bytes::from(text.into())));
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// What answers requests; it may take some milliseconds.
pub(crate) type Answering = Arc<dyn Fn(&Request<Incoming>) -> Answer + Send + Sync>;

enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Own),
}

enum Order {
    Serve(Address, Socket),
    Close(Address),
    /// Connections that were let in by other rules end.
    Dismiss,
}

/// The file of a Unix socket that is ours: its device and its number.
type Own = (u64, u64);

/// The thread. It ends when this is dropped.
pub(crate) struct Site {
    name: &'static str,
    orders: mpsc::UnboundedSender<Order>,
    rules: Arc<Mutex<Rules>>,
    open: Vec<(Address, Option<Own>)>,
}

impl Site {
    /// A thread of this name that serves nobody yet.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(name: &'static str, crowd: Crowd, answering: Answering) -> Result<Self, String> {
        let says = |error: std::io::Error| format!("{name}: {error}");
        let (orders, received) = mpsc::unbounded_channel();
        let rules: Arc<Mutex<Rules>> = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .map_err(says)?;
        let shared = Arc::clone(&rules);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let porter = Rc::new(Porter {
                    rules: shared,
                    answering,
                    crowd,
                    known: RefCell::default(),
                    clients: Gates::default(),
                    networks: Gates::default(),
                    large: RefCell::default(),
                });
                tokio::task::LocalSet::new().block_on(&runtime, serve(received, porter));
            })
            .map_err(says)?;
        Ok(Self { name, orders, rules, open: Vec::new() })
    }

    /// Serves at these addresses and no others, by these rules; connections that were let in by others end. Returns what
    /// is wrong with addresses that cannot be used.
    pub(crate) fn follow(&mut self, wanted: &[Address], rules: Rules) -> Vec<String> {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
        let _ = self.orders.send(Order::Dismiss);
        self.serve(wanted)
    }

    /// Serves at these addresses and no others.
    pub(crate) fn serve(&mut self, wanted: &[Address]) -> Vec<String> {
        let (open, closed) =
            std::mem::take(&mut self.open).into_iter().partition(|(address, _)| wanted.contains(address));
        self.open = open;
        let closed: Vec<_> = closed;
        for (address, own) in closed {
            remove(&address, own);
            let _ = self.orders.send(Order::Close(address));
        }
        let mut problems = Vec::new();
        for address in wanted {
            // A socket's file may have been removed by somebody, and nobody can come in then.
            self.open.retain(|(open, own)| open != address || is_there(open, *own));
            if self.open.iter().any(|(open, _)| open == address) {
                continue;
            }
            match bind(address) {
                Ok(socket) => {
                    let own = if let Socket::Unix(_, own) = &socket { Some(*own) } else { None };
                    let _ = self.orders.send(Order::Close(address.clone()));
                    let _ = self.orders.send(Order::Serve(address.clone(), socket));
                    self.open.push((address.clone(), own));
                }
                Err(error) => problems.push(format!(
                    "{}: {}: {error}; nothing is served there; name another address, or free it",
                    self.name,
                    match address {
                        Address::Tcp(address) => address.to_string(),
                        Address::Unix(path) => path.display().to_string(),
                    }
                )),
            }
        }
        problems
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.open.iter().for_each(|(address, own)| remove(address, *own));
    }
}

/// Whether a listener's file is still its own.
fn is_there(address: &Address, own: Option<Own>) -> bool {
    match address {
        Address::Tcp(_) => true,
        Address::Unix(path) => {
            let file = path.clone();
            let found = files::beside(path, move |_| file.symlink_metadata()).and_then(|found| found);
            // What does not answer may still be there.
            match found {
                Ok(found) => Some((found.dev(), found.ino())) == own,
                Err(error) => error.kind() == std::io::ErrorKind::TimedOut,
            }
        }
    }
}

/// Removes a listener's file, and nothing else that stands there by now.
fn remove(address: &Address, own: Option<Own>) {
    if let Address::Unix(path) = address
        && is_there(address, own)
    {
        let file = path.clone();
        let _ = files::beside(path, move |_| std::fs::remove_file(file));
    }
}

/// Binds a listener; a file system that does not answer is not waited for.
fn bind(address: &Address) -> std::io::Result<Socket> {
    match address {
        Address::Tcp(_) => bind_now(address),
        Address::Unix(path) => {
            let own = address.clone();
            files::beside(path, move |_| bind_now(&own))?
        }
    }
}

fn bind_now(address: &Address) -> std::io::Result<Socket> {
    match address {
        Address::Tcp(address) => {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Tcp(socket))
        }
        Address::Unix(path) => {
            // The socket of a process that is dead is in the way of nobody else; a file of another kind stays.
            let is_socket = path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
            let is_dead = || {
                let error = std::os::unix::net::UnixStream::connect(path).err();
                error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
            };
            if is_socket && is_dead() {
                std::fs::remove_file(path)?;
            }
            let socket = std::os::unix::net::UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
            socket.set_nonblocking(true)?;
            let found = path.symlink_metadata()?;
            Ok(Socket::Unix(socket, (found.dev(), found.ino())))
        }
    }
}

async fn serve(mut orders: mpsc::UnboundedReceiver<Order>, porter: Rc<Porter>) {
    let mut doors: BTreeMap<Address, (AbortHandle, Guests)> = BTreeMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve(address, socket) => {
                let (porter, guests) = (Rc::clone(&porter), Guests::default());
                let theirs = guests.clone();
                let task = tokio::task::spawn_local(async move {
                    let _ = match socket {
                        Socket::Tcp(socket) => porter.keep_tcp(socket, theirs).await,
                        Socket::Unix(socket, _) => porter.keep_unix(socket, theirs).await,
                    };
                });
                doors.insert(address, (task.abort_handle(), guests));
            }
            Order::Close(address) => {
                if let Some((task, guests)) = doors.remove(&address) {
                    task.abort();
                    guests.dismiss();
                }
            }
            Order::Dismiss => doors.values().for_each(|(_, guests)| guests.dismiss()),
        }
    }
}

/// Gates by address, which let one through at a time.
#[derive(Default)]
struct Gates(RefCell<HashMap<IpAddr, Rc<tokio::sync::Mutex<()>>>>);

impl Gates {
    fn of(&self, address: IpAddr) -> Rc<tokio::sync::Mutex<()>> {
        let mut gates = self.0.borrow_mut();
        gates.retain(|_, gate| Rc::strong_count(gate) > 1);
        Rc::clone(gates.entry(address).or_default())
    }
}

/// Lets clients in, and has them answered.
struct Porter {
    rules: Arc<Mutex<Rules>>,
    answering: Answering,
    crowd: Crowd,
    /// By user, the header that was right, and the hash that it was held against.
    known: RefCell<HashMap<String, (HeaderValue, String)>>,
    /// One password at a time of each client, and of each network, so that nobody's tries wait for those of another network.
    clients: Gates,
    networks: Gates,
    /// Large answers under way.
    large: RefCell<Vec<Large>>,
}

/// A large answer under way.
struct Large {
    client: IpAddr,
    since: Instant,
    /// Set when it must make room.
    leaves: Rc<Cell<bool>>,
}

/// How long a large answer may take before it makes room for another.
const LARGE_MIN: Duration = Duration::from_secs(5);

impl Porter {
    /// A place for a large answer; one that is slow gives its own up. `None` when there is none.
    fn place(&self, client: IpAddr) -> Option<Rc<Cell<bool>>> {
        let client = client_of(client);
        let mut large = self.large.borrow_mut();
        // Nobody else holds the flag of an answer that is over.
        large.retain(|one| Rc::strong_count(&one.leaves) > 1 && !one.leaves.get());
        if large.iter().filter(|one| one.client == client).count() >= self.crowd.per_client {
            return None;
        }
        if large.len() >= self.crowd.most {
            let slowest = large.iter().enumerate().min_by_key(|(_, one)| one.since)?.0;
            if large[slowest].since.elapsed() < LARGE_MIN {
                return None;
            }
            large.remove(slowest).leaves.set(true);
        }
        let leaves: Rc<Cell<bool>> = Rc::default();
        large.push(Large { client, since: Instant::now(), leaves: Rc::clone(&leaves) });
        Some(leaves)
    }
}

impl Porter {
    async fn keep_tcp(self: Rc<Self>, socket: std::net::TcpListener, guests: Guests) -> std::io::Result<()> {
        let listener = TcpListener::from_std(socket)?;
        loop {
            let (stream, from) = accept(&listener).await;
            let porter = Rc::clone(&self);
            guests.admit(from.ip(), |spoke| async move { porter.let_in(stream, from.ip(), spoke).await });
        }
    }

    async fn keep_unix(
        self: Rc<Self>,
        socket: std::os::unix::net::UnixListener,
        guests: Guests,
    ) -> std::io::Result<()> {
        let listener = UnixListener::from_std(socket)?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let porter = Rc::clone(&self);
            let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
            guests.admit(here, |spoke| async move { porter.converse(stream, here, spoke).await });
        }
    }

    async fn let_in(self: Rc<Self>, stream: tokio::net::TcpStream, client: IpAddr, spoke: Rc<Cell<Instant>>) {
        let tls = self.rules.lock().unwrap_or_else(PoisonError::into_inner).tls.clone();
        match tls {
            None => self.converse(stream, client, spoke).await,
            Some(acceptor) => {
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                    self.converse(stream, client, spoke).await;
                }
            }
        }
    }

    /// Answers one client, as long as its answers leave in time.
    async fn converse(
        self: Rc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        client: IpAddr,
        spoke: Rc<Cell<Instant>>,
    ) {
        // Since when an answer has been under way, and what makes it leave.
        let busy: Rc<Cell<Option<Instant>>> = Rc::default();
        let leaves: Rc<RefCell<Rc<Cell<bool>>>> = Rc::default();
        let service = service_fn(|request: Request<Incoming>| {
            let (porter, spoke, busy) = (Rc::clone(&self), Rc::clone(&spoke), Rc::clone(&busy));
            let leaves = Rc::clone(&leaves);
            async move {
                spoke.set(Instant::now());
                busy.set(Some(Instant::now()));
                let (answer, flag) = porter.answer(&request, client).await;
                *leaves.borrow_mut() = flag.clone();
                Ok::<_, Infallible>(answer.map(|pieces| Leaving {
                    pieces,
                    spoke,
                    busy,
                    _place: flag,
                    leaves,
                }))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        loop {
            tokio::select! {
                _ = &mut connection => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    let is_late = busy.get().is_some_and(|since| since.elapsed() > ANSWER_MAX);
                    if is_late || leaves.borrow().get() {
                        return;
                    }
                }
            }
        }
    }

    /// An answer, and the flag that tells it to leave.
    async fn answer(&self, request: &Request<Incoming>, client: IpAddr) -> (Answer, Rc<Cell<bool>>) {
        let free = Rc::<Cell<bool>>::default();
        if !self.knows(request, client).await {
            let mut answer = plain(StatusCode::UNAUTHORIZED, "a user and a password are needed\n");
            answer.headers_mut().insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"sluice\", charset=\"UTF-8\""),
            );
            return (answer, free);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return (plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n"), free);
        }
        if request.uri().path() != self.crowd.path {
            return ((self.answering)(request), free);
        }
        match self.place(client) {
            Some(place) => ((self.answering)(request), place),
            None => (plain(StatusCode::SERVICE_UNAVAILABLE, self.crowd.refusal), free),
        }
    }

    /// Whether a request comes from a user, or anybody may ask.
    async fn knows(&self, request: &Request<Incoming>, client: IpAddr) -> bool {
        let users = Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner).users);
        if users.is_empty() {
            return true;
        }
        let Some(header) = request.headers().get(AUTHORIZATION) else { return false };
        let Some((user, password)) = credentials(header) else { return false };
        let hash = users.get(&user).cloned();
        if let (Some(hash), Some((known, of))) = (&hash, self.known.borrow().get(&user))
            && of == hash
            && known == header
        {
            return true;
        }
        let (of_client, of_network) =
            (self.clients.of(client_of(client)), self.networks.of(neighborhood_of(client)));
        let _turn = of_client.lock().await;
        let turn = of_network.lock().await;
        // One who is unknown takes as long as one who is known.
        let (asked, is_user) = (hash.clone().unwrap_or_else(|| NOBODY.to_owned()), hash.is_some());
        let compared = tokio::task::spawn_blocking(move || bcrypt::verify(password, &asked).unwrap_or(false));
        let is_right = compared.await.unwrap_or(false) && is_user;
        drop(turn);
        match (is_right, hash) {
            (true, Some(hash)) => {
                let mut known = self.known.borrow_mut();
                known.retain(|name, _| users.contains_key(name));
                known.insert(user, (header.clone(), hash));
            }
            _ => tokio::time::sleep(WRONG_PAUSE).await,
        }
        is_right
    }
}

/// A hash that no password has.
const NOBODY: &str = "$2y$10$abcdefghijklmnopqrstuuIQ1HZJr6vBzVqNbOQVxA0Q6R7wR4xQe";

/// The user and the password of a header (RFC 7617).
fn credentials(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, coded) = header.to_str().ok()?.split_once(' ')?;
    let bytes = data_encoding::BASE64.decode(coded.trim().as_bytes()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| (user.to_owned(), password.to_owned()))
}

/// An answer on its way.
struct Leaving {
    pieces: Box<dyn Pieces>,
    spoke: Rc<Cell<Instant>>,
    busy: Rc<Cell<Option<Instant>>>,
    /// Its place, if it is large.
    _place: Rc<Cell<bool>>,
    leaves: Rc<RefCell<Rc<Cell<bool>>>>,
}

impl Body for Leaving {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        waiting: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Nobody asks for a piece while the client does not take the one before.
        self.spoke.set(Instant::now());
        if self.pieces.is_endless() {
            self.busy.set(Some(Instant::now()));
        }
        self.pieces.piece(waiting).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.busy.set(None);
        // The connection goes on without a place.
        *self.leaves.borrow_mut() = Rc::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn porter() -> Porter {
        Porter {
            rules: Arc::default(),
            answering: Arc::new(|_| plain(StatusCode::OK, "")),
            crowd: Crowd { path: "/", most: 4, per_client: 2, refusal: "" },
            known: RefCell::default(),
            clients: Gates::default(),
            networks: Gates::default(),
            large: RefCell::default(),
        }
    }

    #[test]
    fn a_client_has_few_large_answers_and_a_slow_one_makes_room() {
        let porter = porter();
        let client = |last: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        let held: Vec<_> = [1, 1, 2, 3].map(|last| porter.place(client(last)).unwrap()).into();
        assert!(porter.place(client(1)).is_none(), "two are under way to it");
        assert!(porter.place(client(9)).is_none(), "four are under way, none for long");
        porter.large.borrow_mut()[1].since -= LARGE_MIN;
        assert!(porter.place(client(9)).is_some());
        assert!(held[1].get() && !held[0].get(), "the slow one leaves");
        drop(held);
        assert!((0..2).all(|_| porter.place(client(1)).is_some()), "what is over holds no place");
    }

    #[test]
    fn only_a_dead_socket_makes_room_and_only_the_own_one_is_removed() {
        let folder = std::env::temp_dir().join(format!("sluice-site-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, socket) = (folder.join("file"), folder.join("socket"));
        std::fs::write(&file, "precious").unwrap();
        assert!(bind(&Address::Unix(file.clone())).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");

        let address = Address::Unix(socket.clone());
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let Ok(Socket::Unix(_listener, own)) = bind(&address) else { panic!("a dead socket is in the way") };
        assert!(bind(&address).is_err(), "one that listens stays");
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&socket, "precious").unwrap();
        remove(&address, Some(own));
        assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn credentials_are_those_of_basic_authentication() {
        let of = |text: &str| credentials(&HeaderValue::from_str(text).unwrap());
        assert_eq!(of("Basic QWxhZGRpbjpvcGVuOnNlc2FtZQ=="), Some(("Aladdin".into(), "open:sesame".into())));
        assert_eq!(of("basic QTo="), Some(("A".into(), String::new())));
        for wrong in ["Bearer QTo=", "Basic", "Basic !", "Basic QQ=="] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
