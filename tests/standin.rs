//! The GitHub stand-in keeps the habits of GitHub that the proxy has to live with.

#[path = "support/github.rs"]
mod github;

use std::collections::HashMap;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use github::{Approval, Endpoint, Fault, GitHub, Options, State, TokenKind, User};
use http::Method;
use reqwest::{Response, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

// === The authorize endpoint ===

#[tokio::test]
async fn signed_in_person_is_sent_straight_back() {
    let github = Site::start(Options::default()).await;
    let back = github.authorize("scope=read:user&state=st%20ate").await.location();
    assert_eq!(back.as_str().split('?').next(), Some(CALLBACK));
    assert_eq!(param(&back, "state").as_deref(), Some("st ate"));
    assert_eq!(param(&back, "iss"), Some(format!("{}/login/oauth", github.base_url())));
    let call = github.world().last_call(Endpoint::Authorize).expect("it was recorded");
    assert_eq!(call.param("scope"), Some("read:user"));
}

#[tokio::test]
async fn iss_can_be_left_out() {
    let github = Site::start(Options { iss: false, ..Options::default() }).await;
    assert_eq!(param(&github.authorize("").await.location(), "iss"), None);
}

#[tokio::test]
async fn denial_returns_to_the_callback() {
    let github = Site::start(Options::default()).await;
    github.world().set_approval(Approval::Denied);
    let back = github.authorize("state=s").await.location();
    assert_eq!(param(&back, "error").as_deref(), Some("access_denied"));
    assert_eq!(param(&back, "state").as_deref(), Some("s"));
    assert!(param(&back, "error_description").is_some() && param(&back, "error_uri").is_some());
}

#[tokio::test]
async fn unknown_client_gets_a_page() {
    let github = Site::start(Options::default()).await;
    let page = github.get("/login/oauth/authorize?client_id=nobody").await;
    assert_eq!((page.status, page.header("location")), (404, None));
}

#[tokio::test]
async fn foreign_redirect_uri_is_reported_to_the_registered_callback() {
    let callbacks = vec!["https://example.com/cb".to_owned()];
    for (uri, fits) in [
        ("https://example.com/cb", true),
        ("https://example.com/cb/below", true),
        ("https://sub.example.com/cb", true),
        ("https://example.com/cbx", false),
        ("https://example.com:444/cb", false),
        ("https://evil.example/cb", false),
    ] {
        let github = Site::start(Options { callbacks: callbacks.clone(), ..Options::default() }).await;
        let path = format!("/login/oauth/authorize?client_id=standin-client&redirect_uri={uri}");
        let back = github.get(&path).await.location();
        assert_eq!(param(&back, "code").is_some(), fits, "{uri}");
        if !fits {
            assert!(
                back.as_str().starts_with("https://example.com/cb?error=redirect_uri_mismatch"),
                "{back}"
            );
        }
    }
}

#[tokio::test]
async fn loopback_callback_fits_any_port_and_a_github_app_only_the_exact_url() {
    let callbacks = vec![CALLBACK.to_owned()];
    let github = Site::start(Options { callbacks: callbacks.clone(), ..Options::default() }).await;
    let other_port =
        "/login/oauth/authorize?client_id=standin-client&redirect_uri=http://127.0.0.1:5/callback";
    assert!(param(&github.get(other_port).await.location(), "code").is_some());
    let github = Site::start(Options { callbacks, ..app_tokens() }).await;
    assert!(param(&github.get(other_port).await.location(), "code").is_none());
    assert!(param(&github.authorize("").await.location(), "code").is_some());
}

#[tokio::test]
async fn only_s256_challenges_of_43_characters_are_taken() {
    let github = Site::start(Options::default()).await;
    let challenge = "c".repeat(43);
    for (query, fits) in [
        (format!("code_challenge={challenge}&code_challenge_method=S256"), true),
        (format!("code_challenge={challenge}&code_challenge_method=plain"), false),
        (format!("code_challenge={challenge}"), false),
        ("code_challenge=short&code_challenge_method=S256".to_owned(), false),
    ] {
        let back = github.authorize(&query).await.location();
        assert_eq!(param(&back, "code").is_some(), fits, "{query}");
    }
}

#[tokio::test]
async fn person_clicks_through_sign_in_and_consent_once() {
    let github = Site::start(Options::default()).await;
    github.world().sign_out();
    github.world().set_approval(Approval::Remembered);
    let page = github.authorize("scope=repo&state=s").await;
    assert!(page.status == 200 && page.body.contains("sign-in-octocat"), "{}", page.body);

    let asked = format!("/login/oauth/authorize?{ASKED}&scope=repo&state=s");
    let signed_in = github.post("/session", &[("login", "octocat"), ("return_to", &asked)]).await;
    assert_eq!(signed_in.header("location"), Some(asked.as_str()));
    let cookie = signed_in.header("set-cookie").expect("the browser is told").split(';').next();
    let cookie = [("cookie", cookie.expect("a cookie has a value"))];
    let page = github.send(Method::GET, &asked, &cookie, "").await;
    assert!(page.status == 200 && page.body.contains("id=\"approve\""), "{}", page.body);
    let approved = github.send(Method::POST, &asked, &cookie, "decision=approve").await;
    assert!(param(&approved.location(), "code").is_some());

    let narrower = github.send(Method::GET, &asked.replace("=repo", "=public_repo"), &cookie, "").await;
    assert_eq!(narrower.status, 302, "granted scopes need no page");
    let wider = github.send(Method::GET, &asked.replace("=repo", "=read:org"), &cookie, "").await;
    assert_eq!(wider.status, 200, "new scopes need the page");
    let denied = github.send(Method::POST, &asked, &cookie, "decision=deny").await;
    assert_eq!(param(&denied.location(), "error").as_deref(), Some("access_denied"));
    let picker = github.send(Method::GET, &format!("{asked}&prompt=select_account"), &cookie, "").await;
    assert!(picker.body.contains("sign-in-octocat"), "{}", picker.body);
    github.world().sign_out();
    let void = github.send(Method::GET, &asked, &cookie, "").await;
    assert!(void.body.contains("sign-in-octocat"), "a change from outside wins over the cookie");
}

// === The token endpoint ===

#[tokio::test]
async fn code_works_once_and_ten_minutes() {
    let github = Site::start(Options::default()).await;
    let code = github.code("scope=user,user:email").await;
    let token = github.exchange(&code, &[]).await;
    assert!(token["access_token"].as_str().is_some_and(|token| token.starts_with("gho_")));
    assert_eq!((&token["scope"], &token["token_type"]), (&json!("user"), &json!("bearer")));
    assert_eq!(token.get("expires_in"), None);
    assert_eq!(github.exchange(&code, &[]).await["error"], "bad_verification_code");

    let late = github.code("").await;
    github.world().forward(600);
    assert_eq!(github.exchange(&late, &[]).await["error"], "bad_verification_code");
}

#[tokio::test]
async fn challenge_demands_its_verifier() {
    let github = Site::start(Options::default()).await;
    let verifier = "v".repeat(43);
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier));
    let query = format!("code_challenge={challenge}&code_challenge_method=S256");
    for (sent, fits) in [(verifier.as_str(), true), ("wrong", false), ("", false)] {
        let code = github.code(&query).await;
        let reply = github.exchange(&code, &[("code_verifier", sent)]).await;
        assert_eq!(reply.get("access_token").is_some(), fits, "{sent}: {reply}");
    }
}

