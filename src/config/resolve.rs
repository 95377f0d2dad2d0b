//! Tree to [`Config`]: one function per section, every problem reported with its path, defaults with reasons.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use url::Url;

use super::raw::{self, Environment, Node, Problem, Problems};
use super::{
    Allow, ClientMetadata, Config, GitHub, clients, limits, resources, secrets, store, telemetry, tls,
};
use crate::protocol::family::Lifetimes;
use crate::protocol::issuer::{Issuer, is_loopback};
use crate::seal::{MasterKey, parse_key};
use crate::tls::Authorities;

/// Reads the text of a proxy.yaml.
pub fn config(text: &str, environment: Environment<'_>) -> Result<Config, Vec<Problem>> {
    let problems = Problems::default();
    let tree = raw::parse(text, environment, &problems);
    if tree.is_null() && !problems.is_empty() {
        return Err(problems.into_vec());
    }
    let root = Node::root(&tree, &problems);
    let config = sections(&root, environment);
    match config.filter(|_| problems.is_empty()) {
        Some(config) => Ok(config),
        None => Err(problems.into_vec()),
    }
}

fn sections(root: &Node<'_>, environment: Environment<'_>) -> Option<Config> {
    if !root.only(&KEYS) {
        return None;
    }
    let issuer = issuer(root);
    let listen = listen(root, issuer.as_ref());
    let (tls, authorities) =
        (tls::files(&root.get("tls"), issuer.as_ref()), tls::authorities(&root.get("ca_file")));
    let github = github(&root.get("github"), environment);
    let allow = allow(&root.get("allow"));
    let resources = resources::all(root, issuer.as_ref(), github.as_ref(), allow.as_ref());
    let store = store::store(root);
    let (lifetimes, clients) = (lifetimes(&root.get("tokens")), clients::all(&root.get("clients")));
    let (client_metadata, keys) = (client_metadata(&root.get("client_metadata"), &authorities), keys(root));
    store::needs_keys(root, store.as_ref(), &keys);
    let trusted_proxies =
        parsed_items(&root.get("trusted_proxies"), |text| text.parse().map_err(|_| cidr(text)));
    let allowed_origins = parsed_items(&root.get("allowed_origins"), origin);
    let registration = registration(&root.get("registration"));
    let limits = limits::limits(&root.get("limits"));
    Some(Config {
        workers: workers(&root.get("workers")),
        iss: root.get("iss").truth(true),
        private_use_schemes: root.get("private_use_schemes").truth(true),
        // Long enough for a tool call, shorter than the ten seconds Docker waits before it kills.
        drain: root.get("drain").duration(Duration::from_secs(8)),
        metrics: telemetry::metrics(&root.get("metrics")),
        audit: telemetry::audit(&root.get("audit")),
        traces: telemetry::traces(&root.get("traces")),
        drain_delay: drain_delay(&root.get("drain_delay")),
        issuer: issuer?,
        listen: listen?,
        tls,
        authorities,
        github: github?,
        allow: allow?,
        store: store?,
        store_connections: store::connections(&root.get("store_connections")),
        resources,
        lifetimes,
        registration,
        clients,
        client_metadata,
        keys,
        proxies_declared: root.get("trusted_proxies").exists(),
        trusted_proxies,
        allowed_origins,
        limits,
    })
}

fn issuer(root: &Node<'_>) -> Option<Issuer> {
    let node = root.get("public_url");
    node.required();
    node.parsed(Issuer::parse)
}

fn listen(root: &Node<'_>, issuer: Option<&Issuer>) -> Option<SocketAddr> {
    let node = root.get("listen");
    if node.exists() {
        let problem =
            |text: &str| format!("expected an address and a port like 127.0.0.1:8000, got {text:?}");
        return node.parsed(|text| {
            let text = text.replace("localhost:", "127.0.0.1:");
            text.parse().map_err(|_| problem(&text))
        });
    }
    // A laptop's public_url says the port already; anything else listens where the documents say.
    let laptop = issuer.filter(|issuer| issuer.is_loopback() && !issuer.is_secure());
    Some(SocketAddr::from(([127, 0, 0, 1], laptop.map_or(8000, Issuer::port))))
}

