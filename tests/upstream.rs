//! Upstreams that are down, slow, wrong or rude; and the connections to them.

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::http::{self as plain, Answer};
use support::proxy::{PING, Proxy, Setup, Tokens, in_front_of};
use support::upstream::Raw;
use support::{all, raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// A proxy in front of bytes that the test says itself.
async fn rude(more: &str) -> (Proxy, Raw, Tokens) {
    let upstream = Raw::start().await;
    let setup = Setup { resources: in_front_of(&upstream.origin(), more), ..Setup::default() };
    let proxy = Proxy::with(setup).await;
    let tokens = proxy.login().await;
    (proxy, upstream, tokens)
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

/// Reads one more request from a connection that is kept alive; `None` when it was closed instead.
async fn hear_request(stream: &mut TcpStream) -> Option<String> {
    let mut heard = Vec::new();
    while !heard.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        match soon(stream.read(&mut buffer)).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => heard.extend_from_slice(&buffer[..read]),
        }
    }
    Some(String::from_utf8_lossy(&heard).into_owned())
}

#[track_caller]
fn is_plain_error(answer: Answer, status: u16, error: &str) {
    let answer = answer.expect(status);
    assert_eq!(answer.error(), error);
    assert_eq!(answer.header("cache-control"), "no-store");
    for internal in ["127.0.0.1", "hyper", "os error", "connect"] {
        assert!(!answer.text().contains(internal), "{}", answer.text());
    }
    assert!(!answer.headers.contains_key("www-authenticate"), "no login loop");
}

// UP-01, PX-S9
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_502_and_costs_nobody_a_login() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let address = proxy.mcp.origin().trim_start_matches("http://").to_owned();
    proxy.mcp.stop();
    // Stopping is another task's work.
    while TcpStream::connect(&address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    is_plain_error(soon(proxy.ping(&tokens.access)).await, 502, "upstream_unreachable");
    let back = TcpListener::bind(&address).await.expect("the port is free again");
    let answer = async {
        let (mut stream, _) = back.accept().await.unwrap();
        hear_request(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(proxy.ping(&tokens.access), answer);
    answer.expect(200);
}

// UP-01
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve_is_502() {
    let resources = in_front_of("http://nowhere.invalid", ", connect_timeout: 2s");
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let answer = soon(proxy.ping(&tokens.access)).await;
    assert!([502, 504].contains(&answer.status), "{answer:?}");
    assert!(!answer.text().contains("nowhere"), "{}", answer.text());
}

// UP-01, PX-S9
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_nothing_is_504_after_the_configured_time() {
    let (proxy, upstream, tokens) = rude(", response_timeout: 1s").await;
    for half in ["", "HTTP/1.1 200 OK\r\nContent-"] {
        let silent = async {
            let (mut stream, _) = upstream.accept().await;
            stream.write_all(half.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            // UP-02: given up on, it is told so.
            soon(stream.read_to_end(&mut rest)).await
        };
        let (answer, closed) = tokio::join!(soon(proxy.ping(&tokens.access)), silent);
        is_plain_error(answer, 504, "upstream_timeout");
        drop(closed);
    }
}

// UP-04, UP-05, GT-01
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_is_502() {
    let (proxy, upstream, tokens) = rude(", response_timeout: 10s").await;
    let head = |line: &str| format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
    let many: String = (0..10_000).map(|n| format!("X-{n}: a\r\n")).collect();
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(50_000);
    for bytes in [
        "garbage\r\n\r\n".to_owned(),
        String::new(),
        "HTTP/1.1 200".to_owned(),
        "HTTP/9.9 200 OK\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.6\r\n".to_owned(),
        head("Content-Length: 2\r\nContent-Length: 3"),
        head("Content-Length: x"),
        head("Content-Length: -1"),
        head("X-A: a\0b\r\nContent-Length: 0"),
        head(&format!("X-A: {}\r\nContent-Length: 0", "a".repeat(8 << 20))),
        format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n"),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_owned(),
        endless,
    ] {
        let rude = async {
            let (mut stream, _) = upstream.accept().await;
            // It may well be closed before all of that is written.
            let _ = soon(stream.write_all(bytes.as_bytes())).await;
            let _ = stream.shutdown().await;
        };
        let (answer, ()) = tokio::join!(soon(proxy.ping(&tokens.access)), rude);
        let shown: String = bytes.chars().take(60).collect();
        assert_eq!((answer.status, answer.error().as_str()), (502, "upstream_failed"), "{shown:?}");
    }
    // The next one gets a connection of its own and a good answer.
    let (answer, ()) = tokio::join!(proxy.ping(&tokens.access), upstream.answer_once(OK.as_bytes()));
    answer.expect(200);
}

// GT-01, UP-04
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_framed_in_two_ways_never_yields_a_second_one() {
    let (proxy, upstream, tokens) = rude("").await;
    for framing in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        let smuggled = format!(
            "HTTP/1.1 200 OK\r\n{framing}\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 0\r\n\r\n"
        );
        let rude = async {
            let (mut stream, _) = upstream.accept().await;
            stream.write_all(smuggled.as_bytes()).await.unwrap();
            stream
        };
        let (first, stream) = tokio::join!(plain_ping(&proxy, &tokens), rude);
        assert!(!first.contains("x-evil"), "{first}");
        let (second, ()) = tokio::join!(proxy.ping(&tokens.access), upstream.answer_once(OK.as_bytes()));
        assert!(!second.expect(200).headers.contains_key("x-evil"));
        drop(stream);
    }
}

/// The whole answer as text, even when it was cut.
async fn plain_ping(proxy: &Proxy, tokens: &Tokens) -> String {
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        tokens.access
    );
    raw::say(proxy.address(), request.as_bytes()).await.to_lowercase()
}

// UP-05
#[tokio::test(flavor = "multi_thread")]
async fn informational_answers_are_not_the_answer() {
    let (proxy, upstream, tokens) = rude("").await;
    let early = format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{OK}"
    );
    let (answer, ()) = tokio::join!(proxy.ping(&tokens.access), upstream.answer_once(early.as_bytes()));
    let answer = answer.expect(200);
    assert_eq!(answer.text(), "{}");
    assert!(!answer.headers.contains_key("link"));
}

