//! HTTP/1.1 connections: hyper reads the requests and writes the answers, but for event streams. These are taken out of
//! its hands with their connection, and hyper begins anew behind them.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use http::header::EXPECT;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::timeout;

use super::Current;
use super::answering::{Answering, answered};
use super::drain::Drain;
use super::head_timer::HeadTimer;
use super::listener::{MAX_HEAD, PARTING};
use super::relay::{self, Relay};
use super::seats::Seated;
use super::sniff::Sniffed;
use crate::clock;
use crate::protocol::connection;
use crate::upstream;

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error("a stream did not come to its end: {0}")]
    Stream(#[from] relay::Broken<upstream::Broken>),
}

/// Serves a connection until its end.
#[expect(clippy::manual_async_fn, reason = "which has room for each argument twice")]
pub fn serve<T>(
    mut io: Sniffed<T>,
    peer: SocketAddr,
    seat: &Seated,
    current: &Current,
    drain: &watch::Receiver<Drain>,
) -> impl Future<Output = Result<(), Ended>> + Send
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    async move {
        loop {
            // Boxed: a stream should not hold the room of hyper's connection, nor that one the stream's.
            let requests = Box::pin(requests(io, peer, seat, current, drain.clone()));
            let Some(mut stream) = requests.await? else { return Ok(()) };
            tokio::select! {
                streamed = poll_fn(|context| clock::awake(|| stream.relay.poll(context))) => streamed?,
                () = seat.told_to_leave() => return Ok(()),
            }
            let closes = stream.closes;
            io = stream.into_connection();
            if closes {
                // Says that this was all; over or not, the connection ends.
                let _ = Box::pin(timeout(PARTING, io.shutdown())).await;
                return Ok(());
            }
        }
    }
}

/// A stream on a connection that was taken out of hyper.
struct Streaming<T> {
    relay: Box<Relay<Sniffed<T>, Answering>>,
    closes: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Streaming<T> {
    fn new(io: Sniffed<T>, stream: Stream, current: &Current) -> Self {
        let (parts, body) = stream.response.into_parts();
        let date = current.now().clock.now().to_http_date();
        let head = relay::head(parts.status, &parts.headers, &date, stream.closes);
        Streaming { relay: Box::new(Relay::new(io, head, body)), closes: stream.closes }
    }

    /// At its end: the connection, with what was said on it meanwhile.
    fn into_connection(self) -> Sniffed<T> {
        let (mut io, ahead) = self.relay.into_connection();
        io.put_back(&ahead);
        io
    }
}

/// Serves requests until the connection ends, or is taken over by a stream.
async fn requests<T>(
    io: Sniffed<T>,
    peer: SocketAddr,
    seat: &Seated,
    current: &Current,
    mut drain: watch::Receiver<Drain>,
) -> hyper::Result<Option<Streaming<T>>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let head_timeout = current.now().bounds.head_timeout;
    let desk = Arc::new(Desk::default());
    let (draining, ending, taken) = (drain.clone(), drain.clone(), desk.clone());
    let service = service_fn(move |request| {
        let (wish, request) = (Wish::of(&request), Box::new(request));
        let (server, open, draining) = (current.now(), seat.request(), draining.clone());
        let desk = taken.clone();
        // Boxed: hyper keeps the room of a request for as long as its connection lasts, which may be hours.
        Box::pin(async move {
            let response = answered(server, peer, request, open, draining).await;
            match desk.offer(response, wish) {
                Some(response) => Ok::<_, Infallible>(response),
                None => pending().await,
            }
        })
    });
    let mut builder = http1::Builder::new();
    // At most 100 headers: hyper's own default, kept because setting it costs an allocation per request.
    builder.timer(HeadTimer::default()).header_read_timeout(head_timeout).max_buf_size(MAX_HEAD);
    let io = Watched { io, desk: desk.clone() };
    let mut served = builder.serve_connection(TokioIo::new(io), service);
    // Unconstrained: it is not polled again until there is reason, so it must not be put off.
    let mut leave = pin!(unconstrained(async {
        tokio::select! {
            () = seat.told_to_leave() => true,
            _ = drain.wait_for(|drain| *drain >= Drain::Begun) => false,
        }
    }));
    let (mut is_leaving, mut known): (bool, Option<Waker>) = (false, None);
    let stream = poll_fn(|context| {
        // Waiting for what ends a connection costs as much as reading a request: done once, and when there is reason.
        let is_known = known.as_ref().is_some_and(|known| known.will_wake(context.waker()));
        let has_reason = !is_known || seat.is_told() || ending.has_changed().unwrap_or(true);
        known = Some(known.take().filter(|_| is_known).unwrap_or_else(|| context.waker().clone()));
        if has_reason
            && !is_leaving
            && let Poll::Ready(at_once) = leave.as_mut().poll(context)
        {
            if at_once {
                return Poll::Ready(Ok(None));
            }
            is_leaving = true;
            Pin::new(&mut served).graceful_shutdown();
        }
        match clock::awake(|| Pin::new(&mut served).poll(context)) {
            Poll::Ready(outcome) => Poll::Ready(outcome.map(|()| None)),
            Poll::Pending => desk.take().map_or(Poll::Pending, |stream| Poll::Ready(Ok(Some(stream)))),
        }
    });
    let Some(stream) = stream.await? else { return Ok(None) };
    let parts = served.into_parts();
    let mut io = parts.io.into_inner().io;
    io.put_back(&parts.read_buf);
    Ok(Some(Streaming::new(io, stream, current)))
}

