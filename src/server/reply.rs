//! The only place that turns errors into responses, and answers into HTTP.
//!
//! Four outward shapes: pages, redirects, JSON, challenges. Every error is `{"error", "error_description"}`
//! or a page; none says more than a stranger may know. RFC 6749 §5.2; RFC 6750 §3; RFC 9700 §4.12, §4.16.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header;
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::body::Body;
use super::bounds::Held;
use crate::gate::Denial;
use crate::gate::challenge::{self, Challenges};
use crate::gate::origin;
use crate::oauth::pages::{self, Onward};
use crate::oauth::{Answer, Failure};
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::issuer::Issuer;
use crate::upstream::{self, Passed};

/// What the log line says of a response.
#[derive(Clone)]
pub struct Outcome {
    pub word: &'static str,
    pub cause: Option<String>,
}

/// Refusals of the rim itself.
pub enum Problem {
    BadRequest(&'static str),
    Origin,
    NotFound,
    /// With the methods there are.
    Method(&'static str),
    TooSlow,
    /// With the limit in bytes.
    TooLarge(u64),
    TargetTooLong,
    TooManyHeaders,
    /// How the message is framed is in doubt.
    Framing,
    /// One person has too much open.
    TooManyStreams,
    /// With our own host.
    Misdirected(String),
    NotReady,
    Internal,
}

/// Writes a refusal of the rim.
pub fn problem(problem: Problem) -> Response<Body> {
    let (status, code, text) = match &problem {
        Problem::BadRequest(text) => (400, "invalid_request", (*text).to_owned()),
        Problem::Origin => {
            (403, "forbidden_origin", "pages of this origin may not call this server".to_owned())
        }
        Problem::NotFound => (404, "not_found", "nothing is served at this path".to_owned()),
        Problem::Method(methods) => (405, "method_not_allowed", format!("allowed here: {methods}")),
        Problem::TooSlow => (408, "request_timeout", "the request body did not arrive in time".to_owned()),
        Problem::TooLarge(limit) => (413, "content_too_large", format!("the limit is {limit} bytes")),
        Problem::TargetTooLong => (414, "uri_too_long", "the request target is too long".to_owned()),
        Problem::TooManyHeaders => (431, "headers_too_large", "the request has too many headers".to_owned()),
        Problem::Framing => {
            (400, "invalid_request", "the only Transfer-Encoding taken here is chunked".to_owned())
        }
        Problem::TooManyStreams => (
            429,
            "too_many_streams",
            "you have too many requests and streams open here; close some and try again".to_owned(),
        ),
        Problem::Misdirected(own) => {
            (421, "misdirected_request", format!("this server is {own}; send that as Host"))
        }
        Problem::NotReady => (503, "temporarily_unavailable", "not ready".to_owned()),
        Problem::Internal => (500, "server_error", "something went wrong here; the log says what".to_owned()),
    };
    let retry_after = matches!(problem, Problem::TooManyStreams).then_some(RETRY_STREAMS);
    let mut response = error(status, code, &text, retry_after);
    if matches!(problem, Problem::Framing) {
        // What follows on this connection may be part of it.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Problem::Method(methods) = problem {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    }
    response
}

/// Writes the gate's refusal: 401 and 403 with their challenge, 503 when we cannot know.
pub fn denial(denial: Denial, challenges: &Challenges, front: Option<String>) -> Response<Body> {
    let (status, code, text, challenge, cause) = match denial {
        Denial::Missing => (
            401,
            "unauthorized",
            "log in first: see resource_metadata in WWW-Authenticate",
            &challenges.bare,
            None,
        ),
        Denial::Malformed => {
            (400, "invalid_request", challenge::INVALID_REQUEST, &challenges.invalid_request, None)
        }
        Denial::Invalid(why) => {
            (401, "invalid_token", challenge::INVALID_TOKEN, &challenges.invalid_token, Some(why))
        }
        Denial::Forged => (
            401,
            "invalid_token",
            challenge::INVALID_TOKEN,
            &challenges.invalid_token,
            Some("not one of our tokens"),
        ),
        Denial::TooOften { retry_after } => return oauth_error(OAuthError::too_often(retry_after), false),
        Denial::InsufficientScope => {
            (403, "insufficient_scope", challenge::INSUFFICIENT_SCOPE, &challenges.insufficient_scope, None)
        }
        Denial::Unavailable { cause, retry_after } => {
            let seconds = retry_after.map_or(5, |wait| wait.as_secs().max(1));
            let text = "the service cannot answer right now; try again";
            let response = error(503, "temporarily_unavailable", text, Some(seconds));
            return because(response, "temporarily_unavailable", Some(cause));
        }
    };
    let mut response = match front {
        Some(html) => page(status, html, None),
        None => error(status, code, text, None),
    };
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.clone());
    because(response, code, cause.map(str::to_owned))
}

/// An upstream's answer, for as long as the person may have it open. Its lines go with its body.
pub fn passed(passed: Passed, held: Held<u64>) -> Response<Body> {
    let mut response = Response::new(Body::passed(passed.body, passed.lines, held));
    *response.status_mut() = passed.status;
    response
}

/// Writes why the upstream gave no answer.
pub fn upstream_failure(failure: upstream::Failure) -> Response<Body> {
    use upstream::Failure as F;
    let cause = failure.to_string();
    let (status, code, text) = match failure {
        F::UnknownSession => (404, "unknown_session", "start a new session".to_owned()),
        F::BodyTooLarge(limit) => (413, "content_too_large", format!("the limit is {limit} bytes")),
        F::BodyBroken => (400, "invalid_request", "the request body is broken".to_owned()),
        F::BodyTooSlow => (408, "request_timeout", "the request body did not arrive in time".to_owned()),
        F::Unreachable(_) => (502, "upstream_unreachable", "the MCP server cannot be reached".to_owned()),
        F::Broken(_) => (502, "upstream_failed", "the MCP server broke off before it answered".to_owned()),
        F::TooSlow(limit) => (
            504,
            "upstream_timeout",
            format!("the MCP server did not answer within {} s", limit.as_secs_f32()),
        ),
        F::Unauthorized => (
            502,
            "upstream_unauthorized",
            "the MCP server does not accept the GitHub credential it was given".to_owned(),
        ),
        F::Redirect(_) => (
            502,
            "upstream_redirect",
            "the MCP server redirects elsewhere; the operator must configure its final URL".to_owned(),
        ),
        F::Unexpected(_) => {
            (502, "upstream_failed", "the MCP server gave an answer that cannot be passed on".to_owned())
        }
    };
    because(error(status, code, &text, None), code, Some(cause))
}

/// Writes an answer of the authorization server.
pub fn answer(answer: Answer) -> Response<Body> {
    match answer {
        Answer::Json { status, body } => json_response(status, &body),
        Answer::Page { status, html, cookie } => page(status, html, cookie),
        Answer::Redirect(location) => redirect(&location),
        Answer::Empty => no_store(respond(200, Body::Full(None))),
    }
}

/// Writes a failure of the authorization server.
pub fn failure(failure: Failure, wants_json: bool) -> Response<Body> {
    match failure {
        Failure::Displayed { status, code, text, cause, .. } if wants_json => {
            because(error(status, code.as_str(), &text, retry_after(status)), code.as_str(), cause)
        }
        Failure::Offered { error: failed, .. } if wants_json => because(
            error(400, failed.code.as_str(), &failed.public, None),
            failed.code.as_str(),
            failed.cause,
        ),
        Failure::Displayed { status, code, title, text, cause } => {
            let hint = "You can close this page.";
            let html = pages::render(&pages::Problem { title, text: &text, hint });
            let mut response = page(status, html, None);
            if let Some(seconds) = retry_after(status) {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            because(response, code.as_str(), cause)
        }
        Failure::Redirected { error, location } => {
            because(redirect(&location), error.code.as_str(), error.cause)
        }
        Failure::Offered { error, location, to } => offered(error, &location, &to),
        Failure::Json { error, basic } => oauth_error(error, basic),
        Failure::TooOften { retry_after } if wants_json => {
            oauth_error(OAuthError::too_often(retry_after), false)
        }
        Failure::TooOften { retry_after } => too_often_page(retry_after),
    }
}

/// RFC 6585 §4, for a person.
fn too_often_page(retry_after: u64) -> Response<Body> {
    let text = format!("There were too many logins from your network. Reload this page in {retry_after} s.");
    let hint = "Nothing is lost.";
    let title = "Too many requests";
    let mut response = page(429, pages::render(&pages::Problem { title, text: &text, hint }), None);
    response.headers_mut().insert(header::RETRY_AFTER, retry_after.into());
    because(response, Code::TooManyRequests.as_str(), None)
}

/// What is told with a status that means "not now".
fn retry_after(status: u16) -> Option<u64> {
    [429, 503].contains(&status).then_some(5)
}

/// A page that tells what went wrong and leaves going back to the person.
fn offered(error: OAuthError, location: &str, to: &str) -> Response<Body> {
    let html = pages::render(&Onward {
        title: "This login did not work",
        text: &format!("The reason: {}. The link leads back to {to}.", error.public),
        url: location,
        button: "Back to the client",
        automatic: false,
    });
    because(page(400, html, None), error.code.as_str(), error.cause)
}

fn oauth_error(failure: OAuthError, basic: bool) -> Response<Body> {
    let OAuthError { code, public, cause, retry_after } = failure;
    let mut response = error(code.status(), code.as_str(), &public, retry_after);
    // RFC 6749 §5.2: 401 with the scheme the client used.
    if code == Code::InvalidClient && basic {
        let challenge = HeaderValue::from_static("Basic realm=\"mcp-auth-proxy\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    because(response, code.as_str(), cause)
}

fn error(status: u16, code: &'static str, text: &str, retry_after: Option<u64>) -> Response<Body> {
    let mut response = json_response(status, &json!({ "error": code, "error_description": text }));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    because(response, code, None)
}

fn json_response(status: u16, body: &serde_json::Value) -> Response<Body> {
    let mut response = no_store(respond(status, Body::from(Bytes::from(body.to_string()))));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// A metadata document: the same for everybody, readable by any page.
pub fn document(body: Bytes) -> Response<Body> {
    let mut response = respond(200, Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    exposed(response)
}

/// A page under the policy of all pages.
pub fn page(status: u16, html: String, cookie: Option<String>) -> Response<Body> {
    static POLICY: LazyLock<HeaderValue> =
        LazyLock::new(|| HeaderValue::from_str(&pages::content_security_policy()).expect("plain text"));
    let mut response = no_store(respond(status, Body::from(Bytes::from(html))));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

/// RFC 9700 §4.12: 303, which never resends a form.
fn redirect(location: &str) -> Response<Body> {
    let Ok(location) = HeaderValue::from_str(location) else { return problem(Problem::Internal) };
    let mut response = no_store(respond(303, Body::Full(None)));
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// The answer to a browser's preflight.
pub fn preflight(methods: &'static str) -> Response<Body> {
    let mut response = respond(204, Body::Full(None));
    origin::preflight(response.headers_mut(), methods);
    response
}

/// Lets pages of other origins read a response.
pub fn exposed(mut response: Response<Body>) -> Response<Body> {
    origin::expose(response.headers_mut());
    response
}

/// The answer of a health check.
pub fn healthy() -> Response<Body> {
    json_response(200, &json!({ "status": "ok" }))
}

/// RFC 6797: browsers come back by https only. Sub-domains are not ours to speak for.
pub fn strict_transport(response: &mut Response<Body>) {
    let policy = HeaderValue::from_static("max-age=31536000");
    response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, policy);
}

/// The whole answer, head and all, to plain HTTP where TLS is spoken.
pub fn speak_https(issuer: &Issuer) -> Vec<u8> {
    let text = format!("this port speaks https: {issuer}");
    let body = json!({ "error": "invalid_request", "error_description": text }).to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

fn respond(status: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("our own statuses are valid");
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn no_store(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn because(mut response: Response<Body>, word: &'static str, cause: Option<String>) -> Response<Body> {
    response.extensions_mut().insert(Outcome { word, cause });
    response
}

/// Seconds; streams end when people close them.
const RETRY_STREAMS: u64 = 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
