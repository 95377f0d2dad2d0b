//! The refresh grant: rotation, grace, reuse, limits, and what GitHub and the allow-list say meanwhile.
//! RFC 6749 §6; RFC 9700 §4.14.2.

mod support;

use std::time::Duration;

use support::github::{Endpoint, Fault, State, User};
use support::http::Answer;
use support::proxy::{CALLBACK, Proxy, Setup, Tokens, database};
use support::sabotage::Sabotage;
use support::{TempDir, all};

const GRACE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

async fn next(proxy: &Proxy, tokens: &Tokens) -> Tokens {
    let answer = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
    Tokens::read(tokens.client_id.clone(), answer.json())
}

async fn with(proxy: &Proxy, tokens: &Tokens, more: &[(&str, &str)]) -> Answer {
    let mut pairs = vec![("grant_type", "refresh_token"), ("refresh_token", tokens.refresh.as_str())];
    pairs.push(("client_id", &tokens.client_id));
    for (name, value) in more {
        pairs.retain(|(known, _)| known != name);
        pairs.push((name, value));
    }
    proxy.post_form("/token", &pairs).await
}

#[track_caller]
fn is_refused(answer: Answer) {
    assert_eq!(answer.expect(400).error(), "invalid_grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_use_rotates_and_the_answer_is_complete() {
    let proxy = Proxy::start().await;
    let first = proxy.login().await;
    let answer = proxy.refresh(&first.client_id, &first.refresh).await.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    let second = Tokens::read(first.client_id.clone(), answer.json());
    assert_ne!(first.refresh, second.refresh);
    assert_ne!(first.access, second.access);
    assert_eq!(second.answer["token_type"], "Bearer");
    assert_eq!(second.answer["scope"], "mcp");
    assert_eq!(second.answer["expires_in"], 8 * 3_600);
    proxy.ping(&second.access).await.expect(200);
    let third = next(&proxy, &second).await;
    proxy.ping(&third.access).await.expect(200);
}

// TK-08
#[tokio::test(flavor = "multi_thread")]
async fn within_the_grace_window_every_presenter_gets_the_same_successor() {
    let proxy = Proxy::start().await;
    let first = proxy.login().await;
    let second = next(&proxy, &first).await;
    for _ in 0..3 {
        proxy.forward(Duration::from_secs(20));
        let again = next(&proxy, &first).await;
        assert_eq!((&again.access, &again.refresh), (&second.access, &second.refresh));
    }
    // The answer is truthful about what is left of it.
    let again = next(&proxy, &first).await;
    assert_eq!(again.answer["expires_in"], 8 * 3_600 - 60);
    proxy.ping(&again.access).await.expect(200);
    next(&proxy, &again).await;
}

// TK-07
#[tokio::test(flavor = "multi_thread")]
async fn seven_parallel_refreshes_get_the_same_pair() {
    let dir = TempDir::new();
    for setup in [Setup::default(), Setup::on(&dir)] {
        let proxy = Proxy::with(setup).await;
        let first = proxy.login().await;
        let pairs = all((0..7).map(|_| next(&proxy, &first))).await;
        for pair in &pairs {
            assert_eq!((&pair.access, &pair.refresh), (&pairs[0].access, &pairs[0].refresh));
        }
        proxy.ping(&pairs[6].access).await.expect(200);
        next(&proxy, &pairs[3]).await;
    }
}

// TK-06, TK-10
#[tokio::test(flavor = "multi_thread")]
async fn late_reuse_revokes_the_family() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let replica = proxy.replica();
    let (first, bystander) = (proxy.login().await, proxy.login().await);
    let second = next(&proxy, &first).await;
    proxy.ping_at(replica.address(), &second.access).await.expect(200);
    proxy.forward(GRACE + Duration::from_millis(1));
    is_refused(proxy.refresh(&first.client_id, &first.refresh).await);
    for token in [&first.access, &second.access] {
        proxy.ping(token).await.expect(401);
        proxy.ping_at(replica.address(), token).await.expect(401);
    }
    is_refused(proxy.refresh(&second.client_id, &second.refresh).await);
    proxy.ping(&bystander.access).await.expect(200);
    next(&proxy, &bystander).await;
}

// TK-06
#[tokio::test(flavor = "multi_thread")]
async fn an_older_token_than_the_predecessor_is_reuse_even_within_the_grace_window() {
    let proxy = Proxy::start().await;
    let first = proxy.login().await;
    let second = next(&proxy, &first).await;
    let third = next(&proxy, &second).await;
    is_refused(proxy.refresh(&first.client_id, &first.refresh).await);
    proxy.ping(&third.access).await.expect(401);
    is_refused(proxy.refresh(&third.client_id, &third.refresh).await);
}

