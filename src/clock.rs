//! Time and entropy: the only file that reads either, so that tests can own both.
//!
//! Does not sleep: waiting is tokio's job, deciding what time it is is ours.
#![expect(clippy::disallowed_types, reason = "this is the one place")]

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::warn;

/// A moment, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// Later than anything that expires; for records that do not.
    pub const NEVER: Time = Time(i64::MAX as u64);

    /// The moment `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Time(millis)
    }

    /// As people and scripts read it, in UTC, to the second (RFC 3339).
    pub fn to_rfc3339(self) -> String {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(self.millis())).to_string()
    }

    /// As HTTP writes it (RFC 9110 §5.6.7).
    pub fn to_http_date(self) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(self.millis()))
    }

    /// The moment `seconds` seconds after the epoch.
    pub const fn from_seconds(seconds: u64) -> Self {
        Time(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// This moment moved into the future, saturating.
    pub fn after(self, duration: Duration) -> Self {
        Time(
            self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).min(Self::NEVER.0),
        )
    }

    /// This moment, or the next whole second: what tokens carry must not end before what was promised.
    pub const fn rounded_up(self) -> Self {
        Time(self.0.div_ceil(1000).saturating_mul(1000))
    }

    /// How long ago `earlier` was; zero when it lies in the future (clocks step backwards).
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The age of what was noted at `noted`. What lies in the future by more than clocks of two machines may
    /// differ was noted by a clock that was wrong: nothing is known of its age, so it is old.
    pub fn age_of(self, noted: Time) -> Duration {
        if noted > self.after(SKEW) { Duration::MAX } else { self.since(noted) }
    }
}

/// Where the time and the randomness of a whole program come from.
pub trait Source: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn millis(&self) -> u64;
    /// Fills the buffer with bytes nobody can guess (or, in tests, with repeatable ones).
    fn fill(&self, bytes: &mut [u8]);
}

/// A shared handle on a [`Source`].
#[derive(Clone)]
pub struct Clock(Arc<dyn Source>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl Clock {
    /// The machine's clock and its CSPRNG.
    pub fn system() -> Self {
        Clock(Arc::new(System {
            started: Instant::now(),
            offset: AtomicI64::new(i64::MIN / 2),
            held: AtomicBool::new(false),
        }))
    }

    /// Now.
    pub fn now(&self) -> Time {
        Time(self.0.millis())
    }

    /// Fresh random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }
}

/// The time of day since the Unix epoch, as the machine has it; for lines of the log. What is decided by a time is
/// decided by a [`Clock`].
pub fn time_of_day() -> Duration {
    Reading::last().of_day
}

/// A moment that others can be measured from.
pub fn moment() -> Instant {
    Reading::last().moment
}

/// Does something for which time stands still: however often a task that was woken asks, the clocks are read once. For
/// tasks that never keep their thread for long.
pub fn awake<R>(task: impl FnOnce() -> R) -> R {
    READINGS.with(|readings| readings.are_kept.set(true));
    let _asleep = Asleep;
    task()
}

/// Whoever is awake reads the clocks again, for what must not be earlier than it is.
pub fn look_again() {
    READINGS.with(Readings::forget);
}

/// Forgets what was read.
struct Asleep;

impl Drop for Asleep {
    fn drop(&mut self) {
        READINGS.with(|readings| {
            readings.are_kept.set(false);
            readings.forget();
        });
    }
}

/// Both clocks, read one after the other: [`System`] compares them.
#[derive(Clone, Copy)]
struct Reading {
    moment: Instant,
    of_day: Duration,
}

impl Reading {
    fn last() -> Self {
        READINGS.with(|readings| {
            readings.last.get().unwrap_or_else(|| {
                let reading = Reading::new();
                readings.last.set(readings.are_kept.get().then_some(reading));
                reading
            })
        })
    }

    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let (moment, of_day) = (Instant::now(), SystemTime::now());
        Reading { moment, of_day: of_day.duration_since(UNIX_EPOCH).unwrap_or_default() }
    }
}

/// What was read last by a thread whose task is awake.
struct Readings {
    are_kept: Cell<bool>,
    last: Cell<Option<Reading>>,
    /// What a clock made of it, and which.
    millis: Cell<Option<(*const System, u64)>>,
}

impl Readings {
    fn forget(&self) {
        self.last.set(None);
        self.millis.set(None);
    }
}

thread_local! {
    static READINGS: Readings =
        const { Readings { are_kept: Cell::new(false), last: Cell::new(None), millis: Cell::new(None) } };
}

/// The machine's clock, which may be set: ahead it is followed at once. When it is set back by less than a day,
/// time goes on from where it was, or what has expired would live again; when by more, it was wrong before.
struct System {
    started: Instant,
    /// Milliseconds between the time since the start and the time of day, at its highest.
    offset: AtomicI64,
    held: AtomicBool,
}

