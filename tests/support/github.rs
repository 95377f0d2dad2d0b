//! A GitHub stand-in: the web side, the token endpoint and the API calls a proxy needs, on one port.
//! Behaves like GitHub including its oddities (errors with status 200, comma-separated scopes, ten tokens per
//! user and scopes), and lets a test bend it through [`World`].
//! Does not know the proxy, and proves nothing about GitHub itself.
//! Included by tests as `mod github` and by examples through `#[path]`; explicit paths below make both work.
#![allow(dead_code, unused_imports, reason = "every test and example uses its own part")]

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
};

#[path = "github/api.rs"]
mod api;
#[path = "github/authorize.rs"]
mod authorize;
#[path = "github/call.rs"]
mod call;
#[path = "github/control.rs"]
mod control;
#[path = "github/fault.rs"]
mod fault;
#[path = "github/options.rs"]
mod options;
#[path = "github/reply.rs"]
mod reply;
#[path = "github/scopes.rs"]
mod scopes;
#[path = "github/token.rs"]
mod token;
#[path = "github/traffic.rs"]
mod traffic;
#[path = "github/user.rs"]
mod user;
#[path = "github/world.rs"]
mod world;

pub use call::{Call, Endpoint};
pub use fault::{Fault, Hold};
pub use options::{Approval, Options, TokenKind};
pub use scopes::Scopes;
pub use user::{Email, Membership, State, Team, User};
pub use world::World;

use reply::{Payload, Reply};

/// A running stand-in. Clones share it; the last one to go closes the port and every connection.
#[derive(Clone)]
pub struct GitHub {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Arc<Server>,
}

impl GitHub {
    /// Binds and serves on the current runtime.
    pub async fn start(options: Options) -> io::Result<GitHub> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(options, format!("http://{address}"))),
            arrivals: watch::Sender::new(()),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(GitHub { address, shared, server: Arc::new(Server(task.abort_handle())) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `github.base_url` in proxy.yaml would be; no slash at the end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What `github.api_url` in proxy.yaml would be; no slash at the end.
    pub fn api_url(&self) -> String {
        format!("{}/api/v3", self.base_url())
    }

    /// Everything a test may read or bend. Take it for one statement: requests wait while it is held.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world()
    }

    /// Returns once `endpoint` was called `times` times since the log was last cleared.
    pub async fn called(&self, endpoint: Endpoint, times: usize) {
        let mut arrivals = self.shared.arrivals.subscribe();
        while self.world().count(endpoint) < times {
            arrivals.changed().await.expect("the sender lives as long as self");
        }
    }

    /// Closes the port and all connections: from now on GitHub is unreachable.
    pub fn stop(&self) {
        self.server.0.abort();
    }
}

struct Shared {
    world: Mutex<World>,
    arrivals: watch::Sender<()>,
}

impl Shared {
    /// A test that failed while holding the world must not turn into a second, misleading failure here.
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Server(AbortHandle);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // The set ends every connection together with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: let other tasks give some back.
            tokio::task::yield_now().await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&shared), request));
            // A client that goes away, and a fault that drops the connection, are both part of the game.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An error drops the connection without an answer.
async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Payload>, io::Error> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    let call = Call::new(head, body);
    if call.endpoint == Endpoint::Control {
        return Ok(control::answer(&mut shared.world(), &call).map(Payload::whole));
    }
    let (holds, fault) = shared.world().arrived(&call);
    shared.arrivals.send_replace(());
    for hold in holds {
        hold.wait().await;
    }
    match fault {
        Some(fault) => fault.apply(|| route(&mut shared.world(), &call)).await,
        None => {
            let mut world = shared.world();
            let mut reply = route(&mut world, &call).map(Payload::whole);
            if world.options.close {
                reply.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
            }
            Ok(reply)
        }
    }
}

fn route(world: &mut World, call: &Call) -> Reply {
    match call.endpoint {
        Endpoint::Authorize if call.method == Method::POST => authorize::decide(world, call),
        Endpoint::Authorize => authorize::authorize(world, call),
        Endpoint::SignIn => authorize::sign_in(world, call),
        Endpoint::Exchange => token::exchange(world, call),
        Endpoint::Refresh => token::refresh(world, call),
        _ => api::answer(world, call),
    }
}

const MAX_BODY: usize = 1024 * 1024;
