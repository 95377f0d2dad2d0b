//! Who may log in and stay: users, organisations, teams, and what happens when GitHub cannot say.

mod support;

use std::time::Duration;

use mcp_auth_proxy::app::Tuning;
use support::github::{Endpoint, Fault, State, TokenKind, User};
use support::http::Answer;
use support::proxy::{CALLBACK, PUBLIC, Proxy, Setup, Tokens, param};
use support::{TempDir, eventually};

const APP: TokenKind = TokenKind::GitHubApp { lifetime: 28_800, refresh_lifetime: 15_811_200 };

async fn allowing(allow: &'static str) -> Proxy {
    Proxy::with(Setup { allow, ..Setup::default() }).await
}

/// The answer of the callback for whoever is signed in.
async fn knock(proxy: &Proxy) -> Answer {
    let id = proxy.register(&[CALLBACK]).await;
    let mut browser = proxy.browser();
    let callback = browser.reach_callback(&proxy.authorize_url(&id, CALLBACK, &[])).await;
    browser.get(&callback).await.expect(303)
}

/// The error of the callback, or "in".
async fn verdict(proxy: &Proxy) -> String {
    let answer = knock(proxy).await;
    let location = answer.header("location").to_owned();
    assert_eq!(param(&location, "iss").as_deref(), Some(PUBLIC));
    param(&location, "error").unwrap_or_else(|| {
        assert!(param(&location, "code").is_some(), "{location}");
        "in".to_owned()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_known_by_login_or_number() {
    for (allow, expected) in [
        ("anyone", "in"),
        ("{users: [octocat]}", "in"),
        ("{users: [OctoCat]}", "in"),
        ("{users: [hubot, OCTOCAT]}", "in"),
        ("{users: [583231]}", "in"),
        ("{users: ['583231']}", "in"),
        ("{users: [octoca]}", "access_denied"),
        ("{users: [octocat2]}", "access_denied"),
        ("{users: [58323]}", "access_denied"),
        ("{users: [583232]}", "access_denied"),
        ("{users: [hubot], orgs: [acme], teams: [acme/core]}", "access_denied"),
    ] {
        let proxy = allowing(allow).await;
        assert_eq!(verdict(&proxy).await, expected, "{allow}");
    }
}

/// A login that looks like somebody's number is still a login.
#[tokio::test(flavor = "multi_thread")]
async fn a_numeric_login_does_not_pass_for_an_id() {
    let proxy = allowing("{users: [583231]}").await;
    proxy.github.world().add_user(User::new(99, "583231"));
    proxy.github.world().sign_in("583231");
    assert_eq!(verdict(&proxy).await, "access_denied");
}

// GitHub frees a login at once when its owner is renamed.
#[tokio::test(flavor = "multi_thread")]
async fn a_listed_login_means_the_person_who_first_came_with_it() {
    let proxy = allowing("{users: [octocat]}").await;
    assert_eq!(verdict(&proxy).await, "in");
    // The owner is renamed and stays welcome.
    proxy.github.world().edit_user("octocat", |user| user.login = "monalisa".into());
    assert_eq!(verdict(&proxy).await, "in");
    // Somebody else takes the name.
    proxy.github.world().add_user(User::new(666, "octocat"));
    proxy.github.world().sign_in("octocat");
    assert_eq!(verdict(&proxy).await, "access_denied");
    assert!(proxy.github.world().live_tokens("octocat").is_empty(), "and their token is revoked");
    proxy.github.world().sign_in("monalisa");
    assert_eq!(verdict(&proxy).await, "in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_login_survives_a_restart() {
    let dir = TempDir::new();
    let store = format!("sqlite:{}", dir.path().join("proxy.db").display());
    let mut proxy = Proxy::with(Setup { allow: "{users: [octocat]}", store, ..Setup::default() }).await;
    assert_eq!(verdict(&proxy).await, "in");
    proxy.github.world().edit_user("octocat", |user| user.login = "monalisa".into());
    proxy.github.world().add_user(User::new(666, "octocat"));
    proxy.restart().await;
    proxy.github.world().sign_in("octocat");
    assert_eq!(verdict(&proxy).await, "access_denied");
}

// GH-08
#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_listed_organisation_come_in() {
    for (membership, expected) in [
        (Some(("acme", State::Active)), "in"),
        (Some(("ACME", State::Active)), "in"),
        (Some(("acme", State::Pending)), "access_denied"),
        (Some(("acme-corp", State::Active)), "access_denied"),
        (None, "access_denied"),
    ] {
        let proxy = allowing("{orgs: [other, Acme]}").await;
        if let Some((org, state)) = membership {
            proxy.github.world().edit_user("octocat", |user| *user = user.clone().in_org(org, state));
        }
        assert_eq!(verdict(&proxy).await, expected, "{membership:?}");
    }
}

// GH-08
#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_listed_team_come_in() {
    for (orgs, team, expected) in [
        (Some("acme"), Some(("acme", "core", State::Active)), "in"),
        (Some("Acme"), Some(("Acme", "CORE", State::Active)), "in"),
        (Some("acme"), Some(("acme", "core", State::Pending)), "access_denied"),
        (Some("acme"), Some(("acme", "core-2", State::Active)), "access_denied"),
        (Some("other"), Some(("other", "core", State::Active)), "access_denied"),
        (Some("acme"), None, "access_denied"),
        (None, None, "access_denied"),
    ] {
        let proxy = allowing("{teams: [acme/core]}").await;
        proxy.github.world().edit_user("octocat", |user| {
            if let Some(org) = orgs {
                *user = user.clone().in_org(org, State::Active);
            }
            if let Some((org, slug, state)) = team {
                *user = user.clone().in_team(org, slug, state);
            }
        });
        assert_eq!(verdict(&proxy).await, expected, "{orgs:?} {team:?}");
    }
}

// GH-08: what the direct question does not show is looked for in the lists, all pages of them.
#[tokio::test(flavor = "multi_thread")]
async fn many_memberships_are_read_to_the_last_page() {
    for (allow, direct, list) in [
        ("{orgs: [org-250]}", Endpoint::OrgMembership, Endpoint::Orgs),
        ("{teams: [ORG-0/team-250]}", Endpoint::TeamMembership, Endpoint::Teams),
    ] {
        for status in [403, 404] {
            let proxy = allowing(allow).await;
            proxy.github.world().edit_user("octocat", |user| {
                for number in 0..=250 {
                    *user = user.clone().in_org(&format!("org-{number}"), State::Active);
                    *user = user.clone().in_team("org-0", &format!("team-{number}"), State::Active);
                }
            });
            assert_eq!(verdict(&proxy).await, "in", "{allow} directly");
            assert_eq!(proxy.github.world().count(list), 0, "{allow} needs no list");
            proxy.github.world().fail(direct, Fault::Status(status));
            assert_eq!(verdict(&proxy).await, "in", "{allow} with {status}");
            assert_eq!(proxy.github.world().count(list), 3, "three pages of a hundred");
        }
    }
}

// GH-08: an organisation that shuts the app out, in both kinds of app.
#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_organisation_is_not_seen() {
    for token_kind in [TokenKind::OAuthApp, APP] {
        for allow in ["{orgs: [acme]}", "{teams: [acme/core]}"] {
            let proxy = Proxy::with(Setup { allow, token_kind, ..Setup::default() }).await;
            proxy.github.world().edit_user("octocat", |user| {
                *user = user.clone().in_org("acme", State::Active).in_team("acme", "core", State::Active);
            });
            assert_eq!(verdict(&proxy).await, "in", "{allow} {token_kind:?}");
            proxy.github.world().restrict_org("acme");
            assert_eq!(verdict(&proxy).await, "access_denied", "{allow} {token_kind:?}");
        }
    }
}

/// The scope that the question needs is asked for; a person who does not grant it is not a member we can see.
#[tokio::test(flavor = "multi_thread")]
async fn read_org_is_asked_for_when_the_list_needs_it() {
    for (allow, scope) in [
        ("anyone", "read:user"),
        ("{users: [octocat]}", "read:user"),
        ("{orgs: [acme]}", "read:org read:user"),
        ("{teams: [acme/core]}", "read:org read:user"),
    ] {
        let proxy = allowing(allow).await;
        let id = proxy.register(&[CALLBACK]).await;
        let github = proxy.browser().reach_github(&proxy.authorize_url(&id, CALLBACK, &[])).await;
        assert_eq!(param(&github, "scope").as_deref(), Some(scope), "{allow}");
    }
    let proxy = allowing("{orgs: [acme]}").await;
    proxy.github.world().edit_user("octocat", |user| *user = user.clone().in_org("acme", State::Active));
    proxy.github.world().grant_at_most(Some("read:user"));
    assert_eq!(verdict(&proxy).await, "access_denied");
}

// GH-05: no judgement is neither yes nor no; nothing is stored and the client may try again.
#[tokio::test(flavor = "multi_thread")]
async fn when_github_cannot_say_nobody_comes_in() {
    let limited = |status| Fault::RateLimited { status, retry_after: Some(30), reset: None };
    for (allow, direct, list) in [
        ("{orgs: [acme]}", Endpoint::OrgMembership, Endpoint::Orgs),
        ("{teams: [acme/core]}", Endpoint::TeamMembership, Endpoint::Teams),
    ] {
        let dir = TempDir::new();
        let file = dir.path().join("proxy.db");
        let store = format!("sqlite:{}", file.display());
        let proxy = Proxy::with(Setup { allow, store, ..Setup::default() }).await;
        proxy.github.world().edit_user("octocat", |user| {
            *user = user.clone().in_org("acme", State::Active).in_team("acme", "core", State::Active);
        });
        for fault in [
            Fault::Status(500),
            Fault::BadGateway,
            Fault::Dropped,
            Fault::Garbage,
            Fault::BrokenOff,
            Fault::Status(401),
            limited(403),
            limited(429),
            Fault::RateLimited { status: 403, retry_after: None, reset: Some(1_900_000_000) },
        ] {
            proxy.github.world().fail(direct, fault.clone());
            assert_eq!(verdict(&proxy).await, "temporarily_unavailable", "{allow} {fault:?}");
            proxy.github.world().heal();
            // The same from the list behind it.
            proxy.github.world().fail(direct, Fault::Status(404));
            proxy.github.world().fail(list, fault.clone());
            assert_eq!(verdict(&proxy).await, "temporarily_unavailable", "{allow} list {fault:?}");
            proxy.github.world().heal();
        }
        let database = rusqlite::Connection::open(&file).expect("opens");
        let records: i64 = database
            .query_row("SELECT count(*) FROM records WHERE owner <> 'keys'", [], |row| row.get(0))
            .expect("counts");
        assert_eq!(records, 0, "{allow}");
        assert_eq!(verdict(&proxy).await, "in", "healed");
    }
}

/// A list that always has a next page ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_endless_list_is_given_up() {
    let proxy = allowing("{orgs: [acme]}").await;
    proxy.github.world().fail(Endpoint::OrgMembership, Fault::Status(404));
    let endless = Fault::Answer {
        status: 200,
        headers: vec![("link".into(), "<https://evil.test/>; rel=\"next\"".into())],
        body: "[]".into(),
    };
    proxy.github.world().fail(Endpoint::Orgs, endless);
    assert_eq!(verdict(&proxy).await, "temporarily_unavailable");
    assert!(proxy.github.world().count(Endpoint::Orgs) <= 100);
}

