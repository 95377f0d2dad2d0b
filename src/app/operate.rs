//! What operators do with a store, beside the proxies that run on it: nothing here serves, and nothing needs them to
//! stop.

mod copy;
mod health;
mod rows;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;

pub use copy::{Copied, copy};
pub use health::{Health, health};
pub use rows::{Grant, Person};

use super::side::Side;
use super::{StartError, compose, install_crypto, keys, lasting, stores};
use crate::clock::{Clock, Time};
use crate::config::{Config, StoreConfig};
use crate::github::admission::Admission;
use crate::github::credential::Credentials;
use crate::protocol::family::{Family, Stage};
use crate::protocol::token::FamilyId;
use crate::seal::{KeyRing, MasterKey};
use crate::store::authentic::Authentic;
use crate::store::families::Families;
use crate::store::people::{CredentialRecord, People};
use crate::store::sqlite::Sqlite;
use crate::store::{Page, PrepareError, Record, Records, Shared, StoreError};
use crate::telemetry::Telemetry;
use crate::telemetry::audit::{Destination, Event};
use crate::tls::Authorities;

/// Somebody at the command line, with the store that a configuration names.
pub struct Operator {
    side: Side,
    clock: Clock,
    records: Arc<Authentic<KeyRing>>,
    families: Families,
    people: People,
    credentials: Credentials,
    trail: Option<Destination>,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// What was asked makes no sense.
    #[error("{0}")]
    Arguments(String),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Refused(String),
}

impl OperateError {
    /// Says which store is in trouble.
    pub fn at(self, store: &str) -> Self {
        match self {
            OperateError::Store(error) => OperateError::Refused(format!("{store}: {error}")),
            other => other,
        }
    }
}

impl From<PrepareError> for OperateError {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Unfit(unfit) => StartError::from(unfit).into(),
            PrepareError::Trouble(error) => error.into(),
        }
    }
}

/// Which grants.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// By their short names; none are all.
    pub grants: Vec<String>,
    /// Login or numeric id.
    pub person: Option<String>,
    /// Name or id.
    pub client: Option<String>,
    /// Granted before that.
    pub before: Option<Time>,
}

/// What a revocation came to.
#[derive(Debug)]
pub struct Revoked {
    pub grants: usize,
    /// People whose tokens GitHub did not delete, by login.
    pub left_at_github: Vec<String>,
    /// What kept it from going on.
    pub trouble: Option<StoreError>,
}

impl Operator {
    /// Opens the store of a configuration. Blocks, as everything here.
    pub fn open(config: Config, clock: Clock) -> Result<Self, OperateError> {
        install_crypto();
        let side = Side::start().map_err(StartError::Runtime)?;
        let (Place { records: raw, .. }, ring) = reach(&config, &clock, &side)?;
        if !side.block_on(is_known(&*raw, &ring))? {
            return Err(StartError::Keys(keys::STRANGERS.to_owned()).into());
        }
        let records = Arc::new(Authentic::new(raw, ring.clone()));
        let families = Families::new(records.clone(), clock.clone(), config.lifetimes);
        let people = People::new(records.clone(), clock.clone(), config.lifetimes.refresh_max);
        let telemetry = Telemetry::silent(clock.clone());
        let tuning = super::Tuning::default();
        let github = compose::github(&config, &clock, &tuning, &telemetry).map_err(StartError::Http)?;
        let github = Arc::new(github);
        let admission =
            Arc::new(Admission::new(compose::allow_list(&config.allow), github.clone(), people.clone()));
        let (kept, judging) = ((people.clone(), families.clone()), (admission, side.handle().clone()));
        let credentials = Credentials::new(github, kept, ring, clock.clone(), judging, Arc::default());
        // A table on standard output is no place for a trail.
        let trail = config.audit.filter(|destination| *destination != Destination::Stdout);
        Ok(Operator { side, clock, records, families, people, credentials, trail })
    }

    /// Whether what was listed is not all: other logins are kept under keys that are not configured.
    pub fn is_partial(&self) -> bool {
        self.records.has_passed_over()
    }

    /// Everybody whose credential is kept, by login.
    pub fn people(&self) -> Result<Vec<Person>, OperateError> {
        let mut people: BTreeMap<u64, Person> = BTreeMap::new();
        for (id, (login, checked)) in self.logins()? {
            people.insert(id, Person { id, login, grants: 0, last_active: None, checked });
        }
        self.each_family(|_, family| {
            if let (Some(person), Stage::Live { rotated, .. }) =
                (people.get_mut(&family.person), &family.stage)
            {
                person.grants += 1;
                person.last_active = person.last_active.max(Some(*rotated));
            }
        })?;
        let mut people: Vec<Person> = people.into_values().collect();
        people.sort_by_key(|person| person.login.to_ascii_lowercase());
        Ok(people)
    }

