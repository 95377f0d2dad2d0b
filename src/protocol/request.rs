//! A request, whoever read it from its connection.
//!
//! RFC 9110 §7.1; RFC 9112 §3.2; RFC 9113 §8.3.1.

use http::Method;

use super::fields::Fields;

/// A request.
pub struct Request<B> {
    pub method: Method,
    pub target: Target,
    /// Of a target in absolute form, or `:authority`.
    pub authority: Option<Box<str>>,
    pub fields: Fields,
    /// Whether it came by HTTP/2, where every body tells its end from an early one.
    pub is_http2: bool,
    pub body: B,
}

/// Path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: Box<str>,
    /// How long the path is.
    path: usize,
}

impl Target {
    /// `path`, or `path?query`.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        let text = text.into();
        Target { path: text.find('?').unwrap_or(text.len()), text }
    }

    /// As it was sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn path(&self) -> &str {
        &self.text[..self.path]
    }

    /// What stands behind the question mark; empty where there is none.
    pub fn query(&self) -> &str {
        self.text.get(self.path + 1..).unwrap_or_default()
    }
}

impl<B> From<http::Request<B>> for Request<B> {
    fn from(request: http::Request<B>) -> Self {
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        // RFC 9110 §4.2.3: an absolute form without a path asks for the root.
        let target = if target.starts_with('?') { format!("/{target}") } else { target.to_owned() };
        Request {
            target: Target::new(target),
            authority: parts.uri.authority().map(|authority| authority.as_str().into()),
            fields: Fields::from(&parts.headers),
            is_http2: parts.version == http::Version::HTTP_2,
            method: parts.method,
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_path_and_perhaps_a_query() {
        for (text, path, query) in [
            ("/mcp", "/mcp", ""),
            ("/mcp?", "/mcp", ""),
            ("/a?b?c", "/a", "b?c"),
            ("", "", ""),
            ("*", "*", ""),
        ] {
            let target = Target::new(text);
            assert_eq!((target.as_str(), target.path(), target.query()), (text, path, query));
        }
    }

    #[test]
    fn what_hyper_has_read_is_the_same_request() {
        let read = http::Request::post("http://p.test:80/mcp?a=b").version(http::Version::HTTP_2);
        let request = Request::from(read.header("A", "1").body(7).expect("a request"));
        assert_eq!((request.target.as_str(), request.authority.as_deref()), ("/mcp?a=b", Some("p.test:80")));
        assert_eq!(
            (request.method, request.fields.get("a"), request.body),
            (Method::POST, Some(&b"1"[..]), 7)
        );
        assert!(request.is_http2);
        for (uri, target) in
            [("http://p.test", "/"), ("http://p.test?x", "/?x"), ("/a?b", "/a?b"), ("*", "*"), ("/?", "/?")]
        {
            let request = Request::from(http::Request::get(uri).body(()).expect("a request"));
            assert_eq!(request.target.as_str(), target, "{uri}");
        }
    }
}