// GH-07, TK-12: asked again when the login is renewed.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_organisation_cannot_refresh() {
    let proxy = allowing("{orgs: [acme]}").await;
    proxy.github.world().edit_user("octocat", |user| *user = user.clone().in_org("acme", State::Active));
    let tokens = proxy.login().await;
    let next = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
    let next = Tokens::read(tokens.client_id.clone(), next);
    proxy.github.world().edit_user("octocat", |user| user.orgs.clear());
    let answer = proxy.refresh(&next.client_id, &next.refresh).await.expect(400);
    assert_eq!(answer.error(), "invalid_grant");
    proxy.ping(&next.access).await.expect(401);
    assert_eq!(verdict(&proxy).await, "access_denied");
}

// GH-07: while a login is in use the question is asked every 15 minutes.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_organisation_is_out_within_a_quarter_of_an_hour() {
    let proxy = allowing("{orgs: [acme]}").await;
    proxy.github.world().edit_user("octocat", |user| *user = user.clone().in_org("acme", State::Active));
    let tokens = proxy.login().await;
    proxy.github.world().edit_user("octocat", |user| user.orgs.clear());
    proxy.github.world().clear_calls();
    proxy.forward(Duration::from_secs(15 * 60 - 1));
    proxy.ping(&tokens.access).await.expect(200);
    assert_eq!(proxy.github.world().count(Endpoint::CheckToken), 0, "not yet");
    proxy.forward(Duration::from_secs(2));
    // This one starts the check; what it finds counts for those after it.
    proxy.ping(&tokens.access).await;
    proxy.github.called(Endpoint::OrgMembership, 1).await;
    proxy.github.called(Endpoint::Orgs, 1).await;
    let mut status = 200;
    for _ in 0..1_000 {
        proxy.forward(Duration::from_secs(1));
        status = proxy.ping(&tokens.access).await.status;
        if status != 200 {
            break;
        }
    }
    assert_eq!(status, 401);
}

