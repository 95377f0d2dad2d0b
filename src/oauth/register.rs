//! Dynamic client registration, stateless: the client *is* its `client_id`.
//!
//! Stores nothing, fetches nothing the client names, promises nothing it does not keep. RFC 7591 §3.

use http::header;
use serde::Deserialize;
use serde_json::json;

use super::{Answer, AuthorizationServer, Failure, Request, json_object};
use crate::oauth::clients::Registration;
use crate::protocol::client::{AuthMethod, display_name};
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::redirect::{RedirectKind, RedirectUri};

/// What we take notice of; everything else is ignored (RFC 7591 §2). Typed, so that a repeated member is an
/// error and what we keep is what we answer.
#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    redirect_uris: Option<Vec<String>>,
    #[serde(default)]
    client_name: Option<String>,
    #[serde(default)]
    token_endpoint_auth_method: Option<String>,
    #[serde(default)]
    grant_types: Option<Vec<String>>,
    #[serde(default)]
    response_types: Option<Vec<String>>,
}

impl AuthorizationServer {
    /// `POST /register`
    pub async fn register(&self, request: &Request) -> Result<Answer, Failure> {
        if !self.settings.registration {
            let text = "registration is switched off; use a configured client or a client metadata document";
            return Err(OAuthError::new(Code::AccessDenied, text).into());
        }
        let metadata = read(request)?;
        let redirect_uris = self.usable_uris(metadata.redirect_uris.unwrap_or_default())?;
        supported("grant_types", metadata.grant_types.as_deref(), "authorization_code")?;
        supported("response_types", metadata.response_types.as_deref(), "code")?;
        let auth = auth_method(metadata.token_endpoint_auth_method.as_deref(), &redirect_uris)?;
        let registration = Registration {
            name: display_name(metadata.client_name.as_deref().unwrap_or_default()),
            redirect_uris,
            auth,
            issued: self.parts.clock.now().seconds(),
            salt: Registration::salt(auth, &self.parts.clock),
        };
        let client_id = registration.client_id(&self.parts.keys);
        let mut body = json!({
            "client_id": client_id,
            "client_id_issued_at": registration.issued,
            "client_name": registration.name,
            "redirect_uris": registration.redirect_uris,
            "token_endpoint_auth_method": auth.as_str(),
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
        });
        if auth != AuthMethod::None {
            body["client_secret"] = self.registered_secret(&client_id).into();
            // RFC 7591 §3.2.1: 0 = does not expire. Copilot Studio never registers again.
            body["client_secret_expires_at"] = 0.into();
        }
        Ok(Answer::Json { status: 201, body })
    }

    /// Bad URIs are dropped and the answer shows what is left; with none left the client learns why.
    fn usable_uris(&self, uris: Vec<String>) -> Result<Vec<RedirectUri>, OAuthError> {
        let refuse = |text: String| OAuthError::new(Code::InvalidRedirectUri, text);
        if uris.is_empty() {
            return Err(refuse("redirect_uris must hold at least one URI".to_owned()));
        }
        let mut usable = Vec::new();
        let mut reason = String::new();
        let mut total = 0;
        for (at, uri) in uris.iter().enumerate() {
            match RedirectUri::parse(uri) {
                Ok(uri) if uri.kind() == RedirectKind::PrivateUse && !self.settings.private_use_schemes => {
                    reason = format!(
                        "redirect_uris[{at}] uses a private-use scheme, which this server does not accept"
                    );
                }
                Ok(uri) if usable.len() < MAX_URIS && total + uri.as_str().len() <= MAX_TOTAL => {
                    total += uri.as_str().len();
                    usable.push(uri);
                }
                Ok(_) => {}
                Err(error) => reason = format!("redirect_uris[{at}] {error}"),
            }
        }
        if usable.is_empty() { Err(refuse(reason)) } else { Ok(usable) }
    }
}

fn read(request: &Request) -> Result<Metadata, OAuthError> {
    let refuse = |text: String| OAuthError::new(Code::InvalidClientMetadata, text);
    // A page of another origin can send text/plain without asking, but not JSON.
    let kind =
        request.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(refuse("send the client metadata as application/json".to_owned()));
    }
    json_object(&request.body).map_err(|error| {
        // serde's own words may quote the input.
        refuse(format!("not valid client metadata at line {}, column {}", error.line(), error.column()))
    })
}

/// Absent means the default of RFC 7591 §2, which is what we support; others are dropped.
fn supported(name: &str, asked: Option<&[String]>, needed: &str) -> Result<(), OAuthError> {
    match asked {
        Some(asked) if !asked.is_empty() && !asked.iter().any(|value| value == needed) => {
            Err(OAuthError::new(Code::InvalidClientMetadata, format!("{name} must include {needed}")))
        }
        _ => Ok(()),
    }
}

fn auth_method(asked: Option<&str>, redirect_uris: &[RedirectUri]) -> Result<AuthMethod, OAuthError> {
    // Perplexity declares `none`, yet refuses an answer without a secret.
    let needs_secret = |uri: &RedirectUri| PERPLEXITY.iter().any(|prefix| uri.as_str().starts_with(prefix));
    match asked {
        None | Some("none") if redirect_uris.iter().any(needs_secret) => Ok(AuthMethod::ClientSecretPost),
        // RFC 7591 §2 makes client_secret_basic the default, but the SDKs that leave it out are public clients:
        // they read the answer, and several of them understand `none` and `client_secret_post` only.
        None => Ok(AuthMethod::None),
        Some(method) => AuthMethod::parse(method).ok_or_else(|| {
            let text = "token_endpoint_auth_method must be none, client_secret_post or client_secret_basic";
            OAuthError::new(Code::InvalidClientMetadata, text)
        }),
    }
}

/// VS Code registers four, Cursor three.
const MAX_URIS: usize = 10;
/// Bytes of all URIs together: the client_id carries them in every URL.
const MAX_TOTAL: usize = 4096;
const PERPLEXITY: [&str; 2] = ["https://www.perplexity.ai/", "https://enterprise.perplexity.ai/"];
