//! Which room a path belongs to. Paths match byte for byte: nothing is decoded, normalised or prefixed.

use bytes::Bytes;

use super::Server;
use crate::oauth::{Answer, AuthorizationServer, Documents, Failure, Request};

/// Where a request goes.
pub enum Route<'a> {
    Resource(usize),
    Endpoint(Endpoint),
    Document(&'a Bytes),
    /// Below /.well-known/, but nothing we have.
    NoDocument,
    Front,
    Health,
    Ready,
    Nothing,
}

/// The endpoints of the authorization server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Register,
    Authorize,
    Consent,
    Callback,
    Token,
    Revoke,
}

/// Every fixed path; resources and metadata documents come from the configuration.
pub const ROUTES: [(&str, Endpoint); 6] = [
    ("/register", Endpoint::Register),
    ("/authorize", Endpoint::Authorize),
    ("/consent", Endpoint::Consent),
    ("/github/callback", Endpoint::Callback),
    ("/token", Endpoint::Token),
    ("/revoke", Endpoint::Revoke),
];

/// Finds the room; one trailing slash is forgiven for resources and their documents only.
pub fn route<'a>(server: &'a Server, path: &str) -> Route<'a> {
    let resources = server.upstreams.iter().map(|published| &*published.path);
    find(resources, &server.documents, path)
}

/// The same among these resources and documents.
pub(super) fn find<'a, 'b>(
    mut resources: impl Iterator<Item = &'b str>,
    documents: &'a Documents,
    path: &str,
) -> Route<'a> {
    let bare = path.strip_suffix('/').filter(|bare| !bare.is_empty()).unwrap_or(path);
    if let Some(number) = resources.position(|published| published == bare) {
        return Route::Resource(number);
    }
    if let Some((_, endpoint)) = ROUTES.iter().find(|(own, _)| *own == path) {
        return Route::Endpoint(*endpoint);
    }
    match path {
        "/" => Route::Front,
        "/healthz" => Route::Health,
        "/readyz" => Route::Ready,
        _ => match documents.get(bare) {
            Some(document) => Route::Document(document),
            None if path.starts_with("/.well-known/") => Route::NoDocument,
            None => Route::Nothing,
        },
    }
}

impl Endpoint {
    /// Where it is.
    pub fn path(self) -> &'static str {
        ROUTES.iter().find(|(_, endpoint)| *endpoint == self).map_or("other", |(path, _)| path)
    }

    /// Its methods, as `Allow` lists them.
    pub fn methods(self) -> &'static str {
        match self {
            Endpoint::Authorize => "GET, POST, HEAD",
            Endpoint::Callback => "GET",
            Endpoint::Consent => "POST",
            Endpoint::Register | Endpoint::Token | Endpoint::Revoke => "POST",
        }
    }

    /// Whether pages of other origins may call it. Never those where a person's browser decides
    /// (RFC 9700 §2.6).
    pub fn is_for_scripts(self) -> bool {
        matches!(self, Endpoint::Register | Endpoint::Token | Endpoint::Revoke)
    }

    /// Runs it.
    pub async fn call(self, server: &AuthorizationServer, request: &Request) -> Result<Answer, Failure> {
        match self {
            Endpoint::Register => server.register(request).await,
            Endpoint::Authorize => server.authorize(request).await,
            Endpoint::Consent => server.consent(request).await,
            Endpoint::Callback => server.callback(request).await,
            Endpoint::Token => server.token(request).await,
            Endpoint::Revoke => server.revoke(request).await,
        }
    }
}
