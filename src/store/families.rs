//! What the protocol does with families. Each decision is one compare-and-swap of one record.
//!
//! Does not talk to clients or to GitHub: outcomes are enums, the grants decide what to answer.
//! RFC 6749 §4.1.2; RFC 9700 §4.14.2.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Created, Page, Record, Records, Replaced, StoreError, Stored, decode, encode};
use crate::clock::{Clock, Time};
use crate::protocol::family::{Family, Lifetimes, Rotation, Stage};
use crate::protocol::pkce::PkceVerified;
use crate::protocol::token::FamilyId;
use crate::recent::Recent;

/// Families in a store.
#[derive(Clone)]
pub struct Families {
    records: Arc<dyn Records>,
    clock: Clock,
    lifetimes: Lifetimes,
    ended: Arc<OnceLock<Observer>>,
    /// Rotations that the store did not answer, by the generation that was presented: they may have been done. Bounded.
    doubtful: Recent<(FamilyId, u32), ()>,
}

/// Who is told that a family ended.
type Observer = Box<dyn Fn(&FamilyId) + Send + Sync>;

/// Outcome of presenting a code with a right verifier.
#[derive(Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// This caller, and nobody else, redeemed it: the first pair may be issued.
    Redeemed(Box<Family>),
    /// It was redeemed before. RFC 6749 §4.1.2: the tokens it bought are dead now.
    Replayed,
    /// No such family.
    Gone,
}

/// Outcome of presenting a refresh token.
#[derive(Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The family moved on: its current pair may be issued.
    Rotated(Box<Family>),
    /// Another presenter was first, a moment ago: its current pair again, byte for byte.
    SameSuccessor(Box<Family>),
    /// RFC 9700 §4.14.2: an old token came back; the family is dead now.
    Reused,
    /// No such family, or it has outlived a limit.
    Gone,
}

impl Families {
    /// Families kept in `records`.
    pub fn new(records: Arc<dyn Records>, clock: Clock, lifetimes: Lifetimes) -> Self {
        let doubtful = Recent::new(MAX_DOUBTFUL, DOUBTFUL_FOR);
        Families { records, clock, lifetimes, ended: Arc::default(), doubtful }
    }

    /// Lets somebody (the gate) know at once when this process ends a family.
    pub fn when_ended(&self, tell: impl Fn(&FamilyId) + Send + Sync + 'static) {
        // Wired once, by the composition root.
        let _ = self.ended.set(Box::new(tell));
    }

    /// How long things last.
    pub fn lifetimes(&self) -> &Lifetimes {
        &self.lifetimes
    }

    /// Keeps a new family, whose code is on its way to the client.
    pub async fn create(&self, family: &Family) -> Result<FamilyId, StoreError> {
        let id = FamilyId(self.clock.random());
        match self.records.create(&key(&id), self.record(family)).await? {
            Created::Created => Ok(id),
            Created::Exists => Err(StoreError::new("128 random bits came twice")),
        }
    }

    /// The family as it stands, unless it is over.
    pub async fn find(&self, id: &FamilyId) -> Result<Option<Stored<Family>>, StoreError> {
        let key = key(id);
        self.records.read(&key).await?.map(|record| decode(&key, record)).transpose()
    }

    /// Redeems the code of a family that was found `seen`; needs the proof of PKCE.
    pub async fn redeem(
        &self,
        id: &FamilyId,
        seen: Stored<Family>,
        _proof: PkceVerified,
    ) -> Result<Redeemed, StoreError> {
        let mut seen = Some(seen);
        while let Some(found) = seen {
            if matches!(found.value.stage, Stage::Live { .. }) {
                self.revoke(id).await?;
                return Ok(Redeemed::Replayed);
            }
            let next = found.value.redeemed(self.clock.now());
            if self.swap(id, found.version, &next).await? == Replaced::Replaced {
                return Ok(Redeemed::Redeemed(Box::new(next)));
            }
            seen = self.find(id).await?;
        }
        Ok(Redeemed::Gone)
    }

