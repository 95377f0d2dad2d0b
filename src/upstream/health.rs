//! Whether a replica is to be asked. It is judged by the requests it gets, and nothing is sent only to look: one that
//! cannot be reached, or broke off time after time, is left out for a while; then a single request looks again.
//!
//! Has no lock and reads no clock: whoever asks says what time it is.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Time;

/// What is known of one replica, from whatever core.
#[derive(Default)]
pub struct Health {
    /// Until when it is ejected, in milliseconds; 0 while it is not.
    until: AtomicU64,
    /// How often in a row it was ejected.
    times: AtomicU32,
    /// How many exchanges in a row broke.
    broken: AtomicU32,
    /// How many came to an answer; wraps around.
    answers: AtomicU32,
}

/// Why a replica is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chance {
    /// It is well.
    Well,
    /// To see whether it is back: nobody else looks until then.
    Probe(u64),
    /// It is ejected, and so is every other.
    Anyway,
}

impl Health {
    /// Whether nothing speaks against it.
    pub fn is_well(&self) -> bool {
        self.until.load(Ordering::Relaxed) == 0
    }

    /// For one that is ejected: takes it upon the caller to look again, if it is time and nobody else does.
    pub fn claim(&self, now: Time) -> Option<Chance> {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 || now.millis() < until {
            return None;
        }
        // Nobody waits for whoever looks for ever.
        let next = now.after(FIRST).millis();
        self.exchange(until, next).then_some(Chance::Probe(next))
    }

    /// Whoever was to look has seen nothing: somebody else looks at once.
    pub fn give_back(&self, chance: Chance, now: Time) {
        if let Chance::Probe(deadline) = chance {
            self.exchange(deadline, now.millis());
        }
    }

    /// How many answers there were, to be compared later.
    pub fn answers(&self) -> u32 {
        self.answers.load(Ordering::Relaxed)
    }

    /// It has answered. Says whether it is back by that.
    pub fn answered(&self, chance: Chance) -> bool {
        self.answers.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) != 0 {
            self.broken.store(0, Ordering::Relaxed);
        }
        // What was asked before it was ejected says nothing of new connections.
        if chance == Chance::Well {
            return false;
        }
        self.times.store(0, Ordering::Relaxed);
        self.until.swap(0, Ordering::Relaxed) != 0
    }

    /// It cannot be reached. Says whether it is ejected by that.
    pub fn unreachable(&self, chance: Chance, now: Time) -> bool {
        let eject = |from| self.exchange(from, now.after(self.period()).millis());
        let ejected = match chance {
            Chance::Well => eject(0),
            Chance::Probe(deadline) => eject(deadline),
            Chance::Anyway => false,
        };
        if ejected {
            self.times.fetch_add(1, Ordering::Relaxed);
        }
        ejected && chance == Chance::Well
    }

    /// An exchange broke before there was an answer. Says whether it is ejected by that.
    pub fn broke(&self, chance: Chance, now: Time) -> bool {
        let broken = self.broken.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let is_enough = broken >= MOST_BROKEN || chance != Chance::Well;
        is_enough && self.unreachable(chance, now)
    }

    /// How long it is left out the next time: twice as long as the last time.
    fn period(&self) -> Duration {
        let times = self.times.load(Ordering::Relaxed).min(u32::BITS - 1);
        FIRST.saturating_mul(1 << times).min(LONGEST)
    }

    fn exchange(&self, from: u64, to: u64) -> bool {
        self.until.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A restart takes about so long.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(60);
/// One may be a request that nobody could have answered.
const MOST_BROKEN: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_seconds(1_000 + seconds)
    }

    #[test]
    fn one_that_cannot_be_reached_is_left_out_and_looked_at_by_one_request_at_a_time() {
        let health = Health::default();
        assert!(health.is_well());
        assert_eq!(health.claim(at(0)), None, "there is nothing to look at");
        assert!(health.unreachable(Chance::Well, at(0)));
        assert!(!health.unreachable(Chance::Well, at(5)), "others were on their way: told once");
        assert!(!health.is_well());
        assert_eq!(health.claim(at(9)), None, "counted from the first");
        // Twice as long each time, a minute at most.
        let mut now = 10;
        for period in [20, 40, 60, 60, 60] {
            let probe = health.claim(at(now)).expect("it is time");
            assert_eq!(health.claim(at(now)), None, "one looks");
            assert!(!health.unreachable(probe, at(now)), "nothing new");
            assert_eq!(health.claim(at(now + period - 1)), None, "{period}");
            now += period;
        }
        let probe = health.claim(at(now)).expect("it is time");
        assert!(health.answered(probe));
        assert!(health.is_well());
        assert!(health.unreachable(Chance::Well, at(now)));
        assert!(health.claim(at(now + 10)).is_some(), "from the beginning");
    }

    #[test]
    fn whoever_looks_and_goes_is_followed_by_another() {
        let health = Health::default();
        assert!(health.unreachable(Chance::Well, at(0)));
        let gone = health.claim(at(10)).expect("it is time");
        assert_eq!(health.claim(at(19)), None);
        let probe = health.claim(at(20)).expect("nobody has seen anything");
        // What the first one saw comes late.
        assert!(!health.unreachable(gone, at(21)));
        health.give_back(gone, at(21));
        assert_eq!(health.claim(at(21)), None);
        health.give_back(probe, at(21));
        let probe = health.claim(at(21)).expect("it was given back");
        assert!(health.answered(probe));
        health.give_back(probe, at(21));
        assert!(health.is_well());
        assert!(!health.answered(gone), "told once");
    }

    #[test]
    fn three_broken_exchanges_in_a_row_are_too_many() {
        let health = Health::default();
        for _ in 0..5 {
            assert!(!health.broke(Chance::Well, at(0)));
            assert!(!health.broke(Chance::Well, at(0)));
            assert!(!health.answered(Chance::Well), "it was well all the time");
        }
        assert!(!health.broke(Chance::Well, at(0)));
        assert!(!health.broke(Chance::Well, at(0)));
        assert!(health.broke(Chance::Well, at(0)));
        assert!(!health.broke(Chance::Well, at(0)), "told once");
        // An answer to what was asked before does not bring it back.
        assert!(!health.answered(Chance::Well));
        assert!(!health.is_well());
        let probe = health.claim(at(10)).expect("it is time");
        assert!(!health.broke(probe, at(10)));
        assert_eq!(health.claim(at(29)), None, "one is enough");
        assert!(health.answered(Chance::Anyway));
        assert!(health.is_well());
    }
}
