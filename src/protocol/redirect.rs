//! Redirect URIs: parsed strictly, compared as raw text; only the port of a loopback host may differ.
//!
//! RFC 8252 §7, §8; RFC 9700 §2.1, §4.1; OAuth 2.1 §8.4.2.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

/// An absolute URI without fragment, in exactly the spelling the client gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RedirectUri {
    raw: String,
    kind: RedirectKind,
}

/// Where a redirect URI leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectKind {
    /// `https://host/…`
    Https,
    /// `http://` on `localhost`, `127.0.0.1` or `[::1]`: a program on the person's machine (RFC 8252 §7.3).
    Loopback,
    /// `cursor://…`, `com.example.app:/…` (RFC 8252 §7.1).
    PrivateUse,
}

/// Why a text is not a redirect URI we would ever send somebody to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    #[error("is not an absolute URI of printable ASCII without spaces, quotes or backslashes")]
    Malformed,
    #[error("is longer than {MAX_LENGTH} characters")]
    TooLong,
    #[error("has a fragment")]
    Fragment,
    #[error("carries a user name")]
    UserInfo,
    #[error("uses plain http on a host that is not localhost, 127.0.0.1 or [::1]")]
    PlainHttp,
    #[error("uses a scheme that runs or reads something on the person's machine")]
    DangerousScheme,
    #[error("already carries a parameter of the authorization response (code, state, iss or error)")]
    ResponseParameter,
}

impl RedirectUri {
    /// Parses one URI; the text is kept byte for byte.
    pub fn parse(raw: &str) -> Result<Self, RedirectError> {
        if raw.len() > MAX_LENGTH {
            return Err(RedirectError::TooLong);
        }
        let printable = |byte: u8| byte.is_ascii_graphic() && !b"\"'<>\\^`{|}".contains(&byte);
        if !raw.bytes().all(printable) {
            return Err(RedirectError::Malformed);
        }
        if raw.contains('#') {
            return Err(RedirectError::Fragment);
        }
        let (scheme, rest) = raw.split_once(':').ok_or(RedirectError::Malformed)?;
        let kind = match scheme {
            "https" | "http" => web(scheme, raw, rest)?,
            private => private_use(private, rest)?,
        };
        // An authorization response must have exactly one of each, ours.
        let query = raw.split_once('?').map(|(_, query)| query).unwrap_or_default();
        if form_urlencoded::parse(query.as_bytes()).any(|(name, _)| RESPONSE_PARAMETERS.contains(&&*name)) {
            return Err(RedirectError::ResponseParameter);
        }
        Ok(RedirectUri { raw: raw.to_owned(), kind })
    }

    /// The text as the client gave it.
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// Where it leads.
    pub fn kind(&self) -> RedirectKind {
        self.kind
    }

    /// Whether `asked` may be used by a client that registered `self`.
    pub fn permits(&self, asked: &RedirectUri) -> bool {
        if self.raw == asked.raw {
            return true;
        }
        // RFC 8252 §7.3: any port MUST be allowed at request time for loopback redirect URIs; found on raw
        // text, so that nothing is normalised on the way.
        match (loopback_parts(&self.raw), loopback_parts(&asked.raw)) {
            (Some(registered), Some(asked)) => registered == asked,
            _ => false,
        }
    }

    /// What a person needs to see: scheme and host, in ASCII.
    pub fn shown_host(&self) -> &str {
        let after_scheme = self.raw.find("://").map_or(0, |at| at + 3);
        let end = self.raw[after_scheme..].find(['/', '?']).map_or(self.raw.len(), |at| after_scheme + at);
        match self.kind {
            RedirectKind::PrivateUse => self.raw.split_once(':').map_or("", |(scheme, _)| scheme),
            RedirectKind::Https | RedirectKind::Loopback => &self.raw[after_scheme..end],
        }
    }

    /// The URI with the parameters of an authorization response added to its query.
    pub fn with(&self, params: &[(&str, &str)]) -> String {
        let mut encoder = form_urlencoded::Serializer::new(String::new());
        encoder.extend_pairs(params);
        let separator = match self.raw.split_once('?') {
            None => "?",
            Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
            Some(_) => "&",
        };
        format!("{}{separator}{}", self.raw, encoder.finish())
    }
}

