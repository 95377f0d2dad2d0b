//! Client ID Metadata Documents: a client whose id is the https URL of its metadata.
//!
//! The URL is a stranger's, so the fetch is made SSRF-safe: https on port 443 only, public addresses only (checked on
//! the addresses that are connected to), no redirects, no proxies, 5 KiB, 5 s, few at a time for each asker and each
//! host; errors are never kept.
//! draft-ietf-oauth-client-id-metadata-document §2, §4, §6.5, §6.6.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{StatusCode, header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::{Host, Url};

use super::places::{Full, Places};
use super::public::{PLACE, Public, is_public};
use super::together::Together;
use crate::clock::{Clock, Time};
use crate::limit::{Limited, Limiters, Source, Who};
use crate::protocol::client::{AuthMethod, Client, Origin, display_name};
use crate::protocol::redirect::RedirectUri;
use crate::recent::Recent;
use crate::tls::{self, Authorities, NoClient};

/// How documents are fetched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Exact hosts; empty means any.
    pub allow_hosts: Vec<String>,
    /// Who may vouch for their hosts, beside the machine's own authorities.
    pub authorities: Authorities,
    /// For tests and closed networks only; also lets ports be other than 443 and names be short.
    pub allow_private_addresses: bool,
    /// Our own host and port: no client lives there.
    pub own: (String, u16),
}

/// Fetches and keeps documents.
pub struct Fetcher {
    settings: Settings,
    clock: Clock,
    client: reqwest::Client,
    places: Arc<Places>,
    // Concurrent requests for one URL share one fetch.
    fetches: Together<Result<Kept, DocumentError>>,
    kept: Recent<String, Kept>,
    // Documents that were good lately, for when there is no room for another look.
    good: Recent<String, Arc<Client>>,
    limits: Arc<Limiters>,
}

#[derive(Clone)]
struct Kept {
    client: Arc<Client>,
    until: Time,
}

/// Why a document cannot be used; worded for the page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("its client_id is not an https URL with a path in normal form")]
    Url,
    #[error("this server does not accept clients published by {0}")]
    Host(String),
    #[error("this server does not accept clients published on other ports than 443")]
    Port,
    #[error("its metadata document could not be fetched ({0})")]
    Fetch(&'static str),
    #[error("its metadata document could not be fetched ({0})")]
    Trouble(&'static str),
    #[error("its metadata document is not usable: {0}")]
    Content(&'static str),
    #[error("too many metadata documents were asked for")]
    TooOften(Limited),
    #[error("too many metadata documents are being fetched; try again in a few seconds")]
    Busy,
}

impl DocumentError {
    /// Whether it says nothing about the document.
    fn is_for_later(&self) -> bool {
        matches!(self, DocumentError::TooOften(_) | DocumentError::Busy)
    }
}

#[derive(Deserialize)]
struct Document {
    client_id: String,
    #[serde(default)]
    client_name: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default)]
    token_endpoint_auth_method: Option<String>,
    #[serde(default)]
    client_secret: Option<IgnoredAny>,
    #[serde(default)]
    client_secret_expires_at: Option<IgnoredAny>,
}

impl Fetcher {
    /// A fetcher with an empty cache.
    pub fn new(settings: Settings, clock: Clock, limits: Arc<Limiters>) -> Result<Self, NoClient> {
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .https_only(true)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(crate::github::USER_AGENT)
            .dns_resolver(Arc::new(Public { allow_private: settings.allow_private_addresses }));
        let (kept, good) = (Recent::new(MAX_KEPT, MAX_AGE), Recent::new(MAX_KEPT, MAX_AGE));
        let (client, places) = (tls::client(builder, &settings.authorities)?, Arc::default());
        Ok(Fetcher { settings, clock, client, places, fetches: Together::default(), kept, good, limits })
    }

