//! Dynamic registration: what is taken, what is dropped, what is refused. RFC 7591.

mod support;

use bytes::Bytes;
use http::{Method, header};
use serde_json::{Value, json};
use support::TempDir;
use support::http::Answer;
use support::proxy::{CALLBACK, Proxy, Setup, Tokens, VERIFIER, param};
use tokio::net::TcpListener;

async fn with(extra: &str) -> Proxy {
    Proxy::with(Setup { extra: extra.to_owned(), ..Setup::default() }).await
}

async fn raw(proxy: &Proxy, kind: &str, body: impl Into<Bytes>) -> Answer {
    let request = proxy.request(Method::POST, "/register").header(header::CONTENT_TYPE, kind);
    proxy.send(request.body(body.into()).expect("a request")).await
}

fn uris(answer: &Value) -> Vec<&str> {
    answer["redirect_uris"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

// DR-09
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_says_what_was_registered() {
    let proxy = Proxy::start().await;
    let metadata = json!({
        "client_name": "Claude Code (mcp)",
        "redirect_uris": ["http://localhost:3118/callback"],
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "application_type": "native",
        "scope": "mcp offline_access",
        "contacts": ["a@example.com"],
        "logo_uri": "https://canary.test/logo.png",
        "software_id": "x",
        "software_version": "1.0",
        "nested": {"a": [1, 2, {"b": null}]},
    });
    let answer = proxy.post_json("/register", &metadata).await.expect(201);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("access-control-allow-origin"), "*", "AS-R14");
    let answer = answer.json();
    assert_eq!(answer["client_name"], "Claude Code (mcp)");
    assert_eq!(uris(&answer), ["http://localhost:3118/callback"]);
    assert_eq!(answer["token_endpoint_auth_method"], "none");
    assert_eq!(answer["grant_types"], json!(["authorization_code", "refresh_token"]));
    assert_eq!(answer["response_types"], json!(["code"]));
    assert_eq!(answer["client_id_issued_at"], 1_800_000_000_u64);
    // AS-R2: no secret for `none`, and nothing that looks like one.
    assert!(answer.get("client_secret").is_none() && answer.get("client_secret_expires_at").is_none());
    // DR-09: RFC 7592 is not built, so it is not offered.
    assert!(answer.get("registration_client_uri").is_none());
    assert!(answer.get("registration_access_token").is_none());
    // Zod schemas of SDKs take absent, not null.
    assert!(answer.as_object().expect("an object").values().all(|value| !value.is_null()), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_registration_is_a_list_of_uris() {
    let proxy = Proxy::start().await;
    let answer = proxy.post_json("/register", &json!({"redirect_uris": [CALLBACK]})).await.expect(201).json();
    assert_eq!(answer["token_endpoint_auth_method"], "none");
    assert_eq!(answer["client_name"], "Unnamed client");
    for explicit_null in ["client_name", "token_endpoint_auth_method", "grant_types", "response_types"] {
        let metadata = json!({"redirect_uris": [CALLBACK], explicit_null: null});
        proxy.post_json("/register", &metadata).await.expect(201);
    }
}

// AS-R2, AS-T8, AS-T9: each method works as it was answered, and only so.
#[tokio::test(flavor = "multi_thread")]
async fn every_auth_method_works_as_answered() {
    let proxy = Proxy::start().await;
    for method in ["none", "client_secret_post", "client_secret_basic"] {
        let metadata = json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": method});
        let client = proxy.post_json("/register", &metadata).await.expect(201).json();
        assert_eq!(client["token_endpoint_auth_method"], method);
        let id = client["client_id"].as_str().expect("an id");
        let secret = client.get("client_secret").map(|secret| secret.as_str().expect("text").to_owned());
        assert_eq!(secret.is_some(), method != "none", "{client}");
        if let Some(secret) = &secret {
            assert_eq!(client["client_secret_expires_at"], 0);
            // 128 bit in base64url at least.
            assert!(secret.len() >= 22, "{secret}");
        }
        let back = proxy.browser().approve(&proxy.authorize_url(id, CALLBACK, &[])).await;
        let code = param(&back, "code").expect("a code");
        for (way, expected) in [("basic", 401), ("post", 401), ("none", 401)] {
            let registered = method.rsplit('_').next().expect("a word");
            if way != registered {
                redeem(&proxy, id, secret.as_deref().unwrap_or("x"), &code, way).await.expect(expected);
            }
        }
        redeem(&proxy, id, "wrong", &code, "post").await.expect(401);
        redeem(&proxy, id, "wrong", &code, "basic").await.expect(401);
        let registered = method.rsplit('_').next().expect("a word");
        redeem(&proxy, id, secret.as_deref().unwrap_or(""), &code, registered).await.expect(200);
    }
}

async fn redeem(proxy: &Proxy, id: &str, secret: &str, code: &str, way: &str) -> Answer {
    let mut pairs = vec![("grant_type", "authorization_code"), ("code", code), ("code_verifier", VERIFIER)];
    let mut request = proxy
        .request(Method::POST, "/token")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    match way {
        "basic" => {
            use base64::Engine as _;
            let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{id}:{encoded}"));
            request = request.header(header::AUTHORIZATION, format!("Basic {credentials}"));
        }
        "post" => pairs.extend([("client_id", id), ("client_secret", secret)]),
        _ => pairs.push(("client_id", id)),
    }
    proxy.send(request.body(support::http::form(&pairs)).expect("a request")).await
}

/// The secret of one client is nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_belong_to_their_client() {
    let proxy = Proxy::start().await;
    let metadata = json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post"});
    let one = proxy.post_json("/register", &metadata).await.expect(201).json();
    let two = proxy.post_json("/register", &metadata).await.expect(201).json();
    assert_ne!(one["client_id"], two["client_id"], "AS-R12");
    assert_ne!(one["client_secret"], two["client_secret"]);
    let (id, foreign) =
        (one["client_id"].as_str().expect("text"), two["client_secret"].as_str().expect("text"));
    let answer = redeem(&proxy, id, foreign, "x", "post").await.expect(401);
    assert_eq!(answer.error(), "invalid_client");
}

// DR-04, AZ-05, AZ-07, AZ-08, AZ-10, AS-R4
#[tokio::test(flavor = "multi_thread")]
async fn redirect_uris_that_could_hurt_are_refused() {
    let proxy = Proxy::start().await;
    let long = format!("https://app.example/{}", "x".repeat(10_000));
    for uri in [
        "",
        " ",
        "/relative",
        "app.example/cb",
        "https://",
        "https:///cb",
        "https:app.example",
        "https:/app.example/cb",
        "https://app.example/cb#fragment",
        "https://app.example/cb#",
        "https://user@app.example/cb",
        "https://u:p@app.example/cb",
        "https://app.example@evil.test/cb",
        "https://@app.example/cb",
        "http://app.example/cb",
        "http://intranet/cb",
        "http://192.168.0.1/cb",
        "http://127.0.0.2/cb",
        "http://localhost.evil.test/cb",
        "http://127.0.0.1.evil.test/cb",
        "http://127.1/cb",
        "http://0x7f.1/cb",
        "http://0177.0.0.1/cb",
        "http://127.0.0.1./cb",
        "http://localhost./cb",
        "https://xn--example-.org/cb",
        "http://2130706433/cb",
        "http://[::ffff:127.0.0.1]/cb",
        "http://0.0.0.0/cb",
        "https://*.example/cb",
        "https://app.example/cb\\@evil.test",
        "https:\\\\app.example/cb",
        "https://app.example /cb",
        "https://app.example/c b",
        "https://app.example/cb\r\nX: y",
        "https://аpp.example/cb",
        "https://app.example/\u{202e}bc",
        "https://app。example/cb",
        "https://app.example/cb?code=X",
        "https://app.example/cb?a=b&state=Y",
        "https://app.example/cb?iss=Z",
        "https://app.example/cb?%63ode=X",
        "https://app.example/cb?error=x",
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "java\tscript:alert(1)",
        "javascript://app.example/%0aalert(1)",
        "data:text/html,x",
        "data://text/html,x",
        "vbscript:x",
        "file:///etc/passwd",
        "blob:https://app.example/x",
        "about:blank",
        "view-source:https://app.example",
        "filesystem:https://app.example/x",
        "ws://app.example/",
        "HTTP://evil.test/cb",
        "Https://app.example/cb",
        "mailto:a@example.com",
        "tel:123",
        "urn:ietf:wg:oauth:2.0:oob",
        "ms-settings:privacy",
        "ms-msdt:/id",
        "intent://scan/#Intent;end",
        &long,
    ] {
        let answer = proxy.post_json("/register", &json!({"redirect_uris": [uri]})).await;
        assert_eq!(answer.status, 400, "{uri}: {}", answer.text());
        assert_eq!(answer.error(), "invalid_redirect_uri", "{uri}");
        assert!(answer.body.len() < 1024, "no echo of long input");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_uris_of_real_clients_are_taken_byte_for_byte() {
    let proxy = Proxy::start().await;
    for uri in [
        "https://claude.ai/api/mcp/auth_callback",
        "https://chatgpt.com/connector_platform_oauth_redirect",
        "https://global.consent.azure-apim.net/redirect/my-connector",
        "https://grok.com/connectors-oauth-exchange-code/",
        "https://host.example:8443/oauth/clients/mcp:one/callback",
        "https://app.example/cb?a=b&c=%2F",
        "https://app.example",
        "https://APP.example/Cb",
        "https://xn--bcher-kva.example/cb",
        "http://127.0.0.1/",
        "http://127.0.0.1:33418/",
        "http://127.0.0.1:1455/callback/abc",
        "http://localhost",
        "http://localhost:6274/oauth/callback",
        "http://[::1]:4000/cb",
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "com.example.app:/oauth2redirect",
        "vscode://vscode.github-authentication/did-authenticate",
    ] {
        let answer = proxy.post_json("/register", &json!({"redirect_uris": [uri]})).await.expect(201);
        assert_eq!(uris(&answer.json()), [uri]);
    }
}

// DR-04: the bad ones are dropped, and the echo shows it.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_uris_the_good_ones_stay() {
    let proxy = Proxy::start().await;
    let asked = [
        "javascript:x",
        "https://app.example/cb",
        "http://intranet/cb",
        "http://localhost/cb",
        "https://a#b",
    ];
    let answer = proxy.post_json("/register", &json!({"redirect_uris": asked})).await.expect(201).json();
    assert_eq!(uris(&answer), ["https://app.example/cb", "http://localhost/cb"]);
    let id = answer["client_id"].as_str().expect("an id");
    proxy.get(&path(&proxy.authorize_url(id, "http://intranet/cb", &[]))).await.expect(400);
    proxy.get(&path(&proxy.authorize_url(id, "http://localhost:9/cb", &[]))).await.expect(200);
}

fn path(url: &str) -> String {
    url.strip_prefix(support::proxy::PUBLIC).expect("ours").to_owned()
}

// DR-04
#[tokio::test(flavor = "multi_thread")]
async fn there_are_limits_on_number_and_length() {
    let proxy = Proxy::start().await;
    let many: Vec<String> = (0..100).map(|number| format!("https://app.example/{number}")).collect();
    let answer = proxy.post_json("/register", &json!({"redirect_uris": many})).await.expect(201).json();
    assert_eq!(uris(&answer).len(), 10);
    let long: Vec<String> =
        (0..5).map(|n| format!("https://app.example/{n}/{}", "x".repeat(1_900))).collect();
    let answer = proxy.post_json("/register", &json!({"redirect_uris": long})).await.expect(201).json();
    assert_eq!(uris(&answer).len(), 2, "the client_id must fit into a URL");
    let id = answer["client_id"].as_str().expect("an id");
    let url = proxy.authorize_url(id, &long[0], &[("state", &"s".repeat(3_000))]);
    proxy.get(&path(&url)).await.expect(200);
    // A long URI does not push out the short ones after it.
    let mixed = [long[0].clone(), long[1].clone(), long[2].clone(), "http://localhost/cb".to_owned()];
    let answer = proxy.post_json("/register", &json!({"redirect_uris": mixed})).await.expect(201).json();
    assert!(uris(&answer).contains(&"http://localhost/cb"), "{:?}", uris(&answer).len());
}

// DR-04, AS-R3
#[tokio::test(flavor = "multi_thread")]
async fn no_redirect_uris_is_an_error_of_its_own() {
    let proxy = Proxy::start().await;
    for metadata in [json!({}), json!({"redirect_uris": []}), json!({"redirect_uris": null})] {
        let answer = proxy.post_json("/register", &metadata).await.expect(400);
        assert_eq!(answer.error(), "invalid_redirect_uri", "{metadata}");
    }
}

// AZ-08
#[tokio::test(flavor = "multi_thread")]
async fn private_use_schemes_can_be_switched_off() {
    let proxy = with("private_use_schemes: false").await;
    let cursor = [
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "https://www.cursor.com/agents/mcp/oauth/callback",
        "http://localhost:8787/callback",
    ];
    let answer = proxy.post_json("/register", &json!({"redirect_uris": cursor})).await.expect(201).json();
    assert_eq!(uris(&answer), cursor[1..]);
    let answer = proxy.post_json("/register", &json!({"redirect_uris": cursor[..1]})).await.expect(400);
    assert_eq!(answer.error(), "invalid_redirect_uri");
    assert!(answer.text().contains("private-use"), "{}", answer.text());
}

/// A client that registered while the schemes were allowed loses that one URI when they are not any more.
#[tokio::test(flavor = "multi_thread")]
async fn switching_private_use_schemes_off_counts_for_clients_registered_before() {
    let keys = format!("keys: [{}]", key(7));
    let open = with(&keys).await;
    let id = open.register(&["cursor://anysphere.cursor-mcp/oauth/callback", CALLBACK]).await;
    let shut = with(&format!("{keys}\nprivate_use_schemes: false")).await;
    let url = shut.authorize_url(&id, "cursor://anysphere.cursor-mcp/oauth/callback", &[]);
    shut.get(&path(&url)).await.expect(400);
    shut.get(&path(&shut.authorize_url(&id, CALLBACK, &[]))).await.expect(200);
}

/// clients.md: it declares `none`, yet refuses an answer without a secret.
#[tokio::test(flavor = "multi_thread")]
async fn perplexity_gets_the_secret_it_cannot_do_without() {
    let proxy = Proxy::start().await;
    for (uri, method) in [
        ("https://www.perplexity.ai/rest/connections/oauth_callback", "client_secret_post"),
        ("https://enterprise.perplexity.ai/rest/connections/oauth_callback", "client_secret_post"),
        ("https://www.perplexity.ai.evil.test/rest/connections/oauth_callback", "none"),
        ("https://evil.test/?https://www.perplexity.ai/", "none"),
    ] {
        for metadata in [
            json!({"redirect_uris": [uri], "token_endpoint_auth_method": "none"}),
            json!({"redirect_uris": [uri]}),
        ] {
            let answer = proxy.post_json("/register", &metadata).await.expect(201).json();
            assert_eq!(answer["token_endpoint_auth_method"], method, "{metadata}");
            assert_eq!(answer.get("client_secret").is_some(), method != "none", "{metadata}");
        }
    }
}

// DR-06
#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_choose_what_is_ours_to_choose() {
    let proxy = Proxy::start().await;
    let victim = proxy.register(&[CALLBACK]).await;
    for id in [victim.as_str(), "https://app.example/client.json", "x"] {
        let metadata = json!({
            "redirect_uris": ["https://evil.test/cb"],
            "client_id": id,
            "client_secret": "chosen",
            "client_secret_expires_at": 1,
            "client_id_issued_at": 1,
            "scope": "*",
        });
        let answer = proxy.post_json("/register", &metadata).await.expect(201).json();
        let own = answer["client_id"].as_str().expect("an id");
        assert!(own != id && !own.starts_with("https:"), "{own}");
        assert!(answer.get("client_secret").is_none() && answer["client_id_issued_at"] != 1);
    }
    // The victim's registration is what it was.
    proxy.get(&path(&proxy.authorize_url(&victim, CALLBACK, &[]))).await.expect(200);
    proxy.get(&path(&proxy.authorize_url(&victim, "https://evil.test/cb", &[]))).await.expect(400);
}

// DR-07
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_promised_is_refused_or_left_out() {
    let proxy = Proxy::start().await;
    for (member, value) in [
        ("token_endpoint_auth_method", json!("private_key_jwt")),
        ("token_endpoint_auth_method", json!("client_secret_jwt")),
        ("token_endpoint_auth_method", json!("tls_client_auth")),
        ("token_endpoint_auth_method", json!("")),
        ("token_endpoint_auth_method", json!("NONE")),
        ("grant_types", json!(["implicit"])),
        ("grant_types", json!(["client_credentials"])),
        ("grant_types", json!(["refresh_token"])),
        ("response_types", json!(["token"])),
        ("response_types", json!(["code token"])),
    ] {
        let metadata = json!({"redirect_uris": [CALLBACK], member: value});
        let answer = proxy.post_json("/register", &metadata).await;
        assert_eq!(answer.status, 400, "{metadata}");
        assert_eq!(answer.error(), "invalid_client_metadata", "{metadata}");
    }
    for (member, value) in [
        ("grant_types", json!(["authorization_code"])),
        ("grant_types", json!([])),
        (
            "grant_types",
            json!(["implicit", "authorization_code", "urn:ietf:params:oauth:grant-type:device_code"]),
        ),
        ("response_types", json!(["code", "token"])),
        ("application_type", json!("web")),
        ("application_type", json!("nonsense")),
        ("scope", json!("read write delete")),
    ] {
        let metadata = json!({"redirect_uris": [CALLBACK], member: value});
        let answer = proxy.post_json("/register", &metadata).await.expect(201).json();
        assert_eq!(answer["grant_types"], json!(["authorization_code", "refresh_token"]), "{metadata}");
        assert_eq!(answer["response_types"], json!(["code"]), "{metadata}");
    }
}

// DR-03, AS-R6
#[tokio::test(flavor = "multi_thread")]
async fn broken_metadata_is_a_json_error() {
    let proxy = Proxy::start().await;
    let nested =
        |open: &str, close: &str| format!("{{\"x\":{}{}}}", open.repeat(20_000), close.repeat(20_000));
    let bodies: [Bytes; 21] = [
        "".into(),
        "{".into(),
        "null".into(),
        "[]".into(),
        "\"text\"".into(),
        "1".into(),
        "{\"redirect_uris\":\"https://app.example/cb\"}".into(),
        "{\"redirect_uris\":{\"0\":\"https://app.example/cb\"}}".into(),
        "{\"redirect_uris\":[1]}".into(),
        "{\"redirect_uris\":[null]}".into(),
        "{\"redirect_uris\":[\"https://a.example/\"],\"client_name\":7}".into(),
        "{\"redirect_uris\":[\"https://a.example/\"],\"grant_types\":\"authorization_code\"}".into(),
        "{\"redirect_uris\":[\"https://a.example/\"],\"redirect_uris\":[\"https://b.example/\"]}".into(),
        "{\"redirect_uris\":[\"https://a.example/\"]}{}".into(),
        "{\"redirect_uris\":[\"https://a.example/\"],}".into(),
        Bytes::from_static(b"{\"redirect_uris\":[\"https://a.example/\"],\"client_name\":\"\xff\"}"),
        Bytes::from_static(b"{\"redirect_uris\":[\"https://a.example/\xc0\xaf\"]}"),
        nested("[", "]").into(),
        nested("{\"a\":", "}").into(),
        format!("{{{}}}", (0..100_000).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",")).into(),
        format!("{{{}}}", (0..6_000).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",")).into(),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = raw(&proxy, "application/json", body).await;
        assert!([400, 413].contains(&answer.status), "{shown}: {} {}", answer.status, answer.text());
        let expected = ["invalid_client_metadata", "invalid_redirect_uri", "content_too_large"];
        assert!(expected.contains(&&*answer.error()), "{shown}");
        assert!(!answer.text().contains("example"), "{shown} is not quoted: {}", answer.text());
    }
    // A number out of range in a member nobody reads is nobody's business.
    let odd =
        raw(&proxy, "application/json", "{\"redirect_uris\":[\"https://a.example/\"],\"x\":1e999}").await;
    assert!([201, 400].contains(&odd.status));
}

