//! The person's decision and the way back from GitHub: bound to one browser, taken once, never by accident.
//!
//! MCP security best practices, confused deputy; RFC 9700 §4.2, §4.7, §4.16; RFC 9207 §2.4.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use mcp_auth_proxy::app::{App, Tuning};
use mcp_auth_proxy::clock::ManualClock;
use serde_json::json;
use support::browser::{Browser, flow, onward};
use support::github::{Approval, Endpoint, Fault, User};
use support::http::{Answer, form};
use support::proxy::{CALLBACK, PUBLIC, Proxy, Setup, VERIFIER, param};
use support::{TempDir, raw};

const APP: &str = "https://app.example/cb";
const CURSOR: &str = "cursor://anysphere.cursor-mcp/oauth/callback";

/// A proxy whose records can be counted.
struct Counted {
    proxy: Proxy,
    dir: TempDir,
}

impl Counted {
    async fn start(setup: Setup) -> Self {
        let dir = TempDir::new();
        let store = format!("sqlite:{}", dir.path().join("proxy.db").display());
        Counted { proxy: Proxy::with(Setup { store, ..setup }).await, dir }
    }

    fn records(&self) -> i64 {
        let database = rusqlite::Connection::open(self.dir.path().join("proxy.db")).expect("opens");
        database
            .query_row("SELECT count(*) FROM records WHERE owner <> 'keys'", [], |row| row.get(0))
            .expect("counts")
    }
}

/// A page of a client that asks for `CALLBACK`, and its URL.
async fn url(proxy: &Proxy) -> String {
    let id = proxy.register(&[CALLBACK]).await;
    proxy.authorize_url(&id, CALLBACK, &[])
}

async fn named(proxy: &Proxy, name: &str, uri: &str) -> Answer {
    let metadata = json!({"client_name": name, "redirect_uris": [uri]});
    let answer = proxy.post_json("/register", &metadata).await.expect(201).json();
    let id = answer["client_id"].as_str().expect("an id").to_owned();
    proxy.browser().get(&proxy.authorize_url(&id, uri, &[])).await.expect(200)
}

/// A refusal: a page, nobody redirected, nothing asked of GitHub.
#[track_caller]
fn refused(answer: &Answer, status: u16, case: &str) {
    assert_eq!(answer.status, status, "{case}: {}", answer.text());
    assert_eq!(answer.header("location"), "", "{case}");
    assert_eq!(answer.header("set-cookie"), "", "{case}");
    assert!(!answer.text().contains("http-equiv"), "{case}");
}

#[track_caller]
fn told(answer: &Answer, error: &str, case: &str) {
    assert_eq!(answer.status, 303, "{case}: {}", answer.text());
    let location = answer.header("location");
    assert!(location.starts_with(CALLBACK), "{case}: {location}");
    assert_eq!(param(location, "error").as_deref(), Some(error), "{case}: {location}");
    assert_eq!(param(location, "state").as_deref(), Some("st4te"), "{case}");
    assert_eq!(param(location, "iss").as_deref(), Some(PUBLIC), "{case}");
    assert_eq!(param(location, "code"), None, "{case}");
}

// === The decision ===

// CO-01, CO-04, CO-05, AS-K1, AS-K2, AS-K10: GitHub remembers, we do not.
#[tokio::test(flavor = "multi_thread")]
async fn every_login_asks_even_in_a_browser_that_said_yes_before() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let first = url(&proxy).await;
    assert!(param(&browser.approve(&first).await, "code").is_some());
    let id = proxy.register(&["https://evil.test/cb"]).await;
    let evil = |more: &[(&str, &str)]| proxy.authorize_url(&id, "https://evil.test/cb", more);
    let wider = evil(&[("scope", "mcp offline_access")]);
    let second = url(&proxy).await;
    for again in [&first, &second, &evil(&[]), &evil(&[("resource", "https://p.test/mcp")]), &wider] {
        let page = browser.get(again).await.expect(200);
        assert!(page.text().contains("decision"), "a form, not GitHub: {}", page.text());
        assert_eq!(page.text().contains("evil.test"), again.contains("evil.test"), "{}", page.text());
        assert_eq!(page.header("location"), "");
    }
    // Another person in the same browser.
    proxy.github.world().add_user(User::new(7, "hubot"));
    proxy.github.world().sign_in("hubot");
    assert!(browser.get(&first).await.expect(200).text().contains("decision"));
    assert_eq!(proxy.github.world().count(Endpoint::Authorize), 1, "GitHub was asked at the click alone");
}

// CO-06, AS-K4
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_did_not_come_from_our_page_is_no_decision() {
    let proxy = Proxy::start().await;
    let url = url(&proxy).await;
    let mut browser = proxy.browser();
    let flow = browser.consent(&url).await;
    let cookie = cookies(&browser);
    let good: &[(&str, &str)] = &[("sec-fetch-site", "same-origin"), ("origin", "null"), ("cookie", &cookie)];
    let own = ("origin", PUBLIC);
    let body = form(&[("flow", &flow), ("decision", "approve")]);
    for (case, headers, body) in [
        ("no cookie", &good[..2], body.clone()),
        (
            "another browser's cookie",
            &[good[0], good[1], ("cookie", "__Host-mcp-consent=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")],
            body.clone(),
        ),
        ("an unreadable cookie", &[good[0], good[1], ("cookie", "__Host-mcp-consent=x")], body.clone()),
        (
            "the cookie without its prefix",
            &[good[0], good[1], ("cookie", &cookie.replace("__Host-", ""))],
            body.clone(),
        ),
        (
            "two cookies",
            &[good[0], good[1], ("cookie", &format!("__Host-mcp-consent=x; {cookie}"))],
            body.clone(),
        ),
        ("no origin at all", &good[2..], body.clone()),
        ("Origin: null without Sec-Fetch-Site", &good[1..], body.clone()),
        ("a foreign origin", &[("origin", "https://evil.test"), good[2]], body.clone()),
        (
            "a foreign origin called same-origin",
            &[good[0], ("origin", "https://evil.test"), good[2]],
            body.clone(),
        ),
        ("a prefix of ours", &[("origin", "https://p.test.evil.test"), good[2]], body.clone()),
        ("http of ours", &[("origin", "http://p.test"), good[2]], body.clone()),
        ("cross-site", &[("sec-fetch-site", "cross-site"), own, good[2]], body.clone()),
        ("same-site", &[("sec-fetch-site", "same-site"), own, good[2]], body.clone()),
        ("none", &[("sec-fetch-site", "none"), own, good[2]], body.clone()),
        ("two origins", &[good[0], own, ("origin", "null"), good[2]], body.clone()),
        ("two Sec-Fetch-Site", &[good[0], good[0], own, good[2]], body.clone()),
        ("no flow", good, form(&[("decision", "approve")])),
        ("an invented flow", good, form(&[("flow", "AAAA"), ("decision", "approve")])),
        ("a changed flow", good, form(&[("flow", &changed(&flow)), ("decision", "approve")])),
        ("no decision", good, form(&[("flow", &flow)])),
        ("another decision", good, form(&[("flow", &flow), ("decision", "maybe")])),
        ("two decisions", good, form(&[("flow", &flow), ("decision", "deny"), ("decision", "approve")])),
        ("two flows", good, form(&[("flow", &flow), ("flow", &flow), ("decision", "approve")])),
    ] {
        let answer = post(&proxy, headers, body).await;
        refused(&answer, 403, case);
    }
    assert!(proxy.github.world().calls().is_empty());
    // The flow is untouched: the same page still works, in both spellings of a browser.
    for headers in [good, &[own, good[2]], &[good[0], own, good[2]], &[good[0], good[2]]] {
        let page = post(&proxy, headers, body.clone()).await.expect(200);
        assert!(onward(&page).starts_with(&proxy.github.base_url()), "{}", page.text());
    }
}

