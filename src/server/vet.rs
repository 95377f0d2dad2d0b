//! What can be read as HTTP and is refused all the same: odd hosts, proxy requests, oversized targets.
//!
//! RFC 9112 §3.2; RFC 9110 §7.2, §9.3.6, §9.3.8; RFC 9113 §8.3.1.

use http::Method;

use super::reply::Problem;
use crate::protocol::fields::{Fields, text};
use crate::protocol::issuer::Issuer;
use crate::protocol::request::Request;

/// Refuses requests that are not plainly for us.
pub fn request<B>(issuer: &Issuer, request: &Request<B>) -> Result<(), Problem> {
    if matches!(request.method, Method::CONNECT | Method::TRACE) {
        return Err(Problem::Method("GET, POST, DELETE, OPTIONS"));
    }
    if request.target.as_str().len() > MAX_TARGET {
        return Err(Problem::TargetTooLong);
    }
    if request.fields.count() > MAX_HEADERS {
        return Err(Problem::TooManyHeaders);
    }
    if is_oddly_framed(&request.fields) {
        return Err(Problem::Framing);
    }
    let host = host(request.authority.as_deref(), &request.fields);
    let host = host.ok_or(Problem::BadRequest("send exactly one Host"))?;
    match is_ours(issuer, host) {
        true => Ok(()),
        false => Err(Problem::Misdirected(issuer.authority().to_owned())),
    }
}

/// RFC 9112 §6.1 lets other codings stand before `chunked`; nobody sends them, and not everybody on the way to
/// us reads them alike.
fn is_oddly_framed(fields: &Fields) -> bool {
    match fields.single("transfer-encoding") {
        Ok(coding) => coding.is_some_and(|coding| !coding.trim_ascii().eq_ignore_ascii_case(b"chunked")),
        Err(_) => true,
    }
}

/// The one authority a request names: RFC 9112 §3.2.2 lets an absolute target win over Host, we want both to
/// agree.
fn host<'a>(authority: Option<&'a str>, fields: &'a Fields) -> Option<&'a str> {
    let header = match fields.single("host").ok()? {
        Some(host) => Some(text(host)?),
        None => None,
    };
    match (authority, header) {
        (Some(authority), Some(header)) if !authority.eq_ignore_ascii_case(header) => None,
        (Some(authority), _) => Some(authority),
        (None, header) => header,
    }
}

/// Our public host, or a name of this machine: health checks and neighbours in the same container use that,
/// and no page elsewhere can send it (DNS rebinding).
fn is_ours(issuer: &Issuer, host: &str) -> bool {
    let own = issuer.authority();
    let default_port = if issuer.is_secure() { ":443" } else { ":80" };
    let bare = host.strip_suffix(default_port).unwrap_or(host);
    if bare.eq_ignore_ascii_case(own) {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|local| name.eq_ignore_ascii_case(local))
}

/// A long `state`, `redirect_uri` and `client_id` together stay below it.
const MAX_TARGET: usize = 24 << 10;
/// hyper's own limit for HTTP/1.1; HTTP/2 has none.
const MAX_HEADERS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        let issuer = Issuer::parse("https://p.test").expect("valid");
        for host in ["p.test", "P.TEST", "p.test:443", "localhost:8000", "127.0.0.1", "[::1]:8000"] {
            assert!(is_ours(&issuer, host), "{host}");
        }
        for host in [
            "evil",
            "p.test:8443",
            "p.test.evil",
            "evil@p.test",
            "localhost.evil",
            "127.0.0.1.evil",
            "",
            "p.test:",
            "localhost:x",
        ] {
            assert!(!is_ours(&issuer, host), "{host}");
        }
    }

    #[test]
    fn a_request_names_one_host() {
        let of = |authority: &str, hosts: &[&'static str]| {
            let mut fields = Fields::default();
            hosts.iter().for_each(|name| fields.add("host", name.as_bytes()));
            host(Some(authority).filter(|authority| !authority.is_empty()), &fields).map(str::to_owned)
        };
        assert_eq!(of("", &["p.test"]).as_deref(), Some("p.test"));
        assert_eq!(of("p.test", &["P.test"]).as_deref(), Some("p.test"));
        assert_eq!(of("p.test", &[]).as_deref(), Some("p.test"));
        assert_eq!(of("", &[]), None);
        assert_eq!(of("", &["p.test", "p.test"]), None);
        assert_eq!(of("evil", &["p.test"]), None);
    }
}