/// A sequence is no metadata, even one whose items happen to be in the right order.
#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_not_an_object() {
    let proxy = Proxy::start().await;
    let body = "[[\"https://a.example/\"],\"Name\",\"none\",null,null]";
    let answer = raw(&proxy, "application/json", body).await.expect(400);
    assert_eq!(answer.error(), "invalid_client_metadata");
}

// DR-03: a page of another origin can send these without a preflight.
#[tokio::test(flavor = "multi_thread")]
async fn only_json_is_read_as_json() {
    let proxy = Proxy::start().await;
    let body = json!({"redirect_uris": [CALLBACK]}).to_string();
    for kind in
        ["text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data", "text/json", "json"]
    {
        let answer = raw(&proxy, kind, body.clone()).await.expect(400);
        assert_eq!(answer.error(), "invalid_client_metadata", "{kind}");
    }
    for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        raw(&proxy, kind, body.clone()).await.expect(201);
    }
}

// DR-03, AS-R8
#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_64_kib_is_refused() {
    let proxy = Proxy::start().await;
    let padded = |length: usize| {
        let shell = json!({"redirect_uris": [CALLBACK], "x": ""}).to_string();
        shell.replace("\"x\":\"\"", &format!("\"x\":\"{}\"", "y".repeat(length - shell.len())))
    };
    assert_eq!(padded(65_536).len(), 65_536);
    raw(&proxy, "application/json", padded(65_536)).await.expect(201);
    let answer = raw(&proxy, "application/json", padded(65_537)).await.expect(413);
    assert_eq!(answer.error(), "content_too_large");
    raw(&proxy, "application/json", padded(2 << 20)).await.expect(413);
}

