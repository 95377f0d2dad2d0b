//! Injected headers: a name, and a template over what GitHub told us about a person.
//!
//! A name is compared in every spelling an upstream could mistake for it (`X_GitHub_Token`, any case):
//! CVE-2025-64484 class.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

/// One configured header.
#[derive(Clone, Debug)]
pub struct Injection {
    /// The name the upstream sees.
    pub name: HeaderName,
    template: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Token,
    Login,
    Id,
    Email,
}

/// What may be injected about a person.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Numeric GitHub id.
    pub id: u64,
    /// Current login.
    pub login: String,
    /// Primary and verified address, if any.
    pub email: Option<String>,
    /// The person's GitHub token.
    pub token: SecretString,
}

/// Why a configured header cannot be injected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectionError {
    #[error("is not a header name")]
    Name,
    #[error("is a header that belongs to the connection or to the proxy itself")]
    Reserved,
    #[error(
        "unknown placeholder {{{0}}}; known are {{github_token}}, {{github_login}}, {{github_id}} and {{github_email}}"
    )]
    Placeholder(String),
    #[error("has a {{ without its }}")]
    Unclosed,
    #[error("holds characters that a header cannot carry")]
    Value,
}

impl Injection {
    /// Parses `name: template` of proxy.yaml.
    pub fn parse(name: &str, template: &str) -> Result<Self, InjectionError> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| InjectionError::Name)?;
        if RESERVED.contains(&name.as_str()) || name.as_str().starts_with("mcp-") {
            return Err(InjectionError::Reserved);
        }
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((text, after)) = rest.split_once('{') {
            let (placeholder, after) = after.split_once('}').ok_or(InjectionError::Unclosed)?;
            parts.push(Part::Text(text.to_owned()));
            parts.push(Part::placeholder(placeholder)?);
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let texts =
            parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None });
        if texts.map(|text| HeaderValue::from_str(text)).any(|value| value.is_err()) {
            return Err(InjectionError::Value);
        }
        Ok(Injection { name, template: parts })
    }

    /// Whether the template needs the person's e-mail address (and so the scope to read it).
    pub fn needs_email(&self) -> bool {
        self.template.contains(&Part::Email)
    }

    /// The value for a person, in pieces that follow each other: whoever puts them together decides where the token
    /// comes to lie. `None` when GitHub told us nothing to put there, or something that a header cannot carry: then
    /// the upstream sees no such header at all.
    pub fn pieces<'a>(&'a self, identity: &'a Identity) -> Option<Vec<Cow<'a, str>>> {
        let pieces: Option<Vec<_>> = self.template.iter().map(|part| part.text(identity)).collect();
        let is_printable = |piece: &str| piece.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        pieces.filter(|pieces| pieces.iter().all(|piece| is_printable(piece)))
    }
}

impl Part {
    fn placeholder(name: &str) -> Result<Self, InjectionError> {
        match name {
            "github_token" => Ok(Part::Token),
            "github_login" => Ok(Part::Login),
            "github_id" => Ok(Part::Id),
            "github_email" => Ok(Part::Email),
            other => Err(InjectionError::Placeholder(other.chars().take(40).collect())),
        }
    }

    fn text<'a>(&'a self, identity: &'a Identity) -> Option<Cow<'a, str>> {
        Some(match self {
            Part::Text(text) => text.into(),
            Part::Token => identity.token.expose_secret().into(),
            Part::Login => (&*identity.login).into(),
            Part::Id => identity.id.to_string().into(),
            Part::Email => identity.email.as_deref()?.into(),
        })
    }
}

/// Whether an upstream could read `name` as `injected`: same letters, whatever the case and the separators.
pub fn poses_as(name: impl AsRef<[u8]>, injected: impl AsRef<[u8]>) -> bool {
    // Most names tell by their first letter that they do not.
    if let ([first, ..], [expected, ..]) = (name.as_ref(), injected.as_ref())
        && first.is_ascii_alphanumeric()
        && expected.is_ascii_alphanumeric()
        && !first.eq_ignore_ascii_case(expected)
    {
        return false;
    }
    fn letters(name: &[u8]) -> impl Iterator<Item = u8> + '_ {
        name.iter().filter(|byte| !matches!(byte, b'-' | b'_' | b'.')).map(u8::to_ascii_lowercase)
    }
    letters(name.as_ref()).eq(letters(injected.as_ref()))
}

/// Names that the proxy or the connection sets.
const RESERVED: [&str; 15] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { id: 42, login: "ann".into(), email: None, token: "gho_x".to_owned().into() }
    }

    #[test]
    fn templates_render_what_github_said() {
        let bearer = Injection::parse("Authorization", "Bearer {github_token}").expect("valid");
        assert_eq!(bearer.pieces(&identity()).expect("renders").concat(), "Bearer gho_x");
        let who = Injection::parse("X-Who", "{github_login}/{github_id}").expect("valid");
        assert_eq!(who.pieces(&identity()).expect("renders").concat(), "ann/42");
    }

    #[test]
    fn a_missing_or_unprintable_value_yields_no_header() {
        let email = Injection::parse("X-Email", "{github_email}").expect("valid");
        assert!(email.needs_email() && email.pieces(&identity()).is_none());
        let odd = Identity { login: "a\r\nX-Evil: 1".into(), ..identity() };
        let who = Injection::parse("X-Who", "{github_login}").expect("valid");
        assert!(who.pieces(&odd).is_none());
    }

    #[test]
    fn wrong_configuration_is_named() {
        use InjectionError::*;
        for (name, template, error) in [
            ("X Y", "a", Name),
            ("Host", "a", Reserved),
            ("Mcp-Session-Id", "a", Reserved),
            ("X-A", "{github_tokn}", Placeholder("github_tokn".into())),
            ("X-A", "{github_token", Unclosed),
            ("X-A", "a\nb", Value),
        ] {
            assert_eq!(Injection::parse(name, template).err(), Some(error), "{name}: {template}");
        }
    }

    #[test]
    fn every_spelling_poses() {
        for spelling in ["x-github-token", "X_GitHub_Token", "x.github-TOKEN", "XGitHubToken"] {
            assert!(poses_as(spelling, "x-github-token"), "{spelling}");
        }
        assert!(!poses_as("x-github-token2", "x-github-token"));
    }
}
