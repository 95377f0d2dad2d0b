//! The Connection header field: options of this connection, and names of fields that are meant for it alone.
//!
//! RFC 9110 §7.6.1.

use http::{HeaderMap, header};

/// Whether Connection lists an option, in any case.
pub fn lists(headers: &HeaderMap, option: &str) -> bool {
    options(headers).any(|listed| listed.eq_ignore_ascii_case(option.as_bytes()))
}

/// Whether it lists anything but `keep-alive`, as most clients do for no reason: then it names no field that anybody
/// would pass on.
pub fn names_fields(headers: &HeaderMap) -> bool {
    options(headers).any(|listed| !listed.eq_ignore_ascii_case(b"keep-alive"))
}

fn options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::CONNECTION).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}
