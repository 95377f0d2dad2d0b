//! People in great number with their logins, put into a store as a proxy would have left them: a hundred thousand
//! logins through the flow would take ten minutes for each store and leave the same behind.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::protocol::family::{Family, Lifetimes, Stage};
use mcp_auth_proxy::protocol::scope::ScopeSet;
use mcp_auth_proxy::protocol::token::{Access, Claims, Refresh};
use mcp_auth_proxy::seal::{KeyRing, Sealable, parse_key};
use mcp_auth_proxy::store::Records;
use mcp_auth_proxy::store::authentic::Authentic;
use mcp_auth_proxy::store::families::Families;
use mcp_auth_proxy::store::people::{CredentialRecord, People};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::proxy::PUBLIC;
use super::stores::KEY;

/// Who writes them.
#[derive(Clone)]
pub struct Crowd {
    families: Families,
    people: People,
    keys: Arc<KeyRing>,
    clock: Clock,
    client_id: String,
}

/// What a client holds of one of them.
#[derive(Clone, Debug)]
pub struct Login {
    pub access: String,
    pub refresh: String,
}

/// What `github/credential/pair.rs` seals into the record of a credential.
#[derive(Serialize, Deserialize)]
struct Pair {
    access: String,
    refresh: Option<String>,
    replaced: Vec<String>,
}

impl Sealable for Pair {
    const KIND: &'static str = "github credential";
}

impl Crowd {
    /// A crowd of this client in a store, under the keys of [`super::stores::Store::setup`].
    pub fn of(records: Arc<dyn Records>, clock: Clock, client_id: String) -> Self {
        let keys = Arc::new(KeyRing::new(&[parse_key(KEY).expect("a key")]).expect("one key"));
        let records: Arc<dyn Records> = Arc::new(Authentic::new(records, keys.clone()));
        let families = Families::new(records.clone(), clock.clone(), LIFETIMES);
        let people = People::new(records, clock.clone(), LIFETIMES.refresh_max);
        Crowd { families, people, keys, clock, client_id }
    }

    /// One credential for each of these people, just confirmed; `token` is what GitHub has given out.
    pub async fn credentials(&self, people: Range<u64>, token: impl Fn(u64) -> String) {
        let tokens = people.map(|person| (person, token(person)));
        self.each(tokens, |crowd, (person, token)| async move { crowd.credential(person, token).await })
            .await;
    }

    /// One login for each of these people.
    pub async fn families(&self, people: Range<u64>) -> Vec<Login> {
        self.each(people, |crowd, person| async move { crowd.family(person).await }).await
    }

    async fn credential(&self, person: u64, access: String) {
        let key = People::credential_key(person, GITHUB_SCOPES);
        let pair = Pair { access, refresh: None, replaced: Vec::new() };
        let record = CredentialRecord {
            person,
            login: format!("person-{person}"),
            email: None,
            sealed: self.keys.seal(&self.clock, key.as_bytes(), &pair),
            expires: None,
            checked: self.clock.now(),
        };
        assert!(self.people.put_credential(&key, None, &record).await.expect("written"), "they are new");
    }

    async fn family(&self, person: u64) -> Login {
        let now = self.clock.now();
        let family = Family {
            person,
            credential: People::credential_key(person, GITHUB_SCOPES),
            client_id: self.client_id.clone(),
            client_name: "Test Client".to_owned(),
            resource: format!("{PUBLIC}/mcp"),
            scopes: ScopeSet::parse("mcp"),
            created: now,
            stage: Stage::Live { generation: 1, rotated: now },
        };
        let id = self.families.create(&family).await.expect("written");
        let access = Claims { family: id, generation: 1, expires: now.after(LIFETIMES.access), scopes: 1 };
        let refresh = Claims { expires: now.after(LIFETIMES.refresh_idle), ..access };
        Login { access: access.issue::<Access>(&*self.keys), refresh: refresh.issue::<Refresh>(&*self.keys) }
    }

    /// Does something for each, many at a time: a store that writes one after the other would take its time.
    async fn each<W, T, F>(&self, whom: impl Iterator<Item = W>, what: impl Fn(Crowd, W) -> F) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (mut under_way, mut done) = (JoinSet::new(), Vec::new());
        for one in whom {
            if under_way.len() == AT_A_TIME {
                done.extend(under_way.join_next().await.map(|outcome| outcome.expect("it ends")));
            }
            under_way.spawn(what(self.clone(), one));
        }
        done.extend(under_way.join_all().await);
        done
    }
}

const GITHUB_SCOPES: &str = "read:user";
const AT_A_TIME: usize = 256;
/// Those that a proxy has by default.
const LIFETIMES: Lifetimes = Lifetimes {
    access: Duration::from_secs(8 * 3_600),
    refresh_idle: Duration::from_secs(30 * 86_400),
    refresh_max: Duration::from_secs(180 * 86_400),
    refresh_grace: Duration::from_secs(60),
};
