//! A request on its way, until the head of its answer is there: from replica to replica as long as it never left,
//! and after a redirect within the upstream's own origin (Starlette's `/mcp` → `/mcp/`).

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, header};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::asked::Asked;
use super::body::RequestBody;
use super::http1::{Answered, Head, Message, Trouble};
use super::pool::SendError;
use super::replicas::Way;
use super::target::Target;
use super::{Failure, Settings, Upstream};

/// A request, and where it is.
pub struct Delivery<'a> {
    upstream: &'a Upstream,
    asked: &'a Asked,
    method: Method,
    way: Way<'a>,
    path: PathAndQuery,
}

impl<'a> Delivery<'a> {
    /// At the first replica of its way.
    pub fn new(upstream: &'a Upstream, asked: &'a Asked, method: &Method) -> Result<Self, Failure> {
        let way = asked.way(&upstream.replicas);
        let path = asked.path_at(&way.replica().target)?;
        Ok(Delivery { upstream, asked, method: method.clone(), way, path })
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The beginning of its message.
    pub fn message(&self) -> Message {
        Message::to(&self.method, &self.path, self.way.replica().target.host())
    }

    /// Sends it; then its way is where it was answered.
    pub async fn answered(
        mut self,
        message: Message,
        body: RequestBody,
    ) -> Result<(Box<Answered>, Way<'a>), Failure> {
        let may_follow = body.is_whole();
        let mut next = Some((message, body));
        for _ in 0..=MAX_REDIRECTS {
            let Some((message, body)) = next.take() else { return Err(Failure::Redirect(307)) };
            let answered = self.exchange(message, body).await?;
            if !matches!(
                answered.head.status,
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            ) {
                return Ok((answered, self.way));
            }
            let Answered { head, mut arrival, message } = *answered;
            self.path = self.redirected(&head).ok_or(Failure::Redirect(head.status.as_u16()))?;
            // The same connection leads there, if nothing more comes by it.
            arrival.free().into_iter().for_each(|io| self.way.replica().pool.home().take_back(io));
            let message = message.filter(|_| may_follow);
            next = message.map(|message| {
                (message.redirected(&self.method, &self.path), RequestBody::Whole(Bytes::new()))
            });
        }
        Err(Failure::Redirect(307))
    }

    /// What a replica never got goes to the next, and nothing else does.
    async fn exchange(
        &mut self,
        mut message: Message,
        mut body: RequestBody,
    ) -> Result<Box<Answered>, Failure> {
        loop {
            let (is_whole, answers) = (body.is_whole(), self.way.answers());
            match self.sent(message, body).await {
                Ok(Ok(answer)) => {
                    self.way.answered();
                    return Ok(answer);
                }
                Ok(Err(SendError::Connect(cause, unsent))) => {
                    if !self.way.moves_on(&cause) {
                        return Err(Failure::Unreachable(cause));
                    }
                    (message, body) = unsent;
                    message = self.moved(&message, &self.way.replica().target)?;
                }
                Ok(Err(SendError::Exchange(trouble))) => {
                    if !matches!(trouble, Trouble::Body(_)) {
                        self.way.broke();
                    }
                    return Err(self.upstream.failure(trouble));
                }
                Err(_) => {
                    // Of a body that streams nobody knows who kept whom waiting; and if others were answered meanwhile,
                    // it is the call that takes so long and not the replica.
                    if is_whole && self.way.answers() == answers {
                        self.way.broke();
                    }
                    return Err(Failure::TooSlow(self.upstream.settings.response_timeout));
                }
            }
        }
    }

    /// Sends it to the replica that it is at.
    async fn sent(
        &self,
        message: Message,
        body: RequestBody,
    ) -> Result<Result<Box<Answered>, SendError>, Elapsed> {
        let Settings { connect_timeout, response_timeout, .. } = self.upstream.settings;
        let (replica, progress) = (self.way.replica(), body.progress());
        let sent = pin!(replica.pool.send(&replica.target, connect_timeout, &self.method, (message, body)));
        in_time(response_timeout, progress, sent).await
    }

    fn moved(&mut self, message: &Message, target: &Target) -> Result<Message, Failure> {
        self.path = self.asked.path_at(target)?;
        Ok(message.moved(&self.method, &self.path, target.host()))
    }

    /// Where a redirect leads, if that is the replica itself: a token is never sent elsewhere.
    fn redirected(&self, answered: &Head) -> Option<PathAndQuery> {
        let location = answered.headers.get(header::LOCATION)?.to_str().ok()?;
        let origin = self.way.replica().target.origin();
        let here = url::Url::parse(&format!("{origin}{}", self.path)).ok()?;
        let there = here.join(location).ok()?;
        let path = &there[url::Position::BeforePath..url::Position::AfterQuery];
        (there.origin() == here.origin()).then(|| PathAndQuery::try_from(path).ok()).flatten()
    }
}

/// Waits for the head of an answer. While the body of the request is on its way, none can be expected.
async fn in_time<F: Future>(
    limit: Duration,
    progress: Option<Arc<AtomicU64>>,
    mut answer: Pin<&mut F>,
) -> Result<F::Output, Elapsed> {
    let mut seen = 0;
    loop {
        let outcome = timeout(limit, answer.as_mut()).await;
        let now = progress.as_ref().map_or(0, |progress| progress.load(Ordering::Relaxed));
        if outcome.is_ok() || now == seen {
            return outcome;
        }
        seen = now;
    }
}

/// Starlette needs one.
const MAX_REDIRECTS: usize = 2;
