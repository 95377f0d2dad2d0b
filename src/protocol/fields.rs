//! The header fields of a message, whoever read it: in one piece of memory, in their order. A map of them costs more to
//! make than all that is ever looked for in it.
//!
//! RFC 9110 §5.1, §5.2, §5.5; RFC 9112 §5.

mod plain;
mod slots;

use http::{HeaderMap, HeaderName, HeaderValue};
pub use plain::text_length;
use slots::{Slots, tag};

/// Fields that were read. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    bytes: Vec<u8>,
    places: Vec<Place>,
    slots: Slots,
}

/// Where a field stands: the beginnings and ends of its name and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Of its name.
    tag: u32,
    name: (u32, u32),
    value: (u32, u32),
}

/// A field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// In lower case.
    pub name: &'a [u8],
    pub value: &'a [u8],
}

/// There is more than one field of a name that must be single.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twice;

impl Fields {
    /// Those of a head, as httparse has read it: any, where [`Fields::plain`] reads the ordinary.
    pub fn of(head: &[u8], read: &[httparse::Header<'_>]) -> Self {
        let start = head.as_ptr() as usize;
        // Then so is every place in it.
        place(head.len());
        // Both lie in the head, but where nothing is, there is nowhere that must be.
        let within = |part: &[u8], before: u32| match part {
            [] => (before, before),
            _ => {
                let at = (part.as_ptr() as usize - start) as u32;
                (at, at + part.len() as u32)
            }
        };
        let of = |field: &httparse::Header<'_>| {
            let name = within(field.name.as_bytes(), 0);
            Place { tag: 0, name, value: within(field.value, name.1) }
        };
        let mut places: Vec<Place> = read.iter().map(of).collect();
        let mut bytes = head.to_vec();
        for place in &mut places {
            let name = &mut bytes[range(place.name)];
            name.make_ascii_lowercase();
            place.tag = tag(name);
        }
        let slots = Slots::of(&places);
        Fields { bytes, places, slots }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Bytes, at most, of them as they were written.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.places.len() * SEPARATORS
    }

    /// In their order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Field<'_>> {
        self.places.iter().map(|place| self.field(place))
    }

    fn field(&self, place: &Place) -> Field<'_> {
        Field { name: &self.bytes[range(place.name)], value: &self.bytes[range(place.value)] }
    }

    /// Writes those for which `passes` is true as lines. What stands together as it is to be written is copied together.
    pub fn write(&self, out: &mut Vec<u8>, mut passes: impl FnMut(&Field<'_>) -> bool) {
        let mut run = None;
        for place in &self.places {
            let field = self.field(place);
            if !passes(&field) {
                continue;
            }
            let Place { name: (from, name_ends), value: (value, to), .. } = *place;
            let is_line = self.bytes[range((name_ends, value))] == *b": ";
            match &mut run {
                Some((_, ends)) if is_line && self.bytes[range((*ends, from))] == *b"\r\n" => *ends = to,
                _ => {
                    self.write_run(out, run.take());
                    match is_line {
                        true => run = Some((from, to)),
                        false => write_line(out, field.name, field.value),
                    }
                }
            }
        }
        self.write_run(out, run);
    }

    fn write_run(&self, out: &mut Vec<u8>, run: Option<(u32, u32)>) {
        if let Some(run) = run {
            out.extend_from_slice(&self.bytes[range(run)]);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The values of a name, which is in lower case.
    pub fn all(&self, name: &'static str) -> impl DoubleEndedIterator<Item = &[u8]> {
        let tag = tag(name.as_bytes());
        let places = self.slots.find(tag, &self.places);
        let is_it =
            move |place: &&Place| place.tag == tag && self.bytes[range(place.name)] == *name.as_bytes();
        places.iter().filter(is_it).map(|place| &self.bytes[range(place.value)])
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
        let at = self.bytes.len();
        [name.as_bytes(), b": ", value].iter().for_each(|part| self.bytes.extend_from_slice(part));
        let (name_ends, ends) = (at + name.len(), self.bytes.len());
        let value = (place(ends - value.len()), place(ends));
        let tag = tag(name.as_bytes());
        self.slots.note(tag, self.places.len());
        self.places.push(Place { tag, name: (place(at), place(name_ends)), value });
    }

    /// Takes out all fields of a name.
    pub fn remove(&mut self, name: &str) {
        let bytes = &self.bytes;
        self.places.retain(|place| bytes[range(place.name)] != *name.as_bytes());
        self.slots = Slots::of(&self.places);
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
        let mut map = HeaderMap::with_capacity(fields.count());
        append(&mut map, fields.iter().map(|field| (field.name, field.value)));
        map
    }
}

fn append<'a>(map: &mut HeaderMap, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    for (name, value) in fields {
        // Whatever was read from a head can stand in one.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
}

/// The text of a value, if it is one.
pub fn text(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|_| is_text(value))
}

