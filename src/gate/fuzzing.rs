//! Properties of the Authorization header, and permits for the properties of the way up.

pub(crate) mod parts;

use std::sync::Arc;

use http::{HeaderMap, header};

use super::{Bearer, Gate, Gated, LiveFamily, Permit, bearer};
use crate::fuzzing::{never_issued, world};
use crate::github::credential::Credential;
use crate::protocol::family::{Family, Stage};
use crate::protocol::fields::Fields;
use crate::protocol::injection::{Identity, Injection};
use crate::protocol::token::FamilyId;

/// One header with the scheme is a credential, and the credential is a part of it.
pub(crate) fn head(headers: &HeaderMap) {
    let values: Vec<_> = headers.get_all(header::AUTHORIZATION).iter().collect();
    match bearer(&Fields::from(headers)) {
        Bearer::Absent => assert!(values.iter().all(|value| {
            let text = value.to_str().expect("other values are wrong, not absent").to_ascii_lowercase();
            text != "bearer" && !text.starts_with("bearer ")
        })),
        Bearer::Malformed => assert!(values.len() > 1),
        Bearer::Token(token) => {
            assert_eq!(values.len(), 1);
            assert!(!token.starts_with(b" ") && !token.ends_with(b" "));
            if !token.is_empty() {
                let value = values[0].as_bytes();
                let rest = value.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                assert!(value[..rest].ends_with(token));
                assert!(value[..7].eq_ignore_ascii_case(b"bearer "));
            }
            never_issued(&String::from_utf8_lossy(token));
        }
    }
}

/// A permit for somebody without an e-mail address, as the gate would make it after a look at the store.
pub(crate) fn permit(inject: Vec<Injection>) -> Permit {
    let gate = gate(inject);
    let family = known(&gate, FamilyId([7; 16]), 42, TOKEN.to_owned());
    Permit::new(Arc::new(gate), Arc::new(family))
}

/// A gate for the first resource.
fn gate(inject: Vec<Injection>) -> Gate {
    let world = world();
    let gated = vec![Gated { resource: world.resources[0].clone(), inject }];
    let (keys, clock) = (world.keys.clone(), world.clock.clone());
    let families = (world.families.clone(), Arc::default());
    Gate::new(keys, clock, families, world.credentials.clone(), gated, world.limits.clone())
}

/// What the gate has of a family after a look at the store.
fn known(gate: &Gate, id: FamilyId, person: u64, token: String) -> LiveFamily {
    let (now, resource) = (world().clock.now(), gate.resource(0));
    let identity = Identity { id: person, login: "octocat".to_owned(), email: None, token: token.into() };
    let credential = Credential { identity, expires: None, checked: now, version: 1, wants_email: false };
    let family = Family {
        person,
        credential: format!("credential/{person}/read:user"),
        client_id: "c".to_owned(),
        client_name: "C".to_owned(),
        resource: resource.url().to_owned(),
        scopes: resource.scopes().clone(),
        created: now,
        stage: Stage::Live { generation: 1, rotated: now },
    };
    gate.live_family(id, &family, 0, &credential, now)
}

/// The GitHub token of the permit.
pub(crate) const TOKEN: &str = "gho_CANARY";
