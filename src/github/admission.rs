//! Who may log in, and may stay: the operator's allow-list, judged with what GitHub says now.
//!
//! An allow-listed login means the person who first passed with it: GitHub frees a login at once when its
//! owner is renamed, for anybody to take.

use std::sync::Arc;

use secrecy::SecretString;
use tracing::warn;

use super::credential::CredentialError;
use super::{GitHub, Membership, Profile};
use crate::store::people::{People, Pinned};

/// The allow-list.
#[derive(Clone, Debug)]
pub enum AllowList {
    /// Every GitHub account.
    Anyone,
    /// Users by login or numeric id, organisations, teams as (organisation, slug); any one suffices.
    Listed { users: Vec<String>, orgs: Vec<String>, teams: Vec<(String, String)> },
}

/// The allow-list's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    Yes,
    No,
    /// An organisation hides its members until they have signed in to its single sign-on.
    SignOnFirst,
}

/// Judges people by the allow-list.
pub struct Admission {
    list: AllowList,
    github: Arc<GitHub>,
    people: People,
}

impl Admission {
    /// A judge with the operator's list.
    pub fn new(list: AllowList, github: Arc<GitHub>, people: People) -> Self {
        Admission { list, github, people }
    }

    /// Judges a person. An error is no judgement.
    pub async fn judge(&self, profile: &Profile, token: &SecretString) -> Result<Admitted, CredentialError> {
        let AllowList::Listed { users, orgs, teams } = &self.list else {
            return Ok(Admitted::Yes);
        };
        if self.is_listed_user(users, profile).await? {
            return Ok(Admitted::Yes);
        }
        let mut refusal = Admitted::No;
        for org in orgs {
            match self.github.org_membership(token, org).await? {
                Membership::Active => return Ok(Admitted::Yes),
                Membership::SignOnFirst => refusal = Admitted::SignOnFirst,
                Membership::None => {}
            }
        }
        for (org, team) in teams {
            match self.github.team_membership(token, (org, team), &profile.login).await? {
                Membership::Active => return Ok(Admitted::Yes),
                Membership::SignOnFirst => refusal = Admitted::SignOnFirst,
                Membership::None => {}
            }
        }
        Ok(refusal)
    }

    async fn is_listed_user(&self, users: &[String], profile: &Profile) -> Result<bool, CredentialError> {
        let id = profile.id.to_string();
        if users.contains(&id) {
            return Ok(true);
        }
        // A login may consist of digits: a listed number is an id and nothing else, or somebody could name
        // themselves after it.
        let logins = || users.iter().filter(|user| !user.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(login) = logins().find(|user| user.eq_ignore_ascii_case(&profile.login)) {
            if self.people.pin(login, profile.id).await? == Pinned::Same {
                return Ok(true);
            }
            warn!(
                login,
                person = profile.id,
                "an allow-listed login now belongs to another GitHub account; list its numeric id to let it in"
            );
            return Ok(false);
        }
        for user in logins() {
            if self.people.pinned(user).await? == Some(profile.id) {
                warn!(login = user, now = profile.login, "an allow-listed person was renamed at GitHub");
                return Ok(true);
            }
        }
        Ok(false)
    }
}
