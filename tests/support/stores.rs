//! Real stores, as far as this run has them: SQLite always, PostgreSQL and Redis where `tests/backends/run` started
//! them. What is left out is told.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::store::postgres::{self, Postgres};
use mcp_auth_proxy::store::redis::{self, Redis};
use mcp_auth_proxy::store::sqlite::Sqlite;
use mcp_auth_proxy::store::{Records, Shared};
use mcp_auth_proxy::tls::Authorities;
use tokio::runtime::Handle;

use super::TempDir;
use super::proxy::{Setup, database};

/// An empty store of a test's own.
pub struct Store {
    pub name: &'static str,
    /// As `store:` writes it.
    pub url: String,
    _dir: Option<TempDir>,
}

/// The keys of proxies that share a store.
pub const KEY: &str = "Y2FuYXJ5LWtleS0wMTIzNDU2Nzg5YWJjZGVmZ2hpams=";

impl Store {
    /// A proxy on it.
    pub fn setup(&self) -> Setup {
        Setup { store: self.url.clone(), extra: format!("keys: ['{KEY}']"), ..Setup::default() }
    }

    /// A connection of its own to it, ready to be used.
    pub async fn open(&self, clock: Clock) -> Arc<dyn Records> {
        match self.name {
            "sqlite" => Arc::new(
                Sqlite::open(self.url.trim_start_matches("sqlite:").as_ref(), clock).expect("it opens"),
            ),
            _ => shared(&self.url, clock).await,
        }
    }
}

/// A client of a shared store, ready to be used.
pub async fn shared(url: &str, clock: Clock) -> Arc<dyn Records> {
    let shared = client(url, clock);
    shared.prepare().await.expect("it can be used");
    shared
}

/// A client of a shared store that has not been reached yet.
pub fn client(url: &str, clock: Clock) -> Arc<dyn Shared> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authorities = std::env::var_os("TEST_CA").map(|file| std::fs::read(file).expect("it is there"));
    let authorities =
        authorities.map(|pem| Authorities::parse(&pem).expect("certificates")).unwrap_or_default();
    match url.starts_with("postgres") {
        true => {
            let place = postgres::Place::parse(url).expect("a place");
            Arc::new(Postgres::new(&place, &authorities, 4, clock, Handle::current()).expect("a client"))
        }
        false => {
            let place = redis::Place::parse(url).expect("a place");
            Arc::new(Redis::new(&place, &authorities, clock, Handle::current()).expect("a client"))
        }
    }
}

/// One of each kind.
pub async fn all(test: &str) -> Vec<Store> {
    let dir = TempDir::new();
    let url = format!("sqlite:{}", database(&dir).display());
    let mut stores = vec![Store { name: "sqlite", url, _dir: Some(dir) }];
    stores.extend(over_a_network(test).await);
    stores
}

/// Those that several machines could share.
pub async fn over_a_network(test: &str) -> Vec<Store> {
    let stores = [postgres(test).await, redis(test).await];
    stores.into_iter().flatten().collect()
}

/// A database of its own.
pub async fn postgres(test: &str) -> Option<Store> {
    let url = given(test, "TEST_POSTGRES")?;
    let name = unique();
    admin(&url, &format!("CREATE DATABASE {name}")).await;
    let (server, _) = url.rsplit_once('/').expect("with a database");
    Some(Store { name: "postgres", url: format!("{server}/{name}"), _dir: None })
}

/// Says something to PostgreSQL, as its superuser.
pub async fn admin(url: &str, sql: &str) {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("it is there");
    let driven = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    drop(client);
    let _ = driven.await;
}

/// A database of its own, one of ten thousand.
pub async fn redis(test: &str) -> Option<Store> {
    let url = given(test, "TEST_REDIS")?;
    let number: i64 = say(&url, ::redis::cmd("INCR").arg("next")).await;
    let url = format!("{url}/{}", number % 9_999 + 1);
    let _: () = say(&url, &::redis::cmd("FLUSHDB")).await;
    Some(Store { name: "redis", url, _dir: None })
}

/// Says something to a Redis.
pub async fn say<T: ::redis::FromRedisValue>(url: &str, command: &::redis::Cmd) -> T {
    let client = ::redis::Client::open(url).expect("a URL");
    let mut link = client.get_multiplexed_async_connection().await.expect("it is there");
    command.query_async(&mut link).await.unwrap_or_else(|error| panic!("{error}"))
}

/// What this run was given, or word of what is left out without it. That word goes past the test runner, which shows
/// nothing of tests that pass.
pub fn given(test: &str, name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the tests' own surroundings")]
    let given = std::env::var(name).ok();
    if given.is_none() {
        assert!(std::env::var_os("RIG_REQUIRED").is_none(), "{test} needs {name}");
        let told = format!("skipped in {test}: {name} is not set (tests/backends/run sets it)\n");
        let _ = std::io::stderr().write_all(told.as_bytes());
    }
    given
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
