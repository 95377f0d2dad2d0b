//! Client authentication at /token and /revoke: exactly one method, the one the client registered.
//!
//! Unknown clients and wrong secrets get the same answer, and become too many at the same time. RFC 6749 §2.3, §5.2; RFC 7591 §2.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, header};
use url::form_urlencoded;

use super::{AuthorizationServer, Failure, Request};
use crate::limit::Who;
use crate::protocol::client::{AuthMethod, Client, Origin};
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::params::Params;

/// Proof of client authentication.
pub(super) struct AuthenticatedClient {
    pub id: String,
}

/// What the request carries.
struct Presented {
    id: String,
    secret: Option<String>,
    method: AuthMethod,
}

impl AuthorizationServer {
    pub(super) fn authenticate(
        &self,
        request: &Request,
        params: &Params,
    ) -> Result<AuthenticatedClient, Failure> {
        let mut authorization = request.headers.get_all(header::AUTHORIZATION).iter();
        let presented = match (authorization.next(), authorization.next()) {
            (None, _) => in_form(params)?,
            (Some(value), None) => in_header(value, params)?,
            (Some(_), Some(_)) => return Err(refused(true)),
        };
        let uses_basic = presented.method == AuthMethod::ClientSecretBasic;
        let limits = &self.parts.limits;
        let guessed = Who::Client(&presented.id, request.source);
        let may_try = limits.bad_secrets.check(&guessed);
        let client = self.known_client(&presented.id).filter(|client| self.is_proven(client, &presented));
        match (client, may_try) {
            (Some(client), Ok(())) => Ok(AuthenticatedClient { id: client.id }),
            // Nobody guesses what we made: whoever has it is the client, whatever its neighbours tried.
            (Some(client), Err(_)) if !self.is_guessable(&client) => {
                Ok(AuthenticatedClient { id: client.id })
            }
            (_, Err(limited)) => Err(OAuthError::from(limited).because("too many bad secrets").into()),
            // Unknown clients count too: who guesses cannot tell by the limit either.
            (None, Ok(())) => {
                limits.bad_secrets.count(&guessed);
                limits.bad_grants.take(&Who::Source(request.source)).map_err(OAuthError::from)?;
                Err(refused(uses_basic))
            }
        }
    }

    /// Whether the secret is one that people chose.
    fn is_guessable(&self, client: &Client) -> bool {
        client.auth != AuthMethod::None && self.configured(&client.id).is_some()
    }

    fn is_proven(&self, client: &Client, presented: &Presented) -> bool {
        // A configured client never said how it sends its secret: either way is fine.
        let either = client.origin == Origin::Configured && client.auth != AuthMethod::None;
        let method = presented.method == client.auth || (either && presented.method != AuthMethod::None);
        match &presented.secret {
            // A secret from a public client is somebody else's, or a mistake that must not go unnoticed.
            None => method && client.auth == AuthMethod::None,
            Some(secret) => method && self.is_secret_of(client, secret),
        }
    }
}

fn in_form(params: &Params) -> Result<Presented, Failure> {
    let id = params.get("client_id");
    let id = id.ok_or_else(|| OAuthError::new(Code::InvalidRequest, "client_id is missing"))?.to_owned();
    let secret = params.raw("client_secret").map(str::to_owned);
    let method = if secret.is_some() { AuthMethod::ClientSecretPost } else { AuthMethod::None };
    Ok(Presented { id, secret, method })
}

fn in_header(value: &HeaderValue, params: &Params) -> Result<Presented, Failure> {
    let (id, secret) = basic(value).ok_or_else(|| refused(true))?;
    // RFC 6749 §2.3: the client MUST NOT use more than one authentication method in each request.
    if params.raw("client_secret").is_some() {
        let error = OAuthError::new(Code::InvalidRequest, "the client authenticates in two ways at once");
        return Err(error.into());
    }
    if params.get("client_id").is_some_and(|other| other != id) {
        return Err(refused(true));
    }
    Ok(Presented { id, secret: Some(secret), method: AuthMethod::ClientSecretBasic })
}

/// RFC 6749 §2.3.1: id and secret are form-encoded before they are joined and encoded again.
pub(super) fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((form_decoded(id)?, form_decoded(secret)?))
}

fn form_decoded(text: &str) -> Option<String> {
    // A pair of one name decodes the name; `&` and `=` cannot stand unencoded in it.
    let mut pairs = form_urlencoded::parse(text.as_bytes());
    match (pairs.next(), pairs.next()) {
        (None, _) => Some(String::new()),
        (Some((name, value)), None) if value.is_empty() && !text.contains('=') => Some(name.into_owned()),
        _ => None,
    }
}

fn refused(basic: bool) -> Failure {
    let error =
        OAuthError::new(Code::InvalidClient, "client authentication failed; if it persists, register again");
    Failure::Json { error, basic }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_form_decoded() {
        let read = |text: &str| {
            basic(&HeaderValue::from_str(&format!("bAsIc {}", STANDARD.encode(text))).expect("a value"))
        };
        assert_eq!(read("a%3Ab:c%25d+e"), Some(("a:b".into(), "c%d e".into())));
        assert_eq!(read("id:"), Some(("id".into(), String::new())));
        assert_eq!(read("id:p:q"), Some(("id".into(), "p:q".into())));
        assert_eq!(read("%C3%BC:x"), Some(("\u{fc}".into(), "x".into())));
        assert_eq!(read("no colon"), None);
        for bad in ["Basic", "Basic !!!", "Bearer YTpi", "Basic /w=="] {
            assert_eq!(basic(&HeaderValue::from_static(bad)), None, "{bad}");
        }
    }
}
