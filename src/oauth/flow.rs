//! A login on its way: carried by the browser under our seal, so that a stranger can make us store nothing.
//!
//! First in the consent form, bound to the consent cookie; after approval in GitHub's `state`, which holds the
//! hash of the login cookie, so that one that turns up in another browser is known and never used again. The two
//! kinds never open as one another: before approval no `state` exists.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::Time;
use crate::protocol::client::Origin;
use crate::protocol::pkce::CodeChallenge;
use crate::protocol::redirect::RedirectUri;
use crate::protocol::scope::ScopeSet;
use crate::seal::Sealable;

/// A validated authorization request: client known, redirect registered, S256 present, resource ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flow {
    pub id: [u8; 16],
    pub client_id: String,
    pub client_name: String,
    pub origin: Origin,
    pub redirect_uri: RedirectUri,
    pub state: Option<String>,
    pub challenge: CodeChallenge,
    /// Path of the resource.
    pub resource: String,
    pub scopes: ScopeSet,
    pub started: Time,
}

/// Waits for the person's decision.
#[derive(Serialize, Deserialize)]
pub struct PendingConsent(pub Flow);

/// Was approved and waits for GitHub.
#[derive(Serialize, Deserialize)]
pub struct PendingLogin {
    pub flow: Flow,
    /// Our PKCE verifier towards GitHub, before encoding.
    pub verifier: [u8; 32],
    browser: [u8; 32],
}

impl PendingLogin {
    /// A login that goes on in the browser which holds this cookie.
    pub fn new(flow: Flow, verifier: [u8; 32], cookie: &str) -> Self {
        PendingLogin { flow, verifier, browser: Sha256::digest(cookie).into() }
    }

    /// Whether this is that browser.
    pub fn is_of(&self, cookie: Option<&str>) -> bool {
        cookie.is_some_and(|cookie| Sha256::digest(cookie).ct_eq(&self.browser).into())
    }
}

impl Sealable for PendingConsent {
    const KIND: &'static str = "consent";
}

impl Sealable for PendingLogin {
    const KIND: &'static str = "login";
}

impl Flow {
    /// Whether the person took too long.
    pub fn is_over(&self, now: Time) -> bool {
        now.age_of(self.started) > FLOW_LIFETIME
    }
}

/// From the authorization request to GitHub's callback.
pub const FLOW_LIFETIME: Duration = Duration::from_secs(600);
/// What a `state` is sealed for: GitHub, whoever brings it back.
pub const STATE: &[u8] = b"state";
