//! The whole flow once, as a client sees it, and what must hold across a restart.

mod support;

use bytes::Bytes;
use http::Method;
use support::TempDir;
use support::proxy::{CALLBACK, PING, PUBLIC, Proxy, Setup, Tokens, param};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_logs_in_calls_a_tool_refreshes_and_revokes() {
    let proxy = Proxy::start().await;

    // 401, then discovery by nothing but what the answers say.
    let challenge = proxy
        .send(proxy.request(Method::POST, "/mcp").body(Bytes::from_static(PING)).unwrap())
        .await
        .expect(401);
    let expected = format!(
        "Bearer resource_metadata=\"{PUBLIC}/.well-known/oauth-protected-resource/mcp\", scope=\"mcp\""
    );
    assert_eq!(challenge.header("www-authenticate"), expected);
    let resource = proxy.get("/.well-known/oauth-protected-resource/mcp").await.expect(200).json();
    assert_eq!(resource["resource"], format!("{PUBLIC}/mcp"));
    assert_eq!(resource["authorization_servers"][0], PUBLIC);
    let server = proxy.get("/.well-known/oauth-authorization-server").await.expect(200).json();
    assert_eq!(server["issuer"], PUBLIC);

    // Register, approve, log in.
    let client_id = proxy.register(&[CALLBACK]).await;
    let back = proxy.browser().approve(&proxy.authorize_url(&client_id, CALLBACK, &[])).await;
    assert!(back.starts_with(CALLBACK), "{back}");
    assert_eq!(param(&back, "state").as_deref(), Some("st4te"));
    assert_eq!(param(&back, "iss").as_deref(), Some(PUBLIC));

    // Token, call.
    let code = param(&back, "code").expect("a code");
    let answer = proxy.redeem(&client_id, &code).await.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    let tokens = Tokens::read(client_id, answer.json());
    proxy.ping(&tokens.access).await.expect(200);
    let heard = proxy.mcp.last();
    assert_eq!(heard.target, "/mcp");
    assert_eq!(heard.body, PING);
    assert_eq!(heard.header("x-github-token"), proxy.github.world().live_tokens("octocat")[0]);
    assert!(!heard.headers.contains_key("authorization"), "our token stays here");

    // Refresh, revoke.
    let next = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
    let next = Tokens::read(tokens.client_id.clone(), next);
    proxy.ping(&next.access).await.expect(200);
    proxy.post_form("/revoke", &[("token", &next.refresh), ("client_id", &next.client_id)]).await.expect(200);
    proxy.ping(&next.access).await.expect(401);
    proxy.refresh(&next.client_id, &next.refresh).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing() {
    let dir = TempDir::new();
    let store = format!("sqlite:{}", dir.path().join("proxy.db").display());
    let mut proxy = Proxy::with(Setup { store, ..Setup::default() }).await;
    let (pending_client, pending_code) = proxy.code(&[]).await;
    let tokens = proxy.login().await;
    proxy.restart().await;
    proxy.ping(&tokens.access).await.expect(200);
    proxy.redeem(&pending_client, &pending_code).await.expect(200);
    let next = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
    proxy.restart().await;
    let again = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
    assert_eq!(again["refresh_token"], next["refresh_token"], "the successor is derived, not remembered");
    assert_eq!(again["access_token"], next["access_token"]);
}
