//! The rim: connections in, responses out. Everything HTTP/1.1 and HTTP/2 leave to a server is decided here.
//!
//! `listener` accepts, `vet` refuses what is ambiguous, `router` names the room, `reply` writes every answer.

mod address;
mod bounds;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod listener;
pub mod reply;
pub mod router;
mod seats;
mod secure;
mod sniff;
mod vet;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::{debug, error, info};

use crate::clock::Clock;
use crate::gate::challenge::Challenges;
use crate::gate::origin::Origins;
use crate::gate::{Denial, Gate};
use crate::limit::{self, Limiters, Who};
use crate::oauth::{self, AuthorizationServer, Documents, Failure};
use crate::protocol::issuer::Issuer;
use crate::tls::Shown;
use crate::upstream::Upstream;
use address::Client;
pub use address::Proxies;
pub use bounds::{Bounds, Tally};
use bounds::{Held, holder};
pub use listener::{Drain, bind, work};
use reply::{Body, Outcome, Problem};
use router::{Endpoint, Route};

/// Everything a request may need; shared by all cores.
pub struct Server {
    pub issuer: Issuer,
    pub clock: Clock,
    pub gate: Arc<Gate>,
    /// In the order of the gate's resources.
    pub upstreams: Vec<Published>,
    pub oauth: Arc<AuthorizationServer>,
    pub documents: Documents,
    pub front: String,
    pub origins: Origins,
    pub proxies: Proxies,
    pub limits: Arc<Limiters>,
    pub bounds: Bounds,
    /// What is shown to clients when TLS ends here.
    pub tls: Option<Arc<Shown>>,
    /// Whether browsers are told to come by https only.
    pub strict_transport: bool,
    /// Where the authorization server's work runs, off the cores that carry streams.
    pub side: Handle,
    /// False before everything is up and once draining has begun.
    pub ready: AtomicBool,
}

/// A resource at the rim.
pub struct Published {
    pub path: String,
    pub upstream: Upstream,
    pub challenges: Challenges,
}

/// For the log line of a resource request.
#[derive(Clone)]
struct Person(u64, Box<str>);

impl Server {
    /// Answers one request; never fails, because errors are answers.
    pub async fn answer(
        self: Arc<Self>,
        peer: SocketAddr,
        request: Request<Incoming>,
        open: &seats::Request,
    ) -> Response<Body> {
        let started = self.clock.now();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let client = self.proxies.client(peer, request.headers());
        let mut response = self.routed(client, request, open).await;
        if self.strict_transport {
            reply::strict_transport(&mut response);
        }
        let took = self.clock.now().since(started);
        log(&method, &path, client.address, &response, took);
        response
    }

    /// Counts a connection; `None` if its address holds as many as one may. Those of a proxy are many people's.
    fn admit(&self, peer: SocketAddr) -> Option<Held<IpAddr>> {
        match self.proxies.may_be_many(peer.ip()) {
            true => Some(Held::uncounted()),
            false => self.bounds.addresses.take(holder(peer.ip())),
        }
    }

    async fn routed(
        &self,
        client: Client,
        request: Request<Incoming>,
        open: &seats::Request,
    ) -> Response<Body> {
        let route = router::route(self, request.uri().path());
        if matches!(route, Route::Health | Route::Ready) {
            return self.health(matches!(route, Route::Ready));
        }
        if let Err(problem) = vet::request(&self.issuer, &request) {
            return self.refused(request, problem).await;
        }
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match route {
            Route::Resource(number) => self.resource(number, client, request, open).await,
            Route::Endpoint(endpoint) => self.endpoint(endpoint, client, request).await,
            Route::Document(_) if *request.method() == Method::OPTIONS => reply::preflight("GET, OPTIONS"),
            Route::Document(document) if get => reply::document(document.clone()),
            Route::Document(_) => self.refused(request, Problem::Method("GET, HEAD, OPTIONS")).await,
            Route::Front if get => reply::page(200, self.front.clone(), None),
            Route::Front => self.refused(request, Problem::Method("GET, HEAD")).await,
            // Pages try several spellings of the metadata; they must be able to read that one is not there.
            Route::NoDocument if *request.method() == Method::OPTIONS => reply::preflight("GET, OPTIONS"),
            Route::NoDocument => reply::exposed(self.refused(request, Problem::NotFound).await),
            Route::Nothing | Route::Health | Route::Ready => self.refused(request, Problem::NotFound).await,
        }
    }

