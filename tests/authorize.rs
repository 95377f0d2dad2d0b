//! The authorization request: where an error may go, and what is never believed.
//!
//! OAuth 2.1 §4.1; RFC 7636; RFC 8252 §7.3; RFC 8707 §2; RFC 9207; RFC 9700 §4.11.

mod support;

use bytes::Bytes;
use http::{Method, header};
use support::browser::onward;
use support::github::Endpoint;
use support::http::{Answer, form};
use support::proxy::{CALLBACK, CHALLENGE, PUBLIC, Proxy, Setup, Tokens, param};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const APP: &str = "https://app.example/cb";
const TWO: &str = r#"[{path: /u1, upstream: "MCP/u1", scopes: [read, write], github_scopes: [read:user, gist]}, {path: /u2, upstream: "MCP/u2"}]"#;
const CLIENTS: &str = r#"clients: [{id: web, name: Web, redirect_uris: [https://app.example/cb, "https://app.example/two?a=b"]},
  {id: one, redirect_uris: [https://app.example/cb]}, {id: native, redirect_uris: ["app.example:/cb"]}]"#;

async fn two() -> Proxy {
    Proxy::with(Setup { resources: TWO, extra: CLIENTS.to_owned(), ..Setup::default() }).await
}

async fn get(proxy: &Proxy, url: &str) -> Answer {
    let request = proxy.request(Method::GET, path(url)).header(header::ACCEPT, "text/html");
    proxy.send(request.body(Bytes::new()).expect("a request")).await
}

/// The plain request of a client, with some of its parameters changed.
async fn ask(proxy: &Proxy, client_id: &str, redirect_uri: &str, more: &[(&str, &str)]) -> Answer {
    get(proxy, &proxy.authorize_url(client_id, redirect_uri, more)).await
}

fn path(url: &str) -> &str {
    url.strip_prefix(PUBLIC).expect("ours")
}

/// For targets that our own client would refuse to send.
async fn status_of(proxy: &Proxy, url: &str) -> u16 {
    let mut stream = TcpStream::connect(proxy.address()).await.expect("connects");
    let request = format!("GET {} HTTP/1.1\r\nHost: p.test\r\n\r\n", path(url));
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.expect("an answer");
    let head = String::from_utf8_lossy(&head).into_owned();
    head.strip_prefix("HTTP/1.1 ").and_then(|status| status.parse().ok()).expect("a status")
}

/// A page of ours: never a redirect, nothing of the stranger's in it.
#[track_caller]
fn shown(answer: &Answer, case: &str) {
    assert_eq!(answer.status, 400, "{case}: {}", answer.text());
    assert_eq!(answer.header("location"), "", "{case}");
    assert_eq!(answer.header("set-cookie"), "", "{case}");
    assert!(answer.header("content-type").starts_with("text/html"), "{case}");
    let text = answer.text();
    assert!(
        !text.contains("href=") && !text.contains("<form") && !text.contains("http-equiv"),
        "{case}: {text}"
    );
    assert!(answer.body.len() <= 8 << 10, "{case}: {}", answer.body.len());
}

/// An error that went to the client.
#[track_caller]
fn told(answer: &Answer, to: &str, error: &str, case: &str) {
    assert_eq!(answer.status, 303, "{case}: {}", answer.text());
    let location = answer.header("location");
    assert!(location.starts_with(to), "{case}: {location}");
    assert_eq!(param(location, "error").as_deref(), Some(error), "{case}: {location}");
    assert_eq!(param(location, "iss").as_deref(), Some(PUBLIC), "{case}: AZ-22");
    assert_eq!(param(location, "code"), None, "{case}");
    assert_eq!(answer.header("cache-control"), "no-store", "{case}");
}

// AZ-01, AZ-04, AZ-09, AS-A1, AS-A2
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_uri_that_is_not_registered_is_never_followed() {
    let proxy = Proxy::start().await;
    let id = proxy
        .register(&["https://app.example/cb", "https://app.example/t?a=b", "https://xn--pp-7la.example/"])
        .await;
    for uri in [
        "https://app.example/cb/x",
        "https://app.example/cb?a=b",
        "https://app.example/cb?",
        "https://app.example/cb#f",
        "https://app.example/cb/",
        "https://app.example/other",
        "https://app.example/",
        "https://app.example",
        "https://sub.app.example/cb",
        "https://app.example.evil.test/cb",
        "https://app.example@evil.test/cb",
        "https://u:p@app.example/cb",
        "https://app.example:443/cb",
        "https://app.example:8443/cb",
        "http://app.example/cb",
        "HTTPS://app.example/cb",
        "https://APP.example/cb",
        "https://app.example/CB",
        "https://app.example/./cb",
        "https://app.example/x/../cb",
        "https://app.example//cb",
        "https://app.example/%63b",
        "https://app.example/cb%20",
        "https://app.example/cb ",
        " https://app.example/cb",
        "https://app.example/t",
        "https://app.example/t?a=b&c=d",
        "https://app.example/t?a=c",
        "https://\u{430}pp.example/",
        "https://\u{430}pp.example/cb",
        "https://app\u{3002}example/cb",
        "https://app.example/cb\u{202e}",
        "//app.example/cb",
        "/cb",
        "javascript:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,x",
        "https://evil.test/?https://app.example/cb",
        "https://app.example\\@evil.test/cb",
    ] {
        shown(&ask(&proxy, &id, uri, &[]).await, uri);
        // The same with every other parameter broken: still nothing is sent there.
        let broken = [("response_type", "token"), ("code_challenge", ""), ("resource", "x")];
        shown(&ask(&proxy, &id, uri, &broken).await, uri);
    }
    assert!(proxy.github.world().calls().is_empty());
}

// AZ-01
#[tokio::test(flavor = "multi_thread")]
async fn an_omitted_redirect_uri_means_the_only_one() {
    let proxy = Proxy::start().await;
    let one = proxy.register(&[CALLBACK]).await;
    let two = proxy.register(&[CALLBACK, APP]).await;
    let omitted = |id: &str| proxy.authorize_url(id, "", &[]).replace("redirect_uri=&", "");
    get(&proxy, &omitted(&one)).await.expect(200);
    shown(&get(&proxy, &omitted(&two)).await, "two are registered");
    let back = proxy.browser().approve(&omitted(&one)).await;
    assert!(back.starts_with(CALLBACK), "{back}");
}

// AZ-02, AZ-03, AS-A3, AS-A4
#[tokio::test(flavor = "multi_thread")]
async fn only_the_port_of_a_loopback_host_may_differ() {
    let proxy = Proxy::start().await;
    for (registered, good, bad) in [
        (
            "http://127.0.0.1/cb",
            ["http://127.0.0.1:51234/cb", "http://127.0.0.1/cb", "http://127.0.0.1:1/cb"],
            ["http://localhost:51234/cb", "http://[::1]:51234/cb", "https://127.0.0.1:51234/cb"],
        ),
        (
            "http://localhost:3118/cb",
            ["http://localhost:51234/cb", "http://localhost/cb", "http://localhost:80/cb"],
            ["http://127.0.0.1:3118/cb", "http://localhost:3118/cb/", "http://localhost:3118/cb?x=y"],
        ),
        (
            "http://[::1]/cb",
            ["http://[::1]:9/cb", "http://[::1]/cb", "http://[::1]:65535/cb"],
            ["http://127.0.0.1:9/cb", "http://[::2]:9/cb", "http://[0:0:0:0:0:0:0:1]:9/cb"],
        ),
        (
            "http://127.0.0.1:1455/cb/x?a=b",
            ["http://127.0.0.1:2/cb/x?a=b", "http://127.0.0.1/cb/x?a=b", "http://127.0.0.1:1455/cb/x?a=b"],
            [
                "http://127.0.0.1:1455/cb/y?a=b",
                "http://127.0.0.1:1455/cb/x?a=c",
                "http://127.0.0.1:1455/CB/x?a=b",
            ],
        ),
        (
            "http://127.0.0.1/",
            ["http://127.0.0.1:33418/", "http://127.0.0.1/", "http://127.0.0.1:4/"],
            ["http://127.0.0.1:33418", "http://127.0.0.1:33418/x", "http://127.0.0.1:99999/"],
        ),
    ] {
        let id = proxy.register(&[registered]).await;
        for uri in good {
            let answer = ask(&proxy, &id, uri, &[]).await;
            assert_eq!(answer.status, 200, "{registered} -> {uri}");
        }
        for uri in bad {
            shown(&ask(&proxy, &id, uri, &[]).await, &format!("{registered} -> {uri}"));
        }
    }
}

// AZ-02: Claude Code varies the port between the two requests.
#[tokio::test(flavor = "multi_thread")]
async fn the_code_goes_to_the_port_that_was_asked_for() {
    let proxy = Proxy::start().await;
    let id = proxy.register(&["http://127.0.0.1:1/callback"]).await;
    let back =
        proxy.browser().approve(&proxy.authorize_url(&id, "http://127.0.0.1:51234/callback", &[])).await;
    assert!(back.starts_with("http://127.0.0.1:51234/callback?code="), "{back}");
    proxy.redeem(&id, &param(&back, "code").expect("a code")).await.expect(200);
}

// AZ-12, AS-A1
#[tokio::test(flavor = "multi_thread")]
async fn unknown_clients_get_a_page_without_echo() {
    let proxy = Proxy::start().await;
    let long = "x".repeat(20_000);
    for id in [
        "unknown",
        "",
        "<script>alert(1)</script>",
        "\"><img src=x>",
        "mcp-client-",
        "mcp-client-AAAA",
        "mcp-client-!!!",
        "http://app.example/client.json",
        "javascript:alert(1)",
        "../../etc/passwd",
        "\u{202e}x",
        &long,
    ] {
        let answer = ask(&proxy, id, "https://evil.test/cb", &[]).await;
        shown(&answer, id);
        for echoed in ["evil.test", "alert", "<img", "passwd", "xxxxxxxx"] {
            assert!(!answer.text().contains(echoed), "{id}");
        }
    }
    // A head that is larger than any real one.
    let status = status_of(&proxy, &proxy.authorize_url(&"x".repeat(100_000), APP, &[])).await;
    assert!([400, 414, 431].contains(&status), "{status}");
    shown(&get(&proxy, &format!("{PUBLIC}/authorize")).await, "no parameter at all");
    shown(
        &get(&proxy, &format!("{PUBLIC}/authorize?redirect_uri={APP}&response_type=code")).await,
        "no client_id",
    );
}

/// mcp-remote looks whether its registration is still good before it opens a browser.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_json_gets_json() {
    let proxy = Proxy::start().await;
    let id = proxy.register(&[APP]).await;
    for (url, error) in [
        (proxy.authorize_url("unknown", APP, &[]), "invalid_client"),
        (proxy.authorize_url(&id, "https://evil.test/", &[]), "invalid_request"),
        (proxy.authorize_url(&id, APP, &[("response_type", "token")]), "unsupported_response_type"),
        (format!("{PUBLIC}/authorize?client_id=a&client_id=b"), "invalid_request"),
    ] {
        let request = proxy.request(Method::GET, path(&url)).header(header::ACCEPT, "application/json");
        let answer = proxy.send(request.body(Bytes::new()).expect("a request")).await.expect(400);
        assert_eq!(answer.header("content-type"), "application/json", "{url}");
        assert_eq!(answer.error(), error, "{url}");
        assert!(!answer.text().contains("evil.test"), "{url}");
    }
}

/// design.md §6.4: no open redirector, yet whoever is vouched for hears at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_goes_where_somebody_vouches_and_is_offered_elsewhere() {
    let proxy = two().await;
    let registered = proxy.register(&[CALLBACK, APP, "cursor://anysphere/cb"]).await;
    let wrong = [("code_challenge_method", "plain")];
    told(&ask(&proxy, &registered, CALLBACK, &wrong).await, CALLBACK, "invalid_request", "loopback");
    told(&ask(&proxy, "web", APP, &wrong).await, APP, "invalid_request", "configured");
    for (uri, host) in [(APP, "app.example"), ("cursor://anysphere/cb", "cursor")] {
        let answer = ask(&proxy, &registered, uri, &wrong).await.expect(400);
        assert_eq!(answer.header("location"), "");
        let text = answer.text();
        assert!(!text.contains("http-equiv"), "no jump by itself: {text}");
        assert!(text.contains(host), "{text}");
        let link = onward(&answer);
        assert!(link.starts_with(uri), "{link}");
        assert_eq!(param(&link, "error").as_deref(), Some("invalid_request"));
        assert_eq!(param(&link, "state").as_deref(), Some("st4te"));
        assert_eq!(param(&link, "iss").as_deref(), Some(PUBLIC));
    }
}

