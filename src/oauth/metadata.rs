//! Metadata documents, rendered once: authorization server (RFC 8414) and protected resources (RFC 9728).
//!
//! Advertises nothing that does not work, and nothing taken from a request.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::Settings;
use crate::protocol::resource::{METADATA_PATH, Resource};
use crate::protocol::scope::OFFLINE_ACCESS;

/// All documents by path, ready to send.
pub struct Documents(HashMap<String, Bytes>);

impl Documents {
    /// Renders every spelling that clients ask for: at the root, with the resource's path inserted, with the
    /// well-known part appended to it, and the OpenID alias.
    pub fn new(settings: &Settings, documents_enabled: bool) -> Self {
        let server = bytes(&authorization_server(settings, documents_enabled));
        let resources = settings.resources.iter().map(|published| &published.resource);
        let mut by_path = HashMap::new();
        for well_known in [AS_PATH, OPENID_PATH] {
            by_path.insert(well_known.to_owned(), server.clone());
            for resource in resources.clone() {
                by_path.insert(format!("{well_known}{}", resource.path()), server.clone());
                by_path.insert(format!("{}{well_known}", resource.path()), server.clone());
            }
        }
        for resource in resources {
            let document = bytes(&protected_resource(settings, resource));
            // The root form means the first resource.
            by_path.entry(METADATA_PATH.to_owned()).or_insert_with(|| document.clone());
            by_path.insert(format!("{}{METADATA_PATH}", resource.path()), document.clone());
            by_path.insert(format!("{METADATA_PATH}{}", resource.path()), document);
        }
        Documents(by_path)
    }

    /// The document at a path.
    pub fn get(&self, path: &str) -> Option<&Bytes> {
        self.0.get(path)
    }
}

fn authorization_server(settings: &Settings, documents_enabled: bool) -> Value {
    let issuer = &settings.issuer;
    let methods = ["none", "client_secret_post", "client_secret_basic"];
    let mut scopes: Vec<&str> =
        settings.resources.iter().flat_map(|published| published.resource.scopes().iter()).collect();
    // Clients that find it here ask for it; we issue refresh tokens whether they do or not.
    scopes.push(OFFLINE_ACCESS);
    scopes.sort_unstable();
    scopes.dedup();
    let resources: Vec<&str> = settings.resources.iter().map(|published| published.resource.url()).collect();
    let mut document = json!({
        "issuer": issuer.as_str(),
        "authorization_endpoint": issuer.url("/authorize"),
        "token_endpoint": issuer.url("/token"),
        "revocation_endpoint": issuer.url("/revoke"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_methods_supported": methods,
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": scopes,
        "protected_resources": resources,
    });
    let mut set = |name: &str, value: Value| document[name] = value;
    if settings.registration {
        set("registration_endpoint", issuer.url("/register").into());
    }
    if settings.iss {
        set("authorization_response_iss_parameter_supported", true.into());
    }
    if documents_enabled {
        set("client_id_metadata_document_supported", true.into());
    }
    document
}

fn protected_resource(settings: &Settings, resource: &Resource) -> Value {
    json!({
        "resource": resource.url(),
        "authorization_servers": [settings.issuer.as_str()],
        "scopes_supported": resource.scopes().iter().collect::<Vec<_>>(),
        "bearer_methods_supported": ["header"],
        "resource_name": format!("MCP server at {}{}", settings.issuer.authority(), resource.path()),
    })
}

fn bytes(document: &Value) -> Bytes {
    Bytes::from(document.to_string())
}

const AS_PATH: &str = "/.well-known/oauth-authorization-server";
const OPENID_PATH: &str = "/.well-known/openid-configuration";
