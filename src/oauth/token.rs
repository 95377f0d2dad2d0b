//! The token endpoint: parse, authenticate the client, grant, write. Grants fill only their own part.
//!
//! RFC 6749 §3.2, §5; OAuth 2.1 §3.2.

use http::header;
use serde_json::json;

use super::client_auth::AuthenticatedClient;
use super::{Answer, AuthorizationServer, Failure, Request};
use crate::limit::{Source, Who};
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::family::{Family, Stage};
use crate::protocol::params::Params;
use crate::protocol::scope::ScopeSet;
use crate::protocol::token::{Access, Claims, FamilyId, Refresh};
use crate::store::Stored;
use crate::telemetry::audit::Event;

/// What a grant yields: a family as it stands now, and the scopes of the access token.
pub(super) struct Pair {
    pub id: FamilyId,
    pub family: Family,
    pub scopes: ScopeSet,
}

impl AuthorizationServer {
    /// `POST /token`
    pub async fn token(&self, request: &Request) -> Result<Answer, Failure> {
        let params = form(request)?;
        let client = self.authenticate(request, &params)?;
        let metrics = &self.parts.telemetry.metrics;
        let refused = |grant: &'static str| {
            move |error: OAuthError| {
                metrics.token(grant, error.code.as_str());
                error
            }
        };
        let pair = match params.get("grant_type") {
            Some("authorization_code") => {
                let pair = self.code_grant(&params, &client, request.source).await;
                pair.map_err(refused("authorization_code"))?
            }
            Some("refresh_token") => {
                let pair = self.refresh_grant(&params, &client, request.source).await;
                pair.map_err(refused("refresh_token"))?
            }
            Some(_) => {
                let text = "grant_type must be authorization_code or refresh_token";
                return Err(OAuthError::new(Code::UnsupportedGrantType, text).into());
            }
            None => return Err(OAuthError::new(Code::InvalidRequest, "grant_type is missing").into()),
        };
        Ok(self.pair_answer(&pair)?)
    }

    /// Derives the pair: whoever asks for the same generation gets the same bytes.
    fn pair_answer(&self, pair: &Pair) -> Result<Answer, OAuthError> {
        let Pair { id, family, scopes } = pair;
        let Stage::Live { generation, rotated } = family.stage else {
            return Err(OAuthError::new(Code::ServerError, "no pair was issued"));
        };
        let lifetimes = self.parts.families.lifetimes();
        let refresh_ends = family.refresh_expires(rotated, lifetimes);
        let access_ends = rotated.after(lifetimes.access).min(refresh_ends).rounded_up();
        let claims =
            Claims { family: *id, generation, expires: access_ends, scopes: family.scopes.mask_of(scopes) };
        let refresh = Claims {
            expires: refresh_ends.rounded_up(),
            scopes: family.scopes.mask_of(&family.scopes),
            ..claims
        };
        // The successor pair may be handed out again a little later: what is left counts, and never nothing.
        let expires_in = access_ends.since(self.parts.clock.now()).as_secs().max(1);
        let body = json!({
            "access_token": claims.issue::<Access>(&*self.parts.keys),
            "token_type": "Bearer",
            "expires_in": expires_in,
            "refresh_token": refresh.issue::<Refresh>(&*self.parts.keys),
            "scope": scopes.to_string(),
        });
        Ok(Answer::Json { status: 200, body })
    }

    /// A grant came to something: for numbers and the trail.
    pub(super) fn issued(
        &self,
        grant: &'static str,
        event: &'static str,
        outcome: &'static str,
        pair: &Pair,
    ) {
        self.parts.telemetry.metrics.token(grant, outcome);
        self.parts.telemetry.audit(&Event::of(event, &pair.id, &pair.family).with(outcome));
    }

    /// A code or refresh token came back that had been used.
    pub(super) fn reused(&self, what: &'static str, id: &FamilyId, family: &Family) {
        self.parts.telemetry.metrics.token(what, "reused");
        self.parts.telemetry.audit(&Event::of("reuse", id, family).with(what));
    }

    /// A code or refresh token that was never ours. What we issued is always answered as it deserves: a client
    /// that is told to wait would not learn that it has to log in again.
    pub(super) fn forged(&self, why: &str, source: Source) -> OAuthError {
        match self.parts.limits.bad_grants.take(&Who::Source(source)) {
            Ok(()) => invalid_grant(why),
            Err(limited) => OAuthError::from(limited).because(why),
        }
    }

    /// The family of a code or refresh token of ours, unless the answer was "none" too often.
    pub(super) async fn family(&self, id: &FamilyId) -> Result<Stored<Family>, OAuthError> {
        let (ended, who) = (&self.parts.limits.ended_logins, Who::Login(*id));
        ended.check(&who)?;
        let found = self.parts.families.find(id).await.map_err(OAuthError::unavailable)?;
        found.ok_or_else(|| {
            ended.count(&who);
            invalid_grant("no such family")
        })
    }

    /// RFC 8707 §2.2: a `resource` at the token endpoint must be the one that was authorized.
    pub(super) fn same_target(&self, params: &Params, family: &Family) -> Result<(), OAuthError> {
        let Some(asked) = params.get("resource") else { return Ok(()) };
        match self.named_resource(asked) {
            Some(resource) if resource.url() == family.resource => Ok(()),
            _ => Err(OAuthError::new(Code::InvalidTarget, "resource is not the one that was authorized")),
        }
    }

    /// Codes and refresh tokens belong to the client they were given to; to others they do not exist.
    pub(super) fn owned_by(client: &AuthenticatedClient, family: &Family) -> Result<(), OAuthError> {
        if family.client_id == client.id { Ok(()) } else { Err(invalid_grant("given to another client")) }
    }
}

/// RFC 6749 §3.2: POST with a form; parameters in the URL are not read.
pub(super) fn form(request: &Request) -> Result<Params, OAuthError> {
    let mut kinds = request.headers.get_all(header::CONTENT_TYPE).iter();
    let kind = kinds.next().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") || kinds.next().is_some() {
        return Err(OAuthError::new(
            Code::InvalidRequest,
            "send the parameters as application/x-www-form-urlencoded",
        ));
    }
    Params::parse(&request.body).map_err(|error| OAuthError::new(Code::InvalidRequest, error.to_string()))
}

/// One text for every reason: a thief learns nothing, the log does.
pub(super) fn invalid_grant(why: &str) -> OAuthError {
    let text = "the code or refresh token is expired, used, revoked or not this client's";
    OAuthError::new(Code::InvalidGrant, text).because(why)
}