// AZ-13, AZ-14, AZ-17, AS-A5, AS-A6, AS-A7, AS-A19
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_honoured_are_refused_by_redirect() {
    let proxy = Proxy::start().await;
    let id = proxy.register(&[CALLBACK]).await;
    let (short, long, longer) = (&CHALLENGE[..42], format!("{CHALLENGE}x"), "x".repeat(128));
    for (name, value, error) in [
        ("response_type", "", "unsupported_response_type"),
        ("response_type", "token", "unsupported_response_type"),
        ("response_type", "id_token", "unsupported_response_type"),
        ("response_type", "code token", "unsupported_response_type"),
        ("response_type", "CODE", "unsupported_response_type"),
        ("response_type", "none", "unsupported_response_type"),
        ("response_mode", "fragment", "unsupported_response_type"),
        ("response_mode", "form_post", "unsupported_response_type"),
        ("response_mode", "web_message", "unsupported_response_type"),
        ("response_mode", "jwt", "unsupported_response_type"),
        ("code_challenge", "", "invalid_request"),
        ("code_challenge", short, "invalid_request"),
        ("code_challenge", &long, "invalid_request"),
        ("code_challenge", &longer, "invalid_request"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-c=", "invalid_request"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM", "invalid_request"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw/cM", "invalid_request"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw cM", "invalid_request"),
        ("code_challenge_method", "", "invalid_request"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("code_challenge_method", "s256", "invalid_request"),
        ("code_challenge_method", "S512", "invalid_request"),
        ("request", "eyJhbGciOiJub25lIn0.e30.", "request_not_supported"),
        ("request_uri", "https://canary.test/request", "request_uri_not_supported"),
        ("prompt", "none", "login_required"),
    ] {
        let case = format!("{name}={value}");
        let answer = ask(&proxy, &id, CALLBACK, &[(name, value)]).await;
        told(&answer, CALLBACK, error, &case);
        assert_eq!(param(answer.header("location"), "state").as_deref(), Some("st4te"), "{case}");
        assert!(!answer.header("location").contains('#'), "{case}");
    }
    assert!(proxy.github.world().calls().is_empty());
}

// AS-A10, AS-A18, AS-A19: leftovers of OpenID Connect and whatever comes next.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_parameters_are_ignored() {
    let proxy = Proxy::start().await;
    let id = proxy.register(&[CALLBACK]).await;
    for (name, value) in [
        ("prompt", "consent"),
        ("prompt", "login"),
        ("prompt", "select_account consent"),
        ("response_mode", "query"),
        ("nonce", "n"),
        ("login_hint", "octocat"),
        ("display", "popup"),
        ("max_age", "0"),
        ("registration", "{}"),
        ("ui_locales", "de"),
        ("acr_values", "x"),
        ("audience", "https://evil.test"),
        ("redirect_uri[]", "https://evil.test"),
        ("Redirect_Uri", "https://evil.test"),
        ("client_id ", "x"),
        ("access_type", "offline"),
        ("", "x"),
    ] {
        ask(&proxy, &id, CALLBACK, &[(name, value)]).await.expect(200);
    }
}

