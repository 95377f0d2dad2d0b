//! The composition root: a [`Config`] in, a running [`App`] out. The only file that names every module.

mod announce;
mod bounds;
mod keys;
mod look;
mod secure;
mod side;
mod sweep;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tracing::warn;

use announce::announcement;
pub use announce::shown;
pub use look::{concerns, obstacles};
use side::Side;

use crate::clock::Clock;
use crate::config::{Allow, CALLBACK_PATH, Config, ResourceConfig, StoreConfig};
use crate::gate::challenge::Challenges;
use crate::gate::origin::Origins;
use crate::gate::{Gate, Gated};
use crate::github::GitHub;
use crate::github::admission::{Admission, AllowList};
use crate::github::credential::Credentials;
use crate::limit::Limiters;
use crate::oauth::document::Fetcher;
use crate::oauth::pages::{self, Front, FrontResource};
use crate::oauth::{self, AuthorizationServer, Documents};
use crate::seal::KeyRing;
use crate::server::{self, Drain, Proxies, Published, Server};
use crate::store::Records;
use crate::store::authentic::Authentic;
use crate::store::families::Families;
use crate::store::memory::Memory;
use crate::store::people::People;
use crate::store::sqlite::{OpenError, Sqlite};
use crate::tls::{self, Fault};
use crate::upstream::{self, Target, TargetError, Upstream};

/// A proxy that serves until it is stopped or dropped.
pub struct App {
    address: SocketAddr,
    server: Arc<Server>,
    drain: watch::Sender<Drain>,
    grace: Duration,
    workers: Vec<JoinHandle<()>>,
    side: Side,
}

/// What nobody configures, and tests change.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Waits before asking GitHub again with a fresh token that got 401.
    pub fresh_token_retries: Vec<Duration>,
    /// Total time of one call to GitHub.
    pub github_timeout: Duration,
    /// How long an SSE stream may be silent before it gets a comment.
    pub keep_alive: Duration,
    /// How often a stream's permit is looked at again.
    pub stream_recheck: Duration,
    /// How often expired records are removed.
    pub sweep: Duration,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How often the TLS files are looked at.
    pub tls_files: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            // The real ones heal within three seconds.
            fresh_token_retries: vec![Duration::from_secs(1), Duration::from_secs(2)],
            github_timeout: Duration::from_secs(10),
            // Below the shortest idle timeout clients are known to have (15 s with some slack).
            keep_alive: Duration::from_secs(15),
            stream_recheck: Duration::from_secs(15),
            sweep: Duration::from_secs(60),
            // Two round trips and some arithmetic, over a bad mobile network.
            handshake: Duration::from_secs(10),
            tls_files: Duration::from_secs(5),
        }
    }
}

