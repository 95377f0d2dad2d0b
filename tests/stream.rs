//! Streams: frame by frame, cut when they must be, never ended cleanly when they broke.

mod support;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use hyper::body::Incoming;
use mcp_auth_proxy::app::Tuning;
use support::github::State;
use support::http as plain;
use support::proxy::{PING, Proxy, Setup, Tokens, in_front_of};
use support::upstream::{Body, Raw, events};
use support::{TempDir, all, raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

type Feed = mpsc::UnboundedSender<Result<Bytes, io::Error>>;

/// From now on every request opens a stream, whose feed comes out here.
fn streams(proxy: &Proxy) -> mpsc::UnboundedReceiver<Feed> {
    streams_with(proxy, |response| response)
}

fn streams_with(
    proxy: &Proxy,
    change: impl Fn(Response<Body>) -> Response<Body> + Send + Sync + 'static,
) -> mpsc::UnboundedReceiver<Feed> {
    let (feeds, fed) = mpsc::unbounded_channel();
    proxy.mcp.say(move |_| {
        let (response, feed) = events();
        let _ = feeds.send(feed);
        change(response)
    });
    fed
}

async fn open(proxy: &Proxy, tokens: &Tokens, method: Method) -> (http::response::Parts, Incoming) {
    let body = if method == Method::GET { Bytes::new() } else { Bytes::from_static(PING) };
    let request = proxy.call("/mcp", &tokens.access).method(method).body(body).unwrap();
    plain::open(proxy.address(), request).await
}

fn say(feed: &Feed, text: &str) {
    feed.send(Ok(Bytes::copy_from_slice(text.as_bytes()))).expect("the proxy listens");
}

#[track_caller]
fn text(frame: Option<Result<Bytes, hyper::Error>>) -> String {
    String::from_utf8(frame.expect("not the end").expect("not cut").to_vec()).expect("text")
}

/// Nothing here takes that long; what would hang fails.
async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

fn tuned(tuning: Tuning) -> Setup {
    Setup { tuning, ..Setup::default() }
}

// PX-S1, PX-S4, UP-09
#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one_and_the_head_before_any() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let mut fed = streams(&proxy);
    for method in [Method::POST, Method::GET] {
        let (head, mut body) = soon(open(&proxy, &tokens, method)).await;
        assert_eq!(
            (head.status.as_u16(), head.headers["content-type"].to_str().unwrap()),
            (200, "text/event-stream")
        );
        assert_eq!(head.headers["x-accel-buffering"], "no");
        assert!(!head.headers.contains_key("content-length"));
        let feed = fed.recv().await.unwrap();
        for event in [
            "event: message\nid: 1\nretry: 3000\ndata: {\"a\": 1}\n\n",
            "id: 2\ndata: \n\n",
            ": comment of the upstream\n\n",
            "data: half",
            " and half\r\n\r\n",
        ] {
            say(&feed, event);
            assert_eq!(text(soon(plain::next(&mut body)).await), event);
        }
        drop(feed);
        assert!(soon(plain::next(&mut body)).await.is_none(), "a clean end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_keep_a_silent_stream_alive_between_events_only() {
    let proxy =
        Proxy::with(tuned(Tuning { keep_alive: Duration::from_millis(30), ..Setup::default().tuning })).await;
    let tokens = proxy.login().await;
    let mut fed = streams(&proxy);
    for method in [Method::POST, Method::GET] {
        let (_, mut body) = open(&proxy, &tokens, method).await;
        let feed = fed.recv().await.unwrap();
        for _ in 0..2 {
            assert_eq!(text(soon(plain::next(&mut body)).await), ": keep-alive\n\n");
        }
        say(&feed, "data: 1\n\n");
        let mut frame = text(soon(plain::next(&mut body)).await);
        while frame == ": keep-alive\n\n" {
            frame = text(soon(plain::next(&mut body)).await);
        }
        assert_eq!(frame, "data: 1\n\n");
        assert_eq!(text(soon(plain::next(&mut body)).await), ": keep-alive\n\n");
        // Within an event nothing may come, however long it takes and wherever it is cut.
        let mut heard = String::new();
        for piece in ["data: a", "\r\n", "data: b\r", "\n", "\r"] {
            say(&feed, piece);
            while !heard.ends_with(piece) {
                heard.push_str(&text(soon(plain::next(&mut body)).await));
            }
            let quiet = timeout(Duration::from_millis(100), plain::next(&mut body)).await;
            assert!(quiet.is_err(), "{quiet:?} after {heard:?}");
        }
        say(&feed, "\n");
        while !heard.contains("\r\n\r\n: keep-alive\n\n") {
            heard.push_str(&text(soon(plain::next(&mut body)).await));
        }
    }
}

// UP-02, PX-S2
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels_the_upstream() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let mut fed = streams(&proxy);
    for method in [Method::POST, Method::GET] {
        // Before any event, and in the middle of them.
        for events in [0, 2] {
            let request = format!(
                "{method} /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\n\r\n",
                tokens.access
            );
            let mut client = TcpStream::connect(proxy.address()).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            let feed = fed.recv().await.unwrap();
            for _ in 0..events {
                say(&feed, "data: 1\n\n");
                assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
            }
            drop(client);
            soon(feed.closed()).await;
        }
    }
}

// UP-02
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_the_answer_cancels_too() {
    let upstream = Raw::start().await;
    let proxy =
        Proxy::with(Setup { resources: in_front_of(&upstream.origin(), ""), ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nContent-Length: 2\r\n\r\n{{}}",
        tokens.access
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut stream, _) = soon(upstream.accept()).await;
    drop(client);
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
}

// PX-S3
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_dies_mid_answer_is_never_a_clean_end() {
    let sse = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
    for answer in [
        sse,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{\"a",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18446744073709551613\r\n\r\n{\"a",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\ndata: 1\n\n",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\nzz\r\n",
    ] {
        let upstream = Raw::start().await;
        let resources = in_front_of(&upstream.origin(), "");
        let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
        let tokens = proxy.login().await;
        for method in [Method::POST, Method::GET] {
            let ((_, mut body), ()) =
                tokio::join!(open(&proxy, &tokens, method), upstream.answer_once(answer.as_bytes()));
            let end = loop {
                match soon(plain::next(&mut body)).await {
                    Some(Ok(_)) => {}
                    end => break end,
                }
            };
            assert!(matches!(end, Some(Err(_))), "a clean end after {answer:?}");
        }
    }
}

// UP-11
#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_endpoint_at_another_origin_cuts_the_stream() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let mut fed = streams(&proxy);
    for uri in ["http://evil.test/m?s=1", "//evil.test/m", "https://127.0.0.1/m"] {
        let (_, mut body) = open(&proxy, &tokens, Method::GET).await;
        let feed = fed.recv().await.unwrap();
        say(&feed, &format!("event: endpoint\ndata: {uri}\n\n"));
        assert!(soon(plain::next(&mut body)).await.unwrap().is_err(), "{uri}");
        soon(feed.closed()).await;
    }
    // An absolute URL of the upstream itself becomes ours.
    let (_, mut body) = open(&proxy, &tokens, Method::GET).await;
    let feed = fed.recv().await.unwrap();
    say(&feed, &format!("event: endpoint\r\ndata: {}/messages?s=1\r\n\r\n", proxy.mcp.origin()));
    assert!(text(soon(plain::next(&mut body)).await).starts_with("event: endpoint\r\ndata: /mcp?endpoint="));
}

// TK-22, PX-S11
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_closes_open_streams_here_and_at_a_replica() {
    let dir = TempDir::new();
    let tuning = Tuning { stream_recheck: Duration::from_millis(20), ..Setup::default().tuning };
    let proxy = Proxy::with(Setup { tuning, ..Setup::on(&dir) }).await;
    let (one, two, bystander) = (proxy.login().await, proxy.login().await, proxy.login().await);
    let mut fed = streams(&proxy);
    let (_, mut kept) = open(&proxy, &bystander, Method::GET).await;
    let kept_feed = fed.recv().await.unwrap();
    let replica = proxy.replica();
    let revoke = async |at, tokens: &Tokens| {
        let pairs = [("token", tokens.refresh.as_str()), ("client_id", &tokens.client_id)];
        proxy.post_form_at(at, "/revoke", &pairs).await.expect(200);
    };
    for (tokens, at) in [(&one, proxy.address()), (&two, replica.address())] {
        let (_, mut body) = open(&proxy, tokens, Method::GET).await;
        let feed = fed.recv().await.unwrap();
        say(&feed, "data: 1\n\n");
        assert_eq!(text(soon(plain::next(&mut body)).await), "data: 1\n\n");
        revoke(at, tokens).await;
        assert!(soon(plain::next(&mut body)).await.unwrap().is_err(), "cut, not ended");
        soon(feed.closed()).await;
    }
    say(&kept_feed, "data: 1\n\n");
    assert_eq!(text(soon(plain::next(&mut kept)).await), "data: 1\n\n");
}

// TK-22: a stream alone, without another request of that person, ends when GitHub or the allow-list says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_ends_when_github_says_so() {
    for by_list in [true, false] {
        let tuning = Tuning { stream_recheck: Duration::from_millis(20), ..Setup::default().tuning };
        let proxy = Proxy::with(Setup { allow: "{orgs: [acme]}", ..tuned(tuning) }).await;
        proxy.github.world().edit_user("octocat", |user| *user = user.clone().in_org("acme", State::Active));
        let tokens = proxy.login().await;
        let mut fed = streams(&proxy);
        let (_, mut body) = open(&proxy, &tokens, Method::GET).await;
        let feed = fed.recv().await.unwrap();
        match by_list {
            true => proxy.github.world().edit_user("octocat", |user| user.orgs.clear()),
            false => proxy.github.world().revoke_all("octocat"),
        }
        proxy.forward(Duration::from_secs(14 * 60));
        // Several looks at the store later it is still there.
        assert!(timeout(Duration::from_millis(200), plain::next(&mut body)).await.is_err());
        proxy.forward(Duration::from_secs(60));
        let cut = async {
            loop {
                tokio::select! {
                    frame = plain::next(&mut body) => break frame,
                    () = tokio::time::sleep(Duration::from_millis(20)) => proxy.forward(Duration::from_secs(1)),
                }
            }
        };
        assert!(soon(cut).await.unwrap().is_err(), "cut, not ended");
        soon(feed.closed()).await;
    }
}

// TK-22
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_here_stops_the_next_event_although_the_gate_looked_again() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let mut fed = streams(&proxy);
    let (_, mut body) = open(&proxy, &tokens, Method::GET).await;
    let feed = fed.recv().await.unwrap();
    say(&feed, "data: 1\n\n");
    assert_eq!(text(soon(plain::next(&mut body)).await), "data: 1\n\n");
    proxy.forward(Duration::from_secs(2));
    let (_, other) = open(&proxy, &tokens, Method::GET).await;
    let pairs = [("token", tokens.access.as_str()), ("client_id", &tokens.client_id)];
    proxy.post_form("/revoke", &pairs).await.expect(200);
    say(&feed, "data: 2\n\n");
    assert!(soon(plain::next(&mut body)).await.unwrap().is_err());
    drop(other);
}

// PX-S10
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_outlive_its_access_token_and_any_timeout() {
    let tuning = Tuning { stream_recheck: Duration::from_millis(20), ..Setup::default().tuning };
    let more = ", response_timeout: 1s";
    let upstream = Raw::start().await;
    let setup = Setup { resources: in_front_of(&upstream.origin(), more), ..tuned(tuning) };
    let proxy = Proxy::with(setup).await;
    let tokens = proxy.login().await;
    let ((_, mut body), mut stream) = tokio::join!(open(&proxy, &tokens, Method::GET), async {
        let (mut stream, _) = upstream.accept().await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await.unwrap();
        stream
    });
    proxy.forward(Duration::from_secs(9 * 3_600));
    // Longer than the timeout of a head, in real time.
    let quiet = timeout(Duration::from_millis(1_300), plain::next(&mut body)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    stream.write_all(b"data: late\n\n").await.unwrap();
    assert_eq!(text(soon(plain::next(&mut body)).await), "data: late\n\n");
    assert!(proxy.ping(&tokens.access).await.status == 401);
}

// PX-H5, UP-12, PX-S13
#[tokio::test(flavor = "multi_thread")]
async fn event_ids_pass_and_compressed_answers_pass_byte_for_byte() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let mut fed = streams_with(&proxy, |mut response| {
        response.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
        response
    });
    let request =
        proxy.call("/mcp", &tokens.access).header("last-event-id", "a/7").header("accept-encoding", "gzip");
    let (head, mut body) =
        plain::open(proxy.address(), request.body(Bytes::from_static(PING)).unwrap()).await;
    assert_eq!(head.headers["content-encoding"], "gzip");
    let feed = fed.recv().await.unwrap();
    for bytes in [&b"\x1f\x8b\x08\x00"[..], b"\n\n", b"\x00\xff\r\n"] {
        feed.send(Ok(Bytes::from_static(bytes))).unwrap();
        assert_eq!(soon(plain::next(&mut body)).await.unwrap().unwrap(), bytes);
    }
    drop(feed);
    assert!(soon(plain::next(&mut body)).await.is_none());
    let heard = proxy.mcp.last();
    assert_eq!((heard.header("last-event-id"), heard.header("accept-encoding")), ("a/7", "gzip"));
    // A GET may be the legacy transport, whose first event must be readable.
    let request = proxy.call("/mcp", &tokens.access).method(Method::GET).header("accept-encoding", "gzip");
    let (_, body) = plain::open(proxy.address(), request.body(Bytes::new()).unwrap()).await;
    assert!(!proxy.mcp.last().headers.contains_key("accept-encoding"));
    drop(body);
}

// UP-11: what says that nothing was done to the events hides none. UP-12: `Content-Encoding` that is not true.
#[tokio::test(flavor = "multi_thread")]
async fn a_coding_that_is_none_hides_no_endpoint_and_a_false_one_passes_as_it_is() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    for coding in ["identity", "Identity", " identity ", ""] {
        let mut fed = streams_with(&proxy, move |mut response| {
            response.headers_mut().insert("content-encoding", HeaderValue::from_static(coding));
            response
        });
        let (_, mut body) = open(&proxy, &tokens, Method::GET).await;
        let feed = fed.recv().await.unwrap();
        say(&feed, "event: endpoint\ndata: http://evil.test/m?s=1\n\n");
        assert!(
            soon(plain::next(&mut body)).await.unwrap().is_err(),
            "{coding:?}: a foreign endpoint is cut"
        );
        let (_, mut body) = open(&proxy, &tokens, Method::GET).await;
        let feed = fed.recv().await.unwrap();
        say(&feed, "event: endpoint\ndata: /messages?s=1\n\n");
        let event = text(soon(plain::next(&mut body)).await);
        assert!(event.starts_with("event: endpoint\ndata: /mcp?endpoint="), "{coding:?}: {event}");
    }
    for coding in ["gzip", "br", "zstd, gzip", "nonsense"] {
        let mut fed = streams_with(&proxy, move |mut response| {
            response.headers_mut().insert("content-encoding", HeaderValue::from_static(coding));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
            response
        });
        let (head, mut body) = open(&proxy, &tokens, Method::POST).await;
        assert_eq!(head.headers["content-encoding"], coding);
        let feed = fed.recv().await.unwrap();
        say(&feed, "{}");
        assert_eq!(text(soon(plain::next(&mut body)).await), "{}");
        drop(feed);
        assert!(soon(plain::next(&mut body)).await.is_none(), "{coding}: a clean end");
    }
}

