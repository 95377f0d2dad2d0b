//! What came of the last call, for everyone who waited for it: a GitHub that is slow or down is asked once by
//! all who queue, and not before it wants to be asked again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::Trouble;
use crate::clock::Time;
use crate::recent::Recent;

/// The last outcome per credential; bounded.
pub(super) struct Outcomes {
    count: AtomicU64,
    last: Recent<String, Outcome>,
}

#[derive(Clone)]
struct Outcome {
    number: u64,
    trouble: Option<(Trouble, Time)>,
}

/// When somebody began to wait.
#[derive(Clone, Copy)]
pub(super) struct Arrival(u64);

impl Outcomes {
    pub(super) fn new() -> Self {
        Outcomes { count: AtomicU64::new(0), last: Recent::new(MAX_REMEMBERED, LONGEST_REST) }
    }

    pub(super) fn arrive(&self) -> Arrival {
        Arrival(self.count.load(Ordering::SeqCst))
    }

    /// What came of a call that ended while the caller waited, or of one after which GitHub wants to be left
    /// alone; `None` when it is the caller's turn.
    pub(super) fn for_waiter(&self, key: &str, arrival: Arrival, now: Time) -> Option<Result<(), Trouble>> {
        let outcome = self.last.get(key)?;
        match outcome.trouble {
            Some((trouble, until)) if outcome.number > arrival.0 || rests(now, until) => Some(Err(trouble)),
            None if outcome.number > arrival.0 => Some(Ok(())),
            _ => None,
        }
    }

    pub(super) fn note(&self, key: &str, trouble: Option<&Trouble>, now: Time) {
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let until = |trouble: &Trouble| trouble.retry_after.map_or(now, |wait| now.after(wait));
        let trouble = trouble.map(|trouble| (trouble.clone(), until(trouble)));
        self.last.insert(key.to_owned(), Outcome { number, trouble });
    }
}

/// Whether GitHub still wants to be left alone. An end that is far away was noted by a clock that was far ahead.
fn rests(now: Time, until: Time) -> bool {
    now < until && until.since(now) <= LONGEST_REST
}

/// GitHub's limits are counted by the hour.
const LONGEST_REST: Duration = Duration::from_secs(2 * 3_600);
/// Credentials; forgetting one costs a call.
const MAX_REMEMBERED: usize = 100_000;
