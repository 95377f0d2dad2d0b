//! What must never be written down: every secret of a whole session, looked for in the log and on the disk.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use sha2::{Digest, Sha256};
use support::TempDir;
use support::canary::is_nowhere;
use support::github::{Endpoint, Fault};
use support::http as plain;
use support::proxy::{CALLBACK, PING, Proxy, Setup, Tokens, VERIFIER, param};
use support::upstream::{RESULT, json as answer_json};

// SE-01, TK-02, AS-T15, AS-T16
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_or_on_the_disk_whatever_happens() {
    let dir = TempDir::new();
    let key = |salt: &str| STANDARD.encode(Sha256::digest(salt));
    let (key, other_key) = (key("a canary"), key("another canary"));
    let client_secret = "canary:configured+secret/0123456789abcdef";
    let extra = format!(
        "keys: ['{other_key}', '{key}']\nclients: [{{id: app, secret: '{client_secret}', redirect_uris: ['{CALLBACK}']}}]"
    );
    let (proxy, program) = Proxy::as_process(Setup { extra, ..Setup::on(&dir) }, &dir, "trace").await;
    let mut secrets = vec![
        ("the GitHub secret", "standin-secret".to_owned()),
        ("a key", key),
        ("the other key", other_key),
        ("a configured secret", client_secret.to_owned()),
        ("the verifier", VERIFIER.to_owned()),
        ("an address", "octocat@example.com".to_owned()),
    ];

    // The whole way, step by step, with all that is secret on it.
    let metadata = json!({ "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post" });
    let registered = proxy.post_json("/register", &metadata).await.expect(201).json();
    secrets.push(("a registered secret", registered["client_secret"].as_str().unwrap().to_owned()));
    let client_id = proxy.register(&[CALLBACK]).await;
    let state = "canary-state-8f14e45fceea167a5a36dedd4bea2543";
    let url = proxy.authorize_url(&client_id, CALLBACK, &[("state", state)]);
    let mut browser = proxy.browser();
    let github_url = browser.reach_github(&url).await;
    secrets.push(("the client's state", state.to_owned()));
    secrets.push(("our state", param(&github_url, "state").unwrap()));
    let callback = browser.get(&github_url).await.header("location").to_owned();
    secrets.push(("GitHub's code", param(&callback, "code").unwrap()));
    let answer = browser.get(&callback).await;
    let back = match answer.status {
        303 => answer.header("location").to_owned(),
        _ => support::browser::onward(&answer),
    };
    let code = param(&back, "code").unwrap();
    for cookie in browser.cookies.values().flat_map(|jar| jar.values()).filter(|value| value.len() > 8) {
        secrets.push(("a cookie", cookie.clone()));
    }
    let tokens = Tokens::read(client_id.clone(), proxy.redeem(&client_id, &code).await.expect(200).json());
    proxy.ping(&tokens.access).await.expect(200);
    let next = proxy.refresh(&client_id, &tokens.refresh).await.expect(200).json();
    let next = Tokens::read(client_id.clone(), next);
    let github = proxy.mcp.last().header("x-github-token").to_owned();
    for (name, secret) in [
        ("the code", &code),
        ("an access token", &tokens.access),
        ("a refresh token", &tokens.refresh),
        ("the next access token", &next.access),
        ("the next refresh token", &next.refresh),
        ("the GitHub token", &github),
    ] {
        secrets.push((name, secret.clone()));
    }

    // Over HTTP/2, whose crate has a log of its own.
    let stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("https://p.test/mcp?access_token={}", next.access))
        .header("authorization", format!("Bearer {}", next.access))
        .body(Full::new(Bytes::from_static(PING)))
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);

    // And everything that fails, because errors talk.
    proxy.get(&format!("/mcp?access_token={}", next.access)).await.expect(401);
    proxy.get(&format!("/nowhere?code={code}&state={state}")).await.expect(404);
    proxy.get(&format!("/github/callback?code={code}&state={state}")).await;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("client_id", "app"),
        ("client_secret", client_secret),
        ("code_verifier", VERIFIER),
    ];
    proxy.post_form("/token", &form).await.expect(400);
    proxy.post_form("/token", &[("client_id", "app"), ("client_secret", &github)]).await.expect(401);
    proxy.refresh(&client_id, &next.access).await.expect(400);
    let request =
        proxy.request(Method::POST, "/mcp").header("authorization", format!("Basic {}", next.access));
    proxy.send(request.body(Bytes::from(next.refresh.clone())).unwrap()).await.expect(401);
    let echoed = github.clone();
    proxy.mcp.say(move |_| {
        let mut response = answer_json(RESULT);
        response.headers_mut().insert("x-echo", echoed.parse().unwrap());
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        response
    });
    proxy.ping(&next.access).await.expect(502);
    for fault in [
        Fault::Status(500),
        Fault::OAuthError("bad_verification_code".to_owned()),
        Fault::Garbage,
        Fault::Dropped,
    ] {
        proxy.github.world().fail_times(Endpoint::Exchange, fault, 1);
        let url = proxy.authorize_url(&client_id, CALLBACK, &[("state", state)]);
        let mut browser = proxy.browser();
        let callback = browser.reach_callback(&url).await;
        secrets.push(("another code of GitHub", param(&callback, "code").unwrap()));
        browser.get(&callback).await;
    }
    // A code twice, a refresh token late, a revocation.
    proxy.redeem(&client_id, &code).await.expect(400);
    let last = proxy.login().await;
    secrets.push(("the last access token", last.access.clone()));
    secrets.push(("the last refresh token", last.refresh.clone()));
    let pairs = [("token", last.refresh.as_str()), ("client_id", &last.client_id)];
    proxy.post_form("/revoke", &pairs).await.expect(200);
    proxy.login().await;
    secrets.extend(
        proxy.github.world().live_tokens("octocat").into_iter().map(|token| ("a GitHub token", token)),
    );
    assert!(plain::is_success(proxy.get("/healthz").await.status));

    // On the disk while it runs, with the write-ahead log.
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name != "proxy.yaml") {
            // The e-mail address is kept for injection when a resource asks for it; here none does.
            is_nowhere(&path.display().to_string(), &std::fs::read(&path).unwrap(), &secrets);
        }
    }
    let mut program = program;
    program.terminate();
    assert!(program.wait().success());
    let log = program.said();
    assert!(log.contains("path=\"/token\"") && log.contains("replayed"), "the log says what happened: {log}");
    assert!(log.contains("TRACE"), "nothing is kept from this test");
    assert!(!log.contains('?') || !log.contains("access_token="), "no query is logged");
    is_nowhere("the log", log.as_bytes(), &secrets);
}
