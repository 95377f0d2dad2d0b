//! Places for work that strangers ask for: few for each asker and each host, so that whoever fills his own leaves
//! the others' free.
//!
//! Counted while the work lasts and nothing longer: memory is bounded by the number of places.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limit::Source;

/// All places.
#[derive(Default)]
pub(super) struct Places {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    askers: HashMap<Asker, usize>,
    hosts: HashMap<String, usize>,
}

/// High bits of an address, how many of them, and whether a web page asks.
type Asker = (u128, u8, bool);

/// One place; free again when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    askers: Vec<(Asker, usize)>,
    host: String,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The asker has filled his own.
    Asker,
    /// The host's, or all, are taken.
    Everybody,
}

impl Places {
    /// A place for what somebody asks of this host.
    pub(super) fn take(self: &Arc<Self>, source: Source, host: &str) -> Result<Place, Full> {
        let askers = askers(source);
        let mut taken = self.taken();
        let held = |asker| taken.askers.get(asker).copied().unwrap_or(0);
        if askers.iter().any(|(asker, own)| held(asker) >= *own) {
            return Err(Full::Asker);
        }
        if taken.all >= ALL || taken.hosts.get(host).is_some_and(|own| *own >= PER_HOST) {
            return Err(Full::Everybody);
        }
        taken.all += 1;
        for (asker, _) in &askers {
            *taken.askers.entry(*asker).or_default() += 1;
        }
        *taken.hosts.entry(host.to_owned()).or_default() += 1;
        Ok(Place { places: self.clone(), askers, host: host.to_owned() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        for (asker, _) in &self.askers {
            give_back(&mut taken.askers, asker);
        }
        give_back(&mut taken.hosts, &self.host);
    }
}

fn give_back<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Who asks, and how many places he has: one address, or in IPv6 a /64 and the /48 around it.
fn askers(source: Source) -> Vec<(Asker, usize)> {
    let own = if source.many { MANY * PER_ASKER } else { PER_ASKER };
    match source.address {
        IpAddr::V4(v4) => vec![((v4.to_bits().into(), 32, source.by_page), own)],
        IpAddr::V6(v6) => {
            let network = |bits: u8| (v6.to_bits() >> (128 - bits), bits, source.by_page);
            vec![(network(64), own), (network(48), 4 * own)]
        }
    }
}

/// A look-up may hold a thread each, of the 512 that the side runtime has.
const ALL: usize = 128;
/// Far more than one household's clients need at a time, and sixteen such askers fit.
const PER_ASKER: usize = 8;
/// An address that may stand for everybody is more than one asker.
const MANY: usize = 10;
/// More than one asker can fill.
const PER_HOST: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn source(asker: &str, many: bool) -> Source {
        Source { address: asker.parse().expect("an address"), by_page: false, many }
    }

    fn take(places: &Arc<Places>, asker: &str, host: &str, times: usize) -> Vec<Result<Place, Full>> {
        (0..times).map(|_| places.take(source(asker, false), host)).collect()
    }

    #[test]
    fn who_fills_his_own_leaves_the_others_free() {
        let places = Arc::new(Places::default());
        let greedy = take(&places, "192.0.2.1", "slow.example", PER_ASKER + 1);
        assert_eq!(greedy.last().and_then(|last| last.as_ref().err()), Some(&Full::Asker));
        assert!(take(&places, "192.0.2.2", "slow.example", 1)[0].is_ok());
        drop(greedy);
        assert!(take(&places, "192.0.2.1", "slow.example", PER_ASKER).iter().all(Result::is_ok));
    }

    #[test]
    fn a_host_and_everybody_have_their_limits() {
        let places = Arc::new(Places::default());
        let mut held = Vec::new();
        for asker in 1..=PER_HOST / PER_ASKER {
            held.extend(take(&places, &format!("192.0.2.{asker}"), "one.example", PER_ASKER));
        }
        assert!(held.iter().all(Result::is_ok));
        let further = take(&places, "192.0.2.200", "one.example", 1);
        assert_eq!(further[0].as_ref().err(), Some(&Full::Everybody));
        for asker in 100..100 + (ALL - PER_HOST) / PER_ASKER {
            held.extend(take(&places, &format!("192.0.2.{asker}"), &format!("{asker}.example"), PER_ASKER));
        }
        assert!(held.iter().all(Result::is_ok));
        let further = take(&places, "192.0.2.200", "another.example", 1);
        assert_eq!(further[0].as_ref().err(), Some(&Full::Everybody));
        drop(held);
        drop(further);
        let taken = places.taken();
        assert_eq!((taken.all, taken.askers.len(), taken.hosts.len()), (0, 0, 0), "nothing is kept");
    }

    #[test]
    fn a_network_is_one_asker_whatever_address_it_takes() {
        let places = Arc::new(Places::default());
        let mut held = Vec::new();
        for network in 1..=4 {
            let host = format!("{network}.example");
            held.extend(take(&places, &format!("2001:db8:0:{network}::1"), &host, PER_ASKER / 2));
            held.extend(take(&places, &format!("2001:db8:0:{network}:9::2"), &host, PER_ASKER / 2));
            assert!(take(&places, &format!("2001:db8:0:{network}::3"), &host, 1)[0].is_err());
        }
        assert!(held.iter().all(Result::is_ok));
        assert!(take(&places, "2001:db8:0:9::1", "9.example", 1)[0].is_err(), "the /48 is full");
        assert!(take(&places, "2001:db8:1:1::1", "9.example", 1)[0].is_ok());
    }

    #[test]
    fn an_address_of_everybody_is_more_than_one_asker() {
        let (places, everybody) = (Arc::new(Places::default()), source("127.0.0.1", true));
        let held: Vec<_> = (0..PER_HOST).map(|_| places.take(everybody, "one.example")).collect();
        assert!(held.iter().all(Result::is_ok));
    }
}