#[tokio::test]
async fn answers_are_forms_unless_json_is_asked_for() {
    let github = Site::start(Options::default()).await;
    let wrong = [("client_id", "standin-client"), ("client_secret", "wrong")];
    let reply = github.post("/login/oauth/access_token", &wrong).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.starts_with("error=incorrect_client_credentials&"), "{}", reply.body);
    assert_eq!(reply.header("content-type"), Some("application/x-www-form-urlencoded; charset=utf-8"));
}

#[tokio::test]
async fn empty_scope_means_all_scopes_granted_before() {
    let github = Site::start(Options::default()).await;
    for (asked, granted) in [("repo", "repo"), ("user gist", "gist,user"), ("", "gist,repo,user")] {
        let code = github.code(&format!("scope={asked}")).await;
        assert_eq!(github.exchange(&code, &[]).await["scope"], granted);
    }
    github.world().grant_at_most(Some("read:user"));
    let code = github.code("scope=read:user repo").await;
    assert_eq!(github.exchange(&code, &[]).await["scope"], "read:user");
}

#[tokio::test]
async fn eleventh_token_kills_the_oldest() {
    let github = Site::start(Options::default()).await;
    let tokens: Vec<String> = (0..11).map(|_| github.world().issue("octocat", "repo")).collect();
    let other_scopes = github.world().issue("octocat", "gist");
    assert_eq!(github.user(&tokens[0]).await.status, 401);
    for token in tokens[1..].iter().chain([&other_scopes]) {
        assert_eq!(github.user(token).await.status, 200);
    }
}

