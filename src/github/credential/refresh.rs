//! Trading a refresh token: once, in whatever process, and never losing what came of it.
//!
//! GitHub takes a refresh token one time and kills the access token with it. Askers of one process queue behind
//! a lock, processes behind a claim in the store; a pair that could not be stored waits for the next asker.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::super::{Granted, LoginError, Trouble};
use super::outcomes::Arrival;
use super::pair::TokenPair;
use super::{Credential, CredentialError, Inner};
use crate::clock::Time;
use crate::store::people::CredentialRecord;
use crate::store::{Created, Replaced, Stored};

/// A pair that GitHub has given out, sealed, and the one it took for it.
#[derive(Clone)]
pub(super) struct Refreshed {
    replaces: String,
    sealed: String,
    expires: Option<Time>,
}

impl Inner {
    /// Single flight: the first asker refreshes, the others find the fresh record.
    pub(super) async fn refreshed(&self, key: &str) -> Result<Credential, CredentialError> {
        let arrival = self.flights.refreshes.arrive();
        let lock = self.lock(key);
        let guard = lock.lock().await;
        let outcome = self.refresh_alone(key, arrival).await;
        drop(guard);
        self.unlock(key, lock);
        outcome
    }

    pub(super) async fn refresh_alone(
        &self,
        key: &str,
        arrival: Arrival,
    ) -> Result<Credential, CredentialError> {
        let credential = self.read(key).await?;
        let now = self.clock.now();
        if !self.is_expiring(&credential) {
            return Ok(credential);
        }
        if let Some(Err(trouble)) = self.flights.refreshes.for_waiter(key, arrival, now) {
            let still_good = credential.expires.is_some_and(|expires| now < expires);
            return if still_good { Ok(credential) } else { Err(trouble.into()) };
        }
        // Single flight across processes too: GitHub takes a refresh token once, and refuses the second asker.
        for _ in 0..CLAIM_TRIES {
            let until = self.clock.now().after(CLAIM_FOR);
            if self.people.claim_refresh(key, until).await? == Created::Created {
                let outcome = self.refresh_claimed(key).await;
                // A claim that stays behind ends by itself.
                let _ = self.people.release_refresh(key).await;
                return outcome;
            }
            sleep(CLAIM_WAIT).await;
            let credential = self.read(key).await?;
            if !self.is_expiring(&credential) {
                return Ok(credential);
            }
        }
        Err(Trouble::new("another process has been refreshing for too long").into())
    }

    async fn refresh_claimed(&self, key: &str) -> Result<Credential, CredentialError> {
        self.save(key).await?;
        let stored = self.people.credential(key).await?.ok_or(CredentialError::Gone)?;
        let (credential, refresh_token) = self.open(key, &stored)?;
        if !self.is_expiring(&credential) {
            return Ok(credential);
        }
        let still_good = credential.expires.is_some_and(|expires| self.clock.now() < expires);
        let Some(refresh_token) = refresh_token else {
            return if still_good { Ok(credential) } else { self.bury(key, &stored, "expired").await };
        };
        if let Some(until) = self.people.trade(key, &stored.value.sealed).await? {
            return self.after_a_lost_trade(key, &stored, until).await;
        }
        let until = self.clock.now().after(TRADE_KNOWN_FOR);
        self.people.begin_trade(key, &stored.value.sealed, until).await?;
        let answer = self.github.refresh(&refresh_token).await;
        if answer.is_err() {
            // There is no pair that could be lost.
            self.people.end_trade(key).await?;
        }
        let trouble = if let Err(LoginError::Trouble(trouble)) = &answer { Some(trouble) } else { None };
        self.flights.refreshes.note(key, trouble, self.clock.now());
        match answer {
            Ok(granted) => self.store_refreshed(key, stored.value, &granted).await,
            Err(error) if error.is_misconfiguration() => {
                warn!(%error, "GitHub does not accept the configured client_id and client_secret");
                if still_good { Ok(credential) } else { Err(Trouble::new(error).into()) }
            }
            Err(LoginError::Refused(_)) => {
                // A new login may have come in between: it stands.
                self.bury(key, &stored, "refused at refresh").await
            }
            Err(LoginError::Trouble(_)) if still_good => Ok(credential),
            Err(LoginError::Trouble(trouble)) => Err(trouble.into()),
        }
    }

