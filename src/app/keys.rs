//! The key ring a proxy starts with, and when a new key begins to write.
//!
//! Replicas are restarted one after the other. A key that only some of them have must not write yet: what it made
//! would be forged to the others, and log people out. So a shared store is told of a new key first, and the key
//! writes once everybody had the time to learn it.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;
use tracing::{info, warn};

use super::StartError;
use super::side::done_on;
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
        (None, StoreConfig::Postgres(_) | StoreConfig::Redis(_)) => {
            return Err(StartError::Keys("a shared store needs configured keys".to_owned()));
        }
    };
    Ok(ring)
}

/// Refuses keys that are strangers to the store: under them every login in it would be dead. Blocks.
pub(super) fn recognise(
    records: &Arc<dyn Records>,
    keys: &Arc<KeyRing>,
    store: &StoreConfig,
    clock: &Clock,
    side: &Handle,
) -> Result<(), StartError> {
    let (records, keys, store, clock) = (records.clone(), keys.clone(), store.clone(), clock.clone());
    let answer = done_on(side, async move { introduce(&*records, &keys, &store, &clock).await });
    let answer = answer.unwrap_or_else(|| Err(StoreError::new("the look at its keys was interrupted")));
    match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err(StartError::Keys(STRANGERS.to_owned())),
        Err(error) => Err(StartError::Keys(format!("cannot be compared with those of the store: {error}"))),
    }
}

/// Whether the store knows one of these keys, or none at all. From now on it knows those that write, and of a shared
/// store those that will. It keeps the name of each, which tells nothing about the key, and since when it knows it.
pub(super) async fn introduce<R: Records + ?Sized>(
    records: &R,
    keys: &KeyRing,
    store: &StoreConfig,
    clock: &Clock,
) -> Result<bool, StoreError> {
    let known = records.owned_by(OWNER).await?;
    let own = names(keys);
    if !known.is_empty() && !own.iter().any(|own| known.contains(own)) {
        return Ok(false);
    }
    let shown = if store.is_shared() { own.as_slice() } else { &own[..1] };
    for new in shown.iter().filter(|own| !known.contains(own)) {
        // Where there was no key at all, nothing was written that others could not read.
        let since = if known.is_empty() { Vec::new() } else { clock.now().millis().to_string().into_bytes() };
        let version = u64::from_be_bytes(clock.random());
        let record = Record { bytes: since, version, owner: OWNER.to_owned(), expires: Time::NEVER };
        // Another process may have been first.
        records.create(new, record).await?;
    }
    if store.is_shared() {
        keys.write_with(writing(&since(records, &own).await?, clock.now()));
    }
    Ok(true)
}

/// What the store keeps the name of each key under.
pub(super) fn names(keys: &KeyRing) -> Vec<String> {
    keys.names().iter().map(|name| format!("{OWNER}/{name}")).collect()
}

/// Since when the store knows each of these keys.
async fn since<R: Records + ?Sized>(records: &R, names: &[String]) -> Result<Vec<Time>, StoreError> {
    let mut since = Vec::new();
    for name in names {
        let record = records.read(name).await?;
        let text = record.map(|record| String::from_utf8_lossy(&record.bytes).into_owned());
        let millis = text.and_then(|text| text.parse().ok()).unwrap_or(0);
        since.push(Time::from_millis(millis));
    }
    Ok(since)
}

/// The first key that is no longer new; when all are, the last, which is the oldest.
fn writing(since: &[Time], now: Time) -> usize {
    let is_settled = |since: &Time| now >= since.after(SETTLING);
    since.iter().position(is_settled).unwrap_or(since.len() - 1)
}

/// Lets a new key write once its time has come, and tells of keys that others have and we do not. Ends when these are
/// not the keys any more, which streams may hold for longer.
pub(super) async fn follow(
    records: Arc<dyn Records>,
    (ring, in_use): (Arc<KeyRing>, Weak<()>),
    clock: Clock,
    look: Duration,
) {
    let mut told: Vec<String> = Vec::new();
    let mut writes = None;
    while in_use.strong_count() > 0 {
        let own = names(&ring);
        if let (Ok(since), Ok(known)) = (since(&*records, &own).await, records.owned_by(OWNER).await) {
            let now = clock.now();
            let number = writing(&since, now);
            ring.write_with(number);
            if writes.replace(number).is_some_and(|before| before != number) {
                info!(key = number, "a new key writes from now on");
            }
            let strange: Vec<String> = known.into_iter().filter(|name| !own.contains(name)).collect();
            for name in strange.iter().filter(|name| !told.contains(name)) {
                if self::since(&*records, std::slice::from_ref(name))
                    .await
                    .is_ok_and(|since| !is_old(&since, now))
                {
                    warn!(
                        "another replica was given a new key that this one does not have; it begins to write soon, and \
                           what it makes will be refused here"
                    );
                }
            }
            told = strange;
        }
        sleep(look * LOOKS).await;
    }
}

/// Whether the time of settling is over, so that it was a key which has been dropped here.
fn is_old(since: &[Time], now: Time) -> bool {
    since.iter().all(|since| now >= since.after(SETTLING))
}

pub(super) const OWNER: &str = "keys";
/// From the first replica that has a key to the first value made with it: longer than restarting all of them takes.
const SETTLING: Duration = Duration::from_secs(600);
/// Between two looks at the keys of a store.
const LOOKS: u32 = 15;
pub(super) const STRANGERS: &str = "the store was written under other keys, and nothing in it could be read. Put its key back (behind \
     a new one, if you want to change it), or move the database away to start anew";

#[cfg(test)]
mod tests {
    use super::*;

    // SE-10
    #[test]
    fn a_new_key_writes_when_all_replicas_had_the_time_to_learn_it() {
        let start = Time::from_seconds(1_800_000_000);
        let (old, new) = (Time::from_millis(0), start);
        assert_eq!(writing(&[new, old], start), 1);
        assert_eq!(writing(&[new, old], start.after(SETTLING - Duration::from_millis(1))), 1);
        assert_eq!(writing(&[new, old], start.after(SETTLING)), 0);
        assert_eq!(writing(&[old, new], start), 0, "already the order of before");
        assert_eq!(writing(&[new, new, new], start), 2);
        assert_eq!(writing(&[old], start), 0);
    }
}
