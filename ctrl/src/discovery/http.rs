//! Small HTTP/1.1 requests to sources.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::pin::pin;
use tokio::net::TcpStream;

/// The longest answer: some fifty thousand servers.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// What `endpoint` answers, which must be JSON.
pub(super) async fn fetch(endpoint: &str, method: Method, path: &str, body: String) -> Result<Value, String> {
    let broken = |error: &dyn std::fmt::Display| format!("{endpoint}: {error}");
    let stream = TcpStream::connect(endpoint).await.map_err(|error| broken(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, endpoint)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| broken(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("{endpoint} answered {status}"));
        }
        let body =
            Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|error| broken(&error))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| broken(&error))
    };
    // The connection may end first, with the answer still to be read.
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(broken(&error)),
        },
    }
}
