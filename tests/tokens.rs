//! What we issue: not to be guessed, not to be mistaken for another kind, and no faster to refuse for being
//! nearly right.

mod support;

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mcp_auth_proxy::clock::{Clock, ManualClock, Time};
use mcp_auth_proxy::protocol::family::{Family, Lifetimes, Stage};
use mcp_auth_proxy::protocol::scope::ScopeSet;
use mcp_auth_proxy::protocol::token::{Access, Claims, Code, FamilyId, Kind, Refresh, Verified};
use mcp_auth_proxy::seal::{KeyRing, MasterKey};
use mcp_auth_proxy::store::families::Families;
use mcp_auth_proxy::store::memory::Memory;
use serde_json::json;
use support::browser::{flow, onward};
use support::http::form;
use support::proxy::{CALLBACK, PING, PUBLIC, Proxy, Setup, VERIFIER, param};
use support::upstream::{RESULT, json as answer_json};
use tokio::net::TcpStream;
use tokio::time::Instant;

const MANY: usize = 20_000;
/// Ten thousand guesses from one address are stopped long before they are through.
const UNLIMITED: &str = "limits: {bad_bearers: off, bad_secrets: off, bad_grants: off, ended_logins: off}";

fn keys() -> KeyRing {
    KeyRing::new(&[MasterKey::new(Box::new(Clock::system().random()))]).expect("one key")
}

fn decoded(token: &str, prefix: &str) -> Vec<u8> {
    let encoded =
        token.strip_prefix(prefix).unwrap_or_else(|| panic!("{token} does not begin with {prefix}"));
    URL_SAFE_NO_PAD.decode(encoded).expect("base64url")
}

/// Values that nobody can guess from each other: none twice, every bit as often set as not, each half different
/// from the one before, in no order. A clock or a counter in them would show in all of these.
#[track_caller]
fn are_unpredictable(name: &str, values: &[Vec<u8>], at_least: usize) {
    let (count, length) = (values.len(), values[0].len());
    assert!(length * 8 >= at_least, "{name}: {} bits", length * 8);
    assert_eq!(values.iter().collect::<HashSet<_>>().len(), count, "{name} repeats");
    // Six standard deviations: one false alarm in half a billion bits.
    let spread = 6.0 * (count as f64).sqrt() / 2.0;
    let set = |at: usize| values.iter().filter(|value| value[at / 8] >> (at % 8) & 1 == 1).count() as f64;
    let flips = |at: usize| {
        let bit = |value: &Vec<u8>| value[at / 8] >> (at % 8) & 1;
        values.windows(2).filter(|pair| bit(&pair[0]) != bit(&pair[1])).count() as f64
    };
    for at in 0..length * 8 {
        for counted in [set(at), flips(at)] {
            assert!((counted - count as f64 / 2.0).abs() < spread, "{name}, bit {at}: {counted} of {count}");
        }
    }
    let rising = values.windows(2).filter(|pair| pair[0] < pair[1]).count() as f64;
    assert!((rising - count as f64 / 2.0).abs() < spread, "{name} rise: {rising} of {count}");
}

// TK-01: 128 random bits and a MAC of 128. What can be read in a token beside them (key, generation, end, scopes)
// is said by its bearer's own answer too, and is worth nothing without them.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_cannot_be_guessed() {
    let (clock, keys) = (Clock::system(), keys());
    let day = std::time::Duration::from_secs(86_400);
    let lifetimes = Lifetimes { access: day, refresh_idle: day, refresh_max: day, refresh_grace: day };
    let families = Families::new(Arc::new(Memory::new(clock.clone())), clock.clone(), lifetimes);
    let now = clock.now();
    let family = Family {
        person: 1,
        credential: "credential/1/read:user".to_owned(),
        client_id: "client".to_owned(),
        client_name: "Client".to_owned(),
        resource: "https://p.test/mcp".to_owned(),
        scopes: ScopeSet::parse("mcp"),
        created: now,
        stage: Stage::Live { generation: 1, rotated: now },
    };
    let mut issued: [Vec<Vec<u8>>; 3] = Default::default();
    for _ in 0..MANY {
        let id = families.create(&family).await.expect("a family");
        let claims = Claims { family: id, generation: 1, expires: now.after(day).rounded_up(), scopes: 1 };
        let tokens = [
            decoded(&claims.issue::<Code>(&keys), "mapc_"),
            decoded(&claims.issue::<Access>(&keys), "mapa_"),
            decoded(&claims.issue::<Refresh>(&keys), "mapr_"),
        ];
        for (issued, token) in issued.iter_mut().zip(tokens) {
            // Behind the key's id comes the family, in front of the end the MAC.
            issued.push([&token[1..17], &token[27..]].concat());
        }
    }
    for (kind, issued) in ["codes", "access tokens", "refresh tokens"].iter().zip(&issued) {
        are_unpredictable(kind, issued, 256);
    }
    // Of one family, generation after generation, in the same second: the MAC alone is new.
    let id = families.create(&family).await.expect("a family");
    let of_one: Vec<Vec<u8>> = (1..=MANY)
        .map(|generation| {
            let generation = u32::try_from(generation).expect("few");
            let claims = Claims { family: id, generation, expires: now.rounded_up(), scopes: 1 };
            decoded(&claims.issue::<Refresh>(&keys), "mapr_")[27..].to_vec()
        })
        .collect();
    are_unpredictable("generations", &of_one, 128);
}

