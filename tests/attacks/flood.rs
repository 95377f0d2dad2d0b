//! Clients that hold what they do not use: connections, half requests, answers they never read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, header};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::rig::Rig;
use crate::support::http as plain;
use crate::support::program::{is_for_people, processor_ticks};
use crate::support::proxy::Setup;
use crate::support::raw;
use crate::support::upstream::{RESULT, events, json};

pub type Feed = UnboundedSender<Result<Bytes, std::io::Error>>;

/// A rig with these limits.
pub async fn limited(limits: &str) -> Rig {
    Rig::with(Setup { extra: format!("limits: {{{limits}}}"), ..Setup::default() }).await
}

/// From now on every GET opens a stream; what feeds them comes out here.
pub fn streams(rig: &Rig) -> UnboundedReceiver<Feed> {
    let (feeds, fed) = unbounded_channel();
    rig.proxy.mcp.say(move |heard| match heard.method {
        Method::GET => {
            let (response, feed) = events();
            let _ = feeds.send(feed);
            response
        }
        _ => json(RESULT),
    });
    fed
}

async fn open_stream(rig: &Rig, token: &str) -> (http::response::Parts, Incoming) {
    let request = rig.proxy.request(Method::GET, "/mcp").header(header::ACCEPT, "text/event-stream");
    let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    plain::open(rig.proxy.address(), request.body(Bytes::new()).expect("a request")).await
}

/// A connection from one of this machine's many addresses.
async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    socket.bind(SocketAddr::new(from, 0)).expect("bound");
    socket.connect(to).await.expect("connects")
}

/// Whether the other side closes within this time; what it says before that is thrown away.
pub async fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    let drained = async {
        let mut buffer = vec![0; 64 << 10];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    timeout(within, drained).await.is_ok()
}

/// Lets this process open as much as it may.
fn raise_own_limit() {
    let own = format!("prlimit --pid {} --nofile=$(ulimit -Hn):$(ulimit -Hn)", std::process::id());
    let _ = Command::new("sh").arg("-c").arg(own).status();
}

/// The middle of the times that some pings take.
async fn middle_of_pings(rig: &Rig, token: &str) -> Duration {
    let mut times = Vec::new();
    for _ in 0..15 {
        #[expect(clippy::disallowed_methods, reason = "it is the machine's time that counts here")]
        let begun = Instant::now();
        rig.proxy.ping(token).await.expect(200);
        times.push(begun.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// Opens so many connections that each send the beginning of a head and go on byte by byte; all must be closed.
async fn slow_heads(number: usize) {
    raise_own_limit();
    let mut rig = limited("head_timeout: 4s").await;
    rig.expect_memory(number as u64 * per_stream_kib());
    let tokens = rig.login().await;
    let before = middle_of_pings(&rig, &tokens.access).await;
    let mut slow = Vec::new();
    for _ in 0..number {
        let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
        stream.write_all(b"POST /mcp HTTP/1.1\r\nHost: p.test\r\nX-Slow: ").await.expect("writes");
        slow.push(stream);
    }
    for stream in &mut slow {
        let _ = stream.write_all(b"a").await;
    }
    let during = middle_of_pings(&rig, &tokens.access).await;
    assert!(during < before * 2 + Duration::from_millis(50), "{before:?} became {during:?}");
    for stream in &mut slow {
        let _ = stream.write_all(b"a").await;
        assert!(is_closed(stream, Duration::from_secs(8)).await, "a byte now and then keeps no connection");
    }
    rig.verify().await;
}

// DS-01
#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_are_cut_and_slow_down_nobody() {
    slow_heads(600).await;
}

// DS-01
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes thousands of descriptors: MCP_AUTH_PROXY=target/release/mcp-auth-proxy cargo test --test attacks -- --ignored slow_heads"]
async fn two_thousand_slow_heads_are_cut_and_slow_down_nobody() {
    slow_heads(2_000).await;
}

// DS-01
#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_taken_the_idlest_make_room() {
    let mut rig = limited("connections: 40, connections_per_address: 1000").await;
    let tokens = rig.login().await;
    let mut held = Vec::new();
    // Some say nothing, some half a head, some have had an answer.
    for number in 0..200 {
        let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /mcp HT").await.expect("writes"),
            _ => {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: p.test\r\n\r\n").await.expect("writes");
                assert_eq!(raw::status(&raw::hear(&mut stream).await), 200);
            }
        }
        held.push(stream);
        if number % 10 == 0 {
            rig.proxy.ping(&tokens.access).await.expect(200);
        }
    }
    assert!(rig.vitals().descriptors < 40 + 60, "{:?}", rig.vitals());
    for stream in &mut held[..100] {
        assert!(is_closed(stream, Duration::from_secs(5)).await, "the oldest are gone");
    }
    drop(held);
    rig.verify().await;
}

