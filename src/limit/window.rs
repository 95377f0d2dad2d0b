//! A sliding window over a sketch: two windows of fixed length, the older one counted by what is left of it.
//!
//! Lock-free but for the moment a window ends, when one thread clears the older half and the others go on.

use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pingora_limits::estimator::Estimator;

use crate::clock::Time;

/// This window and the one before.
pub(super) struct Windows {
    /// Milliseconds.
    length: u64,
    /// Which window it is now, counted from the epoch; its half is the one of the same parity.
    number: AtomicU64,
    turning: AtomicBool,
    halves: [Half; 2],
    /// Who was told to wait in this window: the log hears of each once.
    told: Estimator,
}

struct Half {
    counts: Estimator,
    total: AtomicU64,
}

/// Where in which window a moment is.
struct Place {
    number: u64,
    /// Milliseconds since the window began, at most its length.
    elapsed: u64,
}

impl Windows {
    pub(super) fn new(length: Duration, now: Time) -> Self {
        let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1);
        Windows {
            length,
            number: AtomicU64::new(now.millis() / length),
            turning: AtomicBool::new(false),
            halves: [Half::new(), Half::new()],
            told: Estimator::new(ROWS, COLUMNS / 8),
        }
    }

    /// Whether fewer than `limit` events of this key happened within the last length of a window; otherwise
    /// how many milliseconds from now that will be so.
    pub(super) fn room(&self, key: &impl Hash, limit: u64, now: Time) -> Result<(), u128> {
        let Place { number, elapsed } = self.place(now);
        let (limit, length, elapsed) = (u128::from(limit), u128::from(self.length), u128::from(elapsed));
        let current = u128::from(self.half(number).of(key));
        let before = u128::from(self.half(number + 1).of(key));
        if current * length + before * (length - elapsed) < limit * length {
            return Ok(());
        }
        // The older window's share shrinks until both fit; or this one is full, and has to become the older.
        match limit.checked_sub(current).filter(|free| *free > 0) {
            Some(free) => {
                Err((length + 1).saturating_sub(free * length / before.max(1)).saturating_sub(elapsed).max(1))
            }
            None => Err((length - elapsed) + (length + 1).saturating_sub(limit * length / current.max(1))),
        }
    }

    pub(super) fn count(&self, key: &impl Hash, now: Time) {
        let half = self.half(self.place(now).number);
        half.counts.incr(key, 1);
        half.total.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether nobody said so in this window yet.
    pub(super) fn is_news(&self, key: &impl Hash, now: Time) -> bool {
        self.place(now);
        self.told.incr(key, 1) == 1
    }

    /// Goes on to the next window when it is time. A clock that was set, in either direction, begins anew: to
    /// wait until it comes back to where it was could take years.
    fn place(&self, now: Time) -> Place {
        let (wanted, elapsed) = (now.millis() / self.length, now.millis() % self.length);
        let number = self.number.load(Ordering::Acquire);
        if wanted == number {
            return Place { number, elapsed };
        }
        if wanted + 1 == number {
            // A small step back, as clocks make when they are corrected.
            return Place { number, elapsed: 0 };
        }
        if self.turning.swap(true, Ordering::Acquire) {
            // Somebody is at it; until then the old window has just ended.
            return Place { number, elapsed: self.length };
        }
        // Looked at again: it may have been turned between the first look and the lock.
        let number = self.number.load(Ordering::Acquire);
        if wanted != number {
            // Cleared before it is named, so that nobody is judged by what is two windows old.
            self.half(wanted).clear();
            if wanted != number + 1 {
                self.half(wanted + 1).clear();
            }
            self.told.reset();
            self.number.store(wanted, Ordering::Release);
        }
        self.turning.store(false, Ordering::Release);
        Place { number: wanted, elapsed }
    }

    fn half(&self, number: u64) -> &Half {
        &self.halves[usize::from(number % 2 == 1)]
    }
}

impl Half {
    fn new() -> Self {
        Half { counts: Estimator::new(ROWS, COLUMNS), total: AtomicU64::new(0) }
    }

    /// How often a key was counted, a little too low rather than too high: what all others add to each counter
    /// on average is taken off, else a million addresses with one request each would fill everybody's; and twice
    /// by how much counters differ from that average (its root), as the average alone leaves a few in a million
    /// keys with four counters that are all above it by more than a small limit.
    fn of(&self, key: &impl Hash) -> u64 {
        let counted = u64::try_from(self.counts.get(key)).unwrap_or(0);
        let others = self.total.load(Ordering::Relaxed).saturating_sub(counted);
        let average = others / COLUMNS as u64;
        counted.saturating_sub(average + 2 * average.isqrt())
    }

    fn clear(&self) {
        self.counts.reset();
        self.total.store(0, Ordering::Relaxed);
    }
}

/// Independent hashes per key. All four must meet a busy key before an idle one seems busy.
const ROWS: usize = 4;
/// Counters per hash: half a megabyte for both halves.
const COLUMNS: usize = 8_192;
