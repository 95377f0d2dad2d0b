//! The body of a response: all there, or streamed from an upstream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::bounds::Held;
use super::seats::Endable;
use crate::upstream;

/// The body of a response.
pub enum Body {
    Full(Option<Bytes>),
    /// With the person's leave to have it open.
    Stream(upstream::Answer, Held<u64>),
}

impl Body {
    /// Whether it is a stream of events that may last.
    pub fn is_events(&self) -> bool {
        matches!(self, Body::Stream(answer, _) if answer.is_events())
    }
}

impl Endable for Body {
    fn may_end(&self) -> bool {
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
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Stream(answer, _) => Pin::new(answer).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(bytes) => bytes.is_none(),
            Body::Stream(answer, _) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Body::Stream(answer, _) => answer.size_hint(),
        }
    }
}
