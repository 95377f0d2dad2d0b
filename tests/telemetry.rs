//! What operators are told: numbers, the audit trail, traces; that it is all there, and nothing that is secret.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use support::canary::is_nowhere;
use support::github::User;
use support::proxy::{CALLBACK, Proxy, Setup, Tokens, VERIFIER, database, param};
use support::sabotage::Sabotage;
use support::upstream::{Mcp, RESULT, Raw, events, json as answer_json};
use support::{TempDir, eventually, http as plain};
use tokio::net::TcpSocket;
use tokio::time::timeout;

const METRICS: &str = "metrics: 127.0.0.1:0\n";

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

/// A proxy with numbers, and with more.
async fn with(extra: &str) -> Proxy {
    Proxy::with(Setup { extra: format!("{METRICS}{extra}"), ..Setup::default() }).await
}

/// An origin where nobody listens, nor ever will: its port stays taken.
fn nowhere() -> String {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
    let origin = format!("http://{}", socket.local_addr().expect("bound"));
    std::mem::forget(socket);
    origin
}

/// `/mcp`, and `/down` in front of nobody.
fn with_a_broken_one() -> &'static str {
    let down =
        format!("[{{path: /mcp, upstream: 'MCP/mcp'}}, {{path: /down, upstream: '{}/mcp'}}]", nowhere());
    Box::leak(down.into_boxed_str())
}

fn tool(name: &str, arguments: &str) -> String {
    let params = json!({ "name": name, "arguments": { "text": arguments } });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string()
}

async fn post(proxy: &Proxy, path: &str, token: &str, body: impl Into<Bytes>) -> plain::Answer {
    proxy.send(proxy.call(path, token).body(body.into()).unwrap()).await
}

async fn revoke(proxy: &Proxy, tokens: &Tokens) {
    let pairs = [("token", tokens.refresh.as_str()), ("client_id", &tokens.client_id)];
    proxy.post_form("/revoke", &pairs).await.expect(200);
}

/// Every series of a metric with its value, less the name.
fn series(told: &str, name: &str) -> Vec<String> {
    let name = format!("mcp_auth_proxy_{name}");
    let rest = told.lines().filter_map(|line| line.strip_prefix(&name));
    let mut all: Vec<String> =
        rest.filter(|rest| rest.starts_with(['{', ' '])).map(|rest| rest.trim().to_owned()).collect();
    all.sort();
    all
}

/// The labels of every series by its name, without `le`.
fn labels(told: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in told.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let names = labels.split('=').map(|part| part.rsplit([',', '{', '"']).next().unwrap_or_default());
        let names = names.filter(|name| !name.is_empty() && *name != "}").map(str::to_owned);
        known.entry(name.to_owned()).or_default().extend(names);
    }
    known
}

