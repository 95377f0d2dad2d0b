//! What every backend must do, as one suite of checks that each backend's test runs.
//!
//! Public, so that the backends' integration tests (and authors of further backends) can call it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Created, Page, Record, Records, Replaced};
use crate::clock::Time;

/// A backend under test.
pub struct Subject<F> {
    /// Two connections to the same store (they may be the same where a store has no connections).
    pub connections: [Arc<dyn Records>; 2],
    /// Moves the store's time: a manual clock, or whatever the backend uses.
    pub forward: F,
    /// The moment the store thinks it is.
    pub now: Time,
}

/// Runs every check; panics at the first that fails.
pub async fn run<F: Fn(Duration)>(subject: &Subject<F>) {
    verbs_do_what_they_say(subject).await;
    versions_guard_every_write(subject).await;
    expired_records_do_not_exist(subject).await;
    owners_list_their_records(subject).await;
    of_many_creators_one_wins(subject).await;
    of_many_replacers_one_wins(subject).await;
    pages_hold_everything_that_lives(subject).await;
}

async fn verbs_do_what_they_say<F>(subject: &Subject<F>) {
    let [a, b] = &subject.connections;
    assert_eq!(a.read("verbs").await.expect("read"), None);
    let record = subject.record(1);
    assert_eq!(a.create("verbs", record.clone()).await, Ok(Created::Created));
    assert_eq!(b.read("verbs").await, Ok(Some(record)), "a write on one connection is seen on the other");
    assert_eq!(b.create("verbs", subject.record(2)).await, Ok(Created::Exists));
    assert_eq!(b.replace("verbs", 1, subject.record(3)).await, Ok(Replaced::Replaced));
    assert_eq!(a.read("verbs").await, Ok(Some(subject.record(3))));
    assert_eq!(a.delete("verbs").await, Ok(()));
    assert_eq!(a.delete("verbs").await, Ok(()), "deleting what is not there is no error");
    assert_eq!(b.read("verbs").await, Ok(None));
}

async fn versions_guard_every_write<F>(subject: &Subject<F>) {
    let [a, _] = &subject.connections;
    assert_eq!(a.replace("absent", 1, subject.record(2)).await, Ok(Replaced::Changed), "nothing to replace");
    assert_eq!(a.read("absent").await, Ok(None), "a refused replace writes nothing");
    let high = u64::MAX - 3;
    a.create("guarded", subject.record(high)).await.expect("create");
    assert_eq!(a.replace("guarded", high - 1, subject.record(5)).await, Ok(Replaced::Changed));
    assert_eq!(a.read("guarded").await, Ok(Some(subject.record(high))), "versions use all 64 bits");
    a.delete("guarded").await.expect("delete");
}

async fn expired_records_do_not_exist<F: Fn(Duration)>(subject: &Subject<F>) {
    let [a, b] = &subject.connections;
    let short = Record { expires: subject.now.after(Duration::from_secs(2)), ..subject.record(1) };
    for key in ["short/1", "short/2", "short/3"] {
        a.create(key, short.clone()).await.expect("create");
    }
    a.create("long", subject.record(1)).await.expect("create");
    (subject.forward)(Duration::from_secs(3));
    assert_eq!(a.read("short/1").await, Ok(None));
    assert_eq!(a.replace("short/1", 1, subject.record(2)).await, Ok(Replaced::Changed));
    assert_eq!(a.owned_by(&short.owner).await, Ok(vec!["long".to_owned()]));
    assert_eq!(b.create("short/1", subject.record(7)).await, Ok(Created::Created), "the key is free again");
    let swept = a.sweep().await.expect("sweep");
    assert!(swept <= 2, "sweep removed {swept} records, but only two had expired");
    assert_eq!(a.sweep().await, Ok(0), "the second sweep finds nothing");
    assert_eq!(a.read("long").await, Ok(Some(subject.record(1))), "what has not expired stays");
    for key in ["short/1", "long"] {
        a.delete(key).await.expect("delete");
    }
}

