//! One call to GitHub: bounded answer, and a judgement of what a failure means.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{GitHub, Settings};

/// GitHub could not say. Never means "no": a firewall's 403 or a rate limit is no judgement of a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("GitHub: {cause}")]
pub struct Trouble {
    /// For the log.
    pub cause: String,
    /// What GitHub asked us to wait, capped.
    pub retry_after: Option<Duration>,
}

/// An answer that was read whole.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: header::HeaderMap,
    pub body: Vec<u8>,
}

impl Trouble {
    pub(super) fn new(cause: impl std::fmt::Display) -> Self {
        Trouble { cause: cause.to_string(), retry_after: None }
    }
}

impl Answer {
    pub(super) fn json(&self) -> Result<Value, Trouble> {
        serde_json::from_slice(&self.body).map_err(|_| Trouble::new("the answer is not JSON"))
    }

    /// What an answer means that is neither a success nor a documented refusal.
    pub(super) fn trouble(&self) -> Trouble {
        let retry_after = match self.status {
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => self.retry_after(),
            _ => None,
        };
        Trouble { cause: format!("status {}", self.status.as_u16()), retry_after }
    }

    /// GitHub's own rule order: `retry-after`, else (limit used up) at least a minute.
    fn retry_after(&self) -> Option<Duration> {
        let number = |name: &str| self.headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        let seconds =
            number("retry-after").or_else(|| (number("x-ratelimit-remaining") == Some(0)).then_some(60));
        seconds.map(|seconds| Duration::from_secs(seconds.clamp(1, MAX_WAIT)))
    }

    /// Whether GitHub says that the token has none of these scopes (an OAuth App's; others have none at all).
    pub(super) fn lacks_scope(&self, any_of: &[&str]) -> bool {
        let scopes = self.headers.get("x-oauth-scopes").and_then(|scopes| scopes.to_str().ok());
        scopes.is_some_and(|scopes| !scopes.split(',').any(|scope| any_of.contains(&scope.trim())))
    }

    /// Whether a list goes on after this page.
    pub(super) fn has_next_page(&self) -> bool {
        self.headers
            .get(header::LINK)
            .and_then(|link| link.to_str().ok())
            .is_some_and(|link| link.contains("rel=\"next\""))
    }
}

impl GitHub {
    /// A call to the API with a person's token.
    pub(super) async fn with_token(&self, path: &str, token: &SecretString) -> Result<Answer, Trouble> {
        let request =
            self.client.get(format!("{}{path}", self.settings.api_url)).bearer_auth(token.expose_secret());
        send(api_headers(request)).await
    }

    /// A call to the API as the app itself (Basic authentication).
    pub(super) async fn as_app(&self, method: Method, token: &SecretString) -> Result<Answer, Trouble> {
        let Settings { api_url, client_id, client_secret, .. } = &self.settings;
        let body = serde_json::json!({ "access_token": token.expose_secret() }).to_string();
        let request = self.client.request(method, format!("{api_url}/applications/{client_id}/token"));
        let request = request.basic_auth(client_id, Some(client_secret.expose_secret()));
        send(api_headers(request).header(header::CONTENT_TYPE, "application/json").body(body)).await
    }

    /// A call to the token endpoint.
    pub(super) async fn at_token_endpoint(&self, form: String) -> Result<Answer, Trouble> {
        let request = self.client.post(format!("{}/login/oauth/access_token", self.settings.base_url));
        let request = request.header(header::ACCEPT, "application/json");
        send(request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)).await
    }
}

fn api_headers(request: RequestBuilder) -> RequestBuilder {
    request.header(header::ACCEPT, "application/vnd.github+json").header("X-GitHub-Api-Version", "2022-11-28")
}

async fn send(request: RequestBuilder) -> Result<Answer, Trouble> {
    // URLs carry no secret, but a cause may quote one: only the kind of failure is kept.
    let response = request.send().await.map_err(|error| Trouble::new(kind(&error)))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = read(response).await?;
    Ok(Answer { status, headers, body })
}

async fn read(mut response: Response) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Trouble::new(kind(&error)))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Trouble::new("the answer is too large"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn kind(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "the connection broke"
    }
}

/// A page of a hundred teams is below 200 KiB.
const MAX_ANSWER: usize = 1 << 20;
/// Seconds; nobody waits longer than this for a retry, whatever GitHub says.
const MAX_WAIT: u64 = 3_600;
