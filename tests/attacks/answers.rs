//! Upstreams that answer like no server should, seen by those who share them.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::flood::{is_closed, streams};
use crate::rig::Rig;
use crate::support::proxy::Setup;
use crate::support::raw;
use crate::support::upstream::Raw;

/// A rig with a second resource, `/rude`, whose upstream says any bytes; and a call to it.
pub async fn rude(more: &str) -> (Rig, Raw, String) {
    let upstream = Raw::start().await;
    let inject = r#"inject: {X-GitHub-Token: "{github_token}"}"#;
    let resources = format!(
        "[{{path: /mcp, upstream: 'MCP/mcp', {inject}}}, {{path: /rude, upstream: '{}/mcp'{more}}}]",
        upstream.origin()
    );
    let mut rig = Rig::with(Setup { resources: resources.leak(), ..Setup::default() }).await;
    let tokens = rig.proxy.login_for(&[("resource", "https://p.test/rude")]).await;
    rig.canary("an access token", &tokens.access);
    let call = format!(
        "POST /rude HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nContent-Length: 2\r\n\r\n{{}}",
        tokens.access
    );
    (rig, upstream, call)
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

/// One whole answer on a connection that stays open, however it is framed.
async fn hear(client: &mut TcpStream) -> String {
    let mut heard = String::new();
    loop {
        let mut bytes = [0; 4096];
        let read = client.read(&mut bytes).await.expect("reads");
        assert!(read > 0, "closed after {heard}");
        heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
        let Some((head, body)) = heard.split_once("\r\n\r\n") else { continue };
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let is_whole = match length.and_then(|length| length.parse::<usize>().ok()) {
            Some(length) => body.len() >= length,
            None if head.contains("transfer-encoding") => body.ends_with("0\r\n\r\n"),
            None => true,
        };
        if is_whole {
            return heard.to_lowercase();
        }
    }
}

/// A second answer in wait for whoever comes next is the upstream's half of request smuggling. The client keeps its
/// connection, so that both of its calls are on one core, with one pool.
// UP-04: bytes after the answer.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_answer_is_nobodys_answer() {
    let (rig, upstream, call) = rude("").await;
    let mut client = TcpStream::connect(rig.proxy.address()).await.expect("connects");
    for answer in [
        "200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "200 OK\r\nContent-Length: 0\r\n\r\n",
        "204 No Content\r\n\r\n",
        "204 No Content\r\nContent-Length: 5\r\n\r\nhello",
        "202 Accepted\r\nContent-Length: 0\r\n\r\n{\"more\": \"than it said\"}",
        "304 Not Modified\r\nContent-Length: 2\r\n\r\n{}",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Late: 1\r\n\r\n",
    ] {
        for is_late in [false, true] {
            let poisoned = async {
                let (mut stream, _) = upstream.accept().await;
                let first = format!("HTTP/1.1 {answer}");
                let both = if is_late { first } else { first + EVIL };
                stream.write_all(both.as_bytes()).await.expect("writes");
                stream
            };
            client.write_all(call.as_bytes()).await.expect("writes");
            let (heard, mut stream) = soon(async { tokio::join!(hear(&mut client), poisoned) }).await;
            assert!(!heard.contains("x-evil") && !heard.contains("poison"), "{answer}: {heard}");
            if is_late {
                // While nobody uses the connection; it may be closed already for what came before.
                let _ = stream.write_all(EVIL.as_bytes()).await;
                assert!(is_closed(&mut stream, Duration::from_secs(3)).await, "{answer}: kept");
            }
            client.write_all(call.as_bytes()).await.expect("writes");
            let honest = async {
                let (mut stream, _) = upstream.accept().await;
                stream.write_all(OK).await.expect("writes");
                stream
            };
            let (heard, honest) = soon(async { tokio::join!(hear(&mut client), honest) }).await;
            assert!(heard.starts_with("http/1.1 200 ") && heard.ends_with("honest"), "{answer}: {heard}");
            assert!(!heard.contains("x-evil"), "{answer}: {heard}");
            drop(honest);
            let mut rest = Vec::new();
            let _ = soon(stream.read_to_end(&mut rest)).await;
            assert!(rest.is_empty(), "{answer}: nobody else was sent there");
        }
    }
    drop(client);
    rig.verify().await;
}

