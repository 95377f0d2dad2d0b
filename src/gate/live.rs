//! The cache of live families: bounded, shared by all cores, never the truth.

use std::borrow::Borrow;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::family::LiveFamily;
use crate::clock::Time;
use crate::protocol::token::FamilyId;

/// Families that were used lately.
#[derive(Default)]
pub(super) struct Live(DashMap<Known, (), BuildHasherDefault<Drawn>>);

/// Found by its id, which is in the family: a table of a million has room for two, so a key beside it costs twice.
struct Known(Arc<LiveFamily>);

impl Borrow<FamilyId> for Known {
    fn borrow(&self) -> &FamilyId {
        &self.0.id
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Known {}

/// Eight bytes of an id are its hash. They are random and ours: an id comes from the store or out of a token whose
/// MAC held, so nobody can choose many that meet in one place of the table.
#[derive(Default)]
struct Drawn(u64);

impl Hasher for Drawn {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(drawn) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*drawn);
        }
    }

    /// How long an id is, which says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Live {
    pub(super) fn get(&self, id: &FamilyId) -> Option<Arc<LiveFamily>> {
        self.0.get(id).map(|known| known.key().0.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Notes what was read of a family of which this was `known` before. `None` when it was ended meanwhile.
    pub(super) fn keep(&self, known: Option<Arc<LiveFamily>>, family: LiveFamily) -> Option<Arc<LiveFamily>> {
        if let Some(known) = known.as_ref().filter(|known| known.says_the_same(&family)) {
            known.read.store(family.read.into_inner(), Ordering::Relaxed);
            return (!known.is_ended()).then(|| known.clone());
        }
        if self.0.len() >= MAX_FAMILIES && !self.0.contains_key(&family.id) {
            // Only holders of our tokens get here, so being full is rare; whoever was read longest ago goes,
            // at the price of one look through the map per tenth of it.
            self.evict(MAX_FAMILIES / 10);
        }
        let family = Arc::new(family);
        let place = self.0.entry(Known(family.clone()));
        // Looked at where `forget` cannot come in between.
        if known.as_ref().is_some_and(|known| known.is_ended()) {
            return None;
        }
        // Or it would count as held.
        drop(known);
        match place {
            Entry::Occupied(place) => {
                family.succeed(&place.key().0);
                place.replace_entry(());
            }
            Entry::Vacant(place) => drop(place.insert(())),
        }
        Some(family)
    }

    /// Forgets a family and tells open streams of it.
    pub(super) fn forget(&self, id: &FamilyId) {
        self.0.remove_if(id, |known, ()| {
            known.0.end();
            true
        });
    }

    pub(super) fn tidy(&self, now: Time) {
        self.0.retain(|known, ()| known.0.age(now) < UNUSED_FOR);
    }

    fn evict(&self, how_many: usize) {
        let mut reads: Vec<u64> =
            self.0.iter().map(|known| known.key().0.read.load(Ordering::Relaxed)).collect();
        let at = how_many.min(reads.len().saturating_sub(1));
        let (_, oldest_kept, _) = reads.select_nth_unstable(at);
        let oldest_kept = *oldest_kept;
        self.0.retain(|known, ()| known.0.read.load(Ordering::Relaxed) > oldest_kept);
    }
}

/// A family in use is read every second.
const UNUSED_FOR: Duration = Duration::from_secs(120);
/// Bounds memory; a family that was dropped is read again when it is used.
const MAX_FAMILIES: usize = 1_000_000;

#[cfg(test)]
mod tests;
