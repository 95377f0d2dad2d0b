//! A person's GitHub credential: sealed at rest, refreshed once however many ask, checked while it is used.
//!
//! One record per person and scope set. GitHub kills both old tokens the moment a refresh token is used, so
//! the new pair is stored before anybody gets it, and the work runs to its end even if the asker goes away.

mod discard;
mod outcomes;
mod pair;
mod refresh;

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tracing::warn;

pub use self::discard::{Seen, Telling};
use self::outcomes::Outcomes;
use self::pair::TokenPair;
use super::admission::{Admission, Admitted};
use super::{GitHub, Granted, Profile, TokenState, Trouble, scopes};
use crate::clock::{Clock, Time};
use crate::protocol::family::{Family, Stage};
use crate::protocol::injection::Identity;
use crate::protocol::token::FamilyId;
use crate::recent::Recent;
use crate::seal::KeyRing;
use crate::store::families::Families;
use crate::store::people::{CredentialRecord, People};
use crate::store::{Created, Replaced, StoreError, Stored};
use crate::telemetry::audit::Event;
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
    flights: Arc<Flights>,
}

/// What is under way, and what came of it lately. Outlives a change of configuration.
pub struct Flights {
    // One entry per record that is being refreshed or checked right now.
    busy: DashMap<String, Arc<Mutex<()>>>,
    // New pairs on their way into the store.
    unsaved: DashMap<String, Refreshed>,
    // When a check in the background last began.
    asked: Recent<String, Time>,
    refreshes: Outcomes,
    checks: Outcomes,
}

impl Default for Flights {
    fn default() -> Self {
        Flights {
            busy: DashMap::new(),
            unsaved: DashMap::new(),
            asked: Recent::new(MAX_ASKED, CHECK_SPACING),
            refreshes: Outcomes::new(),
            checks: Outcomes::new(),
        }
    }
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
    /// Whether the person's address is injected somewhere.
    pub wants_email: bool,
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

/// What a check found.
enum Verdict {
    /// With the login and the address of today.
    Stays { login: String, email: Option<String> },
    /// With the reason.
    Gone(&'static str),
}

impl Credentials {
    /// Credentials kept by `people`; what must not be interrupted runs on `side`.
    pub fn new(
        github: Arc<GitHub>,
        (people, families): (People, Families),
        keys: Arc<KeyRing>,
        clock: Clock,
        (admission, side): (Arc<Admission>, Handle),
        flights: Arc<Flights>,
    ) -> Self {
        Credentials(Arc::new(Inner { github, people, families, keys, clock, admission, side, flights }))
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
        loop {
            let seen = self.0.people.credential(&key).await?;
            let now = self.0.clock.now();
            let before = seen.as_ref().and_then(|seen| self.0.pair(&key, &seen.value));
            let pair = TokenPair::of_login(granted, before);
            let record = CredentialRecord {
                person: profile.id,
                login: profile.login.clone(),
                email: email.clone(),
                sealed: self.0.keys.seal(&self.0.clock, key.as_bytes(), &pair),
                expires: granted.expires_in.map(|seconds| now.after(Duration::from_secs(seconds))),
                checked: now,
            };
            if self.0.people.put_credential(&key, seen.map(|seen| seen.version), &record).await? {
                return Ok(());
            }
        }
    }

    /// The credential under a key, refreshed first when it is about to expire.
    pub async fn usable(&self, key: &str) -> Result<Credential, CredentialError> {
        let credential = self.0.read(key).await?;
        if !self.0.is_expiring(&credential) {
            return Ok(credential);
        }
        let (inner, key) = (self.0.clone(), key.to_owned());
        // On its own task: a client that hangs up must not leave a spent refresh token unreplaced.
        let refreshed = self.0.side.spawn(async move {
            let outcome = inner.refreshed(&key).await;
            inner.keep_saving(&key);
            outcome
        });
        refreshed.await.unwrap_or_else(|_| Err(Trouble::new("the refresh was interrupted").into()))
    }

