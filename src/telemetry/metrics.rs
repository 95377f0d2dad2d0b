//! Numbers for operators, in the format that Prometheus reads. Every label has few values: words of ours, and the
//! paths of the configuration; never anything that a stranger chooses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A value of a label.
#[derive(Clone, Debug)]
pub enum Word {
    /// One of ours.
    Own(&'static str),
    /// The path of a resource.
    Path(Arc<str>),
    /// A status.
    Number(u16),
}

impl Word {
    /// As it is shown.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Word::Own(word) => (*word).into(),
            Word::Path(path) => (&**path).into(),
            Word::Number(number) => number.to_string().into(),
        }
    }
}

impl PartialEq for Word {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Word::Number(one), Word::Number(other)) => one == other,
            (Word::Number(_), _) | (_, Word::Number(_)) => false,
            (one, other) => one.text() == other.text(),
        }
    }
}

impl Eq for Word {}

impl std::hash::Hash for Word {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Word::Number(number) => number.hash(state),
            word => word.text().hash(state),
        }
    }
}

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&self.text(), encoder)
    }
}

type Labels<const N: usize> = [(&'static str, Word); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Timings<const N: usize> = Family<Labels<N>, Histogram, Buckets>;

/// From a tenth of a millisecond to a minute and a half, each twice to three times the one before.
#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 90.0])
    }
}

/// What is counted, for the whole life of the program.
pub struct Metrics {
    registry: Registry,
    requests: Counters<3>,
    durations: Timings<1>,
    decisions: Counters<2>,
    logins: Counters<1>,
    login_failures: Counters<2>,
    tokens: Counters<2>,
    upstreams: Timings<1>,
    upstream_failures: Counters<2>,
    ejected: Family<Labels<1>, Gauge>,
    github: Timings<1>,
    github_calls: Counters<2>,
    github_remaining: Gauge,
    store: Timings<1>,
    store_failures: Counters<1>,
    families: Gauge,
    requests_open: Gauge,
    streams: Gauge,
    ready: Gauge,
    reloads: Counters<1>,
}

/// What is looked up when somebody asks.
pub struct Snapshot {
    /// Families in the gate's cache.
    pub live_families: usize,
    /// Requests and streams of people.
    pub open_requests: usize,
    pub is_ready: bool,
}

/// One that is open, until it is dropped.
pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How many replicas of an upstream are left out.
pub struct Ejected(Gauge);

impl Ejected {
    /// One more.
    pub fn more(&self) {
        self.0.inc();
    }

    /// One fewer.
    pub fn fewer(&self) {
        self.0.dec();
    }
}

