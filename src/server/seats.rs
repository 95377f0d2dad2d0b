//! The open connections of one core: how many there may be, and who leaves when a new one finds none free.
//!
//! A connection is idle while no request is open on it, be it new, half a head or kept alive. When all seats are
//! taken, those that have been idle for longest are closed, a few at a time; then those on which only strangers'
//! requests are open: whoever sends a body that never comes, or does not read an answer, holds nothing either.
//! When every one carries a request of a person, the new one waits until one does not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::warn;

/// All connections of a core.
pub struct Seats {
    most: usize,
    next: AtomicU64,
    room: Arc<Room>,
    turned_away: AtomicUsize,
    closed: AtomicUsize,
}

/// What each seat needs to know of all. It holds the open ones, and they it, until they are left.
struct Room {
    open: Mutex<HashMap<u64, Arc<Seat>>>,
    /// Time, as far as it matters here: counted by the core's own loop.
    ticks: AtomicU64,
    /// Somebody waits for a seat.
    wanted: AtomicBool,
    changed: Notify,
}

/// One connection.
pub struct Seat {
    room: Arc<Room>,
    number: u64,
    /// Open requests.
    requests: AtomicUsize,
    /// Of these, such that showed a token of ours.
    of_people: AtomicUsize,
    /// The tick since which there are none; or, if there are some, since which there have been some all along.
    since: AtomicU64,
    /// Whether it was told to leave already.
    told: AtomicBool,
    /// Leave, whatever is open.
    cut: AtomicBool,
    leave: Notify,
    /// Answers whose progress is up to the client alone, as in HTTP/2.
    answers: Mutex<Vec<Weak<AtomicU64>>>,
}

/// Holds a seat until it is dropped.
pub struct Seated(Arc<Seat>);

/// How long connections may go without anything happening on them.
#[derive(Clone, Copy)]
pub struct Patience {
    /// An HTTP/2 connection without requests.
    pub idle: Duration,
    /// An answer that its client does not take.
    pub answer: Duration,
}

impl Seats {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Seats {
            most,
            next: AtomicU64::new(0),
            room: Arc::new(Room {
                open: Mutex::default(),
                ticks: AtomicU64::new(1),
                wanted: AtomicBool::new(false),
                changed: Notify::new(),
            }),
            turned_away: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
        })
    }

    /// A seat as soon as there is one; makes room if it must.
    pub async fn take(self: &Arc<Self>) -> Seated {
        loop {
            if let Some(seated) = self.free() {
                self.room.wanted.store(false, Ordering::Relaxed);
                return seated;
            }
            self.room.wanted.store(true, Ordering::Relaxed);
            self.make_room();
            self.room.changed.notified().await;
        }
    }

    fn free(self: &Arc<Self>) -> Option<Seated> {
        let mut open = self.room.lock();
        if open.len() >= self.most {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat {
            room: self.room.clone(),
            number,
            requests: AtomicUsize::new(0),
            of_people: AtomicUsize::new(0),
            since: AtomicU64::new(self.room.now()),
            told: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            leave: Notify::new(),
            answers: Mutex::default(),
        });
        open.insert(number, seat.clone());
        Some(Seated(seat))
    }

    /// Closes the idlest: several, so that looking for them is not done for each newcomer.
    pub fn make_room(&self) {
        let open = self.room.lock();
        let given_up = open.values().filter(|seat| seat.may_leave() && !seat.told.load(Ordering::Relaxed));
        let mut given_up: Vec<&Arc<Seat>> = given_up.collect();
        let some = (self.most / SHARE_CLOSED).max(1).min(given_up.len());
        if some < given_up.len() {
            let order =
                |seat: &&Arc<Seat>| (!seat.is_idle(), seat.since.load(Ordering::Relaxed), seat.number);
            given_up.select_nth_unstable_by_key(some, order);
        }
        given_up[..some].iter().for_each(|seat| seat.tell());
        self.closed.fetch_add(some, Ordering::Relaxed);
    }

    /// A connection was refused because its address holds enough of them.
    pub fn turn_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// Time passes: those who keep us waiting for too long go. Called every [`TICK`].
    pub fn tick(&self, patience: Patience) {
        let now = self.room.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        if now.is_multiple_of(TICKS_BETWEEN_LOOKS) {
            let open = self.room.lock();
            open.values().filter(|seat| seat.has_to_leave(now, patience)).for_each(|seat| seat.cut());
        }
        if now.is_multiple_of(TICKS_BETWEEN_WORDS) {
            let turned_away = self.turned_away.swap(0, Ordering::Relaxed);
            let closed = self.closed.swap(0, Ordering::Relaxed);
            if turned_away + closed > 0 {
                warn!(turned_away, closed, "connections at their limits: some refused, idle ones closed");
            }
        }
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Seat>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }
}

