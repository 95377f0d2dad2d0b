//! GitHub in trouble, limits and revocations, as seen by whole processes.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::Rig;
use crate::support::github::{Endpoint, Fault, TokenKind};
use crate::support::proxy::{CALLBACK, Setup, param};
use crate::support::upstream::{Body, RESULT, events, json};
use crate::support::{all, stores};

/// Tokens that must be refreshed before their first use.
const ENDING: TokenKind = TokenKind::GitHubApp { lifetime: 60, refresh_lifetime: 15_897_600 };
/// Tokens that last.
const LASTING: TokenKind = TokenKind::GitHubApp { lifetime: 28_800, refresh_lifetime: 15_897_600 };

/// An answer after which the upstream keeps no connection: what a case opens is closed when it is over.
fn once() -> http::Response<Body> {
    let mut response = json(RESULT);
    response.headers_mut().insert("connection", HeaderValue::from_static("close"));
    response
}

// GH-11, GH-16
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_calls_at_two_processes_refresh_once() {
    for store in stores::all("a_hundred_calls_at_two_processes_refresh_once").await {
        let mut rig = Rig::on(store, Setup { token_kind: ENDING, ..Setup::default() }).await;
        let replica = rig.replica();
        let tokens = rig.login().await;
        rig.proxy.github.world().options.token_kind = LASTING;
        rig.proxy.github.world().clear_calls();
        rig.proxy.mcp.say(|_| once());
        let heard = rig.proxy.mcp.heard().len();
        let addresses = [rig.proxy.address(), replica.address()];
        let calls = (0..100).map(|call| rig.proxy.ping_at(addresses[call % 2], &tokens.access));
        for answer in all(calls).await {
            answer.expect(200);
        }
        assert_eq!(rig.proxy.github.world().count(Endpoint::Refresh), 1);
        let token = rig.proxy.mcp.last().header("x-github-token").to_owned();
        assert!(rig.proxy.github.world().is_live(&token));
        let all_alike =
            rig.proxy.mcp.heard()[heard..].iter().all(|heard| heard.header("x-github-token") == token);
        assert!(all_alike, "everybody got the new one");
        rig.retire(replica);
        rig.verify().await;
    }
}

// GH-12
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_githubs_answer_and_our_write_ends_in_a_clean_new_login() {
    for store in stores::all("a_kill_between_githubs_answer_and_our_write_ends_in_a_clean_new_login").await {
        let mut rig = Rig::on(store, Setup { token_kind: ENDING, ..Setup::default() }).await;
        rig.expect_statuses(&[503]);
        let tokens = rig.login().await;
        rig.proxy.github.world().options.token_kind = LASTING;
        rig.proxy.github.world().clear_calls();
        // GitHub has taken the old pair and its answer is on the way, byte by byte.
        rig.proxy.github.world().fail_times(Endpoint::Refresh, Fault::Dribble(Duration::from_millis(100)), 1);
        let request = rig.proxy.call("/mcp", &tokens.access).body(Bytes::new()).expect("a request");
        let cut = tokio::spawn(crate::support::http::try_send(rig.proxy.address(), request));
        timeout(Duration::from_secs(20), rig.proxy.github.called(Endpoint::Refresh, 1)).await.expect("asked");
        sleep_until_dead(&rig).await;
        rig.kill_and_start_again();
        assert!(cut.await.expect("ends").is_none());
        // The claim of the killed process ends by itself; then it is over, with a challenge and not with an outage.
        let began = Instant::now();
        loop {
            let answer = rig.proxy.ping(&tokens.access).await;
            if answer.status == 401 {
                assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
                break;
            }
            answer.expect(503);
            assert!(began.elapsed() < Duration::from_secs(45), "the claim ends");
            sleep(Duration::from_millis(200)).await;
        }
        for _ in 0..3 {
            rig.proxy.ping(&tokens.access).await.expect(401);
        }
        assert_eq!(
            rig.proxy.github.world().count(Endpoint::Refresh),
            1,
            "what may be spent is not shown again"
        );
        let again = rig.login().await;
        rig.proxy.ping(&again.access).await.expect(200);
        rig.verify().await;
    }
}

/// Until GitHub has carried the refresh out.
async fn sleep_until_dead(rig: &Rig) {
    let carried_out = async {
        // The one of the rig's own first login lives on.
        while rig.proxy.github.world().live_tokens("octocat").len() > 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(1), carried_out).await.ok();
}

