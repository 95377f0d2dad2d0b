//! The authorization request: checked in the order that decides where an error may go.
//!
//! Nothing redirects before the redirect_uri is known. Does not talk to GitHub: the person decides first.
//! OAuth 2.1 §4.1.1, §4.1.2.1; RFC 7636 §4.3; RFC 8707 §2; RFC 9207.

use http::Method;

use super::clients::NoClient;
use super::cookies::{self, Binds};
use super::document::DocumentError;
use super::flow::{Flow, PendingConsent};
use super::pages::{self, Consent};
use super::{Answer, AuthorizationServer, Failure, Published, Request, destination};
use crate::limit::Source;
use crate::protocol::client::{Client, Origin};
use crate::protocol::error::{Code, OAuthError};
use crate::protocol::params::Params;
use crate::protocol::pkce::CodeChallenge;
use crate::protocol::redirect::{RedirectKind, RedirectUri};
use crate::protocol::scope::{OFFLINE_ACCESS, ScopeSet};

impl AuthorizationServer {
    /// `GET /authorize` (and `POST` with a form, OAuth 2.1 §3.1): the consent page.
    pub async fn authorize(&self, request: &Request) -> Result<Answer, Failure> {
        let mut text = request.query.clone().unwrap_or_default().into_bytes();
        if request.method == Method::POST {
            // Read together, so that a parameter given here and there is one given twice.
            text = [&text, &b"&"[..], &request.body].concat();
        }
        let params = Params::parse(&text)
            .map_err(|error| Failure::displayed("This login link is broken", format!("In it {error}.")))?;
        let client = self.requesting_client(&params, request.source).await?;
        let Some(redirect_uri) = client.redirect_uri(params.get("redirect_uri")) else {
            let text = format!("The address to return to is not one that “{}” has registered.", client.name);
            return Err(Failure::displayed("This login link is broken", text));
        };
        match self.flow(&params, &client, &redirect_uri) {
            Ok((flow, published)) => {
                self.parts.telemetry.metrics.login("asked");
                Ok(self.consent_page(request, flow, published, &client))
            }
            Err(error) => Err(self.refuse(error, &client, &redirect_uri, params.get("state"))),
        }
    }

    async fn requesting_client(&self, params: &Params, source: Source) -> Result<Client, Failure> {
        let id = params.get("client_id").ok_or_else(|| {
            Failure::displayed("This login link is broken", "It does not say which client it is from.")
        })?;
        self.client(id, source).await.map_err(|reason| {
            let (status, code) = match reason {
                NoClient::Document(DocumentError::Busy) => (503, Code::TemporarilyUnavailable),
                _ => (400, Code::InvalidClient),
            };
            let text = match reason {
                NoClient::Document(DocumentError::TooOften(limited)) => return limited.into(),
                NoClient::Unknown => {
                    "The client is not registered here. Remove this server from the client and add it again."
                        .to_owned()
                }
                NoClient::Document(error) => format!("The client cannot be verified: {error}."),
            };
            Failure::Displayed { status, code, title: "Unknown client", text, cause: None }
        })
    }

    /// Everything after client and redirect URI: errors of these go to the client.
    fn flow(
        &self,
        params: &Params,
        client: &Client,
        redirect_uri: &RedirectUri,
    ) -> Result<(Flow, &Published), OAuthError> {
        let state = params.get("state");
        if state.is_some_and(|state| state.len() > MAX_STATE) {
            return Err(OAuthError::new(
                Code::InvalidRequest,
                format!("state is longer than {MAX_STATE} bytes"),
            ));
        }
        unsupported_features(params)?;
        let challenge = challenge(params)?;
        let published = self.target(params)?;
        let flow = Flow {
            id: self.parts.clock.random(),
            client_id: client.id.clone(),
            client_name: client.name.clone(),
            origin: client.origin.clone(),
            redirect_uri: redirect_uri.clone(),
            state: state.map(str::to_owned),
            challenge,
            resource: published.resource.path().to_owned(),
            scopes: granted_scopes(params, published),
            started: self.parts.clock.now(),
        };
        Ok((flow, published))
    }

    /// RFC 8707 §2: the resource asked for; old clients do not ask and mean the first.
    fn target(&self, params: &Params) -> Result<&Published, OAuthError> {
        let published = &self.settings.resources;
        let Some(asked) = params.get("resource") else {
            return published
                .first()
                .ok_or_else(|| OAuthError::new(Code::InvalidTarget, "there is no resource here"));
        };
        self.named_resource(asked).and_then(|resource| self.published(resource.path())).ok_or_else(|| {
            OAuthError::new(Code::InvalidTarget, "resource does not name an MCP endpoint of this server")
        })
    }

