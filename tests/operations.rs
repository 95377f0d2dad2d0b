//! What operators do at the command line, on every store, while a proxy serves from it.

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use mcp_auth_proxy::seal::parse_key;
use serde_json::Value;
use support::github::{Endpoint, Fault, User};
use support::program::Program;
use support::proxy::{Proxy, Tokens};
use support::stores::{self, KEY, Store};
use support::{TempDir, eventually};

/// A proxy of its own that serves from a store, and the command line beside it.
struct Place {
    proxy: Proxy,
    _program: Program,
    dir: TempDir,
}

impl Place {
    async fn on(store: &Store) -> Self {
        let dir = TempDir::new();
        let mut setup = store.setup();
        setup.extra.push_str("\naudit: audit.jsonl\n");
        let (proxy, program) = Proxy::as_process(setup, &dir, "info").await;
        proxy.github.world().add_user(User::new(7, "bob"));
        Place { proxy, _program: program, dir }
    }

    async fn login(&self, login: &str) -> Tokens {
        self.proxy.github.world().sign_in(login);
        self.proxy.login().await
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.dir.path(), arguments)
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&said(&output)).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-auth-proxy"));
    let app = [("MCP_GITHUB_CLIENT_ID", "an-app"), ("MCP_GITHUB_CLIENT_SECRET", "of-the-tests")];
    command.args(arguments).envs(app).current_dir(dir).output().expect("it runs")
}

