//! How long a shared store is waited for: a deadline for each question, and after several that nobody answered a
//! pause in which nobody waits. Requests that can be served without the store must not queue up before it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::StoreError;

/// Asks on a runtime of its own, so that what was begun comes to its end though the asker goes away.
pub(super) struct Patience {
    side: Handle,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Questions in a row that the store did not answer.
    unanswered: u32,
    /// Until when it is left alone.
    until: Option<Instant>,
}

impl Patience {
    pub(super) fn new(side: Handle) -> Self {
        Patience { side, state: Arc::default() }
    }

    /// Asks the store, for no longer than [`DEADLINE`].
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.may_ask()?;
        let state = self.state.clone();
        // Noted there too: the asker may be gone by then.
        self.spawned(async move {
            let outcome = within(DEADLINE, question).await;
            let unanswered = matches!(&outcome, Err(error) if error.is_unreachable());
            state.lock().unwrap_or_else(PoisonError::into_inner).note(unanswered);
            outcome
        })
        .await
    }

    /// For what takes its time, and nobody waits for.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.spawned(within(LONG_DEADLINE, work)).await
    }

    async fn spawned<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let told = self.side.spawn(work).await;
        told.unwrap_or_else(|_| Err(StoreError::unreachable("the process is ending")))
    }

    /// After a pause one asker goes ahead, and the others wait for what comes of it no longer than that takes.
    fn may_ask(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.until {
            Some(until) if Instant::now() < until => {
                Err(StoreError::unreachable("it did not answer a moment ago, and is asked again shortly"))
            }
            Some(_) => {
                state.until = Some(Instant::now() + DEADLINE);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl State {
    fn note(&mut self, unanswered: bool) {
        if !unanswered {
            *self = State::default();
            return;
        }
        self.unanswered += 1;
        if self.unanswered >= TOLERATED {
            self.until = Some(Instant::now() + PAUSE);
        }
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = || StoreError::unreachable(format_args!("no answer within {limit:?}"));
    timeout(limit, work).await.unwrap_or_else(|_| Err(late()))
}

/// For one question. A healthy store answers in milliseconds; clients give up after ten seconds or more.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);
const LONG_DEADLINE: Duration = Duration::from_secs(30);
/// Failures in a row before the store is left alone: one lost connection is no outage.
const TOLERATED: u32 = 3;
/// With the deadline, well within the five seconds after which all must be normal again.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    async fn silence() -> Result<(), StoreError> {
        std::future::pending().await
    }

    // ST-09
    #[tokio::test(start_paused = true)]
    async fn a_silent_store_is_waited_for_three_times_then_asked_now_and_then() {
        let patience = Patience::new(Handle::current());
        for _ in 0..TOLERATED {
            let began = Instant::now();
            assert!(patience.ask(silence()).await.is_err());
            assert_eq!(began.elapsed(), DEADLINE);
        }
        let began = Instant::now();
        assert!(patience.ask(async { Ok(()) }).await.is_err(), "left alone");
        assert_eq!(began.elapsed(), Duration::ZERO, "and nobody waits");
        tokio::time::advance(PAUSE).await;
        assert_eq!(patience.ask(async { Ok(1) }).await, Ok(1));
        assert_eq!(patience.ask(async { Ok(2) }).await, Ok(2), "as if nothing had been");
    }

    #[tokio::test(start_paused = true)]
    async fn while_one_looks_whether_it_is_back_the_others_do_not_wait() {
        let patience = std::sync::Arc::new(Patience::new(Handle::current()));
        for _ in 0..TOLERATED {
            assert!(patience.ask(silence()).await.is_err());
        }
        tokio::time::advance(PAUSE).await;
        let scout = tokio::spawn({
            let patience = patience.clone();
            async move { patience.ask(silence()).await }
        });
        tokio::task::yield_now().await;
        let began = Instant::now();
        assert!(patience.ask(async { Ok(()) }).await.is_err());
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(scout.await.expect("it ends").is_err());
    }

    #[tokio::test]
    async fn what_a_store_says_is_no_silence() {
        let patience = Patience::new(Handle::current());
        for _ in 0..10 {
            let refused: Result<(), _> = patience.ask(async { Err(StoreError::new("read only")) }).await;
            assert_eq!(refused, Err(StoreError::new("read only")));
        }
    }
}
