//! What a request that may pass carries on: the proof, whose it is, and what a stream keeps to look again.

use std::sync::Arc;

use http::HeaderName;

use super::family::LiveFamily;
use super::{Denial, Gate};
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
        self.family.person
    }

    /// Whose request it is, for log and trail.
    pub fn holder(&self) -> Holder {
        Holder(self.family.clone())
    }

    /// The same once the request is through.
    pub fn into_holder(self) -> Holder {
        Holder(self.family)
    }

    /// The resource the permit is for.
    pub fn resource(&self) -> &Resource {
        self.gate.resource(self.family.resource as usize)
    }

    /// Names whose every spelling must be gone before the values below are set.
    pub fn injected_names(&self) -> impl Iterator<Item = &HeaderName> {
        self.gate.resources[self.family.resource as usize].inject.iter().map(|injection| &injection.name)
    }

    /// The rendered headers as they are sent: `name: value` and a line end each, and no value holds one. Fewer than the
    /// names when GitHub told us nothing for one.
    pub fn injected_lines(&self) -> &[u8] {
        self.family.told.lines()
    }

    /// Whether an upstream's header would tell the client the person's GitHub token.
    pub fn is_given_away_by(&self, value: &[u8]) -> bool {
        let token = self.family.told.token();
        !token.is_empty() && value.windows(token.len()).any(|window| window == token)
    }

    /// The upstream did not accept the person: look whether the GitHub token still lives.
    pub fn doubt(&self) {
        self.gate.newest().credentials.recheck_later(&self.family.told.credential(self.family.person));
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
        self.0.person
    }

    /// The login of when GitHub was last asked.
    pub fn login(&self) -> &str {
        self.0.told.login()
    }

    /// An event of theirs.
    pub fn event(&self, event: &'static str) -> Event<'_> {
        let told = &self.0.told;
        Event {
            event,
            person: Some(self.person()),
            login: Some(self.login()),
            client_id: told.client_id(),
            client: told.client_name(),
            resource: told.resource(),
            grant: Some(self.0.id.short()),
            ..Event::default()
        }
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
        self.family.is_ended()
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
