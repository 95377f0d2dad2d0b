//! The head of an answer in HTTP/1.1. RFC 9112 §4, §6; RFC 9110 §6.6.1.

use std::cell::RefCell;

use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::{HeaderMap, StatusCode};
use hyper::body::Body;

use super::spare;
use crate::clock::Time;
use crate::protocol::fields::{Lines, write_length, write_line};
use crate::upstream::has_body;

/// How a client knows where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none, by the status.
    None,
    Length(u64),
    Chunked,
}

impl Framing {
    /// RFC 9110 §8.6: a server knows the length, or sends chunks.
    pub fn of(status: StatusCode, body: &impl Body) -> Self {
        if !has_body(status) {
            return Framing::None;
        }
        body.size_hint().exact().map_or(Framing::Chunked, Framing::Length)
    }
}

/// Whatever the headers say of framing and connection, what is written is ours.
pub fn write(
    status: StatusCode,
    lines: &Lines,
    headers: &HeaderMap,
    framing: Framing,
    closes: bool,
    now: Time,
) -> Vec<u8> {
    // A small body goes out with it.
    let body = if let Framing::Length(length) = framing { length.min(SMALL) as usize } else { 0 };
    let mut head = spare::take();
    head.reserve(lines.as_bytes().len() + body + OURS);
    match status {
        StatusCode::OK => head.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
        _ => {
            let reason = status.canonical_reason().unwrap_or_default();
            head.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
        }
    }
    head.extend_from_slice(lines.as_bytes());
    for (name, value) in headers.iter().filter(|(name, _)| ![CONNECTION, CONTENT_LENGTH].contains(name)) {
        write_line(&mut head, name.as_str().as_bytes(), value.as_bytes());
    }
    match framing {
        Framing::None => {}
        Framing::Length(length) => write_length(&mut head, length),
        Framing::Chunked => write_line(&mut head, b"transfer-encoding", b"chunked"),
    }
    if closes {
        write_line(&mut head, b"connection", b"close");
    }
    if !lines.has_date() && !headers.contains_key(DATE) {
        LAST.with_borrow_mut(|date| head.extend_from_slice(date.line(now).as_bytes()));
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The date of the last answer of this core: it is the next one's, nearly always.
struct Date {
    seconds: u64,
    line: String,
}

impl Date {
    fn line(&mut self, now: Time) -> &str {
        if self.seconds != now.seconds() {
            *self = Date { seconds: now.seconds(), line: format!("date: {}\r\n", now.to_http_date()) };
        }
        &self.line
    }
}

thread_local! {
    static LAST: RefCell<Date> = const { RefCell::new(Date { seconds: u64::MAX, line: String::new() }) };
}

/// Room for what we add.
const OURS: usize = 256;
/// Larger bodies are not put together with their heads.
pub const SMALL: u64 = 4 << 10;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http_body_util::{Empty, Full};
    use hyper::body::Frame;

    use super::*;

    /// A body that does not know how long it is.
    struct Unknown;

    impl Body for Unknown {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[test]
    fn heads_say_how_their_bodies_are_framed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", "b".parse().expect("a value"));
        headers.insert(CONNECTION, "close".parse().expect("a value"));
        headers.insert(CONTENT_LENGTH, "7".parse().expect("a value"));
        let mut lines = Lines::default();
        lines.add(b"x-up", b"c");
        let text = |status, framing, closes| {
            let head = write(status, &lines, &headers, framing, closes, Time::from_seconds(784_111_777));
            String::from_utf8(head).expect("text")
        };
        let date = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        assert_eq!(
            text(StatusCode::OK, Framing::Chunked, true),
            format!(
                "HTTP/1.1 200 OK\r\nx-up: c\r\nx-a: b\r\ntransfer-encoding: chunked\r\nconnection: close\r\n{date}"
            )
        );
        assert_eq!(
            text(StatusCode::NOT_FOUND, Framing::Length(5), false),
            format!("HTTP/1.1 404 Not Found\r\nx-up: c\r\nx-a: b\r\ncontent-length: 5\r\n{date}")
        );
        assert_eq!(
            text(StatusCode::NO_CONTENT, Framing::None, false),
            format!("HTTP/1.1 204 No Content\r\nx-up: c\r\nx-a: b\r\n{date}")
        );
    }

    #[test]
    fn an_answer_has_one_date() {
        let (mut lines, mut headers, long_ago) = (Lines::default(), HeaderMap::new(), Time::from_seconds(0));
        lines.add(b"date", b"then");
        let head = write(StatusCode::OK, &lines, &headers, Framing::Length(0), false, long_ago);
        assert_eq!(head, b"HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: 0\r\n\r\n");
        let lines = Lines::default();
        headers.insert(DATE, "then".parse().expect("a value"));
        let head = write(StatusCode::OK, &lines, &headers, Framing::Length(0), false, long_ago);
        assert_eq!(head, b"HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: 0\r\n\r\n");
        headers.remove(DATE);
        for (seconds, second) in [(0, "00"), (0, "00"), (59, "59"), (1, "01")] {
            let now = Time::from_millis(seconds * 1000 + 999);
            let head = write(StatusCode::OK, &lines, &headers, Framing::None, false, now);
            let expected = format!("HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 1970 00:00:{second} GMT\r\n\r\n");
            assert_eq!(String::from_utf8(head).expect("text"), expected);
        }
    }

    #[test]
    fn a_body_is_framed_by_what_is_known_of_it() {
        let of =
            |status: StatusCode, length: usize| Framing::of(status, &Full::new(Bytes::from(vec![0; length])));
        assert_eq!(of(StatusCode::OK, 7), Framing::Length(7));
        assert_eq!(of(StatusCode::OK, 0), Framing::Length(0));
        assert_eq!(of(StatusCode::NOT_MODIFIED, 0), Framing::None);
        assert_eq!(Framing::of(StatusCode::NO_CONTENT, &Empty::<Bytes>::new()), Framing::None);
        assert_eq!(Framing::of(StatusCode::OK, &Unknown), Framing::Chunked);
    }
}
