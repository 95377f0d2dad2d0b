//! GitHub: where people log in. Its real behaviour, oddities included, is known here and nowhere else.
//!
//! Errors with status 200, comma-separated scopes, 401 on fresh tokens, tokens of any length and shape.

pub mod admission;
mod api;
pub mod credential;
mod http;
mod login;
pub mod scopes;

pub use api::{Membership, Profile, TokenState};
pub use http::Trouble;
pub use login::{Granted, LoginError};

use std::time::Duration;

use secrecy::SecretString;

use crate::clock::Clock;
use crate::telemetry::Telemetry;
use crate::tls::{self, Authorities, NoClient};

/// What a [`GitHub`] needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    pub client_id: String,
    pub client_secret: SecretString,
    /// Web base, `https://github.com`; no trailing slash.
    pub base_url: String,
    /// API base, `https://api.github.com`; no trailing slash.
    pub api_url: String,
    /// Our own callback, exactly as registered.
    pub callback_url: String,
    /// Waits before asking again with a fresh token that got 401.
    pub fresh_token_retries: Vec<Duration>,
    /// Total time of one call.
    pub timeout: Duration,
    /// Who may vouch for it, beside the machine's own authorities.
    pub authorities: Authorities,
}

/// GitHub as a login and as an API.
pub struct GitHub {
    settings: Settings,
    client: reqwest::Client,
    clock: Clock,
    telemetry: Telemetry,
    rest: http::Rest,
}

impl GitHub {
    /// Prepares to talk to GitHub; no connection is made.
    pub fn new(settings: Settings, clock: Clock, telemetry: Telemetry) -> Result<Self, NoClient> {
        let client = reqwest::Client::builder()
            // A token must not follow a redirect to another host.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(settings.timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
            .user_agent(USER_AGENT);
        let client = tls::client(client, &settings.authorities)?;
        Ok(GitHub { settings, client, clock, telemetry, rest: http::Rest::default() })
    }
}

/// GitHub answers 403 without one.
pub const USER_AGENT: &str = concat!("mcp-auth-proxy/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
