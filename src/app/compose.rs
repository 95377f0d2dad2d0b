//! Puts the rooms together: a [`Config`] and what outlives it in, a [`Server`] out.

use std::sync::Arc;

use super::lasting::Lasting;
use super::{StartError, Tuning, bounds, secure};
use crate::clock::Clock;
use crate::config::{Allow, CALLBACK_PATH, Config, ResourceConfig};
use crate::gate::challenge::Challenges;
use crate::gate::origin::Origins;
use crate::gate::{Gate, Gated};
use crate::github::GitHub;
use crate::github::admission::{Admission, AllowList};
use crate::github::credential::Credentials;
use crate::limit::Limiters;
use crate::oauth::document::Fetcher;
use crate::oauth::pages::{self, Front, FrontResource};
use crate::oauth::{self, AuthorizationServer, Documents};
use crate::seal::KeyRing;
use crate::server::{Proxies, Published, Server};
use crate::store::Records;
use crate::store::authentic::Authentic;
use crate::store::families::Families;
use crate::store::people::People;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::Word;
use crate::telemetry::numbers::Numbers;
use crate::tls::{self, NoClient};
use crate::upstream::{self, Target, Upstream};

/// Puts the rooms together.
pub(super) fn compose(
    config: Config,
    lasting: &Lasting,
    keys: &Arc<KeyRing>,
    tuning: &Tuning,
) -> Result<Server, StartError> {
    let (clock, side) = (&lasting.clock, &lasting.side);
    let records: Arc<dyn Records> = Arc::new(Authentic::new(lasting.records.clone(), keys.clone()));
    let families = Families::new(records.clone(), clock.clone(), config.lifetimes);
    let people = People::new(records.clone(), clock.clone(), config.lifetimes.refresh_max);
    // First what may fail, last what changes something: a configuration that is refused leaves everything as it was.
    let limits = lasting.limiters(&config.limits.rates);
    let upstreams = upstreams(&config, lasting, tuning, keys)?;
    let documents = documents(&config, clock, &limits)?;
    let telemetry = lasting.telemetry(&config)?;
    let github = Arc::new(github(&config, clock, tuning, &telemetry)?);
    let admission = Arc::new(Admission::new(allow_list(&config.allow), github.clone(), people.clone()));
    let kept = (people.clone(), families.clone());
    let judging = (admission.clone(), side.clone());
    let flights = lasting.flights.clone();
    let credentials = Credentials::new(github.clone(), kept, keys.clone(), clock.clone(), judging, flights);
    let gated =
        config.resources.iter().map(|r| Gated { resource: r.resource.clone(), inject: r.inject.clone() });
    let gate = Gate::new(
        keys.clone(),
        clock.clone(),
        (families.clone(), lasting.still.clone()),
        credentials.clone(),
        gated.collect(),
        limits.clone(),
    );
    let gate = Arc::new(gate);
    let (tls, strict_transport) = (lasting.shown(&config, tuning)?, secure::is_strict(&config));
    let gates = lasting.gates.clone();
    gates.join(&gate);
    families.when_ended(move |id| gates.forget(id));
    let parts = oauth::Parts {
        keys: keys.clone(),
        clock: clock.clone(),
        families,
        people,
        github,
        credentials,
        admission,
        documents,
        limits: limits.clone(),
        telemetry: telemetry.clone(),
        spent: lasting.spent.clone(),
    };
    let front = front(&config);
    let origins = Origins::new(&config.issuer, config.allowed_origins.clone());
    let issuer = config.issuer.clone();
    let bounds = bounds::all(&config, &lasting.tallies);
    let proxies = Proxies::new(config.trusted_proxies.clone(), config.proxies_declared);
    let enabled = parts.documents.is_some();
    let settings = oauth_settings(config);
    let documents = Documents::new(&settings, enabled);
    let oauth = Arc::new(AuthorizationServer::new(settings, parts));
    let (clock, side, readiness) = (clock.clone(), side.clone(), lasting.readiness.clone());
    Ok(Server {
        issuer,
        clock,
        gate,
        upstreams,
        oauth,
        documents,
        front,
        origins,
        proxies,
        limits,
        bounds,
        tls,
        strict_transport,
        telemetry,
        side,
        readiness,
    })
}