// AZ-11: after decoding, in both orders, in query and body.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_parameter_is_refused_on_the_spot() {
    let proxy = Proxy::start().await;
    let id = proxy.register(&[CALLBACK]).await;
    let good = proxy.authorize_url(&id, CALLBACK, &[("scope", "mcp"), ("resource", "https://p.test/mcp")]);
    let (start, query) = good.split_once('?').expect("a query");
    for name in ["redirect_uri", "client_id", "state", "code_challenge", "response_type", "scope", "resource"]
    {
        let encoded = name.replacen('_', "%5F", 1).replacen('s', "%73", 1);
        for extra in [
            format!("{name}=https://evil.test/"),
            format!("{encoded}=https://evil.test/"),
            format!("{name}="),
        ] {
            shown(&get(&proxy, &format!("{good}&{extra}")).await, &extra);
            shown(&get(&proxy, &format!("{start}?{extra}&{query}")).await, &extra);
            let request = proxy.request(Method::POST, &format!("/authorize?{extra}"));
            let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            let answer = proxy.send(request.body(Bytes::from(query.to_owned())).expect("a request")).await;
            shown(&answer, &format!("{extra} in the query, the rest in the body"));
        }
    }
    // Odd spellings are other parameters or no text; never a 500.
    for (odd, status) in
        [("x=%zz", 200), ("x;y=1", 200), ("x=%00", 400), ("x=%ff", 400), ("%00=x", 200), ("&&&", 200)]
    {
        assert_eq!(get(&proxy, &format!("{good}&{odd}")).await.status, status, "{odd}");
    }
    let many: String = (0..10_000).map(|number| format!("&{number}")).collect();
    let answer = get(&proxy, &format!("{good}{}", &many[..15_000])).await;
    shown(&answer, "10 000 parameters");
}

