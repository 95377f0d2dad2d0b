//! One call to GitHub: bounded answer, and a judgement of what a failure means.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::Instant;

use super::{GitHub, Settings};
use crate::clock::Time;
use crate::tls;

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

    /// How long GitHub wants to be left alone, if this is one of its limits. Its own rule order: `retry-after`;
    /// else, the limit being used up, until `x-ratelimit-reset`; else a minute at least.
    fn retry_after(&self) -> Option<Duration> {
        let seconds = match self.header("retry-after") {
            Some(text) => text.parse().ok().or_else(|| self.seconds_until(epoch_seconds(text)?)),
            None if self.header("x-ratelimit-remaining") == Some("0") => {
                self.header("x-ratelimit-reset").and_then(|text| self.seconds_until(text.parse().ok()?))
            }
            // Secondary limits may come as a plain 403 whose message alone tells them from a refusal.
            None if self.status == StatusCode::TOO_MANY_REQUESTS || self.speaks_of_a_limit() => None,
            None => return None,
        };
        Some(Duration::from_secs(seconds.unwrap_or(UNTOLD_WAIT).clamp(1, MAX_WAIT)))
    }

    /// By GitHub's own clock, which both ends of the difference come from.
    fn seconds_until(&self, moment: u64) -> Option<u64> {
        Some(moment.saturating_sub(epoch_seconds(self.header("date")?)?))
    }

    fn speaks_of_a_limit(&self) -> bool {
        let text = String::from_utf8_lossy(&self.body).to_ascii_lowercase();
        ["rate limit", "abuse detection"].iter().any(|words| text.contains(words))
    }

    fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().ok()?.trim())
    }

    /// Whether an organisation hides what was asked about until the person has a session at its single sign-on.
    pub(super) fn wants_single_sign_on(&self) -> bool {
        self.headers.contains_key("x-github-sso")
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
        self.send("api", api_headers(request)).await
    }

    /// A call to the API as the app itself (Basic authentication). Its limit is one for all people: once it is
    /// used up nobody's call is made until GitHub wants to be asked again.
    pub(super) async fn as_app(&self, method: Method, token: &SecretString) -> Result<Answer, Trouble> {
        if let Some(wait) = self.rest.left(self.clock.now()) {
            let cause = "GitHub wants the app to wait".to_owned();
            return Err(Trouble { cause, retry_after: Some(wait) });
        }
        let answer = self.ask_as_app(method, token).await?;
        if let Some(left) = answer.header("x-ratelimit-remaining").and_then(|text| text.parse().ok()) {
            self.telemetry.metrics.github_remaining(left);
        }
        if let Some(wait) = answer.trouble().retry_after {
            self.rest.until(self.clock.now().after(wait));
        }
        Ok(answer)
    }

    async fn ask_as_app(&self, method: Method, token: &SecretString) -> Result<Answer, Trouble> {
        let Settings { api_url, client_id, client_secret, .. } = &self.settings;
        let body = serde_json::json!({ "access_token": token.expose_secret() }).to_string();
        let call = if method == Method::POST { "check_token" } else { "delete_token" };
        let request = self.client.request(method, format!("{api_url}/applications/{client_id}/token"));
        let request = request.basic_auth(client_id, Some(client_secret.expose_secret()));
        self.send(call, api_headers(request).header(header::CONTENT_TYPE, "application/json").body(body))
            .await
    }

    /// A call to the token endpoint.
    pub(super) async fn at_token_endpoint(
        &self,
        call: &'static str,
        form: String,
    ) -> Result<Answer, Trouble> {
        let request = self.client.post(format!("{}/login/oauth/access_token", self.settings.base_url));
        let request = request.header(header::ACCEPT, "application/json");
        self.send(call, request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form))
            .await
    }

    /// Every call there is, and what came of it.
    async fn send(&self, call: &'static str, request: RequestBuilder) -> Result<Answer, Trouble> {
        let began = Instant::now();
        let outcome = send(request).await;
        let word = match &outcome {
            Ok(answer) if answer.status.is_success() => "ok",
            Ok(answer) if answer.trouble().retry_after.is_some() => "limited",
            Ok(answer) if answer.status.is_server_error() => "failed",
            Ok(_) => "refused",
            Err(_) => "unreachable",
        };
        self.telemetry.metrics.github(call, word, began.elapsed());
        outcome
    }
}

/// Until when GitHub wants no more calls of the app itself.
#[derive(Default)]
pub(super) struct Rest(AtomicU64);

impl Rest {
    fn until(&self, end: Time) {
        self.0.store(end.millis(), Ordering::Relaxed);
    }

    /// What is left of it. A clock that was set back makes nobody wait longer than GitHub may ask for.
    fn left(&self, now: Time) -> Option<Duration> {
        let left = Time::from_millis(self.0.load(Ordering::Relaxed)).since(now);
        (!left.is_zero() && left <= Duration::from_secs(MAX_WAIT)).then_some(left)
    }
}

/// Seconds since the epoch of an HTTP date.
fn epoch_seconds(date: &str) -> Option<u64> {
    let moment = httpdate::parse_http_date(date).ok()?;
    Some(moment.duration_since(UNIX_EPOCH).ok()?.as_secs())
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
    } else if tls::is_distrust(error) {
        "its certificate is not trusted; ca_file adds authorities"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "the connection broke"
    }
}

/// A page of a hundred teams is below 200 KiB.
const MAX_ANSWER: usize = 1 << 20;
/// Seconds; when GitHub limits and does not say for how long.
const UNTOLD_WAIT: u64 = 60;
/// Seconds; nobody waits longer than this for a retry, whatever GitHub says.
const MAX_WAIT: u64 = 3_600;
