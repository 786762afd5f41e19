//! One HTTP/1.1 request on a connection of its own.

use hyper::body::{Body, Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends `request` on `stream`, and gives what `read` makes of the answer.
///
/// # Errors
/// When the other side breaks off or does not speak HTTP; and those of `read`.
pub(crate) async fn exchange<B, T>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<B>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, String>,
) -> Result<T, String>
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + 'static,
{
    let says = |error: hyper::Error| format!("HTTP: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(says)?;
    let exchange = async { read(sender.send_request(request).await.map_err(says)?).await };
    // The connection is driven beside the exchange. It may end first, with the answer still to be read.
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(says(error)),
        },
    }
}
