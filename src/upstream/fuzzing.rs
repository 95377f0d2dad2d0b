//! Properties of the way up and back: paths, headers, session ids.

pub(crate) mod parts;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use url::Url;

use super::asked::Asked;
use super::body::RequestBody;
use super::http1::Message;
use super::replicas::Mark;
use super::session::{self, Binding, Endpoint, Seals};
use super::{Target, headers};
use crate::fuzzing::{change, world};
use crate::gate::Permit;
use crate::gate::fuzzing::{TOKEN, permit};
use crate::protocol::fields::{Fields, text};
use crate::protocol::injection::{Injection, poses_as};
use crate::protocol::request as rim;

pub use super::http1::fuzzing::answer;
pub use super::sse::fuzzing::sse;

/// The request line and the headers that leave, in both directions.
pub(crate) fn head(request: &Request<()>, answered: &HeaderMap) {
    path(request);
    let injected = [
        ("X-GitHub-Token", "{github_token}"),
        ("Authorization", "Bearer {github_token}"),
        // Of somebody without an address: never there, whoever sends it.
        ("X-Email", "{github_email}"),
    ];
    let permit = permit(injections(&injected));
    towards_the_upstream(request.headers(), request.method(), &permit, &["x-github-token", "authorization"]);
    let nothing = self::permit(Vec::new());
    towards_the_upstream(request.headers(), request.method(), &nothing, &[]);
    towards_the_client(answered, &permit);
}

fn injections(list: &[(&str, &str)]) -> Vec<Injection> {
    list.iter().map(|(name, template)| Injection::parse(name, template).expect("valid")).collect()
}

/// Whatever was asked for, the configured path goes up, with the client's own pairs behind it.
fn path(request: &Request<()>) {
    let (seals, target) = (seals(), target("http://127.0.0.1:9000/up?tenant=1"));
    let binding = Binding::new(&seals, 42);
    let query = request.uri().query().unwrap_or_default();
    let Ok(asked) = Asked::read(&rim::Request::from(request.clone()), &binding) else { return };
    let path = asked.path_at(&target).expect("a path");
    assert!(!query.starts_with(super::ENDPOINT_QUERY), "nothing here was sealed");
    let mut pairs = path.as_str().strip_prefix("/up?tenant=1").expect("the configured path").split('&');
    assert_eq!(pairs.next(), Some(""));
    let mut asked = query.split('&');
    for pair in pairs {
        assert!(asked.any(|asked| asked == pair), "{pair} was not asked for, or not there");
    }
    let url = Url::parse(&format!("http://upstream{path}")).expect("a URL");
    assert!(url.query_pairs().all(|(name, _)| !name.eq_ignore_ascii_case("access_token")), "{path}");
    assert!(path.as_str().bytes().all(|byte| byte > b' ' && byte != 0x7f && byte != b'#'), "{path}");
}

pub(super) fn target(url: &str) -> Target {
    Target::new(&url.parse().expect("a URL"), || unreachable!("no TLS")).expect("a target")
}

/// Nothing of the connection, nothing that poses as ours, ours exactly once, and the rest as it came.
pub(super) fn towards_the_upstream(headers: &HeaderMap, method: &Method, permit: &Permit, set: &[&str]) {
    let target = target("http://127.0.0.1:9000/up");
    let mut message = Message::to(method, target.path(), target.host());
    headers::request(&mut message, &Fields::from(headers), permit, None, method);
    message.end(method, &mut RequestBody::Whole(Bytes::new()));
    let mut out = read(message.bytes(), method);
    // The framing is ours and only there where it says something.
    let length = out.remove(header::CONTENT_LENGTH);
    assert_eq!(length, (*method == Method::POST).then(|| HeaderValue::from_static("0")));
    let named = named_by_connection(headers);
    assert_eq!(all(&out, &header::HOST), [target.host()]);
    assert_eq!(all(&out, &header::VIA), ["1.1 mcp-auth-proxy"]);
    for name in set {
        let values = all(&out, &name.parse().expect("a name"));
        assert!(values.len() == 1 && values[0].as_bytes().ends_with(TOKEN.as_bytes()), "{name}: {values:?}");
    }
    for name in out.keys().filter(|name| !set.contains(&name.as_str())) {
        let spelt = name.as_str();
        assert!(permit.injected_names().all(|injected| !poses_as(spelt, injected.as_str())), "{name} poses");
        assert!(!NEVER_UP.contains(&spelt), "{name} goes up");
        let ours = matches!(spelt, "host" | "via");
        assert!(ours || !named.contains(&spelt.to_owned()), "{name} belongs to the connection");
        assert!(ours || all(&out, name) == all(headers, name), "{name} was changed");
    }
    for name in ["accept", "content-type", "last-event-id", "mcp-protocol-version", "user-agent"] {
        let name = HeaderName::from_static(name);
        if !named.contains(&name.to_string()) {
            assert_eq!(all(&out, &name), all(headers, &name), "{name} is missing");
        }
    }
}

