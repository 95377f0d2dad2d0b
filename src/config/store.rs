//! `store:`, where logins live, and what a shared one asks for.

use std::path::PathBuf;

use super::StoreConfig;
use super::raw::Node;
use crate::seal::MasterKey;
use crate::store::{postgres, redis};

/// Written in the file (usually as `${NAME}`) or kept in a file of its own, for it may hold a password.
pub(super) fn store(root: &Node<'_>) -> Option<StoreConfig> {
    let (node, file) = (root.get("store"), root.get("store_file"));
    if node.exists() && file.exists() {
        file.problem("is given beside store; keep one of them");
        return None;
    }
    if file.exists() {
        return file.parsed(|path| {
            let text =
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
            place(text.trim())
        });
    }
    if !node.exists() {
        return Some(StoreConfig::Sqlite(PathBuf::from("mcp-auth-proxy.db")));
    }
    node.parsed(place)
}

/// Reads where a store is. Problems never repeat what was written: it may carry a password.
pub fn place(text: &str) -> Result<StoreConfig, String> {
    match text.split_once(':') {
        Some(("sqlite", path)) if !path.is_empty() => sqlite(path),
        Some(("memory", "")) => Ok(StoreConfig::Memory),
        Some(("postgres" | "postgresql", _)) => postgres::Place::parse(text).map(StoreConfig::Postgres),
        Some((scheme, _)) if scheme.starts_with("redis") => redis::Place::parse(text).map(StoreConfig::Redis),
        Some((scheme, rest)) if scheme.starts_with("valkey") => {
            let text = format!("redis{}:{rest}", scheme.trim_start_matches("valkey"));
            redis::Place::parse(&text).map(StoreConfig::Redis)
        }
        _ => Err("expected sqlite:FILE, postgres://…, redis://… or memory:".to_owned()),
    }
}

fn sqlite(path: &str) -> Result<StoreConfig, String> {
    if path.starts_with(':') || path.starts_with("file:") {
        return Err(
            "expected sqlite:FILE with the path of a plain file; memory: is the throw-away store".to_owned()
        );
    }
    Ok(StoreConfig::Sqlite(PathBuf::from(path)))
}

/// A key made beside one replica would be none that the others know.
pub(super) fn needs_keys(root: &Node<'_>, store: Option<&StoreConfig>, keys: &[MasterKey]) {
    if store.is_some_and(StoreConfig::is_shared) && keys.is_empty() {
        let told = "is missing: replicas that share a store need the same keys; make one with `mcp-auth-proxy keys new`";
        let node = if root.get("keys_file").exists() { root.get("keys_file") } else { root.get("keys") };
        node.problem_unless_told(told);
    }
}

pub(super) fn connections(node: &Node<'_>) -> usize {
    let read = node.parsed(|text| match text.parse() {
        Ok(number @ 1..=1000) => Ok(number),
        _ => Err("expected a number of connections from 1 to 1000"),
    });
    read.unwrap_or(CONNECTIONS)
}

/// Of one process. Questions take a millisecond, so a few do; PostgreSQL has a hundred for everybody by default.
const CONNECTIONS: usize = 10;
