//! Codes and tokens in the hands of many processes, of thieves, and of clients whose connection broke.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::Rig;
use crate::support::browser::Browser;
use crate::support::http::{self as plain, form};
use crate::support::proxy::{CALLBACK, Setup, Tokens, VERIFIER, param};
use crate::support::upstream::{RESULT, events, json};
use crate::support::{all, raw, stores};

fn redemption<'a>(client_id: &'a str, code: &'a str) -> [(&'a str, &'a str); 4] {
    let grant = ("grant_type", "authorization_code");
    [grant, ("code", code), ("client_id", client_id), ("code_verifier", VERIFIER)]
}

fn renewal(tokens: &Tokens) -> [(&str, &str); 3] {
    [("grant_type", "refresh_token"), ("refresh_token", &tokens.refresh), ("client_id", &tokens.client_id)]
}

/// One after the other of two processes.
fn turns(rig: &Rig, replica: SocketAddr, times: usize) -> impl Iterator<Item = SocketAddr> {
    let here = rig.proxy.address();
    (0..times).map(move |turn| if turn % 2 == 0 { here } else { replica })
}

// TK-07
#[tokio::test(flavor = "multi_thread")]
async fn seven_clients_at_two_processes_refresh_as_one() {
    for store in stores::all("seven_clients_at_two_processes_refresh_as_one").await {
        let mut rig = Rig::on(store, Setup::default()).await;
        let replica = rig.replica();
        let mut tokens = rig.login().await;
        for _ in 0..5 {
            let pairs = renewal(&tokens);
            let asked =
                turns(&rig, replica.address(), 7).map(|at| rig.proxy.post_form_at(at, "/token", &pairs));
            let answers = all(asked).await;
            let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect(200).json()).collect();
            for answer in &answers {
                for member in ["access_token", "refresh_token", "scope"] {
                    assert_eq!(answer[member], answers[0][member], "one pair for all");
                }
            }
            tokens = Tokens::read(tokens.client_id, answers[0].clone());
            rig.canary("an access token", &tokens.access);
            rig.canary("a refresh token", &tokens.refresh);
            for at in turns(&rig, replica.address(), 2) {
                rig.proxy.ping_at(at, &tokens.access).await.expect(200);
            }
        }
        rig.retire(replica);
        rig.verify().await;
    }
}

