//! TLS to PostgreSQL, bound to the login that goes over it (SCRAM-SHA-256-PLUS). RFC 5929 §4, RFC 5802 §6.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::{TlsConnector, client};

/// Makes TLS of a connection that the server agreed to have some on.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

/// For the host of this name.
pub(super) struct Named {
    connector: TlsConnector,
    host: String,
}

/// A connection with TLS.
pub(super) struct Stream<S>(client::TlsStream<S>);

impl Tls {
    pub(super) fn new(config: Arc<ClientConfig>) -> Self {
        Tls(TlsConnector::from(config))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = Named;
    type Error = Infallible;

    // A Unix socket has a name here too, and never comes as far as TLS.
    fn make_tls_connect(&mut self, host: &str) -> Result<Named, Infallible> {
        Ok(Named { connector: self.0.clone(), host: host.to_owned() })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Named {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = ServerName::try_from(self.host);
            let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            self.connector.connect(name, stream).await.map(Stream)
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let shown = self.0.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        shown
            .and_then(|certificate| end_point(certificate))
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

// RFC 5929 §4.1: the certificate, hashed as it was for its own signature, with SHA-256 where that was MD5 or SHA-1. One
// that is signed without a hash of its own (Ed25519) binds nothing, as libpq has it.
/// The `tls-server-end-point` of a certificate.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_algorithm(certificate)? {
        SHA1_RSA | SHA256_RSA | SHA1_ECDSA | SHA256_ECDSA => Sha256::digest(certificate).to_vec(),
        SHA384_RSA | SHA384_ECDSA => Sha384::digest(certificate).to_vec(),
        SHA512_RSA | SHA512_ECDSA => Sha512::digest(certificate).to_vec(),
        _ => return None,
    })
}

/// RFC 5280 §4.1: what is signed, then how. Only the name of the algorithm is read; rustls has judged the rest.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (parts, _) = element(SEQUENCE, certificate)?;
    let (_, parts) = element(SEQUENCE, parts)?;
    let (algorithm, _) = element(SEQUENCE, parts)?;
    Some(element(OBJECT_IDENTIFIER, algorithm)?.0)
}

/// The content of the first element in DER, which must be of this kind, and what follows it.
fn element(kind: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, der) = der.split_first()?;
    let (length, der) = der.split_first()?;
    let (length, der) = match *length {
        short @ ..0x80 => (usize::from(short), der),
        long => {
            let (length, der) = der.split_at_checked(usize::from(long & 0x7f))?;
            let is_small = length.len() <= size_of::<u32>();
            (is_small.then(|| length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))?, der)
        }
    };
    (*found == kind).then(|| der.split_at_checked(length)).flatten()
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
// RFC 8017 appendix C, 1.2.840.113549.1.1; RFC 3279 §2.2.3 and RFC 5758 §3.2, 1.2.840.10045.4.
const SHA1_RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05";
const SHA256_RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b";
const SHA384_RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c";
const SHA512_RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d";
const SHA1_ECDSA: &[u8] = b"\x2a\x86\x48\xce\x3d\x04\x01";
const SHA256_ECDSA: &[u8] = b"\x2a\x86\x48\xce\x3d\x04\x03\x02";
const SHA384_ECDSA: &[u8] = b"\x2a\x86\x48\xce\x3d\x04\x03\x03";
const SHA512_ECDSA: &[u8] = b"\x2a\x86\x48\xce\x3d\x04\x03\x04";

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    #[test]
    fn a_certificate_is_hashed_as_it_was_signed() {
        let signed = |algorithm| {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let params = CertificateParams::new(vec!["db.test".to_owned()]).expect("a name");
            params.self_signed(&key).expect("a certificate").der().to_vec()
        };
        let (p256, p384) = (signed(&PKCS_ECDSA_P256_SHA256), signed(&PKCS_ECDSA_P384_SHA384));
        assert_eq!(end_point(&p256), Some(Sha256::digest(&p256).to_vec()));
        assert_eq!(end_point(&p384), Some(Sha384::digest(&p384).to_vec()));
        assert_eq!(end_point(&signed(&PKCS_ED25519)), None);
        for cut in 0..p256.len() {
            let _ = end_point(&p256[..cut]);
        }
        assert_eq!(end_point(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30]), None);
    }
}
