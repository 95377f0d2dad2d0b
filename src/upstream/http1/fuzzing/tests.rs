use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use std::pin::pin;
use tokio::time::timeout;

use super::*;
use crate::fuzzing::spend_budget;
use crate::fuzzing::tests::mostly;

fn line() -> impl Strategy<Value = &'static str> {
    let plain = mostly(
        &[
            "Content-Type: application/json",
            "Mcp-Session-Id: abc",
            "Vary: a",
            "vary: b",
            "X: ",
            "X: \u{fc}\t;",
        ],
        &[
            "X : a",
            " folded",
            "X: a\rb",
            "X: a\0b",
            ": a",
            "no colon",
            "X\u{fc}: a",
            "X: \u{7f}",
            "X: a\u{b}b",
        ],
    );
    let connection = select(vec![
        "Connection: close",
        "Connection: keep-alive",
        "connection:Close",
        "Connection: x ,\tCLOSE",
        "Connection: closed",
        "Connection: keep-alive, Upgrade",
        "Connection:",
        "Connection: \"close\"",
        "Keep-Alive: timeout=5",
    ]);
    let framing = select(vec![
        "Content-Length: 5",
        "content-length:5",
        "Content-Length: 0",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: 05",
        "Content-Length: 0x5",
        "Content-Length:",
        "Content-Length: 18446744073709551615",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding:\tCHUNKED ",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:",
    ]);
    prop_oneof![6 => plain, 4 => connection, 1 => framing]
}

fn chunk() -> impl Strategy<Value = String> {
    let zeros =
        mostly(&["", "0", "000", "000000000000"], &["00000000000000000000", " ", "x", "-", "+", "0x"]);
    let behind = mostly(
        &["", "", "", ";a=b", ";a=\"b c\"", " ; a", " ", "\t", ";", ";\u{fc}\0"],
        &[" 1", ";a\nb", ";a\rb", "\u{b}"],
    );
    let end = || mostly(&["\r\n"], &["\n", "\r", "", "x\r\n", "\r\r\n"]);
    let data = select(vec!["hello", "{}", "0\r\n\r\n", "\r\n", "a", "data: 1\n\n", "0123456789abcdefg"]);
    (zeros, any::<bool>(), behind, end(), data, end()).prop_map(|(zeros, upper, behind, end, data, after)| {
        let size = format!("{:x}", data.len());
        let size = if upper { size.to_ascii_uppercase() } else { size };
        format!("{zeros}{size}{behind}{end}{data}{after}")
    })
}

/// A body in its framing, with the line of the head that says so.
fn body() -> impl Strategy<Value = (String, String)> {
    let last = mostly(&["0\r\n", "00\r\n", "0;x\r\n", "0 \r\n"], &["0\n", "", "0\r"]);
    let trailers = mostly(
        &["", "", "X: y\r\n", "X:y\r\nZ: \r\n", "Content-Length: 7\r\n"],
        &[
            "X: y\n",
            "X y\r\n",
            " X: y\r\n",
            "X: a\rb\r\n",
            "\n",
            "X: \0\r\n",
            "X\u{fc}: y\r\n",
            "X: y\r\n z\r\n",
        ],
    );
    let end = mostly(&["\r\n"], &["\n", "", "\r", "x\r\n"]);
    let chunked = (vec(chunk(), 0..4), last, trailers, end).prop_map(|(chunks, last, trailers, end)| {
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{}{last}{trailers}{end}", chunks.concat()))
    });
    let text = || "[ -~\r\n]{0,12}";
    let sized = (text(), select(vec![0, 0, 0, 0, 0, 0, 1, -1])).prop_map(|(body, off)| {
        let length = (body.len() as i64 + off).max(0);
        (format!("Content-Length: {length}\r\n"), body)
    });
    prop_oneof![4 => chunked, 3 => sized, 1 => text().prop_map(|body| (String::new(), body))]
}

