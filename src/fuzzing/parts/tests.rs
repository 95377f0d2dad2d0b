use std::hint::black_box;

use allocation_counter::measure;
use bytes::Bytes;

use super::*;
use crate::gate::Denial;

/// How often memory is asked for by one more run of a part; what only the first one needs is no matter.
#[track_caller]
fn at_most<T>(bound: u64, what: &str, mut part: impl FnMut() -> T) {
    black_box(part());
    let count = measure(|| drop(black_box(part()))).count_total;
    assert!(count <= bound, "{what}: {count} allocations, not {bound}");
}

#[test]
fn the_gate_allocates_nothing() {
    let crowd = Crowd::new(100);
    let mut calls = crowd.calls();
    let (known, mut none) = (calls.next().expect("endless"), calls.next().expect("endless"));
    assert!(crowd.judged(&known).is_ok() && crowd.judged(&none).is_ok());
    at_most(0, "let through", || crowd.judged(&known));
    none.remove("authorization");
    let refused = [("missing", none), ("forged", crowd.forged()), ("expired", crowd.expired())];
    for (why, headers) in refused {
        assert_eq!(crowd.judged(&headers).err().as_ref().map(Denial::word), Some(why));
        at_most(0, why, || crowd.judged(&headers));
    }
    assert!(verified(crowd.token()).is_some());
    at_most(0, "the token alone", || verified(crowd.token()));
}

#[test]
fn the_way_allocates_little() {
    let way = Way::new();
    assert!(way.opened().is_some_and(|session| *session == *SESSION.as_bytes()) && way.sealed().is_some());
    at_most(2, "open", || way.opened());
    at_most(5, "seal", || way.sealed());
    let up = way.up();
    assert!(up.bytes().windows(SESSION.len()).any(|id| id == SESSION.as_bytes()), "the session goes up");
    at_most(1, "up", || way.up());
    for (answer, length) in [(JSON, 131), (EVENTS, 157)] {
        assert_eq!(read(answer).map(|(_, body)| body), Some(length));
        at_most(4, "read", || read(answer));
        let (answered, _) = read(answer).expect("whole");
        at_most(3, "back", || way.back(&answered.fields));
    }
}

#[test]
fn events_allocate_nothing_once_the_first_has_passed() {
    let way = Way::new();
    let mut asked_for = way.stream(true);
    let first = asked_for.arrived(Bytes::from_static(ENDPOINT)).expect("ours");
    assert!(first.starts_with(b"event: endpoint\r\ndata: /mcp?endpoint="), "{first:?}");
    for (event, bound) in [(ENDPOINT, 20), (MESSAGE, 4)] {
        let mut streams = [(); 2].map(|()| way.stream(true)).into_iter();
        at_most(bound, "the first", || {
            let mut stream = streams.next().expect("one each");
            (stream.arrived(Bytes::from_static(event)), stream)
        });
    }
    for mut stream in [asked_for, way.stream(false)] {
        assert_eq!(stream.arrived(Bytes::from_static(MESSAGE)).as_deref(), Ok(MESSAGE));
        at_most(0, "another", || stream.arrived(Bytes::from_static(MESSAGE)));
    }
}
