//! Every backend passes the one conformance suite; SQLite keeps its promises across restarts.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_proxy::clock::ManualClock;
use mcp_auth_proxy::store::conformance::{self, Subject};
use mcp_auth_proxy::store::memory::Memory;
use mcp_auth_proxy::store::sqlite::Sqlite;
use mcp_auth_proxy::store::{Record, Records};

mod support;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use serde_json::Value;
use support::TempDir;
use support::github::User;
use support::http as plain;
use support::proxy::{CALLBACK, Proxy, Setup, VERIFIER, database, param};

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    let clock = ManualClock::new(1);
    let memory: Arc<dyn Records> = Arc::new(Memory::new(clock.clock()));
    let now = clock.clock().now();
    conformance::run(&Subject { connections: [memory.clone(), memory], forward: |d| clock.forward(d), now })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_conforms() {
    let dir = TempDir::new();
    let clock = ManualClock::new(1);
    let open = || -> Arc<dyn Records> {
        Arc::new(Sqlite::open(&dir.path().join("a.db"), clock.clock()).expect("opens"))
    };
    let now = clock.clock().now();
    conformance::run(&Subject { connections: [open(), open()], forward: |d| clock.forward(d), now }).await;
}

#[tokio::test]
async fn sqlite_keeps_records_over_a_restart_and_for_its_owner_only() {
    let dir = TempDir::new();
    let path = dir.path().join("a.db");
    let clock = ManualClock::new(1);
    let expires = clock.clock().now().after(Duration::from_secs(9));
    let record = Record { bytes: b"kept".to_vec(), version: 1, owner: "ann".into(), expires };
    let first = Sqlite::open(&path, clock.clock()).expect("opens");
    first.create("key", record.clone()).await.expect("created");
    drop(first);
    assert!(!dir.path().join("a.db-wal").exists(), "a closed store is one file, to be copied as it is");
    let second = Sqlite::open(&path, clock.clock()).expect("opens again");
    assert_eq!(second.read("key").await, Ok(Some(record)));
    for name in ["a.db", "a.db-wal", "a.db-shm"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.path().join(name)).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let dir = TempDir::new();
    let path = dir.path().join("notes.txt");
    let text = "these are somebody's notes, not a database, and quite a few of them\n".repeat(20);
    std::fs::write(&path, &text).expect("written");
    let error = Sqlite::open(&path, ManualClock::new(1).clock()).err().expect("refused").to_string();
    assert!(error.contains("notes.txt") && error.contains("not a database"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = TempDir::new();
    let path = dir.path().join("a.db");
    let connection = rusqlite::Connection::open(&path).expect("opens");
    connection.pragma_update(None, "user_version", 99).expect("set");
    let error = Sqlite::open(&path, ManualClock::new(1).clock()).err().expect("refused").to_string();
    assert!(error.contains("newer version"), "{error}");
}

/// Posts a form to a program that may be killed meanwhile: `None` when there is no whole answer.
async fn try_form(proxy: &Proxy, path: &str, pairs: &[(&str, &str)]) -> Option<Value> {
    let request =
        proxy.request(Method::POST, path).header("content-type", "application/x-www-form-urlencoded");
    let answer = plain::try_send(proxy.address(), request.body(plain::form(pairs)).unwrap()).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    Some(if answer.body.is_empty() { Value::Null } else { answer.json() })
}

fn text<'a>(pair: &'a Value, name: &str) -> &'a str {
    pair[name].as_str().unwrap_or_else(|| panic!("no {name} in {pair}"))
}

/// What a program acknowledged before it was killed.
#[derive(Default)]
struct Acknowledged {
    spent: Vec<String>,
    live: Vec<Value>,
    revoked: Vec<Value>,
}

/// Redeems, rotates and revokes until the program is gone.
async fn load(proxy: &Proxy, client_id: &str, codes: &[String]) -> Acknowledged {
    let mut done = Acknowledged::default();
    for (number, code) in codes.iter().enumerate() {
        let client = ("client_id", client_id);
        let redeem =
            [("grant_type", "authorization_code"), ("code", code), ("code_verifier", VERIFIER), client];
        let Some(first) = try_form(proxy, "/token", &redeem).await else { break };
        done.spent.push(code.clone());
        done.live.push(first.clone());
        let rotate =
            [("grant_type", "refresh_token"), ("refresh_token", text(&first, "refresh_token")), client];
        let Some(next) = try_form(proxy, "/token", &rotate).await else { break };
        done.live.pop();
        if number % 3 == 0 {
            let revoke = [("token", text(&next, "refresh_token")), client];
            if try_form(proxy, "/revoke", &revoke).await.is_none() {
                break;
            }
            done.revoked.push(next);
        } else {
            done.live.push(next);
        }
    }
    done
}

