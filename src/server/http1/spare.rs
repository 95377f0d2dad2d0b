//! The buffer that answers are written from. Each core has one: an answer is on its way for as long as a write takes,
//! nearly always, and memory for each would cost more than what is copied there.

use std::cell::Cell;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An empty buffer; the core's own, unless somebody else has it.
pub fn take() -> Vec<u8> {
    SPARE.take()
}

/// Hands a buffer back, or whatever has grown in its place. A large one is not kept.
pub fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() <= KEPT {
        buffer.clear();
        SPARE.set(buffer);
    }
}

/// Bytes: an ordinary answer, or an event.
const KEPT: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_it_is_gone_and_what_is_large_is_not_kept() {
        give_back(b"somebody's answer".to_vec());
        let buffer = take();
        assert!(buffer.is_empty() && buffer.capacity() > 0);
        assert_eq!(take().capacity(), 0, "it is taken");
        give_back(Vec::with_capacity(KEPT + 1));
        assert_eq!(take().capacity(), 0, "it is large");
    }
}
