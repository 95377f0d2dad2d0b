//! Where the body of an answer ends. Takes bytes however they were cut, and keeps none of them but an unfinished
//! line.
//!
//! RFC 9112 §6.3, §7.1. Stricter than that where two readers could differ: every line ends with CRLF.

use super::head::Odd;

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Takes a body out of its framing.
pub struct Decoder {
    state: State,
    /// The beginning of a line whose end is still to come.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are left.
    Length(u64),
    UntilClose,
    /// The size of a chunk comes next.
    Size,
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// The end of a chunk comes next.
    ChunkEnd,
    /// Trailers come next, of so many bytes and lines at most. They could carry what headers may not, so they go
    /// nowhere.
    Trailers(usize, u8),
    Ended,
}

impl Decoder {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        };
        Decoder { state, line: Vec::new() }
    }

    /// Whether the body is complete.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// How many bytes of the body are to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Ended => Some(0),
            _ => None,
        }
    }

    /// The connection ended: `Ok` where that is how the body ends.
    pub fn close(&mut self) -> Result<(), Odd> {
        match self.state {
            State::UntilClose | State::Ended => {
                self.state = State::Ended;
                Ok(())
            }
            _ => Err(Odd("it broke off within its body")),
        }
    }

    /// The next piece of the body in `input`, which is moved on. `None`: all of it was used, or the body has
    /// ended and what is left is none of it.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Odd> {
        loop {
            match self.state {
                State::Ended => return Ok(None),
                _ if input.is_empty() => return Ok(None),
                State::UntilClose => return Ok(Some(std::mem::take(input))),
                State::Length(left) => {
                    let (piece, left) = take(input, left);
                    self.state = if left == 0 { State::Ended } else { State::Length(left) };
                    return Ok(Some(piece));
                }
                State::Chunk(left) => {
                    let (piece, left) = take(input, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(Some(piece));
                }
                state => {
                    if !self.line(input, state)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Reads a line, if its end is there.
    fn line(&mut self, input: &mut &[u8], state: State) -> Result<bool, Odd> {
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
            self.hold(std::mem::take(input))?;
            return Ok(false);
        };
        let (line, rest) = input.split_at(end + 1);
        *input = rest;
        if self.line.is_empty() {
            self.state = after(state, line)?;
        } else {
            self.hold(line)?;
            let line = std::mem::take(&mut self.line);
            self.state = after(state, &line)?;
        }
        Ok(true)
    }

    fn hold(&mut self, bytes: &[u8]) -> Result<(), Odd> {
        if self.line.len() + bytes.len() > MAX_LINE {
            return Err(TOO_LONG);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }
}

/// What comes after a line of the framing.
fn after(state: State, line: &[u8]) -> Result<State, Odd> {
    if line.len() > MAX_LINE {
        return Err(TOO_LONG);
    }
    match state {
        State::Size => match size(line)? {
            0 => Ok(State::Trailers(MAX_TRAILERS, MAX_TRAILER_LINES)),
            size => Ok(State::Chunk(size)),
        },
        State::Trailers(..) if line == b"\r\n" => Ok(State::Ended),
        State::Trailers(bytes, lines) => {
            let bytes = bytes.checked_sub(line.len()).ok_or(Odd("its trailers are too large"))?;
            let lines = lines.checked_sub(1).ok_or(Odd("it has too many trailers"))?;
            is_trailer(line).then_some(State::Trailers(bytes, lines)).ok_or(Odd("a trailer is none"))
        }
        State::ChunkEnd if line == b"\r\n" => Ok(State::Size),
        _ => Err(Odd("a chunk does not end where it said")),
    }
}

fn size(line: &[u8]) -> Result<u64, Odd> {
    const NONE: Odd = Odd("the size of a chunk is none");
    // httparse takes a line without any digit for a zero.
    if !line.first().is_some_and(u8::is_ascii_hexdigit) {
        return Err(NONE);
    }
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((used, size))) if used == line.len() => Ok(size),
        _ => Err(NONE),
    }
}

/// A line that would be a header in a head.
fn is_trailer(line: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 1];
    let Some(line) = line.strip_suffix(b"\r\n") else { return false };
    let alone = [line, b"\r\n\r\n"].concat();
    matches!(httparse::parse_headers(&alone, &mut headers), Ok(httparse::Status::Complete((used, [_]))) if used == alone.len())
}

