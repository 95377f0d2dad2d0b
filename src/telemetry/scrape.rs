//! The listener for whoever collects metrics: apart from the one for clients, because numbers are the operator's.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::metrics::CONTENT_TYPE;

/// What is told to whoever asks.
pub type Tell = Arc<dyn Fn() -> String + Send + Sync>;

/// Binds the listener.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers for as long as the program lives.
pub async fn serve(listener: TcpListener, tell: Tell) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let tell = tell.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &tell);
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
            // Whoever breaks off has nothing to be told.
            let _ = timeout(LIFETIME, builder.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, tell: &Tell) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let kind = HeaderValue::from_static(CONTENT_TYPE);
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            *response.body_mut() = Full::new(tell().into());
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        (_, "/metrics") => {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        _ => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            *response.body_mut() = Full::new(Bytes::from_static(b"metrics are at /metrics\n"));
        }
    }
    response
}

/// A collector or two, and somebody who looks.
const CONNECTIONS: usize = 16;
/// Collectors keep their connection between two visits, or come anew.
const IDLE: Duration = Duration::from_secs(20);
/// Whoever does not read what they asked for has gone by then.
const LIFETIME: Duration = Duration::from_secs(300);
