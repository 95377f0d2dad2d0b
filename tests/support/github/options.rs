//! How a stand-in is set up.

use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    pub client_id: String,
    pub client_secret: String,
    /// Registered callback URLs; none means that any redirect_uri will do.
    pub callbacks: Vec<String>,
    pub token_kind: TokenKind,
    /// RFC 9207 §2: GitHub sends `iss` since August 2026; older servers do not.
    pub iss: bool,
    /// Close each connection after its first answer.
    pub close: bool,
    /// Serve `/_standin/…`, for tests in other processes.
    pub control: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            client_id: "standin-client".to_owned(),
            client_secret: "standin-secret".to_owned(),
            callbacks: Vec::new(),
            token_kind: TokenKind::OAuthApp,
            iss: true,
            close: false,
            control: false,
        }
    }
}

/// Times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// `gho_`, scopes, no expiry.
    OAuthApp,
    /// `ghu_` with a rotating `ghr_`, no scopes.
    GitHubApp { lifetime: u64, refresh_lifetime: u64 },
    /// The owner of the GitHub App opted out of expiry: `ghu_` alone.
    GitHubAppWithoutExpiry,
}

/// What a signed-in person meets at the authorize endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// As if everything was authorised before: straight back, no page.
    Automatic,
    /// As GitHub does: a page at first and for new scopes, straight back afterwards.
    Remembered,
    /// Straight back with `access_denied`.
    Denied,
}
