//! The people of the stand-in.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// What stays when the login changes.
    pub id: u64,
    pub login: String,
    #[serde(default)]
    pub name: Option<String>,
    /// The public address; null for most people.
    #[serde(default)]
    pub email: Option<String>,
    #[serde(default)]
    pub emails: Vec<Email>,
    #[serde(default)]
    pub orgs: Vec<Membership>,
    #[serde(default)]
    pub teams: Vec<Team>,
    #[serde(default)]
    pub public_repos: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Email {
    pub email: String,
    pub primary: bool,
    pub verified: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Membership {
    pub org: String,
    pub state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Team {
    pub org: String,
    pub slug: String,
    pub state: State,
}

/// Pending means invited: not yet a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Active,
    Pending,
}

impl User {
    pub fn new(id: u64, login: &str) -> User {
        User {
            id,
            login: login.to_owned(),
            name: None,
            email: None,
            emails: Vec::new(),
            orgs: Vec::new(),
            teams: Vec::new(),
            public_repos: 0,
        }
    }

    /// GitHub's mascot, with the id it has there.
    pub fn octocat() -> User {
        let mut octocat =
            User::new(583_231, "octocat").named("The Octocat").with_email("octocat@example.com", true, true);
        octocat.public_repos = 8;
        octocat
    }

    pub fn named(mut self, name: &str) -> User {
        self.name = Some(name.to_owned());
        self
    }

    pub fn with_email(mut self, email: &str, primary: bool, verified: bool) -> User {
        self.emails.push(Email { email: email.to_owned(), primary, verified });
        self
    }

    pub fn in_org(mut self, org: &str, state: State) -> User {
        self.orgs.push(Membership { org: org.to_owned(), state });
        self
    }

    pub fn in_team(mut self, org: &str, slug: &str, state: State) -> User {
        self.teams.push(Team { org: org.to_owned(), slug: slug.to_owned(), state });
        self
    }

    pub fn membership(&self, org: &str) -> Option<&Membership> {
        self.orgs.iter().find(|m| m.org.eq_ignore_ascii_case(org))
    }

    pub fn is_active_in(&self, org: &str) -> bool {
        self.membership(org).is_some_and(|m| m.state == State::Active)
    }

    pub fn team(&self, org: &str, slug: &str) -> Option<&Team> {
        self.teams.iter().find(|t| t.org.eq_ignore_ascii_case(org) && t.slug.eq_ignore_ascii_case(slug))
    }
}