async fn post(proxy: &Proxy, headers: &[(&str, &str)], body: Bytes) -> Answer {
    let mut request = proxy.request(Method::POST, "/consent");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    proxy.send(request.body(body).expect("a request")).await
}

fn cookies(browser: &Browser) -> String {
    let jar = browser.cookies.get(PUBLIC).expect("a jar");
    jar.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
}

fn changed(text: &str) -> String {
    let at = text.len() / 2;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

// CO-22
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_decided_by_get() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let flow = browser.consent(&url(&proxy).await).await;
    let answer = browser.get(&format!("{PUBLIC}/consent?flow={flow}&decision=approve")).await.expect(405);
    assert_eq!(answer.header("allow"), "POST");
}

// CO-20, AS-K9
#[tokio::test(flavor = "multi_thread")]
async fn deny_tells_the_client_and_ends_the_flow() {
    let proxy = Proxy::start().await;
    for (uri, jumps) in [(CALLBACK, true), (APP, true), (CURSOR, false)] {
        let id = proxy.register(&[uri]).await;
        let mut browser = proxy.browser();
        let flow = browser.consent(&proxy.authorize_url(&id, uri, &[])).await;
        let page = browser.decide(&flow, "deny").await.expect(200);
        assert_eq!(page.text().contains("http-equiv=\"refresh\""), jumps, "{uri}");
        let back = onward(&page);
        assert!(back.starts_with(uri), "{back}");
        assert_eq!(param(&back, "error").as_deref(), Some("access_denied"));
        assert_eq!(param(&back, "state").as_deref(), Some("st4te"));
        assert_eq!(param(&back, "iss").as_deref(), Some(PUBLIC));
        for decision in ["approve", "deny"] {
            refused(&browser.decide(&flow, decision).await, 400, &format!("{decision} after deny"));
        }
    }
    assert!(proxy.github.world().calls().is_empty());
}

/// A denied flow whose approved twin is on its way (Back button, two clicks) is dead too.
#[tokio::test(flavor = "multi_thread")]
async fn deny_after_approve_stops_the_login() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let flow = browser.consent(&url(&proxy).await).await;
    let github = onward(&browser.decide(&flow, "approve").await.expect(200));
    browser.decide(&flow, "deny").await.expect(200);
    let callback = browser.get(&github).await.header("location").to_owned();
    refused(&browser.get(&callback).await, 400, "the callback of a denied flow");
    assert_eq!(proxy.github.world().count(Endpoint::Exchange), 0);
}

// CO-21: what the seal does not cover is not read.
#[tokio::test(flavor = "multi_thread")]
async fn further_form_fields_change_nothing() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let flow = browser.consent(&url(&proxy).await).await;
    let cookie = cookies(&browser);
    let fields = [
        ("flow", &*flow),
        ("decision", "approve"),
        ("client_id", "evil"),
        ("redirect_uri", "https://evil.test/cb"),
        ("scope", "admin"),
        ("resource", "https://evil.test"),
        ("state", "evil"),
    ];
    let headers = [("origin", PUBLIC), ("cookie", &*cookie)];
    let page = post(&proxy, &headers, form(&fields)).await.expect(200);
    let (name, value) =
        page.header("set-cookie").split(';').next().and_then(|c| c.split_once('=')).expect("a cookie");
    browser.cookies.get_mut(PUBLIC).expect("a jar").insert(name.to_owned(), value.to_owned());
    let callback = browser.get(&onward(&page)).await.header("location").to_owned();
    let back = browser.get(&callback).await.expect(303).header("location").to_owned();
    assert!(back.starts_with(CALLBACK), "{back}");
    assert_eq!(param(&back, "state").as_deref(), Some("st4te"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_good_for_ten_minutes() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let flow = browser.consent(&url(&proxy).await).await;
    proxy.forward(Duration::from_secs(600));
    browser.decide(&flow, "approve").await.expect(200);
    proxy.forward(Duration::from_secs(1));
    refused(&browser.decide(&flow, "approve").await, 400, "too late");
    refused(&browser.decide(&flow, "deny").await, 400, "too late");
}

// CO-23, AS-K6
#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_bound_to_host_and_scripts_cannot_read_them() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let page = browser.get(&url(&proxy).await).await.expect(200);
    let consent = page.header("set-cookie");
    let approved = browser.decide(&flow(&page), "approve").await.expect(200);
    let login = approved.header("set-cookie");
    for (cookie, name) in [(consent, "__Host-mcp-consent="), (login, "__Host-mcp-login=")] {
        assert!(cookie.starts_with(name), "{cookie}");
        let mut attributes: Vec<&str> = cookie.split("; ").skip(1).collect();
        attributes.sort_unstable();
        assert_eq!(attributes, ["HttpOnly", "Max-Age=600", "Path=/", "SameSite=Lax", "Secure"]);
        let value = cookie.split([';', '=']).nth(1).expect("a value");
        assert_eq!(value.len(), 32, "192 random bits: {value}");
    }
    assert_ne!(consent.split([';', '=']).nth(1), login.split([';', '=']).nth(1));
}

