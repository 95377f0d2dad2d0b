//! Clients: dynamically registered, described by a metadata document, or configured.
//!
//! RFC 7591 §2; draft-ietf-oauth-client-id-metadata-document §2, §4.

use serde::{Deserialize, Serialize};

use super::redirect::{RedirectKind, RedirectUri};

/// A client whose identity and redirect URIs are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// As the client sends it.
    pub id: String,
    /// Where our knowledge comes from.
    pub origin: Origin,
    /// For people; already [`display_name`]d.
    pub name: String,
    /// Where answers may go.
    pub redirect_uris: Vec<RedirectUri>,
    /// How it proves who it is at /token and /revoke.
    pub auth: AuthMethod,
}

/// Where our knowledge of a client comes from, hence who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Told us about itself at /register: nobody vouches.
    Registered,
    /// Published by this host over https.
    Document { host: String },
    /// In proxy.yaml: the operator vouches.
    Configured,
}

/// `token_endpoint_auth_method` (RFC 7591 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthMethod {
    /// A public client.
    None,
    /// The secret in the form.
    ClientSecretPost,
    /// The secret in the Authorization header.
    ClientSecretBasic,
}

impl AuthMethod {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::None => "none",
            AuthMethod::ClientSecretPost => "client_secret_post",
            AuthMethod::ClientSecretBasic => "client_secret_basic",
        }
    }

    /// Reads the value on the wire; `None` for methods we do not offer.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [AuthMethod::None, AuthMethod::ClientSecretPost, AuthMethod::ClientSecretBasic];
        all.into_iter().find(|method| method.as_str() == text)
    }
}

impl Client {
    /// The redirect URI for a request: the one asked for when it is registered, or the only one there is.
    pub fn redirect_uri(&self, asked: Option<&str>) -> Option<RedirectUri> {
        match asked {
            Some(asked) => {
                let asked = RedirectUri::parse(asked).ok()?;
                self.redirect_uris.iter().any(|registered| registered.permits(&asked)).then_some(asked)
            }
            None => match self.redirect_uris.as_slice() {
                [only] => Some(only.clone()),
                _ => None,
            },
        }
    }

    /// Whether every answer goes to the person's own machine.
    pub fn is_loopback_only(&self) -> bool {
        self.redirect_uris.iter().all(|uri| uri.kind() == RedirectKind::Loopback)
    }
}

/// Makes a self-asserted name fit to be shown: no control or bidirectional characters, bounded, never empty.
pub fn display_name(name: &str) -> String {
    let shown = |c: &char| !c.is_control() && !INVISIBLE.iter().any(|range| range.contains(c));
    let name: String = name.chars().filter(shown).take(MAX_NAME).collect();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() { "Unnamed client".to_owned() } else { name }
}

/// What every registered (not configured, not document) client's id starts with.
pub const PREFIX: &str = "mcp-client-";
const MAX_NAME: usize = 80;
/// Zero-width, bidirectional and other characters that change how the text around them looks.
const INVISIBLE: [std::ops::RangeInclusive<char>; 7] = [
    '\u{ad}'..='\u{ad}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{e0000}'..='\u{e0fff}',
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_could_mislead() {
        assert_eq!(display_name("  Good\u{202e}\n \u{200b}App\u{7} "), "Good App");
        assert_eq!(display_name("\u{200b}"), "Unnamed client");
        assert_eq!(display_name(&"x".repeat(500)).len(), 80);
    }

    #[test]
    fn an_omitted_redirect_uri_needs_exactly_one_registered() {
        let uri = |text| RedirectUri::parse(text).expect("valid");
        let mut client = Client {
            id: "c".into(),
            origin: Origin::Registered,
            name: "C".into(),
            redirect_uris: vec![uri("https://a.example/cb")],
            auth: AuthMethod::None,
        };
        assert_eq!(client.redirect_uri(None), Some(uri("https://a.example/cb")));
        assert_eq!(client.redirect_uri(Some("https://b.example/cb")), None);
        client.redirect_uris.push(uri("http://localhost/"));
        assert_eq!(client.redirect_uri(None), None);
        assert!(!client.is_loopback_only());
    }
}
