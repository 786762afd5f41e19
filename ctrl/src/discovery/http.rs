//! Small HTTP/1.1 requests to sources.

use crate::config::Site;
use crate::http::exchange;
use crate::tls;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::time::Duration;
use tokio::net::TcpStream;

/// The longest answer: some fifty thousand servers.
const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// As much of an error's words as is shown.
const WORDS_MAX: usize = 200;
/// How long one endpoint may take, where there are others.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is asked.
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: String,
    /// JSON, or a form.
    pub(super) body: Body,
    /// What an earlier login gave, for the header that says who asks.
    pub(super) token: Option<String>,
}

pub(super) enum Body {
    None,
    Json(Value),
    Form(String),
}

/// Why there is no answer.
pub(super) struct Failure {
    /// Whether the source wants to know who asks.
    pub(super) is_stranger: bool,
    pub(super) words: String,
}

/// What the first endpoint that answers says, which must be JSON.
pub(super) async fn fetch(site: &Site, question: &Question) -> Result<Value, Failure> {
    let mut words = Vec::new();
    for endpoint in &site.endpoints {
        let answer = async { ask(site, endpoint, question).await };
        let answer = match site.endpoints.len() {
            1 => answer.await,
            _ => tokio::time::timeout(PATIENCE, answer)
                .await
                .unwrap_or_else(|_| Err(broken(&format!("no answer within {} s", PATIENCE.as_secs())))),
        };
        match answer {
            Ok(answer) => return Ok(answer),
            // The others would say the same.
            Err(failure) if failure.is_stranger => {
                return Err(Failure { words: format!("{endpoint}: {}", failure.words), ..failure });
            }
            Err(failure) => words.push(format!("{endpoint}: {}", failure.words)),
        }
    }
    Err(Failure { is_stranger: false, words: words.join("; ") })
}

/// An answer of which a part cannot be read though it is JSON, as a number that is too large: that part is its own text.
fn by_parts(body: &[u8]) -> Option<Value> {
    let parts: HashMap<&str, &RawValue> = serde_json::from_slice(body).ok()?;
    let part = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into());
    let parts = parts.into_iter().map(|(key, raw)| {
        let value = match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
            Ok(list) => list.into_iter().map(part).collect(),
            Err(_) => part(raw),
        };
        (key.to_owned(), value)
    });
    Some(Value::Object(parts.collect()))
}

fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure { is_stranger: false, words: error.to_string() }
}

async fn ask(site: &Site, endpoint: &str, question: &Question) -> Result<Value, Failure> {
    let stream = TcpStream::connect(endpoint).await.map_err(|error| broken(&error))?;
    let (kind, body) = match &question.body {
        Body::None => ("application/json", String::new()),
        Body::Json(value) => ("application/json", value.to_string()),
        Body::Form(text) => ("application/x-www-form-urlencoded", text.clone()),
    };
    let mut request = Request::builder()
        .method(&question.method)
        .uri(&question.path)
        .header(HOST, endpoint)
        .header(CONTENT_TYPE, kind);
    if let Some(token) = &question.token {
        request = request.header(AUTHORIZATION, token);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| broken(&error))?;
    let read = async |response: Response<Incoming>| {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    };
    let answer = match &site.tls {
        None => exchange(stream, request, read).await,
        Some(tls) => {
            let connector = tls::connector(tls).await.map_err(|error| broken(&error))?;
            let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let stream = tls::handshake(&connector, stream, host).await.map_err(|error| broken(&error))?;
            exchange(stream, request, read).await
        }
    };
    let (status, body) = answer.map_err(|error| broken(&error))?;
    if status.is_success() {
        return serde_json::from_slice(&body)
            .or_else(|error| by_parts(&body).ok_or(error))
            .map_err(|error| broken(&error));
    }
    let said: String = String::from_utf8_lossy(&body).trim().chars().take(WORDS_MAX).collect();
    let is_stranger = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let remedy = match is_stranger && site.login.is_none() {
        true => "; say who asks: username and password_file",
        false => "",
    };
    Err(Failure { is_stranger, words: format!("it answered {status} {said}").trim().to_owned() + remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_too_large_spoils_its_own_record_alone() {
        let body = br#"{"name":"x","hosts":[{"ip":"10.0.0.11"},{"ip":"10.0.0.12","weight":1e999},{"ip":"10.0.0.13"}]}"#;
        let value = by_parts(body).unwrap();
        assert_eq!((&value["name"], &value["hosts"][2]["ip"]), (&"x".into(), &"10.0.0.13".into()));
        assert!(value["hosts"][1].as_str().unwrap().contains("1e999"));
        assert!(by_parts(b"{\"hosts\":[").is_none());
    }
}
