//! The way to one MCP server: a request that holds a [`Permit`] goes out, the answer streams back.
//!
//! Never retries what may have been sent, never resends a token elsewhere, never lets an aborted answer look
//! complete. RFC 9110 §7.6, §9.2.2, §15.4; MCP transports 2024-11-05 to 2026-07-28.

mod asked;
mod body;
mod delivery;
mod dial;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod headers;
mod health;
mod http1;
mod pool;
mod replicas;
mod session;
mod sse;
mod target;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use hyper::body::Body;
use tracing::warn;

use crate::clock::Clock;
use crate::gate::Permit;
use crate::protocol::fields::{Fields, Lines, text};
use crate::protocol::request::Request;
use crate::seal::KeyRing;
use crate::telemetry::call::Call;
use crate::telemetry::metrics::Ejected;
use asked::Asked;
pub use body::{Answer, Broken, Payload};
use body::{BodyTrouble, Inbound, RequestBody};
use delivery::Delivery;
pub use http1::has_body;
use http1::{Answered, Trouble};
use pool::Pool;
pub use pool::tidy;
use replicas::Replicas;
use session::{Binding, Endpoints, Seals};
pub use target::{Target, TargetError};

/// What an upstream needs to know.
pub struct Settings {
    /// Where the replicas of the MCP server are: 1 to 64.
    pub targets: Vec<Target>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take, with connecting and sending; of a body that streams from its last piece on.
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
    seals: Arc<Seals>,
    replicas: Replicas,
}

/// What goes on to the client.
pub struct Passed {
    pub status: StatusCode,
    /// Its head, but for what the connection to the client asks for.
    pub lines: Lines,
    pub body: Passing,
}

/// The body of an answer.
pub enum Passing {
    /// All there.
    Whole(Bytes),
    Streaming(Box<Answer>),
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
    /// The upstream of the resource with this URL, without connections yet.
    pub fn new(
        mut settings: Settings,
        keys: &KeyRing,
        resource: &str,
        clock: Clock,
        ejected: Ejected,
    ) -> Self {
        let seals = Seals::new(keys, resource);
        let replicas = Replicas::new(std::mem::take(&mut settings.targets), clock, ejected);
        Upstream { settings, seals, replicas }
    }

    /// Sends a permitted request and streams the answer.
    /// What the request calls is noted where somebody wants to know.
    pub async fn forward(
        &self,
        permit: &Permit,
        mut request: Box<Request<Payload>>,
        calls: Option<&mut Vec<Call>>,
    ) -> Result<Passed, Failure> {
        let binding = Binding::new(&self.seals, permit.person());
        // Before anything is refused: a connection with half a body on it could not go on.
        let whole = self.whole(&mut request).await?;
        let asked = Asked::read(&request, &binding)?;
        let is_get = request.method == Method::GET;
        let mut delivery = Delivery::new(self, &asked, &request.method)?;
        headers::request(delivery.message(), &request.fields, permit, asked.session(), &request.method);
        if let Some(calls) = calls.filter(|_| request.method == Method::POST) {
            *calls = whole.as_deref().map_or_else(|| vec![named_call(&request.fields)], Call::read);
        }
        // An answer may take its time: what is not needed any more is not kept for so long.
        delivery.with_body(match whole {
            Some(whole) => {
                drop(request);
                RequestBody::Whole(whole)
            }
            None => self.streaming(*request),
        });
        let answered = delivery.answered().await?;
        let way = delivery.way();
        let seal = |id: &[u8]| asked.sealed(&binding, id, way.mark());
        let endpoints = || binding.endpoints(&way.replica().target, way.mark(), permit.resource().path());
        let endpoints = is_get.then_some(endpoints);
        self.answer(permit, &way.replica().pool, *answered, seal, endpoints)
    }

    /// Small bodies are taken whole: they leave in one piece and survive a redirect. `None` says that one is to stream.
    async fn whole(&self, request: &mut Request<Payload>) -> Result<Option<Bytes>, Failure> {
        let Settings { max_body, body_timeout, .. } = self.settings;
        let length = request.body.size_hint().exact();
        if length.is_some_and(|length| length > max_body) {
            return Err(Failure::BodyTooLarge(max_body));
        }
        if request.body.is_end_stream() || request.method == Method::GET {
            return Ok(Some(Bytes::new()));
        }
        if !is_read_whole(&request.method, &request.body) {
            return Ok(None);
        }
        let whole = Inbound::new(&mut request.body, true, max_body, body_timeout).whole().await;
        whole.map(Some).map_err(|trouble| self.body_failure(trouble))
    }

