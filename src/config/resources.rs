//! The `resources:` section: what is published, where it goes, what is injected and asked of GitHub.

use std::time::Duration;

use http::Uri;
use url::Url;

use super::raw::Node;
use super::resolve::parsed_items;
use super::{Allow, GitHub, ResourceConfig};
use crate::protocol::injection::{Injection, poses_as};
use crate::protocol::issuer::Issuer;
use crate::protocol::resource::Resource;
use crate::protocol::scope::{self, ScopeSet};

/// At least one, each path once.
pub(super) fn all(
    root: &Node<'_>,
    issuer: Option<&Issuer>,
    github: Option<&GitHub>,
    allow: Option<&Allow>,
) -> Vec<ResourceConfig> {
    let node = root.get("resources");
    let items = node.items();
    if items.is_empty() && !node.is_unset() {
        node.problem_unless_told("is missing: publish at least one upstream, like {path: /mcp, upstream: http://127.0.0.1:9000/mcp}");
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
    if !node.only(&RESOURCE_KEYS) {
        return None;
    }
    let scopes = mcp_scopes(&node.get("scopes"));
    let path = node.get("path");
    path.required();
    let resource = path.parsed(|text| match issuer {
        Some(issuer) => Resource::new(issuer, text, scopes).map(Some).map_err(|error| error.to_string()),
        // Told already; whether the path is one can be said all the same.
        None => {
            let stand_in = Issuer::parse("https://localhost").expect("an issuer");
            Resource::new(&stand_in, text, scopes).map(|_| None).map_err(|error| error.to_string())
        }
    });
    let upstreams = upstreams(&node.get("upstream"));
    let inject = inject(&node.get("inject"));
    let github_scopes = github_scopes(&node.get("github_scopes"), &inject, github, allow);
    Some(ResourceConfig {
        // Connecting to a neighbour takes milliseconds; more means it is not there.
        connect_timeout: node.get("connect_timeout").duration(Duration::from_secs(5)),
        // A tool may think for minutes before it answers with plain JSON.
        response_timeout: node.get("response_timeout").duration(Duration::from_secs(300)),
        max_body: node.get("max_body").parsed(bytes).unwrap_or(DEFAULT_MAX_BODY),
        resource: resource??,
        upstreams: upstreams?,
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
        node.problem_unless_told(format_args!("expected 1 to {} scope names", ScopeSet::MAX - 1));
    }
    scopes
}

/// One URL, or a list of them.
fn upstreams(node: &Node<'_>) -> Option<Vec<Uri>> {
    node.required();
    if !node.is_list() {
        return node.parsed(upstream_uri).map(|uri| vec![uri]);
    }
    let items = node.items();
    if items.is_empty() || items.len() > MAX_REPLICAS {
        node.problem(format_args!("expected a URL, or a list of 1 to {MAX_REPLICAS}"));
    }
    let (mut uris, mut known): (Vec<Uri>, Vec<Url>) = Default::default();
    for item in &items {
        let Some(uri) = item.parsed(upstream_uri) else { continue };
        // As requests go there: a host in capitals is no other one, nor is a port that goes without saying.
        let Ok(url) = Url::parse(&uri.to_string()) else { continue };
        if known.contains(&url) {
            item.problem("is listed twice");
        }
        known.push(url);
        uris.push(uri);
    }
    (!uris.is_empty()).then_some(uris)
}

fn upstream_uri(text: &str) -> Result<Uri, String> {
    // `localhost:9000/mcp` is a URL too, of a scheme called localhost.
    let url = Url::parse(text).ok().filter(|_| text.contains("://"));
    let url =
        url.ok_or_else(|| format!("expected an absolute URL like http://127.0.0.1:9000/mcp, got {text:?}"))?;
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
        node.problem_unless_told("must not be empty: GitHub takes an empty list for all scopes a person ever granted; use [read:user]");
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

/// As many as a request can try, each once.
const MAX_REPLICAS: usize = 64;
/// Tool calls with files in them fit; a disk image does not.
const DEFAULT_MAX_BODY: u64 = 64 << 20;
const RESOURCE_KEYS: [&str; 8] = [
    "path",
    "upstream",
    "scopes",
    "github_scopes",
    "inject",
    "connect_timeout",
    "response_timeout",
    "max_body",
];
