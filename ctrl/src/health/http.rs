//! HTTP/1.1 requests on connections of their own.

use super::Answer;
use crate::config::{Http, LoadPlace, LoadSpec};
use crate::http::exchange;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};

/// As much of a body as is looked at.
const BODY_MAX: usize = 64 * 1024;

/// Sends the request on `stream`, and judges the answer.
pub(super) async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: SocketAddr,
    http: &Http,
    load: Option<&LoadSpec>,
) -> Result<Answer, String> {
    let host = http.host.clone().unwrap_or_else(|| target.to_string());
    let request = hyper::Request::builder()
        .method(http.method.as_str())
        .uri(&http.path)
        .header(HOST, host)
        .header(USER_AGENT, "sluice-health")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("HTTP: {error}"))?;
    exchange(stream, request, async |response| {
        let status = response.status().as_u16();
        if !http.status.iter().any(|range| range.contains(&status)) {
            return Err(format!("it answered {status}"));
        }
        let (head, body) = response.into_parts();
        let mut seen = Seen { text: Vec::new(), body: Some(body) };
        if let Some(wanted) = &http.body {
            seen.find(wanted).await?;
        }
        let told = match load.map(|load| &load.place) {
            Some(LoadPlace::Header(name)) => {
                head.headers.get(name).and_then(|value| value.to_str().ok()?.trim().parse().ok())
            }
            Some(LoadPlace::Field(names)) => {
                while seen.more().await? {}
                number(&seen.text, names)
            }
            None => None,
        };
        Ok(Answer { load: told })
    })
    .await
}

/// A body, as far as it was read.
struct Seen {
    text: Vec<u8>,
    body: Option<Incoming>,
}

impl Seen {
    /// Reads on. Returns whether there was anything, and may be more.
    async fn more(&mut self) -> Result<bool, String> {
        let Some(body) = self.body.as_mut().filter(|_| self.text.len() < BODY_MAX) else { return Ok(false) };
        match body.frame().await {
            Some(frame) => {
                if let Ok(data) = frame.map_err(|error| format!("HTTP: {error}"))?.into_data() {
                    self.text.extend_from_slice(&data);
                }
                Ok(true)
            }
            None => {
                self.body = None;
                Ok(false)
            }
        }
    }

    /// Reads until `wanted` was there.
    async fn find(&mut self, wanted: &str) -> Result<(), String> {
        while !contains(&self.text, wanted.as_bytes()) {
            if !self.more().await? {
                return Err(match self.body {
                    Some(_) => format!("`{wanted}` is not in its first {} KiB", BODY_MAX / 1024),
                    None => format!("`{wanted}` is not in its answer"),
                });
            }
        }
        Ok(())
    }
}

/// The number under `names`, one inside the other, in a JSON text; it may be written as a text itself.
fn number(text: &[u8], names: &[String]) -> Option<f64> {
    let whole: Value = serde_json::from_slice(text).ok()?;
    let found = names.iter().try_fold(&whole, |value, name| match value {
        Value::Array(list) => list.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })?;
    found.as_f64().or_else(|| found.as_str()?.trim().parse().ok())
}

/// Whether `text` has `wanted` in it.
pub(super) fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_found_wherever_it_stands_in_the_json() {
        let text = br#"{ "status": "UP", "cpu": [{ "load": 0.75 }], "text": " 1.5 ", "no": "much" }"#;
        let load = |path: &str| number(text, &path.split('.').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(load("cpu.0.load"), Some(0.75));
        assert_eq!(load("text"), Some(1.5));
        for absent in ["cpu.1.load", "cpu.load", "no", "status.x", "nothing"] {
            assert_eq!(load(absent), None, "{absent}");
        }
        assert_eq!(number(b"0.5", &[]), Some(0.5));
        assert_eq!(number(b"<html>", &["load".to_owned()]), None);
    }
}
