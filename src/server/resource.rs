//! Requests for a resource: the gate first, then the upstream; counted, traced and written down on the way.

use http::{Method, Response};
use tokio::time::Instant;

use super::address::Client;
use super::body::Body;
use super::bounds::Held;
use super::discard::let_it_arrive;
use super::reply::{self, Problem};
use super::{Noted, Published, Server, accepts, seats};
use crate::clock;
use crate::gate::{Denial, Holder, Permit};
use crate::limit::{self, Who};
use crate::protocol::fields::Fields;
use crate::protocol::request::Request;
use crate::telemetry::Telemetry;
use crate::telemetry::audit::Event;
use crate::telemetry::call::Call;
use crate::telemetry::metrics::PERMITTED;
use crate::upstream::{self, Payload};

impl Server {
    /// Answers of resources are never kept by a cache, so only pages get the headers for pages.
    pub(super) async fn resource(
        &self,
        number: usize,
        client: Client,
        request: Box<Request<Payload>>,
        open: &seats::Request,
        noted: &mut Noted,
    ) -> Response<Body> {
        let from_a_page = request.fields.has("origin");
        if !self.origins.allow(&request.fields) {
            return self.refused(request, Problem::Origin).await;
        }
        let response = self.gated(number, client, request, open, noted).await;
        if from_a_page { reply::exposed(response) } else { response }
    }

    /// Gate, then upstream.
    async fn gated(
        &self,
        number: usize,
        client: Client,
        request: Box<Request<Payload>>,
        open: &seats::Request,
        noted: &mut Noted,
    ) -> Response<Body> {
        let published = &self.upstreams[number];
        match request.method {
            Method::OPTIONS => return reply::preflight(RESOURCE_METHODS),
            Method::GET | Method::POST | Method::DELETE => {}
            _ => return self.refused(request, Problem::Method(RESOURCE_METHODS)).await,
        }
        let permit = match self.gate.permit(number, &request.fields).await {
            Ok(permit) => permit,
            Err(denial) => {
                let denial = self.forged_too_often(denial, client, &request.fields);
                published.numbers.decision(denial.word());
                let front = is_a_browser(&request).then(|| self.front.clone());
                Box::pin(let_it_arrive(request)).await;
                return reply::denial(denial, &published.challenges, front);
            }
        };
        published.numbers.decision(PERMITTED);
        noted.span = self
            .telemetry
            .tracer
            .as_ref()
            .map(|tracer| tracer.request(&request.method, &published.path, &request.fields));
        let response = match self.bounds.tallies.people.take(permit.person()) {
            Some(held) => {
                open.is_of_a_person();
                self.forwarded(published, &permit, request, held, noted).await
            }
            None => self.refused(request, Problem::TooManyStreams).await,
        };
        noted.holder = Some(permit.into_holder());
        response
    }

    /// On to the upstream; counted, traced and written down as far as somebody wants that.
    async fn forwarded(
        &self,
        published: &Published,
        permit: &Permit,
        mut request: Box<Request<Payload>>,
        held: Held<u64>,
        noted: &mut Noted,
    ) -> Response<Body> {
        let began = clock::moment();
        let way = noted.span.as_ref().map(|span| span.towards("upstream"));
        if let Some(way) = &way {
            way.hand_on(&mut request.fields);
        }
        let nothing =
            || Told { telemetry: &self.telemetry, holder: permit.holder(), began, calls: Vec::new() };
        let mut told = self.telemetry.reads_calls().then(nothing);
        let calls = told.as_mut().map(|told| &mut told.calls);
        let outcome = published.upstream.forward(permit, request, calls).await;
        let (took, failure) = (clock::moment() - began, outcome.as_ref().err().map(upstream::Failure::word));
        published.numbers.upstream(took, failure);
        let response = match outcome {
            Ok(passed) => reply::passed(passed, held),
            Err(failure) => reply::upstream_failure(failure),
        };
        let status = response.status().as_u16();
        if let Some(mut way) = way {
            way.answered(status, failure);
        }
        let called = told.as_ref().and_then(|told| told.calls.first());
        if let (Some(span), Some(Call { method, tool, .. })) = (noted.span.as_mut(), called) {
            let named = [("mcp.method.name", method), ("gen_ai.tool.name", tool)];
            for (name, value) in named.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
            {
                span.say(name, value);
            }
        }
        told.into_iter().for_each(|told| told.answered(status));
        response
    }

    /// Counts tokens that were never ours. Whoever holds one of ours is not touched by it, not even when it
    /// has expired: they need the 401 to get a new one.
    fn forged_too_often(&self, denial: Denial, client: Client, fields: &Fields) -> Denial {
        // Who asks is looked at whether or not it will be counted: the time must not tell a token of ours that has
        // expired from one that never was.
        let who = Who::Source(self.proxies.source(client, fields));
        if !matches!(denial, Denial::Forged) {
            return denial;
        }
        match self.limits.bad_bearers.take(&who) {
            Ok(()) => denial,
            Err(limit::Limited { retry_after }) => Denial::TooOften { retry_after },
        }
    }
}

/// What a request calls, until it is written down: with its answer, or without one when nobody waited for it. The
/// upstream may have done it all the same.
struct Told<'a> {
    telemetry: &'a Telemetry,
    holder: Holder,
    began: Instant,
    calls: Vec<Call>,
}

impl Told<'_> {
    fn answered(mut self, status: u16) {
        self.write(Some(status), None);
    }

    fn write(&mut self, status: Option<u16>, outcome: Option<&'static str>) {
        if self.calls.is_empty() {
            return;
        }
        let milliseconds = u64::try_from((clock::moment() - self.began).as_millis()).ok();
        for Call { method, tool, is_claimed } in self.calls.drain(..) {
            let outcome = outcome.or(is_claimed.then_some("claimed"));
            let (method, tool, event) = (method.as_deref(), tool.as_deref(), self.holder.event("call"));
            self.telemetry.audit(&Event { outcome, method, tool, status, milliseconds, ..event });
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.write(None, Some("abandoned"));
    }
}

/// A person who typed the resource's address into a browser.
fn is_a_browser(request: &Request<Payload>) -> bool {
    request.method == Method::GET
        && !request.fields.has("authorization")
        && accepts(&request.fields, "text/html")
}

const RESOURCE_METHODS: &str = "GET, POST, DELETE, OPTIONS";
