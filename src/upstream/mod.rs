//! The way to one MCP server: a request that holds a [`Permit`] goes out, the answer streams back.
//!
//! Never retries what may have been sent, never resends a token elsewhere, never lets an aborted answer look
//! complete. RFC 9110 §7.6, §9.2.2, §15.4; MCP transports 2024-11-05 to 2026-07-28.

mod body;
mod dial;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod headers;
mod http1;
mod pool;
mod session;
mod sse;
mod target;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tracing::warn;

use crate::clock::Clock;
use crate::gate::Permit;
use crate::seal::KeyRing;
use crate::telemetry::call::Call;
pub use body::{Answer, Broken};
use body::{BodyTrouble, RequestBody};
use http1::{Answered, Arrival, Head, Message, Trouble};
pub use pool::tidy;
use pool::{Pool, SendError};
use session::{Binding, Endpoints};
pub use target::{Target, TargetError};

/// What an upstream needs to know.
pub struct Settings {
    /// Where the MCP server is.
    pub target: Target,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take once the request is sent.
    pub response_timeout: Duration,
    /// Largest request body, in bytes.
    pub max_body: u64,
    /// How long a request body may keep us waiting.
    pub body_timeout: Duration,
    /// How long an SSE stream may be silent before it gets a comment.
    pub keep_alive: Duration,
    /// How often a stream's permit is looked at again.
    pub recheck: Duration,
}

/// One MCP server.
pub struct Upstream {
    settings: Settings,
    keys: Arc<KeyRing>,
    pool: Pool,
}

/// Why there is no answer from the upstream. Rendered by `server/reply.rs`.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("the session is not this person's, or is unknown")]
    UnknownSession,
    #[error("the request body is larger than {0} bytes")]
    BodyTooLarge(u64),
    #[error("the request body did not arrive in time")]
    BodyTooSlow,
    #[error("the client broke off, or sent what is no body")]
    BodyBroken,
    #[error("cannot connect: {0}")]
    Unreachable(String),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
    #[error("it answered 401: it does not accept the injected credential")]
    Unauthorized,
    #[error("it answered with a redirect that is not followed (status {0})")]
    Redirect(u16),
    #[error("it answered with status {0}, which a proxy cannot pass on")]
    Unexpected(u16),
}

impl Upstream {
    /// An upstream without connections yet.
    pub fn new(settings: Settings, keys: Arc<KeyRing>, clock: Clock) -> Self {
        Upstream { settings, keys, pool: Pool::new(clock) }
    }

    /// Sends a permitted request and streams the answer.
    /// What the request calls is noted where somebody wants to know.
    pub async fn forward(
        &self,
        permit: Permit,
        request: Box<Request<Incoming>>,
        calls: Option<&mut Vec<Call>>,
    ) -> Result<Response<Answer>, Failure> {
        let (parts, body) = request.into_parts();
        let binding = Binding::new(&self.keys, permit.resource().url(), permit.person());
        let session = binding.open_session(&parts.headers).map_err(|_| Failure::UnknownSession)?;
        // Most upstreams repeat it in their answers: then it need not be sealed again.
        let known = session.clone().zip(parts.headers.get(session::HEADER).cloned());
        let path = self.path(&parts, &binding)?;
        let mut message = Message::to(&parts.method, &path);
        let target = &self.settings.target;
        headers::request(&mut message, &parts.headers, &permit, target, session.as_ref(), &parts.method);
        let body = self.body(&parts, body).await?;
        message.end(&parts.method, &body);
        if let Some(calls) = calls.filter(|_| parts.method == Method::POST) {
            *calls = body.whole().map_or_else(|| vec![named_call(&parts.headers)], Call::read);
        }
        // An answer may take its time: what is not needed any more is not kept for so long.
        let method = parts.method.clone();
        drop(parts);
        let (head, arrival) = self.send(&method, path, message, body).await?;
        let seal = |id: &HeaderValue| match known {
            Some((known, sealed)) if known == *id => Some(sealed),
            _ => binding.seal_session(id),
        };
        let endpoints = || binding.endpoints(&self.settings.target, permit.resource().path());
        let endpoints = (method == Method::GET).then_some(endpoints);
        self.answer(&permit, head, arrival, seal, endpoints)
    }

