//! Limits of waits that nearly always end early. A timer that is made for each and thrown away costs more than what it
//! guards, most of the time; here one is kept for many waits, and set on only when it has run out for an earlier one.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock;

/// For one wait after another; nothing is set before the first.
#[derive(Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Who will be woken when it runs out.
    waker: Option<Waker>,
}

impl Timer {
    /// Ready when it is as late as `until`.
    pub fn poll_until(&mut self, until: Instant, context: &mut Context<'_>) -> Poll<()> {
        let Timer { sleep, waker } = self;
        let sleep = sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        } else if clock::moment() < sleep.deadline() && is_it(waker.as_ref(), context) {
            // As it was told when it was asked last.
            return Poll::Pending;
        }
        loop {
            // Unconstrained: it is not asked again until it is late, so it must not be put off.
            if pin!(unconstrained(sleep.as_mut())).poll(context).is_pending() {
                *waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            if sleep.deadline() >= until {
                return Poll::Ready(());
            }
            // It ran out for a wait that ended early.
            sleep.as_mut().reset(until);
        }
    }
}

fn is_it(waker: Option<&Waker>, context: &Context<'_>) -> bool {
    waker.is_some_and(|waker| waker.will_wake(context.waker()))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::*;
    use crate::fuzzing::spend_budget;

    const LIMIT: Duration = Duration::from_secs(30);

    async fn until(timer: &mut Timer, until: Instant) {
        poll_fn(|context| timer.poll_until(until, context)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_when_it_should() {
        let mut timer = Timer::default();
        for limit in [LIMIT, LIMIT * 2, LIMIT / 10, LIMIT, Duration::ZERO, LIMIT] {
            let began = Instant::now();
            // One that ends early.
            assert!(timeout(limit / 3, until(&mut timer, began + limit.max(LIMIT))).await.is_err());
            until(&mut timer, began + limit).await;
            let late = began.elapsed() - limit;
            assert!(late < Duration::from_millis(5), "{limit:?}: {late:?}");
        }
    }

    // A task that has done much since it was last polled is put off by whatever asks the runtime.
    #[tokio::test(start_paused = true)]
    async fn whoever_is_busy_is_woken_too() {
        let busy = tokio::spawn(async {
            let (mut timer, end, mut turns) = (Timer::default(), Instant::now() + LIMIT, 0);
            poll_fn(|context| {
                turns += 1;
                if turns == 1 {
                    spend_budget(context);
                }
                timer.poll_until(end, context)
            })
            .await;
            end.elapsed()
        });
        let late = timeout(LIMIT * 10, busy).await.expect("is woken").expect("runs");
        assert!(late < Duration::from_millis(5), "{late:?}");
    }

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_last_is_woken_however_often_it_asked() {
        let (mut timer, end) = (Timer::default(), Instant::now() + LIMIT);
        let woken = [(); 2].map(|()| Arc::new(Woken(AtomicUsize::new(0))));
        for waits in [0, 0, 1, 0, 1, 1] {
            let waker = Waker::from(woken[waits].clone());
            assert!(timer.poll_until(end, &mut Context::from_waker(&waker)).is_pending());
        }
        advance(LIMIT + Duration::from_millis(1)).await;
        assert_eq!(woken.map(|woken| woken.0.load(Ordering::SeqCst)), [0, 1]);
        assert!(timer.poll_until(end, &mut Context::from_waker(Waker::noop())).is_ready());
        // The next one is not woken by what has run out.
        let next = timer.poll_until(end + LIMIT, &mut Context::from_waker(Waker::noop()));
        assert!(next.is_pending());
    }
}
