//! The rim: connections in, responses out. Everything HTTP/1.1 and HTTP/2 leave to a server is decided here.
//!
//! `listener` accepts, `vet` refuses what is ambiguous, `router` names the room, `reply` writes every answer.

mod address;
mod answering;
mod body;
mod bounds;
mod discard;
mod drain;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http1;
mod latest;
mod listener;
pub mod reply;
mod resource;
pub mod router;
mod seats;
mod secure;
mod sniff;
mod vet;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, Method, Response};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::clock::{self, Clock};
use crate::gate::challenge::Challenges;
use crate::gate::origin::Origins;
use crate::gate::{Gate, Holder};
use crate::limit::{self, Limiters, Who};
use crate::oauth::{self, AuthorizationServer, Documents, Failure};
use crate::protocol::fields::{Fields, text};
use crate::protocol::issuer::Issuer;
use crate::protocol::request::Request;
use crate::telemetry::Telemetry;
use crate::telemetry::line::Answered;
use crate::telemetry::metrics::Word;
use crate::telemetry::numbers::Numbers;
use crate::telemetry::traces::Span;
use crate::tls::Shown;
use crate::upstream::{Payload, Upstream};
use address::Client;
pub use address::Proxies;
use body::Body;
pub use bounds::{Bounds, Tallies, Tally};
use bounds::{Held, holder};
use discard::{let_it_arrive, linger, whole};
pub use drain::Drain;
use latest::Latest;
pub use listener::{bind, work};
use reply::{Outcome, Problem};
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
    pub telemetry: Telemetry,
    /// Where the authorization server's work runs, off the cores that carry streams.
    pub side: Handle,
    pub readiness: Arc<Readiness>,
}

/// Whether requests are welcome: not before everything is up, nor once the end has begun.
#[derive(Default)]
pub struct Readiness {
    is_up: AtomicBool,
    is_leaving: AtomicBool,
}

impl Readiness {
    /// Everything is up.
    pub fn enter(&self) {
        self.is_up.store(true, Ordering::Relaxed);
    }

    /// The end begins.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Whether requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.is_up.load(Ordering::Relaxed) && !self.is_leaving.load(Ordering::Relaxed)
    }
}

/// The server as it is now: a change of configuration puts another in its place.
#[derive(Clone)]
pub struct Current(watch::Receiver<Arc<Server>>);

impl Current {
    /// Whatever this receiver shows.
    pub fn new(seen: watch::Receiver<Arc<Server>>) -> Self {
        Current(seen)
    }

    /// For one request, or one connection's beginning.
    pub fn now(&self) -> Arc<Server> {
        self.0.borrow().clone()
    }

    /// For one request after another of a connection.
    fn followed(&self) -> Latest<Arc<Server>> {
        Latest::new(self.0.clone())
    }
}

/// A resource at the rim.
pub struct Published {
    pub path: Arc<str>,
    pub numbers: Numbers,
    pub upstream: Upstream,
    pub challenges: Challenges,
}

/// What is noted of a request on its way.
struct Noted {
    span: Option<Span>,
    /// Whose it is, once the gate has said so.
    holder: Option<Holder>,
}

