//! A host that publishes client metadata documents over https, with a certificate authority of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::{Authority, Pair};
use super::upstream::Body;

type Script = Arc<dyn Fn() -> Response<Body> + Send + Sync>;

/// A running host.
pub struct Documents {
    address: SocketAddr,
    name: String,
    authority: Authority,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    published: Mutex<BTreeMap<String, Script>>,
    speech: Mutex<Option<Speech>>,
    names: Mutex<Vec<String>>,
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
        let (authority, address) = (Authority::new(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let pair = authority.pair(names);
        Self::at(address, "localhost", authority, &pair).await
    }

    /// At an address, under a name, showing a certificate.
    pub async fn at(address: SocketAddr, name: &str, authority: Authority, shown: &Pair) -> Self {
        let listener = listener(address);
        let address = listener.local_addr().expect("bound");
        let acceptor = TlsAcceptor::from(shown.server());
        let shared = Arc::new(Shared {
            published: Mutex::default(),
            speech: Mutex::default(),
            names: Mutex::default(),
            heard: Mutex::default(),
            connections: AtomicUsize::new(0),
            arrivals: watch::Sender::new(0),
            open: watch::Sender::new(true),
        });
        let task = tokio::spawn(accept(listener, acceptor, shared.clone()));
        Documents { address, name: name.to_owned(), authority, shared, task }
    }

    /// Writes the authority's certificate into a folder and returns the file.
    pub fn ca_file(&self, folder: &Path) -> PathBuf {
        PathBuf::from(self.authority.file(folder))
    }

    /// The URL of a path, which is what a client_id is.
    pub fn url(&self, path: &str) -> String {
        match self.address.port() {
            443 => format!("https://{}{path}", self.name),
            port => format!("https://{}:{port}{path}", self.name),
        }
    }

    /// From now on every request is answered with these bytes.
    pub fn speak(&self, speech: Speech) {
        *lock(&self.shared.speech) = Some(speech);
    }

    /// The server names that were asked for (RFC 6066 §3), in order; empty where there was none.
    pub fn names(&self) -> Vec<String> {
        lock(&self.shared.names).clone()
    }

    /// Every path that was asked for.
    pub fn paths(&self) -> Vec<String> {
        lock(&self.shared.heard).iter().map(|(path, _)| path.clone()).collect()
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

/// Beside whoever listens on the same port of all addresses.
pub fn listener(address: SocketAddr) -> TcpListener {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    // With a port of the kernel's choice it would be shared with strangers.
    socket.set_reuseport(address.port() != 0).expect("an option");
    socket.bind(address).expect("binds");
    socket.listen(1_024).expect("listens")
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            // A client that does not trust us goes away here, and that is a case too.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
            lock(&shared.names).push(name);
            let speech = lock(&shared.speech).clone();
            if let Some(speech) = speech {
                // Whoever had enough goes away.
                let _ = say(stream, speech).await;
                return;
            }
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

/// An answer, byte for byte.
#[derive(Clone, Default)]
pub struct Speech {
    pub bytes: Vec<u8>,
    /// After each byte; at once when zero.
    pub pause: Duration,
    /// Said again and again afterwards, until the other side leaves.
    pub endless: Vec<u8>,
    /// Nobody closes the connection.
    pub stay: bool,
}

async fn say(mut stream: TlsStream<TcpStream>, speech: Speech) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    match speech.pause.is_zero() {
        true => stream.write_all(&speech.bytes).await?,
        false => {
            for byte in speech.bytes {
                stream.write_u8(byte).await?;
                stream.flush().await?;
                sleep(speech.pause).await;
            }
        }
    }
    stream.flush().await?;
    while !speech.endless.is_empty() {
        stream.write_all(&speech.endless).await?;
        stream.flush().await?;
    }
    if speech.stay {
        stream.read_to_end(&mut head).await?;
    }
    stream.shutdown().await
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
