//! The pages people see: server-rendered, no script, no foreign content, readable on a phone, light and dark.
//!
//! Everything a stranger wrote is escaped by the templates. MCP security best practices, consent UI.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The style of all pages; its hash is the only style the policy below allows.
pub const STYLE: &str = include_str!("style.css");

/// The Content-Security-Policy of all pages.
pub fn content_security_policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
}

/// Asks a person whether a client may act for them.
#[derive(Template)]
#[template(path = "consent.html")]
pub struct Consent<'a> {
    pub client_name: &'a str,
    /// The host that published the client's metadata document.
    pub verified_host: Option<&'a str>,
    pub configured: bool,
    pub redirect_host: &'a str,
    pub loopback: bool,
    pub private_use: bool,
    pub resource: &'a str,
    pub scopes: Vec<String>,
    pub github_scopes: &'a [String],
    pub flow: &'a str,
}

/// Tells that something went wrong, and what to do.
#[derive(Template)]
#[template(path = "problem.html")]
pub struct Problem<'a> {
    pub title: &'a str,
    pub text: &'a str,
    pub hint: &'a str,
}

/// Leads on to another page: by itself, or when the person clicks.
#[derive(Template)]
#[template(path = "onward.html")]
pub struct Onward<'a> {
    pub title: &'a str,
    pub text: &'a str,
    pub url: &'a str,
    pub button: &'a str,
    pub automatic: bool,
}

/// What this is, and how to add it to a client.
#[derive(Template)]
#[template(path = "front.html")]
pub struct Front<'a> {
    pub host: &'a str,
    pub resources: Vec<FrontResource>,
}

/// One resource on the front page.
pub struct FrontResource {
    pub url: String,
    pub name: String,
    /// As Claude Code, VS Code and Gemini CLI call it.
    pub transport: &'static str,
    /// As the Inspector calls it.
    pub inspector: &'static str,
}

/// Renders a page.
pub fn render(page: &impl Template) -> String {
    page.render().expect("templates write to memory only")
}