fn take<'a>(input: &mut &'a [u8], left: u64) -> (&'a [u8], u64) {
    let now = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    let (piece, rest) = input.split_at(now);
    *input = rest;
    (piece, left - now as u64)
}

const TOO_LONG: Odd = Odd("a line of its framing is too long");
/// A size and extensions that nobody uses; a line of trailers.
const MAX_LINE: usize = 4 << 10;
const MAX_TRAILERS: usize = 16 << 10;
const MAX_TRAILER_LINES: u8 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    /// The body in these bytes when they come in pieces of this size; what is left behind it.
    fn decoded(framing: Framing, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, bool, usize), Odd> {
        let (mut decoder, mut body, mut surplus) = (Decoder::new(framing), Vec::new(), 0);
        for mut input in bytes.chunks(piece) {
            while let Some(piece) = decoder.next(&mut input)? {
                assert!(!piece.is_empty());
                body.extend_from_slice(piece);
            }
            surplus += input.len();
        }
        Ok((body, decoder.is_ended(), surplus))
    }

    #[test]
    fn bodies_end_where_they_say_however_they_are_cut() {
        let chunked =
            b"5\r\nhello\r\n00001;name=\"value\"\r\n!\r\nA  \r\n0123456789\r\n0\r\nX: y\r\n\r\nmore";
        for piece in 1..chunked.len() {
            let expected = (b"hello!0123456789".to_vec(), true, 4);
            assert_eq!(decoded(Framing::Chunked, chunked, piece), Ok(expected), "{piece}");
            assert_eq!(decoded(Framing::Length(3), b"abcde", piece), Ok((b"abc".to_vec(), true, 2)));
            assert_eq!(decoded(Framing::UntilClose, b"abc", piece), Ok((b"abc".to_vec(), false, 0)));
        }
        assert_eq!(decoded(Framing::Length(0), b"abc", 9), Ok((Vec::new(), true, 3)));
    }

    #[test]
    fn what_is_no_framing_is_refused_however_it_is_cut() {
        let long = format!("1;{}\r\nx", "a".repeat(MAX_LINE));
        let trailers = format!("0\r\n{}", format!("X: {}\r\n", "a".repeat(1 << 10)).repeat(16));
        let many = format!("0\r\n{}", "X: a\r\n".repeat(101));
        for bytes in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 1\r\n",
            "1\nx",
            "1\r\nx\n1",
            "1\r\nxy\r\n",
            "10000000000000000\r\n",
            "1;a\rb\r\nx",
            "0\r\nX: y\n\r\n",
            "0\r\nX: a\rb\r\n",
            "0\r\nX: a\0b\r\n",
            "0\r\nX: a\r\n folded\r\n",
            "0\r\nno header\r\n",
            "0\r\nHTTP/1.1 200 OK\r\n",
            &long,
            &trailers,
            &many,
        ] {
            for piece in [1, 3, bytes.len()] {
                assert!(decoded(Framing::Chunked, bytes.as_bytes(), piece).is_err(), "{bytes:?} by {piece}");
            }
        }
    }

    #[test]
    fn only_a_body_without_a_length_ends_with_its_connection() {
        let closed = |framing, bytes: &[u8]| {
            let (mut decoder, mut input) = (Decoder::new(framing), bytes);
            while decoder.next(&mut input).expect("sound").is_some() {}
            decoder.close().is_ok() && decoder.is_ended()
        };
        assert!(closed(Framing::UntilClose, b"abc"));
        assert!(closed(Framing::Length(3), b"abc"));
        for chunked in ["", "3\r\n", "3\r\nabc", "3\r\nabc\r\n", "3\r\nabc\r\n0\r\n"] {
            assert!(!closed(Framing::Chunked, chunked.as_bytes()), "{chunked:?}");
        }
        assert!(!closed(Framing::Length(4), b"abc"));
    }
}
