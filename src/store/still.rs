//! What is known of a store without asking: whether what was read from it can have changed since.
//!
//! What this process writes it knows ([`Noted`]); whether anybody else has written, some stores can be asked at once for
//! everything that was ever read ([`Others`]). A family in use would be read every second otherwise, at twice the price
//! of all else that a request costs.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::{Created, Page, Pending, Record, Records, Replaced};
use crate::clock::{self, Clock, Time};

/// A store that can say at little cost whether others wrote to it.
pub trait Others: Send + Sync {
    /// A number that is another one once anybody but this process has written. Trouble with the store is an error.
    fn writes(&self) -> Pending<'_, u64>;
}

/// What is known.
pub struct Still {
    /// Since when nobody else has written, as far as we know.
    quiet_since: AtomicU64,
    /// When that was last found to be so.
    found_at: AtomicU64,
    /// Somebody wants to know, and was not looked for yet.
    is_wanted: AtomicBool,
    wanted: Notify,
    /// When this process last wrote, by place.
    written: [AtomicU64; PLACES],
    places: std::hash::RandomState,
}

/// Where a record is noted; others may share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u16);

impl Default for Still {
    fn default() -> Self {
        Still {
            // Nothing is known until somebody has looked.
            quiet_since: AtomicU64::new(u64::MAX),
            found_at: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
            wanted: Notify::new(),
            written: [const { AtomicU64::new(0) }; PLACES],
            places: std::hash::RandomState::new(),
        }
    }
}

impl Still {
    /// The place of a key.
    pub fn place(&self, key: &str) -> Place {
        Place((self.places.hash_one(key) % PLACES as u64) as u16)
    }

    /// Somebody will want to know.
    pub fn want(&self) {
        // Written once for each look, and read by everybody.
        if !self.is_wanted.load(Ordering::Relaxed) {
            self.is_wanted.store(true, Ordering::Relaxed);
            self.wanted.notify_one();
        }
    }

    /// Until when what was read from these places holds, asked for at `read`: that moment at least.
    pub fn holds_until(&self, read: Time, places: [Place; 2]) -> Time {
        let is_untouched =
            places.iter().all(|place| self.written[place.0 as usize].load(Ordering::Acquire) < read.millis());
        // The later of the two is looked at first: whoever writes them does it the other way round.
        let found_at = self.found_at.load(Ordering::Acquire);
        match is_untouched && read.millis() > self.quiet_since.load(Ordering::Acquire) {
            true => Time::from_millis(found_at.max(read.millis())),
            false => read,
        }
    }

    fn wrote(&self, key: &str, now: Time) {
        self.written[self.place(key).0 as usize].fetch_max(now.millis(), Ordering::AcqRel);
    }

    /// Nobody else wrote between the look before this one and `asked`.
    fn is_quiet_at(&self, asked: Time) {
        self.found_at.store(asked.millis(), Ordering::Release);
    }

    /// Somebody may have written until `answered`.
    fn is_quiet_since(&self, answered: Time) {
        self.quiet_since.store(answered.millis(), Ordering::Release);
    }

    /// Looks again and again, as long as somebody wants to know; at once for who comes after a pause, since until then
    /// everything must be read anew.
    pub async fn watch(self: Arc<Self>, others: Arc<dyn Others>, clock: Clock, every: Duration) {
        let mut known = None;
        loop {
            self.wanted.notified().await;
            self.is_wanted.store(false, Ordering::Relaxed);
            self.look(&*others, &clock, &mut known).await;
            sleep(every).await;
        }
    }

    /// Looks once; `known` is what the look before has found.
    pub(crate) async fn look(&self, others: &dyn Others, clock: &Clock, known: &mut Option<u64>) {
        let asked = clock.now();
        match others.writes().await {
            Ok(number) if *known == Some(number) => self.is_quiet_at(asked),
            Ok(number) => {
                *known = Some(number);
                self.is_quiet_since(clock.now());
            }
            // What was found before loses its worth by itself.
            Err(_) => *known = None,
        }
    }
}

/// A store whose writes are noted, whatever came of them.
pub struct Noted {
    records: Arc<dyn Records>,
    still: Arc<Still>,
    clock: Clock,
}

impl Noted {
    pub fn new(records: Arc<dyn Records>, still: Arc<Still>, clock: Clock) -> Self {
        Noted { records, still, clock }
    }

    fn noted<'a, T: Send + 'a>(&'a self, key: &'a str, written: Pending<'a, T>) -> Pending<'a, T> {
        let note = Note { noted: self, key, is_answered: false };
        Box::pin(async move {
            let outcome = written.await;
            note.settle(outcome.is_ok());
            outcome
        })
    }
}

struct Note<'a> {
    noted: &'a Noted,
    key: &'a str,
    is_answered: bool,
}

impl Note<'_> {
    fn settle(mut self, is_answered: bool) {
        self.is_answered = is_answered;
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        // Not what it was when the task woke up: the write was done after that.
        clock::look_again();
        let now = self.noted.clock.now();
        // What nobody waits for any more, or failed, may still be done.
        let done = if self.is_answered { now } else { now.after(MAY_LAST) };
        self.noted.still.wrote(self.key, done);
    }
}

