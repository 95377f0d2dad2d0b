//! What a watch shows, as one connection sees it. To look costs next to nothing as long as nothing changes, where a
//! watch takes a lock that all cores share.

use tokio::sync::watch;

/// The last value of a watch.
pub struct Latest<T> {
    receiver: watch::Receiver<T>,
    seen: T,
}

impl<T: Clone> Latest<T> {
    pub fn new(mut receiver: watch::Receiver<T>) -> Self {
        let seen = receiver.borrow_and_update().clone();
        Latest { receiver, seen }
    }

    /// Looks whether there is another.
    pub fn now(&mut self) -> &T {
        // Without a sender there will be none, but there may be one that was not seen.
        if self.receiver.has_changed().unwrap_or(true) {
            self.seen = self.receiver.borrow_and_update().clone();
        }
        &self.seen
    }

    /// What was seen last.
    pub fn seen(&self) -> &T {
        &self.seen
    }

    /// For whoever waits.
    pub fn receiver(&self) -> watch::Receiver<T> {
        self.receiver.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_seen_when_it_is_looked_at_and_not_before() {
        let (sender, receiver) = watch::channel(1);
        // One that had seen it before.
        let mut latest = Latest::new(receiver.clone());
        assert_eq!((*latest.now(), *latest.seen()), (1, 1));
        sender.send_replace(2);
        assert_eq!((*latest.seen(), *latest.now(), *latest.seen()), (1, 2, 2));
        assert_eq!(*Latest::new(receiver).now(), 2);
        sender.send_replace(3);
        drop(sender);
        assert_eq!((*latest.now(), *latest.now()), (3, 3));
    }
}