/// Whether a value is visible ASCII, spaces and tabs (RFC 9110 §5.5).
pub fn is_text(value: &[u8]) -> bool {
    // All of them, however early one is none: so they are looked at many at a time.
    value.iter().fold(true, |plain, byte| plain & matches!(byte, b'\t' | b' '..=b'~'))
}

/// Writes a field as a line.
pub fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Writes the length of a body as a line (RFC 9110 §8.6).
pub fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number.
pub fn decimal(out: &mut Vec<u8>, number: u64) {
    let (mut digits, mut at, mut rest) = ([b'0'; 20], 20, number);
    while rest > 0 || at == 20 {
        at -= 1;
        digits[at] += (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[at..]);
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
        write_line(&mut self.bytes, name, value);
    }

    /// Adds whole lines, with their ends, none of which is the date.
    pub fn add_lines(&mut self, lines: &'static str) {
        self.bytes.extend_from_slice(lines.as_bytes());
    }

    /// Adds those fields for which `passes` is true.
    pub fn add_those(&mut self, fields: &Fields, passes: impl Fn(&Field<'_>) -> bool) {
        let Lines { bytes, has_date } = self;
        fields.write(bytes, |field| {
            let passes = passes(field);
            *has_date |= passes && field.name == b"date";
            passes
        });
    }

    /// As they are written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether one of them is the date.
    pub fn has_date(&self) -> bool {
        self.has_date
    }

    /// Puts them into a map, behind what is there of the same names.
    pub fn append_to(&self, map: &mut HeaderMap) {
        map.reserve(self.bytes.iter().filter(|byte| **byte == b'\n').count());
        let lines = self.bytes.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line.get(colon + 2..)?))
        });
        append(map, lines);
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
        let mut written = Vec::new();
        fields.write(&mut written, |_| true);
        let written = String::from_utf8(written).expect("text");
        assert_eq!(written, "host: P.test\r\nx-a: one\r\nx-b: \r\nx-a: Two\r\n");
    }

    #[test]
    fn those_that_pass_are_written_as_lines_wherever_they_stand() {
        let head = "GET / HTTP/1.1\r\nA: 1\r\nB:  2\r\nC: 3\r\nD:4\r\nE:\r\nF: 6\r\nG: 7\r\nH: 8 \r\nI: 9\nJ: 0\r\n\r\n";
        let mut fields = read(head);
        fields.add("k", b"10");
        fields.add("l", b"");
        fields.remove("c");
        let names: Vec<u8> = fields.iter().map(|field| field.name[0]).collect();
        assert_eq!(names, b"abdefghijkl");
        for passing in 0..1_u32 << names.len() {
            let passes = |name: u8| {
                names.iter().position(|known| *known == name).is_some_and(|at| passing >> at & 1 == 1)
            };
            let mut written = Vec::new();
            fields.write(&mut written, |field| passes(field.name[0]));
            let mut expected = Vec::new();
            for field in fields.iter().filter(|field| passes(field.name[0])) {
                write_line(&mut expected, field.name, field.value);
            }
            assert_eq!(String::from_utf8(written), String::from_utf8(expected), "{passing:b}");
        }
    }

    #[test]
    fn fields_are_added_and_taken_out() {
        let mut fields = read("GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\nA: 3\r\n\r\n");
        fields.remove("a");
        fields.add("c", b"4");
        let left: Vec<_> = fields.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(left, [(&b"b"[..], &b"2"[..]), (b"c", b"4")]);
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
        let mut map = HeaderMap::new();
        map.insert("a", HeaderValue::from_static("0"));
        lines.append_to(&mut map);
        assert_eq!(
            (map.len(), &map["date"], &map["b"]),
            (5, &HeaderValue::from_static("now"), &HeaderValue::from_static(""))
        );
        assert_eq!(map.get_all("a").iter().collect::<Vec<_>>(), ["0", "1", "x: y"]);
    }

    #[test]
    fn numbers_are_written_in_digits() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    #[test]
    fn text_is_visible() {
        assert_eq!(text(b"a b\t~"), Some("a b\t~"));
        for other in ["\u{fc}".as_bytes(), b"\x7f", b"a\nb", b"\xff"] {
            assert_eq!(text(other), None);
        }
    }
}
