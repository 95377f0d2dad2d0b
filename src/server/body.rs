//! The body of a response: all there, or streamed from an upstream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::bounds::Held;
use crate::protocol::fields::Lines;
use crate::upstream::{self, Passing};

/// The body of a response.
pub enum Body {
    Full(Option<Bytes>),
    /// Of an upstream, all there.
    Whole(Option<Bytes>, OfUpstream),
    /// Of an upstream.
    Stream(Box<upstream::Answer>, OfUpstream),
}

/// What goes with an upstream's answer.
pub struct OfUpstream {
    /// What its head says, until that is written.
    lines: Lines,
    /// The person's leave to have it open.
    _held: Held<u64>,
}

impl Body {
    /// An upstream's answer.
    pub fn passed(answer: Passing, lines: Lines, held: Held<u64>) -> Self {
        let of_upstream = OfUpstream { lines, _held: held };
        match answer {
            Passing::Whole(bytes) => Body::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()), of_upstream),
            Passing::Streaming(answer) => Body::Stream(answer, of_upstream),
        }
    }

    /// What an upstream's head says, for whoever writes it.
    pub fn take_lines(&mut self) -> Lines {
        match self {
            Body::Full(_) => Lines::default(),
            Body::Whole(_, of) | Body::Stream(_, of) => std::mem::take(&mut of.lines),
        }
    }

    /// Whether it is an upstream's.
    pub fn is_of_an_upstream(&self) -> bool {
        matches!(self, Body::Whole(..) | Body::Stream(..))
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        matches!(self, Body::Full(_) | Body::Whole(..))
    }

    /// Whether it is a stream of events that may last.
    pub fn is_events(&self) -> bool {
        matches!(self, Body::Stream(answer, _) if answer.is_events())
    }

    /// Whether it may end before its source does: it is such a stream, and between two events.
    pub fn may_end(&self) -> bool {
        matches!(self, Body::Stream(answer, _) if answer.is_between_events())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Full(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = upstream::Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Body::Full(bytes) | Body::Whole(bytes, _) => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Body::Stream(answer, _) => Pin::new(answer).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(bytes) | Body::Whole(bytes, _) => bytes.is_none(),
            Body::Stream(answer, _) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) | Body::Whole(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Body::Stream(answer, _) => answer.size_hint(),
        }
    }
}
