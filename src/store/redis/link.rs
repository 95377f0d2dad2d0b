//! The way to Redis: found again when it is lost, whichever of the three kinds it is.

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo as _, Pipeline,
    RedisError, RedisFuture, ServerErrorKind, TlsCertificates, TlsMode, Value, cmd,
};
use tokio::sync::Mutex;

use super::RECORDS;
use super::place::{Kind, Place};
use super::scripts::Source;
use crate::store::patience::DEADLINE;
use crate::tls::Authorities;

/// Finds the way, and keeps it.
pub(super) struct Links {
    way: Way,
    current: Mutex<Option<Numbered>>,
}

enum Way {
    One(Client),
    Sentinel(Mutex<SentinelClient>),
    Cluster(ClusterClient),
}

#[derive(Clone)]
struct Numbered {
    number: u64,
    link: Link,
}

/// A connection.
#[derive(Clone)]
enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Some of the names that there are.
pub(super) struct Scanned {
    pub names: Vec<String>,
    pub next: Option<String>,
}

impl Links {
    pub(super) fn new(place: &Place, authorities: &Authorities) -> Result<Self, RedisError> {
        let certificates = TlsCertificates { client_tls: None, root_cert: authorities.with_the_machines() };
        let way = match place.kind() {
            Kind::One(url) => Way::One(match url.starts_with("rediss:") {
                true => Client::build_with_tls(url.as_str(), certificates)?,
                false => Client::open(url.as_str())?,
            }),
            Kind::Cluster(urls) => {
                let mut client = ClusterClient::builder(urls.clone())
                    .connection_timeout(DEADLINE / 2)
                    .response_timeout(DEADLINE)
                    .retries(2)
                    .max_retry_wait(RETRY_WAIT);
                if urls.iter().any(|url| url.starts_with("rediss:")) {
                    client = client.certs(certificates);
                }
                Way::Cluster(client.build()?)
            }
            Kind::Sentinel { sentinels, master, data } => {
                let info = data.clone().into_connection_info()?;
                let addresses =
                    sentinels.iter().map(|url| Ok(url.as_str().into_connection_info()?.addr().clone()));
                let addresses = addresses.collect::<Result<Vec<_>, RedisError>>()?;
                let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?;
                let settings = info.redis_settings();
                builder = builder.set_client_to_redis_db(settings.db());
                if let Some(name) = settings.username() {
                    builder = builder.set_client_to_redis_username(name);
                }
                if let Some(password) = settings.password() {
                    builder = builder.set_client_to_redis_password(password);
                    // Most set one password for both; Sentinels without any are told none below.
                    if place.sentinels_want_it() {
                        builder = builder.set_client_to_sentinel_password(password);
                    }
                }
                if data.starts_with("rediss:") {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_certificates(certificates);
                }
                Way::Sentinel(Mutex::new(builder.build()?))
            }
        };
        Ok(Links { way, current: Mutex::new(None) })
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut link = self.link().await?;
        let outcome = command.query_async(&mut link.link).await;
        self.note(&link, outcome).await
    }

    pub(super) async fn run<T: FromRedisValue>(
        &self,
        source: &Source,
        key: &str,
        values: &[Vec<u8>],
    ) -> Result<T, RedisError> {
        let mut link = self.link().await?;
        let mut call = source.script().key(key);
        values.iter().for_each(|value| {
            call.arg(value);
        });
        // Loads the script first where it is not known (any more).
        let outcome = call.invoke_async(&mut link.link).await;
        self.note(&link, outcome).await
    }

    /// What every node that takes writes says of itself.
    pub(super) async fn information(&self) -> Result<Vec<String>, RedisError> {
        let mut told = Vec::new();
        for node in self.nodes().await? {
            told.push(self.ask_node(cmd("INFO"), node).await?);
        }
        Ok(told)
    }

