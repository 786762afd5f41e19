//! The sockets: DNS over UDP and TCP, and the same answers as JSON over HTTP.

use super::Table;
use super::dns::Zone;
use crate::config::NamesSpec;
use hickory_proto::rr::Name;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Connections at a time, of each kind; others wait.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may say nothing.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// The largest question by datagram.
const QUESTION_MAX: usize = 4_096;

/// The responders, on a thread of their own. They end with the process.
#[derive(Debug)]
pub struct Names {
    table: Shared,
}

type Shared = Arc<Mutex<Arc<Table>>>;

impl Names {
    /// Binds the sockets and begins to answer.
    ///
    /// # Errors
    /// When an address cannot be used.
    pub fn start(spec: &NamesSpec) -> Result<Self, String> {
        let says = |error: std::io::Error| format!("names: {error}");
        let origin = Name::from_str(&spec.zone).map_err(|error| format!("names.zone: {error}"))?;
        let mut origin = origin.to_lowercase();
        origin.set_fqdn(true);
        let zone = Arc::new(Zone { origin, ttl: spec.ttl.as_secs() as u32 });
        let table: Shared = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(says)?;
        let bound = |address: SocketAddr| {
            move |error: std::io::Error| {
                format!(
                    "names: {address}: {error}; nobody answers for names; name an address of a port, or free it, and restart sluiced"
                )
            }
        };
        let (mut datagram, mut stream, mut web) = (Vec::new(), Vec::new(), Vec::new());
        for address in &spec.listen {
            datagram.push(std::net::UdpSocket::bind(address).map_err(bound(*address))?);
            stream.push(std::net::TcpListener::bind(address).map_err(bound(*address))?);
        }
        for address in &spec.http {
            web.push(std::net::TcpListener::bind(address).map_err(bound(*address))?);
        }
        datagram.iter().try_for_each(|socket| socket.set_nonblocking(true)).map_err(says)?;
        stream.iter().chain(&web).try_for_each(|socket| socket.set_nonblocking(true)).map_err(says)?;
        let (ttl, shared) = (spec.ttl.as_secs(), Arc::clone(&table));
        let serve = async move {
            for socket in datagram.into_iter().filter_map(|socket| UdpSocket::from_std(socket).ok()) {
                tokio::task::spawn_local(datagrams(socket, Arc::clone(&zone), Arc::clone(&shared)));
            }
            for socket in stream.into_iter().filter_map(|socket| TcpListener::from_std(socket).ok()) {
                tokio::task::spawn_local(connections(socket, Arc::clone(&zone), Arc::clone(&shared)));
            }
            for socket in web.into_iter().filter_map(|socket| TcpListener::from_std(socket).ok()) {
                tokio::task::spawn_local(http(socket, ttl, Arc::clone(&shared)));
            }
            std::future::pending::<()>().await;
        };
        std::thread::Builder::new()
            .name("names".into())
            .spawn(move || tokio::task::LocalSet::new().block_on(&runtime, serve))
            .map_err(says)?;
        Ok(Self { table })
    }

    /// Answers by another table from now on.
    pub fn publish(&self, table: Table) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

fn current(table: &Shared) -> Arc<Table> {
    Arc::clone(&table.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn datagrams(socket: UdpSocket, zone: Arc<Zone>, table: Shared) {
    let mut room = vec![0; QUESTION_MAX];
    loop {
        // An ICMP error about an earlier answer is no reason to end.
        let Ok((len, from)) = socket.recv_from(&mut room).await else { continue };
        if let Some(answer) = zone.answer(&room[..len], from.ip(), &current(&table), fastrand::f64) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn connections(listener: TcpListener, zone: Arc<Zone>, table: Shared) {
    let open = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let turn = Arc::clone(&open).acquire_owned().await;
        let Ok((stream, from)) = listener.accept().await else { continue };
        let (zone, table) = (Arc::clone(&zone), Arc::clone(&table));
        tokio::task::spawn_local(async move {
            let _turn = turn;
            let _ = converse(stream, from.ip(), &zone, &table).await;
        });
    }
}

/// RFC 7766: questions and answers with their lengths in front.
async fn converse(mut stream: TcpStream, from: IpAddr, zone: &Zone, table: &Shared) -> std::io::Result<()> {
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    loop {
        let len = tokio::time::timeout(IDLE_MAX, stream.read_u16()).await.map_err(late)??;
        let mut question = vec![0; usize::from(len)];
        tokio::time::timeout(IDLE_MAX, stream.read_exact(&mut question)).await.map_err(late)??;
        let Some(answer) = zone.answer(&question, from, &current(table), fastrand::f64) else {
            return Ok(());
        };
        let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
        framed.extend(answer);
        tokio::time::timeout(IDLE_MAX, stream.write_all(&framed)).await.map_err(late)??;
    }
}

async fn http(listener: TcpListener, ttl: u64, table: Shared) {
    let open = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let turn = Arc::clone(&open).acquire_owned().await;
        let Ok((stream, from)) = listener.accept().await else { continue };
        let table = Arc::clone(&table);
        tokio::task::spawn_local(async move {
            let _turn = turn;
            let service = service_fn(|request| {
                let answer = resolve(&request, from.ip(), ttl, &current(&table));
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
fn resolve(request: &Request<Incoming>, from: IpAddr, ttl: u64, table: &Table) -> Response<Full<Bytes>> {
    let name = request.uri().path().strip_prefix("/v1/resolve/");
    let parameters = request.uri().query().unwrap_or_default().split('&');
    let asked = parameters.filter_map(|pair| pair.strip_prefix("client=")).next().map(str::parse);
    let (status, body) = match (request.method(), name, asked) {
        (&Method::GET, Some(_), Some(Err(_))) => {
            (StatusCode::BAD_REQUEST, json!({ "error": "`client` is no address" }))
        }
        (&Method::GET, Some(name), asked) => {
            let client = asked.and_then(Result::ok).unwrap_or(from);
            match table.resolve(name, client, fastrand::f64) {
                Some(servers) => {
                    let place = table.place_of(client);
                    let protected =
                        table.services.get(&name.to_ascii_lowercase()).is_some_and(|entry| entry.protected);
                    let body = json!({
                        "service": name, "ttl": ttl, "client": client, "zone": place.zone, "region": place.region,
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