// DS-01
#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_busy_the_next_waits_for_the_first_that_ends() {
    let mut rig = limited("connections: 3").await;
    let tokens = rig.login().await;
    let mut fed = streams(&rig);
    let (mut bodies, mut feeds) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (head, body) = open_stream(&rig, &tokens.access).await;
        assert_eq!(head.status, 200);
        bodies.push(body);
        feeds.push(fed.recv().await.expect("a stream"));
    }
    let before = processor_ticks(rig.program.pid());
    let mut next = Box::pin(rig.proxy.ping(&tokens.access));
    assert!(
        timeout(Duration::from_secs(1), next.as_mut()).await.is_err(),
        "nobody who is busy is thrown out"
    );
    let spent = processor_ticks(rig.program.pid()) - before;
    assert!(spent < 40, "waiting took {spent} ticks of processor time");
    for feed in &feeds {
        assert!(!feed.is_closed(), "the streams live on");
    }
    bodies.pop();
    timeout(Duration::from_secs(5), next).await.expect("there is room now").expect(200);
    drop(bodies);
    rig.verify().await;
}

// DS-01: slow bodies.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_requests_that_never_end_keep_no_connection_from_anybody() {
    let mut rig = limited("connections: 3").await;
    let tokens = rig.login().await;
    let mut fed = streams(&rig);
    let (_, body) = open_stream(&rig, &tokens.access).await;
    let feed = fed.recv().await.expect("a stream");
    let head = "POST /token HTTP/1.1\r\nHost: p.test\r\nContent-Length: 1000\r\n\r\ngrant_type=";
    let mut held = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
        stream.write_all(head.as_bytes()).await.expect("writes");
        held.push(stream);
    }
    for _ in 0..3 {
        let ping = timeout(Duration::from_secs(5), rig.proxy.ping(&tokens.access)).await;
        ping.expect("it waits for no stranger").expect(200);
    }
    assert!(!feed.is_closed(), "a person's stream lives on");
    drop((held, body));
    rig.verify().await;
}

// DS-01
#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_take_the_connections_of_all() {
    let extra = "limits: {connections_per_address: 10}\ntrusted_proxies: [127.0.0.3/32]".to_owned();
    let mut rig = Rig::with(Setup { extra, ..Setup::default() }).await;
    let tokens = rig.login().await;
    let to = rig.proxy.address();
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(connect_from(2, to).await);
    }
    let mut eleventh = connect_from(2, to).await;
    assert!(is_closed(&mut eleventh, Duration::from_secs(5)).await, "it is one too many");
    rig.proxy.ping(&tokens.access).await.expect(200);
    // A trusted proxy stands for many.
    let mut many = Vec::new();
    for _ in 0..30 {
        many.push(connect_from(3, to).await);
    }
    for stream in &mut many {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: p.test\r\n\r\n").await.expect("writes");
        assert_eq!(raw::status(&raw::hear(stream).await), 200);
    }
    // Whoever lets go may come again.
    drop((held, many));
    let served = async {
        loop {
            let mut stream = connect_from(2, to).await;
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: p.test\r\n\r\n").await;
            if raw::status(&raw::hear(&mut stream).await) == 200 {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), served).await.expect("what was let go is free again");
    rig.verify().await;
}

// DS-01
#[tokio::test(flavor = "multi_thread")]
async fn out_of_descriptors_it_neither_spins_nor_stays_shut() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    let most = rig.vitals().descriptors + 40;
    let pid = rig.program.pid();
    let lowered =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={most}")]).status();
    assert!(lowered.expect("prlimit is there").success());
    let mut held = Vec::new();
    for _ in 0..120 {
        held.push(TcpStream::connect(rig.proxy.address()).await.expect("the backlog takes it"));
    }
    let before = processor_ticks(pid);
    // Newcomers push out who only holds on: the honest are served even now.
    let served = async { while !rig.proxy.get("/healthz").await.status == 200 {} };
    timeout(Duration::from_secs(10), served).await.expect("room is made");
    let spent = processor_ticks(pid) - before;
    assert!(spent < 200, "it took {spent} ticks of processor time");
    drop(held);
    let healed = async {
        // The connection to the upstream may still find no descriptor at first.
        while rig.proxy.ping(&tokens.access).await.status != 200 {}
    };
    timeout(Duration::from_secs(10), healed).await.expect("it serves again");
    rig.expect_statuses(&[502]);
    rig.verify().await;
}