// CD-02
#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_redemptions_at_two_processes_one_wins_and_nobody_keeps_it() {
    for store in stores::all("of_twenty_redemptions_at_two_processes_one_wins_and_nobody_keeps_it").await {
        let rig = Rig::on(store, Setup::default()).await;
        let replica = rig.replica();
        let bystander = rig.proxy.login().await;
        for _ in 0..5 {
            let (client_id, code) = rig.proxy.code(&[]).await;
            let pairs = redemption(&client_id, &code);
            let asked =
                turns(&rig, replica.address(), 20).map(|at| rig.proxy.post_form_at(at, "/token", &pairs));
            let answers = all(asked).await;
            let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
            assert!(won.len() <= 1, "{won:?}");
            for answer in lost {
                assert_eq!(answer.expect(400).error(), "invalid_grant");
            }
            for answer in won {
                let tokens = Tokens::read(client_id.clone(), answer.json());
                for at in turns(&rig, replica.address(), 2) {
                    let began = Instant::now();
                    while rig.proxy.ping_at(at, &tokens.access).await.status != 401 {
                        assert!(
                            began.elapsed() < Duration::from_secs(3),
                            "dead within a second of the replay"
                        );
                        sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
        for at in turns(&rig, replica.address(), 2) {
            rig.proxy.ping_at(at, &bystander.access).await.expect(200);
        }
        rig.retire(replica);
        rig.verify().await;
    }
}

/// Says a form on a connection that is dropped before the answer is read, some of it, or not a byte.
async fn say_and_leave(rig: &Rig, pairs: &[(&str, &str)], read: usize) {
    let body = form(pairs);
    let mut request = format!(
        "POST /token HTTP/1.1\r\nHost: p.test\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
    stream.write_all(&request).await.expect("writes");
    let mut some = vec![0; read];
    stream.read_exact(&mut some).await.expect("reads");
    // The other side hears of it at once, not when it has written all.
    stream.set_zero_linger().expect("set");
}

// TK-08
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_given_again() {
    let mut rig = Rig::start().await;
    let mut tokens = rig.login().await;
    for read in [0, 1, 200] {
        say_and_leave(&rig, &renewal(&tokens), read).await;
        // Whether it was carried out or not: the client asks again and gets a pair that works, the same each time.
        let first = rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
        let second = rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
        assert_eq!(first["refresh_token"], second["refresh_token"]);
        assert_eq!(first["access_token"], second["access_token"]);
        tokens = Tokens::read(tokens.client_id, first);
        rig.proxy.ping(&tokens.access).await.expect(200);
    }
    // A code whose answer was lost is spent: the person logs in again, and nobody has got in.
    let (client_id, code) = rig.proxy.code(&[]).await;
    say_and_leave(&rig, &redemption(&client_id, &code), 1).await;
    assert_eq!(rig.proxy.redeem(&client_id, &code).await.expect(400).error(), "invalid_grant");
    rig.proxy.ping(&tokens.access).await.expect(200);
    rig.verify().await;
}

// TK-06, TK-09, TK-10
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_rotation_and_replay_changes_nothing() {
    for store in stores::all("a_kill_between_rotation_and_replay_changes_nothing").await {
        let extra = "tokens: {refresh_grace: 6s}".to_owned();
        let mut rig = Rig::on(store, Setup { extra, ..Setup::default() }).await;
        let (first, bystander) = (rig.login().await, rig.login().await);
        let second = rig.proxy.refresh(&first.client_id, &first.refresh).await.expect(200).json();
        rig.kill_and_start_again();
        let again = rig.proxy.refresh(&first.client_id, &first.refresh).await.expect(200).json();
        assert_eq!(again["access_token"], second["access_token"]);
        assert_eq!(again["refresh_token"], second["refresh_token"]);
        let second = Tokens::read(first.client_id.clone(), again);
        rig.proxy.ping(&second.access).await.expect(200);
        let began = Instant::now();
        loop {
            let answer = rig.proxy.refresh(&first.client_id, &first.refresh).await;
            if answer.status == 400 {
                assert_eq!(answer.error(), "invalid_grant");
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "the grace time ends");
            sleep(Duration::from_millis(200)).await;
        }
        // Its successor was never used, and is dead all the same.
        rig.proxy.ping(&second.access).await.expect(401);
        rig.proxy.refresh(&second.client_id, &second.refresh).await.expect(400);
        rig.kill_and_start_again();
        rig.proxy.ping(&second.access).await.expect(401);
        rig.proxy.ping(&bystander.access).await.expect(200);
        rig.verify().await;
    }
}

// TK-13, TK-22: as it is delivered: the look at open streams comes every fifteen seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_closes_streams_of_both_processes_within_thirty_seconds() {
    let mut rig = Rig::start().await;
    let replica = rig.replica();
    let (tokens, kept) = (rig.login().await, rig.login().await);
    rig.proxy.mcp.say(|_| {
        let (response, feed) = events();
        let _ = feed.send(Ok(Bytes::from_static(b"data: 1\n\n")));
        // Never another one, and no end.
        std::mem::forget(feed);
        response
    });
    let mut streams = Vec::new();
    for at in [rig.proxy.address(), replica.address()] {
        for access in [&tokens.access, &kept.access] {
            let request = rig.proxy.call("/mcp", access).method(Method::GET).body(Bytes::new());
            let (head, mut body) = plain::open(at, request.expect("a request")).await;
            assert_eq!(head.status, 200);
            plain::next(&mut body).await.expect("an event").expect("an event");
            streams.push(body);
        }
    }
    rig.proxy.mcp.say(|_| json(RESULT));
    let pairs = [("token", tokens.refresh.as_str()), ("client_id", &tokens.client_id)];
    rig.proxy.post_form("/revoke", &pairs).await.expect(200);
    let began = Instant::now();
    // No new request, at once here and within a second there.
    rig.proxy.ping(&tokens.access).await.expect(401);
    while rig.proxy.ping_at(replica.address(), &tokens.access).await.status != 401 {
        assert!(began.elapsed() < Duration::from_secs(3), "within a second, and some for a busy machine");
        sleep(Duration::from_millis(50)).await;
    }
    for at in [0, 2] {
        let cut = async {
            loop {
                match plain::next(&mut streams[at]).await {
                    Some(Ok(comment)) => assert!(comment.starts_with(b":"), "{comment:?}"),
                    ended => break ended,
                }
            }
        };
        let left = Duration::from_secs(30).saturating_sub(began.elapsed());
        let cut = timeout(left, cut).await.expect("within thirty seconds");
        assert!(cut.is_some_and(|frame| frame.is_err()), "cut, not ended");
    }
    // Those of another login go on.
    for at in [1, 3] {
        let still = timeout(Duration::from_millis(50), plain::next(&mut streams[at])).await;
        assert!(!matches!(still, Ok(None | Some(Err(_)))), "{still:?}");
    }
    drop(streams);
    rig.retire(replica);
    rig.verify().await;
}

// CO-10
#[tokio::test(flavor = "multi_thread")]
async fn ten_callbacks_at_two_processes_are_one_login() {
    for store in stores::all("ten_callbacks_at_two_processes_are_one_login").await {
        let rig = Rig::on(store, Setup::default()).await;
        let replica = rig.replica();
        for _ in 0..5 {
            let client_id = rig.proxy.register(&[CALLBACK]).await;
            let mut browser = rig.proxy.browser();
            let callback = browser.reach_callback(&rig.proxy.authorize_url(&client_id, CALLBACK, &[])).await;
            let asked = turns(&rig, replica.address(), 10).map(|at| {
                let mut copy = Browser::new(at);
                copy.cookies = browser.cookies.clone();
                let callback = callback.clone();
                async move { copy.get(&callback).await }
            });
            let answers = all(asked).await;
            let codes: Vec<_> =
                answers.iter().filter_map(|answer| param(answer.header("location"), "code")).collect();
            assert_eq!(codes.len(), 1, "{answers:?}");
            rig.proxy.redeem(&client_id, &codes[0]).await.expect(200);
        }
        rig.retire(replica);
        rig.verify().await;
    }
}

// TK-15, TK-16, TK-18: tokens where none belongs and in every shape, in bytes; none of it is written down.
#[tokio::test(flavor = "multi_thread")]
async fn misplaced_and_misshapen_tokens_are_refused_in_no_time() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    let token = tokens.access.as_bytes();
    let heard = rig.proxy.mcp.heard().len();
    let with = |line: &str, headers: &[&[u8]], body: &str| {
        let mut request =
            format!("{line}\r\nHost: p.test\r\nContent-Length: {}\r\n", body.len()).into_bytes();
        for header in headers {
            request.extend_from_slice(header);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body.as_bytes());
        request
    };
    let post = "POST /mcp HTTP/1.1";
    let query = format!("POST /mcp?access_token={} HTTP/1.1", tokens.access);
    let body = format!("access_token={}", tokens.access);
    let bearer = |token: &[u8]| [b"Authorization: Bearer ", token].concat();
    let good = bearer(token);
    let form = b"Content-Type: application/x-www-form-urlencoded".as_slice();
    let changed = |at: usize, byte: u8| {
        let mut token = token.to_vec();
        token[at] = byte;
        bearer(&token)
    };
    let huge = bearer(&[b'x'; 64 << 10]);
    rig.canary("a huge token", &"x".repeat(200));
    for (request, statuses) in [
        (with(&query, &[], ""), &[401][..]),
        (with(post, &[form], &body), &[401]),
        (with(post, &[&[b"Cookie: access_token=", token].concat()], ""), &[401]),
        (with(post, &[&[b"X-Access-Token: ", token].concat()], ""), &[401]),
        (with(post, &[&[b"Proxy-Authorization: Bearer ", token].concat()], ""), &[401]),
        (with(post, &[&[b"Authorization: ", token].concat()], ""), &[401]),
        (with(post, &[&[b"Authorization: Token ", token].concat()], ""), &[401]),
        (with(post, &[&[b"Authorization: Bearer\t", token].concat()], ""), &[401]),
        (with(post, &[&[b"Authorization: Bearer ", token, b",Bearer ", token].concat()], ""), &[401]),
        (with(post, &[&good, &good], ""), &[400]),
        (with(post, &[&good, b"authorization: Basic YTpi"], ""), &[400]),
        (with(post, &[b"Authorization: Basic YTpi", &good], ""), &[400]),
        (with(post, &[b"Authorization:", &good], ""), &[400]),
        (with(post, &[&changed(20, 0)], ""), &[400]),
        (with(post, &[&changed(20, b'\r')], ""), &[400]),
        (with(post, &[&changed(20, b'\n')], ""), &[400]),
        (with(post, &[&changed(20, 0x80)], ""), &[400, 401]),
        (with(post, &[&changed(20, 0xff)], ""), &[400, 401]),
        (with(post, &[&changed(20, b'=')], ""), &[401]),
        (with(post, &[&huge], ""), &[431]),
        (with(post, &[&bearer(&[0xff; 200])], ""), &[400, 401]),
        (with("POST /token HTTP/1.1", &[&good, form], "grant_type=refresh_token&client_id=x"), &[401]),
        (with("POST /token HTTP/1.1", &[&good, &good, form], "grant_type=refresh_token&client_id=x"), &[401]),
    ] {
        let shown = String::from_utf8_lossy(&request[..request.len().min(160)]).into_owned();
        let mut quickest = Duration::MAX;
        for _ in 0..10 {
            let began = Instant::now();
            let answer = raw::say(rig.proxy.address(), &request).await;
            quickest = quickest.min(began.elapsed());
            assert!(statuses.contains(&raw::status(&answer)), "{shown}: {answer}");
            assert!(!answer.contains(&tokens.access) && !answer.contains("xxxxx"), "{shown}: {answer}");
        }
        assert!(quickest < Duration::from_millis(10), "{shown}: {quickest:?}");
    }
    assert_eq!(rig.proxy.mcp.heard().len(), heard, "nothing went on");
    for scheme in ["Bearer", "bearer", "BEARER", "Bearer "] {
        let request = with(post, &[format!("Authorization: {scheme} {} ", tokens.access).as_bytes()], "");
        assert_eq!(raw::status(&raw::say(rig.proxy.address(), &request).await), 200, "{scheme}");
    }
    rig.verify().await;
}

// TK-06, CD-01: what a thief did is written down, with whose login it ended.
#[tokio::test(flavor = "multi_thread")]
async fn theft_is_written_down() {
    let mut rig = Rig::start().await;
    let (client_id, code) = rig.proxy.code(&[]).await;
    rig.proxy.redeem(&client_id, &code).await.expect(200);
    rig.proxy.redeem(&client_id, &code).await.expect(400);
    let first = rig.login().await;
    let second = rig.proxy.refresh(&first.client_id, &first.refresh).await.expect(200).json();
    let second = Tokens::read(first.client_id.clone(), second);
    rig.proxy.refresh(&second.client_id, &second.refresh).await.expect(200);
    rig.proxy.refresh(&first.client_id, &first.refresh).await.expect(400);
    let mut request = rig.proxy.request(Method::POST, "/revoke");
    request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let pairs = [("token", second.access.as_str()), ("client_id", &second.client_id)];
    rig.proxy.send(request.body(form(&pairs)).expect("a request")).await.expect(200);
    let said = async {
        loop {
            let log = rig.program.said();
            let told = |words: &str| {
                log.lines().any(|line| {
                    line.contains(words) && line.contains("WARN") && line.contains("person=583231")
                })
            };
            if told("code replayed") && told("refresh reused") {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(10), said).await.expect("both are in the log");
    rig.verify().await;
}
