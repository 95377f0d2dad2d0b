//! Records in Redis or Valkey: for replicas that share them. A single server, one that Sentinel names, or a Cluster.
//!
//! A record is a hash; every verb that decides is one script on that one key, so it is atomic on a Cluster too. What
//! a record is listed under is a sorted set beside it, written first: it may name too much, never too little, and
//! who reads it looks at the records themselves. Keys end by Redis' own time, an hour after ours says so.

mod link;
mod place;
mod scripts;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, RedisError, cmd};
use tokio::runtime::Handle;
use tracing::warn;

use super::patience::Patience;
use super::{Created, Page, Pending, PrepareError, Record, Records, Replaced, Shared, StoreError, Unfit};
use crate::clock::{Clock, Time};
use crate::tls::Authorities;
use link::Links;
pub use place::Place;
use scripts::{CREATE, INDEX, REPLACE};

/// A connection to one Redis, many questions on it at a time.
pub struct Redis {
    clock: Clock,
    links: Arc<Links>,
    patience: Patience,
}

impl Redis {
    /// Prepares to connect; nothing is reached yet.
    pub fn new(
        place: &Place,
        authorities: &Authorities,
        clock: Clock,
        side: Handle,
    ) -> Result<Self, StoreError> {
        let links = Links::new(place, authorities).map_err(|error| failed(&error))?;
        Ok(Redis { clock, links: Arc::new(links), patience: Patience::new(side) })
    }

    async fn ask<T: FromRedisValue + Send + 'static>(&self, command: Cmd) -> Result<T, StoreError> {
        let links = self.links.clone();
        let asked = async move { links.ask(&command).await.map_err(|error| failed(&error)) };
        self.patience.ask(asked).await
    }

    /// Runs a script that says whether it wrote.
    async fn decide(
        &self,
        script: &'static scripts::Source,
        key: String,
        values: Vec<Vec<u8>>,
    ) -> Result<bool, StoreError> {
        let links = self.links.clone();
        let asked = async move { links.run(script, &key, &values).await.map_err(|error| failed(&error)) };
        self.patience.ask(asked).await.map(|wrote: i64| wrote == 1)
    }

    /// Lists a record that is about to be written under its owner.
    async fn list(&self, key: &str, record: &Record) -> Result<(), StoreError> {
        if record.owner.is_empty() {
            return Ok(());
        }
        let values = vec![key.as_bytes().to_vec(), self.kept_for(record.expires)];
        self.decide(&INDEX, owner_key(&record.owner), values).await.map(drop)
    }

    /// For how many milliseconds Redis keeps what ends then; empty for ever.
    fn kept_for(&self, expires: Time) -> Vec<u8> {
        match expires == Time::NEVER {
            true => Vec::new(),
            false => digits(
                u64::try_from((expires.since(self.clock.now()) + SLACK).as_millis()).unwrap_or(u64::MAX),
            ),
        }
    }

    /// Now, content, version, owner, end, and for how long it is kept: what all writing scripts begin with.
    fn values(&self, record: Record) -> Vec<Vec<u8>> {
        let kept = self.kept_for(record.expires);
        let Record { bytes, version, owner, expires } = record;
        let now = self.clock.now();
        vec![digits(now.millis()), bytes, digits(version), owner.into_bytes(), digits(expires.millis()), kept]
    }
}

