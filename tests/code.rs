//! The code grant: every outcome of it. RFC 6749 §4.1.3; RFC 7636 §4.6; OAuth 2.1 §4.1.3.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use support::http::Answer;
use support::proxy::{CALLBACK, PUBLIC, Proxy, Setup, Tokens, VERIFIER, database, param};
use support::sabotage::Sabotage;
use support::{TempDir, raw};

/// A redemption that differs from the well-behaved one; an empty value leaves the parameter out.
async fn attempt(proxy: &Proxy, client_id: &str, code: &str, changes: &[(&str, &str)]) -> Answer {
    let mut pairs = vec![
        ("grant_type", "authorization_code"),
        ("code", code),
        ("client_id", client_id),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    for (name, value) in changes {
        pairs.retain(|(known, _)| known != name);
        pairs.extend((!value.is_empty()).then_some((*name, *value)));
    }
    proxy.post_form("/token", &pairs).await
}

// AZ-03, CD-04, CD-06
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_code_is_refused_and_costs_the_owner_nothing() {
    let proxy = Proxy::start().await;
    let other = proxy.register(&[CALLBACK]).await;
    let (client_id, code) = proxy.code(&[]).await;
    for (changes, status, error) in [
        // RFC 7636 §4.6
        (&[("code_verifier", "")][..], 400, "invalid_request"),
        // CD-04
        (&[("redirect_uri", "http://127.0.0.1:7777/other")], 400, "invalid_grant"),
        (&[("redirect_uri", "http://localhost:7777/callback")], 400, "invalid_grant"),
        (&[("redirect_uri", "https://evil.test/")], 400, "invalid_grant"),
        (&[("redirect_uri", "not a uri")], 400, "invalid_grant"),
        // CD-06
        (&[("resource", "https://p.test/other")], 400, "invalid_target"),
        (&[("resource", "https://evil.test/mcp")], 400, "invalid_target"),
        // RFC 6749 §4.1.3: the code belongs to the client it was issued to.
        (&[("client_id", &other)], 400, "invalid_grant"),
        (&[("client_id", "mcp-client-AAAA")], 401, "invalid_client"),
        (&[("client_id", "")], 400, "invalid_request"),
        (&[("code", "")], 400, "invalid_request"),
        (&[("grant_type", "")], 400, "invalid_request"),
    ] {
        let answer = attempt(&proxy, &client_id, &code, changes).await;
        assert_eq!((answer.status, answer.error().as_str()), (status, error), "{changes:?}");
    }
    attempt(&proxy, &client_id, &code, &[("resource", "https://p.test/mcp/")]).await.expect(200);
}

// AZ-02, CD-04
#[tokio::test(flavor = "multi_thread")]
async fn the_redirect_uri_may_be_missing_or_have_another_loopback_port() {
    let proxy = Proxy::start().await;
    for redirect_uri in ["", "http://127.0.0.1:50123/callback"] {
        let (client_id, code) = proxy.code(&[]).await;
        attempt(&proxy, &client_id, &code, &[("redirect_uri", redirect_uri)]).await.expect(200);
    }
}

// CD-05
#[tokio::test(flavor = "multi_thread")]
async fn wrong_verifiers_are_refused_and_a_few_of_them_kill_the_code() {
    let proxy = Proxy::start().await;
    let long = "a".repeat(129);
    let wrong = ["dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXX", &VERIFIER[..42], &long, "x y+/=!%&\u{fc}"];
    let (client_id, code) = proxy.code(&[]).await;
    for verifier in wrong {
        let answer = attempt(&proxy, &client_id, &code, &[("code_verifier", verifier)]).await.expect(400);
        assert_eq!(answer.error(), "invalid_grant", "{verifier}");
    }
    attempt(&proxy, &client_id, &code, &[]).await.expect(200);

    let (client_id, code) = proxy.code(&[]).await;
    let guesses = (0..100).map(|n| format!("{}{n:03}", &VERIFIER[..40]));
    for guess in guesses {
        let answer = attempt(&proxy, &client_id, &code, &[("code_verifier", &guess)]).await.expect(400);
        assert_eq!(answer.error(), "invalid_grant");
    }
    assert_eq!(attempt(&proxy, &client_id, &code, &[]).await.expect(400).error(), "invalid_grant");
}

// CD-05
#[tokio::test(flavor = "multi_thread")]
async fn parallel_guesses_are_counted_one_by_one() {
    let proxy = Proxy::start().await;
    let (client_id, code) = proxy.code(&[]).await;
    let guesses: Vec<String> = (0..20).map(|n| format!("{}{n:03}", &VERIFIER[..40])).collect();
    let attempts: Vec<[(&str, &str); 1]> = guesses.iter().map(|g| [("code_verifier", g.as_str())]).collect();
    let attempts = attempts.iter().map(|change| attempt(&proxy, &client_id, &code, change));
    for answer in support::all(attempts).await {
        assert_eq!(answer.expect(400).error(), "invalid_grant");
    }
    attempt(&proxy, &client_id, &code, &[]).await.expect(400);
}

// CD-05
#[tokio::test(flavor = "multi_thread")]
async fn a_code_lives_for_a_minute() {
    let proxy = Proxy::start().await;
    let (client_id, code) = proxy.code(&[]).await;
    proxy.forward(Duration::from_secs(59));
    attempt(&proxy, &client_id, &code, &[]).await.expect(200);
    let (client_id, code) = proxy.code(&[]).await;
    proxy.forward(Duration::from_secs(60));
    assert_eq!(attempt(&proxy, &client_id, &code, &[]).await.expect(400).error(), "invalid_grant");
}

// CD-01
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_code_kills_what_its_first_use_bought() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let replica = proxy.replica();
    let (client_id, code) = proxy.code(&[]).await;
    let bystander = proxy.login().await;
    let tokens =
        Tokens::read(client_id.clone(), attempt(&proxy, &client_id, &code, &[]).await.expect(200).json());
    proxy.ping(&tokens.access).await.expect(200);
    proxy.ping_at(replica.address(), &tokens.access).await.expect(200);
    // Long after its minute, and with a wrong verifier too: whoever has it stole it.
    proxy.forward(Duration::from_secs(3_000));
    let replay = attempt(&proxy, &client_id, &code, &[("code_verifier", &VERIFIER.replace('d', "e"))]).await;
    assert_eq!(replay.expect(400).error(), "invalid_grant");
    proxy.ping(&tokens.access).await.expect(401);
    proxy.forward(Duration::from_secs(1));
    proxy.ping_at(replica.address(), &tokens.access).await.expect(401);
    assert_eq!(proxy.refresh(&client_id, &tokens.refresh).await.expect(400).error(), "invalid_grant");
    proxy.ping(&bystander.access).await.expect(200);
}