    /// The client whose id is this URL; `source` asks.
    pub async fn client(&self, id: &str, source: Source) -> Result<Client, DocumentError> {
        let url = self.vetted(id)?;
        if self.still_kept(id).is_none() {
            let good = self.good.get(id);
            match (self.may_fetch(id, &url, source, good.is_some()), good) {
                (Ok(()), _) => {}
                // A client that was good is not locked out by those who keep asking for it.
                (Err(_), Some(good)) => return Ok((*good).clone()),
                (Err(limited), None) => return Err(DocumentError::TooOften(limited)),
            }
        }
        loop {
            let own = AtomicBool::new(false);
            let fetch = async || match self.still_kept(id) {
                Some(kept) => Ok(kept),
                None => {
                    own.store(true, Ordering::Relaxed);
                    self.in_turn(id, url.clone(), source).await
                }
            };
            return match self.fetches.ask(id, fetch).await {
                Ok(kept) => Ok((*kept.client).clone()),
                // Somebody else was the first to ask, and had no place: that is his trouble.
                Err(error) if error.is_for_later() && !own.into_inner() => continue,
                // A client that was good needs no place.
                Err(error) if error.is_for_later() => {
                    self.good.get(id).map(|good| (*good).clone()).ok_or(error)
                }
                Err(error) => Err(error),
            };
        }
    }

    fn still_kept(&self, id: &str) -> Option<Kept> {
        self.kept.get(id).filter(|kept| kept.until > self.clock.now())
    }

    /// Strangers choose the URLs: they must not make us a tool against the hosts. One that was good is asked
    /// whatever others on its host are asked.
    fn may_fetch(&self, id: &str, url: &Url, source: Source, was_good: bool) -> Result<(), Limited> {
        let fetches = &self.limits.metadata_fetches;
        if was_good {
            return fetches.check(&Who::Document(id));
        }
        fetches.check(&Who::Source(source))?;
        fetches.check(&Who::Host(url.host_str().unwrap_or_default()))
    }

    /// The fetch that others wait for, if there is a place for it.
    async fn in_turn(&self, id: &str, url: Url, source: Source) -> Result<Kept, DocumentError> {
        let place =
            self.places.take(source, url.host_str().unwrap_or_default()).map_err(|full| match full {
                Full::Asker => DocumentError::TooOften(Limited { retry_after: SOON }),
                Full::Everybody => DocumentError::Busy,
            })?;
        PLACE.scope(Arc::new(place), self.counted(id, url, source)).await
    }

    async fn counted(&self, id: &str, url: Url, source: Source) -> Result<Kept, DocumentError> {
        let fetches = &self.limits.metadata_fetches;
        if self.good.contains_key(id) {
            fetches.count(&Who::Document(id));
        } else {
            fetches.count(&Who::Source(source));
            fetches.count(&Who::Host(url.host_str().unwrap_or_default()));
        }
        let fetched = self.fetch(id, url).await;
        match &fetched {
            Ok(kept) => {
                // Before those who wait are told: who comes after them must find it here.
                self.kept.insert(id.to_owned(), kept.clone());
                self.good.insert(id.to_owned(), kept.client.clone());
            }
            // Nobody said that it is not good any more; and a host that is in trouble because of what others ask
            // must not lose its client to them.
            Err(DocumentError::Trouble(_)) => {}
            Err(_) => self.good.remove(id),
        }
        fetched
    }

