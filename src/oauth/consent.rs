//! The person's decision: bound to the browser that saw the page, never remembered, never taken by GET.
//!
//! Answers 200 with a page that leads on: a redirect would be stopped by the page's own `form-action`.
//! MCP security best practices, confused deputy; RFC 9700 §4.7.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};

use super::cookies::{self, Binds};
use super::flow::{Flow, PendingConsent, PendingLogin, STATE};
use super::pages::{self, Onward};
use super::{Answer, AuthorizationServer, Failure, Request};
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::params::Params;
use crate::protocol::redirect::RedirectKind;
use crate::telemetry::audit::Event;

impl AuthorizationServer {
    /// `POST /consent`
    pub async fn consent(&self, request: &Request) -> Result<Answer, Failure> {
        if !self.comes_from_our_page(&request.headers) {
            return Err(forbidden("The decision did not come from this server's own page."));
        }
        let params = Params::parse(&request.body).map_err(|_| forbidden("The form is broken."))?;
        let secure = self.settings.issuer.is_secure();
        let cookie = cookies::read(&request.headers, Binds::Consent, secure);
        let opened = cookie.zip(params.get("flow"));
        let flow = opened
            .and_then(|(cookie, sealed)| self.parts.keys.open::<PendingConsent>(cookie.as_bytes(), sealed));
        let Some(PendingConsent(flow)) = flow else {
            return Err(forbidden("This page belongs to another browser, or cookies are switched off."));
        };
        if flow.is_over(self.parts.clock.now()) || self.parts.spent.contains_key(&flow.id) {
            let text =
                "This decision was made already or took longer than ten minutes. Start again in the client.";
            return Err(Failure::displayed("This page is out of date", text));
        }
        match params.get("decision") {
            Some("approve") => {
                self.decided(&flow, "approved");
                self.approved(request, flow)
            }
            Some("deny") => {
                self.decided(&flow, "denied");
                Ok(self.denied(&flow))
            }
            _ => Err(forbidden("The form is broken.")),
        }
    }

    /// Who it was shows later, at GitHub: a decision is a browser's.
    fn decided(&self, flow: &Flow, outcome: &'static str) {
        let resource = self.published(&flow.resource).map(|published| published.resource.url());
        let event = Event {
            client_id: Some(&flow.client_id),
            client: Some(&flow.client_name),
            resource,
            ..Event::default()
        };
        self.parts.telemetry.metrics.login(outcome);
        self.parts.telemetry.audit(&Event { event: "consent", ..event }.with(outcome));
    }

    /// On to GitHub. The state exists from here on, bound to a cookie that is set only now.
    fn approved(&self, request: &Request, flow: Flow) -> Result<Answer, Failure> {
        let published = self.published(&flow.resource).ok_or_else(|| forbidden("The resource is gone."))?;
        let clock = &self.parts.clock;
        let cookie = cookies::keep(&request.headers, Binds::Login, self.settings.issuer.is_secure(), clock);
        let verifier: [u8; 32] = clock.random();
        let pending = PendingLogin::new(flow, verifier, &cookie.value);
        let state = self.parts.keys.seal(clock, STATE, &pending);
        let verifier = URL_SAFE_NO_PAD.encode(verifier);
        let url = self.parts.github.authorize_url(&state, &verifier, &published.github_scopes);
        let html = pages::render(&Onward {
            title: "On to GitHub",
            text: "GitHub asks you to log in now, unless you are logged in already.",
            url: &url,
            button: "Continue to GitHub",
            automatic: true,
        });
        Ok(Answer::Page { status: 200, html, cookie: Some(cookie.header) })
    }

    /// Back to the client with `access_denied`; the flow is dead.
    fn denied(&self, flow: &Flow) -> Answer {
        self.parts.spent.insert(flow.id, ());
        let error = OAuthError::new(Code::AccessDenied, "the person denied the request");
        let url = self.error_location(&flow.redirect_uri, flow.state.as_deref(), &error);
        let html = pages::render(&Onward {
            title: "Denied",
            text: &format!("“{}” was given nothing.", flow.client_name),
            url: &url,
            button: "Back to the client",
            automatic: flow.redirect_uri.kind() != RedirectKind::PrivateUse,
        });
        Answer::Page { status: 200, html, cookie: None }
    }

    /// Our pages say no-referrer, which makes browsers send `Origin: null` with the form; then only
    /// Sec-Fetch-Site tells (no page can set it).
    fn comes_from_our_page(&self, headers: &HeaderMap) -> bool {
        let single = |name: &str| {
            let mut values = headers.get_all(name).iter();
            let first = values.next().map(|value| value.to_str().unwrap_or("unreadable"));
            if values.next().is_some() { Some("several") } else { first }
        };
        let origin = single(header::ORIGIN.as_str());
        match single("sec-fetch-site") {
            Some("same-origin") => {
                matches!(origin, None | Some("null")) || origin == Some(self.settings.issuer.as_str())
            }
            Some(_) => false,
            None => origin == Some(self.settings.issuer.as_str()),
        }
    }
}

fn forbidden(text: &str) -> Failure {
    Failure::Displayed {
        status: 403,
        code: Code::InvalidRequest,
        title: "This cannot go on",
        text: format!("{text} Start again in the client."),
        cause: None,
    }
}
