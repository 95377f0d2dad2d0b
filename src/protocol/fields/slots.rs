//! Where a name is, without looking at all of them: fields are looked for a dozen times a request, most of them in vain.

use super::Place;

/// For each of 64 kinds of name the number of its first field, and whether there is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots([u8; 64]);

impl Default for Slots {
    fn default() -> Self {
        Slots([NONE; 64])
    }
}

impl Slots {
    pub(super) fn of(places: &[Place]) -> Self {
        let mut slots = Slots::default();
        places.iter().enumerate().for_each(|(number, place)| slots.note(place.tag, number));
        slots
    }

    /// The field with this number has a name with this tag.
    pub(super) fn note(&mut self, tag: u32, number: usize) {
        let slot = &mut self.0[kind(tag)];
        *slot = match (*slot, u8::try_from(number)) {
            (NONE, Ok(number @ ..SEVERAL)) => number,
            _ => SEVERAL,
        };
    }

    /// Among which of them all those with this tag are.
    pub(super) fn find<'a>(&self, tag: u32, places: &'a [Place]) -> &'a [Place] {
        match self.0[kind(tag)] {
            NONE => &[],
            SEVERAL => places,
            number => places.get(usize::from(number)..).and_then(|rest| rest.get(..1)).unwrap_or_default(),
        }
    }
}

/// What tells a name from nearly every other at one look: how long it is, and three of its letters.
pub(super) fn tag(name: &[u8]) -> u32 {
    match name {
        [] => 0,
        [first, ..] => {
            u32::from_le_bytes([name.len() as u8, *first, name[name.len() / 2], name[name.len() - 1]])
        }
    }
}

/// One of 64, by a multiplication that spreads what differs (Knuth).
fn kind(tag: u32) -> usize {
    (tag.wrapping_mul(0x9e37_79b1) >> 26) as usize
}

const NONE: u8 = u8::MAX;
const SEVERAL: u8 = NONE - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &[String]) -> Vec<Place> {
        names.iter().map(|name| Place { tag: tag(name.as_bytes()), name: (0, 0), value: (0, 0) }).collect()
    }

    #[test]
    fn whatever_is_there_is_among_what_is_found() {
        for number in [0, 1, 2, 12, 64, 300] {
            let names: Vec<String> = (0..number).map(|number| format!("x-{:x}", number * number)).collect();
            let places = places(&names);
            let slots = Slots::of(&places);
            for name in names.iter().map(String::as_str).chain(["host", "", "x"]) {
                let tag = tag(name.as_bytes());
                let there = places.iter().filter(|place| place.tag == tag).count();
                let found = slots.find(tag, &places);
                assert_eq!(
                    found.iter().filter(|place| place.tag == tag).count(),
                    there,
                    "{name} of {number}"
                );
            }
        }
    }

    #[test]
    fn what_is_alone_is_found_alone() {
        let names: Vec<String> = ["host", "accept", "host"].map(str::to_owned).into();
        let places = places(&names);
        let slots = Slots::of(&places);
        let found = |name: &str| slots.find(tag(name.as_bytes()), &places).len();
        assert_eq!((found("accept"), found("host"), found("origin")), (1, 3, 0));
    }
}
