//! Revocation. RFC 7009.

mod support;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use mcp_auth_proxy::clock::ManualClock;
use mcp_auth_proxy::github::admission::{Admission, AllowList};
use mcp_auth_proxy::github::credential::Credentials;
use mcp_auth_proxy::github::{Granted, Profile, Settings};
use mcp_auth_proxy::protocol::family::Lifetimes;
use mcp_auth_proxy::seal::{KeyRing, MasterKey};
use mcp_auth_proxy::store::Records;
use mcp_auth_proxy::store::families::Families;
use mcp_auth_proxy::store::memory::Memory;
use mcp_auth_proxy::store::people::People;
use mcp_auth_proxy::telemetry::Telemetry;
use secrecy::ExposeSecret;
use serde_json::json;
use support::TempDir;
use support::github::{Endpoint, Fault, GitHub, Options, User};
use support::http::{Answer, form};
use support::proxy::{CALLBACK, Proxy, Setup, Tokens, database};
use support::sabotage::Sabotage;
use tokio::runtime::Handle;

async fn revoke(proxy: &Proxy, client_id: &str, token: &str, more: &[(&str, &str)]) -> Answer {
    let mut pairs = vec![("token", token), ("client_id", client_id)];
    pairs.extend_from_slice(more);
    proxy.post_form("/revoke", &pairs).await
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

async fn is_dead(proxy: &Proxy, tokens: &Tokens) {
    proxy.ping(&tokens.access).await.expect(401);
    let answer = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(400);
    assert_eq!(answer.error(), "invalid_grant");
}

// TK-13
#[tokio::test(flavor = "multi_thread")]
async fn any_token_of_a_family_ends_it_whatever_the_hint() {
    let proxy = Proxy::start().await;
    for hint in ["access_token", "refresh_token", "pizza", ""] {
        for which in [true, false] {
            let tokens = proxy.login().await;
            proxy.ping(&tokens.access).await.expect(200);
            let token = if which { &tokens.access } else { &tokens.refresh };
            let answer = revoke(&proxy, &tokens.client_id, token, &[("token_type_hint", hint)]).await;
            assert!(answer.expect(200).body.is_empty());
            is_dead(&proxy, &tokens).await;
            // RFC 7009 §2.2: once more is as good.
            revoke(&proxy, &tokens.client_id, token, &[]).await.expect(200);
        }
    }
}

// TK-13
#[tokio::test(flavor = "multi_thread")]
async fn old_tokens_of_a_family_end_it_too() {
    let proxy = Proxy::start().await;
    let first = proxy.login().await;
    let second = proxy.refresh(&first.client_id, &first.refresh).await.expect(200).json();
    let second = Tokens::read(first.client_id.clone(), second);
    proxy.forward(Duration::from_secs(9 * 3_600));
    revoke(&proxy, &first.client_id, &first.refresh, &[]).await.expect(200);
    is_dead(&proxy, &second).await;
}

// TK-13
#[tokio::test(flavor = "multi_thread")]
async fn unknown_tokens_are_answered_like_revoked_ones() {
    let proxy = Proxy::start().await;
    let (client_id, code) = proxy.code(&[]).await;
    for token in ["x", "gho_16C7e42F292c6912E7710c838347Ae178B4a", "mapa_AAAA", "\u{fc}", &code] {
        revoke(&proxy, &client_id, token, &[]).await.expect(200);
    }
    proxy.redeem(&client_id, &code).await.expect(200);
}

// TK-13, CA-03, AS-V3
#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_revoke_anothers_tokens() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let other = proxy.register(&[CALLBACK]).await;
    let metadata = json!({ "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post" });
    let confidential = proxy.post_json("/register", &metadata).await.expect(201).json();
    let id = confidential["client_id"].as_str().unwrap();
    for token in [&tokens.access, &tokens.refresh] {
        revoke(&proxy, &other, token, &[]).await.expect(200);
        let secret = ("client_secret", confidential["client_secret"].as_str().unwrap());
        revoke(&proxy, id, token, &[secret]).await.expect(200);
        // CA-03: the rules of /token hold here too.
        assert_eq!(revoke(&proxy, id, token, &[]).await.expect(401).error(), "invalid_client");
        assert_eq!(revoke(&proxy, "nobody", token, &[]).await.expect(401).error(), "invalid_client");
        let odd = ("client_secret", "x");
        assert_eq!(
            revoke(&proxy, &tokens.client_id, token, &[odd]).await.expect(401).error(),
            "invalid_client"
        );
        let header = format!("Basic {}", STANDARD.encode(format!("{id}:{}", secret.1)));
        let request = proxy.request(Method::POST, "/revoke").header("authorization", header);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = proxy.send(request.body(form(&[("token", token)])).unwrap()).await;
        assert_eq!(answer.expect(401).error(), "invalid_client", "registered to send its secret in the form");
        let anonymous = proxy.post_form("/revoke", &[("token", token)]).await;
        assert!([400, 401].contains(&anonymous.status), "{anonymous:?}");
    }
    proxy.ping(&tokens.access).await.expect(200);
    proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_another_shape_are_refused() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let query = format!("/revoke?token={}&client_id={}", tokens.access, tokens.client_id);
    proxy.get(&query).await.expect(405);
    let empty =
        proxy.request(Method::POST, &query).header("content-type", "application/x-www-form-urlencoded");
    proxy.send(empty.body(Bytes::new()).unwrap()).await.expect(400);
    let body = json!({ "token": tokens.access, "client_id": tokens.client_id });
    proxy.post_json("/revoke", &body).await.expect(400);
    let missing = proxy.post_form("/revoke", &[("client_id", &tokens.client_id)]).await.expect(400);
    assert_eq!(missing.error(), "invalid_request");
    proxy.ping(&tokens.access).await.expect(200);
}