// PX-S5
#[tokio::test(flavor = "multi_thread")]
async fn many_streams_of_one_person_do_not_mix() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let mut fed = streams(&proxy);
    let mut open_streams = Vec::new();
    for _ in 0..50 {
        let (_, body) = open(&proxy, &tokens, Method::GET).await;
        open_streams.push((fed.recv().await.unwrap(), body));
    }
    for round in 0..2 {
        for (number, (feed, _)) in open_streams.iter().enumerate() {
            say(feed, &format!("data: {round}-{number}\n\n"));
        }
        let heard = open_streams.iter_mut().map(|(_, body)| soon(plain::next(body)));
        for (number, event) in all(heard).await.into_iter().enumerate() {
            assert_eq!(text(event), format!("data: {round}-{number}\n\n"));
        }
    }
    // A call beside them is answered at once.
    let (_, mut body) = soon(open(&proxy, &tokens, Method::POST)).await;
    let feed = fed.recv().await.unwrap();
    say(&feed, "data: x\n\n");
    assert_eq!(text(soon(plain::next(&mut body)).await), "data: x\n\n");
}

// UP-08, PX-S12
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_slows_the_upstream_down_instead_of_filling_memory() {
    let upstream = Raw::start().await;
    let proxy =
        Proxy::with(Setup { resources: in_front_of(&upstream.origin(), ""), ..Setup::default() }).await;
    let tokens = proxy.login().await;
    const CHUNK: usize = 64 << 10;
    const TOTAL: usize = 64 << 20;
    for kind in ["text/event-stream", "application/json"] {
        let (opened, mut stream) = tokio::join!(open(&proxy, &tokens, Method::POST), async {
            let (mut stream, _) = upstream.accept().await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {TOTAL}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream
        });
        let (_, mut body) = opened;
        // Nobody reads: what the upstream gets rid of is bounded by buffers of sockets, ours are small.
        let chunk = vec![b'x'; CHUNK];
        let mut written = 0;
        while written < TOTAL {
            match timeout(Duration::from_millis(500), stream.write(&chunk[..CHUNK.min(TOTAL - written)]))
                .await
            {
                Ok(count) => written += count.unwrap(),
                Err(_) => break,
            }
        }
        assert!(written < 32 << 20, "{kind}: {written} bytes went somewhere");
        // Then it is read, and all of it arrives.
        let mut read = 0;
        let (total, ()) = tokio::join!(
            async {
                while let Some(data) = soon(plain::next(&mut body)).await {
                    read += data.unwrap().iter().filter(|byte| **byte == b'x').count();
                }
                read
            },
            async {
                while written < TOTAL {
                    written += stream.write(&chunk[..CHUNK.min(TOTAL - written)]).await.unwrap();
                }
            }
        );
        assert_eq!(total, TOTAL, "{kind}");
    }
}

