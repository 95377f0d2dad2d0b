//! Clients that publish themselves: what is fetched, what is believed, and what is not even connected to.
//!
//! draft-ietf-oauth-client-id-metadata-document; MCP authorization, client ID metadata documents.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use serde_json::{Value, json};
use support::TempDir;
use support::browser::onward;
use support::documents::{Documents, whole};
use support::http::Answer;
use support::proxy::{CALLBACK, PUBLIC, Proxy, Setup, param};
use support::upstream;

const PATH: &str = "/client.json";
const JSON: (&str, &str) = ("content-type", "application/json");

/// Name, status, headers, body.
type Case<'a> = (&'a str, u16, Vec<(&'a str, &'a str)>, Bytes);

/// A proxy, the documents it trusts, and a good one at `PATH`.
struct Stage {
    proxy: Proxy,
    documents: Documents,
    _dir: TempDir,
}

async fn stage(metadata: &str) -> Stage {
    let documents = Documents::start().await;
    documents
        .publish(PATH, &documents.document(PATH, &["http://127.0.0.1/callback", "https://app.example/cb"]));
    let dir = TempDir::new();
    let ca = documents.ca_file(dir.path());
    let extra = format!("client_metadata: {{ca_file: '{}', {metadata}}}", ca.display());
    Stage { proxy: Proxy::with(Setup { extra, ..Setup::default() }).await, documents, _dir: dir }
}

async fn open() -> Stage {
    stage("allow_private_addresses: true").await
}

impl Stage {
    /// Opens the authorization URL of a client with this id.
    async fn ask(&self, id: &str) -> Answer {
        ask(&self.proxy, id, CALLBACK).await
    }
}

async fn ask(proxy: &Proxy, id: &str, redirect_uri: &str) -> Answer {
    let url = proxy.authorize_url(id, redirect_uri, &[]);
    let request = proxy.request(Method::GET, url.strip_prefix(PUBLIC).expect("ours"));
    proxy.send(request.header(header::ACCEPT, "text/html").body(Bytes::new()).expect("a request")).await
}

/// A page that says why; nobody is redirected.
#[track_caller]
fn refused(answer: &Answer, why: &str, case: &str) {
    assert_eq!(answer.status, 400, "{case}: {}", answer.text());
    assert_eq!(answer.header("location"), "", "{case}");
    assert!(answer.text().contains(why), "{case}: not {why:?}: {}", answer.text());
    assert!(!answer.text().contains("app.example"), "{case}");
}

// AS-C1, AS-C4, AS-C9, CO-18
#[tokio::test(flavor = "multi_thread")]
async fn a_published_client_logs_in() {
    let stage = open().await;
    let (proxy, id) = (&stage.proxy, stage.documents.url(PATH));
    let page = stage.ask(&id).await.expect(200).text();
    for expected in ["Published Client", "published by localhost", "127.0.0.1:7777", "class=\"note\""] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(!page.contains("unverified"), "{page}");
    let back = proxy.browser().approve(&proxy.authorize_url(&id, CALLBACK, &[])).await;
    let answer = proxy.redeem(&id, &param(&back, "code").expect("a code")).await.expect(200).json();
    let refresh = answer["refresh_token"].as_str().expect("a token");
    proxy.ping(answer["access_token"].as_str().expect("a token")).await.expect(200);
    proxy.refresh(&id, refresh).await.expect(200);
    for uri in [
        "http://127.0.0.1/other",
        "http://localhost:7777/callback",
        "https://app.example/cb/x",
        "https://evil.test/",
    ] {
        refused(&ask(proxy, &id, uri).await, "not one that", uri);
    }
}

// AS-C9: somebody vouches for the https redirect, so errors go there at once.
#[tokio::test(flavor = "multi_thread")]
async fn errors_go_to_the_client_that_its_host_vouches_for() {
    let stage = open().await;
    let url = stage.proxy.authorize_url(
        &stage.documents.url(PATH),
        "https://app.example/cb",
        &[("response_type", "x")],
    );
    let answer = stage.proxy.get(url.strip_prefix(PUBLIC).expect("ours")).await.expect(303);
    assert!(answer.header("location").starts_with("https://app.example/cb?error="), "{:?}", answer.headers);
}

