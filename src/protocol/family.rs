//! A family: one authorization, one record. Who, which client, which resource, which scopes, which generation.
//!
//! The transitions are pure; `store/families.rs` makes each of them one compare-and-swap.
//! RFC 6749 §4.1.2, §6; RFC 9700 §4.14.2; RFC 6819 §5.2.2.3.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pkce::CodeChallenge;
use super::redirect::RedirectUri;
use super::scope::ScopeSet;
use crate::clock::Time;

/// One authorization of one client by one person for one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// Numeric GitHub id.
    pub person: u64,
    /// Key of the record that holds the person's GitHub credential.
    pub credential: String,
    /// The client it was given to.
    pub client_id: String,
    /// What the client called itself, for lists and logs.
    pub client_name: String,
    /// Canonical URL of the resource: the audience.
    pub resource: String,
    /// What was granted.
    pub scopes: ScopeSet,
    /// When the person approved.
    pub created: Time,
    /// Where it stands.
    pub stage: Stage,
}

/// Where a family stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Stage {
    /// The code is on its way to the client.
    CodePending {
        /// What the client must prove.
        challenge: CodeChallenge,
        /// Where the code was sent.
        redirect_uri: RedirectUri,
        /// When the code stops being good.
        expires: Time,
        /// Wrong verifiers so far.
        attempts: u8,
    },
    /// The code was redeemed.
    Live {
        /// 1 for the pair a code bought, one more at every rotation.
        generation: u32,
        /// When the current pair was issued; with the generation it determines the pair.
        rotated: Time,
    },
}

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// An access token.
    pub access: Duration,
    /// A refresh token that nobody uses.
    pub refresh_idle: Duration,
    /// A family, however much it is used.
    pub refresh_max: Duration,
    /// How long the predecessor of a refresh token still yields the same successor.
    pub refresh_grace: Duration,
}

/// What presenting a refresh token of some generation means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It is the current one: this is the family after it was used.
    Next(Box<Family>),
    /// It was used a moment ago (a lost answer, several processes): the same successor again.
    SameSuccessor,
    /// RFC 9700 §4.14.2: it was used before; the family must die.
    Reused,
    /// The family has outlived a limit, or its code was never redeemed.
    Expired,
}

impl Family {
    /// The family after its code was redeemed.
    pub fn redeemed(&self, now: Time) -> Self {
        Family { stage: Stage::Live { generation: 1, rotated: now }, ..self.clone() }
    }

    /// The family after one more wrong verifier; `None` when the code has had its chances.
    pub fn guessed(&self) -> Option<Self> {
        let Stage::CodePending { challenge, redirect_uri, expires, attempts } = self.stage.clone() else {
            return None;
        };
        let attempts = attempts + 1;
        let stage = Stage::CodePending { challenge, redirect_uri, expires, attempts };
        (attempts < MAX_ATTEMPTS).then(|| Family { stage, ..self.clone() })
    }

    /// What presenting the refresh token of `generation` means now.
    pub fn rotation(&self, generation: u32, now: Time, lifetimes: &Lifetimes) -> Rotation {
        let Stage::Live { generation: current, rotated } = self.stage else {
            return Rotation::Expired;
        };
        if now >= self.ends(lifetimes) {
            return Rotation::Expired;
        }
        let successor = generation.checked_add(1);
        // Only we issue tokens: one from beyond what we know was issued by a store that lost writes since, at a
        // fail-over or by a restored backup. Its holder did nothing wrong.
        if let Some(next) = successor.filter(|_| generation >= current) {
            let stage = Stage::Live { generation: next, rotated: now };
            Rotation::Next(Box::new(Family { stage, ..self.clone() }))
        } else if successor == Some(current) && now.age_of(rotated) <= lifetimes.refresh_grace {
            Rotation::SameSuccessor
        } else {
            Rotation::Reused
        }
    }

