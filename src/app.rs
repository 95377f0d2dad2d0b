//! The composition root: a [`Config`] in, a running [`App`] out. The only file that names every module.

mod announce;
mod bounds;
mod compose;
mod keys;
mod lasting;
mod look;
pub mod operate;
mod reload;
mod secure;
mod side;
mod stores;
mod sweep;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use announce::announcement;
pub use announce::shown;
use compose::compose;
use lasting::Lasting;
pub use look::{concerns, obstacles};
use reload::Fixed;
pub use reload::ReloadError;
use side::Side;

use crate::clock::Clock;
use crate::config::Config;
use crate::server::{self, Current, Drain};
use crate::store::Unfit;
use crate::store::sqlite::OpenError;
use crate::telemetry;
use crate::telemetry::audit::Destination;
use crate::telemetry::metrics::Snapshot;
use crate::telemetry::scrape;
use crate::tls::{Fault, NoClient};
use crate::upstream::TargetError;

/// A proxy that serves until it is stopped or dropped.
pub struct App {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    current: watch::Sender<Arc<server::Server>>,
    lasting: Lasting,
    fixed: Fixed,
    tuning: Tuning,
    drain: watch::Sender<Drain>,
    /// How long new requests are still taken once it is no longer ready.
    delay: Duration,
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
    /// How often it is looked whether a new key may write, or a store that was not reached can be.
    pub store_look: Duration,
    /// How often a store that can say so is asked whether others wrote to it.
    pub still: Duration,
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
            store_look: Duration::from_secs(1),
            // A revocation by another process is obeyed within a second.
            still: Duration::from_millis(250),
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
    #[error("store: {0}")]
    Unfit(#[from] Unfit),
    #[error("{0}")]
    StoreClient(crate::store::StoreError),
    #[error("keys: {}: {problem}", path.display())]
    KeyFile { path: PathBuf, problem: String },
    #[error("keys: {0}")]
    Keys(String),
    #[error("audit: cannot write to {destination}: {source}")]
    Audit { destination: Destination, source: io::Error },
    #[error("traces: {0}")]
    Traces(String),
    #[error("metrics: cannot use {address}: {source}")]
    Metrics { address: SocketAddr, source: io::Error },
    #[error("tls: {0}")]
    Tls(Fault),
    #[error("resources: the upstream of {path} {source}")]
    Upstream { path: String, source: TargetError },
    #[error("cannot prepare calls to GitHub or to client metadata documents: {0}")]
    Http(#[from] NoClient),
    #[error("cannot start a runtime: {0}")]
    Runtime(io::Error),
}

impl App {
    /// Starts everything and begins to listen. A shared store that is out of reach is waited for, not ready.
    pub fn start(config: Config, clock: Clock, tuning: &Tuning) -> Result<Self, StartError> {
        install_crypto();
        let side = Side::start().map_err(StartError::Runtime)?;
        // The key before the database: one that is there already must have its key.
        let keys = Arc::new(keys::key_ring(&config, &clock)?);
        let store = stores::open(&config, &keys, &clock, side.handle())?;
        let lasting = Lasting::new(&config, store.records.clone(), &clock, side.handle());
        let listeners = server::bind(config.listen, config.workers, config.limits.write_timeout);
        let listeners = listeners.map_err(|source| StartError::Listen { address: config.listen, source })?;
        let address = listeners[0].local_addr().map_err(StartError::Runtime)?;
        let metrics = config.metrics;
        let (delay, grace, fixed) = (config.drain_delay, config.drain, Fixed::of(&config, keys.clone()));
        let announce = announcement(&config, address);
        let server = Arc::new(compose(config, &lasting, &keys, tuning)?);
        let (current, seen) = watch::channel(server.clone());
        let seen = Current::new(seen);
        let swept = sweep::sweep(lasting.records.clone(), lasting.gates.clone(), clock.clone(), tuning.sweep);
        side.handle().spawn(swept);
        if let Some(others) = store.others.clone() {
            side.handle().spawn(lasting.still.clone().watch(others, clock.clone(), tuning.still));
        }
        let metrics = numbers(metrics, &lasting, seen.clone(), side.handle())?;
        store.introduce(&keys, &clock, side.handle());
        let (drain, draining) = watch::channel(Drain::No);
        let mut workers = Vec::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            workers
                .push(worker(number, listener, seen.clone(), draining.clone()).map_err(StartError::Runtime)?);
        }
        // Here and not in the task below, which may run a moment after the first question.
        if store.can_be_used() {
            lasting.readiness.enter();
        }
        let followed = fixed.followed();
        side.handle().spawn(store.ready(
            followed,
            clock.clone(),
            lasting.readiness.clone(),
            tuning.store_look,
        ));
        announce();
        for concern in server.tls.iter().flat_map(|tls| tls.concerns(clock.now())) {
            warn!("{concern}");
        }
        let tuning = tuning.clone();
        Ok(App { address, metrics, current, lasting, fixed, tuning, drain, delay, grace, workers, side })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its metrics are, if they are anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Serves with another configuration from now on; what is open stays as it is. When that cannot be, everything
    /// stays as it was. Blocks.
    pub fn reload(&mut self, config: Config) -> Result<(), ReloadError> {
        let outcome = self.exchange(config);
        self.lasting.metrics.reload(if outcome.is_ok() { "applied" } else { "refused" });
        outcome
    }

    /// There was to be another configuration, but what was written is none.
    pub fn could_not_read(&self) {
        self.lasting.metrics.reload("invalid");
    }

    fn exchange(&mut self, config: Config) -> Result<(), ReloadError> {
        self.fixed.must_stay(&config)?;
        let keys = self.fixed.keys(&config, &self.lasting)?;
        let server = compose(config, &self.lasting, &keys, &self.tuning)?;
        self.fixed.now_with(keys, &self.lasting, self.tuning.store_look);
        self.current.send_replace(Arc::new(server));
        Ok(())
    }

    /// No longer ready, and keeps no connection for another request; after the delay stops accepting, finishes what is
    /// open for as long as configured, ends streams cleanly, then cuts the rest. Blocks.
    pub fn stop(mut self) {
        self.lasting.readiness.leave();
        further(&self.drain, Drain::Leaving);
        let (mut drain, delay) = (self.drain.subscribe(), self.delay);
        self.side.handle().block_on(async {
            tokio::select! {
                () = sleep(delay) => {}
                _ = drain.wait_for(|drain| *drain == Drain::Now) => {}
            }
        });
        self.begin_drain();
        let (drain, grace) = (self.drain.clone(), self.grace);
        let timer = self.side.handle().spawn(async move {
            let farewell = FAREWELL.min(grace / 4);
            sleep(grace - farewell).await;
            further(&drain, Drain::Streams);
            sleep(farewell).await;
            further(&drain, Drain::Now);
        });
        for worker in self.workers.drain(..) {
            // A worker that panicked is down already.
            let _ = worker.join();
        }
        timer.abort();
        self.lasting.farewell(FAREWELL);
        // What runs on the side holds the store; it must be gone before the store can close its file.
        self.side.end_within(SIDE_GRACE);
    }

    /// Not ready any more, no new connections.
    pub fn begin_drain(&self) {
        self.lasting.readiness.leave();
        further(&self.drain, Drain::Begun);
    }

    /// Cuts what is still open, for a second signal.
    pub fn cut(&self) -> impl Fn() + Send + 'static {
        let drain = self.drain.clone();
        move || further(&drain, Drain::Now)
    }
}

/// Listens for whoever collects numbers, where that is wanted.
fn numbers(
    address: Option<SocketAddr>,
    lasting: &Lasting,
    server: Current,
    side: &Handle,
) -> Result<Option<SocketAddr>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let failed = |source| StartError::Metrics { address, source };
    let listener = scrape::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let (metrics, people, readiness) =
        (lasting.metrics.clone(), lasting.tallies.people.clone(), lasting.readiness.clone());
    let tell = move || {
        metrics.told(&Snapshot {
            live_families: server.now().gate.live_families(),
            open_requests: people.open(),
            is_ready: readiness.is_ready(),
        })
    };
    side.spawn(scrape::serve(listener, Arc::new(tell)));
    Ok(Some(bound))
}

/// The end only comes nearer.
fn further(drain: &watch::Sender<Drain>, to: Drain) {
    drain.send_if_modified(|now| {
        let is_further = to > *now;
        *now = to.max(*now);
        is_further
    });
}

impl Drop for App {
    fn drop(&mut self) {
        self.drain.send_replace(Drain::Now);
    }
}

fn worker(
    number: usize,
    listener: std::net::TcpListener,
    server: Current,
    draining: watch::Receiver<Drain>,
) -> io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("core-{number}")).spawn(move || {
        if let Err(error) = runtime.block_on(server::work(listener, server, draining)) {
            warn!(%error, "a core stopped serving");
        }
        // Requests that are cut here have last words.
        drop(runtime);
        telemetry::flush();
    })
}

/// The one TLS and crypto provider of the process.
fn install_crypto() {
    // Fails when it is installed already, by us or by whoever embeds us.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// For the last words on streams, within the grace; and for the last spans, after it.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long work on the side (a refresh at GitHub, say) may take to end once everything else has.
const SIDE_GRACE: Duration = Duration::from_secs(2);
