//! Bodies in both directions. Frames are passed on as they come; nothing is kept between two polls.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tracing::{info, warn};

use super::http1::{Arrival, Cut};
use super::pool::Home;
use super::sse;
use crate::gate::PermitWatch;

/// The body of a client's request.
pub enum Payload {
    /// All there: it was read together with its head.
    Whole(Bytes),
    /// As hyper passes it on.
    Arriving(Incoming),
}

/// The body of a request to the upstream.
pub enum RequestBody {
    /// Small, and all there; empty once it stands in the message.
    Whole(Bytes),
    /// Passed on while it arrives. Boxed, as everything that is rare.
    Streaming(Box<Streaming>),
}

/// A body that is passed on while it arrives.
pub struct Streaming {
    body: Inbound<Payload>,
    /// How many pieces have passed.
    progress: Arc<AtomicU64>,
}

/// A client's body, held to what is allowed.
pub struct Inbound<B> {
    body: B,
    knows_its_end: bool,
    /// How many bytes may still come.
    left: u64,
    patience: Patience,
}

impl Body for Payload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Payload::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Payload::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Payload::Arriving(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Payload::Whole(bytes) => bytes.is_empty(),
            Payload::Arriving(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Payload::Arriving(body) => body.size_hint(),
        }
    }
}

impl Default for RequestBody {
    /// None, or one that stands in its message.
    fn default() -> Self {
        RequestBody::Whole(Bytes::new())
    }
}

impl RequestBody {
    pub fn streaming(body: Inbound<Payload>) -> Self {
        RequestBody::Streaming(Box::new(Streaming { body, progress: Arc::default() }))
    }

    /// Tells how many pieces have passed, of a body that takes its time.
    pub fn progress(&self) -> Option<Arc<AtomicU64>> {
        match self {
            RequestBody::Whole(_) => None,
            RequestBody::Streaming(streaming) => Some(streaming.progress.clone()),
        }
    }

    /// Whether it is all there.
    pub fn is_whole(&self) -> bool {
        matches!(self, RequestBody::Whole(_))
    }
}

impl Streaming {
    /// The next piece; `None` at its end.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyTrouble>>> {
        let polled = self.body.poll_data(context);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    /// How long it is, if that was said.
    pub fn length(&self) -> Option<u64> {
        self.body.body.size_hint().exact()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Inbound<B> {
    /// `knows_its_end`: whether the body can tell its end from an early one: by its length, or in HTTP/2.
    pub fn new(body: B, knows_its_end: bool, max: u64, patience: Duration) -> Self {
        Inbound { body, knows_its_end, left: max, patience: Patience::new(patience) }
    }

    /// All of it: one piece, nearly always, which is taken as it is.
    pub async fn whole(mut self) -> Result<Bytes, BodyTrouble> {
        let Some(first) = poll_fn(|context| self.poll_data(context)).await.transpose()? else {
            return Ok(Bytes::new());
        };
        if self.body.is_end_stream() {
            return Ok(first);
        }
        let mut all = BytesMut::from(first);
        while let Some(next) = poll_fn(|context| self.poll_data(context)).await.transpose()? {
            all.extend_from_slice(&next);
        }
        Ok(all.freeze())
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyTrouble>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return self.patience.poll_end(context).map(|()| Some(Err(BodyTrouble::TooSlow)));
        };
        match frame.transpose().map_err(|_| BodyTrouble::Cut)?.map(Frame::into_data) {
            Some(Ok(data)) => {
                self.patience.earn(data.len());
                self.left = self.left.checked_sub(data.len() as u64).ok_or(BodyTrouble::TooLarge)?;
                Poll::Ready(Some(Ok(data)))
            }
            // A client may reset its stream without giving an error as the reason (RFC 9113 §8.1), and hyper ends the body.
            None if self.knows_its_end && !self.body.is_end_stream() => {
                Poll::Ready(Some(Err(BodyTrouble::Cut)))
            }
            // Trailers never become headers, so they go nowhere.
            Some(Err(_)) | None => Poll::Ready(None),
        }
    }
}

/// How long a client may still keep us waiting for its body. Waiting uses it up, bytes earn it back: a client
/// that trickles is cut, one that is slow is not, and neither is one that waits for the upstream.
pub struct Patience {
    most: Duration,
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Patience {
    fn new(most: Duration) -> Self {
        Patience { most, left: most, waiting: None }
    }

    /// Ready when it has come to its end.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let begin = || (Instant::now(), Box::pin(sleep(left)));
        self.waiting.get_or_insert_with(begin).1.as_mut().poll(context)
    }

    fn earn(&mut self, bytes: usize) {
        let Some((since, _)) = self.waiting.take() else { return };
        let earned =
            self.most.min(EARNED_PER_KIB.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX)) / 1024);
        self.left = (self.left.saturating_sub(since.elapsed()) + earned).min(self.most);
    }
}