/// What it said, when it went well.
#[track_caller]
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Refused everywhere, within the second that was promised.
async fn ends(proxy: &Proxy, tokens: &Tokens) {
    for _ in 0..40 {
        if proxy.ping(&tokens.access).await.status == 401 {
            let refreshed = proxy.refresh(&tokens.client_id, &tokens.refresh).await;
            assert_eq!((refreshed.status, refreshed.error().as_str()), (400, "invalid_grant"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_grants_are_listed_while_the_proxy_runs() {
    for store in stores::all("people_and_grants_are_listed_while_the_proxy_runs").await {
        let place = Place::on(&store).await;
        let nobody = said(&place.run(&["people", "list"]));
        assert_eq!(nobody.lines().count(), 1, "{nobody}");
        let (tokens, _, _) =
            (place.login("octocat").await, place.login("octocat").await, place.login("bob").await);
        let people = place.json(&["people", "list"]);
        let names: Vec<_> =
            people.iter().map(|person| (person["login"].as_str(), person["grants"].as_u64())).collect();
        assert_eq!(names, [(Some("bob"), Some(1)), (Some("octocat"), Some(2))], "{}", store.name);
        let table = said(&place.run(&["people", "list"]));
        assert!(table.starts_with("LOGIN") && table.contains("octocat  583231  2"), "{table}");
        assert_eq!(place.json(&["grants", "list"]).len(), 3);
        assert_eq!(place.json(&["grants", "list", "--person", "OCTOCAT"]).len(), 2);
        assert_eq!(place.json(&["grants", "list", "--person", "7"]).len(), 1);
        assert_eq!(place.json(&["grants", "list", "--client", &tokens.client_id]).len(), 1);
        assert_eq!(place.json(&["grants", "list", "--client", "test client"]).len(), 3);
        let grant = &place.json(&["grants", "list", "--client", &tokens.client_id])[0];
        assert_eq!((&grant["person"], &grant["login"]), (&583231.into(), &"octocat".into()));
        assert_eq!(grant["resource"], "https://p.test/mcp");
        assert!(grant["granted"].as_str().is_some_and(|time| time.ends_with('Z')), "{grant}");
        let unknown = place.run(&["grants", "list", "--person", "nobody"]);
        assert_eq!(unknown.status.code(), Some(1));
        // Nothing of it is worth anything to who reads it.
        let all = said(&place.run(&["grants", "list", "--json"]));
        assert!(
            !all.contains("mapa_") && !all.contains("gho_") && !all.contains(&tokens.access[5..30]),
            "{all}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_grant_ends_within_a_second_and_the_last_one_at_github_too() {
    for store in stores::all("a_revoked_grant_ends_within_a_second_and_the_last_one_at_github_too").await {
        let place = Place::on(&store).await;
        let (first, second, bobs) =
            (place.login("octocat").await, place.login("octocat").await, place.login("bob").await);
        for tokens in [&first, &second, &bobs] {
            place.proxy.ping(&tokens.access).await.expect(200);
        }
        let name = |tokens: &Tokens| {
            let grants = place.json(&["grants", "list", "--client", &tokens.client_id]);
            grants[0]["grant"].as_str().expect("a name").to_owned()
        };
        let told = said(&place.run(&["grants", "revoke", &name(&first), "--dry-run"]));
        assert!(told.contains("1 grant would be revoked"), "{told}");
        place.proxy.ping(&first.access).await.expect(200);
        let missing = place.run(&["grants", "revoke", &name(&first), "nosuch"]);
        assert_eq!(missing.status.code(), Some(1), "{missing:?}");
        place.proxy.ping(&first.access).await.expect(200);
        assert_eq!(said(&place.run(&["grants", "revoke", &name(&first)])), "1 grant revoked\n");
        ends(&place.proxy, &first).await;
        place.proxy.ping(&second.access).await.expect(200);
        assert!(!place.proxy.github.world().live_tokens("octocat").is_empty());
        assert_eq!(said(&place.run(&["grants", "revoke", "--person", "octocat"])), "1 grant revoked\n");
        ends(&place.proxy, &second).await;
        assert_eq!(place.proxy.github.world().live_tokens("octocat"), Vec::<String>::new(), "{}", store.name);
        place.proxy.ping(&bobs.access).await.expect(200);
        let people = place.json(&["people", "list"]);
        assert_eq!(people.len(), 1, "who has no grant left is forgotten: {people:?}");
        let trail = || std::fs::read_to_string(place.dir.path().join("audit.jsonl")).expect("a trail");
        let by_operator = |line: &&str| line.contains(r#""event":"revoke","outcome":"operator""#);
        eventually(|| trail().lines().filter(by_operator).count() == 2).await;
        let nothing = place.run(&["grants", "revoke"]);
        assert_eq!(nothing.status.code(), Some(64), "all of them are never meant by accident: {nothing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_grants_from_before_a_moment_are_ended_at_once() {
    for store in stores::all("all_grants_from_before_a_moment_are_ended_at_once").await {
        let place = Place::on(&store).await;
        let (ann, bob) = (place.login("octocat").await, place.login("bob").await);
        assert_eq!(said(&place.run(&["revoke", "--all", "--before", "1h"])), "0 grants revoked\n");
        place.proxy.ping(&ann.access).await.expect(200);
        let strangers = place.run(&["grants", "revoke", "--client", "Nobody's"]);
        assert_eq!(strangers.status.code(), Some(1), "a slip is not taken for success: {strangers:?}");
        assert!(String::from_utf8_lossy(&strangers.stderr).contains("no client called Nobody's"));
        let without = place.run(&["revoke", "--before", "2999-01-01"]);
        assert_eq!(without.status.code(), Some(64));
        let wrong = place.run(&["revoke", "--all", "--before", "yesterday"]);
        assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
        assert_eq!(said(&place.run(&["revoke", "--all", "--before", "2999-01-01"])), "2 grants revoked\n");
        ends(&place.proxy, &ann).await;
        ends(&place.proxy, &bob).await;
        let after = place.login("octocat").await;
        place.proxy.ping(&after.access).await.expect(200);
        assert_eq!(said(&place.run(&["revoke", "--all"])), "1 grant revoked\n");
        ends(&place.proxy, &after).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_checked_from_outside() {
    for store in stores::all("a_store_is_checked_from_outside").await {
        let place = Place::on(&store).await;
        place.login("octocat").await;
        let checked = said(&place.run(&["store", "check"]));
        assert!(checked.contains("family 1") && checked.ends_with("The store is in order.\n"), "{checked}");
        assert!(checked.contains("those of the store"), "{checked}");
        for asked in [&["-c", "proxy.yaml", "grants", "list"][..], &["grants", "-c", "proxy.yaml", "list"]] {
            let listed = place.run(asked);
            assert_eq!(said(&listed).lines().count(), 2, "wherever the file is named");
            assert!(listed.stderr.is_empty(), "that is all: {listed:?}");
        }
        let other = "T3RoZXIta2V5LWZvci10ZXN0cy0wMTIzNDU2Nzg5YWI=";
        let yaml = std::fs::read_to_string(place.dir.path().join("proxy.yaml")).expect("read");
        std::fs::write(place.dir.path().join("other.yaml"), yaml.replace(KEY, other)).expect("written");
        let strange = place.run(&["store", "check", "--config", "other.yaml", "--json"]);
        assert_eq!(strange.status.code(), Some(1), "{strange:?}");
        let health: Value = serde_json::from_slice(&strange.stdout).expect("JSON");
        assert_eq!((&health["is_well"], &health["keys_known"]), (&false.into(), &false.into()), "{health}");
        assert!(health["unreadable"].as_u64() > Some(0), "{health}");
        // Under strange keys nothing is done to anybody.
        let refused = place.run(&["revoke", "--all", "--config", "other.yaml"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("under other keys"), "{refused:?}");
        // A key that was dropped too early: whoever lists is told that it is not all.
        if !store.url.starts_with("sqlite") {
            let both = yaml.replace(&format!("'{KEY}'"), &format!("'{other}', '{KEY}'"));
            let (dir, told) = (TempDir::new(), "none of the configured keys reads");
            let replica = Program::start(&dir, &both, "info");
            eventually(|| place.run(&["people", "list", "--config", "other.yaml"]).status.success()).await;
            let listed = place.run(&["people", "list", "--config", "other.yaml", "--json"]);
            assert_eq!(listed.stdout, b"[]\n", "{listed:?}");
            assert!(String::from_utf8_lossy(&listed.stderr).contains(told), "{listed:?}");
            drop(replica);
        }
    }
    let dir = TempDir::new();
    std::fs::write(dir.path().join("proxy.yaml"), include_str!("config/valid/minimal.yaml"))
        .expect("written");
    for arguments in [&["store", "check"][..], &["people", "list"], &["revoke", "--all"]] {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("there is no store at"), "{output:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 1, "looking makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_into_another_and_nobody_is_logged_out() {
    let test = "a_store_moves_into_another_and_nobody_is_logged_out";
    for target in stores::over_a_network(test).await {
        let source = stores::all(test).await.swap_remove(0);
        let place = Place::on(&source).await;
        let tokens = place.login("octocat").await;
        let copy = ["store", "copy", source.url.as_str(), target.url.as_str()];
        let copied = said(&place.run(&copy));
        assert!(copied.contains(" records copied, 0 of them changed meanwhile"), "{copied}");
        let again = place.run(&copy);
        assert_eq!(again.status.code(), Some(1), "{again:?}");
        assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"), "{again:?}");
        // The same keys on the new store: the same people, the same tokens.
        let dir = TempDir::new();
        let yaml = std::fs::read_to_string(place.dir.path().join("proxy.yaml")).expect("read");
        let moved = Program::start(&dir, &yaml.replace(&source.url, &target.url), "info");
        place.proxy.ping_at(moved.address(), &tokens.access).await.expect(200);
        let pair = [
            ("grant_type", "refresh_token"),
            ("refresh_token", &tokens.refresh),
            ("client_id", &tokens.client_id),
        ];
        place.proxy.post_form_at(moved.address(), "/token", &pair).await.expect(200);
        // And back again.
        let back = TempDir::new();
        let database = format!("sqlite:{}", back.path().join("back.db").display());
        said(&place.run(&["store", "copy", &target.url, &database]));
        let returned = Program::start(&back, &yaml.replace(&source.url, &database), "info");
        place.proxy.ping_at(returned.address(), &tokens.access).await.expect(200);
    }
}

// Redis shows a few names at a time, and none of ours may be among the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_empty_is_not_copied_onto_whatever_else_is_in_it() {
    let test = "a_store_that_is_not_empty_is_not_copied_onto_whatever_else_is_in_it";
    let Some(target) = stores::redis(test).await else { return };
    let source = stores::all(test).await.swap_remove(0);
    let place = Place::on(&source).await;
    place.login("octocat").await;
    let mut foreign = ::redis::cmd("MSET");
    (0..20_000).for_each(|number| {
        foreign.arg(format!("another:{number}")).arg(1);
    });
    let _: () = stores::say(&target.url, &foreign).await;
    let other = Place::on(&target).await;
    other.login("octocat").await;
    let copied = place.run(&["store", "copy", &source.url, &target.url]);
    assert_eq!(copied.status.code(), Some(1), "{copied:?}");
    assert!(String::from_utf8_lossy(&copied.stderr).contains("is not empty"), "{copied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_two_people_is_asked_about() {
    let store = stores::all("a_login_of_two_people_is_asked_about").await.swap_remove(0);
    let place = Place::on(&store).await;
    place.login("octocat").await;
    place.proxy.github.world().edit_user("octocat", |user| user.login = "formercat".into());
    place.proxy.github.world().add_user(User::new(99, "octocat"));
    place.login("octocat").await;
    for command in ["list", "revoke"] {
        let output = place.run(&["grants", command, "--person", "octocat"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("octocat may mean id:99 or id:583231"), "{told}");
    }
    let meant = place.json(&["grants", "list", "--person", "id:99"]);
    assert_eq!((meant.len(), &meant[0]["person"]), (1, &99.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_github_did_not_delete_is_told() {
    let store = stores::all("what_github_did_not_delete_is_told").await.swap_remove(0);
    let place = Place::on(&store).await;
    let tokens = place.login("octocat").await;
    let world = || place.proxy.github.world();
    world().fail(Endpoint::DeleteToken, Fault::Status(502));
    let revoked = place.run(&["grants", "revoke", "--person", "octocat"]);
    assert_eq!(revoked.status.code(), Some(1), "{revoked:?}");
    assert_eq!(String::from_utf8_lossy(&revoked.stdout), "1 grant revoked\n");
    assert!(String::from_utf8_lossy(&revoked.stderr).contains("the tokens of octocat;"), "{revoked:?}");
    ends(&place.proxy, &tokens).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_makes_no_trail_and_concerns_are_told() {
    let Some(redis) = stores::OwnRedis::start("looking_makes_no_trail_and_concerns_are_told", &[]).await
    else {
        return;
    };
    let place = Place::on(&redis.store()).await;
    let elsewhere = TempDir::new();
    let yaml = std::fs::read_to_string(place.dir.path().join("proxy.yaml")).expect("read");
    std::fs::write(elsewhere.path().join("proxy.yaml"), yaml).expect("written");
    said(&run(elsewhere.path(), &["people", "list"]));
    let checked = said(&run(elsewhere.path(), &["store", "check"]));
    assert!(checked.contains("Concern          Redis keeps no append-only file"), "{checked}");
    assert!(!elsewhere.path().join("audit.jsonl").exists(), "only who changes something writes it down");
}

#[test]
fn keys_are_made_one_at_a_time() {
    let dir = TempDir::new();
    let made: Vec<String> = (0..2).map(|_| said(&run(dir.path(), &["keys", "new"]))).collect();
    assert!(made.iter().all(|key| parse_key(key.trim()).is_ok()), "{made:?}");
    assert_ne!(made[0], made[1]);
}

#[test]
fn mistakes_at_the_command_line_are_told_with_64_and_without_what_may_be_secret() {
    let dir = TempDir::new();
    for arguments in [
        &["store", "copy", "sqlite:a.db", "postgres:CANARY"][..],
        &["store", "copy", "CANARY://x", "memory:"],
        &["store", "copy", "sqlite:a.db", "${NO_SUCH_NAME}"],
        &["grants", "revoke"],
        &["revoke"],
    ] {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("CANARY"), "{output:?}");
    }
}
