//! Whom we believe: the machine's own authorities, and those the operator adds. Always verified.

use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{Error, RootCertStore};
use rustls_platform_verifier::Verifier;

/// Further certificate authorities, beside the machine's. These are read when they are first needed, and once for all
/// that believe the same: there are some hundred and forty, in as many files.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    further: Vec<CertificateDer<'static>>,
    verifier: Arc<OnceLock<Arc<Verifier>>>,
}

/// Why a client cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    #[error("cannot use the system's certificates: {0}")]
    Certificates(#[from] Error),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
}

impl Authorities {
    /// Reads PEM: at least one certificate, and none that is broken.
    pub fn parse(pem: &[u8]) -> Option<Self> {
        let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
        let mut roots = RootCertStore::empty();
        let usable = !found.is_empty() && found.iter().all(|found| roots.add(found.clone()).is_ok());
        usable.then_some(Authorities { further: found, verifier: Arc::default() })
    }

    /// The same, read together with the others where they are the same ones.
    pub fn shared_with(self, others: &Authorities) -> Self {
        if self.further == others.further { others.clone() } else { self }
    }

    /// With the machine's own, as they are now or were when this was first asked.
    fn verifier(&self) -> Result<Arc<Verifier>, Error> {
        if let Some(known) = self.verifier.get() {
            return Ok(known.clone());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let read = Verifier::new_with_extra_roots(self.further.iter().cloned(), provider)?;
        Ok(self.verifier.get_or_init(|| Arc::new(read)).clone())
    }

    /// In PEM, together with the machine's own: for a client that takes all it believes, or nothing. `None` when
    /// there are no further ones, and the machine's own are what it takes by itself.
    pub fn with_the_machines(&self) -> Option<Vec<u8>> {
        let encode = |authority: &CertificateDer<'_>| {
            let body = STANDARD.encode(authority);
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        if self.further.is_empty() {
            return None;
        }
        let own = rustls_native_certs::load_native_certs().certs;
        // One that is broken would be refused together with all others.
        let usable =
            |authority: &&CertificateDer<'static>| RootCertStore::empty().add((*authority).clone()).is_ok();
        let all = self.further.iter().chain(own.iter().filter(usable));
        Some(all.map(encode).collect::<String>().into_bytes())
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

/// The settings for connections to whom they vouch for. Sessions are resumed by who shares these.
pub fn trusting(authorities: &Authorities) -> Result<Arc<ClientConfig>, Error> {
    Ok(Arc::new(settings(authorities)?))
}

/// A client of reqwest that believes them.
pub fn client(
    builder: reqwest::ClientBuilder,
    authorities: &Authorities,
) -> Result<reqwest::Client, NoClient> {
    let mut settings = settings(authorities)?;
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(builder.tls_backend_preconfigured(settings).build()?)
}

fn settings(authorities: &Authorities) -> Result<ClientConfig, Error> {
    let verifier = authorities.verifier()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    // This verifier is the platform's own; the word is rustls' for everything it does not ship.
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}
