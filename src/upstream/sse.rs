//! An event stream on its way to a client: the legacy `endpoint` event rewritten, comments while it is
//! silent, its permit looked at again while it lives. Frames pass as they come.
//!
//! HTML Living Standard §9.2 (event stream format); MCP transport 2024-11-05.

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, Sleep, sleep};

use super::session::Endpoints;
use crate::clock;
use crate::gate::PermitWatch;

/// What a stream needs beside its frames. There are many, and most are silent.
pub struct Stream {
    /// Gone after the first event.
    rewriter: Option<Box<Rewriter>>,
    tail: Tail,
    watch: PermitWatch,
    /// None where a comment would not be one.
    keep_alive: Option<Duration>,
    /// When something was last passed on.
    last: Instant,
    recheck: Duration,
    next_look: Instant,
    checking: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    /// Until there may be something to be done; not moved when something passes, which happens more often.
    timer: Pin<Box<Sleep>>,
}

/// Why a stream is cut.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut {
    /// The permit is gone.
    Revoked,
    /// The upstream names an endpoint at another origin.
    ForeignEndpoint,
}

impl Stream {
    pub fn new(
        endpoints: Option<Endpoints>,
        watch: PermitWatch,
        keep_alive: Duration,
        recheck: Duration,
    ) -> Self {
        let rewriter = endpoints.map(|endpoints| Box::new(Rewriter::new(endpoints)));
        let silent = Stream::silent(watch, recheck);
        Stream {
            rewriter,
            keep_alive: Some(keep_alive),
            timer: Box::pin(sleep(keep_alive.min(recheck))),
            ..silent
        }
    }

    /// For bytes that we cannot read as events: only the permit is looked at.
    pub fn silent(watch: PermitWatch, recheck: Duration) -> Self {
        let now = clock::moment();
        Stream {
            rewriter: None,
            tail: Tail::default(),
            watch,
            keep_alive: None,
            last: now,
            recheck,
            next_look: now + recheck,
            checking: None,
            timer: Box::pin(sleep(recheck)),
        }
    }

    /// What to send for a frame that arrived; empty while the first event is incomplete.
    pub fn arrived(&mut self, data: Bytes) -> Result<Bytes, Cut> {
        if self.watch.is_ended() {
            return Err(Cut::Revoked);
        }
        if self.keep_alive.is_some() {
            self.last = clock::moment();
        }
        let data = match &mut self.rewriter {
            Some(rewriter) => rewriter.pass(data)?,
            None => data,
        };
        if self.rewriter.as_ref().is_some_and(|rewriter| rewriter.is_done()) {
            self.rewriter = None;
        }
        self.tail.note(&data);
        Ok(data)
    }

    /// What is left when the upstream ended within its first event.
    pub fn rest(&mut self) -> Option<Bytes> {
        self.rewriter.take().map(|rewriter| rewriter.into_rest()).filter(|rest| !rest.is_empty())
    }

    /// Whether all that was passed on ends with a whole event, and nothing is held back.
    pub fn is_between_events(&self) -> bool {
        self.tail.is_between_events() && self.rewriter.as_ref().is_none_or(|rewriter| rewriter.is_empty())
    }

    /// Time passes: a comment when the stream is silent between two events, an end when the permit is gone.
    pub fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Cut>> {
        loop {
            if self.is_revoked(context) {
                return Poll::Ready(Err(Cut::Revoked));
            }
            ready!(self.timer.as_mut().poll(context));
            let now = clock::moment();
            if now >= self.next_look && self.checking.is_none() {
                self.checking = Some(Box::pin(self.watch.clone().still_holds()));
                self.next_look = now + self.recheck;
            }
            let is_silent = self.keep_alive.is_some_and(|period| now >= self.last + period);
            if is_silent {
                self.last = now;
            }
            let comment = self.keep_alive.map(|period| self.last + period);
            let next = comment.map_or(self.next_look, |comment| comment.min(self.next_look));
            // A look that is under way is waited for by itself.
            self.timer.as_mut().reset(next.max(now + SHORTEST));
            if is_silent && self.is_between_events() {
                return Poll::Ready(Ok(Bytes::from_static(KEEP_ALIVE)));
            }
        }
    }

    /// Whether the permit is gone.
    fn is_revoked(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(checking) = &mut self.checking
            && let Poll::Ready(holds) = checking.as_mut().poll(context)
        {
            self.checking = None;
            return !holds;
        }
        self.watch.is_ended()
    }
}

/// Remembers how the bytes so far end: between two events is the only place where a comment may go.
struct Tail([u8; 3]);

impl Default for Tail {
    fn default() -> Self {
        // As if an event had just ended.
        Tail(*b"\n\n\n")
    }
}

impl Tail {
    fn note(&mut self, data: &[u8]) {
        // However the bytes were cut into frames: what counts is the last three of all of them.
        for byte in &data[data.len().saturating_sub(3)..] {
            self.0 = [self.0[1], self.0[2], *byte];
        }
    }

