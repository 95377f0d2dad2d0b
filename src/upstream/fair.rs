//! A connection to an upstream that lets others have their turn.
//!
//! hyper's client reads on as long as there is something to read, and a flood of interim answers (1xx) never yields
//! anything to wait for: megabytes would be parsed in one go while everybody else on that core waits.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads a few times in a row at most, then again when the others had their turn.
pub(super) struct Fair<T> {
    io: T,
    in_a_row: u8,
}

impl<T> Fair<T> {
    pub(super) fn new(io: T) -> Self {
        Fair { io, in_a_row: 0 }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Fair<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.in_a_row == MAX_IN_A_ROW {
            this.in_a_row = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = Pin::new(&mut this.io).poll_read(context, buffer);
        this.in_a_row = if read.is_ready() { this.in_a_row + 1 } else { 0 };
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Fair<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// An ordinary answer is one read and a look whether there is more, which costs nothing then.
const MAX_IN_A_ROW: u8 = 2;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn others_have_their_turn_after_two_reads() {
        let mut io = Fair::new(tokio::io::repeat(b'x'));
        let mut context = Context::from_waker(Waker::noop());
        let mut ready = || {
            let mut bytes = [0; 16];
            Pin::new(&mut io).poll_read(&mut context, &mut ReadBuf::new(&mut bytes)).is_ready()
        };
        let turns: Vec<bool> = (0..6).map(|_| ready()).collect();
        assert_eq!(turns, [true, true, false, true, true, false]);
    }
}