// PX-S12
#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_64_mib_streams_to_the_upstream_and_one_byte_more_is_413() {
    let upstream = Raw::start().await;
    let proxy =
        Proxy::with(Setup { resources: in_front_of(&upstream.origin(), ""), ..Setup::default() }).await;
    let tokens = proxy.login().await;
    const TOTAL: usize = 64 << 20;
    let head = format!("POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n", tokens.access);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(format!("{head}Content-Length: {TOTAL}\r\n\r\n").as_bytes()).await.unwrap();
    // The upstream hears of it before the client has sent a byte of the body.
    let (mut stream, heard) = soon(upstream.accept()).await;
    assert!(heard.contains(&format!("content-length: {TOTAL}")), "{heard}");
    let already = heard.split("\r\n\r\n").nth(1).map_or(0, str::len);
    let chunk = vec![b'y'; 1 << 20];
    let ((), got) = tokio::join!(
        async {
            for _ in 0..TOTAL / chunk.len() {
                client.write_all(&chunk).await.unwrap();
            }
        },
        async {
            let (mut got, mut buffer) = (already, vec![0; 256 << 10]);
            while got < TOTAL {
                let read = soon(stream.read(&mut buffer)).await.unwrap();
                assert!(read > 0);
                assert!(buffer[..read].iter().all(|byte| *byte == b'y'));
                got += read;
            }
            got
        }
    );
    assert_eq!(got, TOTAL);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(raw::status(&raw::hear(&mut client).await), 200);
}

