//! `POST /login/oauth/access_token`: codes and refresh tokens become tokens. Errors have status 200.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    call::Call,
    fault::oauth_error,
    options::TokenKind,
    reply::{self, Reply},
    world::{Token, World},
};

pub fn exchange(world: &mut World, call: &Call) -> Reply {
    answer(call, redeem(world, call))
}

pub fn refresh(world: &mut World, call: &Call) -> Reply {
    answer(call, rotate(world, call))
}

/// GitHub's `error`, or the whole answer where the client is unknown.
enum Refused {
    Error(&'static str),
    UnknownClient,
}

type Outcome = Result<Value, Refused>;

fn answer(call: &Call, outcome: Outcome) -> Reply {
    let (status, body) = match outcome {
        Ok(body) => (200, body),
        Err(Refused::Error(error)) => (200, oauth_error(error)),
        Err(Refused::UnknownClient) => (404, json!({ "error": "Not Found" })),
    };
    match call.header("accept") {
        Some(accept) if accept.contains("json") => reply::json(status, &body),
        _ => reply::form(status, &body),
    }
}

fn redeem(world: &mut World, call: &Call) -> Outcome {
    authenticate(world, call)?;
    if call.param("grant_type").is_some_and(|grant| grant != "authorization_code") {
        return Err(Refused::Error("unsupported_grant_type"));
    }
    let code = world.take_code(call.param("code").unwrap_or_default());
    let code = code.ok_or(Refused::Error("bad_verification_code"))?;
    if call.param("redirect_uri").is_some_and(|uri| uri != code.redirect_uri) {
        return Err(Refused::Error("redirect_uri_mismatch"));
    }
    if let Some(challenge) = code.challenge {
        let verifier = call.param("code_verifier").unwrap_or_default();
        if URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) != challenge {
            return Err(Refused::Error("bad_verification_code"));
        }
    }
    let token = world.new_token(code.user, code.scopes);
    Ok(pair(world, &token))
}

fn rotate(world: &mut World, call: &Call) -> Outcome {
    authenticate(world, call)?;
    let token = world.refresh(call.param("refresh_token").unwrap_or_default());
    let token = token.ok_or(Refused::Error("bad_refresh_token"))?;
    Ok(pair(world, &token))
}

fn authenticate(world: &World, call: &Call) -> Result<(), Refused> {
    let (id, secret) = match call.basic() {
        Some(credentials) => credentials,
        None => {
            let param = |name| call.param(name).unwrap_or_default().to_owned();
            (param("client_id"), param("client_secret"))
        }
    };
    if id != world.options.client_id {
        return Err(Refused::UnknownClient);
    }
    if secret != world.options.client_secret {
        return Err(Refused::Error("incorrect_client_credentials"));
    }
    Ok(())
}

fn pair(world: &World, token: &Token) -> Value {
    let mut body = Map::new();
    body.insert("access_token".to_owned(), json!(token.access));
    if let (TokenKind::GitHubApp { lifetime, refresh_lifetime }, Some(refresh)) =
        (world.options.token_kind, &token.refresh)
    {
        body.insert("expires_in".to_owned(), json!(lifetime));
        body.insert("refresh_token".to_owned(), json!(refresh));
        body.insert("refresh_token_expires_in".to_owned(), json!(refresh_lifetime));
    }
    body.insert("scope".to_owned(), json!(token.scopes.join(",")));
    body.insert("token_type".to_owned(), json!("bearer"));
    Value::Object(body)
}