    /// When nothing of this family is good any more: the idle limit of its refresh token, or its absolute end.
    pub fn ends(&self, lifetimes: &Lifetimes) -> Time {
        match self.stage {
            Stage::CodePending { expires, .. } => expires,
            Stage::Live { rotated, .. } => self.refresh_expires(rotated, lifetimes),
        }
    }

    /// When a refresh token issued at `rotated` stops being good.
    pub fn refresh_expires(&self, rotated: Time, lifetimes: &Lifetimes) -> Time {
        rotated.after(lifetimes.refresh_idle).min(self.created.after(lifetimes.refresh_max))
    }
}

/// Wrong verifiers before a code is dead; a client that computes its verifier needs one.
const MAX_ATTEMPTS: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes = Lifetimes {
        access: Duration::from_secs(8 * 3600),
        refresh_idle: Duration::from_secs(30 * 86_400),
        refresh_max: Duration::from_secs(180 * 86_400),
        refresh_grace: Duration::from_secs(60),
    };

    fn live(generation: u32, rotated: u64) -> Family {
        Family {
            person: 1,
            credential: "credential/1/read:user".into(),
            client_id: "c".into(),
            client_name: "C".into(),
            resource: "https://p.test/mcp".into(),
            scopes: ScopeSet::parse("mcp"),
            created: Time::from_seconds(1_000),
            stage: Stage::Live { generation, rotated: Time::from_seconds(rotated) },
        }
    }

    #[test]
    fn the_current_refresh_token_moves_the_family_on() {
        let now = Time::from_seconds(2_000);
        let Rotation::Next(next) = live(3, 1_500).rotation(3, now, &LIFETIMES) else { panic!("not current") };
        assert_eq!(next.stage, Stage::Live { generation: 4, rotated: now });
    }

    #[test]
    fn the_predecessor_is_forgiven_inside_the_grace_window_only() {
        let family = live(4, 2_000);
        assert_eq!(family.rotation(3, Time::from_seconds(2_060), &LIFETIMES), Rotation::SameSuccessor);
        assert_eq!(family.rotation(3, Time::from_seconds(2_061), &LIFETIMES), Rotation::Reused);
    }

    #[test]
    fn older_generations_and_impossible_ones_are_reuse() {
        let family = live(4, 2_000);
        for generation in [0, 1, 2, u32::MAX] {
            assert_eq!(family.rotation(generation, Time::from_seconds(2_001), &LIFETIMES), Rotation::Reused);
        }
    }

    // ST-10
    #[test]
    fn a_generation_that_the_store_has_forgotten_moves_the_family_on_from_there() {
        let now = Time::from_seconds(2_001);
        let Rotation::Next(next) = live(4, 2_000).rotation(7, now, &LIFETIMES) else { panic!("not taken") };
        assert_eq!(next.stage, Stage::Live { generation: 8, rotated: now });
        assert_eq!(next.rotation(4, now, &LIFETIMES), Rotation::Reused, "what was current is used up");
    }

    #[test]
    fn idle_and_absolute_limits_end_a_family() {
        let idle = Time::from_seconds(2_000).after(LIFETIMES.refresh_idle);
        assert_eq!(live(1, 2_000).rotation(1, idle, &LIFETIMES), Rotation::Expired);
        let end = Time::from_seconds(1_000).after(LIFETIMES.refresh_max);
        assert_eq!(live(9, end.seconds() - 10).rotation(9, end, &LIFETIMES), Rotation::Expired);
    }

    #[test]
    fn a_code_dies_of_wrong_verifiers() {
        let pending = Stage::CodePending {
            challenge: CodeChallenge::of("x"),
            redirect_uri: RedirectUri::parse("http://127.0.0.1/").expect("valid"),
            expires: Time::from_seconds(1_060),
            attempts: 0,
        };
        let mut family = Family { stage: pending, ..live(1, 1_000) };
        let survived = std::iter::from_fn(|| {
            family = family.guessed()?;
            Some(())
        });
        assert_eq!(survived.count(), 4);
    }
}
