//! What requests of a family carry and are told of: one piece of memory, wiped when it goes. A million families are
//! known at a time, and a text of its own would cost each as much as what it says.

use std::borrow::Cow;
use std::iter::once;
use std::slice;

use secrecy::{ExposeSecret, SecretSlice};

use crate::protocol::family::Family;
use crate::protocol::injection::{Identity, Injection};
use crate::store::people::People;

/// Texts one after the other, each behind its length.
pub(super) struct Told {
    block: SecretSlice<u8>,
    token_at: u32,
    token_length: u32,
}

/// The texts, in their order.
#[derive(Clone, Copy)]
enum Part {
    /// The injected headers as they are sent.
    Lines = 0,
    // 1 is the GitHub token, unless the lines hold it.
    Login = 2,
    /// Whose key is the person beside it.
    CredentialScopes = 3,
    // From here on for the trail, and absent without one.
    ClientId = 4,
    ClientName = 5,
    Resource = 6,
}

impl Told {
    /// Everything about a family; what only a trail tells of is kept where there is one.
    pub(super) fn new(identity: &Identity, inject: &[Injection], family: &Family, has_trail: bool) -> Self {
        let rendered: Vec<(&str, Vec<Cow<'_, str>>)> =
            inject.iter().filter_map(|own| Some((own.name.as_str(), own.pieces(identity)?))).collect();
        let lines = rendered.iter().flat_map(|(name, pieces)| {
            once(*name).chain(once(": ")).chain(pieces.iter().map(|piece| &**piece)).chain(once("\r\n"))
        });
        let lines: Vec<&str> = lines.collect();
        let token = identity.token.expose_secret();
        let elsewhere = if lines.contains(&token) { "" } else { token };
        let single = [
            elsewhere,
            &identity.login,
            People::scopes_in(&family.credential),
            &family.client_id,
            &family.client_name,
            &family.resource,
        ];
        let kept = if has_trail { &single[..] } else { &single[..3] };
        let parts = || once(&lines[..]).chain(kept.iter().map(slice::from_ref));
        // Neither more nor less: to grow or shrink would leave the token where it was before.
        let mut block = Vec::with_capacity(parts().map(|texts| PREFIX + length(texts)).sum());
        for texts in parts() {
            block.extend_from_slice(&word(length(texts)).to_be_bytes());
            texts.iter().for_each(|text| block.extend_from_slice(text.as_bytes()));
        }
        let found = block.windows(token.len().max(1)).position(|window| window == token.as_bytes());
        let (token_at, token_length) = (word(found.unwrap_or_default()), word(token.len()));
        Told { block: block.into(), token_at, token_length }
    }

    /// The injected headers: `name: value` and a line end each, and nothing in a value that ends a line.
    pub(super) fn lines(&self) -> &[u8] {
        self.part(Part::Lines).unwrap_or_default()
    }

    /// The person's GitHub token.
    pub(super) fn token(&self) -> &[u8] {
        let (at, length) = (self.token_at as usize, self.token_length as usize);
        self.block.expose_secret().get(at..at + length).unwrap_or_default()
    }

    pub(super) fn login(&self) -> &str {
        self.text(Part::Login).unwrap_or_default()
    }

    /// The key of the record with the person's GitHub credential.
    pub(super) fn credential(&self, person: u64) -> String {
        People::credential_key(person, self.text(Part::CredentialScopes).unwrap_or_default())
    }

    /// Known where there is a trail.
    pub(super) fn client_id(&self) -> Option<&str> {
        self.text(Part::ClientId)
    }

    /// Known where there is a trail.
    pub(super) fn client_name(&self) -> Option<&str> {
        self.text(Part::ClientName)
    }

    /// Known where there is a trail.
    pub(super) fn resource(&self) -> Option<&str> {
        self.text(Part::Resource)
    }

    fn text(&self, part: Part) -> Option<&str> {
        str::from_utf8(self.part(part)?).ok()
    }

    fn part(&self, part: Part) -> Option<&[u8]> {
        let before = 0..part as usize;
        let rest = before.into_iter().try_fold(self.block.expose_secret(), |rest, _| Some(first(rest)?.1));
        first(rest?).map(|(part, _)| part)
    }

    /// Bytes, without what the allocator adds.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.block.expose_secret().len()
    }
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        // Both are ours, so the time this takes says nothing to anybody.
        self.block.expose_secret() == other.block.expose_secret()
    }
}

/// The first part, and what comes after it.
fn first(block: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = block.split_first_chunk::<PREFIX>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

fn length(texts: &[&str]) -> usize {
    texts.iter().map(|text| text.len()).sum()
}

fn word(length: usize) -> u32 {
    u32::try_from(length).expect("no header and no record of ours is four GiB long")
}

const PREFIX: usize = size_of::<u32>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::protocol::family::Stage;
    use crate::protocol::scope::ScopeSet;

    fn told(inject: &[(&str, &str)], token: &str, has_trail: bool) -> Told {
        let email = None;
        let identity = Identity { id: 42, login: "ann".into(), email, token: token.to_owned().into() };
        let inject: Vec<Injection> =
            inject.iter().map(|(name, text)| Injection::parse(name, text).expect("valid")).collect();
        let family = Family {
            person: 42,
            credential: People::credential_key(42, "read:user repo"),
            client_id: "c".into(),
            client_name: "C\u{e4}".into(),
            resource: "https://p.test/mcp".into(),
            scopes: ScopeSet::default(),
            created: Time::from_seconds(1),
            stage: Stage::Live { generation: 1, rotated: Time::from_seconds(1) },
        };
        Told::new(&identity, &inject, &family, has_trail)
    }

    #[test]
    fn lines_are_as_they_are_sent() {
        let inject = [
            ("Authorization", "Bearer {github_token}"),
            ("X-Email", "{github_email}"),
            ("X-Who", "{github_login}/{github_id}: "),
        ];
        let told = told(&inject, "gho_x", false);
        assert_eq!(told.lines(), b"authorization: Bearer gho_x\r\nx-who: ann/42: \r\n");
    }

    #[test]
    fn the_token_is_known_whether_it_is_injected_or_not() {
        for inject in [&[("X-Token", "{github_token}!")][..], &[("X-Id", "{github_id}")], &[]] {
            let told = told(inject, "gho_x", true);
            assert_eq!(told.token(), b"gho_x");
            assert_eq!(
                (told.login(), told.credential(42)),
                ("ann", "credential/42/read:user+repo".to_owned())
            );
        }
        assert_eq!(told(&[], "", true).token(), b"");
    }

    #[test]
    fn what_only_the_trail_tells_of_is_kept_for_a_trail_only() {
        let with = told(&[("X-Id", "{github_id}")], "gho_x", true);
        assert_eq!((with.client_id(), with.client_name()), (Some("c"), Some("C\u{e4}")));
        assert_eq!(with.resource(), Some("https://p.test/mcp"));
        let without = told(&[("X-Id", "{github_id}")], "gho_x", false);
        assert_eq!((without.client_id(), without.client_name(), without.resource()), (None, None, None));
        assert!(with != without);
    }
}
