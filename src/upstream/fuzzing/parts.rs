//! The way to an upstream and back, step by step, for one person in one session.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tokio::runtime::{Builder, Runtime};

use super::target;
use crate::fuzzing::parts::{Crowd, SESSION};
use crate::fuzzing::world;
use crate::gate::Permit;
use crate::protocol::fields::{Fields, Lines};
use crate::upstream::http1::framing::Decoder;
use crate::upstream::http1::head::{self, Read};
use crate::upstream::http1::{Head, Message};
use crate::upstream::session::{self, Binding, Seals};
use crate::upstream::sse::Stream;
use crate::upstream::{Target, headers};

/// Somebody's way to their session.
pub struct Way {
    permit: Permit,
    seals: Arc<Seals>,
    target: Target,
    /// What the headers of a call are.
    call: Fields,
    /// For the timers of streams.
    runtime: Runtime,
}

impl Way {
    /// For somebody whom the gate let through.
    pub fn new() -> Self {
        let crowd = Crowd::new(1);
        let mut call = crowd.calls().next().expect("there is one");
        let permit = crowd.judged(&call).expect("let through");
        let seals = Seals::new(&world().keys, permit.resource().url());
        let binding = Binding::new(&seals, permit.person());
        let sealed = binding.seal_session(SESSION.as_bytes(), None).expect("visible");
        call.add(session::HEADER, &sealed);
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        Way { permit, seals, target: target("http://127.0.0.1:9000/mcp"), call, runtime }
    }

    fn binding(&self) -> Binding<'_> {
        Binding::new(&self.seals, self.permit.person())
    }

    /// The upstream's session behind the client's.
    pub fn opened(&self) -> Option<&[u8]> {
        self.binding().open_session(&self.call).ok().flatten().map(|session| session.id)
    }

    /// The client's session for the upstream's.
    pub fn sealed(&self) -> Option<Vec<u8>> {
        self.binding().seal_session(SESSION.as_bytes(), None)
    }

    /// The head of the request as it leaves.
    pub fn up(&self) -> Message {
        let mut message = Message::to(&Method::POST, self.target.path(), self.target.host());
        let session = Some(SESSION.as_bytes());
        headers::request(&mut message, &self.call, &self.permit, session, &Method::POST);
        message
    }

    /// The headers of an answer as they go on to the client.
    pub fn back(&self, answered: &Fields) -> Lines {
        headers::response(answered, &self.permit, false)
    }

    /// A stream with nothing passed on yet; what comes first may name the legacy endpoint in one that was asked for.
    pub fn stream(&self, was_asked_for: bool) -> Stream {
        let endpoints = || self.binding().endpoints(&self.target, None, self.permit.resource().path());
        let endpoints = was_asked_for.then(endpoints);
        let _timers = self.runtime.enter();
        Stream::new(endpoints, self.permit.watch(), MINUTE, MINUTE)
    }
}

impl Default for Way {
    fn default() -> Self {
        Way::new()
    }
}

/// The head of an answer, and how long the body behind it is, of one that is there to its end.
pub fn read(answer: &[u8]) -> Option<(Head, usize)> {
    let Ok(Read::Final(head, length)) = head::read(answer) else { return None };
    let (mut decoder, mut rest, mut body) = (Decoder::new(head.framing), &answer[length..], 0);
    while let Some(piece) = decoder.next(&mut rest).ok()? {
        body += piece.len();
    }
    decoder.is_ended().then_some((head, body))
}

const MINUTE: Duration = Duration::from_secs(60);
