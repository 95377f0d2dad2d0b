//! Records in one SQLite file: the default. Survives restart, `kill -9` and power loss.
//!
//! WAL with `synchronous=FULL`: a write is acknowledged after its fsync. Two threads of their own, one that
//! writes and one that reads, so that no core ever waits for a disk; writes that wait together share a commit.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use tokio::sync::oneshot;

use super::{Created, Pending, Record, Records, Replaced, StoreError};
use crate::clock::{Clock, Time};

/// A handle on the two threads. When it is dropped they finish what they were given and close the file, which
/// leaves the whole database in it (and no -wal file beside it).
pub struct Sqlite {
    clock: Clock,
    reader: Worker,
    writer: Worker,
}

/// A thread with a connection of its own.
struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // A thread that panicked has closed its connection already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Work for a thread: it runs against the connection and returns how to report once the commit is known.
type Job = Box<dyn FnOnce(&Connection) -> Report + Send>;
type Report = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot create {}: {source}", path.display())]
    Create { path: PathBuf, source: std::io::Error },
    #[error("cannot use {} as a database: {source}", path.display())]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error("{} was written by a newer version of this program (schema {found}, known {SCHEMA})", path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl Sqlite {
    /// Opens (or creates, readable by its owner only) the file and starts the threads.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        create_private(path).map_err(|source| OpenError::Create { path: path.into(), source })?;
        let database = |source| OpenError::Database { path: path.into(), source };
        let connection = connect(path).map_err(database)?;
        let found: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(database)?;
        if found > SCHEMA {
            return Err(OpenError::Newer { path: path.into(), found });
        }
        connection.execute_batch(MIGRATE).map_err(database)?;
        let writer = run("store-writer", connection, true)?;
        let reader = run("store-reader", connect(path).map_err(database)?, false)?;
        Ok(Sqlite { clock, writer, reader })
    }

    /// Sends work to a thread and waits for its answer.
    fn ask<T: Send + 'static>(
        &self,
        worker: &Worker,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Pending<'static, T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let outcome = work(connection).map_err(StoreError::new);
            Box::new(move |committed| {
                // Nobody waits any more when the request was abandoned; the write stands all the same.
                let _ = answer.send(committed.and(outcome));
            })
        });
        let sent = worker.jobs.as_ref().map(|jobs| jobs.send(job));
        Box::pin(async move {
            let Some(Ok(())) = sent else { return Err(StoreError::new("the store thread has ended")) };
            answered.await.map_err(|_| StoreError::new("the store thread has ended"))?
        })
    }
}

fn run(name: &str, connection: Connection, writes: bool) -> Result<Worker, OpenError> {
    let (sender, jobs) = channel();
    let work = move || if writes { write_loop(&connection, &jobs) } else { read_loop(&connection, &jobs) };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work).map_err(OpenError::Thread)?;
    Ok(Worker { jobs: Some(sender), thread: Some(thread) })
}

fn read_loop(connection: &Connection, jobs: &Receiver<Job>) {
    jobs.iter().for_each(|job| job(connection)(Ok(())));
}

/// Everything that waits goes into one transaction: one fsync, then all answers.
fn write_loop(connection: &Connection, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let batch: Vec<Job> = std::iter::once(first).chain(jobs.try_iter().take(MAX_BATCH - 1)).collect();
        if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
            let error = StoreError::new(error);
            // Not even begun: every job is told so without having run on the data.
            batch.into_iter().for_each(|job| job(&refusing())(Err(error.clone())));
            continue;
        }
        let reports: Vec<Report> = batch.into_iter().map(|job| job(connection)).collect();
        let committed = connection.execute_batch("COMMIT").map_err(StoreError::new);
        if committed.is_err() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        reports.into_iter().for_each(|report| report(committed.clone()));
    }
}