// DR-09
#[tokio::test(flavor = "multi_thread")]
async fn with_registration_off_nobody_registers_and_no_registration_starts_a_login() {
    let keys = format!("keys: [{}]", key(7));
    let open = with(&keys).await;
    let id = open.register(&[CALLBACK]).await;
    let proxy = with(&format!("{keys}\nregistration: off")).await;
    let answer = proxy.post_json("/register", &json!({"redirect_uris": [CALLBACK]})).await.expect(403);
    assert_eq!(answer.error(), "access_denied");
    // "only configured clients and metadata documents": one that registered before is neither.
    proxy.get(&path(&proxy.authorize_url(&id, CALLBACK, &[]))).await.expect(400);
}

// AS-R11
#[tokio::test(flavor = "multi_thread")]
async fn registrations_survive_a_restart() {
    let dir = TempDir::new();
    let store = format!("sqlite:{}", dir.path().join("proxy.db").display());
    let mut proxy = Proxy::with(Setup { store, ..Setup::default() }).await;
    let metadata = json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post"});
    let client = proxy.post_json("/register", &metadata).await.expect(201).json();
    let (id, secret) =
        (client["client_id"].as_str().expect("text"), client["client_secret"].as_str().expect("text"));
    proxy.restart().await;
    let back = proxy.browser().approve(&proxy.authorize_url(id, CALLBACK, &[])).await;
    let code = param(&back, "code").expect("a code");
    redeem(&proxy, id, secret, &code, "post").await.expect(200);
}