/// Where a request is counted.
enum Counted<'a> {
    Resource(&'a Numbers),
    /// By our name for the route.
    Named(&'static str),
}

impl Server {
    /// Answers one request; never fails, because errors are answers.
    pub async fn answer(
        &self,
        peer: SocketAddr,
        request: Box<Request<Payload>>,
        open: &seats::Request,
    ) -> Response<Body> {
        let began = clock::moment();
        let method = request.method.clone();
        let client = self.proxies.client(peer, &request.fields);
        let route = router::route(self, request.target.path());
        let path = match route {
            Route::Resource(number) if *self.upstreams[number].path == *request.target.path() => {
                Cow::Borrowed(&*self.upstreams[number].path)
            }
            _ => Cow::Owned(request.target.path().to_owned()),
        };
        let counted = self.counted(&route);
        // A stranger's wish to be traced is not followed; a resource's request has its span once it may pass.
        let span = match (&counted, &self.telemetry.tracer) {
            (Counted::Named(word), Some(tracer)) => Some(tracer.request(&method, word, &Fields::default())),
            _ => None,
        };
        let mut noted = Noted { span, holder: None };
        let mut response = self.routed(route, client, request, open, &mut noted).await;
        if self.strict_transport {
            reply::strict_transport(&mut response);
        }
        let took = clock::moment() - began;
        answered(&method, &path, client.address, &response, noted.holder.as_ref(), took).tell();
        let (status, outcome) = (response.status().as_u16(), response.extensions().get::<Outcome>());
        let outcome = outcome.map(|outcome| outcome.word);
        if let Some(span) = &mut noted.span {
            span.answered(status, outcome);
        }
        let outcome = outcome.unwrap_or("ok");
        match counted {
            Counted::Resource(numbers) => numbers.request(status, outcome, took),
            Counted::Named(word) => {
                self.telemetry.metrics.request(Word::Own(word), status, outcome, took);
            }
        }
        response
    }

    /// Counts a connection; `None` if its address holds as many as one may. Those of a proxy are many people's.
    fn admit(&self, peer: SocketAddr) -> Option<Held<IpAddr>> {
        match self.proxies.may_be_many(peer.ip()) {
            true => Some(Held::uncounted()),
            false => self.bounds.tallies.addresses.take(holder(peer.ip())),
        }
    }

    /// Under what a request is counted: never what a stranger wrote.
    fn counted(&self, route: &Route<'_>) -> Counted<'_> {
        Counted::Named(match route {
            Route::Resource(number) => return Counted::Resource(&self.upstreams[*number].numbers),
            Route::Endpoint(endpoint) => endpoint.path(),
            Route::Document(_) | Route::NoDocument => "metadata",
            Route::Front => "/",
            Route::Health => "/healthz",
            Route::Ready => "/readyz",
            Route::Nothing => "other",
        })
    }

    async fn routed(
        &self,
        route: Route<'_>,
        client: Client,
        request: Box<Request<Payload>>,
        open: &seats::Request,
        noted: &mut Noted,
    ) -> Response<Body> {
        if matches!(route, Route::Health | Route::Ready) {
            return self.health(matches!(route, Route::Ready));
        }
        if let Err(problem) = vet::request(&self.issuer, &request) {
            return self.refused(request, problem).await;
        }
        let get = matches!(request.method, Method::GET | Method::HEAD);
        match route {
            Route::Resource(number) => self.resource(number, client, request, open, noted).await,
            // Boxed, as everything that is rare: a request for a resource should not have the room for it.
            Route::Endpoint(endpoint) => Box::pin(self.endpoint(endpoint, client, request)).await,
            Route::Document(_) if request.method == Method::OPTIONS => reply::preflight("GET, OPTIONS"),
            Route::Document(document) if get => reply::document(document.clone()),
            Route::Document(_) => self.refused(request, Problem::Method("GET, HEAD, OPTIONS")).await,
            Route::Front if get => reply::page(200, self.front.clone(), None),
            Route::Front => self.refused(request, Problem::Method("GET, HEAD")).await,
            // Pages try several spellings of the metadata; they must be able to read that one is not there.
            Route::NoDocument if request.method == Method::OPTIONS => reply::preflight("GET, OPTIONS"),
            Route::NoDocument => reply::exposed(self.refused(request, Problem::NotFound).await),
            Route::Nothing | Route::Health | Route::Ready => self.refused(request, Problem::NotFound).await,
        }
    }

    /// A refusal that arrives, whatever the client is still sending.
    fn refused(&self, request: Box<Request<Payload>>, problem: Problem) -> Boxed<Response<Body>> {
        Box::pin(async move {
            let_it_arrive(request).await;
            reply::problem(problem)
        })
    }

    /// The authorization server: body read here, work done on the side.
    async fn endpoint(
        &self,
        endpoint: Endpoint,
        client: Client,
        request: Box<Request<Payload>>,
    ) -> Response<Body> {
        let methods = endpoint.methods();
        if request.method == Method::OPTIONS && endpoint.is_for_scripts() {
            return reply::preflight(methods);
        }
        if !methods.split(", ").any(|method| method == request.method.as_str()) {
            return self.refused(request, Problem::Method(methods)).await;
        }
        let Request { method, target, fields, body, .. } = *request;
        let source = self.proxies.source(client, &fields);
        let wants_json = endpoint.is_for_scripts()
            || (accepts(&fields, "application/json") && !accepts(&fields, "text/html"));
        if let Err(limit::Limited { retry_after }) = self.opened_too_often(endpoint, &Who::Source(source)) {
            if !fields.has("expect") {
                linger(body).await;
            }
            let response = reply::failure(Failure::TooOften { retry_after }, wants_json);
            return if endpoint.is_for_scripts() { reply::exposed(response) } else { response };
        }
        let body = match whole(body, self.bounds.body_timeout).await {
            Ok(body) => body,
            Err(problem) => return reply::problem(problem),
        };
        let query = Some(target.query()).filter(|query| !query.is_empty()).map(str::to_owned);
        let request = oauth::Request { method, query, headers: HeaderMap::from(&fields), body, source };
        let server = self.oauth.clone();
        let outcome = self.side.spawn(async move { endpoint.call(&server, &request).await }).await;
        let response = match outcome {
            Ok(Ok(answer)) => reply::answer(answer),
            Ok(Err(failure)) => {
                let response = reply::failure(failure, wants_json);
                self.login_failed(endpoint, &response);
                response
            }
            Err(_) => reply::problem(Problem::Internal),
        };
        if endpoint.is_for_scripts() { reply::exposed(response) } else { response }
    }

    /// Where logins end that come to nothing.
    fn login_failed(&self, endpoint: Endpoint, response: &Response<Body>) {
        let reason = response.extensions().get::<Outcome>().map_or("unknown", |outcome| outcome.word);
        match endpoint {
            Endpoint::Authorize => self.telemetry.metrics.login_failure("authorize", reason),
            Endpoint::Consent => self.telemetry.metrics.login_failure("consent", reason),
            Endpoint::Callback => self.telemetry.metrics.login_failure("callback", reason),
            Endpoint::Register => self.telemetry.metrics.login_failure("register", reason),
            // What grants come to is counted where it is known which.
            Endpoint::Token | Endpoint::Revoke => {}
        }
    }

    /// Whether this address asks for too many registrations or login pages; decided before a body is read.
    fn opened_too_often(&self, endpoint: Endpoint, who: &Who<'_>) -> Result<(), limit::Limited> {
        match endpoint {
            Endpoint::Register => self.limits.register.take(who),
            Endpoint::Authorize => self.limits.authorize.take(who),
            Endpoint::Consent | Endpoint::Callback | Endpoint::Token | Endpoint::Revoke => Ok(()),
        }
    }

    fn health(&self, asks_ready: bool) -> Response<Body> {
        match !asks_ready || self.readiness.is_ready() {
            true => reply::healthy(),
            false => reply::problem(Problem::NotReady),
        }
    }
}

/// Of what is rare.
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

fn accepts(fields: &Fields, kind: &str) -> bool {
    fields.all("accept").any(|value| text(value).is_some_and(|value| value.contains(kind)))
}

/// What the log's line about a request says.
fn answered<'a>(
    method: &'a Method,
    path: &'a str,
    client: IpAddr,
    response: &'a Response<Body>,
    holder: Option<&'a Holder>,
    took: Duration,
) -> Answered<'a> {
    let outcome = response.extensions().get::<Outcome>();
    Answered {
        method,
        path,
        client,
        status: response.status().as_u16(),
        took,
        person: holder.map(Holder::person),
        login: holder.map(Holder::login),
        outcome: outcome.map(|outcome| outcome.word),
        cause: outcome.and_then(|outcome| outcome.cause.as_deref()),
    }
}