#[tokio::test]
async fn refresh_kills_the_old_pair_at_once() {
    let github = Site::start(app_tokens()).await;
    let first = github.exchange(&github.code("scope=repo").await, &[]).await;
    assert_eq!(first["scope"], "");
    assert_eq!((&first["expires_in"], &first["refresh_token_expires_in"]), (&json!(28800), &json!(15897600)));
    let second = github.refresh(&first).await;
    assert!(second["refresh_token"].as_str().is_some_and(|token| token.starts_with("ghr_")));
    assert_eq!(github.user_of(&first).await.status, 401);
    assert_eq!(github.user_of(&second).await.status, 200);
    assert_eq!(github.refresh(&first).await["error"], "bad_refresh_token");

    github.world().forward(28800);
    assert_eq!(github.user_of(&second).await.status, 401);
    let third = github.refresh(&second).await;
    assert_eq!(github.user_of(&third).await.status, 200);
    github.world().forward(15897600);
    assert_eq!(github.refresh(&third).await["error"], "bad_refresh_token");
    assert_eq!(github.world().count(Endpoint::Refresh), 4);
}

// === The API ===

#[tokio::test]
async fn fresh_token_may_be_refused_at_first() {
    let github = Site::start(Options::default()).await;
    github.world().spurious_401(2);
    let token = github.world().issue("octocat", "read:user");
    for expected in [401, 401, 200] {
        assert_eq!(github.user(&token).await.status, expected);
    }
}

#[tokio::test]
async fn profile_comes_with_the_scopes_of_the_token() {
    let github = Site::start(Options::default()).await;
    let token = github.world().issue("octocat", "repo user");
    let user = github.user(&token).await;
    assert_eq!(user.header("x-oauth-scopes"), Some("repo, user"));
    assert_eq!((&user.json()["id"], &user.json()["login"]), (&json!(583231), &json!("octocat")));
    github.world().edit_scopes("octocat", "gist");
    assert_eq!(github.user(&token).await.header("x-oauth-scopes"), Some("gist"));
    github.world().edit_user("octocat", |user| user.login = "renamed".to_owned());
    assert_eq!(github.user(&token).await.json()["login"], "renamed");
    github.world().revoke_all("renamed");
    assert_eq!(github.user(&token).await.json()["message"], "Bad credentials");
    let anonymous = github.send(Method::GET, "/api/v3/user", &[("user-agent", "")], "").await;
    assert_eq!(anonymous.status, 403);
    let old = [("x-github-api-version", "2020-01-01")];
    assert_eq!(github.send(Method::GET, "/api/v3/user", &old, "").await.status, 400);
}