// CI-16
#[tokio::test(flavor = "multi_thread")]
async fn the_fetch_tells_nothing_about_anybody() {
    let stage = open().await;
    let mut browser = stage.proxy.browser();
    browser
        .consent(&stage.proxy.authorize_url(&stage.documents.url(PATH), CALLBACK, &[("state", "s3cret")]))
        .await;
    let headers = stage.documents.last();
    let mut names: Vec<&str> = headers.keys().map(header::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "host", "user-agent"]);
    assert_eq!(headers["accept"], "application/json");
    assert!(!format!("{headers:?}").contains("s3cret"));
}

// CI-01, CI-14, CI-17, AS-C3: refused by looking; the host sees no connection.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_no_plain_urls_are_not_fetched() {
    let stage = open().await;
    let good = stage.documents.url(PATH);
    let (host, long) = (good.strip_suffix(PATH).expect("a path"), "x".repeat(8 << 10));
    for id in [
        host.replace("https:", "http:") + PATH,
        host.to_owned(),
        format!("{host}/"),
        format!("{host}/?x"),
        format!("{good}#f"),
        format!("{good}#"),
        good.replace("localhost", "user@localhost"),
        good.replace("localhost", "user:pass@localhost"),
        good.replace("localhost", "example.com@localhost"),
        format!("{host}/a/../client.json"),
        format!("{host}/./client.json"),
        format!("{host}/%2e%2e/client.json"),
        format!("{host}\\client.json"),
        good.replace("https", "HTTPS"),
        good.replace("localhost", "LOCALHOST"),
        good.replace("https://", "https:"),
        good.replace("https://", "https:/"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good}?{long}"),
        good.replace("localhost", "localhost."),
        "https://p.test/client.json".to_owned(),
        "https://p.test/authorize?client_id=x".to_owned(),
        "https://P.TEST:443/client.json".to_owned(),
    ] {
        let answer = stage.ask(&id).await;
        assert_eq!(answer.status, 400, "{}", &id[..id.len().min(80)]);
        assert_eq!(answer.header("location"), "");
    }
    assert_eq!(stage.documents.connections(), 0);
}

// AS-C8, CI-02, CI-03: without the override nothing inside is connected to, by name or by number.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_inside_is_connected_to() {
    let stage = stage("").await;
    let port = url::Url::parse(&stage.documents.url(PATH)).expect("a URL").port().expect("a port");
    for host in [
        "localhost",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::]",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
        // A name of this machine that only its resolver knows.
        "ip6-localhost",
    ] {
        let answer = stage.ask(&format!("https://{host}:{port}{PATH}")).await;
        assert_eq!(answer.status, 400, "{host}: {}", answer.text());
    }
    assert_eq!(stage.documents.connections(), 0, "no SYN");
}

