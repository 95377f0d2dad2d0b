//! Which protocol a connection speaks: HTTP/2 with prior knowledge opens with a fixed preface.
//! RFC 9113 §3.3, §3.4.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A connection whose first bytes were read already and are read again.
pub struct Sniffed<T> {
    first: Vec<u8>,
    taken: usize,
    io: T,
}

impl<T> Sniffed<T> {
    /// Nothing was read from it.
    pub fn unread(io: T) -> Self {
        Sniffed { first: Vec::new(), taken: 0, io }
    }

    /// These bytes are read again before everything else.
    pub fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.first = [bytes, &self.first[self.taken..]].concat();
            self.taken = 0;
        }
    }
}

/// A connection and whether HTTP/2 is spoken on it; `None` when there is nobody left to serve.
pub type Opened<T> = io::Result<Option<(Sniffed<T>, bool)>>;

/// Reads until it is clear what the client speaks. `None`: it left without a word.
pub async fn sniff<T: AsyncRead + Unpin>(mut io: T) -> Opened<T> {
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let mut rest = [0; PREFACE.len()];
        let read = io.read(&mut rest[first.len()..]).await?;
        if read == 0 {
            if first.is_empty() {
                return Ok(None);
            }
            break;
        }
        let start = first.len();
        first.extend_from_slice(&rest[start..start + read]);
    }
    let is_http2 = first == PREFACE;
    Ok(Some((Sniffed { first, taken: 0, io }, is_http2)))
}

impl<T: AsyncRead + Unpin> AsyncRead for Sniffed<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = &this.first[this.taken..];
        if left.is_empty() {
            return Pin::new(&mut this.io).poll_read(context, buffer);
        }
        let now = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..now]);
        this.taken += now;
        if this.taken == this.first.len() {
            (this.first, this.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Sniffed<T> {
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
        if let [all] = slices {
            return Pin::new(&mut self.io).poll_write(context, all);
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length > GATHERED {
            return Pin::new(&mut self.io).poll_write_vectored(context, slices);
        }
        // One plain write costs the kernel less than the pieces of one; TLS copies what it gets in any case.
        PIECES.with_borrow_mut(|pieces| {
            pieces.clear();
            slices.iter().for_each(|slice| pieces.extend_from_slice(slice));
            Pin::new(&mut self.io).poll_write(context, pieces)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

thread_local! {
    static PIECES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that are put together before they are written.
const GATHERED: usize = 4 << 10;
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn sniffed(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
        let mut builder = tokio_test_reader(pieces);
        let (mut io, is_http2) = sniff(&mut builder).await.expect("reads")?;
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.expect("reads on");
        Some((all, is_http2))
    }

    /// Yields one piece per read.
    fn tokio_test_reader(pieces: &[&[u8]]) -> impl AsyncRead + Unpin {
        struct Pieces(std::collections::VecDeque<Vec<u8>>);
        impl AsyncRead for Pieces {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                if let Some(mut piece) = self.0.pop_front() {
                    let rest = piece.split_off(piece.len().min(buffer.remaining()));
                    buffer.put_slice(&piece);
                    if !rest.is_empty() {
                        self.0.push_front(rest);
                    }
                }
                Poll::Ready(Ok(()))
            }
        }
        Pieces(pieces.iter().map(|piece| piece.to_vec()).collect())
    }

    #[tokio::test]
    async fn pieces_that_are_put_together_arrive_as_they_were() {
        for (length, taken) in
            [(1, 1), (3, 3), (100, 3), (GATHERED, 1_000), (GATHERED + 1, 5), (3 * GATHERED, 999)]
        {
            let (mut client, server) = tokio::io::duplex(taken);
            let sent: Vec<u8> = (0..length).map(|number| number as u8).collect();
            let expected = sent.clone();
            let writing = tokio::spawn(async move {
                let (mut io, mut left) = (Sniffed::unread(server), &sent[..]);
                while !left.is_empty() {
                    let (one, two) = left.split_at(left.len() / 3);
                    let (empty, two) = (IoSlice::new(b""), IoSlice::new(two));
                    let written = io.write_vectored(&[IoSlice::new(one), empty, two]).await.expect("writes");
                    left = &left[written..];
                }
            });
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.expect("reads");
            writing.await.expect("runs");
            assert_eq!(heard, expected, "{length} bytes");
        }
    }

    #[tokio::test]
    async fn prefaces_are_told_apart_and_no_byte_is_lost() {
        let http1 = b"POST /mcp HTTP/1.1\r\nHost: p.test\r\n\r\n";
        assert_eq!(sniffed(&[http1]).await, Some((http1.to_vec(), false)));
        assert_eq!(
            sniffed(&[b"P", b"RI * HTTP/1.1\r\n"]).await,
            Some((b"PRI * HTTP/1.1\r\n".to_vec(), false))
        );
        let http2 = [PREFACE.as_slice(), b"settings"].concat();
        assert_eq!(sniffed(&[b"PRI", &http2[3..]]).await, Some((http2.clone(), true)));
        assert_eq!(sniffed(&[b"PRI"]).await, Some((b"PRI".to_vec(), false)));
        assert_eq!(sniffed(&[]).await, None);
    }
}
