//! Web origins: which pages may call a resource, and the CORS headers that let them.
//!
//! Requests are authenticated by a bearer token alone, never by cookies, so `*` without credentials is safe;
//! the Origin check is there against DNS rebinding (MCP transports, security warning).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use url::Url;

use crate::protocol::fields::{Fields, Twice, text};
use crate::protocol::issuer::{Issuer, is_loopback};

/// Which origins may call resources.
#[derive(Clone, Debug)]
pub struct Origins {
    own: String,
    allowed: Vec<String>,
}

impl Origins {
    /// Our own origin, loopback origins (the Inspector), and what the operator listed.
    pub fn new(issuer: &Issuer, allowed: Vec<String>) -> Self {
        Origins { own: issuer.as_str().to_owned(), allowed }
    }

    /// Whether a request may come from where it says; requests without Origin come from no page.
    pub fn allow(&self, fields: &Fields) -> bool {
        match fields.single("origin") {
            Ok(None) => true,
            Ok(Some(origin)) => text(origin).is_some_and(|origin| self.allows(origin)),
            Err(Twice) => false,
        }
    }

    fn allows(&self, origin: &str) -> bool {
        let listed = self.own == origin || self.allowed.iter().any(|allowed| allowed == origin);
        listed
            || Url::parse(origin).is_ok_and(|url| {
                // Only an exact serialisation is an origin; anything else is somebody's experiment.
                is_loopback(&url) && url.origin().ascii_serialization() == origin
            })
    }
}

/// Lets a page read an answer. No credentials: cookies never count.
pub fn expose(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
}

/// The answer to a preflight, which browsers send without credentials.
pub fn preflight(headers: &mut HeaderMap, methods: &'static str) {
    const MAX_AGE: HeaderName = header::ACCESS_CONTROL_MAX_AGE;
    expose(headers);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED));
    headers.insert(MAX_AGE, HeaderValue::from_static("86400"));
}

// `*` does not cover Authorization, and Mcp-Param-* is open-ended: both are needed.
const ALLOWED: &str = "Authorization, Content-Type, Accept, MCP-Protocol-Version, Mcp-Session-Id, Last-Event-ID, \
                       Mcp-Method, Mcp-Name, traceparent, tracestate, baggage, *";
const EXPOSED: &str = "WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version, Retry-After, Location, *";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_judged_exactly() {
        let issuer = Issuer::parse("https://p.test").expect("valid");
        let origins = Origins::new(&issuer, vec!["https://app.example".into()]);
        for good in [
            "https://p.test",
            "https://app.example",
            "http://localhost:6274",
            "http://127.0.0.1",
            "http://[::1]:1",
        ] {
            assert!(origins.allows(good), "{good}");
        }
        for bad in [
            "null",
            "https://p.test.evil",
            "https://p.test@evil",
            "file://",
            "http://p.test",
            "https://p.test/",
            "http://localhost.evil",
            "http://localhost@evil",
            "http://localhost:6274/",
            "",
            "http://attacker.test",
        ] {
            assert!(!origins.allows(bad), "{bad}");
        }
        let mut two = Fields::default();
        two.add("origin", b"https://p.test");
        assert!(origins.allow(&two));
        two.add("origin", b"https://p.test");
        assert!(!origins.allow(&two));
    }
}