// UP-04
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_makes_no_sense_is_never_a_clean_end() {
    let (rig, upstream, call) = rude("").await;
    let call = call.replace("\r\nContent-Length", "\r\nConnection: close\r\nContent-Length");
    let many: String = (0..10_000).map(|number| format!("X-{number}: a\r\n")).collect();
    let long = "a".repeat(1 << 20);
    for rest in [
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n".to_owned(),
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n".to_owned(),
        "-5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "+5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "0x5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5 5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5\r\nhelloXX0\r\n\r\n".to_owned(),
        "5\r\nhell".to_owned(),
        "0\r\n".to_owned(),
        String::new(),
        format!("5;{long}\r\nhello\r\n0\r\n\r\n"),
        format!("0\r\n{many}\r\n"),
        format!("0\r\nX-Long: {long}\r\n\r\n"),
    ] {
        let broken = async {
            let (mut stream, _) = upstream.accept().await;
            let start = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n";
            let _ = stream.write_all(format!("{start}{rest}").as_bytes()).await;
            let _ = stream.shutdown().await;
        };
        let said = raw::say(rig.proxy.address(), call.as_bytes());
        let (heard, ()) = soon(async { tokio::join!(said, broken) }).await;
        let shown: String = rest.chars().take(40).collect();
        assert!(!heard.ends_with("0\r\n\r\n") && !heard.contains("X-Long"), "{shown:?}: {heard}");
    }
    rig.verify().await;
}

// UP-05: endless 1xx.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_begins_is_given_up_on_and_stops_nobody() {
    let (mut rig, upstream, call) = rude(", response_timeout: 2s").await;
    rig.expect_statuses(&[504]);
    let tokens = rig.login().await;
    let flood = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(1000);
    let drip = "HTTP/1.1 200 OK\r\nX-Drip: ";
    for (name, first, again, pause) in [
        ("1xx as fast as it can", "", flood.as_str(), 0),
        ("1xx now and then", "", "HTTP/1.1 100 Continue\r\n\r\n", 50),
        ("a head byte by byte", drip, "a", 50),
    ] {
        let mut client = TcpStream::connect(rig.proxy.address()).await.expect("connects");
        client.write_all(call.as_bytes()).await.expect("writes");
        let (mut stream, _) = soon(upstream.accept()).await;
        let endless = async {
            let mut result = stream.write_all(first.as_bytes()).await;
            while result.is_ok() {
                result = stream.write_all(again.as_bytes()).await;
                sleep(Duration::from_millis(pause)).await;
            }
        };
        let others = async {
            for _ in 0..30 {
                let answer = timeout(Duration::from_secs(5), rig.proxy.ping(&tokens.access)).await;
                answer.expect("nobody else waits for it").expect(200);
            }
        };
        let (heard, (), ()) = soon(async { tokio::join!(raw::hear(&mut client), endless, others) }).await;
        assert_eq!(raw::status(&heard), 504, "{name}: {heard}");
    }
    rig.verify().await;
}

const EVIL: &str = "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 6\r\n\r\npoison";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhonest";
// UP-08: fifty at once.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_readers_of_nothing_cost_little_each() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    let mut fed = streams(&rig);
    let get = format!("GET /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n\r\n", tokens.access);
    let before = rig.vitals().rss_kib;
    let event = Bytes::from([&b"data: "[..], &[b'a'; 1 << 20], b"\n\n"].concat());
    let mut held = Vec::new();
    for _ in 0..READERS {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        let mut client = socket.connect(rig.proxy.address()).await.expect("connects");
        client.write_all(get.as_bytes()).await.expect("writes");
        let feed = soon(fed.recv()).await.expect("a stream");
        for _ in 0..32 {
            feed.send(Ok(event.clone())).expect("it is read");
        }
        held.push((client, feed));
    }
    let mut most = 0;
    for _ in 0..20 {
        sleep(Duration::from_millis(100)).await;
        most = most.max(rig.vitals().rss_kib);
    }
    println!("{} KiB for each of {READERS} streams of 32 MiB", most.saturating_sub(before) / READERS);
    assert!(most < before + READERS * 256, "{before} KiB became {most}");
    drop(held);
    rig.verify().await;
}

const READERS: u64 = 50;
