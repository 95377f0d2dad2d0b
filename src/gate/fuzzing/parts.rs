//! A gate that knows many people, to be asked over and over.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{gate, known};
use crate::clock::Time;
use crate::fuzzing::{parts, world};
use crate::gate::{Denial, Gate, Permit};
use crate::protocol::fields::Fields;
use crate::protocol::injection::Injection;
use crate::protocol::token::{Access, Claims, FamilyId, Verified};

/// People whose families the gate has in its cache, and their tokens.
pub struct Crowd {
    gate: Arc<Gate>,
    tokens: Vec<String>,
}

impl Crowd {
    pub fn new(people: u64) -> Self {
        let inject = Injection::parse("Authorization", "Bearer {github_token}").expect("valid");
        let gate = Arc::new(gate(vec![inject]));
        let tokens = (0..people).map(|person| {
            let id = FamilyId(world().clock.random());
            gate.live.keep(None, known(&gate, id, person, format!("gho_{person:036}")));
            token(id, world().clock.now().after(LIFETIME))
        });
        Crowd { tokens: tokens.collect(), gate: gate.clone() }
    }

    /// A call by each, by one after the other, without end.
    pub fn calls(&self) -> impl Iterator<Item = Fields> {
        self.tokens.iter().cycle().map(|token| parts::call(Some(token)))
    }

    /// A call with a token that nobody issued: its MAC is another one.
    pub fn forged(&self) -> Fields {
        let mut token = self.tokens[0].clone();
        let other = if token[20..].starts_with('A') { "B" } else { "A" };
        token.replace_range(20..21, other);
        parts::call(Some(&token))
    }

    /// A call with a token of ours that has just ended.
    pub fn expired(&self) -> Fields {
        parts::call(Some(&token(FamilyId([7; 16]), world().clock.now())))
    }

    /// One of the tokens.
    pub fn token(&self) -> &str {
        &self.tokens[0]
    }

    /// What the gate says, which needs nobody else for it.
    pub fn judged(&self, fields: &Fields) -> Result<Permit, Denial> {
        let judging = pin!(self.gate.permit(0, fields));
        match judging.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(judgement) => judgement,
            Poll::Pending => unreachable!("the family is in the cache"),
        }
    }
}

/// The arithmetic alone.
pub fn verified(token: &str) -> Option<Verified<Access>> {
    Verified::parse(&*world().keys, token)
}

fn token(family: FamilyId, expires: Time) -> String {
    Claims { family, generation: 1, expires, scopes: 1 }.issue::<Access>(&*world().keys)
}

const LIFETIME: Duration = Duration::from_secs(3600);
