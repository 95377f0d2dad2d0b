//! The issuer: the public URL of this proxy, from which every endpoint URL is derived.
//!
//! Never derived from a request (Host, X-Forwarded-Host). RFC 8414 §2, §3.3; RFC 9207 §2.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

/// An origin without a path: https, or http on a loopback host. No trailing slash, no query, no fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    origin: String,
    authority: String,
    port: u16,
    loopback: bool,
    secure: bool,
}

/// Why a text is not an issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Not an absolute URL.
    #[error("expected an absolute URL like https://mcp.example.com, got {0:?}")]
    NotAUrl(String),
    /// Credentials would travel in clear (OAuth 2.1 §1.5).
    #[error("plain http is accepted on loopback hosts only; use https")]
    PlainHttp,
    /// Another scheme than http or https.
    #[error("expected https (or http on a loopback host), got {0:?}")]
    Scheme(String),
    /// Endpoints live at the root (clients of 2025-03-26 guess them there).
    #[error("expected no path, query, fragment or user name: the endpoints are served at the root")]
    NotAnOrigin,
}

impl Issuer {
    /// The port of https that is not written.
    pub const HTTPS_PORT: u16 = 443;

    /// Parses a configured public URL; one trailing slash is forgiven.
    pub fn parse(text: &str) -> Result<Self, IssuerError> {
        let url = Url::parse(text).map_err(|_| IssuerError::NotAUrl(text.to_owned()))?;
        let loopback = is_loopback(&url);
        let secure = match url.scheme() {
            "https" => true,
            "http" if loopback => false,
            "http" => return Err(IssuerError::PlainHttp),
            other => return Err(IssuerError::Scheme(other.to_owned())),
        };
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(IssuerError::NotAnOrigin);
        }
        let origin = url.origin().ascii_serialization();
        let authority = origin.split_once("://").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        Ok(Issuer { origin, authority, port, loopback, secure })
    }

    /// `https://host[:port]`, exactly as metadata and `iss` carry it.
    pub fn as_str(&self) -> &str {
        &self.origin
    }

    /// `host[:port]` as a client's Host header carries it (no default port).
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The host alone: a name, or an address (IPv6 in brackets).
    pub fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.authority,
        }
    }

    /// The absolute URL of one of our paths.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// The port clients connect to, written or not.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the public URL is https.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether the public URL names this machine only.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

/// Whether a URL's host is the machine itself: `localhost` or a loopback address.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_an_origin() {
        let issuer = Issuer::parse("HTTPS://Mcp.Example.com:443/").expect("valid");
        assert_eq!(issuer.as_str(), "https://mcp.example.com");
        assert_eq!(issuer.authority(), "mcp.example.com");
        assert_eq!(issuer.url("/token"), "https://mcp.example.com/token");
        assert!(Issuer::parse("http://localhost:8000").expect("loopback").is_loopback());
        assert!(Issuer::parse("http://[::1]:8000").is_ok());
        for (url, host) in [
            ("https://mcp.example.com", "mcp.example.com"),
            ("https://mcp.example.com:8443", "mcp.example.com"),
            ("https://[::1]", "[::1]"),
            ("https://[::1]:8443", "[::1]"),
        ] {
            assert_eq!(Issuer::parse(url).expect("valid").host(), host);
        }
    }

    #[test]
    fn other_urls_are_refused_with_their_reason() {
        assert_eq!(Issuer::parse("http://mcp.example.com"), Err(IssuerError::PlainHttp));
        assert_eq!(Issuer::parse("ftp://localhost"), Err(IssuerError::Scheme("ftp".into())));
        for not_origin in
            ["https://a.example/x", "https://a.example/?q", "https://a.example/#f", "https://u@a.example"]
        {
            assert_eq!(Issuer::parse(not_origin), Err(IssuerError::NotAnOrigin), "{not_origin}");
        }
        assert!(matches!(Issuer::parse("mcp.example.com"), Err(IssuerError::NotAUrl(_))));
    }
}
