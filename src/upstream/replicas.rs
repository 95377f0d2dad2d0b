//! The replicas of one MCP server, and which of them a request goes to.
//!
//! What belongs to a session goes to the replica that opened it, which its id says; where that is gone, to the one that
//! consistent hashing finds, which is the same for every process of ours, however its list is sorted. Everything else
//! is dealt out in turn. Nothing here is sent twice: `delivery` moves on only with what never left.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora_ketama::{Bucket, Continuum, DEFAULT_POINT_MULTIPLE};
use tracing::{info, warn};

use super::health::{Chance, Health};
use super::pool::Pool;
use super::target::Target;
use crate::clock::Clock;
use crate::telemetry::metrics::Ejected;

/// What a session id says of its replica: the beginning of the digest of its URL.
pub type Mark = [u8; 4];

/// One of them.
pub struct Replica {
    pub target: Target,
    pub pool: Pool,
    health: Health,
}

/// All of them, at least one.
pub struct Replicas {
    all: Box<[Replica]>,
    ring: Ring,
    turn: AtomicUsize,
    clock: Clock,
    ejected: Ejected,
}

/// The way of one request from replica to replica, each once.
pub struct Way<'a> {
    replicas: &'a Replicas,
    place: Place<'a>,
    /// A bit for each that it was at, the present one among them.
    tried: u64,
    present: usize,
    chance: Chance,
}

/// Where a request belongs.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// To nobody: this is its turn.
    Anywhere(usize),
    /// To this replica, or to whomever the key leads.
    Session(Option<usize>, &'a [u8]),
}

impl Replica {
    fn new(target: Target, clock: &Clock) -> Self {
        Replica { target, pool: Pool::new(clock.clone()), health: Health::default() }
    }

    fn mark(&self) -> Mark {
        let [a, b, c, d, ..] = *self.target.digest();
        [a, b, c, d]
    }
}

impl Replicas {
    /// Replicas without connections yet, at least one and as many as a number has bits.
    pub fn new(targets: Vec<Target>, clock: Clock, ejected: Ejected) -> Self {
        let all: Box<[Replica]> = targets.into_iter().map(|target| Replica::new(target, &clock)).collect();
        Replicas { ring: Ring::new(&all), all, turn: AtomicUsize::new(0), clock, ejected }
    }

    /// For a request of no session.
    pub fn anywhere(&self) -> Way<'_> {
        let turn = if self.are_one() { 0 } else { self.turn.fetch_add(1, Ordering::Relaxed) };
        Way::begin(self, Place::Anywhere(turn))
    }

    /// For a request of a session, as its id says and, without that, by a key that it always has.
    pub fn session<'a>(&'a self, mark: Option<Mark>, key: &'a [u8]) -> Way<'a> {
        let marked = mark.and_then(|mark| self.all.iter().position(|replica| replica.mark() == mark));
        Way::begin(self, Place::Session(marked, key))
    }

    /// Where it makes no difference who is asked, nothing is reckoned and nothing is noted.
    fn are_one(&self) -> bool {
        self.all.len() == 1
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        // There are others in their place, or none.
        self.all.iter().filter(|replica| !replica.health.is_well()).for_each(|_| self.ejected.fewer());
    }
}

impl<'a> Way<'a> {
    fn begin(replicas: &'a Replicas, place: Place<'a>) -> Self {
        let mut way = Way { replicas, place, tried: 0, present: 0, chance: Chance::Well };
        way.go_on();
        way
    }

