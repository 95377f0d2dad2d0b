//! Login at GitHub: the authorization URL, the code exchange, the refresh of expiring tokens.
//!
//! Sends exactly the operator's scopes and nothing a client said. RFC 6749 §4.1, §6; RFC 7636.

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::http::{Answer, Trouble};
use super::{GitHub, Settings};
use crate::protocol::pkce::CodeChallenge;

/// What GitHub granted.
#[derive(Debug)]
pub struct Granted {
    /// `gho_…` or `ghu_…`; opaque, of any length.
    pub access_token: SecretString,
    /// `ghr_…`, for expiring tokens only.
    pub refresh_token: Option<SecretString>,
    /// Seconds; absent for tokens that do not expire. Never invented.
    pub expires_in: Option<u64>,
    /// What the person granted; empty for a GitHub App.
    pub scopes: Vec<String>,
}

/// Why an exchange or a refresh did not yield a token.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// GitHub said no, in a structured error: final.
    #[error("GitHub refused: {0}")]
    Refused(String),
    /// GitHub could not say: try again later.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

impl LoginError {
    /// Whether GitHub does not know our own credentials: the operator must act.
    pub fn is_misconfiguration(&self) -> bool {
        matches!(self, LoginError::Refused(code) if code == "incorrect_client_credentials" || code == "redirect_uri_mismatch")
    }
}

impl GitHub {
    /// Where a person logs in.
    pub fn authorize_url(&self, state: &str, verifier: &str, scopes: &[String]) -> String {
        let Settings { base_url, client_id, callback_url, .. } = &self.settings;
        let endpoint = format!("{base_url}/login/oauth/authorize?");
        let start = endpoint.len();
        let mut query = Serializer::for_suffix(endpoint, start);
        query.extend_pairs([
            ("client_id", client_id.as_str()),
            ("redirect_uri", callback_url),
            ("state", state),
            ("code_challenge", &CodeChallenge::of(verifier).encoded()),
            ("code_challenge_method", "S256"),
        ]);
        // An empty scope would mean every scope granted before; only a GitHub App goes without.
        if !scopes.is_empty() {
            query.append_pair("scope", &scopes.join(" "));
        }
        query.finish()
    }

    /// What GitHub's `iss` must be when it sends one (RFC 9207 §2.4).
    pub fn issuer(&self) -> String {
        format!("{}/login/oauth", self.settings.base_url)
    }

    /// Trades the callback's code for a token. Never repeated: the code is burnt by the first attempt.
    pub async fn exchange(&self, code: &str, verifier: &str) -> Result<Granted, LoginError> {
        let callback_url = &self.settings.callback_url;
        let form = self.form(&[("code", code), ("redirect_uri", callback_url), ("code_verifier", verifier)]);
        granted(&self.at_token_endpoint("exchange", form).await?)
    }

    /// Trades a refresh token for a new pair; both old tokens are dead at once.
    pub async fn refresh(&self, refresh_token: &SecretString) -> Result<Granted, LoginError> {
        let token = refresh_token.expose_secret();
        let form = self.form(&[("grant_type", "refresh_token"), ("refresh_token", token)]);
        granted(&self.at_token_endpoint("refresh", form).await?)
    }

    fn form(&self, pairs: &[(&str, &str)]) -> String {
        let Settings { client_id, client_secret, .. } = &self.settings;
        let mut form = Serializer::new(String::new());
        form.append_pair("client_id", client_id).append_pair("client_secret", client_secret.expose_secret());
        form.extend_pairs(pairs).finish()
    }
}

/// Reads an answer of the token endpoint: errors come with status 200, and only a structured error is final.
fn granted(answer: &Answer) -> Result<Granted, LoginError> {
    // A front that is overloaded or angry may word its answer as it likes: it judges no token.
    if answer.status.is_server_error() || matches!(answer.status.as_u16(), 403 | 429) {
        return Err(answer.trouble().into());
    }
    let fields = fields(answer)?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(error) = text("error") {
        return Err(match FINAL.contains(&error) {
            true => LoginError::Refused(error.to_owned()),
            false => Trouble::new("an error that GitHub does not document").into(),
        });
    }
    if !answer.status.is_success() {
        return Err(answer.trouble().into());
    }
    let access_token = text("access_token").ok_or_else(|| Trouble::new("the answer has no access_token"))?;
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    Ok(Granted {
        access_token: access_token.to_owned().into(),
        refresh_token: text("refresh_token").map(|token| token.to_owned().into()),
        expires_in: fields.get("expires_in").and_then(number).filter(|seconds| *seconds > 0),
        scopes: text("scope")
            .unwrap_or_default()
            .split([',', ' '])
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// JSON as asked for; the form encoding that GitHub falls back to is read too.
fn fields(answer: &Answer) -> Result<Value, Trouble> {
    match answer.json() {
        Ok(fields @ Value::Object(_)) => Ok(fields),
        _ if is_form(&answer.body) => {
            let pairs = url::form_urlencoded::parse(&answer.body);
            Ok(Value::Object(
                pairs.map(|(name, value)| (name.into_owned(), Value::String(value.into_owned()))).collect(),
            ))
        }
        _ if answer.status.is_success() => Err(Trouble::new("the answer is neither JSON nor a form")),
        _ => Err(answer.trouble()),
    }
}

fn is_form(body: &[u8]) -> bool {
    [b"access_token=".as_slice(), b"error="].iter().any(|start| body.starts_with(start))
}

/// GitHub's documented refusals, and the standard's: only these are final.
const FINAL: [&str; 13] = [
    "access_denied",
    "application_suspended",
    "bad_refresh_token",
    "bad_verification_code",
    "expired_token",
    "incorrect_client_credentials",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "redirect_uri_mismatch",
    "unauthorized_client",
    "unsupported_grant_type",
    "unverified_user_email",
];
