//! Runs the bundled MCP server: `cargo run --example profile -- --listen 127.0.0.1:9000`.

use std::{future, io, net::SocketAddr};

use clap::Parser;

#[path = "support/profile.rs"]
mod profile;

/// An MCP server to put behind mcp-auth-proxy: tells who is logged in at GitHub
#[derive(Parser)]
#[command(name = "profile")]
struct Arguments {
    /// Address to serve /mcp on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// GitHub's API [default: $GITHUB_API_URL, else https://api.github.com]
    #[arg(long, value_name = "URL")]
    github_api: Option<String>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let github_api = arguments.github_api.unwrap_or_else(github_api_of_environment);
    let address = profile::start(arguments.listen, github_api.trim_end_matches('/')).await?;
    println!("profile ready at http://{address}/mcp");
    future::pending().await
}

#[expect(clippy::disallowed_methods, reason = "an example has no configuration to read this")]
fn github_api_of_environment() -> String {
    std::env::var("GITHUB_API_URL").unwrap_or_else(|_| "https://api.github.com".to_owned())
}