/// Mostly well-formed; cut off somewhere, now and then.
fn answer_of_a_server() -> impl Strategy<Value = String> {
    let interim = mostly(
        &[
            "",
            "",
            "",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 P\r\n\r\n",
            "HTTP/1.1 199\r\nContent-Length: 5\r\n\r\n",
            "\r\n",
        ],
        &["HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 100 C\r\n\r\nhello", "\n\r\n"],
    );
    let version =
        mostly(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/1.2", "HTTP/2", "http/1.1", "ICY"]);
    let status = mostly(
        &[
            "200 OK",
            "200 OK",
            "200",
            "200 ",
            "202 A",
            "204 N",
            "304 N",
            "205 R",
            "404 N",
            "500 \u{fc}",
            "307 T",
            "999 x",
        ],
        &["99 x", "2000 x", "2x0 x", "200\tOK", "200  OK", "101 S"],
    );
    let end = mostly(&["\r\n"], &["\n", "\r"]);
    let surplus = select(vec!["", "", "", "", "\r\n", "H", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]);
    let cut = prop_oneof![5 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    (interim, (version, status), vec(line(), 0..4), body(), end, surplus, cut, any::<bool>()).prop_map(
        |(interim, (version, status), lines, (framing, body), end, surplus, cut, first)| {
            let lines: String = lines.iter().map(|line| format!("{line}{end}")).collect();
            let head = if first { framing + &lines } else { lines + &framing };
            let text = format!("{interim}{version} {status}\r\n{head}\r\n{body}{surplus}");
            match cut {
                None => text,
                Some(cut) => text.chars().take(cut.index(text.len())).collect(),
            }
        },
    )
}

#[test]
fn only_who_said_nothing_at_all_may_not_have_heard() {
    let why = |bytes: &str| ours(bytes.as_bytes(), b"", Then::Closes).why;
    assert_eq!(why(""), "nothing");
    for bytes in ["H", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"] {
        assert_eq!(why(bytes), "it broke off within its head", "{bytes:?}");
    }
}

/// An exchange with somebody who says nothing.
fn with_silence() -> Exchange {
    let (method, mut nothing) = (Method::GET, RequestBody::Whole(Bytes::new()));
    let (path, host) = (PathAndQuery::from_static("/up"), HeaderValue::from_static("up.test"));
    let mut message = Message::to(&method, &path, &host);
    message.end(&method, &mut nothing);
    let io = Io::Said(Box::new(Said::new(b"", b"", Then::Waits)));
    Exchange::new(Connection::new(io), message, nothing, Within::from_now(LIMIT))
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_late_for_whoever_has_been_busy_too() {
    for is_busy in [false, true] {
        let answered = tokio::spawn(async move {
            let (mut answered, mut is_busy) = (pin!(with_silence().answered()), is_busy);
            poll_fn(|context| {
                if std::mem::take(&mut is_busy) {
                    spend_budget(context);
                }
                answered.as_mut().poll(context)
            })
            .await
            .err()
        });
        let trouble = timeout(LIMIT * 2, answered).await.expect("it is late").expect("runs");
        assert!(matches!(trouble, Some(Trouble::Late(LIMIT))), "{is_busy}");
    }
}

#[tokio::test]
async fn who_speaks_is_heard_by_whoever_is_busy_too() {
    let said = |text: &[u8]| {
        let mut said = Said::new(text, b"", Then::Waits);
        said.heard.extend_from_slice(b"\r\n\r\n");
        // It has come already.
        said.is_due = true;
        Io::Said(Box::new(said))
    };
    let quiet = |mut io: Io| async move {
        poll_fn(|context| {
            spend_budget(context);
            Poll::Ready(io.is_quiet())
        })
        .await
    };
    assert!(!tokio::spawn(quiet(said(b"H"))).await.expect("runs"));
    assert!(tokio::spawn(quiet(said(b""))).await.expect("runs"));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    // UP-04, UP-05
    #[test]
    fn answers_are_what_hyper_makes_of_them_or_none(text in answer_of_a_server(), cuts in "[@-\u{7f}]{0,5}") {
        answer(format!("{cuts}\n{text}").as_bytes());
    }
}
