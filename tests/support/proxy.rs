//! The real program's `App` in process, on port 0, with a manual clock and seeded randomness.
//!
//! Its public URL is `https://p.test`, as behind a TLS terminator: the client below connects to the listener
//! whatever the URL says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use mcp_auth_proxy::app::{App, ReloadError, StartError, Tuning};
use mcp_auth_proxy::clock::ManualClock;
use mcp_auth_proxy::config::{Config, Problem};
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::TempDir;
use super::browser::Browser;
use super::github::{GitHub, Options, TokenKind, User};
use super::http::{self as plain, Answer, form};
use super::program::{Program, Surroundings};
use super::tls::Front;
use super::upstream::Mcp;

/// What clients see.
pub const PUBLIC: &str = "https://p.test";
/// Where the test's client waits for its answer.
pub const CALLBACK: &str = "http://127.0.0.1:7777/callback";
/// A verifier of the right shape (RFC 7636 Appendix B).
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// Its challenge.
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A running proxy with everything around it.
pub struct Proxy {
    app: Option<App>,
    address: SocketAddr,
    pub clock: ManualClock,
    pub github: GitHub,
    pub mcp: Mcp,
    yaml: String,
}

/// How a proxy under test differs from the plain one.
pub struct Setup {
    pub token_kind: TokenKind,
    /// Replaces `allow: anyone`.
    pub allow: &'static str,
    /// Replaces the resources; `MCP` stands for the upstream's `http://host:port`.
    pub resources: &'static str,
    /// Further top-level keys.
    pub extra: String,
    pub store: String,
    /// Where the proxy listens.
    pub listen: SocketAddr,
    /// Where the proxy finds GitHub when not at its own address.
    pub github: Option<Arc<Front>>,
    /// What the proxy calls the machine that GitHub is on.
    pub github_host: &'static str,
    /// How to speak to a proxy that ends TLS itself.
    pub client: Option<ClientConfig>,
    pub tuning: Tuning,
    /// For a process of its own.
    pub surroundings: Surroundings,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            token_kind: TokenKind::OAuthApp,
            allow: "anyone",
            resources: RESOURCE,
            extra: String::new(),
            store: "memory:".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            github: None,
            github_host: "127.0.0.1",
            client: None,
            tuning: Tuning {
                fresh_token_retries: vec![Duration::from_millis(1); 2],
                github_timeout: Duration::from_secs(5),
                store_look: Duration::from_millis(20),
                // Tests move the clock on; what one test may count must not depend on when this comes.
                still: Duration::from_secs(3_600),
                ..Tuning::default()
            },
            surroundings: Surroundings::default(),
        }
    }
}

impl Setup {
    /// The plain proxy on a SQLite file in `dir`, which survives restarts and serves replicas.
    pub fn on(dir: &TempDir) -> Self {
        let store = format!("sqlite:{}", database(dir).display());
        Setup { store, ..Setup::default() }
    }
}

/// Resources for a [`Setup`]: `/mcp` in front of any origin, with further keys (`, max_body: 1MiB`).
pub fn in_front_of(origin: &str, more: &str) -> &'static str {
    let inject = r#"{X-GitHub-Token: "{github_token}"}"#;
    Box::leak(format!("[{{path: /mcp, upstream: '{origin}/mcp', inject: {inject}{more}}}]").into_boxed_str())
}

/// The file of [`Setup::on`].
pub fn database(dir: &TempDir) -> PathBuf {
    dir.path().join("proxy.db")
}

const RESOURCE: &str = r#"[{path: /mcp, upstream: "MCP/mcp", inject: {X-GitHub-Token: "{github_token}"}}]"#;

/// What a finished login gave the client.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub client_id: String,
    pub access: String,
    pub refresh: String,
    pub answer: Value,
}