// UP-07
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_reused_and_a_call_that_may_have_run_is_never_repeated() {
    let (proxy, upstream, tokens) = rude("").await;
    // Ten calls, one connection.
    let ten = async {
        let (mut stream, _) = upstream.accept().await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        for _ in 1..10 {
            hear_request(&mut stream).await.expect("the same connection");
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
        stream
    };
    let calls = async {
        for _ in 0..10 {
            proxy.ping(&tokens.access).await.expect(200);
        }
    };
    let (mut stream, ()) = soon(async { tokio::join!(ten, calls) }).await;
    // The call is read, and the connection closed without a word: it may have run.
    let close = async {
        hear_request(&mut stream).await.expect("the same connection");
        drop(stream);
    };
    let (answer, ()) = soon(async { tokio::join!(proxy.ping(&tokens.access), close) }).await;
    assert_eq!(answer.expect(502).error(), "upstream_failed");
    let again = timeout(Duration::from_millis(200), upstream.accept()).await;
    assert!(again.is_err(), "the call was sent twice");
    // Closed while idle: provably unsent, so the next call goes over a new connection.
    let one = async {
        let (mut stream, _) = upstream.accept().await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        drop(stream);
    };
    let (answer, ()) = soon(async { tokio::join!(proxy.ping(&tokens.access), one) }).await;
    answer.expect(200);
    let (answer, ()) =
        soon(async { tokio::join!(proxy.ping(&tokens.access), upstream.answer_once(OK.as_bytes())) }).await;
    assert!([200, 502].contains(&answer.status), "{answer:?}");
}

// UP-04
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_not_shared_after_a_body_was_left_unread() {
    let (proxy, upstream, tokens) = rude("").await;
    let request = proxy.call("/mcp", &tokens.access).body(Bytes::from_static(PING)).unwrap();
    let half = async {
        let (mut stream, _) = upstream.accept().await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
        stream
    };
    let ((_, body), mut stream) = tokio::join!(plain::open(proxy.address(), request), half);
    drop(body);
    let mut rest = Vec::new();
    // Closed, not kept for somebody else.
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    let (answer, ()) = tokio::join!(proxy.ping(&tokens.access), upstream.answer_once(OK.as_bytes()));
    assert_eq!(answer.expect(200).text(), "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_the_body_does_not_block_the_next_call() {
    let (proxy, upstream, tokens) = rude(", response_timeout: 10s").await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000\r\n\r\nonly the start",
        tokens.access
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut stream, _) = soon(upstream.accept()).await;
    stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
    assert_eq!(raw::status(&raw::hear(&mut client).await), 413);
    // The client never sends the rest; somebody else calls.
    let answered = async { tokio::join!(proxy.ping(&tokens.access), upstream.answer_once(OK.as_bytes())) };
    let (answer, ()) = timeout(Duration::from_secs(3), answered).await.expect("not behind the first one");
    answer.expect(200);
    drop((client, stream));
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_calls_do_not_wait_for_each_other() {
    let (proxy, upstream, tokens) = rude("").await;
    let calls = all((0..20).map(|_| proxy.ping(&tokens.access)));
    let serve = async {
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(upstream.accept().await.0);
        }
        for stream in held.iter_mut().rev() {
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
        held
    };
    let (answers, _) = soon(async { tokio::join!(calls, serve) }).await;
    assert!(answers.into_iter().all(|answer| answer.status == 200));
}

// GT-01 .. GT-05, PX-H11: ambiguous framing from a client.
#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_never_become_two() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let head = format!("POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n", tokens.access);
    let second = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nX-Evil: 1\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\n\r\n",
        tokens.access
    );
    let refused = [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: 0x5\r\n\r\nhello",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 5, 6\r\n\r\nhello!",
        "Content-Length: 18446744073709551616\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "X-A: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "X A: 1\r\nContent-Length: 0\r\n\r\n",
        " X-A: 1\r\nContent-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    ];
    for rest in refused {
        let before = proxy.mcp.heard().len();
        let answer = raw::say(proxy.address(), format!("{head}{rest}").as_bytes()).await;
        let status = raw::status(&answer);
        // Not 502: what the client did wrong is not the upstream's failure.
        assert_eq!(status, 400, "{rest:?}: {answer}");
        assert_eq!(proxy.mcp.heard().len(), before, "{rest:?}");
    }
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    ] {
        let before = proxy.mcp.heard().len();
        let answer = raw::say(proxy.address(), format!("{head}{framing}{second}").as_bytes()).await;
        let heard = proxy.mcp.heard().split_off(before);
        let lengths: Vec<_> =
            heard.iter().map(|heard| heard.headers.get_all("content-length").iter().count()).collect();
        assert!(
            heard.iter().all(|heard| heard.body.is_empty() && !heard.headers.contains_key("x-evil")),
            "{framing:?}: {answer}"
        );
        assert!(lengths.iter().all(|count| *count <= 1));
    }
}

