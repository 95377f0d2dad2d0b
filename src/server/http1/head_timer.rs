//! How long a request head may take, kept for hyper. It asks for a timer per head, nearly all of which are thrown away
//! within microseconds: here a connection has one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{self, Sleep};

use crate::timer::Timer;

/// The timer of a connection.
#[derive(Clone, Default)]
pub struct HeadTimer(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    timer: Timer,
    /// When the head should be there that was waited for before hyper began.
    begun: Option<Instant>,
}

impl HeadTimer {
    /// The first head that hyper waits for has begun: it has until then, and no more.
    pub fn begun(timer: Timer, until: tokio::time::Instant) -> Self {
        HeadTimer(Arc::new(Mutex::new(Waiting { timer, begun: Some(until.into()) })))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Over when one head should have been there.
struct Head {
    until: Instant,
    timer: HeadTimer,
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Sleep>> {
        let until = self.lock().begun.take().map_or(until, |begun| begun.min(until));
        Box::pin(Head { until, timer: self.clone() })
    }

    fn now(&self) -> Instant {
        // Not what it was when the task woke up: each head has the whole time.
        Instant::from(tokio::time::Instant::now())
    }
}

impl Sleep for Head {}

impl Future for Head {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.timer.lock().timer.poll_until(self.until.into(), context)
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer as _;
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::clock;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn each_head_has_the_whole_time() {
        let timer = HeadTimer::default();
        let began = clock::moment();
        for _ in 0..5 {
            let head = timer.sleep(LIMIT);
            assert!(timeout(LIMIT * 2 / 3, head).await.is_err(), "it came in time");
        }
        let beginning = clock::moment() - began;
        timer.sleep(LIMIT).await;
        let took = clock::moment() - began - beginning;
        assert!(took >= LIMIT && took < LIMIT + Duration::from_millis(5), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_to_be_there_sooner_is() {
        let timer = HeadTimer::default();
        assert!(timeout(Duration::from_secs(1), timer.sleep(LIMIT)).await.is_err());
        let began = clock::moment();
        timer.sleep(LIMIT / 10).await;
        assert!(clock::moment() - began < LIMIT / 5);
        // Nobody waits, and nothing happens.
        advance(LIMIT * 2).await;
        assert!(timeout(LIMIT / 2, timer.sleep(LIMIT)).await.is_err());
    }
}
