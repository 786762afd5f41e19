//! Small HTTP/1.1 requests to sources.

use crate::http::exchange;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use serde_json::Value;
use tokio::net::TcpStream;

/// The longest answer: some fifty thousand servers.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// What `endpoint` answers, which must be JSON.
pub(super) async fn fetch(endpoint: &str, method: Method, path: &str, body: String) -> Result<Value, String> {
    let broken = |error: &dyn std::fmt::Display| format!("{endpoint}: {error}");
    let stream = TcpStream::connect(endpoint).await.map_err(|error| broken(&error))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, endpoint)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| broken(&error))?;
    let read = async |response: Response<Incoming>| {
        let status = response.status();
        if !status.is_success() {
            return Err(format!("it answered {status}"));
        }
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
    };
    exchange(stream, request, read).await.map_err(|error| broken(&error))
}