// === Bodies that are too large to be held ===

/// The head of a call by hand, without its last header and the empty line.
fn call(tokens: &Tokens, framing: &str) -> String {
    let bearer = &tokens.access;
    format!("POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {bearer}\r\n{framing}\r\n\r\n")
}

/// A text without a period that a buffer could have.
fn long_text(length: usize) -> String {
    let number = |at: usize| (at as u32).wrapping_mul(2_654_435_761) >> 27;
    (0..length).map(|at| char::from(b'A' + number(at) as u8)).collect()
}

/// Reads on until it ends like this; whatever came before is in `heard`.
async fn hear_until(stream: &mut TcpStream, heard: &mut String, end: &str) {
    while !heard.ends_with(end) {
        let mut buffer = vec![0; 64 << 10];
        let read = soon(stream.read(&mut buffer)).await.expect("reads");
        assert!(read > 0, "cut after {} bytes", heard.len());
        heard.push_str(std::str::from_utf8(&buffer[..read]).expect("ASCII"));
    }
}

/// The body in these chunks, which must be all there.
fn unchunked(mut chunks: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, rest) = chunks.split_once("\r\n").expect("a size");
        let size = usize::from_str_radix(size, 16).expect("digits and nothing else");
        body.push_str(&rest[..size]);
        chunks = rest[size..].strip_prefix("\r\n").expect("the end of a chunk");
        if size == 0 {
            assert_eq!(chunks, "", "nothing follows");
            return body;
        }
    }
}

