//! The key ring: what we hand to strangers carries our MAC or our AEAD seal.
//!
//! Every tag and every seal covers the *kind* of the value, so that no value can pose as another, and seals
//! cover a binding (associated data) too. One key writes (the first, once all replicas can read it), all keys read: that is
//! rotation.
//! Does not know what it seals, and never chooses its own nonces (entropy comes from `clock.rs`).
//! RFC 2104 (HMAC), RFC 8439 and draft-irtf-cfrg-xchacha (XChaCha20-Poly1305).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretBox};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::clock::Clock;
use crate::protocol::token::{Authenticator, TAG_BYTES, Tag};

/// 32 bytes of master key; redacted in `Debug`, wiped on drop.
pub type MasterKey = SecretBox<[u8; 32]>;

/// The keys of this installation, newest first.
#[derive(Clone)]
pub struct KeyRing {
    keys: Arc<[Key]>,
    /// Which of them writes.
    writing: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Key {
    id: u8,
    // Keyed once; each use clones the state, which saves two compression rounds per request.
    mac: Hmac<Sha256>,
    /// What keys of scopes are derived with.
    scopes: Hmac<Sha256>,
    aead: XChaCha20Poly1305,
}

/// Tags of one kind about one thing: both are in its keys, so that they are not hashed for each.
pub struct Scope {
    /// In the order of the ring's.
    keys: Box<[Scoped]>,
    writing: Arc<AtomicUsize>,
}

struct Scoped {
    id: u8,
    mac: Hmac<Sha256>,
}

/// A value that may leave the process under our seal. The kind is part of what is authenticated.
pub trait Sealable: Serialize + DeserializeOwned {
    /// Distinct for every type of sealed value.
    const KIND: &'static str;
}

impl KeyRing {
    /// The first key writes, all keys read. `None` when there is no key.
    pub fn new(masters: &[MasterKey]) -> Option<Self> {
        let keys: Arc<[Key]> = masters.iter().map(|master| Key::derive(master.expose_secret())).collect();
        (!keys.is_empty()).then(|| KeyRing { keys, writing: Arc::default() })
    }

    /// Lets the key with this number write from now on, everywhere this ring is. One that does not exist changes
    /// nothing.
    pub fn write_with(&self, number: usize) {
        if number < self.keys.len() {
            self.writing.store(number, Ordering::Relaxed);
        }
    }

    fn writing(&self) -> &Key {
        &self.keys[self.writing.load(Ordering::Relaxed)]
    }

    /// A name for each key, in their order, that tells nothing about it.
    pub fn names(&self) -> Vec<String> {
        self.keys.iter().map(|key| URL_SAFE_NO_PAD.encode(key.tag("name of a key", &[]))).collect()
    }

    /// A 128-bit tag over `parts` under the writing key; each part is length-prefixed, so that two different
    /// lists never share a tag.
    pub fn tag(&self, kind: &str, parts: &[&[u8]]) -> (u8, Tag) {
        let key = self.writing();
        (key.id, key.tag(kind, parts))
    }

    /// Whether `tag` was made over `parts` by the key `key_id`; constant time in the tag, and as much work for a
    /// key that we do not have.
    pub fn holds(&self, key_id: u8, kind: &str, parts: &[&[u8]], tag: &[u8]) -> bool {
        holds(&self.keys, |key| key.id == key_id, |key| key.tag(kind, parts), tag)
    }

    /// Keys for the tags of a kind about one thing, derived from ours.
    pub fn scope(&self, kind: &str, about: &[u8]) -> Scope {
        let derived = |key: &Key| {
            let parts = [kind.as_bytes(), about].into_iter();
            Scoped { id: key.id, mac: hmac(&mac_over(&key.scopes, parts)) }
        };
        Scope { keys: self.keys.iter().map(derived).collect(), writing: self.writing.clone() }
    }

    /// Seals a value: `base64url(key id | nonce | ciphertext)`. Opening needs the same binding.
    pub fn seal<T: Sealable>(&self, clock: &Clock, binding: &[u8], value: &T) -> String {
        let plain = postcard::to_stdvec(value).expect("sealed values are plain data");
        URL_SAFE_NO_PAD.encode(self.seal_bytes(clock, T::KIND, binding, &plain))
    }

    /// Opens what [`KeyRing::seal`] made; `None` for anything else, whatever the reason.
    pub fn open<T: Sealable>(&self, binding: &[u8], sealed: &str) -> Option<T> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        postcard::from_bytes(&self.open_bytes(T::KIND, binding, &sealed)?).ok()
    }

    /// Seals bytes: key id, nonce and ciphertext.
    pub fn seal_bytes(&self, clock: &Clock, kind: &str, binding: &[u8], plain: &[u8]) -> Vec<u8> {
        let key = self.writing();
        let nonce: [u8; NONCE_BYTES] = clock.random();
        let aad = associated_data(kind, binding);
        let payload = Payload { msg: plain, aad: &aad };
        let sealed = key.aead.encrypt(&XNonce::from(nonce), payload).expect("values are far below 256 GiB");
        [&[key.id], nonce.as_slice(), &sealed].concat()
    }