    fn consent_page(&self, request: &Request, flow: Flow, published: &Published, client: &Client) -> Answer {
        let secure = self.settings.issuer.is_secure();
        let cookie = cookies::keep(&request.headers, Binds::Consent, secure, &self.parts.clock);
        let scopes = flow.scopes.iter().map(scope_in_words).collect();
        let redirect_uri = flow.redirect_uri.clone();
        let sealed = self.parts.keys.seal(&self.parts.clock, cookie.value.as_bytes(), &PendingConsent(flow));
        let verified_host = match &client.origin {
            Origin::Document { host } => Some(host.as_str()),
            _ => None,
        };
        let html = pages::render(&Consent {
            client_name: &client.name,
            verified_host,
            configured: client.origin == Origin::Configured,
            redirect_host: redirect_uri.shown_host(),
            loopback: redirect_uri.kind() == RedirectKind::Loopback,
            private_use: redirect_uri.kind() == RedirectKind::PrivateUse,
            resource: published.resource.url(),
            scopes,
            github_scopes: &published.github_scopes,
            flow: &sealed,
        });
        Answer::Page { status: 200, html, cookie: Some(cookie.header) }
    }

    /// An error the client should hear of. For a URI nobody vouches for a page offers the way back, because
    /// a redirect would make us an open redirector (RFC 9700 §4.11.2).
    fn refuse(&self, error: OAuthError, client: &Client, to: &RedirectUri, state: Option<&str>) -> Failure {
        let state = state.filter(|state| state.len() <= MAX_STATE);
        let location = self.error_location(to, state, &error);
        match client.origin == Origin::Registered && to.kind() != RedirectKind::Loopback {
            true => {
                let to = format!("{}, which nobody has verified", destination(to));
                Failure::Offered { error, location, to }
            }
            false => Failure::Redirected { error, location },
        }
    }
}

/// Says no to what would change the meaning of the request if it were ignored.
fn unsupported_features(params: &Params) -> Result<(), OAuthError> {
    let refuse = |code, text: &str| Err(OAuthError::new(code, text));
    if params.get("request").is_some() {
        return refuse(Code::RequestNotSupported, "request objects are not supported");
    }
    if params.get("request_uri").is_some() {
        return refuse(Code::RequestUriNotSupported, "request_uri is not supported");
    }
    if params.get("response_type") != Some("code") {
        return refuse(Code::UnsupportedResponseType, "response_type must be code");
    }
    if !matches!(params.get("response_mode"), None | Some("query")) {
        return refuse(Code::UnsupportedResponseType, "response_mode must be query");
    }
    // OpenID Connect Core §3.1.2.1: none = without any page; a person always decides here.
    if params.get("prompt").is_some_and(|prompt| prompt.split(' ').any(|word| word == "none")) {
        return refuse(Code::LoginRequired, "a person must approve; prompt=none is not possible");
    }
    Ok(())
}

fn challenge(params: &Params) -> Result<CodeChallenge, OAuthError> {
    let refuse = |text: &str| OAuthError::new(Code::InvalidRequest, text);
    // RFC 7636 §4.3: absent means plain, which is refused (RFC 9700 §2.1.1).
    if params.get("code_challenge_method") != Some("S256") {
        return Err(refuse("code_challenge_method must be S256"));
    }
    let text = params.get("code_challenge").ok_or_else(|| refuse("code_challenge is required"))?;
    CodeChallenge::parse(text).ok_or_else(|| refuse("code_challenge must be 43 characters of base64url"))
}

/// What is asked for among what there is; asking for nothing (known) means everything the resource needs.
fn granted_scopes(params: &Params, published: &Published) -> ScopeSet {
    let asked = ScopeSet::parse(params.get("scope").unwrap_or_default());
    let needed = published.resource.scopes();
    let granted = asked.narrowed_to(needed);
    let granted = if granted.is_empty() { needed.clone() } else { granted };
    let offline = asked.contains(OFFLINE_ACCESS).then(|| OFFLINE_ACCESS.to_owned());
    granted.iter().map(str::to_owned).chain(offline).collect()
}

fn scope_in_words(scope: &str) -> String {
    match scope {
        OFFLINE_ACCESS => "stay connected until you or it signs out".to_owned(),
        "mcp" => "call the server's tools and read what it offers".to_owned(),
        other => other.to_owned(),
    }
}

/// Bytes; the state travels inside ours through GitHub's URL.
const MAX_STATE: usize = 3072;
