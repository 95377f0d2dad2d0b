//! What a request asks for at the upstream, whichever replica that will be.

use std::borrow::Cow;

use http::uri::PathAndQuery;

use super::Failure;
use super::replicas::{Mark, Replicas, Way};
use super::session::{Binding, Endpoint, Session};
use super::target::Target;
use crate::protocol::request::Request;

/// The path, and the session that it belongs to.
pub struct Asked {
    path: Path,
    session: Option<Known>,
}

/// A session of this person's.
struct Known {
    /// Its id as it was sent.
    sealed: Box<[u8]>,
    /// How much of that is the upstream's own.
    length: usize,
    mark: Option<Mark>,
}

enum Path {
    /// The upstream's own, with these pairs of the client behind it.
    Own(String),
    /// The sealed one of a legacy endpoint (MCP 2024-11-05).
    Endpoint(Endpoint),
}

impl Asked {
    /// What the client sent, as far as it is this person's.
    pub fn read<B>(request: &Request<B>, binding: &Binding<'_>) -> Result<Self, Failure> {
        let session = binding.open_session(&request.fields).map_err(|_| Failure::UnknownSession)?;
        let session = session.map(Known::from);
        let query = request.target.query();
        if let Some(text) = query.strip_prefix(super::ENDPOINT_QUERY) {
            let endpoint = binding.open_endpoint(text).ok_or(Failure::UnknownSession)?;
            return Ok(Asked { path: Path::Endpoint(endpoint), session });
        }
        if query.is_empty() {
            return Ok(Asked { path: Path::Own(String::new()), session });
        }
        // RFC 6750 §2.3 tokens in URLs are neither accepted nor passed on.
        let pairs = query.split('&').filter(|pair| !pair.is_empty() && !is_access_token(pair));
        Ok(Asked { path: Path::Own(pairs.collect::<Vec<_>>().join("&")), session })
    }

    /// The path there.
    pub fn path_at<'a>(&'a self, target: &'a Target) -> Result<Cow<'a, PathAndQuery>, Failure> {
        let (own, query) = match &self.path {
            Path::Endpoint(endpoint) => return Ok(Cow::Borrowed(&endpoint.path)),
            Path::Own(query) => (target.path(), query),
        };
        if query.is_empty() {
            return Ok(Cow::Borrowed(own));
        }
        let separator = if own.query().is_some() { '&' } else { '?' };
        let path = PathAndQuery::try_from(format!("{own}{separator}{query}"));
        path.map(Cow::Owned).map_err(|_| Failure::Unexpected(400))
    }

    /// The upstream's own id of the session.
    pub fn session(&self) -> Option<&[u8]> {
        self.session.as_ref().map(Known::id)
    }

    /// The id for the client of a session at the replica with this mark. Most upstreams repeat the one that they were
    /// asked with: then it need not be sealed again.
    pub fn sealed(&self, binding: &Binding<'_>, id: &[u8], mark: Option<Mark>) -> Option<Cow<'_, [u8]>> {
        let known = self.session.as_ref().filter(|known| known.id() == id && known.mark == mark);
        let known = known.map(|known| Cow::Borrowed(&*known.sealed));
        known.or_else(|| binding.seal_session(id, mark).map(Cow::Owned))
    }

    /// Where it goes.
    pub fn way<'a>(&'a self, replicas: &'a Replicas) -> Way<'a> {
        match (&self.path, &self.session) {
            (Path::Endpoint(Endpoint { path, mark }), _) => replicas.session(*mark, path.as_str().as_bytes()),
            (Path::Own(_), Some(known)) => replicas.session(known.mark, known.id()),
            (Path::Own(_), None) => replicas.anywhere(),
        }
    }
}

impl Known {
    fn id(&self) -> &[u8] {
        &self.sealed[..self.length]
    }
}

impl From<Session<'_>> for Known {
    fn from(Session { sealed, id, mark }: Session<'_>) -> Self {
        Known { sealed: sealed.into(), length: id.len(), mark }
    }
}

/// Whether a pair of a query is an access token, however its name is spelt.
fn is_access_token(pair: &str) -> bool {
    url::form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name.eq_ignore_ascii_case("access_token"))
}
