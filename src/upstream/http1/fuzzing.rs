//! Answers of arbitrary bytes, cut in arbitrary ways: what we make of them, beside what hyper's client does.
//!
//! Whatever is an answer to us is the same one to hyper, and whatever hyper refuses, we refuse. Where we are stricter,
//! it is for a reason that stands in [`is_stricter`].

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

use super::head::MAX_HEAD;
use super::{Connection, Exchange, Io, Message, Trouble, Within};
use crate::fuzzing::drive;
use crate::gate::fuzzing::permit;
use crate::protocol::fields::Fields;
use crate::upstream::body::RequestBody;
use crate::upstream::fuzzing::towards_the_client;
use crate::upstream::headers;

/// An answer: a line that says how it is cut, then its bytes. Each character of the line is the length of a piece, and
/// `@` is one byte; after the last they begin again.
pub fn answer(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (cuts, bytes) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let whole = ours(bytes, b"", Then::Closes);
    for cuts in [cuts, b"@"] {
        let cut = ours(bytes, cuts, Then::Closes);
        assert_eq!(whole.seen(), cut.seen(), "{cuts:?}: {} or {}", whole.why, cut.why);
    }
    assert!(whole.end != End::Open, "the connection was closed");
    is_framed_as_it_says(&whole);
    passes_on_as_lines(&whole);
    is_what_hyper_sees(&whole, &hypers(bytes), bytes);
    is_kept_for_a_reason(bytes, cuts);
}

/// Nobody is that late.
const LIMIT: Duration = Duration::from_secs(300);

/// What became of an answer.
#[derive(Debug)]
struct Outcome {
    head: Option<(StatusCode, HeaderMap)>,
    body: Vec<u8>,
    end: End,
    /// Why there is no whole one.
    why: String,
    /// Whether another request may follow.
    keeps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
    /// More is to come.
    Open,
}

/// What follows the last byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Closes,
    Waits,
}

impl Outcome {
    fn none(end: End, why: String) -> Self {
        Outcome { head: None, body: Vec::new(), end, why, keeps: false }
    }

    fn seen(&self) -> (&Option<(StatusCode, HeaderMap)>, &[u8], End) {
        (&self.head, &self.body, self.end)
    }
}

fn ours(bytes: &[u8], cuts: &[u8], then: Then) -> Outcome {
    let (method, mut nothing) = (Method::GET, RequestBody::Whole(Bytes::new()));
    let (path, host) = (PathAndQuery::from_static("/up"), HeaderValue::from_static("up.test"));
    let mut message = Message::to(&method, &path, &host);
    message.end(&method, &mut nothing);
    let io = Io::Said(Box::new(Said::new(bytes, cuts, then)));
    let (head, mut arrival) =
        match drive(Exchange::new(Connection::new(io), message, nothing, Within::from_now(LIMIT)).answered())
        {
            None => return Outcome::none(End::Open, String::new()),
            Some(Err(trouble)) => return Outcome::none(End::Broken, why(&trouble)),
            Some(Ok(answered)) => {
                assert!(answered.message.is_some(), "it was sent");
                (answered.head, answered.arrival)
            }
        };
    let mut outcome = Outcome::none(End::Open, String::new());
    outcome.head = Some((head.status, HeaderMap::from(&head.fields)));
    loop {
        match drive(poll_fn(|context| arrival.poll(context))) {
            None => return outcome,
            Some(None) => break,
            Some(Some(Ok(data))) => {
                assert!(!data.is_empty(), "a piece of nothing");
                outcome.body.extend_from_slice(&data);
            }
            Some(Some(Err(cut))) => {
                assert!(arrival.free().is_none(), "it is not over");
                (outcome.end, outcome.why) = (End::Broken, cut.to_string());
                return outcome;
            }
        }
    }
    assert!(arrival.is_ended() && arrival.left() == Some(0));
    outcome.end = End::Whole;
    outcome.keeps =
        matches!(arrival.free(), Some(Connection { io: Io::Said(said), .. }) if said.pieces.is_empty());
    outcome
}

fn why(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Odd(odd) => odd.to_string(),
        Trouble::Silent(..) => "nothing".to_owned(),
        Trouble::Io(error) => error.to_string(),
        Trouble::Unsent(..) | Trouble::Body(_) | Trouble::Late(_) => unreachable!("it was sent, just now"),
    }
}

