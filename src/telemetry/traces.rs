//! Traces through OTLP: a span for each request and one for its way to the upstream, in the trace that the client
//! began (W3C Trace Context). What is on a span is what the log line has; compiled in with the feature `otlp`.

use std::fmt;

#[cfg(feature = "otlp")]
pub use otlp::{Span, Tracer};
#[cfg(not(feature = "otlp"))]
pub use without::{Span, Tracer};

/// Where traces go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The collector's whole URL, `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// The share of traces begun here that is recorded, 0 to 1. A client's own decision is followed.
    pub sample: f64,
    /// `service.name`.
    pub service: String,
}

/// Why there are no traces.
#[derive(Debug)]
pub struct NoTraces(String);

impl fmt::Display for NoTraces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(feature = "otlp")]
mod otlp {
    use std::fmt;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use bytes::Bytes;
    use http::{Method, Request, Response};
    use opentelemetry::trace::{
        Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _, TracerProvider as _,
    };
    use opentelemetry::{Context, KeyValue};
    use opentelemetry_http::{HttpClient, HttpError};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan};
    use tokio::runtime::Handle;
    use tracing::{info, warn};

    use super::{NoTraces, Settings};
    use crate::protocol::fields::{Fields, text};

    /// Makes spans, and sends them in batches on a thread of its own.
    #[derive(Clone)]
    pub struct Tracer(Arc<Inner>);

    struct Inner {
        provider: SdkTracerProvider,
        tracer: SdkTracer,
        side: Handle,
    }

    // The last span of a collector that was replaced ends on a thread that carries requests: no place to wait for it.
    impl Drop for Inner {
        fn drop(&mut self) {
            let provider = self.provider.clone();
            self.side.spawn_blocking(move || provider.shutdown_with_timeout(TIMEOUT));
        }
    }

    /// Something that takes time. Ends when it is dropped.
    pub struct Span {
        // Boxed: most requests have none, and each has the room for it while it waits.
        span: Box<SdkSpan>,
        tracer: Tracer,
        /// Whether the trace began here.
        is_first: bool,
    }

    impl Tracer {
        /// Prepares to send; nothing is reached yet. Calls are made on `side`.
        pub fn start(settings: &Settings, client: reqwest::Client, side: Handle) -> Result<Self, NoTraces> {
            let exporter = SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpJson)
                .with_endpoint(settings.endpoint.clone())
                .with_timeout(TIMEOUT)
                .with_http_client(Sender { client, side: side.clone(), is_failing: Arc::default() })
                .build()
                .map_err(|error| NoTraces(error.to_string()))?;
            let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample)));
            let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
            let resource = Resource::builder_empty()
                .with_service_name(settings.service.clone())
                .with_attribute(version)
                .build();
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_sampler(sampler)
                .with_resource(resource)
                .build();
            let tracer = provider.tracer("mcp-auth-proxy");
            Ok(Tracer(Arc::new(Inner { provider, tracer, side })))
        }

        /// A request comes in; it belongs to the trace that its headers name.
        pub fn request(&self, method: &Method, route: &str, fields: &Fields) -> Span {
            let parent = remote(fields);
            let is_first = parent.is_none();
            let parent =
                parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
            // What strangers may write in its place is no method.
            let known = [Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::OPTIONS];
            let method = if known.contains(method) { method.as_str() } else { "_OTHER" };
            let name = format!("{method} {route}");
            let builder = self.0.tracer.span_builder(name).with_kind(SpanKind::Server);
            let builder = builder.with_attributes([
                KeyValue::new("http.request.method", method.to_string()),
                KeyValue::new("http.route", route.to_owned()),
            ]);
            let span = self.0.tracer.build_with_context(builder, &parent);
            Span { span: Box::new(span), tracer: self.clone(), is_first }
        }

        /// Sends what is left. Blocks, for so long at most.
        pub fn stop(&self, within: Duration) {
            // A collector that is away has lost it.
            let _ = self.0.provider.shutdown_with_timeout(within);
        }
    }

    impl Span {
        /// A part of it: the way to an upstream.
        pub fn towards(&self, name: &'static str) -> Span {
            let parent = Context::new().with_remote_span_context(self.span.span_context().clone());
            let tracer = &self.tracer.0.tracer;
            let builder = tracer.span_builder(name).with_kind(SpanKind::Client);
            let span = tracer.build_with_context(builder, &parent);
            Span { span: Box::new(span), tracer: self.tracer.clone(), is_first: self.is_first }
        }

        /// Says what is to be known of it.
        pub fn say(&mut self, name: &'static str, value: &str) {
            if self.span.is_recording() {
                self.span.set_attribute(KeyValue::new(name, value.to_owned()));
            }
        }

        /// What came of it.
        pub fn answered(&mut self, status: u16, outcome: Option<&'static str>) {
            self.span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
            if let Some(outcome) = outcome {
                self.span.set_attribute(KeyValue::new("mcp_auth_proxy.outcome", outcome));
            }
            if status >= 500 {
                self.span.set_status(Status::error(outcome.unwrap_or_default()));
            }
        }

        /// Lets whoever is asked next go on in this trace.
        pub fn hand_on(&self, fields: &mut Fields) {
            let context = self.span.span_context();
            let flags = context.trace_flags() & TraceFlags::SAMPLED;
            let text = format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), flags.to_u8());
            fields.remove(TRACEPARENT);
            fields.add(TRACEPARENT, text.as_bytes());
            // W3C Trace Context §3.3: it belongs to the traceparent that came with it.
            if self.is_first {
                fields.remove(TRACESTATE);
            }
        }
    }

    /// W3C Trace Context §3.2: `00-<trace>-<parent>-<flags>`; what is malformed is as good as none.
    fn remote(fields: &Fields) -> Option<SpanContext> {
        let text = text(fields.single(TRACEPARENT).ok()??)?;
        let mut parts = text.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let well_formed = is_hex(version, 2)
            && version != "ff"
            && is_hex(trace, 32)
            && is_hex(parent, 16)
            && is_hex(flags, 2);
        if !well_formed || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
        let (trace, parent) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(parent).ok()?);
        let context = SpanContext::new(trace, parent, flags, true, TraceState::NONE);
        context.is_valid().then_some(context)
    }

    /// Our one HTTP client, for the exporter's thread, which has no runtime.
    struct Sender {
        client: reqwest::Client,
        side: Handle,
        is_failing: Arc<AtomicBool>,
    }

    impl fmt::Debug for Sender {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Sender")
        }
    }

    impl HttpClient for Sender {
        fn send_bytes<'a, 'b>(
            &'a self,
            request: Request<Bytes>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            let (client, is_failing) = (self.client.clone(), self.is_failing.clone());
            let sent = self.side.spawn(async move {
                let answer = send(&client, request).await;
                tell(&answer, is_failing.swap(is_taken(&answer).is_err(), Ordering::Relaxed));
                answer
            });
            Box::pin(async move { Ok(sent.await??) })
        }
    }

    async fn send(client: &reqwest::Client, request: Request<Bytes>) -> reqwest::Result<Response<Bytes>> {
        let (parts, body) = request.into_parts();
        let call = client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
        let answer = call.timeout(TIMEOUT).send().await?;
        let status = answer.status();
        let mut response = Response::new(answer.bytes().await?);
        *response.status_mut() = status;
        Ok(response)
    }

    fn is_taken(answer: &reqwest::Result<Response<Bytes>>) -> Result<(), String> {
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("answered {}", answer.status())),
            Err(error) => {
                let causes =
                    std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
                Err(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
            }
        }
    }

    /// Once when it begins and once when it is over.
    fn tell(answer: &reqwest::Result<Response<Bytes>>, was_failing: bool) {
        match (is_taken(answer), was_failing) {
            (Err(error), false) => warn!(error, "the collector does not take the traces; they are lost"),
            (Ok(()), true) => info!("the collector takes the traces again"),
            (Err(_), true) | (Ok(()), false) => {}
        }
    }

    const TRACEPARENT: &str = "traceparent";
    const TRACESTATE: &str = "tracestate";
    const TIMEOUT: Duration = Duration::from_secs(5);

    #[cfg(test)]
    mod tests {
        use super::*;

        fn of(text: &'static str) -> Option<SpanContext> {
            let mut fields = Fields::default();
            fields.add(TRACEPARENT, text.as_bytes());
            remote(&fields)
        }

        #[test]
        fn the_trace_of_a_client_is_read_and_nothing_else() {
            let known = of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("valid");
            assert_eq!(known.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
            assert!(known.is_sampled());
            assert!(of("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-later").is_some());
            for bad in [
                "",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            ] {
                assert!(of(bad).is_none(), "{bad}");
            }
        }
    }
}

/// What stands in the place of traces in a build without them: a tracer cannot be started, so nothing else is called.
#[cfg(not(feature = "otlp"))]
mod without {
    use tokio::runtime::Handle;

    use super::{NoTraces, Settings};
    use crate::protocol::fields::Fields;

    #[derive(Clone)]
    pub struct Tracer(());

    pub struct Span(());

    impl Tracer {
        /// Says that this build has no traces.
        pub fn start(_: &Settings, _: reqwest::Client, _: Handle) -> Result<Self, NoTraces> {
            Err(NoTraces("this program was built without the feature otlp".to_owned()))
        }

        pub fn request(&self, _: &http::Method, _: &str, _: &Fields) -> Span {
            Span(self.0)
        }

        pub fn stop(&self, _: std::time::Duration) {}
    }

    impl Span {
        pub fn towards(&self, _: &'static str) -> Span {
            Span(self.0)
        }

        pub fn say(&mut self, _: &'static str, _: &str) {}

        pub fn answered(&mut self, _: u16, _: Option<&'static str>) {}

        pub fn hand_on(&self, _: &mut Fields) {}
    }
}
