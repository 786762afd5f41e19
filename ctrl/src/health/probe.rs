//! One question to one server, and whether the answer is good.

use super::http::contains;
use super::{dns, http, icmp, socket, tls};
use crate::config::{HealthSpec, Probe};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
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

/// What a check keeps between its questions.
#[derive(Clone)]
pub(super) struct Prober {
    connector: Option<TlsConnector>,
}

impl Prober {
    pub(super) fn new(spec: &HealthSpec) -> Result<Self, String> {
        let connector = match &spec.probe {
            Probe::Http(http) => http.tls.as_ref().map(tls::connector).transpose()?,
            _ => None,
        };
        Ok(Self { connector })
    }

    /// Asks once; waits no longer than the check's timeout.
    pub(super) async fn ask(
        &self,
        spec: &HealthSpec,
        target: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<Answer, String> {
        match tokio::time::timeout(spec.timeout, self.question(spec, target, source)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} ms", spec.timeout.as_millis())),
        }
    }

    async fn question(
        &self,
        spec: &HealthSpec,
        target: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<Answer, String> {
        let good = |()| Answer::default();
        match &spec.probe {
            Probe::Tcp { send, expect } => tcp(target, source, send, expect).await.map(good),
            Probe::Udp { send, expect } => udp(target, source, send, expect, spec.timeout).await.map(good),
            Probe::Http(request) => {
                let stream = socket::connect(target, source).await.map_err(|error| error.to_string())?;
                match (&self.connector, &request.tls) {
                    (Some(connector), Some(tls)) => {
                        let stream =
                            tls::handshake(connector, stream, tls.server_name.as_deref(), target).await?;
                        http::request(stream, target, request, spec.load.as_ref()).await
                    }
                    _ => http::request(stream, target, request, spec.load.as_ref()).await,
                }
            }
            Probe::Dns { query, wants_ipv6, expect } => {
                dns::ask(target, source, (query, *wants_ipv6), *expect).await.map(good)
            }
            Probe::Icmp => icmp::ping(target.ip(), source).await.map(good),
            Probe::Script { command } => script(command, target, source).await.map(good),
        }
    }
}

async fn tcp(target: SocketAddr, source: Option<IpAddr>, send: &[u8], expect: &[u8]) -> Result<(), String> {
    let says = |error: std::io::Error| error.to_string();
    let mut stream = socket::connect(target, source).await.map_err(says)?;
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

async fn udp(
    target: SocketAddr,
    source: Option<IpAddr>,
    send: &[u8],
    expect: &[u8],
    timeout: Duration,
) -> Result<(), String> {
    let says = |error: std::io::Error| error.to_string();
    let socket = socket::datagrams(target, source).await.map_err(says)?;
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
