//! The key ring a proxy starts with, and when a new key begins to write.
//!
//! Replicas are restarted one after the other. A key that only some of them have must not write yet: what it made
//! would be forged to the others, and log people out. So a shared store is told of a new key first, and the key
//! writes once everybody had the time to learn it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;
use tracing::{debug, info, warn};

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
            let (database, path) = (path, beside(path));
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

/// The file of the key of an embedded store.
pub(super) fn beside(database: &Path) -> PathBuf {
    let mut file = database.as_os_str().to_owned();
    file.push(".key");
    PathBuf::from(file)
}

/// Refuses keys that are strangers to the store: under them every login in it would be dead. Changes nothing. Blocks.
pub(super) fn recognise(
    records: &Arc<dyn Records>,
    keys: &Arc<KeyRing>,
    store: &StoreConfig,
    clock: &Clock,
    side: &Handle,
) -> Result<(), StartError> {
    let (records, keys, store, clock) = (records.clone(), keys.clone(), store.clone(), clock.clone());
    let answer = done_on(side, async move { are_known(&*records, &keys, &store, &clock).await });
    let answer = answer.unwrap_or_else(|| Err(StoreError::new("the look at its keys was interrupted")));
    match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err(StartError::Keys(STRANGERS.to_owned())),
        Err(error) => Err(StartError::Keys(format!("cannot be compared with those of the store: {error}"))),
    }
}

/// Whether the store knows one of these keys, or none at all; in a shared store, lets the right one write.
pub(super) async fn are_known<R: Records + ?Sized>(
    records: &R,
    keys: &KeyRing,
    store: &StoreConfig,
    clock: &Clock,
) -> Result<bool, StoreError> {
    let (known, own) = (records.owned_by(OWNER).await?, keys.names());
    // Where there was no key at all, nothing was written that others could not read.
    if store.is_shared() && !known.is_empty() {
        keys.write_with(writing(&since(records, &own).await?, clock.now()));
    }
    Ok(is_one_of(&known, &own))
}

/// Whether one of our keys is one of those that have written to a store, which may be none yet.
pub(super) fn is_one_of(known: &[String], own: &[String]) -> bool {
    known.is_empty() || own.iter().any(|own| known.contains(&format!("{OWNER}/{own}")))
}

/// Tells the store of the keys: which have written to it, for good, and in a shared one which are in use since when,
/// for as long as somebody says so again. A name tells nothing about its key. Only what serves may tell.
pub(super) async fn announce<R: Records + ?Sized>(
    records: &R,
    keys: &KeyRing,
    store: &StoreConfig,
    clock: &Clock,
) -> Result<(), StoreError> {
    let (own, is_empty) = (keys.names(), records.owned_by(OWNER).await?.is_empty());
    let shown = if store.is_shared() { own.as_slice() } else { &own[..1] };
    let record = |bytes: Vec<u8>, owner: &str, expires| Record {
        bytes,
        version: u64::from_be_bytes(clock.random()),
        owner: owner.to_owned(),
        expires,
    };
    for name in shown {
        // Another process may be first.
        records.create(&format!("{OWNER}/{name}"), record(Vec::new(), OWNER, Time::NEVER)).await?;
        if !store.is_shared() {
            continue;
        }
        let (place, now) = (format!("{USERS}/{name}"), clock.now());
        let since = if is_empty { 0 } else { now.millis() };
        let new = record(since.to_string().into_bytes(), USERS, now.after(IN_USE));
        match records.read(&place).await? {
            None => _ = records.create(&place, new).await?,
            Some(known) if known.expires.since(now) < IN_USE / 2 => {
                let renewed = Record { bytes: known.bytes, ..new };
                records.replace(&place, known.version, renewed).await?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Since when each of these keys has been in use without a break; `None` for one that is new.
async fn since<R: Records + ?Sized>(records: &R, names: &[String]) -> Result<Vec<Option<Time>>, StoreError> {
    let mut since = Vec::new();
    for name in names {
        let record = records.read(&format!("{USERS}/{name}")).await?;
        let text = record.map(|record| String::from_utf8_lossy(&record.bytes).into_owned());
        since.push(text.and_then(|text| text.parse().ok()).map(Time::from_millis));
    }
    Ok(since)
}

/// The first key that is no longer new; when all are, the last, which is the oldest.
fn writing(since: &[Option<Time>], now: Time) -> usize {
    let is_settled = |since: &Option<Time>| since.is_some_and(|since| now >= since.after(SETTLING));
    since.iter().position(is_settled).unwrap_or(since.len() - 1)
}

/// Tells the store of the keys for as long as these are the keys (streams may hold them for longer), lets a new one
/// write once its time has come, and tells of keys that others have and we do not.
pub(super) async fn follow(
    records: Arc<dyn Records>,
    (ring, in_use): (Arc<KeyRing>, Weak<()>),
    store: StoreConfig,
    clock: Clock,
    look: Duration,
) {
    let mut told: Vec<String> = Vec::new();
    let mut writes = None;
    while in_use.strong_count() > 0 {
        match announce(&*records, &ring, &store, &clock).await {
            // Where nobody shares the store, nobody has to learn a key before it writes.
            Ok(()) if !store.is_shared() => return,
            Ok(()) => {
                look_around(&*records, &ring, &clock, &mut writes, &mut told).await;
            }
            Err(error) => debug!(%error, "the store could not be told of the keys"),
        }
        sleep(look * LOOKS).await;
    }
}

async fn look_around(
    records: &dyn Records,
    ring: &KeyRing,
    clock: &Clock,
    writes: &mut Option<usize>,
    told: &mut Vec<String>,
) {
    let own = ring.names();
    let (Ok(since), Ok(used)) = (since(records, &own).await, records.owned_by(USERS).await) else { return };
    let number = writing(&since, clock.now());
    ring.write_with(number);
    if writes.replace(number).is_some_and(|before| before != number) {
        info!(key = number, "a new key writes from now on");
    }
    let is_own = |place: &String| own.iter().any(|own| *place == format!("{USERS}/{own}"));
    let strange: Vec<String> = used.into_iter().filter(|place| !is_own(place)).collect();
    if strange.iter().any(|place| !told.contains(place)) {
        warn!("another replica uses a key that this one does not have: what is made with it is refused here");
    }
    *told = strange;
}

/// What the store keeps the names of keys under that have written to it.
pub(super) const OWNER: &str = "keys";
/// And of those that are in use.
pub(super) const USERS: &str = "using";
/// How long a key counts as in use that nobody speaks of any more.
const IN_USE: Duration = Duration::from_secs(3_600);
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
        let (old, new) = (Some(Time::from_millis(0)), Some(start));
        assert_eq!(writing(&[None, old], start), 1, "one that nobody uses yet, or any more");
        assert_eq!(writing(&[new, old], start), 1);
        assert_eq!(writing(&[new, old], start.after(SETTLING - Duration::from_millis(1))), 1);
        assert_eq!(writing(&[new, old], start.after(SETTLING)), 0);
        assert_eq!(writing(&[old, new], start), 0, "already the order of before");
        assert_eq!(writing(&[new, new, new], start), 2);
        assert_eq!(writing(&[old], start), 0);
    }
}
