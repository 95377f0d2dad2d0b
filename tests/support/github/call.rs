//! One request as the stand-in saw it: what tests assert on, and what the endpoints read.

use bytes::Bytes;
use http::{HeaderMap, Method, header::AUTHORIZATION, request::Parts};
use serde_json::Value;
use url::form_urlencoded;

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What a request asked for. Faults, holds and counters are kept per endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `GET /login/oauth/authorize`, and the POST of its consent page.
    Authorize,
    /// `POST /session`: somebody picked an account.
    SignIn,
    /// `POST /login/oauth/access_token` for a code.
    Exchange,
    /// The same with `grant_type=refresh_token`.
    Refresh,
    User,
    Emails,
    Orgs,
    /// `/user/memberships/orgs/{org}`
    OrgMembership,
    /// `/orgs/{org}/members/{login}`
    OrgMember,
    TeamMembership,
    Teams,
    /// `POST /applications/{client_id}/token`
    CheckToken,
    /// `PATCH /applications/{client_id}/token`
    ResetToken,
    /// `DELETE /applications/{client_id}/token`
    DeleteToken,
    /// `DELETE /applications/{client_id}/grant`
    DeleteGrant,
    /// `/_standin/…`: never recorded.
    Control,
    Unknown,
}

impl Endpoint {
    pub const ALL: [Endpoint; 16] = [
        Endpoint::Authorize,
        Endpoint::SignIn,
        Endpoint::Exchange,
        Endpoint::Refresh,
        Endpoint::User,
        Endpoint::Emails,
        Endpoint::Orgs,
        Endpoint::OrgMembership,
        Endpoint::OrgMember,
        Endpoint::TeamMembership,
        Endpoint::Teams,
        Endpoint::CheckToken,
        Endpoint::ResetToken,
        Endpoint::DeleteToken,
        Endpoint::DeleteGrant,
        Endpoint::Unknown,
    ];

    /// The name the control endpoints use, e.g. `team-membership`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    fn of(method: &Method, segments: &[&str], grant_type: Option<&str>) -> Endpoint {
        match (method.as_str(), segments) {
            (_, ["_standin", ..]) => Endpoint::Control,
            ("GET" | "POST", ["login", "oauth", "authorize"]) => Endpoint::Authorize,
            ("POST", ["session"]) => Endpoint::SignIn,
            ("POST", ["login", "oauth", "access_token"]) => match grant_type {
                Some("refresh_token") => Endpoint::Refresh,
                _ => Endpoint::Exchange,
            },
            (_, ["api", "v3", rest @ ..]) => match (method.as_str(), rest) {
                ("GET", ["user"]) => Endpoint::User,
                ("GET", ["user", "emails"]) => Endpoint::Emails,
                ("GET", ["user", "orgs"]) => Endpoint::Orgs,
                ("GET", ["user", "teams"]) => Endpoint::Teams,
                ("GET", ["user", "memberships", "orgs", _]) => Endpoint::OrgMembership,
                ("GET", ["orgs", _, "members", _]) => Endpoint::OrgMember,
                ("GET", ["orgs", _, "teams", _, "memberships", _]) => Endpoint::TeamMembership,
                ("POST", ["applications", _, "token"]) => Endpoint::CheckToken,
                ("PATCH", ["applications", _, "token"]) => Endpoint::ResetToken,
                ("DELETE", ["applications", _, "token"]) => Endpoint::DeleteToken,
                ("DELETE", ["applications", _, "grant"]) => Endpoint::DeleteGrant,
                _ => Endpoint::Unknown,
            },
            _ => Endpoint::Unknown,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Call {
    pub endpoint: Endpoint,
    pub method: Method,
    pub path: String,
    /// The query as sent, without `?`.
    pub raw_query: String,
    pub query: Vec<(String, String)>,
    pub form: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Call {
    pub(super) fn new(head: Parts, body: Bytes) -> Call {
        let raw_query = head.uri.query().unwrap_or_default().to_owned();
        let form = match head.headers.get("content-type").map(|kind| kind.as_bytes()) {
            Some(kind) if kind.starts_with(b"application/json") => Vec::new(),
            _ => pairs(&body),
        };
        let path = head.uri.path().to_owned();
        let grant_type = form.iter().find(|(name, _)| name == "grant_type");
        let endpoint =
            Endpoint::of(&head.method, &segments(&path), grant_type.map(|(_, value)| value.as_str()));
        Call {
            endpoint,
            method: head.method,
            path,
            query: pairs(raw_query.as_bytes()),
            raw_query,
            form,
            headers: head.headers,
            body,
        }
    }

    /// A parameter of the form, else of the query.
    pub fn param(&self, name: &str) -> Option<&str> {
        let named = |(key, _): &&(String, String)| key == name;
        let found = self.form.iter().find(named);
        found.or_else(|| self.query.iter().find(named)).map(|(_, value)| value.as_str())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The token of `Authorization: Bearer …`; GitHub also takes the word `token`.
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header(AUTHORIZATION.as_str())?.split_once(' ')?;
        let known = ["bearer", "token"].contains(&scheme.to_ascii_lowercase().as_str());
        known.then_some(token.trim())
    }

    /// Client id and secret of `Authorization: Basic …`.
    pub fn basic(&self) -> Option<(String, String)> {
        let (scheme, value) = self.header(AUTHORIZATION.as_str())?.split_once(' ')?;
        let decoded = STANDARD.decode(value.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (id, secret) = decoded.split_once(':')?;
        scheme.eq_ignore_ascii_case("basic").then(|| (id.to_owned(), secret.to_owned()))
    }

    /// A string member of a JSON body.
    pub fn json(&self, name: &str) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        Some(body.get(name)?.as_str()?.to_owned())
    }

    pub(super) fn segments(&self) -> Vec<&str> {
        segments(&self.path)
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.trim_start_matches('/').split('/').collect()
}

fn pairs(encoded: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(encoded).into_owned().collect()
}