// AS-A11
#[tokio::test(flavor = "multi_thread")]
async fn the_request_may_be_posted() {
    let proxy = Proxy::start().await;
    let id = proxy.register(&[CALLBACK]).await;
    let url = proxy.authorize_url(&id, CALLBACK, &[]);
    let (_, query) = url.split_once('?').expect("a query");
    let request = proxy.request(Method::POST, "/authorize");
    let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let answer =
        proxy.send(request.body(Bytes::from(query.to_owned())).expect("a request")).await.expect(200);
    assert!(answer.text().contains("<form"), "{}", answer.text());
}

// AZ-15, AS-A8
#[tokio::test(flavor = "multi_thread")]
async fn state_comes_back_byte_for_byte_or_not_at_all() {
    let proxy = Proxy::start().await;
    let id = proxy.register(&[CALLBACK]).await;
    let (two_kib, limit) = ("s".repeat(2_048), "s".repeat(3_072));
    for state in [
        "a b+c%20d",
        "&code=evil&iss=evil",
        "x\r\nSet-Cookie: a=b",
        "\"'<>`\\",
        "{\"json\":[1,2]}",
        "\u{1f980}\u{e9}",
        "#fragment",
        "%00",
        "=",
        " ",
        &two_kib,
        &limit,
    ] {
        let url = proxy.authorize_url(&id, CALLBACK, &[("state", state)]);
        let back = proxy.browser().approve(&url).await;
        assert_eq!(param(&back, "state").as_deref(), Some(state), "in success");
        assert_eq!(
            url::Url::parse(&back).expect("a URL").query_pairs().count(),
            3,
            "code, state, iss: {back}"
        );
        let url = proxy.authorize_url(&id, CALLBACK, &[("state", state), ("code_challenge", "")]);
        let answer = get(&proxy, &url).await;
        assert_eq!(param(answer.header("location"), "state").as_deref(), Some(state), "in an error");
        assert_eq!(answer.header("set-cookie"), "");
    }
    for absent in [
        proxy.authorize_url(&id, CALLBACK, &[("state", "")]),
        proxy.authorize_url(&id, CALLBACK, &[]).replace("&state=st4te", ""),
    ] {
        let back = proxy.browser().approve(&absent).await;
        assert_eq!(param(&back, "state"), None, "{back}");
    }
    let answer = ask(&proxy, &id, CALLBACK, &[("state", &"s".repeat(3_073))]).await;
    told(&answer, CALLBACK, "invalid_request", "one byte over");
    assert_eq!(param(answer.header("location"), "state"), None, "never truncated");
    let status =
        status_of(&proxy, &proxy.authorize_url(&id, CALLBACK, &[("state", &"s".repeat(65_536))])).await;
    assert!([400, 414, 431].contains(&status), "{status}");
}

