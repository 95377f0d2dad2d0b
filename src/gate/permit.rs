//! What a request that may pass carries on: the proof, whose it is, and what a stream keeps to look again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use super::{Denial, Gate, LiveFamily};
use crate::protocol::resource::Resource;
use crate::telemetry::audit::Event;

/// Proof that a live token for a resource was seen. Only this module makes one, and nothing reaches an
/// upstream without one.
pub struct Permit {
    gate: Arc<Gate>,
    family: Arc<LiveFamily>,
}

impl Permit {
    /// For the gate alone, and once it has looked.
    pub(super) fn new(gate: Arc<Gate>, family: Arc<LiveFamily>) -> Self {
        Permit { gate, family }
    }

    /// Numeric GitHub id.
    pub fn person(&self) -> u64 {
        self.family.family.person
    }

    /// Whose request it is, for log and trail.
    pub fn holder(&self) -> Holder {
        Holder(self.family.clone())
    }

    /// The resource the permit is for.
    pub fn resource(&self) -> &Resource {
        self.gate.resource(self.family.resource)
    }

    /// Names whose every spelling must be gone before the values below are set.
    pub fn injected_names(&self) -> impl Iterator<Item = &HeaderName> {
        self.gate.resources[self.family.resource].inject.iter().map(|injection| &injection.name)
    }

    /// The rendered headers; fewer than the names when GitHub told us nothing for one.
    pub fn injected(&self) -> &[(HeaderName, HeaderValue)] {
        &self.family.injected
    }

    /// Whether an upstream's header would tell the client the person's GitHub token.
    pub fn is_given_away_by(&self, value: &HeaderValue) -> bool {
        let token = self.family.identity.token.expose_secret().as_bytes();
        value.len() >= token.len() && value.as_bytes().windows(token.len()).any(|window| window == token)
    }

    /// The upstream did not accept the person: look whether the GitHub token still lives.
    pub fn doubt(&self) {
        self.gate.newest().credentials.recheck_later(&self.family.family.credential);
    }

    /// What a stream keeps of its permit.
    pub fn watch(&self) -> PermitWatch {
        PermitWatch { gate: self.gate.clone(), family: self.family.clone() }
    }
}

/// Whose request it is: the person, and the client that asks for them.
#[derive(Clone)]
pub struct Holder(Arc<LiveFamily>);

impl Holder {
    /// Numeric GitHub id.
    pub fn person(&self) -> u64 {
        self.0.family.person
    }

    /// The login of when GitHub was last asked.
    pub fn login(&self) -> &str {
        &self.0.identity.login
    }

    /// An event of theirs.
    pub fn event(&self, event: &'static str) -> Event<'_> {
        Event { login: Some(self.login()), ..Event::of(event, &self.0.id, &self.0.family) }
    }
}

/// A permit's family, to be looked at again while a stream lives.
#[derive(Clone)]
pub struct PermitWatch {
    gate: Arc<Gate>,
    family: Arc<LiveFamily>,
}

impl PermitWatch {
    /// Whether this process ended the family in the meantime.
    pub fn is_ended(&self) -> bool {
        self.family.ended.load(Ordering::Relaxed)
    }

    /// Whether the family still lives, by the store. Trouble with the store or GitHub is no reason to cut
    /// a stream.
    pub async fn still_holds(self) -> bool {
        // Whatever configuration it came by: who is let in is for the one of now to say.
        let gate = self.gate.newest();
        let now = gate.clock.now();
        !self.is_ended() && !matches!(gate.load(&self.family.id, now).await, Err(Denial::Invalid(_)))
    }
}