// CI-14, AS-C11
#[tokio::test(flavor = "multi_thread")]
async fn only_listed_hosts_are_asked_when_there_is_a_list() {
    let stage = stage("allow_private_addresses: true, allow_hosts: [example.com]").await;
    let good = stage.documents.url(PATH);
    for host in [
        "localhost",
        "127.0.0.1",
        "evil-example.com",
        "example.com.evil.test",
        "example.com.",
        "xn--example-.com",
        "sub.example.com",
    ] {
        let answer = stage.ask(&good.replace("localhost", host)).await;
        assert_eq!(answer.status, 400, "{host}");
    }
    assert_eq!(stage.documents.connections(), 0);
    let stage = self::stage("allow_private_addresses: true, allow_hosts: [claude.ai, localhost]").await;
    stage.ask(&stage.documents.url(PATH)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_means_no_fetch() {
    let stage = stage("allow_private_addresses: true, enabled: false").await;
    let id = stage.documents.url(PATH);
    refused(&stage.ask(&id).await, "not registered", "off");
    assert_eq!(stage.proxy.redeem(&id, "x").await.expect(401).error(), "invalid_client");
    assert_eq!(stage.documents.connections(), 0);
}

// CI-06, CI-07, CI-08, CI-10, AS-C2, AS-C5, AS-C6, AS-C7: refused, and asked again the next time.
#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_be_used_are_refused_and_not_kept() {
    let stage = open().await;
    let documents = &stage.documents;
    let good = documents.document(PATH, &["http://127.0.0.1/callback"]);
    let text = good.to_string();
    let with = |member: &str, value: Value| {
        let mut changed = good.clone();
        changed[member] = value;
        changed.to_string()
    };
    let without = |member: &str| {
        let mut changed = good.clone();
        changed.as_object_mut().expect("an object").remove(member);
        changed.to_string()
    };
    let id = documents.url(PATH);
    let large = with("padding", json!("x".repeat(5 << 10)));
    let huge = with("padding", json!("x".repeat(1 << 20)));
    let other = documents.url("/other.json");
    let location = [("location", &*other), JSON];
    let cases: Vec<Case> = vec![
        ("301", 301, location.to_vec(), text.clone().into()),
        ("302", 302, location.to_vec(), text.clone().into()),
        ("303", 303, location.to_vec(), text.clone().into()),
        ("307", 307, location.to_vec(), text.clone().into()),
        ("308", 308, location.to_vec(), text.clone().into()),
        ("302 to metadata", 302, vec![("location", "https://169.254.169.254/"), JSON], text.clone().into()),
        ("201", 201, vec![JSON], text.clone().into()),
        ("204", 204, vec![JSON], Bytes::new()),
        ("206", 206, vec![JSON], text.clone().into()),
        ("304", 304, vec![JSON], Bytes::new()),
        ("404", 404, vec![JSON], text.clone().into()),
        ("500", 500, vec![JSON], text.clone().into()),
        ("html", 200, vec![("content-type", "text/html")], text.clone().into()),
        ("plain", 200, vec![("content-type", "text/plain")], text.clone().into()),
        ("no type", 200, vec![], text.clone().into()),
        ("gzip", 200, vec![JSON, ("content-encoding", "gzip")], text.clone().into()),
        ("brotli", 200, vec![JSON, ("content-encoding", "br")], text.clone().into()),
        ("over 5 KiB", 200, vec![JSON], large.into()),
        ("1 MiB", 200, vec![JSON], huge.into()),
        ("nothing", 200, vec![JSON], Bytes::new()),
        ("byte order mark", 200, vec![JSON], format!("\u{feff}{text}").into()),
        ("array", 200, vec![JSON], format!("[{text}]").into()),
        (
            "members in order",
            200,
            vec![JSON],
            json!([id, "X", ["http://127.0.0.1/callback"], null, null, null]).to_string().into(),
        ),
        ("cut", 200, vec![JSON], text[..text.len() - 1].to_owned().into()),
        ("more", 200, vec![JSON], format!("{text}{{}}").into()),
        ("not UTF-8", 200, vec![JSON], Bytes::from([text.as_bytes(), b"\xff"].concat())),
        ("another id", 200, vec![JSON], with("client_id", json!(other)).into()),
        (
            "id in another case",
            200,
            vec![JSON],
            with("client_id", json!(id.replace("client", "CLIENT"))).into(),
        ),
        ("id with a slash", 200, vec![JSON], with("client_id", json!(format!("{id}/"))).into()),
        (
            "id percent-encoded",
            200,
            vec![JSON],
            with("client_id", json!(id.replace("/client", "/%63lient"))).into(),
        ),
        ("no id", 200, vec![JSON], without("client_id").into()),
        ("id is a number", 200, vec![JSON], with("client_id", json!(1)).into()),
        ("no redirect", 200, vec![JSON], without("redirect_uris").into()),
        ("empty redirects", 200, vec![JSON], with("redirect_uris", json!([])).into()),
        (
            "bad redirects",
            200,
            vec![JSON],
            with("redirect_uris", json!(["javascript:x", "http://intranet/"])).into(),
        ),
        (
            "redirects as text",
            200,
            vec![JSON],
            with("redirect_uris", json!("http://127.0.0.1/callback")).into(),
        ),
        ("a secret", 200, vec![JSON], with("client_secret", json!("x")).into()),
        ("a secret's end", 200, vec![JSON], with("client_secret_expires_at", json!(0)).into()),
        ("post", 200, vec![JSON], with("token_endpoint_auth_method", json!("client_secret_post")).into()),
        ("basic", 200, vec![JSON], with("token_endpoint_auth_method", json!("client_secret_basic")).into()),
        ("jwt", 200, vec![JSON], with("token_endpoint_auth_method", json!("client_secret_jwt")).into()),
        ("twice", 200, vec![JSON], text.replacen('{', "{\"client_name\":\"A\",", 1).into()),
    ];
    let mut fetched = 0;
    for (case, status, headers, body) in cases {
        let headers: Vec<(String, String)> =
            headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        documents.say(PATH, move || {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (&**n, &**v)).collect();
            whole(status, &headers, body.clone())
        });
        for _ in 0..2 {
            refused(&stage.ask(&id).await, "cannot be verified", case);
            fetched += 1;
            assert_eq!(documents.count(PATH), fetched, "{case}: asked once each time");
        }
        assert_eq!(documents.count("/other.json"), 0, "{case}: no redirect is followed");
    }
    documents.publish(PATH, &good);
    stage.ask(&id).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_real_documents_hold_besides_is_ignored() {
    let stage = open().await;
    let mut document = stage.documents.document(PATH, &["http://127.0.0.1/callback", "javascript:x"]);
    document["grant_types"] = json!(["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"]);
    document["token_endpoint_auth_method"] = json!("private_key_jwt");
    document["jwks_uri"] = json!(stage.documents.url("/jwks.json"));
    document["logo_uri"] = json!(stage.documents.url("/logo.png"));
    document["client_uri"] = json!("javascript:alert(1)");
    stage.documents.publish(PATH, &document);
    let page = stage.ask(&stage.documents.url(PATH)).await.expect(200).text();
    assert!(!page.contains("javascript:") && !page.contains("logo"), "{page}");
    assert_eq!(stage.documents.connections(), 1, "DR-05: nothing else is fetched");
    for kind in ["application/json; charset=utf-8", "Application/JSON", "application/cimd+json"] {
        let (path, text) = (format!("/{}.json", kind.len()), document.clone());
        let mut text = text;
        text["client_id"] = json!(stage.documents.url(&path));
        stage.documents.say(&path, move || whole(200, &[("content-type", kind)], text.to_string()));
        stage.ask(&stage.documents.url(&path)).await.expect(200);
    }
}

// CI-07: a body without end is cut, whatever its head says.
#[tokio::test(flavor = "multi_thread")]
async fn an_endless_document_is_cut() {
    let stage = open().await;
    stage.documents.say(PATH, || {
        let (mut response, feed) = upstream::events();
        response.headers_mut().insert("content-type", header::HeaderValue::from_static("application/json"));
        tokio::spawn(async move {
            while feed.send(Ok(Bytes::from(" ".repeat(1024)))).is_ok() {
                tokio::task::yield_now().await
            }
        });
        response
    });
    refused(&stage.ask(&stage.documents.url(PATH)).await, "larger than 5 KiB", "endless");
}

// CI-11, AS-C7
#[tokio::test(flavor = "multi_thread")]
async fn documents_are_kept_as_long_as_they_say() {
    let stage = open().await;
    let documents = &stage.documents;
    for (number, (control, kept, gone)) in [
        ("max-age=60", 59, 61),
        ("public, max-age=3600", 3_599, 3_601),
        ("", 299, 301),
        ("max-age=1000000000000", 86_399, 86_401),
        ("no-store", 0, 0),
        ("no-cache", 0, 0),
        ("private, max-age=0", 0, 0),
        ("max-age=nonsense", 0, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{number}.json");
        let text = documents.document(&path, &["http://127.0.0.1/callback"]).to_string();
        documents.say(&path, move || whole(200, &[JSON, ("cache-control", control)], text.clone()));
        let id = documents.url(&path);
        stage.ask(&id).await.expect(200);
        stage.proxy.forward(Duration::from_secs(kept));
        stage.ask(&id).await.expect(200);
        let again = if gone == 0 { 2 } else { 1 };
        assert_eq!(documents.count(&path), again, "{control:?} after {kept} s");
        stage.proxy.forward(Duration::from_secs(gone - kept));
        stage.ask(&id).await.expect(200);
        assert_eq!(documents.count(&path), again + 1, "{control:?} after {gone} s");
    }
}

// CI-11, CI-12: a change counts for the next login; a running one keeps what it was shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_document_does_not_change_a_running_login() {
    let stage = open().await;
    let (proxy, documents, id) = (&stage.proxy, &stage.documents, stage.documents.url(PATH));
    let uncached = |document: Value| {
        documents.say(PATH, move || whole(200, &[JSON, ("cache-control", "no-store")], document.to_string()));
    };
    uncached(documents.document(PATH, &["http://127.0.0.1/callback"]));
    let mut browser = proxy.browser();
    let url = proxy.authorize_url(&id, CALLBACK, &[]);
    let flow = browser.consent(&url).await;
    let mut moved = documents.document(PATH, &["https://app.example/cb"]);
    moved["client_name"] = json!("Another Name");
    moved["token_endpoint_auth_method"] = json!("private_key_jwt");
    uncached(moved);
    // The running one.
    let fetched = documents.count(PATH);
    let github = onward(&browser.decide(&flow, "approve").await.expect(200));
    let callback = browser.get(&github).await.header("location").to_owned();
    let back = browser.get(&callback).await.expect(303).header("location").to_owned();
    proxy.redeem(&id, &param(&back, "code").expect("a code")).await.expect(200);
    assert_eq!(documents.count(PATH), fetched, "not fetched again");
    // The next.
    refused(&ask(proxy, &id, CALLBACK).await, "not one that", "the old URI");
    let page = ask(proxy, &id, "https://app.example/cb").await.expect(200).text();
    assert!(page.contains("Another Name"), "{page}");
    // Gone: no new login, whatever was there before.
    documents.say(PATH, || whole(404, &[], ""));
    refused(&ask(proxy, &id, "https://evil.test/cb").await, "cannot be verified", "gone");
}

// CI-15
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_logins_share_one_fetch() {
    let stage = open().await;
    let (address, id) = (stage.proxy.address(), stage.documents.url(PATH));
    let url = stage.proxy.authorize_url(&id, CALLBACK, &[]);
    stage.documents.hold();
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let request = support::http::request(Method::GET, &url).body(Bytes::new()).expect("a request");
            tokio::spawn(async move { support::http::send(address, request).await })
        })
        .collect();
    stage.documents.heard(1).await;
    // Everybody else in the meantime is served.
    stage.proxy.get("/.well-known/oauth-authorization-server").await.expect(200);
    stage.documents.release();
    for answer in asked {
        answer.await.expect("an answer").expect(200);
    }
    assert_eq!(stage.documents.count(PATH), 1);
}

