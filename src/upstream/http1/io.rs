//! A connection to an upstream, plain or by TLS. It owns no buffer: what is read lies in one that belongs to the
//! core, for as long as a poll takes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_rustls::client::TlsStream;

use crate::tcp::Tcp;
use crate::timer::Timer;

/// A connection, with what limits the waits on it.
pub struct Connection {
    pub io: Io,
    pub timer: Timer,
}

impl Connection {
    /// Nobody has waited yet.
    pub fn new(io: Io) -> Self {
        Connection { io, timer: Timer::default() }
    }
}

/// A connection, and nothing else.
pub enum Io {
    Plain(Tcp),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(any(test, feature = "fuzzing"))]
    Said(Box<super::fuzzing::Said>),
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

impl Io {
    /// Shows what was read next, which is nothing at the end.
    pub fn poll_read<R>(
        &mut self,
        context: &mut Context<'_>,
        see: impl FnOnce(&[u8]) -> R,
    ) -> Poll<io::Result<R>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(self.poll_fill(context, &mut read))?;
            Poll::Ready(Ok(see(read.filled())))
        })
    }

    fn poll_fill(&mut self, context: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, read),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, read),
            #[cfg(any(test, feature = "fuzzing"))]
            Io::Said(stream) => Pin::new(stream).poll_read(context, read),
        }
    }

    /// Writes some of it.
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(any(test, feature = "fuzzing"))]
            Io::Said(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    /// Everything that was written leaves.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Plain(_) => Poll::Ready(Ok(())),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(any(test, feature = "fuzzing"))]
            Io::Said(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    /// Whether a write that fails has let nothing out. TLS may have sent the first of several records.
    pub fn fails_whole(&self) -> bool {
        matches!(self, Io::Plain(_))
    }

    /// Whether it is open and says nothing, as it should while nobody asks.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        if let Io::Plain(stream) = self {
            return stream.is_quiet();
        }
        let fill = poll_fn(|context| self.poll_fill(context, &mut ReadBuf::new(&mut byte)));
        // A task that has read much since it was last polled is made to wait, which is not what silence means here.
        Future::poll(pin!(unconstrained(fill)), &mut Context::from_waker(Waker::noop())).is_pending()
    }
}

const READ: usize = 64 << 10;
