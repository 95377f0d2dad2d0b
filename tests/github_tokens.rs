//! GitHub's tokens behind ours: refreshed once, kept through trouble, given up only when GitHub says so.

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::github::{Endpoint, Fault, TokenKind, User};
use support::http::Answer;
use support::proxy::{PING, Proxy, Setup, Tokens, database};
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

// GH-15: expires_in as text, and an answer without a new refresh token.
#[tokio::test(flavor = "multi_thread")]
async fn odd_answers_to_a_refresh_are_understood() {
    let dir = TempDir::new();
    let proxy = Proxy::with(app_tokens(&dir)).await;
    let tokens = proxy.login().await;
    let fault = Fault::Answer { status: 200, headers: Vec::new(), body: "{}".to_owned() };
    proxy.github.world().fail(Endpoint::CheckToken, fault);
    proxy.forward(LIFETIME);
    for body in [
        r#"{"access_token":"ghu_text","expires_in":"28800"}"#,
        r#"{"access_token":"ghu_zero","expires_in":0}"#,
    ] {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let fault = Fault::Answer { status: 200, headers, body: body.to_owned() };
        proxy.github.world().fail_times(Endpoint::Refresh, fault, 1);
        proxy.ping(&tokens.access).await.expect(200);
        assert!(body.contains(&injected(&proxy)));
        let calls = proxy.github.world().count(Endpoint::Refresh);
        proxy.forward(MINUTE);
        proxy.ping(&tokens.access).await.expect(200);
        assert_eq!(proxy.github.world().count(Endpoint::Refresh), calls, "{body}: not every minute");
        proxy.forward(LIFETIME);
    }
}

// GH-06
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_at_github_is_noticed_within_a_quarter_of_an_hour() {
    let proxy = Proxy::start().await;
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
}

// GH-05
#[tokio::test(flavor = "multi_thread")]
async fn github_in_trouble_is_not_hammered_and_costs_nobody_a_session() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let limited = Fault::RateLimited { status: 403, retry_after: Some(3_600), reset: None };
    proxy.github.world().fail(Endpoint::CheckToken, limited);
    proxy.forward(MINUTE * 15);
    proxy.ping(&tokens.access).await.expect(200);
    soon(proxy.github.called(Endpoint::CheckToken, 1)).await;
    for _ in 0..58 {
        proxy.forward(Duration::from_secs(1));
        proxy.ping(&tokens.access).await.expect(200);
    }
    assert!(proxy.github.world().count(Endpoint::CheckToken) <= 3, "at most every half minute");
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
async fn a_redirect_of_the_api_takes_the_token_nowhere() {
    let elsewhere = support::upstream::Mcp::start().await;
    let proxy = Proxy::start().await;
    let headers = vec![("location".to_owned(), format!("{}/user", elsewhere.origin()))];
    let fault = Fault::Answer { status: 302, headers, body: String::new() };
    proxy.github.world().fail(Endpoint::User, fault);
    let client_id = proxy.register(&[support::proxy::CALLBACK]).await;
    let url = proxy.authorize_url(&client_id, support::proxy::CALLBACK, &[]);
    let back = proxy.browser().approve(&url).await;
    assert!(back.contains("error=") && !back.contains("code="), "{back}");
    assert!(elsewhere.heard().is_empty());
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