fn digits(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn record_key(key: &str) -> String {
    format!("{RECORDS}{key}")
}

fn owner_key(owner: &str) -> String {
    format!("{OWNERS}{owner}")
}

/// The fields of a hash as `HMGET b v o e` tells them; `None` when there is no such record (any more).
type Fields = (Option<Vec<u8>>, Option<String>, Option<String>, Option<String>);

fn record((bytes, version, owner, expires): Fields, now: Time) -> Result<Option<Record>, StoreError> {
    let (Some(bytes), Some(version), Some(owner), Some(expires)) = (bytes, version, owner, expires) else {
        return Ok(None);
    };
    let number = |text: String| text.parse().map_err(|_| StoreError::new("a record is not one of ours"));
    let (version, expires) = (number(version)?, Time::from_millis(number(expires)?));
    Ok((expires > now).then_some(Record { bytes, version, owner, expires }))
}

fn fields(key: &str) -> Cmd {
    cmd("HMGET").arg(record_key(key)).arg(&["b", "v", "o", "e"]).take()
}

impl Records for Redis {
    fn read<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Record>> {
        Box::pin(async move { record(self.ask(fields(key)).await?, self.clock.now()) })
    }

    fn create<'a>(&'a self, key: &'a str, record: Record) -> Pending<'a, Created> {
        Box::pin(async move {
            self.list(key, &record).await?;
            let wrote = self.decide(&CREATE, record_key(key), self.values(record)).await?;
            Ok(if wrote { Created::Created } else { Created::Exists })
        })
    }

    fn replace<'a>(&'a self, key: &'a str, seen: u64, record: Record) -> Pending<'a, Replaced> {
        Box::pin(async move {
            self.list(key, &record).await?;
            let values = [self.values(record), vec![digits(seen)]].concat();
            let wrote = self.decide(&REPLACE, record_key(key), values).await?;
            Ok(if wrote { Replaced::Replaced } else { Replaced::Changed })
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> Pending<'a, ()> {
        Box::pin(async move {
            let owner: Option<String> = self.ask(cmd("HGET").arg(record_key(key)).arg("o").take()).await?;
            self.ask::<i64>(cmd("DEL").arg(record_key(key)).take()).await?;
            // After the record: its listing may name what is not there.
            if let Some(owner) = owner.filter(|owner| !owner.is_empty()) {
                self.ask::<i64>(cmd("ZREM").arg(owner_key(&owner)).arg(key).take()).await?;
            }
            Ok(())
        })
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> Pending<'a, Vec<String>> {
        Box::pin(async move {
            let listed: Vec<String> =
                self.ask(cmd("ZRANGE").arg(owner_key(owner)).arg(0).arg(-1).take()).await?;
            let mut owned = Vec::new();
            for key in listed {
                let found = self.read(&key).await?;
                if found.is_some_and(|record| record.owner == owner && !owner.is_empty()) {
                    owned.push(key);
                }
            }
            owned.sort_unstable();
            Ok(owned)
        })
    }

    /// Redis removes what has expired by itself. It can be told to evict while it runs: that is looked for.
    fn sweep(&self) -> Pending<'_, u64> {
        Box::pin(async move {
            if let Err(unfit) = self.fitness().await? {
                warn!(%unfit, "the store loses records");
            }
            Ok(0)
        })
    }

    /// The place is the number of the node (0 but on a Cluster) and Redis' own cursor on it.
    fn page<'a>(&'a self, after: Option<&'a str>) -> Pending<'a, Page> {
        Box::pin(async move {
            let (node, cursor) = match after.and_then(|after| after.split_once(':')) {
                Some((node, cursor)) => (node.parse().unwrap_or(0), cursor.to_owned()),
                None => (0, "0".to_owned()),
            };
            let links = self.links.clone();
            let scanned = async move { links.scan(node, &cursor).await.map_err(|error| failed(&error)) };
            let scanned = self.patience.work(scanned).await?;
            let mut records = Vec::new();
            for name in scanned.names {
                let Some(key) = name.strip_prefix(RECORDS) else { continue };
                if let Some(found) = self.read(key).await? {
                    records.push((key.to_owned(), found));
                }
            }
            Ok(Page { records, next: scanned.next })
        })
    }
}

impl Redis {
    /// Whether it may throw away what is written to it, and what else is not as it should be.
    async fn fitness(&self) -> Result<Result<Vec<String>, Unfit>, StoreError> {
        let mut concerns = Vec::new();
        let links = self.links.clone();
        let told = self
            .patience
            .work(async move { links.information().await.map_err(|error| failed(&error)) })
            .await?;
        for node in told {
            let said = |name: &str| {
                let line = node.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(|value| value.trim().to_owned()).unwrap_or_default()
            };
            let (policy, limit) = (said("maxmemory_policy"), said("maxmemory"));
            let evicts = !policy.is_empty() && policy != "noeviction";
            if evicts && limit != "0" {
                return Ok(Err(Unfit::Evicts(policy)));
            }
            if evicts {
                concerns.push(format!(
                    "Redis would evict records (maxmemory-policy {policy}) if it were given a memory limit; set \
                     maxmemory-policy noeviction"
                ));
            }
            if said("aof_enabled") == "0" {
                concerns.push(
                    "Redis keeps no append-only file: what was written since its last snapshot is lost when it crashes"
                        .to_owned(),
                );
            }
        }
        concerns.sort_unstable();
        concerns.dedup();
        Ok(Ok(concerns))
    }
}

impl Shared for Redis {
    fn prepare(&self) -> Pin<Box<dyn Future<Output = Result<Vec<String>, PrepareError>> + Send + '_>> {
        Box::pin(async move {
            let concerns = self.fitness().await??;
            // Made by whoever comes first, and read by all.
            self.ask::<()>(cmd("HSETNX").arg(SCHEMA_KEY).arg("oldest").arg(SCHEMA).take()).await?;
            self.ask::<()>(cmd("HSETNX").arg(SCHEMA_KEY).arg("version").arg(SCHEMA).take()).await?;
            let read = cmd("HMGET").arg(SCHEMA_KEY).arg("version").arg("oldest").take();
            let (found, oldest): (i64, i64) = self.ask(read).await?;
            match oldest > SCHEMA {
                true => Err(Unfit::Newer { found, oldest, known: SCHEMA }.into()),
                false => Ok(concerns),
            }
        })
    }
}

fn failed(error: &RedisError) -> StoreError {
    match link::is_lost(error) {
        true => StoreError::unreachable(error),
        false => StoreError::new(error),
    }
}

const RECORDS: &str = "mcp-auth-proxy:record:";
const OWNERS: &str = "mcp-auth-proxy:owner:";
const SCHEMA_KEY: &str = "mcp-auth-proxy:schema";
const SCHEMA: i64 = 1;
/// A clock of ours that jumped ahead for a moment must take nothing away.
const SLACK: Duration = Duration::from_secs(3_600);
