//! The log: one line per request, warnings for security events. Never a token, code, secret or e-mail address; never
//! a query string.

use std::cell::RefCell;
use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts logging to standard error. `MCP_AUTH_PROXY_LOG` chooses the level (default `info`), in the syntax of
/// tracing's EnvFilter.
pub fn start() {
    let filter = EnvFilter::builder().with_env_var("MCP_AUTH_PROXY_LOG");
    let filter = filter.with_default_directive(Level::INFO.into()).from_env_lossy();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr)
        .with_target(false)
        .with_ansi(false);
    // Fails only when somebody (a test, an example) logs already.
    let _ = subscriber.try_init();
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
