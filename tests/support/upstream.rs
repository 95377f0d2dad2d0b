//! An MCP server that says what it is told and remembers what it heard; and one that sends raw bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// A body of either kind.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// One request as the upstream saw it.
#[derive(Clone, Debug)]
pub struct Heard {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Heard {
    /// A header's value, or the empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

type Script = Arc<dyn Fn(&Heard) -> Response<Body> + Send + Sync>;

/// A scripted MCP server.
pub struct Mcp {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Mcp {
    /// Answers everything with 200 and a JSON-RPC result until told otherwise.
    pub async fn start() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// The same at an address.
    pub async fn at(address: SocketAddr) -> Self {
        let listener = super::documents::listener(address);
        let address = listener.local_addr().expect("bound");
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Arc::new(|_: &Heard| json(RESULT))));
        let (ears, mind) = (heard.clone(), script.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (ears, mind) = (ears.clone(), mind.clone());
                let service = service_fn(move |request| answer(request, ears.clone(), mind.clone()));
                tokio::spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Mcp { address, heard, script, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, answer like this.
    pub fn say(&self, script: impl Fn(&Heard) -> Response<Body> + Send + Sync + 'static) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last request heard.
    #[track_caller]
    pub fn last(&self) -> Heard {
        self.heard().pop().expect("the upstream heard something")
    }

    /// Stops listening; connections that are open stay.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Mcp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    heard: Arc<Mutex<Vec<Heard>>>,
    script: Arc<Mutex<Script>>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    // A request that was broken off was not heard.
    let Ok(body) = body.collect().await else { return Ok(json(RESULT)) };
    let body = body.to_bytes();
    let request = Heard { method: parts.method, target: parts.uri.to_string(), headers: parts.headers, body };
    let script = script.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let response = script(&request);
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    if let Some(Late(wait)) = response.extensions().get() {
        sleep(*wait).await;
    }
    Ok(response)
}

/// How long an answer is thought about.
#[derive(Clone)]
struct Late(Duration);

/// The same answer, so much later.
pub fn late(wait: Duration, mut response: Response<Body>) -> Response<Body> {
    response.extensions_mut().insert(Late(wait));
    response
}

/// A harmless result.
pub const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

/// A JSON answer.
pub fn json(text: &str) -> Response<Body> {
    whole("application/json", text)
}

/// An answer that is all there.
pub fn whole(kind: &str, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().header("content-type", kind).body(body).expect("a response")
}

/// An event stream, and what feeds it: bytes to send, an error to break off, dropping it to end.
pub fn events() -> (Response<Body>, mpsc::UnboundedSender<Result<Bytes, std::io::Error>>) {
    let (feed, fed) = mpsc::unbounded_channel();
    let response =
        Response::builder().header("content-type", "text/event-stream").body(Fed(fed).boxed_unsync());
    (response.expect("a response"), feed)
}

struct Fed(mpsc::UnboundedReceiver<Result<Bytes, std::io::Error>>);

impl hyper::body::Body for Fed {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|data| data.map(|data| data.map(Frame::data)))
    }
}

/// Accepts connections and lets a test speak bytes on each.
pub struct Raw {
    listener: TcpListener,
}

impl Raw {
    pub async fn start() -> Self {
        Raw { listener: TcpListener::bind("127.0.0.1:0").await.expect("binds") }
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.listener.local_addr().expect("bound"))
    }

    /// The next connection, with its first request head read (and whatever came with it).
    pub async fn accept(&self) -> (TcpStream, String) {
        let (mut stream, _) = self.listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            let mut byte = [0; 1024];
            let read = stream.read(&mut byte).await.expect("reads");
            assert!(read > 0, "the proxy left before its request was whole");
            head.extend_from_slice(&byte[..read]);
        }
        (stream, String::from_utf8_lossy(&head).into_owned())
    }

    /// Answers the next connection with these bytes and closes it.
    pub async fn answer_once(&self, bytes: &[u8]) {
        let (mut stream, _) = self.accept().await;
        stream.write_all(bytes).await.expect("writes");
        stream.shutdown().await.expect("closes");
    }
}
