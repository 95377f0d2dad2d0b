//! The log: one line per request, warnings for security events. Never a token, code, secret or e-mail address; never
//! a query string.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{MakeWriter, format};
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock;

/// Starts logging to standard error. `MCP_AUTH_PROXY_LOG` chooses the level (default `info`), in the syntax of
/// tracing's EnvFilter.
pub fn start() {
    #[expect(clippy::disallowed_methods, reason = "needed before there is a configuration")]
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let is_understood = is_understood(&wanted);
    let filter = EnvFilter::builder().with_default_directive(Level::INFO.into());
    let filter = filter.parse_lossy(if is_understood { &wanted } else { "" });
    // Fails only when somebody (a test, an example) logs already.
    OURS.store(subscriber(filter, Stderr).try_init().is_ok(), Ordering::Relaxed);
    if !is_understood {
        warn!("{VARIABLE} is not understood; it takes error, warn, info, debug, trace or off");
    }
}

fn subscriber<W>(filter: EnvFilter, to: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(to).with_timer(Stamp);
    lines.with_target(false).with_ansi(false).finish()
}

/// Whether what is logged becomes our lines, and nobody else hears of it.
pub(super) fn is_ours() -> bool {
    OURS.load(Ordering::Relaxed)
}

static OURS: AtomicBool = AtomicBool::new(false);

/// A single word that is no level would be taken for a module's name, and leave nothing else to be said.
fn is_understood(wanted: &str) -> bool {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    wanted.is_empty() || is_level(wanted) || wanted.contains('=') && wanted.parse::<EnvFilter>().is_ok()
}

/// Makes this thread collect its lines.
pub fn collect_on_this_thread() {
    LINES.with_borrow_mut(|lines| *lines = Some(Vec::with_capacity(BLOCK)));
}

/// Writes what this thread has collected.
pub fn flush() {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines.as_mut().filter(|lines| !lines.is_empty()) {
            // Nowhere to tell that standard error is closed.
            let _ = io::stderr().lock().write_all(lines);
            lines.clear();
        }
    });
}

/// Adds a line to those of this thread, or writes it where none are collected.
pub(super) fn write(line: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
    LINES.with_borrow_mut(|lines| match lines {
        Some(lines) => {
            line(lines);
            if lines.len() >= BLOCK {
                // As in `flush`.
                let _ = io::stderr().lock().write_all(lines);
                lines.clear();
            }
            Ok(())
        }
        None => {
            let mut single = Vec::new();
            line(&mut single);
            io::stderr().lock().write_all(&single)
        }
    })
}

thread_local! {
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    static SECOND: Cell<(u64, [u8; SECOND_LENGTH])> = const { Cell::new((u64::MAX, [b'0'; SECOND_LENGTH])) };
}

/// Now, as every line begins: to the microsecond, the second written once for all lines in it.
pub(super) fn stamp() -> [u8; STAMP_LENGTH] {
    let now = clock::time_of_day();
    let (mut second, mut text) = SECOND.get();
    if second != now.as_secs() {
        second = now.as_secs();
        let moment = UNIX_EPOCH + Duration::from_secs(second);
        // Ends with a Z where the fraction begins; a year beyond 9999 is not written.
        let _ = write!(&mut text[..], "{}", humantime::format_rfc3339_seconds(moment));
        text[SECOND_LENGTH - 1] = b'.';
        SECOND.set((second, text));
    }
    let mut stamp = [b'Z'; STAMP_LENGTH];
    stamp[..SECOND_LENGTH].copy_from_slice(&text);
    let mut rest = now.subsec_micros();
    for digit in stamp[SECOND_LENGTH..STAMP_LENGTH - 1].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    stamp
}

struct Stamp;

impl FormatTime for Stamp {
    fn format_time(&self, line: &mut format::Writer<'_>) -> fmt::Result {
        line.write_str(str::from_utf8(&stamp()).map_err(|_| fmt::Error)?)
    }
}

struct Stderr;

/// One event's way to standard error.
struct Line {
    urgent: bool,
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { urgent: true }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { urgent: *metadata.level() <= Level::WARN }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(|lines| lines.extend_from_slice(bytes))?;
        if self.urgent {
            flush();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const BLOCK: usize = 16 << 10;
/// `2026-08-01T12:00:00.`
const SECOND_LENGTH: usize = 20;
/// `2026-08-01T12:00:00.000000Z`
const STAMP_LENGTH: usize = 27;
const VARIABLE: &str = "MCP_AUTH_PROXY_LOG";

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What this thread is told in the meantime, as it would be written.
    pub(in crate::telemetry) fn lines(telling: impl FnOnce()) -> String {
        let collected: Arc<Mutex<Vec<u8>>> = Arc::default();
        let to = collected.clone();
        let filter = EnvFilter::builder().with_default_directive(Level::INFO.into()).parse_lossy("");
        tracing::subscriber::with_default(subscriber(filter, move || Shared(to.clone())), telling);
        let lines = collected.lock().expect("nobody panicked").clone();
        String::from_utf8(lines).expect("text")
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_begins_with_the_time_to_the_microsecond() {
        let stamps: Vec<String> =
            (0..3).map(|_| String::from_utf8(stamp().to_vec()).expect("text")).collect();
        assert!(stamps.is_sorted(), "{stamps:?}");
        for stamp in stamps {
            let moment = humantime::parse_rfc3339(&stamp).expect("a moment");
            let since = clock::time_of_day().abs_diff(moment.duration_since(UNIX_EPOCH).expect("now"));
            assert!(since < Duration::from_secs(5), "{stamp}");
            assert_eq!(humantime::format_rfc3339_micros(moment).to_string(), stamp);
        }
        let line = lines(|| warn!("x"));
        assert_eq!(&line[STAMP_LENGTH..], "  WARN x\n");
        assert!(humantime::parse_rfc3339(&line[..STAMP_LENGTH]).is_ok(), "{line}");
    }

    #[test]
    fn a_word_that_is_no_level_does_not_silence_the_log() {
        for fine in ["", "debug", "WARN", "off", "info,mcp_auth_proxy::gate=debug"] {
            assert!(is_understood(fine), "{fine}");
        }
        for bad in ["verbose", "debug verbose", "a=loud"] {
            assert!(!is_understood(bad), "{bad}");
        }
    }
}
