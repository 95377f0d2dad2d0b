//! An event stream on its way to a client: the legacy `endpoint` event rewritten, comments while it is
//! silent, its permit looked at again while it lives. Frames pass as they come.
//!
//! HTML Living Standard §9.2 (event stream format); MCP transport 2024-11-05.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, Sleep, sleep};

use super::session::Endpoints;
use crate::gate::PermitWatch;

/// What a stream needs beside its frames.
pub struct Stream {
    rewriter: Option<Rewriter>,
    tail: Tail,
    watch: PermitWatch,
    /// None where a comment would not be one.
    keep_alive: Option<(Duration, Pin<Box<Sleep>>)>,
    recheck: (Duration, Pin<Box<Sleep>>),
    checking: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
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
        Stream {
            rewriter: endpoints.map(Rewriter::new),
            tail: Tail::default(),
            watch,
            keep_alive: Some((keep_alive, Box::pin(sleep(keep_alive)))),
            recheck: (recheck, Box::pin(sleep(recheck))),
            checking: None,
        }
    }

    /// For bytes that we cannot read as events: only the permit is looked at.
    pub fn silent(watch: PermitWatch, recheck: Duration) -> Self {
        Stream {
            rewriter: None,
            tail: Tail::default(),
            watch,
            keep_alive: None,
            recheck: (recheck, Box::pin(sleep(recheck))),
            checking: None,
        }
    }

    /// What to send for a frame that arrived; empty while the first event is incomplete.
    pub fn arrived(&mut self, data: Bytes) -> Result<Bytes, Cut> {
        if self.watch.is_ended() {
            return Err(Cut::Revoked);
        }
        if let Some((period, timer)) = &mut self.keep_alive {
            timer.as_mut().reset(Instant::now() + *period);
        }
        let data = match &mut self.rewriter {
            Some(rewriter) => rewriter.pass(data)?,
            None => data,
        };
        if self.rewriter.as_ref().is_some_and(Rewriter::is_done) {
            self.rewriter = None;
        }
        self.tail.note(&data);
        Ok(data)
    }

    /// What is left when the upstream ended within its first event.
    pub fn rest(&mut self) -> Option<Bytes> {
        self.rewriter.take().map(Rewriter::into_rest).filter(|rest| !rest.is_empty())
    }

    /// Time passes: a comment when the stream is silent between two events, an end when the permit is gone.
    pub fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Cut>> {
        if self.poll_permit(context).is_ready() {
            return Poll::Ready(Err(Cut::Revoked));
        }
        let Some((period, timer)) = &mut self.keep_alive else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(context));
            timer.as_mut().reset(Instant::now() + *period);
            if self.tail.is_between_events() && self.rewriter.as_ref().is_none_or(Rewriter::is_empty) {
                return Poll::Ready(Ok(Bytes::from_static(KEEP_ALIVE)));
            }
        }
    }

    /// Ready once the permit is gone.
    fn poll_permit(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.watch.is_ended() {
                return Poll::Ready(());
            }
            if let Some(checking) = &mut self.checking {
                let holds = ready!(checking.as_mut().poll(context));
                self.checking = None;
                if !holds {
                    return Poll::Ready(());
                }
            }
            let (period, timer) = &mut self.recheck;
            ready!(timer.as_mut().poll(context));
            timer.as_mut().reset(Instant::now() + *period);
            self.checking = Some(Box::pin(self.watch.clone().still_holds()));
        }
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

/// Waits for the first event; if that is `endpoint`, its URI becomes ours.
struct Rewriter {
    endpoints: Endpoints,
    held: BytesMut,
    done: bool,
}

impl Rewriter {
    fn new(endpoints: Endpoints) -> Self {
        Rewriter { endpoints, held: BytesMut::new(), done: false }
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
        while let Some(end) = event_end(&self.held) {
            let event = self.held.split_to(end);
            match Event::read(&event) {
                Event::Comment => out.extend_from_slice(&event),
                Event::Other => {
                    out.extend_from_slice(&event);
                    self.done = true;
                }
                Event::Endpoint(uri) => {
                    let ours = self.endpoints.rewrite(&uri).ok_or(Cut::ForeignEndpoint)?;
                    out.extend_from_slice(format!("event: endpoint\ndata: {ours}\n\n").as_bytes());
                    self.done = true;
                }
            }
            if self.done {
                break;
            }
        }
        // An endpoint is short: what grows longer than this is another kind of event.
        self.done |= self.held.len() > MAX_HELD;
        if self.done {
            out.extend_from_slice(&self.held.split());
        }
        Ok(out.freeze())
    }
}

enum Event {
    /// Nothing but comments or `retry`.
    Comment,
    Endpoint(String),
    Other,
}

impl Event {
    fn read(event: &[u8]) -> Self {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let (mut name, mut data) = (None, None);
        for line in text.split(['\n', '\r']) {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => name = Some(value),
                "data" => data = Some(value),
                _ => {}
            }
        }
        match (name, data) {
            (Some("endpoint"), Some(uri)) => Event::Endpoint(uri.to_owned()),
            (None, None) => Event::Comment,
            _ => Event::Other,
        }
    }
}

/// Just behind the first empty line.
fn event_end(data: &[u8]) -> Option<usize> {
    let mut line_start = 0;
    let mut at = 0;
    while at < data.len() {
        let width = match data[at] {
            b'\n' => 1,
            b'\r' if data.get(at + 1) == Some(&b'\n') => 2,
            b'\r' => 1,
            _ => {
                at += 1;
                continue;
            }
        };
        if at == line_start && at > 0 {
            return Some(at + width);
        }
        at += width;
        line_start = at;
    }
    None
}

const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
const MAX_HELD: usize = 16 << 10;

#[cfg(test)]
mod tests;