// DS-02
#[tokio::test(flavor = "multi_thread")]
async fn one_person_has_so_many_streams_and_others_have_theirs() {
    let mut rig = limited("streams_per_person: 5").await;
    let tokens = rig.login().await;
    rig.proxy.github.world().sign_in("bystander");
    let bystander = rig.login().await;
    let mut fed = streams(&rig);
    let (mut bodies, mut feeds) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let (head, body) = open_stream(&rig, &tokens.access).await;
        assert_eq!(head.status, 200);
        bodies.push(body);
        feeds.push(fed.recv().await.expect("a stream"));
    }
    for _ in 0..20 {
        let answer = rig.proxy.ping(&tokens.access).await.expect(429);
        assert_eq!(answer.error(), "too_many_streams");
        assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    }
    assert_eq!(open_stream(&rig, &tokens.access).await.0.status, 429);
    assert_eq!(open_stream(&rig, &bystander.access).await.0.status, 200, "somebody else has his own");
    bodies.pop();
    let again = async { while rig.proxy.ping(&tokens.access).await.status != 200 {} };
    timeout(Duration::from_secs(5), again).await.expect("a stream that ended counts no more");
    drop(bodies);
    rig.verify().await;
}

/// Opens so many streams; returns what the program grew by, in KiB per stream.
async fn idle_streams(number: usize) -> u64 {
    raise_own_limit();
    let mut rig =
        limited("streams_per_person: 20000, connections: 20000, connections_per_address: 20000").await;
    rig.expect_memory(number as u64 * per_stream_kib());
    let tokens = rig.login().await;
    let mut fed = streams(&rig);
    let before = rig.vitals();
    let (mut bodies, mut feeds) = (Vec::new(), Vec::new());
    for _ in 0..number {
        let (head, body) = open_stream(&rig, &tokens.access).await;
        assert_eq!(head.status, 200);
        bodies.push(body);
        feeds.push(fed.recv().await.expect("a stream"));
    }
    let after = rig.vitals();
    // Every one is alive.
    for (feed, body) in feeds.iter().zip(&mut bodies).step_by(50) {
        feed.send(Ok(Bytes::from_static(b"data: here\n\n"))).expect("the upstream is connected");
        let next = timeout(Duration::from_secs(5), plain::next(body)).await.expect("in time");
        assert_eq!(next.expect("an event").expect("whole"), "data: here\n\n");
    }
    drop((bodies, feeds));
    rig.verify().await;
    let each = (after.rss_kib - before.rss_kib) / number as u64;
    println!("{each} KiB for each of {number} idle streams");
    each
}

// DS-02
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_costs_little() {
    let each = idle_streams(600).await;
    assert!(each <= per_stream_kib(), "{each} KiB for each stream");
}

// DS-02
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 20 000 descriptors: MCP_AUTH_PROXY=target/release/mcp-auth-proxy cargo test --test attacks -- --ignored idle_streams --nocapture"]
async fn nine_thousand_idle_streams_cost_little() {
    let each = idle_streams(9_000).await;
    assert!(each <= per_stream_kib(), "{each} KiB for each stream");
}

