//! The gate and the rim before it: who gets a challenge, who is refused, and that nothing of either reaches
//! an upstream. RFC 6750 §3; RFC 9728 §5.1; RFC 9112 §3.2; MCP transports, security warning.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Version, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::http::{self as plain, Answer};
use support::proxy::{PING, PUBLIC, Proxy, Setup, Tokens};
use support::raw;
use support::upstream::events;

const TWO: &str =
    r#"[{path: /u1, upstream: "MCP/mcp"}, {path: /u2, upstream: "MCP/mcp", scopes: [mcp, admin]}]"#;

async fn two() -> Proxy {
    Proxy::with(Setup { resources: TWO, ..Setup::default() }).await
}

/// The challenge of `/mcp`, with an error and its description or bare.
fn challenge(path: &str, error: Option<(&str, &str)>, scope: &str) -> String {
    let error = error.map(|(code, text)| format!("error=\"{code}\", error_description=\"{text}\", "));
    let metadata = format!("{PUBLIC}/.well-known/oauth-protected-resource{path}");
    format!("Bearer {}resource_metadata=\"{metadata}\", scope=\"{scope}\"", error.unwrap_or_default())
}

const INVALID: (&str, &str) =
    ("invalid_token", "the access token is expired, revoked or not for this resource");

async fn authorized(proxy: &Proxy, method: Method, path: &str, values: &[&[u8]]) -> Answer {
    let mut request = proxy.request(method, path);
    for value in values {
        let value = http::HeaderValue::from_bytes(value).expect("a header value");
        request = request.header(header::AUTHORIZATION, value);
    }
    proxy.send(request.body(Bytes::new()).unwrap()).await
}

#[track_caller]
fn is_short_json(answer: &Answer) {
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "no page asked");
    assert!(answer.body.len() < 300, "short: {}", answer.text());
}

// GT-22: a client in a page must be able to read why it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn pages_can_read_challenges_and_answers() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    for (token, status) in [("nonsense", 401), (&tokens.access, 200)] {
        let request = proxy.call("/mcp", token).header(header::ORIGIN, "http://localhost:6274");
        let answer = proxy.send(request.body(Bytes::new()).unwrap()).await.expect(status);
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(answer.header("access-control-expose-headers").contains("WWW-Authenticate"));
        assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    }
}

// TK-20, RS-T1, RS-E1, RS-E2, RS-E3
#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_every_method_gets_the_bare_challenge() {
    let proxy = two().await;
    for (path, scope) in [("/u1", "mcp"), ("/u1/", "mcp"), ("/u1?x=y", "mcp"), ("/u2", "admin mcp")] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let answer = authorized(&proxy, method, path, &[]).await.expect(401);
            let bare = path.split(['?']).next().unwrap().trim_end_matches('/');
            assert_eq!(answer.header("www-authenticate"), challenge(bare, None, scope));
            is_short_json(&answer);
        }
    }
    // RS-E7: the URL in the challenge works.
    let metadata = proxy.get("/.well-known/oauth-protected-resource/u2").await.expect(200).json();
    assert_eq!(metadata["resource"], format!("{PUBLIC}/u2"));
    // RS-T1: a session id is no authentication.
    let session = proxy.request(Method::POST, "/u1").header("mcp-session-id", "abc");
    proxy.send(session.body(Bytes::from_static(PING)).unwrap()).await.expect(401);
    assert!(proxy.mcp.heard().is_empty());
}

