//! Requests that are there as a whole are read by our own hand, all others by hyper. Nobody can tell: what the upstream
//! hears and what the client is answered are the same, however a request is cut.

mod support;

use std::time::Duration;

use http::{HeaderValue, Method, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use support::proxy::{Proxy, Tokens};
use support::upstream::{Body, Heard, events, json, whole};

/// What is answered, by the query: all kinds of framing.
fn answer(heard: &Heard) -> Response<Body> {
    let long = "0123456789abcdef".repeat(600);
    let (_, kind) = heard.target.split_once('?').unwrap_or_default();
    match kind {
        "long" => json(&long),
        "endless" => pieces("application/octet-stream", vec![long.clone(), "end".to_owned()]),
        "events" => pieces("text/event-stream", vec!["data: 1\n\n".to_owned(), format!("data: {long}\n\n")]),
        "events-at-once" => whole("text/event-stream", "data: 1\n\n"),
        "nothing" => with_status(204, json("")),
        "unchanged" => with_status(304, json("")),
        "missing" => with_status(404, json("{}")),
        "empty" => json(""),
        "accepted" => with_status(202, json("")),
        "redirect" => with_status(302, json("")),
        _ => json(&format!("{{\"length\":{}}}", heard.body.len())),
    }
}

fn with_status(status: u16, mut response: Response<Body>) -> Response<Body> {
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn pieces(kind: &'static str, pieces: Vec<String>) -> Response<Body> {
    let (mut response, feed) = events();
    pieces.into_iter().for_each(|piece| feed.send(Ok(piece.into())).expect("somebody listens"));
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    response.headers_mut().insert("x-up", HeaderValue::from_static("A, b"));
    response
}

/// How a request is cut.
type Cut = fn(&[u8]) -> Vec<&[u8]>;

const CUTS: [Cut; 4] = [
    |request| vec![request],
    // As Python's clients send it.
    |request| {
        let head = request.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        vec![&request[..head], &request[head..]]
    },
    |request| vec![&request[..30], &request[30..]],
    |request| request.chunks(1).collect(),
];

/// Says the pieces one by one, each heard before the next comes, then listens until it has all of an answer.
async fn exchange(client: &mut TcpStream, pieces: &[&[u8]], method: &Method) -> (Vec<String>, Vec<u8>) {
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        client.write_all(piece).await.expect("writes");
        client.flush().await.expect("flushes");
        // Without Nagle each write is a segment. That the other side reads it by itself is likely, no more: nothing here
        // depends on it.
        match pieces.len() {
            2 => sleep(Duration::from_millis(1)).await,
            _ => tokio::task::yield_now().await,
        }
    }
    let mut heard = Vec::new();
    loop {
        let mut piece = [0; 16 << 10];
        let read = client.read(&mut piece).await.expect("reads");
        heard.extend_from_slice(&piece[..read]);
        if let Some(answer) = parsed(&heard, read == 0, method) {
            return answer;
        }
        assert!(read > 0, "{:?}", String::from_utf8_lossy(&heard));
    }
}

/// Lines of the head, but for the date, and the body out of its framing; none while there is more to come.
fn parsed(heard: &[u8], is_over: bool, method: &Method) -> Option<(Vec<String>, Vec<u8>)> {
    let (lines, body, rest) = answer_in(heard, is_over, method)?;
    assert!(rest.is_empty(), "more than was asked for: {:?}", String::from_utf8_lossy(rest));
    Some((lines, body))
}

/// The same of the first answer, and what comes behind it.
fn answer_in<'a>(
    heard: &'a [u8],
    is_over: bool,
    method: &Method,
) -> Option<(Vec<String>, Vec<u8>, &'a [u8])> {
    let end = heard.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(heard[..end].to_vec()).expect("text");
    let (dates, mut lines): (Vec<String>, Vec<String>) =
        head.trim_end().lines().map(str::to_owned).partition(|line| line.starts_with("date: "));
    assert_eq!(dates.len(), 1, "{head}");
    lines.sort();
    let rest = &heard[end..];
    if lines.iter().any(|line| line == "transfer-encoding: chunked") {
        assert!(!head.contains("content-length"), "{head}");
        return unchunked(rest).map(|(body, rest)| (lines, body, rest));
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
    let has_none = *method == Method::HEAD || head.contains(" 204 ") || head.contains(" 304 ");
    let length = match length.map(|length| length.parse::<usize>().expect("a number")) {
        _ if has_none => 0,
        Some(length) => length,
        None if is_over => rest.len(),
        None => return None,
    };
    let body = rest.get(..length)?.to_vec();
    Some((lines, body, &rest[length..]))
}

fn unchunked(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).expect("text");
        let size = usize::from_str_radix(size, 16).expect("a size");
        let chunk = rest.get(end + 2..end + 2 + size)?;
        body.extend_from_slice(chunk);
        rest = rest.get(end + 4 + size..)?;
        if size == 0 {
            return Some((body, rest));
        }
    }
}