// AZ-10
#[tokio::test(flavor = "multi_thread")]
async fn the_query_of_a_redirect_uri_is_kept_and_the_answer_has_one_of_each() {
    let proxy = two().await;
    let uri = "https://app.example/two?a=b";
    let back = proxy.browser().approve(&proxy.authorize_url("web", uri, &[])).await;
    assert!(back.starts_with("https://app.example/two?a=b&code="), "{back}");
    let answer = ask(&proxy, "web", uri, &[("response_type", "token")]).await;
    told(&answer, "https://app.example/two?a=b&error=", "unsupported_response_type", "an error");
    let registered = ["https://app.example/x?", "https://app.example/x?a", "https://app.example/x?a=%2f%20&"];
    let id = proxy.register(&registered).await;
    for uri in registered {
        let back = proxy.browser().approve(&proxy.authorize_url(&id, uri, &[])).await;
        assert!(back.starts_with(uri), "{uri} {back}");
        let own = url::Url::parse(&back).expect("a URL");
        for name in ["code", "state", "iss"] {
            assert_eq!(own.query_pairs().filter(|(known, _)| known == name).count(), 1, "{name}: {back}");
        }
    }
}

// AZ-18, AS-A15, AS-A16
#[tokio::test(flavor = "multi_thread")]
async fn resource_is_matched_tolerantly_and_bound_canonically() {
    let proxy = two().await;
    let id = proxy.register(&[CALLBACK]).await;
    for (resource, path) in [
        ("", "/u1"),
        ("https://p.test", "/u1"),
        ("https://p.test/", "/u1"),
        ("https://p.test/u1", "/u1"),
        ("https://p.test/u1/", "/u1"),
        ("https://p.test/u2", "/u2"),
        ("https://p.test/u2/", "/u2"),
        ("HTTPS://P.TEST/u2", "/u2"),
        ("https://p.test:443/u2", "/u2"),
        ("https://p.test/u2?kb_name=x", "/u2"),
    ] {
        let back =
            proxy.browser().approve(&proxy.authorize_url(&id, CALLBACK, &[("resource", resource)])).await;
        let code = param(&back, "code").unwrap_or_else(|| panic!("{resource}: {back}"));
        let answer = proxy.redeem(&id, &code).await.expect(200).json();
        let tokens = Tokens::read(id.clone(), answer);
        for other in ["/u1", "/u2"] {
            let call = proxy.call(other, &tokens.access).body(Bytes::from_static(support::proxy::PING));
            let answer = proxy.send(call.expect("a request")).await;
            assert_eq!(answer.status, if other == path { 200 } else { 401 }, "{resource} at {other}");
        }
    }
    for resource in [
        "https://p.test/u3",
        "https://p.test/u1evil",
        "https://p.test/u1/x",
        "https://p.test/U1",
        "https://p.test.evil/u1",
        "https://evil.test/u1",
        "https://p.test@evil.test/u1",
        "https://u@p.test/u1",
        "https://p.test:8443/u1",
        "http://p.test/u1",
        "ftp://p.test/u1",
        "https://p.test/u1#f",
        "https://p.test/u1#",
        "https://p.test/u1/../u2",
        "https://p.test/./u2",
        "https://p.test/u1/%2e%2e/u2",
        "https://p.test\\u2",
        "https://p.test//u2",
        "https://p.test/u2//",
        "https://p.test/%75%32",
        "https://p.test/u\t2",
        "https:/p.test/u2",
        "https:p.test/u2",
        " https://p.test/u2",
        "/u1",
        "u1",
        "p.test/u1",
        "urn:p.test:u1",
        "https://p.test/u1 https://p.test/u2",
        "*",
    ] {
        let answer = ask(&proxy, &id, CALLBACK, &[("resource", resource)]).await;
        told(&answer, CALLBACK, "invalid_target", resource);
    }
}

