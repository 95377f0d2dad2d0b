//! Clocks that are wrong, set back, or restless: nothing revives, nothing panics, nothing stays stuck.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::faults::Faults;
use crate::rig::Rig;
use crate::support::program::Surroundings;
use crate::support::proxy::{CALLBACK, Setup, Tokens};

const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;

async fn timed() -> (Rig, Faults) {
    let faults = Faults::new();
    let surroundings = Surroundings { environment: faults.environment(), ..Surroundings::default() };
    (Rig::with(Setup { surroundings, ..Setup::default() }).await, faults)
}

/// A whole login, its use and its renewal, as on any other day.
async fn all_is_well(rig: &mut Rig) -> Tokens {
    let tokens = rig.login().await;
    let lasts = tokens.answer["expires_in"].as_u64().expect("a number");
    assert!((8 * 3_600 - 60..=8 * 3_600 + 1).contains(&lasts), "{lasts}");
    rig.proxy.ping(&tokens.access).await.expect(200);
    let next = rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
    let next = Tokens::read(tokens.client_id, next);
    rig.canary("an access token", &next.access);
    rig.canary("a refresh token", &next.refresh);
    rig.proxy.ping(&next.access).await.expect(200);
    next
}

// ST-07: −1 hour (and more): what has expired or was used stays so.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_revives_nothing() {
    let (mut rig, faults) = timed().await;
    let tokens = rig.login().await;
    let (client_id, used) = rig.proxy.code(&[]).await;
    rig.proxy.redeem(&client_id, &used).await.expect(200);
    let (late_id, late) = rig.proxy.code(&[]).await;
    let url = rig.proxy.authorize_url(&client_id, CALLBACK, &[]);
    let mut browser = rig.proxy.browser();
    let flow = browser.consent(&url).await;
    // A code is good for a minute, a login page for ten, an access token for eight hours.
    for (ahead, back) in [(HOUR, 0), (9 * HOUR, 0), (9 * HOUR, 8 * HOUR)] {
        faults.clock(ahead);
        assert_eq!(rig.proxy.redeem(&late_id, &late).await.expect(400).error(), "invalid_grant");
        browser.decide(&flow, "approve").await.expect(400);
        let expected = if ahead > 8 * HOUR { 401 } else { 200 };
        rig.proxy.ping(&tokens.access).await.expect(expected);
        faults.clock(back);
        rig.proxy.ping(&tokens.access).await.expect(expected);
        assert_eq!(rig.proxy.redeem(&late_id, &late).await.expect(400).error(), "invalid_grant");
        assert_eq!(rig.proxy.redeem(&client_id, &used).await.expect(400).error(), "invalid_grant");
        browser.decide(&flow, "approve").await.expect(400);
        all_is_well(&mut rig).await;
    }
    rig.verify().await;
}

// ST-07: used refresh tokens do not get a second grace window from a clock that was set back over a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_over_a_restart_gives_thieves_no_grace() {
    let (mut rig, faults) = timed().await;
    faults.clock(HOUR);
    let tokens = rig.login().await;
    let next = rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
    let next = Tokens::read(tokens.client_id.clone(), next);
    rig.proxy.ping(&next.access).await.expect(200);
    faults.clock(0);
    rig.kill_and_start_again();
    rig.proxy.ping(&next.access).await.expect(200);
    let late = rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(400);
    assert_eq!(late.error(), "invalid_grant", "the window is over, as far as anybody can tell");
    all_is_well(&mut rig).await;
    rig.verify().await;
}

// ST-07: +1 year and back again, 2038, 2106 and the end of signed and unsigned seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_ahead_breaks_nothing_and_nothing_is_lost_when_it_comes_back() {
    let (mut rig, faults) = timed().await;
    let tokens = rig.login().await;
    for years in [1, 13, 40, 75] {
        faults.clock(years * YEAR);
        rig.proxy.ping(&tokens.access).await.expect(401);
        assert_eq!(
            rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(400).error(),
            "invalid_grant"
        );
        all_is_well(&mut rig).await;
        faults.clock(0);
        rig.proxy.ping(&tokens.access).await.expect(200);
        all_is_well(&mut rig).await;
    }
    // Tokens carry 32 bits of seconds: from 2106 on they are born dead, which is not alive for ever.
    for years in [81, 300, 7_000] {
        faults.clock(years * YEAR);
        let far = rig.login().await;
        rig.proxy.ping(&far.access).await.expect(401);
        faults.clock(0);
        rig.proxy.ping(&tokens.access).await.expect(200);
        all_is_well(&mut rig).await;
    }
    rig.verify().await;
}

// ST-07: a clock that steps to and fro with every second.
#[tokio::test(flavor = "multi_thread")]
async fn a_restless_clock_is_borne() {
    let (mut rig, faults) = timed().await;
    let tokens = rig.login().await;
    for wobble in [1, -HOUR, HOUR, YEAR] {
        faults.wobble(wobble);
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until {
            // Which time it is when a login begins and when it ends is anybody's guess; what matters is that
            // nothing breaks.
            let status = rig.proxy.ping(&tokens.access).await.status;
            assert!(status == 200 || (wobble == YEAR && status == 401), "{wobble}: {status}");
            sleep(Duration::from_millis(400)).await;
        }
        faults.wobble(0);
        all_is_well(&mut rig).await;
    }
    rig.verify().await;
}