/// A request as the upstream reads it: nothing in it can be read as a second line, or as a second request.
fn read(bytes: &[u8], method: &Method) -> HeaderMap {
    let mut lines = [httparse::EMPTY_HEADER; 200];
    let mut request = httparse::Request::new(&mut lines);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(bytes.len())));
    assert_eq!((request.method, request.path), (Some(method.as_str()), Some("/up")));
    let of = |line: &httparse::Header<'_>| {
        let name = HeaderName::from_bytes(line.name.as_bytes()).expect("a name");
        (name, HeaderValue::from_bytes(line.value).expect("a value"))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers.iter().map(of) {
        headers.append(name, value);
    }
    headers
}

/// Nothing that speaks for our origin, nothing that tells the token, and our own words in the end.
pub(super) fn towards_the_client(headers: &HeaderMap, permit: &Permit) {
    let named = named_by_connection(headers);
    let mut out = HeaderMap::new();
    headers::response(&Fields::from(headers), permit, false).append_to(&mut out);
    assert_eq!(all(&out, &header::X_CONTENT_TYPE_OPTIONS), ["nosniff"]);
    assert_eq!(all(&out, &header::CONTENT_SECURITY_POLICY), ["sandbox; default-src 'none'"]);
    for (name, value) in &out {
        let spelt = name.as_str();
        let ours = ["x-content-type-options", "content-security-policy", "cache-control"].contains(&spelt);
        assert!(!NEVER_BACK.contains(&spelt) && !spelt.starts_with("access-control-"), "{name} comes back");
        assert!(ours || !named.contains(&spelt.to_owned()), "{name} belongs to the connection");
        assert!(permit.injected_names().all(|injected| !poses_as(spelt, injected.as_str())), "{name} poses");
        assert!(!value.as_bytes().windows(TOKEN.len()).any(|w| w == TOKEN.as_bytes()), "{name} tells");
        assert!(ours || all(headers, name).contains(&value), "{name} is invented");
    }
    let kept = all(&out, &header::CACHE_CONTROL);
    let private = ["no-store", "private", "no-cache"];
    let says = |value: &&&HeaderValue| {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        private.iter().any(|word| text.contains(word))
    };
    assert!(kept.iter().any(|value| says(&value)), "{kept:?} may be kept by a cache");
}

fn all<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a HeaderValue> {
    headers.get_all(name).iter().collect()
}

/// RFC 9110 §7.6.1, read naively.
fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let texts = headers.get_all(header::CONNECTION).iter();
    let texts = texts.map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    let words: Vec<String> =
        texts.flat_map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    words.iter().map(|word| word.trim_matches([' ', '\t']).to_owned()).collect()
}

/// A session id and a legacy endpoint are good only as they were sealed, for this person at this resource, and from the
/// replica that they say, if they say one.
pub(crate) fn sessions(id: &[u8], changes: &[u8]) {
    let seals = seals();
    let ours = Binding::new(&seals, 42);
    assert_eq!(opened(&ours, id), None, "it was never sealed");
    let mut mark = [0; 4];
    mark.iter_mut().zip(changes.iter().rev()).for_each(|(to, from)| *to = *from);
    for mark in [None, Some(mark)] {
        session(id, mark, changes);
        endpoint(id, mark, changes);
    }
}

