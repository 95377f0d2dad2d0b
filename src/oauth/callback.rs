//! GitHub's callback: the browser that approved comes back with a code, and becomes a person.
//!
//! The first store write of a flow happens here, after GitHub has vouched for somebody.
//! RFC 9700 §4.7; RFC 9207 §2.4; MCP security best practices, state validation.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::cookies::{self, Binds};
use super::flow::{FLOW_LIFETIME, Flow, PendingLogin, STATE};
use super::pages::{self, Onward};
use super::{Answer, AuthorizationServer, Failure, Published, Request, destination};
use crate::github::admission::Admitted;
use crate::github::credential::CredentialError;
use crate::github::{Granted, LoginError, Profile, scopes};
use crate::limit::{Limited, Source, Who};
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::family::{Family, Stage};
use crate::protocol::params::Params;
use crate::protocol::redirect::RedirectKind;
use crate::protocol::token::{Claims, Code as CodeToken};
use crate::store::Created;
use crate::store::people::People;
use crate::telemetry::audit::Event;

/// How a login may end without a code.
enum Ended {
    /// The client is told.
    Told(OAuthError),
    /// The person reloaded, or another replica was first.
    Finished,
    /// The person has logged in too often lately.
    TooOften(Limited),
}

impl From<OAuthError> for Ended {
    fn from(error: OAuthError) -> Self {
        Ended::Told(error)
    }
}

impl AuthorizationServer {
    /// `GET /github/callback`
    pub async fn callback(&self, request: &Request) -> Result<Answer, Failure> {
        let query = request.query.as_deref().unwrap_or_default();
        let params = Params::parse(query.as_bytes()).map_err(not_ours)?;
        let PendingLogin { flow, verifier, .. } = self.pending(request, &params).ok_or_else(|| {
            not_ours("no state that this browser's cookie opens, or one older than ten minutes")
        })?;
        self.parts.telemetry.metrics.login("returned");
        self.vouched_by_github(&params)?;
        self.may_ask_github(&params, request.source)?;
        // One exchange per process however often the page is reloaded; across replicas GitHub's own
        // one-time code and the marker record decide.
        if !self.parts.spent.insert_new(flow.id, ()) {
            return Err(finished());
        }
        let ended = match params.get("error") {
            Some(error) => Err(refused_by_github(error).into()),
            None => self.login(&params, &flow, &URL_SAFE_NO_PAD.encode(verifier), request.source).await,
        };
        let error = match ended {
            Ok(code) => return Ok(self.back_to_client(&flow, &code)),
            Err(Ended::Finished) => return Err(finished()),
            Err(Ended::Told(error)) => error,
            Err(Ended::TooOften(Limited { retry_after })) => {
                let text = format!("too many logins of this person; try again in {retry_after} s");
                OAuthError::new(Code::TemporarilyUnavailable, text)
            }
        };
        let location = self.error_location(&flow.redirect_uri, flow.state.as_deref(), &error);
        Err(match flow.redirect_uri.kind() {
            RedirectKind::PrivateUse => {
                Failure::Offered { error, location, to: destination(&flow.redirect_uri) }
            }
            _ => Failure::Redirected { error, location },
        })
    }

    /// The flow that this browser approved; a state from elsewhere is nothing, there and from now on here.
    fn pending(&self, request: &Request, params: &Params) -> Option<PendingLogin> {
        let pending: PendingLogin = self.parts.keys.open(STATE, params.get("state")?)?;
        if pending.flow.is_over(self.parts.clock.now()) {
            return None;
        }
        let cookie = cookies::read(&request.headers, Binds::Login, self.settings.issuer.is_secure());
        if !pending.is_of(cookie.as_deref()) {
            warn!(client = pending.flow.client_name, "a login came back to another browser; it is over");
            self.parts.spent.insert(pending.flow.id, ());
            return None;
        }
        Some(pending)
    }

    /// RFC 9207 §2.4: an `iss` must be the expected one; GitHub has sent it on and off, so absence is fine.
    fn vouched_by_github(&self, params: &Params) -> Result<(), Failure> {
        if params.raw("iss").is_some_and(|iss| iss != self.parts.github.issuer()) {
            return Err(not_ours("iss is not that of the configured github.base_url"));
        }
        match params.get("code").is_some() != params.get("error").is_some() {
            true => Ok(()),
            false => Err(not_ours("not exactly one of code and error")),
        }
    }

    /// Anybody can approve a flow of their own and come back with a made-up code: then we would ask GitHub for
    /// them, in the name of everybody here. Looked at before the flow is spent, so that a reload goes on.
    fn may_ask_github(&self, params: &Params, source: Source) -> Result<(), Limited> {
        if params.get("code").is_none() {
            return Ok(());
        }
        let (limits, who) = (&self.parts.limits, Who::Source(source));
        limits.bad_callbacks.check(&who)?;
        limits.callback.take(&who)
    }