// SE-10: rotation goes unnoticed, a dropped key ends what it wrote.
#[tokio::test(flavor = "multi_thread")]
async fn key_rotation_keeps_clients_and_a_dropped_key_drops_them() {
    let metadata = json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post"});
    let old = with(&format!("keys: [{}]", key(1))).await;
    let client = old.post_json("/register", &metadata).await.expect(201).json();
    let (id, secret) =
        (client["client_id"].as_str().expect("text"), client["client_secret"].as_str().expect("text"));
    let both = with(&format!("keys: [{}, {}]", key(2), key(1))).await;
    let back = both.browser().approve(&both.authorize_url(id, CALLBACK, &[])).await;
    let answer = redeem(&both, id, secret, &param(&back, "code").expect("a code"), "post").await.expect(200);
    Tokens::read(id.to_owned(), answer.json());
    let fresh = both.register(&[CALLBACK]).await;
    let new = with(&format!("keys: [{}]", key(2))).await;
    new.get(&path(&new.authorize_url(&fresh, CALLBACK, &[]))).await.expect(200);
    new.get(&path(&new.authorize_url(id, CALLBACK, &[]))).await.expect(400);
    // DR-08: the code that makes clients register again.
    let answer = redeem(&new, id, secret, "x", "post").await.expect(401);
    assert_eq!(answer.error(), "invalid_client");
}

