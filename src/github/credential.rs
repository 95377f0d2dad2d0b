//! A person's GitHub credential: sealed at rest, refreshed once however many ask, checked while it is used.
//!
//! One record per person and scope set. GitHub kills both old tokens the moment a refresh token is used, so
//! the new pair is stored before anybody gets it, and the work runs to its end even if the asker goes away.

mod outcomes;
mod refresh;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dashmap::DashMap;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tracing::{info, warn};

use self::outcomes::Outcomes;
use super::admission::{Admission, Admitted};
use super::{GitHub, Granted, Profile, TokenState, Trouble};
use crate::clock::{Clock, Time};
use crate::protocol::injection::Identity;
use crate::seal::{KeyRing, Sealable};
use crate::store::families::Families;
use crate::store::people::{CredentialRecord, People};
use crate::store::{Created, StoreError, Stored};
use refresh::{CLAIM_FOR, Refreshed};

/// Credentials in the store, and GitHub behind them.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    github: Arc<GitHub>,
    people: People,
    families: Families,
    keys: Arc<KeyRing>,
    clock: Clock,
    admission: Arc<Admission>,
    side: Handle,
    // One entry per record that is being refreshed or checked right now.
    busy: DashMap<String, Arc<Mutex<()>>>,
    // New pairs on their way into the store.
    unsaved: DashMap<String, Refreshed>,
    // When a check in the background last began.
    asked: moka::sync::Cache<String, Time>,
    refreshes: Outcomes,
    checks: Outcomes,
}

/// A credential that may be used.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Who it is, with the token to inject.
    pub identity: Identity,
    /// When the token must be refreshed.
    pub expires: Option<Time>,
    /// When GitHub last confirmed it.
    pub checked: Time,
    /// Of the record it was read from.
    pub version: u64,
}

/// Why there is no credential.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CredentialError {
    /// GitHub confirmed that it is dead, or there is none: the person must log in again.
    #[error("the GitHub credential is gone")]
    Gone,
    /// GitHub could not say.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// The store could not say.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
struct TokenPair {
    access: String,
    refresh: Option<String>,
}

/// What a check found.
enum Verdict {
    /// With the login of today.
    Stays(String),
    /// With the reason.
    Gone(&'static str),
}

impl Sealable for TokenPair {
    const KIND: &'static str = "github credential";
}

impl Credentials {
    /// Credentials kept by `people`; what must not be interrupted runs on `side`.
    pub fn new(
        github: Arc<GitHub>,
        (people, families): (People, Families),
        keys: Arc<KeyRing>,
        clock: Clock,
        (admission, side): (Arc<Admission>, Handle),
    ) -> Self {
        let (busy, unsaved, asked) = (DashMap::new(), DashMap::new(), moka::sync::Cache::new(MAX_ASKED));
        Credentials(Arc::new(Inner {
            github,
            people,
            families,
            keys,
            clock,
            admission,
            side,
            busy,
            unsaved,
            asked,
            refreshes: Outcomes::new(),
            checks: Outcomes::new(),
        }))
    }

    /// Keeps what a fresh login brought; it serves all families of the person from now on.
    pub async fn keep(
        &self,
        profile: &Profile,
        email: Option<String>,
        scopes: &str,
        granted: &Granted,
    ) -> Result<(), StoreError> {
        let key = People::credential_key(profile.id, scopes);
        let now = self.0.clock.now();
        let record = CredentialRecord {
            person: profile.id,
            login: profile.login.clone(),
            email,
            sealed: self.0.seal(&key, &granted.access_token, granted.refresh_token.as_ref()),
            expires: granted.expires_in.map(|seconds| now.after(Duration::from_secs(seconds))),
            checked: now,
        };
        self.0.people.keep_credential(&key, &record).await
    }

    /// The credential under a key, refreshed first when it is about to expire.
    pub async fn usable(&self, key: &str) -> Result<Credential, CredentialError> {
        let credential = self.0.read(key).await?;
        if !self.0.is_expiring(&credential) {
            return Ok(credential);
        }
        let (inner, key) = (self.0.clone(), key.to_owned());
        // On its own task: a client that hangs up must not leave a spent refresh token unreplaced.
        let refreshed = self.0.side.spawn(async move { inner.refreshed(&key).await });
        refreshed.await.unwrap_or_else(|_| Err(Trouble::new("the refresh was interrupted").into()))
    }

    /// Whether it is time for [`Credentials::recheck_later`].
    pub fn is_stale(&self, credential: &Credential) -> bool {
        self.0.clock.now().since(credential.checked) >= RECHECK_AFTER
    }

