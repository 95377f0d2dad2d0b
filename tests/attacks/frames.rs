//! HTTP/2 frame by frame, as no library would send it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::flood::{is_closed, limited, streams};
use crate::rig::Rig;

/// What the other side said.
#[derive(Debug, Default)]
struct Said {
    frames: Vec<(u8, u32, Vec<u8>)>,
    closed: bool,
}

impl Said {
    /// The error code of the first frame of this kind, of this stream if it is one.
    fn code(&self, kind: u8, stream: u32) -> Option<u32> {
        let mut frames = self.frames.iter().filter(|(k, s, _)| *k == kind && *s == stream);
        let (_, _, payload) = frames.next()?;
        let at = if kind == GO_AWAY { 4 } else { 0 };
        Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().expect("four bytes")))
    }

    /// The status of a stream's answer, as HPACK writes it: from the static table or as three digits.
    fn status(&self, stream: u32) -> Option<u16> {
        let (_, _, block) = self.frames.iter().find(|(kind, of, _)| *kind == HEADERS && *of == stream)?;
        match block.first()? {
            0x88 => Some(200),
            0x8c => Some(400),
            0x8d => Some(404),
            0x48 if block[1] & 0x80 != 0 => unhuffed(&block[2..]),
            0x48 => std::str::from_utf8(block.get(2..5)?).ok()?.parse().ok(),
            _ => None,
        }
    }
}

/// Three digits in Huffman code: 0, 1 and 2 take five bits, the others six.
fn unhuffed(bytes: &[u8]) -> Option<u16> {
    let bits: String = bytes.iter().take(3).map(|byte| format!("{byte:08b}")).collect();
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let five = u16::from_str_radix(bits.get(at..at + 5)?, 2).ok()?;
        if five <= 2 {
            status = status * 10 + five;
            at += 5;
        } else {
            status = status * 10 + u16::from_str_radix(bits.get(at..at + 6)?, 2).ok()? - 0b01_1001 + 3;
            at += 6;
        }
    }
    Some(status)
}

