//! What must hold for every input, however odd: one property per kind of input.
//!
//! `fuzz/` looks for inputs that break one; the test below replays every file of `fuzz/corpus`. Compiled for tests
//! and with the feature `fuzzing` only. Properties of private parts live in the `fuzzing.rs` of their room.
//! [`parts`] are opened the same way, to be measured.

pub mod parts;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use crate::clock::{Clock, ManualClock, Time};
use crate::github::admission::{Admission, AllowList};
use crate::github::credential::Credentials;
use crate::github::{self, GitHub};
use crate::limit::{Limiters, Rates};
use crate::protocol::family::Lifetimes;
use crate::protocol::issuer::Issuer;
use crate::protocol::resource::Resource;
use crate::protocol::scope::ScopeSet;
use crate::protocol::token::{Access, Claims, Code, FamilyId, Kind, Refresh, Verified};
use crate::seal::{KeyRing, MasterKey, Sealable};
use crate::store::families::Families;
use crate::store::memory::Memory;
use crate::store::people::People;
use crate::telemetry::Telemetry;
use crate::tls::Authorities;

pub use crate::config::fuzzing::config;
pub use crate::oauth::fuzzing::clients;
pub use crate::protocol::fuzzing::redirect;
pub use crate::server::fuzzing::request;
pub use crate::upstream::fuzzing::{answer, sse};

/// Panics when an input breaks its property.
pub type Target = fn(&[u8]);

/// Every target; `fuzz/` has a program and a corpus of each name.
pub const TARGETS: [(&str, Target); 9] = [
    ("answer", answer),
    ("clients", clients),
    ("config", config),
    ("forms", forms),
    ("head", head),
    ("redirect", redirect),
    ("request", request),
    ("sealed", sealed),
    ("sse", sse),
];

/// The head of a request and of its answer: `method target`, headers, an empty line, headers of the answer.
pub fn head(data: &[u8]) {
    let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (asked, answered) = data.split_at(end);
    let mut lines = asked.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let space = first.iter().position(|byte| *byte == b' ').unwrap_or(0);
    let (Ok(method), Ok(uri)) =
        (Method::from_bytes(&first[..space]), Uri::try_from(&first[(space + 1).min(first.len())..]))
    else {
        return;
    };
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    *request.headers_mut() = headers(lines);
    crate::server::fuzzing::head(&request);
    crate::gate::fuzzing::head(request.headers());
    crate::oauth::fuzzing::head(request.headers());
    crate::upstream::fuzzing::head(&request, &headers(answered.split(|byte| *byte == b'\n')));
}

fn headers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.take(100) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// A query or a form, as parameters, as scopes and as the parts of Basic credentials.
pub fn forms(data: &[u8]) {
    crate::protocol::fuzzing::params(data);
    crate::protocol::fuzzing::scopes(&String::from_utf8_lossy(data));
    crate::oauth::fuzzing::basic(data);
}

/// What strangers carry for us: 26 bytes of claims, then how to change what was issued.
pub fn sealed(data: &[u8]) {
    let (front, changes) = data.split_at(data.len().min(26));
    let mut claims = [0; 26];
    claims[..front.len()].copy_from_slice(front);
    token::<Access>(&claims, changes);
    token::<Refresh>(&claims, changes);
    token::<Code>(&claims, changes);
    seal(&claims, changes);
    crate::upstream::fuzzing::sessions(data, changes);
    crate::oauth::fuzzing::client_ids(&claims, changes);
}

/// A token is good only as it was issued, and only as its own kind.
fn token<K: Kind>(bytes: &[u8; 26], changes: &[u8]) {
    let keys = &*world().keys;
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut family = [0; 16];
    family.copy_from_slice(&bytes[..16]);
    let claims = Claims {
        family: FamilyId(family),
        generation: word(16),
        expires: Time::from_seconds(word(20).into()),
        scopes: u16::from_be_bytes([bytes[24], bytes[25]]),
    };
    let issued = claims.issue::<K>(keys);
    let read = Verified::<K>::parse(keys, &issued).expect("what was issued is good");
    assert_eq!(read.claims, claims);
    let changed = change(&issued, changes);
    assert_eq!(Verified::<K>::parse(keys, &changed).is_some(), changed == issued, "{changed}");
    let (_, encoded) = issued.split_once('_').expect("a prefix");
    let posing = [Access::PREFIX, Refresh::PREFIX, Code::PREFIX].map(|prefix| format!("{prefix}{encoded}"));
    assert_eq!(Verified::<Access>::parse(keys, &posing[0]).is_some(), K::NAME == Access::NAME);
    assert_eq!(Verified::<Refresh>::parse(keys, &posing[1]).is_some(), K::NAME == Refresh::NAME);
    assert_eq!(Verified::<Code>::parse(keys, &posing[2]).is_some(), K::NAME == Code::NAME);
    never_issued(&String::from_utf8_lossy(changes));
}

