//! The state of the stand-in: people, browser, grants, codes, tokens.
//! Knows GitHub's rules about tokens, and no HTTP.
#![expect(clippy::disallowed_types, reason = "a stand-in has no clock of ours to ask")]

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use rand::{TryRng, rngs::SysRng};
use tokio::time::Instant;

use super::{
    options::{Approval, Options, TokenKind},
    scopes::Scopes,
    traffic::Traffic,
    user::User,
};

pub(super) struct Code {
    pub user: u64,
    pub scopes: Scopes,
    pub redirect_uri: String,
    pub challenge: Option<String>,
    expires: Duration,
}

#[derive(Clone)]
pub(super) struct Token {
    pub id: u64,
    pub access: String,
    pub refresh: Option<String>,
    pub user: u64,
    pub scopes: Scopes,
    expires: Option<Duration>,
    refresh_expires: Option<Duration>,
    /// A fresh token is refused this many times: GitHub's replicas lag.
    refusals: u32,
}

pub struct World {
    pub options: Options,
    pub(super) base_url: String,
    users: Vec<User>,
    approval: Approval,
    signed_in: Option<u64>,
    /// Cookies of an earlier epoch are void, so that `sign_in` and `sign_out` win over them.
    pub(super) epoch: u64,
    grants: HashMap<u64, Scopes>,
    granted_at_most: Option<Scopes>,
    codes: HashMap<String, Code>,
    tokens: Vec<Token>,
    issued: u64,
    spurious_401: u32,
    restricted_orgs: BTreeSet<String>,
    started: Instant,
    forwarded: Duration,
    pub(super) traffic: Traffic,
}

// === What tests set ===

impl World {
    /// Adds a person, or replaces the one with the same id.
    pub fn add_user(&mut self, user: User) {
        self.users.retain(|known| known.id != user.id);
        self.users.push(user);
    }

    /// Changes a person: a new login, a membership that ends.
    pub fn edit_user(&mut self, login: &str, edit: impl FnOnce(&mut User)) {
        let id = self.id(login);
        edit(self.users.iter_mut().find(|user| user.id == id).expect("the id was just found"));
    }

    /// Who every browser without a choice of its own is signed in as.
    pub fn sign_in(&mut self, login: &str) {
        self.signed_in = Some(self.id(login));
        self.epoch += 1;
    }

    pub fn sign_out(&mut self) {
        self.signed_in = None;
        self.epoch += 1;
    }

    pub fn set_approval(&mut self, approval: Approval) {
        self.approval = approval;
    }

    /// People grant only these scopes from now on, whatever is asked; `None` lifts it.
    pub fn grant_at_most(&mut self, scopes: Option<&str>) {
        self.granted_at_most = scopes.map(Scopes::parse);
    }

    /// A person edits the scopes of the app, which changes every token they gave it.
    pub fn edit_scopes(&mut self, login: &str, scopes: &str) {
        let (id, scopes) = (self.id(login), Scopes::parse(scopes));
        self.grants.insert(id, scopes.clone());
        for token in self.tokens.iter_mut().filter(|token| token.user == id) {
            token.scopes = scopes.clone();
        }
    }

    /// The org does not let this app in: membership looks absent (OAuth App) or is 403 (GitHub App).
    pub fn restrict_org(&mut self, org: &str) {
        self.restricted_orgs.insert(org.to_ascii_lowercase());
    }

    /// Moves GitHub's clock, and nobody else's.
    pub fn forward(&mut self, seconds: u64) {
        self.forwarded += Duration::from_secs(seconds);
    }

    /// Tokens issued from now on get 401 "Bad credentials" at their first `calls` API calls.
    pub fn spurious_401(&mut self, calls: u32) {
        self.spurious_401 = calls;
    }

    /// Kills one access token and its refresh token.
    pub fn revoke(&mut self, token: &str) -> bool {
        let before = self.tokens.len();
        self.tokens.retain(|known| known.access != token);
        self.tokens.len() < before
    }

    /// A person revokes the app: all tokens die, and the consent page comes back.
    pub fn revoke_all(&mut self, login: &str) {
        let id = self.id(login);
        self.end_grant(id);
    }

    /// A token as if the person had logged in, without the flow.
    pub fn issue(&mut self, login: &str, scopes: &str) -> String {
        let (id, scopes) = (self.id(login), Scopes::parse(scopes));
        self.new_token(id, scopes).access
    }
}

// === What tests read ===

impl World {
    pub fn user(&self, login: &str) -> Option<&User> {
        self.users.iter().find(|user| user.login.eq_ignore_ascii_case(login))
    }

    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// Whether an access token works, spurious refusals aside.
    pub fn is_live(&self, token: &str) -> bool {
        self.tokens.iter().any(|known| known.access == token && !self.is_over(known.expires))
    }

    /// The working access tokens of a person, oldest first.
    pub fn live_tokens(&self, login: &str) -> Vec<String> {
        let id = self.id(login);
        let live = |token: &&Token| token.user == id && !self.is_over(token.expires);
        self.tokens.iter().filter(live).map(|token| token.access.clone()).collect()
    }
}

// === What the endpoints do ===

impl World {
    pub(super) fn new(options: Options, base_url: String) -> World {
        World {
            options,
            base_url,
            users: Vec::new(),
            approval: Approval::Automatic,
            signed_in: None,
            epoch: 0,
            grants: HashMap::new(),
            granted_at_most: None,
            codes: HashMap::new(),
            tokens: Vec::new(),
            issued: 0,
            spurious_401: 0,
            restricted_orgs: BTreeSet::new(),
            started: Instant::now(),
            forwarded: Duration::ZERO,
            traffic: Traffic::default(),
        }
    }