/// A connection whose preface and settings are sent.
async fn open(rig: &Rig, settings: &[u8]) -> (OwnedReadHalf, OwnedWriteHalf) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    let stream = socket.connect(rig.proxy.address()).await.expect("connects");
    let (reading, mut writing) = stream.into_split();
    let opening = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, settings)].concat();
    writing.write_all(&opening).await.expect("writes");
    (reading, writing)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("fits").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn text(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if text.len() < 127 {
        out.push(text.len() as u8);
    } else {
        out.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            out.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    [&out, text].concat()
}

/// A header that is not indexed.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

fn request(method: &[u8], path: &[u8]) -> Vec<u8> {
    [
        field(b":method", method),
        field(b":scheme", b"https"),
        field(b":path", path),
        field(b":authority", b"p.test"),
    ]
    .concat()
}

fn get() -> Vec<u8> {
    request(b"GET", b"/mcp")
}

/// Reads until the other side closes or this time is over; answers settings and pings when it is to be polite.
async fn hear(
    reading: &mut OwnedReadHalf,
    mut writing: Option<&mut OwnedWriteHalf>,
    within: Duration,
) -> Said {
    let mut said = Said::default();
    let listen = async {
        loop {
            let mut head = [0; 9];
            if reading.read_exact(&mut head).await.is_err() {
                return true;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            if reading.read_exact(&mut payload).await.is_err() {
                return true;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if let (PING, 0, Some(writing)) = (head[3], head[4], writing.as_mut()) {
                let _ = writing.write_all(&frame(PING, ACK, 0, &payload)).await;
            }
            said.frames.push((head[3], stream, payload));
        }
    };
    let closed = timeout(within, listen).await.unwrap_or(false);
    said.closed = closed;
    said
}

/// What it is, how often, and the frames of one round for an odd stream id.
type Flood = (&'static str, u32, fn(u32) -> Vec<u8>);

/// Sends these again and again, with odd stream ids counted up, until the other side has had enough.
async fn flood(rig: &Rig, times: u32, one: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Said {
    let (mut reading, mut writing) = open(rig, &[]).await;
    let writer = tokio::spawn(async move {
        for number in 0..times {
            if writing.write_all(&one(number * 2 + 1)).await.is_err() {
                break;
            }
        }
        writing
    });
    let said = hear(&mut reading, None, Duration::from_secs(15)).await;
    writer.abort();
    said
}

async fn assert_lean(rig: &Rig, before: u64, what: &str) {
    let now = rig.vitals().rss_kib;
    assert!(now < before + (12 << 10), "{what}: {before} KiB became {now} KiB");
}

// DS-04
#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_end_their_connection() {
    let rig = limited("head_timeout: 3s").await;
    let floods: [Flood; 6] = [
        ("rapid reset", 20_000, |id| {
            [
                frame(HEADERS, END_HEADERS | END_STREAM, id, &get()),
                frame(RST_STREAM, 0, id, &8u32.to_be_bytes()),
            ]
            .concat()
        }),
        ("made you reset, by window updates", 20_000, |id| {
            let most = 0x7fff_ffffu32.to_be_bytes();
            let post = request(b"POST", b"/mcp");
            [
                frame(HEADERS, END_HEADERS, id, &post),
                frame(WINDOW_UPDATE, 0, id, &most),
                frame(WINDOW_UPDATE, 0, id, &most),
            ]
            .concat()
        }),
        ("made you reset, by data after the end", 20_000, |id| {
            [frame(HEADERS, END_HEADERS | END_STREAM, id, &get()), frame(DATA, 0, id, b"more")].concat()
        }),
        ("continuations without end", 20_000, |id| {
            if id == 1 { frame(HEADERS, 0, 1, &get()) } else { frame(CONTINUATION, 0, 1, &[]) }
        }),
        ("continuations full of headers", 20_000, |id| {
            if id == 1 {
                frame(HEADERS, 0, 1, &get())
            } else {
                frame(CONTINUATION, 0, 1, &field(format!("x-{id}").as_bytes(), &[b'a'; 1000]))
            }
        }),
        ("empty data", 50_000, |id| {
            if id == 1 {
                frame(HEADERS, END_HEADERS, 1, &request(b"POST", b"/register"))
            } else {
                frame(DATA, 0, 1, &[])
            }
        }),
    ];
    for (what, times, one) in floods {
        let before = rig.vitals().rss_kib;
        let said = flood(&rig, times, one).await;
        assert!(said.closed, "{what}: {:?}", said.frames.last());
        assert_lean(&rig, before, what).await;
    }
    rig.verify().await;
}

// DS-04
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_end_the_connection() {
    let rig = limited("head_timeout: 10s, write_timeout: 2s").await;
    for (what, one) in [("settings", frame(SETTINGS, 0, 0, &[])), ("pings", frame(PING, 0, 0, b"12345678"))] {
        let before = rig.vitals().rss_kib;
        let (reading, mut writing) = open(&rig, &[]).await;
        let many = one.repeat(1000);
        let writes = async { while writing.write_all(&many).await.is_ok() {} };
        timeout(Duration::from_secs(12), writes)
            .await
            .unwrap_or_else(|_| panic!("{what} are taken for ever"));
        assert_lean(&rig, before, what).await;
        drop(reading);
    }
    rig.verify().await;
}

// DS-04
#[tokio::test(flavor = "multi_thread")]
async fn strangers_whose_window_stays_shut_keep_no_connection_from_anybody() {
    let mut rig = limited("connections: 3").await;
    let tokens = rig.login().await;
    // SETTINGS_INITIAL_WINDOW_SIZE (4) of nothing: the answer's body may never be sent.
    let shut = [0, 4, 0, 0, 0, 0];
    let mut held = Vec::new();
    for _ in 0..12 {
        let (mut reading, mut writing) = open(&rig, &shut).await;
        let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, &request(b"GET", b"/healthz"));
        let _ = writing.write_all(&get).await;
        // One that finds all taken waits; by then three have been answered, and hold on.
        if held.len() < 3 {
            let said = hear(&mut reading, None, Duration::from_millis(500)).await;
            assert_eq!(said.status(1), Some(200), "{said:?}");
        }
        held.push((reading, writing));
    }
    let ping = timeout(Duration::from_secs(15), rig.proxy.ping(&tokens.access)).await;
    ping.expect("it waits for no stranger").expect(200);
    drop(held);
    rig.verify().await;
}

// DS-04
#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_of_headers_does_not_go_off() {
    let rig = Rig::start().await;
    let before = rig.vitals().rss_kib;
    // One entry of 4 000 bytes for the table, and then that entry, one byte each, sixteen thousand times.
    let entry = [vec![0x40], text(b"x"), text(&[b'a'; 4000])].concat();
    let mut bomb = [get(), entry].concat();
    bomb.resize(16_000, 0xbe);
    let (mut reading, mut writing) = open(&rig, &[]).await;
    for id in [1, 3, 5, 7] {
        let _ = writing.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &bomb)).await;
    }
    let said = hear(&mut reading, Some(&mut writing), Duration::from_secs(3)).await;
    let is_refused = said.closed || said.status(1) == Some(431) || said.code(RST_STREAM, 1).is_some();
    assert!(is_refused, "{:?}", said.frames);
    assert_lean(&rig, before, "a bomb").await;
    rig.verify().await;
}

