//! `/login/oauth/authorize`, and the pages a person sees there: pick an account, approve.
//! The forms are plain HTML without script, so that a real browser can click through.

use http::{HeaderValue, header::SET_COOKIE};
use url::{Host, Url};

use super::{
    call::Call,
    fault::oauth_error,
    options::{Approval, TokenKind},
    reply::{self, Reply, escape},
    scopes::Scopes,
    world::World,
};

struct AuthorizationRequest {
    redirect_uri: String,
    state: Option<String>,
    scopes: Scopes,
    challenge: Option<String>,
}

pub fn authorize(world: &mut World, call: &Call) -> Reply {
    let request = match AuthorizationRequest::parse(world, call) {
        Ok(request) => request,
        Err(reply) => return *reply,
    };
    let person = world.person(chosen(world, call).as_deref());
    let Some(person) = person.filter(|_| call.param("prompt") != Some("select_account")) else {
        return sign_in_page(world, call);
    };
    match world.approval_for(person, &request.scopes) {
        Approval::Automatic => request.approved(world, person),
        Approval::Denied => request.failed(world, "access_denied"),
        Approval::Remembered => consent_page(world, call, person, &request),
    }
}

/// The consent page posts to the URL it was shown at.
pub fn decide(world: &mut World, call: &Call) -> Reply {
    let request = match AuthorizationRequest::parse(world, call) {
        Ok(request) => request,
        Err(reply) => return *reply,
    };
    match world.person(chosen(world, call).as_deref()) {
        Some(person) if call.param("decision") == Some("approve") => request.approved(world, person),
        Some(_) => request.failed(world, "access_denied"),
        None => sign_in_page(world, call),
    }
}

/// Somebody picked an account: from now on this browser is theirs.
pub fn sign_in(world: &mut World, call: &Call) -> Reply {
    let (login, return_to) = (call.param("login"), call.param("return_to"));
    let (Some(user), Some(return_to)) = (login.and_then(|l| world.user(l)), return_to) else {
        return reply::html(422, "Unknown account", "");
    };
    if !return_to.starts_with("/login/oauth/authorize?") {
        return reply::html(422, "Unknown destination", "");
    }
    let cookie = format!("{COOKIE}={}.{}; Path=/; HttpOnly; SameSite=Lax", user.login, world.epoch);
    let mut reply = reply::redirect(return_to);
    let cookie = HeaderValue::try_from(cookie).expect("logins are ASCII");
    reply.headers_mut().insert(SET_COOKIE, cookie);
    reply
}

impl AuthorizationRequest {
    fn parse(world: &World, call: &Call) -> Result<AuthorizationRequest, Box<Reply>> {
        if call.param("client_id") != Some(world.options.client_id.as_str()) {
            return Err(Box::new(reply::html(404, "Not Found", "<p>No app has this client_id.</p>")));
        }
        let redirect_uri = match call.param("redirect_uri") {
            Some(uri) => uri.to_owned(),
            None => first_callback(world)?,
        };
        let mut request = AuthorizationRequest {
            redirect_uri,
            state: call.param("state").map(str::to_owned),
            scopes: Scopes::parse(call.param("scope").unwrap_or_default()),
            challenge: call.param("code_challenge").map(str::to_owned),
        };
        if !is_registered(world, &request.redirect_uri) {
            // GitHub tells the registered callback about it, never the stranger.
            request.redirect_uri = first_callback(world)?;
            return Err(Box::new(request.failed(world, "redirect_uri_mismatch")));
        }
        // Only S256 is supported, and such a challenge has 43 characters.
        if let Some(challenge) = &request.challenge
            && (call.param("code_challenge_method") != Some("S256") || challenge.len() != 43)
        {
            return Err(Box::new(request.failed(world, "invalid_request")));
        }
        if world.options.token_kind != TokenKind::OAuthApp {
            // A GitHub App has permissions; it ignores scopes.
            request.scopes = Scopes::default();
        }
        Ok(request)
    }

    fn approved(self, world: &mut World, person: u64) -> Reply {
        let code = world.new_code(person, &self.scopes, self.redirect_uri.clone(), self.challenge.clone());
        self.back(world, &[("code", &code)])
    }

