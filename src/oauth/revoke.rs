//! Revocation: ends the family of a token. Any token of the client will do, whatever the hint. RFC 7009 §2.

use tracing::info;

use super::token::form;
use super::{Answer, AuthorizationServer, Failure, Request};
use crate::limit::Who;
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::token::{Access, FamilyId, Refresh, Verified};
use crate::store::StoreError;
use crate::telemetry::audit::Event;

impl AuthorizationServer {
    /// `POST /revoke`
    pub async fn revoke(&self, request: &Request) -> Result<Answer, Failure> {
        let params = form(request)?;
        let client = self.authenticate(request, &params)?;
        let token =
            params.get("token").ok_or_else(|| OAuthError::new(Code::InvalidRequest, "token is missing"))?;
        let keys = &*self.parts.keys;
        let access = Verified::<Access>::parse(keys, token).map(|token| token.claims);
        let refresh = || Verified::<Refresh>::parse(keys, token).map(|token| token.claims);
        // RFC 7009 §2.2: an invalid token is answered as a revoked one.
        let Some(claims) = access.or_else(refresh) else { return Ok(Answer::Empty) };
        self.parts.limits.ended_logins.check(&Who::Login(claims.family)).map_err(OAuthError::from)?;
        self.end(&claims.family, &client.id).await.map_err(OAuthError::unavailable)?;
        Ok(Answer::Empty)
    }

    /// Ends a family of this client, and the GitHub token with it when nothing else uses that.
    async fn end(&self, id: &FamilyId, client_id: &str) -> Result<(), StoreError> {
        let Some(found) = self.parts.families.find(id).await? else {
            self.parts.limits.ended_logins.count(&Who::Login(*id));
            return Ok(());
        };
        let family = found.value;
        if family.client_id != client_id {
            return Ok(());
        }
        self.parts.families.revoke(id).await?;
        info!(family = ?id, person = family.person, client = family.client_name, "revoked by its client");
        self.parts.telemetry.audit(&Event::of("revoke", id, &family).with("client"));
        // GitHub is told on the side.
        self.parts.credentials.discard_if_unused(&family).await.map(drop)
    }
}