fn workers(node: &Node<'_>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parse = |text: &str| match text.parse::<usize>() {
        Ok(number) if (1..=256).contains(&number) => Ok(number),
        _ => Err("expected a number of threads from 1 to 256"),
    };
    node.parsed(parse).unwrap_or(cores)
}

/// Nothing by default: whoever has no balancer in front should not wait for it to notice.
fn drain_delay(node: &Node<'_>) -> Duration {
    let parse = |text: &str| if text == "0s" { Ok(Duration::ZERO) } else { raw::duration(text) };
    node.parsed(parse).unwrap_or(Duration::ZERO)
}

fn github(node: &Node<'_>, environment: Environment<'_>) -> Option<GitHub> {
    if !node.only(&["client_id", "client_secret", "client_secret_file", "base_url", "api_url"]) {
        return None;
    }
    let client_id = match node.get("client_id") {
        id if id.exists() => id.quoted(),
        id => secrets::from_environment(&id, "MCP_GITHUB_CLIENT_ID", environment),
    };
    let secret = secrets::of_github(node, environment);
    let base_url = web_base(&node.get("base_url"), || "https://github.com".to_owned());
    let api_url = web_base(&node.get("api_url"), || base_url.as_deref().map(api_of).unwrap_or_default());
    Some(GitHub { client_id: client_id?, client_secret: secret?, base_url: base_url?, api_url: api_url? })
}

/// https, or http on a loopback host: credentials travel there.
fn web_base(node: &Node<'_>, default: impl FnOnce() -> String) -> Option<String> {
    if !node.exists() {
        return Some(default());
    }
    node.parsed(|text| {
        let url = Url::parse(text).map_err(|_| format!("expected an absolute URL, got {text:?}"))?;
        let safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
        let anonymous = url.username().is_empty() && url.password().is_none();
        match safe && anonymous && url.query().is_none() && url.fragment().is_none() {
            true => Ok(text.trim_end_matches('/').to_owned()),
            false => {
                Err("expected https (or http on a loopback host) without user name, query or fragment"
                    .to_owned())
            }
        }
    })
}

/// github.md §8: api.github.com, api.SUB.ghe.com, or HOST/api/v3.
fn api_of(base_url: &str) -> String {
    match base_url.strip_prefix("https://") {
        Some("github.com") => "https://api.github.com".to_owned(),
        Some(host) if host.ends_with(".ghe.com") => format!("https://api.{host}"),
        _ => format!("{base_url}/api/v3"),
    }
}

fn allow(node: &Node<'_>) -> Option<Allow> {
    if !node.exists() {
        node.problem("is missing: say who may log in, `anyone` or {users: [], orgs: [], teams: [org/team]}");
        return None;
    }
    if node.is_text() {
        let anyone = |text: &str| match text {
            "anyone" => Ok(Allow::Anyone),
            other => Err(format!("expected `anyone` or {{users, orgs, teams}}, got {other:?}")),
        };
        return node.parsed(anyone);
    }
    if !node.only(&["users", "orgs", "teams"]) {
        return None;
    }
    let users = parsed_items(&node.get("users"), github_name);
    let orgs = parsed_items(&node.get("orgs"), github_name);
    let teams = parsed_items(&node.get("teams"), |text| {
        let (org, team) = text.split_once('/').ok_or_else(|| format!("expected org/team, got {text:?}"))?;
        Ok::<_, String>((github_name(org)?, github_name(team)?))
    });
    if users.is_empty() && orgs.is_empty() && teams.is_empty() {
        node.problem_unless_told("allows nobody; name users, orgs or teams, or say `anyone`");
        return None;
    }
    Some(Allow::Listed { users, orgs, teams })
}

