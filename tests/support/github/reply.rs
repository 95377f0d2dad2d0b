//! Building answers, whole ones and ones that break off.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};
use hyper::body::{Body, Frame, SizeHint};
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep, sleep};
use url::form_urlencoded;

pub type Reply = Response<Bytes>;

pub fn json(status: u16, body: &Value) -> Reply {
    typed(status, "application/json; charset=utf-8", body.to_string())
}

/// GitHub's shape of an API error.
pub fn message(status: u16, text: &str) -> Reply {
    let body = json!({
        "message": text,
        "documentation_url": "https://docs.github.com/rest",
        "status": status.to_string(),
    });
    json(status, &body)
}

pub fn html(status: u16, title: &str, content: &str) -> Reply {
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
         <body><h1>{title}</h1>\n{content}\n<p>This is a stand-in, not GitHub.</p></body></html>\n"
    );
    typed(status, "text/html; charset=utf-8", page)
}

pub fn redirect(location: &str) -> Reply {
    let mut reply = empty(302);
    match HeaderValue::from_str(location) {
        Ok(location) => reply.headers_mut().insert(LOCATION, location),
        Err(_) => return html(400, "Bad redirect", ""),
    };
    reply
}

pub fn empty(status: u16) -> Reply {
    let mut reply = Response::new(Bytes::new());
    *reply.status_mut() = StatusCode::from_u16(status).expect("a status between 100 and 999");
    reply
}

pub fn typed(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = empty(status).map(|_| body.into());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// The same members as a form, which is what GitHub's token endpoint answers to whoever does not ask for JSON.
pub fn form(status: u16, body: &Value) -> Reply {
    let mut encoded = form_urlencoded::Serializer::new(String::new());
    for (name, value) in body.as_object().into_iter().flatten() {
        match value {
            Value::String(text) => encoded.append_pair(name, text),
            other => encoded.append_pair(name, &other.to_string()),
        };
    }
    typed(status, "application/x-www-form-urlencoded; charset=utf-8", encoded.finish())
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A body that may die half-way, which `Full` cannot.
pub struct Payload {
    rest: Option<Bytes>,
    breaks_off: bool,
    /// A byte at a time, this far apart.
    dribble: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Payload {
    pub fn whole(body: Bytes) -> Payload {
        Payload { rest: Some(body), breaks_off: false, dribble: None }
    }

    pub fn breaking_off(body: Bytes) -> Payload {
        Payload { rest: Some(body), breaks_off: true, dribble: None }
    }

    pub fn dribbling(body: Bytes, pause: Duration) -> Payload {
        Payload { rest: Some(body), breaks_off: false, dribble: Some((pause, Box::pin(sleep(pause)))) }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Payload { rest, dribble, .. } = &mut *self;
        if let (Some((pause, timer)), Some(rest)) = (dribble, rest)
            && !rest.is_empty()
        {
            ready!(timer.as_mut().poll(context));
            timer.as_mut().reset(Instant::now() + *pause);
            return Poll::Ready(Some(Ok(Frame::data(rest.split_to(1)))));
        }
        let next = match self.rest.take() {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None if self.breaks_off => Some(Err(io::ErrorKind::ConnectionReset.into())),
            None => None,
        };
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        !self.breaks_off && self.rest.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Some(bytes) if !self.breaks_off => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}
