//! The `WWW-Authenticate` challenges of one resource, rendered once. RFC 6750 §3; RFC 9728 §5.1.

use http::HeaderValue;

use crate::protocol::issuer::Issuer;
use crate::protocol::resource::{METADATA_PATH, Resource};

/// Ready-made challenges.
#[derive(Clone, Debug)]
pub struct Challenges {
    /// No token was sent: no `error` (RFC 6750 §3.1).
    pub bare: HeaderValue,
    /// A token was sent that is not good (any more).
    pub invalid_token: HeaderValue,
    /// RFC 6750 §3.1: the request was malformed.
    pub invalid_request: HeaderValue,
    /// A token was sent that is good for less.
    pub insufficient_scope: HeaderValue,
}

impl Challenges {
    /// The challenges of a resource. All texts are ours or were parsed: nothing needs quoting.
    pub fn new(issuer: &Issuer, resource: &Resource) -> Self {
        let metadata = issuer.url(&format!("{METADATA_PATH}{}", resource.path()));
        let tail = format!("resource_metadata=\"{metadata}\", scope=\"{}\"", resource.scopes());
        let error = |code: &str, description: &str| {
            value(&format!("Bearer error=\"{code}\", error_description=\"{description}\", {tail}"))
        };
        Challenges {
            bare: value(&format!("Bearer {tail}")),
            invalid_token: error("invalid_token", INVALID_TOKEN),
            invalid_request: error("invalid_request", INVALID_REQUEST),
            insufficient_scope: error("insufficient_scope", INSUFFICIENT_SCOPE),
        }
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("URLs and scopes that were parsed are header text")
}

/// Said in the challenge and in the body.
pub const INVALID_TOKEN: &str = "the access token is expired, revoked or not for this resource";
/// Said in the challenge and in the body.
pub const INVALID_REQUEST: &str = "send exactly one Authorization header of the form Bearer TOKEN";
/// Said in the challenge and in the body.
pub const INSUFFICIENT_SCOPE: &str = "the access token does not carry every scope this resource needs";
