//! Where records live. Six verbs on opaque records, and a seventh for operators; all protocol logic sits above,
//! once.
//!
//! Every verb is one atomic operation of the backend. A backend never decides anything: it fails
//! ([`StoreError`], answered with 503) or it tells what is there. Tokens in any form never come here.

pub mod authentic;
pub mod conformance;
pub mod families;
pub mod memory;
pub mod opening;
mod patience;
pub mod people;
pub mod postgres;
pub mod redis;
pub mod sqlite;
pub mod steady;
pub mod still;
pub mod watched;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::clock::Time;

/// The answer of a backend, later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What is kept under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Opaque to the backend; at most 64 KiB.
    pub bytes: Vec<u8>,
    /// Chosen at random by whoever writes, so that no version ever comes back (not even after a delete).
    pub version: u64,
    /// What [`Records::owned_by`] lists it under; empty for none.
    pub owner: String,
    /// From this moment on the record does not exist.
    pub expires: Time,
}

/// Outcome of [`Records::create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The record is there now, and it was not before.
    Created,
    /// A live record had the key already; nothing was written.
    Exists,
}

/// Outcome of [`Records::replace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// The version seen was still the current one, and the new record took its place.
    Replaced,
    /// Somebody else was first, or the record is gone; nothing was written.
    Changed,
}

/// Some of the records of a store, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// With their keys; in no particular order, and while others write maybe twice.
    pub records: Vec<(String, Record)>,
    /// Where to go on; `None` after the last page.
    pub next: Option<String>,
}

/// The verbs. An expired record does not exist for any of them.
pub trait Records: Send + Sync {
    /// The record under a key.
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>>;
    /// Writes a record where there is none. Of many callers at once exactly one gets [`Created::Created`].
    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created>;
    /// Compare-and-swap on the version. Of many callers at once exactly one gets [`Replaced::Replaced`].
    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced>;
    /// Removes a record; no error when there is none.
    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()>;
    /// The keys of all records with this owner, sorted.
    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>>;
    /// Removes what has expired and says how much that was.
    fn sweep(&self) -> Pending<'_, u64>;
    /// A page of all records there are, from the start or where another page ended. For operators: what is there
    /// all the while is on some page, and nothing that serves a request asks for it.
    fn page<'a>(&'a self, after: Option<&'a str>) -> Pending<'a, Page>;
}

/// The backend failed: nothing is known about what it holds. Never means "no".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    text: String,
    unreachable: bool,
}

impl StoreError {
    /// Wraps a backend's own words (for the log; they reach no client).
    pub fn new(cause: impl fmt::Display) -> Self {
        StoreError { text: cause.to_string(), unreachable: false }
    }

    /// The backend said nothing, or not in time: what was asked of it may have been done all the same.
    pub fn unreachable(cause: impl fmt::Display) -> Self {
        StoreError { text: cause.to_string(), unreachable: true }
    }

    /// Whether it is the way to the backend that failed, and not the backend.
    pub fn is_unreachable(&self) -> bool {
        self.unreachable
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store: {}", self.text)
    }
}

impl std::error::Error for StoreError {}

/// Something the protocol keeps as a record, with the version it was read at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// What was kept.
    pub value: T,
    /// For the compare-and-swap that may follow.
    pub version: u64,
}

/// Decodes a record. One that we cannot read is trouble, not absence: a newer version may have written it.
fn decode<T: serde::de::DeserializeOwned>(key: &str, record: Record) -> Result<Stored<T>, StoreError> {
    let value = serde_json::from_slice(&record.bytes).map_err(|error| {
        StoreError::new(format_args!("the record {} cannot be read: {error}", kind_of(key)))
    })?;
    Ok(Stored { value, version: record.version })
}

/// Why a store cannot be used as it is, for good: waiting would not help, the operator has to do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A newer program has changed its form beyond what this one knows.
    #[error(
        "the store was brought to schema {found} by a newer version of this program, which works with {oldest} and later; this one knows {known}"
    )]
    Newer { found: i64, oldest: i64, known: i64 },
    /// It throws records away when memory is short, and with them logins.
    #[error(
        "Redis may evict records when its memory is full (maxmemory-policy {0}), which would log people out and let \
         used codes live again; set maxmemory-policy noeviction"
    )]
    Evicts(String),
}

/// Why a store is not open yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// The operator has to do something.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// It may work in a moment.
    #[error(transparent)]
    Trouble(#[from] StoreError),
}

/// A store that other processes share, over a network.
pub trait Shared: Records {
    /// Reaches it, looks whether it is fit to be used, and brings its form up to date; tells what is not as it should
    /// be and can be lived with. Idempotent, and safe while others do the same or are at work in it.
    fn prepare(&self) -> Pin<Box<dyn Future<Output = Result<Vec<String>, PrepareError>> + Send + '_>>;
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are plain data")
}

/// The part of a key that may be logged.
fn kind_of(key: &str) -> &str {
    key.split('/').next().unwrap_or_default()
}