// AS-A17, AS-A18: unknown scopes are ignored; nobody gets more than there is.
#[tokio::test(flavor = "multi_thread")]
async fn scopes_are_narrowed_never_widened() {
    let proxy = two().await;
    let (many, all) = ((0..5_000).map(|n| format!("s{n} ")).collect::<String>(), "read write offline_access");
    for (asked, granted) in [
        ("", "read write"),
        ("read", "read"),
        ("write read read", "read write"),
        ("read:user repo", "read write"),
        ("read admin:org", "read"),
        ("offline_access", "offline_access read write"),
        ("read offline_access", "offline_access read"),
        (all, "offline_access read write"),
        ("openid profile email", "read write"),
        ("READ", "read write"),
        ("\"read\" \\read", "read write"),
        ("*", "read write"),
        // Those of the other resource.
        ("mcp", "read write"),
        (&many[..15_000], "read write"),
    ] {
        let tokens = proxy.login_for(&[("scope", asked), ("resource", "https://p.test/u1")]).await;
        assert_eq!(tokens.answer["scope"], granted, "{}", &asked[..asked.len().min(40)]);
    }
}

// AZ-19, AZ-20: what GitHub sees is ours alone.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_a_client_says_reaches_github() {
    let proxy = two().await;
    let id = proxy.register(&[CALLBACK]).await;
    let more = [
        ("scope", "repo admin:org delete_repo \"x\\"),
        ("state", "x&scope=admin:org&client_id=evil"),
        ("login", "victim"),
        ("allow_signup", "false"),
        ("prompt", "select_account"),
        ("resource", "https://p.test/u1"),
        ("login_hint", "victim"),
    ];
    let back = proxy.browser().approve(&proxy.authorize_url(&id, CALLBACK, &more)).await;
    assert!(param(&back, "code").is_some(), "{back}");
    let call = proxy.github.world().last_call(Endpoint::Authorize).expect("it was called");
    let mut names: Vec<&str> = call.query.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let expected = ["client_id", "code_challenge", "code_challenge_method", "redirect_uri", "scope", "state"];
    assert_eq!(names, expected, "each exactly once");
    assert_eq!(call.param("client_id"), Some("standin-client"));
    assert_eq!(call.param("redirect_uri"), Some("https://p.test/github/callback"));
    assert_eq!(call.param("scope"), Some("gist read:user"));
    assert_eq!(call.param("code_challenge_method"), Some("S256"));
    assert_ne!(call.param("code_challenge"), Some(CHALLENGE), "a pair of our own");
    // The state is sealed: the client's words cannot be read in it.
    let state = call.param("state").expect("a state");
    assert!(state.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{state}");
    let exchange = proxy.github.world().last_call(Endpoint::Exchange).expect("it was called");
    assert_eq!(exchange.param("redirect_uri"), Some("https://p.test/github/callback"));
    let verifier = exchange.param("code_verifier").expect("a verifier");
    assert!((43..=128).contains(&verifier.len()), "{verifier}");
    assert_eq!(exchange.query, [], "no secret in a URL");
}

// AZ-22, AS-A9: with `iss: false` it is on no answer at all.
#[tokio::test(flavor = "multi_thread")]
async fn iss_is_on_every_answer_or_on_none() {
    for (extra, expected) in [("", Some(PUBLIC)), ("iss: false", None)] {
        let proxy = Proxy::with(Setup { extra: extra.to_owned(), ..Setup::default() }).await;
        let id = proxy.register(&[CALLBACK, APP]).await;
        let back = proxy.browser().approve(&proxy.authorize_url(&id, CALLBACK, &[])).await;
        assert_eq!(param(&back, "iss").as_deref(), expected, "{back}");
        let answer = ask(&proxy, &id, CALLBACK, &[("response_type", "x")]).await;
        assert_eq!(param(answer.header("location"), "iss").as_deref(), expected);
        let offered = onward(&ask(&proxy, &id, APP, &[("response_type", "x")]).await);
        assert_eq!(param(&offered, "iss").as_deref(), expected);
        let mut browser = proxy.browser();
        let flow = browser.consent(&proxy.authorize_url(&id, CALLBACK, &[])).await;
        let denied = onward(&browser.decide(&flow, "deny").await);
        assert_eq!(param(&denied, "iss").as_deref(), expected);
    }
}

