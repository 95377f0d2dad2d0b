//! Requests that need more than a look: hyper reads them, and writes what we say ourselves. Answers of an upstream are
//! taken out of its hands with their connection.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::{Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::Outgoing;
use super::ends::{End, Ends};
use super::head_timer::HeadTimer;
use crate::clock;
use crate::protocol::connection;
use crate::protocol::request::Request;
use crate::server::Current;
use crate::server::answering::{Answering, answered, for_hyper};
use crate::server::drain::Drain;
use crate::server::latest::Latest;
use crate::server::listener::MAX_HEAD;
use crate::server::seats::Seated;
use crate::server::sniff::Sniffed;
use crate::upstream::{self, Payload};

/// Serves requests until the connection ends, or is taken over by an answer.
pub async fn requests<T>(
    io: Sniffed<T>,
    timer: HeadTimer,
    peer: SocketAddr,
    seat: &Seated,
    current: &Current,
    drain: watch::Receiver<Drain>,
) -> hyper::Result<Option<Outgoing<T>>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let head_timeout = current.now().bounds.head_timeout;
    let desk = Arc::new(Desk::default());
    let (mut ends, taken) = (Ends::new(seat, drain.clone()), desk.clone());
    let service = service_fn(move |request: http::Request<Incoming>| {
        let is_current = request.version() == Version::HTTP_11;
        let request = Box::new(Request::from(request.map(Payload::Arriving)));
        let wish = Wish::of(&request).filter(|_| is_current);
        let (server, open, draining) = (current.now(), seat.request(), drain.clone());
        let desk = taken.clone();
        // Boxed: hyper keeps the room of a request for as long as its connection lasts, which may be hours.
        Box::pin(async move {
            let mut draining = Latest::new(draining);
            let response = answered(&server, peer, request, open, &mut draining).await;
            match desk.offer(response, wish) {
                Some(response) => Ok::<_, Infallible>(for_hyper(response)),
                None => pending().await,
            }
        })
    });
    let mut builder = http1::Builder::new();
    // At most 100 headers: hyper's own default, kept because setting it costs an allocation per request.
    builder.timer(timer).header_read_timeout(head_timeout).max_buf_size(MAX_HEAD);
    let io = Watched { io, desk: desk.clone() };
    let mut served = builder.serve_connection(TokioIo::new(io), service);
    let mut is_leaving = false;
    let taken = poll_fn(|context| {
        let end = ends.poll(context);
        if end == Some(End::AtOnce) {
            return Poll::Ready(Ok(None));
        }
        let mut polled = clock::awake(|| Pin::new(&mut served).poll(context));
        // Not before hyper has seen what was put back: a request that has begun to come is answered.
        if polled.is_pending() && end.is_some() && !is_leaving {
            is_leaving = true;
            Pin::new(&mut served).graceful_shutdown();
            polled = clock::awake(|| Pin::new(&mut served).poll(context));
        }
        match polled {
            Poll::Ready(outcome) => Poll::Ready(outcome.map(|()| None)),
            Poll::Pending => desk.take().map_or(Poll::Pending, |taken| Poll::Ready(Ok(Some(taken)))),
        }
    });
    let Some(Taken { response, closes }) = taken.await? else { return Ok(None) };
    let parts = served.into_parts();
    let mut io = parts.io.into_inner().io;
    io.put_back(&parts.read_buf);
    Ok(Some(Outgoing::new(io, response, closes, &current.now().clock)))
}

/// What a request says of how its answer may leave.
struct Wish {
    /// Nothing else is to follow on its connection.
    closes: bool,
}

impl Wish {
    /// None where an answer must be left to hyper, since that may still have something to write or to read for this
    /// request.
    fn of(request: &Request<Payload>) -> Option<Self> {
        let is_done = upstream::is_read_whole(&request.method, &request.body);
        let may = is_done && !request.fields.has("expect");
        may.then(|| Wish { closes: connection::lists(&request.fields, b"close") })
    }
}

/// An answer that is to be taken over.
struct Taken {
    response: Response<Answering>,
    closes: bool,
}

/// Where a request leaves its answer for the connection to take.
#[derive(Default)]
struct Desk {
    taken: Mutex<Option<Taken>>,
    /// The client has not taken all that hyper wrote.
    is_blocked: AtomicBool,
}

impl Desk {
    /// Takes an upstream's answer: by then the request's body has been taken from the connection. Gives back what is for
    /// hyper.
    fn offer(&self, response: Response<Answering>, wish: Option<Wish>) -> Option<Response<Answering>> {
        let Some(wish) = wish.filter(|_| response.body().is_of_an_upstream() && !self.is_blocked()) else {
            return Some(response);
        };
        *self.lock() = Some(Taken { response, closes: wish.closes });
        None
    }

    fn take(&self) -> Option<Taken> {
        self.lock().take()
    }

    fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
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
