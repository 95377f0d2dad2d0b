//! Properties of event streams: what the rewriter does to a whole stream, and where a comment may go.

use bytes::Bytes;

use super::{Cut, KEEP_ALIVE, MARK, MAX_HELD, Rewriter, Tail};
use crate::upstream::fuzzing::{seals, target};
use crate::upstream::session::{Binding, Endpoints};

/// The first line says how the rest is cut: each byte is the size of a piece (digits count as themselves).
pub fn sse(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (sizes, stream) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let pieces = pieces(stream, sizes);
    assert_eq!(passed(&pieces), expected(stream), "in pieces of {sizes:?}");
    comments(&pieces);
}

fn pieces<'a>(mut stream: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut sizes = sizes.iter().cycle().map(|size| match size {
        b'0'..=b'9' => usize::from(size - b'0').max(1),
        size => usize::from(*size).max(1),
    });
    let mut pieces = Vec::new();
    while !stream.is_empty() {
        let (piece, rest) = stream.split_at(sizes.next().unwrap_or(stream.len()).min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

fn endpoints() -> Endpoints {
    let seals = seals();
    let binding = Binding::new(&seals, 42);
    binding.endpoints(&target("http://127.0.0.1:9000/sse"), None, "/mcp")
}

fn passed(pieces: &[&[u8]]) -> Result<Vec<u8>, Cut> {
    let mut rewriter = Rewriter::new(endpoints());
    let mut out = Vec::new();
    for piece in pieces {
        match rewriter.is_done() {
            true => out.extend_from_slice(piece),
            false => out.extend_from_slice(&rewriter.pass(Bytes::copy_from_slice(piece))?),
        }
    }
    out.extend_from_slice(&rewriter.into_rest());
    Ok(out)
}

/// The same for a whole stream, written as naively as the standard is.
fn expected(stream: &[u8]) -> Result<Vec<u8>, Cut> {
    let lines = lines(stream);
    let mut at = 0;
    while let Some(first) = lines[at..].iter().position(|line| !line.text.is_empty()) {
        let begin = at + first;
        let Some(length) = lines[begin..].iter().position(|line| line.text.is_empty()) else { break };
        let block = &lines[begin..begin + length];
        let bytes: usize = block.iter().map(|line| line.text.len() + line.end.len()).sum();
        if bytes > MAX_HELD {
            break;
        }
        let values = |name: &[u8]| -> Vec<&[u8]> {
            block.iter().filter(|line| line.field() == name).map(Line::value).collect()
        };
        let (names, data) = (values(b"event"), values(b"data"));
        if !data.is_empty() {
            return match names.last().is_some_and(|name| *name == b"endpoint") {
                true => replaced(stream, begin..begin + length, &data),
                false => Ok(stream.to_vec()),
            };
        }
        at = begin + length;
    }
    Ok(stream.to_vec())
}

/// The stream with the data of one block replaced by what our endpoint is.
fn replaced(stream: &[u8], block: std::ops::Range<usize>, data: &[&[u8]]) -> Result<Vec<u8>, Cut> {
    let uri = String::from_utf8_lossy(&data.join(&b'\n')).into_owned();
    let ours = endpoints().rewrite(&uri).ok_or(Cut::ForeignEndpoint)?;
    let (mut out, mut said, lines) = (Vec::new(), false, lines(stream));
    for (number, line) in lines.iter().enumerate() {
        if !block.contains(&number) || line.field() != b"data" {
            out.extend_from_slice(line.text);
            out.extend_from_slice(line.end);
        } else if !said {
            said = true;
            let kept = &line.text[..line.text.len() - line.value().len()];
            out.extend_from_slice(if kept.ends_with(b"data") { &line.text[..kept.len() - 4] } else { b"" });
            out.extend_from_slice(if kept.ends_with(b"data") { b"data: " } else { kept });
            out.extend_from_slice(ours.as_bytes());
            out.extend_from_slice(line.end);
        }
    }
    let ended: usize = lines.iter().map(|line| line.text.len() + line.end.len()).sum();
    out.extend_from_slice(&stream[ended..]);
    Ok(out)
}

/// Wherever the tail lets a comment in, the events stay what they were.
fn comments(pieces: &[&[u8]]) {
    let (mut tail, mut with) = (Tail::default(), Vec::new());
    for piece in pieces {
        tail.note(piece);
        with.extend_from_slice(piece);
        if tail.is_between_events() {
            with.extend_from_slice(KEEP_ALIVE);
        }
    }
    let stream = pieces.concat();
    assert_eq!(events(&with), events(&stream), "with comments");
}

type Event = (Vec<u8>, Vec<Vec<u8>>);

/// Name and data of every event that a client would see.
fn events(stream: &[u8]) -> Vec<Event> {
    let (mut events, mut event) = (Vec::new(), Event::default());
    for line in lines(stream) {
        match (line.text.is_empty(), line.field()) {
            (true, _) => events.extend(Some(std::mem::take(&mut event)).filter(|event| !event.1.is_empty())),
            (_, b"event") => event.0 = line.value().to_vec(),
            (_, b"data") => event.1.push(line.value().to_vec()),
            _ => {}
        }
    }
    events
}

struct Line<'a> {
    text: &'a [u8],
    end: &'a [u8],
    /// Whether a byte order mark may be the first thing in it.
    first: bool,
}

impl<'a> Line<'a> {
    fn parts(&self) -> (&'a [u8], &'a [u8]) {
        let text = self.text.strip_prefix(MARK).filter(|_| self.first).unwrap_or(self.text);
        match text.iter().position(|byte| *byte == b':') {
            Some(colon) => (&text[..colon], &text[colon + 1..]),
            None => (text, b""),
        }
    }

    fn field(&self) -> &'a [u8] {
        self.parts().0
    }

    fn value(&self) -> &'a [u8] {
        let value = self.parts().1;
        value.strip_prefix(b" ").unwrap_or(value)
    }
}

/// All lines; what the stream ends with is none unless it is ended.
fn lines(stream: &[u8]) -> Vec<Line<'_>> {
    let (mut lines, mut begin, mut at) = (Vec::new(), 0, 0);
    while at < stream.len() {
        let width = match (stream[at], stream.get(at + 1)) {
            (b'\r', Some(b'\n')) => 2,
            (b'\r' | b'\n', _) => 1,
            _ => 0,
        };
        if width > 0 {
            let (text, end) = (&stream[begin..at], &stream[at..at + width]);
            lines.push(Line { text, end, first: begin == 0 });
            begin = at + width;
        }
        at += width.max(1);
    }
    lines
}
