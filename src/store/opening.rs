//! A store that cannot be used yet: it has not been reached since the start, or our keys are not known to be its
//! keys. Until then every verb fails, and nothing is written or deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Created, Page, Pending, Record, Records, Replaced, StoreError};

/// Shut until [`Opening::open`].
pub struct Opening {
    records: Arc<dyn Records>,
    is_open: AtomicBool,
}

impl Opening {
    /// A way to `records` that is shut.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Opening { records, is_open: AtomicBool::new(false) }
    }

    /// From now on it can be used.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// Whether it can be used.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    fn through<'a, T: Send + 'a>(
        &'a self,
        verb: impl FnOnce(&'a dyn Records) -> Pending<'a, T>,
    ) -> Pending<'a, T> {
        match self.is_open() {
            true => verb(&*self.records),
            false => Box::pin(async { Err(StoreError::new("it has not been opened yet; the log says why")) }),
        }
    }
}

impl Records for Opening {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        self.through(|records| records.read(key))
    }

    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created> {
        self.through(|records| records.create(key, record))
    }

    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced> {
        self.through(|records| records.replace(key, seen, record))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()> {
        self.through(|records| records.delete(key))
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>> {
        self.through(|records| records.owned_by(owner))
    }

    fn sweep(&self) -> Pending<'_, u64> {
        self.through(|records| records.sweep())
    }

    fn page<'a>(&'a self, after: Option<&'a str>) -> Pending<'a, Page> {
        self.through(|records| records.page(after))
    }
}
