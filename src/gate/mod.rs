//! The gate: a request with a live token for this very resource gets a [`Permit`], everything else a [`Denial`].
//!
//! Arithmetic plus one map look-up per request; a family is re-read from the store at most once per second,
//! or once a minute while it is known that nothing was written, so that a revocation anywhere is obeyed everywhere within
//! a second. Does not write responses.
//! RFC 6750 §2.1, §3; RFC 8707 §2; RFC 9728 §5.

pub mod challenge;
mod family;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod live;
pub mod origin;
mod permit;
mod told;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::warn;

use crate::clock::{Clock, Time};
use crate::github::credential::{Credential, CredentialError, Credentials};
use crate::limit::{Limited, Limiters, Who};
use crate::protocol::family::{Family, Stage};
use crate::protocol::fields::{Fields, Twice, is_text};
use crate::protocol::injection::Injection;
use crate::protocol::resource::Resource;
use crate::protocol::token::{Access, FamilyId, Verified};
use crate::seal::KeyRing;
use crate::store::StoreError;
use crate::store::families::{self, Families};
use crate::store::still::Still;
use family::LiveFamily;
use live::Live;
pub use permit::{Holder, Permit, PermitWatch};
use told::Told;

/// Decides over requests to resources.
pub struct Gate {
    keys: Arc<KeyRing>,
    clock: Clock,
    families: Families,
    still: Arc<Still>,
    credentials: Credentials,
    resources: Vec<Gated>,
    limits: Arc<Limiters>,
    live: Live,
    /// Whether calls are written down, and with them whose client made them.
    has_trail: bool,
    /// When trouble was last told of.
    told: AtomicU64,
    /// The gate of the configuration after this one.
    successor: OnceLock<Arc<Gate>>,
}

/// A resource and what its upstream is told about people.
pub struct Gated {
    pub resource: Resource,
    pub inject: Vec<Injection>,
}

/// Why a request gets no permit.
#[derive(Debug)]
pub enum Denial {
    /// No Bearer credential: a bare challenge (RFC 6750 §3.1).
    Missing,
    /// More than one Authorization header.
    Malformed,
    /// A token that no key of ours has made.
    Forged,
    /// Asked too often; `retry_after` in seconds.
    TooOften { retry_after: u64 },
    /// A token that is not, or not any more, good here. The reason is for the log.
    Invalid(&'static str),
    /// Good, but for less than this resource needs.
    InsufficientScope,
    /// We cannot know: neither open nor a logout.
    Unavailable { cause: String, retry_after: Option<Duration> },
}

impl Denial {
    /// In one word, for numbers.
    pub fn word(&self) -> &'static str {
        match self {
            Denial::Missing => "missing",
            Denial::Malformed => "malformed",
            Denial::Forged => "forged",
            Denial::TooOften { .. } => "too_often",
            Denial::Invalid(why) => why,
            Denial::InsufficientScope => "insufficient_scope",
            Denial::Unavailable { .. } => "unavailable",
        }
    }
}

/// What an Authorization header holds: "none" and "wrong" are different answers.
enum Bearer<'a> {
    Absent,
    Malformed,
    Token(&'a [u8]),
}

impl Gate {
    /// A gate for these resources, in the order of the configuration.
    pub fn new(
        keys: Arc<KeyRing>,
        clock: Clock,
        (families, still): (Families, Arc<Still>),
        credentials: Credentials,
        resources: Vec<Gated>,
        limits: Arc<Limiters>,
    ) -> Self {
        Gate {
            has_trail: credentials.has_trail(),
            keys,
            clock,
            families,
            still,
            credentials,
            resources,
            limits,
            live: Live::default(),
            told: AtomicU64::new(0),
            successor: OnceLock::new(),
        }
    }

    /// The resource with this number.
    pub fn resource(&self, number: usize) -> &Resource {
        &self.resources[number].resource
    }

    /// Another configuration takes over: what is still open here is judged there from now on.
    pub fn hand_over(&self, successor: Arc<Gate>) {
        // Once; later ones are found through it.
        let _ = self.successor.set(successor);
    }

    /// The gate of the configuration of now.
    fn newest(self: &Arc<Self>) -> Arc<Gate> {
        let mut newest = self.clone();
        while let Some(next) = newest.successor.get().cloned() {
            newest = next;
        }
        newest
    }

    /// Tells the gate that this process ended a family.
    pub fn forget(&self, id: &FamilyId) {
        self.live.forget(id);
    }

    /// Judges a request to the resource with this number.
    pub async fn permit(self: &Arc<Self>, resource: usize, fields: &Fields) -> Result<Permit, Denial> {
        let token = match bearer(fields) {
            Bearer::Absent => return Err(Denial::Missing),
            Bearer::Malformed => return Err(Denial::Malformed),
            Bearer::Token(token) => token,
        };
        // Before the token is judged, like all that costs time: that must not tell an expired token from a forged one.
        let now = self.clock.now();
        let token = Verified::<Access>::parse(&*self.keys, token).ok_or(Denial::Forged)?;
        if now >= token.claims.expires {
            return Err(Denial::Invalid("expired"));
        }
        self.still.want();
        let family =
            match self.live.get(&token.claims.family).filter(|family| family.is_fresh(now, &self.still)) {
                Some(family) => family,
                // Boxed: once a second at most, and most requests should not have the room for it.
                None => Box::pin(self.found(&token.claims.family, now)).await?,
            };
        family.covers(resource, &token.claims)?;
        Ok(Permit::new(self.clone(), family))
    }

