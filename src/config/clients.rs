//! The `clients:` section: clients known beforehand, public or with a secret.

use secrecy::SecretString;

use super::raw::Node;
use super::resolve::parsed_items;
use super::secrets;
use crate::protocol::client::{AuthMethod, Client, Origin, PREFIX, display_name};
use crate::protocol::redirect::RedirectUri;

/// Each id once, each with somewhere to return to.
pub(super) fn all(node: &Node<'_>) -> Vec<(Client, Option<SecretString>)> {
    let mut clients: Vec<(Client, Option<SecretString>)> = Vec::new();
    for item in node.items() {
        if !item.only(&["id", "secret", "secret_file", "name", "redirect_uris"]) {
            continue;
        }
        let id = item.get("id");
        id.required();
        let id_text = id.parsed(client_id);
        let (inline, file) = (item.get("secret"), item.get("secret_file"));
        let secret = (inline.exists() || file.exists()).then(|| secrets::of_client(&inline, &file)).flatten();
        let uris = item.get("redirect_uris");
        let redirect_uris = parsed_items(&uris, RedirectUri::parse);
        if redirect_uris.is_empty() {
            uris.problem_unless_told("is missing: a client needs at least one redirect URI");
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
    match plain && !text.starts_with("https:") && !text.starts_with(PREFIX) {
        true => Ok(text.to_owned()),
        false => {
            Err("expected up to 200 printable characters that look like no URL and no registered client"
                .into())
        }
    }
}