// TK-01: what a browser carries, and the secrets of clients.
#[tokio::test(flavor = "multi_thread")]
async fn cookies_states_and_secrets_cannot_be_guessed() {
    let proxy = Proxy::start().await;
    let client_id = proxy.register(&[CALLBACK]).await;
    let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
    let mut seen: [Vec<Vec<u8>>; 5] = Default::default();
    for _ in 0..500 {
        let mut browser = proxy.browser();
        let page = browser.get(&url).await.expect(200);
        let approved = browser.decide(&flow(&page), "approve").await.expect(200);
        let state = param(&onward(&approved), "state").expect("a state");
        let metadata =
            json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post"});
        let client = proxy.post_json("/register", &metadata).await.expect(201).json();
        let cookie = |header: &str| decoded(header.split(['=', ';']).nth(1).expect("a value"), "");
        let secret = decoded(client["client_secret"].as_str().expect("a secret"), "maps_");
        let id = decoded(client["client_id"].as_str().expect("an id"), "mcp-client-");
        for (seen, value) in seen.iter_mut().zip([
            cookie(page.header("set-cookie")),
            cookie(approved.header("set-cookie")),
            // A key's id, a nonce, what is sealed, a tag.
            decoded(&flow(&page), "")[1..].to_vec(),
            decoded(&state, "")[1..].to_vec(),
            // What a registration must not come to twice, since its secret is made from it: a salt and a MAC.
            [&secret[1..], &id[id.len() - 32..]].concat(),
        ]) {
            seen.push(value);
        }
    }
    for (name, seen) in ["consent cookies", "login cookies", "forms", "states", "secrets"].iter().zip(&seen) {
        let shortest = seen.iter().map(Vec::len).min().expect("some");
        let seen: Vec<Vec<u8>> = seen.iter().map(|value| value[..shortest].to_vec()).collect();
        are_unpredictable(name, &seen, 128);
    }
}

