//! A protected resource: one exact URL, the audience of its tokens.
//!
//! Matched tolerantly when a client names it, bound canonically. RFC 8707 §2; RFC 9728 §2.

use url::Url;

use super::issuer::Issuer;
use super::scope::ScopeSet;

/// One published MCP endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    path: String,
    url: String,
    scopes: ScopeSet,
}

/// Why a text cannot be the path of a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// Paths match byte for byte, so only bytes that nobody rewrites are allowed.
    #[error(
        "expected a path like /mcp made of letters, digits and - . _ ~ between single slashes, without a trailing slash"
    )]
    Path,
    /// The proxy itself answers there.
    #[error("{0} is one of the proxy's own paths")]
    Reserved(String),
}

impl Resource {
    /// A resource at `issuer` + `path`; its tokens carry `scopes`.
    pub fn new(issuer: &Issuer, path: &str, scopes: ScopeSet) -> Result<Self, ResourceError> {
        let segments = path.strip_prefix('/').ok_or(ResourceError::Path)?;
        let plain = |segment: &str| {
            let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(unreserved)
        };
        if !segments.split('/').all(plain) {
            return Err(ResourceError::Path);
        }
        let first = segments.split('/').next().unwrap_or_default();
        if RESERVED.contains(&first) {
            return Err(ResourceError::Reserved(format!("/{first}")));
        }
        Ok(Resource { path: path.to_owned(), url: issuer.url(path), scopes })
    }

    /// The path clients type, without a trailing slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The canonical URL: what metadata says and tokens are bound to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The scopes a token for this resource needs.
    pub fn scopes(&self) -> &ScopeSet {
        &self.scopes
    }
}

/// Finds the resource a client's `resource` parameter means.
///
/// Clients send the configured URL, the same with a slash more or less, with an extra query, or only the
/// origin (then the first resource is meant). A fragment is never allowed (RFC 8707 §2).
pub fn named<'a>(
    resources: impl IntoIterator<Item = &'a Resource>,
    issuer: &Issuer,
    text: &str,
) -> Option<&'a Resource> {
    let url = Url::parse(text).ok()?;
    // What the parser would silently mend is not what anybody configured.
    let (_, rest) = text.split_once(':')?;
    let mended =
        !rest.starts_with("//") || rest.starts_with("///") || !text.bytes().all(|b| b.is_ascii_graphic());
    let rewritten = mended
        || text.contains('\\')
        || text.contains("/.")
        || text.contains("/%2e")
        || text.contains("/%2E");
    let odd = url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() || rewritten;
    if odd || url.origin().ascii_serialization() != issuer.as_str() {
        return None;
    }
    let path = url.path().strip_suffix('/').unwrap_or(url.path());
    resources.into_iter().find(|resource| path.is_empty() || resource.path == path)
}

/// Where the metadata of a resource is found, before its path (RFC 9728 §3.1).
pub const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// First path segments that a resource cannot take.
const RESERVED: [&str; 11] = [
    ".well-known",
    "authorize",
    "consent",
    "github",
    "healthz",
    "introspect",
    "metrics",
    "readyz",
    "register",
    "revoke",
    "token",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (Issuer, Vec<Resource>) {
        let issuer = Issuer::parse("https://p.test").expect("valid");
        let resource = |path| Resource::new(&issuer, path, ScopeSet::default()).expect("valid");
        let both = vec![resource("/u1"), resource("/team/u2")];
        (issuer, both)
    }

    #[test]
    fn paths_that_could_be_read_in_two_ways_are_refused() {
        let issuer = Issuer::parse("https://p.test").expect("valid");
        for path in
            ["", "/", "mcp", "/mcp/", "//mcp", "/a/../b", "/a/./b", "/m%63p", "/a;b", "/a?b", "/ü", "/a b"]
        {
            assert_eq!(Resource::new(&issuer, path, ScopeSet::default()), Err(ResourceError::Path), "{path}");
        }
        let reserved = Resource::new(&issuer, "/token/x", ScopeSet::default());
        assert_eq!(reserved, Err(ResourceError::Reserved("/token".into())));
    }

    #[test]
    fn the_resource_parameter_is_matched_tolerantly() {
        let (issuer, both) = two();
        for (text, path) in [
            ("https://p.test/u1", "/u1"),
            ("https://P.TEST:443/u1/", "/u1"),
            ("https://p.test/team/u2?kb_name=x", "/team/u2"),
            ("https://p.test", "/u1"),
            ("https://p.test/", "/u1"),
        ] {
            assert_eq!(named(&both, &issuer, text).map(Resource::path), Some(path), "{text}");
        }
    }

    #[test]
    fn foreign_and_ambiguous_resources_are_unknown() {
        let (issuer, both) = two();
        for text in [
            "http://p.test/u1",
            "https://p.test/u1evil",
            "https://p.test.evil/u1",
            "https://p.test/u1/../team/u2",
            "https://p.test/x/%2e%2e/u1",
            "https://p.test/u1#f",
            "https://u@p.test/u1",
            "https://p.test\\u1",
            "/u1",
            "",
        ] {
            assert_eq!(named(&both, &issuer, text), None, "{text}");
        }
    }
}
