//! GitHub's tokens behind ours: refreshed once, kept through trouble, given up only when GitHub says so.

mod support;

use std::time::Duration;

use bytes::Bytes;
use mcp_auth_proxy::clock::ManualClock;
use support::github::{Endpoint, Fault, State, TokenKind, User};
use support::http::Answer;
use support::proxy::{CALLBACK, PING, Proxy, Setup, Tokens, database};
use support::sabotage::Sabotage;
use support::upstream::{RESULT, json, whole};
use support::{TempDir, all};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIFETIME: Duration = Duration::from_secs(8 * 3_600);
const MINUTE: Duration = Duration::from_secs(60);
const EXPIRING: TokenKind = TokenKind::GitHubApp { lifetime: 8 * 3_600, refresh_lifetime: 15_897_600 };

fn app_tokens(dir: &TempDir) -> Setup {
    // Ours outlive GitHub's, so that only GitHub's need a refresh here.
    let extra = "tokens: {access: 30d}".to_owned();
    Setup { token_kind: EXPIRING, extra, ..Setup::on(dir) }
}

fn injected(proxy: &Proxy) -> String {
    proxy.mcp.last().header("x-github-token").to_owned()
}

#[track_caller]
fn is_unavailable(answer: Answer) {
    let answer = answer.expect(503);
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert!(!answer.header("retry-after").is_empty());
    assert!(!answer.headers.contains_key("www-authenticate"), "no login loop");
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

// GH-11, GH-16, AS-F9
#[tokio::test(flavor = "multi_thread")]
async fn fifty_parallel_calls_on_two_replicas_refresh_once() {
    let dir = TempDir::new();
    let proxy = Proxy::with(app_tokens(&dir)).await;
    let replica = proxy.replica();
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    let old = injected(&proxy);
    proxy.forward(LIFETIME);
    proxy.github.world().forward(LIFETIME.as_secs());
    let hold = proxy.github.world().hold(Endpoint::Refresh);
    let addresses = (0..50).map(|n| if n % 2 == 0 { proxy.address() } else { replica.address() });
    let calls = all(addresses.map(|at| proxy.ping_at(at, &tokens.access)));
    let release = async {
        proxy.github.called(Endpoint::Refresh, 1).await;
        // Long enough for the other replica to come to the same idea.
        tokio::time::sleep(Duration::from_millis(200)).await;
        hold.release();
    };
    let (answers, ()) = soon(async { tokio::join!(calls, release) }).await;
    for answer in answers {
        answer.expect(200);
    }
    assert_eq!(proxy.github.world().count(Endpoint::Refresh), 1);
    let new = injected(&proxy);
    assert_ne!(new, old);
    assert!(proxy.github.world().is_live(&new));
    assert!(proxy.mcp.heard().iter().skip(1).all(|heard| heard.header("x-github-token") == new));
}

// GH-12
#[tokio::test(flavor = "multi_thread")]
async fn the_new_pair_is_stored_before_it_is_used_and_refreshes_again() {
    let dir = TempDir::new();
    let mut proxy = Proxy::with(app_tokens(&dir)).await;
    let tokens = proxy.login().await;
    for round in 1..=3 {
        proxy.forward(LIFETIME - MINUTE);
        proxy.github.world().forward((LIFETIME - MINUTE).as_secs());
        proxy.ping(&tokens.access).await.expect(200);
        let new = injected(&proxy);
        assert_eq!(proxy.github.world().count(Endpoint::Refresh), round, "a minute before the end");
        proxy.restart().await;
        proxy.ping(&tokens.access).await.expect(200);
        assert_eq!((injected(&proxy), proxy.github.world().count(Endpoint::Refresh)), (new, round));
    }
}

// GH-13
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_during_a_refresh_does_not_lose_it() {
    let dir = TempDir::new();
    let proxy = Proxy::with(app_tokens(&dir)).await;
    let tokens = proxy.login().await;
    proxy.forward(LIFETIME);
    proxy.github.world().forward(LIFETIME.as_secs());
    let hold = proxy.github.world().hold(Endpoint::Refresh);
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nContent-Length: 2\r\n\r\n{{}}",
        tokens.access
    );
    client.write_all(request.as_bytes()).await.unwrap();
    soon(proxy.github.called(Endpoint::Refresh, 1)).await;
    drop(client);
    hold.release();
    soon(proxy.ping(&tokens.access)).await.expect(200);
    assert_eq!(proxy.github.world().count(Endpoint::Refresh), 1);
    assert!(proxy.github.world().is_live(&injected(&proxy)));
}

