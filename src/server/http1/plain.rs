//! Requests that leave nothing to be decided, read by our own hand: a message to a resource, all there, framed by one
//! plain Content-Length or by nothing. Whatever else comes is put back for hyper to judge, byte for byte: there is no
//! request that only we would take, nor one that we would read differently (`fuzzing` holds us to it).
//!
//! RFC 9112 §2.2, §3, §5, §6.3, §9.3.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::ahead::Ahead;
use super::ends::{End, Ends};
use super::head_timer::HeadTimer;
use super::{Ended, Outgoing};
use crate::clock;
use crate::protocol::connection;
use crate::protocol::fields::Fields;
use crate::protocol::request::{Request, Target};
use crate::server::answering::answered;
use crate::server::drain::Drain;
use crate::server::latest::Latest;
use crate::server::router::{self, Route};
use crate::server::seats::Seated;
use crate::server::sniff::Sniffed;
use crate::server::{Current, Server};
use crate::timer::Timer;
use crate::upstream::Payload;

/// How a connection was left.
pub enum Left<T> {
    /// There is nobody to say anything to.
    Nobody,
    /// Nothing more is to come.
    Over(Sniffed<T>),
    /// With something that is not plain, and the timer that runs for it.
    Other(Sniffed<T>, HeadTimer),
    /// With an answer that takes its time: boxed, so that for as long it holds nothing else's room.
    Answer(Box<Outgoing<T>>),
}

/// What a client said.
enum Said {
    /// For the server that was seen when it came.
    Request(Box<Request<Payload>>),
    /// Put back.
    Other,
    Nothing,
}

/// Serves requests as long as they are plain, and their answers all there.
pub async fn requests<T>(
    mut io: Sniffed<T>,
    peer: SocketAddr,
    seat: &Seated,
    current: &Current,
    drain: watch::Receiver<Drain>,
) -> Result<Left<T>, Ended>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut ends, mut timer) = (Ends::new(seat, drain.clone()), Timer::default());
    let (mut current, mut drain) = (current.followed(), Latest::new(drain));
    loop {
        let until = clock::moment() + current.seen().bounds.head_timeout;
        let said = poll_fn(|context| {
            let end = ends.poll(context);
            if end == Some(End::AtOnce) {
                return Poll::Ready(None);
            }
            match poll_request(&mut io, context, &mut current) {
                Poll::Ready(said) => Poll::Ready(said.ok()),
                Poll::Pending if end.is_some() => Poll::Ready(Some(Said::Nothing)),
                Poll::Pending => timer.poll_until(until, context).map(|()| Some(Said::Nothing)),
            }
        });
        let request = match said.await {
            Some(Said::Request(request)) => request,
            Some(Said::Other) => return Ok(Left::Other(io, HeadTimer::begun(timer, until))),
            Some(Said::Nothing) => return Ok(Left::Over(io)),
            None => return Ok(Left::Nobody),
        };
        let (server, mut ahead) = (&**current.seen(), Ahead::default());
        let response = {
            let mut answer = pin!(answered(server, peer, request, seat.request(), &mut drain));
            poll_fn(|context| {
                if ends.poll(context) == Some(End::AtOnce) {
                    return Poll::Ready(None);
                }
                match answer.as_mut().poll(context) {
                    Poll::Ready(response) => Poll::Ready(Some(response)),
                    // Nobody waits for the answer of a client that has left.
                    Poll::Pending => ahead.poll(&mut io, context).map(|_| None),
                }
            })
            .await
        };
        let Some(response) = response else { return Ok(Left::Nobody) };
        io.put_back(&ahead.into_bytes());
        let is_whole = response.body().is_whole();
        let mut outgoing = Outgoing::new(io, response, false, &server.clock);
        if !is_whole {
            return Ok(Left::Answer(Box::new(outgoing)));
        }
        let passed = poll_fn(|context| match ends.poll(context) {
            Some(End::AtOnce) => Poll::Ready(None),
            _ => outgoing.relay.poll(context).map(Some),
        });
        match passed.await {
            Some(passed) => passed?,
            None => return Ok(Left::Nobody),
        }
        let closes = outgoing.closes;
        io = outgoing.into_connection();
        if closes {
            return Ok(Left::Over(io));
        }
    }
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// Reads what is there. It lies in a buffer of this core's, so that a connection that says nothing has none.
fn poll_request<T: AsyncRead + Unpin>(
    io: &mut Sniffed<T>,
    context: &mut Context<'_>,
    current: &mut Latest<Arc<Server>>,
) -> Poll<io::Result<Said>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut read = ReadBuf::new(buffer);
        loop {
            let known = read.filled().len();
            match Pin::new(&mut *io).poll_read(context, &mut read) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if known == 0 => return Poll::Pending,
                Poll::Ready(Ok(())) if read.filled().len() > known => {
                    let server = current.now();
                    if let Some(request) = request(read.filled(), |path| is_resource(server, path)) {
                        return Poll::Ready(Ok(Said::Request(Box::new(request))));
                    }
                }
                Poll::Ready(Ok(())) if known == 0 => return Poll::Ready(Ok(Said::Nothing)),
                // It may go on, or is at its end, or there is too much of it.
                Poll::Pending | Poll::Ready(Ok(())) => {
                    io.put_back(read.filled());
                    return Poll::Ready(Ok(Said::Other));
                }
            }
        }
    })
}

fn is_resource(server: &Server, path: &str) -> bool {
    matches!(router::route(server, path), Route::Resource(_))
}