    /// Whether the last good answer is too old to be used without a new one, GitHub in trouble or not.
    pub fn is_overdue(&self, credential: &Credential) -> bool {
        self.0.clock.now().since(credential.checked) >= RECHECK_AFTER + OUTAGE_GRACE
    }

    /// Starts a check in the background; what it finds shows in the store.
    pub fn recheck_later(&self, key: &str) {
        let (inner, key, now) = (self.0.clone(), key.to_owned(), self.0.clock.now());
        // GitHub in trouble, or out of patience, is not asked at every request of everybody.
        let asked = inner.asked.get(&key).is_some_and(|asked| now.since(asked) < CHECK_SPACING);
        if asked || inner.busy.contains_key(&key) {
            return;
        }
        inner.asked.insert(key.clone(), now);
        self.0.side.spawn(async move {
            if let Err(error) = inner.checked(&key, CHECK_SPACING).await {
                warn!(%error, "a GitHub credential could not be checked");
            }
        });
    }

    /// Asks GitHub and the allow-list again, for a grant that is about to be renewed. GitHub being out of
    /// reach is forgiven for an hour after the last good answer.
    pub async fn confirm(&self, key: &str) -> Result<(), CredentialError> {
        let (inner, key) = (self.0.clone(), key.to_owned());
        let checked = self.0.side.spawn(async move { inner.checked(&key, Duration::ZERO).await });
        checked.await.unwrap_or_else(|_| Err(Trouble::new("the check was interrupted").into()))
    }

    /// Forgets a credential that no family uses any more, at GitHub too.
    pub async fn discard(&self, key: &str) -> Result<(), StoreError> {
        let token = self.0.read(key).await.ok().map(|credential| credential.identity.token);
        self.0.people.forget_credential(key).await?;
        if let Some(token) = token {
            let github = self.0.github.clone();
            self.0.side.spawn(async move {
                if let Err(error) = github.delete_token(&token).await {
                    warn!(%error, "an unused GitHub token could not be revoked");
                }
            });
        }
        Ok(())
    }
}

impl Inner {
    async fn read(&self, key: &str) -> Result<Credential, CredentialError> {
        let stored = self.people.credential(key).await?.ok_or(CredentialError::Gone)?;
        self.open(key, &stored).map(|(credential, _)| credential)
    }

    fn open(
        &self,
        key: &str,
        stored: &Stored<CredentialRecord>,
    ) -> Result<(Credential, Option<SecretString>), CredentialError> {
        let CredentialRecord { person, login, email, sealed, expires, checked } = &stored.value;
        // A row that does not open under its own key was moved, or its key was dropped: a new login heals it.
        let sealed = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| CredentialError::Gone)?;
        let plain =
            self.keys.open_bytes(TokenPair::KIND, key.as_bytes(), &sealed).ok_or(CredentialError::Gone)?;
        let pair: TokenPair = postcard::from_bytes(&plain).map_err(|_| CredentialError::Gone)?;
        let identity =
            Identity { id: *person, login: login.clone(), email: email.clone(), token: pair.access.into() };
        let credential =
            Credential { identity, expires: *expires, checked: *checked, version: stored.version };
        Ok((credential, pair.refresh.map(SecretString::from)))
    }

    fn seal(&self, key: &str, access: &SecretString, refresh: Option<&SecretString>) -> String {
        let pair = TokenPair {
            access: access.expose_secret().to_owned(),
            refresh: refresh.map(|token| token.expose_secret().to_owned()),
        };
        self.keys.seal(&self.clock, key.as_bytes(), &pair)
    }

    fn is_expiring(&self, credential: &Credential) -> bool {
        credential.expires.is_some_and(|expires| self.clock.now().after(REFRESH_BEFORE) >= expires)
    }

    fn lock(&self, key: &str) -> Arc<Mutex<()>> {
        self.busy.entry(key.to_owned()).or_default().clone()
    }

    /// Drops the lock's entry when nobody else holds or awaits it.
    fn unlock(&self, key: &str, lock: Arc<Mutex<()>>) {
        drop(lock);
        self.busy.remove_if(key, |_, lock| Arc::strong_count(lock) == 1);
    }

    /// Asks GitHub whether the token lives and the allow-list whether the person may stay.
    async fn checked(&self, key: &str, spacing: Duration) -> Result<(), CredentialError> {
        let arrival = self.checks.arrive();
        let lock = self.lock(key);
        let guard = lock.lock().await;
        let outcome = match self.checks.for_waiter(key, arrival, self.clock.now()) {
            Some(Ok(())) => self.read(key).await.map(drop),
            // Trouble that another asker had, or that GitHub wants left alone: the grace applies to us too.
            Some(Err(trouble)) => self.forgiven(key, trouble).await,
            None => self.check_alone(key, spacing).await,
        };
        drop(guard);
        self.unlock(key, lock);
        outcome
    }

