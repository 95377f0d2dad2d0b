//! Limits: what is too much, for whom, for how long, and that nobody else is touched.
//!
//! RFC 6585 §4; RFC 9110 §10.2.3.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use mcp_auth_proxy::clock::ManualClock;
use mcp_auth_proxy::limit::{Limiter, Rate, Source, Who};
use mcp_auth_proxy::protocol::token::FamilyId;
use serde_json::json;
use support::TempDir;
use support::browser::Browser;
use support::documents::{Documents, whole};
use support::github::{Endpoint, User};
use support::http::{Answer, form};
use support::proxy::{CALLBACK, PING, PUBLIC, Proxy, Setup, Tokens, VERIFIER, param};

/// A proxy behind one that it trusts, which says where everybody is.
async fn behind(extra: &str) -> Proxy {
    let extra = format!("trusted_proxies: [127.0.0.0/8]\n{extra}");
    Proxy::with(Setup { extra, ..Setup::default() }).await
}

const ATTACKER: &str = "203.0.113.9";
const NEIGHBOUR: &str = "203.0.113.10";

/// Somebody at an address.
struct At<'a>(&'a Proxy, &'a str);

impl At<'_> {
    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        self.0.request(method, path).header("x-forwarded-for", self.1)
    }

    async fn register(&self) -> Answer {
        let metadata = json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"});
        let request =
            self.request(Method::POST, "/register").header(header::CONTENT_TYPE, "application/json");
        self.0.send(request.body(Bytes::from(metadata.to_string())).expect("a request")).await
    }

    /// A client that is registered here.
    async fn client(&self) -> String {
        self.register().await.expect(201).json()["client_id"].as_str().expect("an id").to_owned()
    }

    async fn open(&self, url: &str) -> Answer {
        self.browser().get(url).await
    }

    fn browser(&self) -> Browser {
        let mut browser = self.0.browser();
        browser.address = Some(self.1.to_owned());
        browser
    }

    async fn token(&self, pairs: &[(&str, &str)]) -> Answer {
        let kind = "application/x-www-form-urlencoded";
        let request = self.request(Method::POST, "/token").header(header::CONTENT_TYPE, kind);
        self.0.send(request.body(form(pairs)).expect("a request")).await
    }

    async fn redeem(&self, client_id: &str, code: &str) -> Answer {
        let pairs = [("code", code), ("code_verifier", VERIFIER), ("redirect_uri", CALLBACK)];
        self.token(&[&[("grant_type", "authorization_code"), ("client_id", client_id)], &pairs[..]].concat())
            .await
    }

    async fn refresh(&self, client_id: &str, token: &str) -> Answer {
        self.token(&[("grant_type", "refresh_token"), ("client_id", client_id), ("refresh_token", token)])
            .await
    }

    async fn ping(&self, token: &str) -> Answer {
        let request = self.0.call("/mcp", token).header("x-forwarded-for", self.1);
        self.0.send(request.body(Bytes::from_static(PING)).expect("a request")).await
    }

    /// The whole flow, everything from this address.
    async fn login(&self) -> Tokens {
        let client_id = self.client().await;
        let back = self.browser().approve(&self.0.authorize_url(&client_id, CALLBACK, &[])).await;
        let code = param(&back, "code").unwrap_or_else(|| panic!("no code in {back}"));
        let answer = self.redeem(&client_id, &code).await.expect(200).json();
        Tokens::read(client_id, answer)
    }
}

/// A 429 that says when; returns the seconds.
#[track_caller]
fn too_often(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    let wait: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!((1..=601).contains(&wait), "{wait}");
    wait
}

#[track_caller]
fn too_often_json(answer: &Answer) -> u64 {
    let wait = too_often(answer);
    // The MCP SDKs know this word, and keep their tokens when they read it.
    assert_eq!(answer.error(), "too_many_requests");
    wait
}