// PX-H6
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_leave_as_they_came_and_the_connection_lives_on() {
    let (proxy, upstream, tokens) = rude("").await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let mut kept = None;
    for length in [(64 << 10) + 1, 300_000, 1] {
        for is_chunked in [false, true] {
            let text = long_text(length);
            let (framing, said) = match is_chunked {
                false => (format!("Content-Length: {length}"), text.clone()),
                true => {
                    let chunks = text.as_bytes().chunks(7_001).map(|chunk| {
                        format!("{:X};a=b\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap())
                    });
                    (
                        "Transfer-Encoding: chunked".to_owned(),
                        chunks.collect::<String>() + "0\r\nX: y\r\n\r\n",
                    )
                }
            };
            let request = call(&tokens, &framing) + &said;
            let serve = async {
                let (mut stream, heard) = match kept.take() {
                    None => upstream.accept().await,
                    Some(mut stream) => {
                        let heard = hear_request(&mut stream).await.expect("the same connection");
                        (stream, heard)
                    }
                };
                let (head, body) = heard.split_once("\r\n\r\n").expect("a head");
                let (head, mut body) = (head.to_owned(), body.to_owned());
                match is_chunked {
                    true => {
                        assert!(head.contains("\r\ntransfer-encoding: chunked"), "{head}");
                        assert!(!head.contains("content-length"), "{head}");
                        hear_until(&mut stream, &mut body, "\r\n0\r\n\r\n").await;
                        body = unchunked(&body);
                    }
                    false => {
                        assert!(head.contains(&format!("\r\ncontent-length: {length}")), "{head}");
                        let end = text[text.len().saturating_sub(100)..].to_owned();
                        hear_until(&mut stream, &mut body, &end).await;
                    }
                }
                stream.write_all(OK.as_bytes()).await.unwrap();
                (stream, body)
            };
            let (sent, (stream, body)) =
                soon(async { tokio::join!(client.write_all(request.as_bytes()), serve) }).await;
            sent.unwrap();
            assert!(body == text, "{length} bytes, chunked {is_chunked}: {} arrived", body.len());
            assert_eq!(raw::status(&raw::hear(&mut client).await), 200);
            kept = Some(stream);
        }
    }
}

// UP-02: the upstream never takes what it has for all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_never_comes_to_its_end() {
    let (proxy, upstream, tokens) = rude("").await;
    let text = long_text(70_000);
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    for (framing, said, status) in [
        ("Content-Length: 140000", text.as_str(), 0),
        ("Transfer-Encoding: chunked", chunk.as_str(), 0),
        ("Transfer-Encoding: chunked", &format!("{chunk}5\r\nhel"), 0),
        ("Transfer-Encoding: chunked", &format!("{chunk}zz\r\n"), 400),
        ("Transfer-Encoding: chunked", &format!("{chunk}5\r\nhelloXX0\r\n\r\n"), 400),
    ] {
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let serve = async {
            let (mut stream, mut heard) = upstream.accept().await;
            let mut rest = Vec::new();
            let _ = soon(stream.read_to_end(&mut rest)).await;
            heard.push_str(&String::from_utf8_lossy(&rest));
            heard
        };
        let break_off = async {
            client.write_all((call(&tokens, framing) + said).as_bytes()).await.unwrap();
            match status {
                0 => drop(client),
                _ => assert_eq!(raw::status(&raw::hear(&mut client).await), status, "{framing}"),
            }
        };
        let (heard, ()) = soon(async { tokio::join!(serve, break_off) }).await;
        let (_, body) = heard.split_once("\r\n\r\n").expect("a head");
        assert!(body.len() < 140_000 && !body.contains("0\r\n\r\n"), "{framing}: {} bytes", body.len());
    }
}

// PX-S4
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_begins_early_streams_beside_its_request() {
    let (proxy, upstream, tokens) = rude("").await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client
        .write_all((call(&tokens, "Transfer-Encoding: chunked") + "3\r\none\r\n").as_bytes())
        .await
        .unwrap();
    let (mut stream, mut asked) = soon(upstream.accept()).await;
    hear_until(&mut stream, &mut asked, "3\r\none\r\n").await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(format!("{head}9\r\ndata: 1\n\n\r\n").as_bytes()).await.unwrap();
    let mut answered = String::new();
    hear_until(&mut client, &mut answered, "data: 1\n\n\r\n").await;
    // Each side waits for the other.
    client.write_all(b"3\r\ntwo\r\n").await.unwrap();
    hear_until(&mut stream, &mut asked, "3\r\ntwo\r\n").await;
    stream.write_all(b"9\r\ndata: 2\n\n\r\n").await.unwrap();
    hear_until(&mut client, &mut answered, "data: 2\n\n\r\n").await;
    client.write_all(b"0\r\n\r\n").await.unwrap();
    hear_until(&mut stream, &mut asked, "\r\n0\r\n\r\n").await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    hear_until(&mut client, &mut answered, "\r\n0\r\n\r\n").await;
    // All was said and heard: the connection is good for the next.
    let again = async {
        hear_request(&mut stream).await.expect("the same connection");
        stream.write_all(OK.as_bytes()).await.unwrap();
    };
    let (answer, ()) = soon(async { tokio::join!(proxy.ping(&tokens.access), again) }).await;
    answer.expect(200);
}