fn web(scheme: &str, raw: &str, rest: &str) -> Result<RedirectKind, RedirectError> {
    let rest = rest.strip_prefix("//").ok_or(RedirectError::Malformed)?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(RedirectError::UserInfo);
    }
    // What we compare (raw) and what a browser opens (parsed) must name the same host.
    let url = Url::parse(raw).map_err(|_| RedirectError::Malformed)?;
    let host = host_of(authority);
    if url.host_str() != Some(host.to_ascii_lowercase().as_str()) || host.contains('*') {
        return Err(RedirectError::Malformed);
    }
    match scheme {
        "https" => Ok(RedirectKind::Https),
        _ if LOOPBACK_HOSTS.contains(&host) => Ok(RedirectKind::Loopback),
        _ => Err(RedirectError::PlainHttp),
    }
}

fn private_use(scheme: &str, rest: &str) -> Result<RedirectKind, RedirectError> {
    let valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !valid || !rest.starts_with('/') {
        return Err(RedirectError::Malformed);
    }
    let lower = scheme.to_ascii_lowercase();
    let dangerous = DANGEROUS_SCHEMES.contains(&lower.as_str())
        || DANGEROUS_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    // Only lower case: `HTTPS:` and `JavaScript:` would be other words to us than to a browser.
    if dangerous || scheme != lower {
        Err(RedirectError::DangerousScheme)
    } else {
        Ok(RedirectKind::PrivateUse)
    }
}

fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

