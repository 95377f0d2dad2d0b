//! Who is really asking: the peer, or whom a trusted proxy names.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use tracing::warn;

use crate::limit::Source;
use crate::protocol::fields::Fields;

/// Who stands between us and the clients.
pub struct Proxies {
    /// Peers whose X-Forwarded-For counts.
    pub trusted: Vec<IpNet>,
    /// Whether the operator said so, be it that there are none.
    pub declared: bool,
    /// Whether the log was told of a proxy that nobody declared.
    pub warned: AtomicBool,
}

/// The other end of a request.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub address: IpAddr,
    standing: Standing,
}

/// How we know the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A trusted proxy named it.
    Named,
    /// It is a trusted proxy, which named nobody.
    Proxy,
    /// It is our peer.
    Peer,
}

impl Proxies {
    /// These, or, when nobody said so, none.
    pub fn new(trusted: Vec<IpNet>, declared: bool) -> Self {
        Proxies { trusted, declared, warned: AtomicBool::new(false) }
    }

    /// The client's address. X-Forwarded-For counts from the right, as far as it was written by proxies the
    /// operator trusts; what a stranger wrote before that is not read.
    pub fn client(&self, peer: SocketAddr, fields: &Fields) -> Client {
        let is_trusted = |address: IpAddr| self.trusted.iter().any(|network| network.contains(&address));
        let peer = peer.ip().to_canonical();
        if !is_trusted(peer) {
            return Client { address: peer, standing: Standing::Peer };
        }
        let mut client = Client { address: peer, standing: Standing::Proxy };
        let values = fields.all(FORWARDED_FOR).rev();
        // Byte for byte: what a stranger wrote first must not make the proxy's own word unreadable.
        for hop in values.flat_map(|value| value.rsplit(|byte| *byte == b',')) {
            let Some(address) = named(hop) else { return client };
            client = Client { address, standing: Standing::Named };
            if !is_trusted(address) {
                return client;
            }
        }
        client
    }

    /// Whether the connections of a peer may be many people's: those of a proxy, be it one that nobody declared.
    pub fn may_be_many(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        let may_be_undeclared = !self.declared && (peer.is_loopback() || is_private(peer));
        may_be_undeclared || self.trusted.iter().any(|network| network.contains(&peer))
    }

    /// Whom limits per address count. A peer may be a proxy that nobody declared, a container's network or a
    /// load balancer, and stand for everybody: then more is allowed. Not everything is, and what it says of
    /// others is not believed: it may as well be one stranger.
    pub fn source(&self, client: Client, fields: &Fields) -> Source {
        let Client { address, standing } = client;
        let many = match standing {
            Standing::Named => address.is_loopback(),
            Standing::Proxy => true,
            Standing::Peer => !self.declared && (address.is_loopback() || is_private(address)),
        };
        let undeclared = many && standing == Standing::Peer && fields.has(FORWARDED_FOR);
        if undeclared && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(peer = %address, "a proxy sends X-Forwarded-For, but trusted_proxies does not name it: all its clients are limited as one");
        }
        Source { address, by_page: is_in_the_background(fields), many }
    }
}

/// One hop of X-Forwarded-For; some proxies write the port too.
fn named(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let address = hop.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let address = address.or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

/// Addresses of private networks, links and carriers' NATs (RFC 1918, 3927, 6598, 4193, 4291).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let carrier = address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64;
            address.is_private() || address.is_link_local() || carrier
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}

/// Whether a web page sends this without the person seeing it: an image, a frame, a script's request.
fn is_in_the_background(fields: &Fields) -> bool {
    match fields.get("sec-fetch-dest") {
        Some(destination) => destination != b"document",
        None => fields.has("origin"),
    }
}

const FORWARDED_FOR: &str = "x-forwarded-for";

#[cfg(test)]
mod tests {
    use super::*;

    fn fields_of<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Fields {
        let mut fields = Fields::default();
        pairs.for_each(|(name, value)| fields.add(name, value.as_bytes()));
        fields
    }

    fn client_of(peer: &str, forwarded: &[&'static str], trusted: &[&str]) -> String {
        let fields = fields_of(forwarded.iter().map(|value| (FORWARDED_FOR, *value)));
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().expect("a network")).collect();
        let proxies = Proxies::new(trusted, true);
        proxies.client(SocketAddr::new(peer.parse().expect("an address"), 1), &fields).address.to_string()
    }

