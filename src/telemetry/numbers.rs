//! The numbers of one resource, each found once and then only added to: to look up three series by their labels at
//! every request costs more than to judge it. What is rare is still looked up.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::metrics::{Metrics, PERMITTED, Word};

/// Numbers of a resource. A series is there from its first event on, no sooner.
pub struct Numbers {
    metrics: Arc<Metrics>,
    path: Arc<str>,
    durations: OnceLock<Histogram>,
    upstream: OnceLock<Histogram>,
    permitted: OnceLock<Counter>,
    /// In the order of [`COMMON`].
    fine: [OnceLock<Counter>; COMMON.len()],
}

impl Numbers {
    /// The numbers of the resource with this path.
    pub fn new(metrics: Arc<Metrics>, path: Arc<str>) -> Self {
        let [durations, upstream] = std::array::from_fn(|_| OnceLock::new());
        let fine = std::array::from_fn(|_| OnceLock::new());
        Numbers { metrics, path, durations, upstream, permitted: OnceLock::new(), fine }
    }

    /// A request was answered.
    pub fn request(&self, status: u16, outcome: &'static str, took: Duration) {
        let durations = self.durations.get_or_init(|| self.metrics.durations(self.word()));
        durations.observe(took.as_secs_f64());
        let common = COMMON.iter().position(|common| *common == status).filter(|_| outcome == FINE);
        let counted = || self.metrics.requests(self.word(), status, outcome);
        match common {
            Some(place) => self.fine[place].get_or_init(counted).inc(),
            None => counted().inc(),
        };
    }

    /// The gate let a request pass, or said why not.
    pub fn decision(&self, decision: &'static str) {
        let counted = || self.metrics.decisions(self.word(), decision);
        match decision == PERMITTED {
            true => self.permitted.get_or_init(counted).inc(),
            false => counted().inc(),
        };
    }

    /// The upstream was asked.
    pub fn upstream(&self, took: Duration, failure: Option<&'static str>) {
        let durations = self.upstream.get_or_init(|| self.metrics.upstreams(self.word()));
        durations.observe(took.as_secs_f64());
        if let Some(failure) = failure {
            self.metrics.upstream_failure(self.word(), failure);
        }
    }

    fn word(&self) -> Word {
        Word::Path(self.path.clone())
    }
}

/// What requests are answered with that went well: JSON or a stream, a notification, a session that ends.
const COMMON: [u16; 3] = [200, 202, 204];
/// The outcome of those.
const FINE: &str = "ok";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Snapshot;

    #[test]
    fn what_is_found_once_and_what_is_looked_up_are_one_series() {
        let metrics: Arc<Metrics> = Arc::default();
        let told = || metrics.told(&Snapshot { live_families: 0, open_requests: 0, is_ready: true });
        let numbers = || Numbers::new(metrics.clone(), "/mcp".into());
        let (before, after) = (numbers(), numbers());
        assert!(!told().contains("/mcp"), "no series before its first event");
        let took = Duration::from_millis(2);
        for numbers in [&before, &after, &before] {
            numbers.decision(PERMITTED);
            numbers.decision("forged");
            numbers.request(202, FINE, took);
            numbers.request(202, "odd", took);
            numbers.request(418, FINE, took);
            numbers.upstream(took, None);
            numbers.upstream(took, Some("unreachable"));
        }
        let told = told();
        for line in [
            "gate_decisions_total{resource=\"/mcp\",decision=\"permitted\"} 3",
            "gate_decisions_total{resource=\"/mcp\",decision=\"forged\"} 3",
            "requests_total{route=\"/mcp\",status=\"202\",outcome=\"ok\"} 3",
            "requests_total{route=\"/mcp\",status=\"202\",outcome=\"odd\"} 3",
            "requests_total{route=\"/mcp\",status=\"418\",outcome=\"ok\"} 3",
            "request_duration_seconds_count{route=\"/mcp\"} 9",
            "upstream_duration_seconds_count{resource=\"/mcp\"} 6",
            "upstream_failures_total{resource=\"/mcp\",failure=\"unreachable\"} 3",
        ] {
            assert!(told.contains(line), "{line} is not in {told}");
        }
        assert!(!told.contains("200") && !told.contains("204"));
    }
}