    /// Opens what [`KeyRing::seal_bytes`] made under the same kind and binding.
    pub fn open_bytes(&self, kind: &str, binding: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (&key_id, rest) = sealed.split_first()?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        let aad = associated_data(kind, binding);
        let mut candidates = self.keys.iter().filter(|key| key.id == key_id);
        candidates.find_map(|key| key.aead.decrypt(&nonce, Payload { msg: sealed, aad: &aad }).ok())
    }
}

impl Authenticator for KeyRing {
    fn authenticate(&self, kind: &str, payload: &[u8]) -> (u8, Tag) {
        self.tag(kind, &[payload])
    }

    fn is_authentic(&self, key_id: u8, kind: &str, payload: &[u8], tag: &[u8]) -> bool {
        self.holds(key_id, kind, &[payload], tag)
    }
}

impl Scope {
    /// A 128-bit tag under the writing key over these parts, one behind the other. In a scope all of them but the last are
    /// always of the same length, or two different lists could share a tag.
    pub fn tag(&self, parts: &[&[u8]]) -> (u8, Tag) {
        let key = &self.keys[self.writing.load(Ordering::Relaxed)];
        (key.id, key.tag(parts))
    }

    /// As [`KeyRing::holds`].
    pub fn holds(&self, key_id: u8, parts: &[&[u8]], tag: &[u8]) -> bool {
        holds(&self.keys, |key| key.id == key_id, |key| key.tag(parts), tag)
    }
}

impl Scoped {
    fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut gathered = Gathered::new(&self.mac);
        parts.iter().for_each(|part| gathered.put(part));
        truncated(gathered.finish())
    }
}

/// Whether one of the keys that are meant has made the tag. If none is meant, one is tried all the same.
fn holds<K>(keys: &[K], is_meant: impl Fn(&K) -> bool, made: impl Fn(&K) -> Tag, tag: &[u8]) -> bool {
    let mut ours = keys.iter().filter(|key| is_meant(key)).peekable();
    let is_known = ours.peek().is_some();
    let mut tried = ours.chain(keys.first().filter(|_| !is_known));
    tried.any(|key| made(key).ct_eq(tag).into()) && is_known
}

impl Key {
    fn derive(master: &[u8; 32]) -> Self {
        let subkey =
            |purpose: &str| -> [u8; 32] { mac_over(&hmac(master), std::iter::once(purpose.as_bytes())) };
        let [id, ..] = subkey("mcp-auth-proxy key id");
        let aead = XChaCha20Poly1305::new(&subkey("mcp-auth-proxy seal").into());
        let [mac, scopes] =
            ["mcp-auth-proxy mac", "mcp-auth-proxy scopes"].map(|purpose| hmac(&subkey(purpose)));
        Key { id, mac, scopes, aead }
    }

    fn tag(&self, kind: &str, parts: &[&[u8]]) -> Tag {
        truncated(mac_over(&self.mac, std::iter::once(kind.as_bytes()).chain(parts.iter().copied())))
    }
}

/// 32 random bytes in base64 (either alphabet, padded or not).
pub fn parse_key(text: &str) -> Result<MasterKey, String> {
    let engines = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD];
    let bytes = engines.iter().find_map(|engine| engine.decode(text).ok());
    let bytes: [u8; 32] = bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or("expected 32 random bytes in base64, as `openssl rand -base64 32` prints them")?;
    let distinct = bytes.iter().collect::<BTreeSet<_>>().len();
    // What people type when they need 32 bytes: one or a few, over and over. Random ones have 30 different.
    if distinct < 8 {
        return Err("is not random; make one with `openssl rand -base64 32`".to_owned());
    }
    Ok(MasterKey::new(Box::new(bytes)))
}

fn hmac(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn truncated(full: [u8; 32]) -> Tag {
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&full[..TAG_BYTES]);
    tag
}

/// Over parts each of which is behind its length.
fn mac_over<'a>(mac: &Hmac<Sha256>, parts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut gathered = Gathered::new(mac);
    for part in parts {
        gathered.put(&(part.len() as u64).to_be_bytes());
        gathered.put(part);
    }
    gathered.finish()
}

/// What a MAC is over, in one piece: handing it to the hash piece by piece costs as much as hashing it.
struct Gathered {
    mac: Hmac<Sha256>,
    bytes: [u8; GATHERED],
    length: usize,
}

impl Gathered {
    fn new(mac: &Hmac<Sha256>) -> Self {
        Gathered { mac: mac.clone(), bytes: [0; GATHERED], length: 0 }
    }

