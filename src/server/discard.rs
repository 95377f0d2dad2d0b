//! Bodies that go no further than this: forms, and what a client is still sending beside a request that is refused.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use tokio::time::timeout;

use super::reply::Problem;
use crate::protocol::request::Request;
use crate::upstream::Payload;

/// All of a form or a registration.
pub async fn whole(mut body: Payload, patience: Duration) -> Result<Bytes, Problem> {
    let fits = body.size_hint().lower() <= MAX_FORM as u64;
    if fits {
        match timeout(FORM_TIMEOUT.min(patience), Limited::new(&mut body, MAX_FORM).collect()).await {
            Ok(Ok(body)) => return Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {}
            Ok(Err(_)) => return Err(Problem::BadRequest("the request body is broken")),
            Err(_) => return Err(Problem::TooSlow),
        }
    }
    linger(body).await;
    Err(Problem::TooLarge(MAX_FORM as u64))
}

/// Takes what a client is sending beside a request that is refused.
pub async fn let_it_arrive(request: Box<Request<Payload>>) {
    // Polling the body of a client that waits for 100 would invite it to send.
    if !request.body.is_end_stream() && !request.fields.has("expect") {
        linger(request.body).await;
    }
}

/// Reads on for a moment and throws it away: closing on a client that is still sending would reset the
/// connection, and the answer would be lost on its way.
pub async fn linger(mut body: Payload) {
    let discard = async {
        let mut left = MAX_DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => break,
            }
        }
    };
    // Over or not, the answer goes out now.
    let _ = timeout(LINGER, discard).await;
}

/// Forms and registrations; the largest real one is a few KiB.
const MAX_FORM: usize = 64 << 10;
const FORM_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are thrown away so that a refusal arrives.
const MAX_DISCARDED: usize = 4 << 20;
const LINGER: Duration = Duration::from_secs(1);