// DS-03: a body without a length is cut when it passes the limit, and the upstream never sees its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_over_the_limit_is_413() {
    let upstream = Raw::start().await;
    let resources = in_front_of(&upstream.origin(), ", max_body: 1MiB");
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        tokens.access
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut stream, _) = soon(upstream.accept()).await;
    let chunk = [format!("{:x}\r\n", 1 << 20).as_bytes(), &vec![b'z'; 1 << 20], b"\r\n1\r\nz\r\n"].concat();
    let mut seen = Vec::new();
    let (answer, _) = soon(async {
        tokio::join!(
            async {
                let _ = client.write_all(&chunk).await;
                raw::hear(&mut client).await
            },
            stream.read_to_end(&mut seen)
        )
    })
    .await;
    assert_eq!(raw::status(&answer), 413, "{answer}");
    assert!(!seen.ends_with(b"0\r\n\r\n"), "the upstream must not take it for complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_is_not_a_slow_answer() {
    let upstream = Raw::start().await;
    let resources = in_front_of(&upstream.origin(), ", response_timeout: 1s");
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        tokens.access
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut stream, _) = soon(upstream.accept()).await;
    // Four times 400 ms: longer in all than the answer may take, never silent for that long.
    for _ in 0..4 {
        client.write_all(b"2\r\n{}\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"0\r\n\r\n") {
        let mut buffer = [0; 4096];
        let read = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "cut after {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..read]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(raw::status(&raw::hear(&mut client).await), 200);
}

// TK-22: also where we cannot read the events, or there are none.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_closes_streams_that_cannot_be_read() {
    let tuning = Tuning { stream_recheck: Duration::from_millis(20), ..Setup::default().tuning };
    let proxy = Proxy::with(tuned(tuning)).await;
    for (name, value) in [("content-encoding", "gzip"), ("content-type", "application/octet-stream")] {
        let tokens = proxy.login().await;
        let mut fed = streams_with(&proxy, move |mut response| {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
            response
        });
        let (_, mut body) = open(&proxy, &tokens, Method::POST).await;
        let feed = fed.recv().await.unwrap();
        say(&feed, "some bytes");
        assert_eq!(text(soon(plain::next(&mut body)).await), "some bytes");
        let pairs = [("token", tokens.access.as_str()), ("client_id", &tokens.client_id)];
        proxy.post_form("/revoke", &pairs).await.expect(200);
        assert!(soon(plain::next(&mut body)).await.unwrap().is_err(), "{value}: cut");
        soon(feed.closed()).await;
    }
}

