//! Scopes: sorted, without duplicates; the only operation is narrowing. RFC 6749 §3.3.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A set of scope tokens in canonical (sorted) order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScopeSet(Vec<String>);

/// Which members of a family's [`ScopeSet`] a token carries: bit n is the n-th scope in sorted order.
pub type ScopeMask = u16;

impl ScopeSet {
    /// As many as a [`ScopeMask`] can carry.
    pub const MAX: usize = 16;

    /// Reads a space-separated list. What is not a scope token is dropped, as unknown scopes are
    /// ignored and not refused (clients register without scope and then ask for everything they saw).
    pub fn parse(text: &str) -> Self {
        text.split(' ').filter(|token| is_token(token)).map(str::to_owned).collect()
    }

    /// Keeps what is in both sets.
    pub fn narrowed_to(&self, other: &ScopeSet) -> Self {
        self.iter().filter(|scope| other.contains(scope)).map(str::to_owned).collect()
    }

    /// Whether every scope of `other` is in this set.
    pub fn covers(&self, other: &ScopeSet) -> bool {
        other.iter().all(|scope| self.contains(scope))
    }

    /// Whether the set holds this scope.
    pub fn contains(&self, scope: &str) -> bool {
        self.0.binary_search_by(|own| own.as_str().cmp(scope)).is_ok()
    }

    /// The scopes in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there is no scope in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many scopes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The mask that selects `part` out of this set; what is not in this set is not selected.
    pub fn mask_of(&self, part: &ScopeSet) -> ScopeMask {
        let bits = self.iter().enumerate().take(Self::MAX).filter(|(_, scope)| part.contains(scope));
        bits.fold(0, |mask, (index, _)| mask | 1 << index)
    }

    /// The part of this set that a mask selects.
    pub fn masked(&self, mask: ScopeMask) -> Self {
        let chosen = self.iter().enumerate().take(Self::MAX).filter(|(index, _)| mask & 1 << index != 0);
        ScopeSet(chosen.map(|(_, scope)| scope.to_owned()).collect())
    }
}

impl FromIterator<String> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = String>>(scopes: I) -> Self {
        let mut scopes: Vec<String> = scopes.into_iter().filter(|scope| is_token(scope)).collect();
        scopes.sort_unstable();
        scopes.dedup();
        ScopeSet(scopes)
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// RFC 6749 §3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ).
pub fn is_token(text: &str) -> bool {
    let allowed = |byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(allowed)
}

/// The scope by which clients ask for a refresh token. We always issue one; the word is tolerated.
pub const OFFLINE_ACCESS: &str = "offline_access";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parsing_sorts_and_drops_what_is_no_scope() {
        assert_eq!(ScopeSet::parse("mcp  a\"b mcp admin \\ \u{fc}").to_string(), "admin mcp");
        assert!(ScopeSet::parse("").is_empty());
    }

    proptest! {
        #[test]
        fn narrowing_never_widens(a in "[a-e ]{0,20}", b in "[a-e ]{0,20}") {
            let (a, b) = (ScopeSet::parse(&a), ScopeSet::parse(&b));
            let narrowed = a.narrowed_to(&b);
            prop_assert!(a.covers(&narrowed) && b.covers(&narrowed));
            prop_assert_eq!(a.masked(a.mask_of(&b)), narrowed);
        }
    }
}
