//! Records in one SQLite file: the default. Survives restart, `kill -9` and power loss.
//!
//! WAL with `synchronous=FULL`: a write is acknowledged after its fsync. Two threads of their own, one that
//! writes and one that reads, so that no core ever waits for a disk; writes that wait together share a commit.

mod file;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use tokio::sync::oneshot;
use tracing::warn;

use super::still::Others;
use super::{Created, Page, Pending, Record, Records, Replaced, StoreError};
use crate::clock::{Clock, Time};
pub use file::OpenError;
use file::{Whereabouts, connect, prepare, reconnect};

/// A handle on the two threads. When it is dropped they finish what they were given and close the file, which
/// leaves the whole database in it (and no -wal file beside it).
pub struct Sqlite {
    clock: Clock,
    reader: Worker,
    writer: Worker,
}

/// A thread with a connection of its own.
struct Worker {
    jobs: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // A thread that panicked has closed its connection already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a thread is given.
enum Order {
    Work(Job),
    /// Outside of any transaction: how often others have written.
    Look(oneshot::Sender<Result<u64, StoreError>>),
}

/// Work for a thread: it runs against the connection and returns how to report once the commit is known.
type Job = Box<dyn FnOnce(&Connection) -> Report + Send>;
type Report = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Sqlite {
    /// Opens (or creates, readable by its owner only) the file and starts the threads.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        let connection = prepare(path)?;
        let second = connect(path).map_err(|source| OpenError::Database { path: path.into(), source })?;
        let file = Whereabouts::of(path);
        let file = file.map_err(|source| OpenError::Create { path: path.into(), source })?;
        let writer = run("store-writer", move |jobs| {
            Writer { connection: Some(connection), number: 0, file }.work(jobs)
        })?;
        let reader = run("store-reader", move |orders| {
            for order in orders {
                if let Order::Work(job) = order {
                    job(&second)(Ok(()));
                }
            }
        })?;
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
        let sent = worker.jobs.as_ref().map(|jobs| jobs.send(Order::Work(job)));
        Box::pin(async move {
            let Some(Ok(())) = sent else { return Err(StoreError::new("the store thread has ended")) };
            answered.await.map_err(|_| StoreError::new("the store thread has ended"))?
        })
    }
}

fn run(name: &str, work: impl FnOnce(Receiver<Order>) + Send + 'static) -> Result<Worker, OpenError> {
    let (sender, jobs) = channel();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(jobs));
    Ok(Worker { jobs: Some(sender), thread: Some(thread.map_err(OpenError::Thread)?) })
}

/// The one thread that writes.
struct Writer {
    /// None after a commit that failed: what it left behind is looked after before anything else is written.
    connection: Option<Connection>,
    /// Counts the connections, of which each counts the writes of others from its own beginning.
    number: u32,
    file: Whereabouts,
}

impl Writer {
    /// Everything that waits goes into one transaction: one fsync, then all answers.
    fn work(mut self, orders: Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let mut batch = Vec::new();
            for order in std::iter::once(first).chain(orders.try_iter().take(MAX_BATCH - 1)) {
                match order {
                    Order::Work(job) => batch.push(job),
                    // Nobody waits any more when the proxy ends.
                    Order::Look(answer) => drop(answer.send(self.others())),
                }
            }
            if batch.is_empty() {
                continue;
            }
            match self.begin() {
                Ok(connection) => {
                    let (reports, outcome) = commit(connection, batch);
                    if outcome.is_err() {
                        self.connection = None;
                        // Before anybody is told: who hears of the failure may come back at once.
                        self.mend();
                    }
                    reports.into_iter().for_each(|report| report(outcome.clone()));
                }
                // Not even begun: every job is told so without having run on the data.
                Err(error) => batch.into_iter().for_each(|job| job(&refusing())(Err(error.clone()))),
            }
        }
    }

    fn begin(&mut self) -> Result<&Connection, StoreError> {
        self.file.still_hold()?;
        self.mend();
        let connection = self.connection.take().ok_or_else(|| StoreError::new("not mended yet"))?;
        match connection.execute_batch("BEGIN IMMEDIATE") {
            Ok(()) => Ok(self.connection.insert(connection)),
            Err(error) => {
                // Another process holds the lock: nothing is wrong with the connection.
                let busy = error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
                self.connection = Some(connection).filter(|_| busy);
                Err(StoreError::new(error))
            }
        }
    }

    /// SQLite counts for each connection the commits of all others; those of this one are ours.
    fn others(&self) -> Result<u64, StoreError> {
        self.file.still_hold()?;
        let connection = self.connection.as_ref().ok_or_else(|| StoreError::new("not mended yet"))?;
        let version = connection.pragma_query_value(None, "data_version", |row| row.get::<_, u32>(0));
        Ok(u64::from(self.number) << 32 | u64::from(version.map_err(StoreError::new)?))
    }

    /// After a failed commit nothing is known about what reached the disk: the connection is given up, never
    /// used on, and its successor starts from what was acknowledged.
    fn mend(&mut self) {
        if self.connection.is_none() && self.file.still_hold().is_ok() {
            match reconnect(self.file.path()) {
                Ok(connection) => {
                    self.connection = Some(connection);
                    self.number = self.number.wrapping_add(1);
                }
                Err(error) => warn!(%error, "the database cannot be written to"),
            }
        }
    }
}

