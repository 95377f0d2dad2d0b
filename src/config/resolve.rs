//! Tree to [`Config`]: one function per section, every problem reported with its path, defaults with reasons.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use http::Uri;
use secrecy::SecretString;
use url::Url;

use super::raw::{self, Environment, Node, Problem, Problems};
use super::{Allow, ClientMetadata, Config, GitHub, ResourceConfig, StoreConfig};
use crate::protocol::client::{AuthMethod, Client, Origin, display_name};
use crate::protocol::family::Lifetimes;
use crate::protocol::injection::{Injection, poses_as};
use crate::protocol::issuer::{Issuer, is_loopback};
use crate::protocol::redirect::RedirectUri;
use crate::protocol::resource::Resource;
use crate::protocol::scope::{self, ScopeSet};
use crate::seal::MasterKey;

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
    root.only(&KEYS);
    let issuer = issuer(root);
    let listen = listen(root, issuer.as_ref());
    let github = github(&root.get("github"), environment);
    let allow = allow(&root.get("allow"));
    let (resources, store) = (resources(root, issuer.as_ref(), github.as_ref(), allow.as_ref()), store(root));
    let (lifetimes, clients) = (lifetimes(&root.get("tokens")), clients(&root.get("clients")));
    let (client_metadata, keys) = (client_metadata(&root.get("client_metadata")), keys(root));
    let trusted_proxies =
        parsed_items(&root.get("trusted_proxies"), |text| text.parse().map_err(|_| cidr(text)));
    let allowed_origins = parsed_items(&root.get("allowed_origins"), origin);
    let registration = registration(&root.get("registration"));
    Some(Config {
        workers: workers(&root.get("workers")),
        iss: root.get("iss").truth(true),
        private_use_schemes: root.get("private_use_schemes").truth(true),
        // Long enough for a tool call, shorter than the ten seconds Docker waits before it kills.
        drain: root.get("drain").duration(Duration::from_secs(8)),
        issuer: issuer?,
        listen: listen?,
        github: github?,
        allow: allow?,
        store: store?,
        resources,
        lifetimes,
        registration,
        clients,
        client_metadata,
        keys,
        trusted_proxies,
        allowed_origins,
    })
}

fn issuer(root: &Node<'_>) -> Option<Issuer> {
    let node = root.get("public_url");
    node.required()?;
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
    let port = issuer.filter(|issuer| issuer.is_loopback()).and_then(|issuer| {
        let (_, port) = issuer.authority().rsplit_once(':')?;
        port.parse().ok()
    });
    Some(SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(8000))))
}

fn workers(node: &Node<'_>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parse = |text: &str| match text.parse::<usize>() {
        Ok(number) if (1..=256).contains(&number) => Ok(number),
        _ => Err("expected a number of threads from 1 to 256"),
    };
    node.parsed(parse).unwrap_or(cores)
}

fn github(node: &Node<'_>, environment: Environment<'_>) -> Option<GitHub> {
    node.only(&["client_id", "client_secret", "client_secret_file", "base_url", "api_url"]);
    let client_id = match node.get("client_id") {
        id if id.exists() => id.required(),
        id => from_environment(&id, "MCP_GITHUB_CLIENT_ID", environment),
    };
    let (secret, file) = (node.get("client_secret"), node.get("client_secret_file"));
    let secret = match secret.exists() || file.exists() {
        true => secret_of(&secret, &file),
        false => from_environment(&secret, "MCP_GITHUB_CLIENT_SECRET", environment).map(SecretString::from),
    };
    let base_url = web_base(&node.get("base_url"), || "https://github.com".to_owned())?;
    let api_url = web_base(&node.get("api_url"), || api_of(&base_url))?;
    Some(GitHub { client_id: client_id?, client_secret: secret?, base_url, api_url })
}

fn from_environment(node: &Node<'_>, name: &str, environment: Environment<'_>) -> Option<String> {
    let value = environment(name).filter(|value| !value.trim().is_empty());
    if value.is_none() {
        node.problem(format_args!("is missing, and the environment variable {name} is not set"));
    }
    value
}

