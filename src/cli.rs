//! The command line. Exit codes: 0 fine, 64 bad configuration or arguments, 1 anything else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::{App, Tuning};
use crate::clock::Clock;
use crate::config::{Allow, Config, Problem, StoreConfig};
use crate::telemetry;

/// OAuth 2.1 in front of any MCP server: people log in at GitHub, and their GitHub token reaches the MCP
/// server as a header.
#[derive(Parser)]
#[command(name = "mcp-auth-proxy", version, args_conflicts_with_subcommands = true, after_help = EXAMPLE)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    file: File,
}

#[derive(Args)]
struct File {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "proxy.yaml")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Check the configuration, say what would be served where, and exit
    Check(File),
}

impl Cli {
    /// Reads the arguments; help, version and mistakes end the process with the right code.
    pub fn read() -> Result<Self, ExitCode> {
        Cli::try_parse().map_err(|error| {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Nowhere to tell that the terminal is gone.
            let _ = error.print();
            ExitCode::from(code)
        })
    }

    /// Does what was asked.
    pub fn run(self) -> ExitCode {
        match self.command {
            Some(Command::Check(file)) => check(&file.config),
            None => serve(&self.file.config),
        }
    }
}

fn serve(path: &Path) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => return refuse(path, &problems),
    };
    telemetry::start();
    match App::start(config, Clock::system(), &Tuning::default()) {
        Ok(app) => until_signalled(app),
        Err(error) => {
            eprintln!("mcp-auth-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn until_signalled(app: App) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mcp-auth-proxy: cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = runtime.block_on(signalled()) {
        eprintln!("mcp-auth-proxy: cannot listen for signals: {error}");
        return ExitCode::FAILURE;
    }
    tracing::info!("draining: open requests are finished, new ones are refused; a second signal cuts them");
    let cut = app.cut();
    let second = std::thread::spawn(move || {
        if runtime.block_on(signalled()).is_ok() {
            cut();
        }
    });
    app.stop();
    drop(second);
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

async fn signalled() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

fn check(path: &Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            print!("{}", report(&config));
            ExitCode::SUCCESS
        }
        Err(problems) => refuse(path, &problems),
    }
}

fn refuse(path: &Path, problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("{}: {problem}", path.display());
    }
    let plural = if problems.len() == 1 { "" } else { "s" };
    eprintln!("{} problem{plural}; nothing was started", problems.len());
    ExitCode::from(EXIT_USAGE)
}

/// What would be served where. Shows no secret.
fn report(config: &Config) -> String {
    let mut lines = vec!["The configuration is valid.".to_owned(), String::new()];
    lines.push(format!("Clients see      {}", config.issuer));
    lines.push(format!("Listens on       {}", config.listen));
    lines.push(format!("Logins at        {} as {}", config.github.base_url, config.github.client_id));
    lines.push(format!("Callback URL     {}   <- register exactly this at GitHub", config.callback_url()));
    lines.push(format!("Who may log in   {}", who(&config.allow)));
    lines.push(format!("Store            {}", store(&config.store, config.keys.len())));
    lines.push(format!("Registration     {}", if config.registration { "open" } else { "off" }));
    lines.push(String::new());
    for resource in &config.resources {
        lines.push(resource.resource.url().to_owned());
        lines.push(format!("  upstream       {}", resource.upstream));
        lines.push(format!("  asks GitHub    {}", listed(&resource.github_scopes)));
        let names: Vec<String> = resource.inject.iter().map(|injection| injection.name.to_string()).collect();
        lines.push(format!("  injects        {}", listed(&names)));
    }
    lines.join("\n") + "\n"
}

fn who(allow: &Allow) -> String {
    match allow {
        Allow::Anyone => "anyone with a GitHub account".to_owned(),
        Allow::Listed { users, orgs, teams } => {
            let teams: Vec<String> = teams.iter().map(|(org, team)| format!("{org}/{team}")).collect();
            let named = [("users", users), ("organisations", orgs), ("teams", &teams)];
            let named = named.iter().filter(|(_, names)| !names.is_empty());
            named.map(|(kind, names)| format!("{kind} {}", names.join(", "))).collect::<Vec<_>>().join("; ")
        }
    }
}

fn store(store: &StoreConfig, keys: usize) -> String {
    match (store, keys) {
        (StoreConfig::Sqlite(path), 0) => format!("{0}, key in {0}.key", path.display()),
        (StoreConfig::Sqlite(path), keys) => format!("{}, {keys} configured key(s)", path.display()),
        (StoreConfig::Memory, _) => "memory: every login is lost when the process ends".to_owned(),
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;
const EXAMPLE: &str = "\
Example:
  export MCP_GITHUB_CLIENT_ID=Ov23li... MCP_GITHUB_CLIENT_SECRET=...
  mcp-auth-proxy check --config proxy.yaml
  mcp-auth-proxy --config proxy.yaml

MCP_AUTH_PROXY_LOG chooses what is logged (error, warn, info, debug; default info).";
