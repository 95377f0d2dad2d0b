//! Records in PostgreSQL, or in what speaks like it: for replicas that share them.
//!
//! Every verb is one statement, so it is atomic by itself, and none is prepared by name, so a pooler in transaction
//! mode may stand in between. Connections live on the side runtime; one on which a question was left unanswered is
//! given up.

mod place;
mod schema;
mod tls;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::{
    Connect, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Timeouts,
};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Row};

use super::patience::{DEADLINE, Patience};
use super::{Created, Page, Pending, PrepareError, Record, Records, Replaced, Shared, StoreError};
use crate::clock::{Clock, Time};
use crate::tls::{Authorities, trusting};
pub use place::Place;
use tls::Tls;

/// A pool of connections to one database.
pub struct Postgres {
    clock: Clock,
    way: Way,
    patience: Patience,
}

/// Connections, and how to ask for what is under way on one to be given up.
#[derive(Clone)]
struct Way {
    pool: Pool,
    tls: Tls,
}

/// The hosts of a database, and which of them took the last connection.
struct Hosts {
    each: Vec<Config>,
    last: AtomicUsize,
    tls: Tls,
}

impl Connect for Hosts {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>>
    {
        let share = DEADLINE / u32::try_from(self.each.len() + 1).unwrap_or(u32::MAX);
        let first = self.last.load(Ordering::Relaxed);
        Box::pin(async move {
            let mut order = (first..first + self.each.len()).map(|at| at % self.each.len()).peekable();
            while let Some(at) = order.next() {
                let connecting = self.each[at].connect(self.tls.clone());
                let is_last = order.peek().is_none();
                // The last has all the time that is left, and the last word.
                let connected = match is_last {
                    true => connecting.await,
                    false => match timeout(share, connecting).await {
                        Ok(connected) => connected,
                        Err(_) => continue,
                    },
                };
                match connected {
                    Ok((client, connection)) => {
                        self.last.store(at, Ordering::Relaxed);
                        // Its error is told to whoever asks next.
                        let driven = tokio::spawn(async move { drop(connection.await) });
                        return Ok((client, driven));
                    }
                    Err(error) if is_last => return Err(error),
                    Err(_) => {}
                }
            }
            unreachable!("a place has a host")
        })
    }
}

impl Postgres {
    /// Prepares to connect, at most `connections` at a time; nothing is reached yet.
    pub fn new(
        place: &Place,
        authorities: &Authorities,
        connections: usize,
        clock: Clock,
        side: Handle,
    ) -> Result<Self, StoreError> {
        let connector = Tls::new(trusting(authorities).map_err(StoreError::new)?);
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let hosts = Hosts { each: place.hosts(), last: AtomicUsize::new(0), tls: connector.clone() };
        let manager = Manager::from_connect(place.config().clone(), hosts, recycling);
        let waits = Timeouts { wait: Some(DEADLINE), create: Some(DEADLINE), recycle: Some(DEADLINE) };
        let pool = Pool::builder(manager)
            .max_size(connections)
            .timeouts(waits)
            .runtime(deadpool_postgres::Runtime::Tokio1);
        let pool = pool.build().map_err(StoreError::new)?;
        let way = Way { pool, tls: connector };
        Ok(Postgres { clock, way, patience: Patience::new(side) })
    }

    /// One statement; asked again when the database says that it was undone for the sake of another.
    async fn run<T>(
        &self,
        sql: &'static str,
        values: Values,
        read: impl Fn(Answer) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let way = self.way.clone();
        let answer = self.patience.ask(async move { run(&way, sql, &values).await }).await?;
        read(answer).map_err(|error| failed(&error))
    }
}

/// What a statement came to.
struct Answer {
    rows: Vec<Row>,
    changed: u64,
}

/// The values of a statement, with their types: asking the database for them would cost a round trip, and a name.
type Values = Vec<(Value, Type)>;

enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
}

impl Value {
    fn as_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Value::Text(text) => text,
            Value::Bytes(bytes) => bytes,
            Value::Number(number) => number,
        }
    }
}

fn text(text: &str) -> (Value, Type) {
    (Value::Text(text.to_owned()), Type::TEXT)
}

fn number(number: i64) -> (Value, Type) {
    (Value::Number(number), Type::INT8)
}

fn time(time: Time) -> (Value, Type) {
    number(i64::try_from(time.millis()).unwrap_or(i64::MAX))
}

