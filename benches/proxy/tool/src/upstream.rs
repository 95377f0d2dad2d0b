//! An MCP server that costs next to nothing: one thread, canned answers, no more of HTTP than its clients send.
//!
//! The query says what is wanted: `?every=MS` has a GET answered with an event as often, `?bytes=N` is answered with
//! that much. A GET without a query gets a stream that stays silent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::Outcome;

pub async fn serve() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("port={}", listener.local_addr()?.port());
    let mut number = 0;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        number += 1;
        tokio::spawn(async move {
            // A client that leaves is no fault of ours.
            let _ = answer_all(stream, number).await;
        });
    }
}

/// What is asked for in a head.
#[derive(Default)]
struct Asked<'a> {
    is_get: bool,
    query: Option<(&'a str, u64)>,
    length: usize,
    chunked: bool,
    session: Option<&'a str>,
}

async fn answer_all(mut stream: TcpStream, number: u64) -> Outcome {
    let (mut buffer, mut out) = (Vec::with_capacity(4_096), Vec::with_capacity(2_048));
    loop {
        let end = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let asked = read_head(std::str::from_utf8(&buffer[..end])?);
        if asked.is_get {
            return send_events(stream, asked.query.map(|(_, millis)| millis), number).await;
        }
        let bytes = asked.query.and_then(|(name, value)| (name == "bytes").then_some(value));
        let greeted =
            asked.session.is_none().then(|| format!("{number:08x}-5e55-4000-8000-{:012x}", number * 7));
        out.clear();
        write_head(&mut out, bytes, greeted.as_deref().or(asked.session).unwrap_or_default());
        let (length, chunked) = (asked.length, asked.chunked);
        buffer.drain(..end);
        drop_body(&mut stream, &mut buffer, length, chunked).await?;
        match bytes {
            Some(bytes) => {
                stream.write_all(&out).await?;
                let block = [b'x'; 65_536];
                let mut left = bytes as usize;
                while left > 0 {
                    let now = left.min(block.len());
                    stream.write_all(&block[..now]).await?;
                    left -= now;
                }
            }
            None => {
                out.extend_from_slice(RESULT.as_bytes());
                stream.write_all(&out).await?;
            }
        }
    }
}

fn read_head(head: &str) -> Asked<'_> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut asked = Asked { is_get: first.starts_with("GET "), ..Asked::default() };
    let query = first.split(' ').nth(1).and_then(|target| target.split_once('?'));
    asked.query = query
        .and_then(|(_, query)| query.split_once('='))
        .and_then(|(name, value)| Some((name, value.parse().ok()?)));
    for line in lines {
        match line.as_bytes().first() {
            Some(b'c' | b'C') => {
                if let Some(value) = value(line, "content-length:") {
                    asked.length = value.parse().unwrap_or(0);
                }
            }
            Some(b't' | b'T') => asked.chunked |= value(line, "transfer-encoding:") == Some("chunked"),
            Some(b'm' | b'M') => asked.session = asked.session.or(value(line, "mcp-session-id:")),
            _ => {}
        }
    }
    asked
}

fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (start, rest) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| rest.trim())
}

/// As the servers of the MCP SDKs answer: the session in every answer.
fn write_head(out: &mut Vec<u8>, bytes: Option<u64>, session: &str) {
    let length = bytes.unwrap_or(RESULT.len() as u64);
    let head = [
        "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n\
         content-type: application/json\r\ncontent-length: ",
        &length.to_string(),
        "\r\nmcp-session-id: ",
        session,
        "\r\n\r\n",
    ];
    head.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// Reads a body and forgets it.
async fn drop_body(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize, chunked: bool) -> Outcome {
    if chunked {
        while !buffer.ends_with(b"0\r\n\r\n") {
            let keep = buffer.len().min(8);
            buffer.drain(..buffer.len() - keep);
            buffer.reserve(65_536);
            if stream.read_buf(buffer).await? == 0 {
                return Err("the body ends early".into());
            }
        }
        buffer.clear();
        return Ok(());
    }
    let mut left = length;
    loop {
        let now = left.min(buffer.len());
        buffer.drain(..now);
        left -= now;
        if left == 0 {
            return Ok(());
        }
        buffer.reserve(left.min(65_536));
        if stream.read_buf(buffer).await? == 0 {
            return Err("the body ends early".into());
        }
    }
}

/// Sends a stream of events until the client has gone; each says when it was sent, in nanoseconds.
async fn send_events(mut stream: TcpStream, every: Option<u64>, number: u64) -> Outcome {
    stream.write_all(STREAM.as_bytes()).await?;
    let every = every.map(Duration::from_millis);
    // Streams are not in step.
    let mut next = Instant::now() + every.unwrap_or_default() / 1_000 * (number * 617 % 1_000) as u32;
    let (mut heard, mut count) = ([0; 64], 0);
    loop {
        let read = stream.read(&mut heard);
        let read = match every {
            None => Ok(read.await),
            Some(_) => timeout_at(next, read).await,
        };
        match (read, every) {
            (Ok(Ok(length)), _) if length > 0 => {}
            (Ok(_), _) => return Ok(()),
            (Err(_), every) => {
                count += 1;
                next += every.unwrap_or_default();
                let sent = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
                let event = format!(
                    "id: {count}\nevent: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\
                     \"params\":{{\"progressToken\":\"token-1\",\"progress\":{count},\"message\":\"sent {sent}.\"}}}}\n\n"
                );
                stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
            }
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n\
     content-type: text/event-stream\r\ncache-control: no-cache, no-transform\r\ntransfer-encoding: chunked\r\n\r\n\
     B\r\n: welcome\n\n\r\n";

/// 600 bytes.
const RESULT: &str = concat!(
    r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"3 issues match.\n"#,
    r#"#101 The proxy answers 401 after a restart (open, 4 comments)\n#98 Streams end after fifteen seconds behind "#,
    r#"a balancer (closed, 11 comments)\n#77 Please say which team lets me in (open, 2 comments)\n"#,
    r#"Ask for one of them by its number to read all of it, or narrow the search down with a label, an author or a "#,
    r#"date. Results are cached for a minute."}],"structuredContent":{"total":3,"numbers":[101,98,77],"next":null,"#,
    r#""cached":false,"took":0.0123,"labels":["bug","question"]},"isError":false}}"#,
);