// CI-16
#[tokio::test(flavor = "multi_thread")]
async fn bad_tls_is_an_error() {
    let wrong = Documents::named(&["other.example"]).await;
    let dir = TempDir::new();
    let ca = wrong.ca_file(dir.path());
    let extra = format!("client_metadata: {{ca_file: '{}', allow_private_addresses: true}}", ca.display());
    let proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
    wrong.publish(PATH, &wrong.document(PATH, &["http://127.0.0.1/callback"]));
    refused(&ask(&proxy, &wrong.url(PATH), CALLBACK).await, "cannot be reached safely", "another name");
    let unknown = Documents::start().await;
    unknown.publish(PATH, &unknown.document(PATH, &["http://127.0.0.1/callback"]));
    refused(
        &ask(&proxy, &unknown.url(PATH), CALLBACK).await,
        "cannot be reached safely",
        "another authority",
    );
    assert_eq!(wrong.count(PATH) + unknown.count(PATH), 0, "no request was sent");
}

// CI-09: what cannot be reached is told as what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_told() {
    let stage = open().await;
    let id = stage.documents.url(PATH);
    drop(stage.documents);
    let answer = ask(&stage.proxy, &id, CALLBACK).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("could not be fetched"), "{}", answer.text());
}

// AZ-08: as with registrations.
#[tokio::test(flavor = "multi_thread")]
async fn private_use_schemes_follow_the_switch() {
    for (extra, status) in [("", 200), ("\nprivate_use_schemes: false", 400)] {
        let documents = Documents::start().await;
        let uri = "cursor://anysphere.cursor-mcp/oauth/callback";
        documents.publish(PATH, &documents.document(PATH, &[uri]));
        let dir = TempDir::new();
        let ca = documents.ca_file(dir.path());
        let extra =
            format!("client_metadata: {{ca_file: '{}', allow_private_addresses: true}}{extra}", ca.display());
        let proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
        ask(&proxy, &documents.url(PATH), uri).await.expect(status);
    }
}

// AS-K2: a shared client_id gets nobody through.
#[tokio::test(flavor = "multi_thread")]
async fn a_well_known_client_is_asked_about_every_time() {
    let stage = open().await;
    let url = stage.proxy.authorize_url(&stage.documents.url(PATH), CALLBACK, &[]);
    let mut browser = stage.proxy.browser();
    browser.approve(&url).await;
    assert!(browser.get(&url).await.expect(200).text().contains("<form"));
}

// TK-24
#[tokio::test(flavor = "multi_thread")]
async fn a_second_device_does_not_log_out_the_first() {
    let stage = open().await;
    let (proxy, id) = (&stage.proxy, stage.documents.url(PATH));
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let back = proxy.browser().approve(&proxy.authorize_url(&id, CALLBACK, &[])).await;
        let answer = proxy.redeem(&id, &param(&back, "code").expect("a code")).await.expect(200).json();
        tokens.push(answer["access_token"].as_str().expect("a token").to_owned());
    }
    for token in tokens {
        proxy.ping(&token).await.expect(200);
    }
}
