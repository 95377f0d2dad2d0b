//! Several replicas of one MCP server: what sticks, what spreads, and what happens when one dies.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use support::http::{self as plain, Answer};
use support::proxy::{PING, Proxy, Setup, Tokens};
use support::upstream::{Mcp, RESULT, Raw, events, json};
use support::{TempDir, all, free_address};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
/// Longer than idle connections are kept, shorter than anything is ejected.
const IDLE: Duration = Duration::from_secs(5);
const EJECTED: Duration = Duration::from_secs(10);

/// A replica that opens a session for whoever comes without one, and knows no others.
async fn replica(address: SocketAddr) -> Mcp {
    let (mcp, number) = (Mcp::at(address).await, AtomicUsize::new(0));
    mcp.say(move |heard| {
        let own = format!("at-{}-", address.port());
        let mut response = json(RESULT);
        match heard.header("mcp-session-id") {
            "" => {
                let id = format!("{own}{}", number.fetch_add(1, Ordering::Relaxed));
                response.headers_mut().insert("mcp-session-id", HeaderValue::from_str(&id).unwrap());
            }
            id if id.starts_with(&own) => {}
            _ => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        response
    });
    mcp
}

async fn replicas(count: usize) -> Vec<Mcp> {
    all((0..count).map(|_| replica(free_address()))).await
}

/// `/mcp` in front of these.
fn in_front_of(origins: &[String], more: &str) -> &'static str {
    let urls: Vec<String> = origins.iter().map(|origin| format!("'{origin}/mcp'")).collect();
    Box::leak(format!("[{{path: /mcp, upstream: [{}]{more}}}]", urls.join(", ")).into_boxed_str())
}

fn origins(replicas: &[Mcp]) -> Vec<String> {
    replicas.iter().map(Mcp::origin).collect()
}

/// A proxy in front of so many replicas, and somebody who is logged in.
async fn start(count: usize, setup: Setup) -> (Proxy, Vec<Mcp>, Tokens) {
    let replicas = replicas(count).await;
    let setup = Setup { resources: in_front_of(&origins(&replicas), ""), ..setup };
    let proxy = Proxy::with(setup).await;
    let tokens = proxy.login().await;
    (proxy, replicas, tokens)
}