// DS-03, DS-04
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_headers_are_too_many_in_http2_too() {
    let rig = Rig::start().await;
    let (mut reading, mut writing) = open(&rig, &[]).await;
    let many: Vec<u8> = (0..1000).flat_map(|number| field(format!("x-{number}").as_bytes(), b"a")).collect();
    let block = [get(), many].concat();
    let (first, rest) = block.split_at(block.len() / 2);
    let frames = [frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, rest)].concat();
    writing.write_all(&frames).await.expect("writes");
    let ends = frame(HEADERS, END_HEADERS | END_STREAM, 3, &request(b"GET", b"/healthz"));
    writing.write_all(&ends).await.expect("writes");
    let said = hear(&mut reading, Some(&mut writing), Duration::from_secs(2)).await;
    assert_eq!(said.status(1), Some(431), "{:?}", said.frames);
    assert_eq!(said.status(3), Some(200), "the connection is none the worse");
    rig.verify().await;
}

// DS-04: zero window.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_never_opens_ends_the_connection() {
    let mut rig = limited("head_timeout: 2s, write_timeout: 2s").await;
    let tokens = rig.login().await;
    let mut fed = streams(&rig);
    let before = rig.vitals().rss_kib;
    // SETTINGS_INITIAL_WINDOW_SIZE 0: not one byte of any body is taken. Pings are answered all the time.
    let (mut reading, mut writing) = open(&rig, &[0, 4, 0, 0, 0, 0]).await;
    let bearer = field(b"authorization", format!("Bearer {}", tokens.access).as_bytes());
    for number in 0..100 {
        let block = if number == 50 { [get(), bearer.clone()].concat() } else { get() };
        writing
            .write_all(&frame(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, &block))
            .await
            .expect("writes");
    }
    let feed = timeout(Duration::from_secs(5), fed.recv()).await.expect("in time").expect("a stream");
    for _ in 0..200 {
        let _ = feed.send(Ok(bytes::Bytes::from(vec![b'a'; 256 << 10])));
    }
    let said = hear(&mut reading, Some(&mut writing), Duration::from_secs(15)).await;
    assert!(said.closed, "{:?}", said.frames.last());
    timeout(Duration::from_secs(5), feed.closed()).await.expect("the upstream is told");
    assert_lean(&rig, before, "a closed window").await;
    rig.verify().await;
}

// DS-04
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_is_sent_home() {
    let mut rig = limited("head_timeout: 1s").await;
    let tokens = rig.login().await;
    let mut fed = streams(&rig);
    // One with an idle stream, which is a request: it stays.
    let (mut other, mut others) = open(&rig, &[]).await;
    let bearer = field(b"authorization", format!("Bearer {}", tokens.access).as_bytes());
    let stream = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[get(), bearer].concat());
    others.write_all(&stream).await.expect("writes");
    let feed = timeout(Duration::from_secs(5), fed.recv()).await.expect("in time").expect("a stream");
    let (mut reading, mut writing) = open(&rig, &[]).await;
    let (idle, busy) = tokio::join!(
        hear(&mut reading, Some(&mut writing), Duration::from_secs(10)),
        hear(&mut other, Some(&mut others), Duration::from_secs(8)),
    );
    assert!(idle.closed, "pings alone keep no connection");
    assert_eq!(idle.code(GO_AWAY, 0), Some(0), "it is told so");
    assert!(!busy.closed && !feed.is_closed(), "an idle stream is not an idle connection");
    drop((other, others, feed));
    rig.verify().await;
}

