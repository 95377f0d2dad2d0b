//! The REST calls a proxy needs, under `/api/v3`.

use http::{HeaderValue, header::LINK};
use serde_json::{Value, json};

use super::{
    call::{Call, Endpoint},
    options::TokenKind,
    reply::{self, Reply},
    scopes::Scopes,
    user::{State, User},
    world::{Token, World},
};

pub fn answer(world: &mut World, call: &Call) -> Reply {
    if call.header("user-agent").is_none_or(str::is_empty) {
        return reply::typed(
            403,
            "text/html",
            "Request forbidden by administrative rules. Please make sure your request has a User-Agent header.",
        );
    }
    let version = call.header("x-github-api-version");
    if version.is_some_and(|version| !API_VERSIONS.contains(&version)) {
        return reply::message(400, "Unsupported API version");
    }
    match call.endpoint {
        Endpoint::CheckToken | Endpoint::ResetToken | Endpoint::DeleteToken | Endpoint::DeleteGrant => {
            app_call(world, call)
        }
        Endpoint::Unknown => reply::message(404, "Not Found"),
        _ => user_call(world, call),
    }
}

// === Calls with a person's token ===

fn user_call(world: &mut World, call: &Call) -> Reply {
    let Some(presented) = call.bearer() else {
        return reply::message(401, "Requires authentication");
    };
    let Some(token) = world.authenticate(presented) else {
        return reply::message(401, "Bad credentials");
    };
    let Some(user) = world.user_by_id(token.user) else {
        return reply::message(401, "Bad credentials");
    };
    let asker = Asker { world, user, scopes: &token.scopes };
    let mut reply = asker.answer(call);
    if world.options.token_kind == TokenKind::OAuthApp {
        let scopes = HeaderValue::try_from(token.scopes.join(", "));
        let scopes = scopes.expect("scopes came in a URL and are ASCII");
        reply.headers_mut().insert("x-oauth-scopes", scopes);
    }
    reply
}

/// A person, and what their token may see.
struct Asker<'a> {
    world: &'a World,
    user: &'a User,
    scopes: &'a Scopes,
}

impl Asker<'_> {
    fn answer(&self, call: &Call) -> Reply {
        match (call.endpoint, call.segments().get(2..).unwrap_or_default()) {
            (Endpoint::User, _) => reply::json(200, &profile(self.world, self.user)),
            (Endpoint::Emails, _) => self.emails(call),
            (Endpoint::Orgs, _) => self.orgs(call),
            (Endpoint::Teams, _) => self.teams(call),
            (Endpoint::OrgMembership, [.., org]) => self.org_membership(org),
            (Endpoint::OrgMember, ["orgs", org, _, login]) => self.org_member(org, login),
            (Endpoint::TeamMembership, ["orgs", org, _, slug, _, login]) => {
                self.team_membership(org, slug, login)
            }
            _ => reply::message(404, "Not Found"),
        }
    }

    fn emails(&self, call: &Call) -> Reply {
        // Without the scope the whole call looks absent.
        if !self.may(&["user:email", "user"]) {
            return reply::message(404, "Not Found");
        }
        let email = |email: &super::Email| {
            json!({
                "email": email.email,
                "primary": email.primary,
                "verified": email.verified,
                "visibility": if email.primary { json!("private") } else { Value::Null },
            })
        };
        self.page(call, self.user.emails.iter().map(email).collect())
    }

    fn orgs(&self, call: &Call) -> Reply {
        if !self.may(&["read:org", "user"]) {
            return reply::message(
                403,
                "You need at least read:org scope or user scope to list your organizations.",
            );
        }
        let active = self.user.orgs.iter().filter(|m| m.state == State::Active);
        let seen = active.filter(|m| !self.world.is_restricted(&m.org));
        let orgs = seen.map(|m| json!({ "login": m.org, "id": id_of(&m.org), "description": null }));
        self.page(call, orgs.collect())
    }

    fn teams(&self, call: &Call) -> Reply {
        if !self.may(&["read:org", "user", "repo"]) {
            return reply::message(403, "You need at least read:org scope or user scope to list your teams.");
        }
        let active = self.user.teams.iter().filter(|t| t.state == State::Active);
        let seen = active.filter(|t| !self.world.is_restricted(&t.org));
        let team = |team: &super::Team| {
            json!({
                "id": id_of(&format!("{}/{}", team.org, team.slug)),
                "slug": team.slug,
                "name": team.slug,
                "organization": { "login": team.org, "id": id_of(&team.org) },
            })
        };
        self.page(call, seen.map(team).collect())
    }

    fn org_membership(&self, org: &str) -> Reply {
        if !self.may(&["read:org"]) {
            return reply::message(403, "You need at least read:org scope to see your memberships.");
        }
        if self.world.is_restricted(org) {
            return self.shut_out();
        }
        match self.user.membership(org) {
            Some(membership) => {
                let body = json!({
                    "state": membership.state,
                    "role": "member",
                    "organization": { "login": membership.org, "id": id_of(&membership.org) },
                    "user": { "login": self.user.login, "id": self.user.id },
                });
                reply::json(200, &body)
            }
            None => reply::message(404, "Not Found"),
        }
    }

    fn org_member(&self, org: &str, login: &str) -> Reply {
        if self.world.is_restricted(org) {
            return self.shut_out();
        }
        if !self.user.is_active_in(org) || !self.may(&["read:org"]) {
            let public = format!("{}/api/v3/orgs/{org}/public_members/{login}", self.world.base_url);
            return reply::redirect(&public);
        }
        match self.world.user(login) {
            Some(member) if member.is_active_in(org) => reply::empty(204),
            _ => reply::message(404, "Not Found"),
        }
    }

    fn team_membership(&self, org: &str, slug: &str, login: &str) -> Reply {
        if !self.may(&["read:org"]) {
            return reply::message(403, "You need at least read:org scope to see team memberships.");
        }
        if self.world.is_restricted(org) {
            return self.shut_out();
        }
        let member = self.world.user(login).filter(|_| self.user.is_active_in(org));
        match member.and_then(|member| member.team(org, slug)) {
            Some(team) => {
                let url = format!("{}/api/v3/orgs/{org}/teams/{slug}", self.world.base_url);
                reply::json(200, &json!({ "state": team.state, "role": "member", "url": url }))
            }
            None => reply::message(404, "Not Found"),
        }
    }

    /// Scopes decide for OAuth Apps; the stand-in's GitHub App has every permission.
    fn may(&self, scopes: &[&str]) -> bool {
        self.world.options.token_kind != TokenKind::OAuthApp || self.scopes.allow(scopes)
    }

    /// An org that restricts OAuth Apps is invisible to them; a GitHub App must be installed.
    fn shut_out(&self) -> Reply {
        match self.world.options.token_kind {
            TokenKind::OAuthApp => reply::message(404, "Not Found"),
            _ => reply::message(403, "Resource not accessible by integration"),
        }
    }

    /// 30 items unless asked, never more than 100, and a Link header towards the rest.
    fn page(&self, call: &Call, items: Vec<Value>) -> Reply {
        let number = |name| call.param(name).and_then(|n| n.parse::<usize>().ok());
        let per_page = number("per_page").unwrap_or(30).clamp(1, 100);
        let page = number("page").unwrap_or(1).max(1);
        let last = items.len().div_ceil(per_page).max(1);
        let shown: Vec<Value> =
            items.into_iter().skip((page - 1).saturating_mul(per_page)).take(per_page).collect();
        let mut reply = reply::json(200, &Value::Array(shown));
        let link = |page, rel| {
            let base = &self.world.base_url;
            format!("<{base}{}?per_page={per_page}&page={page}>; rel=\"{rel}\"", call.path)
        };
        let mut links = Vec::new();
        if page > 1 {
            links.extend([link(page - 1, "prev"), link(1, "first")]);
        }
        if page < last {
            links.extend([link(page + 1, "next"), link(last, "last")]);
        }
        if let Ok(links) = HeaderValue::try_from(links.join(", "))
            && !links.is_empty()
        {
            reply.headers_mut().insert(LINK, links);
        }
        reply
    }
}

