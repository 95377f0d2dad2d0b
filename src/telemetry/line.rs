//! The log's line about a request. The only one that everybody who calls causes, so it is put together without
//! tracing, whose lines it is like byte for byte; whether it is written is still tracing's decision.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use tracing::level_filters::LevelFilter;
use tracing::{Level, debug, error, event_enabled, info};

use super::log;
use crate::protocol::fields::decimal;

/// A request that was answered.
pub struct Answered<'a> {
    pub method: &'a Method,
    /// Without the query.
    pub path: &'a str,
    pub client: IpAddr,
    pub status: u16,
    pub took: Duration,
    pub person: Option<u64>,
    pub login: Option<&'a str>,
    /// What came of it, if that is not plain from the status.
    pub outcome: Option<&'a str>,
    pub cause: Option<&'a str>,
}

impl Answered<'_> {
    /// Tells of it, at a level by its status.
    pub fn tell(&self) {
        // Where more is wanted there may be spans (of HTTP/2) that belong into the line.
        let is_plain = LevelFilter::current() <= LevelFilter::INFO;
        if !self.is_usual() || !is_plain || !log::is_ours() {
            return self.tell_by_tracing();
        }
        if event_enabled!(target: RIM, Level::INFO, message, method, path, status, duration_ms, client, person, login, outcome, cause)
        {
            // Nowhere to tell that standard error is closed.
            let _ = log::write(|lines| self.write(lines));
        }
    }

    /// Checks come every few seconds from every orchestrator; why one is not ready has its own line.
    fn is_a_check(&self) -> bool {
        ["/healthz", "/readyz"].contains(&self.path)
    }

    fn is_usual(&self) -> bool {
        !self.is_a_check() && self.status < 500
    }

    fn tell_by_tracing(&self) {
        let Answered { method, client, status, person, login, outcome, cause, .. } = *self;
        let (path, duration_ms) = (self.cut_path(), self.milliseconds());
        if self.is_a_check() {
            debug!(target: RIM, %method, ?path, status, duration_ms, %client, "request");
        } else if status >= 500 {
            error!(target: RIM, %method, ?path, status, duration_ms, %client, person, login, outcome, cause, "request");
        } else {
            info!(target: RIM, %method, ?path, status, duration_ms, %client, person, login, outcome, cause, "request");
        }
    }

    /// As tracing does it for [`Level::INFO`].
    fn write(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(&log::stamp());
        line.extend_from_slice(b"  INFO request method=");
        line.extend_from_slice(self.method.as_str().as_bytes());
        line.extend_from_slice(b" path=");
        quote(line, self.cut_path());
        line.extend_from_slice(b" status=");
        decimal(line, self.status.into());
        line.extend_from_slice(b" duration_ms=");
        decimal(line, self.milliseconds());
        line.extend_from_slice(b" client=");
        address(line, self.client);
        if let Some(person) = self.person {
            line.extend_from_slice(b" person=");
            decimal(line, person);
        }
        for (name, text) in [(" login=", self.login), (" outcome=", self.outcome), (" cause=", self.cause)] {
            if let Some(text) = text {
                line.extend_from_slice(name.as_bytes());
                quote(line, text);
            }
        }
        line.push(b'\n');
    }

    /// Escaped later, and cut: a path is a stranger's text.
    fn cut_path(&self) -> &str {
        match self.path.len() <= MAX_PATH {
            true => self.path,
            false => self.path.char_indices().nth(MAX_PATH).map_or(self.path, |(at, _)| &self.path[..at]),
        }
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX)
    }
}

fn quote(line: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~');
    if text.bytes().all(is_plain) {
        line.push(b'"');
        line.extend_from_slice(text.as_bytes());
        line.push(b'"');
    } else {
        // A Vec takes everything.
        let _ = write!(line, "{text:?}");
    }
}

fn address(line: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    line.push(b'.');
                }
                decimal(line, octet.into());
            }
        }
        // A Vec takes everything.
        IpAddr::V6(address) => drop(write!(line, "{address}")),
    }
}

/// Where requests are answered: what filters call it.
const RIM: &str = "mcp_auth_proxy::server";
/// Characters of a path.
const MAX_PATH: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn everyday() -> Answered<'static> {
        Answered {
            method: &Method::POST,
            path: "/mcp",
            client: [203, 0, 113, 9].into(),
            status: 200,
            took: Duration::from_micros(3_999),
            person: Some(583_231),
            login: Some("octocat"),
            outcome: None,
            cause: None,
        }
    }

    #[test]
    fn a_line_is_as_tracing_writes_it() {
        let long = "/\u{e4}".repeat(100);
        let odd = Method::from_bytes(b"M-SEARCH").expect("a method");
        let v6 = "2001:db8::1".parse().expect("an address");
        for answered in [
            everyday(),
            Answered { method: &odd, path: "", status: 404, took: Duration::MAX, ..everyday() },
            Answered { path: "/a\"b\\c'd\u{1b}[31m\u{7f}\n\u{200b}\u{1f600}", client: v6, ..everyday() },
            Answered { path: &long, client: [0, 10, 255, 100].into(), person: Some(0), ..everyday() },
            Answered { path: &long[..129], login: None, person: Some(u64::MAX), ..everyday() },
            Answered { outcome: Some("invalid_token"), cause: Some("it said \"no\""), ..everyday() },
            Answered { person: None, login: Some("{}"), outcome: Some(""), ..everyday() },
        ] {
            let mut own = Vec::new();
            answered.write(&mut own);
            let theirs = log::tests::lines(|| answered.tell_by_tracing());
            let (own, theirs) = (String::from_utf8(own).expect("text"), theirs);
            assert_eq!(own[own.find(' ').expect("a time")..], theirs[theirs.find(' ').expect("a time")..]);
        }
    }

    #[test]
    fn checks_and_failures_have_levels_of_their_own() {
        for (path, status, level) in
            [("/healthz", 200, ""), ("/readyz", 503, ""), ("/mcp", 502, "ERROR"), ("/mcp", 499, " INFO")]
        {
            let answered = Answered { path, status, ..everyday() };
            let told = log::tests::lines(|| answered.tell());
            assert!(told.is_empty() == level.is_empty() && told.contains(level), "{told}");
        }
    }
}
