//! Accepting and draining. One runtime per core, each with its own listener, so that nothing on the path of a
//! request crosses a thread.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::error::Elapsed;
use tokio::time::{interval, sleep, timeout};
use tracing::{debug, warn};

use super::Server;
use super::secure;
use super::sniff::{Opened, Sniffed, sniff};
use crate::telemetry;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// Serving.
    No,
    /// No new connections; open requests are finished.
    Begun,
    /// Everything is cut.
    Now,
}

/// Binds one listener per worker to the same address. With more than one they share the port, which would
/// let a second process share it too: so it is first bound alone.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let first = listener(address, false)?;
    if workers == 1 {
        return Ok(vec![first]);
    }
    let bound = first.local_addr()?;
    drop(first);
    (0..workers).map(|_| listener(bound, true)).collect()
}

fn listener(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves on one listener until drained; runs on a current-thread runtime of its own.
pub async fn work(
    listener: std::net::TcpListener,
    server: Arc<Server>,
    mut drain: watch::Receiver<Drain>,
) -> io::Result<()> {
    telemetry::collect_on_this_thread();
    let listener = TcpListener::from_std(listener)?;
    let mut flush = interval(FLUSH_EVERY);
    // Every connection holds the sender; when the last is gone the receiver ends.
    let (open, mut closed) = mpsc::channel::<()>(1);
    while *drain.borrow() == Drain::No {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let connection = serve(stream, peer, server.clone(), drain.clone());
                    let open = open.clone();
                    tokio::spawn(async move {
                        connection.await;
                        drop(open);
                    });
                }
                Err(error) => refused(&error).await,
            },
            _ = flush.tick() => telemetry::flush(),
            _ = drain.changed() => {}
        }
    }
    drop((listener, open));
    loop {
        tokio::select! {
            _ = closed.recv() => break,
            _ = flush.tick() => telemetry::flush(),
            ended = drain.wait_for(|drain| *drain == Drain::Now) => {
                drop(ended);
                break;
            }
        }
    }
    telemetry::flush();
    Ok(())
}

/// Out of descriptors, most likely: waiting lets some come back, spinning would not.
async fn refused(error: &io::Error) {
    warn!(%error, "cannot accept a connection");
    sleep(Duration::from_millis(50)).await;
}

async fn serve(stream: TcpStream, peer: SocketAddr, server: Arc<Server>, drain: watch::Receiver<Drain>) {
    // Fails only when the peer is gone already, which shows at the next read.
    let _ = stream.set_nodelay(true);
    match &server.tls {
        Some(tls) => {
            let opened = timeout(HEAD_TIMEOUT, secure::open(stream, tls, &server.issuer)).await;
            serve_opened(opened, peer, server.clone(), drain).await;
        }
        None => serve_opened(timeout(HEAD_TIMEOUT, sniff(stream)).await, peer, server, drain).await,
    }
}

/// Serves a connection whose protocol is known by now, unless it ended before that.
async fn serve_opened<T>(
    opened: Result<Opened<T>, Elapsed>,
    peer: SocketAddr,
    server: Arc<Server>,
    drain: watch::Receiver<Drain>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, is_http2) = match opened {
        Ok(Ok(Some(opened))) => opened,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => {
            debug!(%error, %peer, "a connection ended before its first request");
            return;
        }
    };
    let outcome = if is_http2 {
        serve_http2(io, peer, server, drain).await
    } else {
        serve_http1(io, peer, server, drain).await
    };
    if let Err(error) = outcome {
        debug!(%error, %peer, "a connection ended early");
    }
}

async fn serve_http1<T>(
    io: Sniffed<T>,
    peer: SocketAddr,
    server: Arc<Server>,
    mut drain: watch::Receiver<Drain>,
) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| server.clone().answer(peer, request));
    let mut builder = http1::Builder::new();
    // At most 100 headers: hyper's own default, kept because setting it costs an allocation per request.
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        outcome = connection.as_mut() => return outcome,
        _ = drain.wait_for(|drain| *drain != Drain::No) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn serve_http2<T>(
    io: Sniffed<T>,
    peer: SocketAddr,
    server: Arc<Server>,
    mut drain: watch::Receiver<Drain>,
) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| server.clone().answer(peer, request));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(Some(HEAD_TIMEOUT))
        .keep_alive_timeout(HEAD_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        outcome = connection.as_mut() => return outcome,
        _ = drain.wait_for(|drain| *drain != Drain::No) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

const BACKLOG: i32 = 1024;
/// For a whole head, and for the next one on a connection that is kept alive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head, and read buffer of a connection.
const MAX_HEAD: usize = 64 << 10;
/// Open requests of one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// How long a log line may wait.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
