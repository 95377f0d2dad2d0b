//! Configuration: what the operator wrote becomes only valid values, or a list of all problems.
//!
//! The only readers of this module are `app.rs` and the command line; every other module takes its own
//! small settings.

mod clients;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod limits;
mod rates;
pub mod raw;
mod resolve;
mod resources;
mod secrets;
mod store;
mod telemetry;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;
use secrecy::SecretString;

use crate::protocol::client::Client;
use crate::protocol::family::Lifetimes;
use crate::protocol::injection::Injection;
use crate::protocol::issuer::Issuer;
use crate::protocol::resource::Resource;
use crate::seal::MasterKey;
use crate::store::{postgres, redis};
use crate::telemetry::audit::Destination;
use crate::telemetry::traces;
use crate::tls::{Authorities, Files};

pub use limits::Limits;
pub use raw::{Environment, Problem};
pub use store::place as store_place;

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// What clients type, without a path.
    pub issuer: Issuer,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate to show when TLS ends here.
    pub tls: Option<Files>,
    /// Who may vouch for GitHub and for https upstreams, beside the machine's own authorities.
    pub authorities: Authorities,
    /// Cores to use; one runtime each.
    pub workers: usize,
    /// The OAuth App or GitHub App.
    pub github: GitHub,
    /// Who may log in.
    pub allow: Allow,
    /// At least one.
    pub resources: Vec<ResourceConfig>,
    /// Where records live.
    pub store: StoreConfig,
    /// How many connections to PostgreSQL this process may have.
    pub store_connections: usize,
    /// How long things last.
    pub lifetimes: Lifetimes,
    /// Whether anybody may register a client.
    pub registration: bool,
    /// Whether clients that are not configured may use private-use redirect schemes (`cursor://…`).
    pub private_use_schemes: bool,
    /// Configured clients, with the secret of the confidential ones.
    pub clients: Vec<(Client, Option<SecretString>)>,
    /// How client metadata documents are fetched.
    pub client_metadata: ClientMetadata,
    /// Newest first; empty means: generate one beside the embedded store.
    pub keys: Vec<MasterKey>,
    /// Whether authorization responses carry `iss`.
    pub iss: bool,
    /// Peers whose X-Forwarded-For counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether the operator said who they are, be it nobody: then a peer with a private address is a client.
    pub proxies_declared: bool,
    /// Web origins that may call resources, beside our own and loopback ones.
    pub allowed_origins: Vec<String>,
    /// How much strangers, addresses and people may hold.
    pub limits: Limits,
    /// Where numbers are told to whoever collects them.
    pub metrics: Option<SocketAddr>,
    /// Where the audit trail goes.
    pub audit: Option<Destination>,
    /// Where traces go.
    pub traces: Option<traces::Settings>,
    /// How long after SIGTERM new requests are still taken, while it says that it is not ready.
    pub drain_delay: Duration,
    /// How long open requests get after that.
    pub drain: Duration,
}

/// The app at GitHub.
#[derive(Debug)]
pub struct GitHub {
    pub client_id: String,
    pub client_secret: SecretString,
    /// `https://github.com`, without a trailing slash.
    pub base_url: String,
    /// `https://api.github.com`, without a trailing slash.
    pub api_url: String,
}

/// Who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Every GitHub account.
    Anyone,
    /// Members of any of these; names as written, compared without case.
    Listed { users: Vec<String>, orgs: Vec<String>, teams: Vec<(String, String)> },
}

/// One resource and its upstream.
#[derive(Debug)]
pub struct ResourceConfig {
    pub resource: Resource,
    /// Absolute http or https URLs, each once: replicas of one MCP server.
    pub upstreams: Vec<Uri>,
    /// Exactly what is asked of GitHub, sorted.
    pub github_scopes: Vec<String>,
    pub inject: Vec<Injection>,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    /// Largest request body, in bytes.
    pub max_body: u64,
}

/// Where records live. Shows no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    Sqlite(PathBuf),
    Postgres(postgres::Place),
    Redis(redis::Place),
    Memory,
}

impl StoreConfig {
    /// Whether processes on several machines may share it: then keys must be configured.
    pub fn is_shared(&self) -> bool {
        matches!(self, StoreConfig::Postgres(_) | StoreConfig::Redis(_))
    }
}

impl std::fmt::Display for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreConfig::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            StoreConfig::Postgres(place) => place.fmt(f),
            StoreConfig::Redis(place) => place.fmt(f),
            StoreConfig::Memory => f.write_str("memory:"),
        }
    }
}

/// How client metadata documents are fetched.
#[derive(Clone, Debug)]
pub struct ClientMetadata {
    pub enabled: bool,
    /// Exact hosts; empty means any.
    pub allow_hosts: Vec<String>,
    /// Who may vouch for their hosts, beside the machine's own authorities.
    pub authorities: Authorities,
    /// For tests and closed networks only.
    pub allow_private_addresses: bool,
}

impl Config {
    /// Reads the text of a proxy.yaml.
    pub fn parse(text: &str, environment: Environment<'_>) -> Result<Self, Vec<Problem>> {
        resolve::config(text, environment)
    }

    /// Reads a file; a file that cannot be read is one problem.
    pub fn load(path: &std::path::Path) -> Result<Self, Vec<Problem>> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            vec![Problem { path: String::new(), text: format!("cannot read the file: {error}") }]
        })?;
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        Self::parse(&text, &|name| std::env::var(name).ok())
    }

    /// What to register as the callback URL at GitHub.
    pub fn callback_url(&self) -> String {
        self.issuer.url(CALLBACK_PATH)
    }
}

/// The path of the callback that GitHub redirects to.
pub const CALLBACK_PATH: &str = "/github/callback";