/// A connection without tables, on which a job can only fail.
fn refusing() -> Connection {
    Connection::open_in_memory().expect("an empty in-memory database opens")
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Creates the file for its owner only; SQLite gives its -wal and -shm files the same mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

impl Records for Sqlite {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        let (key, now) = (key.to_owned(), sql_time(self.clock.now()));
        self.ask(&self.reader, move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT bytes, version, owner, expires FROM records WHERE key = ?1 AND expires > ?2",
            )?;
            let record = |row: &rusqlite::Row<'_>| {
                let (version, expires): (i64, i64) = (row.get(1)?, row.get(3)?);
                let expires = Time::from_millis(expires.cast_unsigned());
                Ok(Record {
                    bytes: row.get(0)?,
                    version: version.cast_unsigned(),
                    owner: row.get(2)?,
                    expires,
                })
            };
            statement.query_row(params![key, now], record).optional()
        })
    }

    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created> {
        let (key, now) = (key.to_owned(), sql_time(self.clock.now()));
        self.ask(&self.writer, move |connection| {
            let mut statement = connection.prepare_cached(
                "INSERT INTO records (key, bytes, version, owner, expires) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (key) DO UPDATE SET bytes = excluded.bytes, version = excluded.version,
                   owner = excluded.owner, expires = excluded.expires WHERE expires <= ?6",
            )?;
            let Record { bytes, version, owner, expires } = record;
            let rows = params![key, bytes, version.cast_signed(), owner, sql_time(expires), now];
            Ok(if statement.execute(rows)? == 1 { Created::Created } else { Created::Exists })
        })
    }

    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced> {
        let (key, now) = (key.to_owned(), sql_time(self.clock.now()));
        self.ask(&self.writer, move |connection| {
            let mut statement = connection.prepare_cached(
                "UPDATE records SET bytes = ?2, version = ?3, owner = ?4, expires = ?5
                 WHERE key = ?1 AND version = ?6 AND expires > ?7",
            )?;
            let Record { bytes, version, owner, expires } = record;
            let (version, seen) = (version.cast_signed(), seen.cast_signed());
            let rows = params![key, bytes, version, owner, sql_time(expires), seen, now];
            Ok(if statement.execute(rows)? == 1 { Replaced::Replaced } else { Replaced::Changed })
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()> {
        let key = key.to_owned();
        self.ask(&self.writer, move |connection| {
            connection.prepare_cached("DELETE FROM records WHERE key = ?1")?.execute([key]).map(drop)
        })
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>> {
        let (owner, now) = (owner.to_owned(), sql_time(self.clock.now()));
        self.ask(&self.reader, move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT key FROM records WHERE owner = ?1 AND expires > ?2 ORDER BY key")?;
            statement.query_map(params![owner, now], |row| row.get(0))?.collect()
        })
    }

    fn sweep(&self) -> Pending<'_, u64> {
        let now = sql_time(self.clock.now());
        Box::pin(async move {
            let mut swept = 0;
            // In bites, so that no write waits behind a million deletes.
            loop {
                let bite = self.ask(&self.writer, move |connection| {
                    let mut statement = connection.prepare_cached(
                        "DELETE FROM records WHERE key IN (SELECT key FROM records WHERE expires <= ?1 LIMIT ?2)",
                    )?;
                    statement.execute(params![now, SWEEP_BITE])
                });
                let bite = bite.await?;
                swept += bite as u64;
                if bite < SWEEP_BITE as usize {
                    return Ok(swept);
                }
            }
        })
    }
}

fn sql_time(time: Time) -> i64 {
    i64::try_from(time.millis()).unwrap_or(i64::MAX)
}

const SCHEMA: i64 = 1;
const MIGRATE: &str = "
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS records (
        key TEXT PRIMARY KEY, bytes BLOB NOT NULL, version INTEGER NOT NULL,
        owner TEXT NOT NULL, expires INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS records_by_owner ON records (owner) WHERE owner <> '';
    CREATE INDEX IF NOT EXISTS records_by_expiry ON records (expires);
    PRAGMA user_version = 1;
    COMMIT;";
/// How long another process may hold the write lock before we answer 503.
const BUSY: Duration = Duration::from_secs(5);
/// Bounds what one failed commit takes with it.
const MAX_BATCH: usize = 256;
const SWEEP_BITE: u32 = 2_000;