// UP-08: nothing is taken from the client that the upstream does not take from us.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_read_is_given_up_on_without_filling_memory() {
    let (proxy, upstream, tokens) = rude(", response_timeout: 1s").await;
    const TOTAL: usize = 64 << 20;
    let (mut reads, mut writes) = TcpStream::connect(proxy.address()).await.unwrap().into_split();
    writes.write_all(call(&tokens, &format!("Content-Length: {TOTAL}")).as_bytes()).await.unwrap();
    let (mut stream, _) = soon(upstream.accept()).await;
    let (chunk, mut written) = (vec![b'y'; 64 << 10], 0);
    let write = async {
        while written < TOTAL {
            match writes.write(&chunk).await {
                Ok(count) => written += count,
                Err(_) => break,
            }
        }
        std::future::pending::<()>().await;
    };
    let mut head = [0; 12];
    tokio::select! {
        read = soon(reads.read_exact(&mut head)) => drop(read.expect("an answer")),
        () = write => unreachable!("it waits for ever"),
    }
    assert_eq!(&head, b"HTTP/1.1 504");
    assert!(written < 32 << 20, "{written} bytes went somewhere");
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < TOTAL, "it never was complete");
}

// === Answers, and the connections they come by ===

// UP-04
#[tokio::test(flavor = "multi_thread")]
async fn answers_byte_by_byte_are_answers() {
    let (proxy, upstream, tokens) = rude("").await;
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n00001;a=b\r\n}\r\n0\r\nX: y\r\n\r\n";
    let interim = format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{OK}");
    let mut kept = None;
    for answer in [OK, chunked, &interim, OK] {
        let drip = async {
            let mut stream = match kept.take() {
                None => upstream.accept().await.0,
                Some(mut stream) => {
                    hear_request(&mut stream).await.expect("the same connection");
                    stream
                }
            };
            stream.set_nodelay(true).unwrap();
            for byte in answer.as_bytes() {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            stream
        };
        let (heard, stream) = soon(async { tokio::join!(proxy.ping(&tokens.access), drip) }).await;
        assert_eq!(heard.expect(200).text(), "{}");
        kept = Some(stream);
    }
}