/// The request that these bytes are, if they are exactly one and a plain one, to a path that is `ours`.
pub fn request(bytes: &[u8], ours: impl FnOnce(&str) -> bool) -> Option<Request<Payload>> {
    let (method, rest) = method(bytes)?;
    let (target, rest) = rest.split_at(rest.iter().position(|byte| !is_plain(*byte))?);
    let lines = rest.strip_prefix(b" HTTP/1.1\r\n")?;
    let (fields, length) = Fields::plain(lines)?;
    let body = &lines[length..];
    let target = Target::new(str::from_utf8(target).ok().filter(|target| target.starts_with('/'))?);
    let is_plain = ours(target.path()) && are_plain(&fields);
    if !is_plain || content_length(&fields, &method)? != body.len() {
        return None;
    }
    let body = Payload::Whole(Bytes::copy_from_slice(body));
    Some(Request { method, target, authority: None, fields, is_http2: false, body })
}

/// The method that a request line begins with, and what follows.
fn method(line: &[u8]) -> Option<(Method, &[u8])> {
    [(&b"POST "[..], Method::POST), (b"GET ", Method::GET), (b"DELETE ", Method::DELETE)]
        .into_iter()
        .find_map(|(name, method)| Some((method, line.strip_prefix(name)?)))
}

/// Whether a character stands for itself in a path in origin form or its query (RFC 3986 §3.3, §3.4).
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&'..=b',' | b';'
        | b'=' | b':' | b'@' | b'/' | b'?')
}

/// Nothing that frames otherwise, upgrades, expects, or names what is meant for this connection alone.
fn are_plain(fields: &Fields) -> bool {
    let asks_more = ["transfer-encoding", "expect", "upgrade"].iter().any(|name| fields.has(name));
    !asks_more && !connection::names_fields(fields)
}

/// RFC 9112 §6.3: said once, in digits alone, or there is no body. Of GET and DELETE none is expected.
fn content_length(fields: &Fields, method: &Method) -> Option<usize> {
    match fields.single("content-length").ok()? {
        None => Some(0),
        Some(digits) if *method == Method::POST && (1..=MAX_DIGITS).contains(&digits.len()) => {
            let is_plain = digits.iter().all(u8::is_ascii_digit);
            is_plain.then(|| digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
        }
        Some(_) => None,
    }
}

/// Larger messages do not come in one piece, most of the time.
const READ: usize = 64 << 10;
const MAX_DIGITS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str, body: &str) -> Option<Request<Payload>> {
        request(format!("{head}\r\n\r\n{body}").as_bytes(), |path| path == "/mcp")
    }

    // What clients send is read here, and not put back for its form.
    #[test]
    fn ordinary_messages_are_plain() {
        let call = "POST /mcp HTTP/1.1\r\nHost: p.test\r\nConnection: keep-alive\r\nAuthorization: Bearer x\r\n\
                    Accept: application/json, text/event-stream\r\nSec-Fetch-Mode: cors\r\nContent-Length: 2";
        let call = read(call, "{}").expect("plain");
        assert_eq!((call.method, call.target.path(), call.fields.count()), (Method::POST, "/mcp", 6));
        assert!(matches!(call.body, Payload::Whole(body) if body == "{}"));
        let stream =
            read("GET /mcp?a=%20b&c HTTP/1.1\r\nHost: p.test\r\nLast-Event-ID: 7", "").expect("plain");
        assert_eq!((stream.method, stream.target.query()), (Method::GET, "a=%20b&c"));
        assert!(read("DELETE /mcp HTTP/1.1\r\nHost: p.test\r\nMcp-Session-Id: a.b", "").is_some());
    }

    #[test]
    fn whatever_leaves_something_to_be_decided_is_not() {
        for (head, body) in [
            ("POST /mcp HTTP/1.1\r\nContent-Length: 2", "{"),
            ("POST /mcp HTTP/1.1\r\nContent-Length: 2", "{}P"),
            ("POST /mcp HTTP/1.1", "{}"),
            ("POST /mcp HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2", "{}"),
            ("POST /mcp HTTP/1.1\r\nContent-Length: +2", "{}"),
            ("POST /mcp HTTP/1.1\r\nContent-Length: ", ""),
            ("POST /mcp HTTP/1.1\r\nContent-Length: 000002", "{}"),
            ("POST /mcp HTTP/1.1\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
            ("POST /mcp HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: identity", "{}"),
            ("POST /mcp HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue", "{}"),
            ("POST /mcp HTTP/1.1\r\nConnection: close", ""),
            ("POST /mcp HTTP/1.1\r\nConnection: keep-alive, x", ""),
            ("POST /mcp HTTP/1.1\r\nUpgrade: h2c", ""),
            ("GET /mcp HTTP/1.1\r\nContent-Length: 2", "{}"),
            ("GET /mcp HTTP/1.1\r\nContent-Length: 0", ""),
            ("HEAD /mcp HTTP/1.1", ""),
            ("PUT /mcp HTTP/1.1", ""),
            ("GET /mcp HTTP/1.0", ""),
            ("GET /other HTTP/1.1", ""),
            ("GET http://p.test/mcp HTTP/1.1", ""),
            ("GET /mcp?a=\" HTTP/1.1", ""),
            ("GET /mcp#a HTTP/1.1", ""),
            ("GET /mcp HTTP/1.1\r\nA : b", ""),
            ("GET /mcp HTTP/1.1\r\nA: b\r\n c", ""),
        ] {
            assert!(read(head, body).is_none(), "{head:?} {body:?}");
        }
        let many: String = (0..=48).map(|number| format!("\r\nX-{number}: a")).collect();
        assert!(read(&format!("GET /mcp HTTP/1.1{many}"), "").is_none());
    }
}