// The number that JavaScript cannot hold: identity is the id, whole.
#[tokio::test(flavor = "multi_thread")]
async fn ids_are_compared_whole() {
    let proxy = allowing("{users: [9007199254740993]}").await;
    for (id, expected) in [(9_007_199_254_740_992, "access_denied"), (9_007_199_254_740_993, "in")] {
        proxy.github.world().add_user(User::new(id, &format!("user-{id}")));
        proxy.github.world().sign_in(&format!("user-{id}"));
        assert_eq!(verdict(&proxy).await, expected, "{id}");
    }
}

/// A slow membership answer ends the login in bounded time.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_membership_is_given_up() {
    let tuning = Tuning { github_timeout: Duration::from_millis(200), ..Setup::default().tuning };
    let proxy = Proxy::with(Setup { allow: "{orgs: [acme]}", tuning, ..Setup::default() }).await;
    proxy.github.world().fail(Endpoint::OrgMembership, Fault::Silent);
    assert_eq!(verdict(&proxy).await, "temporarily_unavailable");
}

// GH-05, GH-07: a firewall's 403 says nothing about membership, so it ends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_403_of_a_firewall_is_no_verdict() {
    let proxy = allowing("{orgs: [acme]}").await;
    proxy.github.world().edit_user("octocat", |user| *user = user.clone().in_org("acme", State::Active));
    let tokens = proxy.login().await;
    let blocked = Fault::Answer { status: 403, headers: vec![], body: "<html>request blocked</html>".into() };
    for endpoint in [Endpoint::OrgMembership, Endpoint::Orgs] {
        proxy.github.world().fail(endpoint, blocked.clone());
    }
    let next = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
    let next = Tokens::read(tokens.client_id, next);
    proxy.ping(&next.access).await.expect(200);
    // Nobody stays for ever on an old answer, though.
    proxy.forward(Duration::from_secs(75 * 60));
    proxy.ping(&next.access).await.expect(503);
    proxy.github.world().heal();
    proxy.ping(&next.access).await.expect(200);
}