// CD-08: every value that we ever hand out, in every place where one is taken.
#[tokio::test(flavor = "multi_thread")]
async fn no_value_passes_for_one_of_another_kind() {
    let proxy = Proxy::start().await;
    proxy.mcp.say(|heard| {
        let mut response = answer_json(RESULT);
        if !heard.headers.contains_key("mcp-session-id") {
            response.headers_mut().insert("mcp-session-id", "upstreams-own".parse().expect("a value"));
        }
        response
    });
    let metadata = json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post"});
    let client = proxy.post_json("/register", &metadata).await.expect(201).json();
    let own = |name: &str| client[name].as_str().expect("text").to_owned();
    let (client_id, secret) = (own("client_id"), own("client_secret"));
    let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
    let mut browser = proxy.browser();
    let page = browser.get(&url).await.expect(200);
    let approved = browser.decide(&flow(&page), "approve").await.expect(200);
    let state = param(&onward(&approved), "state").expect("a state");
    let jar = browser.cookies[PUBLIC].clone();
    let code = param(&proxy.browser().approve(&url).await, "code").expect("a code");
    let spare = param(&proxy.browser().approve(&url).await, "code").expect("a code");
    let redeem = [
        ("grant_type", "authorization_code"),
        ("client_id", &*client_id),
        ("client_secret", &secret),
        ("code_verifier", VERIFIER),
    ];
    let with = |name: &'static str, value: &str| -> Vec<(String, String)> {
        let pairs = redeem.iter().filter(|(known, _)| *known != name);
        let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        pairs.chain([(name.to_owned(), value.to_owned())]).collect()
    };
    let post = async |pairs: Vec<(String, String)>| {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
        proxy.post_form("/token", &pairs).await
    };
    let tokens = post(with("code", &spare)).await.expect(200).json();
    let token = |name: &str| tokens[name].as_str().expect("text").to_owned();
    let (access, refresh) = (token("access_token"), token("refresh_token"));
    let ping = async |token: &str, session: Option<&str>| {
        let mut request = proxy.call("/mcp", token);
        if let Some(session) = session {
            request = request.header("mcp-session-id", session);
        }
        proxy.send(request.body(Bytes::from_static(PING)).expect("a request")).await
    };
    let session = ping(&access, None).await.expect(200).header("mcp-session-id").to_owned();
    let github = proxy.mcp.last().header("x-github-token").to_owned();
    let values = [
        ("client id", &client_id),
        ("client secret", &secret),
        ("form", &flow(&page)),
        ("state", &state),
        ("consent cookie", &jar["__Host-mcp-consent"]),
        ("login cookie", &jar["__Host-mcp-login"]),
        ("code", &code),
        ("access token", &access),
        ("refresh token", &refresh),
        ("session id", &session),
        ("the seal of a session id", &session.rsplit_once('.').expect("a seal").1.to_owned()),
        ("GitHub's token", &github),
        ("verifier", &VERIFIER.to_owned()),
    ];
    let heard = proxy.mcp.heard().len();
    for (name, value) in values {
        // As it is, and in the clothes of every other kind.
        let bare = ["mapa_", "mapr_", "mapc_", "maps_", "mcp-client-"]
            .iter()
            .find_map(|prefix| value.strip_prefix(prefix))
            .unwrap_or(value);
        let dressed = |prefix: &str| [value.clone(), format!("{prefix}{bare}")];
        for value in dressed("mapa_") {
            if name != "access token" {
                ping(&value, None).await.expect(401);
            }
        }
        for value in dressed("mapr_") {
            let mut pairs = with("refresh_token", &value);
            pairs.iter_mut().for_each(|(name, value)| {
                if name == "grant_type" {
                    *value = "refresh_token".to_owned();
                }
            });
            if name != "refresh token" {
                assert_eq!(post(pairs).await.expect(400).error(), "invalid_grant", "{name} as refresh token");
            }
        }
        for value in dressed("mapc_") {
            if name != "code" {
                let answer = post(with("code", &value)).await.expect(400);
                assert_eq!(answer.error(), "invalid_grant", "{name} as code");
            }
        }
        for value in dressed("maps_") {
            if name != "client secret" {
                let answer = post(with("client_secret", &value)).await.expect(401);
                assert_eq!(answer.error(), "invalid_client", "{name} as client secret");
            }
        }
        for value in dressed("mcp-client-") {
            if name != "client id" {
                let mut pairs = with("client_id", &value);
                pairs.push(("code".to_owned(), code.clone()));
                assert_eq!(post(pairs).await.expect(401).error(), "invalid_client", "{name} as client id");
                let url = proxy.authorize_url(&value, CALLBACK, &[]);
                proxy.browser().get(&url).await.expect(400);
            }
        }
        if name != "form" {
            let mut same = browser.clone();
            same.decide(value, "approve").await.expect(403);
            let mut swapped = browser.clone();
            swapped
                .cookies
                .get_mut(PUBLIC)
                .expect("a jar")
                .insert("__Host-mcp-consent".into(), value.clone());
            let taken = swapped.decide(&flow(&page), "approve").await;
            assert_eq!(taken.status == 200, name == "consent cookie", "{name} as consent cookie");
        }
        if name != "state" {
            let mut same = browser.clone();
            same.get(&format!("{PUBLIC}/github/callback?code=x&state={value}")).await.expect(400);
        }
        if name != "session id" {
            ping(&access, Some(value)).await.expect(404);
        }
        let endpoint = format!("/mcp?endpoint={value}");
        let request = proxy.call(&endpoint, &access).body(Bytes::from_static(PING)).expect("a request");
        let answer = proxy.send(request).await;
        assert!([400, 404].contains(&answer.status), "{name} as legacy endpoint: {}", answer.status);
    }
    assert_eq!(proxy.mcp.heard().len(), heard, "nothing of it reached the upstream");
    // A token handed to /revoke ends something only when it is one.
    for (name, value) in values.iter().filter(|(name, _)| !["access token", "refresh token"].contains(name)) {
        let pairs = [("token", value.as_str()), ("client_id", &client_id), ("client_secret", &secret)];
        let answer = proxy.post_form("/revoke", &pairs).await;
        assert_eq!(answer.status, 200, "{name}");
    }
    ping(&access, Some(&session)).await.expect(200);
    post(with("code", &code)).await.expect(200);
}

