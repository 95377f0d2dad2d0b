//! A plain HTTP client: one connection per request, nothing followed, nothing added but Host. HTTP/1.1 in clear,
//! unless an address is known for TLS.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, or the empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The `error` member of a JSON error.
    #[track_caller]
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, self.text());
        self
    }
}

/// Starts a request whose URL may be absolute: Host is taken from it.
pub fn request(method: Method, url: &str) -> http::request::Builder {
    let url = url::Url::parse(url).expect("an absolute URL");
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    Request::builder().method(method).uri(target).header(header::HOST, host)
}

/// Sends and reads the whole answer.
pub async fn send(address: SocketAddr, request: Request<Bytes>) -> Answer {
    let (parts, body) = open(address, request).await;
    let body = body.collect().await.expect("the answer ends cleanly").to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

/// The same where the other side may be killed meanwhile: `None` when there is no whole answer.
pub async fn try_send(address: SocketAddr, request: Request<Bytes>) -> Option<Answer> {
    let (parts, body) = try_open(address, request).await.ok()?;
    let body = body.collect().await.ok()?.to_bytes();
    Some(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

/// Sends and returns the head as soon as it is there, with the body still to come.
pub async fn open(address: SocketAddr, request: Request<Bytes>) -> (http::response::Parts, Incoming) {
    try_open(address, request).await.expect("an answer")
}

async fn try_open(
    address: SocketAddr,
    request: Request<Bytes>,
) -> Result<(http::response::Parts, Incoming), Box<dyn Error>> {
    let stream = TcpStream::connect(address).await?;
    let secure = secure().lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
    let Some(config) = secure else { return speak_http1(stream, request).await };
    let name = ServerName::try_from(NAME).expect("a name");
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => speak_http2(stream, request).await,
        _ => speak_http1(stream, request).await,
    }
}

async fn speak_http1<T>(
    stream: T,
    request: Request<Bytes>,
) -> Result<(http::response::Parts, Incoming), Box<dyn Error>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender.send_request(request.map(Full::new)).await?.into_parts())
}

async fn speak_http2<T>(
    stream: T,
    mut request: Request<Bytes>,
) -> Result<(http::response::Parts, Incoming), Box<dyn Error>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let host = request.headers_mut().remove(header::HOST).ok_or("a request names its host")?;
    *request.uri_mut() = format!("https://{}{}", host.to_str()?, request.uri()).parse()?;
    Ok(sender.send_request(request.map(Full::new)).await?.into_parts())
}

/// From now on TLS is spoken to this address, as if it were p.test, and HTTP/2 when that is agreed on.
pub fn over_tls(address: SocketAddr, config: ClientConfig) {
    secure().lock().unwrap_or_else(PoisonError::into_inner).insert(address, Arc::new(config));
}

fn secure() -> &'static Mutex<HashMap<SocketAddr, Arc<ClientConfig>>> {
    static SECURE: OnceLock<Mutex<HashMap<SocketAddr, Arc<ClientConfig>>>> = OnceLock::new();
    SECURE.get_or_init(Mutex::default)
}

/// What every server over TLS is called in tests.
const NAME: &str = "p.test";

/// The next piece of a body that is still open; `None` at its clean end, an error when it was cut.
pub async fn next(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        match body.frame().await? {
            // HTTP/2 may end with an empty frame.
            Ok(frame) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Some(Ok(data)),
                _ => continue,
            },
            Err(error) => return Some(Err(error)),
        }
    }
}

/// A form body.
pub fn form(pairs: &[(&str, &str)]) -> Bytes {
    Bytes::from(url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish())
}

/// Whether a status is one of success.
pub fn is_success(status: u16) -> bool {
    StatusCode::from_u16(status).is_ok_and(|status| status.is_success())
}
