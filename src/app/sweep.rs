//! Removes what has expired, now and then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::lasting::Gates;
use crate::clock::{Clock, Time};
use crate::store::Records;

/// Sweeps for as long as the proxy lives.
pub(super) async fn sweep(records: Arc<dyn Records>, gates: Gates, clock: Clock, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut patience = Patience::new(clock.now());
    loop {
        ticks.tick().await;
        gates.tidy();
        if !patience.trusts(clock.now(), every) {
            continue;
        }
        if let Err(error) = records.sweep().await {
            warn!(%error, "expired records could not be removed");
        }
    }
}

/// A clock that has just jumped ahead may be about to jump back, and what was removed would be missed then.
struct Patience {
    last: Time,
    jumped: Option<Time>,
}

impl Patience {
    fn new(now: Time) -> Self {
        Patience { last: now, jumped: None }
    }

    /// Whether what the clock calls expired may be removed.
    fn trusts(&mut self, now: Time, every: Duration) -> bool {
        if now.since(self.last) > every + JUMP {
            warn!("the clock jumped ahead; expired records are kept for another hour");
            self.jumped = Some(now);
        }
        self.last = now;
        // Back before the jump: it was one of those.
        self.jumped = self.jumped.filter(|jumped| *jumped <= now && now.since(*jumped) < JUMP);
        self.jumped.is_none()
    }
}

/// A machine that slept long is waited for too; nothing is lost by that.
const JUMP: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    // ST-07
    #[test]
    fn nothing_is_removed_within_an_hour_of_a_jump_ahead() {
        const MINUTE: Duration = Duration::from_secs(60);
        let start = Time::from_seconds(1_800_000_000);
        let mut patience = Patience::new(start);
        assert!(patience.trusts(start, MINUTE));
        assert!(patience.trusts(start.after(MINUTE), MINUTE));
        let year = start.after(Duration::from_secs(365 * 86_400));
        assert!(!patience.trusts(year, MINUTE));
        assert!(!patience.trusts(year.after(30 * MINUTE), MINUTE));
        assert!(patience.trusts(start.after(32 * MINUTE), MINUTE), "and back");
        assert!(!patience.trusts(year, MINUTE));
        for minute in 1..60 {
            assert!(!patience.trusts(year.after(minute * MINUTE), MINUTE), "{minute}");
        }
        assert!(patience.trusts(year.after(60 * MINUTE), MINUTE), "it stayed there");
    }
}
