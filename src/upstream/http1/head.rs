//! The head of an answer: read strictly, framed by the rules and never by a guess.
//!
//! RFC 9112 §4, §5, §6.3; RFC 9110 §15.2.

use std::mem::MaybeUninit;

use http::StatusCode;

use super::framing::Framing;
use crate::protocol::connection;
use crate::protocol::fields::{Fields, Twice, text_length};

/// What no upstream should say; in words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Odd(pub &'static str);

/// The head of a final answer.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub fields: Fields,
    pub framing: Framing,
    /// Whether another request may follow on this connection once the body has ended.
    pub keeps: bool,
}

/// What the bytes so far are, and how many of them are used up.
#[derive(Debug)]
pub enum Read {
    /// The beginning of a head.
    Partial,
    /// An interim answer (1xx), which is nobody's business.
    Interim(usize),
    Final(Head, usize),
}

/// Reads the head that the bytes begin with.
pub fn read(bytes: &[u8]) -> Result<Read, Odd> {
    match plain(bytes) {
        Some((status, fields, length)) if length <= MAX_HEAD => last(status, true, fields, length),
        _ => general(bytes),
    }
}

/// A head that leaves nothing to be decided, as nearly all do: the same to [`general`], which takes longer.
fn plain(bytes: &[u8]) -> Option<(StatusCode, Fields, usize)> {
    let (code, reason) = bytes.strip_prefix(b"HTTP/1.1 ")?.split_first_chunk::<3>()?;
    let status = StatusCode::from_bytes(code).ok().filter(|status| !status.is_informational())?;
    let line_ends = text_length(reason);
    let lines = reason[line_ends..].strip_prefix(b"\r\n").filter(|_| reason.starts_with(b" "))?;
    let (fields, length) = Fields::plain(lines)?;
    Some((status, fields, bytes.len() - lines.len() + length))
}

fn general(bytes: &[u8]) -> Result<Read, Odd> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut lines,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Ok(Read::Partial),
        Ok(_) => return Err(Odd("its head is too large")),
        Err(httparse::Error::TooManyHeaders) => return Err(Odd("its head has too many lines")),
        Err(_) => return Err(Odd("it is not HTTP/1.1")),
    };
    let code = response.code.unwrap_or_default();
    let status = StatusCode::from_u16(code).map_err(|_| Odd("its status is none"))?;
    match code {
        101 => return Err(Odd("it switches protocols, which nobody asked for")),
        100..=199 => return Ok(Read::Interim(length)),
        _ => {}
    }
    last(status, response.version == Some(1), Fields::of(&bytes[..length], response.headers), length)
}

/// The head of a final answer, by what was read of it.
fn last(status: StatusCode, is_current: bool, fields: Fields, length: usize) -> Result<Read, Odd> {
    let framing = framing(status, is_current, &fields)?;
    let keeps = is_current && framing != Framing::UntilClose && !connection::lists(&fields, b"close");
    Ok(Read::Final(Head { status, fields, framing, keeps }, length))
}

/// Whether anything follows the head of an answer with this status, whatever it says of itself (RFC 9112 §6.3).
pub fn has_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// RFC 9112 §6.3, without its tolerance: whatever two readers could read in two ways is refused.
fn framing(status: StatusCode, is_current: bool, fields: &Fields) -> Result<Framing, Odd> {
    let is_chunked = match fields.single("transfer-encoding") {
        Ok(None) => false,
        Ok(Some(coding)) if is_current && coding.eq_ignore_ascii_case(b"chunked") => true,
        _ => return Err(Odd("its transfer coding is not plainly chunked")),
    };
    let length = fields.single("content-length").map_err(|Twice| Odd("it has two Content-Length"))?;
    let length =
        length.map(|length| number(length).ok_or(Odd("its Content-Length is no number"))).transpose()?;
    if !has_body(status) {
        return Ok(Framing::Length(0));
    }
    match (is_chunked, length) {
        (true, Some(_)) => Err(Odd("it is framed in two ways")),
        (true, None) => Ok(Framing::Chunked),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) => Ok(Framing::UntilClose),
    }
}

