//! The bundled MCP server: shows what an upstream gets from the proxy, and knows nothing of OAuth.
//! Trusts the headers it receives, so it must be reachable through the proxy only.

use std::{convert::Infallible, error::Error, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::{
    ServerHandler,
    handler::server::tool::Extension,
    model::{CallToolResult, ContentBlock, Implementation, ServerCapabilities, ServerConfig},
    tool, tool_handler, tool_router,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// Binds and serves `/mcp` on the current runtime, as long as that lives. `github_api` has no slash at the end.
pub async fn start(listen: SocketAddr, github_api: &str) -> io::Result<SocketAddr> {
    let profile = Profile::new(github_api).map_err(io::Error::other)?;
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    // The Host check guards a server on a developer's machine against DNS rebinding, and knows the loopback
    // names. A server that listens beyond this machine is reached by names it cannot know.
    let config = match address.ip().is_loopback() {
        true => StreamableHttpServerConfig::default(),
        false => StreamableHttpServerConfig::default().disable_allowed_hosts(),
    };
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(profile.clone()), sessions, config);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream, service.clone()))),
                // Out of descriptors, most likely: a pause lets other connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(address)
}

type Service = StreamableHttpService<Profile, LocalSessionManager>;
type Body = http_body_util::combinators::BoxBody<bytes::Bytes, Infallible>;

async fn serve(stream: TcpStream, service: Service) {
    let service = service_fn(|request| answer(&service, request));
    // What goes wrong on one connection is the peer's business and hurts no other.
    let _ =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(service: &Service, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == "/mcp" {
        return Ok(service.handle(request).await);
    }
    let mut reply = Response::new(Empty::new().boxed());
    *reply.status_mut() = StatusCode::NOT_FOUND;
    Ok(reply)
}

#[derive(Clone)]
struct Profile {
    client: reqwest::Client,
    github_api: String,
}

#[tool_router]
impl Profile {
    fn new(github_api: &str) -> Result<Profile, reqwest::Error> {
        // Fails only when the process has chosen a provider already, which is just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent("mcp-auth-proxy-profile")
            .redirect(reqwest::redirect::Policy::none())
            .timeout(GITHUB_TIMEOUT)
            .build()?;
        Ok(Profile { client, github_api: github_api.to_owned() })
    }

    #[tool(
        description = "The GitHub profile of the person who is logged in",
        annotations(read_only_hint = true, open_world_hint = true)
    )]
    async fn get_user_profile(&self, Extension(request): Extension<Parts>) -> CallToolResult {
        match self.profile(&request.headers).await {
            Ok(profile) => CallToolResult::structured(profile),
            Err(trouble) => CallToolResult::error(vec![ContentBlock::text(trouble.to_string())]),
        }
    }

    #[tool(
        description = "Who the proxy says is logged in, and whether a GitHub token came along",
        annotations(read_only_hint = true, open_world_hint = false)
    )]
    async fn whoami(&self, Extension(request): Extension<Parts>) -> CallToolResult {
        let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
        CallToolResult::structured(json!({
            "login": text(LOGIN),
            "id": text(ID),
            "github_token": request.headers.contains_key(TOKEN),
        }))
    }

    async fn profile(&self, headers: &HeaderMap) -> Result<Value, Trouble> {
        let token = headers.get(TOKEN).ok_or(Trouble::NoToken)?;
        let mut bearer = HeaderValue::from_bytes(&[b"Bearer ", token.as_bytes()].concat())
            .expect("what came as a header value is one");
        bearer.set_sensitive(true);
        let request = self
            .client
            .get(format!("{}/user", self.github_api))
            .header(header::AUTHORIZATION, bearer)
            .header(header::ACCEPT, "application/vnd.github+json");
        let reply = request.send().await.map_err(|error| Trouble::Unreachable(root_cause(&error)))?;
        let status = reply.status();
        if status != StatusCode::OK {
            return Err(Trouble::Refused(status));
        }
        let body = reply.bytes().await.map_err(|error| Trouble::Unreachable(root_cause(&error)))?;
        let user: Value = serde_json::from_slice(&body).map_err(|_| Trouble::NotAProfile)?;
        let shown = FIELDS.iter().map(|field| ((*field).to_owned(), user[*field].clone()));
        Ok(Value::Object(shown.collect()))
    }
}

#[tool_handler]
impl ServerHandler for Profile {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("profile", env!("CARGO_PKG_VERSION")))
            .with_instructions("Tells who is logged in at GitHub.")
    }
}

/// What the model, and the person behind it, is told; never with the token.
enum Trouble {
    NoToken,
    Refused(StatusCode),
    Unreachable(String),
    NotAProfile,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NoToken => f.write_str(
                "No GitHub token came with this request. Connect through mcp-auth-proxy, and let its \
                 configuration inject X-GitHub-Token: \"{github_token}\".",
            ),
            Trouble::Refused(StatusCode::UNAUTHORIZED) => f.write_str(
                "GitHub does not accept the token (401). It was revoked or has expired; log in again.",
            ),
            Trouble::Refused(status @ (StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS)) => {
                write!(f, "GitHub refuses for now ({status}): a rate limit, or the token lacks a right.")
            }
            Trouble::Refused(status) => write!(f, "GitHub answered {status}; try again later."),
            Trouble::Unreachable(cause) => write!(f, "GitHub cannot be reached: {cause}"),
            Trouble::NotAProfile => f.write_str("GitHub's answer is not a profile."),
        }
    }
}

/// reqwest's own text stops at "error sending request"; the reason is at the end of the chain.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

const TOKEN: HeaderName = HeaderName::from_static("x-github-token");
const LOGIN: HeaderName = HeaderName::from_static("x-github-login");
const ID: HeaderName = HeaderName::from_static("x-github-id");
const FIELDS: [&str; 10] = [
    "login",
    "id",
    "name",
    "html_url",
    "company",
    "location",
    "bio",
    "public_repos",
    "followers",
    "created_at",
];
/// A tool call that takes longer is of no use to anybody.
const GITHUB_TIMEOUT: Duration = Duration::from_secs(10);
