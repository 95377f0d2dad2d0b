//! How much of the proxy one address or one person may hold at a time, counted exactly.
//!
//! What is counted is open, so the counters are never more than there are connections and requests.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::seats::Patience;

/// What the rim holds others to; shared by all cores.
pub struct Bounds {
    /// Open connections of one core.
    pub connections: usize,
    pub tallies: Tallies,
    /// For a whole request head, and for the next one on a connection that is kept alive.
    pub head_timeout: Duration,
    /// How long a request body may keep us waiting.
    pub body_timeout: Duration,
    /// How long an answer may wait for a client that reads nothing.
    pub write_timeout: Duration,
}

/// What is open, by whose it is.
#[derive(Clone)]
pub struct Tallies {
    /// Open connections of one address.
    pub addresses: Arc<Tally<IpAddr>>,
    /// Open requests and streams of one person.
    pub people: Arc<Tally<u64>>,
}

impl Bounds {
    /// What the seats of a core need to know.
    pub fn patience(&self) -> Patience {
        Patience { idle: self.head_timeout * IDLE_HEADS, answer: self.write_timeout }
    }
}

/// Counts what is open, by whose it is.
pub struct Tally<K: Eq + Hash> {
    most: AtomicUsize,
    open: DashMap<K, usize>,
}

/// One that is open, until it is dropped.
pub struct Held<K: Eq + Hash + Copy>(Option<(Arc<Tally<K>>, K)>);

impl<K: Eq + Hash + Copy> Tally<K> {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Tally { most: AtomicUsize::new(most), open: DashMap::new() })
    }

    /// Another bound from now on; what is open beyond it stays.
    pub fn allow(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many are open, of everybody.
    pub fn open(&self) -> usize {
        self.open.iter().map(|open| *open).sum()
    }

    /// Counts one more, unless that is one too many.
    pub fn take(self: &Arc<Self>, whose: K) -> Option<Held<K>> {
        let mut open = self.open.entry(whose).or_insert(0);
        if *open >= self.most.load(Ordering::Relaxed) {
            return None;
        }
        *open += 1;
        drop(open);
        Some(Held(Some((self.clone(), whose))))
    }
}

impl<K: Eq + Hash + Copy> Held<K> {
    /// For those who may hold any number.
    pub fn uncounted() -> Self {
        Held(None)
    }
}

impl<K: Eq + Hash + Copy> Drop for Held<K> {
    fn drop(&mut self) {
        let Some((tally, whose)) = self.0.take() else { return };
        if let Entry::Occupied(mut open) = tally.open.entry(whose) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

/// Whose an address is: in IPv6 everybody has a whole /64.
pub fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

/// An HTTP/2 connection may be without requests for as many head timeouts: it costs more to make.
const IDLE_HEADS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    // DS-07
    #[test]
    fn a_tally_forgets_who_holds_nothing() {
        let tally = Tally::new(2);
        let (one, two) = (tally.take(1), tally.take(1));
        assert!(one.is_some() && two.is_some() && tally.take(1).is_none());
        assert!(tally.take(2).is_some(), "others are not concerned");
        drop(one);
        assert!(tally.take(1).is_some());
        drop(two);
        for whose in 0..1_000_000 {
            drop(tally.take(whose));
        }
        assert!(tally.open.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_holder() {
        let of = |text: &str| holder(text.parse().expect("an address")).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:203.0.113.9"), "203.0.113.9");
        assert_ne!(of("203.0.113.9"), of("203.0.113.8"));
    }
}