/// Why a request's body is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyTrouble {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("the body broke off, or is none")]
    Cut,
}

/// The body of an answer to a client. Ends cleanly only when the upstream's did.
pub struct Answer {
    arrival: Arrival,
    home: Home,
    watch: Watch,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Streaming,
    /// It goes no further. What was passed on before leaves first: whoever drives the connection drops that when it
    /// meets an error.
    Failing,
    Ended,
}

/// Who looks at the permit while an answer streams.
enum Watch {
    /// Nobody yet: most answers are through before anybody could.
    Asleep(PermitWatch, Duration),
    /// An answer that takes its time.
    Bytes(Box<sse::Stream>),
    /// An event stream that we can read.
    Events(Box<sse::Stream>),
}

/// An answer that was cut: the client's connection is aborted, so that it never looks complete.
#[derive(Debug, thiserror::Error)]
#[error("the stream was cut")]
pub struct Broken;

impl Answer {
    pub(super) fn plain(arrival: Arrival, home: Home, watch: PermitWatch, recheck: Duration) -> Self {
        Answer::new(arrival, home, Watch::Asleep(watch, recheck))
    }

    pub(super) fn events(arrival: Arrival, home: Home, events: sse::Stream) -> Self {
        Answer::new(arrival, home, Watch::Events(Box::new(events)))
    }

    fn new(arrival: Arrival, home: Home, watch: Watch) -> Self {
        let mut answer = Answer { arrival, home, watch, state: State::Streaming };
        answer.free();
        answer
    }

    /// Others may have the connection as soon as nothing more comes by it.
    fn free(&mut self) {
        if let Some(io) = self.arrival.free() {
            self.home.take_back(io);
        }
    }

    /// Whether it is an event stream that we can read.
    pub fn is_events(&self) -> bool {
        matches!(self.watch, Watch::Events(_))
    }

    /// Whether it is one, and what has been passed on so far ends with a whole event.
    pub fn is_between_events(&self) -> bool {
        matches!(&self.watch, Watch::Events(stream) if stream.is_between_events())
    }

    /// An answer that takes its time is watched.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, sse::Cut>> {
        if let Watch::Asleep(watch, recheck) = &self.watch {
            self.watch = Watch::Bytes(Box::new(sse::Stream::silent(watch.clone(), *recheck)));
        }
        match &mut self.watch {
            Watch::Bytes(stream) | Watch::Events(stream) => stream.poll_idle(context),
            Watch::Asleep(..) => Poll::Pending,
        }
    }

    fn fail<T>(&mut self, context: &mut Context<'_>) -> Poll<T> {
        self.state = State::Failing;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_upstream(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let polled = self.arrival.poll(context);
        self.free();
        polled
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        match this.state {
            State::Streaming => {}
            State::Failing => return Poll::Ready(Some(Err(Broken))),
            State::Ended => return Poll::Ready(None),
        }
        loop {
            let data = match (this.poll_upstream(context), &mut this.watch) {
                (Poll::Ready(Some(Err(error))), _) => {
                    warn!(%error, "the upstream broke off an answer");
                    return this.fail(context);
                }
                (Poll::Ready(None), watch) => {
                    let rest = if let Watch::Events(events) = watch { events.rest() } else { None };
                    this.state = State::Ended;
                    return Poll::Ready(rest.map(|rest| Ok(Frame::data(rest))));
                }
                (Poll::Ready(Some(Ok(data))), Watch::Asleep(..)) => data,
                (Poll::Ready(Some(Ok(data))), Watch::Bytes(stream) | Watch::Events(stream)) => {
                    match stream.arrived(data) {
                        Ok(data) if data.is_empty() => continue,
                        Ok(data) => data,
                        Err(cut) => {
                            tell(&cut);
                            return this.fail(context);
                        }
                    }
                }
                (Poll::Pending, _) => match ready!(this.poll_idle(context)) {
                    Ok(comment) => comment,
                    Err(cut) => {
                        tell(&cut);
                        return this.fail(context);
                    }
                },
            };
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.state {
            State::Streaming => !matches!(self.watch, Watch::Events(_)) && self.arrival.is_ended(),
            // Whoever is told by this that it is over would not ask for the error.
            State::Failing => false,
            State::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.arrival.left().filter(|_| !matches!(self.watch, Watch::Events(_)));
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn tell(cut: &sse::Cut) {
    match cut {
        sse::Cut::Revoked => info!("a stream ended because its grant was revoked"),
        sse::Cut::ForeignEndpoint => {
            warn!("the upstream named an endpoint at another origin; the stream was cut")
        }
    }
}

/// Half a KiB per second, over the whole of a body, is slow but honest.
const EARNED_PER_KIB: Duration = Duration::from_secs(2);
