use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::telemetry::metrics::{Metrics, Snapshot, Word};

struct World {
    clock: ManualClock,
    metrics: Metrics,
}

impl World {
    fn new() -> Self {
        World { clock: ManualClock::new(1), metrics: Metrics::default() }
    }

    /// Replicas at hosts of these names.
    fn replicas(&self, names: &[&str]) -> Replicas {
        let target = |name: &&str| {
            let uri = format!("http://{name}.test/mcp").parse().expect("a URL");
            Target::new(&uri, || unreachable!("no TLS")).expect("valid")
        };
        let ejected = self.metrics.ejected(Word::Own("/mcp"));
        Replicas::new(names.iter().map(target).collect(), self.clock.clock(), ejected)
    }

    fn ejected(&self) -> usize {
        let told = self.metrics.told(&Snapshot { live_families: 0, open_requests: 0, is_ready: true });
        let line = told.lines().find_map(|line| {
            line.strip_prefix("mcp_auth_proxy_upstream_replicas_ejected{resource=\"/mcp\"} ")
        });
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{told}"))
    }
}

fn name(way: &Way<'_>) -> String {
    way.replica().target.host.trim_end_matches(".test").to_owned()
}

/// Where so many requests without a session go that are all answered.
fn dealt(replicas: &Replicas, requests: usize) -> BTreeMap<String, usize> {
    let mut dealt = BTreeMap::new();
    for _ in 0..requests {
        let mut way = replicas.anywhere();
        way.answered();
        *dealt.entry(name(&way)).or_default() += 1;
    }
    dealt
}

/// The whole order for a session.
fn order(replicas: &Replicas, mark: Option<Mark>, key: &str) -> Vec<String> {
    let all: Vec<usize> = (0..replicas.all.len()).collect();
    let mut way = replicas.session(mark, key.as_bytes());
    let mut order = vec![name(&way)];
    for _ in &all[1..] {
        assert!(way.go_on());
        order.push(name(&way));
    }
    assert!(!way.go_on(), "each once");
    order
}

fn eject(replicas: &Replicas, name: &str) {
    let position = replicas.all.iter().position(|replica| replica.target.host.starts_with(name));
    let mut way = replicas.anywhere();
    (way.present, way.chance) = (position.expect("there is one"), Chance::Well);
    way.moves_on("it is a test");
}

fn of(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn requests_without_a_session_are_dealt_out_evenly_to_those_that_are_well() {
    let world = World::new();
    let replicas = world.replicas(&["a", "b", "c"]);
    assert_eq!(dealt(&replicas, 300), of(&[("a", 100), ("b", 100), ("c", 100)]));
    eject(&replicas, "b");
    assert_eq!(world.ejected(), 1);
    assert_eq!(dealt(&replicas, 300), of(&[("a", 150), ("c", 150)]));
    world.clock.forward(Duration::from_secs(10));
    // One looks, nobody else does, and when its client leaves another looks.
    let probe = replicas.anywhere();
    assert_eq!(name(&probe), "b");
    assert_eq!(dealt(&replicas, 300), of(&[("a", 150), ("c", 150)]));
    drop(probe);
    assert_eq!(dealt(&replicas, 1), of(&[("b", 1)]));
    assert_eq!(world.ejected(), 0);
    assert_eq!(dealt(&replicas, 300), of(&[("a", 100), ("b", 100), ("c", 100)]));
}

#[test]
fn many_threads_deal_evenly_too_and_only_one_of_them_looks() {
    let world = World::new();
    let replicas = Arc::new(world.replicas(&["a", "b", "c"]));
    let each = |replicas: Arc<Replicas>| thread::spawn(move || dealt(&replicas, 300));
    let all: Vec<_> = (0..4).map(|_| each(replicas.clone())).collect();
    let mut sum = BTreeMap::new();
    for (name, count) in all.into_iter().flat_map(|thread| thread.join().expect("it ends")) {
        *sum.entry(name).or_insert(0) += count;
    }
    assert_eq!(sum, of(&[("a", 400), ("b", 400), ("c", 400)]));
    eject(&replicas, "a");
    world.clock.forward(Duration::from_secs(10));
    let each = |replicas: Arc<Replicas>| {
        thread::spawn(move || {
            let ways: Vec<Way<'_>> = (0..100).map(|_| replicas.anywhere()).collect();
            ways.into_iter()
                .filter_map(|mut way| (name(&way) == "a").then(|| way.moves_on("refused")))
                .count()
        })
    };
    let all: Vec<_> = (0..4).map(|_| each(replicas.clone())).collect();
    assert_eq!(all.into_iter().map(|thread| thread.join().expect("it ends")).sum::<usize>(), 1);
}

#[test]
fn the_key_of_a_session_leads_to_the_same_replica_however_the_list_is_sorted() {
    let world = World::new();
    let (one, other) = (world.replicas(&["a", "b", "c"]), world.replicas(&["c", "a", "b"]));
    let mut first = BTreeMap::new();
    for key in (0..300).map(|number| format!("session-{number}")) {
        let found = order(&one, None, &key);
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 3);
        assert_eq!(found, order(&other, None, &key));
        *first.entry(found[0].clone()).or_insert(0) += 1;
    }
    assert!(first.len() == 3 && first.values().all(|count| *count > 60), "{first:?}");
}

