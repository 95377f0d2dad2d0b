//! The authorization server: one file per endpoint, all of them here as methods of [`AuthorizationServer`].
//!
//! Answers are values; `server/reply.rs` writes them. Does not know resources' traffic (gate, upstream).

mod authorize;
mod callback;
mod client_auth;
mod clients;
mod code_grant;
mod consent;
mod cookies;
pub mod document;
mod flow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod metadata;
pub mod pages;
mod places;
mod public;
mod refresh_grant;
mod register;
mod revoke;
mod together;
mod token;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use secrecy::SecretString;
use serde::de::DeserializeOwned;

use crate::clock::Clock;
use crate::github::GitHub;
use crate::github::admission::Admission;
use crate::github::credential::Credentials;
use crate::limit::{Limited, Limiters, Source};
use crate::protocol::client::Client;
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::issuer::Issuer;
use crate::protocol::redirect::{RedirectKind, RedirectUri};
use crate::protocol::resource::{self, Resource};
use crate::recent::Recent;
use crate::seal::KeyRing;
use crate::store::families::Families;
use crate::store::people::People;
use crate::telemetry::Telemetry;

pub use metadata::Documents;

/// What the authorization server needs to know.
pub struct Settings {
    pub issuer: Issuer,
    pub resources: Vec<Published>,
    /// Whether anybody may register.
    pub registration: bool,
    /// Whether clients that the operator did not configure may use private-use redirect schemes.
    pub private_use_schemes: bool,
    /// Configured clients with their secrets.
    pub clients: Vec<(Client, Option<SecretString>)>,
    /// Whether authorization responses carry `iss`.
    pub iss: bool,
}

/// A resource as the authorization server sees it.
pub struct Published {
    pub resource: Resource,
    /// Exactly what is asked of GitHub.
    pub github_scopes: Vec<String>,
    /// Whether a person's address is injected here or where the same credential serves.
    pub needs_email: bool,
}

/// What the authorization server works with.
pub struct Parts {
    pub keys: Arc<KeyRing>,
    pub clock: Clock,
    pub families: Families,
    pub people: People,
    pub github: Arc<GitHub>,
    pub credentials: Credentials,
    pub admission: Arc<Admission>,
    pub limits: Arc<Limiters>,
    /// Absent when metadata documents are switched off.
    pub documents: Option<document::Fetcher>,
    pub telemetry: Telemetry,
    pub spent: Spent,
}

/// Flows this process has seen the end of: denied, or called back. Bounded; the marker record in the store is what
/// counts.
pub type Spent = Recent<[u8; 16], ()>;

/// None so far.
pub fn spent() -> Spent {
    Recent::new(MAX_SPENT, SPENT_FOR)
}

/// All endpoints.
pub struct AuthorizationServer {
    settings: Settings,
    parts: Parts,
}

/// A request with its body read whole.
pub struct Request {
    pub method: Method,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whom limits per address count.
    pub source: Source,
}

/// A successful answer.
pub enum Answer {
    /// JSON that nobody may keep.
    Json { status: u16, body: serde_json::Value },
    /// A page, maybe with a cookie.
    Page { status: u16, html: String, cookie: Option<String> },
    /// 303, for a GET in a browser.
    Redirect(String),
    /// 200 without a body (RFC 7009 §2.2).
    Empty,
}

/// What goes wrong, by where it may be told.
#[derive(Debug)]
pub enum Failure {
    /// Client or redirect URI unknown, or the flow is not this browser's: a page, never a redirect.
    /// Clients that ask for JSON (mcp-remote looks whether its registration is still good) get the code.
    Displayed { status: u16, code: Code, title: &'static str, text: String, cause: Option<String> },
    /// To the client, by redirect.
    Redirected { error: OAuthError, location: String },
    /// Nobody vouches for the redirect URI and the person has decided nothing: a page with a link.
    /// `to` says in words where the link leads.
    Offered { error: OAuthError, location: String, to: String },
    /// Token, registration and revocation endpoints. `basic` adds the challenge of RFC 6749 §5.2.
    Json { error: OAuthError, basic: bool },
    /// By this address; `retry_after` in seconds. A page, or JSON for scripts.
    TooOften { retry_after: u64 },
}

impl AuthorizationServer {
    /// An authorization server over these parts.
    pub fn new(settings: Settings, parts: Parts) -> Self {
        AuthorizationServer { settings, parts }
    }

    /// The response parameters every authorization response shares (RFC 6749 §4.1.2, RFC 9207 §2).
    fn response_location(&self, to: &RedirectUri, state: Option<&str>, own: &[(&str, &str)]) -> String {
        let mut params = own.to_vec();
        params.extend(state.map(|state| ("state", state)));
        params.extend(self.settings.iss.then(|| ("iss", self.settings.issuer.as_str())));
        to.with(&params)
    }

    /// An error of the authorization response.
    fn error_location(&self, to: &RedirectUri, state: Option<&str>, error: &OAuthError) -> String {
        self.response_location(
            to,
            state,
            &[("error", error.code.as_str()), ("error_description", &error.public)],
        )
    }

    /// The resource that a client's `resource` parameter means (RFC 8707 §2).
    fn named_resource(&self, text: &str) -> Option<&Resource> {
        let resources = self.settings.resources.iter().map(|published| &published.resource);
        resource::named(resources, &self.settings.issuer, text)
    }

    fn published(&self, path: &str) -> Option<&Published> {
        self.settings.resources.iter().find(|published| published.resource.path() == path)
    }
}

/// Reads a JSON object. serde alone would take an array of the members in order for one.
fn json_object<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    match text.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(text),
        _ => Err(serde::de::Error::custom("not an object")),
    }
}

/// Where a redirect URI leads, in words.
fn destination(uri: &RedirectUri) -> String {
    match uri.kind() {
        RedirectKind::PrivateUse => format!("the app for {}: links", uri.shown_host()),
        RedirectKind::Https | RedirectKind::Loopback => uri.shown_host().to_owned(),
    }
}

impl From<OAuthError> for Failure {
    fn from(error: OAuthError) -> Self {
        Failure::Json { error, basic: false }
    }
}

impl From<Limited> for Failure {
    fn from(Limited { retry_after }: Limited) -> Self {
        Failure::TooOften { retry_after }
    }
}

impl From<Limited> for OAuthError {
    fn from(Limited { retry_after }: Limited) -> Self {
        OAuthError::too_often(retry_after)
    }
}

impl Failure {
    fn displayed(title: &'static str, text: impl Into<String>) -> Self {
        Failure::Displayed { status: 400, code: Code::InvalidRequest, title, text: text.into(), cause: None }
    }
}

const MAX_SPENT: usize = 100_000;
/// A little longer than a flow may take.
const SPENT_FOR: Duration = Duration::from_secs(15 * 60);