// TK-04, TK-16, TK-18, TK-20, RS-T2, RS-T5, RS-T6, RS-E5
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_one_good_token_is_refused() {
    let proxy = Proxy::start().await;
    // Another installation, with a key of its own.
    let extra = "keys: ['MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=']".to_owned();
    let elsewhere = Proxy::with(Setup { extra, ..Setup::default() }).await;
    let (_, code) = proxy.code(&[]).await;
    let tokens = proxy.login().await;
    let foreign = elsewhere.login().await;
    let github = proxy.github.world().live_tokens("octocat")[0].clone();
    let hs256 = "eyJhbGciOiJIUzI1NiJ9.eyJhdWQiOiJodHRwczovL3AudGVzdC9tY3AifQ.c2lnbmF0dXJlLXNpZ25hdHVyZQ";
    let none = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJodHRwczovL3AudGVzdC9tY3AifQ.";
    let bearer = |token: &str| format!("Bearer {token}").into_bytes();
    let posing = [tokens.refresh.replace("mapr_", "mapa_"), code.replace("mapc_", "mapa_")];
    let long = "x".repeat(30_000);
    let changed = format!("{}A", tokens.access);
    let invalid = [
        &github,
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        hs256,
        none,
        &foreign.access,
        &tokens.refresh,
        &code,
        &posing[0],
        &posing[1],
        &long,
        &changed,
        &tokens.access[5..],
        "mapa_",
        "undefined",
        "null",
        &format!("{} {}", tokens.access, tokens.access),
        &format!("\"{}\"", tokens.access),
    ];
    for token in invalid {
        let answer = authorized(&proxy, Method::POST, "/mcp", &[&bearer(token)]).await.expect(401);
        assert_eq!(answer.header("www-authenticate"), challenge("/mcp", Some(INVALID), "mcp"), "{token}");
        assert_eq!(answer.error(), "invalid_token");
        is_short_json(&answer);
        assert!(!answer.text().contains(token), "nothing is echoed");
    }
    // Credentials of another kind, or none behind the word: a client that logs in on 401 must see one.
    let tab = [b"Bearer\t", tokens.access.as_bytes()].concat();
    let odd: [&[u8]; 8] = [
        b"Bearer",
        b"Bearer ",
        b"",
        b"Basic YTpi",
        b"Digest x",
        tokens.access.as_bytes(),
        &tab,
        b"Bearer \xff\x80",
    ];
    for value in odd {
        let answer = authorized(&proxy, Method::POST, "/mcp", &[value]).await.expect(401);
        assert!(answer.header("www-authenticate").starts_with("Bearer "), "{value:?}");
        is_short_json(&answer);
    }
    // RFC 6750 §3.1: two are a malformed request, even two good ones.
    let good = bearer(&tokens.access);
    for values in [[&good[..], &good], [&good, b"Basic YTpi"], [b"Basic YTpi", &good]] {
        let answer = authorized(&proxy, Method::POST, "/mcp", &values).await.expect(400);
        assert_eq!(answer.error(), "invalid_request");
        assert!(answer.header("www-authenticate").contains("error=\"invalid_request\""));
    }
    assert!(proxy.mcp.heard().is_empty());
    for scheme in ["Bearer", "bearer", "BEARER", "Bearer ", "bEARER  "] {
        let value = format!("{scheme} {} ", tokens.access);
        authorized(&proxy, Method::POST, "/mcp", &[value.as_bytes()]).await.expect(200);
    }
}

// TK-18, DS-03
#[tokio::test(flavor = "multi_thread")]
async fn oversized_and_broken_heads_are_refused() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let head = format!("POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n", tokens.access);
    let nul = format!("{head}X-A: a\0b\r\n\r\n");
    let cr = format!("{head}X-A: a\rX-B: c\r\n\r\n");
    let big = format!("{head}X-A: {}\r\n\r\n", "a".repeat(64 << 10));
    let many = format!("{head}{}\r\n", "X-A: a\r\n".repeat(1_000));
    let token = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n\r\n",
        "x".repeat(64 << 10)
    );
    let query = format!("GET /mcp?{} HTTP/1.1\r\nHost: p.test\r\n\r\n", "a=1&".repeat(100_000));
    let target = format!("GET /mcp?{} HTTP/1.1\r\nHost: p.test\r\n\r\n", "a=1&".repeat(10_000));
    let body = format!("{head}Content-Length: {}\r\n\r\n", (64 << 20) + 1);
    for (request, statuses) in [
        (&nul, &[400][..]),
        (&cr, &[400]),
        (&big, &[431]),
        (&many, &[431]),
        (&token, &[431]),
        (&query, &[414, 431]),
        (&target, &[414]),
        (&body, &[413]),
    ] {
        let answer = raw::say(proxy.address(), request.as_bytes()).await;
        assert!(statuses.contains(&raw::status(&answer)), "{statuses:?}: {answer}");
        assert!(!answer.contains(&tokens.access) && !answer.contains("xxxx"), "nothing is echoed");
    }
    assert!(proxy.mcp.heard().is_empty());
}

