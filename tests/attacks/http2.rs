//! HTTP/2 in, HTTP/1.1 up: frames that no library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::answers::rude;
use crate::rig::Rig;

/// What a stream came to.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// An answer; whether it was 200.
    Answer(bool),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    Away(u32),
    Closed,
}

type Field<'a> = (&'a [u8], &'a [u8]);

/// A frame: length, type, flags, stream. RFC 9113 §4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Literals without indexing, whatever bytes they are made of. RFC 7541 §6.2.2.
fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            match u8::try_from(text.len()) {
                Ok(length) if length < 127 => block.push(length),
                _ => {
                    block.push(127);
                    let mut rest = text.len() - 127;
                    while rest >= 128 {
                        block.push((rest % 128) as u8 | 128);
                        rest /= 128;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend(*text);
        }
    }
    block
}

/// Speaks frames on a connection of its own and says what became of stream 1.
async fn speak(rig: &Rig, frames: &[Vec<u8>]) -> End {
    let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
    let preface = [PREFACE, &frame(4, 0, 0, b"")].concat();
    // It may be refused before everything is written.
    let _ = stream.write_all(&[preface, frames.concat()].concat()).await;
    timeout(Duration::from_secs(20), end(&mut stream)).await.expect("an end")
}

async fn end(stream: &mut TcpStream) -> End {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return End::Closed;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            return End::Closed;
        }
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        match head[3] {
            // RFC 7541 Appendix A: 8 is `:status: 200`.
            1 => return End::Answer(payload[0] == 0x88),
            3 => return End::Reset(code(0)),
            7 => return End::Away(code(4)),
            _ => {}
        }
    }
}

