//! Which headers pass, in both directions.
//!
//! Towards the upstream an allow-list, so that nothing a client invents is believed there; towards the client
//! a deny-list, because the proxy's origin belongs to the proxy. RFC 9110 §7.6.1, §7.6.3; RFC 9700 §4.13.

use http::Method;

use super::http1::Message;
use super::session;
use crate::gate::Permit;
use crate::protocol::connection;
use crate::protocol::fields::{Field, Fields, Lines, text};
use crate::protocol::injection::poses_as;

/// Adds the headers of the request to the upstream to its request line and Host.
pub fn request(
    out: &mut Message,
    incoming: &Fields,
    permit: &Permit,
    session: Option<&[u8]>,
    method: &Method,
) {
    let belongs_to_connection = connection::names_fields(incoming);
    out.fields(incoming, |field| {
        let named = || belongs_to_connection && connection::lists(incoming, field.name);
        let poses = || permit.injected_names().any(|injected| poses_as(field.name, injected));
        is_forwarded(field.name, method) && !named() && !poses()
    });
    if let Some(session) = session {
        out.header(session::HEADER.as_bytes(), session);
    }
    // RFC 9110 §7.6.3: a gateway MUST send an appropriate Via header field in each inbound request.
    out.headers(b"via: 1.1 mcp-auth-proxy\r\n");
    // Nothing above was let through that could be taken for these.
    out.headers(permit.injected_lines());
}

/// What goes on to the client of the head of an answer, with our own words.
pub fn response(fields: &Fields, permit: &Permit, is_sse: bool) -> Lines {
    let belongs_to_connection = connection::names_fields(fields);
    let gives_away = |field: &Field<'_>| permit.is_given_away_by(field.value);
    let telling: Vec<&[u8]> = fields.iter().filter(gives_away).map(|field| field.name).collect();
    let passes = |name: &[u8]| {
        let named = || belongs_to_connection && connection::lists(fields, name);
        let echoed = || permit.injected_names().any(|injected| poses_as(name, injected));
        // Of several values of a name, one that tells the token takes the others along.
        !is_withheld(name) && !named() && !echoed() && !telling.contains(&name)
    };
    let is_shareable = !passes(CACHE_CONTROL) || is_shareable(fields);
    let is_ours = |name: &[u8]| (is_shareable && name == CACHE_CONTROL) || (is_sse && name == BUFFERING);
    let mut out = Lines::with_capacity(fields.size() + OURS);
    out.add_those(fields, |field| passes(field.name) && !is_ours(field.name));
    // What somebody's upstream says must not be able to act on our origin, where people approve clients.
    out.add_lines(
        "x-content-type-options: nosniff\r\ncontent-security-policy: sandbox; default-src 'none'\r\n",
    );
    if is_shareable {
        out.add(CACHE_CONTROL, b"no-store");
    }
    if is_sse {
        // Proxies in front of us must not collect events either.
        out.add(BUFFERING, b"no");
    }
    out
}

fn is_forwarded(name: &[u8], method: &Method) -> bool {
    // A GET opens an event stream, which we must be able to read for the legacy endpoint.
    let encoding = name == b"accept-encoding" && *method != Method::GET;
    encoding || is_known(name) || (name.starts_with(b"mcp-") && !poses_as(name, session::HEADER))
}

fn is_withheld(name: &[u8]) -> bool {
    is_ours_to_say(name) || name.starts_with(b"access-control-")
}

/// Whether a shared cache could keep one person's answer for another. RFC 9111 §3.5 lets it keep answers to
/// authorized requests for several reasons, and caches at the edge find more: only a plain word to the
/// contrary counts.
fn is_shareable(fields: &Fields) -> bool {
    let mut values = fields.all("cache-control").peekable();
    if values.peek().is_none() {
        return true;
    }
    let text = values.map(|value| text(value).unwrap_or("public")).collect::<Vec<_>>().join(",");
    let says = |word: &str| {
        let mut directives = text.split(',').map(|directive| directive.split('=').next().unwrap_or_default());
        directives.any(|directive| directive.trim().eq_ignore_ascii_case(word))
    };
    // Event streams say `no-cache, no-transform`, which proxies on the way must see; both words may be limited
    // to single fields (`private="x"`), then they do not count.
    let kept_private = says("no-store") || ((says("private") || says("no-cache")) && !text.contains('"'));
    !kept_private || says("public") || says("s-maxage")
}

/// What an upstream may be told, by a name that we know.
fn is_known(name: &[u8]) -> bool {
    matches!(
        name,
        b"accept"
            | b"accept-language"
            | b"baggage"
            | b"cache-control"
            | b"content-encoding"
            | b"content-language"
            | b"content-type"
            | b"idempotency-key"
            | b"last-event-id"
            | b"prefer"
            | b"sentry-trace"
            | b"traceparent"
            | b"tracestate"
            | b"user-agent"
            | b"x-correlation-id"
            | b"x-request-id"
    )
}

/// Hop-by-hop headers and framing, what would speak for our origin, what commands the web server in front of us, and what
/// we say ourselves.
fn is_ours_to_say(name: &[u8]) -> bool {
    matches!(
        name,
        b"alt-svc"
            | b"cdn-cache-control"
            | b"clear-site-data"
            | b"connection"
            | b"content-length"
            | b"content-security-policy"
            | b"content-security-policy-report-only"
            | b"keep-alive"
            | b"location"
            | b"mcp-session-id"
            | b"nel"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"proxy-connection"
            | b"refresh"
            | b"report-to"
            | b"reporting-endpoints"
            | b"service-worker-allowed"
            | b"set-cookie"
            | b"set-cookie2"
            | b"strict-transport-security"
            | b"surrogate-control"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
            | b"www-authenticate"
            | b"x-accel-charset"
            | b"x-accel-expires"
            | b"x-accel-limit-rate"
            | b"x-accel-redirect"
            | b"x-content-type-options"
            | b"x-lighttpd-send-file"
            | b"x-sendfile"
    )
}

const CACHE_CONTROL: &[u8] = b"cache-control";
const BUFFERING: &[u8] = b"x-accel-buffering";
/// Room for what we say: five lines.
const OURS: usize = 256;