fn single_sign_on(status: u16, header: &str, body: &str) -> Fault {
    let headers = vec![("x-github-sso".to_owned(), header.to_owned())];
    Fault::Answer { status, headers, body: body.to_owned() }
}

// GH-08: a person without a session at their organisation's single sign-on is told to get one.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_single_sign_on_is_explained() {
    for (allow, direct, list) in [
        ("{orgs: [acme]}", Endpoint::OrgMembership, Endpoint::Orgs),
        ("{teams: [acme/core]}", Endpoint::TeamMembership, Endpoint::Teams),
    ] {
        let proxy = allowing(allow).await;
        let required = "required; url=https://github.com/orgs/acme/sso?authorization_request=AAA";
        let partial = "partial-results; organizations=21955855,20582480";
        let hidden = single_sign_on(403, required, r#"{"message":"Resource protected by SAML"}"#);
        for (asked, faults) in [
            ("directly", vec![(direct, hidden.clone())]),
            ("in the list", vec![(direct, Fault::Status(404)), (list, hidden.clone())]),
            (
                "beside the list",
                vec![(direct, Fault::Status(403)), (list, single_sign_on(200, partial, "[]"))],
            ),
        ] {
            for (endpoint, fault) in faults {
                proxy.github.world().fail(endpoint, fault);
            }
            let answer = knock(&proxy).await;
            let location = answer.header("location").to_owned();
            assert_eq!(param(&location, "error").as_deref(), Some("access_denied"), "{allow} {asked}");
            let text = param(&location, "error_description").expect("words");
            assert!(text.contains("single sign-on") && !text.contains("acme"), "{allow} {asked}: {text}");
            assert!(proxy.github.world().live_tokens("octocat").is_empty(), "{allow} {asked}: revoked");
            proxy.github.world().heal();
        }
        // Whoever is in the list all the same is a member.
        proxy.github.world().edit_user("octocat", |user| {
            *user = user.clone().in_org("acme", State::Active).in_team("acme", "core", State::Active);
        });
        proxy.github.world().fail(direct, hidden);
        assert_eq!(verdict(&proxy).await, "in", "{allow}");
    }
}

