//! What a proxy says of itself when it has started.

use std::net::SocketAddr;

use tracing::{info, warn};

use crate::config::{Config, StoreConfig};

/// The lines an operator looks for first; said once everything is up.
pub(super) fn announcement(config: &Config, address: SocketAddr) -> impl FnOnce() + use<> {
    let resources: Vec<(String, String)> =
        config.resources.iter().map(|r| (r.resource.url().to_owned(), shown(&r.upstreams))).collect();
    let (issuer, workers, store) = (config.issuer.clone(), config.workers, config.store.clone());
    let reaches_inside = config.client_metadata.allow_private_addresses;
    move || {
        for (resource, upstream) in resources {
            info!(resource, upstream, "publishing");
        }
        if matches!(store, StoreConfig::Memory) {
            warn!("store is memory: every login is lost when this process ends");
        }
        if reaches_inside {
            warn!(
                "client_metadata.allow_private_addresses: strangers can have https URLs inside your network fetched"
            );
        }
        info!(%issuer, listen = %address, workers, %store, version = env!("CARGO_PKG_VERSION"), "serving");
    }
}

/// Upstreams without their queries, which may hold a key.
pub fn shown(upstreams: &[http::Uri]) -> String {
    let of = |upstream: &http::Uri| upstream.to_string().split('?').next().unwrap_or_default().to_owned();
    upstreams.iter().map(of).collect::<Vec<_>>().join(", ")
}
