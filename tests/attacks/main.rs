//! Attacks and faults against the real program, each judged by what is visible from outside.
//!
//! Every test carries the ids of the rows of the catalogue (`tests/catalogue/rows.md`) that it holds; the table of
//! `docs/security.md` is made from them.

mod answers;
mod clock;
mod faults;
mod flood;
mod frames;
mod github;
mod grants;
mod http2;
mod rates;
mod rig;
mod secrets;
mod storage;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod upstream;
mod wire;

mod alone;
mod metadata;
mod names;