    /// The upstream's path, or the sealed one of a legacy endpoint (MCP 2024-11-05).
    fn path(&self, parts: &request::Parts, binding: &Binding<'_>) -> Result<PathAndQuery, Failure> {
        let query = parts.uri.query().unwrap_or_default();
        if let Some(sealed) = query.strip_prefix(ENDPOINT_QUERY) {
            return binding.open_endpoint(sealed).ok_or(Failure::UnknownSession);
        }
        let own = self.settings.target.path();
        if query.is_empty() {
            return Ok(own.clone());
        }
        // RFC 6750 §2.3 tokens in URLs are neither accepted nor passed on.
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !is_access_token(pair));
        let query = pairs.collect::<Vec<_>>().join("&");
        if query.is_empty() {
            return Ok(own.clone());
        }
        let separator = if own.query().is_some() { '&' } else { '?' };
        PathAndQuery::try_from(format!("{own}{separator}{query}")).map_err(|_| Failure::Unexpected(400))
    }

    /// Small bodies are taken whole (they leave in one piece and survive a redirect), large ones stream.
    async fn body(&self, parts: &request::Parts, body: Incoming) -> Result<RequestBody, Failure> {
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > self.settings.max_body) {
            return Err(Failure::BodyTooLarge(self.settings.max_body));
        }
        if body.is_end_stream() || parts.method == Method::GET {
            return Ok(RequestBody::Whole(None));
        }
        let is_small = is_read_whole(&parts.method, &body);
        let knows_its_end = length.is_some() || parts.version == Version::HTTP_2;
        let arriving =
            RequestBody::streaming(body, knows_its_end, self.settings.max_body, self.settings.body_timeout);
        if !is_small {
            return Ok(arriving);
        }
        match arriving.collect().await {
            Ok(whole) => Ok(RequestBody::Whole(Some(whole.to_bytes()).filter(|bytes| !bytes.is_empty()))),
            Err(trouble) => Err(self.body_failure(trouble)),
        }
    }

    /// Sends, and follows 307 and 308 within the upstream's own origin (Starlette's `/mcp` → `/mcp/`).
    async fn send(
        &self,
        method: &Method,
        mut path: PathAndQuery,
        message: Message,
        body: RequestBody,
    ) -> Result<(Head, Arrival), Failure> {
        let may_follow = body.whole().is_some();
        let mut next = Some((message, body));
        for _ in 0..=MAX_REDIRECTS {
            let Some((message, body)) = next.take() else { return Err(Failure::Redirect(307)) };
            let Answered { head, mut arrival, message } = self.exchange(method, message, body).await?;
            if !matches!(head.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
                return Ok((head, arrival));
            }
            path = self.redirected(&path, &head).ok_or(Failure::Redirect(head.status.as_u16()))?;
            // The same connection leads there, if nothing more comes by it.
            arrival.free().into_iter().for_each(|io| self.pool.home().take_back(io));
            let message = message.filter(|_| may_follow);
            next = message.map(|message| (message.redirected(method, &path), RequestBody::Whole(None)));
        }
        Err(Failure::Redirect(307))
    }

    async fn exchange(
        &self,
        method: &Method,
        message: Message,
        body: RequestBody,
    ) -> Result<Answered, Failure> {
        let Settings { target, connect_timeout, response_timeout, .. } = &self.settings;
        let progress = body.progress();
        let sent = pin!(self.pool.send(target, *connect_timeout, method, (message, body)));
        match in_time(*response_timeout, progress, sent).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(SendError::Connect(cause))) => Err(Failure::Unreachable(cause)),
            Ok(Err(SendError::Exchange(trouble))) => Err(self.failure(trouble)),
            Err(_) => Err(Failure::TooSlow(*response_timeout)),
        }
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Body(trouble) => self.body_failure(trouble),
            Trouble::Io(error) => Failure::Broken(error.to_string()),
            Trouble::Odd(odd) => Failure::Broken(odd.to_string()),
            Trouble::Unsent(..) | Trouble::Silent(..) => {
                Failure::Broken("it closed the connection without an answer".to_owned())
            }
        }
    }

    /// Nobody up there is to blame, and no operator is to be woken.
    fn body_failure(&self, trouble: BodyTrouble) -> Failure {
        match trouble {
            BodyTrouble::TooLarge => Failure::BodyTooLarge(self.settings.max_body),
            BodyTrouble::TooSlow => Failure::BodyTooSlow,
            BodyTrouble::Cut => Failure::BodyBroken,
        }
    }

    /// Where a redirect leads, if that is the upstream itself: a token is never sent elsewhere.
    fn redirected(&self, from: &PathAndQuery, answered: &Head) -> Option<PathAndQuery> {
        let location = answered.headers.get(header::LOCATION)?.to_str().ok()?;
        let here = url::Url::parse(&format!("{}{from}", self.settings.target.origin())).ok()?;
        let there = here.join(location).ok()?;
        let path = &there[url::Position::BeforePath..url::Position::AfterQuery];
        (there.origin() == here.origin()).then(|| PathAndQuery::try_from(path).ok()).flatten()
    }

    /// Makes the client's answer of the upstream's. `endpoints` only where the legacy endpoint may come.
    fn answer(
        &self,
        permit: &Permit,
        mut head: Head,
        arrival: Arrival,
        seal: impl FnOnce(&HeaderValue) -> Option<HeaderValue>,
        endpoints: Option<impl FnOnce() -> Option<Endpoints>>,
    ) -> Result<Response<Answer>, Failure> {
        match head.status.as_u16() {
            // Passed on it would tell the client to log in again, and again: it is between us and the upstream.
            401 => {
                permit.doubt();
                return Err(Failure::Unauthorized);
            }
            status @ (301..=303 | 305..=308) => return Err(Failure::Redirect(status)),
            _ => {}
        }
        let session = head.headers.remove(session::HEADER).filter(|id| !permit.is_given_away_by(id));
        let is_sse = is_plain_sse(&head.headers);
        let mut headers = headers::response(head.headers, permit);
        if let Some(session) = session {
            let sealed = seal(&session).ok_or(Failure::Unexpected(head.status.as_u16()))?;
            headers.insert(session::HEADER, sealed);
        }
        if is_sse {
            // Proxies in front of us must not collect events either.
            headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        }
        let (home, &Settings { keep_alive, recheck, .. }) = (self.pool.home(), &self.settings);
        // Events that are all there, as most tools answer, are no stream. The legacy endpoint comes in answers to GET.
        let answer = if is_sse && (endpoints.is_some() || !arrival.is_whole()) {
            headers.remove(header::CONTENT_LENGTH);
            let endpoints = endpoints.and_then(|endpoints| endpoints());
            Answer::events(arrival, home, sse::Stream::new(endpoints, permit.watch(), keep_alive, recheck))
        } else {
            Answer::plain(arrival, home, permit.watch(), recheck)
        };
        let mut response = Response::new(answer);
        *response.status_mut() = head.status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

impl Failure {
    /// In one word, for numbers.
    pub fn word(&self) -> &'static str {
        match self {
            Failure::UnknownSession => "unknown_session",
            Failure::BodyTooLarge(_) => "body_too_large",
            Failure::BodyTooSlow => "body_too_slow",
            Failure::BodyBroken => "body_broken",
            Failure::Unreachable(_) => "unreachable",
            Failure::Broken(_) => "broken",
            Failure::TooSlow(_) => "too_slow",
            Failure::Unauthorized => "unauthorized",
            Failure::Redirect(_) => "redirect",
            Failure::Unexpected(_) => "unexpected",
        }
    }
}