    /// Whether it is time for [`Credentials::recheck_later`].
    pub fn is_stale(&self, credential: &Credential) -> bool {
        self.0.clock.now().age_of(credential.checked) >= RECHECK_AFTER
    }

    /// Whether the last good answer is too old to be used without a new one, GitHub in trouble or not.
    pub fn is_overdue(&self, credential: &Credential) -> bool {
        self.0.clock.now().age_of(credential.checked) >= RECHECK_AFTER + OUTAGE_GRACE
    }

    /// Starts a check in the background; what it finds shows in the store.
    pub fn recheck_later(&self, key: &str) {
        let (inner, key, now) = (self.0.clone(), key.to_owned(), self.0.clock.now());
        // GitHub in trouble, or out of patience, is not asked at every request of everybody.
        let asked = inner.flights.asked.get(&key).is_some_and(|asked| now.age_of(asked) < CHECK_SPACING);
        if asked || inner.flights.busy.contains_key(&key) {
            return;
        }
        inner.flights.asked.insert(key.clone(), now);
        self.0.side.spawn(async move {
            if let Err(error) = inner.checked(&key, CHECK_SPACING).await {
                warn!(%error, "a GitHub credential could not be checked");
            }
            inner.keep_saving(&key);
        });
    }

    /// Whether what people do is written down.
    pub fn has_trail(&self) -> bool {
        self.0.github.telemetry.has_trail()
    }

    /// A grant was ended because its credential is gone: for the trail.
    pub fn ended(&self, id: &FamilyId, family: &Family) {
        self.0.github.telemetry.audit(&Event::of("revoke", id, family).with("without a credential"));
    }

    /// Asks GitHub and the allow-list again, for a grant that is about to be renewed. GitHub being out of
    /// reach is forgiven for an hour after the last good answer.
    pub async fn confirm(&self, key: &str) -> Result<(), CredentialError> {
        let (inner, key) = (self.0.clone(), key.to_owned());
        let checked = self.0.side.spawn(async move {
            let outcome = inner.checked(&key, Duration::ZERO).await;
            inner.keep_saving(&key);
            outcome
        });
        checked.await.unwrap_or_else(|_| Err(Trouble::new("the check was interrupted").into()))
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
        let CredentialRecord { person, login, email, expires, checked, .. } = &stored.value;
        let pair = self.pair(key, &stored.value).ok_or(CredentialError::Gone)?;
        let email = email.clone().filter(|email| !email.is_empty());
        let identity = Identity { id: *person, login: login.clone(), email, token: pair.access.into() };
        let (version, wants_email) = (stored.version, stored.value.email.is_some());
        let credential = Credential { identity, expires: *expires, checked: *checked, version, wants_email };
        Ok((credential, pair.refresh.map(SecretString::from)))
    }

    /// A row that does not open under its own key was moved, or its key was dropped: a new login heals it.
    fn pair(&self, key: &str, record: &CredentialRecord) -> Option<TokenPair> {
        self.keys.open(key.as_bytes(), &record.sealed)
    }

    fn is_expiring(&self, credential: &Credential) -> bool {
        credential.expires.is_some_and(|expires| self.clock.now().after(REFRESH_BEFORE) >= expires)
    }

    fn lock(&self, key: &str) -> Arc<Mutex<()>> {
        self.flights.busy.entry(key.to_owned()).or_default().clone()
    }

    /// Drops the lock's entry when nobody else holds or awaits it.
    fn unlock(&self, key: &str, lock: Arc<Mutex<()>>) {
        drop(lock);
        self.flights.busy.remove_if(key, |_, lock| Arc::strong_count(lock) == 1);
    }