// GH-17: what is missing is said, and nothing is begun that the upstream would fail at.
#[tokio::test(flavor = "multi_thread")]
async fn who_grants_less_than_is_needed_is_told_so() {
    let resources = r#"[{path: /mcp, upstream: "MCP/mcp", github_scopes: [repo, read:org, user:email]}]"#;
    for (granted, missing) in [
        (Some("repo read:org"), Some("user:email")),
        (Some("public_repo user admin:org"), Some("repo")),
        (Some("gist"), None),
        (Some("repo admin:org user"), None),
        (None, None),
    ] {
        let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
        proxy.github.world().grant_at_most(granted);
        let answer = knock(&proxy).await;
        let location = answer.header("location").to_owned();
        match missing {
            Some(missing) => {
                assert_eq!(param(&location, "error").as_deref(), Some("access_denied"), "{granted:?}");
                let text = param(&location, "error_description").expect("words");
                assert!(text.ends_with(&format!("missing: {missing}")), "{granted:?}: {text}");
                assert!(proxy.github.world().live_tokens("octocat").is_empty(), "{granted:?}: revoked");
            }
            None => assert!(param(&location, "code").is_some(), "{granted:?}: {location}"),
        }
    }
}

/// Calls `/mcp` until it is answered like this; a second passes between two calls.
async fn until(proxy: &Proxy, tokens: &Tokens, status: u16) {
    for _ in 0..1_000 {
        if proxy.ping(&tokens.access).await.status == status {
            return;
        }
        proxy.forward(Duration::from_secs(1));
    }
    panic!("never {status}");
}

// GH-17: scopes that are taken back end the login within the quarter of an hour; a new one asks for them again.
#[tokio::test(flavor = "multi_thread")]
async fn scopes_that_are_taken_back_end_the_login() {
    let resources = r#"[{path: /mcp, upstream: "MCP/mcp", github_scopes: [repo, read:user]}]"#;
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    for kept in ["repo user gist", "repo read:user"] {
        proxy.github.world().edit_scopes("octocat", kept);
        proxy.github.world().clear_calls();
        proxy.forward(Duration::from_secs(15 * 60));
        proxy.ping(&tokens.access).await.expect(200);
        proxy.github.called(Endpoint::CheckToken, 1).await;
        for _ in 0..5 {
            proxy.forward(Duration::from_secs(1));
            proxy.ping(&tokens.access).await.expect(200);
        }
    }
    proxy.github.world().edit_scopes("octocat", "read:user");
    proxy.forward(Duration::from_secs(15 * 60));
    until(&proxy, &tokens, 401).await;
    assert_eq!(proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(400).error(), "invalid_grant");
    let again = proxy.login().await;
    proxy.ping(&again.access).await.expect(200);
}

