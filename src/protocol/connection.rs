//! The Connection header field: options of this connection, and names of fields that are meant for it alone.
//!
//! RFC 9110 §7.6.1.

use http::{HeaderMap, header};

/// Whether Connection lists an option, in any case.
pub fn lists(headers: &HeaderMap, option: &str) -> bool {
    let values = headers.get_all(header::CONNECTION).iter();
    let mut options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|listed| listed.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}