// AS-F9, ST-02: the store fails between GitHub's answer and the write of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_pair_that_could_not_be_stored_is_not_lost() {
    let dir = TempDir::new();
    let proxy = Proxy::with(app_tokens(&dir)).await;
    let tokens = proxy.login().await;
    proxy.forward(LIFETIME);
    proxy.github.world().forward(LIFETIME.as_secs());
    let hold = proxy.github.world().hold(Endpoint::Refresh);
    let break_store = async {
        proxy.github.called(Endpoint::Refresh, 1).await;
        let sabotage = Sabotage::of(&database(&dir));
        hold.release();
        sabotage
    };
    let (answer, sabotage) = soon(async { tokio::join!(proxy.ping(&tokens.access), break_store) }).await;
    is_unavailable(answer);
    drop(sabotage);
    // The claim of the refresh could not be given back either; it ends by itself.
    proxy.forward(Duration::from_secs(15));
    soon(proxy.ping(&tokens.access)).await.expect(200);
    assert_eq!(proxy.github.world().count(Endpoint::Refresh), 1, "the old refresh token is not tried again");
    assert!(proxy.github.world().is_live(&injected(&proxy)));
}

// AS-F9: a check notes its result in the record while another process refreshes.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_changed_during_a_refresh_still_gets_the_new_pair() {
    let dir = TempDir::new();
    let proxy = Proxy::with(app_tokens(&dir)).await;
    let tokens = proxy.login().await;
    proxy.forward(LIFETIME);
    proxy.github.world().forward(LIFETIME.as_secs());
    let hold = proxy.github.world().hold(Endpoint::Refresh);
    let touch = async {
        proxy.github.called(Endpoint::Refresh, 1).await;
        let store = rusqlite::Connection::open(database(&dir)).unwrap();
        let sql = "UPDATE records SET version = version + 1 WHERE key LIKE 'credential/%'";
        assert_eq!(store.execute(sql, []), Ok(1));
        hold.release();
    };
    let (answer, ()) = soon(async { tokio::join!(proxy.ping(&tokens.access), touch) }).await;
    answer.expect(200);
    assert!(proxy.github.world().is_live(&injected(&proxy)));
    proxy.ping(&tokens.access).await.expect(200);
    assert_eq!(proxy.github.world().count(Endpoint::Refresh), 1);
}

// AS-F7
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_refresh_ends_the_grant_with_a_challenge_and_a_new_login_heals() {
    let dir = TempDir::new();
    let proxy = Proxy::with(app_tokens(&dir)).await;
    let (tokens, other) = (proxy.login().await, proxy.login().await);
    proxy.forward(LIFETIME);
    proxy.github.world().revoke_all("octocat");
    let answer = proxy.ping(&tokens.access).await.expect(401);
    assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
    proxy.ping(&other.access).await.expect(401);
    assert_eq!(proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(400).error(), "invalid_grant");
    assert_eq!(proxy.github.world().count(Endpoint::Refresh), 1, "final is final");
    let again = proxy.login().await;
    proxy.ping(&again.access).await.expect(200);
    proxy.ping(&tokens.access).await.expect(401);
}

fn worded(status: u16, body: &str) -> Fault {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Fault::Answer { status, headers, body: body.to_owned() }
}