fn profile(world: &World, user: &User) -> Value {
    json!({
        "login": user.login,
        "id": user.id,
        "type": "User",
        "html_url": format!("{}/{}", world.base_url, user.login),
        "avatar_url": format!("{}/avatars/{}", world.base_url, user.id),
        "name": user.name,
        "email": user.email,
        "company": null,
        "location": null,
        "bio": null,
        "public_repos": user.public_repos,
        "followers": 0,
        "following": 0,
        "created_at": "2011-01-25T18:44:36Z",
    })
}

/// Orgs and teams are only names here; their ids need to be stable, no more.
fn id_of(name: &str) -> u32 {
    let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193);
    name.bytes().fold(0x811c_9dc5, fold)
}

// === Calls with the app's own credentials ===

fn app_call(world: &mut World, call: &Call) -> Reply {
    let options = &world.options;
    let known = (options.client_id.clone(), options.client_secret.clone());
    if call.basic() != Some(known) {
        return reply::message(401, "Bad credentials");
    }
    if call.segments().get(3) != Some(&options.client_id.as_str()) {
        return reply::message(404, "Not Found");
    }
    let Some(presented) = call.json("access_token") else {
        return reply::message(422, "Validation Failed");
    };
    let Some(token) = world.live(&presented) else {
        return reply::message(404, "Not Found");
    };
    match call.endpoint {
        Endpoint::DeleteGrant => {
            world.end_grant(token.user);
            reply::empty(204)
        }
        Endpoint::DeleteToken => {
            world.revoke(&presented);
            reply::empty(204)
        }
        Endpoint::ResetToken => {
            world.revoke(&presented);
            let fresh = world.new_token(token.user, token.scopes);
            reply::json(200, &authorization(world, &fresh))
        }
        _ => reply::json(200, &authorization(world, &token)),
    }
}

fn authorization(world: &World, token: &Token) -> Value {
    let user = world.user_by_id(token.user).map(|user| profile(world, user));
    json!({
        "id": token.id,
        "token": token.access,
        "scopes": token.scopes.iter().collect::<Vec<_>>(),
        "app": { "client_id": world.options.client_id, "name": "stand-in" },
        "user": user,
    })
}

/// Old versions get 400 when their time is over.
const API_VERSIONS: [&str; 2] = ["2022-11-28", "2026-03-10"];
