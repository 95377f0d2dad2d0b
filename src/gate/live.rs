//! The cache of live families: bounded, shared by all cores, never the truth.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;

use super::LiveFamily;
use crate::clock::Time;
use crate::protocol::token::FamilyId;

/// Families that were used lately.
#[derive(Default)]
pub(super) struct Live(DashMap<FamilyId, Arc<LiveFamily>>);

impl Live {
    pub(super) fn get(&self, id: &FamilyId) -> Option<Arc<LiveFamily>> {
        self.0.get(id).map(|family| family.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn keep(&self, family: Arc<LiveFamily>) {
        if self.0.len() >= MAX_FAMILIES && !self.0.contains_key(&family.id) {
            // Only holders of our tokens get here, so being full is rare; whoever was read longest ago goes,
            // at the price of one look through the map per tenth of it.
            self.evict(MAX_FAMILIES / 10);
        }
        self.0.insert(family.id, family);
    }

    /// Forgets a family and tells open streams of it.
    pub(super) fn forget(&self, id: &FamilyId) {
        if let Some((_, family)) = self.0.remove(id) {
            family.ended.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn tidy(&self, now: Time) {
        self.0.retain(|_, family| family.age(now) < UNUSED_FOR);
    }

    fn evict(&self, how_many: usize) {
        let mut reads: Vec<u64> = self.0.iter().map(|entry| entry.read.load(Ordering::Relaxed)).collect();
        let at = how_many.min(reads.len().saturating_sub(1));
        let (_, oldest_kept, _) = reads.select_nth_unstable(at);
        let oldest_kept = *oldest_kept;
        self.0.retain(|_, family| family.read.load(Ordering::Relaxed) > oldest_kept);
    }
}

/// A family in use is read every second.
const UNUSED_FOR: Duration = Duration::from_secs(120);
/// Bounds memory; a family that was dropped is read again when it is used.
const MAX_FAMILIES: usize = 1_000_000;
