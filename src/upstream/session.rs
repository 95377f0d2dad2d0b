//! Session ids and legacy endpoints belong to a person: the upstream trusts anyone who knows one, we do not.
//!
//! What the client sees carries a MAC over (resource, person); another person's is unknown here, as the
//! transport asks (404). MCP security best practices, session hijacking.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::target::Target;
use crate::protocol::token::TAG_BYTES;
use crate::seal::KeyRing;

/// The header of the Streamable HTTP transport.
pub const HEADER: HeaderName = HeaderName::from_static("mcp-session-id");

/// Seals and opens for one person at one resource.
pub struct Binding<'a> {
    keys: &'a KeyRing,
    resource: &'a str,
    person: u64,
}

/// Rewrites the endpoint events of one stream.
pub struct Endpoints {
    base: Url,
    path: String,
    seal: Box<dyn Fn(&str) -> String + Send + Sync>,
}

/// Not an id of this person at this resource.
#[derive(Debug)]
pub struct Foreign;

impl<'a> Binding<'a> {
    pub fn new(keys: &'a KeyRing, resource: &'a str, person: u64) -> Self {
        Binding { keys, resource, person }
    }

    /// The upstream's own id behind the one the client sent, if it sent one.
    pub fn open_session(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Foreign> {
        let mut values = headers.get_all(HEADER).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Foreign);
        }
        let (id, seal) = value.to_str().ok().and_then(|text| text.rsplit_once('.')).ok_or(Foreign)?;
        let seal = URL_SAFE_NO_PAD.decode(seal).map_err(|_| Foreign)?;
        match seal.split_first() {
            Some((key_id, tag)) if self.holds(*key_id, "session", id, tag) => {
                HeaderValue::from_str(id).map(Some).map_err(|_| Foreign)
            }
            _ => Err(Foreign),
        }
    }

    /// The id for the client; `None` when the upstream's is not visible ASCII (MCP transports).
    pub fn seal_session(&self, id: &HeaderValue) -> Option<HeaderValue> {
        let id =
            id.to_str().ok().filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic()))?;
        let (key_id, tag) = self.tag("session", id);
        HeaderValue::from_str(&format!("{id}.{}", URL_SAFE_NO_PAD.encode([&[key_id], &tag[..]].concat())))
            .ok()
    }

    /// The upstream path behind a sealed endpoint.
    pub fn open_endpoint(&self, sealed: &str) -> Option<PathAndQuery> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (seal, path) = bytes.split_at_checked(1 + TAG_BYTES)?;
        let path = std::str::from_utf8(path).ok()?;
        self.holds(seal[0], "endpoint", path, &seal[1..]).then(|| PathAndQuery::try_from(path).ok()).flatten()
    }

    /// A rewriter for the endpoint events of this person's stream, published at `path`.
    pub fn endpoints(&self, target: &Target, path: &str) -> Option<Endpoints> {
        let base = Url::parse(&format!("{}{}", target.origin(), target.path())).ok()?;
        let (keys, resource, person) = (self.keys.clone(), self.resource.to_owned(), self.person);
        let seal = move |upstream_path: &str| {
            let binding = Binding { keys: &keys, resource: &resource, person };
            let (key_id, tag) = binding.tag("endpoint", upstream_path);
            URL_SAFE_NO_PAD.encode([&[key_id], &tag[..], upstream_path.as_bytes()].concat())
        };
        Some(Endpoints { base, path: path.to_owned(), seal: Box::new(seal) })
    }

    fn tag(&self, kind: &str, value: &str) -> (u8, [u8; TAG_BYTES]) {
        self.keys.tag(kind, &[self.resource.as_bytes(), &self.person.to_be_bytes(), value.as_bytes()])
    }

    fn holds(&self, key_id: u8, kind: &str, value: &str, tag: &[u8]) -> bool {
        let parts = [self.resource.as_bytes(), &self.person.to_be_bytes(), value.as_bytes()];
        self.keys.holds(key_id, kind, &parts, tag)
    }
}

impl Endpoints {
    /// What the client gets for the URI of an `endpoint` event; `None` when it leads to another origin.
    pub fn rewrite(&self, uri: &str) -> Option<String> {
        let there = self.base.join(uri.trim()).ok().filter(|there| there.origin() == self.base.origin())?;
        let upstream_path = &there[url::Position::BeforePath..url::Position::AfterQuery];
        Some(format!("{}?{}{}", self.path, super::ENDPOINT_QUERY, (self.seal)(upstream_path)))
    }
}
