//! Whom a limit counts: addresses (networks, in IPv6), clients, people, logins, hosts.

use std::fmt;
use std::net::IpAddr;

use crate::protocol::token::FamilyId;

/// Where a request came from, as far as limits care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An address that stands for one household, office or server. Requests that web pages make in the
    /// background are counted apart: a hostile page must not use up what its visitors need.
    Address { address: IpAddr, by_page: bool },
    /// An address that may stand for everybody (a proxy that nobody declared, the machine itself): to limit it
    /// would let one stranger lock out all others.
    Anybody,
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
            Who::Source(Source::Anybody) | Who::Client(_, Source::Anybody) => (None, None),
            Who::Source(Source::Address { address: IpAddr::V4(address), by_page }) => {
                (Some(one(Key::Network(u128::from(address.to_bits()), 32, by_page))), None)
            }
            Who::Source(Source::Address { address: IpAddr::V6(address), by_page }) => {
                // A /64 is one household or machine, a /48 one customer; in a data centre it may be several.
                let network = |bits: u8| Key::Network(address.to_bits() >> (128 - bits), bits, by_page);
                (Some(one(network(64))), Some(many(network(48))))
            }
            Who::Client(id, Source::Address { address, .. }) => {
                (Some(one(Key::ClientAt(id, network_of(address)))), None)
            }
            Who::Person(id) => (Some(one(Key::Person(id))), None),
            Who::Login(id) => (Some(one(Key::Login(id))), None),
            Who::LoginOf(id, person) => (Some(one(Key::Login(id))), Some(many(Key::Person(person)))),
            Who::Host(host) => (Some(many(Key::Host(host))), None),
            Who::Document(url) => (Some(one(Key::Document(url))), None),
        };
        first.into_iter().chain(second)
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
        match self {
            Source::Address { address, by_page: false } => write!(f, "{address}"),
            Source::Address { address, by_page: true } => write!(f, "{address} (web pages)"),
            Source::Anybody => f.write_str("an address of many"),
        }
    }
}

/// How many households are in a network, logins to a person, documents on a host.
const MANY: u32 = 10;
