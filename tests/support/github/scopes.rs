//! Scopes as GitHub reads and writes them.

use std::{collections::BTreeSet, fmt};

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(BTreeSet<String>);

impl Scopes {
    /// Splits at spaces and commas, and drops what another scope contains: `user,user:email` is `user`.
    pub fn parse(text: &str) -> Scopes {
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        let all: BTreeSet<String> = words.map(str::to_owned).collect();
        let contained = |scope: &String| all.iter().any(|wider| wider != scope && contains(wider, scope));
        Scopes(all.iter().filter(|s| !contained(s)).cloned().collect())
    }

    /// Whether one of `wanted` is here, itself or inside a wider one.
    pub fn allow(&self, wanted: &[&str]) -> bool {
        let allows = |wanted: &&str| self.0.iter().any(|have| have == wanted || contains(have, wanted));
        wanted.iter().any(allows)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn join(&self, separator: &str) -> String {
        self.iter().collect::<Vec<_>>().join(separator)
    }

    pub fn covers(&self, others: &Scopes) -> bool {
        others.iter().all(|scope| self.allow(&[scope]))
    }

    pub fn and(&self, others: &Scopes) -> Scopes {
        Scopes::parse(&format!("{self} {others}"))
    }

    pub fn within(&self, limit: &Scopes) -> Scopes {
        Scopes(self.0.iter().filter(|s| limit.allow(&[s])).cloned().collect())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.join(" "))
    }
}

fn contains(wider: &str, narrower: &str) -> bool {
    let inside: &[&str] = match wider {
        "user" => &["read:user", "user:email", "user:follow"],
        "repo" => &["repo:status", "repo_deployment", "public_repo", "repo:invite", "security_events"],
        "admin:org" => &["write:org", "read:org"],
        "write:org" => &["read:org"],
        _ => &[],
    };
    inside.contains(&narrower)
}
