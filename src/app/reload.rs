//! A changed proxy.yaml while the program runs: what may change, and what needs a restart.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::lasting::Lasting;
use super::side::done_on;
use super::{StartError, keys};
use crate::config::{Config, Problem, StoreConfig};
use crate::protocol::issuer::Issuer;
use crate::seal::KeyRing;

/// Why everything stays as it was.
#[derive(Debug)]
pub enum ReloadError {
    /// These cannot change while it runs.
    Fixed(Vec<Problem>),
    /// What would have kept it from starting.
    Unusable(StartError),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Fixed(problems) => {
                let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
                f.write_str(&told.join("; "))
            }
            ReloadError::Unusable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReloadError {}

impl From<StartError> for ReloadError {
    fn from(error: StartError) -> Self {
        ReloadError::Unusable(error)
    }
}

/// What is the same for as long as the program runs, and the keys, which are told apart by their names.
pub(super) struct Fixed {
    listen: SocketAddr,
    workers: usize,
    store: (StoreConfig, usize),
    connections: Option<usize>,
    write_timeout: Duration,
    drain: (Duration, Duration),
    metrics: Option<SocketAddr>,
    issuer: Issuer,
    keys: Arc<KeyRing>,
    /// Lasts as long as these are the keys.
    in_use: Arc<()>,
}

impl Fixed {
    pub(super) fn of(config: &Config, keys: Arc<KeyRing>) -> Self {
        Fixed {
            listen: config.listen,
            workers: config.workers,
            store: (config.store.clone(), config.store_connections),
            connections: config.limits.connections,
            write_timeout: config.limits.write_timeout,
            drain: (config.drain_delay, config.drain),
            metrics: config.metrics,
            issuer: config.issuer.clone(),
            keys,
            in_use: Arc::default(),
        }
    }

    /// The keys, to be looked after for as long as they are these.
    pub(super) fn followed(&self) -> (Arc<KeyRing>, Weak<()>) {
        (self.keys.clone(), Arc::downgrade(&self.in_use))
    }

    /// Tells everything that would need a restart.
    pub(super) fn must_stay(&self, config: &Config) -> Result<(), ReloadError> {
        let next = Fixed::of(config, self.keys.clone());
        let compared = [
            ("listen", self.listen == next.listen),
            ("workers", self.workers == next.workers),
            ("store", self.store.0 == next.store.0),
            ("store_connections", self.store.1 == next.store.1),
            ("limits.connections", self.connections == next.connections),
            ("limits.write_timeout", self.write_timeout == next.write_timeout),
            ("public_url", self.issuer.as_str() == next.issuer.as_str()),
            ("metrics", self.metrics == next.metrics),
            ("drain_delay", self.drain.0 == next.drain.0),
            ("drain", self.drain.1 == next.drain.1),
        ];
        let changed = compared.into_iter().filter(|(_, is_same)| !is_same);
        let problem = |(path, _): (&str, bool)| Problem {
            path: path.to_owned(),
            text: "cannot change while the program runs; restart it".to_owned(),
        };
        let problems: Vec<Problem> = changed.map(problem).collect();
        if problems.is_empty() { Ok(()) } else { Err(ReloadError::Fixed(problems)) }
    }

    /// The keys of another configuration, or the ones there are when those are the same. Blocks.
    pub(super) fn keys(&self, config: &Config, lasting: &Lasting) -> Result<Arc<KeyRing>, ReloadError> {
        let next = keys::key_ring(config, &lasting.clock)?;
        // A new gate knows nobody yet, and while the store is away it would learn of nobody.
        let records = lasting.records.clone();
        let asked = done_on(&lasting.side, async move { records.owned_by(keys::OWNER).await });
        if let Some(Err(error)) = asked {
            return Err(StartError::StoreClient(error).into());
        }
        // Without configured keys there is the one that was generated, here or before.
        if next.names() == self.keys.names() || config.keys.is_empty() {
            return Ok(self.keys.clone());
        }
        let next = Arc::new(next);
        keys::recognise(&lasting.records, &next, &config.store, &lasting.clock, &lasting.side)?;
        Ok(next)
    }

    /// From now on these are the keys.
    pub(super) fn now_with(&mut self, keys: Arc<KeyRing>, lasting: &Lasting, look: Duration) {
        if Arc::ptr_eq(&self.keys, &keys) {
            return;
        }
        (self.keys, self.in_use) = (keys, Arc::default());
        let (records, clock) = (lasting.records.clone(), lasting.clock.clone());
        lasting.side.spawn(keys::follow(records, self.followed(), self.store.0.clone(), clock, look));
    }
}