/// Key, content, version, owner and end, as all writing statements number them.
fn row(key: &str, record: Record) -> Values {
    let Record { bytes, version, owner, expires } = record;
    let bytes = (Value::Bytes(bytes), Type::BYTEA);
    vec![text(key), bytes, number(version.cast_signed()), text(&owner), time(expires)]
}

async fn run(way: &Way, sql: &str, values: &Values) -> Result<Answer, StoreError> {
    for _ in 0..TRIES {
        let lease = way.lease().await?;
        let typed: Vec<_> = values.iter().map(|(value, kind)| (value.as_sql(), kind.clone())).collect();
        match lease.ask(sql, &typed).await {
            Ok(answer) => {
                lease.give_back();
                return Ok(answer);
            }
            Err(error) if is_undone(&error) => lease.give_back(),
            Err(error) => {
                // What was refused leaves the connection as it was, unless it is the server that is the wrong one.
                if error.as_db_error().is_some() && !is_elsewhere(&error) {
                    lease.give_back();
                }
                return Err(failed(&error));
            }
        }
    }
    Err(StoreError::new("it gave way to others too often"))
}

impl Way {
    async fn lease(&self) -> Result<Lease, StoreError> {
        let client = self.pool.get().await.map_err(no_connection)?;
        Ok(Lease { client: Some(client), tls: self.tls.clone() })
    }
}

/// A connection in use. Given up when it is dropped, with what was asked on it: its answer may still be on its way, and
/// the server would go on waiting for a lock that nobody wants any more.
struct Lease {
    client: Option<Object>,
    tls: Tls,
}

impl Lease {
    async fn ask(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Answer, tokio_postgres::Error> {
        let client = self.client.as_ref().expect("there until it is given back");
        // Rows are only told for what returns some, their number only for what does not.
        if sql.starts_with("SELECT") {
            return Ok(Answer { rows: client.query_typed(sql, values).await?, changed: 0 });
        }
        Ok(Answer { rows: Vec::new(), changed: client.execute_typed(sql, values).await? })
    }

    fn give_back(mut self) {
        drop(self.client.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        let (cancel, tls) = (client.cancel_token(), self.tls.clone());
        drop(Object::take(client));
        // Without a runtime the process is ending, and its connections with it.
        if let Ok(side) = Handle::try_current() {
            side.spawn(async move { drop(timeout(DEADLINE, cancel.cancel_query(tls)).await) });
        }
    }
}

fn no_connection(error: PoolError) -> StoreError {
    match &error {
        // The server said no (53300, a wrong password): it is there.
        PoolError::Backend(cause) if cause.as_db_error().is_some() => failed(cause),
        PoolError::Backend(cause) => StoreError::unreachable(chain(cause)),
        _ => StoreError::unreachable(error),
    }
}

fn failed(error: &tokio_postgres::Error) -> StoreError {
    match error.as_db_error() {
        // Codes tell; a message may quote what was asked.
        Some(said) if is_leaving(error) => {
            StoreError::unreachable(format_args!("{} ({})", said.message(), said.code().code()))
        }
        Some(said) => StoreError::new(format_args!("{} ({})", said.message(), said.code().code())),
        None => StoreError::unreachable(chain(error)),
    }
}

/// With what caused it: the library's own words only say where it happened.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

/// 40001, 40P01: nothing of it was done, and it may be tried again.
fn is_undone(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
    })
}

/// The server is going down: whether it was done is unknown.
fn is_leaving(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW].contains(code)
    })
}