// GT-05: there is no second way into HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_upgraded() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    for upgrade in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA",
        "Connection: upgrade\r\nUpgrade: foo",
    ] {
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n{upgrade}\r\nContent-Length: 2\r\n\r\n{{}}",
            tokens.access
        );
        let inner = "GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n";
        let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
        stream.write_all(format!("{request}{inner}").as_bytes()).await.expect("writes");
        let answer = crate::support::raw::hear(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let last = rig.proxy.mcp.last();
        assert_eq!(&last.body[..], b"{}", "what follows is not its body");
        for name in ["upgrade", "http2-settings", "sec-websocket-key", "connection"] {
            assert!(!last.headers.contains_key(name), "{name}");
        }
        assert!(
            rig.proxy.mcp.heard().iter().all(|heard| !heard.target.contains("evil")),
            "there is no tunnel"
        );
        drop(stream);
    }
    let mut gone = TcpStream::connect(rig.proxy.address()).await.expect("connects");
    gone.write_all(b"PRI * HTTP/1.1\r\nHost: p.test\r\n\r\n").await.expect("writes");
    gone.shutdown().await.expect("shut");
    assert!(is_closed(&mut gone, Duration::from_secs(5)).await);
    rig.verify().await;
}

// DS-08: the whole mix at once, for seconds here and for minutes by hand.
async fn mixed(rounds: usize) {
    let mut rig = limited("head_timeout: 2s, body_timeout: 2s, write_timeout: 2s").await;
    rig.expect_memory(128 << 10);
    let tokens = rig.login().await;
    let before = rig.vitals().rss_kib;
    let mut most = before;
    for _ in 0..rounds {
        let mut held = Vec::new();
        for number in 0..200u32 {
            let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
            let opening: Vec<u8> = match number % 4 {
                0 => b"GET /mcp HTTP/1.1\r\nHost: p.test\r\nX: ".to_vec(),
                1 => b"POST /token HTTP/1.1\r\nHost: p.test\r\nContent-Length: 60000\r\n\r\na=".to_vec(),
                2 => [b"GET /mcp HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 40_000]].concat(),
                _ => [
                    PREFACE.to_vec(),
                    frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
                    (0..100)
                        .flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &get()))
                        .collect(),
                ]
                .concat(),
            };
            let _ = stream.write_all(&opening).await;
            held.push(stream);
        }
        let reset = |id: u32| {
            let first = frame(HEADERS, END_HEADERS | END_STREAM, id, &get());
            [first, frame(RST_STREAM, 0, id, &8u32.to_be_bytes())].concat()
        };
        for _ in 0..5 {
            assert!(flood(&rig, 20_000, reset).await.closed);
            rig.proxy.ping(&tokens.access).await.expect(200);
            most = most.max(rig.vitals().rss_kib);
        }
    }
    println!("{rounds} rounds: {before} KiB, at most {most} KiB");
    assert!(most < 256 << 10, "{before} KiB became {most} KiB");
    // A round sends some 20 MiB; what is held of it is let go before the next ones add to it.
    assert!(most < before + (160 << 10), "{before} KiB became {most} KiB");
    rig.verify().await;
}

// DS-08
#[tokio::test(flavor = "multi_thread")]
async fn all_floods_at_once_stay_within_256_mib() {
    mixed(1).await;
}

// DS-08
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: MCP_AUTH_PROXY=target/release/mcp-auth-proxy cargo test --test attacks -- --ignored all_floods --nocapture"]
async fn all_floods_at_once_stay_within_256_mib_for_minutes() {
    mixed(300).await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
