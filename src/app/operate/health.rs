//! How a store is, as somebody sees it who serves nothing from it.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::time::Instant;

use super::{OperateError, Place, each, is_known, reach};
use crate::app::side::Side;
use crate::app::{StartError, install_crypto, keys};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::authentic::Authentic;

/// The state of a store.
#[derive(Debug, Serialize)]
pub struct Health {
    pub store: String,
    /// For one question.
    pub milliseconds: u64,
    /// Whether one of our keys is one of its keys, or it has none yet.
    pub keys_known: bool,
    /// How many there are of each kind.
    pub records: BTreeMap<String, u64>,
    /// Records that do not carry a MAC of our keys.
    pub unreadable: u64,
    /// What is not as it should be, and can be lived with.
    pub concerns: Vec<String>,
}

impl Health {
    /// Whether nothing is to be done.
    pub fn is_well(&self) -> bool {
        self.keys_known && self.unreadable == 0
    }
}

/// How a store is. Blocks.
pub fn health(config: Config, clock: Clock) -> Result<Health, OperateError> {
    install_crypto();
    let side = Side::start().map_err(StartError::Runtime)?;
    let mut health = Health {
        store: config.store.to_string(),
        milliseconds: 0,
        keys_known: false,
        records: BTreeMap::new(),
        unreadable: 0,
        concerns: Vec::new(),
    };
    let (Place { records: raw, shared }, ring) = reach(&config, &clock, &side)?;
    if let Some(shared) = shared {
        health.concerns = side.block_on(shared.prepare())?;
    }
    let began = Instant::now();
    side.block_on(raw.read("no such record"))?;
    health.milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    health.keys_known = side.block_on(is_known(&*raw, &ring))?;
    let authentic = Authentic::new(raw.clone(), ring);
    each(&side, &*raw, |key, record| {
        let kind = key.split('/').next().unwrap_or_default().to_owned();
        // Names of keys say nothing that anybody could change to their good, and are read before there are keys.
        let is_ours = [keys::OWNER, keys::USERS].contains(&kind.as_str()) || authentic.is_ours(&key, record);
        *health.records.entry(kind).or_default() += 1;
        health.unreadable += u64::from(!is_ours);
        Ok(())
    })?;
    Ok(health)
}
