//! One question to one server, and whether the answer is good.

use super::http::contains;
use super::socket::{Aim, Way};
use super::{CheckKey, dns, http, icmp, socket};
use crate::config::Probe;
use crate::kernel::{VipChecks, VipWay};
use crate::tls;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

/// As much of an answer as is looked at.
const ANSWER_MAX: usize = 4_096;
/// How long silence must last to be a good answer, where none is expected: ICMP errors come at once.
const SILENCE: Duration = Duration::from_millis(500);

/// A good answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answer {
    /// The load that the server told.
    pub load: Option<f64>,
}

/// One check, with what it keeps between its questions.
pub(super) struct Prober {
    key: CheckKey,
    connector: Option<TlsConnector>,
    vip_checks: Option<Arc<VipChecks>>,
}

impl Prober {
    pub(super) fn new(key: CheckKey, vip_checks: Option<Arc<VipChecks>>) -> Result<Self, String> {
        let connector = match &key.spec.probe {
            Probe::Http(http) => http.tls.as_ref().map(tls::connector).transpose()?,
            _ => None,
        };
        Ok(Self { key, connector, vip_checks })
    }

    /// Asks once, from `source` if the server itself is asked; waits no longer than the check's timeout.
    pub(super) async fn ask(&self, source: Option<IpAddr>) -> Result<Answer, String> {
        let timeout = self.key.spec.timeout;
        let aim = self.aim(source)?;
        match tokio::time::timeout(timeout, self.question(&aim)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
        }
    }

    /// Who is asked, and from where.
    fn aim(&self, source: Option<IpAddr>) -> Result<Aim<'_>, String> {
        let server = self.key.target;
        let Some(VipWay { vip, tunnel }) = &self.key.vip else {
            return Ok(Aim { target: server, source, way: None });
        };
        let checks = self.vip_checks.as_ref().ok_or_else(|| {
            format!("there is no way to {vip} on it without the kernel path; sluice status says why")
        })?;
        let source = Some(checks.source(vip.ip(), server.ip())?);
        let way = Some(Way { checks, server: server.ip(), tunnel: tunnel.as_ref() });
        Ok(Aim { target: *vip, source, way })
    }

    async fn question(&self, aim: &Aim<'_>) -> Result<Answer, String> {
        let good = |()| Answer::default();
        let (target, spec) = (aim.target, &self.key.spec);
        match &spec.probe {
            Probe::Tcp { send, expect } => tcp(aim, send, expect).await.map(good),
            Probe::Udp { send, expect } => udp(aim, send, expect, spec.timeout).await.map(good),
            Probe::Http(request) => {
                let (stream, _pass) = socket::connect(aim).await.map_err(|error| error.to_string())?;
                match (&self.connector, &request.tls) {
                    (Some(connector), Some(tls)) => {
                        let address = target.ip().to_string();
                        let name = tls.server_name.as_deref().unwrap_or(&address);
                        let stream = tls::handshake(connector, stream, name).await?;
                        http::request(stream, target, request, spec.load.as_ref()).await
                    }
                    _ => http::request(stream, target, request, spec.load.as_ref()).await,
                }
            }
            Probe::Dns { query, wants_ipv6, expect } => {
                dns::ask(aim, (query, *wants_ipv6), *expect).await.map(good)
            }
            Probe::Icmp => icmp::ping(target.ip(), aim.source).await.map(good),
            Probe::Script { command } => script(command, target, aim.source).await.map(good),
        }
    }
}

async fn tcp(aim: &Aim<'_>, send: &[u8], expect: &[u8]) -> Result<(), String> {
    let says = |error: std::io::Error| error.to_string();
    let (mut stream, _pass) = socket::connect(aim).await.map_err(says)?;
    stream.write_all(send).await.map_err(says)?;
    let mut seen = Vec::new();
    while !contains(&seen, expect) {
        let mut room = [0; ANSWER_MAX];
        match stream.read(&mut room).await.map_err(says)? {
            0 => return Err("it closed the connection before its answer".to_owned()),
            _ if seen.len() >= ANSWER_MAX => return Err("it answers something else".to_owned()),
            len => seen.extend_from_slice(&room[..len]),
        }
    }
    Ok(())
}

async fn udp(aim: &Aim<'_>, send: &[u8], expect: &[u8], timeout: Duration) -> Result<(), String> {
    let says = |error: std::io::Error| error.to_string();
    let (socket, _pass) = socket::datagrams(aim).await.map_err(says)?;
    socket.send(send).await.map_err(says)?;
    let mut room = [0; ANSWER_MAX];
    if expect.is_empty() {
        // The error of an earlier datagram is told by the next call.
        let silence = SILENCE.min(timeout.mul_f64(0.9));
        return match tokio::time::timeout(silence, socket.recv(&mut room)).await {
            Ok(Err(error)) => Err(says(error)),
            Ok(Ok(_)) | Err(_) => Ok(()),
        };
    }
    loop {
        let len = socket.recv(&mut room).await.map_err(says)?;
        if contains(&room[..len], expect) {
            return Ok(());
        }
    }
}

/// The program is killed when it takes too long.
async fn script(command: &[String], target: SocketAddr, source: Option<IpAddr>) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let mut child = tokio::process::Command::new(program);
    child
        .args(arguments)
        .env("SLUICE_ADDRESS", target.ip().to_string())
        .env("SLUICE_PORT", target.port().to_string())
        .env("SLUICE_SOURCE", source.map_or(String::new(), |source| source.to_string()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let status = child.status().await.map_err(|error| format!("{program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}
