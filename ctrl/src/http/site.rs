//! A thread that serves pages to many: listeners that come and go, TLS, users, and clients that cost only themselves.
//!
//! A client that is slow, silent or wrong holds a connection of its own for a bounded time, and nothing else. Passwords
//! are compared one at a time, and slowly after a wrong one, so that nobody can guess or burn a core.

use super::guests::{Guests, accept};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
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
    /// The next one; `None` behind the last.
    fn piece(&mut self) -> Option<Bytes>;
}

impl Pieces for Option<Bytes> {
    fn piece(&mut self) -> Option<Bytes> {
        self.take()
    }
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
    Unix(std::os::unix::net::UnixListener),
}

enum Order {
    Serve(Address, Socket),
    Close(Address),
}

/// The thread. It ends when this is dropped.
pub(crate) struct Site {
    name: &'static str,
    orders: mpsc::UnboundedSender<Order>,
    rules: Arc<Mutex<Rules>>,
    open: Vec<Address>,
}

impl Site {
    /// A thread of this name that serves nobody yet.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(name: &'static str, answering: Answering) -> Result<Self, String> {
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
                    known: RefCell::default(),
                    gate: tokio::sync::Mutex::new(()),
                });
                tokio::task::LocalSet::new().block_on(&runtime, serve(received, porter));
            })
            .map_err(says)?;
        Ok(Self { name, orders, rules, open: Vec::new() })
    }

    /// Serves at these addresses and no others, by these rules. Returns what is wrong with those that cannot be used.
    pub(crate) fn follow(&mut self, wanted: &[Address], rules: Rules) -> Vec<String> {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
        let closed: Vec<_> = self.open.iter().filter(|address| !wanted.contains(address)).cloned().collect();
        for address in closed {
            let _ = self.orders.send(Order::Close(address));
        }
        self.open.retain(|address| wanted.contains(address));
        let mut problems = Vec::new();
        for address in wanted {
            if self.open.contains(address) {
                continue;
            }
            match bind(address) {
                Ok(socket) => {
                    let _ = self.orders.send(Order::Serve(address.clone(), socket));
                    self.open.push(address.clone());
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
        for address in &self.open {
            if let Address::Unix(path) = address {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

fn bind(address: &Address) -> std::io::Result<Socket> {
    match address {
        Address::Tcp(address) => {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Tcp(socket))
        }
        Address::Unix(path) => {
            // The file of a process that is dead is in the way of nobody else.
            if std::os::unix::net::UnixStream::connect(path)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
            {
                std::fs::remove_file(path)?;
            }
            let socket = std::os::unix::net::UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Unix(socket))
        }
    }
}

async fn serve(mut orders: mpsc::UnboundedReceiver<Order>, porter: Rc<Porter>) {
    let mut tasks = BTreeMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve(address, socket) => {
                let porter = Rc::clone(&porter);
                let task = tokio::task::spawn_local(async move {
                    let _ = match socket {
                        Socket::Tcp(socket) => porter.keep_tcp(socket).await,
                        Socket::Unix(socket) => porter.keep_unix(socket).await,
                    };
                });
                tasks.insert(address, task);
            }
            Order::Close(address) => {
                if let Some(task) = tasks.remove(&address) {
                    task.abort();
                }
                if let Address::Unix(path) = address {
                    let _ = std::fs::remove_file(path);
                }
            }
        }
    }
}

/// Lets clients in, and has them answered.
struct Porter {
    rules: Arc<Mutex<Rules>>,
    answering: Answering,
    /// By user, the header that was right, and the hash that it was held against.
    known: RefCell<HashMap<String, (HeaderValue, String)>>,
    /// One password at a time.
    gate: tokio::sync::Mutex<()>,
}

impl Porter {
    async fn keep_tcp(self: Rc<Self>, socket: std::net::TcpListener) -> std::io::Result<()> {
        let listener = TcpListener::from_std(socket)?;
        let guests = Guests::default();
        loop {
            let (stream, from) = accept(&listener).await;
            let porter = Rc::clone(&self);
            guests.admit(from.ip(), |spoke| async move { porter.let_in(stream, spoke).await });
        }
    }

    async fn keep_unix(self: Rc<Self>, socket: std::os::unix::net::UnixListener) -> std::io::Result<()> {
        let listener = UnixListener::from_std(socket)?;
        let guests = Guests::default();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let porter = Rc::clone(&self);
            let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
            guests.admit(here, |spoke| async move { porter.converse(stream, spoke).await });
        }
    }

    async fn let_in(self: Rc<Self>, stream: tokio::net::TcpStream, spoke: Rc<Cell<Instant>>) {
        let tls = self.rules.lock().unwrap_or_else(PoisonError::into_inner).tls.clone();
        match tls {
            None => self.converse(stream, spoke).await,
            Some(acceptor) => {
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                    self.converse(stream, spoke).await;
                }
            }
        }
    }

    /// Answers one client, as long as its answers leave in time.
    async fn converse(
        self: Rc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        spoke: Rc<Cell<Instant>>,
    ) {
        // Since when an answer has been under way.
        let busy: Rc<Cell<Option<Instant>>> = Rc::default();
        let service = service_fn(|request: Request<Incoming>| {
            let (porter, spoke, busy) = (Rc::clone(&self), Rc::clone(&spoke), Rc::clone(&busy));
            async move {
                spoke.set(Instant::now());
                busy.set(Some(Instant::now()));
                let answer = porter.answer(&request).await;
                Ok::<_, Infallible>(answer.map(|pieces| Leaving { pieces, spoke, busy }))
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
                    if busy.get().is_some_and(|since| since.elapsed() > ANSWER_MAX) {
                        return;
                    }
                }
            }
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !self.knows(request).await {
            let mut answer = plain(StatusCode::UNAUTHORIZED, "a user and a password are needed\n");
            answer.headers_mut().insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"sluice\", charset=\"UTF-8\""),
            );
            return answer;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        }
        (self.answering)(request)
    }

    /// Whether a request comes from a user, or anybody may ask.
    async fn knows(&self, request: &Request<Incoming>) -> bool {
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
        let _gate = self.gate.lock().await;
        // One who is unknown takes as long as one who is known.
        let (asked, is_user) = (hash.clone().unwrap_or_else(|| NOBODY.to_owned()), hash.is_some());
        let compared = tokio::task::spawn_blocking(move || bcrypt::verify(password, &asked).unwrap_or(false));
        let is_right = compared.await.unwrap_or(false) && is_user;
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
}

impl Body for Leaving {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.spoke.set(Instant::now());
        Poll::Ready(self.pieces.piece().map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.busy.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