#[tokio::test]
async fn memberships_need_the_scope_and_ignore_case() {
    let github = Site::start(Options::default()).await;
    let mona = User::new(7, "mona")
        .in_org("Acme", State::Active)
        .in_org("invited", State::Pending)
        .in_org("closed", State::Active)
        .in_team("Acme", "core", State::Active);
    github.world().add_user(mona);
    github.world().restrict_org("Closed");
    let blind = github.world().issue("mona", "repo");
    let token = github.world().issue("mona", "read:org");
    for (path, without, with) in [
        ("/user/memberships/orgs/aCME", 403, 200),
        ("/user/memberships/orgs/invited", 403, 200),
        ("/user/memberships/orgs/other", 403, 404),
        ("/user/memberships/orgs/closed", 403, 404),
        ("/orgs/acme/teams/CORE/memberships/Mona", 403, 200),
        ("/orgs/acme/teams/other/memberships/mona", 403, 404),
        ("/orgs/acme/members/mona", 302, 204),
        ("/orgs/acme/members/octocat", 302, 404),
        ("/orgs/invited/members/mona", 302, 302),
        ("/user/emails", 404, 404),
        ("/user/orgs", 403, 200),
    ] {
        assert_eq!(github.api(path, &blind).await.status, without, "{path} without read:org");
        assert_eq!(github.api(path, &token).await.status, with, "{path} with read:org");
    }
    let state = |reply: Reply| reply.json()["state"].clone();
    assert_eq!(state(github.api("/user/memberships/orgs/invited", &token).await), "pending");
    assert_eq!(state(github.api("/user/memberships/orgs/acme", &token).await), "active");
    let orgs = github.api("/user/orgs", &token).await.json();
    assert_eq!((orgs.as_array().map(Vec::len), &orgs[0]["login"]), (Some(1), &json!("Acme")));
}

#[tokio::test]
async fn teams_come_in_pages_of_thirty() {
    let github = Site::start(Options::default()).await;
    let mut mona = User::new(7, "mona");
    for number in 0..65 {
        mona = mona.in_team("acme", &format!("team-{number}"), State::Active);
    }
    github.world().add_user(mona);
    let token = github.world().issue("mona", "read:org");
    let sizes = async |path: &str| {
        let page = github.api(path, &token).await;
        (page.json().as_array().map(Vec::len), page.header("link").unwrap_or_default().to_owned())
    };
    let (first, links) = sizes("/user/teams").await;
    assert_eq!(first, Some(30));
    let next = format!("<{}/user/teams?per_page=30&page=2>; rel=\"next\"", github.api_url());
    assert!(links.starts_with(&next), "{links}");
    let (third, links) = sizes("/user/teams?page=3").await;
    assert_eq!((third, links.contains("rel=\"next\"")), (Some(5), false));
    assert_eq!(sizes("/user/teams?per_page=1000").await, (Some(65), String::new()));
}

#[tokio::test]
async fn app_checks_and_revokes_with_its_own_credentials() {
    let github = Site::start(Options::default()).await;
    let [first, second] = [(); 2].map(|()| github.world().issue("octocat", "repo"));
    let basic = STANDARD.encode("standin-client:standin-secret");
    let of_app = async |method: Method, what: &str, token: &str| {
        let path = format!("/api/v3/applications/standin-client/{what}");
        let headers = [("authorization", &*format!("Basic {basic}")), ("content-type", "application/json")];
        github.send(method, &path, &headers, &json!({ "access_token": token }).to_string()).await
    };
    let checked = of_app(Method::POST, "token", &first).await;
    assert_eq!((checked.status, &checked.json()["user"]["id"]), (200, &json!(583231)));
    assert_eq!(of_app(Method::DELETE, "token", &first).await.status, 204);
    assert_eq!(of_app(Method::POST, "token", &first).await.status, 404);
    assert!(github.world().is_live(&second), "only one token was revoked");
    let reset = of_app(Method::PATCH, "token", &second).await.json();
    assert!(!github.world().is_live(&second));
    let third = reset["token"].as_str().expect("a reset answers the new token");
    assert_eq!(of_app(Method::DELETE, "grant", third).await.status, 204);
    assert!(github.world().live_tokens("octocat").is_empty());
    let unauthenticated = github.post("/api/v3/applications/standin-client/token", &[]).await;
    assert_eq!(unauthenticated.status, 401);
}

// === Faults, holds, control ===