    /// Refuses before any DNS query what can be refused by looking.
    pub(super) fn vetted(&self, id: &str) -> Result<Url, DocumentError> {
        let url = Url::parse(id).map_err(|_| DocumentError::Url)?;
        // Simple string comparison rules the draft, so only URLs in normal form are ids at all.
        let plain = url.as_str() == id && url.scheme() == "https" && id.len() <= MAX_URL;
        let bare = url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
        if !plain || !bare || url.path() == "/" {
            return Err(DocumentError::Url);
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let listed = self.settings.allow_hosts.is_empty() || self.settings.allow_hosts.contains(&host);
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        let special = match address {
            Some(address) => !is_public(address),
            None => is_special_name(&host),
        };
        let anything_goes = self.settings.allow_private_addresses;
        let (own_host, own_port) = &self.settings.own;
        let own = host == *own_host && (!anything_goes || url.port_or_known_default() == Some(*own_port));
        if own || !listed || host.ends_with('.') || (special && !anything_goes) {
            return Err(DocumentError::Host(host));
        }
        // Whatever listens elsewhere (mail, shells) does not expect what a stranger makes us say.
        match url.port().is_some() && !anything_goes {
            true => Err(DocumentError::Port),
            false => Ok(url),
        }
    }

    async fn fetch(&self, id: &str, url: Url) -> Result<Kept, DocumentError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let request = self.client.get(url).header(header::ACCEPT, "application/json");
        let trouble = |error: reqwest::Error| DocumentError::Trouble(kind(&error));
        let mut response = request.send().await.map_err(trouble)?;
        match response.status() {
            StatusCode::OK => {}
            // A firewall's 403, a limit, an outage.
            StatusCode::FORBIDDEN | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                return Err(DocumentError::Trouble(NOT_OK));
            }
            status if status.is_server_error() => return Err(DocumentError::Trouble(NOT_OK)),
            _ => return Err(DocumentError::Fetch(NOT_OK)),
        }
        let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !content_type.is_some_and(is_json) || response.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(DocumentError::Fetch("it is not plain application/json"));
        }
        let until = self.clock.now().after(lifetime(response.headers()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(trouble)? {
            if body.len() + chunk.len() > MAX_DOCUMENT {
                return Err(DocumentError::Fetch("it is larger than 5 KiB"));
            }
            body.extend_from_slice(&chunk);
        }
        let client = Arc::new(client(id, host, &body)?);
        Ok(Kept { client, until })
    }
}

/// Names that only a machine or its own network knows (RFC 6761, RFC 6762, RFC 8375), and relative ones.
fn is_special_name(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    !host.contains('.')
        || ["", "localhost", "local", "internal"].contains(&last)
        || host.ends_with(".home.arpa")
}

/// Reads the document of the client whose id is its URL.
pub(super) fn client(id: &str, host: String, body: &[u8]) -> Result<Client, DocumentError> {
    let document: Document =
        super::json_object(body).map_err(|_| DocumentError::Content("it is not valid JSON metadata"))?;
    if document.client_id != id {
        return Err(DocumentError::Content("its client_id is not its own URL"));
    }
    let secret = document.client_secret.is_some() || document.client_secret_expires_at.is_some();
    let method = document.token_endpoint_auth_method.as_deref().unwrap_or("none");
    // Clients that prefer private_key_jwt (ChatGPT) are served as the public clients they can be too.
    if secret || method.starts_with("client_secret") {
        return Err(DocumentError::Content("a published client cannot have a secret"));
    }
    let redirect_uris: Vec<RedirectUri> =
        document.redirect_uris.iter().take(MAX_URIS).filter_map(|uri| RedirectUri::parse(uri).ok()).collect();
    if redirect_uris.is_empty() {
        return Err(DocumentError::Content("it has no usable redirect_uris"));
    }
    let name = display_name(document.client_name.as_deref().unwrap_or(&host));
    Ok(Client {
        id: id.to_owned(),
        origin: Origin::Document { host },
        name,
        redirect_uris,
        auth: AuthMethod::None,
    })
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// RFC 9111 §5.2.2: how long the document may be kept, capped.
fn lifetime(headers: &header::HeaderMap) -> Duration {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<String> =
        values.flat_map(|value| value.split(',')).map(|d| d.trim().to_ascii_lowercase()).collect();
    if directives.iter().any(|directive| directive == "no-store" || directive.starts_with("no-cache")) {
        return Duration::ZERO;
    }
    let seconds = directives.iter().find_map(|directive| directive.strip_prefix("max-age="));
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
    let lifetime = match seconds.map(|seconds| seconds.trim_matches('"').parse::<u64>()) {
        Some(Ok(seconds)) => Duration::from_secs(seconds.saturating_sub(age)),
        Some(Err(_)) => Duration::ZERO,
        None => DEFAULT_AGE,
    };
    lifetime.min(MAX_AGE)
}

fn kind(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer within five seconds"
    } else if error.is_connect() {
        "its host cannot be reached safely"
    } else {
        "the connection broke"
    }
}

