//! Records under our MAC: who may write to the store but has no key can take records away, not make or move them.
//!
//! The tag covers key, owner and bytes, so a record is worth nothing in another row or under another owner. One
//! that is not ours is as good as none, and is replaced like none. Bringing back an earlier state of a record
//! whole cannot be told from the outside; SECURITY.md says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Created, Page, Pending, Record, Records, Replaced};
use crate::protocol::token::{Authenticator, TAG_BYTES};

/// A store whose records carry a tag.
pub struct Authentic<K> {
    records: Arc<dyn Records>,
    keys: Arc<K>,
    has_passed_over: AtomicBool,
}

impl<K: Authenticator + Send + Sync> Authentic<K> {
    /// Guards what is kept in `records`.
    pub fn new(records: Arc<dyn Records>, keys: Arc<K>) -> Self {
        Authentic { records, keys, has_passed_over: AtomicBool::new(false) }
    }

    /// Whether a record as the store keeps it carries our MAC, or needs none.
    pub fn is_ours(&self, key: &str, record: Record) -> bool {
        self.opened(key, record).is_some()
    }

    /// Whether a page was without a login that is not ours: of keys that are not configured, or changed by others.
    pub fn has_passed_over(&self) -> bool {
        self.has_passed_over.load(Ordering::Relaxed)
    }

    fn tagged(&self, key: &str, mut record: Record) -> Record {
        // A record without content says no more than its key does.
        if !record.bytes.is_empty() {
            let (key_id, tag) = self.keys.authenticate(KIND, &covered(key, &record.owner, &record.bytes));
            record.bytes.push(key_id);
            record.bytes.extend(tag);
        }
        record
    }

    fn opened(&self, key: &str, mut record: Record) -> Option<Record> {
        if record.bytes.is_empty() {
            return Some(record);
        }
        let end = record.bytes.len().checked_sub(1 + TAG_BYTES)?;
        let (key_id, tag) = (record.bytes[end], record.bytes[end + 1..].to_vec());
        record.bytes.truncate(end);
        let covered = covered(key, &record.owner, &record.bytes);
        self.keys.is_authentic(key_id, KIND, &covered, &tag).then_some(record)
    }
}

/// Each part with its length, so that no two lists of parts are the same.
fn covered(key: &str, owner: &str, bytes: &[u8]) -> Vec<u8> {
    let parts = [key.as_bytes(), owner.as_bytes(), bytes];
    parts.iter().flat_map(|part| [&(part.len() as u64).to_be_bytes(), *part].concat()).collect()
}

impl<K: Authenticator + Send + Sync> Records for Authentic<K> {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        Box::pin(async move {
            let found = self.records.read(key).await?;
            Ok(found.and_then(|record| self.opened(key, record)))
        })
    }

    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created> {
        Box::pin(async move {
            let record = self.tagged(key, record);
            loop {
                if self.records.create(key, record.clone()).await? == Created::Created {
                    return Ok(Created::Created);
                }
                let Some(found) = self.records.read(key).await? else { continue };
                let version = found.version;
                if self.opened(key, found).is_some() {
                    return Ok(Created::Exists);
                }
                if self.records.replace(key, version, record.clone()).await? == Replaced::Replaced {
                    return Ok(Created::Created);
                }
            }
        })
    }

    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced> {
        let record = self.tagged(key, record);
        Box::pin(async move { self.records.replace(key, seen, record).await })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()> {
        self.records.delete(key)
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>> {
        self.records.owned_by(owner)
    }

    fn sweep(&self) -> Pending<'_, u64> {
        self.records.sweep()
    }

    /// Without what is not ours.
    fn page<'a>(&'a self, after: Option<&'a str>) -> Pending<'a, Page> {
        Box::pin(async move {
            let Page { records, next } = self.records.page(after).await?;
            let opened = |(key, record): (String, Record)| {
                let record = self.opened(&key, record);
                if record.is_none() && LOGINS.iter().any(|prefix| key.starts_with(prefix)) {
                    self.has_passed_over.store(true, Ordering::Relaxed);
                }
                record.map(|record| (key, record))
            };
            Ok(Page { records: records.into_iter().filter_map(opened).collect(), next })
        })
    }
}

const KIND: &str = "record";
/// Other kinds of records need no MAC of ours.
const LOGINS: [&str; 2] = ["family/", "credential/"];