// TK-05
#[tokio::test(flavor = "multi_thread")]
async fn scope_may_shrink_and_never_grow_and_the_resource_stays() {
    let resources =
        r#"[{path: /mcp, upstream: "MCP/mcp", scopes: [mcp, admin]}, {path: /two, upstream: "MCP/two"}]"#;
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let first = proxy.login_for(&[("scope", "mcp admin")]).await;
    for (change, error) in [
        (("scope", "mcp admin root"), "invalid_scope"),
        (("scope", "root"), "invalid_scope"),
        (("resource", "https://p.test/two"), "invalid_target"),
        (("resource", "https://evil.test/mcp"), "invalid_target"),
    ] {
        let answer = with(&proxy, &first, &[change]).await.expect(400);
        assert_eq!(answer.error(), error, "{change:?}");
    }
    // None of that rotated.
    proxy.forward(GRACE * 2);
    let same = ("resource", "https://p.test/mcp");
    let narrow = with(&proxy, &first, &[("scope", "mcp"), same]).await.expect(200);
    let narrow = Tokens::read(first.client_id.clone(), narrow.json());
    assert_eq!(narrow.answer["scope"], "mcp");
    proxy.ping(&narrow.access).await.expect(403);
    // RFC 6749 §6: the refresh token keeps what was granted.
    let wide = next(&proxy, &narrow).await;
    assert_eq!(wide.answer["scope"], "admin mcp");
    proxy.ping(&wide.access).await.expect(200);
    let tolerated = with(&proxy, &wide, &[("scope", "admin mcp offline_access")]).await.expect(200).json();
    assert_eq!(tolerated["scope"], "admin mcp");
}

// TK-11
#[tokio::test(flavor = "multi_thread")]
async fn another_clients_refresh_token_is_refused_and_unharmed() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let other = proxy.register(&[CALLBACK]).await;
    is_refused(proxy.refresh(&other, &tokens.refresh).await);
    proxy.forward(GRACE * 2);
    let second = next(&proxy, &tokens).await;
    proxy.forward(GRACE * 2);
    // Not even reuse by another client touches the family.
    is_refused(proxy.refresh(&other, &tokens.refresh).await);
    proxy.ping(&second.access).await.expect(200);
    next(&proxy, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_refresh_token_is_a_refresh_token() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let posing = tokens.access.replace("mapa_", "mapr_");
    for wrong in [&tokens.access, &posing, "mapr_", "ghr_x", &tokens.refresh[1..]] {
        is_refused(proxy.refresh(&tokens.client_id, wrong).await);
    }
    assert_eq!(with(&proxy, &tokens, &[("refresh_token", "")]).await.expect(400).error(), "invalid_request");
    next(&proxy, &tokens).await;
}

// TK-12
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_nobody_uses_ends() {
    let proxy = Proxy::start().await;
    let first = proxy.login().await;
    proxy.forward(30 * DAY - Duration::from_secs(1));
    let second = next(&proxy, &first).await;
    proxy.forward(30 * DAY + Duration::from_secs(1));
    is_refused(proxy.refresh(&second.client_id, &second.refresh).await);
    proxy.ping(&second.access).await.expect(401);
}

// TK-12
#[tokio::test(flavor = "multi_thread")]
async fn a_family_ends_however_much_it_is_used() {
    let extra = "tokens: {access: 2d, refresh_idle: 3d, refresh_max: 5d}".to_owned();
    let proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
    let mut tokens = proxy.login().await;
    for _ in 0..2 {
        proxy.forward(2 * DAY);
        tokens = next(&proxy, &tokens).await;
    }
    // One day is left of five: the access token does not outlive the family, and says so.
    assert_eq!(tokens.answer["expires_in"], 86_400);
    proxy.forward(DAY - Duration::from_secs(1));
    proxy.ping(&tokens.access).await.expect(200);
    proxy.forward(Duration::from_secs(1));
    proxy.ping(&tokens.access).await.expect(401);
    is_refused(proxy.refresh(&tokens.client_id, &tokens.refresh).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn expires_in_is_kept_to_the_second() {
    let extra = "tokens: {access: 90s}".to_owned();
    let proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
    proxy.forward(Duration::from_millis(321));
    let tokens = proxy.login().await;
    assert_eq!(tokens.answer["expires_in"], 90);
    proxy.forward(Duration::from_secs(90) - Duration::from_millis(1));
    proxy.ping(&tokens.access).await.expect(200);
    proxy.forward(Duration::from_secs(1));
    let expired = proxy.ping(&tokens.access).await.expect(401);
    assert!(expired.header("www-authenticate").contains("error=\"invalid_token\""));
    next(&proxy, &tokens).await;
}

// TK-06, TK-07, AS-F8
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_file_rotate_as_one() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let replica = proxy.replica();
    let first = proxy.login().await;
    let pairs =
        [("grant_type", "refresh_token"), ("refresh_token", &first.refresh), ("client_id", &first.client_id)];
    let addresses = (0..10).map(|n| if n % 2 == 0 { proxy.address() } else { replica.address() });
    let answers = all(addresses.map(|at| proxy.post_form_at(at, "/token", &pairs))).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect(200).json()).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let second = Tokens::read(first.client_id.clone(), answers[0].clone());
    proxy.ping_at(replica.address(), &second.access).await.expect(200);
    // Rotated here, reused late there: dead everywhere.
    let third = next(&proxy, &second).await;
    proxy.forward(GRACE * 2);
    is_refused(proxy.post_form_at(replica.address(), "/token", &pairs).await);
    proxy.ping(&third.access).await.expect(401);
    proxy.ping_at(replica.address(), &third.access).await.expect(401);
}