/// Why a proxy does not start; each is one clear line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("listen: cannot use {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("store: {0}")]
    Store(#[from] OpenError),
    #[error("keys: {}: {problem}", path.display())]
    KeyFile { path: PathBuf, problem: String },
    #[error("keys: {0}")]
    Keys(String),
    #[error("tls: {0}")]
    Tls(Fault),
    #[error("resources: the upstream of {path} {source}")]
    Upstream { path: String, source: TargetError },
    #[error("cannot prepare calls to GitHub or to client metadata documents: {0}")]
    Http(#[from] reqwest::Error),
    #[error("cannot start a runtime: {0}")]
    Runtime(io::Error),
}

impl App {
    /// Starts everything and begins to listen.
    pub fn start(config: Config, clock: Clock, tuning: &Tuning) -> Result<Self, StartError> {
        install_crypto();
        let side = Side::start().map_err(StartError::Runtime)?;
        // The key before the database: one that is there already must have its key.
        let keys = Arc::new(keys::key_ring(&config, &clock)?);
        let records: Arc<dyn Records> = match &config.store {
            StoreConfig::Sqlite(path) => Arc::new(Sqlite::open(path, clock.clone())?),
            StoreConfig::Memory => Arc::new(Memory::new(clock.clone())),
        };
        keys::recognise(&records, &keys, &clock, side.handle())?;
        let records: Arc<dyn Records> = Arc::new(Authentic::new(records, keys.clone()));
        let listeners = server::bind(config.listen, config.workers, config.limits.write_timeout);
        let listeners = listeners.map_err(|source| StartError::Listen { address: config.listen, source })?;
        let address = listeners[0].local_addr().map_err(StartError::Runtime)?;
        let grace = config.drain;
        let announce = announcement(&config, address);
        let server = Arc::new(compose(config, &clock, tuning, &records, &keys, side.handle())?);
        side.handle().spawn(sweep::sweep(records, server.gate.clone(), clock.clone(), tuning.sweep));
        if let Some(tls) = &server.tls {
            side.handle().spawn(tls.clone().follow(clock.clone(), tuning.tls_files));
        }
        let (drain, draining) = watch::channel(Drain::No);
        let mut workers = Vec::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            workers.push(
                worker(number, listener, server.clone(), draining.clone()).map_err(StartError::Runtime)?,
            );
        }
        server.ready.store(true, Ordering::Relaxed);
        announce();
        for concern in server.tls.iter().flat_map(|tls| tls.concerns(clock.now())) {
            warn!("{concern}");
        }
        Ok(App { address, server, drain, grace, workers, side })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, finishes what is open for as long as configured, then cuts the rest. Blocks.
    pub fn stop(mut self) {
        self.begin_drain();
        let (cut, grace) = (self.drain.clone(), self.grace);
        let timer = self.side.handle().spawn(async move {
            tokio::time::sleep(grace).await;
            cut.send_replace(Drain::Now);
        });
        for worker in self.workers.drain(..) {
            // A worker that panicked is down already.
            let _ = worker.join();
        }
        timer.abort();
        // What runs on the side holds the store; it must be gone before the store can close its file.
        self.side.end_within(SIDE_GRACE);
    }

    /// Not ready any more, no new connections.
    pub fn begin_drain(&self) {
        self.server.ready.store(false, Ordering::Relaxed);
        self.drain.send_replace(Drain::Begun);
    }

    /// Cuts what is still open, for a second signal.
    pub fn cut(&self) -> impl Fn() + Send + 'static {
        let drain = self.drain.clone();
        move || {
            drain.send_replace(Drain::Now);
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.drain.send_replace(Drain::Now);
    }
}

/// Puts the rooms together.
fn compose(
    config: Config,
    clock: &Clock,
    tuning: &Tuning,
    records: &Arc<dyn Records>,
    keys: &Arc<KeyRing>,
    side: &Handle,
) -> Result<Server, StartError> {
    let families = Families::new(records.clone(), clock.clone(), config.lifetimes);
    let people = People::new(records.clone(), clock.clone(), config.lifetimes.refresh_max);
    let github = Arc::new(github(&config, clock, tuning)?);
    let admission = Arc::new(Admission::new(allow_list(&config.allow), github.clone(), people.clone()));
    let kept = (people.clone(), families.clone());
    let judging = (admission.clone(), side.clone());
    let credentials = Credentials::new(github.clone(), kept, keys.clone(), clock.clone(), judging);
    let gated =
        config.resources.iter().map(|r| Gated { resource: r.resource.clone(), inject: r.inject.clone() });
    let limits = Arc::new(Limiters::new(&config.limits.rates, clock));
    let gate = Gate::new(
        keys.clone(),
        clock.clone(),
        families.clone(),
        credentials.clone(),
        gated.collect(),
        limits.clone(),
    );
    let gate = Arc::new(gate);
    let told = Arc::downgrade(&gate);
    families.when_ended(move |id| {
        if let Some(gate) = told.upgrade() {
            gate.forget(id);
        }
    });
    let upstreams = upstreams(&config, clock, tuning, keys)?;
    let (tls, strict_transport) = (secure::shown(&config, clock, tuning)?, secure::is_strict(&config));
    let documents = documents(&config, clock, &limits)?;
    let parts = oauth::Parts {
        keys: keys.clone(),
        clock: clock.clone(),
        families,
        people,
        github,
        credentials,
        admission,
        documents,
        limits: limits.clone(),
    };
    let front = front(&config);
    let origins = Origins::new(&config.issuer, config.allowed_origins.clone());
    let issuer = config.issuer.clone();
    let bounds = bounds::all(&config);
    let proxies = Proxies::new(config.trusted_proxies.clone(), config.proxies_declared);
    let enabled = parts.documents.is_some();
    let settings = oauth_settings(config);
    let documents = Documents::new(&settings, enabled);
    let oauth = Arc::new(AuthorizationServer::new(settings, parts));
    let (clock, side, ready) = (clock.clone(), side.clone(), AtomicBool::new(false));
    Ok(Server {
        issuer,
        clock,
        gate,
        upstreams,
        oauth,
        documents,
        front,
        origins,
        proxies,
        limits,
        bounds,
        tls,
        strict_transport,
        side,
        ready,
    })
}

fn github(config: &Config, clock: &Clock, tuning: &Tuning) -> Result<GitHub, reqwest::Error> {
    let settings = crate::github::Settings {
        client_id: config.github.client_id.clone(),
        client_secret: config.github.client_secret.clone(),
        base_url: config.github.base_url.clone(),
        api_url: config.github.api_url.clone(),
        callback_url: config.issuer.url(CALLBACK_PATH),
        fresh_token_retries: tuning.fresh_token_retries.clone(),
        timeout: tuning.github_timeout,
        authorities: config.authorities.clone(),
    };
    GitHub::new(settings, clock.clone())
}

fn allow_list(allow: &Allow) -> AllowList {
    match allow.clone() {
        Allow::Anyone => AllowList::Anyone,
        Allow::Listed { users, orgs, teams } => AllowList::Listed { users, orgs, teams },
    }
}

fn documents(
    config: &Config,
    clock: &Clock,
    limits: &Arc<Limiters>,
) -> Result<Option<Fetcher>, reqwest::Error> {
    let settings = oauth::document::Settings {
        allow_hosts: config.client_metadata.allow_hosts.clone(),
        authorities: config.client_metadata.authorities.clone(),
        allow_private_addresses: config.client_metadata.allow_private_addresses,
        own: (config.issuer.host().to_owned(), config.issuer.port()),
    };
    config.client_metadata.enabled.then(|| Fetcher::new(settings, clock.clone(), limits.clone())).transpose()
}

fn upstreams(
    config: &Config,
    clock: &Clock,
    tuning: &Tuning,
    keys: &Arc<KeyRing>,
) -> Result<Vec<Published>, StartError> {
    let published = |resource: &ResourceConfig| {
        let path = resource.resource.path().to_owned();
        let target = Target::new(&resource.upstream, || tls::trusting(&config.authorities))
            .map_err(|source| StartError::Upstream { path: path.clone(), source })?;
        let settings = upstream::Settings {
            target,
            connect_timeout: resource.connect_timeout,
            response_timeout: resource.response_timeout,
            max_body: resource.max_body,
            body_timeout: config.limits.body_timeout,
            keep_alive: tuning.keep_alive,
            recheck: tuning.stream_recheck,
        };
        let challenges = Challenges::new(&config.issuer, &resource.resource);
        Ok(Published { path, upstream: Upstream::new(settings, keys.clone(), clock.clone()), challenges })
    };
    config.resources.iter().map(published).collect()
}

fn oauth_settings(config: Config) -> oauth::Settings {
    // One credential serves all resources with the same scopes, so the address is read for all of them.
    let reads_email =
        |resource: &ResourceConfig| resource.inject.iter().any(|injection| injection.needs_email());
    let with_email: Vec<Vec<String>> =
        config.resources.iter().filter(|r| reads_email(r)).map(|r| r.github_scopes.clone()).collect();
    let published = config.resources.into_iter().map(|resource| oauth::Published {
        needs_email: with_email.contains(&resource.github_scopes),
        resource: resource.resource,
        github_scopes: resource.github_scopes,
    });
    oauth::Settings {
        resources: published.collect(),
        issuer: config.issuer,
        registration: config.registration,
        private_use_schemes: config.private_use_schemes,
        clients: config.clients,
        iss: config.iss,
    }
}

fn front(config: &Config) -> String {
    let resources = config.resources.iter().map(|resource| {
        let path = resource.resource.path();
        let legacy =
            path.ends_with("/sse") || resource.upstream.path().trim_end_matches('/').ends_with("/sse");
        FrontResource {
            url: resource.resource.url().to_owned(),
            name: path.trim_start_matches('/').replace(['/', '.', '~'], "-"),
            transport: if legacy { "sse" } else { "http" },
            inspector: if legacy { "sse" } else { "http" },
        }
    });
    pages::render(&Front { host: config.issuer.authority(), resources: resources.collect() })
}

fn worker(
    number: usize,
    listener: std::net::TcpListener,
    server: Arc<Server>,
    draining: watch::Receiver<Drain>,
) -> io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("core-{number}")).spawn(move || {
        if let Err(error) = runtime.block_on(server::work(listener, server, draining)) {
            warn!(%error, "a core stopped serving");
        }
    })
}

/// The one TLS and crypto provider of the process.
fn install_crypto() {
    // Fails when it is installed already, by us or by whoever embeds us.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// How long work on the side (a refresh at GitHub, say) may take to end once everything else has.
const SIDE_GRACE: Duration = Duration::from_secs(2);
