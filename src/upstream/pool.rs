//! Connections to upstreams: each core keeps its own, so that nothing on a request's path crosses a thread.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;
use tokio::time::{timeout, timeout_at};

use super::Settings;
use super::dial::Dialer;
use super::http1::{Answered, Connection, Exchange, Io, Outgoing, Trouble, Within};
use super::target::Target;
use crate::clock::{Clock, Time};

/// The connections of one replica, seen from any core.
pub struct Pool {
    home: Home,
    dialer: Dialer,
}

/// Why a request was not answered.
pub enum SendError {
    /// There is no connection; the request never left, and lies where it was.
    Connect(String),
    Exchange(Trouble),
}

struct Idle {
    connection: Connection,
    since: Time,
}

/// The idle connections of this core, by pool. There are few pools, and each request asks twice.
type Pools = Vec<(usize, Vec<Idle>)>;

thread_local! {
    static IDLE: RefCell<Pools> = const { RefCell::new(Vec::new()) };
}

/// The pools there are.
static LIVE: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// Where a connection belongs whose answer is being read.
#[derive(Clone)]
pub struct Home {
    pool: usize,
    clock: Clock,
}

impl Home {
    /// Puts the connection back: its answer was read to the end.
    pub fn take_back(&self, connection: Connection) {
        let idle = Idle { connection, since: self.clock.now() };
        IDLE.with_borrow_mut(|pools| {
            if let Some(idles) = of(pools, self.pool) {
                if idles.len() < MAX_IDLE {
                    idles.push(idle);
                }
                return;
            }
            // There is a new one, most likely because of a new configuration: those of the one before can go.
            let live = live();
            pools.retain(|(id, _)| live.contains(id));
            if live.contains(&self.pool) {
                pools.push((self.pool, vec![idle]));
            }
        });
    }
}

impl Pool {
    pub fn new(clock: Clock) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let pool = NEXT.fetch_add(1, Ordering::Relaxed);
        live().insert(pool);
        Pool { dialer: Dialer::new(clock.clone()), home: Home { pool, clock } }
    }

    /// Sends on an idle connection or a new one. RFC 9110 §9.2.2: a request is sent again only when it provably never
    /// left; or when it asks for nothing to be done, and the connection was closed while nobody used it, as it seems:
    /// then once, on a new one.
    pub async fn send(
        &self,
        target: &Target,
        settings: &Settings,
        method: &Method,
        outgoing: &mut Outgoing,
    ) -> Result<Box<Answered>, SendError> {
        let within = Within::from_now(settings.response_timeout);
        while let Some(connection) = self.idle() {
            match exchange(connection, outgoing, within).answered().await {
                Err(Trouble::Unsent(message, body)) => *outgoing = Outgoing { message, body },
                Err(Trouble::Silent(message, body)) if *method == Method::GET => {
                    *outgoing = Outgoing { message, body };
                    break;
                }
                outcome => return outcome.map_err(SendError::Exchange),
            }
        }
        // Boxed: most requests find a connection, and should not have the room for making one.
        let connection = Box::pin(self.new_connection(target, settings.connect_timeout, within)).await?;
        exchange(connection, outgoing, within).answered().await.map_err(SendError::Exchange)
    }

    async fn new_connection(
        &self,
        target: &Target,
        connect_timeout: Duration,
        within: Within,
    ) -> Result<Connection, SendError> {
        let connected = timeout(connect_timeout, self.connect(target));
        match timeout_at(within.until, connected).await {
            Ok(Ok(connected)) => connected.map(Connection::new).map_err(SendError::Connect),
            Ok(Err(_)) => Err(SendError::Connect(format!("no connection within {connect_timeout:?}"))),
            Err(_) => Err(SendError::Exchange(Trouble::Late(within.limit))),
        }
    }

    /// The connection used last, unless the upstream closed it, or likely has by now.
    fn idle(&self) -> Option<Connection> {
        let now = self.home.clock.now();
        IDLE.with_borrow_mut(|pools| {
            let idles = of(pools, self.home.pool)?;
            while let Some(mut idle) = idles.pop() {
                if now.since(idle.since) > MAX_IDLE_TIME {
                    idles.clear();
                } else if idle.connection.io.is_quiet() {
                    return Some(idle.connection);
                }
            }
            None
        })
    }

    async fn connect(&self, target: &Target) -> Result<Io, String> {
        let text = |error: std::io::Error| error.to_string();
        let stream = self.dialer.connect(&target.host, target.port).await?;
        stream.set_nodelay(true).map_err(text)?;
        match &target.tls {
            None => Ok(Io::Plain(stream.into())),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(text)?;
                Ok(Io::Tls(Box::new(stream)))
            }
        }
    }

    /// Where connections to it belong.
    pub fn home(&self) -> &Home {
        &self.home
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        live().remove(&self.home.pool);
    }
}

/// Closes the idle connections of this core that have been idle for long, were closed by the upstream, or say something
/// although nobody asked. Called now and then: nobody watches a connection that nobody uses.
pub fn tidy(now: Time) {
    IDLE.with_borrow_mut(|pools| {
        for (_, idles) in pools {
            idles.retain_mut(|idle| now.since(idle.since) <= MAX_IDLE_TIME && idle.connection.io.is_quiet());
        }
    });
}

fn exchange(connection: Connection, outgoing: &mut Outgoing, within: Within) -> Exchange {
    let Outgoing { message, body } = std::mem::take(outgoing);
    Exchange::new(connection, message, body, within)
}

fn of(pools: &mut Pools, pool: usize) -> Option<&mut Vec<Idle>> {
    pools.iter_mut().find(|(id, _)| *id == pool).map(|(_, idles)| idles)
}

/// Asked for when a core meets a pool for the first time, not on the path of requests.
fn live() -> MutexGuard<'static, BTreeSet<usize>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Per upstream and core; beyond that a connection is cheaper to make than to keep.
const MAX_IDLE: usize = 256;
/// Node's servers close after 5 s, uvicorn after 5 s: a little less, so that we are the first.
const MAX_IDLE_TIME: Duration = Duration::from_millis(4_500);
