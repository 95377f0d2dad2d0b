//! Properties of the Authorization header, and permits for the properties of the way up.

use std::sync::Arc;

use http::{HeaderMap, header};

use super::{Bearer, Gate, Gated, Permit, bearer};
use crate::fuzzing::{never_issued, world};
use crate::github::credential::Credential;
use crate::protocol::family::{Family, Stage};
use crate::protocol::injection::{Identity, Injection};
use crate::protocol::token::FamilyId;

/// One header with the scheme is a credential, and the credential is a part of it.
pub(crate) fn head(headers: &HeaderMap) {
    let values: Vec<_> = headers.get_all(header::AUTHORIZATION).iter().collect();
    match bearer(headers) {
        Bearer::Absent => assert!(values.iter().all(|value| {
            let text = value.to_str().expect("other values are wrong, not absent").to_ascii_lowercase();
            text != "bearer" && !text.starts_with("bearer ")
        })),
        Bearer::Malformed => assert!(values.len() > 1),
        Bearer::Token(token) => {
            assert_eq!(values.len(), 1);
            assert_eq!(token, token.trim_matches(' '));
            if !token.is_empty() {
                let text = values[0].to_str().expect("text");
                assert!(text.trim_end_matches(' ').ends_with(token));
                assert!(text[..6].eq_ignore_ascii_case("bearer"));
            }
            never_issued(token);
        }
    }
}

/// A permit for somebody without an e-mail address, as the gate would make it after a look at the store.
pub(crate) fn permit(inject: Vec<Injection>) -> Permit {
    let world = world();
    let (now, resource) = (world.clock.now(), world.resources[0].clone());
    let token = TOKEN.to_owned().into();
    let identity = Identity { id: 42, login: "octocat".to_owned(), email: None, token };
    let credential = Credential { identity, expires: None, checked: now, version: 1, wants_email: false };
    let family = Family {
        person: 42,
        credential: "credential/42/read:user".to_owned(),
        client_id: "c".to_owned(),
        client_name: "C".to_owned(),
        resource: resource.url().to_owned(),
        scopes: resource.scopes().clone(),
        created: now,
        stage: Stage::Live { generation: 1, rotated: now },
    };
    let gated = vec![Gated { resource, inject }];
    let (keys, clock) = (world.keys.clone(), world.clock.clone());
    let gate = Gate::new(
        keys,
        clock,
        (world.families.clone(), Arc::default()),
        world.credentials.clone(),
        gated,
        world.limits.clone(),
    );
    let family = gate.live_family(FamilyId([7; 16]), &family, 0, &credential, now);
    Permit::new(Arc::new(gate), Arc::new(family))
}

/// The GitHub token of the permit.
pub(crate) const TOKEN: &str = "gho_CANARY";
