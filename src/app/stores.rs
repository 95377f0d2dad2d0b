//! The store as configured: opened at once where it is on this machine, and as soon as it can be where it is not.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::side::done_on;
use super::{StartError, keys};
use crate::clock::Clock;
use crate::config::{Config, StoreConfig};
use crate::seal::KeyRing;
use crate::server::Readiness;
use crate::store::memory::Memory;
use crate::store::opening::Opening;
use crate::store::postgres::Postgres;
use crate::store::redis::Redis;
use crate::store::sqlite::Sqlite;
use crate::store::steady::Steady;
use crate::store::still::Others;
use crate::store::{PrepareError, Records, Shared, StoreError};
use crate::tls::Authorities;

/// A store, and what is still to be done before it can be used.
pub(super) struct Store {
    pub records: Arc<dyn Records>,
    /// Of one that can say whether other processes wrote to it.
    pub others: Option<Arc<dyn Others>>,
    /// Of a shared one that could not be reached at once.
    awaited: Option<(Arc<Awaited>, String)>,
    config: StoreConfig,
}

struct Awaited {
    opening: Arc<Opening>,
    shared: Arc<dyn Shared>,
}

/// The client of a shared store; nothing is reached yet. `None` for one that is on this machine.
pub(super) fn client_of(
    store: &StoreConfig,
    authorities: &Authorities,
    connections: usize,
    clock: &Clock,
    side: &Handle,
) -> Result<Option<Arc<dyn Shared>>, StoreError> {
    let (clock, side) = (clock.clone(), side.clone());
    Ok(match store {
        StoreConfig::Postgres(place) => {
            Some(Arc::new(Postgres::new(place, authorities, connections, clock, side)?))
        }
        StoreConfig::Redis(place) => Some(Arc::new(Redis::new(place, authorities, clock, side)?)),
        StoreConfig::Sqlite(_) | StoreConfig::Memory => None,
    })
}

/// Opens the store, or begins to. What waiting would not mend keeps the program from starting. Blocks.
pub(super) fn open(
    config: &Config,
    keys: &Arc<KeyRing>,
    clock: &Clock,
    side: &Handle,
) -> Result<Store, StartError> {
    let (own, others): (Arc<dyn Records>, Arc<dyn Others>) = match &config.store {
        StoreConfig::Sqlite(path) => {
            let sqlite = Arc::new(Sqlite::open(path, clock.clone())?);
            (sqlite.clone(), sqlite)
        }
        StoreConfig::Memory => {
            let memory = Arc::new(Memory::new(clock.clone()));
            (memory.clone(), memory)
        }
        StoreConfig::Postgres(_) | StoreConfig::Redis(_) => {
            let shared = client_of(&config.store, &config.authorities, config.store_connections, clock, side);
            let shared = shared.map_err(StartError::StoreClient)?;
            return await_shared(shared.expect("it is one"), config, keys, clock, side);
        }
    };
    keys::recognise(&own, keys, &config.store, clock, side)?;
    Ok(Store { records: own, others: Some(others), awaited: None, config: config.store.clone() })
}

fn await_shared(
    shared: Arc<dyn Shared>,
    config: &Config,
    keys: &Arc<KeyRing>,
    clock: &Clock,
    side: &Handle,
) -> Result<Store, StartError> {
    let records: Arc<dyn Records> = Arc::new(Steady::new(shared.clone()));
    let opening = Arc::new(Opening::new(records));
    let awaited = Arc::new(Awaited { opening: opening.clone(), shared });
    let (first, keys, store, clock) = (awaited.clone(), keys.clone(), config.store.clone(), clock.clone());
    let first = done_on(side, async move { timeout(FIRST_LOOK, first.attempt(&keys, &store, &clock)).await });
    let store = config.store.clone();
    let trouble = match first {
        Some(Ok(Ok(()))) => {
            return Ok(Store { records: opening, others: None, awaited: None, config: store });
        }
        Some(Ok(Err(Obstacle::Final(error)))) => return Err(error),
        Some(Ok(Err(Obstacle::Trouble(error)))) => error,
        Some(Err(_)) | None => StoreError::unreachable("no answer yet"),
    };
    warn!(store = %store, error = %trouble, "the store cannot be used yet; not ready until it can");
    Ok(Store { records: opening, others: None, awaited: Some((awaited, trouble.to_string())), config: store })
}

enum Obstacle {
    Final(StartError),
    Trouble(StoreError),
}

impl Awaited {
    async fn attempt(&self, keys: &KeyRing, store: &StoreConfig, clock: &Clock) -> Result<(), Obstacle> {
        match self.shared.prepare().await {
            Ok(concerns) => concerns.iter().for_each(|concern| warn!("{concern}")),
            Err(PrepareError::Unfit(unfit)) => return Err(Obstacle::Final(unfit.into())),
            Err(PrepareError::Trouble(error)) => return Err(Obstacle::Trouble(error)),
        }
        match keys::are_known(&*self.shared, keys, store, clock).await {
            Ok(true) => {
                self.opening.open();
                Ok(())
            }
            Ok(false) => Err(Obstacle::Final(StartError::Keys(keys::STRANGERS.to_owned()))),
            Err(error) => Err(Obstacle::Trouble(error)),
        }
    }
}

impl Store {
    /// Whether nothing is waited for.
    pub(super) fn can_be_used(&self) -> bool {
        self.awaited.is_none()
    }

    /// Tells an open store of the keys, before anything can be written with them: a wrong key at the next start must be
    /// known for one however early this process ends. Trouble is not told: [`Store::ready`] tries again. Blocks.
    pub(super) fn introduce(&self, keys: &Arc<KeyRing>, clock: &Clock, side: &Handle) {
        if self.can_be_used() {
            let (records, keys, config) = (self.records.clone(), keys.clone(), self.config.clone());
            let clock = clock.clone();
            let announced = async move {
                timeout(FIRST_LOOK, keys::announce(&*records, &keys, &config, &clock)).await.is_ok()
            };
            done_on(side, announced);
        }
    }

    /// Waits until the store can be used, says so, and looks after which key writes.
    pub(super) async fn ready(
        self,
        (keys, in_use): (Arc<KeyRing>, Weak<()>),
        clock: Clock,
        readiness: Arc<Readiness>,
        look: Duration,
    ) {
        if let Some((awaited, mut told)) = self.awaited {
            while let Err(obstacle) = awaited.attempt(&keys, &self.config, &clock).await {
                match obstacle {
                    // Found out only now: nothing is served from it, nothing is changed in it.
                    Obstacle::Final(error) => {
                        error!(store = %self.config, %error, "the store must not be used as it is");
                        sleep(look * 30).await;
                    }
                    Obstacle::Trouble(error) => {
                        let error = error.to_string();
                        if error != told {
                            warn!(store = %self.config, error, "the store cannot be used yet");
                            told = error;
                        }
                        sleep(look).await;
                    }
                }
            }
            info!(store = %self.config, "the store can be used; ready now");
            readiness.enter();
        }
        keys::follow(self.records, (keys, in_use), self.config, clock, look).await;
    }
}

/// Orchestrators give a start more than that, and operators want to be told of a wrong password at once.
const FIRST_LOOK: Duration = Duration::from_secs(5);