// AZ-08: what was switched off is off for clients of every origin but the operator's own.
#[tokio::test(flavor = "multi_thread")]
async fn configured_clients_may_use_their_schemes_whatever_the_switch_says() {
    let extra = format!("{CLIENTS}\nprivate_use_schemes: false");
    let proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
    ask(&proxy, "native", "app.example:/cb", &[]).await.expect(200);
    shown(&ask(&proxy, "native", "app.example:/other", &[]).await, "another path");
}

// AS-R15
#[tokio::test(flavor = "multi_thread")]
async fn configured_clients_log_in() {
    let extra = r#"clients: [{id: public, redirect_uris: ["http://127.0.0.1/callback"]},
        {id: "with secret", secret: "s3 :%+ü 0123456789", redirect_uris: ["http://127.0.0.1/callback"]}]"#;
    let extra = extra.replace("with secret", "confidential");
    let proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
    let back = proxy.browser().approve(&proxy.authorize_url("public", CALLBACK, &[])).await;
    proxy.redeem("public", &param(&back, "code").expect("a code")).await.expect(200);
    for way in ["post", "basic"] {
        let back = proxy.browser().approve(&proxy.authorize_url("confidential", CALLBACK, &[])).await;
        let code = param(&back, "code").expect("a code");
        proxy.redeem("confidential", &code).await.expect(401);
        let mut pairs = vec![("grant_type", "authorization_code"), ("code", &*code)];
        pairs.push(("code_verifier", support::proxy::VERIFIER));
        let mut request = proxy.request(Method::POST, "/token");
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if way == "post" {
            pairs.extend([("client_id", "confidential"), ("client_secret", "s3 :%+ü 0123456789")]);
        } else {
            // CA-01
            use base64::Engine as _;
            let encoded: String =
                url::form_urlencoded::byte_serialize("s3 :%+ü 0123456789".as_bytes()).collect();
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("confidential:{encoded}"));
            request = request.header(header::AUTHORIZATION, format!("Basic {pair}"));
        }
        proxy.send(request.body(form(&pairs)).expect("a request")).await.expect(200);
    }
}

// CO-22: looking is free.
#[tokio::test(flavor = "multi_thread")]
async fn looking_at_the_page_changes_nothing() {
    let proxy = Proxy::start().await;
    let id = proxy.register(&[CALLBACK]).await;
    let url = proxy.authorize_url(&id, CALLBACK, &[]);
    let head = proxy.request(Method::HEAD, path(&url)).body(Bytes::new()).expect("a request");
    assert!(proxy.send(head).await.expect(200).body.is_empty());
    let prefetch = proxy.request(Method::GET, path(&url)).header("sec-purpose", "prefetch");
    proxy.send(prefetch.body(Bytes::new()).expect("a request")).await.expect(200);
    assert!(proxy.github.world().calls().is_empty());
    // The same link opened many times works each time.
    let back = proxy.browser().approve(&url).await;
    let again = proxy.browser().approve(&url).await;
    assert_ne!(param(&back, "code"), param(&again, "code"));
}

// AZ-04, AZ-05, AZ-09: nothing is equal because somebody would make it so.
#[tokio::test(flavor = "multi_thread")]
async fn spellings_that_mean_the_same_are_not_the_same() {
    let proxy = Proxy::start().await;
    for (registered, asked) in [
        ("https://app.example:8443/cb", "https://app.example/cb"),
        ("https://app.example:8443/cb", "https://app.example:8444/cb"),
        ("https://app.example:8443/cb", "http://app.example:8443/cb"),
        ("https://app.example/cb", "https://app.example:443/cb"),
        ("http://127.0.0.1/cb", "https://127.0.0.1/cb"),
        ("http://127.0.0.1/cb", "http://127.1/cb"),
        ("http://127.0.0.1/cb", "http://0x7f.1/cb"),
        ("http://127.0.0.1/cb", "http://2130706433/cb"),
        ("http://127.0.0.1/cb", "http://0177.0.0.1/cb"),
        ("http://127.0.0.1/cb", "http://127.0.0.1./cb"),
        ("http://127.0.0.1/cb", "http://127\u{3002}0\u{3002}0\u{3002}1/cb"),
        ("http://127.0.0.1/cb", "http://127.0.0.1:+80/cb"),
        ("http://127.0.0.1/cb", "http://127.0.0.1:65536/cb"),
        ("http://localhost/cb", "http://localhost./cb"),
        ("http://localhost/cb", "http://LOCALHOST/cb"),
        ("http://localhost/cb", "http://localhost.evil.test/cb"),
        ("http://localhost/cb", "http://localhost:1@evil.test/cb"),
        ("http://localhost/cb", "http://localhost:1.evil.test/cb"),
        ("http://[::1]/cb", "http://[::0:1]/cb"),
        ("http://[::1]/cb", "http://[::1%25lo]/cb"),
        ("https://app.example/caf%C3%A9", "https://app.example/cafe%CC%81"),
        ("https://app.example/caf%C3%A9", "https://app.example/caf\u{e9}"),
        ("https://app.example/caf%C3%A9", "https://app.example/caf%c3%a9"),
        ("https://xn--bcher-kva.example/cb", "https://b\u{fc}cher.example/cb"),
        ("https://xn--bcher-kva.example/cb", "https://XN--bcher-kva.example/cb"),
        ("https://example.org/cb", "https://xn--example-.org/cb"),
        ("https://example.org/cb", "https://\u{ff45}xample.org/cb"),
        ("https://example.org/cb", "https://ex\u{ad}ample.org/cb"),
    ] {
        let id = proxy.register(&[registered]).await;
        shown(&ask(&proxy, &id, asked, &[]).await, &format!("{registered} -> {asked}"));
        ask(&proxy, &id, registered, &[]).await.expect(200);
    }
}