fn spoken(tokens: &Tokens, method: &str, more: &str) -> String {
    format!("{method} /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n{more}\r\n", tokens.access)
}

/// Reads until what was heard ends like this.
async fn hear_until(client: &mut TcpStream, end: &str) -> String {
    let mut heard = String::new();
    while !heard.ends_with(end) {
        let mut bytes = [0; 4096];
        let read = soon(client.read(&mut bytes)).await.expect("reads");
        assert!(read > 0, "closed after {heard}");
        heard.push_str(std::str::from_utf8(&bytes[..read]).expect("text"));
    }
    heard
}

// A stream is taken out of hyper's hands with its connection; what comes behind it is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_behind_a_stream_with_what_was_said_meanwhile() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let mut fed = streams(&proxy);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    for (method, body) in [("GET", ""), ("POST", "Content-Length: 2\r\n\r\n{}"), ("DELETE", "")] {
        let request = match body {
            "" => spoken(&tokens, method, ""),
            body => spoken(&tokens, method, body).trim_end().to_owned(),
        };
        client.write_all(request.as_bytes()).await.unwrap();
        let feed = soon(fed.recv()).await.unwrap();
        say(&feed, "data: 1\n\n");
        let heard = hear_until(&mut client, "9\r\ndata: 1\n\n\r\n").await.to_lowercase();
        assert!(heard.starts_with("http/1.1 200 ok\r\n") && heard.contains("\r\ndate: "), "{heard}");
        assert!(heard.contains("\r\ntransfer-encoding: chunked\r\n"), "{heard}");
        // Half of the next request now, half of it when the stream is over.
        let next = spoken(&tokens, "GET", "");
        let (now, later) = next.split_at(next.len() / 2);
        client.write_all(now.as_bytes()).await.unwrap();
        say(&feed, "data: 2\n\n");
        hear_until(&mut client, "9\r\ndata: 2\n\n\r\n").await;
        drop(feed);
        assert_eq!(hear_until(&mut client, "0\r\n\r\n").await, "0\r\n\r\n");
        client.write_all(later.as_bytes()).await.unwrap();
        let feed = soon(fed.recv()).await.unwrap();
        say(&feed, "data: 3\n\n");
        hear_until(&mut client, "9\r\ndata: 3\n\n\r\n").await;
        drop(feed);
        hear_until(&mut client, "0\r\n\r\n").await;
    }
    // Nothing is to follow: said, and done.
    client.write_all(spoken(&tokens, "GET", "Connection: close\r\n").as_bytes()).await.unwrap();
    drop(soon(fed.recv()).await.unwrap());
    let mut rest = String::new();
    soon(client.read_to_string(&mut rest)).await.unwrap();
    assert!(
        rest.to_lowercase().contains("\r\nconnection: close\r\n") && rest.ends_with("0\r\n\r\n"),
        "{rest}"
    );
}