impl Seat {
    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// Whether nobody we know loses anything.
    fn may_leave(&self) -> bool {
        self.of_people.load(Ordering::Relaxed) == 0
    }

    fn tell(&self) {
        self.told.store(true, Ordering::Relaxed);
        self.leave.notify_one();
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        self.tell();
    }

    fn has_to_leave(&self, now: u64, patience: Patience) -> bool {
        let over = |since: u64, limit: Duration| TICK * ticks(now.saturating_sub(since)) > limit;
        if self.is_idle() {
            return over(self.since.load(Ordering::Relaxed), patience.idle);
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|answer| answer.strong_count() > 0);
        let given = answers.iter().filter_map(Weak::upgrade).map(|given| given.load(Ordering::Relaxed));
        given.into_iter().any(|given| given > 0 && over(given, patience.answer))
    }
}

impl Seated {
    /// Returns when this connection is to be closed.
    pub async fn told_to_leave(&self) {
        loop {
            self.0.leave.notified().await;
            if self.0.may_leave() || self.0.cut.load(Ordering::Relaxed) {
                return;
            }
            // A person's request came in between: it is served.
            self.0.told.store(false, Ordering::Relaxed);
        }
    }

    /// Whether it was asked to leave, and may not have heard it yet.
    pub fn is_told(&self) -> bool {
        self.0.told.load(Ordering::Relaxed)
    }

    /// A request begins; it is over when what this returns is dropped.
    pub fn request(&self) -> Request {
        if self.0.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.since.store(self.0.room.now(), Ordering::Relaxed);
        }
        Request { seat: self.0.clone(), of_a_person: AtomicBool::new(false), given: None }
    }

    /// The same where nothing but the client's own word moves an answer on.
    pub fn watched_request(&self) -> Request {
        let mut request = self.request();
        let given = Arc::new(AtomicU64::new(0));
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&given));
        request.given = Some(given);
        request
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let Seat { room, number, .. } = &*self.0;
        room.lock().remove(number);
        room.changed.notify_one();
    }
}

/// An open request.
pub struct Request {
    seat: Arc<Seat>,
    of_a_person: AtomicBool,
    /// The tick at which the client was last given a piece of the answer that it has not asked on from since.
    given: Option<Arc<AtomicU64>>,
}

impl Request {
    /// It showed a token of ours: from now on it keeps its connection, however many others come.
    pub fn is_of_a_person(&self) {
        // There is nobody else who could say so at the same time.
        if !self.of_a_person.load(Ordering::Relaxed) {
            self.of_a_person.store(true, Ordering::Relaxed);
            self.seat.of_people.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The head of the answer went out: a client that opens no window for the rest is not waited for either.
    pub fn given(&self) {
        self.note(true);
    }

    /// The client was given a piece, or asked on.
    pub fn note(&self, is_given: bool) {
        if let Some(given) = &self.given {
            given.store(if is_given { self.seat.room.now() } else { 0 }, Ordering::Relaxed);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let (seat, room) = (&self.seat, &self.seat.room);
        let is_idle = seat.requests.fetch_sub(1, Ordering::Relaxed) == 1;
        if is_idle {
            seat.since.store(room.now(), Ordering::Relaxed);
        }
        let of_a_person = *self.of_a_person.get_mut();
        let is_strangers = of_a_person && seat.of_people.fetch_sub(1, Ordering::Relaxed) == 1;
        if (is_idle || is_strangers) && room.wanted.load(Ordering::Relaxed) {
            room.changed.notify_one();
        }
    }
}

fn ticks(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// How often [`Seats::tick`] is called.
pub const TICK: Duration = Duration::from_millis(200);
const TICKS_BETWEEN_LOOKS: u64 = 5;
/// One line in the log about it every ten seconds, however many they are.
const TICKS_BETWEEN_WORDS: u64 = 50;
/// One in so many is closed when there is no room.
const SHARE_CLOSED: usize = 64;