#[tokio::test]
async fn faults_follow_each_other_and_end() {
    let github = Site::start(Options::default()).await;
    let token = github.world().issue("octocat", "repo");
    let limited = Fault::RateLimited { status: 403, retry_after: Some(9), reset: Some(1_800_000_000) };
    for fault in [Fault::Status(500), Fault::BadGateway, limited, Fault::Garbage, Fault::Truncated] {
        github.world().fail_times(Endpoint::User, fault, 1);
    }
    assert_eq!(github.user(&token).await.status, 500);
    let gateway = github.user(&token).await;
    assert_eq!((gateway.status, gateway.body.starts_with("<!doctype html>")), (502, true));
    let limited = github.user(&token).await;
    assert_eq!((limited.status, limited.header("retry-after")), (403, Some("9")));
    assert_eq!(limited.header("x-ratelimit-remaining"), Some("0"));
    for _ in ["garbage", "truncated"] {
        let broken = github.user(&token).await;
        assert_eq!((broken.status, serde_json::from_str::<Value>(&broken.body).is_err()), (200, true));
    }
    assert_eq!(github.user(&token).await.status, 200);
    assert_eq!(github.world().count(Endpoint::User), 6);
}

#[tokio::test]
async fn answer_can_be_bent_or_lost() {
    let github = Site::start(Options::default()).await;
    let bent = async |fault| {
        let code = github.code("scope=repo").await;
        github.world().fail_times(Endpoint::Exchange, fault, 1);
        let form =
            [("code", code.as_str()), ("client_id", "standin-client"), ("client_secret", "standin-secret")];
        let request = github.request(Method::POST, "/login/oauth/access_token", &[], &encode(&form));
        match request.send().await {
            Ok(reply) => reply.text().await.ok(),
            Err(_) => None,
        }
    };
    let live = || github.world().live_tokens("octocat").len();
    assert_eq!((bent(Fault::Dropped).await, live()), (None, 0));
    assert_eq!((bent(Fault::AnswerLost).await, live()), (None, 1));
    assert_eq!((bent(Fault::BrokenOff).await, live()), (None, 2));
    let without = bent(Fault::NoAccessToken).await;
    assert!(without.as_ref().is_some_and(|body| !body.contains("access_token")), "{without:?}");
    let error = bent(Fault::OAuthError("bad_refresh_token".to_owned())).await;
    assert!(error.is_some_and(|body| body.contains("bad_refresh_token")));
    assert!(bent(Fault::Huge(3_000_000)).await.is_some_and(|body| body.len() > 3_000_000));
}

#[tokio::test]
async fn held_calls_wait_until_released() {
    let github = Site::start(Options::default()).await;
    let token = github.world().issue("octocat", "repo");
    let hold = github.world().hold(Endpoint::User);
    let calls = async { tokio::join!(github.user(&token), github.user(&token)) };
    let release = async {
        github.called(Endpoint::User, 2).await;
        github.world().revoke(&token);
        hold.release();
    };
    let ((first, second), ()) = tokio::join!(calls, release);
    assert_eq!((first.status, second.status), (401, 401), "held calls were not carried out before");
}

#[tokio::test]
async fn silent_endpoint_never_answers_and_stop_makes_github_unreachable() {
    let github = Site::start(Options::default()).await;
    github.world().fail(Endpoint::Authorize, Fault::Silent);
    let unanswered = github.request(Method::GET, "/login/oauth/authorize", &[], "").send();
    let stop = async {
        github.called(Endpoint::Authorize, 1).await;
        github.stop();
    };
    let (unanswered, ()) = tokio::join!(unanswered, stop);
    assert!(unanswered.is_err());
    assert!(github.request(Method::GET, "/", &[], "").send().await.is_err());
}

