//! An answer on its way out: nothing waits with it but two sockets.
//!
//! RFC 9112 §6.3, §7.1 (chunked), §9.3 (the connection goes on), §9.6.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite};

use super::ahead::Ahead;
use super::head::Framing;

/// An answer, the connection it goes out by, and what is on its way.
pub struct Relay<T, B> {
    io: T,
    body: B,
    framing: Framing,
    /// Not taken by the client yet. No memory while there is nothing.
    out: Vec<u8>,
    written: usize,
    /// A large piece, which goes out behind it, and what follows that.
    data: Bytes,
    after: &'static [u8],
    is_new: bool,
    is_ending: bool,
    ahead: Ahead,
}

/// Why an answer did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken<E> {
    #[error("the client left")]
    Left,
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The connection is dropped, so that it never looks complete.
    #[error(transparent)]
    Cut(E),
}

impl<T, B> Relay<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    /// Begins with the head, which takes along what is there of the body.
    pub fn new(io: T, head: Vec<u8>, body: B, framing: Framing) -> Self {
        let ahead = Ahead::default();
        let (data, after) = (Bytes::new(), &[][..]);
        Relay { io, body, framing, out: head, written: 0, data, after, is_new: true, is_ending: false, ahead }
    }

    /// Passes the answer on; ready at its end.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken<B::Error>>> {
        if std::mem::take(&mut self.is_new) {
            self.poll_body(context)?;
        }
        while self.poll_write(context)?.is_ready() {
            if self.is_ending {
                return Poll::Ready(Ok(()));
            }
            if !self.poll_body(context)? {
                break;
            }
        }
        let left = ready!(self.ahead.poll(&mut self.io, context));
        Poll::Ready(Err(left.map_or_else(Broken::Io, |()| Broken::Left)))
    }

    /// The connection, with what the client said on it meanwhile.
    pub fn into_connection(self) -> (T, Vec<u8>) {
        (self.io, self.ahead.into_bytes())
    }

    /// Takes what comes next; whether there was anything. Not called while the client is busy with what came before.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Result<bool, Broken<B::Error>> {
        if !self.body.is_end_stream() {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else { return Ok(false) };
            match frame.transpose().map_err(Broken::Cut)?.map(Frame::into_data) {
                Some(Ok(data)) => self.piece(data),
                Some(Err(_)) => {}
                None => self.is_ending = true,
            }
        }
        self.is_ending |= self.body.is_end_stream();
        if self.is_ending && self.framing == Framing::Chunked {
            match self.data.is_empty() {
                true => self.out.extend_from_slice(LAST_CHUNK),
                false => self.after = END_OF_LAST,
            }
        }
        Ok(true)
    }

    /// Frames a piece. An empty chunk would be the last.
    fn piece(&mut self, data: Bytes) {
        let is_chunked = self.framing == Framing::Chunked;
        if data.is_empty() {
            return;
        }
        if is_chunked {
            self.out.reserve(FRAMING + if data.len() > COPIED { 0 } else { data.len() });
            self.out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        }
        let after = if is_chunked { LINE_END } else { &[] };
        if data.len() > COPIED {
            (self.data, self.after) = (data, after);
        } else {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(after);
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let out = &self.out[self.written..];
            if out.is_empty() && self.data.is_empty() && self.after.is_empty() {
                break;
            }
            let io = Pin::new(&mut self.io);
            let written = match self.data.is_empty() && self.after.is_empty() {
                true => io.poll_write(context, out),
                false => io.poll_write_vectored(context, &[out, &self.data, self.after].map(IoSlice::new)),
            };
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.wrote(written),
            }
        }
        if !self.out.is_empty() {
            (self.out, self.written) = (Vec::new(), 0);
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// So many bytes are on their way.
    fn wrote(&mut self, bytes: usize) {
        let of_out = bytes.min(self.out.len() - self.written);
        self.written += of_out;
        let of_data = (bytes - of_out).min(self.data.len());
        self.data.advance(of_data);
        if self.data.is_empty() {
            // Nor what it lies in.
            self.data = Bytes::new();
        }
        self.after = &self.after[bytes - of_out - of_data..];
    }
}

