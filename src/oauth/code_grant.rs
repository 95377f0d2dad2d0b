//! Code grant: trade an authorization code for the first pair.
//!
//! Everything is checked before the one write that redeems the code. Does not choose lifetimes or write HTTP.
//! RFC 6749 §4.1.3; RFC 7636 §4.6; OAuth 2.1 §4.1.3.

use tracing::warn;

use super::AuthorizationServer;
use super::client_auth::AuthenticatedClient;
use super::token::{Pair, invalid_grant};
use crate::limit::Source;
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::family::{Family, Stage};
use crate::protocol::params::Params;
use crate::protocol::pkce::{CodeChallenge, CodeVerifier};
use crate::protocol::redirect::RedirectUri;
use crate::protocol::token::{Code as CodeToken, FamilyId, Verified};
use crate::store::Stored;
use crate::store::families::Redeemed;

impl AuthorizationServer {
    pub(super) async fn code_grant(
        &self,
        params: &Params,
        client: &AuthenticatedClient,
        source: Source,
    ) -> Result<Pair, OAuthError> {
        let missing = |name: &str| OAuthError::new(Code::InvalidRequest, format!("{name} is missing"));
        let code = params.get("code").ok_or_else(|| missing("code"))?;
        let verifier = params.get("code_verifier").ok_or_else(|| missing("code_verifier"))?;
        let code = Verified::<CodeToken>::parse(&*self.parts.keys, code)
            .ok_or_else(|| self.forged("not a code of ours", source))?;
        let id = code.claims.family;
        let found = self.family(&id).await?;
        Self::owned_by(client, &found.value)?;
        let Stage::CodePending { challenge, redirect_uri, expires, .. } = found.value.stage.clone() else {
            return Err(self.replayed(&id, &found.value).await);
        };
        if self.parts.clock.now() >= expires {
            return Err(invalid_grant("the code has expired"));
        }
        same_redirect(params, &redirect_uri)?;
        self.same_target(params, &found.value)?;
        self.redeem(&id, found, &challenge, verifier).await
    }

    async fn redeem(
        &self,
        id: &FamilyId,
        found: Stored<Family>,
        challenge: &CodeChallenge,
        verifier: &str,
    ) -> Result<Pair, OAuthError> {
        let proof = CodeVerifier::parse(verifier).and_then(|verifier| challenge.verify(verifier));
        let Some(proof) = proof else {
            // RFC 9700 §4.8.2: guesses are bounded, then the code is dead.
            self.parts.families.guessed(id, found).await.map_err(OAuthError::unavailable)?;
            return Err(invalid_grant("the verifier does not match the challenge"));
        };
        let seen = found.value.clone();
        match self.parts.families.redeem(id, found, proof).await.map_err(OAuthError::unavailable)? {
            Redeemed::Redeemed(family) => {
                let pair = Pair { id: *id, scopes: family.scopes.clone(), family: *family };
                self.parts.telemetry.metrics.login("redeemed");
                self.issued("authorization_code", "redeem", "redeemed", &pair);
                Ok(pair)
            }
            Redeemed::Replayed => {
                self.reused("authorization_code", id, &seen);
                warn!(family = ?id, person = seen.person, client = seen.client_name, "a code was redeemed twice at once; its grant is revoked");
                Err(invalid_grant("the code was used before"))
            }
            Redeemed::Gone => Err(invalid_grant("the code is gone")),
        }
    }

    /// RFC 6749 §4.1.2: a code used more than once SHOULD revoke what it bought.
    async fn replayed(&self, id: &FamilyId, family: &Family) -> OAuthError {
        warn!(family = ?id, person = family.person, client = family.client_name, "code replayed; its grant is revoked");
        match self.parts.families.revoke(id).await {
            Ok(()) => {
                self.reused("authorization_code", id, family);
                invalid_grant("the code was used before")
            }
            Err(error) => OAuthError::unavailable(error),
        }
    }
}

/// OAuth 2.1 no longer sends it; when sent it must match, but for the port of a loopback host.
fn same_redirect(params: &Params, authorized: &RedirectUri) -> Result<(), OAuthError> {
    let Some(sent) = params.get("redirect_uri") else { return Ok(()) };
    match RedirectUri::parse(sent) {
        Ok(sent) if authorized.permits(&sent) => Ok(()),
        _ => Err(invalid_grant("another redirect_uri than at the authorization endpoint")),
    }
}
