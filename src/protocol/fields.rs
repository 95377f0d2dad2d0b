//! The header fields of a message, whoever read it: in one piece of memory, in their order. A map of them costs more to
//! make than all that is ever looked for in it.
//!
//! RFC 9110 §5.1, §5.2, §5.5; RFC 9112 §5.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields that were read. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// Where a field stands: the beginnings and ends of its name and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    name: (u32, u32),
    value: (u32, u32),
}

/// There is more than one field of a name that must be single.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twice;

impl Fields {
    /// Those of a head, as httparse has read it.
    pub fn of(head: &[u8], read: &[httparse::Header<'_>]) -> Self {
        let start = head.as_ptr() as usize;
        let within = |part: &[u8]| {
            let at = part.as_ptr() as usize - start;
            (place(at), place(at + part.len()))
        };
        let places: Vec<Place> = read
            .iter()
            .map(|field| Place { name: within(field.name.as_bytes()), value: within(field.value) })
            .collect();
        let mut bytes = head.to_vec();
        for Place { name, .. } in &places {
            bytes[range(*name)].make_ascii_lowercase();
        }
        Fields { bytes, places }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Bytes, at most, of them as they were written.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.places.len() * SEPARATORS
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> {
        self.places.iter().map(|place| (&self.bytes[range(place.name)], &self.bytes[range(place.value)]))
    }

    /// The values of a name, which is in lower case.
    pub fn all(&self, name: &'static str) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.iter().filter(move |(own, _)| *own == name.as_bytes()).map(|(_, value)| value)
    }

    /// The first value of a name.
    pub fn get(&self, name: &'static str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The value of a name, if there are not several.
    pub fn single(&self, name: &'static str) -> Result<Option<&[u8]>, Twice> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() { Err(Twice) } else { Ok(first) }
    }

    /// Whether there is a field of this name.
    pub fn has(&self, name: &'static str) -> bool {
        self.get(name).is_some()
    }

    /// Adds a field; the name is in lower case.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        let mut part = |part: &[u8]| {
            let at = self.bytes.len();
            self.bytes.extend_from_slice(part);
            (place(at), place(at + part.len()))
        };
        let place = Place { name: part(name.as_bytes()), value: part(value) };
        self.places.push(place);
    }

    /// Takes out all fields of a name.
    pub fn remove(&mut self, name: &str) {
        let bytes = &self.bytes;
        self.places.retain(|place| bytes[range(place.name)] != *name.as_bytes());
    }
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        let mut fields = Fields::default();
        for (name, value) in map {
            fields.add(name.as_str(), value.as_bytes());
        }
        fields
    }
}

impl From<&Fields> for HeaderMap {
    fn from(fields: &Fields) -> Self {
        map(fields.iter())
    }
}

fn map<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        // Whatever was read from a head can stand in one.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
}

/// The text of a value, if it is visible ASCII, spaces and tabs (RFC 9110 §5.5).
pub fn text(value: &[u8]) -> Option<&str> {
    let is_plain = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| is_plain)
}

fn place(at: usize) -> u32 {
    u32::try_from(at).expect("no head is four GiB long")
}

fn range((from, to): (u32, u32)) -> std::ops::Range<usize> {
    from as usize..to as usize
}

/// Fields that are to be written: `name: value` and a line end each.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    has_date: bool,
}

impl Lines {
    /// With room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Lines { bytes: Vec::with_capacity(bytes), has_date: false }
    }

    /// Adds a line; the name is in lower case, and nothing in the value ends a line.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        self.has_date |= name == b"date";
        for part in [name, b": ", value, b"\r\n"] {
            self.bytes.extend_from_slice(part);
        }
    }

    /// As they are written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether one of them is the date.
    pub fn has_date(&self) -> bool {
        self.has_date
    }
}

impl From<&Lines> for HeaderMap {
    fn from(lines: &Lines) -> Self {
        let lines = lines.bytes.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line.get(colon + 2..)?))
        });
        map(lines)
    }
}

/// Bytes that a line has beside name and value.
const SEPARATORS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Fields {
        let mut lines = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut lines);
        let length = request.parse(head.as_bytes()).expect("a head").unwrap();
        Fields::of(&head.as_bytes()[..length], request.headers)
    }

    #[test]
    fn fields_are_found_however_their_names_are_spelt() {
        let fields = read("GET / HTTP/1.1\r\nHost: P.test\r\nX-A:  one \r\nx-b:\r\nX-a: Two\r\n\r\nbody");
        assert_eq!(fields.count(), 4);
        assert_eq!(fields.all("x-a").collect::<Vec<_>>(), [&b"one"[..], b"Two"]);
        assert_eq!(fields.all("x-a").next_back(), Some(&b"Two"[..]));
        assert_eq!(
            (fields.get("host"), fields.get("x-b"), fields.get("x")),
            (Some(&b"P.test"[..]), Some(&b""[..]), None)
        );
        assert_eq!((fields.single("host"), fields.single("x-a")), (Ok(Some(&b"P.test"[..])), Err(Twice)));
        assert!(fields.has("x-b") && !fields.has("x-c"));
        assert_eq!(fields.iter().next(), Some((&b"host"[..], &b"P.test"[..])));
    }

    #[test]
    fn fields_are_added_and_taken_out() {
        let mut fields = read("GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\nA: 3\r\n\r\n");
        fields.remove("a");
        fields.add("c", b"4");
        assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"b"[..], &b"2"[..]), (b"c", b"4")]);
    }

    #[test]
    fn a_map_has_the_same_fields() {
        let fields = read("GET / HTTP/1.1\r\nA: 1\r\nB: \u{fc}\r\nA: 3\r\n\r\n");
        let map = HeaderMap::from(&fields);
        assert_eq!(map.get_all("a").iter().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(map["b"].as_bytes(), "\u{fc}".as_bytes());
        let back = Fields::from(&map);
        assert_eq!((back.count(), back.get("b")), (3, Some("\u{fc}".as_bytes())));
    }

    #[test]
    fn lines_are_written_and_read_back() {
        let mut lines = Lines::default();
        assert!(!lines.has_date() && lines.as_bytes().is_empty());
        for (name, value) in [("a", "1"), ("date", "now"), ("b", ""), ("a", "x: y")] {
            lines.add(name.as_bytes(), value.as_bytes());
        }
        assert_eq!(lines.as_bytes(), b"a: 1\r\ndate: now\r\nb: \r\na: x: y\r\n");
        assert!(lines.has_date());
        let map = HeaderMap::from(&lines);
        assert_eq!(
            (map.len(), &map["date"], &map["b"]),
            (4, &HeaderValue::from_static("now"), &HeaderValue::from_static(""))
        );
        assert_eq!(map.get_all("a").iter().collect::<Vec<_>>(), ["1", "x: y"]);
    }

    #[test]
    fn text_is_visible() {
        assert_eq!(text(b"a b\t~"), Some("a b\t~"));
        for other in ["\u{fc}".as_bytes(), b"\x7f", b"a\nb", b"\xff"] {
            assert_eq!(text(other), None);
        }
    }
}
