//! TCP connections that speak to the kernel without the C library between, where that is Linux. In a program of several
//! threads the `recv` and `send` of glibc prepare for the thread to be cancelled each time, which Rust never does to one.
//!
//! Nothing else differs from tokio's own, which is inside, but that room for reading is filled with zeros first.

use std::io;
use std::pin::Pin;
#[cfg(target_os = "linux")]
use std::task::ready;
use std::task::{Context, Poll};

#[cfg(target_os = "linux")]
use tokio::io::Interest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection.
pub struct Tcp(TcpStream);

impl Tcp {
    /// Whether nothing has come and nothing has ended, as far as the runtime has heard. Asks nobody to be woken.
    pub fn is_quiet(&self) -> bool {
        self.0.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Does something if the runtime thinks that the kernel is ready for it; `None` if it was not. What has moved less than
    /// the `most` that it could have has met the kernel's end: no second call need be told so.
    #[cfg(target_os = "linux")]
    fn attempt(
        &self,
        interest: Interest,
        most: usize,
        operation: impl FnOnce(&TcpStream) -> io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        let mut moved = None;
        let outcome = self.0.try_io(interest, || match operation(&self.0)? {
            some if (1..most).contains(&some) => {
                moved = Some(some);
                Err(io::ErrorKind::WouldBlock.into())
            }
            all => Ok(all),
        });
        match (moved, outcome) {
            (Some(moved), _) => Some(Ok(moved)),
            (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
            (None, outcome) => Some(outcome),
        }
    }
}

#[cfg(target_os = "linux")]
impl Tcp {
    fn poll_receive(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            let read = self.attempt(Interest::READABLE, room.len(), |stream| {
                Ok(rustix::net::recv(stream, &mut *room, rustix::net::RecvFlags::empty())?.1)
            });
            if let Some(read) = read {
                buffer.advance(read?);
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            let written = self.attempt(Interest::WRITABLE, bytes.len(), |stream| {
                Ok(rustix::net::send(stream, bytes, rustix::net::SendFlags::NOSIGNAL)?)
            });
            if let Some(written) = written {
                return Poll::Ready(written);
            }
        }
    }
}

/// Other systems are for development.
#[cfg(not(target_os = "linux"))]
impl Tcp {
    fn poll_receive(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }
}

impl From<TcpStream> for Tcp {
    fn from(stream: TcpStream) -> Self {
        Tcp(stream)
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll_receive(context, buffer)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Tcp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (ours.expect("connects").into(), theirs.expect("accepts").0)
    }

    #[tokio::test]
    async fn all_arrives_both_ways_however_much_it_is() {
        let (mut ours, mut theirs) = pair().await;
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        for round in 0..3 {
            let (mut up, mut down) = (vec![0; sent.len()], vec![0; sent.len()]);
            let (mut reads, mut writes) = tokio::io::split(&mut ours);
            let (mut their_reads, mut their_writes) = theirs.split();
            let moved = tokio::join!(
                async { writes.write_all(&sent).await.map(drop) },
                async { their_writes.write_all(&sent).await.map(drop) },
                async { their_reads.read_exact(&mut up).await.map(drop) },
                async { reads.read_exact(&mut down).await.map(drop) },
            );
            assert!(moved.0.and(moved.1).and(moved.2).and(moved.3).is_ok(), "{round}");
            assert!(up == sent && down == sent, "{round}");
        }
    }

    #[tokio::test]
    async fn piece_after_piece_is_read_and_then_the_end() {
        let (mut ours, mut theirs) = pair().await;
        let mut buffer = [0; 64];
        for piece in [&b"a"[..], b"bc", b"d"] {
            theirs.write_all(piece).await.expect("writes");
            let read = ours.read(&mut buffer).await.expect("reads");
            assert_eq!(&buffer[..read], piece);
        }
        theirs.write_all(b"last").await.expect("writes");
        drop(theirs);
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.expect("reads");
        assert_eq!(rest, b"last");
    }

    #[tokio::test]
    async fn who_speaks_or_leaves_is_not_quiet() {
        for word in [&b"H"[..], b""] {
            let (ours, mut theirs) = pair().await;
            assert!(ours.is_quiet() && ours.is_quiet());
            theirs.write_all(word).await.expect("writes");
            drop(theirs);
            ours.0.readable().await.expect("it arrives");
            assert!(!ours.is_quiet(), "{word:?}");
        }
    }

    #[tokio::test]
    async fn a_broken_connection_is_an_error_and_no_signal() {
        let (mut ours, theirs) = pair().await;
        socket2::SockRef::from(&theirs).set_linger(Some(std::time::Duration::ZERO)).expect("it is ours");
        drop(theirs);
        let error = ours.read(&mut [0; 8]).await.expect_err("it was reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = ours.write_all(b"a").await.expect_err("it is gone");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