    /// The chosen grants, oldest first. One that is named and not there is a mistake.
    pub fn grants(&self, chosen: &Chosen) -> Result<Vec<Grant>, OperateError> {
        let logins = self.logins()?;
        let person = chosen.person.as_deref().map(|person| whose(person, &logins)).transpose()?;
        let (mut found, mut is_known) = (Vec::new(), chosen.client.is_none());
        let lifetimes = *self.families.lifetimes();
        self.each_family(|id, family| {
            let named = chosen.grants.is_empty() || chosen.grants.contains(&id.short());
            let of_person = person.is_none_or(|person| person == family.person);
            let of_client = chosen.client.as_ref().is_none_or(|client| {
                *client == family.client_id || client.eq_ignore_ascii_case(&family.client_name)
            });
            is_known |= of_client;
            let early = chosen.before.is_none_or(|before| family.created < before);
            if named && of_person && of_client && early {
                found.push(Grant {
                    grant: id.short(),
                    person: family.person,
                    login: logins.get(&family.person).map(|(login, _)| login.clone()),
                    client: family.client_name.clone(),
                    client_id: family.client_id.clone(),
                    resource: family.resource.clone(),
                    scopes: family.scopes.to_string(),
                    granted: family.created,
                    refreshed: match family.stage {
                        Stage::Live { rotated, .. } => Some(rotated),
                        Stage::CodePending { .. } => None,
                    },
                    ends: family.ends(&lifetimes),
                    id,
                    family,
                });
            }
        })?;
        if let Some(missing) =
            chosen.grants.iter().find(|name| !found.iter().any(|grant| grant.grant == **name))
        {
            return Err(OperateError::Refused(format!("there is no grant {missing}; nothing was done")));
        }
        if !is_known {
            let client = chosen.client.as_deref().unwrap_or_default();
            let told = format!("no client called {client} has a grant; `grants list` shows who has");
            return Err(OperateError::Refused(told));
        }
        found.sort_by(|one, other| (one.granted, &one.grant).cmp(&(other.granted, &other.grant)));
        Ok(found)
    }

    /// Ends these grants, and GitHub's tokens of people who have none left. What was done stays done, whatever comes
    /// in between.
    pub fn revoke(&self, grants: &[Grant]) -> Result<Revoked, OperateError> {
        let trail = self.trail()?;
        let mut revoked = Revoked { grants: 0, left_at_github: Vec::new(), trouble: None };
        self.side.block_on(async {
            for grant in grants {
                if let Err(error) = self.families.revoke(&grant.id).await {
                    revoked.trouble = Some(error);
                    break;
                }
                trail.audit(&Event::of("revoke", &grant.id, &grant.family).with("operator"));
                revoked.grants += 1;
            }
            let (done, mut seen) = (&grants[..revoked.grants], HashSet::new());
            for Grant { family, login, .. } in
                done.iter().filter(|grant| seen.insert(&grant.family.credential))
            {
                match self.credentials.discard_if_unused(family).await {
                    Ok(None) => {}
                    Ok(Some(telling)) => {
                        if !telling.await.unwrap_or(false) {
                            let name = login.clone().unwrap_or_else(|| family.person.to_string());
                            revoked.left_at_github.push(name);
                        }
                    }
                    Err(error) => revoked.trouble = Some(error),
                }
            }
        });
        Ok(revoked)
    }

    fn trail(&self) -> Result<Telemetry, OperateError> {
        let trail = lasting::trail(self.trail.clone())?;
        Ok(Telemetry::new(Arc::default(), trail, None, self.clock.clone()))
    }

    /// Everybody's login, of when GitHub was last asked: a person with several credentials has several records.
    fn logins(&self) -> Result<HashMap<u64, (String, Time)>, StoreError> {
        self.side.block_on(async {
            let (mut logins, mut after) = (HashMap::<u64, (String, Time)>::new(), None);
            loop {
                let (records, next) = self.people.page(after.as_deref()).await?;
                for CredentialRecord { person, login, checked, .. } in records {
                    let known = logins.entry(person).or_insert_with(|| (login.clone(), checked));
                    if checked >= known.1 {
                        *known = (login, checked);
                    }
                }
                match next {
                    Some(next) => after = Some(next),
                    None => return Ok(logins),
                }
            }
        })
    }