/// Host and everything after the port, when the host is a loopback one; ports are dropped.
fn loopback_parts(raw: &str) -> Option<(&str, &str)> {
    let rest = raw.strip_prefix("http://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let host = host_of(authority);
    LOOPBACK_HOSTS.contains(&host).then_some((host, tail))
}

impl TryFrom<String> for RedirectUri {
    type Error = RedirectError;
    fn try_from(raw: String) -> Result<Self, RedirectError> {
        Self::parse(&raw)
    }
}

impl From<RedirectUri> for String {
    fn from(uri: RedirectUri) -> String {
        uri.raw
    }
}

impl fmt::Display for RedirectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

const MAX_LENGTH: usize = 2048;
const LOOPBACK_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
const RESPONSE_PARAMETERS: [&str; 5] = ["code", "state", "iss", "error", "error_description"];
// Schemes that a browser or the system acts on by itself; everything else reaches a person as a link only.
const DANGEROUS_SCHEMES: [&str; 27] = [
    "about",
    "blob",
    "chrome",
    "data",
    "file",
    "filesystem",
    "ftp",
    "ftps",
    "intent",
    "jar",
    "javascript",
    "mailto",
    "mhtml",
    "moz-extension",
    "news",
    "nntp",
    "resource",
    "sftp",
    "sms",
    "smb",
    "ssh",
    "tel",
    "telnet",
    "vbscript",
    "view-source",
    "ws",
    "wss",
];
const DANGEROUS_PREFIXES: [&str; 4] = ["ms-", "search-ms", "chrome-", "x-apple"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> RedirectUri {
        RedirectUri::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_three_kinds_parse() {
        assert_eq!(uri("https://app.example/cb?a=b").kind(), RedirectKind::Https);
        assert_eq!(uri("http://127.0.0.1/").kind(), RedirectKind::Loopback);
        assert_eq!(uri("http://[::1]:4000/cb").kind(), RedirectKind::Loopback);
        assert_eq!(uri("cursor://anysphere.cursor-mcp/oauth/callback").kind(), RedirectKind::PrivateUse);
        assert_eq!(uri("com.example.app:/cb").kind(), RedirectKind::PrivateUse);
    }

    #[test]
    fn what_could_mislead_a_browser_or_a_person_is_refused() {
        use RedirectError::*;
        for (text, error) in [
            ("https://app.example/cb#f", Fragment),
            ("https://app.example@evil.test/cb", UserInfo),
            ("https://u:p@app.example/cb", UserInfo),
            ("http://app.example/cb", PlainHttp),
            ("http://127.0.0.1.evil.test/cb", PlainHttp),
            ("http://127.1/cb", Malformed),
            ("javascript:alert(1)", Malformed),
            ("javascript://x/%0aalert(1)", DangerousScheme),
            ("JaVaScript:/x", DangerousScheme),
            ("data:/text", DangerousScheme),
            ("file:///etc/passwd", DangerousScheme),
            ("ms-msdt:/id", DangerousScheme),
            ("HTTPS://app.example/cb", DangerousScheme),
            ("java\tscript:/x", Malformed),
            ("https:app.example/cb", Malformed),
            ("https:///app.example/cb", Malformed),
            ("https:\\\\app.example", Malformed),
            ("https://\u{430}pp.example/cb", Malformed),
            ("https://app\u{3002}example/cb", Malformed),
            ("/relative", Malformed),
            ("", Malformed),
            ("https://app.example/cb?code=X", ResponseParameter),
            ("https://app.example/cb?a=b&%73tate=Y", ResponseParameter),
        ] {
            assert_eq!(RedirectUri::parse(text), Err(error), "{text}");
        }
        assert_eq!(RedirectUri::parse(&format!("https://a.example/{}", "x".repeat(2048))), Err(TooLong));
    }

    #[test]
    fn only_the_port_of_a_loopback_host_may_differ() {
        for (registered, asked) in [
            ("http://127.0.0.1/cb", "http://127.0.0.1:51234/cb"),
            ("http://localhost:3118/callback", "http://localhost:9/callback"),
            ("http://[::1]:1/cb?a=b", "http://[::1]/cb?a=b"),
            ("https://app.example/cb", "https://app.example/cb"),
        ] {
            assert!(uri(registered).permits(&uri(asked)), "{registered} {asked}");
        }
        for (registered, asked) in [
            ("http://localhost/cb", "http://127.0.0.1/cb"),
            ("http://127.0.0.1/cb", "http://[::1]/cb"),
            ("http://127.0.0.1/cb", "http://127.0.0.1/cb/"),
            ("http://127.0.0.1/cb", "http://127.0.0.1:1/cb?a=b"),
            ("https://app.example/cb", "https://app.example:8443/cb"),
            ("https://localhost/cb", "https://localhost:1/cb"),
            ("https://app.example/cb", "https://app.example/cb/x"),
            ("https://app.example/cb", "https://app.example/cb?a=b"),
            ("https://app.example/cb", "https://App.example/cb"),
        ] {
            assert!(!uri(registered).permits(&uri(asked)), "{registered} {asked}");
        }
    }

    #[test]
    fn response_parameters_join_an_existing_query() {
        let params = [("code", "a b"), ("state", "&=")];
        assert_eq!(uri("https://a.example/cb").with(&params), "https://a.example/cb?code=a+b&state=%26%3D");
        assert_eq!(
            uri("https://a.example/cb?x=1").with(&params),
            "https://a.example/cb?x=1&code=a+b&state=%26%3D"
        );
        assert_eq!(uri("cursor://a/cb?").with(&params), "cursor://a/cb?code=a+b&state=%26%3D");
        // Only the first question mark begins the query.
        assert_eq!(uri("cursor://a/cb?x=1?").with(&params), "cursor://a/cb?x=1?&code=a+b&state=%26%3D");
    }

    #[test]
    fn people_see_the_host_or_the_scheme() {
        assert_eq!(uri("https://xn--80ak6aa92e.example:8443/cb").shown_host(), "xn--80ak6aa92e.example:8443");
        assert_eq!(uri("https://app.example?x=/evil.test").shown_host(), "app.example");
        assert_eq!(uri("cursor://anysphere/cb").shown_host(), "cursor");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_keeps_the_text(text in ".{0,80}") {
            if let Ok(uri) = RedirectUri::parse(&text) {
                prop_assert_eq!(uri.as_str(), &text);
                prop_assert!(uri.permits(&uri));
            }
        }

        #[test]
        fn a_permitted_uri_shares_the_host_a_browser_sees(port in 1u16.., tail in "[a-z/?=&.%]{0,12}") {
            let registered = "http://127.0.0.1:7/cb";
            let asked = format!("http://127.0.0.1:{port}{tail}");
            if let Ok(asked) = RedirectUri::parse(&asked) && uri(registered).permits(&asked) {
                let url = Url::parse(asked.as_str()).expect("parsed before");
                prop_assert_eq!((url.host_str(), url.path()), (Some("127.0.0.1"), "/cb"));
            }
        }
    }
}