// GH-14, GH-05
#[tokio::test(flavor = "multi_thread")]
async fn trouble_at_refresh_keeps_the_token() {
    for fault in [
        Fault::Status(500),
        Fault::BadGateway,
        Fault::RateLimited { status: 429, retry_after: Some(30), reset: None },
        Fault::RateLimited { status: 403, retry_after: None, reset: None },
        Fault::Dropped,
        Fault::Garbage,
        Fault::Huge(4 << 20),
        Fault::OAuthError("incorrect_client_credentials".to_owned()),
        Fault::Answer {
            status: 403,
            headers: vec![("content-type".to_owned(), "text/html".to_owned())],
            body: "<html>request blocked</html>".to_owned(),
        },
        // A status of trouble and an undocumented error judge no token, whatever their words.
        worded(503, r#"{"error":"service unavailable"}"#),
        worded(429, r#"{"error":"too_many_requests"}"#),
        worded(503, r#"{"error":"bad_refresh_token"}"#),
        Fault::OAuthError("something_new".to_owned()),
    ] {
        let dir = TempDir::new();
        let proxy = Proxy::with(app_tokens(&dir)).await;
        let tokens = proxy.login().await;
        proxy.ping(&tokens.access).await.expect(200);
        let old = injected(&proxy);
        proxy.github.world().fail(Endpoint::Refresh, fault.clone());
        // Thirty seconds before its end it is still good, and used.
        proxy.forward(LIFETIME - MINUTE / 2);
        let answer = proxy.ping(&tokens.access).await;
        assert_eq!(answer.status, 200, "{fault:?} {answer:?}");
        assert_eq!(injected(&proxy), old);
        proxy.forward(MINUTE);
        is_unavailable(proxy.ping(&tokens.access).await);
        proxy.github.world().heal();
        proxy.forward(MINUTE);
        proxy.ping(&tokens.access).await.expect(200);
        assert_ne!(injected(&proxy), old);
    }
}

// GH-15
#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_expiry_is_never_refreshed() {
    for token_kind in [TokenKind::OAuthApp, TokenKind::GitHubAppWithoutExpiry] {
        let extra = "tokens: {access: 170d, refresh_idle: 180d}".to_owned();
        let proxy = Proxy::with(Setup { token_kind, extra, ..Setup::default() }).await;
        let tokens = proxy.login().await;
        proxy.ping(&tokens.access).await.expect(200);
        let before = injected(&proxy);
        proxy.forward(LIFETIME * 300);
        proxy.ping(&tokens.access).await.expect(200);
        assert_eq!((injected(&proxy), proxy.github.world().count(Endpoint::Refresh)), (before, 0));
    }
}

// GH-15: expires_in as text and as nonsense, and an answer without a new refresh token.
#[tokio::test(flavor = "multi_thread")]
async fn odd_answers_to_a_refresh_are_understood() {
    for (body, expires) in [
        (r#"{"access_token":"ghu_odd","expires_in":"28800"}"#, true),
        (r#"{"access_token":"ghu_odd","expires_in":28800,"refresh_token":""}"#, true),
        (r#"{"access_token":"ghu_odd","expires_in":0}"#, false),
        (r#"{"access_token":"ghu_odd","expires_in":-1}"#, false),
        (r#"{"access_token":"ghu_odd","expires_in":"soon"}"#, false),
        (r#"{"access_token":"ghu_odd","expires_in":null}"#, false),
        (r#"{"access_token":"ghu_odd"}"#, false),
    ] {
        let dir = TempDir::new();
        let proxy = Proxy::with(app_tokens(&dir)).await;
        let tokens = proxy.login().await;
        let fault = Fault::Answer { status: 200, headers: Vec::new(), body: "{}".to_owned() };
        proxy.github.world().fail(Endpoint::CheckToken, fault);
        proxy.forward(LIFETIME);
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let fault = Fault::Answer { status: 200, headers, body: body.to_owned() };
        proxy.github.world().fail_times(Endpoint::Refresh, fault, 1);
        proxy.ping(&tokens.access).await.expect(200);
        assert_eq!(injected(&proxy), "ghu_odd", "{body}");
        proxy.forward(MINUTE);
        proxy.ping(&tokens.access).await.expect(200);
        assert_eq!(proxy.github.world().count(Endpoint::Refresh), 1, "{body}: not every minute");
        // With an end there is a second refresh, which the old refresh token is still good for; without one
        // there is none.
        proxy.forward(LIFETIME);
        proxy.ping(&tokens.access).await.expect(200);
        assert_eq!(proxy.github.world().count(Endpoint::Refresh), if expires { 2 } else { 1 }, "{body}");
        assert_eq!(proxy.github.world().is_live(&injected(&proxy)), expires, "{body}");
    }
}

// GH-12: GitHub took the refresh token, and its answer never came.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_whose_answer_was_lost_ends_in_a_clean_new_login() {
    let dir = TempDir::new();
    let proxy = Proxy::with(app_tokens(&dir)).await;
    let tokens = proxy.login().await;
    proxy.forward(LIFETIME);
    proxy.github.world().fail_times(Endpoint::Refresh, Fault::AnswerLost, 1);
    is_unavailable(proxy.ping(&tokens.access).await);
    let answer = proxy.ping(&tokens.access).await.expect(401);
    assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
    for _ in 0..3 {
        proxy.ping(&tokens.access).await.expect(401);
        proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(400);
    }
    assert_eq!(proxy.github.world().count(Endpoint::Refresh), 2, "what is dead is not tried again");
    let again = proxy.login().await;
    proxy.ping(&again.access).await.expect(200);
}

// GH-06
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_at_github_is_noticed_within_a_quarter_of_an_hour() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    proxy.github.world().revoke_all("octocat");
    proxy.forward(MINUTE * 14);
    proxy.ping(&tokens.access).await.expect(200);
    assert_eq!(proxy.github.world().count(Endpoint::CheckToken), 0);
    proxy.forward(MINUTE);
    // This one still passes, and starts the look; soon after it is over.
    proxy.ping(&tokens.access).await;
    soon(proxy.github.called(Endpoint::CheckToken, 1)).await;
    soon(async {
        while proxy.ping(&tokens.access).await.status != 401 {
            proxy.forward(Duration::from_secs(1));
        }
    })
    .await;
    assert_eq!(proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(400).error(), "invalid_grant");
    // What is left of the credential is an empty record that the next sweep takes away.
    let store = rusqlite::Connection::open(database(&dir)).unwrap();
    let sql = "SELECT count(*) FROM records WHERE key LIKE 'family/%' OR length(bytes) > 0 AND key LIKE 'credential/%'";
    assert_eq!(store.query_row(sql, [], |row| row.get(0)), Ok(0));
}

/// A limit of GitHub as its answer says it: status, headers, body.
fn limit(status: u16, headers: &[(&str, &str)], body: &str) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::Answer { status, headers, body: body.to_owned() }
}

// GH-05: primary and secondary limits in every wording, and how long they are obeyed.
#[tokio::test(flavor = "multi_thread")]
async fn github_is_left_alone_for_as_long_as_it_says() {
    let now = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    let used_up = ("x-ratelimit-remaining", "0");
    let (primary, secondary) =
        ("API rate limit exceeded for user ID 1.", "You have exceeded a secondary rate limit.");
    for (fault, seconds) in [
        (limit(429, &[("retry-after", "90")], ""), 90),
        (limit(403, &[("retry-after", "90"), used_up, ("x-ratelimit-reset", "784112977")], primary), 90),
        (limit(403, &[now, ("retry-after", "Sun, 06 Nov 1994 08:51:37 GMT")], secondary), 120),
        (limit(403, &[now, ("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT")], secondary), 1),
        (limit(429, &[("retry-after", "soon")], ""), 60),
        (limit(429, &[("retry-after", "-5")], ""), 60),
        (limit(429, &[("retry-after", "1e9")], ""), 60),
        (limit(429, &[("retry-after", "1000000000")], ""), 3_600),
        (limit(429, &[("retry-after", "99999999999999999999999")], ""), 60),
        (limit(429, &[("retry-after", "0")], ""), 1),
        (limit(403, &[now, used_up, ("x-ratelimit-reset", "784111877")], primary), 100),
        (limit(403, &[now, used_up, ("x-ratelimit-reset", "784111000")], primary), 1),
        (limit(403, &[now, used_up, ("x-ratelimit-reset", "1000000000")], primary), 3_600),
        (limit(403, &[used_up, ("x-ratelimit-reset", "never")], primary), 60),
        (limit(403, &[used_up], primary), 60),
        (limit(403, &[], secondary), 60),
        (limit(403, &[], r#"{"message":"You have triggered an abuse detection mechanism."}"#), 60),
        (limit(429, &[], ""), 60),
    ] {
        let proxy = Proxy::start().await;
        let mut tokens = proxy.login().await;
        proxy.github.world().fail(Endpoint::CheckToken, fault.clone());
        // GitHub hears nothing until the wait is over; whoever refreshes goes on with its last good answer, which
        // counts for an hour.
        for (after, calls) in [(0, 1), (0, 1), (seconds - 1, 1), (seconds, 2)] {
            let elapsed = proxy.clock.clock().now().since(ManualClock::new(42).clock().now());
            proxy.forward(Duration::from_secs(after) - elapsed);
            let answer = proxy.refresh(&tokens.client_id, &tokens.refresh).await;
            match after < 3_600 {
                true => tokens = Tokens::read(tokens.client_id.clone(), answer.expect(200).json()),
                false => is_unavailable(answer),
            }
            assert_eq!(proxy.github.world().count(Endpoint::CheckToken), calls, "{fault:?} after {after} s");
        }
    }
}

// GH-05: used all the time, and with nobody who refreshes.
#[tokio::test(flavor = "multi_thread")]
async fn github_in_trouble_is_not_hammered_and_costs_nobody_a_session() {
    let told = limit(403, &[("retry-after", "3600")], "");
    for (fault, most) in [(told, 1), (Fault::Status(403), 3), (Fault::Status(500), 3), (Fault::Dropped, 3)] {
        let proxy = Proxy::start().await;
        let tokens = proxy.login().await;
        proxy.github.world().fail(Endpoint::CheckToken, fault.clone());
        proxy.forward(MINUTE * 15);
        proxy.ping(&tokens.access).await.expect(200);
        soon(proxy.github.called(Endpoint::CheckToken, 1)).await;
        for _ in 0..60 {
            proxy.forward(Duration::from_secs(1));
            proxy.ping(&tokens.access).await.expect(200);
        }
        let asked = proxy.github.world().count(Endpoint::CheckToken);
        assert!(asked <= most, "{fault:?}: {asked} times in a minute");
    }
}

// GH-05: a person's limit is theirs alone, the app's is everybody's.
#[tokio::test(flavor = "multi_thread")]
async fn one_persons_limit_is_nobody_elses() {
    for (endpoint, shared) in [(Endpoint::OrgMembership, false), (Endpoint::CheckToken, true)] {
        let proxy = Proxy::with(Setup { allow: "{orgs: [acme]}", ..Setup::default() }).await;
        proxy.github.world().add_user(User::octocat().in_org("acme", State::Active));
        proxy.github.world().add_user(User::new(7, "bob").in_org("acme", State::Active));
        let ann = proxy.login().await;
        proxy.github.world().sign_in("bob");
        let bob = proxy.login().await;
        proxy.github.world().clear_calls();
        proxy.github.world().fail_times(endpoint, limit(429, &[("retry-after", "600")], ""), 1);
        let mut ann = ann;
        for _ in 0..3 {
            proxy.forward(MINUTE);
            let next = proxy.refresh(&ann.client_id, &ann.refresh).await.expect(200).json();
            ann = Tokens::read(ann.client_id.clone(), next);
            assert_eq!(proxy.github.world().count(endpoint), 1, "{endpoint:?}: asked once and then no more");
        }
        proxy.refresh(&bob.client_id, &bob.refresh).await.expect(200);
        let asked = proxy.github.world().count(endpoint);
        assert_eq!(asked, if shared { 1 } else { 2 }, "{endpoint:?}");
        // Two hours later everybody is asked again, and nobody has lost anything.
        proxy.forward(MINUTE * 120);
        for tokens in [&ann, &bob] {
            proxy.ping(&tokens.access).await.expect(200);
        }
        assert_eq!(proxy.github.world().count(endpoint), asked + 2, "{endpoint:?}");
    }
}

// GH-06
#[tokio::test(flavor = "multi_thread")]
async fn a_spurious_401_of_the_upstream_ends_nothing_and_a_true_one_does() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let refuse = || {
        proxy.mcp.say(|_| {
            let mut response = whole("application/json", "{}");
            *response.status_mut() = http::StatusCode::UNAUTHORIZED;
            response
        });
    };
    proxy.forward(MINUTE);
    refuse();
    proxy.ping(&tokens.access).await.expect(502);
    soon(proxy.github.called(Endpoint::CheckToken, 1)).await;
    proxy.mcp.say(|_| json(RESULT));
    for _ in 0..3 {
        proxy.forward(Duration::from_secs(2));
        proxy.ping(&tokens.access).await.expect(200);
    }
    proxy.github.world().revoke_all("octocat");
    proxy.forward(MINUTE);
    refuse();
    proxy.ping(&tokens.access).await.expect(502);
    soon(proxy.github.called(Endpoint::CheckToken, 2)).await;
    soon(async {
        while proxy.ping(&tokens.access).await.status != 401 {
            proxy.forward(Duration::from_secs(1));
        }
    })
    .await;
}

// GH-09
#[tokio::test(flavor = "multi_thread")]
async fn eleven_logins_of_one_person_all_go_on_working() {
    let proxy = Proxy::start().await;
    let mut clients: Vec<Tokens> = Vec::new();
    for _ in 0..11 {
        clients.push(proxy.login().await);
    }
    proxy.forward(MINUTE * 16);
    for tokens in &clients {
        proxy.ping(&tokens.access).await.expect(200);
        assert!(proxy.github.world().is_live(&injected(&proxy)));
        proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_never_share_a_token() {
    let proxy = Proxy::start().await;
    let ann = proxy.login().await;
    proxy.github.world().add_user(User::new(7, "bob"));
    proxy.github.world().sign_in("bob");
    let bob = proxy.login().await;
    for (tokens, login) in [(&ann, "octocat"), (&bob, "bob"), (&ann, "octocat")] {
        proxy.ping(&tokens.access).await.expect(200);
        assert_eq!(proxy.github.world().live_tokens(login), [injected(&proxy)]);
    }
}

// GH-18
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_any_length_and_alphabet_are_injected_unchanged() {
    for length in [40, 255, 520, 4_000] {
        let proxy = Proxy::start().await;
        let token = format!("ghs_{}", "aZ0_.-~+/=".repeat(length))[..length].to_owned();
        let body = format!(r#"{{"access_token":"{token}","scope":"read:user","token_type":"bearer"}}"#);
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let user = r#"{"id":583231,"login":"octocat"}"#.to_owned();
        proxy
            .github
            .world()
            .fail(Endpoint::Exchange, Fault::Answer { status: 200, headers: headers.clone(), body });
        proxy.github.world().fail(Endpoint::User, Fault::Answer { status: 200, headers, body: user });
        let tokens = proxy.login().await;
        let request = proxy.call("/mcp", &tokens.access).body(Bytes::from_static(PING)).unwrap();
        proxy.send(request).await.expect(200);
        assert_eq!(injected(&proxy), token);
    }
}

// GH-19
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_of_github_takes_token_and_secret_nowhere() {
    let elsewhere = support::upstream::Mcp::start().await;
    for status in [301, 302, 303, 307, 308] {
        let dir = TempDir::new();
        let proxy = Proxy::with(Setup { allow: "{orgs: [acme]}", ..app_tokens(&dir) }).await;
        proxy.github.world().add_user(User::octocat().in_org("acme", State::Active));
        let tokens = proxy.login().await;
        let moved = limit(status, &[("location", &format!("{}/user", elsewhere.origin()))], "");
        let client_id = proxy.register(&[CALLBACK]).await;
        let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
        for endpoint in [Endpoint::Exchange, Endpoint::User, Endpoint::OrgMembership] {
            proxy.github.world().fail(endpoint, moved.clone());
            let back = proxy.browser().approve(&url).await;
            assert!(back.contains("error=") && !back.contains("code="), "{status} {endpoint:?}: {back}");
            proxy.github.world().heal();
        }
        for endpoint in [Endpoint::CheckToken, Endpoint::Orgs, Endpoint::Refresh, Endpoint::DeleteToken] {
            proxy.github.world().fail(endpoint, moved.clone());
        }
        // Checked, refreshed and deleted in this way: the login goes on or waits, and nothing follows.
        proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
        proxy.forward(LIFETIME);
        is_unavailable(proxy.ping(&tokens.access).await);
        let pairs = [("token", tokens.access.as_str()), ("client_id", &tokens.client_id)];
        proxy.post_form("/revoke", &pairs).await.expect(200);
        soon(proxy.github.called(Endpoint::DeleteToken, 1)).await;
    }
    assert!(elsewhere.heard().is_empty());
}

const EMAIL: &str = r#"[{path: /mcp, upstream: "MCP/mcp", github_scopes: [read:user, user:email], inject: {X-Email: "{github_email}"}},
    {path: /two, upstream: "MCP/mcp", github_scopes: [read:user, user:email], inject: {X-Token: "{github_token}"}}]"#;

// GH-10
#[tokio::test(flavor = "multi_thread")]
async fn only_a_primary_and_verified_address_is_injected() {
    for (address, primary, verified, expected) in [
        ("ann@example.com", true, true, "ann@example.com"),
        ("Ann.B@Example.COM", true, true, "Ann.B@Example.COM"),
        ("ann@example.com", true, false, ""),
        ("ann@example.com", false, true, ""),
        ("ann@evil.test@example.com", true, true, ""),
        ("ann.example.com", true, true, ""),
        ("ann@ex\u{e4}mple.com", true, true, ""),
        ("ann@example.com\r\nX-Id: 1", true, true, ""),
        ("", true, true, ""),
    ] {
        let proxy = Proxy::with(Setup { resources: EMAIL, ..Setup::default() }).await;
        proxy.github.world().edit_user("octocat", |user| {
            user.emails.clear();
            *user = user.clone().with_email("7+octocat@users.noreply.github.com", false, true);
            *user = user.clone().with_email(address, primary, verified);
        });
        let tokens = proxy.login().await;
        let request = proxy.call("/mcp", &tokens.access).header("x-email", "evil@example.com");
        proxy.send(request.body(Bytes::from_static(PING)).unwrap()).await.expect(200);
        assert_eq!(proxy.mcp.last().header("x-email"), expected, "{address} {primary} {verified}");
    }
}

// GH-10: an address that changes, goes and comes back.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_today_is_injected_within_a_quarter_of_an_hour() {
    let proxy = Proxy::with(Setup { resources: EMAIL, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    for address in [Some("new@example.com"), None, Some("back@example.com")] {
        proxy.github.world().edit_user("octocat", |user| {
            user.emails.clear();
            if let Some(address) = address {
                *user = user.clone().with_email(address, true, true);
            }
        });
        proxy.forward(MINUTE * 15);
        soon(async {
            loop {
                proxy.ping(&tokens.access).await.expect(200);
                if proxy.mcp.last().header("x-email") == address.unwrap_or_default() {
                    break;
                }
                proxy.forward(Duration::from_secs(1));
            }
        })
        .await;
    }
}

// GH-10: one credential serves both resources, and both logins know what it is for.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_for_another_resource_does_not_take_the_address_away() {
    let proxy = Proxy::with(Setup { resources: EMAIL, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    proxy.login_for(&[("resource", "https://p.test/two")]).await;
    proxy.forward(Duration::from_secs(2));
    proxy.ping(&tokens.access).await.expect(200);
    assert_eq!(proxy.mcp.last().header("x-email"), "octocat@example.com");
}

// GH-11: everyone who waited hears what came of the one call.
#[tokio::test(flavor = "multi_thread")]
async fn a_github_that_is_down_is_asked_once_by_all_who_wait() {
    let dir = TempDir::new();
    let proxy = Proxy::with(app_tokens(&dir)).await;
    let tokens = proxy.login().await;
    proxy.github.world().fail(Endpoint::Refresh, Fault::Status(502));
    let held = proxy.github.world().hold(Endpoint::Refresh);
    proxy.forward(LIFETIME + MINUTE);
    let calls = all((0..10).map(|_| proxy.ping(&tokens.access)));
    let release = async {
        proxy.github.called(Endpoint::Refresh, 1).await;
        held.release();
    };
    let (answers, ()) = tokio::join!(calls, release);
    answers.into_iter().for_each(is_unavailable);
    let asked = proxy.github.world().count(Endpoint::Refresh);
    assert!(asked < 10, "{asked} calls to a GitHub that is down");
}