    pub(super) fn user_by_id(&self, id: u64) -> Option<&User> {
        self.users.iter().find(|user| user.id == id)
    }

    /// Who asks: the choice made in this browser, else whoever is signed in everywhere.
    pub(super) fn person(&self, chosen: Option<&str>) -> Option<u64> {
        let chosen = chosen.and_then(|login| self.user(login)).map(|user| user.id);
        chosen.or(self.signed_in)
    }

    pub(super) fn approval_for(&self, user: u64, scopes: &Scopes) -> Approval {
        match self.approval {
            Approval::Remembered if self.grants.get(&user).is_some_and(|had| had.covers(scopes)) => {
                Approval::Automatic
            }
            approval => approval,
        }
    }

    pub(super) fn is_restricted(&self, org: &str) -> bool {
        self.restricted_orgs.contains(&org.to_ascii_lowercase())
    }

    pub(super) fn new_code(
        &mut self,
        user: u64,
        asked: &Scopes,
        redirect_uri: String,
        challenge: Option<String>,
    ) -> String {
        let now = self.now();
        self.codes.retain(|_, code| code.expires > now);
        let had = self.grants.get(&user).cloned().unwrap_or_default();
        // Empty scope means every scope granted before.
        let asked = if asked.is_empty() { &had } else { asked };
        let scopes = match &self.granted_at_most {
            Some(limit) => asked.within(limit),
            None => asked.clone(),
        };
        self.grants.insert(user, had.and(&scopes));
        let name = random(20);
        let code = Code { user, scopes, redirect_uri, challenge, expires: now + CODE_LIFETIME };
        self.codes.insert(name.clone(), code);
        name
    }

    /// A code works once, and a failed attempt counts.
    pub(super) fn take_code(&mut self, name: &str) -> Option<Code> {
        let now = self.now();
        self.codes.remove(name).filter(|code| code.expires > now)
    }

    pub(super) fn new_token(&mut self, user: u64, scopes: Scopes) -> Token {
        let now = self.now();
        let after = |seconds| Some(now + Duration::from_secs(seconds));
        let (access, refresh, expires, refresh_expires) = match self.options.token_kind {
            TokenKind::OAuthApp => ("gho_", None, None, None),
            TokenKind::GitHubAppWithoutExpiry => ("ghu_", None, None, None),
            TokenKind::GitHubApp { lifetime, refresh_lifetime } => {
                ("ghu_", Some(format!("ghr_{}", random(76))), after(lifetime), after(refresh_lifetime))
            }
        };
        let is_app = access == "ghu_";
        self.issued += 1;
        let token = Token {
            id: self.issued,
            access: format!("{access}{}", random(36)),
            refresh,
            user,
            scopes: if is_app { Scopes::default() } else { scopes },
            expires,
            refresh_expires,
            refusals: self.spurious_401,
        };
        self.tokens.push(token.clone());
        self.drop_oldest(user, &token.scopes);
        token
    }

    /// Ten tokens per user, app and scopes: the eleventh kills the oldest.
    fn drop_oldest(&mut self, user: u64, scopes: &Scopes) {
        let alike = |token: &Token| token.user == user && token.scopes == *scopes;
        if self.tokens.iter().filter(|token| alike(token)).count() > TOKENS_KEPT {
            let oldest = self.tokens.iter().position(alike);
            self.tokens.remove(oldest.expect("there are more than ten"));
        }
    }

    /// Trades a refresh token; it and its access token die at once.
    pub(super) fn refresh(&mut self, refresh: &str) -> Option<Token> {
        let at = self.tokens.iter().position(|token| token.refresh.as_deref() == Some(refresh))?;
        let old = self.tokens.remove(at);
        if self.is_over(old.refresh_expires) {
            return None;
        }
        Some(self.new_token(old.user, old.scopes))
    }

    /// What the token check sees: no spurious refusals.
    pub(super) fn live(&self, access: &str) -> Option<Token> {
        let known = self.tokens.iter().find(|token| token.access == access)?;
        (!self.is_over(known.expires)).then(|| known.clone())
    }

    /// What an API call sees.
    pub(super) fn authenticate(&mut self, access: &str) -> Option<Token> {
        let live = self.live(access)?;
        let token = self.tokens.iter_mut().find(|token| token.access == access)?;
        if token.refusals > 0 {
            token.refusals -= 1;
            return None;
        }
        Some(live)
    }

    pub(super) fn end_grant(&mut self, user: u64) {
        self.tokens.retain(|token| token.user != user);
        self.codes.retain(|_, code| code.user != user);
        self.grants.remove(&user);
    }

    fn is_over(&self, expires: Option<Duration>) -> bool {
        expires.is_some_and(|expires| expires <= self.now())
    }

    fn now(&self) -> Duration {
        self.started.elapsed() + self.forwarded
    }

    #[track_caller]
    fn id(&self, login: &str) -> u64 {
        match self.user(login) {
            Some(user) => user.id,
            None => panic!("the stand-in knows no user {login}"),
        }
    }
}

fn random(length: usize) -> String {
    let mut bytes = vec![0; length];
    SysRng.try_fill_bytes(&mut bytes).expect("the system has randomness");
    let letter = |byte: u8| char::from(LETTERS[usize::from(byte) % LETTERS.len()]);
    bytes.into_iter().map(letter).collect()
}

const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const CODE_LIFETIME: Duration = Duration::from_secs(600);
const TOKENS_KEPT: usize = 10;