    fn failed(&self, world: &World, error: &str) -> Reply {
        let error = oauth_error(error);
        let text = |name| error[name].as_str().unwrap_or_default();
        let names = ["error", "error_description", "error_uri"];
        self.back(world, &names.map(|name| (name, text(name))))
    }

    fn back(&self, world: &World, parameters: &[(&str, &str)]) -> Reply {
        let Ok(mut url) = Url::parse(&self.redirect_uri) else {
            return reply::html(400, "Bad redirect_uri", "");
        };
        let issuer = format!("{}/login/oauth", world.base_url);
        let state = self.state.as_deref().map(|state| ("state", state));
        let iss = world.options.iss.then_some(("iss", issuer.as_str()));
        url.query_pairs_mut().extend_pairs(parameters.iter().copied().chain(state).chain(iss));
        reply::redirect(url.as_str())
    }
}

fn first_callback(world: &World) -> Result<String, Box<Reply>> {
    let none = || Box::new(reply::html(400, "No redirect_uri", "<p>The app has no callback URL.</p>"));
    world.options.callbacks.first().cloned().ok_or_else(none)
}

fn is_registered(world: &World, uri: &str) -> bool {
    let callbacks = &world.options.callbacks;
    let exact = world.options.token_kind != TokenKind::OAuthApp;
    let is_within = |callback: &String| match (Url::parse(callback), Url::parse(uri)) {
        (Ok(callback), Ok(uri)) => is_below(&callback, &uri),
        _ => false,
    };
    callbacks.is_empty()
        || callbacks.iter().any(|callback| callback == uri || (!exact && is_within(callback)))
}

/// OAuth Apps: same host or a sub-domain, same port, same path or below it; any port for loopback addresses.
fn is_below(callback: &Url, uri: &Url) -> bool {
    let (Some(host), Some(asked)) = (callback.host_str(), uri.host_str()) else {
        return false;
    };
    let loopback = match callback.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        _ => false,
    };
    let path = callback.path().trim_end_matches('/');
    let below = uri.path().strip_prefix(path);
    callback.scheme() == uri.scheme()
        && (asked == host || (!loopback && asked.ends_with(&format!(".{host}"))))
        && (loopback || callback.port_or_known_default() == uri.port_or_known_default())
        && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The login this browser picked, if it did so after the last change from outside.
fn chosen(world: &World, call: &Call) -> Option<String> {
    let cookies = call.header("cookie")?.split(';');
    let mut values = cookies.filter_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    let (login, epoch) = values.next()?.rsplit_once('.')?;
    (epoch == world.epoch.to_string()).then(|| login.to_owned())
}

fn sign_in_page(world: &World, call: &Call) -> Reply {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    // Once somebody was picked, the picker has done its work.
    query.extend_pairs(call.query.iter().filter(|(name, _)| name != "prompt"));
    let return_to = format!("/login/oauth/authorize?{}", query.finish());
    let button = |login: &str| {
        let login = escape(login);
        format!("<button name=\"login\" value=\"{login}\" id=\"sign-in-{login}\">Sign in as {login}</button>")
    };
    let buttons: Vec<String> = world.users().iter().map(|user| button(&user.login)).collect();
    let content = format!(
        "<form method=\"post\" action=\"/session\">\
         <input type=\"hidden\" name=\"return_to\" value=\"{}\">\n{}</form>",
        escape(&return_to),
        buttons.join("\n"),
    );
    reply::html(200, "Sign in to the GitHub stand-in", &content)
}

fn consent_page(world: &World, call: &Call, person: u64, request: &AuthorizationRequest) -> Reply {
    let login = world.user_by_id(person).map_or("", |user| user.login.as_str());
    let content = format!(
        "<p>{} lets the app at <code>{}</code> have: <code>{}</code></p>\n\
         <form method=\"post\" action=\"/login/oauth/authorize?{}\">\
         <button name=\"decision\" value=\"approve\" id=\"approve\">Authorize</button>\n\
         <button name=\"decision\" value=\"deny\" id=\"deny\">Cancel</button></form>",
        escape(login),
        escape(&request.redirect_uri),
        escape(&request.scopes.to_string()),
        escape(&call.raw_query),
    );
    reply::html(200, "Authorize this app", &content)
}

const COOKIE: &str = "standin_session";
