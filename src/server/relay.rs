//! An event stream on a connection that was taken out of hyper: nothing waits with it but two sockets.
//!
//! hyper keeps a buffer to read into and one for heads for as long as a connection lasts, which for streams is hours.
//! RFC 9112 §7.1 (chunked), §9.3 (the connection goes on), §9.6.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, DATE};
use http::{HeaderMap, StatusCode};
use hyper::body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream, the connection it goes out by, and what is on its way.
pub struct Relay<T, B> {
    io: T,
    body: B,
    /// Not taken by the client yet. No memory while there is nothing.
    out: Vec<u8>,
    written: usize,
    is_new: bool,
    is_ending: bool,
    /// What the client says meanwhile: its next request.
    ahead: Vec<u8>,
}

/// Why a stream did not come to its end.
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
    /// Begins with the head, which takes along what is there of the stream.
    pub fn new(io: T, head: Vec<u8>, body: B) -> Self {
        Relay { io, body, out: head, written: 0, is_new: true, is_ending: false, ahead: Vec::new() }
    }

    /// Passes the stream on; ready at its end.
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
        self.poll_ahead(context).map(Err)
    }

    /// The connection, with what the client said on it meanwhile.
    pub fn into_connection(self) -> (T, Vec<u8>) {
        (self.io, self.ahead)
    }

    /// Takes what comes next; whether there was anything. Not called while the client is busy with what came before.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Result<bool, Broken<B::Error>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else { return Ok(false) };
        match frame.transpose().map_err(Broken::Cut)?.map(Frame::into_data) {
            Some(Ok(data)) => chunk(&mut self.out, &data),
            Some(Err(_)) => {}
            None => {
                self.out.extend_from_slice(b"0\r\n\r\n");
                self.is_ending = true;
            }
        }
        Ok(true)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            match ready!(Pin::new(&mut self.io).poll_write(context, &self.out[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        if !self.out.is_empty() {
            (self.out, self.written) = (Vec::new(), 0);
        }
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Ready when the client has left. What it says is kept for later, within bounds: beyond them it is not read, and
    /// that it left shows when it is written to.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<Broken<B::Error>> {
        while self.ahead.len() < MAX_AHEAD {
            let mut piece = [0; 1 << 10];
            let mut read = ReadBuf::new(&mut piece);
            match ready!(Pin::new(&mut self.io).poll_read(context, &mut read)) {
                Err(error) => return Poll::Ready(error.into()),
                Ok(()) if read.filled().is_empty() => return Poll::Ready(Broken::Left),
                Ok(()) => self.ahead.extend_from_slice(read.filled()),
            }
        }
        Poll::Pending
    }
}

/// The head of a stream in HTTP/1.1. RFC 9112 §4, §6.1; RFC 9110 §6.6.1 (`date` is the whole value).
pub fn head(status: StatusCode, headers: &HeaderMap, date: &str, closes: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD);
    let reason = status.canonical_reason().unwrap_or_default();
    head.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
    let mut line = |name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    for (name, value) in headers.iter().filter(|(name, _)| **name != CONNECTION) {
        line(name.as_str().as_bytes(), value.as_bytes());
    }
    line(b"transfer-encoding", b"chunked");
    if closes {
        line(b"connection", b"close");
    }
    if !headers.contains_key(DATE) {
        line(b"date", date.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// An empty chunk would be the last.
fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        out.reserve(data.len() + FRAMING);
        out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// An ordinary head with a first event.
const HEAD: usize = 1 << 10;
/// Around a chunk, at most.
const FRAMING: usize = 20;
/// Heads and small messages that clients send without waiting; more are not read before the stream has ended.
const MAX_AHEAD: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

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
        let relay = tokio::spawn(through(Relay::new(server, b"HEAD\r\n\r\n".to_vec(), feed.clone())));
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
        let cut = through(Relay::new(server, Vec::new(), feed)).await;
        assert!(matches!(cut, Err(Broken::Cut(Cut))));
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("reads");
        assert_eq!(heard, b"3\r\none\r\n");
        let (client, server) = duplex(1 << 16);
        drop(client);
        let left = through(Relay::new(server, Vec::new(), Feed::default())).await;
        assert!(matches!(left, Err(Broken::Left)));
    }

    #[tokio::test]
    async fn a_slow_client_holds_back_the_stream_and_a_talkative_one_is_not_read_without_end() {
        let (mut client, server) = duplex(8);
        let feed = Feed::default();
        for _ in 0..3 {
            feed.say(Some(Ok("0123456789")));
        }
        let relay = tokio::spawn(through(Relay::new(server, Vec::new(), feed.clone())));
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
        let relay = tokio::spawn(through(Relay::new(server, Vec::new(), feed.clone())));
        tokio::task::yield_now().await;
        feed.say(None);
        let (_, ahead) = relay.await.expect("runs").expect("to its end");
        assert!(ahead.len() < MAX_AHEAD + 1024, "{}", ahead.len());
    }

    #[test]
    fn heads_say_how_they_are_framed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", "b".parse().expect("a value"));
        headers.insert(CONNECTION, "close".parse().expect("a value"));
        let text = |closes| String::from_utf8(head(StatusCode::OK, &headers, "now", closes)).expect("text");
        let expected = "HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\n";
        assert_eq!(text(true), format!("{expected}connection: close\r\ndate: now\r\n\r\n"));
        assert_eq!(text(false), format!("{expected}date: now\r\n\r\n"));
    }
}