// TK-03, RS-T3
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_at_its_own_resource_only() {
    let proxy = two().await;
    let one = proxy.login_for(&[("resource", "https://p.test/u1")]).await;
    let two = proxy.login_for(&[("resource", "https://p.test/u2")]).await;
    for (token, path, scope) in [(&two.access, "/u1", "mcp"), (&one.access, "/u2", "admin mcp")] {
        let answer = proxy.send(proxy.call(path, token).body(Bytes::new()).unwrap()).await.expect(401);
        assert_eq!(answer.header("www-authenticate"), challenge(path, Some(INVALID), scope));
    }
    assert!(proxy.mcp.heard().is_empty());
    proxy.send(proxy.call("/u1", &one.access).body(Bytes::new()).unwrap()).await.expect(200);
    proxy.send(proxy.call("/u2", &two.access).body(Bytes::new()).unwrap()).await.expect(200);
}

// TK-20
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    proxy.forward(Duration::from_secs(8 * 3_600 - 1));
    proxy.ping(&tokens.access).await.expect(200);
    proxy.forward(Duration::from_secs(1));
    let answer = proxy.ping(&tokens.access).await.expect(401);
    assert_eq!(answer.header("www-authenticate"), challenge("/mcp", Some(INVALID), "mcp"));
    assert_eq!(proxy.mcp.heard().len(), 1);
}

// TK-20, RS-E4
#[tokio::test(flavor = "multi_thread")]
async fn too_little_scope_is_403_and_says_all_that_is_needed() {
    let proxy = two().await;
    let wide = proxy.login_for(&[("resource", "https://p.test/u2"), ("scope", "mcp admin")]).await;
    let pairs = [
        ("grant_type", "refresh_token"),
        ("refresh_token", &wide.refresh),
        ("client_id", &wide.client_id),
        ("scope", "admin"),
    ];
    let narrow = proxy.post_form("/token", &pairs).await.expect(200).json();
    let narrow = Tokens::read(wide.client_id.clone(), narrow);
    let answer = proxy.send(proxy.call("/u2", &narrow.access).body(Bytes::new()).unwrap()).await.expect(403);
    let text = "the access token does not carry every scope this resource needs";
    let expected = challenge("/u2", Some(("insufficient_scope", text)), "admin mcp");
    assert_eq!(answer.header("www-authenticate"), expected);
    is_short_json(&answer);
    assert!(proxy.mcp.heard().is_empty());
}

// TK-15, RS-T4
#[tokio::test(flavor = "multi_thread")]
async fn tokens_elsewhere_than_in_the_header_do_not_count_and_do_not_pass() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let token = &tokens.access;
    let form = "application/x-www-form-urlencoded";
    let query = format!("/mcp?access_token={token}");
    for (path, name, value, body) in [
        (query.as_str(), "accept", "*/*".to_owned(), String::new()),
        ("/mcp", "content-type", form.to_owned(), format!("access_token={token}")),
        ("/mcp", "cookie", format!("access_token={token}"), String::new()),
        ("/mcp", "x-access-token", token.clone(), String::new()),
        ("/mcp", "proxy-authorization", format!("Bearer {token}"), String::new()),
        ("/mcp", "x-forwarded-authorization", format!("Bearer {token}"), String::new()),
    ] {
        let request = proxy.request(Method::POST, path).header(name, value);
        let answer = proxy.send(request.body(Bytes::from(body)).unwrap()).await.expect(401);
        assert_eq!(answer.header("www-authenticate"), challenge("/mcp", None, "mcp"));
    }
    assert!(proxy.mcp.heard().is_empty());
    // With a good header the request passes, the token in the query does not, however it is spelt.
    for (query, left) in [
        (format!("a=1&access_token={token}&b=%41"), "/mcp?a=1&b=%41"),
        (format!("access%5Ftoken={token}"), "/mcp"),
        (format!("%61ccess_token={token}&a=1"), "/mcp?a=1"),
    ] {
        let request = proxy.call(&format!("/mcp?{query}"), token).header("cookie", "a=b");
        proxy.send(request.body(Bytes::from_static(PING)).unwrap()).await.expect(200);
        let heard = proxy.mcp.last();
        assert_eq!(heard.target, left);
        assert!(!heard.headers.contains_key("cookie"));
    }
}