/// How much longer one of two took than the other, in standard errors (Welch), without the slowest tenth of each:
/// what the machine did meanwhile.
fn t_of(one: &[f64], other: &[f64]) -> f64 {
    let kept = |times: &[f64]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.truncate(sorted.len() * 9 / 10);
        let count = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let variance = sorted.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((mean, error), (other_mean, other_error)) = (kept(one), kept(other));
    (mean - other_mean) / (error + other_error).sqrt()
}

/// The largest t among all pairs, of samples in random order. A difference that is really there shows in every one
/// of five attempts, the machine's whims do not.
async fn largest_t(classes: &[String], samples: usize, mut measure: impl AsyncFnMut(&str) -> f64) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let mut times: Vec<Vec<f64>> = classes.iter().map(|_| Vec::with_capacity(samples)).collect();
        let mut order: Vec<usize> = (0..classes.len() * samples).map(|at| at % classes.len()).collect();
        shuffle(&mut order);
        for at in order {
            times[at].push(measure(&classes[at]).await);
        }
        let pairs = (0..classes.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
        let largest = pairs.map(|(one, other)| t_of(&times[one], &times[other]).abs()).fold(0.0, f64::max);
        least = least.min(largest);
        if least < T {
            break;
        }
    }
    least
}

/// Whoever comes after whom must not be a pattern.
fn shuffle(order: &mut [usize]) {
    let clock = ManualClock::new(7).clock();
    for at in (1..order.len()).rev() {
        let other = u64::from_be_bytes(clock.random()) % (at as u64 + 1);
        order.swap(at, usize::try_from(other).expect("an index"));
    }
}

const T: f64 = 4.5;

/// A token of this kind, a second after 1970 good no more, with one of its bytes changed or behind its family
/// nothing right at all.
fn nearly<K: Kind>(keys: &KeyRing, change: &dyn Fn(&mut Vec<u8>)) -> String {
    let id = FamilyId(Clock::system().random());
    let claims = Claims { family: id, generation: 1, expires: Time::from_seconds(1), scopes: 1 };
    let mut raw = decoded(&claims.issue::<K>(keys), K::PREFIX);
    change(&mut raw);
    format!("{}{}", K::PREFIX, URL_SAFE_NO_PAD.encode(raw))
}

/// Wrong in its family, in the first, middle and last byte of its MAC, and in all of that.
fn wrong<K: Kind>(keys: &KeyRing) -> Vec<String> {
    let at = |at: usize| nearly::<K>(keys, &|raw: &mut Vec<u8>| raw[at] ^= 1);
    let random = nearly::<K>(keys, &|raw| raw[1..].copy_from_slice(&Clock::system().random::<42>()));
    vec![at(1), at(27), at(34), at(42), random]
}