// CD-01
#[tokio::test(flavor = "multi_thread")]
async fn another_client_cannot_kill_a_grant_by_replaying_its_code() {
    let proxy = Proxy::start().await;
    let thief = proxy.register(&[CALLBACK]).await;
    let (client_id, code) = proxy.code(&[]).await;
    let tokens =
        Tokens::read(client_id.clone(), attempt(&proxy, &client_id, &code, &[]).await.expect(200).json());
    attempt(&proxy, &thief, &code, &[]).await.expect(400);
    proxy.ping(&tokens.access).await.expect(200);
}

// CD-01, CD-02
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_redeem_a_code_once() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let replica = proxy.replica();
    let (client_id, code) = proxy.code(&[]).await;
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("client_id", &client_id),
        ("code_verifier", VERIFIER),
    ];
    let addresses = (0..10).map(|n| if n % 2 == 0 { proxy.address() } else { replica.address() });
    let answers = support::all(addresses.map(|at| proxy.post_form_at(at, "/token", &pairs))).await;
    let good: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert!(good.len() <= 1, "{good:?}");
    for answer in good {
        let tokens = Tokens::read(client_id.clone(), answer.json());
        proxy.forward(Duration::from_secs(1));
        proxy.ping(&tokens.access).await.expect(401);
        proxy.ping_at(replica.address(), &tokens.access).await.expect(401);
    }
}

// CD-02
#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_parallel_redemptions_at_most_one_succeeds_and_its_tokens_die() {
    let dir = TempDir::new();
    for setup in [Setup::default(), Setup::on(&dir)] {
        let proxy = Proxy::with(setup).await;
        let (client_id, code) = proxy.code(&[]).await;
        let answers = support::all((0..20).map(|_| attempt(&proxy, &client_id, &code, &[]))).await;
        let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
        assert!(good.len() <= 1, "{good:?}");
        for answer in bad {
            assert_eq!(answer.expect(400).error(), "invalid_grant");
        }
        for answer in good {
            let tokens = Tokens::read(client_id.clone(), answer.json());
            proxy.ping(&tokens.access).await.expect(401);
        }
    }
}

// ST-02, TK-14
#[tokio::test(flavor = "multi_thread")]
async fn store_trouble_is_503_and_the_code_works_afterwards() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let (client_id, code) = proxy.code(&[]).await;
    let sabotage = Sabotage::of(&database(&dir));
    for changes in [&[][..], &[("code_verifier", &VERIFIER[1..])]] {
        let answer = attempt(&proxy, &client_id, &code, changes).await.expect(503);
        assert_eq!(answer.error(), "temporarily_unavailable");
        assert!(!answer.header("retry-after").is_empty());
        assert!(!answer.text().contains("records"), "no word of the store leaves: {}", answer.text());
    }
    drop(sabotage);
    attempt(&proxy, &client_id, &code, &[]).await.expect(200);
}

