//! The command line. Exit codes: 0 fine, 64 bad configuration or arguments, 1 anything else.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{self, App, Tuning};
use crate::clock::Clock;
use crate::config::{Allow, Config, Problem, StoreConfig};
use crate::process;
use crate::telemetry;

/// OAuth 2.1 in front of any MCP server: people log in at GitHub, it gets their token as a header.
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
        // Before any secret is read.
        if let Err(error) = process::keep_to_itself() {
            return fail(format_args!("cannot keep its memory to itself: {error}"));
        }
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
    // Before anything is served: a signal that comes early must not kill.
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("cannot listen for signals: {error}")),
    };
    match App::start(config, Clock::system(), &Tuning::default()) {
        Ok(app) => until_signalled(app, signals, path),
        Err(error) => fail(error),
    }
}

fn fail(why: impl std::fmt::Display) -> ExitCode {
    eprintln!("mcp-auth-proxy: {why}");
    ExitCode::FAILURE
}

fn until_signalled(mut app: App, mut signals: Signals, path: &Path) -> ExitCode {
    while let Told::Reload = signals.wait() {
        reload(&mut app, path);
    }
    tracing::info!("draining: open requests are finished, new ones are refused; a second signal cuts them");
    let cut = app.cut();
    let second = std::thread::spawn(move || {
        while let Told::Reload = signals.wait() {}
        cut();
    });
    app.stop();
    drop(second);
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

/// A file that is wrong, or changes what cannot change, is told with all its problems, and changes nothing.
fn reload(app: &mut App, path: &Path) {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => {
            for problem in &problems {
                tracing::error!("{}: {problem}", path.display());
            }
            tracing::error!(
                problems = problems.len(),
                "the configuration was not reloaded; the one before stays"
            );
            return;
        }
    };
    match app.reload(config) {
        Ok(()) => tracing::info!("the configuration was reloaded"),
        Err(error) => tracing::error!("{}: {error}; the configuration before stays", path.display()),
    }
}

/// What a signal asks for.
enum Told {
    End,
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP, from the moment this exists.
#[cfg(unix)]
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = signal(SignalKind::hangup())?;
        drop(inside);
        Ok(Signals { runtime, terminate, interrupt, hangup })
    }

    /// Returns at the next one.
    fn wait(&mut self) -> Told {
        let Signals { runtime, terminate, interrupt, hangup } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => Told::End,
                _ = interrupt.recv() => Told::End,
                _ = hangup.recv() => Told::Reload,
            }
        })
    }
}

/// Ctrl-C, which is all there is elsewhere.
#[cfg(not(unix))]
struct Signals {
    runtime: Runtime,
}

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Signals { runtime: Builder::new_current_thread().enable_all().build()? })
    }

    /// Returns at the next one.
    fn wait(&mut self) -> Told {
        // Without a handler there is nothing to wait for: then it ends.
        let _ = self.runtime.block_on(tokio::signal::ctrl_c());
        Told::End
    }
}

fn check(path: &Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            let mut said = report(&config);
            // The file is right; the machine it is checked on need not be the one it is for.
            for obstacle in app::obstacles(&config) {
                said += &format!("\nOn this machine it would not start: {obstacle}\n");
            }
            for concern in app::concerns(&config) {
                said += &format!("\nWarning: {concern}\n");
            }
            // Whoever reads it may stop early, like `head`; the verdict is the exit code.
            let _ = io::stdout().write_all(said.as_bytes());
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
    let tls = config.tls.as_ref().map(|files| format!(", TLS with {}", files.cert.display()));
    lines.push(format!("Listens on       {}{}", config.listen, tls.unwrap_or_default()));
    lines.push(format!("Logins at        {} as {}", config.github.base_url, config.github.client_id));
    lines.push(format!("Callback URL     {}   <- register exactly this at GitHub", config.callback_url()));
    lines.push(format!("Who may log in   {}", who(&config.allow)));
    lines.push(format!("Store            {}", store(&config.store, config.keys.len())));
    lines.push(format!("Registration     {}", if config.registration { "open" } else { "off" }));
    lines.push(String::new());
    for resource in &config.resources {
        lines.push(resource.resource.url().to_owned());
        lines.push(format!("  upstream       {}", app::shown(&resource.upstream)));
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
        (shared @ (StoreConfig::Postgres(_) | StoreConfig::Redis(_)), keys) => {
            format!("{shared}, {keys} configured key(s)")
        }
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