/// Runs the jobs and ends their transaction.
fn commit(connection: &Connection, batch: Vec<Job>) -> (Vec<Report>, Result<(), StoreError>) {
    let mut reports = Vec::with_capacity(batch.len());
    for job in batch {
        // A full disk ends the transaction under our hands; what came after it would be committed by itself.
        let ended = connection.is_autocommit();
        reports.push(if ended { job(&refusing()) } else { job(connection) });
    }
    let outcome = connection.execute_batch("COMMIT").map_err(StoreError::new);
    if outcome.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    (reports, outcome)
}

/// A connection without tables, on which a job can only fail.
fn refusing() -> Connection {
    Connection::open_in_memory().expect("an empty in-memory database opens")
}

impl Others for Sqlite {
    fn writes(&self) -> Pending<'_, u64> {
        let (answer, answered) = oneshot::channel();
        let sent = self.writer.jobs.as_ref().map(|orders| orders.send(Order::Look(answer)));
        Box::pin(async move {
            let Some(Ok(())) = sent else { return Err(StoreError::new("the store thread has ended")) };
            answered.await.map_err(|_| StoreError::new("the store thread has ended"))?
        })
    }
}

impl Records for Sqlite {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        let (key, now) = (key.to_owned(), sql_time(self.clock.now()));
        self.ask(&self.reader, move |connection| {
            let mut statement = connection.prepare_cached(READ)?;
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
            let mut statement = connection.prepare_cached(OWNED)?;
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
                    connection.prepare_cached(SWEEP)?.execute(params![now, SWEEP_BITE])
                });
                let bite = bite.await?;
                swept += bite as u64;
                if bite < SWEEP_BITE as usize {
                    return Ok(swept);
                }
            }
        })
    }

    fn page<'a>(&'a self, after: Option<&'a str>) -> Pending<'a, Page> {
        let (after, now) = (after.unwrap_or_default().to_owned(), sql_time(self.clock.now()));
        self.ask(&self.reader, move |connection| {
            let mut statement = connection.prepare_cached(PAGES)?;
            let rows =
                statement.query_map(params![after, now, PAGE as i64], |row| Ok((row.get(4)?, record(row)?)));
            let records: Vec<(String, Record)> = rows?.collect::<Result<_, _>>()?;
            let next = records.last().filter(|_| records.len() == PAGE).map(|(key, _)| key.clone());
            Ok(Page { records, next })
        })
    }
}

/// From the first four columns: bytes, version, owner, expires.
fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<Record> {
    let (version, expires): (i64, i64) = (row.get(1)?, row.get(3)?);
    let expires = Time::from_millis(expires.cast_unsigned());
    Ok(Record { bytes: row.get(0)?, version: version.cast_unsigned(), owner: row.get(2)?, expires })
}

fn sql_time(time: Time) -> i64 {
    i64::try_from(time.millis()).unwrap_or(i64::MAX)
}

const READ: &str = "SELECT bytes, version, owner, expires FROM records WHERE key = ?1 AND expires > ?2";
/// Says what the index is over, or that would not be used.
const OWNED: &str = "SELECT key FROM records WHERE owner = ?1 AND owner <> '' AND expires > ?2 ORDER BY key";
const SWEEP: &str = "DELETE FROM records WHERE key IN (SELECT key FROM records WHERE expires <= ?1 LIMIT ?2)";
const PAGES: &str = "SELECT bytes, version, owner, expires, key FROM records
     WHERE key > ?1 AND expires > ?2 ORDER BY key LIMIT ?3";
/// Bounds what one failed commit takes with it.
const MAX_BATCH: usize = 256;
const SWEEP_BITE: u32 = 500;
const PAGE: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_question_reads_the_whole_table() {
        let directory = std::env::temp_dir().join(format!("mcp-auth-proxy-plans-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let connection = file::prepare(&directory.join("plans.db")).expect("a database");
        for question in [READ, OWNED, SWEEP, PAGES] {
            let mut plan =
                connection.prepare(&format!("EXPLAIN QUERY PLAN {question}")).expect("a statement");
            let any = rusqlite::params_from_iter(vec!["x"; plan.parameter_count()]);
            let steps = plan.query_map(any, |row| row.get::<_, String>(3)).expect("a plan");
            let steps: Vec<String> = steps.collect::<Result<_, _>>().expect("its steps");
            assert!(steps.iter().any(|step| step.starts_with("SEARCH")), "{question}: {steps:?}");
            assert!(!steps.iter().any(|step| step.starts_with("SCAN")), "{question}: {steps:?}");
        }
        std::fs::remove_dir_all(directory).expect("is ours");
    }
}