/// What a request says of how its answer may leave.
struct Wish {
    /// Nothing else is to follow on its connection.
    closes: bool,
}

impl Wish {
    /// None where an answer must be left to hyper: to clients that know no chunks, and while hyper may still have
    /// something to write or to read for this request.
    fn of(request: &Request<Incoming>) -> Option<Self> {
        let is_done = upstream::is_read_whole(request.method(), request.body());
        let may = request.version() == Version::HTTP_11 && is_done && !request.headers().contains_key(EXPECT);
        may.then(|| Wish { closes: connection::lists(request.headers(), "close") })
    }
}

/// A stream that is to be taken over.
struct Stream {
    response: Response<Answering>,
    closes: bool,
}

/// Where a request leaves its stream for the connection to take.
#[derive(Default)]
struct Desk {
    stream: Mutex<Option<Stream>>,
    /// The client has not taken all that hyper wrote.
    is_blocked: AtomicBool,
}

impl Desk {
    /// Takes a stream; gives back what is for hyper.
    fn offer(&self, response: Response<Answering>, wish: Option<Wish>) -> Option<Response<Answering>> {
        let Some(wish) = wish.filter(|_| response.body().is_events() && !self.is_blocked()) else {
            return Some(response);
        };
        let closes = wish.closes || connection::lists(response.headers(), "close");
        *self.lock() = Some(Stream { response, closes });
        None
    }

    fn take(&self) -> Option<Stream> {
        self.lock().take()
    }

    fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that notes whether hyper could write all it had: what lies in its buffer is lost when the connection is
/// taken out of its hands. Mostly hyper begins with a request once everything before it was written; not so when an
/// answer had overtaken the body of its request.
struct Watched<T> {
    io: Sniffed<T>,
    desk: Arc<Desk>,
}

impl<T> Watched<T> {
    fn note<R>(&self, written: Poll<R>) -> Poll<R> {
        self.desk.is_blocked.store(written.is_pending(), Ordering::Relaxed);
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_a_client_does_not_take_is_noted() {
        let ((mut client, server), desk) = (duplex(4), Arc::new(Desk::default()));
        let mut io = Watched { io: Sniffed::unread(server), desk: desk.clone() };
        io.write_all(b"1234").await.expect("writes");
        assert!(!desk.is_blocked());
        let writing = tokio::spawn(async move { io.write_all(b"5678").await.map(|()| io) });
        tokio::task::yield_now().await;
        assert!(desk.is_blocked());
        client.read_exact(&mut [0; 8]).await.expect("reads");
        let _io = writing.await.expect("runs").expect("writes");
        assert!(!desk.is_blocked());
    }
}
