//! The log: one line per request, warnings for security events. Never a token, code, secret or e-mail address; never
//! a query string.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{MakeWriter, format};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock;

/// Starts logging to standard error. `MCP_AUTH_PROXY_LOG` chooses the level (default `info`), also by
/// module: `info,mcp_auth_proxy::gate=debug`.
pub fn start() {
    #[expect(clippy::disallowed_methods, reason = "needed before there is a configuration")]
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let understood = understood(&wanted);
    let is_understood = understood.is_some();
    let chosen = understood.unwrap_or_else(usual);
    // Fails only when somebody (a test, an example) logs already.
    OURS.store(subscriber(chosen, Stderr).try_init().is_ok(), Ordering::Relaxed);
    if !is_understood {
        warn!("{VARIABLE} is not understood; it takes error, warn, info, debug, trace or off");
    }
}

fn subscriber<W>(chosen: Targets, to: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(to).with_timer(Stamp);
    tracing_subscriber::registry().with(lines.with_target(false).with_ansi(false)).with(chosen)
}

/// Whether what is logged becomes our lines, and nobody else hears of it.
pub(super) fn is_ours() -> bool {
    OURS.load(Ordering::Relaxed)
}

static OURS: AtomicBool = AtomicBool::new(false);

/// What is to be said, by module. A single word that is no level would be taken for a module's name, and leave nothing
/// else to be said.
fn understood(wanted: &str) -> Option<Targets> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let parts: Vec<&str> = wanted.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    match parts.join(",").as_str() {
        "" => Some(usual()),
        parts if is_level(parts) || parts.contains('=') => parts.parse().ok(),
        _ => None,
    }
}

fn usual() -> Targets {
    Targets::new().with_default(Level::INFO)
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
        tracing::subscriber::with_default(subscriber(usual(), move || Shared(to.clone())), telling);
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
        for fine in ["", "debug", "WARN", "off", "info, mcp_auth_proxy::gate=debug,"] {
            assert!(understood(fine).is_some(), "{fine}");
        }
        assert_eq!(
            understood("warn,a=debug").map(|chosen| chosen.to_string()),
            Some("a=debug,warn".to_owned())
        );
        for bad in ["verbose", "debug verbose", "a=loud"] {
            assert!(understood(bad).is_none(), "{bad}");
        }
    }
}