    fn put(&mut self, piece: &[u8]) {
        match self.bytes.get_mut(self.length..).and_then(|rest| rest.get_mut(..piece.len())) {
            Some(room) => {
                room.copy_from_slice(piece);
                self.length += piece.len();
            }
            // It is long, as hardly any is.
            None => {
                self.mac.update(&self.bytes[..self.length]);
                self.mac.update(piece);
                self.length = 0;
            }
        }
    }

    fn finish(mut self) -> [u8; 32] {
        self.mac.update(&self.bytes[..self.length]);
        self.mac.finalize().into_bytes().into()
    }
}

fn associated_data(kind: &str, binding: &[u8]) -> Vec<u8> {
    [&(kind.len() as u64).to_be_bytes(), kind.as_bytes(), binding].concat()
}

const NONCE_BYTES: usize = 24;
const GATHERED: usize = 256;

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::clock::ManualClock;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Apple(String);
    impl Sealable for Apple {
        const KIND: &'static str = "apple";
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pear(String);
    impl Sealable for Pear {
        const KIND: &'static str = "pear";
    }

    fn ring(masters: &[u8]) -> KeyRing {
        let masters: Vec<MasterKey> =
            masters.iter().map(|byte| MasterKey::new(Box::new([*byte; 32]))).collect();
        KeyRing::new(&masters).expect("a key")
    }

    #[test]
    fn a_seal_opens_only_as_its_own_kind_and_binding() {
        let (ring, clock) = (ring(&[1]), ManualClock::new(1).clock());
        let sealed = ring.seal(&clock, b"browser", &Apple("red".into()));
        assert_eq!(ring.open::<Apple>(b"browser", &sealed), Some(Apple("red".into())));
        assert_eq!(ring.open::<Apple>(b"another", &sealed), None);
        assert_eq!(ring.open::<Pear>(b"browser", &sealed), None);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (ring, clock) = (ring(&[1]), ManualClock::new(1).clock());
        let sealed = ring.seal_bytes(&clock, "apple", b"", b"red");
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert_eq!(ring.open_bytes("apple", b"", &changed), None, "byte {position}");
        }
        assert_eq!(ring.open_bytes("apple", b"", &[]), None);
    }

    #[test]
    fn after_rotation_old_values_are_read_and_new_ones_written_with_the_new_key() {
        let clock = ManualClock::new(1).clock();
        let (old, both, new) = (ring(&[1]), ring(&[2, 1]), ring(&[2]));
        let sealed = old.seal_bytes(&clock, "apple", b"", b"red");
        assert!(both.open_bytes("apple", b"", &sealed).is_some());
        assert!(new.open_bytes("apple", b"", &sealed).is_none());
        let (id, tag) = both.tag("apple", &[b"red"]);
        assert!(new.holds(id, "apple", &[b"red"], &tag));
        assert!(!old.holds(id, "apple", &[b"red"], &tag));
    }

    #[test]
    fn a_tag_is_over_the_same_bytes_however_many_they_are() {
        let ring = ring(&[1]);
        for length in [0, 1, 200, 231, 232, 233, 256, 300, 5_000] {
            let part = vec![b'x'; length];
            let mut mac = ring.keys[0].mac.clone();
            for part in [&b"k"[..], &part, b""] {
                mac.update(&(part.len() as u64).to_be_bytes());
                mac.update(part);
            }
            let full = mac.finalize().into_bytes();
            assert_eq!(ring.tag("k", &[&part, b""]).1, full[..TAG_BYTES], "{length}");
        }
    }

    #[test]
    fn a_scope_has_keys_of_its_own() {
        let (old, both) = (ring(&[1]), ring(&[2, 1]));
        let scope = old.scope("k", b"about");
        let (id, tag) = scope.tag(&[b"12", b"value"]);
        for (ring, kind, about, expected) in [
            (&old, "k", &b"about"[..], true),
            (&both, "k", b"about", true),
            (&old, "ka", b"bout", false),
            (&old, "l", b"about", false),
            (&old, "k", b"", false),
            (&ring(&[2]), "k", b"about", false),
        ] {
            let holds = ring.scope(kind, about).holds(id, &[b"12", b"value"], &tag);
            assert_eq!(holds, expected, "{kind} {about:?}");
        }
        assert!(!scope.holds(id, &[b"12", b"valuf"], &tag) && !scope.holds(id ^ 1, &[b"12", b"value"], &tag));
        assert!(!old.holds(id, "k", &[b"12", b"value"], &tag), "nor does it hold without one");
        assert_ne!(both.scope("k", b"about").tag(&[b"12", b"value"]).0, id, "the newest writes");
    }

    #[test]
    fn parts_do_not_run_together() {
        let ring = ring(&[1]);
        assert_ne!(ring.tag("k", &[b"ab", b"c"]).1, ring.tag("k", &[b"a", b"bc"]).1);
    }
}