/// Over plain http on localhost browsers refuse both the prefix and Secure.
#[tokio::test(flavor = "multi_thread")]
async fn on_localhost_cookies_work_without_https() {
    let yaml = "{public_url: 'http://localhost:8000', listen: '127.0.0.1:0', store: 'memory:', allow: anyone, \
                workers: 1, github: {client_id: a, client_secret: b-secret-of-github}, \
                clients: [{id: app, redirect_uris: ['http://localhost/cb']}], \
                resources: [{path: /mcp, upstream: 'http://127.0.0.1:9/'}]}";
    let config = support::proxy::parse(yaml).expect("valid");
    let app = App::start(config, ManualClock::new(1).clock(), &Tuning::default()).expect("starts");
    let query = "response_type=code&client_id=app&code_challenge_method=S256&state=s\
                 &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let request = support::http::request(Method::GET, &format!("http://localhost:8000/authorize?{query}"));
    let page =
        support::http::send(app.address(), request.body(Bytes::new()).expect("a request")).await.expect(200);
    let consent = page.header("set-cookie");
    let (pair, attributes) = consent.split_once("; ").expect("attributes");
    assert!(pair.starts_with("mcp-consent="), "{consent}");
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Max-Age=600");
    let request = support::http::request(Method::POST, "http://localhost:8000/consent")
        .header("cookie", pair)
        .header("origin", "http://localhost:8000")
        .body(form(&[("flow", &flow(&page)), ("decision", "approve")]));
    let page = support::http::send(app.address(), request.expect("a request")).await.expect(200);
    assert!(page.header("set-cookie").starts_with("mcp-login="), "{}", page.header("set-cookie"));
    assert!(onward(&page).starts_with("https://github.com/login/oauth/authorize?"), "{}", page.text());
    tokio::task::spawn_blocking(move || app.stop()).await.expect("stops");
}

// CO-23: forty open tabs share two cookies, and every page of them works.
#[tokio::test(flavor = "multi_thread")]
async fn many_pending_logins_do_not_pile_up_cookies() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let mut flows = Vec::new();
    for _ in 0..40 {
        flows.push(browser.consent(&url(&proxy).await).await);
    }
    for flow in [&flows[0], &flows[39], &flows[20]] {
        browser.decide(flow, "approve").await.expect(200);
    }
    assert!(cookies(&browser).len() < 256, "{}", cookies(&browser));
    assert_eq!(browser.cookies[PUBLIC].len(), 2);
}

// CO-14
#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_do_not_mix() {
    let proxy = Proxy::start().await;
    let (one, two) = (
        proxy.register(&["http://127.0.0.1:1/one"]).await,
        proxy.register(&["http://127.0.0.1:2/two"]).await,
    );
    let mut browser = proxy.browser();
    let first =
        browser.consent(&proxy.authorize_url(&one, "http://127.0.0.1:1/one", &[("state", "1")])).await;
    let second =
        browser.consent(&proxy.authorize_url(&two, "http://127.0.0.1:2/two", &[("state", "2")])).await;
    let first = onward(&browser.decide(&first, "approve").await.expect(200));
    let second = onward(&browser.decide(&second, "approve").await.expect(200));
    // Finished in swapped order.
    let second = browser.get(&second).await.header("location").to_owned();
    let first = browser.get(&first).await.header("location").to_owned();
    // The states swapped by hand: GitHub's code belongs to another PKCE pair.
    let swapped = |callback: &str, other: &str| {
        let (mine, theirs) =
            (param(callback, "state").expect("a state"), param(other, "state").expect("a state"));
        callback.replace(&mine, &theirs)
    };
    let mut thief = browser.clone();
    let mixed = thief.get(&swapped(&second, &first)).await;
    assert_eq!(param(mixed.header("location"), "code"), None, "{:?}", mixed.headers);
    let mut fresh = proxy.browser();
    let back = fresh.approve(&proxy.authorize_url(&two, "http://127.0.0.1:2/two", &[("state", "3")])).await;
    assert!(back.starts_with("http://127.0.0.1:2/two?code=") && back.contains("state=3"), "{back}");
    let back = browser.get(&second).await.header("location").to_owned();
    // Its code was burnt by the swap, so it ends in an error, at its own client.
    assert!(back.starts_with("http://127.0.0.1:2/two?error="), "{back}");
}

// CO-14, the peaceful half.
#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_finish_in_any_order() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let mut callbacks = Vec::new();
    for number in ["1", "2"] {
        let uri = format!("http://127.0.0.1:{number}/cb");
        let id = proxy.register(&[&uri]).await;
        callbacks.push(browser.reach_callback(&proxy.authorize_url(&id, &uri, &[("state", number)])).await);
    }
    for number in ["2", "1"] {
        let callback = callbacks.pop().expect("two");
        let back = browser.get(&callback).await.expect(303).header("location").to_owned();
        assert!(back.starts_with(&format!("http://127.0.0.1:{number}/cb?code=")), "{back}");
        assert_eq!(param(&back, "state").as_deref(), Some(number));
    }
}

// === The pages ===

// CO-15, CO-23, AS-A14, AS-K5: on every page there is.
#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_guarded() {
    let proxy = Proxy::start().await;
    let registered = proxy.register(&[CALLBACK, APP, CURSOR]).await;
    let of = |uri: &str, more: &[(&str, &str)]| proxy.authorize_url(&registered, uri, more);
    let mut browser = proxy.browser();
    let consent = browser.get(&of(CURSOR, &[])).await.expect(200);
    let approved = browser.decide(&flow(&consent), "approve").await.expect(200);
    let callback = browser.get(&onward(&approved)).await.header("location").to_owned();
    let finished = browser.get(&callback).await.expect(200);
    let again = browser.get(&callback).await.expect(400);
    let denied = browser.decide(&flow(&consent), "deny").await;
    let offered = browser.get(&of(APP, &[("response_type", "x")])).await.expect(400);
    let unknown = browser.get(&proxy.authorize_url("x", APP, &[])).await.expect(400);
    let forbidden = post(&proxy, &[], Bytes::new()).await.expect(403);
    let lost = browser.get(&format!("{PUBLIC}/github/callback?code=x&state=y")).await.expect(400);
    let front = browser.get(&format!("{PUBLIC}/")).await.expect(200);
    for (page, name) in [
        (&consent, "consent"),
        (&approved, "approved"),
        (&finished, "finished"),
        (&again, "again"),
        (&denied, "denied"),
        (&offered, "offered"),
        (&unknown, "unknown"),
        (&forbidden, "forbidden"),
        (&lost, "lost"),
        (&front, "front"),
    ] {
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8", "{name}");
        assert_eq!(page.header("x-frame-options"), "DENY", "{name}");
        assert_eq!(page.header("referrer-policy"), "no-referrer", "{name}");
        assert_eq!(page.header("cache-control"), "no-store", "{name}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{name}");
        assert_eq!(page.header("access-control-allow-origin"), "", "{name}");
        let policy: Vec<&str> = page.header("content-security-policy").split("; ").collect();
        for directive in
            ["default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
        {
            assert!(policy.contains(&directive), "{name}: {policy:?}");
        }
        assert!(
            !policy.iter().any(|directive| directive.contains("unsafe") || directive.contains("script")),
            "{name}"
        );
        let html = page.text().to_ascii_lowercase();
        for foreign in [
            "<script",
            "<img",
            "<link",
            "<iframe",
            "<object",
            "<base",
            "javascript:",
            " src=",
            "@import",
            "url(",
        ] {
            assert!(!html.contains(foreign), "{name} has {foreign}");
        }
        // No event handler attribute.
        assert!(
            !html.split('<').any(|tag| tag.split('>').next().is_some_and(|tag| tag.contains(" on"))),
            "{name}"
        );
        // The style of the page is the one that the policy allows.
        let style = support::browser::between(&page.text(), "<style>", "</style>").expect("a style");
        use base64::Engine as _;
        use sha2::Digest as _;
        let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(style));
        assert!(policy.contains(&&*format!("style-src 'sha256-{hash}'")), "{name}: {policy:?}");
    }
}