    /// A family by the store's word, unless that word was "no" too often: what has ended stays so, and a client
    /// that asks on and on must not keep the store busy.
    async fn found(&self, id: &FamilyId, now: Time) -> Result<Arc<LiveFamily>, Denial> {
        let who = Who::Login(*id);
        let checked = self.limits.ended_logins.check(&who);
        checked.map_err(|Limited { retry_after }| Denial::TooOften { retry_after })?;
        let found = self.load(id, now).await;
        if matches!(found, Err(Denial::Invalid(_))) {
            self.limits.ended_logins.count(&who);
        }
        found
    }

    /// Reads a family and its credential, and keeps them for a second.
    async fn load(&self, id: &FamilyId, now: Time) -> Result<Arc<LiveFamily>, Denial> {
        let known = self.live.get(id);
        match self.read(id, now).await {
            Ok(Some(family)) => self.live.keep(known, family).ok_or(Denial::Invalid("revoked")),
            Ok(None) => {
                self.live.forget(id);
                Err(Denial::Invalid("revoked"))
            }
            Err(Denial::Unavailable { cause, retry_after }) => {
                match known.filter(|family| family.survives(now, &self.still)) {
                    Some(family) => {
                        self.tell_of_trouble(&cause, now);
                        Ok(family)
                    }
                    None => Err(Denial::Unavailable { cause, retry_after }),
                }
            }
            Err(denial) => Err(denial),
        }
    }

    /// Once in a while: a warning per request would be one more trouble.
    fn tell_of_trouble(&self, cause: &str, now: Time) {
        let told = Time::from_millis(self.told.load(Ordering::Relaxed));
        if now.age_of(told) >= BETWEEN_WARNINGS {
            self.told.store(now.millis(), Ordering::Relaxed);
            warn!(cause, "serving logins that were used in the last minute without the store or GitHub");
        }
    }

    async fn read(&self, id: &FamilyId, now: Time) -> Result<Option<LiveFamily>, Denial> {
        let Some(found) = self.families.find(id).await.map_err(store_down)? else { return Ok(None) };
        let family = found.value;
        let resource = self.resources.iter().position(|gated| gated.resource.url() == family.resource);
        let (Stage::Live { .. }, Some(resource)) = (&family.stage, resource) else { return Ok(None) };
        let credential = match self.usable(&family.credential).await {
            Ok(credential) => credential,
            Err(CredentialError::Gone) => {
                self.families.revoke(id).await.map_err(store_down)?;
                self.credentials.ended(id, &family);
                return Ok(None);
            }
            Err(CredentialError::Store(error)) => return Err(store_down(error)),
            Err(CredentialError::Trouble(trouble)) => {
                let cause = trouble.to_string();
                return Err(Denial::Unavailable { cause, retry_after: trouble.retry_after });
            }
        };
        if self.credentials.is_stale(&credential) {
            self.credentials.recheck_later(&family.credential);
        }
        Ok(Some(self.live_family(*id, &family, resource, &credential, now)))
    }

    /// A credential that GitHub has confirmed lately enough; long unused ones are confirmed first.
    async fn usable(&self, key: &str) -> Result<Credential, CredentialError> {
        let credential = self.credentials.usable(key).await?;
        if !self.credentials.is_overdue(&credential) {
            return Ok(credential);
        }
        self.credentials.confirm(key).await?;
        self.credentials.usable(key).await
    }

    /// How many families were used lately.
    pub fn live_families(&self) -> usize {
        self.live.len()
    }

    /// Drops what nobody has used for a while, and the tokens with it.
    pub fn tidy(&self) {
        self.live.tidy(self.clock.now());
    }

    fn live_family(
        &self,
        id: FamilyId,
        family: &Family,
        resource: usize,
        credential: &Credential,
        now: Time,
    ) -> LiveFamily {
        let Gated { resource: own, inject } = &self.resources[resource];
        LiveFamily {
            id,
            person: family.person,
            places: [self.still.place(&families::key(&id)), self.still.place(&family.credential)],
            token_ends: credential.expires.unwrap_or(Time::NEVER),
            read: AtomicU64::new(now.millis()),
            told: Told::new(&credential.identity, inject, family, self.has_trail),
            resource: u32::try_from(resource).expect("there is no room for as many resources"),
            required: family.scopes.mask_of(own.scopes()),
            suffices: family.scopes.covers(own.scopes()),
            ended: AtomicBool::default(),
            before: OnceLock::new(),
        }
    }
}

fn store_down(error: StoreError) -> Denial {
    Denial::Unavailable { cause: error.to_string(), retry_after: None }
}

/// RFC 6750 §2.1, §3.1, RFC 9110 §11.1: one header, scheme without case, one token. Another scheme is as good
/// as no header; an empty token is a bad one, so that clients whose variable was unset learn to log in.
fn bearer(fields: &Fields) -> Bearer<'_> {
    let value = match fields.single("authorization") {
        Ok(Some(value)) => value,
        Ok(None) => return Bearer::Absent,
        Err(Twice) => return Bearer::Malformed,
    };
    let is_space = |byte: &u8| *byte == b' ';
    let (scheme, token) = value.split_at(value.iter().position(is_space).unwrap_or(value.len()));
    if scheme.eq_ignore_ascii_case(b"bearer") {
        let from = token.iter().position(|byte| !is_space(byte)).unwrap_or(token.len());
        let to = token.iter().rposition(|byte| !is_space(byte)).map_or(from, |last| last + 1);
        Bearer::Token(&token[from..to])
    } else if is_text(value) {
        Bearer::Absent
    } else {
        Bearer::Token(b"")
    }
}

const BETWEEN_WARNINGS: Duration = Duration::from_secs(5);