async fn owners_list_their_records<F>(subject: &Subject<F>) {
    let [a, b] = &subject.connections;
    for (key, owner) in [("o/2", "ann"), ("o/1", "ann"), ("o/3", "ben"), ("o/4", "")] {
        let record = Record { owner: owner.to_owned(), ..subject.record(1) };
        a.create(key, record).await.expect("create");
    }
    assert_eq!(b.owned_by("ann").await, Ok(vec!["o/1".to_owned(), "o/2".to_owned()]));
    assert_eq!(b.owned_by("an").await, Ok(vec![]), "owners match whole");
    let moved = Record { owner: "ben".to_owned(), ..subject.record(2) };
    a.replace("o/2", 1, moved).await.expect("replace");
    assert_eq!(b.owned_by("ben").await, Ok(vec!["o/2".to_owned(), "o/3".to_owned()]));
    for key in ["o/1", "o/2", "o/3", "o/4"] {
        a.delete(key).await.expect("delete");
    }
}

async fn pages_hold_everything_that_lives<F: Fn(Duration)>(subject: &Subject<F>) {
    let [a, b] = &subject.connections;
    let before: BTreeSet<String> = everything(&**a).await.into_iter().map(|(key, _)| key).collect();
    let keys: BTreeSet<String> = (0..MANY).map(|number| format!("page/{number:04}")).collect();
    for key in &keys {
        a.create(key, subject.record(7)).await.expect("create");
    }
    let gone = Record { expires: Time::from_millis(1), ..subject.record(8) };
    a.replace("page/0000", 7, gone).await.expect("replace");
    let found = everything(&**b).await;
    let found: BTreeMap<String, Record> =
        found.into_iter().filter(|(key, _)| !before.contains(key)).collect();
    assert_eq!(found.len(), MANY - 1, "what has expired is on no page, all else is on one");
    assert!(found.iter().all(|(key, record)| keys.contains(key) && *record == subject.record(7)));
    for key in &keys {
        a.delete(key).await.expect("delete");
    }
}

async fn everything(records: &dyn Records) -> Vec<(String, Record)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let Page { records, next } = records.page(after.as_deref()).await.expect("page");
        found.extend(records);
        match next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

async fn of_many_creators_one_wins<F>(subject: &Subject<F>) {
    let outcomes = race(subject, |records, version, record| async move {
        records.create("race", Record { version, ..record }).await.expect("create") == Created::Created
    });
    let winners = outcomes.await;
    assert_eq!(winners.len(), 1, "of {RACERS} creators exactly one wins, not {winners:?}");
    subject.connections[0].delete("race").await.expect("delete");
}

async fn of_many_replacers_one_wins<F>(subject: &Subject<F>) {
    let [a, _] = &subject.connections;
    a.create("race", subject.record(0)).await.expect("create");
    let outcomes = race(subject, |records, version, record| async move {
        let record = Record { version, ..record };
        records.replace("race", 0, record).await.expect("replace") == Replaced::Replaced
    });
    let winners = outcomes.await;
    assert_eq!(winners.len(), 1, "of {RACERS} replacers exactly one wins, not {winners:?}");
    let left = a.read("race").await.expect("read").expect("the record is there");
    assert!(winners.contains(&left.version), "the winner's record is the one that is left");
    a.delete("race").await.expect("delete");
}

/// Starts the racers on both connections and returns the versions of those that won.
async fn race<F, G, Run>(subject: &Subject<F>, contest: G) -> BTreeSet<u64>
where
    G: Fn(Arc<dyn Records>, u64, Record) -> Run,
    Run: Future<Output = bool> + Send + 'static,
{
    let racers = (1..=RACERS).map(|version| {
        let records = subject.connections[(version % 2) as usize].clone();
        let run = contest(records, version, subject.record(version));
        tokio::spawn(async move { run.await.then_some(version) })
    });
    let mut winners = BTreeSet::new();
    for racer in racers.collect::<Vec<_>>() {
        winners.extend(racer.await.expect("a racer finished"));
    }
    winners
}

impl<F> Subject<F> {
    fn record(&self, version: u64) -> Record {
        let expires = self.now.after(Duration::from_secs(3600));
        Record { bytes: format!("record {version}").into_bytes(), version, owner: "owner".into(), expires }
    }
}

const RACERS: u64 = 100;
/// More than fit on a page of any backend.
const MANY: usize = 1_100;