    /// A refusal that arrives, whatever the client is still sending.
    async fn refused(&self, request: Request<Incoming>, problem: Problem) -> Response<Body> {
        let_it_arrive(request).await;
        reply::problem(problem)
    }

    /// Answers of resources are never kept by a cache, so only pages get the headers for pages.
    async fn resource(
        &self,
        number: usize,
        client: Client,
        request: Request<Incoming>,
        open: &seats::Request,
    ) -> Response<Body> {
        let from_a_page = request.headers().contains_key(header::ORIGIN);
        if !self.origins.allow(request.headers()) {
            return self.refused(request, Problem::Origin).await;
        }
        let response = self.gated(number, client, request, open).await;
        if from_a_page { reply::exposed(response) } else { response }
    }

    /// Gate, then upstream.
    async fn gated(
        &self,
        number: usize,
        client: Client,
        request: Request<Incoming>,
        open: &seats::Request,
    ) -> Response<Body> {
        let published = &self.upstreams[number];
        match *request.method() {
            Method::OPTIONS => return reply::preflight(RESOURCE_METHODS),
            Method::GET | Method::POST | Method::DELETE => {}
            _ => return self.refused(request, Problem::Method(RESOURCE_METHODS)).await,
        }
        let permit = match self.gate.permit(number, request.headers()).await {
            Ok(permit) => permit,
            Err(denial) => {
                let denial = self.forged_too_often(denial, client, request.headers());
                let front = is_a_browser(&request).then(|| self.front.clone());
                let_it_arrive(request).await;
                return reply::denial(denial, &published.challenges, front);
            }
        };
        let person = Person(permit.person(), permit.login().into());
        let mut response = match self.bounds.people.take(permit.person()) {
            Some(held) => {
                open.is_of_a_person();
                match published.upstream.forward(permit, request).await {
                    Ok(response) => response.map(|answer| Body::Stream(answer, held)),
                    Err(failure) => reply::upstream_failure(failure),
                }
            }
            None => self.refused(request, Problem::TooManyStreams).await,
        };
        response.extensions_mut().insert(person);
        response
    }

    /// The authorization server: body read here, work done on the side.
    async fn endpoint(
        &self,
        endpoint: Endpoint,
        client: Client,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let methods = endpoint.methods();
        if *request.method() == Method::OPTIONS && endpoint.is_for_scripts() {
            return reply::preflight(methods);
        }
        if !methods.split(", ").any(|method| method == request.method().as_str()) {
            return self.refused(request, Problem::Method(methods)).await;
        }
        let (parts, body) = request.into_parts();
        let source = self.proxies.source(client, &parts.headers);
        let wants_json = endpoint.is_for_scripts()
            || (accepts(&parts.headers, "application/json") && !accepts(&parts.headers, "text/html"));
        if let Err(limit::Limited { retry_after }) = self.opened_too_often(endpoint, &Who::Source(source)) {
            if !parts.headers.contains_key(header::EXPECT) {
                linger(body).await;
            }
            let response = reply::failure(Failure::TooOften { retry_after }, wants_json);
            return if endpoint.is_for_scripts() { reply::exposed(response) } else { response };
        }
        let body = match whole(body, self.bounds.body_timeout).await {
            Ok(body) => body,
            Err(problem) => return reply::problem(problem),
        };
        let query = parts.uri.query().map(str::to_owned);
        let request = oauth::Request { method: parts.method, query, headers: parts.headers, body, source };
        let server = self.oauth.clone();
        let outcome = self.side.spawn(async move { endpoint.call(&server, &request).await }).await;
        let response = match outcome {
            Ok(Ok(answer)) => reply::answer(answer),
            Ok(Err(failure)) => reply::failure(failure, wants_json),
            Err(_) => reply::problem(Problem::Internal),
        };
        if endpoint.is_for_scripts() { reply::exposed(response) } else { response }
    }

