//! Runs the tests' GitHub stand-in as a process: `cargo run --example standin -- --listen 127.0.0.1:9100`.
//! `POST /_standin/…` bends it from outside; the verbs are in tests/support/github/control.rs.

use std::{future, io, net::SocketAddr};

use clap::Parser;

#[path = "../tests/support/github.rs"]
mod github;

use github::{GitHub, Options, TokenKind, User};

/// A stand-in for GitHub, to try mcp-auth-proxy without an account
#[derive(Parser)]
#[command(name = "standin")]
struct Arguments {
    /// Address to serve on; the API is below /api/v3
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
    #[arg(long, default_value = "standin-client")]
    client_id: String,
    #[arg(long, default_value = "standin-secret")]
    client_secret: String,
    /// Registered callback URL, may be repeated; without one any redirect_uri will do
    #[arg(long, value_name = "URL")]
    callback: Vec<String>,
    /// Accounts, may be repeated; the first one is signed in and approves everything
    #[arg(long, value_name = "LOGIN", default_value = "octocat")]
    login: Vec<String>,
    /// Show the sign-in page instead of signing the first account in
    #[arg(long)]
    ask: bool,
    /// Be a GitHub App, whose tokens live this long and are refreshed
    #[arg(long, value_name = "SECONDS")]
    app_tokens: Option<u64>,
    /// Do not send iss with the code, like GitHub until August 2026
    #[arg(long)]
    no_iss: bool,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let token_kind = match arguments.app_tokens {
        Some(lifetime) => TokenKind::GitHubApp { lifetime, refresh_lifetime: SIX_MONTHS },
        None => TokenKind::OAuthApp,
    };
    let github = GitHub::start(Options {
        listen: arguments.listen,
        client_id: arguments.client_id,
        client_secret: arguments.client_secret,
        callbacks: arguments.callback,
        token_kind,
        iss: !arguments.no_iss,
        close: false,
        control: true,
    })
    .await?;
    for (id, login) in (FIRST_ID..).zip(&arguments.login) {
        github.world().add_user(account(id, login));
    }
    if let Some(first) = arguments.login.first().filter(|_| !arguments.ask) {
        github.world().sign_in(first);
    }
    println!("GitHub stand-in ready at {}", github.base_url());
    future::pending().await
}

fn account(id: u64, login: &str) -> User {
    match login {
        "octocat" => User::octocat(),
        _ => User::new(id, login).with_email(&format!("{login}@example.com"), true, true),
    }
}

const FIRST_ID: u64 = 1001;
const SIX_MONTHS: u64 = 15_897_600;
