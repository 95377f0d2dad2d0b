//! Field lines that leave nothing to be decided, read eight bytes at a time: names of letters, digits and hyphens, values
//! of what is visible or a space, and one line end. Nearly all are such; the rest is for a parser that knows the rules.
//!
//! What is read here, that parser reads alike; it takes half as long again. RFC 9112 §5.

use std::cell::RefCell;

use super::{Fields, Place, Slots, tag};

impl Fields {
    /// The fields whose lines `bytes` begin with, and how long they are with the empty line behind them. `None` if one
    /// is not plain, if they do not end within 4 KiB, or if there are more than 48.
    pub fn plain(bytes: &[u8]) -> Option<(Self, usize)> {
        let head = &bytes[..bytes.len().min(MAX_LENGTH)];
        SCRATCH.with_borrow_mut(|scratch| {
            scratch[..head.len()].copy_from_slice(head);
            // So that there are eight bytes behind each, and a last that is neither of a name nor of a value.
            let bytes = &mut scratch[..head.len() + 8];
            bytes[head.len()..].fill(0);
            Self::plain_in(bytes)
        })
    }

    fn plain_in(bytes: &mut [u8]) -> Option<(Self, usize)> {
        let (mut places, mut slots, mut at) = (Vec::with_capacity(ORDINARY), Slots::default(), 0);
        loop {
            let rest = bytes.get_mut(at..)?;
            let name = lowered_name(rest);
            if name == 0 {
                break;
            }
            let value = value_begin(&rest[name..])? + name;
            let ends = value + text_length(rest.get(value..)?);
            // Spaces around a value are none of its own.
            let is_padded = matches!(rest.get(value..ends)?, [b' ', ..] | [.., b' ']);
            if is_padded || !rest[ends..].starts_with(LINE_END) || places.len() == MAX_COUNT {
                return None;
            }
            let tag = tag(&rest[..name]);
            let (start, within) = (at as u32, |length: usize| (at + length) as u32);
            slots.note(tag, places.len());
            places.push(Place { tag, name: (start, within(name)), value: (within(value), within(ends)) });
            at += ends + LINE_END.len();
        }
        if !bytes[at..].starts_with(LINE_END) {
            return None;
        }
        let bytes = bytes[..at].to_vec();
        Some((Fields { bytes, places, slots }, at + LINE_END.len()))
    }
}

thread_local! {
    /// Where heads are read, so that what is kept of one is no larger than it.
    static SCRATCH: RefCell<Box<[u8; MAX_LENGTH + 8]>> = RefCell::new(Box::new([0; _]));
}

