//! A request on its way, until the head of its answer is there: from replica to replica as long as it never left,
//! and after a redirect within the upstream's own origin (Starlette's `/mcp` → `/mcp/`).

use std::borrow::Cow;

use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use super::asked::Asked;
use super::body::RequestBody;
use super::http1::{Answered, Head, Message, Outgoing, Trouble};
use super::pool::SendError;
use super::replicas::Way;
use super::{Failure, Upstream};
use crate::protocol::fields::text;

/// A request, and where it is.
pub struct Delivery<'a> {
    upstream: &'a Upstream,
    asked: &'a Asked,
    method: Method,
    way: Way<'a>,
    path: Cow<'a, PathAndQuery>,
    /// What is to be sent. It stays here until it is: handed from one to the next it would be held by each.
    outgoing: Outgoing,
}

impl<'a> Delivery<'a> {
    /// At the first replica of its way.
    pub fn new(upstream: &'a Upstream, asked: &'a Asked, method: &Method) -> Result<Self, Failure> {
        let way = asked.way(&upstream.replicas);
        let path = asked.path_at(&way.replica().target)?;
        let message = Message::to(method, &path, way.replica().target.host());
        let outgoing = Outgoing { message, body: RequestBody::default() };
        Ok(Delivery { upstream, asked, method: method.clone(), way, path, outgoing })
    }

    /// Its message, which begins with the request line and Host.
    pub fn message(&mut self) -> &mut Message {
        &mut self.outgoing.message
    }

    /// Ends the message.
    pub fn with_body(&mut self, mut body: RequestBody) {
        self.outgoing.message.end(&self.method, &mut body);
        self.outgoing.body = body;
    }

    /// Where it was answered.
    pub fn way(&self) -> &Way<'a> {
        &self.way
    }

    /// Sends it; then its way is where it was answered.
    pub async fn answered(&mut self) -> Result<Box<Answered>, Failure> {
        let (may_follow, mut redirects) = (self.outgoing.body.is_whole(), 0..MAX_REDIRECTS);
        loop {
            let answered = self.exchange().await?;
            if !matches!(
                answered.head.status,
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            ) {
                return Ok(answered);
            }
            let Answered { head, mut arrival, message } = *answered;
            let path = self.redirected(&head).ok_or(Failure::Redirect(head.status.as_u16()))?;
            self.path = Cow::Owned(path);
            // The same connection leads there, if nothing more comes by it.
            arrival
                .free()
                .into_iter()
                .for_each(|connection| self.way.replica().pool.home().take_back(connection));
            let message = message.filter(|_| may_follow && redirects.next().is_some());
            let message = message.ok_or(Failure::Redirect(307))?.redirected(&self.method, &self.path);
            self.outgoing = Outgoing { message, body: RequestBody::default() };
        }
    }

    /// What a replica never got goes to the next, and nothing else does.
    async fn exchange(&mut self) -> Result<Box<Answered>, Failure> {
        loop {
            let (is_whole, answers) = (self.outgoing.body.is_whole(), self.way.answers());
            match self.sent().await {
                Ok(answer) => {
                    self.way.answered();
                    return Ok(answer);
                }
                Err(SendError::Connect(cause)) => {
                    if !self.way.moves_on(&cause) {
                        return Err(Failure::Unreachable(cause));
                    }
                    self.move_on()?;
                }
                Err(SendError::Exchange(trouble)) => {
                    let is_its_fault = match &trouble {
                        Trouble::Body(_) => false,
                        // Of a body that streams nobody knows who kept whom waiting; and if others were answered
                        // meanwhile, it is the call that takes so long and not the replica.
                        Trouble::Late(_) => is_whole && self.way.answers() == answers,
                        _ => true,
                    };
                    if is_its_fault {
                        self.way.broke();
                    }
                    return Err(self.upstream.failure(trouble));
                }
            }
        }
    }

    /// Sends it to the replica that it is at.
    async fn sent(&mut self) -> Result<Box<Answered>, SendError> {
        let (replica, settings) = (self.way.replica(), &self.upstream.settings);
        replica.pool.send(&replica.target, settings, &self.method, &mut self.outgoing).await
    }

    /// The same to the replica that it is at now.
    fn move_on(&mut self) -> Result<(), Failure> {
        let target = &self.way.replica().target;
        self.path = self.asked.path_at(target)?;
        self.outgoing.message = self.outgoing.message.moved(&self.method, &self.path, target.host());
        Ok(())
    }

    /// Where a redirect leads, if that is the replica itself: a token is never sent elsewhere.
    fn redirected(&self, answered: &Head) -> Option<PathAndQuery> {
        let location = text(answered.fields.get("location")?)?;
        let origin = self.way.replica().target.origin();
        let here = url::Url::parse(&format!("{origin}{}", self.path)).ok()?;
        let there = here.join(location).ok()?;
        let path = &there[url::Position::BeforePath..url::Position::AfterQuery];
        (there.origin() == here.origin()).then(|| PathAndQuery::try_from(path).ok()).flatten()
    }
}

/// Starlette needs one.
const MAX_REDIRECTS: usize = 2;
