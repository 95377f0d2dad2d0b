//! The Connection header field: options of this connection, and names of fields that are meant for it alone.
//!
//! RFC 9110 §7.6.1.

use super::fields::Fields;

/// Whether Connection lists an option, in any case.
pub fn lists(fields: &Fields, option: &[u8]) -> bool {
    options(fields).any(|listed| listed.eq_ignore_ascii_case(option))
}

/// Whether it lists anything but `keep-alive`, as most clients do for no reason: then it names no field that anybody
/// would pass on.
pub fn names_fields(fields: &Fields) -> bool {
    let says_more = |value: &[u8]| !value.eq_ignore_ascii_case(b"keep-alive");
    fields.all("connection").any(says_more) && options(fields).any(says_more)
}

fn options(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    fields.all("connection").flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}