    /// Some names of records on the node with this number, from where Redis' cursor points.
    pub(super) async fn scan(&self, node: usize, cursor: &str) -> Result<Scanned, RedisError> {
        let nodes = self.nodes().await?;
        let Some(place) = nodes.get(node) else { return Ok(Scanned { names: Vec::new(), next: None }) };
        // What is something else under a name of ours is not ours.
        let ours =
            cmd("SCAN").arg(cursor).arg("MATCH").arg(format!("{RECORDS}*")).arg("TYPE").arg("hash").take();
        let scan = ours.clone().arg("COUNT").arg(PAGE).take();
        let (cursor, names): (String, Vec<String>) = self.ask_node(scan, *place).await?;
        let next = match cursor.as_str() {
            "0" => (node + 1 < nodes.len()).then(|| format!("{}:0", node + 1)),
            cursor => Some(format!("{node}:{cursor}")),
        };
        Ok(Scanned { names, next })
    }

    /// Where each node is reached: on a Cluster by one of its slots.
    async fn nodes(&self) -> Result<Vec<Option<Route>>, RedisError> {
        if !matches!(self.way, Way::Cluster(_)) {
            return Ok(vec![None]);
        }
        let slots: Vec<Vec<Value>> = self.ask(cmd("CLUSTER").arg("SLOTS")).await?;
        let mut nodes: Vec<(Value, Option<Route>)> = Vec::new();
        for range in slots {
            let [first, _, master, ..] = range.as_slice() else { continue };
            let first: u16 = FromRedisValue::from_redis_value(first.clone())?;
            if !nodes.iter().any(|(known, _)| known == master) {
                nodes.push((master.clone(), Some(Route::new(first, SlotAddr::Master))));
            }
        }
        Ok(nodes.into_iter().map(|(_, route)| route).collect())
    }

    async fn ask_node<T: FromRedisValue>(&self, command: Cmd, node: Option<Route>) -> Result<T, RedisError> {
        let mut link = self.link().await?;
        let outcome = match (&mut link.link, node) {
            (Link::Cluster(cluster), Some(route)) => {
                let node = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route));
                cluster.route_command(command, node).await.and_then(|value| Ok(T::from_redis_value(value)?))
            }
            (link, _) => command.query_async(link).await,
        };
        self.note(&link, outcome).await
    }

    /// The connection there is, or a new one.
    async fn link(&self) -> Result<Numbered, RedisError> {
        let mut current = self.current.lock().await;
        if let Some(current) = &*current {
            return Ok(current.clone());
        }
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE / 2))
            .set_response_timeout(Some(DEADLINE));
        let link = match &self.way {
            Way::One(client) => {
                Link::One(client.get_multiplexed_async_connection_with_config(&patient).await?)
            }
            Way::Sentinel(sentinel) => {
                let mut sentinel = sentinel.lock().await;
                Link::One(sentinel.get_async_connection_with_config(&patient).await?)
            }
            Way::Cluster(client) => Link::Cluster(client.get_async_connection().await?),
        };
        let numbered = Numbered { number: NUMBERS.fetch_add(1, std::sync::atomic::Ordering::Relaxed), link };
        Ok(current.insert(numbered).clone())
    }

    /// A connection that does not lead to a server that takes writes is not used again.
    async fn note<T>(&self, link: &Numbered, outcome: Result<T, RedisError>) -> Result<T, RedisError> {
        if let Err(error) = &outcome
            && (is_lost(error) || leads_elsewhere(error))
        {
            let mut current = self.current.lock().await;
            if current.as_ref().is_some_and(|current| current.number == link.number) {
                *current = None;
            }
        }
        outcome
    }
}

/// Whether nothing was heard.
pub(super) fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || matches!(
            error.kind(),
            ErrorKind::ClusterConnectionNotFound
                | ErrorKind::MasterNameNotFoundBySentinel
                | ErrorKind::NoValidReplicasFoundBySentinel
        )
}

/// After a fail-over: the one we speak to is only a copy now, or no part of the whole.
fn leads_elsewhere(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::ClusterDown
        )
    )
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Link::One(link) => link.req_packed_command(cmd),
            Link::Cluster(link) => link.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Link::One(link) => link.req_packed_commands(pipeline, offset, count),
            Link::Cluster(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Link::One(link) => link.get_db(),
            Link::Cluster(link) => link.get_db(),
        }
    }
}

static NUMBERS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
const PAGE: usize = 500;
/// Milliseconds.
const RETRY_WAIT: u64 = 200;