    /// Every family once, though a page may tell of one twice.
    fn each_family(&self, mut work: impl FnMut(FamilyId, Family)) -> Result<(), StoreError> {
        self.side.block_on(async {
            let (mut seen, mut after) = (HashSet::new(), None);
            loop {
                let (families, next) = self.families.page(after.as_deref()).await?;
                let now = self.clock.now();
                let live =
                    families.into_iter().filter(|(_, family)| now < family.ends(self.families.lifetimes()));
                live.filter(|(id, _)| seen.insert(*id)).for_each(|(id, family)| work(id, family));
                match next {
                    Some(next) => after = Some(next),
                    None => return Ok(()),
                }
            }
        })
    }
}

/// A person by login or id. A login can be two people's: GitHub frees it when its owner is renamed, and a login may be
/// a number.
fn whose(person: &str, logins: &HashMap<u64, (String, Time)>) -> Result<u64, OperateError> {
    if let Some(id) = person.strip_prefix("id:").and_then(|id| id.parse().ok()) {
        return Ok(id);
    }
    let is_meant = |(id, (login, _)): &(&u64, &(String, Time))| {
        login.eq_ignore_ascii_case(person) || id.to_string() == person
    };
    let mut meant: Vec<u64> = logins.iter().filter(is_meant).map(|(id, _)| *id).collect();
    meant.sort_unstable();
    match meant.as_slice() {
        [] => Err(OperateError::Refused(format!(
            "nobody called {person} has logged in; `people list` shows who has"
        ))),
        [one] => Ok(*one),
        several => {
            let named: Vec<String> = several.iter().map(|id| format!("id:{id}")).collect();
            Err(OperateError::Refused(format!("{person} may mean {}; say which", named.join(" or "))))
        }
    }
}

/// The store of a configuration, which must be there, and its keys.
fn reach(config: &Config, clock: &Clock, side: &Side) -> Result<(Place, Arc<KeyRing>), OperateError> {
    match &config.store {
        StoreConfig::Memory => {
            return Err(OperateError::Refused(
                "store: memory: is in the process that serves; nobody else can look into it".to_owned(),
            ));
        }
        // Opening would make an empty one.
        StoreConfig::Sqlite(path) if !path.exists() => {
            return Err(OperateError::Refused(no_store(path)));
        }
        _ => {}
    }
    let ring = Arc::new(keys::key_ring(config, clock)?);
    let place = place(&config.store, &config.authorities, config.store_connections, clock, side)?;
    Ok((place, ring))
}

/// With the whole path: a relative one counts from wherever somebody is.
fn no_store(path: &Path) -> String {
    let whole = std::path::absolute(path);
    format!("there is no store at {}", whole.as_deref().unwrap_or(path).display())
}

/// A store to look into.
struct Place {
    records: Arc<dyn Records>,
    /// The same, where several processes may share it.
    shared: Option<Arc<dyn Shared>>,
}

/// Opens a store; nothing is made in it.
fn place(
    store: &StoreConfig,
    authorities: &Authorities,
    connections: usize,
    clock: &Clock,
    side: &Side,
) -> Result<Place, OperateError> {
    if let StoreConfig::Sqlite(path) = store {
        let records = Arc::new(Sqlite::open(path, clock.clone()).map_err(StartError::Store)?);
        return Ok(Place { records, shared: None });
    }
    let shared = stores::client_of(store, authorities, connections, clock, side.handle())?;
    let shared = shared.ok_or_else(|| {
        OperateError::Refused("memory: is in the process that serves; nobody else can open it".to_owned())
    })?;
    Ok(Place { records: shared.clone(), shared: Some(shared) })
}

async fn is_known(records: &dyn Records, keys: &KeyRing) -> Result<bool, StoreError> {
    let known = records.owned_by(keys::OWNER).await?;
    Ok(keys::is_one_of(&known, &keys.names()))
}

fn each(
    side: &Side,
    records: &dyn Records,
    mut work: impl FnMut(String, Record) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let Page { records, next } = side.block_on(records.page(after.as_deref()))?;
        for (key, record) in records {
            work(key, record)?;
        }
        match next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// 32 random bytes, as `keys:` takes them.
pub fn new_key(clock: &Clock) -> String {
    let key = MasterKey::new(Box::new(clock.random()));
    STANDARD.encode(key.expose_secret())
}