// ST-01
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    const LOG: &str = "info";
    let dir = TempDir::new();
    let (mut proxy, mut program) = Proxy::as_process(Setup::on(&dir), &dir, LOG).await;
    for round in 0..8_u64 {
        let client_id = proxy.register(&[CALLBACK]).await;
        let mut codes = Vec::new();
        for _ in 0..12 {
            let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
            codes.push(param(&proxy.browser().approve(&url).await, "code").expect("a code"));
        }
        // One is redeemed before, so that every round has something to lose, and one after.
        let before = load(&proxy, &client_id, &codes[1..2]).await;
        let killing = async {
            tokio::time::sleep(Duration::from_millis(5 + 13 * (round * 7 % 11))).await;
            program.kill();
        };
        let (done, ()) = tokio::join!(load(&proxy, &client_id, &codes[2..]), killing);
        proxy.moved_to(program.again(&dir, LOG));
        proxy.redeem(&client_id, &codes[0]).await.expect(200);
        for pair in &done.revoked {
            proxy.ping(text(pair, "access_token")).await.expect(401);
        }
        for pair in before.live.iter().chain(&done.live) {
            proxy.ping(text(pair, "access_token")).await.expect(200);
            proxy.refresh(&client_id, text(pair, "refresh_token")).await.expect(200);
        }
        // No code works twice, however its first use ended.
        for code in before.spent.iter().chain(&done.spent) {
            assert_eq!(proxy.redeem(&client_id, code).await.expect(400).error(), "invalid_grant");
        }
    }
}

// SE-09
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_was_moved_to_another_row_is_refused() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let ann = proxy.login().await;
    proxy.github.world().add_user(User::new(7, "bob"));
    proxy.github.world().sign_in("bob");
    let bob = proxy.login().await;
    proxy.ping(&bob.access).await.expect(200);
    let connection = rusqlite::Connection::open(database(&dir)).expect("opens");
    let moved = connection.execute(
        "UPDATE records SET bytes = (SELECT bytes FROM records WHERE key LIKE 'credential/583231/%')
         WHERE key LIKE 'credential/7/%'",
        [],
    );
    assert_eq!(moved, Ok(1));
    proxy.forward(Duration::from_secs(2));
    let before = proxy.mcp.heard().len();
    proxy.ping(&bob.access).await.expect(401);
    assert_eq!(proxy.mcp.heard().len(), before, "nobody acts as somebody else");
    proxy.ping(&ann.access).await.expect(200);
    let again = proxy.login().await;
    proxy.ping(&again.access).await.expect(200);
}

// TK-02
#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_the_store_hold_no_token_in_any_form() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let (_, code) = proxy.code(&[]).await;
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    let github = proxy.github.world().live_tokens("octocat");
    let metadata = serde_json::json!({ "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post" });
    let registered = proxy.post_json("/register", &metadata).await.expect(201).json();
    let mut secrets =
        vec![code, tokens.access, tokens.refresh, text(&registered, "client_secret").to_owned()];
    secrets.extend(github);
    for name in ["proxy.db", "proxy.db-wal"] {
        let bytes = std::fs::read(dir.path().join(name)).expect("there");
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(!name.ends_with("wal") || holds(b"family/"), "this looks where things are");
        for secret in &secrets {
            assert!(!holds(secret.as_bytes()) && !holds(&secret.as_bytes()[5..]), "{name}: {secret}");
            // In the raw, a token of ours ends with the MAC that makes it one.
            if let Ok(raw) = URL_SAFE_NO_PAD.decode(&secret[5..]) {
                assert!(!holds(&raw[raw.len() - 16..]), "{name}: {secret}");
            }
            assert!(!holds(STANDARD.encode(secret).trim_end_matches('=').as_bytes()), "{name}: {secret}");
        }
    }
}

// SE-10: with another key every login in the database would be dead, so none is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_its_key_is_refused() {
    let dir = TempDir::new();
    let mut proxy = Proxy::with(Setup::on(&dir)).await;
    let tokens = proxy.login().await;
    let app = proxy.take_app();
    tokio::task::spawn_blocking(move || app.stop()).await.expect("it stops");
    let key = std::fs::read_dir(dir.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let key = key.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "key")).expect("a key");
    let kept = dir.path().join("kept");
    std::fs::rename(&key, &kept).expect("moved");
    let error = proxy.start_again().err().expect("refused").to_string();
    assert!(error.contains("is missing") && error.contains("put its key back"), "{error}");
    std::fs::rename(&kept, &key).expect("moved back");
    let app = proxy.start_again().expect("starts");
    let ping =
        proxy.call("/mcp", &tokens.access).body(bytes::Bytes::from_static(support::proxy::PING)).unwrap();
    support::http::send(app.address(), ping).await.expect(200);
}