pub(super) fn github(
    config: &Config,
    clock: &Clock,
    tuning: &Tuning,
    telemetry: &Telemetry,
) -> Result<GitHub, NoClient> {
    let settings = crate::github::Settings {
        client_id: config.github.client_id.clone(),
        client_secret: config.github.client_secret.clone(),
        base_url: config.github.base_url.clone(),
        api_url: config.github.api_url.clone(),
        callback_url: config.issuer.url(CALLBACK_PATH),
        fresh_token_retries: tuning.fresh_token_retries.clone(),
        timeout: tuning.github_timeout,
        authorities: config.authorities.clone(),
    };
    GitHub::new(settings, clock.clone(), telemetry.clone())
}

pub(super) fn allow_list(allow: &Allow) -> AllowList {
    match allow.clone() {
        Allow::Anyone => AllowList::Anyone,
        Allow::Listed { users, orgs, teams } => AllowList::Listed { users, orgs, teams },
    }
}

fn documents(config: &Config, clock: &Clock, limits: &Arc<Limiters>) -> Result<Option<Fetcher>, NoClient> {
    let settings = oauth::document::Settings {
        allow_hosts: config.client_metadata.allow_hosts.clone(),
        authorities: config.client_metadata.authorities.clone(),
        allow_private_addresses: config.client_metadata.allow_private_addresses,
        own: (config.issuer.host().to_owned(), config.issuer.port()),
    };
    config.client_metadata.enabled.then(|| Fetcher::new(settings, clock.clone(), limits.clone())).transpose()
}

fn upstreams(
    config: &Config,
    lasting: &Lasting,
    tuning: &Tuning,
    keys: &Arc<KeyRing>,
) -> Result<Vec<Published>, StartError> {
    let published = |resource: &ResourceConfig| {
        let path = resource.resource.path().to_owned();
        let target = |upstream| {
            let target = Target::new(upstream, || tls::trusting(&config.authorities));
            target.map_err(|source| StartError::Upstream { path: path.clone(), source })
        };
        let settings = upstream::Settings {
            targets: resource.upstreams.iter().map(target).collect::<Result<_, _>>()?,
            connect_timeout: resource.connect_timeout,
            response_timeout: resource.response_timeout,
            max_body: resource.max_body,
            body_timeout: config.limits.body_timeout,
            keep_alive: tuning.keep_alive,
            recheck: tuning.stream_recheck,
        };
        let challenges = Challenges::new(&config.issuer, &resource.resource);
        let path: Arc<str> = path.into();
        let numbers = Numbers::new(lasting.metrics.clone(), path.clone());
        let ejected = lasting.metrics.ejected(Word::Path(path.clone()));
        let (url, clock) = (resource.resource.url(), lasting.clock.clone());
        let upstream = Upstream::new(settings, keys, url, clock, ejected);
        Ok(Published { path, numbers, upstream, challenges })
    };
    config.resources.iter().map(published).collect()
}

fn oauth_settings(config: Config) -> oauth::Settings {
    // One credential serves all resources with the same scopes, so the address is read for all of them.
    let reads_email =
        |resource: &ResourceConfig| resource.inject.iter().any(|injection| injection.needs_email());
    let with_email: Vec<Vec<String>> =
        config.resources.iter().filter(|r| reads_email(r)).map(|r| r.github_scopes.clone()).collect();
    let published = config.resources.into_iter().map(|resource| oauth::Published {
        needs_email: with_email.contains(&resource.github_scopes),
        resource: resource.resource,
        github_scopes: resource.github_scopes,
    });
    oauth::Settings {
        resources: published.collect(),
        issuer: config.issuer,
        registration: config.registration,
        private_use_schemes: config.private_use_schemes,
        clients: config.clients,
        iss: config.iss,
    }
}

fn front(config: &Config) -> String {
    let resources = config.resources.iter().map(|resource| {
        let path = resource.resource.path();
        let is_sse = |upstream: &http::Uri| upstream.path().trim_end_matches('/').ends_with("/sse");
        let legacy = path.ends_with("/sse") || resource.upstreams.first().is_some_and(is_sse);
        FrontResource {
            url: resource.resource.url().to_owned(),
            name: path.trim_start_matches('/').replace(['/', '.', '~'], "-"),
            transport: if legacy { "sse" } else { "http" },
            inspector: if legacy { "sse" } else { "http" },
        }
    });
    pages::render(&Front { host: config.issuer.authority(), resources: resources.collect() })
}
