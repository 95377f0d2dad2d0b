//! GitHub's API: who somebody is, where they belong, whether a token still lives.
//!
//! Memberships are read both ways GitHub offers, all pages, names compared without case, `active` only.

use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::Value;

use super::GitHub;
use super::http::Trouble;
use super::login::LoginError;

/// Who logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The key: logins change hands.
    pub id: u64,
    /// What people call the account now.
    pub login: String,
}

/// What GitHub says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// With whose it is, under the login of today, and the scopes it has now (a GitHub App's has none).
    Live { owner: Option<Profile>, scopes: Vec<String> },
    /// Confirmed: revoked, expired, or its user is gone.
    Dead,
}

/// Whether somebody belongs somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    Active,
    /// Includes invitations that were not accepted.
    None,
    /// Not shown before the person has signed in to the organisation's single sign-on.
    SignOnFirst,
}

impl GitHub {
    /// Who a token belongs to. A fresh token may get 401 for a few seconds: asked again, then final.
    pub async fn profile(&self, token: &SecretString) -> Result<Profile, LoginError> {
        let mut waits = self.settings.fresh_token_retries.iter();
        loop {
            let answer = self.with_token("/user", token).await?;
            match (answer.status, waits.next()) {
                (StatusCode::OK, _) => {
                    let user = answer.json()?;
                    return match is_person(&user) {
                        true => Ok(profile(&user)?),
                        false => Err(LoginError::Refused("the account is not a person's".into())),
                    };
                }
                (StatusCode::UNAUTHORIZED, Some(wait)) => tokio::time::sleep(*wait).await,
                (StatusCode::UNAUTHORIZED, None) => {
                    return Err(LoginError::Refused("bad_credentials".into()));
                }
                _ => return Err(answer.trouble().into()),
            }
        }
    }

