//! HTTP/1.1 requests on connections of their own.

use super::Answer;
use crate::config::{Http, LoadSpec};
use crate::http::exchange;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
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
        let told =
            load.and_then(|load| response.headers().get(&load.header)?.to_str().ok()?.trim().parse().ok());
        if let Some(wanted) = &http.body {
            find(wanted, response.into_body()).await?;
        }
        Ok(Answer { load: told })
    })
    .await
}

/// Reads a body until `wanted` was in it.
async fn find(wanted: &str, mut body: Incoming) -> Result<(), String> {
    let mut seen = Vec::new();
    while !contains(&seen, wanted.as_bytes()) {
        if seen.len() >= BODY_MAX {
            return Err(format!("`{wanted}` is not in its first {} KiB", BODY_MAX / 1024));
        }
        match body.frame().await {
            Some(frame) => {
                if let Ok(data) = frame.map_err(|error| format!("HTTP: {error}"))?.into_data() {
                    seen.extend_from_slice(&data);
                }
            }
            None => return Err(format!("`{wanted}` is not in its answer")),
        }
    }
    Ok(())
}

/// Whether `text` has `wanted` in it.
pub(super) fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}
