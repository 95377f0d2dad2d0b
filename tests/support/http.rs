//! A plain HTTP/1.1 client: one connection per request, nothing followed, nothing added but Host.

use std::error::Error;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

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
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender.send_request(request.map(Full::new)).await?.into_parts())
}

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
