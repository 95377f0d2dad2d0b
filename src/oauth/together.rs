//! One answer for everybody who asks the same at the same time.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::OnceCell;

/// What is being asked right now.
pub(super) struct Together<V>(DashMap<String, Question<V>>);

struct Question<V> {
    answer: Arc<OnceCell<V>>,
    waiting: usize,
}

/// One of those who wait, until he has the answer or goes away.
struct Asker<'a, V> {
    all: &'a DashMap<String, Question<V>>,
    what: &'a str,
    answer: Arc<OnceCell<V>>,
}

impl<V> Default for Together<V> {
    fn default() -> Self {
        Together(DashMap::new())
    }
}

impl<V: Clone> Together<V> {
    /// Asks, or waits for the answer of who asked before. If that one goes away, the next asks for himself. The answer
    /// is for who waits, and not for who comes later.
    pub(super) async fn ask<F: Future<Output = V>>(&self, what: &str, asking: impl FnOnce() -> F) -> V {
        let asker = self.join(what);
        asker.answer.get_or_init(asking).await.clone()
    }

    fn join<'a>(&'a self, what: &'a str) -> Asker<'a, V> {
        let new = || Question { answer: Arc::default(), waiting: 0 };
        let mut question = self.0.entry(what.to_owned()).or_insert_with(new);
        question.waiting += 1;
        Asker { all: &self.0, what, answer: question.answer.clone() }
    }
}

impl<V> Drop for Asker<'_, V> {
    fn drop(&mut self) {
        let Entry::Occupied(mut question) = self.all.entry(self.what.to_owned()) else { return };
        if Arc::ptr_eq(&question.get().answer, &self.answer) {
            question.get_mut().waiting -= 1;
            if question.get().waiting == 0 || self.answer.initialized() {
                question.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn who_waits_gets_the_answer_and_who_comes_later_asks_again() {
        let together = Together::default();
        let (tell, told) = tokio::sync::oneshot::channel();
        let first = together.ask("a", || async { told.await.expect("told") });
        let second = together.ask("a", || async { unreachable!("somebody asks") });
        let telling = async { tell.send(1).expect("somebody waits") };
        let (first, second, ()) = tokio::join!(first, second, telling);
        assert_eq!((first, second), (1, 1));
        assert_eq!(together.ask("a", || ready(2)).await, 2);
        assert!(together.0.is_empty());
    }

    #[tokio::test]
    async fn who_goes_away_leaves_the_question_to_the_next_and_nothing_behind() {
        let together = Together::default();
        let mut alone = Box::pin(together.ask("a", pending::<u8>));
        assert!(waits(&mut alone).await);
        drop(alone);
        assert!(together.0.is_empty());
        let mut first = Box::pin(together.ask("a", pending::<u8>));
        assert!(waits(&mut first).await);
        let mut second = Box::pin(together.ask("a", || ready(3)));
        assert!(waits(&mut second).await);
        drop(first);
        assert_eq!(second.await, 3);
        assert!(together.0.is_empty());
    }

    async fn waits<F: Future + Unpin>(future: &mut F) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = ready(()) => true,
        }
    }
}
