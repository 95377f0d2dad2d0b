//! Records in this process: gone when it ends. For tests and throw-away runs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::still::Others;
use super::{Created, Page, Pending, Record, Records, Replaced};
use crate::clock::Clock;

/// A map behind a lock that is never held across an await.
pub struct Memory {
    clock: Clock,
    records: Mutex<HashMap<String, Record>>,
}

impl Memory {
    /// An empty store.
    pub fn new(clock: Clock) -> Self {
        Memory { clock, records: Mutex::default() }
    }

    /// The map without what has expired under `key`.
    fn without_expired(&self, key: &str) -> MutexGuard<'_, HashMap<String, Record>> {
        let now = self.clock.now();
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.get(key).is_some_and(|record| record.expires <= now) {
            records.remove(key);
        }
        records
    }
}

impl Others for Memory {
    fn writes(&self) -> Pending<'_, u64> {
        Box::pin(async { Ok(0) })
    }
}

impl Records for Memory {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        Box::pin(async move { Ok(self.without_expired(key).get(key).cloned()) })
    }

    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created> {
        Box::pin(async move {
            let mut records = self.without_expired(key);
            if records.contains_key(key) {
                return Ok(Created::Exists);
            }
            records.insert(key.to_owned(), record);
            Ok(Created::Created)
        })
    }

    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced> {
        Box::pin(async move {
            match self.without_expired(key).get_mut(key) {
                Some(current) if current.version == seen => {
                    *current = record;
                    Ok(Replaced::Replaced)
                }
                _ => Ok(Replaced::Changed),
            }
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()> {
        Box::pin(async move {
            self.without_expired(key).remove(key);
            Ok(())
        })
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>> {
        Box::pin(async move {
            let now = self.clock.now();
            let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let owned = records.iter().filter(|(_, record)| record.owner == owner && record.expires > now);
            let mut keys: Vec<String> = owned.map(|(key, _)| key.clone()).collect();
            keys.sort_unstable();
            Ok(keys)
        })
    }

    fn sweep(&self) -> Pending<'_, u64> {
        Box::pin(async move {
            let now = self.clock.now();
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let before = records.len();
            records.retain(|_, record| record.expires > now);
            Ok((before - records.len()) as u64)
        })
    }

    fn page<'a>(&'a self, _: Option<&'a str>) -> Pending<'a, Page> {
        Box::pin(async move {
            let now = self.clock.now();
            let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let live = records.iter().filter(|(_, record)| record.expires > now);
            Ok(Page {
                records: live.map(|(key, record)| (key.clone(), record.clone())).collect(),
                next: None,
            })
        })
    }
}