fn session(id: &[u8], mark: Option<Mark>, changes: &[u8]) {
    let seals = seals();
    let (ours, theirs) = (Binding::new(&seals, 42), Binding::new(&seals, 43));
    let visible = !id.is_empty() && id.iter().all(u8::is_ascii_graphic);
    let sealed = ours.seal_session(id, mark);
    assert_eq!(sealed.is_some(), visible);
    let Some(sealed) = sealed else { return };
    let text = str::from_utf8(&sealed).expect("visible");
    assert_eq!(opened(&ours, text.as_bytes()), Some((id.into(), mark)));
    assert_eq!(opened(&theirs, text.as_bytes()), None);
    let changed = change(text, changes);
    assert_eq!(opened(&ours, changed.as_bytes()).is_some(), changed == text, "{changed}");
    // Nobody takes a mark away, puts one there, or takes another's.
    let (id, seal) = text.rsplit_once('.').expect("a seal");
    for seal in remarked(seal, mark, 0) {
        assert_eq!(opened(&ours, format!("{id}.{seal}").as_bytes()), None);
    }
}

fn endpoint(uri: &[u8], mark: Option<Mark>, changes: &[u8]) {
    let seals = seals();
    let (ours, theirs) = (Binding::new(&seals, 42), Binding::new(&seals, 43));
    let Some(text) = text(uri) else { return };
    let endpoints = ours.endpoints(&target("http://127.0.0.1:9000/sse"), mark, "/mcp");
    let Some(ours_now) = endpoints.rewrite(text) else { return };
    let sealed = ours_now.strip_prefix("/mcp?endpoint=").expect("our path");
    let there = Url::parse("http://127.0.0.1:9000/sse").and_then(|base| base.join(text)).expect("it was");
    let expected = &there[url::Position::BeforePath..url::Position::AfterQuery];
    let path = PathAndQuery::try_from(expected).expect("a path");
    assert_eq!(ours.open_endpoint(sealed), Some(Endpoint { path, mark }));
    assert_eq!(theirs.open_endpoint(sealed), None);
    let changed = change(sealed, changes);
    assert_eq!(ours.open_endpoint(&changed).is_some(), changed == sealed, "{changed}");
    for sealed in remarked(sealed, mark, expected.len()) {
        assert_eq!(ours.open_endpoint(&sealed), None);
    }
}

/// The seal with another mark, without it, or with one that it did not have.
fn remarked(sealed: &str, mark: Option<Mark>, behind: usize) -> Vec<String> {
    let bytes = URL_SAFE_NO_PAD.decode(sealed).expect("base64");
    let (front, behind) = bytes.split_at(bytes.len() - behind);
    let (seal, _) = front.split_at(front.len() - mark.map_or(0, |mark| mark.len()));
    let other = mark.map_or([0; 4], |[a, b, c, d]| [a, b, c, d ^ 1]);
    let bare = mark.map(|_| URL_SAFE_NO_PAD.encode([seal, behind].concat()));
    bare.into_iter().chain([URL_SAFE_NO_PAD.encode([seal, &other[..], behind].concat())]).collect()
}

pub(super) fn seals() -> Arc<Seals> {
    Seals::new(&world().keys, world().resources[0].url())
}

fn opened(binding: &Binding<'_>, sealed: &[u8]) -> Option<(Box<[u8]>, Option<Mark>)> {
    let mut fields = Fields::default();
    fields.add(session::HEADER, sealed);
    let session = binding.open_session(&fields).ok().flatten()?;
    assert_eq!(session.sealed, sealed);
    Some((session.id.into(), session.mark))
}

/// Whatever the allow-list says: these never.
const NEVER_UP: [&str; 17] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "keep-alive",
    "mcp-session-id",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-original-url",
];
const NEVER_BACK: [&str; 12] = [
    "alt-svc",
    "clear-site-data",
    "connection",
    "keep-alive",
    "location",
    "refresh",
    "service-worker-allowed",
    "set-cookie",
    "strict-transport-security",
    "trailer",
    "transfer-encoding",
    "www-authenticate",
];
