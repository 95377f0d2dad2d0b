//! Connections to upstreams: each core keeps its own, so that nothing on a request's path crosses a thread.
//!
//! hyper's connection-level client; a connection's task is spawned once, not per request.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::body::RequestBody;
use super::dial::Dialer;
use super::fair::Fair;
use crate::clock::{Clock, Time};

/// Where an upstream is.
pub struct Target {
    host: String,
    port: u16,
    host_header: HeaderValue,
    origin: String,
    path: PathAndQuery,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why an upstream cannot be reached by principle.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("is not an absolute http or https URL")]
    NotAbsolute,
    #[error("names a host that no certificate can be for")]
    ServerName,
    #[error("cannot use the system's certificates: {0}")]
    Certificates(rustls::Error),
}

impl Target {
    /// Reads the URL of an upstream; `tls` is asked for https ones only.
    pub fn new(
        uri: &Uri,
        tls: impl FnOnce() -> Result<Arc<rustls::ClientConfig>, rustls::Error>,
    ) -> Result<Self, TargetError> {
        let authority = uri.authority().ok_or(TargetError::NotAbsolute)?;
        let scheme = uri.scheme().ok_or(TargetError::NotAbsolute)?;
        let secure = *scheme == Scheme::HTTPS;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if secure {
            let name = ServerName::try_from(host.clone()).map_err(|_| TargetError::ServerName)?;
            Some((TlsConnector::from(tls().map_err(TargetError::Certificates)?), name))
        } else {
            None
        };
        Ok(Target {
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            host_header: HeaderValue::from_str(authority.as_str()).map_err(|_| TargetError::NotAbsolute)?,
            origin: format!("{scheme}://{authority}"),
            path: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            host,
            tls,
        })
    }

    /// The Host header for it.
    pub fn host(&self) -> &HeaderValue {
        &self.host_header
    }

    /// `scheme://host[:port]`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The path and query of its MCP endpoint.
    pub fn path(&self) -> &PathAndQuery {
        &self.path
    }
}

/// The connections of one upstream, seen from any core.
pub struct Pool {
    id: usize,
    clock: Clock,
    dialer: Dialer,
}

/// Why a request was not answered.
pub enum SendError {
    Connect(String),
    Http(hyper::Error),
}

type Sender = SendRequest<RequestBody>;

struct Idle {
    sender: Sender,
    since: Time,
}

thread_local! {
    static IDLE: RefCell<HashMap<usize, Vec<Idle>>> = RefCell::default();
}

/// The pools there are.
static LIVE: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// A connection whose answer is being read.
pub struct Returns {
    pool: usize,
    clock: Clock,
    sender: Sender,
}

impl Returns {
    /// Puts the connection back: its answer was read to the end.
    pub fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let idle = Idle { sender: self.sender, since: self.clock.now() };
        IDLE.with_borrow_mut(|pools| {
            if !pools.contains_key(&self.pool) {
                // There is a new one, most likely because of a new configuration: those of the one before can go.
                let live = live();
                pools.retain(|id, _| live.contains(id));
                if !live.contains(&self.pool) {
                    return;
                }
            }
            let pool = pools.entry(self.pool).or_default();
            if pool.len() < MAX_IDLE {
                pool.push(idle);
            }
        });
    }
}

impl Pool {
    pub fn new(clock: Clock) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        live().insert(id);
        Pool { id, dialer: Dialer::new(clock.clone()), clock }
    }

    /// Sends on an idle connection or a new one. RFC 9110 §9.2.2: a request is sent again only when it
    /// provably never left, which hyper tells by giving it back.
    pub async fn send(
        &self,
        target: &Target,
        connect_timeout: Duration,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Returns), SendError> {
        while let Some(mut sender) = self.idle() {
            // An upstream may answer before it has read a request to its end: such a connection is not free yet,
            // and may never be.
            if !sender.is_ready() && !matches!(timeout(READY_WITHIN, sender.ready()).await, Ok(Ok(()))) {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, self.returns(sender))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(SendError::Http(error.into_error())),
                },
            }
        }
        let mut sender = match timeout(connect_timeout, self.connect(target)).await {
            Ok(connected) => connected.map_err(SendError::Connect)?,
            Err(_) => return Err(SendError::Connect(format!("no connection within {connect_timeout:?}"))),
        };
        let response = sender.send_request(request).await.map_err(SendError::Http)?;
        Ok((response, self.returns(sender)))
    }

    /// The connection used last, unless the upstream has likely closed it by now.
    fn idle(&self) -> Option<Sender> {
        let now = self.clock.now();
        IDLE.with_borrow_mut(|pools| {
            let pool = pools.get_mut(&self.id)?;
            while let Some(idle) = pool.pop() {
                if now.since(idle.since) > MAX_IDLE_TIME {
                    pool.clear();
                } else if !idle.sender.is_closed() {
                    return Some(idle.sender);
                }
            }
            None
        })
    }

    async fn connect(&self, target: &Target) -> Result<Sender, String> {
        let text = |error: std::io::Error| error.to_string();
        let stream = self.dialer.connect(&target.host, target.port).await?;
        stream.set_nodelay(true).map_err(text)?;
        match &target.tls {
            None => handshake(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(text)?;
                handshake(stream).await
            }
        }
    }

    fn returns(&self, sender: Sender) -> Returns {
        Returns { pool: self.id, clock: self.clock.clone(), sender }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        live().remove(&self.id);
    }
}

/// Asked for when a core meets a pool for the first time, not on the path of requests.
fn live() -> MutexGuard<'static, BTreeSet<usize>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn handshake<T>(io: T) -> Result<Sender, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let (sender, connection) =
        builder.handshake(TokioIo::new(Fair::new(io))).await.map_err(|error| error.to_string())?;
    // One task per connection; it ends with it. What goes wrong shows at the request that met it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Per upstream and core; beyond that a connection is cheaper to make than to keep.
const MAX_IDLE: usize = 256;
/// Node's servers close after 5 s, uvicorn after 5 s: a little less, so that we are the first.
const MAX_IDLE_TIME: Duration = Duration::from_millis(4_500);
/// A connection whose answer was just read to the end is free as soon as its task has run.
const READY_WITHIN: Duration = Duration::from_millis(20);
/// Largest head of an answer, and read buffer of a connection.
const MAX_HEAD: usize = 32 << 10;
