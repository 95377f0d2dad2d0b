//! What the protocol keeps about people: their sealed GitHub credential per scope set, the numeric id behind
//! an allow-listed login, and which logins at GitHub have been finished.
//!
//! Holds sealed bytes only; opening them is `github/credential.rs`' job.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::families::owner;
use super::{Created, Page, Record, Records, Replaced, StoreError, Stored, decode, encode};
use crate::clock::{Clock, Time};

/// People in a store.
#[derive(Clone)]
pub struct People {
    records: Arc<dyn Records>,
    clock: Clock,
    keep: Duration,
}

/// A person's GitHub credential for one set of scopes; every family of that person and set points at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialRecord {
    /// Numeric GitHub id.
    pub person: u64,
    /// The login when we last looked; for people to read, never to decide by.
    pub login: String,
    /// Primary and verified address, when a resource injects it; empty when GitHub shows none.
    pub email: Option<String>,
    /// The token pair under our seal, bound to this record's key.
    pub sealed: String,
    /// When the access token ends, if GitHub said so.
    pub expires: Option<Time>,
    /// When GitHub last confirmed the token and the allow-list the person.
    pub checked: Time,
}

/// Outcome of [`People::pin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// The login means this person (from now on, or since before).
    Same,
    /// The login was pinned to another person: GitHub frees a login the moment its owner is renamed.
    Other,
}

impl People {
    /// People kept in `records`; credentials are kept `keep` long after the last login.
    pub fn new(records: Arc<dyn Records>, clock: Clock, keep: Duration) -> Self {
        People { records, clock, keep }
    }

    /// The record key of a person's credential for a set of GitHub scopes (sorted, space-separated).
    pub fn credential_key(person: u64, scopes: &str) -> String {
        format!("credential/{person}/{}", scopes.replace(' ', "+"))
    }

    /// What a record key has beside the person.
    pub fn scopes_in(key: &str) -> &str {
        key.splitn(3, '/').nth(2).unwrap_or_default()
    }

    /// The GitHub scopes that a record key was made for.
    pub fn scopes_of(key: &str) -> Vec<String> {
        Self::scopes_in(key).split('+').filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
    }

    /// The credential under a key.
    pub async fn credential(&self, key: &str) -> Result<Option<Stored<CredentialRecord>>, StoreError> {
        self.records.read(key).await?.map(|record| decode(key, record)).transpose()
    }

    /// Some of all credentials, for operators, and where to go on.
    pub async fn page(
        &self,
        after: Option<&str>,
    ) -> Result<(Vec<CredentialRecord>, Option<String>), StoreError> {
        let Page { records, next } = self.records.page(after).await?;
        let kept = records.into_iter().filter(|(key, _)| key.starts_with("credential/"));
        let read = kept.filter_map(|(key, record)| decode::<CredentialRecord>(&key, record).ok());
        Ok((read.map(|found| found.value).collect(), next))
    }

    /// Writes the credential of a fresh login over the one that was seen, or where there was none. `false` when
    /// somebody else was first.
    pub async fn put_credential(
        &self,
        key: &str,
        seen: Option<u64>,
        credential: &CredentialRecord,
    ) -> Result<bool, StoreError> {
        Ok(match seen {
            Some(seen) => self.swap_credential(key, seen, credential).await? == Replaced::Replaced,
            None => self.records.create(key, self.record(credential)).await? == Created::Created,
        })
    }

    /// Replaces a credential that was read at version `seen`.
    pub async fn swap_credential(
        &self,
        key: &str,
        seen: u64,
        credential: &CredentialRecord,
    ) -> Result<Replaced, StoreError> {
        self.records.replace(key, seen, self.record(credential)).await
    }

    /// Claims the refresh of a credential for one process; `Exists` while another one has it.
    pub async fn claim_refresh(&self, key: &str, until: Time) -> Result<Created, StoreError> {
        let version = u64::from_be_bytes(self.clock.random());
        let record = Record { bytes: Vec::new(), version, owner: String::new(), expires: until };
        let name = format!("refreshing/{key}");
        let outcome = self.records.create(&name, record.clone()).await?;
        let seen = if outcome == Created::Exists { self.records.read(&name).await? } else { None };
        // Nobody claims for longer than we do: that was a clock far ahead, and would hold for as long.
        match seen.filter(|seen| seen.expires > until.after(LONGEST_CLAIM)) {
            Some(seen) if self.records.replace(&name, seen.version, record).await? == Replaced::Replaced => {
                Ok(Created::Created)
            }
            _ => Ok(outcome),
        }
    }

