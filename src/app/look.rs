//! What can be said of a valid configuration on this machine without starting it.

use super::install_crypto;
use crate::clock::Clock;
use crate::config::{Config, StoreConfig};
use crate::telemetry::audit::Destination;
use crate::tls;
use crate::upstream::Target;

/// What would keep it from starting, as far as looking can tell.
pub fn obstacles(config: &Config) -> Vec<String> {
    install_crypto();
    let upstreams = config.resources.iter().filter_map(|resource| {
        let target = |upstream| Target::new(upstream, || tls::trusting(&config.authorities));
        let error = resource.upstreams.iter().find_map(|upstream| target(upstream).err())?;
        Some(format!("the upstream of {} {error}", resource.resource.path()))
    });
    let directory = match &config.store {
        StoreConfig::Sqlite(path) => path.parent().filter(|directory| !directory.as_os_str().is_empty()),
        StoreConfig::Postgres(_) | StoreConfig::Redis(_) | StoreConfig::Memory => None,
    };
    let missing = directory.filter(|directory| !directory.is_dir());
    let missing =
        missing.map(|directory| format!("the store's directory {} does not exist", directory.display()));
    upstreams.chain(missing).chain(no_trail(config)).chain(one_listener_twice(config)).collect()
}

fn no_trail(config: &Config) -> Option<String> {
    let Some(Destination::File(path)) = &config.audit else { return None };
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty())?;
    let missing = !directory.is_dir();
    missing.then(|| format!("the directory {} of the audit trail does not exist", directory.display()))
}

fn one_listener_twice(config: &Config) -> Option<String> {
    let metrics = config.metrics?;
    let is_same = metrics.port() != 0 && config.listen == metrics;
    is_same.then(|| format!("metrics: and listen: are both {metrics}"))
}

/// What would not keep it from starting, and should be known.
pub fn concerns(config: &Config) -> Vec<String> {
    let now = Clock::system().now();
    let identity = config.tls.as_ref().and_then(|files| Some((files, files.load(now).ok()?)));
    identity.map(|(files, identity)| files.concerns(&identity, config.issuer.host(), now)).unwrap_or_default()
}
