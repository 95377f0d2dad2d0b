//! What a client says while its answer is on its way: its next request, or that it leaves.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Kept for later, within bounds: beyond them it is not read, and that the client left shows when it is written to.
#[derive(Default)]
pub struct Ahead(Vec<u8>);

impl Ahead {
    /// Ready when the client has left, or its connection is broken.
    pub fn poll<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.0.len() < MAX_AHEAD {
            let mut piece = [const { MaybeUninit::uninit() }; 1 << 10];
            let mut read = ReadBuf::uninit(&mut piece);
            ready!(Pin::new(&mut *io).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.0.extend_from_slice(read.filled());
        }
        Poll::Pending
    }

    /// What was said.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Heads and small messages that clients send without waiting; more are not read before the answer has ended.
pub const MAX_AHEAD: usize = 16 << 10;
