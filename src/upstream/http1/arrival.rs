//! The body of an answer, while it comes.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use super::framing::Decoder;
use super::head::{Head, Odd};
use super::io::Connection;
use super::sending::{Sending, Unsent};
use crate::timer::Timer;
use crate::upstream::body::BodyTrouble;

/// What is still to come of an answer, and where from.
pub struct Arrival {
    content: Content,
    /// With what is still to be sent, when the answer came early.
    from: Option<(Connection, Option<Box<Sending>>)>,
    in_a_row: u8,
}

/// What has come.
struct Content {
    /// Taken out of its framing, not passed on yet.
    data: Bytes,
    decoder: Decoder,
    /// Why it goes no further; told once the data was passed on.
    odd: Option<Odd>,
    /// Whether nothing speaks against another request on this connection.
    keeps: bool,
}

/// An answer that does not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    #[error("the connection broke: {0}")]
    Io(io::Error),
    #[error("{0}")]
    Odd(Odd),
    #[error("{0}")]
    Body(BodyTrouble),
}

impl Arrival {
    /// With what came in one piece with the head; see [`Arrival::comes_by`].
    pub(super) fn new(head: &Head, first: &[u8]) -> Self {
        let decoder = Decoder::new(head.framing);
        let mut content = Content { data: Bytes::new(), decoder, odd: None, keeps: head.keeps };
        content.take(first);
        Arrival { content, from: None, in_a_row: 0 }
    }

    /// The rest comes by the connection on which its request went out.
    pub(super) fn comes_by(&mut self, mut connection: Connection, unsent: Option<Box<Sending>>) {
        if !self.is_whole() {
            // What takes its time has nothing that it need not have.
            connection.timer = Timer::default();
        }
        self.from = Some((connection, unsent));
    }

    /// Whether all of the body is there already.
    pub fn is_whole(&self) -> bool {
        self.content.decoder.is_ended()
    }

    /// What is there and was not passed on yet.
    pub fn take_data(&mut self) -> Bytes {
        std::mem::take(&mut self.content.data)
    }

    /// Whether everything was passed on.
    pub fn is_ended(&self) -> bool {
        self.content.data.is_empty() && self.is_whole()
    }

    /// The connection, once the answer has ended, where another request may follow on it. One that answers before it
    /// has heard a request to its end does not want the rest, and nobody could tell where the next one begins.
    pub fn free(&mut self) -> Option<Connection> {
        let is_whole = self.is_whole();
        let (connection, unsent) = self.from.take_if(|_| is_whole)?;
        (self.content.keeps && unsent.is_none()).then_some(connection)
    }

    /// How many bytes are still to be passed on, where that is known.
    pub fn left(&self) -> Option<u64> {
        Some(self.content.decoder.left()?.saturating_add(self.content.data.len() as u64))
    }

    /// The next piece; `None` at the end of the body.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            if let Some(next) = self.content.next() {
                self.in_a_row = 0;
                return Poll::Ready(next.map(|data| data.map_err(Cut::Odd)));
            }
            // Framing without a body in it must not keep the others of this core waiting.
            if self.in_a_row == MAX_IN_A_ROW {
                self.in_a_row = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.in_a_row += 1;
            match self.poll_read(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(cut)) => return Poll::Ready(Some(Err(cut))),
                Poll::Pending => {
                    self.in_a_row = 0;
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        let Arrival { content, from, .. } = self;
        let Some((Connection { io, .. }, unsent)) = from else {
            return Poll::Ready(Err(Cut::Odd(Odd("it is over"))));
        };
        // What is left of the request goes out beside the answer, as long as somebody takes it.
        match unsent.as_mut().map(|sending| sending.poll(io, context)) {
            None | Some(Poll::Pending) => {}
            Some(Poll::Ready(Ok(()))) => *unsent = None,
            Some(Poll::Ready(Err(Unsent::Io(_)))) => (*unsent, content.keeps) = (None, false),
            Some(Poll::Ready(Err(Unsent::Body(trouble)))) => return Poll::Ready(Err(Cut::Body(trouble))),
        }
        ready!(io.poll_read(context, |bytes| match bytes.is_empty() {
            true => content.end(),
            false => content.take(bytes),
        }))
        .map_err(Cut::Io)
        .into()
    }
}

impl Content {
    /// What is to be passed on next, as far as it is there.
    fn next(&mut self) -> Option<Option<Result<Bytes, Odd>>> {
        if !self.data.is_empty() {
            return Some(Some(Ok(std::mem::take(&mut self.data))));
        }
        match self.odd {
            Some(odd) => Some(Some(Err(odd))),
            None => self.decoder.is_ended().then_some(None),
        }
    }

    /// The connection has ended.
    fn end(&mut self) {
        self.odd = self.decoder.close().err();
    }

    /// Takes the body out of these bytes. Whatever follows its end was asked for by nobody.
    fn take(&mut self, mut bytes: &[u8]) {
        self.odd = self.unframe(&mut bytes).err();
        self.keeps &= bytes.is_empty();
    }

    /// The body in these bytes: one piece, nearly always. What stands before something odd has come.
    fn unframe(&mut self, bytes: &mut &[u8]) -> Result<(), Odd> {
        let Some(first) = self.decoder.next(bytes)? else { return Ok(()) };
        let second = match self.decoder.next(bytes) {
            Ok(Some(second)) => second,
            outcome => {
                self.data = Bytes::copy_from_slice(first);
                return outcome.map(|_| ());
            }
        };
        let mut data = BytesMut::with_capacity(first.len() + second.len() + bytes.len());
        data.extend_from_slice(first);
        data.extend_from_slice(second);
        let outcome = loop {
            match self.decoder.next(bytes) {
                Ok(Some(piece)) => data.extend_from_slice(piece),
                outcome => break outcome.map(|_| ()),
            }
        };
        self.data = data.freeze();
        outcome
    }
}

/// A piece is one read, most of the time.
const MAX_IN_A_ROW: u8 = 2;