impl Records for Noted {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        self.records.read(key)
    }

    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created> {
        self.noted(key, self.records.create(key, record))
    }

    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced> {
        self.noted(key, self.records.replace(key, seen, record))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()> {
        self.noted(key, self.records.delete(key))
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>> {
        self.records.owned_by(owner)
    }

    fn sweep(&self) -> Pending<'_, u64> {
        self.records.sweep()
    }

    fn page<'a>(&'a self, after: Option<&'a str>) -> Pending<'a, Page> {
        self.records.page(after)
    }
}

/// How long a write may be under way that we know nothing of.
const MAY_LAST: Duration = Duration::from_secs(60);
/// A record that shares its place with one that was just written is read once more; there are few writes.
const PLACES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::clock::ManualClock;
    use crate::store::StoreError;
    use crate::store::memory::Memory;

    /// What others do.
    #[derive(Default)]
    struct World {
        writes: AtomicU64,
        is_away: AtomicBool,
        looks: AtomicU64,
    }

    impl Others for World {
        fn writes(&self) -> Pending<'_, u64> {
            self.looks.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {
                match self.is_away.load(Ordering::Relaxed) {
                    true => Err(StoreError::unreachable("away")),
                    false => Ok(self.writes.load(Ordering::Relaxed)),
                }
            })
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn what_was_read_holds_for_as_long_as_nobody_writes() {
        let (manual, world, still, mut known) =
            (ManualClock::new(1), World::default(), Still::default(), None);
        let clock = manual.clock();
        let places = [still.place("family/1"), still.place("credential/1")];
        manual.forward(SECOND);
        let early = clock.now();
        assert_eq!(still.holds_until(early, places), early, "nothing is known yet");
        still.look(&world, &clock, &mut known).await;
        manual.forward(SECOND);
        let read = clock.now();
        manual.forward(SECOND);
        still.look(&world, &clock, &mut known).await;
        assert_eq!(still.holds_until(read, places), clock.now());
        assert_eq!(still.holds_until(early, places), early, "before the first look anything may have been");
        // Nobody can be asked: it holds until when that was last done.
        let last = clock.now();
        world.is_away.store(true, Ordering::Relaxed);
        manual.forward(SECOND);
        still.look(&world, &clock, &mut known).await;
        assert_eq!(still.holds_until(read, places), last);
        world.is_away.store(false, Ordering::Relaxed);
        still.look(&world, &clock, &mut known).await;
        manual.forward(SECOND);
        still.look(&world, &clock, &mut known).await;
        assert_eq!(still.holds_until(read, places), read, "meanwhile anything may have been");
        // Somebody else writes.
        let read = clock.now().after(Duration::from_millis(1));
        manual.forward(SECOND);
        still.look(&world, &clock, &mut known).await;
        assert_eq!(still.holds_until(read, places), clock.now());
        world.writes.fetch_add(1, Ordering::Relaxed);
        manual.forward(SECOND);
        still.look(&world, &clock, &mut known).await;
        assert_eq!(still.holds_until(read, places), read);
        assert_eq!(still.holds_until(clock.now(), places), clock.now(), "read in the moment of the look");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_after_a_pause_does_not_wait_for_a_look() {
        let (world, still, every) = (Arc::<World>::default(), Arc::<Still>::default(), SECOND / 4);
        tokio::spawn(still.clone().watch(world.clone(), ManualClock::new(1).clock(), every));
        let looks = async || {
            tokio::task::yield_now().await;
            world.looks.load(Ordering::Relaxed)
        };
        assert_eq!(looks().await, 0, "nobody wants to know");
        for pause in 1..4 {
            still.want();
            assert_eq!(looks().await, 2 * pause - 1, "at once");
            still.want();
            still.want();
            assert_eq!(looks().await, 2 * pause - 1, "not more often than agreed");
            tokio::time::advance(every).await;
            assert_eq!(looks().await, 2 * pause);
            tokio::time::advance(SECOND * 60).await;
            assert_eq!(looks().await, 2 * pause);
        }
    }

    #[tokio::test]
    async fn what_we_write_ends_what_was_read_of_it_before() {
        let (manual, world, still, mut known) =
            (ManualClock::new(1), World::default(), Arc::new(Still::default()), None);
        let clock = manual.clock();
        let noted = Noted::new(Arc::new(Memory::new(clock.clone())), still.clone(), clock.clone());
        let record = || Record { bytes: vec![], version: 1, owner: String::new(), expires: Time::NEVER };
        still.look(&world, &clock, &mut known).await;
        manual.forward(SECOND);
        let read = clock.now();
        let of = |key: &str| still.holds_until(read, [still.place(key), still.place("credential/1")]);
        noted.create("family/1", record()).await.expect("written");
        drop(noted.delete("family/2"));
        manual.forward(SECOND);
        still.look(&world, &clock, &mut known).await;
        assert_eq!(of("family/1"), read, "written in the moment it was read");
        assert_eq!(of("family/2"), read, "a write that nobody waits for");
        assert_eq!(of("family/3"), clock.now(), "another record");
        let again = clock.now();
        manual.forward(SECOND);
        still.look(&world, &clock, &mut known).await;
        let both = |key: &str| still.holds_until(again, [still.place("credential/1"), still.place(key)]);
        assert_eq!(both("family/1"), clock.now(), "read again since");
        assert_eq!(both("family/2"), again, "which may still be under way");
    }
}