// CO-17, AZ-16, AS-R9
#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_only_text() {
    let proxy = Proxy::start().await;
    for name in [
        "<img src=x onerror=alert(1)>",
        "</q></h1><script>alert(1)</script>",
        "\"><a href=//evil>",
        "' onmouseover='x",
        "{{7*7}} ${7*7} <%= 7*7 %>",
        "&lt;b&gt;",
        "<!-- ",
        "]]>",
    ] {
        let page = named(&proxy, name, CALLBACK).await;
        let html = page.text();
        assert!(!html.contains(name), "{name} stands there raw");
        for tag in ["<img", "<script", "<a ", "<b>", "<!-- ", "49"] {
            assert!(!body(&html).replace(&flow(&page), "").contains(tag), "{name}: {tag}");
        }
        // Denied and finished pages carry the name too.
        let mut browser = proxy.browser();
        let metadata = json!({"client_name": name, "redirect_uris": [CURSOR]});
        let answer = proxy.post_json("/register", &metadata).await.expect(201).json();
        let url = proxy.authorize_url(answer["client_id"].as_str().expect("an id"), CURSOR, &[]);
        let callback = browser.reach_callback(&url).await;
        assert!(!browser.get(&callback).await.expect(200).text().contains(name));
    }
    let page = named(&proxy, "Evil\u{202e}moc.buhtig\u{2066}\u{200b}\nnew", CALLBACK).await.text();
    assert!(page.contains("Evilmoc.buhtignew") || page.contains("Evilmoc.buhtig new"), "{page}");
    let long = named(&proxy, &"x".repeat(4_096), CALLBACK).await;
    assert!(!long.text().contains(&"x".repeat(81)), "cut");
    assert!(long.body.len() < 16 << 10);
}

/// AZ-16
#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_says_is_only_text_on_every_page() {
    let proxy = Proxy::start().await;
    let evil = "\"><script>alert(1)</script>";
    let id = proxy.register(&[APP, CURSOR]).await;
    let mut browser = proxy.browser();
    let more =
        [("state", evil), ("scope", evil), ("ui_locales", evil), ("error_description", evil), (evil, evil)];
    let consent = browser.get(&proxy.authorize_url(&id, CURSOR, &more)).await.expect(200);
    let approved = browser.decide(&flow(&consent), "approve").await.expect(200);
    let callback = browser.get(&onward(&approved)).await.header("location").to_owned();
    let finished = browser.get(&callback).await.expect(200);
    let again = browser.get(&callback).await.expect(400);
    let denied = browser.consent(&proxy.authorize_url(&id, APP, &more)).await;
    let denied = browser.decide(&denied, "deny").await.expect(200);
    let broken = [&more[..], &[("response_type", evil)]].concat();
    let offered = browser.get(&proxy.authorize_url(&id, APP, &broken)).await.expect(400);
    let foreign = [&more[..], &[("resource", evil), ("code_challenge", evil)]].concat();
    let foreign = browser.get(&proxy.authorize_url(&id, evil, &foreign)).await.expect(400);
    let unknown = browser.get(&proxy.authorize_url(evil, evil, &more)).await.expect(400);
    let stray =
        String::from_utf8(form(&[("state", evil), ("error", evil), ("error_description", evil)]).to_vec());
    let stray = browser.get(&format!("{PUBLIC}/github/callback?{}", stray.expect("text"))).await.expect(400);
    for (page, name) in [
        (&consent, "consent"),
        (&approved, "approved"),
        (&finished, "finished"),
        (&again, "again"),
        (&denied, "denied"),
        (&offered, "offered"),
        (&foreign, "foreign"),
        (&unknown, "unknown"),
        (&stray, "stray"),
    ] {
        let html = page.text();
        assert!(!html.contains("<script") && !html.contains(evil), "{name}: {html}");
        // Percent-encoded in a link back to the client is the only place where it may be.
        let links = ["finished", "denied", "offered"].contains(&name);
        assert_eq!(html.contains("alert"), links, "{name}: {html}");
        assert!(page.header("content-security-policy").contains("default-src 'none'"), "{name}");
    }
    assert_eq!(param(&onward(&finished), "state").as_deref(), Some(evil));
}

// Without the style, whose words are ours.
fn body(html: &str) -> &str {
    html.split_once("</style>").expect("a style").1
}

// CO-18, AZ-09, CI-13, AS-K3, AS-R10
#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_who_asks_for_what_and_where_the_answer_goes() {
    let proxy = Proxy::with(Setup {
        resources: r#"[{path: /mcp, upstream: "MCP/", github_scopes: [repo, gist], scopes: [tools, mcp]}]"#,
        extra: "clients: [{id: web, name: Our Web App, redirect_uris: ['https://app.example:8443/cb']}]"
            .into(),
        ..Setup::default()
    })
    .await;
    let page = named(&proxy, "GitHub \u{2714} verified", "https://evil.test/github.com/cb").await.text();
    for expected in ["evil.test", "https://p.test/mcp", "repo", "gist", "tools", "unverified", "GitHub"] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(page.contains("evil.test, which nobody has verified"), "{page}");
    let loopback = named(&proxy, "Claude Code", "http://localhost:3118/callback").await.text();
    assert!(loopback.contains("localhost:3118") && loopback.contains("class=\"note\""), "{loopback}");
    assert!(loopback.contains("on this computer"), "{loopback}");
    let cursor = named(&proxy, "Cursor", CURSOR).await.text();
    assert!(cursor.contains("<code>cursor:</code>") && cursor.contains("class=\"note\""), "{cursor}");
    let url = proxy.authorize_url("web", "https://app.example:8443/cb", &[]);
    let configured = proxy.browser().get(&url).await.expect(200).text();
    assert!(configured.contains("app.example:8443") && configured.contains("operator"), "{configured}");
    assert!(!configured.contains("unverified"), "{configured}");
    // AZ-09: a look-alike is shown in ASCII.
    let idn = named(&proxy, "X", "https://xn--pp-7la.example/cb").await.text();
    assert!(idn.contains("xn--pp-7la.example"), "{idn}");
}

