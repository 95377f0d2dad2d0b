//! HTTP as hostile clients speak it: what hyper leaves to us and what it must not let through.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::rig::Rig;
use crate::support::proxy::{Setup, in_front_of};
use crate::support::raw;
use crate::support::upstream::json;

// GT-18
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_not_an_open_one() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    let heard = rig.proxy.mcp.heard().len();
    for (line, status) in [
        ("GET http://169.254.169.254/latest HTTP/1.1", 400),
        ("GET http://other.test/mcp HTTP/1.1", 400),
        ("CONNECT other.test:443 HTTP/1.1", 405),
        ("TRACE /mcp HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 404),
    ] {
        let request = format!("{line}\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n\r\n", tokens.access);
        let answer = raw::say(rig.proxy.address(), request.as_bytes()).await;
        assert_eq!(raw::status(&answer), status, "{line}: {answer}");
        assert!(!answer.contains(&tokens.access), "{line} is not echoed");
    }
    assert_eq!(rig.proxy.mcp.heard().len(), heard, "nothing went on");
    rig.verify().await;
}

/// An upstream that keeps every byte it gets and answers each whole request.
struct Recorder {
    origin: String,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let origin = format!("http://{}", listener.local_addr().expect("bound"));
        let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
        let all = bytes.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let all = all.clone();
                tokio::spawn(async move {
                    let (mut unanswered, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
                    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                        all.lock().expect("no panic").extend_from_slice(&buffer[..read]);
                        unanswered.extend_from_slice(&buffer[..read]);
                        while let Some(whole) = message_end(&unanswered) {
                            unanswered.drain(..whole);
                            let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
                            let _ = stream.write_all(answer).await;
                        }
                    }
                });
            }
        });
        Recorder { origin, bytes }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no panic")).into_owned()
    }
}

/// Where the first message ends, read as strictly as RFC 9112 §6.3 has it.
fn message_end(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    match length.map(|length| length.trim().parse::<usize>().expect("a length")) {
        Some(length) => (bytes.len() >= head + length).then_some(head + length),
        None if text.contains("transfer-encoding:") => {
            let end = bytes[head..].windows(5).position(|five| five == b"0\r\n\r\n")?;
            Some(head + end + 5)
        }
        None => Some(head),
    }
}

/// Says this on a connection of its own and returns all that comes back until it is closed.
async fn until_closed(rig: &Rig, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(read.is_ok(), "not closed after {:?}: {said}", String::from_utf8_lossy(bytes));
    said
}

// GT-01, GT-02, GT-03
#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_through_leaves_as_one_plain_message() {
    let recorder = Recorder::start().await;
    let setup = Setup { resources: in_front_of(&recorder.origin, ""), ..Setup::default() };
    let mut rig = Rig::with(setup).await;
    let tokens = rig.login().await;
    let bearer = format!("Authorization: Bearer {}", tokens.access);
    let smuggled = "POST /smuggled HTTP/1.1\r\nHost: p.test\r\nContent-Length: 0\r\n\r\n";
    for (framing, body, closes) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", true),
        ("Transfer-Encoding: chunked\r\nContent-Length: 60\r\n", "0\r\n\r\n", true),
        ("Content-Length: 2\r\nContent-Length: 2\r\n", "{}", false),
        ("Transfer-Encoding: CHUNKED\r\n", "2;ext=1\r\n{}\r\n0\r\nX-GitHub-Token: evil\r\n\r\n", false),
        ("Content-Length: 2\nX-Bare: 1\n", "{}", false),
    ] {
        let request = format!("POST /mcp HTTP/1.1\r\nHost: p.test\r\n{bearer}\r\n{framing}\r\n{body}");
        if closes {
            let said = until_closed(&rig, format!("{request}{smuggled}").as_bytes()).await;
            assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{framing:?}: {said}");
            assert!([200, 400].contains(&raw::status(&said)), "{framing:?}: {said}");
        } else {
            let said = raw::say(rig.proxy.address(), request.as_bytes()).await;
            assert_eq!(raw::status(&said), 200, "{framing:?}: {said}");
        }
        // The next person's request on the same upstream connection is whole.
        rig.proxy.ping(&tokens.access).await.expect(200);
    }
    let heard = recorder.text();
    assert!(!heard.contains("smuggled") && !heard.contains("evil"), "{heard}");
    let mut rest = heard.as_bytes();
    while !rest.is_empty() {
        let end = message_end(rest).expect("nothing but whole messages");
        let message = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        assert!(message.starts_with("post /mcp http/1.1\r\n"), "{message}");
        assert!(!message.replace("\r\n", "").contains(['\r', '\n']), "a line of its own end: {message}");
        let framings = message.matches("\r\ncontent-length:").count()
            + message.matches("\r\ntransfer-encoding:").count();
        assert_eq!(framings, 1, "{message}");
        rest = &rest[end..];
    }
    rig.verify().await;
}

