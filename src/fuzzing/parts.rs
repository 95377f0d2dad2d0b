//! The parts of a request's way, each by itself: `benches/parts` times them, the test below bounds their allocations.
//!
//! The clock stands still, so nothing here reads the machine's, and families stay fresh.

pub use crate::gate::fuzzing::parts::{Crowd, verified};
use crate::protocol::fields::Fields;
pub use crate::upstream::fuzzing::parts::{Way, read};

/// The headers of a call by Claude Code, as they are read (`benches/proxy/workload.py` sends the same).
pub fn call(token: Option<&str>) -> Fields {
    let mut fields = Fields::default();
    CALL.iter().for_each(|(name, value)| fields.add(name, value.as_bytes()));
    if let Some(token) = token {
        fields.add("authorization", format!("Bearer {token}").as_bytes());
    }
    fields
}

const CALL: [(&str, &str); 10] = [
    ("host", "p.test"),
    ("connection", "keep-alive"),
    ("content-type", "application/json"),
    ("accept", "application/json, text/event-stream"),
    ("user-agent", "claude-code/2.1.0 (cli)"),
    ("mcp-protocol-version", "2025-06-18"),
    ("accept-language", "*"),
    ("sec-fetch-mode", "cors"),
    ("accept-encoding", "gzip, deflate"),
    ("content-length", "300"),
];

/// The session that the upstream made.
pub const SESSION: &str = "1868a90c5fb94d4fa0b2e0f2a4b6f7d3";

/// What a tool of a server behind uvicorn answers, all of it in one piece.
pub const JSON: &[u8] = b"HTTP/1.1 200 OK\r
date: Sat, 01 Aug 2026 12:00:00 GMT\r
server: uvicorn\r
cache-control: no-cache, no-transform\r
content-type: application/json\r
mcp-session-id: 1868a90c5fb94d4fa0b2e0f2a4b6f7d3\r
content-length: 131\r
\r
{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"3 open issues about streams that end early\"}],\"isError\":false}}";

/// The same as an event.
pub const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r
date: Sat, 01 Aug 2026 12:00:00 GMT\r
server: uvicorn\r
cache-control: no-cache, no-transform\r
connection: keep-alive\r
content-type: text/event-stream\r
mcp-session-id: 1868a90c5fb94d4fa0b2e0f2a4b6f7d3\r
x-accel-buffering: no\r
transfer-encoding: chunked\r
\r
9d\r
event: message\r
data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"3 open issues about streams that end early\"}],\"isError\":false}}\r
\r
\r
0\r
\r
";

/// The first event of the legacy transport.
pub const ENDPOINT: &[u8] =
    b"event: endpoint\r\ndata: /messages/?session_id=1868a90c5fb94d4fa0b2e0f2a4b6f7d3\r\n\r\n";
/// An event like any other.
pub const MESSAGE: &[u8] = b"event: message\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":7,\"progress\":3,\"total\":9}}\r\n\r\n";

#[cfg(test)]
mod tests;