    /// Code to token to person to family; returns our own code.
    async fn login(
        &self,
        params: &Params,
        flow: &Flow,
        verifier: &str,
        source: Source,
    ) -> Result<String, Ended> {
        let published = self.published(&flow.resource);
        let published =
            published.ok_or_else(|| OAuthError::new(Code::ServerError, "the resource is gone"))?;
        let code = params.get("code").unwrap_or_default();
        let granted = match self.parts.github.exchange(code, verifier).await {
            Ok(granted) => granted,
            Err(LoginError::Refused(_)) if self.is_finished(flow).await? => return Err(Ended::Finished),
            Err(failure) => {
                if matches!(failure, LoginError::Refused(_)) && !failure.is_misconfiguration() {
                    self.parts.limits.bad_callbacks.count(&Who::Source(source));
                }
                return Err(login_failed(failure).into());
            }
        };
        match self.vouched(flow, published, &granted).await {
            Ok((profile, email)) => {
                self.start_family(flow, published, &profile, email, &granted).await.map_err(Ended::Told)
            }
            // GitHub keeps ten and drops the rest itself; to ask it would cost us what the limit saves.
            Err(ended @ Ended::TooOften(_)) => Err(ended),
            Err(ended) => {
                self.drop_token(&granted).await;
                Err(ended)
            }
        }
    }

    /// Who it is, whether they may be here, and that this login ends here for the first time.
    async fn vouched(
        &self,
        flow: &Flow,
        published: &Published,
        granted: &Granted,
    ) -> Result<(Profile, Option<String>), Ended> {
        let token = &granted.access_token;
        enough(&published.github_scopes, &granted.scopes)?;
        let profile = self.parts.github.profile(token).await.map_err(login_failed)?;
        self.parts.limits.logins.take(&Who::Person(profile.id)).map_err(Ended::TooOften)?;
        self.admit(flow, &profile, granted).await?;
        let email = match published.needs_email {
            true => {
                let email = self.parts.github.email(token).await.map_err(OAuthError::unavailable)?;
                Some(email.unwrap_or_default())
            }
            false => None,
        };
        let until = flow.started.after(FLOW_LIFETIME * 2);
        let marked = self.parts.people.finish_login(&name(flow), until).await;
        match marked.map_err(OAuthError::unavailable)? {
            Created::Created => Ok((profile, email)),
            Created::Exists => Err(Ended::Finished),
        }
    }

    /// A token that no login will use leaves GitHub again: it keeps ten per person, and kills the oldest.
    async fn drop_token(&self, granted: &Granted) {
        let deleted = timeout(DROP_WITHIN, self.parts.github.delete_token(&granted.access_token)).await;
        if !matches!(deleted, Ok(Ok(()))) {
            warn!("the GitHub token of a login that failed could not be revoked");
        }
    }

    /// A reload that another replica answers: GitHub's code was spent by the login that it finished.
    async fn is_finished(&self, flow: &Flow) -> Result<bool, OAuthError> {
        self.parts.people.is_login_finished(&name(flow)).await.map_err(OAuthError::unavailable)
    }

    /// The allow-list decides.
    async fn admit(&self, flow: &Flow, profile: &Profile, granted: &Granted) -> Result<(), OAuthError> {
        match self.parts.admission.judge(profile, &granted.access_token).await {
            Ok(Admitted::Yes) => Ok(()),
            Ok(Admitted::No) => {
                self.noted(profile, flow, "refused");
                info!(person = profile.id, login = profile.login, "a login was refused by the allow-list");
                Err(OAuthError::new(Code::AccessDenied, "this GitHub account may not use this server"))
            }
            Ok(Admitted::SignOnFirst) => {
                self.noted(profile, flow, "lacks_single_sign_on");
                info!(person = profile.id, login = profile.login, "a login lacks a single sign-on session");
                let text = "GitHub hides an organisation until you sign in to its single sign-on; \
                            if this server is for its members, do that at GitHub and try again";
                Err(OAuthError::new(Code::AccessDenied, text))
            }
            Err(error @ CredentialError::Gone) => {
                Err(OAuthError::new(Code::ServerError, "login failed").because(error))
            }
            Err(error) => Err(OAuthError::unavailable(error)),
        }
    }

    /// For the audit trail: a person came from GitHub.
    fn noted(&self, profile: &Profile, flow: &Flow, outcome: &'static str) {
        let event = Event {
            event: "login",
            person: Some(profile.id),
            login: Some(&profile.login),
            client_id: Some(&flow.client_id),
            client: Some(&flow.client_name),
            resource: self.published(&flow.resource).map(|published| published.resource.url()),
            ..Event::default()
        };
        self.parts.telemetry.audit(&event.with(outcome));
    }