// GT-21, RS-O1, GT-20
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_foreign_origins_are_refused_before_anything_else() {
    let extra = "allowed_origins: ['https://app.example']".to_owned();
    let proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let ask = |origins: &[&'static str], method: Method| {
        let mut request = proxy.call("/mcp", &tokens.access).method(method);
        for origin in origins {
            request = request.header(header::ORIGIN, *origin);
        }
        proxy.send(request.body(Bytes::new()).unwrap())
    };
    for bad in [
        &["null"][..],
        &["https://p.test.evil"],
        &["https://p.test@evil"],
        &["file://"],
        &["http://p.test"],
        &["https://p.test:8443"],
        &["https://p.test", "https://p.test"],
        &["https://app.example", "https://evil.test"],
        &["http://attacker.test"],
        &[""],
    ] {
        for method in [Method::POST, Method::GET, Method::DELETE, Method::OPTIONS] {
            let answer = ask(bad, method).await.expect(403);
            assert!(!answer.headers.contains_key("access-control-allow-origin"), "{bad:?}");
        }
    }
    assert!(proxy.mcp.heard().is_empty());
    for good in [&[][..], &["https://p.test"], &["https://app.example"], &["http://localhost:6274"]] {
        ask(good, Method::POST).await.expect(200);
    }
}

// GT-22, RS-O3
#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_answered_without_a_token_and_never_with_credentials() {
    let proxy = Proxy::start().await;
    let preflight = |path: &str| {
        let request = proxy
            .request(Method::OPTIONS, path)
            .header(header::ORIGIN, "http://localhost:6274")
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,mcp-param-x");
        proxy.send(request.body(Bytes::new()).unwrap())
    };
    let open = ["/mcp", "/token", "/register", "/revoke", "/.well-known/oauth-protected-resource/mcp"];
    for path in open.into_iter().chain(["/.well-known/oauth-authorization-server"]) {
        let answer = preflight(path).await.expect(204);
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
        assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{path}");
        let allowed = answer.header("access-control-allow-headers").to_ascii_lowercase();
        for name in
            ["authorization", "content-type", "mcp-protocol-version", "mcp-session-id", "last-event-id"]
        {
            assert!(allowed.contains(name), "{path}: {name}");
        }
    }
    for path in ["/authorize", "/consent", "/github/callback", "/"] {
        let answer = preflight(path).await;
        assert!(answer.status >= 400, "{path}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}");
    }
    assert!(proxy.mcp.heard().is_empty());
}

// GT-18, GT-19, GT-20, RS-O2
#[tokio::test(flavor = "multi_thread")]
async fn only_requests_for_our_own_host_are_answered() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let auth = format!("Authorization: Bearer {}\r\n", tokens.access);
    let evil = "Host: attacker.test\r\nOrigin: http://attacker.test\r\n";
    for (line, headers, statuses) in [
        ("POST /mcp HTTP/1.1", "Host: evil\r\n", &[421, 400][..]),
        ("POST /mcp HTTP/1.1", "", &[400]),
        ("POST /mcp HTTP/1.0", "", &[400]),
        ("POST /mcp HTTP/1.1", "Host:\r\n", &[421, 400]),
        ("POST /mcp HTTP/1.1", "Host: p.test\r\nHost: p.test\r\n", &[400]),
        ("POST /mcp HTTP/1.1", "Host: p.test\r\nHost: evil\r\n", &[400]),
        ("POST /mcp HTTP/1.1", "Host: evil@p.test\r\n", &[421, 400]),
        ("POST /mcp HTTP/1.1", "Host: p.test:8443\r\n", &[421]),
        ("POST /mcp HTTP/1.1", "Host: p.test, evil\r\n", &[421, 400]),
        ("POST /mcp HTTP/1.1", evil, &[403, 421]),
        ("GET http://169.254.169.254/ HTTP/1.1", "Host: p.test\r\n", &[400, 421]),
        ("GET http://169.254.169.254/mcp HTTP/1.1", "Host: 169.254.169.254\r\n", &[400, 421]),
        ("POST http://other/mcp HTTP/1.1", "Host: other\r\n", &[400, 421]),
        ("POST http://other/mcp HTTP/1.1", "Host: p.test\r\n", &[400, 421]),
        ("OPTIONS * HTTP/1.1", "Host: p.test\r\n", &[400, 404]),
        ("CONNECT h:443 HTTP/1.1", "Host: h:443\r\n", &[400, 405, 421]),
        ("CONNECT p.test:443 HTTP/1.1", "Host: p.test:443\r\n", &[400, 405, 421]),
        ("TRACE /mcp HTTP/1.1", "Host: p.test\r\n", &[405]),
        ("PUT /mcp HTTP/1.1", "Host: p.test\r\nX-HTTP-Method-Override: POST\r\n", &[405]),
        ("PROPFIND /mcp HTTP/1.1", "Host: p.test\r\n", &[405]),
        ("HEAD /mcp HTTP/1.1", "Host: p.test\r\n", &[405]),
        ("post /mcp HTTP/1.1", "Host: p.test\r\n", &[405, 400]),
    ] {
        let request = format!("{line}\r\n{headers}{auth}Connection: close\r\n\r\n");
        let answer = raw::say(proxy.address(), request.as_bytes()).await;
        assert!(statuses.contains(&raw::status(&answer)), "{line} {headers}: {answer}");
        assert!(!answer.contains(&tokens.access), "nothing is echoed: {answer}");
        let lower = answer.to_ascii_lowercase();
        assert!(!lower.contains("attacker.test") && !lower.contains("evil"), "{answer}");
    }
    assert!(proxy.mcp.heard().is_empty());
    for (line, headers) in [
        ("POST http://p.test/mcp HTTP/1.1", "Host: p.test\r\n"),
        ("POST /mcp HTTP/1.1", "Host: P.TEST:443\r\n"),
        ("POST /mcp HTTP/1.0", "Host: p.test\r\n"),
        ("POST /mcp HTTP/1.1", "Host: p.test\r\nX-HTTP-Method-Override: DELETE\r\n"),
        (
            "POST /mcp HTTP/1.1",
            "Host: p.test\r\nUpgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ),
    ] {
        let request = format!("{line}\r\n{headers}{auth}Content-Length: 2\r\n\r\n{{}}");
        let answer = raw::say(proxy.address(), request.as_bytes()).await;
        assert_eq!(raw::status(&answer), 200, "{line} {headers}: {answer}");
        let heard = proxy.mcp.last();
        assert_eq!((heard.method.as_str(), heard.target.as_str()), ("POST", "/mcp"));
        for gone in ["upgrade", "http2-settings", "x-http-method-override"] {
            assert!(!heard.headers.contains_key(gone), "{gone}");
        }
    }
}