// AS-V5, GH-20
#[tokio::test(flavor = "multi_thread")]
async fn the_last_family_takes_the_github_token_with_it_and_never_the_grant() {
    let proxy = Proxy::start().await;
    let (one, two) = (proxy.login().await, proxy.login().await);
    revoke(&proxy, &one.client_id, &one.refresh, &[]).await.expect(200);
    is_dead(&proxy, &one).await;
    proxy.ping(&two.access).await.expect(200);
    let injected = proxy.mcp.last().header("x-github-token").to_owned();
    assert!(proxy.github.world().is_live(&injected), "another family lives on it");
    assert_eq!(proxy.github.world().count(Endpoint::DeleteToken), 0);
    revoke(&proxy, &two.client_id, &two.access, &[]).await.expect(200);
    // Both logins brought one; an upstream may have kept either.
    proxy.github.called(Endpoint::DeleteToken, 2).await;
    is_dead(&proxy, &two).await;
    let call = proxy.github.world().last_call(Endpoint::DeleteToken).unwrap();
    assert_eq!(call.json("access_token").as_deref(), Some(injected.as_str()));
    soon(async {
        while !proxy.github.world().live_tokens("octocat").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(proxy.github.world().count(Endpoint::DeleteGrant), 0);
    let three = proxy.login().await;
    proxy.ping(&three.access).await.expect(200);
}

// GH-20
#[tokio::test(flavor = "multi_thread")]
async fn github_not_deleting_a_token_does_not_fail_a_revocation() {
    for fault in [Fault::Status(404), Fault::Status(422), Fault::Status(500), Fault::Dropped] {
        let proxy = Proxy::start().await;
        let tokens = proxy.login().await;
        proxy.github.world().fail(Endpoint::DeleteToken, fault);
        revoke(&proxy, &tokens.client_id, &tokens.refresh, &[]).await.expect(200);
        proxy.github.called(Endpoint::DeleteToken, 1).await;
        is_dead(&proxy, &tokens).await;
        let again = proxy.login().await;
        proxy.ping(&again.access).await.expect(200);
    }
}

// TK-13
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_here_is_obeyed_at_once_here_and_within_a_second_there() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let replica = proxy.replica();
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    proxy.ping_at(replica.address(), &tokens.access).await.expect(200);
    revoke(&proxy, &tokens.client_id, &tokens.refresh, &[]).await.expect(200);
    proxy.ping(&tokens.access).await.expect(401);
    proxy.forward(Duration::from_secs(1));
    proxy.ping_at(replica.address(), &tokens.access).await.expect(401);
}

// ST-02, TK-14
#[tokio::test(flavor = "multi_thread")]
async fn store_trouble_is_503_so_that_the_client_tries_again() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let tokens = proxy.login().await;
    let sabotage = Sabotage::of(&database(&dir));
    let answer = revoke(&proxy, &tokens.client_id, &tokens.refresh, &[]).await.expect(503);
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert!(!answer.header("retry-after").is_empty());
    drop(sabotage);
    revoke(&proxy, &tokens.client_id, &tokens.refresh, &[]).await.expect(200);
    is_dead(&proxy, &tokens).await;
}