/// A good call, but for what is given: a name replaces, an empty value of a pseudo-header leaves it out.
fn call<'a>(bearer: &'a [u8], changes: &[Field<'a>]) -> Vec<Field<'a>> {
    let mut fields: Vec<Field<'a>> = vec![
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"p.test"),
        (b":path", b"/mcp"),
        (b"authorization", bearer),
        (b"content-type", b"application/json"),
    ];
    for (name, value) in changes {
        match fields.iter_mut().find(|(known, _)| known == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields.retain(|(name, value)| !(name.starts_with(b":") && value == b"-"));
    fields
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const BODY: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: u32 = 1;

// GT-07
#[tokio::test(flavor = "multi_thread")]
async fn what_http1_could_not_carry_is_a_stream_error() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    let bearer = format!("Bearer {}", tokens.access).into_bytes();
    let said =
        |fields: &[Field<'_>]| [frame(1, END_HEADERS, 1, &block(fields)), frame(0, END_STREAM, 1, BODY)];
    // The same without a fault goes through.
    assert_eq!(speak(&rig, &said(&call(&bearer, &[(b"content-length", b"40")]))).await, End::Answer(true));
    let heard = rig.proxy.mcp.heard().len();
    let changes: Vec<(&str, Vec<Field<'_>>)> = vec![
        ("CRLF in a value", vec![(b"x-request-id", b"a\r\nx-github-token: evil")]),
        ("LF in a value", vec![(b"x-request-id", b"a\nb")]),
        ("CR in a value", vec![(b"x-request-id", b"a\rb")]),
        ("NUL in a value", vec![(b"x-request-id", b"a\0b")]),
        ("CRLF in the path", vec![(b":path", b"/mcp HTTP/1.1\r\nX-GitHub-Token: evil\r\n\r\n")]),
        ("a space in the path", vec![(b":path", b"/mcp /x")]),
        ("NUL in the path", vec![(b":path", b"/mcp\0")]),
        ("no path", vec![(b":path", b"-")]),
        ("an empty path", vec![(b":path", b"")]),
        ("a path without its slash", vec![(b":path", b"mcp")]),
        ("a request line for a method", vec![(b":method", b"GET /mcp HTTP/1.1\r\n\r\nPOST")]),
        ("a space in the method", vec![(b":method", b"POST ")]),
        ("no method", vec![(b":method", b"-")]),
        ("transfer-encoding", vec![(b"transfer-encoding", b"chunked")]),
        ("connection", vec![(b"connection", b"authorization")]),
        ("keep-alive", vec![(b"keep-alive", b"timeout=5")]),
        ("proxy-connection", vec![(b"proxy-connection", b"keep-alive")]),
        ("upgrade", vec![(b"upgrade", b"h2c")]),
        ("te that is not trailers", vec![(b"te", b"gzip")]),
        ("a length too small", vec![(b"content-length", b"39")]),
        ("a length too large", vec![(b"content-length", b"41")]),
        ("a length with a sign", vec![(b"content-length", b"+40")]),
        ("a list of lengths", vec![(b"content-length", b"40, 40")]),
        ("upper case in a name", vec![(b"X-Request-Id", b"a")]),
        ("a space in a name", vec![(b"x-request id", b"a")]),
        ("a colon in a name", vec![(b"x-request-id:", b"a")]),
        ("a line in a name", vec![(b"x-a: b\r\nx-github-token", b"evil")]),
        ("an empty name", vec![(b"", b"a")]),
        ("an unknown pseudo-header", vec![(b":protocol", b"websocket")]),
        ("a pseudo-header of answers", vec![(b":status", b"200")]),
        ("a pseudo-header after others", vec![(b":late", b"a")]),
        ("another host beside the authority", vec![(b"host", b"evil.test")]),
        ("a user before the authority", vec![(b":authority", b"evil@p.test")]),
        ("another authority", vec![(b":authority", b"evil.test")]),
        ("a space in the authority", vec![(b":authority", b"p.test evil")]),
        ("no authority", vec![(b":authority", b"-")]),
    ];
    for (name, changes) in &changes {
        let end = speak(&rig, &said(&call(&bearer, changes))).await;
        assert!(matches!(end, End::Answer(false) | End::Reset(_) | End::Away(_)), "{name}: {end:?}");
        assert_eq!(rig.proxy.mcp.heard().len(), heard, "{name}: nothing went on");
    }
    let twice = |name: &'static [u8], value: &'static [u8]| {
        let mut fields = call(&bearer, &[]);
        fields.insert(4, (name, value));
        said(&fields)
    };
    for (name, frames) in [
        ("two paths", twice(b":path", b"/other")),
        ("two methods", twice(b":method", b"GET")),
        ("two authorities", twice(b":authority", b"evil.test")),
        ("two schemes", twice(b":scheme", b"http")),
    ] {
        assert_eq!(speak(&rig, &frames).await, End::Reset(PROTOCOL_ERROR), "{name}");
    }
    let mut lengths = call(&bearer, &[(b"content-length", b"40")]);
    lengths.push((b"content-length", b"5"));
    let end = speak(&rig, &said(&lengths)).await;
    assert!(matches!(end, End::Answer(false) | End::Reset(_)), "two lengths: {end:?}");
    assert_eq!(rig.proxy.mcp.heard().len(), heard, "nothing went on");
    rig.verify().await;
}

/// RFC 9113 §8.1: trailers come after everything was decided, and stay behind.
// GT-04
#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_http2_never_become_headers() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    let bearer = format!("Bearer {}", tokens.access).into_bytes();
    let heard = rig.proxy.mcp.heard().len();
    let trailers: [Field<'_>; 3] =
        [(b"x-github-token", b"evil"), (b"authorization", b"Bearer evil"), (b"content-length", b"7")];
    let with = |fields: &[Field<'_>], trailers: &[Field<'_>]| {
        let (head, tail) = (block(fields), block(trailers));
        [frame(1, END_HEADERS, 1, &head), frame(0, 0, 1, BODY), frame(1, END_HEADERS | END_STREAM, 1, &tail)]
    };
    assert_eq!(speak(&rig, &with(&call(&bearer, &[]), &trailers)).await, End::Answer(true));
    let last = rig.proxy.mcp.last();
    assert_eq!(last.headers.get_all("x-github-token").iter().count(), 1);
    assert_ne!(last.header("x-github-token"), "evil");
    assert_eq!((last.header("authorization"), &last.body[..]), ("", BODY));
    // Nobody logs in by a trailer.
    let mut bare = call(&bearer, &[]);
    bare.retain(|(name, _)| *name != b"authorization");
    let late: [Field<'_>; 1] = [(b"authorization", &bearer)];
    assert_eq!(speak(&rig, &with(&bare, &late)).await, End::Answer(false));
    assert_eq!(rig.proxy.mcp.heard().len(), heard + 1);
    // A pseudo-header there is an error (RFC 9113 §8.1) that h2 overlooks: it is gone like the rest.
    let odd: [Field<'_>; 2] = [(b":path", b"/other"), (b":authority", b"evil.test")];
    speak(&rig, &with(&call(&bearer, &[]), &odd)).await;
    assert!(rig.proxy.mcp.heard()[heard..].iter().all(|heard| heard.target == "/mcp"));
    rig.verify().await;
}

/// RFC 9113 §8.1: who resets a stream has not come to the end of its body, whatever the reason it gives.
// UP-02
#[tokio::test(flavor = "multi_thread")]
async fn a_body_whose_stream_is_reset_never_comes_to_its_end() {
    let (rig, upstream, call) = rude("").await;
    let (_, token) = call.split_once("Bearer ").expect("a token");
    let bearer = format!("Bearer {}", token.lines().next().expect("a line")).into_bytes();
    let call = || self::call(&bearer, &[(b":path", b"/rude")]);
    for reason in [NO_ERROR, CANCEL] {
        for (name, length) in [("unknown", None), ("large", Some(&b"100000"[..])), ("small", Some(b"100"))] {
            let mut client = TcpStream::connect(rig.proxy.address()).await.expect("connects");
            let mut fields = call();
            fields.extend(length.map(|length| (&b"content-length"[..], length)));
            let begin = [frame(1, END_HEADERS, 1, &block(&fields)), frame(0, 0, 1, BODY)].concat();
            let begin = [PREFACE, &frame(4, 0, 0, b""), &begin].concat();
            let reset = frame(3, 0, 1, &u32::to_be_bytes(reason));
            if name == "small" {
                client.write_all(&[begin, reset].concat()).await.expect("writes");
                continue;
            }
            client.write_all(&begin).await.expect("writes");
            let heard = async {
                let (mut stream, mut heard) = upstream.accept().await;
                while !heard.contains(std::str::from_utf8(BODY).expect("text")) {
                    let mut bytes = [0; 4096];
                    let read = stream.read(&mut bytes).await.expect("reads");
                    assert!(read > 0, "{name}: cut after {heard}");
                    heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
                }
                client.write_all(&reset).await.expect("writes");
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                heard + &String::from_utf8_lossy(&rest)
            };
            let heard = timeout(Duration::from_secs(20), heard).await.expect("it happens soon");
            assert!(!heard.ends_with("\r\n0\r\n\r\n"), "{name}, {reason}: {heard}");
        }
    }
    // Nothing of the small ones went on: the next that is heard of is this.
    let answered = async {
        let (mut stream, heard) = upstream.accept().await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await
            .expect("writes");
        heard
    };
    let whole = [frame(1, END_HEADERS, 1, &block(&call())), frame(0, END_STREAM, 1, b"{}")];
    let (end, heard) = tokio::join!(speak(&rig, &whole), answered);
    assert_eq!(end, End::Answer(true));
    assert!(heard.ends_with("\r\n\r\n{}") || heard.contains("chunked"), "{heard}");
    rig.verify().await;
}

const NO_ERROR: u32 = 0;
const CANCEL: u32 = 8;