    async fn start_family(
        &self,
        flow: &Flow,
        published: &Published,
        profile: &Profile,
        email: Option<String>,
        granted: &Granted,
    ) -> Result<String, OAuthError> {
        let scopes = published.github_scopes.join(" ");
        let now = self.parts.clock.now();
        let expires = now.after(CODE_LIFETIME);
        let family = Family {
            person: profile.id,
            credential: People::credential_key(profile.id, &scopes),
            client_id: flow.client_id.clone(),
            client_name: flow.client_name.clone(),
            resource: published.resource.url().to_owned(),
            scopes: flow.scopes.clone(),
            created: now,
            stage: Stage::CodePending {
                challenge: flow.challenge.clone(),
                redirect_uri: flow.redirect_uri.clone(),
                expires,
                attempts: 0,
            },
        };
        // The family first: while it stands nobody discards the credential that it points at.
        let id = self.parts.families.create(&family).await.map_err(OAuthError::unavailable)?;
        let kept = self.parts.credentials.keep(profile, email, &scopes, granted).await;
        kept.map_err(OAuthError::unavailable)?;
        self.noted(profile, flow, "admitted");
        let event = Event { login: Some(&profile.login), ..Event::of("grant", &id, &family) };
        self.parts.telemetry.audit(&event);
        self.parts.telemetry.metrics.login("granted");
        info!(
            person = profile.id,
            login = profile.login,
            client = flow.client_name,
            resource = published.resource.path(),
            "login finished"
        );
        let claims = Claims { family: id, generation: 0, expires, scopes: 0 };
        Ok(claims.issue::<CodeToken>(&*self.parts.keys))
    }

    /// A browser follows a redirect to the web; it may silently swallow one to an app's own scheme.
    fn back_to_client(&self, flow: &Flow, code: &str) -> Answer {
        let location = self.response_location(&flow.redirect_uri, flow.state.as_deref(), &[("code", code)]);
        match flow.redirect_uri.kind() {
            RedirectKind::PrivateUse => {
                let html = pages::render(&Onward {
                    title: "You are logged in",
                    text: &format!("Go back to “{}” to finish.", flow.client_name),
                    url: &location,
                    button: "Open the app",
                    automatic: false,
                });
                Answer::Page { status: 200, html, cookie: None }
            }
            RedirectKind::Https | RedirectKind::Loopback => Answer::Redirect(location),
        }
    }
}

/// What a flow's end is marked under.
fn name(flow: &Flow) -> String {
    URL_SAFE_NO_PAD.encode(flow.id)
}

/// The client hears an allow-listed code and our own words, never GitHub's text.
fn refused_by_github(code: &str) -> OAuthError {
    match code {
        "access_denied" => OAuthError::new(Code::AccessDenied, "the person cancelled the login at GitHub"),
        other => {
            let known = ["redirect_uri_mismatch", "application_suspended"].contains(&other);
            error!(
                error = if known { other } else { "unknown" },
                "GitHub refused to start a login; check the app's settings"
            );
            OAuthError::new(Code::ServerError, "GitHub did not start the login")
        }
    }
}

/// A person may grant less than was asked. A GitHub App has permissions instead, and its answer no scopes.
fn enough(asked: &[String], granted: &[String]) -> Result<(), OAuthError> {
    let missing = if granted.is_empty() { Vec::new() } else { scopes::missing(asked, granted) };
    if !missing.is_empty() {
        let text =
            format!("GitHub did not grant everything this server needs; missing: {}", missing.join(" "));
        return Err(OAuthError::new(Code::AccessDenied, text));
    }
    let surplus = scopes::surplus(asked, granted);
    if !surplus.is_empty() {
        warn!(scopes = surplus.join(" "), "GitHub granted more than was asked");
    }
    Ok(())
}

fn login_failed(failure: LoginError) -> OAuthError {
    if failure.is_misconfiguration() {
        error!(error = %failure, "GitHub does not accept the configured app; check client_id, client_secret and callback URL");
    }
    match failure {
        LoginError::Trouble(trouble) => OAuthError::unavailable(trouble),
        refused @ LoginError::Refused(_) => {
            OAuthError::new(Code::ServerError, "GitHub did not finish the login; try again").because(refused)
        }
    }
}

fn not_ours(cause: impl std::fmt::Display) -> Failure {
    let text = "It was not started in this browser, or more than ten minutes ago. Start again in the client.";
    Failure::Displayed {
        status: 400,
        code: Code::InvalidRequest,
        title: "This login cannot be finished",
        text: text.to_owned(),
        cause: Some(cause.to_string()),
    }
}

fn finished() -> Failure {
    let text = "Go back to the client. If it still waits, start again there.";
    Failure::displayed("This login is finished already", text)
}

/// RFC 6749 §4.1.2 recommends at most ten minutes; clients need a second.
const CODE_LIFETIME: Duration = Duration::from_secs(60);
/// The person is waiting for the answer.
const DROP_WITHIN: Duration = Duration::from_secs(2);