/// Nobody listens there any more, and connections of before are used no more.
async fn kill(proxy: &Proxy, replica: &Mcp) {
    replica.stop();
    while TcpStream::connect(replica.address()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    proxy.forward(IDLE);
}

async fn call(proxy: &Proxy, method: Method, path: &str, token: &str, session: Option<&str>) -> Answer {
    call_at(proxy, proxy.address(), method, path, token, session).await
}

async fn call_at(
    proxy: &Proxy,
    address: SocketAddr,
    method: Method,
    path: &str,
    token: &str,
    session: Option<&str>,
) -> Answer {
    let mut request = proxy.call(path, token).method(method);
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    plain::send(address, request.body(Bytes::from_static(PING)).unwrap()).await
}

async fn post(proxy: &Proxy, token: &str, session: &str) -> Answer {
    call(proxy, Method::POST, "/mcp", token, Some(session)).await
}

/// So many new sessions, as their client knows them.
async fn sessions(proxy: &Proxy, token: &str, count: usize) -> Vec<String> {
    let mut sessions = Vec::new();
    for _ in 0..count {
        sessions.push(proxy.ping(token).await.expect(200).header("mcp-session-id").to_owned());
    }
    sessions
}

/// How many requests each has heard.
fn heard(replicas: &[Mcp]) -> Vec<usize> {
    replicas.iter().map(|replica| replica.heard().len()).collect()
}

/// Which replicas have heard requests of this upstream's own session.
fn where_heard(replicas: &[Mcp], session: &str) -> BTreeSet<usize> {
    let id = session.rsplit_once('.').expect("a seal").0;
    let has = |replica: &Mcp| replica.heard().iter().any(|heard| heard.header("mcp-session-id") == id);
    replicas.iter().enumerate().filter(|(_, replica)| has(replica)).map(|(index, _)| index).collect()
}

fn ejected(told: &str) -> &str {
    let name = "mcp_auth_proxy_upstream_replicas_ejected{resource=\"/mcp\"} ";
    told.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{told}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_where_it_was_opened_and_everything_else_is_dealt_out() {
    let dir = TempDir::new();
    let (mut proxy, replicas, tokens) = start(3, Setup::on(&dir)).await;
    proxy.reconfigure(|yaml| yaml.replace("workers: 1", "workers: 2")).await;
    let opened = sessions(&proxy, &tokens.access, 30).await;
    assert_eq!(heard(&replicas), [10, 10, 10]);
    let own: BTreeSet<&str> = opened.iter().filter_map(|id| id.split('-').nth(1)).collect();
    assert_eq!(own.len(), 3);
    let calls = opened.iter().take(6).flat_map(|id| {
        let methods = [Method::POST, Method::GET, Method::POST, Method::DELETE, Method::POST];
        methods.into_iter().cycle().take(50).map(move |method| (method, id))
    });
    let token = &tokens.access;
    for chunk in calls.collect::<Vec<_>>().chunks(50) {
        let answers =
            all(chunk.iter().map(|(method, id)| call(&proxy, method.clone(), "/mcp", token, Some(id)))).await;
        // Any other replica would say 404.
        answers.into_iter().for_each(|answer| drop(answer.expect(200)));
    }
    assert_eq!(heard(&replicas), [110, 110, 110]);
    // After a restart as well.
    proxy.restart().await;
    for id in &opened {
        post(&proxy, token, id).await.expect(200);
    }
}

// UP-10
#[tokio::test(flavor = "multi_thread")]
async fn when_one_dies_nobody_meets_502_and_its_sessions_have_one_new_home_that_does_not_know_them() {
    let (proxy, replicas, tokens) =
        start(3, Setup { extra: "metrics: 127.0.0.1:0".to_owned(), ..Setup::default() }).await;
    let token = &tokens.access;
    let opened = sessions(&proxy, token, 30).await;
    assert_eq!(ejected(&proxy.numbers().await), "0");
    kill(&proxy, &replicas[1]).await;
    let (dead, before) = (format!("at-{}-", replicas[1].address().port()), heard(&replicas));
    for answer in all((0..40).map(|_| proxy.ping(token))).await {
        answer.expect(200);
    }
    assert_eq!(ejected(&proxy.numbers().await), "1");
    let now = heard(&replicas);
    let more: Vec<usize> = before.iter().zip(now).map(|(before, now)| now - before).collect();
    assert!(more[1] == 0 && more[0] >= 15 && more[2] >= 15, "{more:?}");
    let mut homes = BTreeMap::new();
    for id in &opened {
        let lost = id.starts_with(&dead);
        for _ in 0..3 {
            post(&proxy, token, id).await.expect(if lost { 404 } else { 200 });
        }
        if lost {
            let there = where_heard(&replicas, id);
            assert_eq!(there.len(), 1, "one and the same other: {there:?}");
            *homes.entry(there).or_insert(0) += 1;
        }
    }
    assert_eq!(homes.values().sum::<usize>(), 10);
    // As MCP asks, the client begins anew.
    let again = sessions(&proxy, token, 1).await.remove(0);
    post(&proxy, token, &again).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_there_again_comes_back_with_its_sessions() {
    let (proxy, mut replicas, tokens) = start(2, Setup::default()).await;
    let token = &tokens.access;
    let opened = sessions(&proxy, token, 2).await;
    let dead = format!("at-{}-", replicas[0].address().port());
    let lost = opened.iter().find(|id| id.starts_with(&dead)).expect("one of them");
    kill(&proxy, &replicas[0]).await;
    // A session's request is what finds it dead, and goes on like any other.
    post(&proxy, token, lost).await.expect(404);
    let address = replicas[0].address();
    replicas[0] = replica(address).await;
    for _ in 0..5 {
        proxy.ping(token).await.expect(200);
    }
    post(&proxy, token, lost).await.expect(404);
    assert_eq!(heard(&replicas)[0], 0, "it is left out");
    proxy.forward(EJECTED);
    post(&proxy, token, lost).await.expect(200);
    let before = heard(&replicas);
    for _ in 0..20 {
        proxy.ping(token).await.expect(200);
    }
    assert_eq!(heard(&replicas), [before[0] + 10, before[1] + 10]);
}

/// Connections to it are closed before there is any TLS in them, and counted.
async fn no_tls() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let origin = format!("https://{}", listener.local_addr().expect("bound"));
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (origin, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_is_dead_a_single_request_looks_whether_it_still_is() {
    let (origin, looked) = no_tls().await;
    let alive = replica(free_address()).await;
    let resources = in_front_of(&[origin, alive.origin()], "");
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    for (expected, wait) in [(1, 10), (2, 20), (3, 40), (4, 60), (5, 60), (6, 60)] {
        for answer in all((0..3).map(|_| proxy.ping(&tokens.access))).await {
            answer.expect(200);
        }
        if expected > 1 {
            assert_eq!(looked.load(Ordering::SeqCst), expected, "one looks");
        } else {
            // Before anybody knew, several may have been on their way there.
            looked.store(1, Ordering::SeqCst);
        }
        proxy.forward(Duration::from_secs(wait - 1));
        for answer in all((0..3).map(|_| proxy.ping(&tokens.access))).await {
            answer.expect(200);
        }
        assert_eq!(looked.load(Ordering::SeqCst), expected, "and nobody before {wait} s");
        proxy.forward(Duration::from_secs(1));
    }
}

// UP-07
#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_come_is_sent_to_nobody_else() {
    let (one, other) = (Raw::start().await, Raw::start().await);
    let origins = [one.origin(), other.origin()];
    let resources = in_front_of(&origins, "");
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    // Three times in a row, and the other one answers in between.
    for round in 0..3 {
        let closed = async { drop(one.accept().await) };
        let (answer, ()) = tokio::join!(proxy.ping(&tokens.access), closed);
        assert_eq!(answer.expect(502).error(), "upstream_failed", "{round}");
        let again = timeout(Duration::from_millis(100), async {
            tokio::select! { _ = one.accept() => {}, _ = other.accept() => {} }
        });
        assert!(again.await.is_err(), "it was sent twice");
        let (answer, ()) = tokio::join!(proxy.ping(&tokens.access), other.answer_once(OK.as_bytes()));
        answer.expect(200);
        proxy.forward(IDLE);
    }
    // Then it is left out.
    for _ in 0..3 {
        let (answer, ()) = tokio::join!(proxy.ping(&tokens.access), other.answer_once(OK.as_bytes()));
        answer.expect(200);
        proxy.forward(Duration::from_secs(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_are_dead_all_are_asked() {
    let (proxy, replicas, tokens) = start(2, Setup::default()).await;
    for replica in &replicas {
        kill(&proxy, replica).await;
    }
    for _ in 0..3 {
        assert_eq!(proxy.ping(&tokens.access).await.expect(502).error(), "upstream_unreachable");
    }
    let back = replica(replicas[1].address()).await;
    for _ in 0..4 {
        proxy.ping(&tokens.access).await.expect(200);
    }
    assert_eq!(back.heard().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_any_length_goes_on_to_the_next_with_its_own_path_and_host() {
    let (dead, alive) = (free_address(), Mcp::start().await);
    let yaml = format!(
        "[{{path: /mcp, upstream: ['http://{dead}/dead?x=1', '{}/alive?y=2'], inject: {{X-GitHub-Token: '{{github_token}}'}}}}]",
        alive.origin()
    );
    let proxy = Proxy::with(Setup { resources: Box::leak(yaml.into_boxed_str()), ..Setup::default() }).await;
    let tokens = proxy.login().await;
    for length in [0, 7, 64 << 10, (64 << 10) + 1, 3 << 20] {
        let body = Bytes::from("x".repeat(length));
        // Ejected or not by now, it is this request that finds it dead.
        for _ in 0..2 {
            let request = proxy.call("/mcp?own=pair", &tokens.access).body(body.clone()).unwrap();
            proxy.send(request).await.expect(200);
            let heard = alive.last();
            assert_eq!((heard.target.as_str(), heard.body.len()), ("/alive?y=2&own=pair", length));
            assert_eq!(heard.header("host"), alive.address().to_string());
            assert_eq!(heard.headers.get_all("host").iter().count(), 1);
            assert_eq!(heard.header("content-length"), length.to_string());
            assert!(heard.header("x-github-token").len() > 8);
        }
        proxy.forward(Duration::from_secs(61));
    }
    // A body of unknown length as well.
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        tokens.access
    );
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..100 {
        client.write_all(format!("400\r\n{}\r\n", "y".repeat(1 << 10)).as_bytes()).await.unwrap();
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(support::raw::status(&support::raw::hear(&mut client).await), 200);
    assert_eq!(alive.last().body, "y".repeat(100 << 10));
    assert_eq!(alive.heard().len(), 11, "each once");
}

/// Accepts every session, as replicas do that share them, and repeats its id.
fn know_everybody(replicas: &[Mcp]) {
    replicas.iter().for_each(|replica| {
        replica.say(|_| {
            let mut response = json(RESULT);
            response.headers_mut().insert("mcp-session-id", HeaderValue::from_static("shared~id"));
            response
        });
    });
}

// A client that is told a new id of its session uses it from then on.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_repeated_says_where_it_was_repeated() {
    let (proxy, replicas, tokens) = start(2, Setup::default()).await;
    know_everybody(&replicas);
    let token = &tokens.access;
    let opened = sessions(&proxy, token, 2).await;
    for id in &opened {
        assert_eq!(post(&proxy, token, id).await.expect(200).header("mcp-session-id"), id);
    }
    kill(&proxy, &replicas[0]).await;
    let mut told = Vec::new();
    for id in &opened {
        told.push(post(&proxy, token, id).await.expect(200).header("mcp-session-id").to_owned());
    }
    assert_eq!(told, [opened[1].as_str(), &opened[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_outlive_changes_of_the_list() {
    let dir = TempDir::new();
    let replicas = replicas(3).await;
    know_everybody(&replicas);
    let [one, three, two_of_them] = [&origins(&replicas)[..1], &origins(&replicas), &origins(&replicas)[1..]]
        .map(|origins| in_front_of(origins, ""));
    let mut proxy = Proxy::with(Setup { resources: one, ..Setup::on(&dir) }).await;
    let tokens = proxy.login().await;
    let token = &tokens.access;
    let bare = sessions(&proxy, token, 1).await.remove(0);
    // From one to three: it is good, and everywhere the same.
    proxy.reload(|yaml| yaml.replace(one, three)).await.expect("taken");
    let before = heard(&replicas);
    for _ in 0..9 {
        post(&proxy, token, &bare).await.expect(200);
    }
    let mut more: Vec<usize> =
        before.iter().zip(heard(&replicas)).map(|(before, now)| now - before).collect();
    more.sort_unstable();
    assert_eq!(more, [0, 0, 9]);
    let marked = sessions(&proxy, token, 3).await;
    assert_eq!(marked.iter().collect::<BTreeSet<_>>().len(), 3, "they say where they are from");
    // The first is taken out.
    proxy.reload(|yaml| yaml.replace(three, two_of_them)).await.expect("taken");
    let before = heard(&replicas);
    for id in marked.iter().chain([&bare]) {
        for _ in 0..3 {
            post(&proxy, token, id).await.expect(200);
        }
    }
    let now = heard(&replicas);
    assert_eq!((now[0], now[1] + now[2]), (before[0], before[1] + before[2] + 12));
    // Back to one.
    proxy.reload(|yaml| yaml.replace(two_of_them, one)).await.expect("taken");
    for id in marked.iter().chain([&bare]) {
        post(&proxy, token, id).await.expect(200);
    }
    assert_eq!(sessions(&proxy, token, 1).await, [bare], "as ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_agree_however_their_lists_are_sorted() {
    let dir = TempDir::new();
    let (proxy, replicas, tokens) = start(3, Setup::on(&dir)).await;
    let sorted = in_front_of(&origins(&replicas), "");
    let mut turned = origins(&replicas);
    turned.rotate_left(1);
    let turned = in_front_of(&turned, "");
    let other = proxy.replica_with(|yaml| yaml.replace(sorted, turned)).expect("starts");
    let token = &tokens.access;
    let opened = sessions(&proxy, token, 12).await;
    for id in &opened {
        call_at(&proxy, other.address(), Method::POST, "/mcp", token, Some(id)).await.expect(200);
    }
    kill(&proxy, &replicas[2]).await;
    for id in &opened {
        let status = post(&proxy, token, id).await.status;
        let there = call_at(&proxy, other.address(), Method::POST, "/mcp", token, Some(id)).await.status;
        assert_eq!(status, there);
        let known: BTreeSet<usize> = where_heard(&replicas, id).into_iter().filter(|at| *at != 2).collect();
        assert_eq!(known.len(), 1, "one home for both");
    }
    tokio::task::spawn_blocking(move || other.stop()).await.expect("it stops");
}

// PX-S16
#[tokio::test(flavor = "multi_thread")]
async fn nobody_chooses_a_replica_but_us() {
    let (proxy, replicas, tokens) = start(2, Setup::default()).await;
    let opened = sessions(&proxy, &tokens.access, 2).await;
    let [(one, first), (two, second)] = [0, 1].map(|at| opened[at].rsplit_once('.').expect("a seal"));
    assert_eq!((first.len(), second.len()), (28, 28));
    // The mark is the end of the seal: base64 of 21 bytes, of which the last four.
    let mixed = format!("{one}.{}{}", &first[..24], &second[24..]);
    let bare = format!("{one}.{}", &first[..23]);
    let more = format!("{}AAAA", opened[0]);
    let before = heard(&replicas);
    for forged in [&mixed, &bare, &more, &format!("{one}.{second}"), &format!("{two}.{first}")] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let answer = call(&proxy, method, "/mcp", &tokens.access, Some(forged)).await.expect(404);
            assert_eq!(answer.error(), "unknown_session");
        }
    }
    let elsewhere = proxy.login().await;
    proxy.github.world().add_user(support::github::User::new(7, "bob"));
    proxy.github.world().sign_in("bob");
    let bob = proxy.login().await;
    post(&proxy, &bob.access, &opened[0]).await.expect(404);
    assert_eq!(heard(&replicas), before);
    post(&proxy, &elsewhere.access, &opened[0]).await.expect(200);
}

// UP-11
#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_endpoint_belongs_to_the_replica_whose_stream_named_it() {
    let (proxy, replicas, tokens) = start(3, Setup::default()).await;
    let mut streams = Vec::new();
    for replica in &replicas {
        let (response, feed) = events();
        let (response, port) = (std::sync::Mutex::new(Some(response)), replica.address().port());
        replica.say(move |heard| match heard.method == Method::GET {
            true => response.lock().unwrap().take().unwrap(),
            false => {
                let mut accepted = json("");
                let is_ours = heard.target.ends_with(&port.to_string());
                *accepted.status_mut() = if is_ours { StatusCode::ACCEPTED } else { StatusCode::BAD_REQUEST };
                accepted
            }
        });
        feed.send(Ok(Bytes::from(format!("event: endpoint\ndata: /messages/?session_id={port}\n\n"))))
            .unwrap();
        streams.push(feed);
    }
    let mut endpoints = Vec::new();
    for _ in &replicas {
        let request = proxy.call("/mcp", &tokens.access).method(Method::GET).body(Bytes::new()).unwrap();
        let (head, mut body) = plain::open(proxy.address(), request).await;
        assert_eq!(head.status, 200);
        let event = plain::next(&mut body).await.unwrap().unwrap();
        let event = std::str::from_utf8(&event).unwrap();
        let endpoint = event.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end().to_owned();
        endpoints.push((endpoint, body));
    }
    for _ in 0..10 {
        for (endpoint, _) in &endpoints {
            call(&proxy, Method::POST, endpoint, &tokens.access, None).await.expect(202);
        }
    }
    assert_eq!(heard(&replicas), [11, 11, 11]);
    // Where it is gone, another one says so.
    kill(&proxy, &replicas[0]).await;
    let mut statuses = Vec::new();
    for (endpoint, _) in &endpoints {
        statuses.push(call(&proxy, Method::POST, endpoint, &tokens.access, None).await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 202, 400]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reload_leaves_behind_is_not_counted() {
    let dead = free_address();
    let alive = replica(free_address()).await;
    let both = in_front_of(&[format!("http://{dead}"), alive.origin()], "");
    let extra = "metrics: 127.0.0.1:0".to_owned();
    let mut proxy = Proxy::with(Setup { resources: both, extra, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    assert_eq!(ejected(&proxy.numbers().await), "1");
    let one = in_front_of(&[alive.origin()], "");
    proxy.reload(|yaml| yaml.replace(both, one)).await.expect("taken");
    // Its connections let go of it in their own time.
    for _ in 0..100 {
        if ejected(&proxy.numbers().await) == "0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ejected(&proxy.numbers().await), "0");
    proxy.ping(&tokens.access).await.expect(200);
}