/// Whether all of a request's body has been taken from its connection before the upstream is asked.
pub fn is_read_whole(method: &Method, body: &Incoming) -> bool {
    match body.size_hint().exact() {
        Some(0) => true,
        Some(length) => *method != Method::GET && length <= SMALL_BODY,
        None => false,
    }
}

/// What a body that is too large to be read here calls, by its headers (MCP 2026-07-28).
fn named_call(headers: &HeaderMap) -> Call {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Call::named(text("mcp-method"), text("mcp-name"))
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

/// Whether a pair of a query is an access token, however its name is spelt.
fn is_access_token(pair: &str) -> bool {
    url::form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name.eq_ignore_ascii_case("access_token"))
}

/// Events that we can read: a compressed stream passes as it is.
fn is_plain_sse(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_sse = kind.eq_ignore_ascii_case("text/event-stream");
    if is_sse && headers.get_all(header::CONTENT_ENCODING).iter().any(is_coding) {
        warn!("the upstream compresses an event stream: no keep-alive comments, no endpoint rewriting");
        return false;
    }
    is_sse
}

/// RFC 9110 §8.4.1: `identity` does not belong there, and says that nothing was done.
fn is_coding(value: &HeaderValue) -> bool {
    let value = value.as_bytes().trim_ascii();
    !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
}

/// How the rewritten endpoint of the 2024-11-05 transport is spelt.
pub(crate) const ENDPOINT_QUERY: &str = "endpoint=";
/// Bodies up to this size are read before the upstream is asked; nearly every MCP message is smaller.
const SMALL_BODY: u64 = 64 << 10;
/// Starlette needs one.
const MAX_REDIRECTS: usize = 2;
