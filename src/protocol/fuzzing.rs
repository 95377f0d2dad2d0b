//! Properties of parameters, scopes, redirect URIs and resources.

use http::HeaderValue;
use url::{Url, form_urlencoded};

use super::issuer::Issuer;
use super::params::{Params, ParamsError};
use super::redirect::{RedirectKind, RedirectUri};
use super::resource::{self, Resource};
use super::scope::{ScopeSet, is_token};

/// Every parameter once, as text, and the same again after it was written down.
pub(crate) fn params(text: &[u8]) {
    let pairs: Vec<(String, String)> = form_urlencoded::parse(text).into_owned().collect();
    let twice = |name: &str| pairs.iter().filter(|(other, _)| other == name).count() > 1;
    let params = match Params::parse(text) {
        Ok(params) => params,
        Err(ParamsError::Repeated(name)) => {
            return assert!(pairs.iter().any(|(other, _)| other.starts_with(&name) && twice(other)));
        }
        Err(ParamsError::TooMany) => return assert!(text.split(|byte| *byte == b'&').count() > 64),
        Err(ParamsError::NotText) => {
            let odd = |text: &str| text.contains(['\u{fffd}', '\0']);
            return assert!(pairs.iter().any(|(name, value)| odd(name) || odd(value)));
        }
    };
    let mut printer = form_urlencoded::Serializer::new(String::new());
    let printed = printer.extend_pairs(&pairs).finish();
    let again = Params::parse(printed.as_bytes()).expect("what was good is good");
    assert!(pairs.len() <= 64);
    for (name, value) in &pairs {
        assert!(!twice(name), "{name}");
        assert!(!value.contains('\0'));
        assert_eq!((params.raw(name), again.raw(name)), (Some(&**value), Some(&**value)));
        assert_eq!(params.get(name), Some(&**value).filter(|value| !value.is_empty()));
    }
}

/// Sorted, without doubles, only tokens, and never wider than what they were narrowed to.
pub(crate) fn scopes(text: &str) {
    let set = ScopeSet::parse(text);
    let listed: Vec<&str> = set.iter().collect();
    assert!(listed.is_sorted_by(|a, b| a < b) && listed.iter().all(|scope| is_token(scope)));
    assert!(listed.iter().all(|scope| text.split(' ').any(|word| word == *scope)));
    assert!(text.split(' ').all(|word| set.contains(word) == is_token(word)));
    assert_eq!(ScopeSet::parse(&set.to_string()), set);
    let (half, rest) = text.split_once('\n').unwrap_or((text, "mcp"));
    let (half, rest) = (ScopeSet::parse(half), ScopeSet::parse(rest));
    let both = half.narrowed_to(&rest);
    assert!(half.covers(&both) && rest.covers(&both));
    assert_eq!(both, rest.narrowed_to(&half));
    if half.len() <= ScopeSet::MAX {
        assert_eq!(half.masked(half.mask_of(&rest)), both);
    }
    assert!(half.covers(&half.masked(u16::MAX)));
}

/// Lines: what was registered, what is asked for, a `state`, a `resource`.
pub fn redirect(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (registered, asked, state, resource) = (next(), next(), next(), next());
    let parsed =
        [registered, asked].map(|text| RedirectUri::parse(text).inspect(|uri| one(uri, text, state)));
    if let [Ok(registered), Ok(asked)] = &parsed {
        permitted(registered, asked);
    }
    named(resource);
    if let Ok(issuer) = Issuer::parse(resource) {
        assert_eq!(Issuer::parse(issuer.as_str()).as_ref(), Ok(&issuer), "{resource}");
        assert!(issuer.as_str().ends_with(issuer.authority()));
    }
}

/// What we took is what a browser opens, and the answer arrives there once.
fn one(uri: &RedirectUri, text: &str, state: &str) {
    assert_eq!(uri.as_str(), text);
    let json = serde_json::to_string(uri).expect("text");
    assert_eq!(&serde_json::from_str::<RedirectUri>(&json).expect("what was good is good"), uri);
    let answer = uri.with(&[("code", "mapc_x"), ("state", state), ("iss", "https://p.test")]);
    assert!(answer.starts_with(text), "{answer}");
    assert!(HeaderValue::from_str(&answer).is_ok(), "{answer:?} is no header");
    // A private-use URI may be none to the parser; then no browser opens it.
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return assert_eq!(uri.kind(), RedirectKind::PrivateUse, "{text}: {error}"),
    };
    let shown = uri.shown_host();
    let name = shown.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(shown, |(name, _)| name);
    match uri.kind() {
        RedirectKind::Https => {
            assert_eq!((url.scheme(), url.host_str()), ("https", Some(&*name.to_lowercase())))
        }
        RedirectKind::Loopback => {
            assert_eq!((url.scheme(), url.host_str()), ("http", Some(name)));
            assert!(["localhost", "127.0.0.1", "[::1]"].contains(&name));
        }
        RedirectKind::PrivateUse => {
            assert_eq!(url.scheme(), shown);
            let web =
                ["http", "https", "javascript", "data", "vbscript", "file", "blob", "about", "ws", "wss"];
            assert!(!web.contains(&url.scheme()), "{text}");
        }
    }
    if uri.kind() != RedirectKind::PrivateUse {
        assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none(), "{text}");
    }
    let answered = match Url::parse(&answer) {
        Ok(url) => url,
        Err(error) => return assert_eq!(uri.kind(), RedirectKind::PrivateUse, "{answer}: {error}"),
    };
    assert_eq!(
        (answered.host_str(), answered.port(), answered.path()),
        (url.host_str(), url.port(), url.path())
    );
    for (name, value) in [("code", "mapc_x"), ("state", state), ("iss", "https://p.test")] {
        let values: Vec<_> = answered.query_pairs().filter(|(other, _)| other == name).collect();
        assert!(values.len() == 1 && values[0].1 == value, "{answer}");
    }
}

/// Raw equality, or the port of a loopback host.
fn permitted(registered: &RedirectUri, asked: &RedirectUri) {
    assert!(registered.permits(registered));
    assert_eq!(registered.permits(asked), asked.permits(registered));
    if !registered.permits(asked) || registered == asked {
        return;
    }
    let portless = |uri: &RedirectUri| {
        assert_eq!(uri.kind(), RedirectKind::Loopback, "{uri}");
        let mut url = Url::parse(uri.as_str()).expect("a URL");
        url.set_port(None).expect("it has a host");
        let (_, rest) = uri.as_str().split_once("://").expect("a scheme");
        let tail = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
        (url, tail.to_owned())
    };
    assert_eq!(portless(registered), portless(asked));
}

/// A text that names a resource has our origin, and its path and nothing else.
fn named(text: &str) {
    let world = crate::fuzzing::world();
    let Some(found) = resource::named(&world.resources, &world.issuer, text) else { return };
    let url = Url::parse(text).expect("a URL");
    assert_eq!(url.origin().ascii_serialization(), world.issuer.as_str(), "{text}");
    let (_, rest) = text.split_once("://").expect("a scheme");
    let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]).split('?').next().unwrap_or_default();
    let bare = path.strip_suffix('/').unwrap_or(path);
    assert!(bare == found.path() || (bare.is_empty() && found == &world.resources[0]), "{text}");
    let same = Resource::new(&world.issuer, found.path(), found.scopes().clone());
    assert_eq!(same.as_ref(), Ok(found));
}