// DR-01, GT-14
#[tokio::test(flavor = "multi_thread")]
async fn registrations_of_an_address_are_limited_whatever_it_claims_to_be() {
    let proxy = behind("").await;
    for number in 0..300 {
        // What a client writes stands left of what the trusted proxy adds.
        let claims = format!("192.0.2.{}, {ATTACKER}", number % 256);
        At(&proxy, &claims).register().await.expect(201);
    }
    let answer = At(&proxy, &format!("198.51.100.1, {ATTACKER}")).register().await;
    let wait = too_often_json(&answer);
    assert_eq!(answer.header("access-control-allow-origin"), "*", "pages can read it");
    At(&proxy, NEIGHBOUR).register().await.expect(201);
    At(&proxy, "2001:db8::1").register().await.expect(201);
    proxy.forward(Duration::from_secs(wait - 1));
    too_often_json(&At(&proxy, ATTACKER).register().await);
    proxy.forward(Duration::from_secs(1));
    At(&proxy, ATTACKER).register().await.expect(201);
}

// ST-07
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_leaves_nobody_limited() {
    let proxy = behind("limits: {register: 3/1h}").await;
    for _ in 0..2 {
        while At(&proxy, ATTACKER).register().await.status == 201 {}
        proxy.clock.back(Duration::from_secs(86_400));
        At(&proxy, ATTACKER).register().await.expect(201);
        while At(&proxy, ATTACKER).register().await.status == 201 {}
        proxy.forward(Duration::from_secs(365 * 86_400));
        At(&proxy, ATTACKER).register().await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn login_pages_of_an_address_are_limited_and_people_are_told_in_words() {
    let proxy = behind("limits: {authorize: 20/1m}").await;
    let client_id = proxy.register(&[CALLBACK]).await;
    let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
    for _ in 0..20 {
        At(&proxy, ATTACKER).open(&url).await.expect(200);
    }
    let page = At(&proxy, ATTACKER).open(&url).await;
    let wait = too_often(&page);
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
    assert!(page.text().contains(&format!("Reload this page in {wait} s")), "{}", page.text());
    assert_eq!(page.header("location"), "");
    let json = At(&proxy, ATTACKER).request(Method::GET, url.strip_prefix(PUBLIC).expect("ours"));
    let json = json.header(header::ACCEPT, "application/json").body(Bytes::new()).expect("a request");
    too_often_json(&proxy.send(json).await);
    At(&proxy, NEIGHBOUR).open(&url).await.expect(200);
    proxy.forward(Duration::from_secs(wait));
    At(&proxy, ATTACKER).open(&url).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_page_does_not_use_up_what_its_visitors_need() {
    let proxy = behind("limits: {authorize: 20/1m, register: 20/1m}").await;
    let client_id = proxy.register(&[CALLBACK]).await;
    let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
    let visitor = At(&proxy, ATTACKER);
    let image = || async {
        let request = visitor.request(Method::GET, url.strip_prefix(PUBLIC).expect("ours"));
        let request = request.header("sec-fetch-dest", "image").header("sec-fetch-mode", "no-cors");
        proxy.send(request.body(Bytes::new()).expect("a request")).await.status
    };
    let script = || async {
        let request = visitor.request(Method::POST, "/register").header(header::ORIGIN, "https://evil.test");
        proxy
            .send(request.header("sec-fetch-dest", "empty").body(Bytes::new()).expect("a request"))
            .await
            .status
    };
    for _ in 0..20 {
        assert_ne!(image().await, 429);
        assert_ne!(script().await, 429);
    }
    assert_eq!((image().await, script().await), (429, 429));
    visitor.open(&url).await.expect(200);
    visitor.register().await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_codes_and_refresh_tokens_are_limited_and_real_ones_are_answered() {
    let proxy = behind("limits: {bad_grants: 20/1m}").await;
    let tokens = proxy.login().await;
    let (client_id, code) = proxy.code(&[]).await;
    let attacker = At(&proxy, ATTACKER);
    for _ in 0..10 {
        assert_eq!(attacker.refresh(&client_id, "forged").await.expect(400).error(), "invalid_grant");
        assert_eq!(attacker.redeem(&client_id, "forged").await.expect(400).error(), "invalid_grant");
    }
    let wait = too_often_json(&attacker.refresh(&client_id, "forged").await);
    too_often_json(&attacker.redeem(&client_id, "forged").await);
    // Honest work from the same address, and the answers that tell a client to log in again.
    attacker.redeem(&client_id, &code).await.expect(200);
    let second = attacker.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
    let second = Tokens::read(tokens.client_id.clone(), second);
    let foreign = attacker.refresh(&client_id, &second.refresh).await;
    assert_eq!(foreign.expect(400).error(), "invalid_grant");
    assert_eq!(
        At(&proxy, NEIGHBOUR).refresh(&client_id, "forged").await.expect(400).error(),
        "invalid_grant"
    );
    proxy.forward(Duration::from_secs(wait));
    assert_eq!(attacker.refresh(&client_id, "forged").await.expect(400).error(), "invalid_grant");
    proxy.forward(Duration::from_secs(200 * 86_400));
    while attacker.refresh(&client_id, "forged").await.status == 400 {}
    let expired = attacker.refresh(&second.client_id, &second.refresh).await;
    assert_eq!(expired.expect(400).error(), "invalid_grant");
}

// CA-06
#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_is_limited_and_the_client_is_not_locked_out() {
    let clients = format!("clients: [{{id: web, secret: s3cret-of-web, redirect_uris: ['{CALLBACK}']}}]");
    let proxy = behind(&clients).await;
    let attempt = |address: &'static str, id: &'static str, secret: &'static str| {
        let pairs = [
            ("grant_type", "refresh_token"),
            ("refresh_token", "x"),
            ("client_id", id),
            ("client_secret", secret),
        ];
        let proxy = &proxy;
        async move { At(proxy, address).token(&pairs).await }
    };
    // The right secret reaches the grant.
    assert_eq!(attempt(ATTACKER, "web", "s3cret-of-web").await.expect(400).error(), "invalid_grant");
    let comparable = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove(header::DATE);
        (answer.status, headers, answer.body.clone())
    };
    let mut limited = 0;
    for number in 0..100 {
        let (wrong, unknown) =
            (attempt(ATTACKER, "web", "guess").await, attempt(ATTACKER, "nobody", "guess").await);
        assert_eq!(comparable(&wrong), comparable(&unknown), "attempt {number} tells who exists");
        match number < 30 {
            true => assert_eq!(wrong.error(), "invalid_client", "attempt {number}"),
            false => limited = too_often_json(&wrong),
        }
    }
    too_often_json(&attempt(ATTACKER, "web", "s3cret-of-web").await);
    assert_eq!(attempt(NEIGHBOUR, "web", "s3cret-of-web").await.expect(400).error(), "invalid_grant");
    proxy.forward(Duration::from_secs(limited));
    assert_eq!(attempt(ATTACKER, "web", "s3cret-of-web").await.expect(400).error(), "invalid_grant");
}

// CA-06
#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_we_made_are_never_locked_out_even_next_to_a_guesser() {
    let proxy = behind("").await;
    let metadata = json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post"});
    let registered = proxy.post_json("/register", &metadata).await.expect(201).json();
    let text = |name: &str| registered[name].as_str().expect("text").to_owned();
    let (id, secret) = (text("client_id"), text("client_secret"));
    let attempt = |secret: String| {
        let (proxy, id) = (&proxy, id.clone());
        async move {
            let pairs = [("grant_type", "refresh_token"), ("refresh_token", "x")];
            let own = [("client_id", id.as_str()), ("client_secret", secret.as_str())];
            At(proxy, ATTACKER).token(&[pairs, own].concat()).await
        }
    };
    for _ in 0..30 {
        attempt("maps_guess".to_owned()).await.expect(401);
    }
    too_often_json(&attempt("maps_guess".to_owned()).await);
    assert_eq!(attempt(secret).await.expect(400).error(), "invalid_grant", "the right one reaches the grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_bearers_are_limited_and_everybody_with_one_of_ours_is_not() {
    let proxy = behind("limits: {bad_bearers: 20/1m}").await;
    let tokens = proxy.login().await;
    let attacker = At(&proxy, ATTACKER);
    for _ in 0..20 {
        assert_eq!(attacker.ping("forged").await.expect(401).error(), "invalid_token");
    }
    let answer = attacker.ping("forged").await;
    let wait = too_often_json(&answer);
    assert_eq!(answer.header("www-authenticate"), "", "waiting helps, logging in does not");
    attacker.ping(&tokens.access).await.expect(200);
    At(&proxy, NEIGHBOUR).ping("forged").await.expect(401);
    // The way to a login stays open: no token at all, and one of ours that has expired.
    let bare = attacker.request(Method::POST, "/mcp").body(Bytes::new()).expect("a request");
    assert!(proxy.send(bare).await.expect(401).header("www-authenticate").contains("resource_metadata"));
    proxy.forward(Duration::from_secs(9 * 3_600));
    while attacker.ping("forged").await.status == 401 {}
    assert_eq!(attacker.ping(&tokens.access).await.expect(401).error(), "invalid_token");
    proxy.forward(Duration::from_secs(wait + 60));
    attacker.ping("forged").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_using_an_ended_login_is_told_to_stop_and_a_new_login_works() {
    let proxy = behind("limits: {ended_logins: 10/1m}").await;
    let tokens = proxy.login().await;
    let revocation = [("token", tokens.refresh.as_str()), ("client_id", tokens.client_id.as_str())];
    proxy.post_form("/revoke", &revocation).await.expect(200);
    for _ in 0..5 {
        proxy.ping(&tokens.access).await.expect(401);
        assert_eq!(
            proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(400).error(),
            "invalid_grant"
        );
    }
    let wait = too_often_json(&proxy.ping(&tokens.access).await);
    too_often_json(&proxy.refresh(&tokens.client_id, &tokens.refresh).await);
    too_often_json(&proxy.post_form("/revoke", &revocation).await);
    let new = proxy.login().await;
    proxy.ping(&new.access).await.expect(200);
    proxy.forward(Duration::from_secs(wait));
    proxy.ping(&tokens.access).await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_make_us_ask_github_again_and_again() {
    let proxy = behind("limits: {bad_callbacks: 5/1m, callback: 20/1m}").await;
    let client_id = proxy.register(&[CALLBACK]).await;
    let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
    let forged = |callback: &str| {
        let code = param(callback, "code").expect("a code");
        callback.replace(&code, "made-up")
    };
    for _ in 0..5 {
        let mut browser = At(&proxy, ATTACKER).browser();
        let callback = browser.reach_callback(&url).await;
        let back = browser.get(&forged(&callback)).await;
        assert_eq!(param(back.header("location"), "error").as_deref(), Some("server_error"));
    }
    let asked = proxy.github.world().count(Endpoint::Exchange);
    assert_eq!(asked, 5);
    let mut browser = At(&proxy, ATTACKER).browser();
    let callback = browser.reach_callback(&url).await;
    let wait = too_often(&browser.get(&forged(&callback)).await);
    too_often(&browser.get(&callback).await);
    assert_eq!(proxy.github.world().count(Endpoint::Exchange), asked, "GitHub was not asked");
    let back = At(&proxy, NEIGHBOUR).browser().approve(&url).await;
    assert!(param(&back, "code").is_some(), "{back}");
    // The login that had to wait is not lost.
    proxy.forward(Duration::from_secs(wait));
    let back = browser.get(&callback).await.expect(303);
    assert!(param(back.header("location"), "code").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_for_github_are_limited_per_address_good_or_not() {
    let proxy = behind("limits: {callback: 3/1m}").await;
    for _ in 0..3 {
        At(&proxy, ATTACKER).login().await;
    }
    let client_id = proxy.register(&[CALLBACK]).await;
    let mut browser = At(&proxy, ATTACKER).browser();
    let callback = browser.reach_callback(&proxy.authorize_url(&client_id, CALLBACK, &[])).await;
    too_often(&browser.get(&callback).await);
    assert_eq!(proxy.github.world().count(Endpoint::Exchange), 3);
    At(&proxy, NEIGHBOUR).login().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_cannot_log_in_without_end() {
    let proxy = behind("limits: {logins: 5/1h}").await;
    for _ in 0..5 {
        proxy.login().await;
    }
    let client_id = proxy.register(&[CALLBACK]).await;
    let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
    let back = At(&proxy, NEIGHBOUR).browser().approve(&url).await;
    assert_eq!(param(&back, "error").as_deref(), Some("temporarily_unavailable"), "{back}");
    assert_eq!(
        proxy.github.world().count(Endpoint::DeleteToken),
        0,
        "which would cost the app's own allowance"
    );
    proxy.github.world().add_user(User::new(4_242, "bystander"));
    proxy.github.world().sign_in("bystander");
    proxy.login().await;
    proxy.github.world().sign_in("octocat");
    proxy.forward(Duration::from_secs(2 * 3_600));
    proxy.login().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_login_cannot_refresh_without_end_and_keeps_its_token_while_it_waits() {
    let proxy = behind("limits: {refreshes: 5/10m}").await;
    let other = proxy.login().await;
    let mut tokens = proxy.login().await;
    for _ in 0..5 {
        let before = tokens.refresh.clone();
        let answer = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
        tokens = Tokens::read(tokens.client_id, answer);
        // Asking again for the same pair is no new one.
        proxy.refresh(&tokens.client_id, &before).await.expect(200);
    }
    let asked = proxy.github.world().calls().len();
    let wait = too_often_json(&proxy.refresh(&tokens.client_id, &tokens.refresh).await);
    assert_eq!(proxy.github.world().calls().len(), asked, "GitHub is left alone");
    proxy.ping(&tokens.access).await.expect(200);
    proxy.refresh(&other.client_id, &other.refresh).await.expect(200);
    proxy.forward(Duration::from_secs(wait));
    proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
}

/// A proxy that fetches documents from a host of ours.
async fn with_documents(limits: &str) -> (Proxy, Documents, TempDir) {
    let documents = Documents::start().await;
    let dir = TempDir::new();
    let ca = documents.ca_file(dir.path());
    let metadata = format!("client_metadata: {{ca_file: '{}', allow_private_addresses: true}}", ca.display());
    let proxy = behind(&format!("{metadata}\nlimits: {{{limits}}}")).await;
    (proxy, documents, dir)
}

// CI-15
#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_use_us_against_the_hosts_of_documents() {
    let (proxy, documents, _dir) = with_documents("metadata_fetches: 5/1m, authorize: off").await;
    let ask = async |address: &str, path: &str| {
        let url = proxy.authorize_url(&documents.url(path), CALLBACK, &[]);
        At(&proxy, address).open(&url).await
    };
    documents.publish("/good", &documents.document("/good", &[CALLBACK]));
    ask(NEIGHBOUR, "/good").await.expect(200);
    for number in 0..5 {
        ask(ATTACKER, &format!("/{number}")).await.expect(400);
    }
    let before = documents.connections();
    let mut wait = 0;
    for number in 5..200 {
        wait = too_often(&ask(ATTACKER, &format!("/{number}")).await);
    }
    assert_eq!(documents.connections(), before, "the host hears nothing more of this address");
    ask(ATTACKER, "/good").await.expect(200);
    // From many addresses: ten times as much for one host.
    for address in 0..100 {
        for number in 0..5 {
            ask(&format!("198.51.100.{address}"), &format!("/{address}/{number}")).await;
        }
    }
    assert_eq!(documents.connections(), 50, "documents of one host");
    documents.publish("/other", &documents.document("/other", &[CALLBACK]));
    too_often(&ask(NEIGHBOUR, "/other").await);
    // A client that was good lately is good still, when it has to be looked at again too.
    proxy.forward(Duration::from_secs(301));
    for address in 0..100 {
        ask(&format!("198.51.100.{address}"), &format!("/again/{address}")).await;
    }
    ask(NEIGHBOUR, "/good").await.expect(200);
    proxy.forward(Duration::from_secs(wait.max(121)));
    ask(NEIGHBOUR, "/other").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_host_was_in_trouble_is_not_locked_out_by_those_who_ask_the_host_for_others() {
    let (proxy, documents, _dir) = with_documents("metadata_fetches: 5/1m, authorize: off").await;
    let ask = async |address: &str, path: &str| {
        let url = proxy.authorize_url(&documents.url(path), CALLBACK, &[]);
        At(&proxy, address).open(&url).await
    };
    let good = documents.document("/good", &[CALLBACK]);
    let fill = async || {
        for address in 0..100 {
            ask(&format!("198.51.100.{address}"), &format!("/{address}")).await;
        }
    };
    for (status, expected) in [(503, 200), (429, 200), (404, 429)] {
        documents.publish("/good", &good);
        ask(NEIGHBOUR, "/good").await.expect(200);
        proxy.forward(Duration::from_secs(301));
        documents.say("/good", move || whole(status, &[("content-type", "application/json")], "{}"));
        ask(NEIGHBOUR, "/good").await.expect(400);
        fill().await;
        // What was withdrawn is forgotten, what could not be looked at is not.
        for _ in 0..6 {
            ask(ATTACKER, "/good").await;
        }
        ask(NEIGHBOUR, "/good").await.expect(expected);
        proxy.forward(Duration::from_secs(301));
    }
}

// CI-15
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_may_not_be_kept_is_not_fetched_for_every_request() {
    let (proxy, documents, _dir) = with_documents("metadata_fetches: 5/1m, authorize: off").await;
    let text = documents.document("/c", &[CALLBACK]).to_string();
    let headers = [("content-type", "application/json"), ("cache-control", "no-store")];
    documents.say("/c", move || whole(200, &headers, text.clone()));
    let url = proxy.authorize_url(&documents.url("/c"), CALLBACK, &[]);
    for _ in 0..500 {
        At(&proxy, ATTACKER).open(&url).await.expect(200);
    }
    assert!(documents.count("/c") <= 6, "{} fetches", documents.count("/c"));
    At(&proxy, NEIGHBOUR).open(&url).await.expect(200);
    proxy.forward(Duration::from_secs(121));
    let before = documents.count("/c");
    At(&proxy, NEIGHBOUR).open(&url).await.expect(200);
    assert_eq!(documents.count("/c"), before + 1, "it is looked at again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_office_behind_one_address_logs_in_on_monday_morning() {
    let proxy = behind("").await;
    for number in 0..200 {
        let login = format!("colleague-{number}");
        proxy.github.world().add_user(User::new(10_000 + number, &login));
        proxy.github.world().sign_in(&login);
        let tokens = At(&proxy, ATTACKER).login().await;
        At(&proxy, ATTACKER).ping(&tokens.access).await.expect(200);
    }
}

// DR-01, GT-14: what an undeclared proxy, or a stranger, says of others changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_machine_itself_and_a_proxy_that_nobody_declared_may_do_ten_times_as_much() {
    for (extra, allowed) in [("", 30), ("trusted_proxies: []", 3), ("trusted_proxies: [10.0.0.0/8]", 3)] {
        let extra = format!("{extra}\nlimits: {{register: 3/1m, bad_bearers: 3/1m}}");
        let proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
        let login = proxy.login().await;
        // The login registered once already.
        for number in 1..allowed {
            At(&proxy, &format!("203.0.113.{number}")).register().await.expect(201);
            proxy.ping("forged").await.expect(401);
        }
        proxy.ping("forged").await.expect(401);
        for number in 101..105 {
            At(&proxy, &format!("203.0.113.{number}")).register().await.expect(429);
            At(&proxy, &format!("203.0.113.{number}")).ping("forged").await.expect(429);
        }
        proxy.ping(&login.access).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_can_be_switched_off() {
    let proxy = behind("limits: {register: off, bad_grants: off, bad_bearers: off}").await;
    for _ in 0..700 {
        At(&proxy, ATTACKER).register().await.expect(201);
        At(&proxy, ATTACKER).ping("forged").await.expect(401);
        At(&proxy, ATTACKER).refresh("nobody", "forged").await;
    }
}

// DS-07
#[test]
fn three_million_addresses_people_and_clients_take_no_more_memory_than_a_few() {
    let clock = ManualClock::new(1);
    let limiter = Limiter::new("test", Some(Rate::new(10, Duration::from_secs(60))), &clock.clock());
    limiter.count(&Who::Person(0));
    let before = resident_kib();
    for number in 0..1_000_000_u32 {
        let address = std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number) << 64);
        let source = Source { address: address.into(), by_page: false, many: false };
        let _ = limiter.take(&Who::Source(source));
        let _ = limiter.take(&Who::Person(u64::from(number)));
        let _ = limiter.take(&Who::LoginOf(FamilyId([0; 16]), u64::from(number)));
    }
    let grown = resident_kib().saturating_sub(before);
    // The other tests of this file run beside it; a table of three million would be some hundred MiB.
    assert!(grown < 100 << 10, "{grown} KiB");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS is there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