// DS-01: slow bodies.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_cut_and_one_that_is_only_slow_is_not() {
    let mut rig = limited("body_timeout: 2s").await;
    let tokens = rig.login().await;
    let head = |framing: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n{framing}\r\n\r\n",
            tokens.access
        )
    };
    let heard = rig.proxy.mcp.heard().len();
    for framing in ["Content-Length: 1000", "Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
        stream.write_all(head(framing).as_bytes()).await.expect("writes");
        let (mut reading, mut writing) = stream.split();
        let trickle = async {
            let byte: &[u8] = if framing.starts_with('T') { b"1\r\na\r\n" } else { b"a" };
            while writing.write_all(byte).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let mut answer = vec![0; 4096];
        let read = tokio::select! {
            read = timeout(Duration::from_secs(10), reading.read(&mut answer)) => read.expect("it is cut").expect("reads"),
            () = trickle => panic!("no answer"),
        };
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert_eq!(raw::status(&answer), 408, "{framing}: {answer}");
    }
    assert_eq!(rig.proxy.mcp.heard().len(), heard, "nothing went on as if it were whole");
    // 400 KiB in six seconds: three times as long as one may be silent.
    let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
    stream.write_all(head("Content-Length: 409600").as_bytes()).await.expect("writes");
    for _ in 0..10 {
        stream.write_all(&[b'a'; 40_960]).await.expect("it is still wanted");
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert_eq!(raw::status(&raw::hear(&mut stream).await), 200);
    assert_eq!(rig.proxy.mcp.last().body.len(), 409_600);
    // A small one of 10 KiB in six seconds is as honest, though it is read whole first.
    let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
    stream.write_all(head("Content-Length: 10240").as_bytes()).await.expect("writes");
    for _ in 0..10 {
        stream.write_all(&[b'a'; 1024]).await.expect("it is still wanted");
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    assert_eq!(raw::status(&raw::hear(&mut stream).await), 200);
    assert_eq!(rig.proxy.mcp.last().body.len(), 10_240);
    rig.verify().await;
}

// DS-01: slow readers. UP-08: what they leave unread is not collected.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_is_cut_and_who_has_nothing_to_read_is_not() {
    let mut rig = limited("write_timeout: 2s").await;
    let tokens = rig.login().await;
    let mut fed = streams(&rig);
    let (_, mut silent) = open_stream(&rig, &tokens.access).await;
    let silent_feed = fed.recv().await.expect("a stream");
    let before = rig.vitals();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("set");
    let mut deaf = socket.connect(rig.proxy.address()).await.expect("connects");
    let get = format!("GET /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n\r\n", tokens.access);
    deaf.write_all(get.as_bytes()).await.expect("writes");
    let feed = fed.recv().await.expect("a stream");
    for _ in 0..200 {
        let _ = feed.send(Ok(Bytes::from(vec![b'a'; 256 << 10])));
    }
    timeout(Duration::from_secs(12), feed.closed()).await.expect("the upstream is told");
    let after = rig.vitals();
    assert!(after.rss_kib < before.rss_kib + (8 << 10), "{before:?} became {after:?}");
    assert!(is_closed(&mut deaf, Duration::from_secs(5)).await);
    silent_feed.send(Ok(Bytes::from_static(b"data: still\n\n"))).expect("it lives");
    let next = timeout(Duration::from_secs(5), plain::next(&mut silent)).await.expect("in time");
    assert_eq!(next.expect("an event").expect("whole"), "data: still\n\n");
    drop((silent, silent_feed));
    rig.verify().await;
}

// UP-08
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_byte_and_costs_little() {
    let mut rig = limited("write_timeout: 3s").await;
    let tokens = rig.login().await;
    let mut fed = streams(&rig);
    let (_, mut body) = open_stream(&rig, &tokens.access).await;
    let feed = fed.recv().await.expect("a stream");
    let before = rig.vitals();
    // One event of 20 MiB, to a reader that takes six seconds for it: twice as long as nothing may move.
    let (piece, pieces) = (64 << 10, 320);
    let _ = feed.send(Ok(Bytes::from_static(b"data: ")));
    for number in 0..pieces {
        let _ = feed.send(Ok(Bytes::from(vec![b'a' + (number % 26) as u8; piece])));
    }
    let _ = feed.send(Ok(Bytes::from_static(b"\n\n")));
    drop(feed);
    let (mut read, mut most, mut paused) = (Vec::new(), 0, 0);
    while let Some(next) = timeout(Duration::from_secs(5), plain::next(&mut body)).await.expect("in time") {
        read.extend_from_slice(&next.expect("not cut"));
        most = most.max(rig.vitals().rss_kib);
        if read.len() / (1 << 20) > paused {
            paused += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    assert_eq!(read.len(), 6 + piece * pieces + 2);
    for number in 0..pieces {
        let piece = &read[6 + number * piece..6 + (number + 1) * piece];
        assert!(piece.iter().all(|byte| *byte == b'a' + (number % 26) as u8));
    }
    assert!(most < before.rss_kib + 2048, "{} KiB became {most}", before.rss_kib);
    rig.verify().await;
}

/// What an idle stream may cost; without optimisation the same state takes more.
fn per_stream_kib() -> u64 {
    if is_for_people() { 40 } else { 80 }
}