    #[test]
    fn strangers_cannot_choose_their_address() {
        assert_eq!(client_of("203.0.113.9", &["1.1.1.1"], &["10.0.0.0/8"]), "203.0.113.9");
        assert_eq!(client_of("10.0.0.1", &["1.1.1.1, 203.0.113.9"], &["10.0.0.0/8"]), "203.0.113.9");
        assert_eq!(
            client_of("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"], &["10.0.0.0/8"]),
            "203.0.113.9"
        );
        assert_eq!(client_of("10.0.0.1", &["1.1.1.1", "2001:db8::1"], &["10.0.0.0/8"]), "2001:db8::1");
        assert_eq!(client_of("10.0.0.1", &["1.1.1.1, garbage"], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(client_of("10.0.0.1", &[], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(client_of("10.0.0.1", &["\u{ff}, 203.0.113.9"], &["10.0.0.0/8"]), "203.0.113.9");
        assert_eq!(client_of("10.0.0.1", &["203.0.113.9:50123"], &["10.0.0.0/8"]), "203.0.113.9");
        assert_eq!(client_of("10.0.0.1", &["[2001:db8::3]:443"], &["10.0.0.0/8"]), "2001:db8::3");
        assert_eq!(client_of("::ffff:10.0.0.1", &["[2001:db8::2]"], &["10.0.0.0/8"]), "2001:db8::2");
    }

    // GT-14
    #[test]
    fn limits_count_addresses_and_allow_more_to_those_that_may_be_many() {
        let source = |peer: &str, forwarded: Option<&'static str>, trusted: &[&str], declared: bool| {
            let fields = fields_of(forwarded.into_iter().map(|value| (FORWARDED_FOR, value)));
            let trusted = trusted.iter().map(|network| network.parse().expect("a network")).collect();
            let proxies = Proxies::new(trusted, declared);
            let client = proxies.client(SocketAddr::new(peer.parse().expect("an address"), 1), &fields);
            let source = proxies.source(client, &fields);
            (source.to_string(), proxies.warned.load(Ordering::Relaxed))
        };
        for (peer, forwarded, trusted, declared, expected, warned) in [
            // Strangers: whatever they send.
            ("203.0.113.9", None, &[][..], false, "203.0.113.9", false),
            ("203.0.113.9", Some("1.1.1.1"), &[], false, "203.0.113.9", false),
            ("203.0.113.9", Some("127.0.0.1"), &["10.0.0.0/8"], true, "203.0.113.9", false),
            // A proxy that was not declared, or a container's network.
            ("127.0.0.1", None, &[], false, "127.0.0.1 (maybe many)", false),
            ("127.0.0.1", Some("203.0.113.9"), &[], false, "127.0.0.1 (maybe many)", true),
            ("172.17.0.1", None, &[], false, "172.17.0.1 (maybe many)", false),
            ("172.17.0.1", Some("203.0.113.9"), &[], false, "172.17.0.1 (maybe many)", true),
            ("fd00::1", None, &[], false, "fd00::1 (maybe many)", false),
            ("100.64.1.1", None, &[], false, "100.64.1.1 (maybe many)", false),
            // Said to be nobody: then such an address is a client.
            ("172.17.0.1", Some("203.0.113.9"), &[], true, "172.17.0.1", false),
            ("127.0.0.1", None, &[], true, "127.0.0.1", false),
            // Declared.
            ("10.0.0.1", Some("203.0.113.9"), &["10.0.0.0/8"], true, "203.0.113.9", false),
            ("10.0.0.1", Some("192.168.1.5"), &["10.0.0.0/8"], true, "192.168.1.5", false),
            ("10.0.0.1", None, &["10.0.0.0/8"], true, "10.0.0.1 (maybe many)", false),
            ("10.0.0.1", Some("unknown"), &["10.0.0.0/8"], true, "10.0.0.1 (maybe many)", false),
            ("10.0.0.1", Some("127.0.0.1"), &["10.0.0.0/8"], true, "127.0.0.1 (maybe many)", false),
        ] {
            let found = source(peer, forwarded, trusted, declared);
            assert_eq!(found, (expected.to_owned(), warned), "{peer} {forwarded:?} {trusted:?} {declared}");
        }
    }

    #[test]
    fn what_pages_do_in_the_background_is_counted_apart() {
        let background =
            |pairs: &[(&'static str, &'static str)]| is_in_the_background(&fields_of(pairs.iter().copied()));
        assert!(!background(&[]), "no browser");
        assert!(!background(&[("sec-fetch-dest", "document"), ("origin", "https://evil.test")]), "a form");
        for destination in ["image", "iframe", "empty", "script"] {
            assert!(background(&[("sec-fetch-dest", destination)]), "{destination}");
        }
        assert!(background(&[("origin", "https://evil.test")]), "an old browser");
    }

    #[test]
    fn connections_of_what_may_be_a_proxy_are_not_one_persons() {
        let networks = vec!["203.0.113.0/24".parse().expect("a network")];
        let (declared, undeclared) = (Proxies::new(networks, true), Proxies::new(Vec::new(), false));
        for (peer, if_declared, if_not) in [
            ("127.0.0.1", false, true),
            ("::ffff:10.0.0.1", false, true),
            ("fd00::1", false, true),
            ("203.0.113.9", true, false),
            ("198.51.100.1", false, false),
            ("2001:db8::1", false, false),
        ] {
            let peer = peer.parse().expect("an address");
            assert_eq!(
                (declared.may_be_many(peer), undeclared.may_be_many(peer)),
                (if_declared, if_not),
                "{peer}"
            );
        }
    }
}