// CO-16 without a browser: after the form no redirect leaves the page, and an app's own scheme needs a click.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_hop_fits_the_redirect_uri() {
    let proxy = Proxy::start().await;
    for uri in [CALLBACK, APP] {
        let id = proxy.register(&[uri]).await;
        let mut browser = proxy.browser();
        let callback = browser.reach_callback(&proxy.authorize_url(&id, uri, &[])).await;
        let answer = browser.get(&callback).await;
        // RFC 9700 §4.12
        assert_eq!(answer.status, 303, "{uri}");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert!(answer.header("location").starts_with(uri));
    }
    let id = proxy.register(&[CURSOR]).await;
    let mut browser = proxy.browser();
    let callback = browser.reach_callback(&proxy.authorize_url(&id, CURSOR, &[])).await;
    let page = browser.get(&callback).await.expect(200);
    assert!(
        !page.text().contains("http-equiv") && page.text().contains("id=\"continue\""),
        "{}",
        page.text()
    );
    let link = onward(&page);
    assert!(link.starts_with(&format!("{CURSOR}?code=")), "{link}");
    // An error after approval is offered the same way.
    proxy.github.world().set_approval(Approval::Denied);
    let callback = browser.reach_callback(&proxy.authorize_url(&id, CURSOR, &[])).await;
    let page = browser.get(&callback).await.expect(400);
    assert!(!page.text().contains("http-equiv"), "{}", page.text());
    assert_eq!(param(&onward(&page), "error").as_deref(), Some("access_denied"));
}

// === The way back ===

// CO-02, CO-08, CO-09
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_in_another_browser_is_refused_and_ends_the_login() {
    let proxy = Proxy::start().await;
    for in_the_middle_of_a_login in [false, true] {
        let (mut attacker, mut victim) = (proxy.browser(), proxy.browser());
        if in_the_middle_of_a_login {
            victim.reach_github(&url(&proxy).await).await;
        }
        // The attacker approves and lets the victim go on: GitHub sends the victim back with their own code.
        let github = attacker.reach_github(&url(&proxy).await).await;
        let callback = victim.get(&github).await.header("location").to_owned();
        refused(&victim.get(&callback).await, 400, "the victim's code");
        // It is of no use to the attacker either, should they have seen it, and nor is another.
        refused(&attacker.get(&callback).await, 400, "burnt");
        let other = attacker.get(&github).await.header("location").to_owned();
        refused(&attacker.get(&other).await, 400, "burnt");
        // Login CSRF: the attacker's own finished URL.
        let own = attacker.reach_callback(&url(&proxy).await).await;
        refused(&victim.get(&own).await, 400, "the attacker's account");
        refused(&attacker.get(&own).await, 400, "burnt");
        assert_eq!(proxy.github.world().count(Endpoint::Exchange), 0);
        // The victim's own login is not hurt.
        assert!(param(&victim.approve(&url(&proxy).await).await, "code").is_some());
        proxy.github.world().clear_calls();
    }
}

// CO-03, CO-09
#[tokio::test(flavor = "multi_thread")]
async fn form_and_code_of_one_browser_are_nothing_in_another() {
    let proxy = Proxy::start().await;
    let (mut victim, mut attacker) = (proxy.browser(), proxy.browser());
    let id = proxy.register(&[CALLBACK]).await;
    let thief = proxy.register(&[CALLBACK]).await;
    let url = proxy.authorize_url(&id, CALLBACK, &[]);
    // Each has a page of their own, and the other's form.
    let (theirs, own) = (victim.consent(&url).await, attacker.consent(&url).await);
    refused(&victim.decide(&own, "approve").await, 403, "the attacker's form");
    refused(&attacker.decide(&theirs, "approve").await, 403, "the victim's form");
    refused(&attacker.decide(&theirs, "deny").await, 403, "the victim's form");
    let github = onward(&victim.decide(&theirs, "approve").await.expect(200));
    let callback = victim.get(&github).await.header("location").to_owned();
    let back = victim.get(&callback).await.expect(303).header("location").to_owned();
    let code = param(&back, "code").expect("a code");
    // Whoever reads it on its way is another client, or has not the verifier.
    assert_eq!(proxy.redeem(&thief, &code).await.expect(400).error(), "invalid_grant");
    let mut pairs = vec![("grant_type", "authorization_code"), ("code", &code), ("client_id", &id)];
    assert_eq!(proxy.post_form("/token", &pairs).await.expect(400).error(), "invalid_request");
    let guess = VERIFIER.replace('d', "e");
    pairs.push(("code_verifier", &guess));
    assert_eq!(proxy.post_form("/token", &pairs).await.expect(400).error(), "invalid_grant");
    proxy.redeem(&id, &code).await.expect(200);
}

// CO-07
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_cookie_is_never_taken_for_ours() {
    let proxy = Proxy::start().await;
    let planted = "A".repeat(32);
    for binds in ["consent", "login"] {
        let name = format!("__Host-mcp-{binds}");
        for (case, header) in [
            // Sub-domains and http siblings can plant these, browsers keep the prefix to ourselves.
            ("without the prefix", format!("mcp-{binds}={planted}; {{}}")),
            ("behind ours", format!("{{}}; mcp-{binds}={planted}")),
            ("in other case", format!("__HOST-mcp-{binds}={planted}; {{}}")),
            ("of another prefix", format!("__Secure-mcp-{binds}={planted}; {{}}")),
            ("of a longer name", format!("{name}2={planted}; x{name}={planted}; {{}}")),
            ("nameless", format!("={name}={planted}; {{}}")),
            ("a name alone", format!("{name}; {{}}")),
        ] {
            assert!(finishes(&proxy, binds, &header).await, "{binds}: {case}");
        }
        for (case, header) in [
            ("twice, as with a longer path", format!("{name}={planted}; {{}}")),
            ("twice, behind ours", format!("{{}}; {name}={planted}")),
            ("twice, an empty one", format!("{name}=; {{}}")),
            ("alone", format!("{name}={planted}")),
            ("ours in quotes", "x=\"{}\"".to_owned()),
        ] {
            assert!(!finishes(&proxy, binds, &header).await, "{binds}: {case}");
        }
    }
    assert_eq!(proxy.github.world().count(Endpoint::Exchange), 7, "no refused one was begun");
}