/// Thirty-two bytes that look random enough, in base64.
fn key(seed: u8) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let bytes = sha2::Sha256::digest([seed]);
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The client_id travels in every URL and in every token request: 90 to 250 characters for real clients.
#[tokio::test(flavor = "multi_thread")]
async fn ids_of_real_clients_are_short() {
    let proxy = Proxy::start().await;
    for (name, uris) in [
        ("Claude Code (github)", ["http://localhost:54545/callback"].as_slice()),
        ("Claude", &["https://claude.ai/api/mcp/auth_callback"]),
        ("MCP Inspector", &["http://localhost:6274/oauth/callback"]),
        (
            "Visual Studio Code",
            &[
                "https://insiders.vscode.dev/redirect",
                "https://vscode.dev/redirect",
                "http://127.0.0.1/",
                "http://127.0.0.1:33418/",
            ],
        ),
        (
            "Cursor",
            &[
                "cursor://anysphere.cursor-mcp/oauth/callback",
                "https://www.cursor.com/agents/mcp/oauth/callback",
                "http://localhost:8787/callback",
            ],
        ),
    ] {
        let metadata =
            json!({"client_name": name, "redirect_uris": uris, "token_endpoint_auth_method": "none"});
        let answer = proxy.post_json("/register", &metadata).await.expect(201).json();
        let length = answer["client_id"].as_str().expect("an id").len();
        println!("{name}: {length}");
        assert!((90..=250).contains(&length), "{name}: {length}");
    }
}

