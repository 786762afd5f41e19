//! HTTP/1.1 requests on connections of their own.

use super::Answer;
use crate::config::{Http, LoadPlace, LoadSpec};
use crate::http::exchange;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use memchr::memmem;
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
            Some(LoadPlace::Header(name)) => Some(match head.headers.get(name) {
                None => Err(format!("its answer has no header {name}")),
                Some(value) => load_of(&String::from_utf8_lossy(value.as_bytes()))
                    .map_err(|error| format!("its header {name} {error}")),
            }),
            Some(LoadPlace::Field(names)) => {
                while seen.more().await? {}
                Some(
                    number(&seen.text, names)
                        .map_err(|error| format!("the {} of its answer {error}", names.join("."))),
                )
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
        let mut search = Search::for_bytes(wanted.as_bytes());
        while !search.finds_in(&self.text) {
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
fn number(text: &[u8], names: &[String]) -> Result<f64, String> {
    // What some programs put before a text is none of it (RFC 8259 §8.1).
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let whole: Value =
        serde_json::from_slice(text).map_err(|_| "cannot be read: that is not JSON".to_owned())?;
    let found = names.iter().try_fold(&whole, |value, name| match value {
        Value::Array(list) => list.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    });
    match found {
        None => Err("is not there".to_owned()),
        Some(Value::String(text)) => load_of(text),
        Some(value) => value.as_f64().ok_or_else(|| "is not a number".to_owned()),
    }
}

/// A load as a text.
fn load_of(text: &str) -> Result<f64, String> {
    let shown: String = text.chars().take(40).collect();
    let number = text.trim().parse::<f64>().ok().filter(|load| load.is_finite() && *load >= 0.0);
    number.ok_or_else(|| format!("is `{shown}`, which is not a number; it is to be written as 0.5"))
}

/// A search in a text that grows: what was looked at is not looked at again.
pub(super) struct Search<'a> {
    wanted: memmem::Finder<'a>,
    looked: usize,
}

impl<'a> Search<'a> {
    pub(super) fn for_bytes(wanted: &'a [u8]) -> Self {
        Self { wanted: memmem::Finder::new(wanted), looked: 0 }
    }

    /// Whether `text`, which is what it was and perhaps more, has it.
    pub(super) fn finds_in(&mut self, text: &[u8]) -> bool {
        let len = self.wanted.needle().len();
        // It may have begun in what was there before.
        let from = self.looked.saturating_sub(len.saturating_sub(1));
        self.looked = text.len();
        len == 0 || text.get(from..).is_some_and(|new| self.wanted.find(new).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_found_in_whatever_pieces_it_comes() {
        let text = b"aaabaaab-end-aab";
        for wanted in [&b"aab-e"[..], b"end", b"b", b"aaab", b"", b"aab", b"x", b"aaba"] {
            for step in 1..text.len() {
                let mut search = Search::for_bytes(wanted);
                let mut ends = (0..=text.len()).step_by(step).chain([text.len()]);
                let found = ends.any(|end| search.finds_in(&text[..end]));
                let is_there = wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted);
                assert_eq!(found, is_there, "{wanted:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn a_load_is_found_wherever_it_stands_in_the_json() {
        let text = br#"{ "status": "UP", "cpu": [{ "load": 0.75 }], "text": " 1.5 ", "no": "much" }"#;
        let load = |path: &str| number(text, &path.split('.').map(str::to_owned).collect::<Vec<_>>()).ok();
        assert_eq!(load("cpu.0.load"), Some(0.75));
        assert_eq!(load("text"), Some(1.5));
        for absent in ["cpu.1.load", "cpu.load", "no", "status.x", "nothing"] {
            assert_eq!(load(absent), None, "{absent}");
        }
        assert_eq!(number(b"\xef\xbb\xbf0.5", &[]), Ok(0.5));
        assert!(number(b"<html>", &["load".to_owned()]).is_err());
        for odd in ["0,5", "50%", "", "NaN", "-1"] {
            assert!(load_of(odd).unwrap_err().contains("is not a number"), "{odd}");
        }
    }
}
