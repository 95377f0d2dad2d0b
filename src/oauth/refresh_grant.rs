//! Refresh grant: trade a refresh token for a new pair.
//!
//! Rotated at every use; inside the grace window its predecessor yields the identical pair; reuse after that
//! revokes the family. GitHub and the allow-list are asked again before the family moves on.
//! RFC 6749 §6; RFC 9700 §4.14.2.

use tracing::warn;

use super::AuthorizationServer;
use super::client_auth::AuthenticatedClient;
use super::token::{Pair, invalid_grant};
use crate::github::credential::CredentialError;
use crate::limit::{Source, Who};
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::family::{Family, Rotation, Stage};
use crate::protocol::params::Params;
use crate::protocol::scope::{OFFLINE_ACCESS, ScopeSet};
use crate::protocol::token::{FamilyId, Refresh, Verified};
use crate::store::families::Rotated;

impl AuthorizationServer {
    pub(super) async fn refresh_grant(
        &self,
        params: &Params,
        client: &AuthenticatedClient,
        source: Source,
    ) -> Result<Pair, OAuthError> {
        let token = params.get("refresh_token");
        let token = token.ok_or_else(|| OAuthError::new(Code::InvalidRequest, "refresh_token is missing"))?;
        let token = Verified::<Refresh>::parse(&*self.parts.keys, token);
        let claims = token.ok_or_else(|| self.forged("not a refresh token of ours", source))?.claims;
        if self.parts.clock.now() >= claims.expires {
            return Err(invalid_grant("the refresh token has expired"));
        }
        let id = claims.family;
        let family = self.family(&id).await?.value;
        Self::owned_by(client, &family)?;
        self.same_target(params, &family)?;
        let scopes = narrowed(params, &family)?;
        self.confirm(&id, &family, claims.generation).await?;
        let seen = family.stage.clone();
        let rotated =
            self.parts.families.rotate(&id, claims.generation).await.map_err(OAuthError::unavailable)?;
        match rotated {
            Rotated::Rotated(family) => {
                self.parts.limits.refreshes.count(&Who::LoginOf(id, family.person));
                let recovered = self.is_recovered(&id, &seen, claims.generation);
                let pair = Pair { id, family: *family, scopes };
                self.issued(
                    "refresh_token",
                    "refresh",
                    if recovered { "recovered" } else { "rotated" },
                    &pair,
                );
                Ok(pair)
            }
            Rotated::SameSuccessor(family) => {
                let pair = Pair { id, family: *family, scopes };
                self.issued("refresh_token", "refresh", "repeated", &pair);
                Ok(pair)
            }
            Rotated::Reused => {
                self.reused("refresh_token", &id, &family);
                warn!(family = ?id, person = family.person, client = family.client_name, "refresh reused; its grant is revoked");
                Err(invalid_grant("the refresh token was used before"))
            }
            Rotated::Gone => Err(invalid_grant("the family is gone")),
        }
    }

    /// Whether the token is newer than the store knew: it lost writes, and is told of by nobody else.
    fn is_recovered(&self, id: &FamilyId, seen: &Stage, presented: u32) -> bool {
        let recovered = matches!(seen, Stage::Live { generation, .. } if *generation < presented);
        if recovered {
            warn!(family = ?id, "a refresh token is newer than the store knows: the store has lost writes");
        }
        recovered
    }

    /// Only a family that is about to move on is worth GitHub's time.
    async fn confirm(&self, id: &FamilyId, family: &Family, generation: u32) -> Result<(), OAuthError> {
        let now = self.parts.clock.now();
        let moves_on = family.rotation(generation, now, self.parts.families.lifetimes());
        if !matches!(moves_on, Rotation::Next(_)) {
            return Ok(());
        }
        self.parts.limits.refreshes.check(&Who::LoginOf(*id, family.person))?;
        match self.parts.credentials.confirm(&family.credential).await {
            Ok(()) => Ok(()),
            Err(CredentialError::Gone) => {
                self.parts.families.revoke(id).await.map_err(OAuthError::unavailable)?;
                self.parts.credentials.ended(id, family);
                Err(invalid_grant("the GitHub credential or the permission to be here is gone"))
            }
            Err(CredentialError::Store(error)) => Err(OAuthError::unavailable(error)),
            Err(CredentialError::Trouble(trouble)) => {
                let unavailable = OAuthError::unavailable(&trouble);
                // GitHub's word on when to ask again is better than ours.
                let told = trouble.retry_after.map(|wait| wait.as_secs().max(1));
                Err(OAuthError { retry_after: told.or(unavailable.retry_after), ..unavailable })
            }
        }
    }
}

/// RFC 6749 §6: the scope MUST NOT include any scope not originally granted; absent means all of it.
fn narrowed(params: &Params, family: &Family) -> Result<ScopeSet, OAuthError> {
    let Some(asked) = params.get("scope") else { return Ok(family.scopes.clone()) };
    // Clients repeat offline_access whether they got it or not.
    let asked: ScopeSet = asked
        .split(' ')
        .filter(|scope| *scope != OFFLINE_ACCESS || family.scopes.contains(scope))
        .map(str::to_owned)
        .collect();
    if asked.is_empty() {
        return Ok(family.scopes.clone());
    }
    match family.scopes.covers(&asked) {
        true => Ok(asked),
        false => Err(OAuthError::new(Code::InvalidScope, "scope asks for more than was granted")),
    }
}
