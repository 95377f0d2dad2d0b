use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::clock::ManualClock;
use crate::protocol::token::FamilyId;

const MINUTE: Duration = Duration::from_secs(60);

fn limiter(count: u32, per: Duration) -> (Limiter, ManualClock) {
    let clock = ManualClock::new(7);
    (Limiter::new("test", Some(Rate::new(count, per)), &clock.clock()), clock)
}

fn from(address: impl Into<IpAddr>) -> Who<'static> {
    Who::Source(Source { address: address.into(), by_page: false, many: false })
}

fn somebody() -> Who<'static> {
    from(Ipv4Addr::new(203, 0, 113, 9))
}

/// How many of so many attempts pass.
fn passes(limiter: &Limiter, who: &Who<'_>, attempts: u32) -> u32 {
    (0..attempts).map(|_| u32::from(limiter.take(who).is_ok())).sum()
}

#[test]
fn what_was_allowed_is_allowed_again_after_retry_after_and_not_before() {
    let (limiter, clock) = limiter(10, MINUTE);
    for _ in 0..50 {
        clock.forward(Duration::from_millis(7_919));
        while limiter.take(&somebody()).is_ok() {}
        let Limited { retry_after } = limiter.take(&somebody()).expect_err("limited");
        assert!((1..=60).contains(&retry_after), "{retry_after}");
        clock.forward(Duration::from_secs(retry_after - 1));
        assert!(limiter.check(&somebody()).is_err(), "{retry_after} s was not too long");
        clock.forward(Duration::from_secs(1));
        assert!(limiter.check(&somebody()).is_ok(), "{retry_after} s was enough");
    }
}

#[test]
fn refusals_do_not_prolong_the_wait() {
    let (limiter, clock) = limiter(10, MINUTE);
    assert_eq!(passes(&limiter, &somebody(), 1_000), 10);
    let first = limiter.check(&somebody()).expect_err("limited").retry_after;
    assert_eq!(passes(&limiter, &somebody(), 1_000), 0);
    assert_eq!(limiter.check(&somebody()).expect_err("limited").retry_after, first);
    clock.forward(Duration::from_secs(first));
    assert!(limiter.take(&somebody()).is_ok());
}

#[test]
fn no_window_holds_much_more_than_its_count() {
    let (limiter, clock) = limiter(100, MINUTE);
    // Bursts at the worst moment: just before and just after a window ends.
    clock.forward(Duration::from_millis(60_000 - clock.clock().now().millis() % 60_000 - 1));
    assert_eq!(passes(&limiter, &somebody(), 500), 100);
    clock.forward(Duration::from_millis(2));
    assert!(passes(&limiter, &somebody(), 500) <= 1);
    clock.forward(Duration::from_secs(30));
    assert!((45..=55).contains(&passes(&limiter, &somebody(), 500)));
}

// ST-07
#[test]
fn a_clock_that_jumps_leaves_nobody_limited_for_longer() {
    let (limiter, clock) = limiter(10, MINUTE);
    let year = Duration::from_secs(365 * 86_400);
    let forward: fn(&ManualClock, Duration) = ManualClock::forward;
    let back: fn(&ManualClock, Duration) = ManualClock::back;
    for (jump, by) in
        [(back, Duration::from_secs(3_600)), (forward, year), (back, year * 3), (forward, year * 50)]
    {
        passes(&limiter, &somebody(), 20);
        assert!(limiter.check(&somebody()).is_err());
        jump(&clock, by);
        // However the clock was set: at most the wait that anybody would have had.
        clock.forward(MINUTE * 2);
        assert!(limiter.take(&somebody()).is_ok(), "stuck after a jump by {by:?}");
    }
    for _ in 0..300 {
        passes(&limiter, &somebody(), 20);
        back(&clock, Duration::from_secs(1));
        passes(&limiter, &somebody(), 20);
        forward(&clock, Duration::from_secs(2));
    }
    clock.forward(MINUTE * 2);
    assert!(limiter.take(&somebody()).is_ok());
}

#[test]
fn a_small_step_back_over_the_end_of_a_window_gives_nobody_a_second_allowance() {
    let (limiter, clock) = limiter(10, MINUTE);
    clock.forward(Duration::from_millis(60_000 - clock.clock().now().millis() % 60_000));
    assert_eq!(passes(&limiter, &somebody(), 20), 10);
    for _ in 0..20 {
        clock.back(Duration::from_millis(500));
        assert_eq!(passes(&limiter, &somebody(), 20), 0);
        clock.forward(Duration::from_millis(500));
        assert_eq!(passes(&limiter, &somebody(), 20), 0);
    }
}

