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
use super::head::{Framing, SMALL};
use super::spare;

/// An answer, the connection it goes out by, and what is on its way.
pub struct Relay<T, B> {
    io: T,
    body: B,
    /// With the length that is still to come.
    framing: Framing,
    /// Not taken by the client yet. No memory while there is nothing.
    out: Vec<u8>,
    written: usize,
    /// What goes out behind it. Boxed, as everything that is rare in a stream.
    large: Option<Box<Large>>,
    is_new: bool,
    is_ending: bool,
    ahead: Ahead,
}

/// A large piece, and what follows it.
struct Large {
    data: Bytes,
    after: &'static [u8],
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
    /// So is this one: what follows would be read as a part of the body, or what is too much as the next answer.
    #[error("its body is not as long as was said")]
    Length,
}

impl<T, B> Relay<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    /// Begins with the head, which takes along what is there of the body.
    pub fn new(io: T, head: Vec<u8>, body: B, framing: Framing) -> Self {
        let ahead = Ahead::default();
        let (is_new, is_ending) = (true, false);
        Relay { io, body, framing, out: head, written: 0, large: None, is_new, is_ending, ahead }
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
                Some(Ok(data)) => self.piece(data)?,
                Some(Err(_)) => {}
                None => self.is_ending = true,
            }
        }
        self.is_ending |= self.body.is_end_stream();
        if self.is_ending {
            self.end()?;
        }
        Ok(true)
    }

    /// Ends the body.
    fn end(&mut self) -> Result<(), Broken<B::Error>> {
        match (self.framing, &mut self.large) {
            (Framing::Length(1..), _) => return Err(Broken::Length),
            (Framing::Chunked, Some(large)) => large.after = END_OF_LAST,
            (Framing::Chunked, None) => self.room().extend_from_slice(LAST_CHUNK),
            (Framing::None | Framing::Length(0), _) => {}
        }
        Ok(())
    }

    /// Where is written what is to go out.
    fn room(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out = spare::take();
        }
        &mut self.out
    }

    /// Frames a piece. An empty chunk would be the last.
    fn piece(&mut self, data: Bytes) -> Result<(), Broken<B::Error>> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::None => return Err(Broken::Length),
            Framing::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(Broken::Length)?,
            Framing::Chunked => {}
        }
        let (is_chunked, is_large) = (self.framing == Framing::Chunked, data.len() > COPIED);
        let after = if is_chunked { LINE_END } else { &[] };
        let out = self.room();
        if is_chunked {
            out.reserve(FRAMING + if is_large { 0 } else { data.len() });
            out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        }
        if is_large {
            self.large = Some(Box::new(Large { data, after }));
        } else {
            out.extend_from_slice(&data);
            out.extend_from_slice(after);
        }
        Ok(())
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let (io, out) = (Pin::new(&mut self.io), &self.out[self.written..]);
            let written = match &self.large {
                None if out.is_empty() => break,
                None => io.poll_write(context, out),
                Some(large) => {
                    io.poll_write_vectored(context, &[out, &large.data, large.after].map(IoSlice::new))
                }
            };
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.wrote(written),
            }
        }
        if !self.out.is_empty() {
            spare::give_back(std::mem::take(&mut self.out));
            self.written = 0;
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// So many bytes are on their way.
    fn wrote(&mut self, bytes: usize) {
        let of_out = bytes.min(self.out.len() - self.written);
        self.written += of_out;
        if let Some(large) = &mut self.large {
            let of_data = (bytes - of_out).min(large.data.len());
            large.data.advance(of_data);
            large.after = &large.after[bytes - of_out - of_data..];
            let is_over = self.written == self.out.len() && large.data.is_empty() && large.after.is_empty();
            self.large.take_if(|_| is_over);
        }
    }
}

/// Pieces up to this size are copied behind what is to be written before them: one write costs less than its parts.
const COPIED: usize = SMALL as usize;
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

    #[tokio::test]
    async fn a_body_is_as_long_as_was_said_or_the_connection_is_dropped() {
        for (framing, pieces, expected) in [
            (Framing::Length(6), &["abc", "def"][..], Ok("abcdef")),
            (Framing::Length(0), &[], Ok("")),
            (Framing::None, &[], Ok("")),
            (Framing::Length(6), &["abc", "de"], Err("abcde")),
            (Framing::Length(6), &[], Err("")),
            (Framing::Length(6), &["abc", "defg"], Err("abc")),
            (Framing::None, &["a"], Err("")),
        ] {
            let (mut client, server) = duplex(1 << 10);
            let feed = Feed::default();
            let relay = tokio::spawn(through(Relay::new(server, Vec::new(), feed.clone(), framing)));
            let mut heard = String::new();
            for piece in pieces {
                feed.say(Some(Ok(piece)));
                // What is there is passed on before the next comes.
                tokio::task::yield_now().await;
            }
            feed.say(None);
            let outcome = relay.await.expect("runs");
            let is_length = matches!(outcome, Err(Broken::Length));
            assert_eq!(
                (outcome.is_ok(), is_length),
                (expected.is_ok(), expected.is_err()),
                "{framing:?} {pieces:?}"
            );
            drop(outcome);
            client.read_to_string(&mut heard).await.expect("reads");
            assert_eq!(heard, expected.unwrap_or_else(|heard| heard), "{framing:?} {pieces:?}");
        }
    }

    #[tokio::test]
    async fn large_pieces_arrive_whole_however_little_the_client_takes() {
        let large: &'static str = "0123456789abcdef".repeat(COPIED).leak();
        for framing in [Framing::Length(2 * large.len() as u64 + 1), Framing::Chunked] {
            for taken in [1 << 20, 1000, 7] {
                let (mut client, server) = duplex(taken);
                let feed = Feed::default();
                [large, "-", large].iter().for_each(|piece| feed.say(Some(Ok(piece))));
                feed.say(None);
                let relay = tokio::spawn(through(Relay::new(server, b"HEAD".to_vec(), feed, framing)));
                let expected = match framing {
                    Framing::Chunked => {
                        format!("HEAD10000\r\n{large}\r\n1\r\n-\r\n10000\r\n{large}\r\n0\r\n\r\n")
                    }
                    _ => format!("HEAD{large}-{large}"),
                };
                let mut heard = vec![0; expected.len()];
                client.read_exact(&mut heard).await.expect("reads");
                assert!(heard == expected.as_bytes(), "{framing:?} {taken}");
                drop(relay.await.expect("runs").expect("to its end"));
                assert_eq!(
                    client.read(&mut [0]).await.expect("reads"),
                    0,
                    "{framing:?} {taken}: and nothing else"
                );
            }
        }
    }

    #[tokio::test]
    async fn the_buffer_of_a_core_is_still_its_own_behind_a_stream() {
        spare::give_back(Vec::with_capacity(1 << 12));
        let (_client, server) = duplex(1 << 10);
        let feed = Feed::default();
        feed.say(Some(Ok("data: 1\n\n")));
        let mut relay = Relay::new(server, b"HEAD\r\n\r\n".to_vec(), feed.clone(), Framing::Chunked);
        let mut context = Context::from_waker(Waker::noop());
        assert!(relay.poll(&mut context).is_pending());
        spare::give_back(Vec::with_capacity(1 << 12));
        feed.say(None);
        assert!(relay.poll(&mut context).is_ready());
        assert!(spare::take().capacity() >= 1 << 12, "eight bytes took its place");
    }
}