impl System {
    fn read(&self) -> u64 {
        let Reading { moment, of_day } = Reading::last();
        let [wall, running] = [of_day, moment.duration_since(self.started)]
            .map(|duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
        self.moment(wall, running).unsigned_abs()
    }

    fn moment(&self, wall: i64, running: i64) -> i64 {
        let (offset, known) = (wall.saturating_sub(running), self.offset.load(Ordering::Relaxed));
        let behind = known.saturating_sub(offset);
        if (1..MAX_HELD).contains(&behind) {
            if behind > NOTICED && !self.held.swap(true, Ordering::Relaxed) {
                warn!(seconds = behind / 1000, "the clock was set back; time goes on from where it was");
            }
            return running.saturating_add(known);
        }
        if behind != 0 {
            self.offset.store(offset, Ordering::Relaxed);
            self.held.store(false, Ordering::Relaxed);
        }
        wall
    }
}

impl Source for System {
    fn millis(&self) -> u64 {
        READINGS.with(|readings| match readings.millis.get() {
            Some((clock, millis)) if std::ptr::eq(clock, self) => millis,
            _ => {
                let millis = self.read();
                readings.millis.set(readings.are_kept.get().then_some((&raw const *self, millis)));
                millis
            }
        })
    }

    fn fill(&self, bytes: &mut [u8]) {
        SysRng.try_fill_bytes(bytes).expect("the operating system provides entropy");
    }
}

/// How far clocks of two machines that share a store may be apart.
const SKEW: Duration = Duration::from_secs(60);
/// Milliseconds that a clock may be set back without time going back.
const MAX_HELD: i64 = 86_400_000;
/// Milliseconds; less is what keeping a clock right comes to.
const NOTICED: i64 = 2_000;

/// A clock that stands still until it is told to move, with seeded randomness. For tests.
#[derive(Clone)]
pub struct ManualClock(Arc<Manual>);

struct Manual {
    millis: AtomicU64,
    rng: Mutex<StdRng>,
}

impl ManualClock {
    /// Starts at a fixed moment; the same seed yields the same bytes.
    pub fn new(seed: u64) -> Self {
        const START: u64 = 1_800_000_000_000;
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        ManualClock(Arc::new(Manual { millis: AtomicU64::new(START), rng }))
    }

    /// The handle to give to the program under test.
    pub fn clock(&self) -> Clock {
        Clock(self.0.clone())
    }

    /// Moves the clock forward.
    pub fn forward(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.0.millis.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the clock back, as an operator or a time server may.
    pub fn back(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.0.millis.fetch_sub(millis, Ordering::SeqCst);
    }
}

impl Source for Manual {
    fn millis(&self) -> u64 {
        self.millis.load(Ordering::SeqCst)
    }

    fn fill(&self, bytes: &mut [u8]) {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Time::NEVER.after(Duration::MAX), Time::NEVER);
        assert_eq!(Time::from_millis(5).since(Time::from_millis(9)), Duration::ZERO);
    }

    // ST-07
    #[test]
    fn what_a_wrong_clock_noted_is_old() {
        let now = Time::from_seconds(1_800_000_000);
        assert_eq!(now.age_of(Time::from_seconds(1_799_999_990)), Duration::from_secs(10));
        assert_eq!(now.age_of(now.after(SKEW)), Duration::ZERO);
        assert_eq!(now.age_of(now.after(SKEW + Duration::from_millis(1))), Duration::MAX);
    }

    // ST-07
    #[test]
    fn time_goes_on_when_the_clock_is_set_back() {
        const HOUR: i64 = 3_600_000;
        let started = Instant::now();
        let (offset, held) = (AtomicI64::new(i64::MIN / 2), AtomicBool::new(false));
        let system = System { started, offset, held };
        let noon = 500_000 * HOUR;
        assert_eq!(system.moment(noon, 0), noon);
        assert_eq!(system.moment(noon - HOUR + 5, 5), noon + 5, "an hour back");
        assert_eq!(system.moment(noon - 20 * HOUR + HOUR, HOUR), noon + HOUR, "and more, while time goes on");
        assert_eq!(system.moment(noon + HOUR + 9, HOUR + 9), noon + HOUR + 9, "right again");
        assert_eq!(system.moment(noon + 9_000 * HOUR, HOUR + 9), noon + 9_000 * HOUR, "a year ahead");
        assert_eq!(system.moment(noon + HOUR + 10, HOUR + 10), noon + HOUR + 10, "which it was not");
        assert_eq!(system.moment(0, HOUR + 11), 0, "a machine that has lost its clock");
    }

    #[test]
    fn whoever_is_awake_reads_the_clocks_once_and_both_together() {
        let kept = || READINGS.with(|readings| readings.last.get()).map(|last| (last.moment, last.of_day));
        awake(|| {
            let woken = moment();
            assert_eq!(kept(), Some((woken, time_of_day())), "one was read later than the other");
            assert_eq!((moment(), kept().map(|kept| kept.0)), (woken, Some(woken)));
            look_again();
            assert_eq!(kept(), None);
            time_of_day();
            assert!(kept().is_some());
        });
        assert_eq!(kept(), None);
        moment();
        assert_eq!(kept(), None, "nobody is awake");
    }

    #[test]
    fn manual_clock_moves_only_when_told_and_repeats_its_bytes() {
        let (a, b) = (ManualClock::new(7), ManualClock::new(7));
        assert_eq!(a.clock().random::<16>(), b.clock().random::<16>());
        let before = a.clock().now();
        a.forward(Duration::from_secs(3));
        assert_eq!(a.clock().now().since(before), Duration::from_secs(3));
    }
}
