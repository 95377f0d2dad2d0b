//! The whole of mcp-auth-proxy on one machine, without a GitHub account: `cargo run --example quickstart`.
//!
//! Starts a GitHub stand-in, an MCP server and the proxy on loopback, walks through one login the way an MCP
//! client does, prints every step, then keeps serving so that a real client can be added.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser;
use mcp_auth_proxy::app::{App, Tuning};
use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::config::Config;
use reqwest::header::{self, HeaderMap};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[path = "../tests/support/github.rs"]
mod github;
#[path = "support/profile.rs"]
mod profile;

use github::{Approval, GitHub, Options, User};

/// Try mcp-auth-proxy on this machine, with a stand-in for GitHub
#[derive(Parser)]
struct Arguments {
    /// Port of the proxy
    #[arg(long, default_value_t = 8000, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Stop after the walk instead of serving on
    #[arg(long)]
    once: bool,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    match serve(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}\n(another port: --port NUMBER)");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: &Arguments) -> Outcome<()> {
    let github = GitHub::start(Options::default()).await?;
    github.world().add_user(User::octocat());
    github.world().sign_in("octocat");
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = profile::start(anywhere, &github.api_url()).await?;
    let public_url = format!("http://localhost:{}", arguments.port);
    let config = configuration(&public_url, &github, server)?;
    let app = App::start(config, Clock::system(), &Tuning::default())?;

    println!("Three programs are running on this machine:");
    println!("  a stand-in for GitHub   {}", github.base_url());
    println!("  an MCP server           http://{server}/mcp   (knows nothing of logins)");
    println!("  mcp-auth-proxy          {public_url}/mcp   (in front of it)\n");
    println!("This is what an MCP client does now, step by step:\n");
    Walk::new(public_url.clone())?.run().await?;
    println!("\nThat is all. The MCP server never saw the client's token, the client never saw GitHub's.");
    if arguments.once {
        return Ok(());
    }

    // From here on a person decides, in a browser.
    github.world().sign_out();
    github.world().set_approval(Approval::Remembered);
    println!("\nStill serving. Add it to a real client, for example:\n");
    println!("  claude mcp add --transport http quickstart {public_url}/mcp\n");
    println!("or open {public_url}/ in a browser. GitHub is the stand-in here too: sign in as octocat.");
    println!("Ctrl-C ends it.");
    tokio::signal::ctrl_c().await?;
    app.begin_drain();
    Ok(())
}

fn configuration(public_url: &str, github: &GitHub, server: SocketAddr) -> Outcome<Config> {
    let yaml = format!(
        r#"
public_url: {public_url}
github:
  client_id: standin-client
  client_secret: standin-secret
  base_url: {}
  api_url: {}
allow: anyone
resources:
  - path: /mcp
    upstream: http://{server}/mcp
    inject: {{X-GitHub-Token: "{{github_token}}", X-GitHub-Login: "{{github_login}}", X-GitHub-Id: "{{github_id}}"}}
store: "memory:"
"#,
        github.base_url(),
        github.api_url()
    );
    Config::parse(&yaml, &|_| None).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        problems.join("\n").into()
    })
}

/// One client, with the browser it opens.
struct Walk {
    public_url: String,
    http: Client,
    step: u32,
}

impl Walk {
    fn new(public_url: String) -> Outcome<Self> {
        let http = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
        Ok(Walk { public_url, http, step: 0 })
    }

    async fn run(&mut self) -> Outcome<()> {
        let metadata_url = self.challenge().await?;
        let server = self.discover(&metadata_url).await?;
        let client_id = self.register(&server).await?;
        let verifier = URL_SAFE_NO_PAD.encode(Clock::system().random::<32>());
        let code = self.log_in(&server, &client_id, &verifier).await?;
        let tokens = self.redeem(&server, &client_id, &code, &verifier).await?;
        self.call_tools(&tokens).await?;
        let tokens = self.refresh(&server, &client_id, &tokens).await?;
        self.revoke(&server, &client_id, &tokens).await
    }