    async fn check_alone(&self, key: &str, spacing: Duration) -> Result<(), CredentialError> {
        let credential = self.refresh_alone(key, self.refreshes.arrive()).await?;
        let age = self.clock.now().since(credential.checked);
        if age < spacing {
            return Ok(());
        }
        let judged = self.judge(&credential).await;
        match &judged {
            Ok(_) => self.checks.note(key, None, self.clock.now()),
            Err(CredentialError::Trouble(trouble)) => self.checks.note(key, Some(trouble), self.clock.now()),
            Err(CredentialError::Gone | CredentialError::Store(_)) => {}
        }
        let stored = self.people.credential(key).await?.ok_or(CredentialError::Gone)?;
        match judged {
            Ok(Verdict::Gone(reason)) if stored.version == credential.version => {
                // A refresh under way elsewhere has killed the token that was judged, and nothing else.
                let until = self.clock.now().after(CLAIM_FOR);
                if self.people.claim_refresh(key, until).await? == Created::Exists {
                    return Err(Trouble::new("another process is refreshing what was judged").into());
                }
                let outcome = self.bury(key, &stored.value, reason).await.map(drop);
                if reason == NOT_ALLOWED
                    && let Err(error) = self.github.delete_token(&credential.identity.token).await
                {
                    info!(%error, "the GitHub token of somebody no longer allowed could not be revoked");
                }
                let _ = self.people.release_refresh(key).await;
                outcome
            }
            // A new login came in between: its own judgement counts.
            Ok(Verdict::Gone(_)) => Ok(()),
            Ok(Verdict::Stays(login)) => {
                let record = CredentialRecord { checked: self.clock.now(), login, ..stored.value };
                self.people.swap_credential(key, stored.version, &record).await?;
                Ok(())
            }
            Err(CredentialError::Trouble(trouble)) => self.forgiven(key, trouble).await,
            Err(error) => Err(error),
        }
    }

    /// GitHub cannot be asked: its last good answer counts for an hour.
    async fn forgiven(&self, key: &str, trouble: Trouble) -> Result<(), CredentialError> {
        let checked = self.read(key).await?.checked;
        if self.clock.now().since(checked) >= OUTAGE_GRACE {
            return Err(trouble.into());
        }
        warn!(error = %trouble, "GitHub could not confirm a credential; the last answer counts for an hour");
        Ok(())
    }

    /// Whether the credential may stay. People are renamed: what counts is the login of today.
    async fn judge(&self, credential: &Credential) -> Result<Verdict, CredentialError> {
        let Identity { id, login, token, .. } = &credential.identity;
        let profile = match self.github.token_state(token).await? {
            TokenState::Dead => return Ok(Verdict::Gone("revoked at GitHub")),
            TokenState::Live(Some(profile)) if profile.id != *id => {
                return Ok(Verdict::Gone("somebody else's"));
            }
            TokenState::Live(Some(profile)) => profile,
            TokenState::Live(None) => Profile { id: *id, login: login.clone() },
        };
        match self.admission.judge(&profile, token).await? {
            Admitted::Yes => Ok(Verdict::Stays(profile.login)),
            Admitted::No => Ok(Verdict::Gone(NOT_ALLOWED)),
        }
    }

    /// Ends a credential and every family that lived on it.
    async fn bury(
        &self,
        key: &str,
        record: &CredentialRecord,
        why: &str,
    ) -> Result<Credential, CredentialError> {
        warn!(person = record.person, why, "a GitHub credential ended; its grants are revoked");
        for (id, family) in self.families.of_person(record.person).await? {
            if family.credential == key {
                self.families.revoke(&id).await?;
            }
        }
        self.people.forget_credential(key).await?;
        Err(CredentialError::Gone)
    }
}

const NOT_ALLOWED: &str = "no longer allowed";
/// A refresh kills the old token at once, so it is left as late as a request may need to reach GitHub.
const REFRESH_BEFORE: Duration = Duration::from_secs(60);
/// How long a revocation at GitHub or a lost membership may go unnoticed while a grant is in use.
const RECHECK_AFTER: Duration = Duration::from_secs(15 * 60);
/// Checks that an upstream's 401 asks for are spaced this far apart.
const CHECK_SPACING: Duration = Duration::from_secs(30);
/// Credentials whose last check is remembered; forgetting one costs a call.
const MAX_ASKED: u64 = 100_000;
/// How long the last good answer counts when GitHub cannot be asked.
const OUTAGE_GRACE: Duration = Duration::from_secs(3_600);
