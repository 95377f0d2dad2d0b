//! The command line. Exit codes: 0 fine, 64 bad configuration or arguments, 1 anything else.

mod check;
mod operate;
mod serve;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Problem;
use crate::process;

/// OAuth 2.1 in front of any MCP server: people log in at GitHub, it gets their token as a header.
#[derive(Parser)]
#[command(name = "mcp-auth-proxy", version, after_help = EXAMPLE)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "proxy.yaml", global = true)]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Check the configuration, say what would be served where, and exit
    Check,
    /// Who has logged in
    #[command(subcommand)]
    People(operate::People),
    /// What clients may do for people: list it, end it
    #[command(subcommand)]
    Grants(operate::Grants),
    /// End all grants, or those from before a moment
    Revoke(operate::Revoke),
    /// Keys for tokens and encryption
    #[command(subcommand)]
    Keys(operate::Keys),
    /// Look at the store, or copy it into another
    #[command(subcommand)]
    Store(operate::Store),
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
        let config = &self.config;
        match self.command {
            Some(Command::Check) => check::check(config),
            Some(Command::People(command)) => command.run(config),
            Some(Command::Grants(command)) => command.run(config),
            Some(Command::Revoke(command)) => command.run(config),
            Some(Command::Keys(command)) => command.run(),
            Some(Command::Store(command)) => command.run(config),
            None => serve::serve(config),
        }
    }
}

fn fail(why: impl std::fmt::Display) -> ExitCode {
    eprintln!("mcp-auth-proxy: {why}");
    ExitCode::FAILURE
}

fn refuse(path: &Path, problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("{}: {problem}", path.display());
    }
    let plural = if problems.len() == 1 { "" } else { "s" };
    eprintln!("{} problem{plural}; nothing was started", problems.len());
    ExitCode::from(EXIT_USAGE)
}

/// EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;
const EXAMPLE: &str = "\
Example:
  export MCP_GITHUB_CLIENT_ID=Ov23li... MCP_GITHUB_CLIENT_SECRET=...
  mcp-auth-proxy --config proxy.yaml

MCP_AUTH_PROXY_LOG chooses what is logged (error, warn, info, debug; default info).";
