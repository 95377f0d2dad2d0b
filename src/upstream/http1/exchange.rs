//! One request, until the head of its answer is there.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::arrival::Arrival;
use super::head::{self, Head, Odd, Read};
use super::io::Connection;
use super::sending::{Message, Sending, Unsent};
use crate::clock;
use crate::upstream::body::{BodyTrouble, RequestBody};

/// A request on a connection of its own.
pub struct Exchange {
    connection: Connection,
    sending: Sending,
    progress: Progress,
    /// The beginning of a head whose end is still to come.
    held: Vec<u8>,
    /// Whether the upstream has said anything, be it an interim answer.
    is_heard: bool,
    in_a_row: u8,
    patience: Patience,
}

/// How long something may take, and until when that is.
#[derive(Clone, Copy)]
pub struct Within {
    pub limit: Duration,
    pub until: Instant,
}

/// How long the head of an answer may take. While the body of the request is on its way, none can be expected.
struct Patience {
    within: Within,
    /// Of the body of the request, if that streams.
    progress: Option<Arc<AtomicU64>>,
    seen: u64,
}

/// How far the request has come.
enum Progress {
    Sending,
    Sent,
    /// The connection took no more; there may be an answer that says why.
    Stuck(io::Error),
}

/// The head of an answer, with what is still to come. Boxed wherever it goes: it goes through many hands.
pub struct Answered {
    pub head: Head,
    pub arrival: Arrival,
    /// The request, if all of it was sent.
    pub message: Option<Message>,
}

/// Why there is no answer.
pub enum Trouble {
    /// The connection was closed while nobody used it: no byte was taken from us, and none came.
    Unsent(Message, RequestBody),
    /// It was closed before an answer began, which may have been before the request came.
    Silent(Message, RequestBody),
    /// The connection broke.
    Io(io::Error),
    /// What came is no answer.
    Odd(Odd),
    /// The request was not to be had from the client.
    Body(BodyTrouble),
    /// Nothing came within this time.
    Late(Duration),
}

/// What the bytes that were read came to.
enum Seen {
    End,
    More,
    Head(Box<Answered>),
}

impl Within {
    pub fn from_now(limit: Duration) -> Self {
        Within { limit, until: clock::moment() + limit }
    }
}

impl Exchange {
    /// The head of the answer is to be there within that time, of a body that streams from its last piece on.
    pub fn new(connection: Connection, message: Message, body: RequestBody, within: Within) -> Self {
        let progress = body.progress();
        Exchange {
            connection,
            patience: Patience { within, progress, seen: 0 },
            sending: Sending::new(message, body),
            progress: Progress::Sending,
            held: Vec::new(),
            is_heard: false,
            in_a_row: 0,
        }
    }

    /// Sends the request and waits for the head of its answer; the body arrives with what this returns.
    ///
    /// Dropped before the end, the connection is closed.
    pub async fn answered(mut self) -> Result<Box<Answered>, Trouble> {
        let begun = poll_fn(|context| match self.poll_head(context) {
            Poll::Ready(begun) => Poll::Ready(begun),
            Poll::Pending => self.poll_late(context).map(|()| Err(Trouble::Late(self.patience.within.limit))),
        });
        let begun = begun.await?;
        let Some(mut answered) = begun else { return Err(self.ended()) };
        let unsent = match self.progress {
            Progress::Sent => {
                answered.message = Some(self.sending.into_parts().0);
                None
            }
            Progress::Sending | Progress::Stuck(_) => Some(Box::new(self.sending)),
        };
        answered.arrival.comes_by(self.connection, unsent);
        Ok(answered)
    }

    /// The connection ended before an answer began.
    fn ended(self) -> Trouble {
        let is_untouched = self.sending.is_untouched();
        let (message, body) = self.sending.into_parts();
        match self.progress {
            _ if self.is_heard => Trouble::Odd(Odd("it broke off within its head")),
            Progress::Stuck(_) if is_untouched && self.connection.io.fails_whole() => {
                Trouble::Unsent(message, body)
            }
            Progress::Stuck(error) if !is_untouched => Trouble::Io(error),
            _ => Trouble::Silent(message, body),
        }
    }

    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Patience { within, progress, seen } = &mut self.patience;
        loop {
            ready!(self.connection.timer.poll_until(within.until, context));
            let now = progress.as_ref().map_or(0, |progress| progress.load(Ordering::Relaxed));
            if now == *seen {
                return Poll::Ready(());
            }
            (*seen, *within) = (now, Within::from_now(within.limit));
        }
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Box<Answered>>, Trouble>> {
        if matches!(self.progress, Progress::Sending) {
            match self.sending.poll(&mut self.connection.io, context) {
                Poll::Ready(Ok(())) => self.progress = Progress::Sent,
                Poll::Ready(Err(Unsent::Io(error))) => self.progress = Progress::Stuck(error),
                Poll::Ready(Err(Unsent::Body(trouble))) => return Poll::Ready(Err(Trouble::Body(trouble))),
                Poll::Pending => {}
            }
        }
        loop {
            // Whoever sends on and on without an answer must not keep the others of this core waiting.
            if self.in_a_row == MAX_IN_A_ROW {
                self.in_a_row = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let held = &mut self.held;
            let Poll::Ready(seen) = self.connection.io.poll_read(context, |bytes| see(held, bytes)) else {
                self.in_a_row = 0;
                return Poll::Pending;
            };
            self.in_a_row += 1;
            match seen {
                Ok(Ok(Seen::More)) => self.is_heard = true,
                Ok(Ok(Seen::End)) => return Poll::Ready(Ok(None)),
                Ok(Ok(Seen::Head(seen))) => return Poll::Ready(Ok(Some(seen))),
                Ok(Err(odd)) => return Poll::Ready(Err(Trouble::Odd(odd))),
                Err(error) if self.is_heard => return Poll::Ready(Err(Trouble::Io(error))),
                // Before an answer began, how a connection ended makes no difference.
                Err(_) => return Poll::Ready(Ok(None)),
            }
        }
    }
}

/// Reads on, with what was held before.
fn see(held: &mut Vec<u8>, bytes: &[u8]) -> Result<Seen, Odd> {
    if bytes.is_empty() {
        return Ok(Seen::End);
    }
    if held.is_empty() {
        return head_in(bytes, held);
    }
    held.extend_from_slice(bytes);
    // No head ends within a line: one that comes byte by byte is not read from its beginning for each.
    if !bytes.contains(&b'\n') && held.len() <= head::MAX_HEAD {
        return Ok(Seen::More);
    }
    let whole = std::mem::take(held);
    head_in(&whole, held)
}

fn head_in(mut bytes: &[u8], held: &mut Vec<u8>) -> Result<Seen, Odd> {
    loop {
        match head::read(bytes)? {
            Read::Partial => {
                held.extend_from_slice(bytes);
                return Ok(Seen::More);
            }
            Read::Interim(length) => bytes = &bytes[length..],
            Read::Final(head, length) => {
                let arrival = Arrival::new(&head, &bytes[length..]);
                return Ok(Seen::Head(Box::new(Answered { head, arrival, message: None })));
            }
        }
    }
}

/// An ordinary answer is one read.
const MAX_IN_A_ROW: u8 = 2;