#[test]
fn a_mark_goes_before_the_key_as_long_as_its_replica_is_there_and_well() {
    let world = World::new();
    let (replicas, fewer) = (world.replicas(&["a", "b", "c"]), world.replicas(&["b", "c"]));
    for key in (0..50).map(|number| format!("session-{number}")) {
        let mark = Some(replicas.all[0].mark());
        let marked = order(&replicas, mark, &key);
        assert_eq!(marked[0], "a");
        let by_key: Vec<String> =
            order(&replicas, None, &key).into_iter().filter(|name| name != "a").collect();
        assert_eq!(marked[1..], by_key[..], "then by the key");
        assert_eq!(order(&fewer, mark, &key), by_key, "those of one that was taken out go where it leads");
    }
    eject(&replicas, "a");
    let mark = Some(replicas.all[0].mark());
    for key in (0..50).map(|number| format!("session-{number}")) {
        let there = name(&replicas.session(mark, key.as_bytes()));
        assert_eq!(there, order(&fewer, None, &key)[0], "all of us find the same");
    }
    world.clock.forward(Duration::from_secs(10));
    let mut probe = replicas.session(mark, b"session");
    assert_eq!(name(&probe), "a");
    assert_ne!(name(&replicas.session(mark, b"session")), "a", "one looks");
    probe.answered();
    assert_eq!(name(&replicas.session(mark, b"session")), "a");
}

#[test]
fn when_all_are_ejected_all_are_asked_as_if_none_were() {
    let world = World::new();
    let replicas = world.replicas(&["a", "b", "c"]);
    ["a", "b", "c"].into_iter().for_each(|name| eject(&replicas, name));
    assert_eq!(world.ejected(), 3);
    let mut there = BTreeMap::new();
    for _ in 0..30 {
        let mut way = replicas.anywhere();
        *there.entry(name(&way)).or_insert(0) += 1;
        assert!(way.moves_on("refused") && way.moves_on("refused") && !way.moves_on("refused"));
    }
    assert_eq!(there, of(&[("a", 10), ("b", 10), ("c", 10)]));
    let mark = Some(replicas.all[1].mark());
    let mut way = replicas.session(mark, b"key");
    assert_eq!(name(&way), "b");
    way.answered();
    drop(way);
    assert_eq!(world.ejected(), 2);
    assert_eq!(dealt(&replicas, 9), of(&[("b", 9)]));
    // That they were asked before changes nothing of when they are looked at.
    world.clock.forward(Duration::from_secs(10));
    assert_ne!(name(&replicas.anywhere()), "b");
    drop(replicas);
    assert_eq!(world.ejected(), 0, "others are in their place");
}

#[test]
fn one_that_is_not_reached_is_followed_by_one_that_was_ejected() {
    let world = World::new();
    let replicas = world.replicas(&["a", "b"]);
    eject(&replicas, "a");
    let mut way = replicas.anywhere();
    assert_eq!(name(&way), "b");
    assert!(way.moves_on("refused"));
    assert_eq!(name(&way), "a");
    assert!(!way.moves_on("refused"));
}

#[test]
fn a_redirected_request_says_nothing_of_a_replica_that_was_ejected_meanwhile() {
    let world = World::new();
    let replicas = world.replicas(&["a", "b"]);
    let mut way = replicas.anywhere();
    way.answered();
    eject(&replicas, "a");
    way.answered();
    drop(way);
    assert_eq!((world.ejected(), dealt(&replicas, 4)), (1, of(&[("b", 4)])));
    // Whoever looked is an ordinary request from its answer on.
    world.clock.forward(Duration::from_secs(10));
    let mut probe = replicas.anywhere();
    assert_eq!(name(&probe), "a");
    probe.answered();
    assert_eq!(world.ejected(), 0);
    assert!(probe.moves_on("refused"));
    assert_eq!((world.ejected(), name(&probe)), (1, "b".to_owned()));
}

#[test]
fn where_there_is_one_it_is_asked_and_nothing_is_noted() {
    let world = World::new();
    let replicas = world.replicas(&["a"]);
    for _ in 0..10 {
        let mut way = replicas.session(Some([1, 2, 3, 4]), b"key");
        assert_eq!((name(&way), way.mark()), ("a".to_owned(), None));
        way.broke();
        assert!(!way.moves_on("refused"));
        assert_eq!(name(&replicas.anywhere()), "a");
    }
    assert!(replicas.all[0].health.is_well());
    assert_eq!((world.ejected(), replicas.turn.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn sixty_four_are_not_too_many() {
    let world = World::new();
    let names: Vec<String> = (0..64).map(|number| format!("n{number}x")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let replicas = world.replicas(&names);
    assert_eq!(replicas.all.iter().map(Replica::mark).collect::<BTreeSet<_>>().len(), 64);
    assert_eq!(dealt(&replicas, 64).len(), 64);
    assert_eq!(order(&replicas, None, "key").iter().collect::<BTreeSet<_>>().len(), 64);
}