// GT-14, GT-19: what a stranger says of our name never shows.
#[tokio::test(flavor = "multi_thread")]
async fn forwarding_headers_change_no_url_of_ours() {
    let proxy = Proxy::start().await;
    let paths =
        ["/mcp", "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-authorization-server", "/"];
    for path in paths {
        let mut request = proxy.request(Method::GET, path);
        for name in [
            "x-forwarded-host",
            "x-forwarded-server",
            "x-original-host",
            "x-mcp-oauth-proxy-url",
            "x-forwarded-prefix",
        ] {
            request = request.header(name, "evil.test");
        }
        let forwarded = "for=1.2.3.4;host=evil.test;proto=http";
        let request = request.header("forwarded", forwarded).header("x-forwarded-proto", "http");
        let request = request.header("x-original-url", "/healthz").header("x-rewrite-url", "/healthz");
        let answer = proxy.send(request.body(Bytes::new()).unwrap()).await;
        assert!(!format!("{answer:?}").contains("evil.test"), "{answer:?}");
        let plain = proxy.get(path).await;
        assert_eq!((answer.status, &answer.body), (plain.status, &plain.body), "{path}");
    }
}

// GT-15, GT-16, PX-H10, TK-21
#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_paths_lead_nowhere() {
    let proxy = two().await;
    let tokens = proxy.login_for(&[("resource", "https://p.test/u1")]).await;
    let with_token = format!("Authorization: Bearer {}\r\n", tokens.access);
    for path in [
        "//u1",
        "/./u1",
        "/x/../u1",
        "/%75%31",
        "/u1%2f",
        "/u1%2F",
        "/u1;x",
        "/U1",
        "\\u1",
        "/u1%00",
        "/%252e/u1",
        "/u1//",
        "/u1/.",
        "/u1/..",
        "/u1/x",
        "/u2/../u1",
        "/u1%20",
        "/u1%0d%0a",
        "/u1\"",
        "/u1,",
        "/u1\\",
        "/\u{fc}",
        "/u1/%2e%2e/u2",
        "/.well-known/../u1",
    ] {
        for auth in ["", &with_token] {
            let request = format!("POST {path} HTTP/1.1\r\nHost: p.test\r\n{auth}Content-Length: 0\r\n\r\n");
            let answer = raw::say(proxy.address(), request.as_bytes()).await;
            assert!([400, 404].contains(&raw::status(&answer)), "{path}: {answer}");
            assert!(!answer.to_ascii_lowercase().contains("\nwww-authenticate:"), "{path}: {answer}");
        }
    }
    assert!(proxy.mcp.heard().is_empty());
    // PX-V6
    proxy.send(proxy.call("/u1/", &tokens.access).body(Bytes::new()).unwrap()).await.expect(200);
    assert_eq!(proxy.mcp.last().target, "/mcp");
}