// TK-19: how nearly a token is right cannot be told from the time it takes to verify it. Nothing in between: no
// network, no scheduler, ten thousand samples of each.
#[tokio::test]
async fn a_token_is_refused_in_the_same_time_whatever_is_wrong_with_it() {
    let keys = keys();
    let time = |token: &str| {
        let began = Instant::now();
        for _ in 0..4 {
            assert!(black_box(Verified::<Access>::parse(&keys, black_box(token))).is_none());
        }
        began.elapsed().as_nanos() as f64
    };
    let t = largest_t(&wrong::<Access>(&keys), 10_000, async |token| time(token)).await;
    assert!(t < T, "t = {t}");
    // Of another key, of another shape: to the microsecond the same work, though not to the nanosecond.
    let median = |token: &str| {
        let mut times: Vec<f64> = (0..2_000).map(|_| time(token)).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let good_key = wrong::<Access>(&keys).remove(0);
    let unknown_key = nearly::<Access>(&keys, &|raw| raw[0] ^= 1);
    for other in [unknown_key.as_str(), &good_key[..62], "mapa_", "", "undefined"] {
        let closest = (0..5)
            .map(|_| median(other) / median(&good_key))
            .min_by(|one, other| (one - 1.0).abs().total_cmp(&(other - 1.0).abs()));
        let ratio = closest.expect("five attempts");
        assert!((0.8..1.25).contains(&ratio), "{other:?} takes {ratio} times as long");
    }
}

/// One connection, kept alive; the time a request takes on it.
struct Line(http1::SendRequest<Full<Bytes>>);

impl Line {
    async fn to(proxy: &Proxy) -> Self {
        let stream = TcpStream::connect(proxy.address()).await.expect("connects");
        stream.set_nodelay(true).expect("set");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        Line(sender)
    }

    async fn time(&mut self, request: http::request::Builder, body: Bytes, status: u16) -> f64 {
        let request = request.body(Full::new(body)).expect("a request");
        self.0.ready().await.expect("kept alive");
        let began = Instant::now();
        let answer = self.0.send_request(request).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status);
        answer.into_body().collect().await.expect("whole");
        began.elapsed().as_nanos() as f64
    }
}

// TK-19: the same from outside, where a good token whose time is over is one of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_is_refused_in_the_same_time_whatever_is_wrong_with_it() {
    let proxy = Proxy::with(Setup { extra: UNLIMITED.to_owned(), ..Setup::default() }).await;
    let expired = proxy.login().await.access;
    proxy.forward(std::time::Duration::from_secs(9 * 3_600));
    let raw = decoded(&expired, "mapa_");
    let changed = |from: usize| {
        let mut raw = raw.clone();
        raw[from..].iter_mut().for_each(|byte| *byte ^= 0x55);
        format!("mapa_{}", URL_SAFE_NO_PAD.encode(raw))
    };
    let random = format!("mapa_{}", URL_SAFE_NO_PAD.encode(Clock::system().random::<43>()));
    let classes = [expired.clone(), changed(42), changed(27), changed(1), random];
    let mut line = Line::to(&proxy).await;
    let t = largest_t(&classes, 10_000 / classes.len(), async |token| {
        line.time(proxy.call("/mcp", token), Bytes::new(), 401).await
    })
    .await;
    assert!(t < T, "t = {t}");
}

// TK-19, CA-06: nor how nearly a client's secret is right, or whether it has one to be wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_refused_in_the_same_time_whatever_is_wrong_with_it() {
    let secret = "0123456789abcdef-0123456789abcdef";
    let extra =
        format!("{UNLIMITED}\nclients: [{{id: app, secret: '{secret}', redirect_uris: ['{CALLBACK}']}}]");
    let proxy = Proxy::with(Setup { extra, ..Setup::default() }).await;
    let metadata = json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post"});
    let client = proxy.post_json("/register", &metadata).await.expect(201).json();
    let own = client["client_secret"].as_str().expect("a secret");
    let raw = decoded(own, "maps_");
    let changed = |from: usize| {
        let mut raw = raw.clone();
        raw[from..].iter_mut().for_each(|byte| *byte ^= 0x55);
        format!("maps_{}", URL_SAFE_NO_PAD.encode(raw))
    };
    let registered = client["client_id"].as_str().expect("an id");
    let almost = format!("{}X", &secret[..secret.len() - 1]);
    let mut line = Line::to(&proxy).await;
    for (id, secrets) in [
        (registered, vec![changed(16), changed(1), changed(8)]),
        ("app", vec![almost, format!("X{}", &secret[1..]), "X".repeat(secret.len()), "X".to_owned()]),
    ] {
        let t = largest_t(&secrets, 1_500, async |secret| {
            let request = proxy.request(Method::POST, "/token");
            let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            line.time(request, form(&[("client_id", id), ("client_secret", secret)]), 401).await
        })
        .await;
        assert!(t < T, "{id}: t = {t}");
    }
}