fn hypers(bytes: &[u8]) -> (Outcome, Version) {
    let asked = async {
        let io = TokioIo::new(Said::new(bytes, b"", Then::Closes));
        let (mut sender, connection) = http1::handshake(io).await.expect("nothing was said yet");
        let request = Request::get("/up").header(header::HOST, "up.test").body(Empty::<Bytes>::new());
        let answered = async {
            let (head, mut body) = match sender.send_request(request.expect("a request")).await {
                Ok(response) => response.into_parts(),
                Err(error) => {
                    return (Outcome::none(End::Broken, format!("{error:?}")), Version::HTTP_11);
                }
            };
            let mut outcome = Outcome::none(End::Whole, String::new());
            outcome.head = Some((head.status, head.headers));
            while let Some(frame) = body.frame().await {
                match frame.map(|frame| frame.into_data()) {
                    Ok(Ok(data)) => outcome.body.extend_from_slice(&data),
                    Ok(Err(_)) => {}
                    Err(error) => (outcome.end, outcome.why) = (End::Broken, format!("{error:?}")),
                }
            }
            (outcome, head.version)
        };
        tokio::join!(answered, connection).0
    };
    drive(asked).expect("the connection was closed")
}

fn is_what_hyper_sees(ours: &Outcome, (hypers, version): &(Outcome, Version), bytes: &[u8]) {
    let both = || format!("{ours:?}\n{hypers:?}\n{:?}", String::from_utf8_lossy(bytes));
    if ours.end == End::Whole {
        assert_eq!(ours.seen(), hypers.seen(), "{}", both());
        return;
    }
    match (&ours.head, &hypers.head) {
        // It refuses lengths that no body has; ours never ends.
        (_, None) => {}
        (Some(ours), Some(hypers)) => assert_eq!(ours, hypers, "{}", both()),
        (None, Some(head)) => assert!(is_stricter(&ours.why, head, *version, bytes), "{}", both()),
    }
    if ours.head.is_some() && hypers.end == End::Whole {
        assert!(hypers.body.starts_with(&ours.body), "{}", both());
        assert!(is_stricter_framing(&ours.why, bytes), "{}", both());
    }
}

/// Whether this is why we refuse a head that hyper takes.
fn is_stricter(
    why: &str,
    (status, headers): &(StatusCode, HeaderMap),
    version: Version,
    bytes: &[u8],
) -> bool {
    let codings: Vec<_> = headers.get_all(header::TRANSFER_ENCODING).iter().collect();
    let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
    let has_no_body = matches!(status.as_u16(), 204 | 304);
    match why {
        "it switches protocols, which nobody asked for" => *status == 101,
        // A list, another coding, or any in HTTP/1.0, which hyper overlooks where no body follows.
        "its transfer coding is not plainly chunked" => {
            !matches!(&codings[..], [one] if one.as_bytes().eq_ignore_ascii_case(b"chunked"))
                || (version == Version::HTTP_10 && has_no_body)
        }
        // Although they are equal.
        "it has two Content-Length" => lengths.len() > 1,
        // `7, 7`; or any nonsense beside a coding, and where no body follows.
        "its Content-Length is no number" => {
            lengths.iter().any(|length| {
                let length = length.as_bytes();
                !length.iter().all(u8::is_ascii_digit) || length.is_empty() || length.len() > 19
            }) && (lengths[0].as_bytes().contains(&b',') || !codings.is_empty() || has_no_body)
        }
        // Where hyper believes the coding.
        "it is framed in two ways" => !codings.is_empty() && !lengths.is_empty(),
        "its head is too large" => bytes.len() > MAX_HEAD,
        _ => false,
    }
}

/// Whether this is why we refuse a chunked body that hyper takes.
fn is_stricter_framing(why: &str, bytes: &[u8]) -> bool {
    let zeros =
        || bytes.windows(17).any(|digits| digits[0] == b'0' && digits.iter().all(u8::is_ascii_hexdigit));
    match why {
        // More digits than a number has.
        "the size of a chunk is none" => zeros(),
        "a line of its framing is too long" | "its trailers are too large" => bytes.len() > 4 << 10,
        // Bare LF between trailers.
        "a trailer is none" => bytes.windows(2).any(|two| two[0] != b'\r' && two[1] == b'\n'),
        _ => false,
    }
}