// GH-07: the single sign-on session ends while the login is in use.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_signed_off_from_the_organisation_is_out_within_a_quarter_of_an_hour() {
    let proxy = allowing("{orgs: [acme]}").await;
    proxy.github.world().edit_user("octocat", |user| *user = user.clone().in_org("acme", State::Active));
    let tokens = proxy.login().await;
    for endpoint in [Endpoint::OrgMembership, Endpoint::Orgs] {
        proxy.github.world().fail(endpoint, single_sign_on(403, "required; url=https://github.com/x", "{}"));
    }
    proxy.forward(Duration::from_secs(15 * 60));
    until(&proxy, &tokens, 401).await;
}

// A person is renamed while their login is in use: same person, new name, for the upstream too.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_person_goes_on_under_the_new_name() {
    let resources = r#"[{path: /mcp, upstream: "MCP/mcp",
        inject: {X-Login: "{github_login}", X-Id: "{github_id}", X-GitHub-Token: "{github_token}"}}]"#;
    for allow in ["anyone", "{users: [octocat]}", "{users: [583231]}", "{teams: [acme/core]}"] {
        let proxy = Proxy::with(Setup { allow, resources, ..Setup::default() }).await;
        proxy.github.world().edit_user("octocat", |user| {
            *user = user.clone().in_org("acme", State::Active).in_team("acme", "core", State::Active);
        });
        let tokens = proxy.login().await;
        proxy.ping(&tokens.access).await.expect(200);
        assert_eq!(proxy.mcp.last().header("x-login"), "octocat");
        proxy.github.world().edit_user("octocat", |user| user.login = "monalisa".into());
        // Somebody else takes the old name at once, and works here too if they may.
        let taker =
            User::new(666, "octocat").in_org("acme", State::Active).in_team("acme", "core", State::Active);
        proxy.github.world().add_user(taker);
        proxy.forward(Duration::from_secs(15 * 60));
        for _ in 0..1_000 {
            proxy.ping(&tokens.access).await.expect(200);
            if proxy.mcp.last().header("x-login") == "monalisa" {
                break;
            }
            proxy.forward(Duration::from_secs(1));
        }
        assert_eq!(proxy.mcp.last().header("x-login"), "monalisa", "{allow}");
        assert_eq!(proxy.mcp.last().header("x-id"), "583231");
        let next = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
        let next = Tokens::read(tokens.client_id.clone(), next);
        proxy.github.world().sign_in("octocat");
        let expected = if allow.contains("users") { "access_denied" } else { "in" };
        assert_eq!(verdict(&proxy).await, expected, "{allow}: the old name is nobody's ticket");
        proxy.ping(&next.access).await.expect(200);
        assert_eq!(proxy.mcp.last().header("x-id"), "583231", "{allow}");
        let token = proxy.mcp.last().header("x-github-token").to_owned();
        assert!(proxy.github.world().live_tokens("monalisa").contains(&token), "{allow}");
    }
}

// TK-12: the operator takes somebody off the list.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_taken_off_the_list_does_not_refresh_and_is_out_within_a_quarter_of_an_hour() {
    let dir = TempDir::new();
    let mut proxy = Proxy::with(Setup { allow: "{users: [octocat, hubot]}", ..Setup::on(&dir) }).await;
    let (one, two) = (proxy.login().await, proxy.login().await);
    proxy.ping(&one.access).await.expect(200);
    proxy.reconfigure(|yaml| yaml.replace("users: [octocat, hubot]", "users: [hubot]")).await;
    proxy.forward(Duration::from_secs(15 * 60));
    until(&proxy, &two, 401).await;
    let answer = proxy.refresh(&one.client_id, &one.refresh).await.expect(400);
    assert_eq!(answer.error(), "invalid_grant");
    // Revoked at GitHub, those of both logins; nobody waits for that.
    eventually(|| proxy.github.world().live_tokens("octocat").is_empty()).await;
}
