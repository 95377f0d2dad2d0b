//! A family that the gate knows: what a request of it needs, and how long that holds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::Denial;
use super::told::Told;
use crate::clock::Time;
use crate::protocol::scope::ScopeMask;
use crate::protocol::token::{Claims, FamilyId};
use crate::store::still::{Place, Still};

/// A family in the gate's cache. There may be a million of them: `live/tests.rs` holds what one may take.
pub(super) struct LiveFamily {
    pub id: FamilyId,
    pub person: u64,
    /// [`Time::NEVER`] when the GitHub token does not end.
    pub token_ends: Time,
    /// When the store was last asked.
    pub read: AtomicU64,
    pub told: Told,
    /// Where its record and its credential are noted when they are written.
    pub places: [Place; 2],
    pub resource: u32,
    /// What a token must carry of the family's scopes.
    pub required: ScopeMask,
    /// Whether the family has every scope that its resource needs.
    pub suffices: bool,
    pub ended: AtomicBool,
    /// Those that this one took the place of and that streams hold still.
    pub before: OnceLock<Box<Before>>,
}

/// Each once, as long as somebody holds it.
pub(super) struct Before(Vec<Weak<LiveFamily>>);

impl LiveFamily {
    /// For how long nobody has asked the store. A clock that was set back makes everything old: then it is asked.
    pub(super) fn age(&self, now: Time) -> Duration {
        let read = Time::from_millis(self.read.load(Ordering::Relaxed));
        if read > now { Duration::MAX } else { now.since(read) }
    }

    /// For how long nobody knows whether it is still so.
    fn doubt(&self, now: Time, still: &Still) -> Duration {
        let age = self.age(now);
        if age < FRESH_FOR || age == Duration::MAX {
            return age;
        }
        let until = still.holds_until(Time::from_millis(self.read.load(Ordering::Relaxed)), self.places);
        // Found by a clock that was ahead: then it says nothing.
        if until > now { age } else { now.since(until).min(age) }
    }

    /// Whether a request may use this without asking the store.
    pub(super) fn is_fresh(&self, now: Time, still: &Still) -> bool {
        let is_known = self.age(now) < ANEW && self.doubt(now, still) < FRESH_FOR;
        is_known && now.after(FRESH_FOR) < self.token_ends && !self.is_ended()
    }

    /// Whether it may still be used while the store, or GitHub, is silent: for as long from when it was to be asked anew
    /// as from when it was last known to be so.
    pub(super) fn survives(&self, now: Time, still: &Still) -> bool {
        let is_known = self.age(now) < ANEW + STORE_GRACE && self.doubt(now, still) < STORE_GRACE;
        is_known && now < self.token_ends && !self.is_ended()
    }

    /// Whether this process ended it.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Tells everybody who holds it, or held what it was before.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        for before in self.predecessors() {
            before.ended.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn covers(&self, resource: usize, claims: &Claims) -> Result<(), Denial> {
        // RFC 8707 §2: a token is good at the resource it was issued for and nowhere else.
        if self.resource as usize != resource {
            return Err(Denial::Invalid("issued for another resource"));
        }
        match self.suffices && claims.scopes & self.required == self.required {
            true => Ok(()),
            false => Err(Denial::InsufficientScope),
        }
    }

    /// Whether a later look at the store found nothing new.
    pub(super) fn says_the_same(&self, later: &LiveFamily) -> bool {
        let facts = |family: &LiveFamily| {
            (family.id, family.person, family.token_ends, family.resource, family.required, family.suffices)
        };
        facts(self) == facts(later) && self.told == later.told
    }

    /// Takes the place of `known`, which nobody but the cache can hand out any more.
    pub(super) fn succeed(&self, known: &Arc<LiveFamily>) {
        let held = (Arc::strong_count(known) > 1).then(|| known.clone());
        let before: Vec<_> = known.predecessors().chain(held).map(|held| Arc::downgrade(&held)).collect();
        if !before.is_empty() {
            // Once: nothing is put into the cache twice.
            let _ = self.before.set(Box::new(Before(before)));
        }
    }

    fn predecessors(&self) -> impl Iterator<Item = Arc<LiveFamily>> {
        self.before.get().into_iter().flat_map(|before| &before.0).filter_map(Weak::upgrade)
    }
}

/// How soon a revocation elsewhere is obeyed.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// After this long the store is asked although nothing was written: GitHub is to be asked now and then, too.
const ANEW: Duration = Duration::from_secs(60);
/// How long families we know are served while the store cannot be read; then the gate closes.
const STORE_GRACE: Duration = Duration::from_secs(60);
