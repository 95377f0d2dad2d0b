//! The certificate this server shows and its private key: two PEM files that must fit together.
//!
//! RFC 5280 §4.1.2.5 (validity), §4.2.1.12 (purpose); RFC 7468; RFC 8446 §4.4.2 (the chain, our own first).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, Error, RootCertStore, ServerConfig};
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::{Digest as _, Sha256};

use crate::clock::Time;

/// Where the pair lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, then those that lead to an authority.
    pub cert: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Certificate,
    Key,
}

/// Why a pair cannot be shown. Never says a word of what is in the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub part: Part,
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What both files held at one moment.
pub struct Contents {
    cert: Vec<u8>,
    key: SecretSlice<u8>,
}

/// A pair that can be shown.
pub struct Identity {
    config: Arc<ServerConfig>,
    leaf: CertificateDer<'static>,
    ends: Time,
}

impl Files {
    /// Reads and judges both. Blocks.
    pub fn load(&self, now: Time) -> Result<Identity, Fault> {
        self.judge(&self.read()?, now)
    }

    /// Reads both, whatever they hold. Blocks.
    pub(super) fn read(&self) -> Result<Contents, Fault> {
        let read = |part: Part| {
            let path = self.path(part);
            let fault = |error| Fault { part, text: format!("cannot read {}: {error}", path.display()) };
            std::fs::read(path).map_err(fault)
        };
        Ok(Contents { cert: read(Part::Certificate)?, key: SecretSlice::from(read(Part::Key)?) })
    }

    /// Whether these contents can be shown now.
    pub(super) fn judge(&self, contents: &Contents, now: Time) -> Result<Identity, Fault> {
        let fault = |part: Part, text: &str| {
            let path = self.path(part).display();
            Fault { part, text: format!("{path} {text}") }
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&contents.cert).collect();
        let chain = chain.map_err(|_| fault(Part::Certificate, "is not PEM from end to end"))?;
        let leaf = chain.first().cloned();
        let leaf = leaf.ok_or_else(|| fault(Part::Certificate, "holds no certificate in PEM"))?;
        let ends = validity(&leaf, now).map_err(|text| fault(Part::Certificate, &text))?;
        let key = PrivateKeyDer::from_pem_slice(contents.key.expose_secret()).map_err(|_| {
            fault(Part::Key, "holds no private key in PEM (PKCS#8, PKCS#1 or SEC1, without a password)")
        })?;
        let provider = Arc::new(ring::default_provider());
        let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                let cert = self.cert.display();
                fault(Part::Key, &format!("is not the key of the first certificate in {cert}"))
            }
            _ => fault(
                Part::Key,
                "is no key that can be used (RSA of 2048 to 8192 bits, P-256, P-384, Ed25519)",
            ),
        })?;
        let config = server_config(provider, pair)
            .map_err(|error| fault(Part::Certificate, &format!("cannot be used: {error}")))?;
        Ok(Identity { config: Arc::new(config), leaf, ends })
    }

    /// What an operator should know about a pair that works: `host` is the name clients use.
    pub fn concerns(&self, identity: &Identity, host: &str, now: Time) -> Vec<String> {
        let cert = self.cert.display();
        let mut concerns = Vec::new();
        if !identity.is_for(host) {
            concerns.push(format!("tls.cert: {cert} is not for {host}, so clients will refuse it"));
        }
        concerns.extend(identity.ends_soon(now).map(|days| format!("tls.cert: {cert} expires {days}")));
        if is_open_to_all(&self.key) {
            // Not refused: Kubernetes and Docker Swarm mount secrets with 0644 and 0444 into containers.
            let key = self.key.display();
            concerns.push(format!("tls.key: every user of this machine can read {key}; run chmod 640 on it"));
        }
        concerns
    }

    fn path(&self, part: Part) -> &Path {
        match part {
            Part::Certificate => &self.cert,
            Part::Key => &self.key,
        }
    }
}

impl Contents {
    /// What tells these contents from others.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update((self.cert.len() as u64).to_be_bytes());
        digest.update(&self.cert);
        digest.update(self.key.expose_secret());
        digest.finalize().into()
    }
}

impl Identity {
    /// The settings for connections that are shown it.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Whether the certificate is for this name or address.
    pub fn is_for(&self, host: &str) -> bool {
        let name = ServerName::try_from(host.trim_matches(['[', ']']));
        let leaf = ParsedCertificate::try_from(&self.leaf);
        matches!((name, leaf), (Ok(name), Ok(leaf)) if verify_server_name(&leaf, &name).is_ok())
    }