    async fn challenge(&mut self) -> Outcome<String> {
        let answer = self.rpc(1, "tools/list", json!({})).send().await?;
        let challenge = text(answer.headers(), "www-authenticate");
        let url = between(&challenge, "resource_metadata=\"", "\"")
            .ok_or("no resource_metadata in the challenge")?;
        self.say(&format!("It calls the server and is told to log in: {}.", answer.status()));
        self.say(&format!("The answer names a document that says how: {url}"));
        Ok(url)
    }

    async fn discover(&mut self, url: &str) -> Outcome<Value> {
        let resource = self.json(self.http.get(url)).await?;
        let issuer =
            resource["authorization_servers"][0].as_str().ok_or("no authorization server is named")?;
        let server =
            self.json(self.http.get(format!("{issuer}/.well-known/oauth-authorization-server"))).await?;
        self.say(&format!("It finds the authorization server, which is the proxy itself: {issuer}"));
        Ok(server)
    }

    async fn register(&mut self, server: &Value) -> Outcome<String> {
        let metadata = json!({
            "client_name": "Quickstart",
            "redirect_uris": [CALLBACK],
            "token_endpoint_auth_method": "none",
        });
        let request = self
            .http
            .post(member(server, "registration_endpoint")?)
            .header(header::CONTENT_TYPE, "application/json");
        let client = self.json(request.body(metadata.to_string())).await?;
        let id = member(&client, "client_id")?;
        self.say(&format!(
            "It registers itself. Nothing is stored: its id carries all about it ({} characters).",
            id.len()
        ));
        Ok(id)
    }

    /// Plays the person: reads the consent page, clicks Allow, logs in at the stand-in.
    async fn log_in(&mut self, server: &Value, client_id: &str, verifier: &str) -> Outcome<String> {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        let mut url = url::Url::parse(&member(server, "authorization_endpoint")?)?;
        url.query_pairs_mut().extend_pairs([
            ("response_type", "code"),
            ("client_id", client_id),
            ("redirect_uri", CALLBACK),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("state", "quickstart"),
            ("resource", &format!("{}/mcp", self.public_url)),
        ]);
        let page = self.http.get(url).send().await?;
        let consent_cookie = cookie(page.headers());
        let page = page.text().await?;
        let flow = between(&page, "name=\"flow\" value=\"", "\"").ok_or("no consent form")?;
        self.say("It opens a browser. The proxy asks the person whether this client may act for them.");

        let form = encoded(&[("flow", &flow), ("decision", "approve")]);
        let request =
            self.http.post(format!("{}/consent", self.public_url)).header(header::ORIGIN, &self.public_url);
        let approved =
            request.header(header::COOKIE, consent_cookie).header(header::CONTENT_TYPE, FORM).body(form);
        let approved = approved.send().await?;
        let login_cookie = cookie(approved.headers());
        let github =
            between(&approved.text().await?, "content=\"0;url=", "\"").ok_or("the proxy did not lead on")?;
        self.say("The person allows it and is sent to GitHub (the stand-in), logs in there, and comes back.");

        let back = self.http.get(unescaped(&github)).send().await?;
        let callback = text(back.headers(), "location");
        let done = self.http.get(callback).header(header::COOKIE, login_cookie).send().await?;
        let to_client = url::Url::parse(&text(done.headers(), "location"))?;
        let code = to_client
            .query_pairs()
            .find(|(name, _)| name == "code")
            .ok_or("no code came back")?
            .1
            .into_owned();
        self.say(
            "The browser hands the client a code that is good once, for a minute, and for this client only.",
        );
        Ok(code)
    }

