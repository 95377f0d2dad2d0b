//! HTTP/1.1 towards an upstream, by our own hand: it costs less than half of what a general client does, and what is
//! odd is refused rather than repaired. One request and its answer at a time, no pipelining.
//!
//! RFC 9112. The client's side is `server/http1`.

mod arrival;
mod exchange;
pub mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod head;
mod io;
mod sending;

pub use arrival::{Arrival, Cut};
pub use exchange::{Answered, Exchange, Trouble, Within};
pub use head::{Head, has_body};
pub use io::{Connection, Io};
pub use sending::{Message, Outgoing};
