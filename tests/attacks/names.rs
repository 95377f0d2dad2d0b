//! Names of upstreams and of GitHub: dead addresses, changed answers, name servers in trouble.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::alone::{Dead, alone, names};
use crate::rig::Rig;
use crate::support::browser::onward;
use crate::support::http::Answer;
use crate::support::names::{Names, Says};
use crate::support::proxy::{CALLBACK, Setup, Tokens, in_front_of, param};
use crate::support::upstream::{Mcp, RESULT, json};

/// A proxy in front of `http://mcp.example`, at an address that keeps no connection.
struct Stage {
    rig: Rig,
    names: Names,
    mcp: Mcp,
    tokens: Tokens,
}

impl Stage {
    async fn start() -> Self {
        let names = names().await;
        let mcp = at(LIVE, 0).await;
        names.say(NAME, Says::addresses(&[LIVE]));
        let origin = format!("http://{NAME}:{}", mcp.address().port());
        let resources = in_front_of(&origin, ", connect_timeout: 4s");
        let mut rig = Rig::with(Setup { resources, ..Setup::default() }).await;
        let tokens = rig.login().await;
        Stage { rig, names, mcp, tokens }
    }

    fn port(&self) -> u16 {
        self.mcp.address().port()
    }

    /// One call, and how long it took.
    async fn call(&self) -> (Answer, Duration) {
        let begun = Instant::now();
        let answer = self.rig.proxy.ping(&self.tokens.access).await;
        (answer, begun.elapsed())
    }

    #[track_caller]
    fn is_plain_error(answer: Answer, case: &str) {
        assert_eq!(answer.status, 502, "{case}: {}", answer.text());
        assert_eq!(answer.error(), "upstream_unreachable", "{case}");
        for internal in ["mcp.example", "10.9.9", "resol", "lookup", "os error"] {
            assert!(!answer.text().contains(internal), "{case}: {}", answer.text());
        }
    }
}

async fn at(address: &str, port: u16) -> Mcp {
    let mcp = Mcp::at(socket(address, port)).await;
    mcp.say(|_| {
        let mut answer = json(RESULT);
        answer.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
        answer
    });
    mcp
}

fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().expect("an address"), port)
}

const NAME: &str = "mcp.example";
const LIVE: &str = "10.9.9.8";
const MUTE: &str = "10.9.9.9";
const REFUSING: &str = "10.9.9.10";
const NEW: &str = "10.9.9.11";

// UP-10
#[test]
fn a_dead_address_of_an_upstream_is_overtaken() {
    alone(async || {
        let stage = Stage::start().await;
        let _dead = Dead::at(socket(MUTE, stage.port())).await;
        for addresses in [[MUTE, LIVE], [LIVE, MUTE], [REFUSING, LIVE], [MUTE, LIVE]] {
            stage.names.say(NAME, Says::addresses(&addresses));
            let (answer, took) = stage.call().await;
            answer.expect(200);
            assert!(took < Duration::from_secs(2), "{addresses:?}: {took:?}");
        }
        // Nobody waits for it again and again.
        let begun = Instant::now();
        for _ in 0..12 {
            stage.call().await.0.expect(200);
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(stage.mcp.heard().len(), 16);
        stage.rig.verify().await;
    });
}

// UP-10
#[test]
fn the_last_good_answer_is_used_while_name_servers_fail() {
    alone(async || {
        let stage = Stage::start().await;
        stage.call().await.0.expect(200);
        for says in [Says::Trouble, Says::Silence, Says::Garbage] {
            let case = format!("{says:?}");
            stage.names.say(NAME, says);
            for _ in 0..3 {
                let (answer, took) = stage.call().await;
                answer.expect(200);
                assert!(took < Duration::from_secs(2), "{case}: {took:?}");
            }
        }
        stage.names.say(NAME, Says::addresses(&[LIVE]));
        stage.rig.verify().await;
    });
}

// UP-10
#[test]
fn a_changed_answer_is_obeyed_and_the_old_address_is_left_alone() {
    alone(async || {
        let mut stage = Stage::start().await;
        stage.rig.expect_statuses(&[502]);
        stage.call().await.0.expect(200);
        let new = at(NEW, stage.port()).await;
        stage.names.say(NAME, Says::addresses(&[NEW]));
        stage.call().await.0.expect(200);
        assert_eq!((stage.mcp.heard().len(), new.heard().len()), (1, 1));
        // Whoever has the address that the name had once must not be given the token.
        stage.names.say(NAME, Says::Missing);
        Stage::is_plain_error(stage.call().await.0, "no such name");
        stage.names.say(NAME, Says::addresses(&[REFUSING]));
        Stage::is_plain_error(stage.call().await.0, "refused");
        assert_eq!((stage.mcp.heard().len(), new.heard().len()), (1, 1));
        stage.names.say(NAME, Says::addresses(&[LIVE]));
        stage.call().await.0.expect(200);
        stage.rig.verify().await;
    });
}

// UP-01
#[test]
fn a_name_that_cannot_be_resolved_is_502_in_time_and_only_once_asked_for() {
    alone(async || {
        let mut stage = Stage::start().await;
        stage.rig.expect_statuses(&[502]);
        for says in [Says::Missing, Says::Trouble, Says::Garbage, Says::Silence] {
            let case = format!("{says:?}");
            stage.names.say(NAME, says);
            let calls = crate::support::all((0..20).map(|_| stage.call())).await;
            for (answer, took) in calls {
                Stage::is_plain_error(answer, &case);
                assert!(took < Duration::from_secs(5), "{case}: {took:?}");
            }
            // glibc asks for both kinds, twice, with two domains; not twenty times that.
            let asked = stage.names.count(NAME);
            assert!(asked <= 40, "{case}: {asked} questions");
        }
        assert_eq!(stage.mcp.heard().len(), 0);
        stage.names.say(NAME, Says::addresses(&[LIVE]));
        // The silent look-up is waited for to its end, then it is well again.
        let deadline = Instant::now() + Duration::from_secs(30);
        while stage.call().await.0.status != 200 {
            assert!(Instant::now() < deadline, "it does not heal");
        }
        stage.rig.verify().await;
    });
}

// GH-01
#[test]
fn github_out_of_the_name_servers_reach_is_temporarily_unavailable() {
    alone(async || {
        let names = names().await;
        let mut rig = Rig::with(Setup { github_host: "localhost", ..Setup::default() }).await;
        // A connection that is there needs no name.
        rig.proxy.github.world().options.close = true;
        let tokens = rig.login().await;
        for says in [Says::Missing, Says::Trouble, Says::Silence] {
            names.say("localhost", Says::addresses(&["127.0.0.1"]));
            let client = rig.proxy.register(&[CALLBACK]).await;
            let mut browser = rig.proxy.browser();
            let callback = browser.reach_callback(&rig.proxy.authorize_url(&client, CALLBACK, &[])).await;
            let case = format!("{says:?}");
            names.say("localhost", says);
            let begun = Instant::now();
            let answer = browser.get(&callback).await;
            let back = match answer.status {
                303 => answer.header("location").to_owned(),
                _ => onward(&answer),
            };
            assert_eq!(param(&back, "error").as_deref(), Some("temporarily_unavailable"), "{case}: {back}");
            assert!(begun.elapsed() < Duration::from_secs(12), "{case}: {:?}", begun.elapsed());
            // Who is in already does not notice.
            rig.proxy.ping(&tokens.access).await.expect(200);
        }
        names.say("localhost", Says::addresses(&["127.0.0.1"]));
        rig.verify().await;
    });
}