/// RFC 9112 §6.3: never more than the head says.
fn is_framed_as_it_says(outcome: &Outcome) {
    let Some((status, headers)) = &outcome.head else { return };
    if matches!(status.as_u16(), 204 | 304) {
        assert!(outcome.body.is_empty() && outcome.end == End::Whole);
    } else if let Some(length) = headers.get(header::CONTENT_LENGTH) {
        let length: u64 = length.to_str().expect("digits").parse().expect("a number");
        let is_all = outcome.body.len() as u64 == length;
        assert!(outcome.body.len() as u64 <= length && is_all == (outcome.end == End::Whole));
    }
}

/// Nothing in it can be read as another line by whoever gets it from us.
fn passes_on_as_lines(outcome: &Outcome) {
    let Some((_, headers)) = &outcome.head else { return };
    let permit = permit(Vec::new());
    towards_the_client(headers, &permit);
    let mut passed = HeaderMap::new();
    headers::response(&Fields::from(headers), &permit, false).append_to(&mut passed);
    for (name, value) in &passed {
        let is_no_end = |byte: &u8| !matches!(byte, b'\r' | b'\n' | 0);
        assert!(!name.as_str().is_empty() && name.as_str().bytes().all(|byte| is_no_end(&byte)));
        assert!(value.as_bytes().iter().all(is_no_end), "{name}: {value:?}");
    }
}

/// Another request may follow on a connection where nothing is left of this one, and nothing speaks against it.
fn is_kept_for_a_reason(bytes: &[u8], cuts: &[u8]) {
    let open = ours(bytes, b"", Then::Waits);
    if open.end != End::Whole {
        return;
    }
    assert_eq!(ours(bytes, cuts, Then::Waits).keeps, open.keeps, "it matters how it is cut");
    let more = [bytes, b"H"].concat();
    for cuts in [cuts, b"", b"@"] {
        let more = ours(&more, cuts, Then::Waits);
        assert!(more.end == End::Whole && !more.keeps, "with what nobody asked for");
        assert_eq!(more.seen(), open.seen());
    }
    let Some((_, headers)) = open.head.as_ref().filter(|_| open.keeps) else { return };
    let said = headers.get_all(header::CONNECTION).iter();
    let said = said.map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    let mut options =
        said.flat_map(|text| text.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>());
    assert!(!options.any(|option| option == "close"), "{headers:?}");
    // Without its last byte it is not over: the end was where the framing had it.
    let less = ours(&bytes[..bytes.len() - 1], cuts, Then::Waits);
    assert!(less.end == End::Open, "{less:?}");
    assert!(hypers(bytes).1 == Version::HTTP_11);
}

/// A connection whose other side has made up its mind: it hears one request, then says its pieces.
pub struct Said {
    pieces: VecDeque<Vec<u8>>,
    then: Then,
    heard: Vec<u8>,
    /// Somebody waits for the next piece.
    is_due: bool,
    reader: Option<Waker>,
}

impl Said {
    fn new(mut bytes: &[u8], cuts: &[u8], then: Then) -> Self {
        let (mut pieces, mut cuts) = (VecDeque::new(), cuts.iter().cycle());
        while !bytes.is_empty() {
            let length = cuts.next().map_or(MOST, |cut| 1 + usize::from(cut % 64));
            let (piece, rest) = bytes.split_at(length.min(bytes.len()));
            pieces.push_back(piece.to_vec());
            bytes = rest;
        }
        Said { pieces, then, heard: Vec::new(), is_due: false, reader: None }
    }
}

impl AsyncRead for Said {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        read: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // As a socket does it: a task that has done much is put off.
        ready!(poll_proceed(context)).made_progress();
        if !self.heard.ends_with(b"\r\n\r\n") {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        // Every piece comes a little later than it is asked for.
        self.is_due = !self.is_due;
        match (self.is_due, self.pieces.pop_front()) {
            (_, None) if self.then == Then::Closes => Poll::Ready(Ok(())),
            (_, None) => Poll::Pending,
            (true, Some(piece)) => {
                self.pieces.push_front(piece);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            (false, Some(mut piece)) => {
                let rest = piece.split_off(piece.len().min(read.remaining()));
                read.put_slice(&piece);
                if !rest.is_empty() {
                    self.pieces.push_front(rest);
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Said {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.heard.extend_from_slice(bytes);
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// As much as comes in one piece.
const MOST: usize = 64 << 10;

#[cfg(test)]
mod tests;
