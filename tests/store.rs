//! Every backend passes the one conformance suite; SQLite keeps its promises across restarts.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_proxy::clock::ManualClock;
use mcp_auth_proxy::seal::{KeyRing, MasterKey};
use mcp_auth_proxy::store::authentic::Authentic;
use mcp_auth_proxy::store::conformance::{self, Subject};
use mcp_auth_proxy::store::memory::Memory;
use mcp_auth_proxy::store::sqlite::Sqlite;
use mcp_auth_proxy::store::{Record, Records};

mod support;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use support::github::User;
use support::proxy::{CALLBACK, Proxy, Setup, database};
use support::{TempDir, stores};

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    let clock = ManualClock::new(1);
    let memory: Arc<dyn Records> = Arc::new(Memory::new(clock.clock()));
    let now = clock.clock().now();
    conformance::run(&Subject { connections: [memory.clone(), memory], forward: |d| clock.forward(d), now })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_under_our_mac_conforms() {
    let clock = ManualClock::new(1);
    let keys = Arc::new(KeyRing::new(&[MasterKey::new(Box::new([7; 32]))]).expect("a key"));
    let memory: Arc<dyn Records> = Arc::new(Authentic::new(Arc::new(Memory::new(clock.clock())), keys));
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

/// The suite, over two connections.
async fn conforms(url: &str) {
    let clock = ManualClock::new(1);
    let connections = [stores::shared(url, clock.clock()).await, stores::shared(url, clock.clock()).await];
    let now = clock.clock().now();
    conformance::run(&Subject { connections, forward: |d| clock.forward(d), now }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_conforms() {
    let Some(store) = stores::postgres("postgres_conforms").await else { return };
    conforms(&store.url).await;
    let with_tls = store.url.replace("127.0.0.1", "localhost") + "?sslmode=require";
    conforms(&with_tls).await;
}

// RFC 5802 §6: whoever stands in between, with a certificate that somebody believes, has no use of the login.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_at_postgres_is_bound_to_its_tls() {
    let Some(store) = stores::postgres("a_login_at_postgres_is_bound_to_its_tls").await else { return };
    let (_, database) = store.url.rsplit_once('/').expect("with a database");
    let role = format!(
        "CREATE ROLE {database} LOGIN PASSWORD 'known' IN ROLE by_password; GRANT ALL ON SCHEMA public TO {database}"
    );
    stores::admin(&store.url, &role).await;
    let with_password = store.url.replace("postgres@127.0.0.1", &format!("{database}:known@localhost"));
    conforms(&format!("{with_password}?sslmode=require&channel_binding=require")).await;
}

// ST-12: no statement has a name there, and no lock outlives its transaction.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_conforms_behind_a_pooler_in_transaction_mode() {
    let test = "postgres_conforms_behind_a_pooler_in_transaction_mode";
    let (Some(store), Some(pooler)) = (stores::postgres(test).await, stores::given(test, "TEST_PGBOUNCER"))
    else {
        return;
    };
    let (server, _) = pooler.rsplit_once('/').expect("with a database");
    let (_, database) = store.url.rsplit_once('/').expect("with a database");
    conforms(&format!("{server}/{database}")).await;
}

// ST-12: a database that undoes statements for the sake of each other (40001) does it unseen.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_conforms_under_serializable_isolation() {
    let Some(store) = stores::postgres("postgres_conforms_under_serializable_isolation").await else {
        return;
    };
    conforms(&format!("{}?options=-c%20default_transaction_isolation=serializable", store.url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_conforms() {
    let Some(store) = stores::redis("redis_conforms").await else { return };
    conforms(&store.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_conforms_over_tls_on_a_cluster_and_behind_sentinels() {
    for name in ["TEST_REDIS_TLS", "TEST_REDIS_CLUSTER", "TEST_REDIS_SENTINEL"] {
        let Some(url) = stores::given("redis_conforms_over_tls_on_a_cluster_and_behind_sentinels", name)
        else {
            continue;
        };
        conforms(&url).await;
    }
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

fn text<'a>(pair: &'a Value, name: &str) -> &'a str {
    pair[name].as_str().unwrap_or_else(|| panic!("no {name} in {pair}"))
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

// SE-09: nor does editing a record, or moving it whole, make anybody somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn who_can_write_to_the_store_becomes_nobody_else() {
    let dir = TempDir::new();
    let proxy = Proxy::with(Setup::on(&dir)).await;
    let ann = proxy.login().await;
    proxy.ping(&ann.access).await.expect(200);
    proxy.github.world().add_user(User::new(7, "bob"));
    let store = rusqlite::Connection::open(database(&dir)).expect("opens");
    let row = |key: &str| -> (String, Vec<u8>) {
        let sql = "SELECT key, bytes FROM records WHERE key LIKE ?1";
        store.query_row(sql, [key], |row| Ok((row.get(0)?, row.get(1)?))).expect("one row")
    };
    let write = |key: &str, bytes: &[u8]| {
        let changed =
            store.execute("UPDATE records SET bytes = ?2 WHERE key = ?1", rusqlite::params![key, bytes]);
        assert_eq!(changed, Ok(1));
    };
    let edited = |bytes: &[u8], from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("it is there");
        [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
    };
    let annes = row("family/%").1;
    for attack in ["whole", "credential", "person", "generation", "login", "checked", "cut", "owner"] {
        proxy.github.world().sign_in("bob");
        let bob = proxy.login().await;
        proxy.ping(&bob.access).await.expect(200);
        assert_eq!(
            proxy.mcp.last().header("x-github-token"),
            proxy.github.world().live_tokens("bob").last().unwrap()
        );
        let sql = "SELECT key, bytes FROM records WHERE key LIKE 'family/%' AND owner = 'person/7'
                   ORDER BY json_extract(CAST(substr(bytes, 1, length(bytes) - 17) AS TEXT), '$.created') DESC";
        let family: (String, Vec<u8>) =
            store.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("a row");
        let (credential, sealed) = row("credential/7/%");
        match attack {
            "whole" => write(&family.0, &annes),
            "credential" => write(&family.0, &edited(&family.1, "credential/7/", "credential/583231/")),
            "person" => write(&family.0, &edited(&family.1, "\"person\":7", "\"person\":583231")),
            "generation" => write(&family.0, &edited(&family.1, "\"generation\":1", "\"generation\":9")),
            "login" => write(&credential, &edited(&sealed, "\"bob\"", "\"octocat\"")),
            "checked" => write(&credential, &edited(&sealed, "\"checked\":1", "\"checked\":9")),
            "cut" => write(&family.0, &family.1[..family.1.len() - 17]),
            _ => {
                let sql = "UPDATE records SET owner = 'person/583231' WHERE key = ?1";
                assert_eq!(store.execute(sql, [&family.0]), Ok(1));
            }
        }
        proxy.forward(Duration::from_secs(2));
        let before = proxy.mcp.heard().len();
        let answer = proxy.ping(&bob.access).await;
        assert_eq!(answer.status, 401, "{attack}: {answer:?}");
        assert_eq!(proxy.mcp.heard().len(), before, "{attack}: nobody acts as somebody else");
        let refreshed = proxy.refresh(&bob.client_id, &bob.refresh).await;
        assert_eq!((refreshed.status, refreshed.error().as_str()), (400, "invalid_grant"), "{attack}");
        store.execute("DELETE FROM records WHERE key = ?1", [&family.0]).expect("tidied");
        proxy.ping(&ann.access).await.expect(200);
    }
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
