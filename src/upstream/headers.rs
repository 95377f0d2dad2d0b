//! Which headers pass, in both directions.
//!
//! Towards the upstream an allow-list, so that nothing a client invents is believed there; towards the client
//! a deny-list, because the proxy's origin belongs to the proxy. RFC 9110 §7.6.1, §7.6.3; RFC 9700 §4.13.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::http1::Message;
use super::session;
use crate::gate::Permit;
use crate::protocol::connection;
use crate::protocol::injection::poses_as;

/// Adds the headers of the request to the upstream to its request line and Host.
pub fn request(
    out: &mut Message,
    incoming: &HeaderMap,
    permit: &Permit,
    session: Option<&HeaderValue>,
    method: &Method,
) {
    let belongs_to_connection = connection::names_fields(incoming);
    for (name, value) in incoming {
        let named = || belongs_to_connection && connection::lists(incoming, name.as_str());
        let poses = || permit.injected_names().any(|injected| poses_as(name.as_str(), injected.as_str()));
        if is_forwarded(name, method) && !named() && !poses() {
            out.header(name.as_str(), value.as_bytes());
        }
    }
    if let Some(session) = session {
        out.header(session::HEADER.as_str(), session.as_bytes());
    }
    // RFC 9110 §7.6.3: a gateway MUST send an appropriate Via header field in each inbound request.
    out.header("via", b"1.1 mcp-auth-proxy");
    // Nothing above was let through that could be taken for these.
    out.headers(permit.injected_lines());
}

/// The head of the answer to the client: what must not pass is taken out, and our own words are put in.
pub fn response(mut headers: HeaderMap, permit: &Permit) -> HeaderMap {
    let belongs_to_connection = connection::names_fields(&headers);
    let is_withheld = |name: &HeaderName, value: &HeaderValue| {
        let named = || belongs_to_connection && connection::lists(&headers, name.as_str());
        let echoed = || permit.injected_names().any(|injected| poses_as(name.as_str(), injected.as_str()));
        is_withheld(name) || named() || echoed() || permit.is_given_away_by(value)
    };
    let withheld: Vec<HeaderName> = headers
        .iter()
        .filter(|(name, value)| is_withheld(name, value))
        .map(|(name, _)| name.clone())
        .collect();
    // Of several values of a name, one that tells the token takes the others along.
    withheld.iter().for_each(|name| drop(headers.remove(name)));
    // What somebody's upstream says must not be able to act on our origin, where people approve clients.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    if is_shareable(&headers) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    headers
}

fn is_forwarded(name: &HeaderName, method: &Method) -> bool {
    let name = name.as_str();
    // A GET opens an event stream, which we must be able to read for the legacy endpoint.
    let encoding = name == "accept-encoding" && method != Method::GET;
    encoding || FORWARDED.has(name) || (name.starts_with("mcp-") && !poses_as(name, session::HEADER.as_str()))
}

fn is_withheld(name: &HeaderName) -> bool {
    WITHHELD.has(name.as_str()) || name.as_str().starts_with("access-control-")
}

/// Whether a shared cache could keep one person's answer for another. RFC 9111 §3.5 lets it keep answers to
/// authorized requests for several reasons, and caches at the edge find more: only a plain word to the
/// contrary counts.
fn is_shareable(headers: &HeaderMap) -> bool {
    if !headers.contains_key(header::CACHE_CONTROL) {
        return true;
    }
    let values = headers.get_all(header::CACHE_CONTROL).iter();
    let text = values.map(|value| value.to_str().unwrap_or("public")).collect::<Vec<_>>().join(",");
    let says = |word: &str| {
        let mut directives = text.split(',').map(|directive| directive.split('=').next().unwrap_or_default());
        directives.any(|directive| directive.trim().eq_ignore_ascii_case(word))
    };
    // Event streams say `no-cache, no-transform`, which proxies on the way must see; both words may be limited
    // to single fields (`private="x"`), then they do not count.
    let kept_private = says("no-store") || ((says("private") || says("no-cache")) && !text.contains('"'));
    !kept_private || says("public") || says("s-maxage")
}

/// Names that each header is compared with. Most are of another length than all of them.
struct Names<const N: usize> {
    names: [&'static str; N],
    /// A bit for each length.
    lengths: u64,
}

impl<const N: usize> Names<N> {
    /// Each has less than 64 letters.
    const fn of(names: [&'static str; N]) -> Self {
        let (mut lengths, mut at) = (0, 0);
        while at < N {
            lengths |= 1 << names[at].len();
            at += 1;
        }
        Names { names, lengths }
    }

    fn has(&self, name: &str) -> bool {
        let is_of_a_length = name.len() < 64 && self.lengths >> name.len() & 1 == 1;
        is_of_a_length && self.names.contains(&name)
    }
}

const FORWARDED: Names<16> = Names::of([
    "accept",
    "accept-language",
    "baggage",
    "cache-control",
    "content-encoding",
    "content-language",
    "content-type",
    "idempotency-key",
    "last-event-id",
    "prefer",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-correlation-id",
    "x-request-id",
]);

/// Hop-by-hop headers, what would speak for our origin, and what commands the web server in front of us.
const WITHHELD: Names<31> = Names::of([
    "alt-svc",
    "cdn-cache-control",
    "clear-site-data",
    "connection",
    "content-security-policy",
    "content-security-policy-report-only",
    "keep-alive",
    "location",
    "nel",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "surrogate-control",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
    "x-accel-charset",
    "x-accel-expires",
    "x-accel-limit-rate",
    "x-accel-redirect",
    "x-lighttpd-send-file",
    "x-sendfile",
]);
