//! What operators see of the program: log lines, numbers, an audit trail, traces. Knows nothing of what it is told
//! about; every room may tell it something, and it tells nobody anything secret.

pub mod audit;
pub mod call;
pub mod line;
mod log;
pub mod metrics;
pub mod numbers;
pub mod scrape;
pub mod traces;

use std::sync::Arc;

use crate::clock::Clock;
use audit::{Audit, Event};
pub use log::start;
use metrics::Metrics;
use traces::Tracer;

/// Makes this thread collect its lines of log and trail; [`flush`] writes them. A line per request written by itself
/// would cost a system call, one sent through a channel a wake-up.
pub fn collect_on_this_thread() {
    log::collect_on_this_thread();
    audit::collect_on_this_thread();
}

/// Writes what this thread has collected.
pub fn flush() {
    log::flush();
    audit::flush();
}

/// Everything that is told of to operators, but for the log, which is the thread's.
#[derive(Clone)]
pub struct Telemetry {
    /// Counted for the whole life of the program.
    pub metrics: Arc<Metrics>,
    audit: Option<Arc<Audit>>,
    /// Absent unless configured.
    pub tracer: Option<Tracer>,
    clock: Clock,
}

impl Telemetry {
    /// Numbers always; a trail and traces where they are wanted.
    pub fn new(
        metrics: Arc<Metrics>,
        audit: Option<Arc<Audit>>,
        tracer: Option<Tracer>,
        clock: Clock,
    ) -> Self {
        Telemetry { metrics, audit, tracer, clock }
    }

    /// For tests of single rooms.
    pub fn silent(clock: Clock) -> Self {
        Telemetry::new(Arc::default(), None, None, clock)
    }

    /// Writes an event to the trail, if there is one.
    pub fn audit(&self, event: &Event<'_>) {
        if let Some(audit) = &self.audit {
            audit.write(self.clock.now(), event);
        }
    }

    /// Whether there is a trail.
    pub fn has_trail(&self) -> bool {
        self.audit.is_some()
    }

    /// Whether anybody wants to know what messages ask for.
    pub fn reads_calls(&self) -> bool {
        self.audit.is_some() || self.tracer.is_some()
    }
}
