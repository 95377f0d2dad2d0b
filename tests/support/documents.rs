//! A host that publishes client metadata documents over https, with a certificate authority of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::tls::Authority;
use super::upstream::Body;

type Script = Arc<dyn Fn() -> Response<Body> + Send + Sync>;

/// A running host.
pub struct Documents {
    address: SocketAddr,
    authority: Authority,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    published: Mutex<BTreeMap<String, Script>>,
    heard: Mutex<Vec<(String, HeaderMap)>>,
    connections: AtomicUsize,
    arrivals: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl Documents {
    /// Publishes nothing yet. Its certificate is for `localhost` and 127.0.0.1.
    pub async fn start() -> Self {
        Self::named(&["localhost", "127.0.0.1"]).await
    }

    /// With a certificate for other names.
    pub async fn named(names: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let authority = Authority::new();
        let acceptor = TlsAcceptor::from(authority.pair(names).server());
        let shared = Arc::new(Shared {
            published: Mutex::default(),
            heard: Mutex::default(),
            connections: AtomicUsize::new(0),
            arrivals: watch::Sender::new(0),
            open: watch::Sender::new(true),
        });
        let task = tokio::spawn(accept(listener, acceptor, shared.clone()));
        Documents { address, authority, shared, task }
    }

    /// Writes the authority's certificate into a folder and returns the file.
    pub fn ca_file(&self, folder: &Path) -> PathBuf {
        PathBuf::from(self.authority.file(folder))
    }

    /// The URL of a path, which is what a client_id is.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// From now on a path answers like this.
    pub fn say(&self, path: &str, script: impl Fn() -> Response<Body> + Send + Sync + 'static) {
        lock(&self.shared.published).insert(path.to_owned(), Arc::new(script));
    }

    /// From now on a path holds this document.
    pub fn publish(&self, path: &str, document: &Value) {
        let text = document.to_string();
        self.say(path, move || whole(200, &[("content-type", "application/json")], text.clone()));
    }

    /// A usable document for a path.
    pub fn document(&self, path: &str, redirect_uris: &[&str]) -> Value {
        json!({"client_id": self.url(path), "client_name": "Published Client", "redirect_uris": redirect_uris})
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        lock(&self.shared.heard).iter().filter(|(heard, _)| heard == path).count()
    }

    /// The headers of the last request.
    pub fn last(&self) -> HeaderMap {
        lock(&self.shared.heard).last().expect("it heard something").1.clone()
    }

    /// How many connections were made, with or without TLS.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Requests are heard and then wait until `release`.
    pub fn hold(&self) {
        self.shared.open.send_replace(false);
    }

    pub fn release(&self) {
        self.shared.open.send_replace(true);
    }

    /// Returns once so many requests have arrived.
    pub async fn heard(&self, times: usize) {
        let mut arrivals = self.shared.arrivals.subscribe();
        arrivals.wait_for(|arrived| *arrived >= times).await.expect("the sender lives as long as self");
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole answer.
pub fn whole(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let body: UnsyncBoxBody<_, _> = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    response.body(body).expect("a response")
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            // A client that does not trust us goes away here, and that is a case too.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, shared.clone()));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().to_string();
    lock(&shared.heard).push((path.clone(), request.headers().clone()));
    shared.arrivals.send_modify(|arrived| *arrived += 1);
    let mut open = shared.open.subscribe();
    let _ = open.wait_for(|open| *open).await;
    let script = lock(&shared.published).get(&path).cloned();
    Ok(script.map_or_else(|| whole(404, &[], ""), |script| script()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
