//! Accepting and draining. One runtime per core, each with its own listener, so that nothing on the path of a
//! request crosses a thread.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::error::Elapsed;
use tokio::time::{interval, sleep, timeout};
use tracing::{debug, warn};

use super::Current;
use super::answering::{answered, for_hyper};
use super::drain::Drain;
use super::http1::{self, Ended};
use super::latest::Latest;
use super::seats::{Seated, Seats, TICK};
use super::secure::{self, Secure};
use super::sniff::{Opened, Sniffed, sniff};
use crate::protocol::request::Request;
use crate::tcp::Tcp;
use crate::telemetry;
use crate::upstream::{self, Payload};

/// Binds one listener per worker to the same address. With more than one they share the port, which would
/// let a second process share it too: so it is first bound alone.
pub fn bind(
    address: SocketAddr,
    workers: usize,
    write_timeout: Duration,
) -> io::Result<Vec<std::net::TcpListener>> {
    let first = listener(address, false, write_timeout)?;
    if workers == 1 {
        return Ok(vec![first]);
    }
    let bound = first.local_addr()?;
    drop(first);
    (0..workers).map(|_| listener(bound, true, write_timeout)).collect()
}

fn listener(address: SocketAddr, shared: bool, write_timeout: Duration) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    bound_what_waits(&socket, write_timeout)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections inherit it all. The kernel gives up on a client that has taken nothing for this long (an idle
/// stream has nothing to take; a slow reader takes a little), asks one that is silent now and then whether it is
/// still there, and holds little more than is on its way.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bound_what_waits(socket: &Socket, write_timeout: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(write_timeout))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE))?;
    socket.set_tcp_notsent_lowat(MAX_UNSENT)
}

/// Other systems are for development.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bound_what_waits(_: &Socket, _: Duration) -> io::Result<()> {
    Ok(())
}

/// Serves on one listener until drained; runs on a current-thread runtime of its own.
pub async fn work(
    listener: std::net::TcpListener,
    current: Current,
    mut drain: watch::Receiver<Drain>,
) -> io::Result<()> {
    telemetry::collect_on_this_thread();
    let listener = TcpListener::from_std(listener)?;
    let mut ticks = interval(TICK);
    let seats = Seats::new(current.now().bounds.connections);
    let mut newcomer = None;
    // Every connection holds the sender; when the last is gone the receiver ends.
    let (open, mut closed) = mpsc::channel::<()>(1);
    while *drain.borrow() < Drain::Begun {
        tokio::select! {
            accepted = listener.accept(), if newcomer.is_none() => match accepted {
                Ok((stream, peer)) => match current.now().admit(peer) {
                    Some(held) => newcomer = Some((stream, peer, held)),
                    None => seats.turn_away(),
                },
                Err(error) => refused(&error, &seats).await,
            },
            seat = seats.take(), if newcomer.is_some() => if let Some((stream, peer, held)) = newcomer.take() {
                let held = (held, open.clone());
                tokio::spawn(serve(stream, peer, seat, current.clone(), drain.clone(), held));
            },
            _ = ticks.tick() => pass_time(&current, &seats),
            _ = drain.changed() => {}
        }
    }
    drop((listener, newcomer, open));
    loop {
        tokio::select! {
            _ = closed.recv() => break,
            _ = ticks.tick() => pass_time(&current, &seats),
            ended = drain.wait_for(|drain| *drain == Drain::Now) => {
                drop(ended);
                break;
            }
        }
    }
    telemetry::flush();
    Ok(())
}

/// What a core does now and then.
fn pass_time(current: &Current, seats: &Seats) {
    let server = current.now();
    telemetry::flush();
    seats.tick(server.bounds.patience());
    upstream::tidy(server.clock.now());
}

/// Out of descriptors, most likely: waiting lets some come back, spinning would not.
async fn refused(error: &io::Error, seats: &Seats) {
    warn!(%error, "cannot accept a connection");
    seats.make_room();
    sleep(Duration::from_millis(50)).await;
}

/// From the first byte to the last; what is `held` is let go after it. Each phase is boxed: a connection lasts for hours,
/// and should not hold the room of what it was before, or could have been.
#[expect(clippy::manual_async_fn, reason = "which has room for each argument twice")]
fn serve<H: Send + 'static>(
    stream: TcpStream,
    peer: SocketAddr,
    seat: Seated,
    current: Current,
    drain: watch::Receiver<Drain>,
    held: H,
) -> impl Future<Output = ()> + Send {
    async move {
        // Fails only when the peer is gone already, which shows at the next read.
        let _ = stream.set_nodelay(true);
        if current.now().tls.is_some() {
            let opened = Box::pin(open_secure(stream, peer, &seat, &current, drain.clone())).await;
            if let Some(opened) = opened {
                Box::pin(serve_opened(opened, peer, &seat, &current, &drain)).await;
            }
        } else {
            let head_timeout = current.now().bounds.head_timeout;
            let sniffed = timeout(head_timeout, sniff(Tcp::from(stream)));
            let opened = Box::pin(opened(sniffed, peer, &seat, drain.clone())).await;
            if let Some(opened) = opened {
                serve_opened(opened, peer, &seat, &current, &drain).await;
            }
        }
        drop(held);
    }
}