/// Pieces up to this size are copied behind what is to be written before them: one write costs less than its parts.
const COPIED: usize = 4 << 10;
/// Around a chunk, at most.
const FRAMING: usize = 32;
const LINE_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const END_OF_LAST: &[u8] = b"\r\n0\r\n\r\n";

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::ahead::MAX_AHEAD;
    use super::*;

    /// Gives what is in it, then waits, or ends if it says so.
    #[derive(Clone, Default)]
    struct Feed(Arc<Mutex<(VecDeque<Said>, Option<Waker>)>>);

    /// None is the end.
    type Said = Option<Result<Bytes, Cut>>;

    #[derive(Debug)]
    struct Cut;

    impl Feed {
        fn say(&self, next: Option<Result<&'static str, Cut>>) {
            let mut feed = self.0.lock().expect("sound");
            feed.0.push_back(next.map(|next| next.map(|text| Bytes::from_static(text.as_bytes()))));
            feed.1.take().inspect(Waker::wake_by_ref);
        }
    }

    impl Body for Feed {
        type Data = Bytes;
        type Error = Cut;

        fn poll_frame(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
            let mut feed = self.0.lock().expect("sound");
            match feed.0.pop_front() {
                Some(next) => Poll::Ready(next.map(|next| next.map(Frame::data))),
                None => {
                    feed.1 = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        }
    }

    async fn through<T, B>(mut relay: Relay<T, B>) -> Result<(T, Vec<u8>), Broken<B::Error>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
        B: Body<Data = Bytes> + Unpin,
    {
        std::future::poll_fn(|context| relay.poll(context)).await?;
        Ok(relay.into_connection())
    }

    #[tokio::test]
    async fn a_stream_passes_chunk_by_chunk_and_the_connection_goes_on() {
        let (mut client, server) = duplex(1 << 16);
        let feed = Feed::default();
        feed.say(Some(Ok("one")));
        let relay = tokio::spawn(through(Relay::new(
            server,
            b"HEAD\r\n\r\n".to_vec(),
            feed.clone(),
            Framing::Chunked,
        )));
        let mut heard = vec![0; 16];
        client.read_exact(&mut heard).await.expect("head and first event");
        assert_eq!(heard, b"HEAD\r\n\r\n3\r\none\r\n");
        client.write_all(b"NEXT").await.expect("writes");
        tokio::task::yield_now().await;
        feed.say(Some(Ok("")));
        feed.say(Some(Ok("0123456789abcdef!")));
        feed.say(None);
        let (_, ahead) = relay.await.expect("runs").expect("to its end");
        assert_eq!(ahead, b"NEXT");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("reads");
        assert_eq!(rest, b"11\r\n0123456789abcdef!\r\n0\r\n\r\n");
    }

    #[tokio::test]
    async fn a_cut_stream_has_no_end_and_a_client_that_leaves_is_noticed() {
        let (mut client, server) = duplex(1 << 16);
        let feed = Feed::default();
        feed.say(Some(Ok("one")));
        feed.say(Some(Err(Cut)));
        let cut = through(Relay::new(server, Vec::new(), feed, Framing::Chunked)).await;
        assert!(matches!(cut, Err(Broken::Cut(Cut))));
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("reads");
        assert_eq!(heard, b"3\r\none\r\n");
        let (client, server) = duplex(1 << 16);
        drop(client);
        let left = through(Relay::new(server, Vec::new(), Feed::default(), Framing::Chunked)).await;
        assert!(matches!(left, Err(Broken::Left)));
    }

    #[tokio::test]
    async fn a_slow_client_holds_back_the_stream_and_a_talkative_one_is_not_read_without_end() {
        let (mut client, server) = duplex(8);
        let feed = Feed::default();
        for _ in 0..3 {
            feed.say(Some(Ok("0123456789")));
        }
        let relay = tokio::spawn(through(Relay::new(server, Vec::new(), feed.clone(), Framing::Chunked)));
        let mut first = [0; 8];
        client.read_exact(&mut first).await.expect("reads");
        tokio::task::yield_now().await;
        assert!(feed.0.lock().expect("sound").0.front().is_some(), "it was taken although nobody reads");
        feed.say(None);
        let expected = [b"a\r\n0123456789\r\n".repeat(3), b"0\r\n\r\n".to_vec()].concat();
        let mut rest = vec![0; expected.len() - first.len()];
        client.read_exact(&mut rest).await.expect("reads");
        assert_eq!([&first[..], &rest].concat(), expected);
        relay.await.expect("runs").expect("to its end");
        let (mut client, server) = duplex(1 << 20);
        client.write_all(&vec![b'x'; 1 << 19]).await.expect("writes");
        let feed = Feed::default();
        let relay = tokio::spawn(through(Relay::new(server, Vec::new(), feed.clone(), Framing::Chunked)));
        tokio::task::yield_now().await;
        feed.say(None);
        let (_, ahead) = relay.await.expect("runs").expect("to its end");
        assert!(ahead.len() < MAX_AHEAD + 1024, "{}", ahead.len());
    }
}
