//! What the rim holds others to: as configured, and as far as there are descriptors.

use crate::config::{self, Config};
use crate::server::{Bounds, Tallies, Tally};

/// Counts of what is open, for the whole life of the program.
pub fn tallies(config: &Config) -> Tallies {
    let (_, of_one_address) = connections(&config.limits);
    Tallies { addresses: Tally::new(of_one_address), people: Tally::new(config.limits.streams_per_person) }
}

/// The bounds of a configuration, over what has been counted so far.
pub fn all(config: &Config, tallies: &Tallies) -> Bounds {
    let (connections, of_one_address) = connections(&config.limits);
    tallies.addresses.allow(of_one_address);
    tallies.people.allow(config.limits.streams_per_person);
    Bounds {
        connections: connections.div_ceil(config.workers),
        tallies: tallies.clone(),
        head_timeout: config.limits.head_timeout,
        body_timeout: config.limits.body_timeout,
        write_timeout: config.limits.write_timeout,
    }
}

/// How many connections may be open, in all and of one address.
fn connections(limits: &config::Limits) -> (usize, usize) {
    let descriptors = usize::try_from(take_all()).unwrap_or(usize::MAX);
    // Each may need a second descriptor, towards the upstream.
    let possible = descriptors.saturating_sub(RESERVE) / 2;
    let all = limits.connections.unwrap_or(possible.clamp(FEWEST, MOST));
    if all > possible {
        tracing::warn!(
            connections = all,
            descriptors,
            "more connections are allowed than there are descriptors for"
        );
    }
    (all, limits.connections_per_address.unwrap_or((all / 4).max(FEWEST_PER_ADDRESS)))
}

/// Takes as many descriptors as the system lets us have; says how many that is.
#[cfg(unix)]
fn take_all() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Not every system gives the whole of what it promises; then it stays as it was.
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(_) => current.unwrap_or(u64::MAX),
    }
}

/// Descriptors are not limited there.
#[cfg(not(unix))]
fn take_all() -> u64 {
    u64::MAX
}

/// The store, GitHub, listeners, and connections to upstreams that are kept for the next request.
const RESERVE: usize = 256;
const FEWEST: usize = 16;
/// An office behind one address.
const FEWEST_PER_ADDRESS: usize = 64;
/// What a stranger can fill with half a head each stays near one GiB.
const MOST: usize = 20_000;