async fn open_secure(
    stream: TcpStream,
    peer: SocketAddr,
    seat: &Seated,
    current: &Current,
    drain: watch::Receiver<Drain>,
) -> Option<(Sniffed<Secure>, bool)> {
    let server = current.now();
    let tls = server.tls.as_ref()?;
    let shaken = timeout(server.bounds.head_timeout, secure::open(stream, tls, &server.issuer));
    opened(shaken, peer, seat, drain).await
}

/// What a connection opens with, unless it ends before that.
async fn opened<T>(
    opening: impl Future<Output = Result<Opened<T>, Elapsed>>,
    peer: SocketAddr,
    seat: &Seated,
    drain: watch::Receiver<Drain>,
) -> Option<(Sniffed<T>, bool)> {
    let opened = tokio::select! {
        opened = opening => opened,
        () = seat.told_to_leave() => return None,
        () = begun(drain) => return None,
    };
    match opened {
        Ok(Ok(opened)) => opened,
        Err(_) => None,
        Ok(Err(error)) => {
            debug!(%error, %peer, "a connection ended before its first request");
            None
        }
    }
}

/// Once the end has begun, and what was on its way has had the time to arrive: whoever says nothing holds up nobody.
async fn begun(mut drain: watch::Receiver<Drain>) {
    let _ = drain.wait_for(|drain| *drain >= Drain::Begun).await;
    sleep(PARTING).await;
}

/// Serves a connection whose protocol is known by now.
#[expect(clippy::manual_async_fn, reason = "which has room for each argument twice")]
fn serve_opened<T>(
    (io, is_http2): (Sniffed<T>, bool),
    peer: SocketAddr,
    seat: &Seated,
    current: &Current,
    drain: &watch::Receiver<Drain>,
) -> impl Future<Output = ()> + Send
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    async move {
        let outcome = match is_http2 {
            true => Box::pin(serve_http2(io, peer, seat, current, drain.clone())).await.map_err(Ended::from),
            false => http1::serve(io, peer, seat, current, drain).await,
        };
        if let Err(error) = outcome {
            debug!(%error, %peer, "a connection ended early");
        }
    }
}

async fn serve_http2<T>(
    io: Sniffed<T>,
    peer: SocketAddr,
    seat: &Seated,
    current: &Current,
    mut drain: watch::Receiver<Drain>,
) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let head_timeout = current.now().bounds.head_timeout;
    let (draining, asked) = (drain.clone(), &Notify::new());
    let service = service_fn(move |request: http::Request<Incoming>| {
        let request = Box::new(Request::from(request.map(Payload::Arriving)));
        let (server, open, draining) = (current.now(), seat.watched_request(), draining.clone());
        asked.notify_one();
        // Boxed here too: a stream whose answer is on its way, or waits for its client, is no larger than that.
        Box::pin(async move {
            let mut draining = Latest::new(draining);
            Ok::<_, Infallible>(for_hyper(answered(&server, peer, request, open, &mut draining).await))
        })
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .max_send_buf_size(MAX_UNSENT as usize)
        .keep_alive_interval(Some(head_timeout))
        .keep_alive_timeout(head_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    // GOAWAY loses no request, so the end need not have begun. But hyper drops a connection that is only being opened:
    // the first request is waited for, as long as others may keep us waiting for their first words.
    let let_go = async move {
        let _ = drain.wait_for(|drain| *drain >= Drain::Leaving).await;
        tokio::select! {
            () = asked.notified() => {}
            () = begun(drain) => {}
        }
    };
    let told = tokio::select! {
        outcome = connection.as_mut() => return outcome,
        () = seat.told_to_leave() => true,
        () = let_go => false,
    };
    connection.as_mut().graceful_shutdown();
    match told {
        true => timeout(PARTING, connection).await.unwrap_or(Ok(())),
        false => connection.await,
    }
}

const BACKLOG: i32 = 1024;
/// Largest head, and read buffer of a connection.
pub const MAX_HEAD: usize = 64 << 10;
/// Open requests of one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// Streams that may be reset, by a client before we got to them or by us for its mistakes, before the connection
/// is ended (rapid reset, MadeYouReset).
const MAX_RESETS: usize = 32;
/// Bytes of an answer that wait for a slow client: per connection in the kernel, per HTTP/2 stream in memory.
const MAX_UNSENT: u32 = 64 << 10;
/// After this long without a word a client is asked whether it is still there.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SILENCE: Duration = Duration::from_secs(60);
/// For the farewell of an HTTP/2 connection, and for the first words on one that is younger than the end.
pub const PARTING: Duration = Duration::from_secs(1);

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use socket2::SockRef;

    use super::*;

    // What a client that vanished without a word leaves behind must end, also where we have nothing to send it.
    #[tokio::test]
    async fn connections_inherit_what_ends_those_of_clients_that_vanish() {
        let mut listeners = bind("127.0.0.1:0".parse().expect("an address"), 1, PARTING).expect("binds");
        let listener = TcpListener::from_std(listeners.remove(0)).expect("a listener");
        let address = listener.local_addr().expect("bound");
        let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_connected, (accepted, _)) = (connected.expect("connects"), accepted.expect("accepts"));
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.tcp_user_timeout().expect("asked"), Some(PARTING));
        assert!(accepted.keepalive().expect("asked"));
        assert_eq!(accepted.tcp_keepalive_time().expect("asked"), SILENCE);
    }
}
