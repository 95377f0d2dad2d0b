//! The `limits:` section: how much of the proxy one stranger, one address or one person may hold at a time.

use std::time::Duration;

use super::rates;
use super::raw::Node;
use crate::limit::Rates;

/// How much may be held, and how long without progress.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections in all; `None`: as many as there are descriptors for.
    pub connections: Option<usize>,
    /// Open connections of one address (of one /64 in IPv6), trusted proxies excepted; `None`: a quarter of
    /// all.
    pub connections_per_address: Option<usize>,
    /// Open requests and streams of one person.
    pub streams_per_person: usize,
    /// For a whole request head, and for the next one on a connection that is kept alive.
    pub head_timeout: Duration,
    /// How long a request body may keep us waiting.
    pub body_timeout: Duration,
    /// How long an answer may wait for a client that reads nothing at all.
    pub write_timeout: Duration,
    /// How often what may be done.
    pub rates: Rates,
}

pub(super) fn limits(node: &Node<'_>) -> Limits {
    let known = [&KEYS[..], &rates::KEYS].concat();
    node.only(&known);
    let number = |key: &str| node.get(key).parsed(count);
    Limits {
        connections: number("connections"),
        connections_per_address: number("connections_per_address"),
        streams_per_person: number("streams_per_person").unwrap_or(STREAMS_PER_PERSON),
        head_timeout: node.get("head_timeout").duration(Duration::from_secs(30)),
        body_timeout: node.get("body_timeout").duration(Duration::from_secs(30)),
        write_timeout: node.get("write_timeout").duration(Duration::from_secs(120)),
        rates: rates::rates(node),
    }
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(number) if number > 0 => Ok(number as usize),
        // YAML reads a bare `off` as false.
        _ if matches!(text, "off" | "false") => Err("cannot be off: expected a number above 0".to_owned()),
        _ => Err(format!("expected a number above 0, got {text:?}")),
    }
}

/// Several editors with several windows hold a dozen; a fleet of agents on one account some hundred.
const STREAMS_PER_PERSON: usize = 512;
const KEYS: [&str; 6] = [
    "connections",
    "connections_per_address",
    "streams_per_person",
    "head_timeout",
    "body_timeout",
    "write_timeout",
];