fn request(tokens: &Tokens, method: &Method, target: &str, more: &str, body: &str) -> Vec<u8> {
    let token = &tokens.access;
    format!("{method} {target} HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {token}\r\n{more}\r\n{body}")
        .into_bytes()
}

/// Every request on a connection of its own and on one that has served others, cut in every way.
async fn alike(proxy: &Proxy, bytes: &[u8], method: &Method) {
    let mut expected = None;
    let mut kept = TcpStream::connect(proxy.address()).await.expect("connects");
    kept.set_nodelay(true).expect("set");
    for cut in CUTS {
        let mut fresh = TcpStream::connect(proxy.address()).await.expect("connects");
        fresh.set_nodelay(true).expect("set");
        for client in [&mut fresh, &mut kept] {
            let count = proxy.mcp.heard().len();
            let answer = exchange(client, &cut(bytes), method).await;
            let heard: Vec<String> =
                proxy.mcp.heard()[count..].iter().map(|heard| format!("{heard:?}")).collect();
            let seen = (answer, heard);
            let expected = expected.get_or_insert_with(|| seen.clone());
            assert_eq!(*expected, seen, "{}", String::from_utf8_lossy(bytes));
            if seen.0.0.iter().any(|line| line == "connection: close") {
                *client = TcpStream::connect(proxy.address()).await.expect("connects");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_same_however_a_request_is_cut() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    proxy.mcp.say(answer);
    for kind in [
        "",
        "long",
        "endless",
        "events",
        "events-at-once",
        "nothing",
        "unchanged",
        "missing",
        "empty",
        "accepted",
        "redirect",
    ] {
        let target = format!("/mcp?{kind}");
        for (method, more, body) in [
            (Method::POST, "Content-Type: application/json\r\nContent-Length: 2\r\n", "{}"),
            (Method::GET, "Accept: text/event-stream\r\n", ""),
            (Method::DELETE, "", ""),
        ] {
            alike(&proxy, &request(&tokens, &method, &target, more, body), &method).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_the_same_whoever_reads_them() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    proxy.mcp.say(answer);
    let large = "x".repeat(9_999);
    let sized = format!("Content-Length: {}\r\n", large.len());
    for (method, target, more, body) in [
        (Method::POST, "/mcp", "Content-Length: 0\r\n", ""),
        (Method::POST, "/mcp", "", ""),
        (
            Method::POST,
            "/mcp/",
            "content-length: 2\r\nX-Request-Id:  a b \r\nAccept:*/*\r\nACCEPT:\r\n",
            "{}",
        ),
        (Method::POST, "/mcp?a=%20&access_token=no&b", "Content-Length: 2\r\nMcp-Name: \u{fc}\r\n", "{}"),
        (Method::POST, "/mcp", &sized, &large),
        (Method::POST, "/mcp", "Connection: keep-alive\r\nContent-Length: 2\r\n", "{}"),
        (Method::POST, "/mcp", "Connection: close\r\nContent-Length: 2\r\n", "{}"),
        (Method::POST, "/mcp", "Connection: x-request-id\r\nX-Request-Id: 1\r\nContent-Length: 2\r\n", "{}"),
        (Method::POST, "/mcp", "Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"),
        (Method::GET, "/mcp", "Origin: https://p.test\r\n", ""),
        (Method::GET, "/mcp", "Origin: https://evil.test\r\n", ""),
        (Method::POST, "/mcp", "Mcp-Session-Id: nobodys\r\nContent-Length: 2\r\n", "{}"),
        (Method::OPTIONS, "/mcp", "Origin: https://p.test\r\n", ""),
        (Method::PUT, "/mcp", "Content-Length: 2\r\n", "{}"),
        (Method::HEAD, "/mcp", "", ""),
        (Method::GET, "/mcp/other", "", ""),
        (Method::GET, "/", "", ""),
        (Method::POST, "/mcp", "Host: other.test\r\nContent-Length: 2\r\n", "{}"),
    ] {
        alike(&proxy, &request(&tokens, &method, target, more, body), &method).await;
    }
    let stranger = Tokens { access: "mapa_nobodys".to_owned(), ..tokens };
    alike(&proxy, &request(&stranger, &Method::POST, "/mcp", "Content-Length: 2\r\n", "{}"), &Method::POST)
        .await;
}

/// The same sequence for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).expect("a number") % bound
    }

    fn one_of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// A request of any kind, and what its answer must say.
fn any(dice: &mut Dice, number: usize, tokens: &Tokens) -> (Vec<u8>, String) {
    let kind = dice.one_of(&["plain", "long", "endless", "events", "events-at-once", "empty", "missing"]);
    let target = format!("/mcp?{kind}&{number}");
    let length = [1, 20, 3_000, 9_000][dice.below(4)];
    let body = "x".repeat(length);
    let sized = format!("Content-Length: {length}\r\n");
    let echo = format!("<{kind}&{number}:{length}>");
    match dice.below(9) {
        0..=3 => (request(tokens, &Method::POST, &target, &sized, &body), echo),
        4 => {
            let chunks = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
            (request(tokens, &Method::POST, &target, "Transfer-Encoding: chunked\r\n", &chunks), echo)
        }
        5 => (request(tokens, &Method::GET, &target, "", ""), format!("<{kind}&{number}:0>")),
        6 => (request(tokens, &Method::DELETE, &target, &sized, &body), echo),
        7 => (b"GET /healthz HTTP/1.1\r\nHost: p.test\r\n\r\n".to_vec(), "\"ok\"".to_owned()),
        _ => {
            let stranger = Tokens { access: "mapa_nobodys".to_owned(), ..tokens.clone() };
            (request(&stranger, &Method::POST, "/mcp", &sized, &body), "invalid_token".to_owned())
        }
    }
}

// Many requests on one connection without waiting, cut anyhow: each is answered, in their order, and nothing else is
// said, whoever reads which.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_said_ahead_is_answered_in_order() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    proxy.mcp.say(|heard| {
        let (_, query) = heard.target.split_once('?').unwrap_or_default();
        let echo = format!("<{query}:{}>", heard.body.len());
        let long = "0123456789abcdef".repeat(600);
        match query.split('&').next().unwrap_or_default() {
            "long" => json(&format!("{long}{echo}")),
            "endless" => pieces("application/octet-stream", vec![long.clone(), echo, long]),
            "events" => {
                pieces("text/event-stream", vec![format!("data: {echo}\n\n"), "data: 2\n\n".to_owned()])
            }
            "events-at-once" => whole("text/event-stream", &format!("data: {echo}\n\n")),
            "missing" => with_status(404, json(&echo)),
            _ => json(&echo),
        }
    });
    for seed in 1..=60_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (mut said, mut expected) = (Vec::new(), Vec::new());
        for number in 0..=dice.below(20) {
            let (bytes, answer) = any(&mut dice, number, &tokens);
            said.extend(bytes);
            expected.push(answer);
        }
        let client = TcpStream::connect(proxy.address()).await.expect("connects");
        client.set_nodelay(true).expect("set");
        let (mut reading, mut writing) = client.into_split();
        let most = [said.len(), 5_000, 700, 90][dice.below(4)];
        let saying = tokio::spawn(async move {
            let mut rest = &said[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at((1 + dice.below(most)).min(rest.len()));
                writing.write_all(now).await.expect("writes");
                tokio::task::yield_now().await;
                rest = later;
            }
            writing
        });
        let mut heard = Vec::new();
        for (number, expected) in expected.iter().enumerate() {
            let body = loop {
                if let Some((_, body, rest)) = answer_in(&heard, false, &Method::POST) {
                    heard = rest.to_vec();
                    break String::from_utf8(body).expect("text");
                }
                let mut piece = [0; 16 << 10];
                let read = soon(reading.read(&mut piece)).await.expect("reads");
                assert!(read > 0, "seed {seed}: closed before {number}, {expected}");
                heard.extend_from_slice(&piece[..read]);
            };
            assert!(body.contains(expected), "seed {seed}, {number}: {expected} in {body}");
        }
        let mut writing = saying.await.expect("runs");
        writing.shutdown().await.expect("ends");
        soon(reading.read_to_end(&mut heard)).await.expect("reads");
        assert!(heard.is_empty(), "seed {seed}: {:?}", String::from_utf8_lossy(&heard));
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}
