//! Codes, access tokens and refresh tokens: derived, never stored.
//!
//! `prefix + base64url(key id | family | generation | expiry | scope mask | MAC)`. The prefix tells secret
//! scanners (and people) what it is; the kind is part of the MAC, so kinds never mix. Does not know keys.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::scope::ScopeMask;
use crate::clock::Time;

/// Bytes of a MAC: 128 bits.
pub const TAG_BYTES: usize = 16;
/// A truncated MAC.
pub type Tag = [u8; TAG_BYTES];

/// Makes and checks MACs; the key ring is one.
pub trait Authenticator {
    /// The MAC of a payload under the writing key, and that key's id.
    fn authenticate(&self, kind: &str, payload: &[u8]) -> (u8, Tag);
    /// Whether the MAC holds, in constant time.
    fn is_authentic(&self, key_id: u8, kind: &str, payload: &[u8], tag: &[u8]) -> bool;
}

/// One authorization = one family: 128 random bits known only to the store and the holder of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FamilyId(pub [u8; 16]);

impl fmt::Display for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FamilyId {
    /// Its short name. The first bytes tell families apart in logs and lists; the whole id is for the store alone.
    pub fn short(&self) -> String {
        // In hexadecimal: nobody reads one wrong aloud, and none looks like an option of a command.
        self.0[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads the text made by `Display`.
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(FamilyId)
    }
}

/// What a value is for.
pub trait Kind {
    /// Part of the MAC.
    const NAME: &'static str;
    /// Visible at the front.
    const PREFIX: &'static str;
}

/// An authorization code (generation 0).
#[derive(Debug)]
pub enum Code {}
/// An access token.
#[derive(Debug)]
pub enum Access {}
/// A refresh token.
#[derive(Debug)]
pub enum Refresh {}

impl Kind for Code {
    const NAME: &'static str = "code";
    const PREFIX: &'static str = "mapc_";
}
impl Kind for Access {
    const NAME: &'static str = "access";
    const PREFIX: &'static str = "mapa_";
}
impl Kind for Refresh {
    const NAME: &'static str = "refresh";
    const PREFIX: &'static str = "mapr_";
}

/// What a token says, before it is signed or after its MAC held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The authorization it belongs to.
    pub family: FamilyId,
    /// How often the family had been rotated when it was issued.
    pub generation: u32,
    /// When it stops being good, in whole seconds.
    pub expires: Time,
    /// Which of the family's scopes it carries.
    pub scopes: ScopeMask,
}

/// A token whose MAC held; says nothing yet about expiry or the family being alive.
pub struct Verified<K> {
    /// What it says.
    pub claims: Claims,
    kind: PhantomData<K>,
}

impl Claims {
    /// The token as a client gets it.
    pub fn issue<K: Kind>(&self, keys: &impl Authenticator) -> String {
        let payload = self.payload();
        let (key_id, tag) = keys.authenticate(K::NAME, &payload);
        let bytes = [&[key_id], payload.as_slice(), &tag].concat();
        format!("{}{}", K::PREFIX, URL_SAFE_NO_PAD.encode(bytes))
    }

    fn payload(&self) -> [u8; PAYLOAD_BYTES] {
        // 32 bits of seconds last until 2106.
        let expires = u32::try_from(self.expires.seconds()).unwrap_or(u32::MAX);
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..16].copy_from_slice(&self.family.0);
        payload[16..20].copy_from_slice(&self.generation.to_be_bytes());
        payload[20..24].copy_from_slice(&expires.to_be_bytes());
        payload[24..].copy_from_slice(&self.scopes.to_be_bytes());
        payload
    }
}

impl<K: Kind> Verified<K> {
    /// Reads a token and checks its MAC; no allocation, no store, no clock. What is no token at all costs one
    /// MAC too, so that the time says nothing about how far a guess came.
    pub fn parse(keys: &impl Authenticator, text: impl AsRef<[u8]>) -> Option<Self> {
        let encoded = text
            .as_ref()
            .strip_prefix(K::PREFIX.as_bytes())
            .filter(|encoded| encoded.len() == ENCODED_LENGTH);
        let mut bytes = [0; TOKEN_BYTES];
        let decoded = encoded.map(|encoded| URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes));
        let payload: [u8; PAYLOAD_BYTES] = bytes[1..=PAYLOAD_BYTES].try_into().ok()?;
        let tag = &bytes[1 + PAYLOAD_BYTES..];
        let authentic = keys.is_authentic(bytes[0], K::NAME, &payload, tag);
        (authentic && decoded == Some(Ok(TOKEN_BYTES)))
            .then(|| Verified { claims: Claims::read(&payload), kind: PhantomData })
    }
}

impl Claims {
    fn read(payload: &[u8; PAYLOAD_BYTES]) -> Self {
        let mut family = [0; 16];
        family.copy_from_slice(&payload[..16]);
        let word =
            |at: usize| u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
        Claims {
            family: FamilyId(family),
            generation: word(16),
            expires: Time::from_seconds(word(20).into()),
            scopes: ScopeMask::from_be_bytes([payload[24], payload[25]]),
        }
    }
}

const PAYLOAD_BYTES: usize = 26;
const TOKEN_BYTES: usize = 1 + PAYLOAD_BYTES + TAG_BYTES;
const ENCODED_LENGTH: usize = (TOKEN_BYTES * 4).div_ceil(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::seal::{KeyRing, MasterKey};

    fn keys() -> KeyRing {
        KeyRing::new(&[MasterKey::new(Box::new([1; 32]))]).expect("one key")
    }

    fn claims() -> Claims {
        let family = FamilyId(ManualClock::new(3).clock().random());
        Claims { family, generation: 7, expires: Time::from_seconds(1_900_000_000), scopes: 0b101 }
    }

    #[test]
    fn a_token_comes_back_as_issued_and_only_as_its_kind() {
        let token = claims().issue::<Access>(&keys());
        assert_eq!(Verified::<Access>::parse(&keys(), &token).map(|token| token.claims), Some(claims()));
        assert!(token.starts_with("mapa_") && token.len() == 63, "{token}");
        assert!(Verified::<Refresh>::parse(&keys(), &token).is_none());
        let renamed = token.replace("mapa_", "mapr_");
        assert!(Verified::<Refresh>::parse(&keys(), &renamed).is_none());
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let token = claims().issue::<Refresh>(&keys());
        for at in 0..token.len() {
            for other in ['A', 'z', '=', ' '] {
                let mut changed: Vec<char> = token.chars().collect();
                if changed[at] != other {
                    changed[at] = other;
                    let changed: String = changed.into_iter().collect();
                    assert!(Verified::<Refresh>::parse(&keys(), &changed).is_none(), "{at} {other:?}");
                }
            }
        }
        for wrong in
            ["", "mapr_", &token[..62], &format!("{token}A"), "gho_16C7e42F292c6912E7710c838347Ae178B4a"]
        {
            assert!(Verified::<Refresh>::parse(&keys(), wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn debug_output_does_not_give_a_family_away() {
        let shown = format!("{:?}", claims().family);
        assert!(shown.len() < claims().family.to_string().len());
    }
}
