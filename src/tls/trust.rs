//! Whom we believe: the machine's own authorities, and those the operator adds. Always verified.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{Error, RootCertStore};
use rustls_platform_verifier::Verifier;

/// Further certificate authorities, beside the machine's.
#[derive(Clone, Debug, Default)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads PEM: at least one certificate, and none that is broken.
    pub fn parse(pem: &[u8]) -> Option<Self> {
        let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
        let mut roots = RootCertStore::empty();
        let usable = !found.is_empty() && found.iter().all(|found| roots.add(found.clone()).is_ok());
        usable.then_some(Authorities(found))
    }

    /// For clients that are built by reqwest.
    pub fn for_reqwest(&self) -> Result<Vec<reqwest::Certificate>, reqwest::Error> {
        self.0.iter().map(|authority| reqwest::Certificate::from_der(authority)).collect()
    }

    /// In PEM, together with the machine's own: for a client that takes all it believes, or nothing. `None` when
    /// there are no further ones, and the machine's own are what it takes by itself.
    pub fn with_the_machines(&self) -> Option<Vec<u8>> {
        let encode = |authority: &CertificateDer<'_>| {
            let body = STANDARD.encode(authority);
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        let own = rustls_native_certs::load_native_certs().certs;
        // One that is broken would be refused together with all others.
        let usable =
            |authority: &&CertificateDer<'static>| RootCertStore::empty().add((*authority).clone()).is_ok();
        let all = self.0.iter().chain(own.iter().filter(usable));
        (!self.0.is_empty()).then(|| all.map(encode).collect::<String>().into_bytes())
    }
}

/// Whether a connection failed because the other side's certificate was not believed.
pub fn is_distrust(error: &(dyn StdError + 'static)) -> bool {
    if matches!(error.downcast_ref(), Some(Error::InvalidCertificate(_))) {
        return true;
    }
    // What an io::Error carries is not its source, and they are carried by one another.
    let next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(carried) => Some(carried as &(dyn StdError + 'static)),
        None => error.source(),
    };
    next.is_some_and(is_distrust)
}

/// The settings for connections to upstreams.
pub fn trusting(authorities: &Authorities) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(authorities.0.iter().cloned(), provider.clone())?;
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    // This verifier is the platform's own; the word is rustls' for everything it does not ship.
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(Arc::new(config.with_no_client_auth()))
}
