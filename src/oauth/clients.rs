//! Who a `client_id` is: configured, a metadata document's URL, or a registration that carries itself.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AuthorizationServer;
use super::document::DocumentError;
use crate::clock::Clock;
use crate::limit::Source;
use crate::protocol::client::{AuthMethod, Client, Origin, PREFIX};
use crate::protocol::redirect::{RedirectKind, RedirectUri};
use crate::protocol::token::TAG_BYTES;
use crate::seal::KeyRing;

/// What a registered client told us, carried by its own `client_id`.
#[derive(Serialize, Deserialize)]
pub struct Registration {
    pub name: String,
    pub redirect_uris: Vec<RedirectUri>,
    pub auth: AuthMethod,
    /// Seconds since the epoch.
    pub issued: u64,
    /// Two registrations of the same metadata are two clients.
    pub salt: Vec<u8>,
}

/// Why a `client_id` is nobody.
#[derive(Debug)]
pub enum NoClient {
    Unknown,
    /// A metadata document that cannot be used, with words for the person.
    Document(DocumentError),
}

impl Registration {
    /// The difference between two clients of the same metadata. A secret is derived from the id, so nobody may
    /// get an id with one twice; without one a short salt keeps ids short.
    pub fn salt(auth: AuthMethod, clock: &Clock) -> Vec<u8> {
        match auth {
            AuthMethod::None => clock.random::<4>().to_vec(),
            AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost => clock.random::<16>().to_vec(),
        }
    }

    /// `prefix + base64url(key id | metadata | MAC)`
    pub fn client_id(&self, keys: &KeyRing) -> String {
        let metadata = postcard::to_stdvec(self).expect("a registration is plain data");
        let (key_id, tag) = keys.tag(KIND, &[&metadata]);
        let bytes = [&[key_id], metadata.as_slice(), &tag].concat();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a `client_id` of ours; `None` for any other text.
    pub(super) fn read(keys: &KeyRing, client_id: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(client_id.strip_prefix(PREFIX)?).ok()?;
        let (&key_id, rest) = bytes.split_first()?;
        let (metadata, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_BYTES)?)?;
        keys.holds(key_id, KIND, &[metadata], tag).then(|| postcard::from_bytes(metadata).ok()).flatten()
    }
}

impl AuthorizationServer {
    /// The client behind an id, for an authorization request.
    pub(super) async fn client(&self, id: &str, source: Source) -> Result<Client, NoClient> {
        if let Some((client, _)) = self.configured(id) {
            return Ok(client.clone());
        }
        let mut client = if id.starts_with(PREFIX) {
            // With registration off those who came before start no new login either; what they hold lives on.
            let registered = self.registered(id).filter(|_| self.settings.registration);
            registered.ok_or(NoClient::Unknown)?
        } else {
            let documents = self.parts.documents.as_ref().filter(|_| id.starts_with("https:"));
            documents.ok_or(NoClient::Unknown)?.client(id, source).await.map_err(NoClient::Document)?
        };
        if !self.settings.private_use_schemes {
            client.redirect_uris.retain(|uri| uri.kind() != RedirectKind::PrivateUse);
        }
        Ok(client)
    }

    /// The client behind an id, for a request that redeems what it was given before. A metadata document is
    /// not fetched again: such clients are public, and the flow runs on the snapshot taken at its start.
    pub(super) fn known_client(&self, id: &str) -> Option<Client> {
        let configured = self.configured(id).map(|(client, _)| client.clone());
        configured.or_else(|| self.registered(id)).or_else(|| {
            let by_document = self.parts.documents.is_some() && id.starts_with("https:");
            by_document.then(|| Client {
                id: id.to_owned(),
                origin: Origin::Document { host: String::new() },
                name: String::new(),
                redirect_uris: Vec::new(),
                auth: AuthMethod::None,
            })
        })
    }

    /// Whether this is the client's secret; constant time.
    pub(super) fn is_secret_of(&self, client: &Client, secret: &str) -> bool {
        match self.configured(&client.id) {
            // Hashes: a comparison of the texts would tell their length.
            Some((_, Some(own))) => Sha256::digest(own.expose_secret()).ct_eq(&Sha256::digest(secret)).into(),
            Some((_, None)) => false,
            None => {
                let seal =
                    secret.strip_prefix(SECRET_PREFIX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
                let Some(seal) = seal else { return false };
                let Some((&key_id, tag)) = seal.split_first() else { return false };
                self.parts.keys.holds(key_id, SECRET_KIND, &[client.id.as_bytes()], tag)
            }
        }
    }

    /// Whether a client was configured: such clients may use either way to send their secret.
    pub(super) fn configured(&self, id: &str) -> Option<&(Client, Option<SecretString>)> {
        self.settings.clients.iter().find(|(client, _)| client.id == id)
    }

    /// The secret of a registered client: derived from its id, stored nowhere.
    pub(super) fn registered_secret(&self, client_id: &str) -> String {
        let (key_id, tag) = self.parts.keys.tag(SECRET_KIND, &[client_id.as_bytes()]);
        format!("{SECRET_PREFIX}{}", URL_SAFE_NO_PAD.encode([&[key_id], &tag[..]].concat()))
    }

    fn registered(&self, id: &str) -> Option<Client> {
        let registration = Registration::read(&self.parts.keys, id)?;
        Some(Client {
            id: id.to_owned(),
            origin: Origin::Registered,
            name: registration.name,
            redirect_uris: registration.redirect_uris,
            auth: registration.auth,
        })
    }
}

const KIND: &str = "client";
const SECRET_KIND: &str = "client secret";
const SECRET_PREFIX: &str = "maps_";
