//! What is listed, as tables and JSON show it.

use serde::{Serialize, Serializer};

use crate::clock::Time;
use crate::protocol::family::Family;
use crate::protocol::token::FamilyId;

/// Somebody whose credential is kept.
#[derive(Debug, Serialize)]
pub struct Person {
    pub id: u64,
    /// Of when GitHub was last asked.
    pub login: String,
    pub grants: usize,
    #[serde(serialize_with = "moment_if_any")]
    pub last_active: Option<Time>,
    /// When GitHub last confirmed the credential.
    #[serde(serialize_with = "moment")]
    pub checked: Time,
}

/// One grant.
#[derive(Debug, Serialize)]
pub struct Grant {
    /// Its short name.
    pub grant: String,
    pub person: u64,
    pub login: Option<String>,
    pub client: String,
    pub client_id: String,
    pub resource: String,
    pub scopes: String,
    #[serde(serialize_with = "moment")]
    pub granted: Time,
    /// When its tokens were last renewed; `None` while its code has not been redeemed.
    #[serde(serialize_with = "moment_if_any")]
    pub refreshed: Option<Time>,
    #[serde(serialize_with = "moment")]
    pub ends: Time,
    #[serde(skip)]
    pub(super) id: FamilyId,
    #[serde(skip)]
    pub(super) family: Family,
}

fn moment<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339())
}

fn moment_if_any<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => moment(time, serializer),
        None => serializer.serialize_none(),
    }
}