    /// Somebody was to trade this very token and did not say what came of it: GitHub may have taken it, so it is never
    /// shown again. Who traded it may still be there and come back to the store with the new pair; for a while it is
    /// waited for, then the person logs in anew.
    async fn after_a_lost_trade(
        &self,
        key: &str,
        stored: &Stored<CredentialRecord>,
        until: Time,
    ) -> Result<Credential, CredentialError> {
        let left = until.since(self.clock.now());
        if TRADE_KNOWN_FOR.saturating_sub(left) < LOST_AFTER && left <= TRADE_KNOWN_FOR {
            return Err(Trouble::new("what came of a refresh at another process is not known yet").into());
        }
        let buried = self.bury(key, stored, "lost in a refresh").await;
        self.people.end_trade(key).await?;
        buried
    }

    async fn store_refreshed(
        &self,
        key: &str,
        old: CredentialRecord,
        granted: &Granted,
    ) -> Result<Credential, CredentialError> {
        let now = self.clock.now();
        let before = self.pair(key, &old).ok_or(CredentialError::Gone)?;
        let sealed = self.keys.seal(&self.clock, key.as_bytes(), &TokenPair::of_refresh(granted, before));
        let expires = granted.expires_in.map(|seconds| now.after(Duration::from_secs(seconds)));
        self.flights.unsaved.insert(key.to_owned(), Refreshed { replaces: old.sealed, sealed, expires });
        self.save(key).await?;
        self.read(key).await
    }

    /// Brings a new pair to the store once that can be reached again: other processes wait for it.
    pub(super) fn keep_saving(self: &Arc<Self>, key: &str) {
        if !self.flights.unsaved.contains_key(key) {
            return;
        }
        let (inner, key) = (self.clone(), key.to_owned());
        self.side.spawn(async move {
            for _ in 0..SAVE_TRIES {
                sleep(SAVE_WAIT).await;
                if inner.save(&key).await.is_ok() {
                    return;
                }
            }
        });
    }

    /// Stores a new pair. Until that has worked it is kept here: GitHub takes the old one no more.
    async fn save(&self, key: &str) -> Result<(), CredentialError> {
        while let Some(Refreshed { replaces, sealed, expires }) =
            self.flights.unsaved.get(key).map(|new| new.clone())
        {
            // Somebody logged in meanwhile: their newer credential stands, ours is forgotten. A check that was
            // noted meanwhile is none of that.
            let stored = self.people.credential(key).await?.filter(|stored| stored.value.sealed == replaces);
            let done = match stored {
                Some(Stored { value, version }) => {
                    let record = CredentialRecord { sealed, expires, ..value };
                    self.people.swap_credential(key, version, &record).await? == Replaced::Replaced
                }
                None => true,
            };
            if done {
                self.people.end_trade(key).await?;
                self.flights.unsaved.remove(key);
            }
        }
        Ok(())
    }
}

/// A little longer than a call to GitHub takes at most: a process that dies in it holds up nobody for long.
pub(super) const CLAIM_FOR: Duration = Duration::from_secs(15);
/// How long a trade is remembered whose end nobody told.
const TRADE_KNOWN_FOR: Duration = Duration::from_secs(3_600);
/// How long whoever began it may take to come back with what came of it: longer than a claim, and an outage.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// For as long as anybody would wait for the pair.
const SAVE_TRIES: u32 = 60;
const SAVE_WAIT: Duration = Duration::from_millis(500);
const CLAIM_WAIT: Duration = Duration::from_millis(50);
const CLAIM_TRIES: u32 = 300;
