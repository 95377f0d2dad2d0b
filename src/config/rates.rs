//! The rates among `limits:`: how often an address, a client, a person or a login may do what costs us or others.
//!
//! The defaults must never be met by honest use. An office of 200 behind one address logs in on Monday morning
//! within a few minutes, with several clients each; the servers of Claude or ChatGPT register and ask for tokens
//! from a handful of addresses for everybody. A flood is thousands per second, so there is room in between.

use std::time::Duration;

use super::raw::{self, Node};
use crate::limit::{Rate, Rates};

pub(super) fn rates(node: &Node<'_>) -> Rates {
    let rate = |key: &str, default: Rate| {
        let node = node.get(key);
        match node.exists() {
            // With a problem in it the configuration is of no use anyway.
            true => node.parsed(parse).flatten(),
            false => Some(default),
        }
    };
    Rates {
        // Costs us some arithmetic and nothing to keep.
        register: rate("register", Rate::new(300, MINUTE)),
        authorize: rate("authorize", Rate::new(300, MINUTE)),
        // Each is a call to GitHub, whose patience is shared by everybody here.
        callback: rate("callback", Rate::new(300, MINUTE)),
        // An honest browser brings none, or one when the person waited too long.
        bad_callbacks: rate("bad_callbacks", Rate::new(20, MINUTE)),
        // Documents are kept, and the known clients that publish one can be counted on two hands.
        metadata_fetches: rate("metadata_fetches", Rate::new(30, MINUTE)),
        // A wrong secret in a client that tries on and off; a guesser gets 43 000 a day.
        bad_secrets: rate("bad_secrets", Rate::new(30, MINUTE)),
        // A new key makes every client of an office or a cloud fail once.
        bad_grants: rate("bad_grants", Rate::new(600, MINUTE)),
        bad_bearers: rate("bad_bearers", Rate::new(600, MINUTE)),
        // A client that does not understand 401 and asks on; each would be a read of the store.
        ended_logins: rate("ended_logins", Rate::new(300, MINUTE)),
        // Each is a record, some calls to GitHub, and one of the ten tokens it keeps per person.
        logins: rate("logins", Rate::new(100, HOUR)),
        // Each is a write and a call to GitHub; a client that works needs one per access token.
        refreshes: rate("refreshes", Rate::new(60, Duration::from_secs(600))),
    }
}

/// Reads `60/1m`, or `off`.
fn parse(text: &str) -> Result<Option<Rate>, String> {
    // YAML reads a bare `off` as false.
    if matches!(text, "off" | "false") {
        return Ok(None);
    }
    let problem = || format!("expected a rate like 60/1m or 100/1h, or off, got {text:?}");
    let (count, per) = text.split_once('/').ok_or_else(problem)?;
    let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let count: u32 = if digits { count.parse().map_err(|_| problem())? } else { return Err(problem()) };
    if count == 0 {
        return Err("must allow at least 1; to allow everything, say off".to_owned());
    }
    let per = raw::duration(per).map_err(|_| problem())?;
    match per <= MAX_WINDOW {
        true => Ok(Some(Rate::new(count, per))),
        false => {
            Err("must be a rate within at most 1d: that is how long somebody may have to wait".to_owned())
        }
    }
}

pub(super) const KEYS: [&str; 11] = [
    "register",
    "authorize",
    "callback",
    "bad_callbacks",
    "metadata_fetches",
    "bad_secrets",
    "bad_grants",
    "bad_bearers",
    "ended_logins",
    "logins",
    "refreshes",
];
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const MAX_WINDOW: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_read_and_refuse() {
        assert_eq!(parse("60/1m"), Ok(Some(Rate::new(60, MINUTE))));
        assert_eq!(parse("off"), Ok(None));
        let bad = [
            "",
            "/",
            "60",
            "60/",
            "/1m",
            "0/1m",
            "-1/1m",
            "+1/1m",
            "1.5/1m",
            "60/1",
            "60/0s",
            "60/2d",
            "60 / 1m",
            "60/1m/1m",
            "4294967296/1m",
            "on",
            "OFF",
            "1e3/1m",
            "٣/1m",
        ];
        for bad in bad {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_a_rate_is_read_as_written(count in 1_u32.., number in 1_u32..=1_440, unit in "[smh]") {
            let seconds = u64::from(number) * match unit.as_str() { "s" => 1, "m" => 60, _ => 3_600 };
            let read = parse(&format!("{count}/{number}{unit}"));
            match seconds <= 86_400 {
                true => prop_assert_eq!(read, Ok(Some(Rate::new(count, Duration::from_secs(seconds))))),
                false => prop_assert!(read.is_err()),
            }
        }

        #[test]
        fn no_text_breaks_the_reader(text in "\\PC{0,12}") {
            if let Ok(Some(rate)) = parse(&text) {
                prop_assert!(rate.count > 0 && rate.per >= Duration::from_secs(1), "{}", text);
            }
        }
    }
}
