//! Session ids and legacy endpoints belong to a person: the upstream trusts anyone who knows one, we do not.
//!
//! What the client sees carries a MAC over the person, by keys of the resource; another person's is unknown here, as the
//! transport asks (404). Where there are replicas, it says which of them it is from, under the same MAC. MCP security
//! best practices, session hijacking.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::uri::PathAndQuery;
use url::Url;

use super::replicas::Mark;
use super::target::Target;
use crate::protocol::fields::{Fields, Twice, is_text};
use crate::protocol::token::TAG_BYTES;
use crate::seal::{KeyRing, Scope};

/// The header of the Streamable HTTP transport.
pub const HEADER: &str = "mcp-session-id";

/// What one resource seals with: without a mark, and with one.
pub struct Seals {
    sessions: [Scope; 2],
    endpoints: [Scope; 2],
}

/// Seals and opens for one person at one resource.
pub struct Binding<'a> {
    seals: &'a Arc<Seals>,
    person: u64,
}

/// Rewrites the endpoint events of one stream; of which there are many, so what they share is shared.
pub struct Endpoints {
    base: Arc<Url>,
    seals: Arc<Seals>,
    path: Box<str>,
    person: u64,
    mark: Option<Mark>,
}

/// Where messages go, in the transport of 2024-11-05.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub path: PathAndQuery,
    pub mark: Option<Mark>,
}

/// The session that a client named.
#[derive(Debug, PartialEq, Eq)]
pub struct Session<'a> {
    /// As it was sent.
    pub sealed: &'a [u8],
    /// The upstream's own id, with which that begins.
    pub id: &'a [u8],
    /// Of the replica that it is from, if that was said.
    pub mark: Option<Mark>,
}

/// Not an id of this person at this resource.
#[derive(Debug)]
pub struct Foreign;

impl Seals {
    /// Those of the resource with this URL.
    pub fn new(keys: &KeyRing, resource: &str) -> Arc<Self> {
        let scopes = |kinds: [&str; 2]| kinds.map(|kind| keys.scope(kind, resource.as_bytes()));
        let (sessions, endpoints) = (scopes(["session", "session-at"]), scopes(["endpoint", "endpoint-at"]));
        Arc::new(Seals { sessions, endpoints })
    }
}

impl<'a> Binding<'a> {
    pub fn new(seals: &'a Arc<Seals>, person: u64) -> Self {
        Binding { seals, person }
    }

    /// The session that the client named, if it named one.
    pub fn open_session<'f>(&self, fields: &'f Fields) -> Result<Option<Session<'f>>, Foreign> {
        let Some(value) = fields.single(HEADER).map_err(|Twice| Foreign)? else { return Ok(None) };
        let dot = value.iter().rposition(|byte| *byte == b'.').filter(|_| is_text(value)).ok_or(Foreign)?;
        let (id, seal) = (&value[..dot], &value[dot + 1..]);
        let mut decoded = [0; SEAL_BYTES + size_of::<Mark>()];
        let length = URL_SAFE_NO_PAD.decode_slice(seal, &mut decoded).map_err(|_| Foreign)?;
        let (seal, mark) = decoded[..length].split_at_checked(SEAL_BYTES).ok_or(Foreign)?;
        let mark = if mark.is_empty() { None } else { Some(mark.try_into().map_err(|_| Foreign)?) };
        if !self.holds(&self.seals.sessions, id, mark, seal) {
            return Err(Foreign);
        }
        Ok(Some(Session { sealed: value, id, mark }))
    }

    /// The id for the client; `None` when the upstream's is not visible ASCII (MCP transports).
    pub fn seal_session(&self, id: &[u8], mark: Option<Mark>) -> Option<Vec<u8>> {
        let is_visible = !id.is_empty() && id.iter().all(u8::is_ascii_graphic);
        let sealed = || URL_SAFE_NO_PAD.encode(self.seal(&self.seals.sessions, id, mark));
        is_visible.then(|| [id, b".", sealed().as_bytes()].concat())
    }

    /// The upstream path behind a sealed endpoint.
    pub fn open_endpoint(&self, sealed: &str) -> Option<Endpoint> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (seal, rest) = bytes.split_at_checked(SEAL_BYTES)?;
        let open = |mark, path| {
            let is_ours = self.holds(&self.seals.endpoints, path, mark, seal);
            is_ours.then(|| PathAndQuery::try_from(path).ok()).flatten().map(|path| Endpoint { path, mark })
        };
        let marked = || {
            let (mark, path) = rest.split_first_chunk()?;
            open(Some(*mark), path)
        };
        open(None, rest).or_else(marked)
    }

    /// A rewriter for the endpoint events of this person's stream, published at `path`.
    pub fn endpoints(&self, target: &Target, mark: Option<Mark>, path: &str) -> Endpoints {
        let (base, seals, person) = (target.url().clone(), self.seals.clone(), self.person);
        Endpoints { base, seals, path: path.into(), person, mark }
    }

    /// Key id, tag, and the mark if there is one.
    fn seal(&self, scopes: &[Scope; 2], value: &[u8], mark: Option<Mark>) -> Vec<u8> {
        let (key_id, tag) = self.with_parts(scopes, value, mark, Scope::tag);
        [&[key_id][..], &tag, mark.as_ref().map_or(&[], |mark| mark.as_slice())].concat()
    }

    /// Whether this key id and tag were made over the value and the mark.
    fn holds(&self, scopes: &[Scope; 2], value: &[u8], mark: Option<Mark>, seal: &[u8]) -> bool {
        let Some((key_id, tag)) = seal.split_first() else { return false };
        self.with_parts(scopes, value, mark, |scope, parts| scope.holds(*key_id, parts, tag))
    }

    /// What a tag is over. One that covers a mark is of another kind.
    fn with_parts<R>(
        &self,
        [bare, marked]: &[Scope; 2],
        value: &[u8],
        mark: Option<Mark>,
        then: impl FnOnce(&Scope, &[&[u8]]) -> R,
    ) -> R {
        let person = self.person.to_be_bytes();
        match &mark {
            None => then(bare, &[&person, value]),
            Some(mark) => then(marked, &[&person, mark, value]),
        }
    }
}

impl Endpoints {
    /// What the client gets for the URI of an `endpoint` event; `None` when it leads to another origin.
    pub fn rewrite(&self, uri: &str) -> Option<String> {
        let there = self.base.join(uri.trim()).ok().filter(|there| there.origin() == self.base.origin())?;
        let upstream_path = &there[url::Position::BeforePath..url::Position::AfterQuery];
        let binding = Binding::new(&self.seals, self.person);
        let sealed = binding.seal(&self.seals.endpoints, upstream_path.as_bytes(), self.mark);
        let sealed = URL_SAFE_NO_PAD.encode([&sealed, upstream_path.as_bytes()].concat());
        Some(format!("{}?{}{sealed}", self.path, super::ENDPOINT_QUERY))
    }
}

/// Key id and tag.
const SEAL_BYTES: usize = 1 + TAG_BYTES;