// TK-21: whatever stands behind the path, the challenge is ours alone.
#[tokio::test(flavor = "multi_thread")]
async fn no_query_gets_into_a_challenge() {
    let proxy = two().await;
    for query in [
        "a=\"",
        "\\",
        ",",
        "x=%22%0d%0aX:y",
        "%zz",
        "a=%00",
        "scope=\"evil\"",
        "\u{fc}",
        "resource_metadata=x",
    ] {
        let request = format!("POST /u1?{query} HTTP/1.1\r\nHost: p.test\r\nContent-Length: 0\r\n\r\n");
        let answer = raw::say(proxy.address(), request.as_bytes()).await;
        if raw::status(&answer) == 400 {
            continue;
        }
        assert_eq!(raw::status(&answer), 401, "{query}: {answer}");
        let expected = format!("www-authenticate: {}\r\n", challenge("/u1", None, "mcp"));
        assert!(answer.contains(&expected), "{query}: {answer}");
    }
    assert!(proxy.mcp.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_opens_a_resource_gets_a_page_with_the_challenge() {
    let proxy = Proxy::start().await;
    let open = |accept: &'static str| {
        let request = proxy.request(Method::GET, "/mcp").header(header::ACCEPT, accept);
        proxy.send(request.body(Bytes::new()).unwrap())
    };
    let page = open("text/html,application/xhtml+xml,*/*;q=0.8").await.expect(401);
    assert!(page.header("content-type").starts_with("text/html"));
    assert_eq!(page.header("www-authenticate"), challenge("/mcp", None, "mcp"));
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    assert_eq!(open("text/event-stream").await.expect(401).header("content-type"), "application/json");
    assert_eq!(open("*/*").await.expect(401).header("content-type"), "application/json");
}

// PX-S14, GT-07
#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge_carries_calls_and_streams() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = |url: &str, host: Option<&str>| {
        let request = Request::builder().method(Method::POST).uri(url).version(Version::HTTP_2);
        let request = request.header("authorization", format!("Bearer {}", tokens.access));
        let request = host.into_iter().fold(request, |request, host| request.header("host", host));
        request.header("accept", "text/event-stream").body(Full::new(Bytes::from_static(PING))).unwrap()
    };
    let answer = sender.clone().send_request(request("https://p.test/mcp", None)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), support::upstream::RESULT);
    let heard = proxy.mcp.last();
    assert_eq!((heard.method.as_str(), heard.target.as_str(), &heard.body[..]), ("POST", "/mcp", PING));
    assert!(heard.header("host").starts_with("127.0.0.1:"));

    // GT-07: the two names of the host must agree, and be ours.
    for (url, host) in [
        ("https://p.test/mcp", Some("evil")),
        ("https://evil/mcp", None),
        ("https://evil/mcp", Some("p.test")),
    ] {
        let answer = sender.clone().send_request(request(url, host)).await.unwrap();
        assert!([400, 421].contains(&answer.status().as_u16()), "{url} {host:?}: {}", answer.status());
    }
    assert_eq!(proxy.mcp.heard().len(), 1);

    // Two streams on one connection, frame by frame.
    let (feeds, mut fed) = tokio::sync::mpsc::unbounded_channel();
    proxy.mcp.say(move |_| {
        let (response, feed) = events();
        let _ = feeds.send(feed);
        response
    });
    let mut first =
        sender.clone().send_request(request("https://p.test/mcp", None)).await.unwrap().into_body();
    let first_feed = fed.recv().await.unwrap();
    let mut second =
        sender.clone().send_request(request("https://p.test/mcp", None)).await.unwrap().into_body();
    let second_feed = fed.recv().await.unwrap();
    for n in 0..3 {
        for (feed, body) in [(&second_feed, &mut second), (&first_feed, &mut first)] {
            let event = format!("data: {n}\n\n");
            feed.send(Ok(Bytes::from(event.clone()))).unwrap();
            assert_eq!(plain::next(body).await.unwrap().unwrap(), event);
        }
    }
    drop(first_feed);
    assert!(plain::next(&mut first).await.is_none(), "a clean end");
    second_feed.send(Err(std::io::Error::other("dies"))).unwrap();
    assert!(plain::next(&mut second).await.unwrap().is_err(), "a dying upstream is no clean end");
}
