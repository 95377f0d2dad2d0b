//! What ends a connection from our side.

use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::sync::watch;
use tokio::task::unconstrained;

use crate::server::drain::Drain;
use crate::server::seats::Seated;

/// Watches for it. Waiting costs as much as reading a request: it is done once, and again when there is reason.
pub struct Ends<'a> {
    seat: &'a Seated,
    drain: watch::Receiver<Drain>,
    /// Whether to end at once.
    coming: Pin<Box<dyn Future<Output = bool> + Send + 'a>>,
    known: Option<Waker>,
    end: Option<End>,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whatever is open on it.
    AtOnce,
    /// With the answer that is on its way, if there is one.
    InPeace,
}

impl<'a> Ends<'a> {
    pub fn new(seat: &'a Seated, drain: watch::Receiver<Drain>) -> Self {
        let mut draining = drain.clone();
        // Unconstrained: it is not polled again until there is reason, so it must not be put off.
        let coming = Box::pin(unconstrained(async move {
            tokio::select! {
                () = seat.told_to_leave() => true,
                _ = draining.wait_for(|drain| *drain >= Drain::Begun) => false,
            }
        }));
        Ends { seat, drain, coming, known: None, end: None }
    }

    /// How it is to end, if it is; the task is woken when that changes.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Option<End> {
        let is_known = self.known.as_ref().is_some_and(|known| known.will_wake(context.waker()));
        let has_reason = !is_known || self.seat.is_told() || self.drain.has_changed().unwrap_or(true);
        if !is_known {
            self.known = Some(context.waker().clone());
        }
        if has_reason
            && self.end.is_none()
            && let std::task::Poll::Ready(at_once) = self.coming.as_mut().poll(context)
        {
            self.end = Some(if at_once { End::AtOnce } else { End::InPeace });
        }
        self.end
    }
}
