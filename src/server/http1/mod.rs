//! HTTP/1.1 connections. Messages that are there as a whole and leave nothing to be decided are read by our own hand,
//! which costs less than half of what a general server does ([`plain`]); everything else is hyper's ([`general`]). Upstreams'
//! answers leave by our own hand either way ([`relay`]): a stream lasts for hours, and hyper would keep its buffers.

mod ahead;
mod ends;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod general;
mod head;
mod head_timer;
mod plain;
mod relay;
mod spare;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;

use http::Response;
use http::header::CONNECTION;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Current;
use super::answering::Answering;
use super::drain::Drain;
use super::listener::PARTING;
use super::seats::Seated;
use super::sniff::Sniffed;
use crate::clock::{self, Clock};
use crate::upstream;
use head::Framing;
use plain::Left;
use relay::Relay;

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    #[error("an answer did not come to its end: {0}")]
    Answer(#[from] relay::Broken<upstream::Broken>),
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
            // Boxed: a stream should not hold the room of what reads requests, nor that one the stream's.
            let answer = Box::pin(lasting_answer(io, peer, seat, current, drain));
            let Some(mut outgoing) = answer.await? else { return Ok(()) };
            tokio::select! {
                passed = poll_fn(|context| clock::awake(|| outgoing.relay.poll(context))) => passed?,
                () = seat.told_to_leave() => return Ok(()),
            }
            if outgoing.closes {
                return Box::pin(part(outgoing.into_connection())).await;
            }
            io = outgoing.into_connection();
        }
    }
}

/// Serves requests until the connection ends, or one has an answer that takes its time.
async fn lasting_answer<T>(
    io: Sniffed<T>,
    peer: SocketAddr,
    seat: &Seated,
    current: &Current,
    drain: &watch::Receiver<Drain>,
) -> Result<Option<Box<Outgoing<T>>>, Ended>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let left = {
        let mut plain = pin!(plain::requests(io, peer, seat, current, drain.clone()));
        poll_fn(|context| clock::awake(|| plain.as_mut().poll(context))).await?
    };
    match left {
        Left::Nobody => Ok(None),
        Left::Over(io) => part(io).await.map(|()| None),
        Left::Answer(outgoing) => Ok(Some(outgoing)),
        Left::Other(io, timer) => {
            let requests = general::requests(io, timer, peer, seat, current, drain.clone());
            Ok(Box::pin(requests).await?.map(Box::new))
        }
    }
}

/// Says that this was all; over or not, the connection ends.
async fn part<T: AsyncWrite + Unpin>(mut io: Sniffed<T>) -> Result<(), Ended> {
    let _ = timeout(PARTING, io.shutdown()).await;
    Ok(())
}

/// An answer on its way out, with its connection.
pub struct Outgoing<T> {
    relay: Relay<Sniffed<T>, Answering>,
    closes: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Outgoing<T> {
    /// `closes`: whether the client wishes that nothing follows.
    fn new(io: Sniffed<T>, response: Response<Answering>, closes: bool, clock: &Clock) -> Self {
        let (parts, mut body) = response.into_parts();
        let closes = closes || parts.headers.contains_key(CONNECTION);
        let framing = Framing::of(parts.status, &body);
        let lines = body.take_lines();
        let head = head::write(parts.status, &lines, &parts.headers, framing, closes, clock.now());
        Outgoing { relay: Relay::new(io, head, body, framing), closes }
    }

    /// At its end: the connection, with what was said on it meanwhile.
    fn into_connection(self) -> Sniffed<T> {
        let (mut io, ahead) = self.relay.into_connection();
        io.put_back(&ahead);
        io
    }
}
