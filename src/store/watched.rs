//! Tells somebody (metrics) of every question to a store: which verb, how long it took, whether it was answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Created, Page, Pending, Record, Records, Replaced};

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Read,
    Create,
    Replace,
    Delete,
    OwnedBy,
    Sweep,
    Page,
}

impl Verb {
    /// All there are, in the order of their numbers.
    pub const ALL: [Verb; 7] =
        [Verb::Read, Verb::Create, Verb::Replace, Verb::Delete, Verb::OwnedBy, Verb::Sweep, Verb::Page];

    /// As metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Read => "read",
            Verb::Create => "create",
            Verb::Replace => "replace",
            Verb::Delete => "delete",
            Verb::OwnedBy => "owned_by",
            Verb::Sweep => "sweep",
            Verb::Page => "page",
        }
    }
}

/// Who is told: the verb, how long it took, and whether there was an answer.
pub type Watcher = Arc<dyn Fn(Verb, Duration, bool) + Send + Sync>;

/// A store under watch.
pub struct Watched {
    records: Arc<dyn Records>,
    tell: Watcher,
}

impl Watched {
    /// Tells of everything that is asked of `records`.
    pub fn new(records: Arc<dyn Records>, tell: Watcher) -> Self {
        Watched { records, tell }
    }

    fn told<'a, T: Send + 'a>(&'a self, verb: Verb, asked: Pending<'a, T>) -> Pending<'a, T> {
        Box::pin(async move {
            let began = Instant::now();
            let outcome = asked.await;
            (self.tell)(verb, began.elapsed(), outcome.is_ok());
            outcome
        })
    }
}

impl Records for Watched {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        self.told(Verb::Read, self.records.read(key))
    }

    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created> {
        self.told(Verb::Create, self.records.create(key, record))
    }

    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced> {
        self.told(Verb::Replace, self.records.replace(key, seen, record))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()> {
        self.told(Verb::Delete, self.records.delete(key))
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>> {
        self.told(Verb::OwnedBy, self.records.owned_by(owner))
    }

    fn sweep(&self) -> Pending<'_, u64> {
        self.told(Verb::Sweep, self.records.sweep())
    }

    fn page<'a>(&'a self, after: Option<&'a str>) -> Pending<'a, Page> {
        self.told(Verb::Page, self.records.page(after))
    }
}