// AZ-12: a client of another installation, and of another client's words.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_another_installation_are_nobody_here() {
    let keyed = |key: u8| {
        use base64::Engine as _;
        let bytes: Vec<u8> = (0..32).map(|byte| byte ^ key).collect();
        format!("keys: ['{}']", base64::engine::general_purpose::STANDARD.encode(bytes))
    };
    let [proxy, elsewhere] = [keyed(1), keyed(2)].map(|extra| Setup { extra, ..Setup::default() });
    let (proxy, elsewhere) = (Proxy::with(proxy).await, Proxy::with(elsewhere).await);
    let id = elsewhere.register(&[CALLBACK]).await;
    elsewhere.get(path(&elsewhere.authorize_url(&id, CALLBACK, &[]))).await.expect(200);
    shown(&ask(&proxy, &id, CALLBACK, &[]).await, "registered elsewhere");
}

// AZ-17: what a request names is not fetched.
#[tokio::test(flavor = "multi_thread")]
async fn no_address_in_a_request_is_called() {
    let canary = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/request", canary.local_addr().expect("bound"));
    let proxy = Proxy::start().await;
    let id = proxy.register(&[CALLBACK]).await;
    let registration = format!("{{\"logo_uri\":\"{url}\",\"request_uris\":[\"{url}\"]}}");
    for (name, value, error) in [
        ("request_uri", url.as_str(), Some("request_uri_not_supported")),
        ("request", &url, Some("request_not_supported")),
        ("registration", &registration, None),
        ("resource", &url, Some("invalid_target")),
        ("client_metadata_uri", &url, None),
    ] {
        let answer = ask(&proxy, &id, CALLBACK, &[(name, value)]).await;
        match error {
            Some(error) => told(&answer, CALLBACK, error, name),
            None => assert_eq!(answer.status, 200, "{name}"),
        }
    }
    let visit = tokio::time::timeout(std::time::Duration::from_millis(50), canary.accept()).await;
    assert!(visit.is_err(), "nobody came");
}

// AZ-22: the issuer of the metadata, byte for byte, whoever stands in front.
#[tokio::test(flavor = "multi_thread")]
async fn iss_is_the_issuer_of_the_metadata() {
    let proxy = Proxy::start().await;
    let metadata = proxy.get("/.well-known/oauth-authorization-server").await.expect(200).json();
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    let issuer = metadata["issuer"].as_str().expect("text");
    let id = proxy.register(&[CALLBACK]).await;
    let back = proxy.browser().approve(&proxy.authorize_url(&id, CALLBACK, &[])).await;
    assert_eq!(param(&back, "iss").as_deref(), Some(issuer), "{back}");
    let broken = proxy.authorize_url(&id, CALLBACK, &[("response_type", "x")]);
    let mut request = proxy.request(Method::GET, path(&broken)).header("x-forwarded-host", "evil.test");
    request = request.header("forwarded", "host=evil.test;proto=http").header("x-forwarded-proto", "http");
    let answer = proxy.send(request.body(Bytes::new()).expect("a request")).await;
    assert_eq!(param(answer.header("location"), "iss").as_deref(), Some(issuer));
    let foreign = http::Request::get(path(&broken)).header("host", "evil.test").body(Bytes::new());
    let answer = proxy.send(foreign.expect("a request")).await;
    assert!([400, 421].contains(&answer.status), "{}", answer.status);
    assert!(!answer.text().contains("evil") && answer.header("location").is_empty());
}
