//! The sockets: DNS over UDP and TCP, and the same answers as JSON over HTTP.

use super::Table;
use crate::config::NamesSpec;
use crate::http::guests::{Guests, accept};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;

/// How long a connection may say nothing.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// The largest question by datagram.
const QUESTION_MAX: usize = 4_096;

/// What is answered on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Datagrams,
    Connections,
    Http,
}

/// A socket that is bound.
enum Socket {
    Udp(std::net::UdpSocket),
    Tcp(std::net::TcpListener),
}

enum Order {
    Serve((Kind, SocketAddr), Socket),
    Close((Kind, SocketAddr)),
}

/// The responders, on a thread of their own. They end when this is dropped.
#[derive(Debug)]
pub struct Names {
    table: Shared,
    orders: mpsc::UnboundedSender<Order>,
    open: BTreeSet<(Kind, SocketAddr)>,
}

type Shared = Arc<Mutex<Arc<Table>>>;

impl Names {
    /// A thread that answers nobody yet.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> Result<Self, String> {
        let says = |error: std::io::Error| format!("names: {error}");
        let table: Shared = Arc::default();
        let (orders, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(says)?;
        let shared = Arc::clone(&table);
        std::thread::Builder::new()
            .name("names".into())
            .spawn(move || tokio::task::LocalSet::new().block_on(&runtime, serve(received, shared)))
            .map_err(says)?;
        Ok(Self { table, orders, open: BTreeSet::new() })
    }

    /// Answers on these addresses and on no others. Returns what is wrong with those that cannot be used.
    pub fn follow(&mut self, spec: Option<&NamesSpec>) -> Vec<String> {
        let dns = spec.iter().flat_map(|spec| &spec.listen);
        let http = spec.iter().flat_map(|spec| &spec.http).map(|address| (Kind::Http, *address));
        let wanted: BTreeSet<_> = dns
            .flat_map(|address| [(Kind::Datagrams, *address), (Kind::Connections, *address)])
            .chain(http)
            .collect();
        for key in self.open.difference(&wanted) {
            self.order(Order::Close(*key));
        }
        self.open.retain(|key| wanted.contains(key));
        let mut problems = Vec::new();
        for (kind, address) in wanted {
            if self.open.contains(&(kind, address)) {
                continue;
            }
            match bind(kind, address) {
                Ok(socket) => {
                    self.order(Order::Serve((kind, address), socket));
                    self.open.insert((kind, address));
                }
                Err(error) => problems.push(format!(
                    "names: {address}: {error}; nobody answers for names there; name an address of a port, or free it"
                )),
            }
        }
        problems.dedup();
        problems
    }

    /// Answers by another table from now on.
    pub fn publish(&self, table: Table) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    fn order(&self, order: Order) {
        // The thread ends after this does.
        let _ = self.orders.send(order);
    }
}

fn bind(kind: Kind, address: SocketAddr) -> std::io::Result<Socket> {
    match kind {
        Kind::Datagrams => {
            let socket = std::net::UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Udp(socket))
        }
        Kind::Connections | Kind::Http => {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Tcp(socket))
        }
    }
}

async fn serve(mut orders: mpsc::UnboundedReceiver<Order>, table: Shared) {
    let mut tasks = BTreeMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Serve((kind, address), socket) => {
                let table = Arc::clone(&table);
                let task = tokio::task::spawn_local(async move {
                    let ended = match (kind, socket) {
                        (_, Socket::Udp(socket)) => datagrams(socket, table).await,
                        (Kind::Http, Socket::Tcp(socket)) => http(socket, table).await,
                        (_, Socket::Tcp(socket)) => connections(socket, table).await,
                    };
                    if let Err(error) = ended {
                        log::info!(target: "names", "names: {address}: {error}");
                    }
                });
                tasks.insert((kind, address), task);
            }
            Order::Close(key) => {
                if let Some(task) = tasks.remove(&key) {
                    task.abort();
                }
            }
        }
    }
}

fn current(table: &Shared) -> Arc<Table> {
    Arc::clone(&table.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn datagrams(socket: std::net::UdpSocket, table: Shared) -> std::io::Result<()> {
    let socket = UdpSocket::from_std(socket)?;
    let mut room = vec![0; QUESTION_MAX];
    loop {
        // An ICMP error about an earlier answer is no reason to end.
        let Ok((len, from)) = socket.recv_from(&mut room).await else { continue };
        if let Some(answer) = current(&table).answer(&room[..len], from.ip()) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn connections(listener: std::net::TcpListener, table: Shared) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let guests = Guests::default();
    loop {
        let (stream, from) = accept(&listener).await;
        let table = Arc::clone(&table);
        guests.admit(from.ip(), |spoke| async move {
            let _ = converse(stream, from.ip(), &table, &spoke).await;
        });
    }
}

/// RFC 7766: questions and answers with their lengths in front.
async fn converse(
    mut stream: TcpStream,
    from: IpAddr,
    table: &Shared,
    spoke: &Cell<Instant>,
) -> std::io::Result<()> {
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    loop {
        let len = tokio::time::timeout(IDLE_MAX, stream.read_u16()).await.map_err(late)??;
        let mut question = vec![0; usize::from(len)];
        tokio::time::timeout(IDLE_MAX, stream.read_exact(&mut question)).await.map_err(late)??;
        spoke.set(Instant::now());
        let Some(answer) = current(table).answer(&question, from) else { return Ok(()) };
        let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
        framed.extend(answer);
        tokio::time::timeout(IDLE_MAX, stream.write_all(&framed)).await.map_err(late)??;
    }
}

async fn http(listener: std::net::TcpListener, table: Shared) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let guests = Guests::default();
    loop {
        let (stream, from) = accept(&listener).await;
        let table = Arc::clone(&table);
        guests.admit(from.ip(), |_| async move {
            let service = service_fn(|request| {
                let answer = resolve(&request, from.ip(), &current(&table));
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(IDLE_MAX, connection).await;
        });
    }
}

/// `GET /v1/resolve/SERVICE`, perhaps with `?client=ADDRESS`.
fn resolve(request: &Request<Incoming>, from: IpAddr, table: &Table) -> Response<Full<Bytes>> {
    let name = request.uri().path().strip_prefix("/v1/resolve/");
    let parameters = request.uri().query().unwrap_or_default().split('&');
    let asked = parameters.filter_map(|pair| pair.strip_prefix("client=")).next().map(str::parse);
    let (status, body) = match (request.method(), name, asked) {
        (&Method::GET, Some(_), Some(Err(_))) => {
            (StatusCode::BAD_REQUEST, json!({ "error": "`client` is not an address" }))
        }
        (&Method::GET, Some(name), asked) => {
            let client = asked.and_then(Result::ok).unwrap_or(from);
            match table.resolve(name, client, fastrand::f64) {
                Some(servers) => {
                    let place = table.place_of(client);
                    let protected =
                        table.services.get(&*name.to_ascii_lowercase()).is_some_and(|entry| entry.protected);
                    let body = json!({
                        "service": name, "ttl": table.zone.ttl, "client": client, "zone": place.zone, "region": place.region,
                        "protected": protected, "servers": servers,
                    });
                    (StatusCode::OK, body)
                }
                None => (StatusCode::NOT_FOUND, json!({ "error": format!("there is no service `{name}`") })),
            }
        }
        (&Method::GET, None, _) => (StatusCode::NOT_FOUND, json!({ "error": "ask for /v1/resolve/SERVICE" })),
        _ => (StatusCode::METHOD_NOT_ALLOWED, json!({ "error": "only GET is answered" })),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}
