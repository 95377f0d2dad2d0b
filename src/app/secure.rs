//! TLS as configured: what is shown, and what follows from it.

use std::sync::Arc;

use super::{StartError, Tuning};
use crate::clock::Clock;
use crate::config::Config;
use crate::protocol::issuer::Issuer;
use crate::tls::Shown;

/// What listeners show, when TLS ends here.
pub(super) fn shown(
    config: &Config,
    clock: &Clock,
    tuning: &Tuning,
) -> Result<Option<Arc<Shown>>, StartError> {
    let Some(files) = config.tls.clone() else { return Ok(None) };
    let shown = Shown::load(files, config.issuer.host(), tuning.handshake, clock.now());
    shown.map(|shown| Some(Arc::new(shown))).map_err(StartError::Tls)
}

/// Whether browsers are told to come by https only. They remember that of a host whatever the port: it is said
/// where https has its own port only, so that nothing else of the operator's moves, and never of the reader's
/// own machine. Where TLS ends before us it is for the terminator to say.
pub(super) fn is_strict(config: &Config) -> bool {
    let Config { issuer, tls, .. } = config;
    tls.is_some() && issuer.port() == Issuer::HTTPS_PORT && !issuer.is_loopback()
}
