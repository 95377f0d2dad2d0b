//! Reads the arguments and does what they say.

use std::process::ExitCode;

use mcp_auth_proxy::cli::Cli;

fn main() -> ExitCode {
    match Cli::read() {
        Ok(cli) => cli.run(),
        Err(code) => code,
    }
}