/// A changed id is no id.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_or_changed_id_is_unknown() {
    let proxy = Proxy::start().await;
    let id = proxy.register(&[CALLBACK]).await;
    let flipped = |at: usize| {
        let mut bytes = id.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).expect("ASCII")
    };
    let mut forged: Vec<String> = (0..id.len()).map(flipped).collect();
    forged.extend([format!("{id}A"), id[..id.len() - 1].to_owned(), "mcp-client-".to_owned()]);
    for id in forged {
        let answer = proxy.get(&path(&proxy.authorize_url(&id, CALLBACK, &[]))).await;
        assert_eq!(answer.status, 400, "{id}");
    }
}

// CO-17, SE-03
#[tokio::test(flavor = "multi_thread")]
async fn names_are_made_fit_to_be_shown() {
    let proxy = Proxy::start().await;
    for (name, shown) in [
        ("Plain", "Plain"),
        ("  two\n words\t", "two words"),
        ("a\u{202e}b\u{200b}c\u{0}d\u{1b}[31m", "abcd[31m"),
        ("", "Unnamed client"),
        ("\u{feff}", "Unnamed client"),
        ("GitHub ✔", "GitHub ✔"),
        ("日本語", "日本語"),
    ] {
        let metadata = json!({"client_name": name, "redirect_uris": [CALLBACK]});
        let answer = proxy.post_json("/register", &metadata).await.expect(201).json();
        assert_eq!(answer["client_name"], shown, "stored is echoed");
    }
    let metadata = json!({"client_name": "é".repeat(4096), "redirect_uris": [CALLBACK]});
    let answer = proxy.post_json("/register", &metadata).await.expect(201).json();
    assert_eq!(answer["client_name"].as_str().expect("text").chars().count(), 80);
}