// GH-02: whoever runs this is told what only they can mend.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_client_secret_alarms_the_operator() {
    let rig = Rig::start().await;
    rig.proxy
        .github
        .world()
        .fail(Endpoint::Exchange, Fault::OAuthError("incorrect_client_credentials".into()));
    let client_id = rig.proxy.register(&[CALLBACK]).await;
    let back = rig.proxy.browser().approve(&rig.proxy.authorize_url(&client_id, CALLBACK, &[])).await;
    assert_eq!(param(&back, "error").as_deref(), Some("server_error"));
    let alarmed = async {
        let is_alarm = |line: &str| line.contains("ERROR") && line.contains("client_secret");
        while !rig.program.said().lines().any(is_alarm) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(10), alarmed).await.expect("an error line");
    rig.verify().await;
}

// GH-01, GH-07, GH-14: GitHub is gone, with all its connections.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_github_logs_nobody_out() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    rig.proxy.ping(&tokens.access).await.expect(200);
    rig.proxy.mcp.say(|_| once());
    let github = rig.proxy.github.clone();
    for fault in [Fault::Dropped, Fault::BadGateway, Fault::Garbage, Fault::Status(500)] {
        for endpoint in
            Endpoint::ALL.into_iter().filter(|at| !matches!(at, Endpoint::Authorize | Endpoint::SignIn))
        {
            github.world().fail(endpoint, fault.clone());
        }
        let calls = all((0..20).map(|_| rig.proxy.ping(&tokens.access))).await;
        calls.into_iter().for_each(|answer| drop(answer.expect(200)));
        let next = rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
        rig.proxy.ping(next["access_token"].as_str().expect("a token")).await.expect(200);
        let client_id = rig.proxy.register(&[CALLBACK]).await;
        let back = rig.proxy.browser().approve(&rig.proxy.authorize_url(&client_id, CALLBACK, &[])).await;
        assert_eq!(param(&back, "error").as_deref(), Some("temporarily_unavailable"), "{fault:?}");
        github.world().heal();
    }
    rig.verify().await;
}

// GT-26: an upstream that gives the token away in every way it has; in bodies it may, in what we write down it
// does not come.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_shouts_the_token_does_not_make_us_repeat_it() {
    let mut rig = Rig::start().await;
    rig.expect_statuses(&[500, 502]);
    let tokens = rig.login().await;
    for way in ["header", "error", "event", "location", "refusal", "redirect"] {
        rig.proxy.mcp.say(move |heard| {
            let token = heard.header("x-github-token").to_owned();
            let value = |text: String| HeaderValue::from_str(&text).expect("a value");
            let mut response = match way {
                "event" => {
                    let (response, feed) = events();
                    let _ = feed.send(Ok(Bytes::from(format!("data: {token}\n\nid: {token}\n\n"))));
                    response
                }
                "error" | "refusal" => {
                    json(&format!("{{\"error\":{{\"code\":1,\"message\":\"bad token {token}\"}}}}"))
                }
                _ => json(RESULT),
            };
            match way {
                "header" => {
                    for name in ["x-echo", "etag", "content-location", "mcp-session-id", "link"] {
                        response.headers_mut().insert(name, value(format!("\"{token}\"")));
                    }
                }
                "error" => *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR,
                "refusal" => *response.status_mut() = http::StatusCode::UNAUTHORIZED,
                "redirect" => {
                    *response.status_mut() = http::StatusCode::FOUND;
                    response.headers_mut().insert("location", value(format!("http://10.0.0.1/?t={token}")));
                }
                "location" => {
                    *response.status_mut() = http::StatusCode::CREATED;
                    response.headers_mut().insert("location", value(format!("/things/{token}")));
                }
                _ => {}
            }
            response
        });
        let answer = rig.proxy.ping(&tokens.access).await;
        let token = rig.proxy.mcp.last().header("x-github-token").to_owned();
        rig.canary("the GitHub token", &token);
        let headers = format!("{:?}", answer.headers).to_ascii_lowercase();
        assert!(!headers.contains(&token.to_ascii_lowercase()), "{way}: {headers}");
        // The body is the upstream's own: it passes as it is, except where the answer is ours.
        let said = answer.text().contains(&token);
        assert_eq!(said, ["error", "event"].contains(&way), "{way}: {}", answer.text());
    }
    rig.verify().await;
}
