//! What the proxy adds to a stream: nothing, and hardly any time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, header};
use tokio::time::timeout;

use crate::flood::streams;
use crate::rig::Rig;
use crate::support::http as plain;

// UP-09: no event waits for another, and a part of one for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn events_pass_at_once_and_piece_by_piece() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    let mut fed = streams(&rig);
    let request = rig.proxy.request(Method::GET, "/mcp").header(header::ACCEPT, "text/event-stream");
    let request = request.header(header::AUTHORIZATION, format!("Bearer {}", tokens.access));
    let request = request.body(Bytes::new()).expect("a request");
    let (head, mut body) = plain::open(rig.proxy.address(), request).await;
    assert_eq!(head.status, 200);
    let feed = fed.recv().await.expect("a stream");
    // Only the first event of a GET is looked at whole: it may name the endpoint of the legacy transport.
    let pieces = [
        ": hi\n\n",
        "data: zero\n\n",
        "id: 1\nda",
        "ta: one\r",
        "\n",
        "\r\n",
        "data: two\n",
        "\n",
        "data: 3\n\nda",
        "ta: 4\n\n",
    ];
    for piece in pieces {
        feed.send(Ok(Bytes::from_static(piece.as_bytes()))).expect("it is read");
        let next = timeout(Duration::from_secs(5), plain::next(&mut body)).await;
        let next = next.unwrap_or_else(|_| panic!("{piece:?} is held back")).expect("more").expect("not cut");
        assert_eq!(next, piece);
    }
    let mut delays = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for number in 0..150 {
        ticks.tick().await;
        let event = format!("data: {number}\n\n");
        #[expect(clippy::disallowed_methods, reason = "it is the machine's time that counts here")]
        let sent = Instant::now();
        feed.send(Ok(Bytes::from(event.clone()))).expect("it is read");
        let next = timeout(Duration::from_secs(5), plain::next(&mut body)).await.expect("in time");
        delays.push(sent.elapsed());
        assert_eq!(next.expect("more").expect("not cut"), event);
    }
    delays.sort();
    println!(
        "delay of an event, upstream and client in one process: p50 {:?}, p99 {:?}",
        delays[75], delays[148]
    );
    // A busy machine has its own delays; an event that waits for the next one has 20 ms at least.
    assert!(delays[75] < Duration::from_millis(5), "{:?}", delays[75]);
    drop((body, feed));
    rig.verify().await;
}
