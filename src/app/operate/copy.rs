//! A store copied into another: the way from one machine to several, and back.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::{OperateError, Place, each, no_store, place};
use crate::app::side::Side;
use crate::app::{StartError, install_crypto, keys};
use crate::clock::Clock;
use crate::config::raw::expanded;
use crate::config::{StoreConfig, store_place};
use crate::store::{Created, Page, Record, Records, Replaced, StoreError};
use crate::tls::Authorities;

/// What was copied.
#[derive(Debug)]
pub struct Copied {
    pub records: u64,
    /// Changed while it was copied.
    pub later: u64,
    /// The key that the copy needs too, where it is in a file beside the store.
    pub key: Option<PathBuf>,
}

/// Copies one store into another, which must be empty: what was ended since an earlier copy would live again.
/// Changes that are made meanwhile are copied too, as far as they come before the second look. Blocks.
pub fn copy(from: &str, to: &str, ca_file: Option<&Path>, clock: Clock) -> Result<Copied, OperateError> {
    install_crypto();
    let side = Side::start().map_err(StartError::Runtime)?;
    let authorities = authorities(ca_file)?;
    let read = |which: &str, text: &str| {
        #[expect(clippy::disallowed_methods, reason = "as in proxy.yaml")]
        let text = expanded(text, &|name| std::env::var(name).ok());
        text.and_then(|text| store_place(&text))
            .map_err(|problem| OperateError::Arguments(format!("{which}: {problem}")))
    };
    let (from, to) = (read("FROM", from)?, read("TO", to)?);
    if let StoreConfig::Sqlite(path) = &from
        && !path.exists()
    {
        return Err(OperateError::Refused(no_store(path)));
    }
    let open = |store: &StoreConfig| place(store, &authorities, COPY_CONNECTIONS, &clock, &side);
    let (source, Place { records: target, shared }) = (open(&from)?.records, open(&to)?);
    if let Some(shared) = shared {
        side.block_on(shared.prepare())?;
    }
    if !is_empty(&side, &*target)? {
        let told =
            format!("{to} is not empty; grants that have ended meanwhile would live again by a copy over it");
        return Err(OperateError::Refused(told));
    }
    let mut copied = Copied { records: 0, later: 0, key: key_beside(&from) };
    let mut versions: HashMap<String, u64> = HashMap::new();
    each(&side, &*source, |key, record| {
        let version = record.version;
        if side.block_on(write(&*target, &key, record))? && versions.insert(key, version).is_none() {
            copied.records += 1;
        }
        Ok(())
    })?;
    // Once more, for what changed while the first look lasted.
    let mut gone: HashSet<String> = versions.keys().cloned().collect();
    each(&side, &*source, |key, record| {
        gone.remove(&key);
        if versions.get(&key) != Some(&record.version) {
            copied.later += 1;
            side.block_on(write(&*target, &key, record))?;
        }
        Ok(())
    })?;
    for key in gone {
        side.block_on(target.delete(&key))?;
        copied.records -= 1;
    }
    Ok(copied)
}

fn key_beside(store: &StoreConfig) -> Option<PathBuf> {
    let StoreConfig::Sqlite(path) = store else { return None };
    Some(keys::beside(path)).filter(|file| file.exists())
}

fn authorities(file: Option<&Path>) -> Result<Authorities, OperateError> {
    let Some(file) = file else { return Ok(Authorities::default()) };
    let problem = |what: &str| OperateError::Arguments(format!("--ca-file: {} {what}", file.display()));
    let pem = std::fs::read(file).map_err(|error| problem(&format!("cannot be read: {error}")))?;
    Authorities::parse(&pem).ok_or_else(|| problem("holds no certificates, or one that is broken"))
}

/// A page may be empty where others are not.
fn is_empty(side: &Side, records: &dyn Records) -> Result<bool, StoreError> {
    let mut after = None;
    loop {
        let Page { records, next } = side.block_on(records.page(after.as_deref()))?;
        match next {
            _ if !records.is_empty() => return Ok(false),
            Some(next) => after = Some(next),
            None => return Ok(true),
        }
    }
}

async fn write(target: &dyn Records, key: &str, record: Record) -> Result<bool, StoreError> {
    loop {
        if target.create(key, record.clone()).await? == Created::Created {
            return Ok(true);
        }
        let Some(found) = target.read(key).await? else { continue };
        if found.version == record.version {
            return Ok(false);
        }
        if target.replace(key, found.version, record.clone()).await? == Replaced::Replaced {
            return Ok(true);
        }
    }
}

/// Of a copy, which asks one question after the other.
const COPY_CONNECTIONS: usize = 2;
