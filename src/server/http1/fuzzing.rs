//! Requests of arbitrary bytes: what we read by our own hand, beside what hyper's server reads. Whatever is a plain
//! request to us is the only one to hyper, and the same.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::plain;
use crate::fuzzing::drive;
use crate::protocol::request::Request;

/// What a client says in one piece.
pub fn request(data: &[u8]) {
    let Some(ours) = plain::request(data, |_| true) else { return };
    let both = || String::from_utf8_lossy(data);
    assert!(ours.authority.is_none() && !ours.is_http2);
    let mut heard = hypers(data);
    assert_eq!(heard.len(), 1, "{}", both());
    let theirs = heard.remove(0);
    let body = drive(ours.body.collect()).expect("it is there").expect("whole").to_bytes();
    assert_eq!(
        (&ours.method, &ours.target, body),
        (&theirs.method, &theirs.target, theirs.body.clone()),
        "{}",
        both()
    );
    assert_eq!(HeaderMap::from(&ours.fields), HeaderMap::from(&theirs.fields), "{}", both());
    assert_eq!(ours.fields.count(), theirs.fields.count(), "{}", both());
    assert!(theirs.authority.is_none() && !theirs.is_http2, "{}", both());
}

/// Every request that hyper hears, if it hears no nonsense.
fn hypers(data: &[u8]) -> Vec<Request<Bytes>> {
    let heard = Mutex::new(Vec::new());
    let service = service_fn(|request: http::Request<Incoming>| {
        let heard = &heard;
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("whole").to_bytes();
            heard.lock().expect("sound").push(Request::from(http::Request::from_parts(parts, body)));
            Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = http1::Builder::new();
    builder.half_close(true);
    let io = TokioIo::new(Wire { said: data.to_vec(), at: 0 });
    let served = drive(builder.serve_connection(io, service)).expect("the connection was closed");
    served.expect("hyper takes what we take");
    heard.into_inner().expect("sound")
}

/// A client that has said it all, and hears whatever comes.
struct Wire {
    said: Vec<u8>,
    at: usize,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        read: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.said[self.at..];
        let length = rest.len().min(read.remaining());
        read.put_slice(&rest[..length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