    async fn redeem(
        &mut self,
        server: &Value,
        client_id: &str,
        code: &str,
        verifier: &str,
    ) -> Outcome<Value> {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("client_id", client_id),
            ("redirect_uri", CALLBACK),
            ("code_verifier", verifier),
        ];
        let tokens = self.post(server, "token_endpoint", &form).await?;
        self.say(&format!(
            "It trades the code for an access token, good for {} s, and a refresh token.",
            tokens["expires_in"]
        ));
        Ok(tokens)
    }

    async fn call_tools(&mut self, tokens: &Value) -> Outcome<()> {
        let token = member(tokens, "access_token")?;
        let hello = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "quickstart", "version": "1"},
        });
        let answer = self.rpc(1, "initialize", hello).bearer_auth(&token).send().await?.error_for_status()?;
        let session = text(answer.headers(), "mcp-session-id");
        let in_session = |request: RequestBuilder| match session.is_empty() {
            true => request.bearer_auth(&token),
            false => request.bearer_auth(&token).header("mcp-session-id", &session),
        };
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
        in_session(self.mcp().body(ready)).send().await?.error_for_status()?;
        self.say("With that token it opens an MCP session; requests now pass through to the MCP server.");
        for tool in ["whoami", "get_user_profile"] {
            let request = self.rpc(2, "tools/call", json!({"name": tool, "arguments": {}}));
            let answer = in_session(request).send().await?.error_for_status()?.text().await?;
            self.say(&format!(
                "It calls the tool {tool}, which answers as the person: {}",
                result_text(&answer)?
            ));
        }
        Ok(())
    }

    async fn refresh(&mut self, server: &Value, client_id: &str, tokens: &Value) -> Outcome<Value> {
        let refresh_token = member(tokens, "refresh_token")?;
        let form =
            [("grant_type", "refresh_token"), ("refresh_token", &refresh_token), ("client_id", client_id)];
        let next = self.post(server, "token_endpoint", &form).await?;
        self.say(
            "When the access token expires it gets a new pair with the refresh token; nobody logs in again.",
        );
        Ok(next)
    }

    async fn revoke(&mut self, server: &Value, client_id: &str, tokens: &Value) -> Outcome<()> {
        let (access, refresh) = (member(tokens, "access_token")?, member(tokens, "refresh_token")?);
        let form = encoded(&[("token", &refresh), ("client_id", client_id)]);
        let endpoint = member(server, "revocation_endpoint")?;
        let request = self.http.post(endpoint).header(header::CONTENT_TYPE, FORM).body(form);
        request.send().await?.error_for_status()?;
        let answer = self.rpc(3, "tools/list", json!({})).bearer_auth(access).send().await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Err("a revoked token still works".into());
        }
        self.say(
            "Signing out revokes everything: the access token is refused now, GitHub's token is deleted too.",
        );
        Ok(())
    }

    fn say(&mut self, text: &str) {
        self.step += 1;
        println!("{:>3}. {text}", self.step);
    }

    fn mcp(&self) -> RequestBuilder {
        let request = self
            .http
            .post(format!("{}/mcp", self.public_url))
            .header(header::CONTENT_TYPE, "application/json");
        request.header(header::ACCEPT, "application/json, text/event-stream")
    }

    fn rpc(&self, id: u32, method: &str, params: Value) -> RequestBuilder {
        self.mcp().body(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string())
    }

    async fn post(&self, server: &Value, endpoint: &str, form: &[(&str, &str)]) -> Outcome<Value> {
        let request = self.http.post(member(server, endpoint)?).header(header::CONTENT_TYPE, FORM);
        self.json(request.body(encoded(form))).await
    }

    async fn json(&self, request: RequestBuilder) -> Outcome<Value> {
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        match status.is_success() {
            true => Ok(serde_json::from_str(&body)?),
            false => Err(format!("{status}: {body}").into()),
        }
    }
}

/// The text of a tool's result, out of JSON or the event stream that carries it.
fn result_text(answer: &str) -> Outcome<String> {
    let mut data = answer
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(str::trim)
        .filter(|data| !data.is_empty());
    let message: Value = serde_json::from_str(data.next_back().unwrap_or(answer))?;
    let text =
        message["result"]["content"][0]["text"].as_str().ok_or_else(|| format!("no result: {message}"))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn member(value: &Value, name: &str) -> Outcome<String> {
    Ok(value[name].as_str().ok_or_else(|| format!("no {name} in {value}"))?.to_owned())
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn cookie(headers: &HeaderMap) -> String {
    text(headers, "set-cookie").split(';').next().unwrap_or_default().to_owned()
}

fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let start = text.find(before)? + before.len();
    let end = text[start..].find(after)? + start;
    Some(text[start..end].to_owned())
}

fn unescaped(text: &str) -> String {
    text.replace("&#38;", "&").replace("&amp;", "&")
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Nobody listens there: the walk reads the redirect itself.
const CALLBACK: &str = "http://127.0.0.1:8976/callback";
const FORM: &str = "application/x-www-form-urlencoded";