// CD-07
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_another_shape_are_refused() {
    let proxy = Proxy::start().await;
    let (client_id, code) = proxy.code(&[]).await;
    let good =
        format!("grant_type=authorization_code&code={code}&client_id={client_id}&code_verifier={VERIFIER}");
    let json =
        serde_json::json!({ "grant_type": "authorization_code", "code": code, "client_id": client_id });
    let form = "application/x-www-form-urlencoded";
    let post = |kind: Option<&str>, path: &str, body: String| {
        let request = proxy.request(Method::POST, path);
        let request =
            kind.into_iter().fold(request, |request, kind| request.header(header::CONTENT_TYPE, kind));
        proxy.send(request.body(Bytes::from(body)).unwrap())
    };
    for (kind, path, body) in [
        (Some("application/json"), "/token", json.to_string()),
        (Some("multipart/form-data; boundary=x"), "/token", good.clone()),
        (None, "/token", good.clone()),
        (Some("application/json, application/x-www-form-urlencoded"), "/token", good.clone()),
        (Some("text/plain"), "/token", good.clone()),
        (Some(form), &format!("/token?{good}"), String::new()),
        (Some(form), "/token", format!("{good}&code={code}")),
        (Some(form), "/token", format!("{good}&client%5fid={client_id}")),
        (Some(form), "/token", format!("{good}&x=%ff")),
        (Some(form), "/token", format!("{good}{}", "&a".repeat(100))),
        (Some(form), "/token", "\u{0}\u{1}%%%=&&&".to_owned()),
    ] {
        let answer = post(kind, path, body.clone()).await;
        assert!([400, 415].contains(&answer.status), "{kind:?} {path} {body}: {answer:?}");
        assert_eq!(answer.error(), "invalid_request", "{kind:?} {path} {body}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    for method in [Method::GET, Method::PUT, Method::HEAD, Method::DELETE] {
        let request = proxy.request(method, &format!("/token?{good}"));
        let answer = proxy.send(request.body(Bytes::new()).unwrap()).await.expect(405);
        assert_eq!(answer.header("allow"), "POST");
    }
    // DS-03: refused by its length alone.
    let huge = format!(
        "POST /token HTTP/1.1\r\nHost: p.test\r\nContent-Type: {form}\r\nContent-Length: {}\r\n\r\n",
        11 << 20
    );
    assert_eq!(raw::status(&raw::say(proxy.address(), huge.as_bytes()).await), 413);
    for grant in [
        "password",
        "client_credentials",
        "implicit",
        "urn:ietf:params:oauth:grant-type:device_code",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:token-exchange",
        "AUTHORIZATION_CODE",
    ] {
        let answer = attempt(&proxy, &client_id, &code, &[("grant_type", grant)]).await.expect(400);
        assert_eq!(answer.error(), "unsupported_grant_type", "{grant}");
    }
    post(Some("Application/X-WWW-Form-Urlencoded ; charset=UTF-8"), "/token", good).await.expect(200);
}

// CD-09
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_says_what_was_issued_and_nobody_may_keep_it() {
    let proxy = Proxy::start().await;
    let (client_id, code) = proxy.code(&[("scope", "mcp everything")]).await;
    let answer = attempt(&proxy, &client_id, &code, &[]).await.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("content-type"), "application/json");
    let body = answer.json();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 8 * 3_600);
    assert_eq!(body["scope"], "mcp");
    for token in proxy.github.world().live_tokens("octocat") {
        assert!(!answer.text().contains(&token), "GitHub's token stays here");
    }
    let refused = attempt(&proxy, &client_id, &code, &[]).await.expect(400);
    assert_eq!(refused.header("cache-control"), "no-store");
    assert_eq!(refused.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_code_is_a_code() {
    let proxy = Proxy::start().await;
    let elsewhere = Proxy::start().await;
    let tokens = proxy.login().await;
    let (client_id, code) = proxy.code(&[]).await;
    let (_, foreign) = elsewhere.code(&[]).await;
    let posing = tokens.access.replace("mapa_", "mapc_");
    for wrong in [&tokens.access, &tokens.refresh, &foreign, &posing, "mapc_", "x", &code[..code.len() - 1]] {
        let answer = attempt(&proxy, &client_id, wrong, &[]).await.expect(400);
        assert_eq!(answer.error(), "invalid_grant", "{wrong}");
    }
    assert!(param(&format!("{PUBLIC}/?code={code}"), "code").is_some_and(|code| code.starts_with("mapc_")));
}