/// Somebody logs in to `/down` and calls it.
async fn call_what_is_down(proxy: &Proxy) {
    let tokens = proxy.login_for(&[("resource", "https://p.test/down")]).await;
    post(proxy, "/down", &tokens.access, support::proxy::PING).await.expect(502);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_are_what_happened() {
    let setup = Setup {
        allow: "{users: [octocat]}",
        resources: with_a_broken_one(),
        extra: METRICS.to_owned(),
        ..Setup::default()
    };
    let proxy = Proxy::with(setup).await;
    soon(async {
        while series(&proxy.numbers().await, "ready") != ["1"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let started = proxy.numbers().await;
    assert_eq!(series(&started, "requests_total"), [""; 0]);
    for (name, value) in [("live_families", "0"), ("github_rate_limit_remaining", "-1")] {
        assert_eq!(series(&started, name), [value], "{name}");
    }

    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    proxy.ping(&tokens.access).await.expect(200);
    proxy.ping("mapa_forged").await.expect(401);
    proxy.post_json("/mcp", &json!({})).await.expect(401);
    call_what_is_down(&proxy).await;
    let refreshed = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
    proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
    let refreshed = Tokens::read(tokens.client_id.clone(), refreshed);
    let other = proxy.login().await;
    revoke(&proxy, &other).await;
    proxy.forward(Duration::from_secs(3_600));
    proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(400);
    proxy.ping(&refreshed.access).await.expect(401);
    let mut browser = proxy.browser();
    let flow = browser.consent(&proxy.authorize_url(&tokens.client_id, CALLBACK, &[])).await;
    browser.decide(&flow, "deny").await.expect(200);
    browser.decide(&flow, "approve").await.expect(400);
    proxy.github.world().add_user(User::new(7, "mallory"));
    proxy.github.world().sign_in("mallory");
    let back = proxy.browser().approve(&proxy.authorize_url(&tokens.client_id, CALLBACK, &[])).await;
    assert_eq!(param(&back, "error").as_deref(), Some("access_denied"));

    let told = proxy.numbers().await;
    let expected: [(&str, &[&str]); 12] = [
        (
            "requests_total",
            &[
                r#"{route="/authorize",status="200",outcome="ok"} 5"#,
                r#"{route="/consent",status="200",outcome="ok"} 5"#,
                r#"{route="/consent",status="400",outcome="invalid_request"} 1"#,
                r#"{route="/down",status="502",outcome="upstream_unreachable"} 1"#,
                r#"{route="/github/callback",status="303",outcome="access_denied"} 1"#,
                r#"{route="/github/callback",status="303",outcome="ok"} 3"#,
                r#"{route="/mcp",status="200",outcome="ok"} 2"#,
                r#"{route="/mcp",status="401",outcome="invalid_token"} 2"#,
                r#"{route="/mcp",status="401",outcome="unauthorized"} 1"#,
                r#"{route="/register",status="201",outcome="ok"} 3"#,
                r#"{route="/revoke",status="200",outcome="ok"} 1"#,
                r#"{route="/token",status="200",outcome="ok"} 5"#,
                r#"{route="/token",status="400",outcome="invalid_grant"} 1"#,
            ],
        ),
        (
            "gate_decisions_total",
            &[
                r#"{resource="/down",decision="permitted"} 1"#,
                r#"{resource="/mcp",decision="forged"} 1"#,
                r#"{resource="/mcp",decision="missing"} 1"#,
                r#"{resource="/mcp",decision="permitted"} 2"#,
                r#"{resource="/mcp",decision="revoked"} 1"#,
            ],
        ),
        (
            "logins_total",
            &[
                r#"{step="approved"} 4"#,
                r#"{step="asked"} 5"#,
                r#"{step="denied"} 1"#,
                r#"{step="granted"} 3"#,
                r#"{step="redeemed"} 3"#,
                r#"{step="returned"} 4"#,
            ],
        ),
        (
            "login_failures_total",
            &[
                r#"{step="callback",reason="access_denied"} 1"#,
                r#"{step="consent",reason="invalid_request"} 1"#,
            ],
        ),
        (
            "tokens_total",
            &[
                r#"{grant="authorization_code",outcome="redeemed"} 3"#,
                r#"{grant="authorization_code",outcome="reused"} 0"#,
                r#"{grant="refresh_token",outcome="invalid_grant"} 1"#,
                r#"{grant="refresh_token",outcome="repeated"} 1"#,
                r#"{grant="refresh_token",outcome="reused"} 1"#,
                r#"{grant="refresh_token",outcome="rotated"} 1"#,
            ],
        ),
        ("upstream_failures_total", &[r#"{resource="/down",failure="unreachable"} 1"#]),
        ("upstream_duration_seconds_count", &[r#"{resource="/down"} 1"#, r#"{resource="/mcp"} 2"#]),
        (
            "github_calls_total",
            &[
                r#"{call="api",outcome="ok"} 4"#,
                r#"{call="check_token",outcome="ok"} 1"#,
                r#"{call="delete_token",outcome="ok"} 1"#,
                r#"{call="exchange",outcome="ok"} 4"#,
            ],
        ),
        ("store_failures_total", &[]),
        (
            "config_reloads_total",
            &[r#"{outcome="applied"} 0"#, r#"{outcome="invalid"} 0"#, r#"{outcome="refused"} 0"#],
        ),
        ("live_families", &["1"]),
        ("open_streams", &["0"]),
    ];
    for (name, expected) in expected {
        assert_eq!(series(&told, name), expected, "{name}");
    }
    for [durations, counts] in [
        ["request_duration_seconds_count", "requests_total"],
        ["github_duration_seconds_count", "github_calls_total"],
    ] {
        assert_eq!(sum(&told, durations), sum(&told, counts), "{durations}");
    }
}

fn sum(told: &str, name: &str) -> f64 {
    let values = series(told, name).into_iter();
    values.map(|series| series.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_to_the_store_are_counted_by_verb_and_those_without_an_answer_too() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup { extra: METRICS.to_owned(), ..Setup::on(&dir) }).await;
    let (client_id, code) = proxy.code(&[]).await;
    let before = proxy.numbers().await;
    proxy.redeem(&client_id, &code).await.expect(200);
    let after = proxy.numbers().await;
    let asked = |told: &str, verb: &str| {
        let start = format!("{{verb=\"{verb}\"}} ");
        let found = series(told, "store_duration_seconds_count");
        let value = found.iter().find_map(|series| series.strip_prefix(&start)).unwrap_or("0").to_owned();
        value.parse::<u32>().unwrap()
    };
    for (verb, times) in [("read", 1), ("replace", 1), ("create", 0), ("owned_by", 0)] {
        assert_eq!(asked(&after, verb) - asked(&before, verb), times, "{verb}");
    }
    assert_eq!(series(&after, "store_failures_total"), [""; 0]);
    let sabotage = Sabotage::of(&database(&dir));
    proxy.redeem(&client_id, &code).await.expect(503);
    drop(sabotage);
    let failed = proxy.numbers().await;
    assert_eq!(series(&failed, "store_failures_total"), [r#"{verb="read"} 1"#]);
    assert_eq!(asked(&failed, "read") - asked(&after, "read"), 1);
    let refused = r#"{grant="authorization_code",outcome="temporarily_unavailable"} 1"#.to_owned();
    assert!(series(&failed, "tokens_total").contains(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_requests_are_open_while_they_are() {
    let proxy = with("").await;
    let tokens = proxy.login().await;
    let (response, feed) = events();
    let response = std::sync::Mutex::new(Some(response));
    proxy.mcp.say(move |_| response.lock().unwrap().take().expect("one stream"));
    let request = proxy.call("/mcp", &tokens.access).method(Method::GET).body(Bytes::new()).unwrap();
    let (_, mut body) = plain::open(proxy.address(), request).await;
    feed.send(Ok(Bytes::from_static(b"data: 1\n\n"))).unwrap();
    soon(plain::next(&mut body)).await.unwrap().unwrap();
    let told = proxy.numbers().await;
    for name in ["open_streams", "open_requests", "live_families"] {
        assert_eq!(series(&told, name), ["1"], "{name}");
    }
    drop(feed);
    assert!(soon(plain::next(&mut body)).await.is_none());
    soon(async {
        let none = ["0".to_owned()];
        let open = |told: &str| ["open_streams", "open_requests"].map(|name| series(told, name) == none);
        while open(&proxy.numbers().await) != [true, true] {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_on_their_own_listener_alone() {
    let proxy = with("").await;
    let address = proxy.app().metrics_address().unwrap();
    let ask = |method: Method, path: &str| {
        let request = plain::request(method, &format!("http://{address}{path}")).body(Bytes::new()).unwrap();
        plain::send(address, request)
    };
    let told = ask(Method::GET, "/metrics").await.expect(200);
    assert_eq!(
        told.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "or Prometheus would read it as something else"
    );
    assert!(told.text().ends_with("# EOF\n"));
    assert_eq!(ask(Method::POST, "/metrics").await.expect(405).header("allow"), "GET");
    for path in ["/", "/metrics/", "/mcp", "/healthz", "/debug"] {
        ask(Method::GET, path).await.expect(404);
    }
    proxy.get("/metrics").await.expect(404);
    assert!(Proxy::start().await.app().metrics_address().is_none(), "left out: none");
}

/// One request of each kind that a stranger or a client may fill with anything.
async fn anything(proxy: &Proxy, tokens: &Tokens, word: &str) {
    proxy.get(&format!("/{word}")).await.expect(404);
    proxy.get(&format!("/.well-known/{word}")).await.expect(404);
    proxy.get(&format!("/authorize?client_id={word}&state={word}")).await.expect(400);
    proxy.get(&format!("/github/callback?state={word}&code={word}&error={word}")).await.expect(400);
    let method = Method::from_bytes(word.to_uppercase().as_bytes()).unwrap();
    proxy.send(proxy.request(method, "/mcp").body(Bytes::new()).unwrap()).await.expect(405);
    let elsewhere = plain::request(Method::GET, &format!("http://{word}.example/mcp"));
    proxy.send(elsewhere.body(Bytes::new()).unwrap()).await.expect(421);
    let metadata = json!({ "client_name": word, "redirect_uris": [CALLBACK] });
    proxy.post_json("/register", &metadata).await.expect(201);
    proxy.post_form("/token", &[("grant_type", word), ("client_id", &tokens.client_id)]).await.expect(400);
    post(proxy, "/mcp", word, tool(word, word)).await.expect(401);
    post(proxy, "/mcp", &tokens.access, tool(word, word)).await.expect(200);
    post(proxy, "/mcp", &tokens.access, json!({ "method": word }).to_string()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_word_of_a_stranger_becomes_a_label_and_no_secret_a_number() {
    let proxy = with("").await;
    let (client_id, code) = proxy.code(&[("state", "canary-state-0123456789")]).await;
    let tokens = Tokens::read(client_id.clone(), proxy.redeem(&client_id, &code).await.expect(200).json());
    anything(&proxy, &tokens, "wordless").await;
    let known = |told: &str| -> BTreeSet<String> {
        let lines = told.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
    };
    let before = known(&proxy.numbers().await);
    for number in 0..28 {
        anything(&proxy, &tokens, &format!("canaryword{number}")).await;
    }
    let told = proxy.numbers().await;
    let added: Vec<String> = known(&told).difference(&before).cloned().collect();
    assert_eq!(added, [""; 0]);
    let github = proxy.mcp.last().header("x-github-token").to_owned();
    let secrets = [
        ("the code", code),
        ("the access token", tokens.access),
        ("the refresh token", tokens.refresh),
        ("the GitHub token", github),
        ("the GitHub secret", "standin-secret".to_owned()),
        ("the state", "canary-state-0123456789".to_owned()),
        ("the verifier", VERIFIER.to_owned()),
        ("the address", "octocat@example.com".to_owned()),
    ];
    is_nowhere("the numbers", told.as_bytes(), &secrets);
    for word in ["octocat", "583231", "Test Client", "canaryword", "wordless", &client_id, "127.0.0.1"] {
        assert!(!told.contains(word), "{word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_configuration_are_counted() {
    let mut proxy = with("").await;
    proxy.reload(|yaml| yaml.replace("anyone", "{users: [octocat]}")).await.expect("it may change");
    proxy.reload(|yaml| format!("{yaml}drain_delay: 1s\n")).await.expect_err("it may not change");
    proxy.app().could_not_read();
    assert_eq!(
        series(&proxy.numbers().await, "config_reloads_total"),
        [r#"{outcome="applied"} 1"#, r#"{outcome="invalid"} 1"#, r#"{outcome="refused"} 1"#]
    );
}

/// The trail as far as it is written; every line is an object.
fn trail(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a trail");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// A proxy with a trail in `dir`.
async fn audited(dir: &TempDir) -> (Proxy, PathBuf) {
    let path = dir.path().join("audit.jsonl");
    let extra = format!("audit: '{}'", path.display());
    (Proxy::with(Setup { extra, ..Setup::default() }).await, path)
}

/// The events of one kind, less their moment, once there are so many.
async fn of_kind(path: &Path, kind: &str, times: usize) -> Vec<Value> {
    let found = || {
        let all = trail(path).into_iter().filter(|line| line["event"] == kind);
        all.map(|mut line| {
            let line_map = line.as_object_mut().expect("an object");
            let time = line_map.remove("time").and_then(|time| time.as_str().map(str::to_owned));
            assert!(time.is_some_and(|time| time.ends_with('Z') && time.contains('T')));
            line
        })
        .collect::<Vec<Value>>()
    };
    eventually(|| found().len() >= times).await;
    assert_eq!(found().len(), times, "{kind}");
    found()
}

fn without_milliseconds(mut call: Value) -> Value {
    assert!(call["milliseconds"].is_u64(), "{call}");
    call.as_object_mut().expect("an object").remove("milliseconds");
    call
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_says_who_did_what_and_no_more() {
    let dir = TempDir::new();
    let (proxy, path) = audited(&dir).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (client_id, code) = proxy.code(&[]).await;
    let tokens = Tokens::read(client_id.clone(), proxy.redeem(&client_id, &code).await.expect(200).json());
    let argument = "canary-argument-8f14e45fceea167a5a36dedd4bea2543";
    post(&proxy, "/mcp", &tokens.access, tool("merge", argument)).await.expect(200);
    post(&proxy, "/mcp", "mapa_forged", tool("forged", argument)).await.expect(401);
    proxy.refresh(&client_id, &tokens.refresh).await.expect(200);
    proxy.forward(Duration::from_secs(3_600));
    proxy.refresh(&client_id, &tokens.refresh).await.expect(400);
    let other = proxy.login().await;
    revoke(&proxy, &other).await;
    let mut browser = proxy.browser();
    let flow = browser.consent(&proxy.authorize_url(&client_id, CALLBACK, &[])).await;
    browser.decide(&flow, "deny").await.expect(200);

    let by = |id: &str, more: Value| {
        let mut line = json!({ "client_id": id, "client": "Test Client", "resource": "https://p.test/mcp" });
        let members = line.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        line
    };
    let consents = of_kind(&path, "consent", 3).await;
    assert_eq!(consents[0], by(&client_id, json!({ "event": "consent", "outcome": "approved" })));
    assert_eq!(consents[2], by(&client_id, json!({ "event": "consent", "outcome": "denied" })));
    let (person, login) = (583_231, "octocat");
    let logins = of_kind(&path, "login", 2).await;
    let admitted = json!({ "event": "login", "outcome": "admitted", "person": person, "login": login });
    assert_eq!(logins[0], by(&client_id, admitted));
    let grants = of_kind(&path, "grant", 2).await;
    let (grant, others) = (&grants[0]["grant"], &grants[1]["grant"]);
    assert!(grant.is_string() && grant != others);
    let granted = json!({ "event": "grant", "person": person, "login": login, "grant": grant });
    assert_eq!(grants[0], by(&client_id, granted));
    for (id, grant, event, outcome) in [
        (&client_id, grant, "redeem", "redeemed"),
        (&client_id, grant, "refresh", "rotated"),
        (&client_id, grant, "reuse", "refresh_token"),
        (&other.client_id, others, "revoke", "client"),
    ] {
        let times = if event == "redeem" { 2 } else { 1 };
        let expected = json!({ "event": event, "outcome": outcome, "person": person, "grant": grant });
        assert_eq!(of_kind(&path, event, times).await[0], by(id, expected));
    }
    let calls = of_kind(&path, "call", 1).await;
    let called = json!({
        "event": "call", "person": person, "login": login, "grant": grant,
        "method": "tools/call", "tool": "merge", "status": 200,
    });
    assert_eq!(without_milliseconds(calls[0].clone()), by(&client_id, called));

    let github = proxy.mcp.last().header("x-github-token").to_owned();
    let secrets = [
        ("the argument", argument.to_owned()),
        ("the code", code),
        ("the access token", tokens.access),
        ("the refresh token", tokens.refresh),
        ("the GitHub token", github),
        ("the GitHub secret", "standin-secret".to_owned()),
        ("the verifier", VERIFIER.to_owned()),
        ("the e-mail address", "octocat@example.com".to_owned()),
        ("the address", "127.0.0.1".to_owned()),
    ];
    is_nowhere("the trail", &fs::read(&path).unwrap(), &secrets);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_is_in_the_trail() {
    let dir = TempDir::new();
    let path = dir.path().join("audit.jsonl");
    let extra = format!("audit: '{}'", path.display());
    let proxy = Proxy::with(Setup { extra, allow: "{users: [somebody]}", ..Setup::default() }).await;
    let client_id = proxy.register(&[CALLBACK]).await;
    proxy.browser().approve(&proxy.authorize_url(&client_id, CALLBACK, &[])).await;
    let refused = &of_kind(&path, "login", 1).await[0];
    assert_eq!((&refused["outcome"], &refused["login"]), (&json!("refused"), &json!("octocat")));
    assert!(of_kind(&path, "grant", 0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_code_is_in_the_trail() {
    let dir = TempDir::new();
    let (proxy, path) = audited(&dir).await;
    let (client_id, code) = proxy.code(&[]).await;
    proxy.redeem(&client_id, &code).await.expect(200);
    proxy.redeem(&client_id, &code).await.expect(400);
    assert_eq!(of_kind(&path, "reuse", 1).await[0]["outcome"], "authorization_code");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_passes_untold() {
    let dir = TempDir::new();
    let (mut proxy, path) = audited(&dir).await;
    let tokens = proxy.login().await;
    let batch =
        format!("[{},{{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{{}}}},{}]", tool("one", ""), tool("two", ""));
    post(&proxy, "/mcp", &tokens.access, batch).await.expect(200);
    // Named by its headers: more than is read before the upstream is asked.
    let large =
        proxy.call("/mcp", &tokens.access).header("mcp-method", "tools/call").header("mcp-name", "large");
    proxy.send(large.body(tool("large", &"x".repeat(100 << 10)).into()).unwrap()).await.expect(200);
    // Whoever reads the last of two names would do it.
    let doubtful =
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"drop"}}"#;
    post(&proxy, "/mcp", &tokens.access, doubtful).await.expect(200);
    // An answer to the server calls nothing.
    post(&proxy, "/mcp", &tokens.access, RESULT).await.expect(200);
    proxy.stop().await;
    let calls = trail(&path).into_iter().filter(|line| line["event"] == "call");
    let told = |call: Value| ["method", "tool", "outcome"].map(|member| call[member].clone());
    let named: Vec<[Value; 3]> = calls.map(told).collect();
    let call = |tool: &str, outcome: Value| [json!("tools/call"), json!(tool), outcome];
    let read = Value::Null;
    let large = call("large", json!("claimed"));
    assert_eq!(
        named,
        [call("one", read.clone()), call("two", read), large, [Value::Null, Value::Null, Value::Null]]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_nobody_waited_for_is_in_the_trail() {
    let dir = TempDir::new();
    let path = dir.path().join("audit.jsonl");
    let upstream = Raw::start().await;
    let resources = support::proxy::in_front_of(&upstream.origin(), "");
    let extra = format!("audit: '{}'", path.display());
    let mut proxy = Proxy::with(Setup { extra, resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let send = |name: &str| {
        let call = proxy.call("/mcp", &tokens.access).body(tool(name, "").into()).unwrap();
        tokio::spawn(plain::try_send(proxy.address(), call))
    };
    let gone = send("gone");
    let held = soon(upstream.accept()).await;
    gone.abort();
    let abandoned = of_kind(&path, "call", 1).await.remove(0);
    let told = [&abandoned["outcome"], &abandoned["tool"], &abandoned["status"]];
    assert_eq!(told, [&json!("abandoned"), &json!("gone"), &Value::Null]);
    // Nor is one lost that the end cuts.
    let cut = send("cut");
    let also_held = soon(upstream.accept()).await;
    soon(proxy.stop()).await;
    assert_eq!(of_kind(&path, "call", 2).await[1]["tool"], "cut");
    assert!(soon(cut).await.unwrap().is_none());
    drop((held, also_held));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_that_was_moved_away_is_begun_anew_at_a_reload() {
    let dir = TempDir::new();
    let (mut proxy, path) = audited(&dir).await;
    let tokens = proxy.login().await;
    post(&proxy, "/mcp", &tokens.access, tool("before", "")).await.expect(200);
    let moved = dir.path().join("audit.jsonl.1");
    fs::rename(&path, &moved).unwrap();
    post(&proxy, "/mcp", &tokens.access, tool("between", "")).await.expect(200);
    proxy.reload(str::to_owned).await.expect("nothing changes");
    post(&proxy, "/mcp", &tokens.access, tool("after", "")).await.expect(200);
    let tools = async |path: &Path, times| -> Vec<Value> {
        of_kind(path, "call", times).await.iter().map(|call| call["tool"].clone()).collect()
    };
    assert_eq!(tools(&moved, 2).await, ["before", "between"]);
    assert_eq!(tools(&path, 1).await, ["after"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A span as the collector was sent it.
#[derive(Debug)]
struct Span {
    name: String,
    kind: u64,
    trace: String,
    id: String,
    parent: String,
    said: BTreeMap<String, Value>,
}

const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// A proxy that sends traces to a collector, with further settings of traces.
async fn traced(collector: &str, more: &str) -> Proxy {
    with(&format!("traces: {{endpoint: '{collector}/v1/traces'{more}}}")).await
}

/// Every span that a collector has.
fn spans(collector: &Mcp) -> Vec<Span> {
    let mut found = Vec::new();
    for request in collector.heard() {
        assert_eq!((&request.method, request.target.as_str()), (&Method::POST, "/v1/traces"));
        assert_eq!(request.header("content-type"), "application/json");
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        for resource in list(&body["resourceSpans"]) {
            found.extend(
                list(&resource["scopeSpans"]).iter().flat_map(|scope| list(&scope["spans"])).map(span),
            );
        }
    }
    found
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn span(span: &Value) -> Span {
    let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
    let said = list(&span["attributes"]).iter().map(|attribute| {
        let value = attribute["value"].as_object().and_then(|value| value.values().next()).expect("a value");
        // Numbers may come as texts, they are 64 bits long.
        let value = value
            .as_str()
            .and_then(|text| text.parse().ok())
            .map_or(value.clone(), |number: i64| json!(number));
        (attribute["key"].as_str().expect("a name").to_owned(), value)
    });
    Span {
        name: text("name"),
        kind: span["kind"].as_u64().expect("a kind"),
        trace: text("traceId"),
        id: text("spanId"),
        parent: text("parentSpanId"),
        said: said.collect(),
    }
}

/// Calls a tool in a trace of the client's.
async fn call_in(proxy: &Proxy, token: &str, traceparent: &str) {
    let call = proxy.call("/mcp", token).header("traceparent", traceparent).header("tracestate", "a=b");
    proxy.send(call.body(tool("merge", "canary-argument").into()).unwrap()).await.expect(200);
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn sampled() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_a_part_of_its_clients_trace_and_the_upstream_goes_on_in_it() {
    let collector = Mcp::start().await;
    let mut proxy = traced(&collector.origin(), "").await;
    let tokens = proxy.login().await;
    call_in(&proxy, &tokens.access, &sampled()).await;
    let heard = proxy.mcp.last();
    proxy.stop().await;
    let spans = spans(&collector);
    let of_trace: Vec<&Span> = spans.iter().filter(|span| span.trace == TRACE).collect();
    let [server, client] =
        [SERVER, CLIENT].map(|kind| of_trace.iter().find(|span| span.kind == kind).unwrap());
    assert_eq!(of_trace.len(), 2);
    assert_eq!((server.name.as_str(), server.parent.as_str()), ("POST /mcp", PARENT));
    assert_eq!((client.name.as_str(), &client.parent), ("upstream", &server.id));
    assert_eq!(heard.header("traceparent"), format!("00-{TRACE}-{}-01", client.id));
    assert_eq!(heard.header("tracestate"), "a=b", "it is the client's, and so is the trace");
    let said = json!({
        "http.request.method": "POST", "http.route": "/mcp", "http.response.status_code": 200,
        "mcp.method.name": "tools/call", "gen_ai.tool.name": "merge",
    });
    assert_eq!(json!(server.said), said);
    assert_eq!(json!(client.said), json!({ "http.response.status_code": 200 }));
}

// A forgotten path and a collector that is away look the same: no traces, and nobody knows why.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_takes_nothing_is_told_of_once() {
    let dir = TempDir::new();
    let extra = "traces: {endpoint: 'http://127.0.0.1:1/v1/traces'}".to_owned();
    let (proxy, program) = Proxy::as_process(Setup { extra, ..Setup::default() }, &dir, "info").await;
    let told = || program.said().matches("the collector does not take the traces").count();
    for _ in 0..2 {
        proxy.get("/").await.expect(200);
        eventually(|| told() > 0).await;
    }
    program.terminate();
    eventually(|| program.said().contains("stopped")).await;
    assert_eq!(told(), 1, "{}", program.said());
    assert!(program.said().contains("Connection refused"), "{}", program.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_outside_of_any_trace_begins_one() {
    let collector = Mcp::start().await;
    let mut proxy = traced(&collector.origin(), ", service: mine").await;
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    // What is no traceparent is none, and the tracestate beside it belongs to nothing.
    call_in(&proxy, &tokens.access, "00-nonsense").await;
    let heard = proxy.mcp.heard();
    proxy.stop().await;
    let told = spans(&collector);
    for heard in &heard {
        let [_, trace, parent, flags] = heard.header("traceparent").split('-').collect::<Vec<_>>()[..] else {
            panic!("{heard:?}");
        };
        let way = told.iter().find(|span| span.id == parent).expect("the way to the upstream");
        let server = told.iter().find(|span| span.id == way.parent).expect("the request");
        assert_eq!((way.trace.as_str(), flags, server.parent.as_str()), (trace, "01", ""));
        assert_eq!(heard.header("tracestate"), "");
    }
    assert_ne!(heard[0].header("traceparent"), heard[1].header("traceparent"));
    assert_eq!(told.iter().filter(|span| span.kind == CLIENT).count(), 2);
    let sent: Value = serde_json::from_slice(&collector.last().body).unwrap();
    let who = list(&sent["resourceSpans"][0]["resource"]["attributes"]);
    assert!(who.contains(&json!({ "key": "service.name", "value": { "stringValue": "mine" } })), "{who:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_says_so_on_its_span_and_no_span_says_a_secret() {
    let collector = Mcp::start().await;
    let extra = format!("{METRICS}traces: {{endpoint: '{}/v1/traces'}}", collector.origin());
    let mut proxy = Proxy::with(Setup { extra, resources: with_a_broken_one(), ..Setup::default() }).await;
    let (client_id, code) = proxy.code(&[]).await;
    let tokens = Tokens::read(client_id.clone(), proxy.redeem(&client_id, &code).await.expect(200).json());
    call_in(&proxy, &tokens.access, &sampled()).await;
    call_what_is_down(&proxy).await;
    proxy.get(&format!("/mcp?access_token={}", tokens.access)).await.expect(401);
    proxy.get(&format!("/{}?code={code}", tokens.refresh)).await.expect(404);
    proxy.stop().await;
    let told = spans(&collector);
    let failed = told.iter().find(|span| span.name == "POST /down").expect("the request that failed");
    assert_eq!(failed.said["mcp_auth_proxy.outcome"], "upstream_unreachable");
    let way = told.iter().find(|span| span.parent == failed.id).expect("the way to the upstream");
    assert_eq!(way.said["mcp_auth_proxy.outcome"], "unreachable");
    assert!(told.iter().any(|span| span.name == "GET other"));
    let bodies: Vec<u8> = collector.heard().iter().flat_map(|request| request.body.to_vec()).collect();
    let secrets = [
        ("the code", code),
        ("the access token", tokens.access),
        ("the refresh token", tokens.refresh),
        ("the GitHub secret", "standin-secret".to_owned()),
        ("the verifier", VERIFIER.to_owned()),
        ("the argument", "canary-argument".to_owned()),
        ("the e-mail address", "octocat@example.com".to_owned()),
        ("the address", "127.0.0.1".to_owned()),
    ];
    is_nowhere("the spans", &bodies, &secrets);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_is_not_sent_and_what_a_client_samples_is() {
    let collector = Mcp::start().await;
    let mut proxy = traced(&collector.origin(), ", sample: 0").await;
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    assert!(proxy.mcp.last().header("traceparent").ends_with("-00"), "others are told");
    call_in(&proxy, &tokens.access, &format!("00-{TRACE}-{PARENT}-00")).await;
    assert!(proxy.mcp.last().header("traceparent").starts_with(&format!("00-{TRACE}-")));
    proxy.stop().await;
    assert!(collector.heard().is_empty());

    let mut proxy = traced(&collector.origin(), ", sample: 0").await;
    let tokens = proxy.login().await;
    call_in(&proxy, &tokens.access, &sampled()).await;
    proxy.stop().await;
    assert_eq!(spans(&collector).len(), 2);
    assert!(spans(&collector).iter().all(|span| span.trace == TRACE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_harms_no_request_and_does_not_hold_up_the_end() {
    let failing = Mcp::start().await;
    failing.say(|_| {
        let mut response = answer_json("{}");
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    });
    // Connections are taken, and nothing is ever said on them.
    let silent = Raw::start().await;
    for collector in [nowhere(), failing.origin(), silent.origin()] {
        let mut proxy = traced(&collector, "").await;
        let tokens = proxy.login().await;
        for _ in 0..20 {
            proxy.ping(&tokens.access).await.expect(200);
        }
        // The configured grace is a second.
        timeout(Duration::from_secs(4), proxy.stop()).await.expect("within the grace");
    }
    assert!(!failing.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_was_replaced_gets_what_it_was_to_get_and_holds_up_nobody() {
    let (collector, silent) = (Mcp::start().await, Raw::start().await);
    let mut proxy = traced(&collector.origin(), "").await;
    let tokens = proxy.login().await;
    let move_to = |from: String, to: String| move |yaml: &str| yaml.replace(&from, &to);
    call_in(&proxy, &tokens.access, &sampled()).await;
    proxy.reload(move_to(collector.origin(), silent.origin())).await.expect("it may change");
    eventually(|| spans(&collector).iter().any(|span| span.trace == TRACE)).await;
    proxy.ping(&tokens.access).await.expect(200);
    timeout(Duration::from_secs(4), proxy.reload(move_to(silent.origin(), collector.origin())))
        .await
        .expect("nobody waits for a collector")
        .expect("it may change");
    timeout(Duration::from_secs(4), proxy.ping(&tokens.access)).await.expect("nor does a call").expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_traces_the_clients_own_passes_unchanged() {
    let proxy = with("").await;
    let tokens = proxy.login().await;
    call_in(&proxy, &tokens.access, &sampled()).await;
    let heard = proxy.mcp.last();
    assert_eq!((heard.header("traceparent"), heard.header("tracestate")), (sampled().as_str(), "a=b"));
    proxy.ping(&tokens.access).await.expect(200);
    assert_eq!(proxy.mcp.last().header("traceparent"), "", "none is made up");
}

/// Everything that can be counted, once at least.
async fn busy() -> String {
    let dir = TempDir::new();
    let setup = Setup { extra: METRICS.to_owned(), resources: with_a_broken_one(), ..Setup::on(&dir) };
    let proxy = Proxy::with(setup).await;
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    call_what_is_down(&proxy).await;
    proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
    proxy.get("/github/callback").await.expect(400);
    let sabotage = Sabotage::of(&database(&dir));
    proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(503);
    drop(sabotage);
    proxy.numbers().await
}

/// A file of this repository.
fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|_| panic!("no {path}"))
}

const PREFIX: &str = "mcp_auth_proxy_";

/// The metrics that a text names, each with what follows.
fn named(text: &str) -> impl Iterator<Item = (String, &str)> {
    let is_of_a_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.match_indices(PREFIX).map(move |(at, _)| {
        let end =
            text[at..].find(|character| !is_of_a_name(character)).map_or(text.len(), |length| at + length);
        (text[at..end].to_owned(), &text[end..])
    })
}

/// The labels that a query selects, groups or shows by.
fn labels_used(query: &str) -> BTreeSet<String> {
    let within = |open: &str, close: char| -> Vec<String> {
        let rest = query.split(open).skip(1);
        rest.filter_map(|rest| rest.split(close).next()).map(str::to_owned).collect()
    };
    let listed = within("by (", ')');
    let listed = listed.iter().flat_map(|labels| labels.split(','));
    let shown = within("$labels.", ' ').into_iter().chain(within("{{", '}'));
    let shown: Vec<String> = shown.filter(|label| !label.contains(['$', ' '])).collect();
    listed.chain(shown.iter().map(String::as_str)).map(|label| label.trim().to_owned()).collect()
}

/// The labels of the matchers that follow a name.
fn matched(after: &str) -> Vec<&str> {
    let matchers = after.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
    let labels = matchers.split(',').filter_map(|matcher| matcher.split(['=', '!']).next());
    labels.map(str::trim).filter(|label| !label.is_empty()).collect()
}

/// Prometheus's own, on everything that it collects.
const OF_TARGETS: [&str; 2] = ["instance", "job"];

/// Fails unless every metric in the queries exists, with every label that they ask for.
fn exists(queries: &[String], known: &BTreeMap<String, BTreeSet<String>>) {
    for query in queries {
        let mut usable: BTreeSet<&str> = OF_TARGETS.into();
        for (name, after) in named(query) {
            let labels = known.get(&name).unwrap_or_else(|| panic!("{name} does not exist: {query}"));
            for label in matched(after) {
                assert!(
                    labels.contains(label) || OF_TARGETS.contains(&label),
                    "{name} has no {label}: {query}"
                );
            }
            usable.extend(labels.iter().map(String::as_str));
        }
        for label in labels_used(query) {
            assert!(usable.contains(label.as_str()), "nothing has {label}: {query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_ask_for_what_there_is() {
    let known = labels(&busy().await);
    let dashboard: Value =
        serde_json::from_str(&file("examples/observability/grafana-dashboard.json")).unwrap();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let panels = list(&dashboard["panels"]);
    let targets: Vec<&Value> =
        panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten().collect();
    let asked =
        targets.iter().map(|target| format!("{} {}", text(target, "expr"), text(target, "legendFormat")));
    let variables =
        list(&dashboard["templating"]["list"]).iter().map(|variable| text(variable, "definition"));
    let queries: Vec<String> = asked.chain(variables).collect();
    assert!(queries.len() > 20 && targets.iter().all(|target| text(target, "expr").contains(PREFIX)));
    exists(&queries, &known);
    let numbers: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(numbers.len(), panels.len(), "panels have ids of their own");

    let alerts: Value = serde_saphyr::from_str(&file("examples/observability/alerts.yaml")).unwrap();
    let rules: Vec<&Value> = list(&alerts["groups"]).iter().flat_map(|group| list(&group["rules"])).collect();
    let annotated =
        |rule: &Value, name: &str| rule["annotations"][name].as_str().unwrap_or_default().to_owned();
    let queries = rules.iter().map(|rule| format!("{} {}", text(rule, "expr"), annotated(rule, "summary")));
    exists(&queries.collect::<Vec<_>>(), &known);
    for rule in rules {
        let told = [text(rule, "alert"), annotated(rule, "summary"), annotated(rule, "description")];
        assert!(told.iter().all(|text| !text.is_empty()), "{rule}");
    }
    serde_saphyr::from_str::<Value>(&file("examples/observability/prometheus.yaml")).unwrap();
    for name in ["grafana-dashboard.json", "alerts.yaml", "prometheus.yaml", "README.md"] {
        for (name, _) in named(&file(&format!("examples/observability/{name}"))) {
            assert!(known.contains_key(&name), "{name} does not exist");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_number_is_explained_and_every_explained_number_is_there() {
    let told = busy().await;
    let labels = labels(&told);
    let kinds = told.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let there: BTreeMap<String, BTreeSet<String>> = kinds
        .map(|(name, kind)| match kind {
            "counter" => (format!("{name}_total"), labels[&format!("{name}_total")].clone()),
            "histogram" => (name.to_owned(), labels[&format!("{name}_count")].clone()),
            _ => (name.to_owned(), labels[name].clone()),
        })
        .collect();
    let page = file("docs/observability.md");
    let rows = page.lines().filter(|line| line.starts_with(&format!("| `{PREFIX}")));
    let explained: BTreeMap<String, BTreeSet<String>> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            let words =
                |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
            (words(cells[1]).remove(0), words(cells[2]).into_iter().collect())
        })
        .collect();
    assert_eq!(explained, there);
}