// GT-02, GT-03, GT-04
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_in_one_way_is_refused_and_the_connection_closed() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    let heard = rig.proxy.mcp.heard().len();
    let bearer = format!("Authorization: Bearer {}", tokens.access);
    let next = "GET /healthz HTTP/1.1\r\nHost: p.test\r\n\r\n";
    let post = |rest: &str| format!("POST /mcp HTTP/1.1\r\nHost: p.test\r\n{bearer}\r\n{rest}");
    for request in [
        post("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding: trailers, chunked\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n"),
        post("Transfer-Encoding: chunked\r\n\r\n5;ext=\nhello\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"),
        post("Content-Length: +5\r\n\r\nhello"),
        post("Content-Length: 5,5\r\n\r\nhello"),
        post("Content-Length: 5, 6\r\n\r\nhello!"),
        post("Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        post("Content-Length: 0x5\r\n\r\nhello"),
        post("Content-Length: -1\r\n\r\n"),
        post("Content-Length: 18446744073709551616\r\n\r\n"),
        post("X-A: a\rb\r\nContent-Length: 0\r\n\r\n"),
        post("X-A: a\0b\r\nContent-Length: 0\r\n\r\n"),
        post("X-A: a\r\n folded\r\nContent-Length: 0\r\n\r\n"),
        post("X A: a\r\nContent-Length: 0\r\n\r\n"),
        format!("POST /mcp HTTP/1.1\r\n {bearer}\r\nHost: p.test\r\nContent-Length: 0\r\n\r\n"),
        format!("POST /mcp HTTP/1.2\r\nHost: p.test\r\n{bearer}\r\nContent-Length: 0\r\n\r\n"),
        format!(
            "POST /mcp HTTP/1.0\r\nHost: p.test\r\n{bearer}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("POST /mcp evil HTTP/1.1\r\nHost: p.test\r\n{bearer}\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let said = until_closed(&rig, format!("{request}{next}").as_bytes()).await;
        assert!(said.matches("HTTP/1.1 ").count() <= 1, "what follows is not read: {request:?}: {said}");
        assert!([0, 400].contains(&raw::status(&said)), "{request:?}: {said}");
    }
    assert_eq!(rig.proxy.mcp.heard().len(), heard, "nothing whole went on");
    rig.verify().await;
}

// DS-03
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let rig = Rig::start().await;
    let long = "a".repeat(64 << 10);
    let many: String = (0..1000).map(|number| format!("X-{number}: a\r\n")).collect();
    let parameters: String = (0..100_000).map(|number| format!("&a{number}")).collect();
    for (request, status) in [
        (format!("GET /mcp HTTP/1.1\r\nHost: p.test\r\nX-Long: {long}\r\n\r\n"), 431),
        (format!("GET /mcp HTTP/1.1\r\nHost: p.test\r\n{many}\r\n"), 431),
        (format!("GET /authorize?{parameters} HTTP/1.1\r\nHost: p.test\r\n\r\n"), 431),
        (format!("GET /authorize?{} HTTP/1.1\r\nHost: p.test\r\n\r\n", &parameters[..30_000]), 414),
        // Not a byte of the body is sent.
        ("POST /register HTTP/1.1\r\nHost: p.test\r\nContent-Length: 11534336\r\n\r\n".to_owned(), 413),
        ("POST /token HTTP/1.1\r\nHost: p.test\r\nContent-Length: 11534336\r\n\r\n".to_owned(), 413),
    ] {
        let answer = raw::say(rig.proxy.address(), request.as_bytes()).await;
        let shown: String = request.chars().take(80).collect();
        assert_eq!(raw::status(&answer), status, "{shown}: {answer}");
    }
    rig.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let rig = Rig::start().await;
    let body = vec![b'a'; 512 << 10];
    for (line, headers, status) in [
        ("POST /nothing HTTP/1.1", "Host: p.test", 404),
        ("POST /mcp HTTP/1.1", "Host: p.test", 401),
        ("PUT /mcp HTTP/1.1", "Host: p.test", 405),
        ("POST / HTTP/1.1", "Host: p.test", 405),
        ("POST /mcp HTTP/1.1", "Host: evil.test", 421),
        ("POST /mcp HTTP/1.1", "X-No-Host: 1", 400),
        ("POST /mcp HTTP/1.1", "Host: p.test\r\nOrigin: https://evil.test", 403),
        ("POST /register HTTP/1.1", "Host: p.test", 413),
        ("PUT /register HTTP/1.1", "Host: p.test", 405),
    ] {
        for _ in 0..5 {
            // So small that it is still sending when it is judged.
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_send_buffer_size(16 << 10).expect("set");
            let mut stream = socket.connect(rig.proxy.address()).await.expect("connects");
            let head = format!("{line}\r\n{headers}\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.expect("writes");
            stream.write_all(&body).await.unwrap_or_else(|error| panic!("{line} {headers}: {error}"));
            let answer = raw::hear(&mut stream).await;
            assert_eq!(raw::status(&answer), status, "{line} {headers}: {answer}");
            assert!(answer.contains("{\"error\":\""), "{answer}");
        }
    }
    rig.verify().await;
}

// GT-13: also where requests of several people share a connection, as behind a proxy.
#[tokio::test(flavor = "multi_thread")]
async fn requests_on_one_connection_know_nothing_of_each_other() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    rig.proxy.github.world().sign_in("bystander");
    let others = rig.login().await;
    rig.proxy.mcp.say(|heard| json(&format!("{{\"token\":\"{}\"}}", heard.header("x-github-token"))));
    let of = |rig: &Rig, login: &str| rig.proxy.github.world().live_tokens(login).pop().expect("a token");
    let (first, second) = (of(&rig, "octocat"), of(&rig, "bystander"));
    let post =
        |more: &str| format!("POST /mcp HTTP/1.1\r\nHost: p.test\r\n{more}Content-Length: 2\r\n\r\n{{}}");
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
    for _ in 0..3 {
        for (more, shows) in [
            (bearer(&tokens.access), first.as_str()),
            (String::new(), "unauthorized"),
            (bearer(&others.access), second.as_str()),
            (bearer("mcpat_nonsense"), "invalid_token"),
        ] {
            stream.write_all(post(&more).as_bytes()).await.expect("writes");
            let answer = raw::hear(&mut stream).await;
            assert!(answer.contains(shows), "{answer}");
        }
    }
    // All at once: the answers come in the order of the requests.
    let all = [
        post(&bearer(&others.access)),
        post(""),
        post(&bearer(&tokens.access)).replace("Host", "Connection: close\r\nHost"),
    ];
    stream.write_all(all.concat().as_bytes()).await.expect("writes");
    let mut said = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await.expect("in time").expect("reads");
    let said = String::from_utf8_lossy(&said).into_owned();
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("no {text}: {said}"));
    assert!(at(&second) < at("unauthorized") && at("unauthorized") < at(&first), "{said}");
    rig.verify().await;
}