    /// When it expires ("in 3 days"), once that is near: automatic renewal should have happened by then.
    pub fn ends_soon(&self, now: Time) -> Option<String> {
        let left = self.ends.since(now);
        match left < NEAR {
            true if left.is_zero() => Some("now".to_owned()),
            true => Some(format!("in {}", days(left))),
            false => None,
        }
    }
}

/// When a certificate ends, unless it is not valid now. webpki looks at the dates before it looks for an
/// authority, so no authority is needed to ask.
fn validity(leaf: &CertificateDer<'_>, now: Time) -> Result<Time, String> {
    let parsed = ParsedCertificate::try_from(leaf).map_err(|_| "holds a certificate that is broken")?;
    let at = |moment: UnixTime| {
        let (nobody, algorithms) = (RootCertStore::empty(), ring::default_provider());
        let algorithms = algorithms.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], moment, algorithms)
    };
    let since = |moment: UnixTime| Duration::from_secs(now.seconds().abs_diff(moment.as_secs()));
    use CertificateError as E;
    match at(UnixTime::since_unix_epoch(Duration::from_millis(now.millis()))) {
        Err(Error::InvalidCertificate(E::ExpiredContext { not_after, .. })) => {
            return Err(format!("expired {} ago", days(since(not_after))));
        }
        Err(Error::InvalidCertificate(E::NotValidYetContext { not_before, .. })) => {
            return Err(format!("is valid only in {}", days(since(not_before))));
        }
        Err(Error::InvalidCertificate(E::Expired | E::NotValidYet)) => {
            return Err("is never valid: its dates contradict each other".to_owned());
        }
        Err(Error::InvalidCertificate(E::InvalidPurpose | E::InvalidPurposeContext { .. })) => {
            return Err("is not for servers (its extended key usage lacks serverAuth)".to_owned());
        }
        // Nobody vouches for it, of course.
        _ => {}
    }
    match at(UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX))) {
        Err(Error::InvalidCertificate(E::ExpiredContext { not_after, .. })) => {
            Ok(Time::from_seconds(not_after.as_secs()))
        }
        _ => Ok(Time::NEVER),
    }
}

fn days(duration: Duration) -> String {
    match duration.as_secs() / 86_400 {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

fn server_config(provider: Arc<CryptoProvider>, pair: CertifiedKey) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![super::shown::HTTP2.to_vec(), b"http/1.1".to_vec()];
    // Resumption by tickets: nothing is kept here for strangers. With keys of its own for every pair, nobody
    // resumes a connection that was shown another. Early data, which can be replayed (RFC 8446 §8), stays off.
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Whether more than the owner and a group can read it.
fn is_open_to_all(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

/// Certificates of 90 days are renewed 30 days ahead, those of 6 days 3 days ahead.
const NEAR: Duration = Duration::from_secs(2 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    /// 20 January 2027.
    const END: u64 = 1_800_403_200;

    fn judged(now: u64) -> Result<Option<String>, String> {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["p.test".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(2027, 1, 20);
        let cert = params.self_signed(&key).expect("signs").pem().into_bytes();
        let contents = Contents { cert, key: SecretSlice::from(key.serialize_pem().into_bytes()) };
        let files = Files { cert: "cert.pem".into(), key: "key.pem".into() };
        let identity = files.judge(&contents, Time::from_seconds(now)).map_err(|fault| fault.to_string())?;
        Ok(identity.ends_soon(Time::from_seconds(now)))
    }

    #[test]
    fn the_end_of_a_certificate_is_seen_coming() {
        assert_eq!(judged(END - 60 * DAY), Ok(None));
        assert_eq!(judged(END - 2 * DAY), Ok(None));
        assert_eq!(judged(END - 2 * DAY + 1), Ok(Some("in 1 day".to_owned())));
        assert_eq!(judged(END - 1), Ok(Some("in less than a day".to_owned())));
        assert_eq!(judged(END), Ok(Some("now".to_owned())));
        assert_eq!(judged(END + 1), Err("cert.pem expired less than a day ago".to_owned()));
        assert_eq!(judged(END + 9 * DAY), Err("cert.pem expired 9 days ago".to_owned()));
    }
}
