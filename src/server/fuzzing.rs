//! Properties of the rim: which requests are for us, and which room they reach.

use http::{Method, Request, header};
use url::Url;

use super::router::{self, Route};
use super::vet;
use crate::fuzzing::world;
use crate::oauth;
use crate::protocol::request as rim;

pub use super::http1::fuzzing::request;

/// A request that passes names one of our hosts once; a resource is reached by its own bytes only.
pub(crate) fn head(request: &Request<()>) {
    let world = world();
    let documents = oauth::fuzzing::documents();
    let paths = world.resources.iter().map(|resource| resource.path());
    let path = request.uri().path();
    let number = match router::find(paths, documents, path) {
        Route::Resource(number) => Some(number),
        _ => None,
    };
    let expected = match path {
        "/mcp" | "/mcp/" => Some(0),
        "/team/other" | "/team/other/" => Some(1),
        _ => None,
    };
    assert_eq!(number, expected, "{path}");
    if vet::request(&world.issuer, &rim::Request::from(request.clone())).is_err() {
        return;
    }
    assert!(!matches!(*request.method(), Method::CONNECT | Method::TRACE));
    let hosts: Vec<_> = request.headers().get_all(header::HOST).iter().collect();
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let header = hosts.first().map(|host| host.to_str().expect("text"));
    let host = authority.or(header).expect("a host");
    assert!(hosts.len() <= 1);
    assert!(header.is_none_or(|header| header.eq_ignore_ascii_case(host)));
    if let Ok(url) = Url::parse(&format!("https://{host}/")) {
        let name = url.host_str().expect("a host");
        assert!(["p.test", "localhost", "127.0.0.1", "[::1]"].contains(&name), "{host}");
        assert!(name != "p.test" || url.port().is_none(), "{host}");
        assert!(url.username().is_empty() && url.password().is_none() && url.path() == "/", "{host}");
    }
}