fn github_name(text: &str) -> Result<String, String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match !text.is_empty() && text.len() <= 100 && text != "." && text != ".." && text.bytes().all(valid) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected a name as GitHub shows it in URLs, got {text:?}")),
    }
}

fn lifetimes(node: &Node<'_>) -> Lifetimes {
    node.only(&["access", "refresh_idle", "refresh_max", "refresh_grace"]);
    let lifetimes = Lifetimes {
        // Every request is checked against the store, so a long life is safe, and short ones lose sessions
        // in clients that do not refresh.
        access: node.get("access").duration(Duration::from_secs(8 * 3_600)),
        refresh_idle: node.get("refresh_idle").duration(Duration::from_secs(30 * 86_400)),
        refresh_max: node.get("refresh_max").duration(Duration::from_secs(180 * 86_400)),
        // Covers a lost answer and several processes that share one refresh token.
        refresh_grace: node.get("refresh_grace").duration(Duration::from_secs(60)),
    };
    if lifetimes.refresh_idle > lifetimes.refresh_max {
        node.get("refresh_idle").problem("must not be longer than refresh_max");
    }
    if lifetimes.refresh_grace > Duration::from_secs(600) {
        node.get("refresh_grace").problem("must not be longer than 10m: it is a window for thieves too");
    }
    lifetimes
}

fn registration(node: &Node<'_>) -> bool {
    // YAML reads a bare `off` as false and `on` as true.
    let parse = |text: &str| match text {
        "open" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        other => Err(format!("expected open or off, got {other:?}")),
    };
    node.parsed(parse).unwrap_or(true)
}

fn client_metadata(node: &Node<'_>, others: &Authorities) -> ClientMetadata {
    node.only(&["enabled", "allow_hosts", "ca_file", "allow_private_addresses"]);
    ClientMetadata {
        enabled: node.get("enabled").truth(true),
        allow_hosts: parsed_items(&node.get("allow_hosts"), |host| {
            match Url::parse(&format!("https://{host}/")) {
                Ok(url) if url.host_str() == Some(host) => Ok(host.to_owned()),
                _ => Err(format!("expected a host name like claude.ai, got {host:?}")),
            }
        }),
        authorities: tls::authorities(&node.get("ca_file")).shared_with(others),
        allow_private_addresses: node.get("allow_private_addresses").truth(false),
    }
}

fn keys(root: &Node<'_>) -> Vec<MasterKey> {
    let (node, file) = (root.get("keys"), root.get("keys_file"));
    if node.exists() && file.exists() && !node.items().is_empty() {
        file.problem("is given beside keys; keep one of them");
    }
    let from_file = file.parsed(|path| -> Result<Vec<MasterKey>, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // Making a key of our own instead would log everybody out.
        if lines.is_empty() {
            return Err(format!("{path} holds no key"));
        }
        lines.into_iter().map(parse_key).collect()
    });
    from_file.unwrap_or_else(|| parsed_items(&node, parse_key))
}

fn origin(text: &str) -> Result<String, String> {
    match Url::parse(text) {
        Ok(url) if url.origin().ascii_serialization() == text.trim_end_matches('/') => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(format!("expected a web origin like https://app.example.com, got {text:?}")),
    }
}

fn cidr(text: &str) -> String {
    format!("expected a network like 10.0.0.0/8 or 127.0.0.1/32, got {text:?}")
}

pub(super) fn parsed_items<T, E: Display>(node: &Node<'_>, parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
    node.items().iter().filter_map(|item| item.parsed(&parse)).collect()
}

const KEYS: [&str; 27] = [
    "public_url",
    "listen",
    "tls",
    "ca_file",
    "github",
    "allow",
    "resources",
    "store",
    "store_file",
    "store_connections",
    "tokens",
    "registration",
    "private_use_schemes",
    "clients",
    "client_metadata",
    "keys",
    "keys_file",
    "iss",
    "trusted_proxies",
    "allowed_origins",
    "limits",
    "workers",
    "drain",
    "drain_delay",
    "metrics",
    "audit",
    "traces",
];
