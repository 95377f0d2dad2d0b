//! What was so a moment ago: a map of bounded size that forgets what is old, and what nobody has asked for longest.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shared by its clones.
pub struct Recent<K, V> {
    known: Arc<Mutex<Halves<K, V>>>,
    /// Of each half.
    most: usize,
    lasts: Duration,
}

/// Whatever is put in or asked for goes to the younger half. When that is full, or as old as anything gets, it becomes
/// the older one, and what was there before is forgotten.
struct Halves<K, V> {
    young: HashMap<K, (V, Instant)>,
    old: HashMap<K, (V, Instant)>,
    turned: Instant,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    /// Nothing yet; at most so many, each for so long.
    pub fn new(most: usize, lasts: Duration) -> Self {
        let halves = Halves { young: HashMap::new(), old: HashMap::new(), turned: Instant::now() };
        Recent { known: Arc::new(Mutex::new(halves)), most: most.div_ceil(2), lasts }
    }

    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let mut known = self.lock();
        let now = Instant::now();
        let lives = |since: Instant| now.duration_since(since) < self.lasts;
        if let Some((value, since)) = known.young.get(key) {
            return lives(*since).then(|| value.clone());
        }
        let (key, (value, since)) = known.old.remove_entry(key).filter(|(_, (_, since))| lives(*since))?;
        self.make_room(&mut known, now);
        known.young.insert(key, (value.clone(), since));
        Some(value)
    }

    pub fn contains_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    pub fn insert(&self, key: K, value: V) {
        self.put(&mut self.lock(), key, value);
    }

    /// In one step; false when it is there already.
    pub fn insert_new(&self, key: K, value: V) -> bool {
        let mut known = self.lock();
        let now = Instant::now();
        let is_there = [&known.young, &known.old]
            .into_iter()
            .any(|half| half.get(&key).is_some_and(|(_, since)| now.duration_since(*since) < self.lasts));
        if !is_there {
            self.put(&mut known, key, value);
        }
        !is_there
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let mut known = self.lock();
        known.young.remove(key);
        known.old.remove(key);
    }

    fn put(&self, known: &mut Halves<K, V>, key: K, value: V) {
        let now = Instant::now();
        known.old.remove(&key);
        self.make_room(known, now);
        known.young.insert(key, (value, now));
    }

    fn make_room(&self, known: &mut Halves<K, V>, now: Instant) {
        if known.young.len() >= self.most || now.duration_since(known.turned) >= self.lasts {
            known.old = mem::take(&mut known.young);
            known.turned = now;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Halves<K, V>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Derived, it would ask the same of keys and values.
impl<K, V> Clone for Recent<K, V> {
    fn clone(&self) -> Self {
        Recent { known: self.known.clone(), most: self.most, lasts: self.lasts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[tokio::test(start_paused = true)]
    async fn what_is_old_is_forgotten() {
        let recent = Recent::new(10, HOUR);
        recent.insert("a", 1);
        assert!(!recent.insert_new("a", 2) && recent.insert_new("b", 3));
        tokio::time::advance(HOUR - Duration::from_secs(1)).await;
        assert_eq!((recent.get("a"), recent.get("b"), recent.get("c")), (Some(1), Some(3), None));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((recent.get("a"), recent.get("b")), (None, None));
        assert!(recent.insert_new("a", 4) && recent.clone().contains_key("a"));
        recent.remove("a");
        assert_eq!(recent.get("a"), None);
    }

    #[test]
    fn there_are_never_more_than_agreed_and_those_that_are_asked_for_stay() {
        let recent = Recent::new(100, HOUR);
        recent.insert(0, ());
        for number in 1..10_000 {
            recent.insert(number, ());
            assert!(recent.contains_key(&0), "{number}");
            let known = recent.lock();
            assert!(known.young.len() + known.old.len() <= 100);
        }
        assert!(recent.contains_key(&9_999) && recent.contains_key(&9_950) && !recent.contains_key(&9_000));
    }
}