#[tokio::test]
async fn other_processes_control_it_when_allowed() {
    let github = Site::start(Options::default()).await;
    assert_eq!(github.post("/_standin/sign-out", &[]).await.status, 404);

    let github = Site::start(Options { control: true, ..Options::default() }).await;
    for (verb, status) in [
        ("approval?mode=denied", 204),
        ("sign-in?login=OCTOCAT", 204),
        ("sign-in?login=nobody", 400),
        ("fault?endpoint=team-membership&fault=status:500&times=1", 204),
        ("fault?endpoint=user&fault=nonsense", 400),
        ("spurious-401?calls=1", 204),
        ("forward?seconds=10", 204),
        ("nonsense", 400),
    ] {
        assert_eq!(github.post(&format!("/_standin/{verb}"), &[]).await.status, status, "{verb}");
    }
    let json = [("content-type", "application/json")];
    let added = github.send(Method::POST, "/_standin/user", &json, r#"{"id":7,"login":"mona"}"#).await;
    assert_eq!((added.status, github.world().user("mona").map(|user| user.id)), (204, Some(7)));
    assert!(param(&github.authorize("").await.location(), "error").is_some());
    let counters = github.get("/_standin/counters").await.json();
    assert_eq!((&counters["calls"]["authorize"], &counters["live_tokens"]["mona"]), (&json!(1), &json!(0)));
}

// === Talking to it ===

const CALLBACK: &str = "http://127.0.0.1:4/callback";
const ASKED: &str = "client_id=standin-client&redirect_uri=http://127.0.0.1:4/callback";

fn app_tokens() -> Options {
    let token_kind = TokenKind::GitHubApp { lifetime: 28800, refresh_lifetime: 15897600 };
    Options { token_kind, ..Options::default() }
}

fn param(url: &Url, name: &str) -> Option<String> {
    let params: HashMap<_, _> = url.query_pairs().into_owned().collect();
    params.get(name).cloned()
}

fn encode(form: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}

/// The stand-in with octocat signed in, and a client that follows no redirect.
struct Site {
    github: GitHub,
    client: reqwest::Client,
}

impl std::ops::Deref for Site {
    type Target = GitHub;

    fn deref(&self) -> &GitHub {
        &self.github
    }
}

impl Site {
    async fn start(options: Options) -> Site {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let github = GitHub::start(options).await.expect("port 0 can be bound");
        github.world().add_user(User::octocat());
        github.world().sign_in("octocat");
        let client = reqwest::Client::builder().redirect(Policy::none()).no_proxy();
        Site { github, client: client.build().expect("a plain client") }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> reqwest::RequestBuilder {
        let mut request = self.client.request(method, self.base_url() + path).body(body.to_owned());
        if !headers.iter().any(|(name, _)| *name == "user-agent") {
            request = request.header("user-agent", "tests");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let reply = self.request(method, path, headers, body).send().await;
        Reply::read(reply.expect("the stand-in answers")).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Reply {
        self.send(Method::POST, path, &[], &encode(form)).await
    }

    async fn authorize(&self, query: &str) -> Reply {
        self.get(&format!("/login/oauth/authorize?{ASKED}&{query}")).await
    }

    async fn code(&self, query: &str) -> String {
        param(&self.authorize(query).await.location(), "code").expect("a code")
    }

    async fn token(&self, form: &[(&str, &str)]) -> Value {
        let credentials = [("client_id", "standin-client"), ("client_secret", "standin-secret")];
        let form = encode(&[&credentials, form].concat());
        let accept = [("accept", "application/json")];
        let reply = self.send(Method::POST, "/login/oauth/access_token", &accept, &form).await;
        assert_eq!(reply.status, 200, "errors come with status 200, too");
        reply.json()
    }

    async fn exchange(&self, code: &str, more: &[(&str, &str)]) -> Value {
        self.token(&[&[("code", code), ("redirect_uri", CALLBACK)], more].concat()).await
    }

    async fn refresh(&self, pair: &Value) -> Value {
        let refresh_token = pair["refresh_token"].as_str().expect("a refresh token");
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", refresh_token)]).await
    }

    async fn api(&self, path: &str, token: &str) -> Reply {
        let authorization = format!("Bearer {token}");
        self.send(Method::GET, &format!("/api/v3{path}"), &[("authorization", &authorization)], "").await
    }

    async fn user(&self, token: &str) -> Reply {
        self.api("/user", token).await
    }

    async fn user_of(&self, pair: &Value) -> Reply {
        self.user(pair["access_token"].as_str().expect("an access token")).await
    }
}

struct Reply {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Reply {
    async fn read(reply: Response) -> Reply {
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        Reply { status, headers, body: reply.text().await.expect("a whole body") }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    #[track_caller]
    fn location(&self) -> Url {
        let location = self.header("location").unwrap_or_else(|| panic!("no redirect: {}", self.body));
        Url::parse(location).expect("an absolute URL")
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }
}
