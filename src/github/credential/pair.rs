//! What is sealed into a credential's record: GitHub's tokens, and those that they took the place of.

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::github::Granted;
use crate::seal::Sealable;

/// GitHub's tokens for one person and scope set.
#[derive(Serialize, Deserialize)]
pub(super) struct TokenPair {
    pub access: String,
    pub refresh: Option<String>,
    /// Access tokens of earlier logins, oldest first. An upstream may hold on to the one it was given for as
    /// long as its session lasts, so they are deleted at GitHub with the last login and not before.
    pub replaced: Vec<String>,
}

impl Sealable for TokenPair {
    const KIND: &'static str = "github credential";
}

impl TokenPair {
    /// What a login brought, in the place of what was there.
    pub fn of_login(granted: &Granted, before: Option<TokenPair>) -> Self {
        let access = granted.access_token.expose_secret().to_owned();
        let mut replaced: Vec<String> = before.iter().flat_map(TokenPair::all).collect();
        replaced.retain(|token| *token != access);
        replaced.drain(..replaced.len().saturating_sub(MAX_REPLACED));
        let refresh = granted.refresh_token.as_ref().map(|token| token.expose_secret().to_owned());
        TokenPair { access, refresh, replaced }
    }

    /// What a refresh brought: GitHub has killed both old tokens by itself.
    pub fn of_refresh(granted: &Granted, before: Self) -> Self {
        let access = granted.access_token.expose_secret().to_owned();
        // GitHub may keep the refresh token and not say so.
        let refresh = granted.refresh_token.as_ref().map(|token| token.expose_secret().to_owned());
        TokenPair { access, refresh: refresh.or(before.refresh), replaced: before.replaced }
    }

    /// Every access token that may live at GitHub.
    pub fn all(&self) -> impl Iterator<Item = String> {
        self.replaced.iter().chain([&self.access]).cloned()
    }
}

/// GitHub keeps ten per person, app and scopes, and kills the oldest.
const MAX_REPLACED: usize = 9;