    /// The replica that it is at.
    pub fn replica(&self) -> &'a Replica {
        &self.replicas.all[self.present]
    }

    /// What ids of sessions say of that; nothing where there is only one.
    pub fn mark(&self) -> Option<Mark> {
        (!self.replicas.are_one()).then(|| self.replica().mark())
    }

    /// There was an answer.
    pub fn answered(&mut self) {
        let Replica { target, health, .. } = self.replica();
        if !self.replicas.are_one() && health.answered(self.spent()) {
            self.replicas.ejected.fewer();
            info!(upstream = target.origin(), "a replica of an MCP server is back");
        }
    }

    /// How many answers of this replica there were, to be compared later.
    pub fn answers(&self) -> u32 {
        self.replica().health.answers()
    }

    /// There was no answer, and the request may have come.
    pub fn broke(&mut self) {
        let replicas = self.replicas;
        if !replicas.are_one() && self.replica().health.broke(self.spent(), replicas.clock.now()) {
            self.ejected("it broke off time after time");
        }
    }

    /// The replica cannot be reached, so the request goes on to another. Says whether there is one.
    pub fn moves_on(&mut self, cause: &str) -> bool {
        if self.replicas.are_one() {
            return false;
        }
        if self.replica().health.unreachable(self.spent(), self.replicas.clock.now()) {
            self.ejected(cause);
        }
        self.go_on()
    }

    /// What somebody was to see is told once: after that the request is one like any other, to be redirected perhaps.
    fn spent(&mut self) -> Chance {
        std::mem::replace(&mut self.chance, Chance::Well)
    }

    fn ejected(&self, cause: &str) {
        self.replicas.ejected.more();
        warn!(upstream = self.replica().target.origin(), cause, "a replica of an MCP server is left out");
    }

    fn go_on(&mut self) -> bool {
        let next = match self.place {
            _ if self.replicas.are_one() => (self.tried == 0).then_some((0, Chance::Well)),
            Place::Anywhere(turn) => self.in_turn(turn),
            Place::Session(marked, key) => self.by_key(marked, key),
        };
        if let Some((present, chance)) = next {
            (self.present, self.chance) = (present, chance);
            self.tried |= 1 << present;
        }
        next.is_some()
    }

    /// One that is to be looked at, else one of those that are well, else one of those that are not: that all of them
    /// are ejected may be our mistake, and is no answer.
    fn in_turn(&self, turn: usize) -> Option<(usize, Chance)> {
        let untried = || (0..self.replicas.all.len()).filter(|index| self.is_untried(*index));
        let well = || untried().filter(|index| self.replicas.all[*index].health.is_well());
        if let Some(probe) = untried().find_map(|index| Some((index, self.claim(index)?))) {
            return Some(probe);
        }
        let dealt = turn.checked_rem(well().count()).and_then(|number| well().nth(number));
        let dealt = dealt.map(|index| (index, Chance::Well));
        let rest = || turn.checked_rem(untried().count()).and_then(|number| untried().nth(number));
        dealt.or_else(|| Some((rest()?, Chance::Anyway)))
    }

    /// The first that is well, or to be looked at, of an order that the session always has; else the first.
    fn by_key(&self, marked: Option<usize>, key: &[u8]) -> Option<(usize, Chance)> {
        let order = || marked.into_iter().chain(self.replicas.ring.order(key));
        let untried = || order().filter(|index| self.is_untried(*index));
        let chance = |index: usize| match self.replicas.all[index].health.is_well() {
            true => Some((index, Chance::Well)),
            false => Some((index, self.claim(index)?)),
        };
        untried().find_map(chance).or_else(|| Some((untried().next()?, Chance::Anyway)))
    }

    fn is_untried(&self, index: usize) -> bool {
        self.tried & (1 << index) == 0
    }

    /// The clock is asked only where there is something to be looked at.
    fn claim(&self, index: usize) -> Option<Chance> {
        let health = &self.replicas.all[index].health;
        if health.is_well() { None } else { health.claim(self.replicas.clock.now()) }
    }
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        if matches!(self.chance, Chance::Probe(_)) {
            self.replica().health.give_back(self.chance, self.replicas.clock.now());
        }
    }
}

/// The same order of replicas for the same key, wherever it is asked for.
struct Ring {
    continuum: Continuum,
    /// Which replica an address on it stands for.
    stand_ins: Box<[SocketAddr]>,
}

impl Ring {
    fn new(all: &[Replica]) -> Self {
        let stand_ins: Box<[SocketAddr]> = all.iter().map(|replica| stand_in(&replica.target)).collect();
        // Where two share a point the first one has it, which must not depend on the list. One needs no ring.
        let mut sorted = if all.len() > 1 { stand_ins.to_vec() } else { Vec::new() };
        sorted.sort_unstable();
        let buckets: Vec<Bucket> = sorted.into_iter().map(|address| Bucket::new(address, 1)).collect();
        Ring { continuum: Continuum::new(&buckets), stand_ins }
    }

    /// Once around.
    fn order(&self, key: &[u8]) -> impl Iterator<Item = usize> {
        let points = self.stand_ins.len() * DEFAULT_POINT_MULTIPLE as usize;
        let addresses = self.continuum.node_iter(key).take(points);
        addresses.filter_map(|address| self.stand_ins.iter().position(|stand_in| stand_in == address))
    }
}

/// The ring wants an address, and those of a name may change: one that nobody has, made of the URL.
fn stand_in(target: &Target) -> SocketAddr {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&target.digest()[..16]);
    SocketAddr::from((Ipv6Addr::from(bytes), 0))
}

#[cfg(test)]
mod tests;
