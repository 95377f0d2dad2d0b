//! Secrets with a known value, and where to look for them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Every spelling in which a secret could have been written down.
fn spellings(secret: &str) -> Vec<Vec<u8>> {
    let mut all = vec![secret.as_bytes().to_vec()];
    all.push(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect::<String>().into_bytes());
    // Base64 of a text depends on where it starts: without the ends that neighbours change.
    for shift in 0..3 {
        let shifted = [&b"   "[..shift], secret.as_bytes()].concat();
        let encoded = STANDARD.encode(&shifted);
        let inner = &encoded[4..encoded.len() - 4];
        all.extend((inner.len() > 12).then(|| inner.as_bytes().to_vec()));
    }
    // A token of ours in the raw: what is behind its prefix.
    if let Some(raw) = secret.get(5..).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()) {
        // All of it, and the MAC alone; the family id is what the store knows anyway.
        all.push(raw[raw.len().saturating_sub(16)..].to_vec());
    }
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    all.push(hex.into_bytes());
    all
}

/// Whether bytes hold others.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

/// Fails when any secret is in `bytes`, however it is spelt.
#[track_caller]
pub fn is_nowhere(place: &str, bytes: &[u8], secrets: &[(&str, String)]) {
    for (name, secret) in secrets {
        for spelling in spellings(secret) {
            assert!(!contains(bytes, &spelling), "{name} is in {place}");
        }
    }
}