/// A secret written in the file (usually as `${NAME}`) or kept in a file of its own.
fn secret_of(inline: &Node<'_>, file: &Node<'_>) -> Option<SecretString> {
    if inline.exists() && file.exists() {
        file.problem("is given beside the secret itself; keep one of them");
        return None;
    }
    let secret = if file.exists() {
        let read = |path: &str| {
            std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
        };
        file.parsed(read)?.trim().to_owned()
    } else {
        inline.text()?
    };
    if secret.trim().is_empty() {
        if file.exists() { file } else { inline }.problem("is empty");
        return None;
    }
    Some(SecretString::from(secret))
}

/// https, or http on a loopback host: credentials travel there.
fn web_base(node: &Node<'_>, default: impl FnOnce() -> String) -> Option<String> {
    if !node.exists() {
        return Some(default());
    }
    node.parsed(|text| {
        let url = Url::parse(text).map_err(|_| format!("expected an absolute URL, got {text:?}"))?;
        let safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
        match safe && url.query().is_none() && url.fragment().is_none() && url.username().is_empty() {
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
    node.only(&["users", "orgs", "teams"]);
    let users = parsed_items(&node.get("users"), github_name);
    let orgs = parsed_items(&node.get("orgs"), github_name);
    let teams = parsed_items(&node.get("teams"), |text| {
        let (org, team) = text.split_once('/').ok_or_else(|| format!("expected org/team, got {text:?}"))?;
        Ok::<_, String>((github_name(org)?, github_name(team)?))
    });
    if users.is_empty() && orgs.is_empty() && teams.is_empty() {
        node.problem("allows nobody; name users, orgs or teams, or say `anyone`");
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

fn resources(
    root: &Node<'_>,
    issuer: Option<&Issuer>,
    github: Option<&GitHub>,
    allow: Option<&Allow>,
) -> Vec<ResourceConfig> {
    let node = root.get("resources");
    let items = node.items();
    if items.is_empty() && !node.is_unset() {
        node.problem("is missing: publish at least one upstream, like {path: /mcp, upstream: http://127.0.0.1:9000/mcp}");
    }
    let mut resources: Vec<ResourceConfig> = Vec::new();
    for item in &items {
        let Some(config) = resource(item, issuer, github, allow) else { continue };
        if resources.iter().any(|known| known.resource.path() == config.resource.path()) {
            item.get("path").problem("is published twice");
        }
        resources.push(config);
    }
    resources
}

fn resource(
    node: &Node<'_>,
    issuer: Option<&Issuer>,
    github: Option<&GitHub>,
    allow: Option<&Allow>,
) -> Option<ResourceConfig> {
    node.only(&[
        "path",
        "upstream",
        "scopes",
        "github_scopes",
        "inject",
        "connect_timeout",
        "response_timeout",
        "max_body",
    ]);
    let scopes = mcp_scopes(&node.get("scopes"));
    let path = node.get("path");
    path.required();
    let resource = path.parsed(|text| match issuer {
        Some(issuer) => Resource::new(issuer, text, scopes).map(Some).map_err(|error| error.to_string()),
        None => Ok(None),
    });
    let upstream = node.get("upstream");
    upstream.required();
    let upstream = upstream.parsed(upstream_uri);
    let inject = inject(&node.get("inject"));
    let github_scopes = github_scopes(&node.get("github_scopes"), &inject, github, allow);
    Some(ResourceConfig {
        // Connecting to a neighbour takes milliseconds; more means it is not there.
        connect_timeout: node.get("connect_timeout").duration(Duration::from_secs(5)),
        // A tool may think for minutes before it answers with plain JSON.
        response_timeout: node.get("response_timeout").duration(Duration::from_secs(300)),
        max_body: node.get("max_body").parsed(bytes).unwrap_or(DEFAULT_MAX_BODY),
        resource: resource??,
        upstream: upstream?,
        github_scopes,
        inject,
    })
}

fn mcp_scopes(node: &Node<'_>) -> ScopeSet {
    if !node.exists() {
        return ScopeSet::parse("mcp");
    }
    let token = |text: &str| match scope::is_token(text) && text != scope::OFFLINE_ACCESS {
        true => Ok(text.to_owned()),
        false => Err(format!("expected a scope name without spaces, quotes and backslashes, got {text:?}")),
    };
    let scopes: ScopeSet = parsed_items(node, token).into_iter().collect();
    if scopes.is_empty() || scopes.len() >= ScopeSet::MAX {
        node.problem(format_args!("expected 1 to {} scope names", ScopeSet::MAX - 1));
    }
    scopes
}

fn upstream_uri(text: &str) -> Result<Uri, String> {
    let url = Url::parse(text)
        .map_err(|_| format!("expected an absolute URL like http://127.0.0.1:9000/mcp, got {text:?}"))?;
    match url.scheme() {
        "http" | "https" => {}
        other => return Err(format!("expected http or https, got {other:?}")),
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("must not carry a user name, a password or a fragment".to_owned());
    }
    text.parse().map_err(|_| "is not a URL that can be requested".to_owned())
}

fn inject(node: &Node<'_>) -> Vec<Injection> {
    let mut injections: Vec<Injection> = Vec::new();
    for (name, value) in node.entries() {
        let Some(injection) = value.parsed(|template| Injection::parse(&name, template)) else { continue };
        if injections.iter().any(|known| poses_as(known.name.as_str(), injection.name.as_str())) {
            value.problem("is injected twice, in two spellings");
        }
        injections.push(injection);
    }
    injections
}

/// What is asked of GitHub: the operator's list, and what our own look-ups need.
fn github_scopes(
    node: &Node<'_>,
    inject: &[Injection],
    github: Option<&GitHub>,
    allow: Option<&Allow>,
) -> Vec<String> {
    let listed = |text: &str| match scope::is_token(text) && !text.contains(',') {
        true => Ok(text.to_owned()),
        false => Err(format!("expected a GitHub scope like read:user, got {text:?}")),
    };
    let mut scopes = if node.exists() { parsed_items(node, listed) } else { vec!["read:user".to_owned()] };
    // GitHub Apps have permissions instead of scopes, and ids that start with Iv.
    let is_github_app = github.is_some_and(|github| github.client_id.starts_with("Iv"));
    if scopes.is_empty() && !is_github_app {
        node.problem("must not be empty: GitHub takes an empty list for all scopes a person ever granted; use [read:user]");
    }
    if !is_github_app {
        let membership =
            matches!(allow, Some(Allow::Listed { orgs, teams, .. }) if !orgs.is_empty() || !teams.is_empty());
        let email = inject.iter().any(Injection::needs_email);
        scopes.extend(membership.then(|| "read:org".to_owned()));
        scopes
            .extend((email && !scopes.iter().any(|scope| scope == "user")).then(|| "user:email".to_owned()));
    }
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

fn store(root: &Node<'_>) -> Option<StoreConfig> {
    let node = root.get("store");
    if !node.exists() {
        return Some(StoreConfig::Sqlite(PathBuf::from("mcp-auth-proxy.db")));
    }
    node.parsed(|text| match text.split_once(':') {
        Some(("sqlite", path)) if !path.is_empty() => Ok(StoreConfig::Sqlite(PathBuf::from(path))),
        Some(("memory", "")) => Ok(StoreConfig::Memory),
        // The URL may carry a password: it is not repeated.
        _ => Err("expected sqlite:FILE or memory:"),
    })
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

fn clients(node: &Node<'_>) -> Vec<(Client, Option<SecretString>)> {
    let mut clients: Vec<(Client, Option<SecretString>)> = Vec::new();
    for item in node.items() {
        item.only(&["id", "secret", "secret_file", "name", "redirect_uris"]);
        let id = item.get("id");
        id.required();
        let id_text = id.parsed(client_id);
        let (inline, file) = (item.get("secret"), item.get("secret_file"));
        let secret = (inline.exists() || file.exists()).then(|| secret_of(&inline, &file)).flatten();
        let uris = item.get("redirect_uris");
        let redirect_uris = parsed_items(&uris, RedirectUri::parse);
        if redirect_uris.is_empty() {
            uris.problem("is missing: a client needs at least one redirect URI");
        }
        let Some(id_text) = id_text else { continue };
        if clients.iter().any(|(known, _)| known.id == id_text) {
            id.problem("is configured twice");
        }
        let name = display_name(&item.get("name").text().unwrap_or_else(|| id_text.clone()));
        let auth = if secret.is_some() { AuthMethod::ClientSecretPost } else { AuthMethod::None };
        let client = Client { id: id_text, origin: Origin::Configured, name, redirect_uris, auth };
        clients.push((client, secret));
    }
    clients
}

fn client_id(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.len() <= 200 && text.bytes().all(|byte| byte.is_ascii_graphic());
    match plain && !text.starts_with("https:") && !text.starts_with(crate::protocol::client::PREFIX) {
        true => Ok(text.to_owned()),
        false => {
            Err("expected up to 200 printable characters that look like no URL and no registered client"
                .into())
        }
    }
}

fn client_metadata(node: &Node<'_>) -> ClientMetadata {
    node.only(&["enabled", "allow_hosts", "ca_file", "allow_private_addresses"]);
    let read = |path: &str| std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"));
    ClientMetadata {
        enabled: node.get("enabled").truth(true),
        allow_hosts: parsed_items(&node.get("allow_hosts"), |host| {
            match Url::parse(&format!("https://{host}/")) {
                Ok(url) if url.host_str() == Some(host) => Ok(host.to_owned()),
                _ => Err(format!("expected a host name like claude.ai, got {host:?}")),
            }
        }),
        ca: node.get("ca_file").parsed(read),
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
        text.lines().filter(|line| !line.trim().is_empty()).map(|line| key(line.trim())).collect()
    });
    from_file.unwrap_or_else(|| parsed_items(&node, key))
}

/// 32 random bytes in base64 (either alphabet, padded or not).
pub fn key(text: &str) -> Result<MasterKey, String> {
    let engines = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD];
    let bytes = engines.iter().find_map(|engine| engine.decode(text).ok());
    let bytes: [u8; 32] = bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or("expected 32 random bytes in base64, as `openssl rand -base64 32` prints them")?;
    let distinct = bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
    if distinct < 12 {
        return Err("is not random; make one with `openssl rand -base64 32`".to_owned());
    }
    Ok(MasterKey::new(Box::new(bytes)))
}

fn origin(text: &str) -> Result<String, String> {
    match Url::parse(text) {
        Ok(url) if url.origin().ascii_serialization() == text.trim_end_matches('/') => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(format!("expected a web origin like https://app.example.com, got {text:?}")),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 0,
    };
    match number.parse::<u32>() {
        Ok(number) if number > 0 && factor > 0 => Ok(u64::from(number) * factor),
        _ => Err(format!("expected a size like 512KiB, 64MiB or 1GiB, got {text:?}")),
    }
}

fn cidr(text: &str) -> String {
    format!("expected a network like 10.0.0.0/8 or 127.0.0.1/32, got {text:?}")
}

fn parsed_items<T, E: Display>(node: &Node<'_>, parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
    node.items().iter().filter_map(|item| item.parsed(&parse)).collect()
}

const KEYS: [&str; 18] = [
    "public_url",
    "listen",
    "github",
    "allow",
    "resources",
    "store",
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
    "workers",
    "drain",
];
/// Tool calls with files in them fit; a disk image does not.
const DEFAULT_MAX_BODY: u64 = 64 << 20;
