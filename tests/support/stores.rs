//! Real stores, as far as this run has them: SQLite always, PostgreSQL and Redis where `tests/backends/run` started
//! them. What is left out is told.

use std::io::Write as _;
use std::path::PathBuf;
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
    file: Option<PathBuf>,
    _dir: Option<TempDir>,
}

/// The keys of proxies that share a store.
pub const KEY: &str = "Y2FuYXJ5LWtleS0wMTIzNDU2Nzg5YWJjZGVmZ2hpams=";

impl Store {
    /// A file in a directory.
    pub fn sqlite(dir: &TempDir) -> Self {
        let file = database(dir);
        Store { name: "sqlite", url: format!("sqlite:{}", file.display()), file: Some(file), _dir: None }
    }

    /// Everything that is kept in it, as somebody would see it who got hold of it.
    pub async fn dump(&self) -> Vec<(String, Vec<u8>)> {
        self.dump_at(Clock::system()).await
    }

    /// The same of what lives at a moment.
    pub async fn dump_at(&self, clock: Clock) -> Vec<(String, Vec<u8>)> {
        let Some(file) = &self.file else {
            let records = shared(&self.url, clock).await;
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = records.page(after.as_deref()).await.expect("a page");
                found.extend(page.records.into_iter().map(|(key, record)| {
                    let whole = [key.as_bytes(), record.owner.as_bytes(), &record.bytes].concat();
                    (key, whole)
                }));
                match page.next {
                    Some(next) => after = Some(next),
                    None => return found,
                }
            }
        };
        let files = ["", "-wal"].map(|end| format!("{}{end}", file.display()));
        files.into_iter().filter_map(|name| Some((name.clone(), std::fs::read(name).ok()?))).collect()
    }

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
    let sqlite = Store::sqlite(&dir);
    let mut stores = vec![Store { _dir: Some(dir), ..sqlite }];
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
    Some(Store { name: "postgres", url: format!("{server}/{name}"), file: None, _dir: None })
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
    Some(Store { name: "redis", url, file: None, _dir: None })
}

/// Says something to a Redis.
pub async fn say<T: ::redis::FromRedisValue>(url: &str, command: &::redis::Cmd) -> T {
    let client = ::redis::Client::open(url).expect("a URL");
    let mut link = client.get_multiplexed_async_connection().await.expect("it is there");
    command.query_async(&mut link).await.unwrap_or_else(|error| panic!("{error}"))
}

/// A Redis of a test's own, to be broken; gone when it is dropped.
pub struct OwnRedis {
    child: std::process::Child,
    pub url: String,
    _dir: TempDir,
}

impl OwnRedis {
    /// Starts one; `None`, with a word, where there is none to be started.
    pub async fn start(test: &str, settings: &[&str]) -> Option<Self> {
        Self::run(test, |_, command| {
            command.args(["--save", ""]).args(settings);
        })
        .await
    }

    /// A Sentinel of its own, which knows the Redis at a port as `logins`.
    pub async fn sentinel(test: &str, master: &str) -> Option<Self> {
        Self::run(test, |dir, command| {
            let monitor = format!(
                "sentinel monitor logins 127.0.0.1 {master} 1\nsentinel down-after-milliseconds logins 500\n\
                 sentinel failover-timeout logins 3000\n"
            );
            let file = dir.path().join("sentinel.conf");
            std::fs::write(&file, monitor).expect("written");
            command.arg(file).arg("--sentinel");
        })
        .await
    }

    async fn run(test: &str, set: impl FnOnce(&TempDir, &mut std::process::Command)) -> Option<Self> {
        let program = given(test, "TEST_REDIS_SERVER")?;
        let dir = TempDir::new();
        // Nobody else has it, unless somebody takes it this very moment.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a port")
            .port();
        let mut command = std::process::Command::new(program);
        set(&dir, &mut command);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.current_dir(dir.path()).stdout(std::process::Stdio::null());
        let child = command.spawn().expect("it starts");
        let redis = OwnRedis { child, url: format!("redis://127.0.0.1:{port}"), _dir: dir };
        super::eventually(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        Some(redis)
    }

    pub fn store(&self) -> Store {
        Store { name: "redis", url: self.url.clone(), file: None, _dir: None }
    }

    /// `CONFIG SET`.
    pub async fn configure(&self, name: &str, value: &str) {
        let _: () = say(&self.url, ::redis::cmd("CONFIG").arg("SET").arg(name).arg(value)).await;
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
    }
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