/// 25006 and the like: after a fail-over the connection leads to what is only a copy now.
fn is_elsewhere(error: &tokio_postgres::Error) -> bool {
    is_leaving(error) || error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

/// From the first four columns: bytes, version, owner, expires.
fn record(row: &Row) -> Result<Record, tokio_postgres::Error> {
    let (version, expires): (i64, i64) = (row.try_get(1)?, row.try_get(3)?);
    Ok(Record {
        bytes: row.try_get(0)?,
        version: version.cast_unsigned(),
        owner: row.try_get(2)?,
        expires: Time::from_millis(expires.cast_unsigned()),
    })
}

impl Records for Postgres {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        let values = vec![text(key), time(self.clock.now())];
        Box::pin(self.run(READ, values, |answer| answer.rows.first().map(record).transpose()))
    }

    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created> {
        let mut values = row(key, record);
        values.push(time(self.clock.now()));
        Box::pin(self.run(CREATE, values, |answer| {
            Ok(if answer.changed == 1 { Created::Created } else { Created::Exists })
        }))
    }

    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced> {
        let mut values = row(key, record);
        values.extend([number(seen.cast_signed()), time(self.clock.now())]);
        Box::pin(self.run(REPLACE, values, |answer| {
            Ok(if answer.changed == 1 { Replaced::Replaced } else { Replaced::Changed })
        }))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()> {
        Box::pin(self.run(DELETE, vec![text(key)], |_| Ok(())))
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>> {
        let values = vec![text(owner), time(self.clock.now())];
        Box::pin(self.run(OWNED_BY, values, |answer| answer.rows.iter().map(|row| row.try_get(0)).collect()))
    }

    fn sweep(&self) -> Pending<'_, u64> {
        let now = self.clock.now();
        // Many replicas have many pools: what a burst opened is given back.
        self.way.pool.retain(|_, used| used.last_used() < IDLE);
        Box::pin(async move {
            let mut swept = 0;
            // In bites, so that no write waits behind a million deletes.
            loop {
                let (way, values) = (self.way.clone(), vec![time(now), number(SWEEP_BITE)]);
                let bite = async move { run(&way, SWEEP, &values).await };
                let bite = self.patience.work(bite).await?.changed;
                swept += bite;
                if bite < SWEEP_BITE.unsigned_abs() {
                    return Ok(swept);
                }
            }
        })
    }

    fn page<'a>(&'a self, after: Option<&'a str>) -> Pending<'a, Page> {
        let values = vec![text(after.unwrap_or_default()), time(self.clock.now()), number(PAGE as i64)];
        Box::pin(self.run(PAGES, values, |answer| {
            let records = answer.rows.iter().map(|row| Ok((row.try_get(4)?, record(row)?)));
            let records: Vec<(String, Record)> = records.collect::<Result<_, tokio_postgres::Error>>()?;
            let next = records.last().filter(|_| records.len() == PAGE).map(|(key, _)| key.clone());
            Ok(Page { records, next })
        }))
    }
}

impl Shared for Postgres {
    fn prepare(&self) -> Pin<Box<dyn Future<Output = Result<Vec<String>, PrepareError>> + Send + '_>> {
        let way = self.way.clone();
        Box::pin(async move {
            let settled = self.patience.work(async move {
                let mut lease = way.lease().await?;
                let client = lease.client.as_mut().expect("just taken");
                let settled = schema::settle(client).await?;
                lease.give_back();
                Ok(settled)
            });
            settled.await?.map(|()| Vec::new()).map_err(PrepareError::Unfit)
        })
    }
}

const READ: &str =
    "SELECT bytes, version, owner, expires FROM mcp_auth_proxy_records WHERE key = $1 AND expires > $2";
const CREATE: &str = "INSERT INTO mcp_auth_proxy_records AS known (key, bytes, version, owner, expires)
     VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (key) DO UPDATE SET bytes = excluded.bytes, version = excluded.version,
       owner = excluded.owner, expires = excluded.expires WHERE known.expires <= $6";
const REPLACE: &str = "UPDATE mcp_auth_proxy_records SET bytes = $2, version = $3, owner = $4, expires = $5
     WHERE key = $1 AND version = $6 AND expires > $7";
const DELETE: &str = "DELETE FROM mcp_auth_proxy_records WHERE key = $1";
const OWNED_BY: &str =
    "SELECT key FROM mcp_auth_proxy_records WHERE owner = $1 AND owner <> '' AND expires > $2 ORDER BY key";
/// Replicas that sweep at the same time do not wait for each other.
const SWEEP: &str = "DELETE FROM mcp_auth_proxy_records WHERE key IN (
       SELECT key FROM mcp_auth_proxy_records WHERE expires <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)";
const PAGES: &str = "SELECT bytes, version, owner, expires, key FROM mcp_auth_proxy_records
     WHERE key > $1 AND expires > $2 ORDER BY key LIMIT $3";
const TRIES: u32 = 4;
const SWEEP_BITE: i64 = 500;
const PAGE: usize = 500;
const IDLE: Duration = Duration::from_secs(60);
/// How long a connection is kept that nobody has heard of.
const SILENCE: Duration = Duration::from_secs(10);
