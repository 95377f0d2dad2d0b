//! Writes whose answer was lost: what came of them is looked up before anybody is told that they failed.
//!
//! Versions are random and chosen by the writer, so a record that carries ours was written by us. Without this a
//! lost answer to a redemption would make the client's second try a replay, and end its login.

use std::sync::Arc;

use super::{Created, Page, Pending, Record, Records, Replaced, StoreError};

/// A store behind a network.
pub struct Steady(Arc<dyn Records>);

impl Steady {
    /// Looks after what is written to `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Steady(records)
    }

    /// Whether a write of `version` was done though nobody said so.
    async fn was_written(&self, key: &str, version: u64, error: &StoreError) -> bool {
        if !error.is_unreachable() {
            return false;
        }
        matches!(self.0.read(key).await, Ok(Some(found)) if found.version == version)
    }
}

impl Records for Steady {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        self.0.read(key)
    }

    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created> {
        Box::pin(async move {
            let version = record.version;
            match self.0.create(key, record).await {
                Err(error) if self.was_written(key, version, &error).await => Ok(Created::Created),
                outcome => outcome,
            }
        })
    }

    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced> {
        Box::pin(async move {
            let version = record.version;
            match self.0.replace(key, seen, record).await {
                Err(error) if self.was_written(key, version, &error).await => Ok(Replaced::Replaced),
                outcome => outcome,
            }
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()> {
        self.0.delete(key)
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>> {
        self.0.owned_by(owner)
    }

    fn sweep(&self) -> Pending<'_, u64> {
        self.0.sweep()
    }

    fn page<'a>(&'a self, after: Option<&'a str>) -> Pending<'a, Page> {
        self.0.page(after)
    }
}
