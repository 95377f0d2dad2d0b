//! The two cookies that bind a flow to a browser. Their values are random and mean nothing by themselves.
//!
//! RFC 6265bis §4.1.3 (`__Host-`); MCP security best practices, consent and state cookies.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};

use crate::clock::Clock;

/// What a cookie binds.
#[derive(Clone, Copy)]
pub enum Binds {
    /// The consent form; set when the page is shown.
    Consent,
    /// The login at GitHub; set at approval only.
    Login,
}

/// The value a browser holds, and the header that makes it hold it.
pub struct Cookie {
    pub value: String,
    pub header: String,
}

/// The browser's value, if it holds exactly one that we could have set.
pub fn read(headers: &HeaderMap, binds: Binds, secure: bool) -> Option<String> {
    let name = name(binds, secure);
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = pairs.flat_map(|pairs| pairs.split(';')).filter_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    });
    let value = values.next()?;
    let ours = values.next().is_none() && URL_SAFE_NO_PAD.decode(value).is_ok_and(|bytes| bytes.len() == 24);
    ours.then(|| value.to_owned())
}

/// Keeps the browser's value (several tabs share it) or makes a fresh one; either way it lives on.
pub fn keep(headers: &HeaderMap, binds: Binds, secure: bool, clock: &Clock) -> Cookie {
    let value = read(headers, binds, secure).unwrap_or_else(|| URL_SAFE_NO_PAD.encode(clock.random::<24>()));
    let security = if secure { "; Secure" } else { "" };
    let name = name(binds, secure);
    let header = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={MAX_AGE}{security}");
    Cookie { value, header }
}

/// Over plain http (loopback only) browsers refuse the prefix.
fn name(binds: Binds, secure: bool) -> &'static str {
    match (binds, secure) {
        (Binds::Consent, true) => "__Host-mcp-consent",
        (Binds::Login, true) => "__Host-mcp-login",
        (Binds::Consent, false) => "mcp-consent",
        (Binds::Login, false) => "mcp-login",
    }
}

/// Seconds; as long as a flow may take, from the last one started.
const MAX_AGE: u32 = 600;
