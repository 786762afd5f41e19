//! One HTTP/1.1 request on a connection of its own.

use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Headers of an answer, of which some applications have many.
const HEADERS_MAX: usize = 1_024;

/// Sends `request` on `stream`, and gives what `read` makes of the answer. An answer is taken as other clients take it:
/// with continued lines, blanks before a colon and names that are none (RFC 9112 §5.1, §5.2).
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
    let stream = TokioIo::new(AfterAsking { stream, reader: Some(None) });
    let (mut sender, connection) = http1::Builder::new()
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .max_headers(HEADERS_MAX)
        .handshake(stream)
        .await
        .map_err(says)?;
    let exchange = async { read(sender.send_request(request).await.map_err(says)?).await };
    // The connection is driven beside the exchange. It may end first, with the answer still to be read.
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    let ended = tokio::select! {
        biased;
        answer = &mut exchange => return answer,
        ended = &mut connection => ended,
    };
    match ended {
        Ok(()) => exchange.await,
        // An answer that has arrived counts, however the connection ended then.
        Err(error) => {
            let mut context = Context::from_waker(Waker::noop());
            match exchange.as_mut().poll(&mut context) {
                Poll::Ready(Ok(answer)) => Ok(answer),
                Poll::Ready(Err(_)) | Poll::Pending => Err(says(error)),
            }
        }
    }
}

/// A stream from which nothing is read until something was written: a server may answer before it is asked, and hyper
/// takes that for an error.
struct AfterAsking<S> {
    stream: S,
    /// Until something was written: who waits to read, if anybody does.
    reader: Option<Option<Waker>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for AfterAsking<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(reader) = &mut self.reader {
            *reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, room)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AfterAsking<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready()
            && let Some(Some(reader)) = self.reader.take()
        {
            reader.wake();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
