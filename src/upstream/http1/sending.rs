//! A request on its way to an upstream: the head and a small body in one piece, a large body as it comes.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};

use super::io::Io;
use crate::protocol::fields::{Field, Fields, write_length, write_line};
use crate::upstream::body::{BodyTrouble, RequestBody, Streaming};

/// A request that is to be sent.
#[derive(Default)]
pub struct Outgoing {
    pub message: Message,
    pub body: RequestBody,
}

/// The head of a request, and all of its body if that is small.
#[derive(Default)]
pub struct Message {
    bytes: Vec<u8>,
    /// Where the headers begin, behind the request line; the first is Host.
    behind_line: usize,
    behind_host: usize,
}

impl Message {
    /// Begins with the request line and Host.
    pub fn to(method: &Method, path: &PathAndQuery, host: &HeaderValue) -> Self {
        let mut message = Message::begun(method, path);
        message.header(b"host", host.as_bytes());
        message.behind_host = message.bytes.len();
        message
    }

    fn begun(method: &Method, path: &PathAndQuery) -> Self {
        let mut bytes = Vec::with_capacity(HEAD);
        for part in [method.as_str(), " ", path.as_str(), " HTTP/1.1\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        Message { behind_line: bytes.len(), behind_host: bytes.len(), bytes }
    }

    /// Adds a header; the value is one that a head can hold.
    pub fn header(&mut self, name: &[u8], value: &[u8]) {
        write_line(&mut self.bytes, name, value);
    }

    /// Adds those fields for which `passes` is true.
    pub fn fields(&mut self, fields: &Fields, passes: impl FnMut(&Field<'_>) -> bool) {
        fields.write(&mut self.bytes, passes);
    }

    /// Adds whole lines, `name: value` and a line end each.
    pub fn headers(&mut self, lines: &[u8]) {
        self.bytes.extend_from_slice(lines);
    }

    /// Ends the head, with the framing of the body and, if it is all there, the body itself, which is taken: it lies in
    /// what was read from the client, and holds that up. RFC 9112 §6.1, §6.2.
    pub fn end(&mut self, method: &Method, body: &mut RequestBody) {
        match body {
            RequestBody::Whole(body) if body.is_empty() && *method != Method::POST => {}
            RequestBody::Whole(body) => self.length(body.len() as u64),
            RequestBody::Streaming(streaming) => match streaming.length() {
                Some(length) => self.length(length),
                None => self.header(b"transfer-encoding", b"chunked"),
            },
        }
        self.bytes.extend_from_slice(b"\r\n");
        if let RequestBody::Whole(body) = body {
            self.bytes.extend_from_slice(&std::mem::take(body));
        }
    }

    fn length(&mut self, length: u64) {
        write_length(&mut self.bytes, length);
    }

    /// The same request to another path.
    pub fn redirected(&self, method: &Method, path: &PathAndQuery) -> Self {
        let mut message = Message::begun(method, path);
        message.behind_host = message.behind_line + self.behind_host - self.behind_line;
        message.bytes.extend_from_slice(&self.bytes[self.behind_line..]);
        message
    }

    /// The same request to another host, and its path there.
    pub fn moved(&self, method: &Method, path: &PathAndQuery, host: &HeaderValue) -> Self {
        let mut message = Message::to(method, path, host);
        message.bytes.extend_from_slice(&self.bytes[self.behind_host..]);
        message
    }

    /// What is written, as it is.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a request did not leave.
#[derive(Debug)]
pub enum Unsent {
    /// The connection takes no more.
    Io(io::Error),
    /// There is no more to come from the client.
    Body(BodyTrouble),
}

/// What is left to be written.
pub struct Sending {
    message: Message,
    written: usize,
    body: Option<Box<Stream>>,
}

/// A body that is written while it comes.
struct Stream {
    body: Box<Streaming>,
    is_chunked: bool,
    /// On its way out.
    piece: Piece,
    is_last: bool,
}

/// A piece with what its framing puts around it.
#[derive(Default)]
struct Piece {
    before: Bytes,
    data: Bytes,
    after: &'static [u8],
}

impl Sending {
    pub fn new(message: Message, body: RequestBody) -> Self {
        let body = match body {
            RequestBody::Whole(_) => None,
            RequestBody::Streaming(body) => {
                let is_chunked = body.length().is_none();
                Some(Box::new(Stream { body, is_chunked, piece: Piece::default(), is_last: false }))
            }
        };
        Sending { message, written: 0, body }
    }

    /// Whether nothing of it has left.
    pub fn is_untouched(&self) -> bool {
        self.written == 0
    }

    /// The request, to be sent again: the body is there where nothing of it was taken.
    pub fn into_parts(self) -> (Message, RequestBody) {
        let body = self.body.map(|stream| RequestBody::Streaming(stream.body));
        (self.message, body.unwrap_or_default())
    }

    /// Ready once everything was handed over.
    pub fn poll(&mut self, io: &mut Io, context: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        while self.written < self.message.bytes.len() {
            let rest = &self.message.bytes[self.written..];
            self.written += ready!(write(io, context, rest)).map_err(Unsent::Io)?;
        }
        if let Some(stream) = &mut self.body {
            ready!(stream.poll(io, context))?;
            self.body = None;
        }
        io.poll_flush(context).map_err(Unsent::Io)
    }
}

impl Stream {
    fn poll(&mut self, io: &mut Io, context: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            ready!(self.piece.poll(io, context)).map_err(Unsent::Io)?;
            if self.is_last {
                return Poll::Ready(Ok(()));
            }
            let next = match self.body.poll_data(context) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    ready!(io.poll_flush(context)).map_err(Unsent::Io)?;
                    return Poll::Pending;
                }
            };
            let data = next.transpose().map_err(Unsent::Body)?;
            self.is_last = data.is_none();
            self.piece = Piece::new(data, self.is_chunked);
        }
    }
}

impl Piece {
    /// An empty chunk would be the last.
    fn new(data: Option<Bytes>, is_chunked: bool) -> Self {
        match data {
            Some(data) if is_chunked && !data.is_empty() => {
                Piece { before: Bytes::from(format!("{:x}\r\n", data.len())), data, after: b"\r\n" }
            }
            Some(data) => Piece { data, ..Piece::default() },
            None if is_chunked => Piece { after: b"0\r\n\r\n", ..Piece::default() },
            None => Piece::default(),
        }
    }

    fn poll(&mut self, io: &mut Io, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        for part in [&mut self.before, &mut self.data] {
            while !part.is_empty() {
                let written = ready!(write(io, context, part))?;
                part.advance(written);
            }
        }
        while !self.after.is_empty() {
            let written = ready!(write(io, context, self.after))?;
            self.after = &self.after[written..];
        }
        Poll::Ready(Ok(()))
    }
}

fn write(io: &mut Io, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(io.poll_write(context, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

/// An ordinary request with its body.
const HEAD: usize = 1 << 10;