    /// Whether the last line is an empty one. A CR alone may be the first half of a line end.
    fn is_between_events(&self) -> bool {
        matches!(self.0, [_, b'\n', b'\n'] | [b'\n' | b'\r', b'\r', b'\n'] | [_, b'\r', b'\r'])
    }
}

/// Waits for the first event; if that is `endpoint`, its URI becomes ours. Every other byte passes as it came,
/// however the stream is cut into frames.
struct Rewriter {
    endpoints: Endpoints,
    held: BytesMut,
    /// Whether the next byte is the stream's first: only there a byte order mark is none of the text.
    at_start: bool,
    done: bool,
}

impl Rewriter {
    fn new(endpoints: Endpoints) -> Self {
        Rewriter { endpoints, held: BytesMut::new(), at_start: true, done: false }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn into_rest(self) -> Bytes {
        self.held.freeze()
    }

    fn pass(&mut self, data: Bytes) -> Result<Bytes, Cut> {
        self.held.extend_from_slice(&data);
        let mut out = BytesMut::new();
        while !self.done {
            // Empty lines before a block mean nothing, and may be the second half of the line end before.
            let empty = self.held.iter().take_while(|byte| is_line_end(**byte)).count();
            self.at_start &= empty == 0;
            out.extend_from_slice(&self.held.split_to(empty));
            match block_end(&self.held) {
                Some((text, end)) if text <= MAX_HELD => {
                    let block = self.held.split_to(end);
                    self.block(&block, &mut out)?;
                }
                None if self.held.len() <= MAX_HELD => break,
                // An endpoint is short: what grows longer than this is another kind of event.
                _ => self.done = true,
            }
        }
        if self.done {
            out.extend_from_slice(&self.held.split());
        }
        Ok(out.freeze())
    }

    /// The lines up to an empty one: an event, or nothing but comments and settings.
    fn block(&mut self, block: &[u8], out: &mut BytesMut) -> Result<(), Cut> {
        let marked = std::mem::take(&mut self.at_start) && block.starts_with(MARK);
        let (mark, text) = block.split_at(if marked { MARK.len() } else { 0 });
        let name = lines(text).filter(|line| line.field == b"event").last().map(|line| line.value);
        let uri: Vec<&[u8]> =
            lines(text).filter(|line| line.field == b"data").map(|line| line.value).collect();
        // Without data nothing reaches the client, whatever the name: the first event is still to come.
        self.done = !uri.is_empty();
        if uri.is_empty() || name != Some(b"endpoint") {
            out.extend_from_slice(block);
            return Ok(());
        }
        let uri = uri.join(&b'\n');
        let ours = self.endpoints.rewrite(&String::from_utf8_lossy(&uri)).ok_or(Cut::ForeignEndpoint)?;
        let mut ours = Some(ours);
        out.extend_from_slice(mark);
        for line in lines(text) {
            if line.field != b"data" {
                out.extend_from_slice(line.before);
                out.extend_from_slice(line.value);
                out.extend_from_slice(line.end);
            } else if let Some(ours) = ours.take() {
                // A field without a colon has no value that could be replaced.
                let before = if line.before == b"data" { b"data: " } else { line.before };
                out.extend_from_slice(before);
                out.extend_from_slice(ours.as_bytes());
                out.extend_from_slice(line.end);
            }
        }
        Ok(())
    }
}

/// One line of an event stream; `before`, `value` and `end` together are its bytes.
struct Line<'a> {
    field: &'a [u8],
    before: &'a [u8],
    value: &'a [u8],
    end: &'a [u8],
}

/// The lines of whole lines.
fn lines(mut rest: &[u8]) -> impl Iterator<Item = Line<'_>> {
    std::iter::from_fn(move || {
        let length = rest.iter().position(|byte| is_line_end(*byte))?;
        let (text, after) = rest.split_at(length);
        let (end, after) = after.split_at(line_end(after));
        rest = after;
        let colon = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
        let value = match &text[colon..] {
            [b':', b' ', value @ ..] | [b':', value @ ..] | value => value,
        };
        Some(Line { field: &text[..colon], before: &text[..text.len() - value.len()], value, end })
    })
}

/// How long the block is that the data begins with, up to its empty line and with it.
fn block_end(data: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    loop {
        let next = at + data.get(at..)?.iter().position(|byte| is_line_end(*byte))?;
        let end = next + line_end(&data[next..]);
        if next == at {
            return Some((next, end));
        }
        at = end;
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// The bytes of the line end that the data begins with; a CR that is the last byte so far counts as one.
fn line_end(data: &[u8]) -> usize {
    if data.starts_with(b"\r\n") { 2 } else { 1 }
}

/// Of a timer, whatever is configured.
const SHORTEST: Duration = Duration::from_millis(1);
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
/// U+FEFF in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";
const MAX_HELD: usize = 16 << 10;

#[cfg(test)]
mod tests;