    /// Counts a wrong verifier against the code; after a few the code is dead.
    pub async fn guessed(&self, id: &FamilyId, mut seen: Stored<Family>) -> Result<(), StoreError> {
        while matches!(seen.value.stage, Stage::CodePending { .. }) {
            let Some(next) = seen.value.guessed() else {
                return self.revoke(id).await;
            };
            if self.swap(id, seen.version, &next).await? == Replaced::Replaced {
                return Ok(());
            }
            match self.find(id).await? {
                Some(again) => seen = again,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Rotates the family whose refresh token of `generation` was presented.
    pub async fn rotate(&self, id: &FamilyId, generation: u32) -> Result<Rotated, StoreError> {
        while let Some(found) = self.find(id).await? {
            match found.value.rotation(generation, self.clock.now(), &self.lifetimes) {
                Rotation::Next(next) => {
                    let swapped = self.swap(id, found.version, &next).await;
                    if swapped.as_ref().is_err_and(StoreError::is_unreachable) {
                        self.doubtful.insert((*id, generation), ());
                    }
                    if swapped? == Replaced::Replaced {
                        return Ok(Rotated::Rotated(next));
                    }
                }
                Rotation::SameSuccessor => return Ok(Rotated::SameSuccessor(Box::new(found.value))),
                // The client was told to try again, and the grace time may be over by now: its answer was lost with the
                // store's, not stolen.
                Rotation::Reused if self.was_doubtful(id, generation, &found.value) => {
                    return Ok(Rotated::SameSuccessor(Box::new(found.value)));
                }
                Rotation::Reused => {
                    self.revoke(id).await?;
                    return Ok(Rotated::Reused);
                }
                Rotation::Expired => return Ok(Rotated::Gone),
            }
        }
        Ok(Rotated::Gone)
    }

    fn was_doubtful(&self, id: &FamilyId, generation: u32, found: &Family) -> bool {
        let is_next = matches!(found.stage, Stage::Live { generation: now, .. } if Some(now) == generation.checked_add(1));
        is_next && self.doubtful.contains_key(&(*id, generation))
    }

    /// Ends a family: every token of it is dead, here at once and on other replicas within a second.
    pub async fn revoke(&self, id: &FamilyId) -> Result<(), StoreError> {
        self.records.delete(&key(id)).await?;
        if let Some(tell) = self.ended.get() {
            tell(id);
        }
        Ok(())
    }

    /// All families of a person.
    pub async fn of_person(&self, person: u64) -> Result<Vec<(FamilyId, Family)>, StoreError> {
        let mut families = Vec::new();
        for key in self.records.owned_by(&owner(person)).await? {
            let Some(id) = key.strip_prefix(PREFIX).and_then(FamilyId::parse) else { continue };
            if let Some(family) = self.find(&id).await? {
                families.push((id, family.value));
            }
        }
        Ok(families)
    }

    /// Some of all families, for operators, and where to go on.
    pub async fn page(
        &self,
        after: Option<&str>,
    ) -> Result<(Vec<(FamilyId, Family)>, Option<String>), StoreError> {
        let Page { records, next } = self.records.page(after).await?;
        let mut families = Vec::new();
        for (key, record) in records {
            let Some(id) = key.strip_prefix(PREFIX).and_then(FamilyId::parse) else { continue };
            // One of a later version is not for this program to show.
            families.extend(decode(&key, record).ok().map(|found| (id, found.value)));
        }
        Ok((families, next))
    }

    async fn swap(&self, id: &FamilyId, seen: u64, next: &Family) -> Result<Replaced, StoreError> {
        self.records.replace(&key(id), seen, self.record(next)).await
    }

    fn record(&self, family: &Family) -> Record {
        let version = u64::from_be_bytes(self.clock.random());
        let expires: Time = family.ends(&self.lifetimes);
        Record { bytes: encode(family), version, owner: owner(family.person), expires }
    }
}

/// What all records of a person are listed under.
pub(super) fn owner(person: u64) -> String {
    format!("person/{person}")
}

/// Where a family is kept.
pub fn key(id: &FamilyId) -> String {
    format!("{PREFIX}{id}")
}

const PREFIX: &str = "family/";
const MAX_DOUBTFUL: usize = 100_000;
/// Longer than an outage during which somebody waits.
const DOUBTFUL_FOR: Duration = Duration::from_secs(3_600);
