//! How often may somebody do something? Rates per address, client, person, login or host, in fixed memory.
//!
//! A limit must not become a weapon: nobody's limit is reached by what others do. Counters are shared between
//! many keys (a count-min sketch), hashed with secrets of this process, and what a flood of keys adds to all
//! of them alike is taken off again. What is refused is not counted, so that `Retry-After` is the truth.
//! Does not know HTTP; who asks is decided in [`who`].

pub mod who;
mod window;

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::warn;

use crate::clock::Clock;
pub use who::{Source, Who};
use window::Windows;

/// So many in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// At least a second.
    pub per: Duration,
}

impl Rate {
    /// A rate that is known to be one.
    pub const fn new(count: u32, per: Duration) -> Self {
        Rate { count, per }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} s", self.count, self.per.as_secs())
    }
}

/// What each thing that can be done too often is limited to; `None`: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Registrations, per address.
    pub register: Option<Rate>,
    /// Authorization requests, per address.
    pub authorize: Option<Rate>,
    /// Codes taken to GitHub, per address.
    pub callback: Option<Rate>,
    /// Codes that GitHub refused, per address.
    pub bad_callbacks: Option<Rate>,
    /// Client metadata documents fetched, per address that asked and (times ten) per host that publishes.
    pub metadata_fetches: Option<Rate>,
    /// Failed client authentications, per client and address; not for the secrets that we made.
    pub bad_secrets: Option<Rate>,
    /// Failed requests at the token and revocation endpoints, per address.
    pub bad_grants: Option<Rate>,
    /// Bearer tokens at resources that are none of ours, per address.
    pub bad_bearers: Option<Rate>,
    /// Uses of one login that has ended.
    pub ended_logins: Option<Rate>,
    /// Finished logins of one person.
    pub logins: Option<Rate>,
    /// New token pairs of one login, and (times ten) of all logins of one person.
    pub refreshes: Option<Rate>,
}

/// A limiter for each of [`Rates`], shared by everything that answers requests.
pub struct Limiters {
    pub register: Limiter,
    pub authorize: Limiter,
    pub callback: Limiter,
    pub bad_callbacks: Limiter,
    pub metadata_fetches: Limiter,
    pub bad_secrets: Limiter,
    pub bad_grants: Limiter,
    pub bad_bearers: Limiter,
    pub ended_logins: Limiter,
    pub logins: Limiter,
    pub refreshes: Limiter,
}

impl Limiters {
    /// Nobody counted yet.
    pub fn new(rates: &Rates, clock: &Clock) -> Self {
        let limiter = |name, rate| Limiter::new(name, rate, clock);
        Limiters {
            register: limiter("register", rates.register),
            authorize: limiter("authorize", rates.authorize),
            callback: limiter("callback", rates.callback),
            bad_callbacks: limiter("bad_callbacks", rates.bad_callbacks),
            metadata_fetches: limiter("metadata_fetches", rates.metadata_fetches),
            bad_secrets: limiter("bad_secrets", rates.bad_secrets),
            bad_grants: limiter("bad_grants", rates.bad_grants),
            bad_bearers: limiter("bad_bearers", rates.bad_bearers),
            ended_logins: limiter("ended_logins", rates.ended_logins),
            logins: limiter("logins", rates.logins),
            refreshes: limiter("refreshes", rates.refreshes),
        }
    }
}

/// Too often; try again after so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    pub retry_after: u64,
}

/// Counts one kind of event for everybody.
pub struct Limiter {
    /// As the operator knows it.
    name: &'static str,
    rate: Option<Rate>,
    clock: Clock,
    // Made when the first event is counted: most proxies never see a forged token.
    windows: OnceLock<Windows>,
}

impl Limiter {
    /// Without a rate everything is allowed.
    pub fn new(name: &'static str, rate: Option<Rate>, clock: &Clock) -> Self {
        Limiter { name, rate, clock: clock.clone(), windows: OnceLock::new() }
    }

    /// Counts one event, unless it is one too many.
    pub fn take(&self, who: &Who<'_>) -> Result<(), Limited> {
        self.check(who)?;
        self.count(who);
        Ok(())
    }

    /// Whether one more event would be allowed now.
    pub fn check(&self, who: &Who<'_>) -> Result<(), Limited> {
        // Nobody was counted yet: nobody is limited.
        let (Some(rate), Some(windows)) = (self.rate, self.windows.get()) else { return Ok(()) };
        let now = self.clock.now();
        for tier in who.tiers() {
            let limit = u64::from(rate.count) * u64::from(tier.times);
            if let Err(wait) = windows.room(&tier, limit, now) {
                if windows.is_news(&tier, now) {
                    // What counted for this one: several times as much, where many may hide behind it.
                    let rate = Rate::new(u32::try_from(limit).unwrap_or(u32::MAX), rate.per);
                    warn!(limit = self.name, %rate, %who, "limited: too often");
                }
                // Whole seconds, never too early.
                return Err(Limited {
                    retry_after: u64::try_from(wait.div_ceil(1000)).unwrap_or(u64::MAX).max(1),
                });
            }
        }
        Ok(())
    }

    /// Counts one event.
    pub fn count(&self, who: &Who<'_>) {
        let Some(rate) = self.rate else { return };
        let now = self.clock.now();
        let windows = self.windows.get_or_init(|| Windows::new(rate.per, now));
        who.tiers().for_each(|tier| windows.count(&tier, now));
    }
}

#[cfg(test)]
mod tests;