    /// Asks GitHub whether the token lives and the allow-list whether the person may stay.
    async fn checked(&self, key: &str, spacing: Duration) -> Result<(), CredentialError> {
        let arrival = self.flights.checks.arrive();
        let lock = self.lock(key);
        let guard = lock.lock().await;
        let outcome = match self.flights.checks.for_waiter(key, arrival, self.clock.now()) {
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
        let credential = self.refresh_alone(key, self.flights.refreshes.arrive()).await?;
        let age = self.clock.now().age_of(credential.checked);
        if age < spacing {
            return Ok(());
        }
        let judged = self.judge(key, &credential).await;
        match &judged {
            Ok(_) => self.flights.checks.note(key, None, self.clock.now()),
            Err(CredentialError::Trouble(trouble)) => {
                self.flights.checks.note(key, Some(trouble), self.clock.now())
            }
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
                let outcome = self.bury(key, &stored, reason).await.map(drop);
                // Before calls that may take longer than the claim lasts: it would be another's by then.
                let _ = self.people.release_refresh(key).await;
                if reason == NOT_ALLOWED && matches!(outcome, Err(CredentialError::Gone)) {
                    self.delete_all(self.pair(key, &stored.value)).await;
                }
                outcome
            }
            // A new login came in between: its own judgement counts.
            Ok(Verdict::Gone(_)) => Ok(()),
            Ok(Verdict::Stays { login, email }) => {
                let record = CredentialRecord { checked: self.clock.now(), login, email, ..stored.value };
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
        if self.clock.now().age_of(checked) >= OUTAGE_GRACE {
            return Err(trouble.into());
        }
        warn!(error = %trouble, "GitHub could not confirm a credential; the last answer counts for an hour");
        Ok(())
    }

    /// Whether the credential may stay. People are renamed: what counts is the login of today.
    async fn judge(&self, key: &str, credential: &Credential) -> Result<Verdict, CredentialError> {
        let Identity { id, login, token, .. } = &credential.identity;
        let (owner, scopes) = match self.github.token_state(token).await? {
            TokenState::Dead => return Ok(Verdict::Gone("revoked at GitHub")),
            TokenState::Live { owner, scopes } => (owner, scopes),
        };
        let profile = owner.unwrap_or_else(|| Profile { id: *id, login: login.clone() });
        if profile.id != *id {
            return Ok(Verdict::Gone("somebody else's"));
        }
        // A person may edit what they granted; a new login asks for it again.
        let asked = People::scopes_of(key);
        if !scopes.is_empty() && !scopes::missing(&asked, &scopes).is_empty() {
            return Ok(Verdict::Gone("the person took scopes back"));
        }
        if self.admission.judge(&profile, token).await? != Admitted::Yes {
            return Ok(Verdict::Gone(NOT_ALLOWED));
        }
        let email = match credential.wants_email {
            true => Some(self.github.email(token).await?.unwrap_or_default()),
            false => None,
        };
        Ok(Verdict::Stays { login: profile.login, email })
    }

    /// Ends a credential and every family that lived on it, unless a new login has replaced it meanwhile.
    async fn bury(
        &self,
        key: &str,
        stored: &Stored<CredentialRecord>,
        why: &'static str,
    ) -> Result<Credential, CredentialError> {
        // The credential first: whatever family is left over when we end here finds none and ends too.
        if self.people.forget_credential(key, stored.version).await? == Replaced::Changed {
            return self.read(key).await;
        }
        let person = stored.value.person;
        warn!(person, why, "a GitHub credential ended; its grants are revoked");
        for (id, family) in self.families.of_person(person).await? {
            // One whose code is pending belongs to a login that is bringing a credential of its own.
            if family.credential == key && matches!(family.stage, Stage::Live { .. }) {
                self.families.revoke(&id).await?;
                self.github.telemetry.audit(&Event::of("revoke", &id, &family).with(why));
            }
        }
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
const MAX_ASKED: usize = 100_000;
/// How long the last good answer counts when GitHub cannot be asked.
const OUTAGE_GRACE: Duration = Duration::from_secs(3_600);