const NOT_OK: &str = "its status is not 200";
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_DOCUMENT: usize = 5 << 10;
/// Seconds; a fetch is over by then.
const SOON: u64 = 5;
const MAX_URL: usize = 1024;
const MAX_URIS: usize = 32;
const MAX_KEPT: usize = 4_096;
const MAX_AGE: Duration = Duration::from_secs(86_400);
/// For a document that says nothing: long enough for the tabs of one login.
const DEFAULT_AGE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::limit::Rates;

    #[test]
    fn ids_that_are_not_plain_urls_are_refused_by_looking() {
        let settings = Settings {
            allow_hosts: vec![],
            authorities: Authorities::default(),
            allow_private_addresses: false,
            own: ("p.test".into(), 443),
        };
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clock = ManualClock::new(1).clock();
        let limits = Arc::new(Limiters::new(&Rates::default(), &clock));
        let mut fetcher = Fetcher::new(settings, clock, limits).expect("builds");
        for id in [
            "http://a.example/c",
            "https://a.example",
            "https://a.example/",
            "https://a.example/c#f",
            "https://u@a.example/c",
            "https://a.example/a/../b",
            "https://a.example/%2e%2e/b",
            "HTTPS://a.example/c",
            "https://A.example/c",
            "https://a.example:443/c",
            "https:a.example/c",
        ] {
            assert_eq!(fetcher.vetted(id), Err(DocumentError::Url), "{id}");
        }
        for id in [
            "https://127.0.0.1/c",
            "https://[::1]/c",
            "https://10.0.0.1/c",
            "https://localhost/c",
            "https://intranet/c",
            "https://a.localhost/c",
            "https://printer.local/c",
            "https://metadata.google.internal/c",
            "https://router.home.arpa/c",
            "https://a.example:8443/c",
            "https://a.example:22/c",
            "https://p.test/c",
            "https://p.test:8443/c",
            "https://a.example./c",
            "https://[::ffff:127.0.0.1]/c",
        ] {
            assert!(fetcher.vetted(id).is_err(), "{id}");
        }
        assert!(fetcher.vetted("https://a.example/c").is_ok());
        fetcher.settings.allow_hosts = vec!["example.com".into()];
        for id in ["https://evil-example.com/c", "https://example.com.evil.org/c", "https://a.example/c"] {
            assert!(matches!(fetcher.vetted(id), Err(DocumentError::Host(_))), "{id}");
        }
    }

    #[test]
    fn cache_rules_are_obeyed_and_capped() {
        let lifetime_of = |value: &str| {
            let mut headers = header::HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, value.parse().expect("a value"));
            lifetime(&headers)
        };
        assert_eq!(lifetime_of("public, max-age=60"), Duration::from_secs(60));
        assert_eq!(lifetime_of("max-age=1000000000000"), MAX_AGE);
        assert_eq!(lifetime_of("max-age=1e12"), Duration::ZERO);
        assert_eq!(lifetime_of("No-Store, max-age=60"), Duration::ZERO);
        assert_eq!(lifetime(&header::HeaderMap::new()), DEFAULT_AGE);
    }

    #[test]
    fn documents_are_read_strictly() {
        let id = "https://a.example/c";
        let read = |text: &str| client(id, "a.example".into(), text.as_bytes());
        let good = r#"{"client_id":"https://a.example/c","client_name":"A","redirect_uris":["http://localhost/cb","javascript:x"],
            "grant_types":["authorization_code","urn:ietf:params:oauth:grant-type:device_code"],
            "token_endpoint_auth_method":"private_key_jwt"}"#;
        let client = read(good).expect("usable");
        assert_eq!((client.redirect_uris.len(), client.auth), (1, AuthMethod::None));
        for bad in [
            "[]",
            "{",
            r#"{"client_id":"https://a.example/C","redirect_uris":["https://a.example/cb"]}"#,
            r#"{"client_id":"https://a.example/c"}"#,
            r#"{"redirect_uris":["https://a.example/cb"]}"#,
            r#"{"client_id":"https://a.example/c","redirect_uris":["https://a.example/cb"],"client_secret":"x"}"#,
            r#"{"client_id":"https://a.example/c","redirect_uris":["https://a.example/cb"],"token_endpoint_auth_method":"client_secret_post"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