// GH-20: many logins, one credential; with the last of them every token that GitHub gave is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_of_a_person_outlives_their_last_login() {
    let dir = TempDir::new();
    let mut proxy = Proxy::with(Setup::on(&dir)).await;
    let mut logins = Vec::new();
    for number in 0..13 {
        logins.push(proxy.login().await);
        if number == 6 {
            proxy.restart().await;
        }
    }
    assert_eq!(proxy.github.world().live_tokens("octocat").len(), 10, "GitHub keeps ten");
    for tokens in &logins {
        proxy.ping(&tokens.access).await.expect(200);
        assert_eq!(proxy.github.world().count(Endpoint::DeleteToken), 0);
        revoke(&proxy, &tokens.client_id, &tokens.access, &[]).await.expect(200);
    }
    soon(proxy.github.called(Endpoint::DeleteToken, 10)).await;
    soon(async {
        while !proxy.github.world().live_tokens("octocat").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(proxy.github.world().count(Endpoint::DeleteGrant), 0);
}

// GH-20: the last login ends while the next one begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_never_takes_the_credential_of_a_login_that_comes_meanwhile() {
    let github = GitHub::start(Options::default()).await.unwrap();
    github.world().add_user(User::octocat());
    let credentials = credentials(&github);
    let profile = Profile { id: 583_231, login: "octocat".to_owned() };
    let key = People::credential_key(profile.id, "read:user");
    let granted = || Granted {
        access_token: github.world().issue("octocat", "read:user").into(),
        refresh_token: None,
        expires_in: None,
        scopes: vec!["read:user".to_owned()],
    };
    assert!(credentials.look(&key).await.unwrap().is_none());
    credentials.keep(&profile, None, "read:user", &granted()).await.unwrap();
    let seen = credentials.look(&key).await.unwrap().expect("kept");
    // Between the look and the end of it somebody logs in.
    credentials.keep(&profile, None, "read:user", &granted()).await.unwrap();
    assert!(credentials.discard(&key, &seen).await.unwrap().is_none());
    let kept = credentials.usable(&key).await.unwrap();
    assert!(github.world().is_live(kept.identity.token.expose_secret()));
    assert_eq!(github.world().count(Endpoint::DeleteToken), 0);
    // Seen as it is now it goes, once.
    let seen = credentials.look(&key).await.unwrap().expect("kept");
    assert!(credentials.discard(&key, &seen).await.unwrap().is_some());
    assert!(credentials.discard(&key, &seen).await.unwrap().is_none());
    assert!(credentials.look(&key).await.unwrap().is_none());
    soon(github.called(Endpoint::DeleteToken, 2)).await;
    credentials.keep(&profile, None, "read:user", &granted()).await.unwrap();
    assert!(credentials.usable(&key).await.is_ok());
}

/// Credentials over a store of their own.
fn credentials(github: &GitHub) -> Credentials {
    let clock = ManualClock::new(1).clock();
    let settings = Settings {
        client_id: "standin-client".to_owned(),
        client_secret: "standin-secret".to_owned().into(),
        base_url: github.base_url(),
        api_url: github.api_url(),
        callback_url: "https://p.test/github/callback".to_owned(),
        fresh_token_retries: Vec::new(),
        timeout: Duration::from_secs(5),
        authorities: Default::default(),
    };
    let github = Arc::new(
        mcp_auth_proxy::github::GitHub::new(settings, clock.clone(), Telemetry::silent(clock.clone()))
            .unwrap(),
    );
    let records: Arc<dyn Records> = Arc::new(Memory::new(clock.clone()));
    let day = Duration::from_secs(86_400);
    let lifetimes = Lifetimes {
        access: day,
        refresh_idle: day,
        refresh_max: day,
        refresh_grace: Duration::from_secs(60),
    };
    let families = Families::new(records.clone(), clock.clone(), lifetimes);
    let people = People::new(records, clock.clone(), day);
    let keys = Arc::new(KeyRing::new(&[MasterKey::new(Box::new([7; 32]))]).unwrap());
    let admission = Arc::new(Admission::new(AllowList::Anyone, github.clone(), people.clone()));
    Credentials::new(github, (people, families), keys, clock, (admission, Handle::current()), Arc::default())
}