/// Whether a login comes to its end when one of its two steps is sent with this Cookie header; `{}` is the true one.
async fn finishes(proxy: &Proxy, binds: &str, header: &str) -> bool {
    let mut browser = proxy.browser();
    let flow = browser.consent(&url(proxy).await).await;
    let sent = |browser: &Browser| header.replace("{}", &cookies(browser));
    let cookie = if binds == "consent" { sent(&browser) } else { cookies(&browser) };
    let body = form(&[("flow", &flow), ("decision", "approve")]);
    let page = post(proxy, &[("origin", PUBLIC), ("cookie", &cookie)], body).await;
    if binds == "consent" {
        assert_eq!(page.status == 200, page.text().contains(&proxy.github.base_url()), "{header}");
        return page.status == 200;
    }
    let login = page.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    let (name, value) = login.split_once('=').expect("a cookie");
    browser.cookies.get_mut(PUBLIC).expect("a jar").insert(name.to_owned(), value.to_owned());
    browser.cookies.get_mut(PUBLIC).expect("a jar").remove("__Host-mcp-consent");
    let callback = browser.get(&onward(&page)).await.header("location").to_owned();
    let path = callback.strip_prefix(PUBLIC).expect("ours");
    let request = proxy.request(Method::GET, path).header("cookie", sent(&browser));
    let answer = proxy.send(request.body(Bytes::new()).expect("a request")).await;
    param(answer.header("location"), "code").is_some()
}

// CO-11, AS-K7, AS-K8
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_this_browser_did_not_approve_is_nothing() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let page = browser.get(&url(&proxy).await).await.expect(200);
    let pending = flow(&page);
    let callback = |state: &str| format!("{PUBLIC}/github/callback?code=x&state={state}");
    // Before approval no state exists: what is in the form is not one.
    refused(&browser.get(&callback(&pending)).await, 400, "the form's flow");
    let github = browser.reach_github(&url(&proxy).await).await;
    let state = param(&github, "state").expect("a state");
    for (case, url) in [
        ("missing", format!("{PUBLIC}/github/callback?code=x")),
        ("nothing", format!("{PUBLIC}/github/callback")),
        ("empty", callback("")),
        ("unknown", callback("AAAAAAAAAAAAAAAAAAAAAAAA")),
        ("the form's flow, with a login cookie", callback(&pending)),
        ("changed", callback(&changed(&state))),
        ("cut", callback(&state[..state.len() - 4])),
        ("longer", callback(&format!("{state}AAAA"))),
        ("padded", callback(&format!("{state}="))),
        ("twice", format!("{}&state={state}", callback(&state))),
        ("another first", format!("{}&state={state}", callback("AAAA"))),
        ("12 KiB", callback(&"A".repeat(12_000))),
        ("no code", format!("{PUBLIC}/github/callback?state={state}")),
        ("an empty code", format!("{PUBLIC}/github/callback?code=&state={state}")),
        ("two codes", format!("{}&code=y", callback(&state))),
    ] {
        refused(&browser.get(&url).await, 400, case);
    }
    let big = format!(
        "GET /github/callback?code=x&state={} HTTP/1.1\r\nHost: p.test\r\n\r\n",
        "A".repeat(64 << 10)
    );
    let status = raw::status(&raw::say(proxy.address(), big.as_bytes()).await);
    assert!([414, 431].contains(&status), "{status}");
    assert_eq!(proxy.github.world().count(Endpoint::Exchange), 0);
    // None of this hurt the true one.
    let callback = browser.get(&github).await.header("location").to_owned();
    browser.get(&callback).await.expect(303);
}

// CO-11
#[tokio::test(flavor = "multi_thread")]
async fn a_login_at_github_may_take_ten_minutes_in_all() {
    let proxy = Proxy::start().await;
    for (seconds, status) in [(600, 303), (601, 400)] {
        let mut browser = proxy.browser();
        let callback = browser.reach_callback(&url(&proxy).await).await;
        proxy.forward(Duration::from_secs(seconds));
        assert_eq!(browser.get(&callback).await.status, status, "{seconds} s");
    }
    assert_eq!(proxy.github.world().count(Endpoint::Exchange), 1);
}

// CO-10
#[tokio::test(flavor = "multi_thread")]
async fn a_reloaded_callback_gets_a_friendly_page() {
    let proxy = Proxy::start().await;
    let mut browser = proxy.browser();
    let callback = browser.reach_callback(&url(&proxy).await).await;
    browser.get(&callback).await.expect(303);
    for _ in 0..2 {
        let again = browser.get(&callback).await;
        refused(&again, 400, "again");
        assert!(again.text().contains("finished already"), "{}", again.text());
    }
    assert_eq!(proxy.github.world().count(Endpoint::Exchange), 1);
}

// CO-10
#[tokio::test(flavor = "multi_thread")]
async fn ten_callbacks_at_once_are_one_exchange_and_one_code() {
    let counted = Counted::start(Setup::default()).await;
    let proxy = &counted.proxy;
    let mut browser = proxy.browser();
    let callback = browser.reach_callback(&url(proxy).await).await;
    let hold = proxy.github.world().hold(Endpoint::Exchange);
    let (mut browsers, mut answers) = (vec![browser; 10], Vec::new());
    let asked: Vec<_> = browsers
        .drain(..)
        .map(|mut browser| {
            let callback = callback.clone();
            tokio::spawn(async move { browser.get(&callback).await })
        })
        .collect();
    proxy.github.called(Endpoint::Exchange, 1).await;
    hold.release();
    for answer in asked {
        answers.push(answer.await.expect("an answer").status);
    }
    answers.sort_unstable();
    assert_eq!(answers, [303, 400, 400, 400, 400, 400, 400, 400, 400, 400]);
    assert_eq!(proxy.github.world().count(Endpoint::Exchange), 1);
    assert_eq!(counted.records(), 3, "a credential, a family, a mark");
}

// CO-10 with two replicas: the reload that lands on the other one is friendly too.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_on_another_replica_gets_the_same_page() {
    let counted = Counted::start(Setup::default()).await;
    let proxy = &counted.proxy;
    let replica = proxy.replica();
    let mut browser = proxy.browser();
    let callback = browser.reach_callback(&url(proxy).await).await;
    browser.get(&callback).await.expect(303);
    let mut elsewhere = Browser::new(replica.address());
    elsewhere.cookies = browser.cookies.clone();
    let again = elsewhere.get(&callback).await;
    refused(&again, 400, "on the replica");
    assert!(again.text().contains("finished already"), "{}", again.text());
    tokio::task::spawn_blocking(move || replica.stop()).await.expect("stops");
}

