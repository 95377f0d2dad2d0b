//! What a request asks for at the upstream, whichever replica that will be.

use http::uri::PathAndQuery;

use super::Failure;
use super::replicas::{Mark, Replicas, Way};
use super::session::{self, Binding, Opened};
use super::target::Target;
use crate::protocol::request::Request;

/// The path, and the session that it belongs to.
pub struct Asked {
    path: Path,
    session: Option<Opened<Box<[u8]>>>,
    /// The id of the session as it was sent.
    sealed: Option<Box<[u8]>>,
}

enum Path {
    /// The upstream's own, with these pairs of the client behind it.
    Own(String),
    /// The sealed one of a legacy endpoint (MCP 2024-11-05).
    Endpoint(Opened<PathAndQuery>),
}

impl Asked {
    /// What the client sent, as far as it is this person's.
    pub fn read<B>(request: &Request<B>, binding: &Binding<'_>) -> Result<Self, Failure> {
        let session = binding.open_session(&request.fields).map_err(|_| Failure::UnknownSession)?;
        let sealed = session.as_ref().and(request.fields.get(session::HEADER)).map(Box::from);
        let query = request.target.query();
        if let Some(text) = query.strip_prefix(super::ENDPOINT_QUERY) {
            let endpoint = binding.open_endpoint(text).ok_or(Failure::UnknownSession)?;
            return Ok(Asked { path: Path::Endpoint(endpoint), session, sealed });
        }
        if query.is_empty() {
            return Ok(Asked { path: Path::Own(String::new()), session, sealed });
        }
        // RFC 6750 §2.3 tokens in URLs are neither accepted nor passed on.
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !is_access_token(pair));
        Ok(Asked { path: Path::Own(pairs.collect::<Vec<_>>().join("&")), session, sealed })
    }

    /// The path there.
    pub fn path_at(&self, target: &Target) -> Result<PathAndQuery, Failure> {
        let (own, query) = match &self.path {
            Path::Endpoint(endpoint) => return Ok(endpoint.value.clone()),
            Path::Own(query) => (target.path(), query),
        };
        if query.is_empty() {
            return Ok(own.clone());
        }
        let separator = if own.query().is_some() { '&' } else { '?' };
        PathAndQuery::try_from(format!("{own}{separator}{query}")).map_err(|_| Failure::Unexpected(400))
    }

    /// The upstream's own id of the session.
    pub fn session(&self) -> Option<&[u8]> {
        self.session.as_ref().map(|session| &*session.value)
    }

    /// The id for the client of a session at the replica with this mark. Most upstreams repeat the one that they were
    /// asked with: then it need not be sealed again.
    pub fn sealed(&self, binding: &Binding<'_>, id: &[u8], mark: Option<Mark>) -> Option<Box<[u8]>> {
        let is_known = self.session.as_ref().is_some_and(|known| *known.value == *id && known.mark == mark);
        let known = self.sealed.as_ref().filter(|_| is_known);
        known.cloned().or_else(|| binding.seal_session(id, mark))
    }

    /// Where it goes.
    pub fn way<'a>(&'a self, replicas: &'a Replicas) -> Way<'a> {
        match (&self.path, &self.session) {
            (Path::Endpoint(path), _) => replicas.session(path.mark, path.value.as_str().as_bytes()),
            (Path::Own(_), Some(id)) => replicas.session(id.mark, &id.value),
            (Path::Own(_), None) => replicas.anywhere(),
        }
    }
}

/// Whether a pair of a query is an access token, however its name is spelt.
fn is_access_token(pair: &str) -> bool {
    url::form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name.eq_ignore_ascii_case("access_token"))
}
