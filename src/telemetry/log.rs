//! The log: one line per request, warnings for security events. Never a token, code, secret or e-mail address; never
//! a query string.

use std::cell::RefCell;
use std::io::{self, Write};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts logging to standard error. `MCP_AUTH_PROXY_LOG` chooses the level (default `info`), in the syntax of
/// tracing's EnvFilter.
pub fn start() {
    #[expect(clippy::disallowed_methods, reason = "needed before there is a configuration")]
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let is_understood = is_understood(&wanted);
    let filter = EnvFilter::builder().with_default_directive(Level::INFO.into());
    let filter = filter.parse_lossy(if is_understood { &wanted } else { "" });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr)
        .with_target(false)
        .with_ansi(false);
    // Fails only when somebody (a test, an example) logs already.
    let _ = subscriber.try_init();
    if !is_understood {
        warn!("{VARIABLE} is not understood; it takes error, warn, info, debug, trace or off");
    }
}

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

thread_local! {
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
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
        let full = LINES.with_borrow_mut(|lines| match lines {
            Some(lines) => {
                lines.extend_from_slice(bytes);
                Some(lines.len() >= BLOCK)
            }
            None => None,
        });
        match full {
            Some(full) => {
                if full || self.urgent {
                    flush();
                }
                Ok(bytes.len())
            }
            None => io::stderr().lock().write_all(bytes).map(|()| bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const BLOCK: usize = 16 << 10;
const VARIABLE: &str = "MCP_AUTH_PROXY_LOG";

#[cfg(test)]
mod tests {
    use super::*;

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
