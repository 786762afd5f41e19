//! One question to one server, and whether the answer is good.

use super::http::Search;
use super::ports::Ports;
use super::socket::{Aim, Way};
use super::{CheckKey, Fault, dns, http, icmp, script, socket};
use crate::config::Probe;
use crate::kernel::{VipChecks, VipWay};
use crate::tls;
use dataplane::wire::{ProxyVersion, protocol};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// As much of an answer as is looked at.
const ANSWER_MAX: usize = 4_096;
/// How long silence must last to be a good answer, where none is expected: ICMP errors come at once.
const SILENCE: Duration = Duration::from_millis(500);

/// A good answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The load that the server told, or why it cannot be read; `None` where it is not asked for.
    pub load: Option<Result<f64, String>>,
}

/// What stands before a question to servers that want to be told where their client is, when nobody is to be told of.
fn preface(version: Option<ProxyVersion>) -> &'static [u8] {
    match version {
        None => b"",
        // The PROXY protocol §2.1: a line that says no address.
        Some(ProxyVersion::One) => b"PROXY UNKNOWN\r\n",
        // §2.2: the command LOCAL, of no family, without addresses.
        Some(ProxyVersion::Two) => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// One check, with what it keeps between its questions.
pub(super) struct Prober {
    key: CheckKey,
    /// Made when it is first needed, because it may need a file.
    connector: OnceCell<TlsConnector>,
    vip_checks: Option<Arc<VipChecks>>,
    ports: Rc<Ports>,
}

impl Prober {
    pub(super) fn new(key: CheckKey, vip_checks: Option<Arc<VipChecks>>, ports: Rc<Ports>) -> Self {
        Self { key, connector: OnceCell::new(), vip_checks, ports }
    }

    /// Asks once, from `source` if the server itself is asked; waits no longer than the check's timeout, and as long
    /// again before for what it takes to ask.
    pub(super) async fn ask(&self, source: Option<IpAddr>) -> Result<Answer, Fault> {
        let timeout = self.key.spec.timeout;
        let aim = self.aim(source).map_err(Fault::Here)?;
        let connector = tokio::time::timeout(timeout, self.prepare(&aim)).await;
        let connector = connector.map_err(|_| {
            Fault::Here("all of the source ports for it are in use by other checks".to_owned())
        })??;
        match tokio::time::timeout(timeout, self.question(&aim, connector)).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::Server(format!("no answer within {} ms", timeout.as_millis()))),
        }
    }

    /// What it takes to ask: a port, and for HTTPS whom to believe.
    async fn prepare(&self, aim: &Aim<'_>) -> Result<Option<&TlsConnector>, Fault> {
        match &self.key.spec.probe {
            Probe::Tcp { .. } | Probe::Http(_) => aim.wait_for_port(protocol::TCP).await,
            Probe::Udp { .. } | Probe::Dns { .. } => aim.wait_for_port(protocol::UDP).await,
            Probe::Icmp | Probe::Script { .. } => {}
        }
        match &self.key.spec.probe {
            Probe::Http(http) => match &http.tls {
                Some(tls) => {
                    let made = self.connector.get_or_try_init(|| tls::connector(tls)).await;
                    made.map(Some).map_err(Fault::Here)
                }
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Who is asked, and from where.
    fn aim(&self, source: Option<IpAddr>) -> Result<Aim<'_>, String> {
        let server = self.key.target;
        let Some(VipWay { vip, tunnel }) = &self.key.vip else {
            return Ok(Aim { target: server, source, way: None, ports: &self.ports });
        };
        let checks = self.vip_checks.as_ref().ok_or_else(|| {
            format!("there is no way to {vip} on it without the kernel path; sluice status says why")
        })?;
        let source = Some(checks.source(vip.ip(), server.ip())?);
        let way = Some(Way { checks, server: server.ip(), tunnel: tunnel.as_ref() });
        Ok(Aim { target: *vip, source, way, ports: &self.ports })
    }

    async fn question(&self, aim: &Aim<'_>, connector: Option<&TlsConnector>) -> Result<Answer, Fault> {
        let good = |()| Answer::default();
        let (target, spec) = (aim.target, &self.key.spec);
        let preface = preface(spec.proxy);
        match &spec.probe {
            Probe::Tcp { send, expect } => tcp(aim, &[preface, send].concat(), expect).await.map(good),
            Probe::Udp { send, expect } => {
                udp(aim, &[preface, send].concat(), expect, spec.timeout).await.map(good)
            }
            Probe::Http(request) => {
                let (mut stream, _held) = socket::connect(aim).await?;
                stream.write_all(preface).await?;
                let load = spec.load.as_ref();
                let answer = match (connector, &request.tls) {
                    (Some(connector), Some(tls)) => {
                        let address = target.ip().to_string();
                        let name = tls.server_name.as_deref().unwrap_or(&address);
                        match tls::handshake(connector, stream, name).await {
                            Ok(stream) => http::request(stream, target, request, load).await,
                            Err(error) => Err(error),
                        }
                    }
                    _ => http::request(stream, target, request, load).await,
                };
                answer.map_err(Fault::Server)
            }
            Probe::Dns { query, wants_ipv6, expect } => {
                dns::ask(aim, (query, *wants_ipv6), *expect, preface).await.map(good)
            }
            Probe::Icmp => icmp::ping(target.ip(), aim.source).await.map(good),
            Probe::Script { command } => script::check(command, target, aim.source).await.map(good),
        }
    }
}

async fn tcp(aim: &Aim<'_>, send: &[u8], expect: &[u8]) -> Result<(), Fault> {
    let (mut stream, _held) = socket::connect(aim).await?;
    stream.write_all(send).await?;
    let (mut seen, mut search) = (Vec::new(), Search::for_bytes(expect));
    while !search.finds_in(&seen) {
        let mut room = [0; ANSWER_MAX];
        match stream.read(&mut room).await? {
            0 => return Err(Fault::Server("it closed the connection before its answer".to_owned())),
            _ if seen.len() >= ANSWER_MAX => {
                return Err(Fault::Server("it answers something else".to_owned()));
            }
            len => seen.extend_from_slice(&room[..len]),
        }
    }
    Ok(())
}

async fn udp(aim: &Aim<'_>, send: &[u8], expect: &[u8], timeout: Duration) -> Result<(), Fault> {
    let (socket, _held) = socket::datagrams(aim).await?;
    socket.send(send).await?;
    let mut room = [0; ANSWER_MAX];
    if expect.is_empty() {
        // The error of an earlier datagram is told by the next call.
        let silence = SILENCE.min(timeout.mul_f64(0.9));
        return match tokio::time::timeout(silence, socket.recv(&mut room)).await {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(_)) | Err(_) => Ok(()),
        };
    }
    loop {
        let len = socket.recv(&mut room).await?;
        if Search::for_bytes(expect).finds_in(&room[..len]) {
            return Ok(());
        }
    }
}
