//! The key ring a proxy starts with.

use std::path::PathBuf;

use super::StartError;
use crate::clock::Clock;
use crate::config::{Config, StoreConfig};
use crate::keyfile;
use crate::seal::{KeyRing, MasterKey};

/// The configured keys, or one of our own beside the embedded store.
pub(super) fn key_ring(config: &Config, clock: &Clock) -> Result<KeyRing, StartError> {
    let ring = match (KeyRing::new(&config.keys), &config.store) {
        (Some(ring), _) => ring,
        (None, StoreConfig::Sqlite(path)) => {
            let mut file = path.clone().into_os_string();
            file.push(".key");
            let (database, path) = (path, PathBuf::from(file));
            let key = keyfile::own_key(&path, database, clock);
            let key = key.map_err(|problem| StartError::KeyFile { path, problem })?;
            KeyRing::new(&[key]).expect("one key")
        }
        (None, StoreConfig::Memory) => {
            KeyRing::new(&[MasterKey::new(Box::new(clock.random()))]).expect("one key")
        }
    };
    Ok(ring)
}