// What hyper has not written yet must not be lost when a stream takes its connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_its_client_is_slow_to_read_arrives_whole_before_the_stream_behind_it() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let (feeds, mut fed) = mpsc::unbounded_channel();
    let text = "0123456789abcdef".repeat(4 << 16);
    let answer = text.clone();
    proxy.mcp.say(move |heard| {
        if heard.method == Method::POST {
            return support::upstream::json(&answer);
        }
        let (response, feed) = events();
        feeds.send(feed).expect("it is waited for");
        response
    });
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let both = spoken(&tokens, "POST", "Content-Length: 2\r\n\r\n{}").trim_end().to_owned()
        + &spoken(&tokens, "GET", "");
    client.write_all(both.as_bytes()).await.unwrap();
    // Read no more than it takes until the second is asked for: then a part of the first is still to be written.
    let mut heard = Vec::new();
    let feed = loop {
        if let Ok(feed) = timeout(Duration::from_millis(50), fed.recv()).await {
            break feed.unwrap();
        }
        let mut piece = [0; 32 << 10];
        let read = soon(client.read(&mut piece)).await.unwrap();
        heard.extend_from_slice(&piece[..read]);
    };
    say(&feed, "data: 1\n\n");
    drop(feed);
    while !heard.ends_with(b"0\r\n\r\n") {
        let mut piece = [0; 32 << 10];
        let read = soon(client.read(&mut piece)).await.unwrap();
        assert!(read > 0, "cut after {} bytes", heard.len());
        heard.extend_from_slice(&piece[..read]);
    }
    let heard = String::from_utf8(heard).expect("text");
    let (first, second) = heard.split_at(heard.find("\r\n\r\n").unwrap() + 4 + text.len());
    assert!(first.ends_with(&text), "the first answer is not whole");
    assert!(second.starts_with("HTTP/1.1 200 OK\r\n") && second.contains("data: 1\n\n"), "{second}");
}

// RFC 9112 §6.3: nothing follows a 204, whatever kind it says it is of; what did would be read as the next answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_body_is_no_stream_whatever_it_calls_itself() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    proxy.mcp.say(|heard| {
        let (mut response, _) = events();
        *response.status_mut() = if heard.method == Method::GET { 204 } else { 304 }.try_into().unwrap();
        response
    });
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    for (method, status) in [("GET", 204), ("DELETE", 304), ("GET", 204)] {
        client.write_all(spoken(&tokens, method, "").as_bytes()).await.unwrap();
        let heard = hear_until(&mut client, "\r\n\r\n").await.to_lowercase();
        assert!(heard.starts_with(&format!("http/1.1 {status} ")), "{heard}");
        assert!(heard.matches("\r\n\r\n").count() == 1 && !heard.contains("transfer-encoding"), "{heard}");
    }
}