/// Puts the name that begins here into lower case, and says how long it is.
fn lowered_name(rest: &mut [u8]) -> usize {
    let (words, _) = rest.as_chunks_mut();
    let mut length = 0;
    for eight in words {
        let word = u64::from_le_bytes(*eight);
        let low = word & !HIGH;
        let letters = between(low | every(0x20), b'a', b'z');
        let others = (!(letters | between(low, b'0', b'9') | between(low, b'-', b'-')) | word) & HIGH;
        // Up to the first that is none of a name.
        let before = others ^ others.wrapping_sub(1);
        let capitals = letters & !(word << 2) & before & HIGH;
        *eight = (word | capitals >> 2).to_le_bytes();
        if others != 0 {
            return length + (others.trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    length
}

/// Where the value begins, behind the colon that stands here.
fn value_begin(rest: &[u8]) -> Option<usize> {
    match rest {
        [b':', b' ', ..] => Some(2),
        [b':', ..] => Some(1),
        _ => None,
    }
}

/// How long the text is that begins here: what is visible, spaces, and what is not ASCII.
pub fn text_length(rest: &[u8]) -> usize {
    let (words, last) = rest.as_chunks();
    let mut length = 0;
    for eight in words {
        let word = u64::from_le_bytes(*eight);
        let deleted = word ^ every(0x7f);
        // The lowest bit that is set is a true one: what a subtraction borrows, it borrows from above.
        let controls = (word.wrapping_sub(every(0x20)) | deleted.wrapping_sub(every(0x01))) & !word & HIGH;
        if controls != 0 {
            return length + (controls.trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    length + last.iter().position(u8::is_ascii_control).unwrap_or(last.len())
}

/// The high bit of each byte, of which none is set, from `first` to `last`; what the others are means nothing.
fn between(word: u64, first: u8, last: u8) -> u64 {
    (word + every(0x80 - first)) & !(word + every(0x7f - last))
}

const fn every(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

const HIGH: u64 = every(0x80);
const LINE_END: &[u8] = b"\r\n";
/// Clients send a dozen.
const ORDINARY: usize = 16;
/// Most send half a kilobyte.
const MAX_LENGTH: usize = 4 << 10;
const MAX_COUNT: usize = 48;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What httparse reads, whose rules are the law here.
    fn general(lines: &[u8]) -> Option<(Fields, usize)> {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        match httparse::parse_headers(lines, &mut fields) {
            Ok(httparse::Status::Complete((length, read))) => {
                Some((Fields::of(&lines[..length], read), length))
            }
            _ => None,
        }
    }

    fn pairs(fields: &Fields) -> Vec<(&[u8], &[u8])> {
        fields.iter().map(|field| (field.name, field.value)).collect()
    }

    /// Whether it is plain; then it is to httparse what it is to us.
    fn is_plain(lines: &[u8]) -> bool {
        let Some((plain, length)) = Fields::plain(lines) else { return false };
        let (general, its_length) = general(lines).expect("whatever is plain is well-formed");
        assert_eq!((pairs(&plain), length), (pairs(&general), its_length));
        for (name, _) in pairs(&general) {
            let name = String::from_utf8(name.to_vec()).expect("text").leak();
            assert_eq!(plain.all(name).collect::<Vec<_>>(), general.all(name).collect::<Vec<_>>());
            assert!(plain.has(name));
        }
        true
    }

    #[test]
    fn what_clients_and_servers_say_is_plain() {
        for lines in [
            "\r\n",
            "A:\r\n\r\n",
            "a: \r\nB:b\r\n\r\nbody",
            "Host: p.test\r\nConnection: keep-alive\r\nAuthorization: Bearer a.b-c_d~e+f/g=\r\n\
             Accept: application/json, text/event-stream\r\nX-Long-Name-Of-More-Than-16: 1 2\r\n\r\n",
            "x-8-byte: 12345678\r\nx-a: caf\u{e9}\r\nX-9-Bytes: 123456789\r\n\r\n",
        ] {
            assert!(is_plain(lines.as_bytes()), "{lines:?}");
        }
    }

    #[test]
    fn what_leaves_something_to_be_decided_is_not() {
        for lines in [
            "",
            "\r",
            "\n",
            "a",
            "a:",
            "a: b",
            "a: b\r",
            "a: b\r\n",
            "a: b\r\n\r",
            "a: b\n\n",
            ": b\r\n\r\n",
            "a : b\r\n\r\n",
            "a:  b\r\n\r\n",
            "a:\tb\r\n\r\n",
            "a: b \r\n\r\n",
            "a: b\tc\r\n\r\n",
            "a: b\r\n c\r\n\r\n",
            "a: b\rc\r\n\r\n",
            "a: b\0\r\n\r\n",
            "a: \x7f\r\n\r\n",
            "a_b: c\r\n\r\n",
            "a\u{e1}: c\r\n\r\n",
            "a b: c\r\n\r\n",
            "a\x01: c\r\n\r\n",
            " a: b\r\n\r\n",
            "a: b\r\r\n\r\n",
        ] {
            assert!(!is_plain(lines.as_bytes()), "{lines:?}");
        }
        let many = |number: usize| format!("{}\r\n", "a: b\r\n".repeat(number));
        assert!(is_plain(many(MAX_COUNT).as_bytes()) && !is_plain(many(MAX_COUNT + 1).as_bytes()));
        let long = |length: usize| format!("a: {}\r\n\r\nbody", "b".repeat(length - 7));
        assert!(is_plain(long(MAX_LENGTH).as_bytes()) && !is_plain(long(MAX_LENGTH + 1).as_bytes()));
    }

    #[test]
    fn every_byte_is_judged_alike_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for before in 0..9 {
                let name = [&b"aaaaaaaa"[..before], &[byte], b"a: b\r\n\r\n"].concat();
                assert_eq!(
                    is_plain(&name),
                    byte.is_ascii_alphanumeric() || byte == b'-' || (byte == b':' && before > 0),
                    "{byte} at {before}"
                );
                let value = [b"a: ", &b"bbbbbbbb"[..before], &[byte], b"b\r\n\r\n"].concat();
                let is_text = byte >= b' ' && byte != 0x7f && (byte != b' ' || before > 0);
                assert_eq!(is_plain(&value), is_text, "{byte} at {before}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn whatever_is_plain_is_the_same_to_httparse(
            lines in prop::collection::vec(("[A-Za-z0-9_. :-]{0,20}", "(: |:|:  | : |)", "[ -~\t\u{e9}]{0,40}", "(\r\n|\n|\r|)"), 0..6),
            end in "(\r\n|\n|\r\n.{0,8})",
        ) {
            let lines: String = lines.iter().flat_map(|(name, colon, value, end)| [name, colon, value, end]).map(String::as_str).collect();
            is_plain(format!("{lines}{end}").as_bytes());
        }

        #[test]
        fn nor_does_any_byte_make_a_difference(at in 0_usize..60, byte: u8) {
            let mut lines = b"Host: p.test\r\nContent-Length: 12\r\nX-Abcdefghi: 1, 2\r\n\r\n{}".to_vec();
            let at = at % lines.len();
            lines[at] = byte;
            is_plain(&lines);
        }
    }
}