    /// Gives a claim back.
    pub async fn release_refresh(&self, key: &str) -> Result<(), StoreError> {
        self.records.delete(&format!("refreshing/{key}")).await
    }

    /// Notes that a sealed refresh token is about to be traded, `until` when that is remembered. Whoever finds it
    /// afterwards knows that it may be spent.
    pub async fn begin_trade(&self, key: &str, sealed: &str, until: Time) -> Result<(), StoreError> {
        let name = format!("trading/{key}");
        let version = u64::from_be_bytes(self.clock.random());
        let record = Record { bytes: encode(&mark(sealed)), version, owner: String::new(), expires: until };
        loop {
            if self.records.create(&name, record.clone()).await? == Created::Created {
                return Ok(());
            }
            let Some(found) = self.records.read(&name).await? else { continue };
            if self.records.replace(&name, found.version, record.clone()).await? == Replaced::Replaced {
                return Ok(());
            }
        }
    }

    /// Until when it is remembered that this very token was to be traded, if it was.
    pub async fn trade(&self, key: &str, sealed: &str) -> Result<Option<Time>, StoreError> {
        let name = format!("trading/{key}");
        let Some(record) = self.records.read(&name).await? else { return Ok(None) };
        let until = record.expires;
        Ok(Some(until)
            .filter(|_| decode::<String>(&name, record).is_ok_and(|found| found.value == mark(sealed))))
    }

    /// What came of a trade is known.
    pub async fn end_trade(&self, key: &str) -> Result<(), StoreError> {
        self.records.delete(&format!("trading/{key}")).await
    }

    /// Forgets a credential that was read at version `seen`; a newer one stays.
    pub async fn forget_credential(&self, key: &str, seen: u64) -> Result<Replaced, StoreError> {
        // A record that ended at the epoch does not exist, however the clock is set; the next sweep takes it away.
        let version = u64::from_be_bytes(self.clock.random());
        let gone = Record { bytes: Vec::new(), version, owner: String::new(), expires: Time::from_millis(0) };
        self.records.replace(key, seen, gone).await
    }

    /// The first person who passes with an allow-listed login is the one it means for good.
    pub async fn pin(&self, login: &str, person: u64) -> Result<Pinned, StoreError> {
        let key = format!("login/{}", login.to_ascii_lowercase());
        let version = u64::from_be_bytes(self.clock.random());
        let record = Record { bytes: encode(&person), version, owner: String::new(), expires: Time::NEVER };
        if self.records.create(&key, record).await? == Created::Created {
            return Ok(Pinned::Same);
        }
        Ok(if self.pinned(login).await? == Some(person) { Pinned::Same } else { Pinned::Other })
    }

    /// The person an allow-listed login was pinned to.
    pub async fn pinned(&self, login: &str) -> Result<Option<u64>, StoreError> {
        let key = format!("login/{}", login.to_ascii_lowercase());
        let stored = self.records.read(&key).await?.map(|record| decode::<u64>(&key, record)).transpose()?;
        Ok(stored.map(|stored| stored.value))
    }

    /// Marks a login flow as finished; `Exists` when it was finished before, on whatever replica.
    pub async fn finish_login(&self, flow: &str, until: Time) -> Result<Created, StoreError> {
        let version = u64::from_be_bytes(self.clock.random());
        let record = Record { bytes: Vec::new(), version, owner: String::new(), expires: until };
        self.records.create(&format!("flow/{flow}"), record).await
    }

    /// Whether a login flow was finished before, on whatever replica.
    pub async fn is_login_finished(&self, flow: &str) -> Result<bool, StoreError> {
        Ok(self.records.read(&format!("flow/{flow}")).await?.is_some())
    }

    fn record(&self, credential: &CredentialRecord) -> Record {
        let version = u64::from_be_bytes(self.clock.random());
        let expires = self.clock.now().after(self.keep);
        Record { bytes: encode(credential), version, owner: owner(credential.person), expires }
    }
}

/// Enough of a sealed value to tell it from every other: it begins with a random nonce.
fn mark(sealed: &str) -> String {
    sealed.chars().take(32).collect()
}

/// Far beyond what any claim of ours is for.
const LONGEST_CLAIM: Duration = Duration::from_secs(3_600);