/// A text from outside that is a good token is exactly one that we would issue.
pub(crate) fn never_issued(text: &str) {
    let keys = &*world().keys;
    if let Some(token) = Verified::<Access>::parse(keys, text) {
        assert_eq!(token.claims.issue::<Access>(keys), text);
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Carried(Vec<u8>);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Other(Vec<u8>);

impl Sealable for Carried {
    const KIND: &'static str = "fuzzing";
}
impl Sealable for Other {
    const KIND: &'static str = "fuzzing too";
}

fn seal(value: &[u8], changes: &[u8]) {
    let (keys, value) = (&world().keys, Carried(value.to_vec()));
    let sealed = keys.seal(&world().clock, changes, &value);
    assert_eq!(keys.open::<Carried>(changes, &sealed).as_ref(), Some(&value));
    assert_eq!(keys.open::<Other>(changes, &sealed), None);
    assert_eq!(keys.open::<Carried>(&[changes, b"x"].concat(), &sealed), None);
    let changed = change(&sealed, changes);
    assert_eq!(keys.open::<Carried>(changes, &changed).is_some(), changed == sealed);
    assert_eq!(keys.open::<Carried>(b"", &String::from_utf8_lossy(changes)), None);
}

/// The text with some characters replaced, put in, taken out or cut off, as the bytes say.
pub(crate) fn change(text: &str, changes: &[u8]) -> String {
    let mut changed: Vec<char> = text.chars().collect();
    for how in changes.chunks_exact(3).take(16) {
        let (at, new) = (usize::from(how[0]) % changed.len().max(1), char::from(how[2]));
        match how[1] % 4 {
            _ if changed.is_empty() => {}
            0 => changed[at] = new,
            1 => changed.insert(at, new),
            2 => drop(changed.remove(at)),
            _ => changed.truncate(at),
        }
    }
    changed.into_iter().collect()
}

/// Everything the properties need that is built once.
pub(crate) struct World {
    pub keys: Arc<KeyRing>,
    pub clock: Clock,
    pub issuer: Issuer,
    /// `/mcp` and `/team/other`.
    pub resources: Vec<Resource>,
    pub families: Families,
    pub people: People,
    pub github: Arc<GitHub>,
    pub admission: Arc<Admission>,
    pub credentials: Credentials,
    pub limits: Arc<Limiters>,
    pub runtime: Runtime,
}

pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(build)
}

fn build() -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let clock = ManualClock::new(1).clock();
    let keys = KeyRing::new(&[MasterKey::new(Box::new([7; 32])), MasterKey::new(Box::new([8; 32]))]);
    let keys = Arc::new(keys.expect("keys"));
    let issuer = Issuer::parse("https://p.test").expect("an issuer");
    let resource = |path| Resource::new(&issuer, path, ScopeSet::parse("mcp")).expect("a path");
    let resources = vec![resource("/mcp"), resource("/team/other")];
    let day = Duration::from_secs(86_400);
    let lifetimes = Lifetimes { access: day, refresh_idle: day, refresh_max: day, refresh_grace: day };
    let records = Arc::new(Memory::new(clock.clone()));
    let families = Families::new(records.clone(), clock.clone(), lifetimes);
    let people = People::new(records, clock.clone(), day);
    let github = Arc::new(
        GitHub::new(github_settings(), clock.clone(), Telemetry::silent(clock.clone())).expect("a client"),
    );
    let admission = Arc::new(Admission::new(AllowList::Anyone, github.clone(), people.clone()));
    let kept = (people.clone(), families.clone());
    let judging = (admission.clone(), runtime.handle().clone());
    let credentials =
        Credentials::new(github.clone(), kept, keys.clone(), clock.clone(), judging, Arc::default());
    let limits = Arc::new(Limiters::new(&Rates::default(), &clock));
    World {
        limits,
        keys,
        clock,
        issuer,
        resources,
        families,
        people,
        github,
        admission,
        credentials,
        runtime,
    }
}

fn github_settings() -> github::Settings {
    github::Settings {
        client_id: "id".to_owned(),
        client_secret: "secret".to_owned().into(),
        base_url: "https://github.test".to_owned(),
        api_url: "https://api.github.test".to_owned(),
        callback_url: "https://p.test/github/callback".to_owned(),
        fresh_token_retries: Vec::new(),
        timeout: Duration::from_secs(1),
        authorities: Authorities::default(),
    }
}

/// Polls as long as somebody calls for it; `None` where nobody does any more.
pub(crate) fn drive<F: Future>(future: F) -> Option<F::Output> {
    let _entered = RUNTIME.enter();
    let called = Arc::new(Called::default());
    let waker = Waker::from(called.clone());
    let (mut context, mut future) = (Context::from_waker(&waker), pin!(future));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return Some(output),
            Poll::Pending if called.0.swap(false, Ordering::Relaxed) => {}
            Poll::Pending => return None,
        }
    }
}

/// Does as much as a task may before it is put off.
#[cfg(test)]
pub(crate) fn spend_budget(context: &mut Context<'_>) {
    while tokio::task::coop::has_budget_remaining() {
        if let Poll::Ready(turn) = tokio::task::coop::poll_proceed(context) {
            turn.made_progress();
        }
    }
}

/// Timers are set in it, and never run out: nobody runs it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread().enable_time().build().expect("a runtime that does nothing")
});

#[derive(Default)]
struct Called(AtomicBool);

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests;
