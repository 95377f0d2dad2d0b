//! TLS, both ways: which certificate we show, and whose we believe. One provider (ring), 1.2 and 1.3 only.
//!
//! `identity` reads the two files, `shown` exchanges them while serving, `trust` is for what we connect to.
//! There is no switch that turns verification off.

mod identity;
mod shown;
mod trust;

pub use identity::{Fault, Files, Identity, Part};
pub use shown::{HTTP2, Shown};
pub use trust::{Authorities, NoClient, client, is_distrust, trusting};
