//! Which addresses a fetch that a stranger asked for may reach. RFC 6890.
//!
//! Names are looked up as they are, without the machine's search domains and its hosts file: what only this machine
//! would find is not public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::places::Place;

/// Resolves to public addresses only; what comes out is what is connected to, so a second answer of the name
/// server changes nothing.
pub(super) struct Public {
    pub(super) allow_private: bool,
}

tokio::task_local! {
    /// Where a fetch counts. A look-up occupies a thread until the name server answers, however soon its asker gives
    /// up: it keeps the place as long.
    pub(super) static PLACE: Arc<Place>;
}

impl Resolve for Public {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        let place = PLACE.try_with(Arc::clone);
        Box::pin(async move {
            let place = place.map_err(|_| "a look-up that counts nowhere")?;
            let found = tokio::spawn(async move {
                // RFC 1034 §3.1: a name that ends in a dot is complete.
                let absolute = if allow_private { "" } else { "." };
                let name = format!("{}{absolute}", name.as_str());
                let found = tokio::net::lookup_host((name, 0)).await;
                drop(place);
                found.map(Iterator::collect::<Vec<_>>)
            });
            let found = found.await??.into_iter();
            let usable: Vec<SocketAddr> =
                found.filter(|address| allow_private || is_public(address.ip())).collect();
            if usable.is_empty() {
                return Err("no public address".into());
            }
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one that anybody on the internet could reach (RFC 6890 and its registries).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => is_public_v4(mapped),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    if [a, b, c, d, e, f] == NAT64 {
        // RFC 6052: an IPv4 address, for machines that have none of their own.
        let ([g, h], [i, j]) = (g.to_be_bytes(), h.to_be_bytes());
        return is_public_v4(Ipv4Addr::new(g, h, i, j));
    }
    let global_unicast = a & 0xe000 == 0x2000;
    // Teredo and protocol assignments, documentation, 6to4 (which hides an IPv4 address).
    let special = match (a, b) {
        (0x2001, b) => b < 0x200 || b == 0xdb8,
        (0x2002, _) => true,
        (0x3fff, b) => b < 0x1000,
        _ => false,
    };
    global_unicast && !special
}

const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for address in ["1.1.1.1", "140.82.121.4", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"] {
            assert!(is_public(address.parse().expect("an address")), "{address}");
        }
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1.1.1.1",
            "64:ff9b::1:101:101",
            "2001:db8::1",
            "2002:7f00:1::",
            "2001::1",
        ] {
            assert!(!is_public(address.parse().expect("an address")), "{address}");
        }
    }
}
