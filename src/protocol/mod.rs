//! The words of the RFCs as types: parsing makes them, so that holding one means it is valid.
//!
//! Pure: no IO, no clock, no HTTP server, nothing of ours above it.

pub mod client;
pub mod connection;
pub mod error;
pub mod family;
pub mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod injection;
pub mod issuer;
pub mod params;
pub mod pkce;
pub mod redirect;
pub mod request;
pub mod resource;
pub mod scope;
pub mod token;
