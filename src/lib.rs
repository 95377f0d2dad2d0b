#![forbid(unsafe_code)]
pub mod clock;
pub mod protocol;
pub mod seal;