fn labels<const N: usize>(labels: [(&'static str, Word); N]) -> Labels<N> {
    labels
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mcp_auth_proxy");
        let (requests, durations) = (Counters::default(), Timings::new_with_constructor(Buckets));
        let (decisions, logins, login_failures) =
            (Counters::default(), Counters::default(), Counters::default());
        let (tokens, upstreams) = (Counters::default(), Timings::new_with_constructor(Buckets));
        let (upstream_failures, github) = (Counters::default(), Timings::new_with_constructor(Buckets));
        let (github_calls, github_remaining) = (Counters::default(), Gauge::default());
        let (store, store_failures) = (Timings::new_with_constructor(Buckets), Counters::default());
        let [families, requests_open, streams, ready] = std::array::from_fn(|_| Gauge::default());
        let (ejected, reloads) = (Family::default(), Counters::default());
        let of = &mut registry;
        of.register("requests", "Requests answered, by route, status and outcome", requests.clone());
        of.register("request_duration_seconds", "Until the head of the answer, by route", durations.clone());
        of.register("gate_decisions", "What the gate said to requests for a resource", decisions.clone());
        of.register("logins", "Logins that came to a step of their way", logins.clone());
        of.register("login_failures", "Logins that ended at a step, by reason", login_failures.clone());
        of.register("tokens", "What grants came to", tokens.clone());
        of.register("upstream_duration_seconds", "Until the head of an upstream's answer", upstreams.clone());
        of.register(
            "upstream_failures",
            "Requests without a usable answer of the upstream",
            upstream_failures.clone(),
        );
        let told = "Replicas of an upstream that are left out, because they were not reached or broke off";
        of.register("upstream_replicas_ejected", told, ejected.clone());
        of.register("github_duration_seconds", "Calls to GitHub", github.clone());
        of.register("github_calls", "Calls to GitHub, by what came of them", github_calls.clone());
        let told = "What GitHub last said is left of the app's own limit; -1 before it said anything";
        of.register("github_rate_limit_remaining", told, github_remaining.clone());
        of.register("store_duration_seconds", "Questions to the store, by verb", store.clone());
        of.register(
            "store_failures",
            "Questions to the store that were not answered",
            store_failures.clone(),
        );
        of.register(
            "live_families",
            "Grants whose clients were active in the last two minutes",
            families.clone(),
        );
        of.register("open_requests", "Requests and streams of people that are open", requests_open.clone());
        of.register("open_streams", "Event streams that are open", streams.clone());
        of.register("ready", "1 while requests are welcome", ready.clone());
        of.register(
            "config_reloads",
            "Changes of the configuration while running, by outcome",
            reloads.clone(),
        );
        let build: Family<Labels<1>, Gauge> = Family::default();
        build.get_or_create(&labels([("version", Word::Own(env!("CARGO_PKG_VERSION")))])).set(1);
        of.register("build", "1, with the version of this program", build);
        github_remaining.set(-1);
        // A series that is born with its first event hides that one from Prometheus, and here it is the one that counts.
        for grant in ["authorization_code", "refresh_token"] {
            tokens
                .get_or_create(&labels([("grant", Word::Own(grant)), ("outcome", Word::Own("reused"))]))
                .inc_by(0);
        }
        for outcome in ["applied", "refused", "invalid"] {
            reloads.get_or_create(&labels([("outcome", Word::Own(outcome))])).inc_by(0);
        }
        Metrics {
            registry,
            requests,
            durations,
            decisions,
            logins,
            login_failures,
            tokens,
            upstreams,
            upstream_failures,
            ejected,
            github,
            github_calls,
            github_remaining,
            store,
            store_failures,
            families,
            requests_open,
            streams,
            ready,
            reloads,
        }
    }
}

impl Metrics {
    /// A request was answered that was not for a resource: those have [`Numbers`](super::numbers::Numbers).
    pub fn request(&self, route: Word, status: u16, outcome: &'static str, took: Duration) {
        self.durations(route.clone()).observe(took.as_secs_f64());
        self.requests(route, status, outcome).inc();
    }

    pub(super) fn durations(&self, route: Word) -> Histogram {
        self.durations.get_or_create_owned(&labels([("route", route)]))
    }

    pub(super) fn requests(&self, route: Word, status: u16, outcome: &'static str) -> Counter {
        self.requests.get_or_create_owned(&labels([
            ("route", route),
            ("status", Word::Number(status)),
            ("outcome", Word::Own(outcome)),
        ]))
    }

    /// What the gate said to requests for a resource.
    pub(super) fn decisions(&self, resource: Word, decision: &'static str) -> Counter {
        let labels = labels([("resource", resource), ("decision", Word::Own(decision))]);
        self.decisions.get_or_create_owned(&labels)
    }

    /// A login came to a step of its way.
    pub fn login(&self, step: &'static str) {
        self.logins.get_or_create(&labels([("step", Word::Own(step))])).inc();
    }

    /// A login ended at a step.
    pub fn login_failure(&self, step: &'static str, reason: &'static str) {
        self.login_failures
            .get_or_create(&labels([("step", Word::Own(step)), ("reason", Word::Own(reason))]))
            .inc();
    }

    /// A grant was asked for tokens.
    pub fn token(&self, grant: &'static str, outcome: &'static str) {
        self.tokens
            .get_or_create(&labels([("grant", Word::Own(grant)), ("outcome", Word::Own(outcome))]))
            .inc();
    }

    /// How long an upstream took.
    pub(super) fn upstreams(&self, resource: Word) -> Histogram {
        self.upstreams.get_or_create_owned(&labels([("resource", resource)]))
    }

    /// An upstream gave no usable answer.
    pub(super) fn upstream_failure(&self, resource: Word, failure: &'static str) {
        let labels = labels([("resource", resource), ("failure", Word::Own(failure))]);
        self.upstream_failures.get_or_create(&labels).inc();
    }

    /// Replicas of an upstream, none of which is left out yet.
    pub fn ejected(&self, resource: Word) -> Ejected {
        Ejected(self.ejected.get_or_create_owned(&labels([("resource", resource)])))
    }

    /// GitHub was called.
    pub fn github(&self, call: &'static str, outcome: &'static str, took: Duration) {
        self.github.get_or_create(&labels([("call", Word::Own(call))])).observe(took.as_secs_f64());
        self.github_calls
            .get_or_create(&labels([("call", Word::Own(call)), ("outcome", Word::Own(outcome))]))
            .inc();
    }

    /// GitHub said what is left of the app's limit.
    pub fn github_remaining(&self, calls: i64) {
        self.github_remaining.set(calls);
    }

    /// The store was asked.
    pub fn store(&self, verb: &'static str, took: Duration, answered: bool) {
        self.store.get_or_create(&labels([("verb", Word::Own(verb))])).observe(took.as_secs_f64());
        if !answered {
            self.store_failures.get_or_create(&labels([("verb", Word::Own(verb))])).inc();
        }
    }

    /// An event stream begins.
    pub fn stream(&self) -> OpenStream {
        self.streams.inc();
        OpenStream(self.streams.clone())
    }

    /// The configuration was to change.
    pub fn reload(&self, outcome: &'static str) {
        self.reloads.get_or_create(&labels([("outcome", Word::Own(outcome))])).inc();
    }

    /// Everything, as Prometheus reads it (OpenMetrics text).
    pub fn told(&self, now: &Snapshot) -> String {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.families.set(number(now.live_families));
        self.requests_open.set(number(now.open_requests));
        self.ready.set(i64::from(now.is_ready));
        let mut text = String::new();
        // A String takes everything.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// The gate's decision to let a request pass.
pub const PERMITTED: &str = "permitted";
/// What [`Metrics::told`] is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::default();
        let path = || Word::Path("/mcp".into());
        metrics.request(path(), 200, "ok", Duration::from_millis(2));
        metrics.request(path(), 200, "ok", Duration::from_millis(2));
        metrics.decisions(path(), PERMITTED).inc();
        metrics.store("read", Duration::from_micros(50), false);
        let stream = metrics.stream();
        let now = Snapshot { live_families: 3, open_requests: 1, is_ready: true };
        let told = metrics.told(&now);
        for line in [
            "mcp_auth_proxy_requests_total{route=\"/mcp\",status=\"200\",outcome=\"ok\"} 2",
            "mcp_auth_proxy_request_duration_seconds_bucket{le=\"0.003\",route=\"/mcp\"} 2",
            "mcp_auth_proxy_gate_decisions_total{resource=\"/mcp\",decision=\"permitted\"} 1",
            "mcp_auth_proxy_store_failures_total{verb=\"read\"} 1",
            "mcp_auth_proxy_live_families 3",
            "mcp_auth_proxy_open_streams 1",
            "mcp_auth_proxy_ready 1",
            "# EOF",
        ] {
            assert!(told.contains(line), "{line} is not in {told}");
        }
        drop(stream);
        assert!(metrics.told(&now).contains("mcp_auth_proxy_open_streams 0"));
    }
}