// CO-10 with two replicas at once: whoever asks GitHub, one code comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn parallel_callbacks_on_two_replicas_are_one_login() {
    let counted = Counted::start(Setup::default()).await;
    let proxy = &counted.proxy;
    let replica = proxy.replica();
    for _ in 0..5 {
        let mut browser = proxy.browser();
        let callback = browser.reach_callback(&url(proxy).await).await;
        proxy.github.world().clear_calls();
        let asked = (0..10).map(|number| {
            let at = if number % 2 == 0 { proxy.address() } else { replica.address() };
            let mut copy = Browser::new(at);
            copy.cookies = browser.cookies.clone();
            let callback = callback.clone();
            async move { copy.get(&callback).await }
        });
        let answers = support::all(asked).await;
        let codes = answers.iter().filter(|answer| param(answer.header("location"), "code").is_some());
        assert_eq!(codes.count(), 1);
        assert!(answers.iter().all(|answer| answer.status < 500));
        assert!(proxy.github.world().count(Endpoint::Exchange) <= 2, "one per process");
    }
    tokio::task::spawn_blocking(move || replica.stop()).await.expect("stops");
}

// CO-12
#[tokio::test(flavor = "multi_thread")]
async fn iss_of_github_must_be_right_when_it_is_there() {
    let proxy = Proxy::start().await;
    let right = format!("{}/login/oauth", proxy.github.base_url());
    for (iss, status) in [
        (vec![], 303),
        (vec![right.as_str()], 303),
        (vec!["https://evil.test"], 400),
        (vec!["https://github.com/login/oauth"], 400),
        (vec![""], 400),
        (vec![right.as_str(), right.as_str()], 400),
        (vec![right.as_str(), "https://evil.test"], 400),
    ] {
        let mut browser = proxy.browser();
        let callback = browser.reach_callback(&url(&proxy).await).await;
        let mut changed = url::Url::parse(&callback).expect("a URL");
        let kept: Vec<_> = changed
            .query_pairs()
            .filter(|(name, _)| name != "iss")
            .map(|(n, v)| (n.into_owned(), v.into_owned()))
            .collect();
        changed.query_pairs_mut().clear().extend_pairs(kept).extend_pairs(iss.iter().map(|iss| ("iss", iss)));
        let before = proxy.github.world().count(Endpoint::Exchange);
        let answer = browser.get(changed.as_str()).await;
        assert_eq!(answer.status, status, "{iss:?}: {}", answer.text());
        let exchanged = proxy.github.world().count(Endpoint::Exchange) - before;
        assert_eq!(exchanged, usize::from(status == 303), "{iss:?}");
    }
}

// CO-13
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_github_reach_the_client_in_our_words() {
    let proxy = Proxy::start().await;
    for (error, expected) in [
        ("access_denied", "access_denied"),
        ("redirect_uri_mismatch", "server_error"),
        ("application_suspended", "server_error"),
        ("<script>", "server_error"),
        ("server_error\r\nX: y", "server_error"),
    ] {
        let mut browser = proxy.browser();
        let github = browser.reach_github(&url(&proxy).await).await;
        let state = param(&github, "state").expect("a state");
        let pairs = [
            ("error", error),
            ("error_description", "Call +1 555 0100 now <b>"),
            ("error_uri", "https://evil.test/"),
            ("state", &state),
        ];
        let query = String::from_utf8(form(&pairs).to_vec()).expect("text");
        let answer = browser.get(&format!("{PUBLIC}/github/callback?{query}")).await;
        told(&answer, expected, error);
        for theirs in ["555", "evil", "%3Cscript", "%0D"] {
            assert!(!answer.header("location").contains(theirs), "{error}: {}", answer.header("location"));
        }
    }
    // Both at once is neither.
    let mut browser = proxy.browser();
    let callback = browser.reach_callback(&url(&proxy).await).await;
    refused(&browser.get(&format!("{callback}&error=access_denied")).await, 400, "code and error");
    assert_eq!(proxy.github.world().count(Endpoint::Exchange), 0);
    // A person who says no at GitHub.
    proxy.github.world().set_approval(Approval::Denied);
    let mut browser = proxy.browser();
    let callback = browser.reach_callback(&url(&proxy).await).await;
    told(&browser.get(&callback).await, "access_denied", "at GitHub");
}

