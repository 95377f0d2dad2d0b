//! What goes wrong at GitHub, on request.

use std::{future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::reply::{self, Payload, Reply};

#[derive(Clone, Debug)]
pub enum Fault {
    /// This status with a JSON message; nothing is done.
    Status(u16),
    /// 502 with an HTML page, as GitHub's edge sends it; nothing is done.
    BadGateway,
    /// The connection is dropped before anything is done.
    Dropped,
    /// The request is carried out, then the connection is dropped: the caller cannot know.
    AnswerLost,
    /// Never answers; nothing is done.
    Silent,
    /// 403 or 429 with the headers that are set; `reset` is in epoch seconds and comes with `remaining: 0`.
    RateLimited { status: u16, retry_after: Option<u64>, reset: Option<u64> },
    /// Status 200 with this `error`, e.g. `bad_verification_code`; nothing is done.
    OAuthError(String),
    /// The true answer, form-encoded whatever `Accept` said.
    FormEncoded,
    /// 200, said to be JSON, and not JSON; nothing is done.
    Garbage,
    /// The first half of the true answer, with a length that fits.
    Truncated,
    /// The first half of the true answer, then the connection dies.
    BrokenOff,
    /// The true answer, a byte at a time with this pause between them.
    Dribble(Duration),
    /// 200 with a valid JSON object of about this many bytes; nothing is done.
    Huge(usize),
    /// The true answer without `access_token`.
    NoAccessToken,
    /// Exactly this; nothing is done.
    Answer { status: u16, headers: Vec<(String, String)>, body: String },
}

impl Fault {
    /// `act` carries the request out; an error drops the connection.
    pub(super) async fn apply(self, act: impl FnOnce() -> Reply) -> io::Result<Response<Payload>> {
        let reply = match self {
            Fault::Status(status) => reply::message(status, "This is a fault of the stand-in"),
            Fault::BadGateway => reply::html(502, "Unicorn!", "<p>This page is taking too long.</p>"),
            Fault::Dropped => return Err(io::ErrorKind::ConnectionReset.into()),
            Fault::AnswerLost => {
                act();
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Fault::Silent => future::pending().await,
            Fault::RateLimited { status, retry_after, reset } => rate_limited(status, retry_after, reset),
            Fault::OAuthError(error) => reply::json(200, &oauth_error(&error)),
            Fault::FormEncoded => {
                let reply = act();
                reply::form(reply.status().as_u16(), &members(&reply))
            }
            Fault::Garbage => reply::typed(200, "application/json", "\u{0}{]\u{fffd}"),
            Fault::Truncated => act().map(first_half),
            Fault::BrokenOff => {
                return Ok(act().map(|body| Payload::breaking_off(first_half(body))));
            }
            Fault::Dribble(pause) => return Ok(act().map(|body| Payload::dribbling(body, pause))),
            Fault::Huge(size) => reply::json(200, &json!({ "padding": "x".repeat(size) })),
            Fault::NoAccessToken => {
                let reply = act();
                let mut members = members(&reply);
                if let Some(members) = members.as_object_mut() {
                    members.remove("access_token");
                }
                reply::json(reply.status().as_u16(), &members)
            }
            Fault::Answer { status, headers, body } => verbatim(status, &headers, body),
        };
        Ok(reply.map(Payload::whole))
    }
}

/// GitHub's shape of an error at the token endpoint.
pub fn oauth_error(error: &str) -> Value {
    let description = match error {
        "bad_verification_code" => "The code passed is incorrect or expired.",
        "bad_refresh_token" => "The refresh token passed is incorrect or expired.",
        "incorrect_client_credentials" => "The client_id and/or client_secret passed are incorrect.",
        "redirect_uri_mismatch" => {
            "The redirect_uri MUST match the registered callback URL for this application."
        }
        "access_denied" => "The user has denied your application access.",
        _ => "Something went wrong.",
    };
    json!({
        "error": error,
        "error_description": description,
        "error_uri": "https://docs.github.com/apps/oauth-apps/troubleshooting",
    })
}

fn rate_limited(status: u16, retry_after: Option<u64>, reset: Option<u64>) -> Reply {
    let mut reply = reply::message(status, "API rate limit exceeded");
    let headers = reply.headers_mut();
    if let Some(seconds) = retry_after {
        headers.insert("retry-after", seconds.into());
    }
    if let Some(epoch_seconds) = reset {
        headers.insert("x-ratelimit-limit", 5000.into());
        headers.insert("x-ratelimit-remaining", 0.into());
        headers.insert("x-ratelimit-reset", epoch_seconds.into());
    }
    reply
}

fn verbatim(status: u16, headers: &[(String, String)], body: String) -> Reply {
    let mut reply = reply::empty(status).map(|_| Bytes::from(body));
    for (name, value) in headers {
        let name = HeaderName::try_from(name).expect("a fault names a valid header");
        let value = HeaderValue::try_from(value).expect("a fault has a valid header value");
        reply.headers_mut().append(name, value);
    }
    reply
}

fn members(reply: &Reply) -> Value {
    serde_json::from_slice(reply.body()).unwrap_or_else(|_| json!({}))
}

fn first_half(body: Bytes) -> Bytes {
    body.slice(..body.len() / 2)
}

/// Keeps answers of one endpoint back until it is dropped: a race without sleeps.
#[must_use = "dropping it releases the requests"]
pub struct Hold(Arc<Semaphore>);

impl Hold {
    pub(super) fn new() -> (Hold, Held) {
        let closed = Arc::new(Semaphore::new(0));
        (Hold(Arc::clone(&closed)), Held(closed))
    }

    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The side of a [`Hold`] that requests wait on.
#[derive(Clone)]
pub struct Held(Arc<Semaphore>);

impl Held {
    pub async fn wait(&self) {
        // Nobody ever adds a permit: this ends when the hold closes the semaphore, with an error.
        let _ = self.0.acquire().await;
    }

    pub fn is_over(&self) -> bool {
        self.0.is_closed()
    }
}
