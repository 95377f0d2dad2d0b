//! Whom a limit counts: addresses (networks, in IPv6), clients, people, logins, hosts.

use std::fmt;
use std::net::IpAddr;

use crate::protocol::token::FamilyId;

/// Where a request came from, as far as limits care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub address: IpAddr,
    /// Requests that web pages make in the background are counted apart: a hostile page must not use up what its
    /// visitors need.
    pub by_page: bool,
    /// The address may stand for everybody (a proxy that nobody declared, the machine itself), not for one
    /// household, office or server: it is allowed ten times as much.
    pub many: bool,
}

/// Who is counted.
#[derive(Clone, Copy)]
pub enum Who<'a> {
    Source(Source),
    /// A client at an address: guesses from elsewhere never count against it.
    Client(&'a str, Source),
    /// A GitHub id.
    Person(u64),
    Login(FamilyId),
    /// One login, and with a larger allowance everything of its person.
    LoginOf(FamilyId, u64),
    /// A host that publishes metadata documents.
    Host(&'a str),
    /// A document of such a host.
    Document(&'a str),
}

/// A key of the counters, and how many times the rate it is allowed.
#[derive(Hash)]
pub(super) struct Tier<'a> {
    key: Key<'a>,
    pub(super) times: u32,
}

#[derive(Hash)]
enum Key<'a> {
    /// High bits of an address, how many of them, and whether a page asks.
    Network(u128, u8, bool),
    ClientAt(&'a str, u128),
    Person(u64),
    Login(FamilyId),
    Host(&'a str),
    Document(&'a str),
}

impl<'a> Who<'a> {
    /// All that must have room.
    pub(super) fn tiers(&self) -> impl Iterator<Item = Tier<'a>> + use<'a> {
        let one = |key| Tier { key, times: 1 };
        let many = |key| Tier { key, times: MANY };
        let (first, second) = match *self {
            Who::Source(source) => source.tiers(),
            Who::Client(id, source) => {
                let key = Key::ClientAt(id, network_of(source.address));
                (Tier { key, times: source.times() }, None)
            }
            Who::Person(id) => (one(Key::Person(id)), None),
            Who::Login(id) => (one(Key::Login(id)), None),
            Who::LoginOf(id, person) => (one(Key::Login(id)), Some(many(Key::Person(person)))),
            Who::Host(host) => (many(Key::Host(host)), None),
            Who::Document(url) => (one(Key::Document(url)), None),
        };
        [first].into_iter().chain(second)
    }
}

impl Source {
    fn tiers<'a>(self) -> (Tier<'a>, Option<Tier<'a>>) {
        let (by_page, times) = (self.by_page, self.times());
        match self.address {
            IpAddr::V4(address) => {
                (Tier { key: Key::Network(u128::from(address.to_bits()), 32, by_page), times }, None)
            }
            IpAddr::V6(address) => {
                // A /64 is one household or machine, a /48 one customer; in a data centre it may be several.
                let network = |bits: u8| Key::Network(address.to_bits() >> (128 - bits), bits, by_page);
                (Tier { key: network(64), times }, Some(Tier { key: network(48), times: times * MANY }))
            }
        }
    }

    fn times(self) -> u32 {
        if self.many { MANY } else { 1 }
    }
}

/// An IPv4 address, or the /64 of an IPv6 one.
fn network_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Source(source) => write!(f, "{source}"),
            // A stranger's text: escaped, cut.
            Who::Client(id, source) => {
                let id: String = id.chars().take(64).collect();
                write!(f, "client {id:?} from {source}")
            }
            Who::Person(id) => write!(f, "person {id}"),
            Who::Login(id) | Who::LoginOf(id, _) => write!(f, "login {id:?}"),
            Who::Host(host) => write!(f, "documents of {host}"),
            Who::Document(url) => write!(f, "document {url}"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        f.write_str(if self.by_page { " (web pages)" } else { "" })?;
        f.write_str(if self.many { " (maybe many)" } else { "" })
    }
}

/// How many households are in a network or behind a proxy, logins to a person, documents on a host.
const MANY: u32 = 10;
