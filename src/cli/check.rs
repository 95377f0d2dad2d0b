//! `check`: what a configuration would serve, and what stands in its way on this machine.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use super::refuse;
use crate::app;
use crate::config::{Allow, Config, StoreConfig};

pub(super) fn check(path: &Path) -> ExitCode {
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
    lines.extend(seen_by_operators(config));
    lines.push(String::new());
    for resource in &config.resources {
        lines.push(resource.resource.url().to_owned());
        lines.push(format!("  upstream       {}", app::shown(&resource.upstreams)));
        lines.push(format!("  asks GitHub    {}", listed(&resource.github_scopes)));
        let names: Vec<String> = resource.inject.iter().map(|injection| injection.name.to_string()).collect();
        lines.push(format!("  injects        {}", listed(&names)));
    }
    lines.join("\n") + "\n"
}

/// Only what is configured.
fn seen_by_operators(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(config.metrics.map(|at| format!("Metrics on       http://{at}/metrics")));
    lines.extend(config.audit.as_ref().map(|to| format!("Audit trail      {to}")));
    lines.extend(config.traces.as_ref().map(|to| format!("Traces to        {}", to.endpoint)));
    let delay = (!config.drain_delay.is_zero()).then_some(config.drain_delay);
    let delay = delay.map(|delay| format!(", after {delay:?} of being not ready")).unwrap_or_default();
    lines.push(format!("Drains for       {:?}{delay}", config.drain));
    lines
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