// DS-07
#[test]
fn a_million_addresses_limit_nobody_else() {
    // A small limit, which noise reaches first: of 10 000 who ask, one would be refused once in a million runs.
    let (limiter, _clock) = limiter(10, MINUTE);
    for number in 0..1_000_000_u32 {
        limiter.count(&from(Ipv4Addr::from_bits(0x5000_0000 + number)));
    }
    for number in 0..10_000 {
        let honest = from(Ipv4Addr::from_bits(0xc000_0000 + number));
        assert!(limiter.check(&honest).is_ok(), "address {number}");
    }
    // Noise does not hide who really is one too many.
    let busy = passes(&limiter, &somebody(), 1_000);
    assert!(busy < 60, "{busy} of 10");
}

// DS-07
#[test]
fn a_thousand_addresses_at_their_limit_limit_nobody_else() {
    let (limiter, _clock) = limiter(300, MINUTE);
    for number in 0..1_000_u32 {
        passes(&limiter, &from(Ipv4Addr::from_bits(0x5000_0000 + number)), 301);
    }
    for number in 0..1_000 {
        let honest = from(Ipv4Addr::from_bits(0xc000_0000 + number));
        assert!(limiter.take(&honest).is_ok(), "address {number}");
    }
}

#[test]
fn an_ipv6_household_is_one_and_its_provider_is_some() {
    let (limiter, _clock) = limiter(10, MINUTE);
    let host =
        |network: u128, host: u128| from(Ipv6Addr::from_bits(0x2001_0db8 << 96 | network << 64 | host));
    assert_eq!((0..100).filter(|at| limiter.take(&host(1, *at)).is_ok()).count(), 10, "one /64");
    assert!(limiter.take(&host(2, 0)).is_ok(), "its neighbour");
    let within_a_48 = (0..1_000).filter(|at| limiter.take(&host(100 + *at, 0)).is_ok()).count();
    assert_eq!(within_a_48, 100 - 11, "all /64 of one /48 together");
    assert!(limiter.take(&host(1 << 16, 0)).is_ok(), "another /48");
}

#[test]
fn everybody_is_counted_alone() {
    let (limiter, _clock) = limiter(5, MINUTE);
    let (here, there) = (Ipv4Addr::new(203, 0, 113, 9), Ipv4Addr::new(203, 0, 113, 10));
    let at = |address: Ipv4Addr, by_page| Source { address: address.into(), by_page, many: false };
    let everybody = [
        Who::Source(at(here, false)),
        Who::Source(at(here, true)),
        Who::Source(at(there, false)),
        Who::Client("a", at(here, false)),
        Who::Client("a", at(there, false)),
        Who::Client("b", at(here, false)),
        Who::Person(1),
        Who::Login(FamilyId([1; 16])),
        Who::LoginOf(FamilyId([2; 16]), 2),
        Who::LoginOf(FamilyId([3; 16]), 2),
        Who::Document("https://a.test/c"),
    ];
    for who in &everybody {
        assert_eq!(passes(&limiter, who, 20), 5, "{who}");
    }
    assert_eq!(passes(&limiter, &Who::Host("a.test"), 100), 50, "documents of one host");
    let proxy = Source { many: true, ..at(Ipv4Addr::LOCALHOST, false) };
    assert_eq!(passes(&limiter, &Who::Source(proxy), 100), 50, "a proxy that may stand for many");
    assert_eq!(passes(&limiter, &Who::Client("a", proxy), 100), 50);
}

#[test]
fn all_logins_of_one_person_together_have_a_limit_too() {
    let (limiter, _clock) = limiter(5, MINUTE);
    let passed: u32 = (0..100).map(|at| passes(&limiter, &Who::LoginOf(FamilyId([at; 16]), 7), 5)).sum();
    assert_eq!(passed, 50);
    assert_eq!(passes(&limiter, &Who::LoginOf(FamilyId([200; 16]), 8), 5), 5, "another person");
}

#[test]
fn off_is_off() {
    let limiter = Limiter::new("test", None, &ManualClock::new(7).clock());
    assert_eq!(passes(&limiter, &somebody(), 10_000), 10_000);
    assert!(limiter.windows.get().is_none(), "and costs nothing");
}

proptest! {
    #[test]
    fn retry_after_is_the_truth_whatever_happened_before(
        count in 1_u32..50,
        seconds in 1_u64..7_200,
        events in proptest::collection::vec((0_u64..10_000, 0_u32..80), 1..20),
    ) {
        let (limiter, clock) = limiter(count, Duration::from_secs(seconds));
        for (millis, attempts) in events {
            clock.forward(Duration::from_millis(millis));
            passes(&limiter, &somebody(), attempts);
        }
        if let Err(Limited { retry_after }) = limiter.check(&somebody()) {
            prop_assert!(retry_after <= seconds + 1, "{retry_after}");
            clock.forward(Duration::from_secs(retry_after));
            prop_assert!(limiter.check(&somebody()).is_ok());
        }
    }
}