// GH-01, GH-02, GH-03
#[tokio::test(flavor = "multi_thread")]
async fn when_github_fails_the_client_hears_and_nothing_is_stored() {
    let counted = Counted::start(Setup::default()).await;
    let proxy = &counted.proxy;
    let url = url(proxy).await;
    let user = |body: &str| Fault::Answer {
        status: 200,
        headers: vec![("content-type".into(), "application/json".into())],
        body: body.to_owned(),
    };
    let refusal = |error: &str| Fault::OAuthError(error.to_owned());
    let limited = Fault::RateLimited { status: 429, retry_after: Some(60), reset: None };
    let (busy, broken) = ("temporarily_unavailable", "server_error");
    for (endpoint, fault, error) in [
        (Endpoint::Exchange, Fault::Status(500), busy),
        (Endpoint::Exchange, Fault::Status(403), busy),
        (Endpoint::Exchange, Fault::BadGateway, busy),
        (Endpoint::Exchange, Fault::Dropped, busy),
        (Endpoint::Exchange, Fault::AnswerLost, busy),
        (Endpoint::Exchange, limited.clone(), busy),
        (Endpoint::Exchange, Fault::Garbage, busy),
        (Endpoint::Exchange, Fault::Truncated, busy),
        (Endpoint::Exchange, Fault::BrokenOff, busy),
        (Endpoint::Exchange, Fault::NoAccessToken, busy),
        (Endpoint::Exchange, Fault::Huge(10 << 20), busy),
        (Endpoint::Exchange, refusal("bad_verification_code"), broken),
        (Endpoint::Exchange, refusal("incorrect_client_credentials"), broken),
        (Endpoint::Exchange, refusal("redirect_uri_mismatch"), broken),
        (Endpoint::Exchange, refusal("unverified_user_email"), broken),
        (Endpoint::Exchange, refusal("<script>alert(1)</script>"), busy),
        (Endpoint::User, Fault::Status(500), busy),
        (Endpoint::User, Fault::Status(403), busy),
        (Endpoint::User, Fault::Status(401), broken),
        (Endpoint::User, limited, busy),
        (Endpoint::User, Fault::Dropped, busy),
        (Endpoint::User, Fault::Garbage, busy),
        (Endpoint::User, Fault::Truncated, busy),
        (Endpoint::User, Fault::BrokenOff, busy),
        (Endpoint::User, Fault::Huge(10 << 20), busy),
        (Endpoint::User, user(r#"{"id":null,"login":"x"}"#), busy),
        (Endpoint::User, user(r#"{"id":"1","login":"x"}"#), busy),
        (Endpoint::User, user(r#"{"id":-1,"login":"x"}"#), busy),
        (Endpoint::User, user(r#"{"id":0,"login":"x"}"#), busy),
        (Endpoint::User, user(r#"{"id":1.5,"login":"x"}"#), busy),
        (Endpoint::User, user(r#"{"id":1,"login":null}"#), busy),
        (Endpoint::User, user(r#"{"id":1,"login":"a\r\nX: y"}"#), busy),
        (Endpoint::User, user(r#"{"id":1}"#), busy),
        (Endpoint::User, user(r#"{"id":9223372036854775808,"login":"x"}"#), busy),
        (Endpoint::User, user(r#"{"id":1e3,"login":"x"}"#), busy),
        (Endpoint::User, user(r#"{"id":1,"login":"x","type":"Bot"}"#), broken),
        (Endpoint::User, user(r#"{"id":1,"login":"x","type":"Organization"}"#), broken),
        (Endpoint::User, user(r#"{"id":1,"login":"x","type":null}"#), broken),
        (Endpoint::User, user("[]"), busy),
        (Endpoint::User, user("null"), busy),
    ] {
        let case = format!("{endpoint:?} {fault:?}");
        let case = &case[..case.len().min(80)];
        let mut browser = proxy.browser();
        let callback = browser.reach_callback(&url).await;
        proxy.github.world().clear_calls();
        proxy.github.world().fail(endpoint, fault);
        let answer = browser.get(&callback).await;
        told(&answer, error, case);
        for theirs in ["<script", "500", "127.0.0.1%3A", "standin", "bad_verification"] {
            let description = param(answer.header("location"), "error_description").unwrap_or_default();
            assert!(!description.contains(theirs), "{case}: {description}");
        }
        if endpoint == Endpoint::User {
            let dropped = proxy.github.world().count(Endpoint::DeleteToken);
            assert_eq!(dropped, 1, "{case}: a token that no login will use leaves GitHub");
        }
        proxy.github.world().heal();
        assert_eq!(proxy.github.world().count(Endpoint::Exchange), 1, "{case}: a code is never sent twice");
        assert_eq!(counted.records(), 0, "{case}");
    }
    // A form-encoded answer is read, and a large id is one.
    proxy.github.world().fail_times(Endpoint::Exchange, Fault::FormEncoded, 1);
    proxy.github.world().fail_times(
        Endpoint::User,
        user(r#"{"id":9007199254740993,"login":"big","type":"User"}"#),
        1,
    );
    assert!(param(&proxy.browser().approve(&url).await, "code").is_some());
}

// GH-01: an answer that never comes, or comes a byte at a time, costs bounded time, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_github_is_given_up() {
    let tuning = Tuning { github_timeout: Duration::from_millis(300), ..Setup::default().tuning };
    let proxy = Proxy::with(Setup { tuning, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    for endpoint in [Endpoint::Exchange, Endpoint::User] {
        for fault in [Fault::Silent, Fault::Dribble(Duration::from_millis(50))] {
            let mut browser = proxy.browser();
            let callback = browser.reach_callback(&url(&proxy).await).await;
            proxy.github.world().fail(endpoint, fault.clone());
            let calls = async {
                for _ in 0..5 {
                    proxy.ping(&tokens.access).await.expect(200);
                }
            };
            let (answer, ()) = tokio::join!(browser.get(&callback), calls);
            told(&answer, "temporarily_unavailable", &format!("{fault:?}"));
            proxy.github.world().heal();
        }
    }
}

// GH-04: a fresh token is refused for a moment; three refusals in a row are meant.
#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_token_is_tried_again() {
    let proxy = Proxy::start().await;
    for (refusals, succeeds) in [(1, true), (2, true), (3, false)] {
        proxy.github.world().spurious_401(refusals);
        let mut browser = proxy.browser();
        let callback = browser.reach_callback(&url(&proxy).await).await;
        let answer = browser.get(&callback).await;
        match succeeds {
            true => assert!(param(answer.header("location"), "code").is_some(), "{refusals}"),
            false => told(&answer, "server_error", "three times 401"),
        }
    }
}

// CO-24
#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_may_not_come_in_leaves_no_trace() {
    let counted =
        Counted::start(Setup { allow: "{users: [somebody-else], orgs: [secret-org]}", ..Setup::default() })
            .await;
    let proxy = &counted.proxy;
    let mut browser = proxy.browser();
    let callback = browser.reach_callback(&url(proxy).await).await;
    let answer = browser.get(&callback).await;
    told(&answer, "access_denied", "not on the list");
    for listed in ["somebody", "secret"] {
        assert!(!answer.header("location").contains(listed), "{}", answer.header("location"));
    }
    assert_eq!(counted.records(), 0);
    assert_eq!(proxy.github.world().count(Endpoint::DeleteToken), 1);
    assert_eq!(proxy.github.world().count(Endpoint::DeleteGrant), 0);
    assert!(proxy.github.world().live_tokens("octocat").is_empty(), "revoked at GitHub");
    // Not being able to revoke it changes nothing for the client.
    proxy.github.world().fail(Endpoint::DeleteToken, Fault::Status(500));
    let mut browser = proxy.browser();
    let callback = browser.reach_callback(&url(proxy).await).await;
    told(&browser.get(&callback).await, "access_denied", "not revocable");
}

/// design.md §1.1: everything before a finished login is carried by the other side.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_makes_us_store_nothing() {
    let counted = Counted::start(Setup::default()).await;
    let proxy = &counted.proxy;
    for _ in 0..50 {
        let url = url(proxy).await;
        let mut browser = proxy.browser();
        let github = browser.reach_github(&url).await;
        let state = param(&github, "state").expect("a state");
        browser.get(&format!("{PUBLIC}/github/callback?code=invented&state={state}")).await.expect(303);
        let flow = browser.consent(&url).await;
        browser.decide(&flow, "deny").await.expect(200);
        proxy.redeem("x", "mac_x").await.expect(401);
        proxy.refresh("x", "mar_x").await.expect(401);
        proxy.ping("nonsense").await.expect(401);
    }
    assert_eq!(counted.records(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_at_one_client_are_two_people() {
    let proxy = Proxy::start().await;
    proxy.github.world().add_user(User::new(7, "hubot"));
    let id = proxy.register(&[CALLBACK]).await;
    let mut tokens = Vec::new();
    for login in ["octocat", "hubot"] {
        proxy.github.world().sign_in(login);
        let back = proxy.browser().approve(&proxy.authorize_url(&id, CALLBACK, &[])).await;
        let answer = proxy.redeem(&id, &param(&back, "code").expect("a code")).await.expect(200).json();
        tokens.push((login, answer["access_token"].as_str().expect("a token").to_owned()));
    }
    for (login, token) in tokens {
        proxy.ping(&token).await.expect(200);
        let expected = proxy.github.world().live_tokens(login);
        assert_eq!(proxy.mcp.last().header("x-github-token"), expected[0], "{login}");
    }
}
