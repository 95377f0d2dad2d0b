//! Where an upstream is: read once, from the configuration.

use std::sync::Arc;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsConnector;
use url::Url;

/// Where an upstream is.
pub struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    host_header: HeaderValue,
    origin: String,
    path: PathAndQuery,
    digest: [u8; 32],
    url: Arc<Url>,
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why an upstream cannot be reached by principle.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("is not an absolute http or https URL")]
    NotAbsolute,
    #[error("names a host that no certificate can be for")]
    ServerName,
    #[error("cannot use the system's certificates: {0}")]
    Certificates(rustls::Error),
}

impl Target {
    /// Reads the URL of an upstream; `tls` is asked for https ones only.
    pub fn new(
        uri: &Uri,
        tls: impl FnOnce() -> Result<Arc<rustls::ClientConfig>, rustls::Error>,
    ) -> Result<Self, TargetError> {
        let authority = uri.authority().ok_or(TargetError::NotAbsolute)?;
        let scheme = uri.scheme().ok_or(TargetError::NotAbsolute)?;
        let secure = *scheme == Scheme::HTTPS;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if secure {
            let name = ServerName::try_from(host.clone()).map_err(|_| TargetError::ServerName)?;
            Some((TlsConnector::from(tls().map_err(TargetError::Certificates)?), name))
        } else {
            None
        };
        Ok(Target {
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            host_header: HeaderValue::from_str(authority.as_str()).map_err(|_| TargetError::NotAbsolute)?,
            origin: format!("{scheme}://{authority}"),
            digest: Sha256::digest(uri.to_string()).into(),
            url: Arc::new(Url::parse(&uri.to_string()).map_err(|_| TargetError::NotAbsolute)?),
            path: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            host,
            tls,
        })
    }

    /// The Host header for it.
    pub fn host(&self) -> &HeaderValue {
        &self.host_header
    }

    /// `scheme://host[:port]`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Its URL, against which what it names is resolved.
    pub fn url(&self) -> &Arc<Url> {
        &self.url
    }

    /// The SHA-256 of its URL, which tells it from others in every process.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The path and query of its MCP endpoint.
    pub fn path(&self) -> &PathAndQuery {
        &self.path
    }
}