    /// The primary, verified address; `None` when there is none or we may not see it.
    pub async fn email(&self, token: &SecretString) -> Result<Option<String>, Trouble> {
        let answer = self.with_token("/user/emails?per_page=100", token).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::FORBIDDEN if answer.trouble().retry_after.is_none() => return Ok(None),
            _ => return Err(answer.trouble()),
        }
        let emails = answer.json()?;
        let is = |entry: &Value, what: &str| entry.get(what) == Some(&Value::Bool(true));
        let primary = emails
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| is(entry, "primary") && is(entry, "verified"));
        let address = primary.and_then(|entry| entry.get("email")?.as_str());
        // GHSA-c5c4-8r6x-56w3: an address with two @ could be read as another domain's.
        Ok(address.filter(|address| address.matches('@').count() == 1).map(str::to_owned))
    }

    /// Membership of an organisation, private membership included.
    pub async fn org_membership(&self, token: &SecretString, org: &str) -> Result<Membership, Trouble> {
        match self.direct(token, &format!("/user/memberships/orgs/{org}")).await? {
            // Not visible that way (a GitHub App that is not installed there): look through the list.
            hidden @ (None | Some(Membership::SignOnFirst)) => {
                let listed = self.listed(token, "/user/orgs", |item| named(item.get("login"), org)).await?;
                Ok(hidden.filter(|_| listed == Membership::None).unwrap_or(listed))
            }
            Some(membership) => Ok(membership),
        }
    }

    /// Membership of a team, through child teams too.
    pub async fn team_membership(
        &self,
        token: &SecretString,
        (org, team): (&str, &str),
        login: &str,
    ) -> Result<Membership, Trouble> {
        match self.direct(token, &format!("/orgs/{org}/teams/{team}/memberships/{login}")).await? {
            hidden @ (None | Some(Membership::SignOnFirst)) => {
                let is_it = |item: &Value| {
                    let owner = item.get("organization").and_then(|owner| owner.get("login"));
                    named(item.get("slug"), team) && named(owner, org)
                };
                let listed = self.listed(token, "/user/teams", is_it).await?;
                Ok(hidden.filter(|_| listed == Membership::None).unwrap_or(listed))
            }
            Some(membership) => Ok(membership),
        }
    }

    /// Whether a token is alive, asked as the app: not subject to the person's limits, never a guess.
    pub async fn token_state(&self, token: &SecretString) -> Result<TokenState, Trouble> {
        let answer = self.as_app(Method::POST, token).await?;
        match answer.status {
            StatusCode::OK => {
                let answer = answer.json()?;
                let scopes = answer.get("scopes").and_then(Value::as_array).into_iter().flatten();
                Ok(TokenState::Live {
                    owner: answer.get("user").and_then(|user| profile(user).ok()),
                    scopes: scopes.filter_map(Value::as_str).map(str::to_owned).collect(),
                })
            }
            StatusCode::NOT_FOUND => Ok(TokenState::Dead),
            _ => Err(answer.trouble()),
        }
    }

    /// Revokes one token (never the grant: that would end the person's other sessions).
    pub async fn delete_token(&self, token: &SecretString) -> Result<(), Trouble> {
        let answer = self.as_app(Method::DELETE, token).await?;
        match answer.status {
            // 404 and 422: it was dead already.
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => Ok(()),
            _ => Err(answer.trouble()),
        }
    }

    /// Asks for one membership; `None` when GitHub does not show it to this token.
    async fn direct(&self, token: &SecretString, path: &str) -> Result<Option<Membership>, Trouble> {
        let answer = self.with_token(path, token).await?;
        match answer.status {
            StatusCode::OK => {
                let active = answer.json()?.get("state").and_then(Value::as_str) == Some("active");
                Ok(Some(if active { Membership::Active } else { Membership::None }))
            }
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::FORBIDDEN if answer.wants_single_sign_on() => Ok(Some(Membership::SignOnFirst)),
            StatusCode::FORBIDDEN if answer.trouble().retry_after.is_none() => Ok(None),
            _ => Err(answer.trouble()),
        }
    }

    /// Looks through a paged list.
    async fn listed(
        &self,
        token: &SecretString,
        path: &str,
        is_it: impl Fn(&Value) -> bool,
    ) -> Result<Membership, Trouble> {
        // With it comes a list that leaves out organisations.
        let mut partial = false;
        for page in 1..=MAX_PAGES {
            let answer = self.with_token(&format!("{path}?per_page=100&page={page}"), token).await?;
            match answer.status {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(Membership::None),
                // The person granted less than was asked for: the list is not theirs to show.
                StatusCode::FORBIDDEN if answer.lacks_scope(&ORG_SCOPES) => return Ok(Membership::None),
                StatusCode::FORBIDDEN if answer.wants_single_sign_on() => return Ok(Membership::SignOnFirst),
                // Any other 403 is a limit or a firewall: none says "not a member".
                _ => return Err(answer.trouble()),
            }
            partial |= answer.wants_single_sign_on();
            if answer.json()?.as_array().is_some_and(|items| items.iter().any(&is_it)) {
                return Ok(Membership::Active);
            }
            if !answer.has_next_page() {
                return Ok(if partial { Membership::SignOnFirst } else { Membership::None });
            }
        }
        Err(Trouble::new("a list has no end"))
    }
}

fn profile(user: &Value) -> Result<Profile, Trouble> {
    // GitHub's own type for ids is int64.
    let id = user.get("id").and_then(Value::as_i64).filter(|id| *id > 0).map(i64::cast_unsigned);
    let login = user.get("login").and_then(Value::as_str).filter(|login| is_login(login));
    match (id, login) {
        (Some(id), Some(login)) => Ok(Profile { id, login: login.to_owned() }),
        _ => Err(Trouble::new("the answer names no user")),
    }
}

/// Bots and organisations do not log in.
fn is_person(user: &Value) -> bool {
    user.get("type").is_none_or(|kind| kind == "User")
}

/// Logins go into headers, paths and logs: what is not one is not taken.
fn is_login(login: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.[]".contains(&byte);
    (1..=100).contains(&login.len()) && login.bytes().all(valid)
}

fn named(value: Option<&Value>, name: &str) -> bool {
    value.and_then(Value::as_str).is_some_and(|value| value.eq_ignore_ascii_case(name))
}

/// Each lets a token see memberships.
const ORG_SCOPES: [&str; 4] = ["read:org", "write:org", "admin:org", "user"];
/// Ten thousand entries.
const MAX_PAGES: u32 = 100;
