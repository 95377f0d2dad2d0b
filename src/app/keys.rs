//! The key ring a proxy starts with.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use tokio::runtime::Handle;

use super::StartError;
use crate::clock::{Clock, Time};
use crate::config::{Config, StoreConfig};
use crate::keyfile;
use crate::seal::{KeyRing, MasterKey};
use crate::store::{Record, Records, StoreError};

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

/// Refuses keys that are strangers to the store: under them every login in it would be dead. The store keeps the
/// name of every key that has written to it; a name tells nothing about its key. Blocks.
pub(super) fn recognise(
    records: &Arc<dyn Records>,
    keys: &KeyRing,
    clock: &Clock,
    side: &Handle,
) -> Result<(), StartError> {
    let (tell, told) = mpsc::channel();
    let (records, names, version) = (records.clone(), keys.names(), u64::from_be_bytes(clock.random()));
    side.spawn(async move {
        // Nobody waits any more when the start was given up.
        let _ = tell.send(introduce(&*records, &names, version).await);
    });
    let answer = told.recv().unwrap_or_else(|_| Err(StoreError::new("the look at its keys was interrupted")));
    match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err(StartError::Keys(STRANGERS.to_owned())),
        Err(error) => Err(StartError::Keys(format!("cannot be compared with those of the store: {error}"))),
    }
}

/// Whether the store knows one of these keys, or none at all; from now on it knows the first.
async fn introduce(records: &dyn Records, names: &[String], version: u64) -> Result<bool, StoreError> {
    let known = records.owned_by(OWNER).await?;
    let own: Vec<String> = names.iter().map(|name| format!("{OWNER}/{name}")).collect();
    if !known.is_empty() && !own.iter().any(|own| known.contains(own)) {
        return Ok(false);
    }
    if let Some(writing) = own.first().filter(|own| !known.contains(own)) {
        let record = Record { bytes: Vec::new(), version, owner: OWNER.to_owned(), expires: Time::NEVER };
        // Another process may have been first.
        records.create(writing, record).await?;
    }
    Ok(true)
}

const OWNER: &str = "keys";
const STRANGERS: &str = "the store was written under other keys, and nothing in it could be read. Put its key back (behind \
                         a new one, if you want to change it), or move the database away to start anew";