// UP-04
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_the_answer_that_says_so() {
    let (proxy, upstream, tokens) = rude("").await;
    for (answer, closes) in [
        ("HTTP/1.1 200 OK\r\n\r\n{}", true),
        ("HTTP/1.0 200 OK\r\n\r\n{}", true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x ,\tCLOSE\r\n\r\n{}", false),
        (
            "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            false,
        ),
    ] {
        let serve = async {
            let (mut stream, _) = upstream.accept().await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            if closes {
                stream.shutdown().await.unwrap();
            }
            assert!(hear_request(&mut stream).await.is_none(), "{answer:?}: asked again");
        };
        let (heard, ()) = soon(async { tokio::join!(proxy.ping(&tokens.access), serve) }).await;
        assert_eq!(heard.expect(200).text(), "{}", "{answer:?}");
    }
}

// UP-07: a close that can be seen costs nobody a call.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_while_idle_is_not_used() {
    let (proxy, upstream, tokens) = rude("").await;
    for is_reset in [false, true, false] {
        let serve = async {
            let (mut stream, _) = upstream.accept().await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            stream
        };
        let (answer, stream) = soon(async { tokio::join!(proxy.ping(&tokens.access), serve) }).await;
        answer.expect(200);
        if is_reset {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
    }
}

/// Opens a GET and returns the status.
async fn get(proxy: &Proxy, tokens: &Tokens) -> u16 {
    let request = proxy.call("/mcp", &tokens.access).method(http::Method::GET).body(Bytes::new()).unwrap();
    plain::send(proxy.address(), request).await.status
}

// UP-07: RFC 9110 §9.2.2: what was sent again is not sent a third time.
#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_was_not_heard_is_sent_once_more_and_on_a_new_connection() {
    let (proxy, upstream, tokens) = rude("").await;
    let two = async {
        let (mut one, mut other) = (upstream.accept().await.0, upstream.accept().await.0);
        one.write_all(OK.as_bytes()).await.unwrap();
        other.write_all(OK.as_bytes()).await.unwrap();
        [one, other]
    };
    let pings = all((0..2).map(|_| proxy.ping(&tokens.access)));
    let (_, [one, other]) = soon(async { tokio::join!(pings, two) }).await;
    // Whichever is asked is closed without a word, as if it had been closed before.
    let deaf = async {
        let (mut asked, idle) = tokio::select! {
            ready = one.readable() => { ready.unwrap(); (one, other) }
            ready = other.readable() => { ready.unwrap(); (other, one) }
        };
        let first = hear_request(&mut asked).await.expect("a request");
        drop(asked);
        let (again, second) = upstream.accept().await;
        assert_eq!(first, second);
        drop(again);
        idle
    };
    let (status, idle) = soon(async { tokio::join!(get(&proxy, &tokens), deaf) }).await;
    assert_eq!(status, 502);
    assert!(idle.try_read(&mut [0; 16]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    // One that was heard, as an interim answer tells, is not sent again.
    let mut idle = idle;
    let heard = async {
        hear_request(&mut idle).await.expect("a request");
        idle.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        drop(idle);
    };
    let (status, ()) = soon(async { tokio::join!(get(&proxy, &tokens), heard) }).await;
    assert_eq!(status, 502);
}

// GT-27
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_followed_on_the_same_connection_byte_for_byte() {
    let (proxy, upstream, tokens) = rude("").await;
    let text = long_text(60_000);
    let serve = async {
        let (mut stream, mut first) = upstream.accept().await;
        hear_until(&mut stream, &mut first, &text[59_900..]).await;
        let redirect = "HTTP/1.1 307 Temporary Redirect\r\nLocation: /mcp/\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(redirect.as_bytes()).await.unwrap();
        let mut second = hear_request(&mut stream).await.expect("the same connection");
        hear_until(&mut stream, &mut second, &text[59_900..]).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        (first, second)
    };
    let request = proxy.call("/mcp", &tokens.access).body(Bytes::from(text.clone())).unwrap();
    let (answer, (first, second)) = soon(async { tokio::join!(proxy.send(request), serve) }).await;
    answer.expect(200);
    assert_eq!(second, first.replacen("POST /mcp ", "POST /mcp/ ", 1));
    assert!(second.ends_with(&format!("\r\n\r\n{text}")));
}

// A login that ends while the last piece of its answer is still to come: the answer is cut, on which nothing may follow.
// The next one would be read as the rest of its body.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_at_its_last_piece_is_no_clean_end() {
    for (framing, first, last) in [
        ("Content-Length: 10", "FIRST", "OTHER"),
        ("Transfer-Encoding: chunked", "5\r\nFIRST\r\n", "5\r\nOTHER\r\n0\r\n\r\n"),
        ("Connection: close", "FIRST", "OTHER"),
    ] {
        let (proxy, raw, tokens) = rude("").await;
        let mut client = TcpStream::connect(proxy.address()).await.expect("connects");
        client
            .write_all(call(&tokens, "Content-Length: 2\r\n\r\n{}").trim_end().as_bytes())
            .await
            .expect("writes");
        let (mut upstream, _) = soon(raw.accept()).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{framing}\r\n\r\n{first}");
        upstream.write_all(head.as_bytes()).await.expect("writes");
        let mut heard = String::new();
        while !heard.contains("FIRST") {
            let mut piece = [0; 1024];
            let read = soon(client.read(&mut piece)).await.expect("reads");
            assert!(read > 0, "{framing}: {heard}");
            heard.push_str(std::str::from_utf8(&piece[..read]).expect("text"));
        }
        let pairs = [("token", tokens.refresh.as_str()), ("client_id", tokens.client_id.as_str())];
        proxy.post_form("/revoke", &pairs).await.expect(200);
        // It may have been cut by now.
        let _ = upstream.write_all(last.as_bytes()).await;
        drop(upstream);
        let mut rest = Vec::new();
        // An end, or a reset: whoever reads this has no whole answer.
        let _ = soon(client.read_to_end(&mut rest)).await;
        heard.push_str(&String::from_utf8_lossy(&rest));
        assert!(!heard.contains("OTHER") && !heard.ends_with("0\r\n\r\n"), "{framing}: {heard}");
        assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{framing}: {heard}");
    }
}