    /// Whether this address asks for too many registrations or login pages; decided before a body is read.
    fn opened_too_often(&self, endpoint: Endpoint, who: &Who<'_>) -> Result<(), limit::Limited> {
        match endpoint {
            Endpoint::Register => self.limits.register.take(who),
            Endpoint::Authorize => self.limits.authorize.take(who),
            Endpoint::Consent | Endpoint::Callback | Endpoint::Token | Endpoint::Revoke => Ok(()),
        }
    }

    /// Counts tokens that were never ours. Whoever holds one of ours is not touched by it, not even when it
    /// has expired: they need the 401 to get a new one.
    fn forged_too_often(&self, denial: Denial, client: Client, headers: &http::HeaderMap) -> Denial {
        if !matches!(denial, Denial::Forged) {
            return denial;
        }
        let who = Who::Source(self.proxies.source(client, headers));
        match self.limits.bad_bearers.take(&who) {
            Ok(()) => denial,
            Err(limit::Limited { retry_after }) => Denial::TooOften { retry_after },
        }
    }

    fn health(&self, asks_ready: bool) -> Response<Body> {
        match !asks_ready || self.ready.load(Ordering::Relaxed) {
            true => reply::healthy(),
            false => reply::problem(Problem::NotReady),
        }
    }
}

/// A person who typed the resource's address into a browser.
fn is_a_browser(request: &Request<Incoming>) -> bool {
    *request.method() == Method::GET
        && !request.headers().contains_key(header::AUTHORIZATION)
        && accepts(request.headers(), "text/html")
}

fn accepts(headers: &http::HeaderMap, kind: &str) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(kind)))
}

async fn whole(mut body: Incoming, patience: Duration) -> Result<bytes::Bytes, Problem> {
    let fits = body.size_hint().lower() <= MAX_FORM as u64;
    if fits {
        match timeout(FORM_TIMEOUT.min(patience), Limited::new(&mut body, MAX_FORM).collect()).await {
            Ok(Ok(body)) => return Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {}
            Ok(Err(_)) => return Err(Problem::BadRequest("the request body is broken")),
            Err(_) => return Err(Problem::TooSlow),
        }
    }
    linger(body).await;
    Err(Problem::TooLarge(MAX_FORM as u64))
}

/// Takes what a client is sending beside a request that is refused.
async fn let_it_arrive(request: Request<Incoming>) {
    // Polling the body of a client that waits for 100 would invite it to send.
    if !request.body().is_end_stream() && !request.headers().contains_key(header::EXPECT) {
        linger(request.into_body()).await;
    }
}

/// Reads on for a moment and throws it away: closing on a client that is still sending would reset the
/// connection, and the answer would be lost on its way.
async fn linger(mut body: Incoming) {
    let discard = async {
        let mut left = MAX_DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => break,
            }
        }
    };
    // Over or not, the answer goes out now.
    let _ = timeout(LINGER, discard).await;
}

/// One line per request, its level by its status; path without query.
fn log(method: &Method, path: &str, client: IpAddr, response: &Response<Body>, took: Duration) {
    let status = response.status().as_u16();
    let outcome = response.extensions().get::<Outcome>();
    let cause = outcome.and_then(|outcome| outcome.cause.as_deref());
    let outcome = outcome.map(|outcome| outcome.word);
    let person = response.extensions().get::<Person>();
    let (person, login) = (person.map(|person| person.0), person.map(|person| &*person.1));
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    // Escaped, cut: a path is a stranger's text.
    let path: String = path.chars().take(128).collect();
    let is_a_check = status == 200 && ["/healthz", "/readyz"].contains(&path.as_str());
    if is_a_check {
        // One every few seconds from every orchestrator.
        debug!(%method, ?path, status, duration_ms, %client, "request");
    } else if status >= 500 {
        error!(%method, ?path, status, duration_ms, %client, person, login, outcome, cause, "request");
    } else {
        info!(%method, ?path, status, duration_ms, %client, person, login, outcome, cause, "request");
    }
}

const RESOURCE_METHODS: &str = "GET, POST, DELETE, OPTIONS";
/// Forms and registrations; the largest real one is a few KiB.
const MAX_FORM: usize = 64 << 10;
const FORM_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are thrown away so that a refusal arrives.
const MAX_DISCARDED: usize = 4 << 20;
const LINGER: Duration = Duration::from_secs(1);
