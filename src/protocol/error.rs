//! The error codes of OAuth and the words that go with them.
//!
//! `public` is for the client developer; causes are for the log only and never leave the process.
//! RFC 6749 §4.1.2.1, §5.2; RFC 7591 §3.2.2; RFC 8707 §2.

use std::fmt;

/// A registered `error` value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    AccessDenied,
    InvalidClient,
    InvalidClientMetadata,
    InvalidGrant,
    InvalidRedirectUri,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    LoginRequired,
    RequestNotSupported,
    RequestUriNotSupported,
    ServerError,
    TemporarilyUnavailable,
    /// Not registered anywhere: the word of the MCP SDKs for 429.
    TooManyRequests,
    UnauthorizedClient,
    UnsupportedGrantType,
    UnsupportedResponseType,
}

impl Code {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::AccessDenied => "access_denied",
            Code::InvalidClient => "invalid_client",
            Code::InvalidClientMetadata => "invalid_client_metadata",
            Code::InvalidGrant => "invalid_grant",
            Code::InvalidRedirectUri => "invalid_redirect_uri",
            Code::InvalidRequest => "invalid_request",
            Code::InvalidScope => "invalid_scope",
            Code::InvalidTarget => "invalid_target",
            Code::LoginRequired => "login_required",
            Code::RequestNotSupported => "request_not_supported",
            Code::RequestUriNotSupported => "request_uri_not_supported",
            Code::ServerError => "server_error",
            Code::TemporarilyUnavailable => "temporarily_unavailable",
            Code::TooManyRequests => "too_many_requests",
            Code::UnauthorizedClient => "unauthorized_client",
            Code::UnsupportedGrantType => "unsupported_grant_type",
            Code::UnsupportedResponseType => "unsupported_response_type",
        }
    }

    /// The status of a JSON answer with this code (RFC 6749 §5.2).
    pub fn status(self) -> u16 {
        match self {
            Code::InvalidClient => 401,
            Code::AccessDenied => 403,
            Code::TooManyRequests => 429,
            Code::ServerError => 500,
            Code::TemporarilyUnavailable => 503,
            _ => 400,
        }
    }
}

/// What goes wrong in a protocol step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthError {
    /// The registered code.
    pub code: Code,
    /// For the client developer; never a secret, never an input echoed at length.
    pub public: String,
    /// For our log; says more than the client may know.
    pub cause: Option<String>,
    /// When trying again makes sense, in seconds.
    pub retry_after: Option<u64>,
}

impl OAuthError {
    /// An error with its public description.
    pub fn new(code: Code, public: impl Into<String>) -> Self {
        OAuthError { code, public: public.into(), cause: None, retry_after: None }
    }

    /// Adds what only the log may say.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// RFC 6585 §4. No RFC has an error code for it at these endpoints; this one the MCP SDKs know, and keep
    /// what they hold when they read it. An unknown one would make them ask the person to log in again.
    pub fn too_often(retry_after: u64) -> Self {
        let public = format!("too many requests; try again in {retry_after} s");
        OAuthError { retry_after: Some(retry_after), ..OAuthError::new(Code::TooManyRequests, public) }
    }

    /// Our own trouble: the client keeps what it has and tries again.
    pub fn unavailable(cause: impl fmt::Display) -> Self {
        let public = "the service cannot answer right now; try again";
        OAuthError { retry_after: Some(RETRY_AFTER), ..OAuthError::new(Code::TemporarilyUnavailable, public) }
            .because(cause)
    }
}

impl fmt::Display for OAuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.public)
    }
}

impl std::error::Error for OAuthError {}

/// Seconds; long enough for a database fail-over, short enough that people do not notice.
const RETRY_AFTER: u64 = 5;