// TK-09
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_rotation_and_replay_changes_nothing() {
    let dir = TempDir::new();
    let mut proxy = Proxy::with(Setup::on(&dir)).await;
    let first = proxy.login().await;
    let second = next(&proxy, &first).await;
    proxy.restart().await;
    let again = next(&proxy, &first).await;
    assert_eq!((again.access, &again.refresh), (second.access.clone(), &second.refresh));
    proxy.restart().await;
    proxy.forward(GRACE * 2);
    is_refused(proxy.refresh(&first.client_id, &first.refresh).await);
    proxy.ping(&second.access).await.expect(401);
}

// TK-12
#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_longer_allowed_does_not_refresh() {
    for leave in [State::Pending, State::Active] {
        let proxy = Proxy::with(Setup { allow: "{orgs: [acme]}", ..Setup::default() }).await;
        proxy.github.world().add_user(User::octocat().in_org("acme", State::Active));
        let tokens = proxy.login().await;
        let tokens = next(&proxy, &tokens).await;
        proxy.github.world().edit_user("octocat", |user| match leave {
            State::Pending => user.orgs[0].state = State::Pending,
            State::Active => user.orgs.clear(),
        });
        is_refused(proxy.refresh(&tokens.client_id, &tokens.refresh).await);
        proxy.ping(&tokens.access).await.expect(401);
    }
}

// AS-F7
#[tokio::test(flavor = "multi_thread")]
async fn revocation_at_github_ends_the_family_at_refresh_and_a_new_login_heals() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    proxy.github.world().revoke_all("octocat");
    is_refused(proxy.refresh(&tokens.client_id, &tokens.refresh).await);
    proxy.ping(&tokens.access).await.expect(401);
    let again = proxy.login().await;
    proxy.ping(&again.access).await.expect(200);
    next(&proxy, &again).await;
}

// GH-07, GH-14
#[tokio::test(flavor = "multi_thread")]
async fn a_github_outage_is_forgiven_for_an_hour_and_then_503() {
    for fault in [
        Fault::BadGateway,
        Fault::Status(500),
        Fault::Dropped,
        Fault::Garbage,
        Fault::RateLimited { status: 403, retry_after: Some(60), reset: None },
    ] {
        let setup = Setup { allow: "{orgs: [acme]}", ..Setup::default() };
        let proxy = Proxy::with(setup).await;
        proxy.github.world().add_user(User::octocat().in_org("acme", State::Active));
        let tokens = proxy.login().await;
        let every = [Endpoint::CheckToken, Endpoint::OrgMembership, Endpoint::Orgs];
        for endpoint in every {
            proxy.github.world().fail(endpoint, fault.clone());
        }
        proxy.forward(Duration::from_secs(3_599));
        let tokens = next(&proxy, &tokens).await;
        proxy.forward(Duration::from_secs(1));
        let answer = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(503);
        assert_eq!(answer.error(), "temporarily_unavailable", "{fault:?}");
        let wait = if matches!(fault, Fault::RateLimited { .. }) { "60" } else { "5" };
        assert_eq!(answer.header("retry-after"), wait, "{fault:?}: as long as GitHub says");
        // Nothing was lost.
        proxy.github.world().heal();
        if matches!(fault, Fault::RateLimited { .. }) {
            proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(503);
            proxy.forward(Duration::from_secs(60));
        }
        let tokens = next(&proxy, &tokens).await;
        proxy.ping(&tokens.access).await.expect(200);
    }
}

// ST-02, ST-08, TK-14
#[tokio::test(flavor = "multi_thread")]
async fn store_trouble_is_503_and_neither_logs_out_nor_lets_in() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let (tokens, stranger) = (proxy.login().await, proxy.login().await);
    proxy.ping(&tokens.access).await.expect(200);
    let sabotage = Sabotage::of(&database(&dir));
    let answer = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(503);
    assert_eq!(answer.error(), "temporarily_unavailable");
    // Who was seen a moment ago goes on working for a minute, others wait.
    proxy.forward(Duration::from_secs(2));
    proxy.ping(&tokens.access).await.expect(200);
    let unknown = proxy.ping(&stranger.access).await.expect(503);
    assert!(!unknown.header("retry-after").is_empty() && !unknown.headers.contains_key("www-authenticate"));
    proxy.forward(Duration::from_secs(60));
    proxy.ping(&tokens.access).await.expect(503);
    drop(sabotage);
    proxy.ping(&stranger.access).await.expect(200);
    next(&proxy, &tokens).await;
}
