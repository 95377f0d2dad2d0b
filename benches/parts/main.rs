//! What each part on the path of a request costs by itself: time, and how often it asks for memory.
//!
//! `cargo bench --features fuzzing --bench parts`. The parts are those of `src/fuzzing/parts.rs`, whose tests bound
//! their allocations. What they cost together, connections and all, is measured by `benches/proxy`.

use divan::{AllocProfiler, Divan};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    // Always as many: what divan chooses by its first look at a part differs from run to run.
    Divan::default().sample_size(100).sample_count(1000).config_with_args().main();
}

mod gate {
    use divan::{Bencher, bench};
    use mcp_auth_proxy::fuzzing::parts::{Crowd, call, verified};

    /// Another person each time.
    #[bench]
    fn permit_of_10_000_families(bencher: Bencher<'_, '_>) {
        let crowd = Crowd::new(10_000);
        let mut calls = crowd.calls();
        bencher
            .with_inputs(|| calls.next().expect("endless"))
            .bench_local_refs(|headers| crowd.judged(headers));
    }

    #[bench]
    fn refuse_no_token(bencher: Bencher<'_, '_>) {
        let (crowd, headers) = (Crowd::new(1), call(None));
        bencher.bench_local(|| crowd.judged(&headers));
    }

    #[bench]
    fn refuse_forged_token(bencher: Bencher<'_, '_>) {
        let crowd = Crowd::new(1);
        let headers = crowd.forged();
        bencher.bench_local(|| crowd.judged(&headers));
    }

    #[bench]
    fn refuse_expired_token(bencher: Bencher<'_, '_>) {
        let crowd = Crowd::new(1);
        let headers = crowd.expired();
        bencher.bench_local(|| crowd.judged(&headers));
    }

    #[bench]
    fn verify_token_alone(bencher: Bencher<'_, '_>) {
        let crowd = Crowd::new(1);
        bencher.bench_local(|| verified(crowd.token()));
    }
}

mod session {
    use divan::{Bencher, bench};
    use mcp_auth_proxy::fuzzing::parts::Way;

    #[bench]
    fn open(bencher: Bencher<'_, '_>) {
        let way = Way::new();
        bencher.bench_local(|| way.opened());
    }

    #[bench]
    fn seal(bencher: Bencher<'_, '_>) {
        let way = Way::new();
        bencher.bench_local(|| way.sealed());
    }
}

mod headers {
    use divan::{Bencher, bench};
    use mcp_auth_proxy::fuzzing::parts::{EVENTS, Way, read};

    #[bench]
    fn to_upstream(bencher: Bencher<'_, '_>) {
        let way = Way::new();
        bencher.bench_local(|| way.up());
    }

    #[bench]
    fn to_client(bencher: Bencher<'_, '_>) {
        let (way, answered) = (Way::new(), read(EVENTS).expect("whole").0);
        bencher.bench_local(|| way.back(&answered.fields));
    }
}

mod answer {
    use divan::{Bencher, bench, black_box};
    use mcp_auth_proxy::fuzzing::parts::{EVENTS, JSON, read};

    #[bench]
    fn read_json_with_length(bencher: Bencher<'_, '_>) {
        bencher.bench_local(|| read(black_box(JSON)));
    }

    #[bench]
    fn read_event_in_chunk(bencher: Bencher<'_, '_>) {
        bencher.bench_local(|| read(black_box(EVENTS)));
    }
}

mod events {
    use bytes::Bytes;
    use divan::{Bencher, bench};
    use mcp_auth_proxy::fuzzing::parts::{ENDPOINT, MESSAGE, Way};

    #[bench]
    fn first_is_endpoint(bencher: Bencher<'_, '_>) {
        first(bencher, ENDPOINT);
    }

    #[bench]
    fn first_is_message(bencher: Bencher<'_, '_>) {
        first(bencher, MESSAGE);
    }

    #[bench]
    fn every_other(bencher: Bencher<'_, '_>) {
        let way = Way::new();
        let mut stream = way.stream(false);
        bencher
            .with_inputs(|| Bytes::copy_from_slice(MESSAGE))
            .bench_local_values(|event| stream.arrived(event));
    }

    /// On a stream of its own each time.
    fn first(bencher: Bencher<'_, '_>, event: &'static [u8]) {
        let way = Way::new();
        bencher
            .with_inputs(|| (way.stream(true), Bytes::copy_from_slice(event)))
            .bench_local_refs(|(stream, event)| stream.arrived(std::mem::take(event)));
    }
}
