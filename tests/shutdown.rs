//! The end: what is open is finished or cut in time, nothing new begins.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use support::http as plain;
use support::proxy::{PING, Proxy, Setup, in_front_of};
use support::upstream::{Raw, events};
use support::{TempDir, raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_finishes_what_is_open_and_begins_nothing() {
    let upstream = Raw::start().await;
    let mut proxy =
        Proxy::with(Setup { resources: in_front_of(&upstream.origin(), ""), ..Setup::default() }).await;
    let tokens = proxy.login().await;
    proxy.get("/readyz").await.expect(200);
    proxy.get("/healthz").await.expect(200);
    let address = proxy.address();
    let call = proxy.call("/mcp", &tokens.access).body(Bytes::from_static(PING)).unwrap();
    let in_flight = tokio::spawn(plain::send(address, call));
    let (mut stream, _) = soon(upstream.accept()).await;
    proxy.app().begin_drain();
    // Whoever asks now is not told that we are ready: 503, or no connection at all.
    let health = b"GET /readyz HTTP/1.1\r\nHost: p.test\r\nConnection: close\r\n\r\n";
    let refused = async {
        loop {
            let Ok(mut client) = TcpStream::connect(address).await else { return };
            let mut answer = Vec::new();
            let _ = client.write_all(health).await;
            let _ = client.read_to_end(&mut answer).await;
            let status = raw::status(&String::from_utf8_lossy(&answer));
            assert!([0, 503].contains(&status), "{}", String::from_utf8_lossy(&answer));
        }
    };
    soon(refused).await;
    stream.write_all(OK).await.unwrap();
    assert_eq!(soon(in_flight).await.unwrap().expect(200).text(), "{}");
    let app = proxy.take_app();
    soon(tokio::task::spawn_blocking(move || app.stop())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_streams_beyond_its_grace() {
    let mut proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let (response, feed) = events();
    let response = std::sync::Mutex::new(Some(response));
    proxy.mcp.say(move |_| response.lock().unwrap().take().expect("one stream"));
    let request = proxy.call("/mcp", &tokens.access).method(Method::GET).body(Bytes::new()).unwrap();
    let (_, mut body) = plain::open(proxy.address(), request).await;
    feed.send(Ok(Bytes::from_static(b"data: 1\n\n"))).unwrap();
    assert_eq!(plain::next(&mut body).await.unwrap().unwrap(), "data: 1\n\n");
    let app = proxy.take_app();
    // The configured grace is a second.
    let stopped = tokio::task::spawn_blocking(move || app.stop());
    timeout(Duration::from_secs(4), stopped).await.expect("within the grace").unwrap();
    let end = soon(plain::next(&mut body)).await;
    assert!(end.is_none(), "a clean end, so that the client comes back: {end:?}");
    soon(feed.closed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let mut proxy = Proxy::start().await;
    let mut silent = TcpStream::connect(proxy.address()).await.unwrap();
    let mut idle = TcpStream::connect(proxy.address()).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: p.test\r\n\r\n").await.unwrap();
    assert_eq!(raw::status(&raw::hear(&mut idle).await), 200);
    let app = proxy.take_app();
    let stopped = tokio::task::spawn_blocking(move || app.stop());
    timeout(Duration::from_secs(4), stopped).await.expect("within the grace").unwrap();
    let mut rest = Vec::new();
    let _ = soon(idle.read_to_end(&mut rest)).await;
    let _ = soon(silent.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_word_does_not_wait_for_the_grace_to_end() {
    let extra = "drain: 30s".to_owned();
    let mut proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
    let mut silent = TcpStream::connect(proxy.address()).await.unwrap();
    let mut half = TcpStream::connect(proxy.address()).await.unwrap();
    half.write_all(b"PRI * HT").await.unwrap();
    let app = proxy.take_app();
    let stopped = tokio::task::spawn_blocking(move || app.stop());
    timeout(Duration::from_secs(10), stopped).await.expect("long before the grace ends").unwrap();
    for stream in [&mut silent, &mut half] {
        let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_program_with_success() {
    let dir = TempDir::new();
    let (proxy, mut program) = Proxy::as_process(Setup::on(&dir), &dir, "info").await;
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    program.terminate();
    let ended = tokio::task::spawn_blocking(move || (program.wait(), program.said()));
    let (status, said) = soon(ended).await.unwrap();
    assert!(status.success(), "{status}");
    // The last lines are not lost.
    assert!(said.contains("path=\"/mcp\"") && said.contains("stopped"), "{said}");
}
