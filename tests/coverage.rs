//! Every door, tried by somebody who is not let in: a new endpoint without a case here fails.

mod support;

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, header};
use mcp_auth_proxy::server::router::ROUTES;
use support::proxy::Proxy;

/// (path, method, status for a stranger who sends nothing, `error` when the answer is JSON).
const CASES: [(&str, &str, u16, &str); 22] = [
    ("/register", "POST", 400, "invalid_client_metadata"),
    ("/register", "OPTIONS", 204, ""),
    ("/authorize", "GET", 400, ""),
    ("/authorize", "HEAD", 400, ""),
    ("/authorize", "POST", 400, ""),
    ("/consent", "POST", 403, ""),
    ("/github/callback", "GET", 400, ""),
    ("/token", "POST", 400, "invalid_request"),
    ("/token", "OPTIONS", 204, ""),
    ("/revoke", "POST", 400, "invalid_request"),
    ("/revoke", "OPTIONS", 204, ""),
    ("/mcp", "GET", 401, "unauthorized"),
    ("/mcp", "POST", 401, "unauthorized"),
    ("/mcp", "DELETE", 401, "unauthorized"),
    ("/mcp", "OPTIONS", 204, ""),
    ("/mcp/", "GET", 401, "unauthorized"),
    ("/mcp/", "POST", 401, "unauthorized"),
    ("/mcp/", "DELETE", 401, "unauthorized"),
    ("/mcp/", "OPTIONS", 204, ""),
    ("/", "GET", 200, ""),
    ("/healthz", "GET", 200, ""),
    ("/readyz", "GET", 200, ""),
];
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"];

async fn ask(proxy: &Proxy, path: &str, method: &str) -> support::http::Answer {
    let method: Method = method.parse().expect("a method");
    let mut request = proxy.request(method, path);
    if matches!(path, "/token" | "/revoke") {
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    proxy.send(request.body(Bytes::new()).expect("a request")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_the_expected_status_at_every_door() {
    let proxy = Proxy::start().await;
    for (path, method, status, error) in CASES {
        let answer = ask(&proxy, path, method).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        if !error.is_empty() {
            assert_eq!(answer.error(), error, "{method} {path}");
        }
    }
    assert!(proxy.mcp.heard().is_empty(), "nothing reached the upstream");
    assert!(proxy.github.world().calls().is_empty(), "nothing reached GitHub");
}

/// The list above cannot fall behind the router.
#[test]
fn every_method_of_every_route_has_a_case() {
    let known: BTreeSet<(&str, &str)> = CASES.iter().map(|(path, method, ..)| (*path, *method)).collect();
    for (path, endpoint) in ROUTES {
        for method in endpoint.methods().split(", ") {
            assert!(known.contains(&(path, method)), "{method} {path} has no case");
        }
        assert_eq!(known.contains(&(path, "OPTIONS")), endpoint.is_for_scripts(), "OPTIONS {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_method_is_refused_everywhere() {
    let proxy = Proxy::start().await;
    let known: BTreeSet<(&str, &str)> = CASES.iter().map(|(path, method, ..)| (*path, *method)).collect();
    let paths: BTreeSet<&str> = known.iter().map(|(path, _)| *path).collect();
    for path in paths.into_iter().filter(|path| !matches!(*path, "/healthz" | "/readyz")) {
        for method in METHODS.into_iter().filter(|method| !known.contains(&(path, method))) {
            let answer = ask(&proxy, path, method).await;
            if (path, method) == ("/", "HEAD") {
                assert_eq!(answer.status, 200);
                continue;
            }
            assert_eq!(answer.status, 405, "{method} {path}");
            let allowed: Vec<&str> = answer.header("allow").split(", ").collect();
            assert!(!allowed.contains(&method) && !allowed.is_empty(), "{method} {path}: {allowed:?}");
        }
    }
    assert!(proxy.mcp.heard().is_empty());
}

/// SE-08
#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_other_doors() {
    let proxy = Proxy::start().await;
    for path in [
        "/metrics",
        "/debug",
        "/debug/pprof",
        "/admin",
        "/status",
        "/introspect",
        "/userinfo",
        "/jwks",
        "/login",
        "/register/x",
        "/token/",
        "/authorize/",
        "/consent/",
        "/github/callback/",
        "/github",
        "/callback",
        "/mcp2",
        "/mcpx",
        "/mcp/x",
        "/mcp//",
        "//mcp",
        "/MCP",
        "/%6dcp",
        "/mcp;x",
        "/mcp%2f",
        "/mcp%00",
        "/favicon.ico",
    ] {
        for method in ["GET", "POST"] {
            let answer = ask(&proxy, path, method).await;
            assert_eq!(answer.status, 404, "{method} {path}");
            assert_eq!(answer.error(), "not_found", "{method} {path}");
        }
    }
    assert!(proxy.mcp.heard().is_empty());
}

/// AS-R14, AS-A13, GT-22: scripts of other origins may use the machine endpoints, never the person's pages.
#[tokio::test(flavor = "multi_thread")]
async fn only_machine_endpoints_are_readable_from_other_origins() {
    let proxy = Proxy::start().await;
    for (path, endpoint) in ROUTES {
        let preflight = proxy
            .request(Method::OPTIONS, path)
            .header(header::ORIGIN, "https://app.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type");
        let answer = proxy.send(preflight.body(Bytes::new()).expect("a request")).await;
        let post = proxy.request(Method::POST, path).header(header::ORIGIN, "https://app.example");
        let posted = proxy.send(post.body(Bytes::new()).expect("a request")).await;
        let expected = if endpoint.is_for_scripts() { "*" } else { "" };
        for answer in [&answer, &posted] {
            assert_eq!(answer.header("access-control-allow-origin"), expected, "{path}");
            assert_eq!(answer.header("access-control-allow-credentials"), "", "{path}");
        }
        assert_eq!(answer.status, if endpoint.is_for_scripts() { 204 } else { 405 }, "{path}");
    }
}
