//! The answer to one request: given by the server, open until its body is through.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Response};
use hyper::body::{Frame, SizeHint};

use super::Server;
use super::body::Body;
use super::drain::Drain;
use super::latest::Latest;
use super::seats::Request as OpenRequest;
use crate::protocol::fields::Lines;
use crate::protocol::request::Request;
use crate::telemetry::metrics::OpenStream;
use crate::upstream::{self, Payload};

/// The answer to one request; it is open until its body is through.
pub async fn answered(
    server: &Server,
    peer: SocketAddr,
    request: Box<Request<Payload>>,
    open: OpenRequest,
    drain: &mut Latest<Drain>,
) -> Response<Answering> {
    let is_http1 = !request.is_http2;
    let mut response = server.answer(peer, request, &open).await;
    open.given();
    if is_http1 && *drain.now() >= Drain::Leaving {
        // A connection is let go with an answer. One that is idle may have a request on its way, so it is not closed
        // before the end begins.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| {
        let stream = body.is_events().then(|| server.telemetry.metrics.clone().stream());
        let farewell = body.is_events().then(|| -> Farewell {
            let mut drain = drain.receiver();
            Box::pin(async move {
                // Without a sender everything is over anyway.
                let _ = drain.wait_for(|drain| *drain >= Drain::Streams).await;
            })
        });
        Answering { body, request: open, farewell, is_leaving: false, _stream: stream }
    })
}

/// The body of an answer, and the request that is open for as long.
pub struct Answering {
    body: Body,
    request: OpenRequest,
    farewell: Option<Farewell>,
    is_leaving: bool,
    /// Counts it while it is open.
    _stream: Option<OpenStream>,
}

/// Ready when event streams are to end.
type Farewell = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The same for hyper, which writes heads of maps.
pub fn for_hyper(mut response: Response<Answering>) -> Response<Answering> {
    let lines = response.body_mut().take_lines();
    lines.append_to(response.headers_mut());
    response
}

impl Answering {
    /// What an upstream's head says, for whoever writes it.
    pub fn take_lines(&mut self) -> Lines {
        self.body.take_lines()
    }

    /// Whether it is an upstream's.
    pub fn is_of_an_upstream(&self) -> bool {
        self.body.is_of_an_upstream()
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.body.is_whole()
    }

    /// Whether the end has begun, and this is a good place for it.
    fn poll_end(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(farewell) = &mut self.farewell
            && farewell.as_mut().poll(context).is_ready()
        {
            self.farewell = None;
            self.is_leaving = true;
        }
        self.is_leaving && self.body.may_end()
    }
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = upstream::Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.poll_end(context) {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut this.body).poll_frame(context);
        this.request.note(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