    /// A body that is passed on while it arrives.
    fn streaming(&self, request: Request<Payload>) -> RequestBody {
        let Settings { max_body, body_timeout, .. } = self.settings;
        let knows_its_end = request.body.size_hint().exact().is_some() || request.is_http2;
        RequestBody::streaming(Inbound::new(request.body, knows_its_end, max_body, body_timeout))
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Body(trouble) => self.body_failure(trouble),
            Trouble::Io(error) => Failure::Broken(error.to_string()),
            Trouble::Odd(odd) => Failure::Broken(odd.to_string()),
            Trouble::Late(limit) => Failure::TooSlow(limit),
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

    /// Makes the client's answer of the upstream's. `endpoints` only where the legacy endpoint may come.
    fn answer<'a>(
        &self,
        permit: &Permit,
        pool: &Pool,
        Answered { head, mut arrival, .. }: Answered,
        seal: impl FnOnce(&[u8]) -> Option<Cow<'a, [u8]>>,
        endpoints: Option<impl FnOnce() -> Endpoints>,
    ) -> Result<Passed, Failure> {
        match head.status.as_u16() {
            // Passed on it would tell the client to log in again, and again: it is between us and the upstream.
            401 => {
                permit.doubt();
                return Err(Failure::Unauthorized);
            }
            status @ (301..=303 | 305..=308) => return Err(Failure::Redirect(status)),
            _ => {}
        }
        // What has no body is no stream.
        let is_sse = has_body(head.status) && is_plain_sse(&head.fields);
        let mut lines = headers::response(&head.fields, permit, is_sse);
        if let Some(id) = head.fields.get(session::HEADER).filter(|id| !permit.is_given_away_by(id)) {
            let sealed = seal(id).ok_or(Failure::Unexpected(head.status.as_u16()))?;
            lines.add(session::HEADER.as_bytes(), &sealed);
        }
        let Settings { keep_alive, recheck, .. } = self.settings;
        // Events that are all there, as most tools answer, are no stream. The legacy endpoint comes in answers to GET.
        let body = if is_sse && (endpoints.is_some() || !arrival.is_whole()) {
            let endpoints = endpoints.map(|endpoints| endpoints());
            let stream = sse::Stream::new(endpoints, permit.watch(), keep_alive, recheck);
            Passing::Streaming(Box::new(Answer::events(arrival, pool.home().clone(), stream)))
        } else if arrival.is_whole() {
            // Others may have the connection.
            arrival.free().into_iter().for_each(|connection| pool.home().take_back(connection));
            Passing::Whole(arrival.take_data())
        } else {
            Passing::Streaming(Box::new(Answer::plain(arrival, pool.home().clone(), permit.watch(), recheck)))
        };
        Ok(Passed { status: head.status, lines, body })
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
pub fn is_read_whole(method: &Method, body: &impl Body) -> bool {
    match body.size_hint().exact() {
        Some(0) => true,
        Some(length) => *method != Method::GET && length <= SMALL_BODY,
        None => false,
    }
}

/// What a body that is too large to be read here calls, by its headers (MCP 2026-07-28).
fn named_call(fields: &Fields) -> Call {
    let text = |name: &'static str| fields.get(name).and_then(text);
    Call::named(text("mcp-method"), text("mcp-name"))
}

/// Events that we can read: a compressed stream passes as it is.
fn is_plain_sse(fields: &Fields) -> bool {
    let kind = fields.get("content-type").unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is_sse = kind.eq_ignore_ascii_case(b"text/event-stream");
    if is_sse && fields.all("content-encoding").any(is_coding) {
        warn!("the upstream compresses an event stream: no keep-alive comments, no endpoint rewriting");
        return false;
    }
    is_sse
}

/// RFC 9110 §8.4.1: `identity` does not belong there, and says that nothing was done.
fn is_coding(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
}

/// How the rewritten endpoint of the 2024-11-05 transport is spelt.
pub(crate) const ENDPOINT_QUERY: &str = "endpoint=";
/// Bodies up to this size are read before the upstream is asked; nearly every MCP message is smaller.
const SMALL_BODY: u64 = 64 << 10;