/// RFC 9110 §8.6: digits and nothing else.
fn number(value: &[u8]) -> Option<u64> {
    let text = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// Largest head of an answer.
pub const MAX_HEAD: usize = 32 << 10;
const MAX_HEADERS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(lines: &str) -> Result<(Framing, bool), Odd> {
        match read(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes())? {
            Read::Final(head, _) => Ok((head.framing, head.keeps)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_is_framed_in_one_way_or_not_at_all() {
        for (lines, expected) in [
            ("Content-Length: 7\r\n", Ok((Framing::Length(7), true))),
            ("content-length:18446744073709551615\r\n", Ok((Framing::Length(u64::MAX), true))),
            ("Transfer-Encoding: Chunked\r\n", Ok((Framing::Chunked, true))),
            ("X: y\r\n", Ok((Framing::UntilClose, false))),
            ("Content-Length: 0\r\nConnection: x, Close\r\n", Ok((Framing::Length(0), false))),
            ("Content-Length: 18446744073709551616\r\n", Err("its Content-Length is no number")),
            ("Content-Length: +7\r\n", Err("its Content-Length is no number")),
            ("Content-Length:\r\n", Err("its Content-Length is no number")),
            ("Content-Length: 7, 7\r\n", Err("its Content-Length is no number")),
            ("Content-Length: 7\r\nContent-Length: 7\r\n", Err("it has two Content-Length")),
            ("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n", Err("it is framed in two ways")),
            ("Transfer-Encoding: gzip, chunked\r\n", Err("its transfer coding is not plainly chunked")),
            ("Transfer-Encoding: identity\r\n", Err("its transfer coding is not plainly chunked")),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Err("its transfer coding is not plainly chunked"),
            ),
        ] {
            assert_eq!(framed(lines), expected.map_err(Odd), "{lines:?}");
        }
    }

    #[test]
    fn a_plain_head_is_read_as_any_other() {
        let lines = "Content-Type: a/b\r\nContent-Length: 5\r\nMcp-Session-Id: c\r\n\r\nhello";
        for (line, expected) in [
            ("HTTP/1.1 200 OK\r\n", true),
            ("HTTP/1.1 404 Not  found!\r\n", true),
            ("HTTP/1.1 299 \r\n", true),
            ("HTTP/1.1 200\r\n", false),
            ("HTTP/1.1 200 OK\n", false),
            ("HTTP/1.1 200  \tOK\r\n", false),
            ("HTTP/1.1 100 Continue\r\n", false),
            ("HTTP/1.0 200 OK\r\n", false),
            ("\r\nHTTP/1.1 200 OK\r\n", false),
        ] {
            let text = format!("{line}{lines}");
            assert_eq!(plain(text.as_bytes()).is_some(), expected, "{line:?}");
            let both = [read, general].map(|read| match read(text.as_bytes()) {
                Ok(Read::Final(head, length)) => {
                    let fields = http::HeaderMap::from(&head.fields);
                    format!("{:?} {fields:?} {:?} {} {length}", head.status, head.framing, head.keeps)
                }
                other => format!("{other:?}"),
            });
            assert_eq!(both[0], both[1], "{line:?}");
        }
    }

    #[test]
    fn statuses_without_a_body_have_none_and_old_versions_close() {
        let of = |head: &str| match read(head.as_bytes()) {
            Ok(Read::Final(head, _)) => (head.framing, head.keeps),
            other => panic!("{other:?}"),
        };
        assert_eq!(of("HTTP/1.1 204 None\r\n\r\n"), (Framing::Length(0), true));
        assert_eq!(of("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n"), (Framing::Length(0), true));
        assert_eq!(of("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), (Framing::Length(5), false));
        assert!(read(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn heads_are_whole_interim_or_odd() {
        assert!(matches!(read(b"HTTP/1.1 200 OK\r\nA: b\r\n"), Ok(Read::Partial)));
        assert!(matches!(read(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP"), Ok(Read::Interim(37))));
        for odd in
            ["HTTP/1.1 101 Switching\r\n\r\n", "HTTP/2 200\r\n\r\n", "SSH-2.0-x\r\n", "HTTP/1.1 99 x\r\n\r\n"]
        {
            assert!(read(odd.as_bytes()).is_err(), "{odd:?}");
        }
        // However much of it came in one piece.
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(MAX_HEAD));
        for end in [long.len(), long.len() - 4] {
            assert_eq!(read(&long.as_bytes()[..end]).expect_err("too large"), Odd("its head is too large"));
        }
    }
}