impl Proxy {
    /// The plain one: one resource `/mcp`, anyone may log in, memory store.
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let (github, mcp, yaml) = surroundings(&setup).await;
        let clock = ManualClock::new(42);
        let app = run(&yaml, &clock, &setup.tuning);
        setup.client.into_iter().for_each(|client| plain::over_tls(app.address(), client));
        Proxy { address: app.address(), app: Some(app), clock, github, mcp, yaml }
    }

    /// The real program, as a process of its own with the machine's clock, in the same surroundings.
    pub async fn as_process(setup: Setup, dir: &TempDir, log: &str) -> (Self, Program) {
        let (github, mcp, yaml) = surroundings(&setup).await;
        let program = Program::start_in(setup.surroundings, dir, &yaml, log);
        let (address, clock) = (program.address(), ManualClock::new(42));
        setup.client.into_iter().for_each(|client| plain::over_tls(address, client));
        (Proxy { address, app: None, clock, github, mcp, yaml }, program)
    }

    /// Clients find it elsewhere from now on: the process was started again, or something was put in front.
    pub fn moved_to(&mut self, address: SocketAddr) {
        self.address = address;
    }

    /// Stops the proxy and starts another on the same configuration, clock and store.
    pub async fn restart(&mut self) {
        self.stop().await;
        let app = run(&self.yaml, &self.clock, &Setup::default().tuning);
        self.address = app.address();
        self.app = Some(app);
    }

    /// The same with a changed configuration.
    pub async fn reconfigure(&mut self, change: impl FnOnce(&str) -> String) {
        self.yaml = change(&self.yaml);
        self.restart().await;
    }

    /// Reads a changed configuration while it runs, as on SIGHUP.
    pub async fn reload(&mut self, change: impl FnOnce(&str) -> String) -> Result<(), ReloadError> {
        let (yaml, mut app) = (change(&self.yaml), self.take_app());
        let config = parse(&yaml).unwrap_or_else(|problems| panic!("{problems:?}"));
        let reloaded = move || {
            let outcome = app.reload(config);
            (app, outcome)
        };
        let (app, outcome) = tokio::task::spawn_blocking(reloaded).await.expect("it goes on");
        self.app = Some(app);
        if outcome.is_ok() {
            self.yaml = yaml;
        }
        outcome
    }

    /// Stops the proxy by hand; what it had to say is said then.
    pub async fn stop(&mut self) {
        let app = self.take_app();
        tokio::task::spawn_blocking(move || app.stop()).await.expect("it stops");
    }

    /// Numbers for operators, as they are collected.
    pub async fn numbers(&self) -> String {
        let address = self.app().metrics_address().expect("metrics are configured");
        let request = plain::request(Method::GET, &format!("http://{address}/metrics"));
        plain::send(address, request.body(Bytes::new()).expect("a request")).await.expect(200).text()
    }

    /// What starting on the same configuration, clock and store comes to.
    pub fn start_again(&self) -> Result<App, StartError> {
        App::start(
            parse(&self.yaml).expect("it was valid before"),
            self.clock.clock(),
            &Setup::default().tuning,
        )
    }

    /// A second proxy on the same configuration, clock and store.
    pub fn replica(&self) -> App {
        run(&self.yaml, &self.clock, &Setup::default().tuning)
    }

    /// A second proxy on another configuration, with the same clock and store.
    pub fn replica_with(&self, change: impl FnOnce(&str) -> String) -> Result<App, StartError> {
        let config = parse(&change(&self.yaml)).unwrap_or_else(|problems| panic!("{problems:?}"));
        App::start(config, self.clock.clock(), &Setup::default().tuning)
    }

    pub fn app(&self) -> &App {
        self.app.as_ref().expect("it runs")
    }

    /// Gives the app away, to stop it by hand.
    pub fn take_app(&mut self) -> App {
        self.app.take().expect("it runs")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn forward(&self, duration: Duration) {
        self.clock.forward(duration);
    }

    pub fn browser(&self) -> Browser {
        Browser::new(self.address)
    }

    /// A request to one of our paths; add headers, then `send`.
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        plain::request(method, &format!("{PUBLIC}{path}"))
    }

    pub async fn send(&self, request: Request<Bytes>) -> Answer {
        plain::send(self.address, request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Bytes::new()).expect("a request")).await
    }

    pub async fn post_form(&self, path: &str, pairs: &[(&str, &str)]) -> Answer {
        let request = self
            .request(Method::POST, path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request.body(form(pairs)).expect("a request")).await
    }

    pub async fn post_json(&self, path: &str, body: &Value) -> Answer {
        let request = self.request(Method::POST, path).header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(Bytes::from(body.to_string())).expect("a request")).await
    }

    /// Registers a public client and returns its id.
    pub async fn register(&self, redirect_uris: &[&str]) -> String {
        let metadata = json!({
            "client_name": "Test Client",
            "redirect_uris": redirect_uris,
            "token_endpoint_auth_method": "none",
        });
        let answer = self.post_json("/register", &metadata).await.expect(201).json();
        answer["client_id"].as_str().expect("an id").to_owned()
    }

    /// The authorization URL of a well-behaved client, with further parameters.
    pub fn authorize_url(&self, client_id: &str, redirect_uri: &str, more: &[(&str, &str)]) -> String {
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", client_id),
            ("redirect_uri", redirect_uri),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("state", "st4te"),
        ];
        for (name, value) in more {
            pairs.retain(|(known, _)| known != name);
            pairs.push((name, value));
        }
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        format!("{PUBLIC}/authorize?{}", query.extend_pairs(pairs).finish())
    }

    /// Registers, approves in a fresh browser and returns (client id, code).
    pub async fn code(&self, more: &[(&str, &str)]) -> (String, String) {
        let client_id = self.register(&[CALLBACK]).await;
        let url = self.authorize_url(&client_id, CALLBACK, more);
        let back = self.browser().approve(&url).await;
        let code = param(&back, "code").unwrap_or_else(|| panic!("no code in {back}"));
        (client_id, code)
    }

    /// Redeems a code as a well-behaved public client.
    pub async fn redeem(&self, client_id: &str, code: &str) -> Answer {
        let pairs = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("client_id", client_id),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
        ];
        self.post_form("/token", &pairs).await
    }

    pub async fn refresh(&self, client_id: &str, refresh: &str) -> Answer {
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", client_id)];
        self.post_form("/token", &pairs).await
    }

    /// A login that may come to nothing.
    pub async fn login_or_none(&self) -> Option<Tokens> {
        let client_id = self.register(&[CALLBACK]).await;
        let url = self.authorize_url(&client_id, CALLBACK, &[]);
        let code = param(&self.browser().try_approve(&url).await?, "code")?;
        let answer = self.redeem(&client_id, &code).await;
        (answer.status == 200).then(|| Tokens::read(client_id, answer.json()))
    }

    /// The whole flow for the first resource.
    pub async fn login(&self) -> Tokens {
        self.login_for(&[]).await
    }

    /// The whole flow with further parameters of the authorization request.
    pub async fn login_for(&self, more: &[(&str, &str)]) -> Tokens {
        let (client_id, code) = self.code(more).await;
        let answer = self.redeem(&client_id, &code).await.expect(200).json();
        Tokens::read(client_id, answer)
    }

    /// A JSON-RPC call to a resource.
    pub fn call(&self, path: &str, token: &str) -> http::request::Builder {
        let request =
            self.request(Method::POST, path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let request = request.header(header::CONTENT_TYPE, "application/json");
        request.header(header::ACCEPT, "application/json, text/event-stream")
    }

    /// Calls `/mcp` and returns the answer.
    pub async fn ping(&self, token: &str) -> Answer {
        self.ping_at(self.address, token).await
    }

    /// The same at a replica.
    pub async fn ping_at(&self, address: SocketAddr, token: &str) -> Answer {
        let request = self.call("/mcp", token).body(Bytes::from_static(PING)).expect("a request");
        plain::send(address, request).await
    }

    /// A form for a replica.
    pub async fn post_form_at(&self, address: SocketAddr, path: &str, pairs: &[(&str, &str)]) -> Answer {
        let request = self
            .request(Method::POST, path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        plain::send(address, request.body(form(pairs)).expect("a request")).await
    }
}

/// A harmless call.
pub const PING: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

impl Tokens {
    pub fn read(client_id: String, answer: Value) -> Self {
        let text =
            |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned();
        Tokens { client_id, access: text("access_token"), refresh: text("refresh_token"), answer }
    }
}

/// A query parameter of a URL.
pub fn param(url: &str, name: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

/// Parses a configuration without environment.
pub fn parse(yaml: &str) -> Result<Config, Vec<Problem>> {
    Config::parse(yaml, &|_| None)
}

/// A GitHub with one person, an MCP server, and the configuration of a proxy between them.
async fn surroundings(setup: &Setup) -> (GitHub, Mcp, String) {
    // Behind a front it does not know its own name.
    let named = |url: String| url.replace("127.0.0.1", setup.github_host);
    let options = Options {
        token_kind: setup.token_kind,
        iss: setup.github.is_none() && setup.github_host == "127.0.0.1",
        ..Options::default()
    };
    let github = GitHub::start(options).await.expect("a GitHub starts");
    github.world().add_user(User::octocat());
    github.world().sign_in("octocat");
    if let Some(front) = &setup.github {
        front.lead_to(github.address());
    }
    let mcp = Mcp::start().await;
    let resources = setup.resources.replace("MCP", &mcp.origin());
    let drain = if setup.extra.contains("drain:") { "" } else { "drain: 1s\n" };
    let yaml = format!(
        "public_url: {PUBLIC}\nlisten: {}\nworkers: 1\n{drain}store: '{}'\nallow: {}\n\
         github: {{client_id: standin-client, client_secret: standin-secret, base_url: '{}', api_url: '{}'}}\n\
         resources: {resources}\n{}\n",
        setup.listen,
        setup.store,
        setup.allow,
        setup.github.as_ref().map_or_else(|| named(github.base_url()), |front| front.origin()),
        setup
            .github
            .as_ref()
            .map_or_else(|| named(github.api_url()), |front| format!("{}/api/v3", front.origin())),
        setup.extra
    );
    (github, mcp, yaml)
}

fn run(yaml: &str, clock: &ManualClock, tuning: &Tuning) -> App {
    let config = parse(yaml).unwrap_or_else(|problems| panic!("{problems:?}\n{yaml}"));
    App::start(config, clock.clock(), tuning).expect("the proxy starts")
}
