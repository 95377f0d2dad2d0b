use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::fuzzing::tests::mostly;

fn line() -> impl Strategy<Value = &'static str> {
    let plain = mostly(
        &[
            "Host: p.test",
            "Content-Type: application/json",
            "Mcp-Session-Id:abc",
            "X-A: ",
            "x-a:\t\u{fc} b\t",
            "TE: trailers",
        ],
        &["X : a", " folded", "X: a\rb", "X: a\0b", ": a", "no colon", "X\u{fc}: a", "X: \u{7f}"],
    );
    let connection = mostly(
        &["Connection: keep-alive", "connection:Keep-Alive"],
        &[
            "Connection: close",
            "Connection: keep-alive, X-A",
            "Connection:",
            "Upgrade: h2c",
            "Expect: 100-continue",
        ],
    );
    prop_oneof![4 => plain, 1 => connection]
}

fn framing() -> impl Strategy<Value = &'static str> {
    mostly(
        &["", "Content-Length: 5\r\n", "content-length:5\r\n", "Content-Length: 0\r\n"],
        &[
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 05\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551615\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        ],
    )
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let method =
        mostly(&["POST", "POST", "GET", "DELETE"], &["PUT", "HEAD", "post", "OPTIONS", "CONNECT", ""]);
    let target = mostly(
        &["/mcp", "/mcp?a=b&c=%20d", "/mcp?", "/"],
        &[
            "*",
            "http://p.test/mcp",
            "p.test:80",
            "/mcp#a",
            "/m cp",
            "/m\u{fc}cp",
            "/mcp?a?b\"",
            "//mcp",
            "/mcp\\",
            "",
            "/%",
        ],
    );
    let version = mostly(
        &[" HTTP/1.1\r\n"],
        &[" HTTP/1.0\r\n", " HTTP/1.1\n", "\r\n", " HTTP/2.0\r\n", "  HTTP/1.1\r\n"],
    );
    let body =
        mostly(&["", "12345"], &["1234", "123456", "5\r\n12345\r\n0\r\n\r\n", "12345GET / HTTP/1.1\r\n\r\n"]);
    let before = mostly(&[""], &["\r\n", "\n", "\r\n\r\n", " "]);
    (before, method, target, version, vec(line(), 0..6), framing(), body).prop_map(
        |(before, method, target, version, lines, framing, body)| {
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            format!("{before}{method} {target}{version}{lines}{framing}\r\n{body}").into_bytes()
        },
    )
}

// GT-01, GT-02, GT-05: what frames in two ways, upgrades or expects is never read by our own hand.
#[test]
fn plain_requests_are_what_hyper_makes_of_them() {
    let mut config = ProptestConfig::with_cases(4_000);
    config.rng_seed = RngSeed::Fixed(1);
    config.failure_persistence = None;
    let plain = Mutex::new(0);
    proptest!(config, |(bytes in bytes())| {
        *plain.lock().expect("sound") += usize::from(plain::request(&bytes, |_| true).is_some());
        request(&bytes);
    });
    let plain = plain.into_inner().expect("sound");
    assert!((400..3_600).contains(&plain), "{plain} of 4000 were plain");
}