// DR-05, CO-17: what a client says of itself is neither fetched nor shown.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_client_names_is_fetched() {
    let canary = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let own = format!("http://{}/canary", canary.local_addr().expect("bound"));
    let proxy = Proxy::start().await;
    for url in [&*own, "http://169.254.169.254/latest/canary", "file:///etc/canary", "javascript:canary()"] {
        let metadata = json!({
            "redirect_uris": [CALLBACK],
            "logo_uri": url,
            "client_uri": url,
            "tos_uri": url,
            "policy_uri": url,
            "jwks_uri": url,
            "sector_identifier_uri": url,
            "initiate_login_uri": url,
            "request_uris": [url],
            "software_statement": url,
        });
        let answer = proxy.post_json("/register", &metadata).await.expect(201);
        assert!(!answer.text().contains("canary"), "not promised: {}", answer.text());
        let client_id = answer.json()["client_id"].as_str().expect("an id").to_owned();
        let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
        let page = proxy.browser().get(&url).await.expect(200);
        assert!(!page.text().contains("canary"), "{}", page.text());
        let code = param(&proxy.browser().approve(&url).await, "code").expect("a code");
        proxy.redeem(&client_id, &code).await.expect(200);
    }
    let visit = tokio::time::timeout(std::time::Duration::from_millis(50), canary.accept()).await;
    assert!(visit.is_err(), "nobody came");
}

// DR-09: the addresses that RFC 7592 would have are not there, for whomever.
#[tokio::test(flavor = "multi_thread")]
async fn registrations_cannot_be_read_or_changed() {
    let proxy = Proxy::start().await;
    let (one, tokens) = (proxy.register(&[CALLBACK]).await, proxy.login().await);
    for path in [format!("/register/{one}"), "/register/".to_owned(), format!("/register?client_id={one}")] {
        for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
            let request = proxy.request(method.clone(), &path);
            let request = request.header(header::AUTHORIZATION, format!("Bearer {}", tokens.access));
            let request = request.header(header::CONTENT_TYPE, "application/json");
            let body = json!({"client_id": one, "redirect_uris": ["https://evil.test/cb"]}).to_string();
            let answer = proxy.send(request.body(Bytes::from(body)).expect("a request")).await;
            assert!([404, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
            assert!(!answer.text().contains(&one), "{method} {path}");
        }
    }
    proxy.get(&path(&proxy.authorize_url(&one, "https://evil.test/cb", &[]))).await.expect(400);
}
