//! Every backend passes the one conformance suite; SQLite keeps its promises across restarts.

use std::sync::Arc;
use std::time::Duration;

use mcp_auth_proxy::clock::ManualClock;
use mcp_auth_proxy::store::conformance::{self, Subject};
use mcp_auth_proxy::store::memory::Memory;
use mcp_auth_proxy::store::sqlite::Sqlite;
use mcp_auth_proxy::store::{Record, Records};

mod support;
use support::TempDir;

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
