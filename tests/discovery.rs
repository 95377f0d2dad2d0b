//! Metadata documents: every spelling clients try, the same bytes for everybody.
//!
//! RFC 8414 §3; RFC 9728 §3; MCP authorization, discovery.

mod support;

use bytes::Bytes;
use http::{Method, header};
use serde_json::Value;
use support::http::Answer;
use support::proxy::{PUBLIC, Proxy, Setup};

const TWO: &str =
    r#"[{path: /u1, upstream: "MCP/u1"}, {path: /team/u2, upstream: "MCP/u2", scopes: [read, write]}]"#;
const SERVER: [&str; 2] = ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];
const RESOURCE: &str = "/.well-known/oauth-protected-resource";

async fn two() -> Proxy {
    Proxy::with(Setup { resources: TWO, ..Setup::default() }).await
}

async fn with(extra: &str) -> Value {
    let proxy = Proxy::with(Setup { extra: extra.to_owned(), ..Setup::default() }).await;
    proxy.get(SERVER[0]).await.expect(200).json()
}

async fn get_with(proxy: &Proxy, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = proxy.request(Method::GET, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    proxy.send(request.body(Bytes::new()).expect("a request")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_are_what_the_golden_files_say() {
    let proxy = two().await;
    for (path, golden) in [
        (SERVER[0], include_str!("golden/authorization-server.json")),
        ("/.well-known/oauth-protected-resource/team/u2", include_str!("golden/protected-resource.json")),
    ] {
        let answer = proxy.get(path).await.expect(200);
        let golden: Value = serde_json::from_str(golden).expect("golden files are JSON");
        assert_eq!(answer.json(), golden, "{path}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_document_is_the_same_in_every_spelling() {
    let proxy = two().await;
    let expected = proxy.get(SERVER[0]).await.expect(200).body;
    for well_known in SERVER {
        for path in [
            well_known.to_owned(),
            format!("{well_known}/u1"),
            format!("{well_known}/team/u2"),
            format!("/u1{well_known}"),
            format!("/team/u2{well_known}"),
            // Clients that were given the URL with a slash at its end.
            format!("{well_known}/"),
            format!("{well_known}/u1/"),
        ] {
            let answer = proxy.get(&path).await.expect(200);
            assert_eq!(answer.body, expected, "{path}");
            assert_eq!(answer.header("content-type"), "application/json", "{path}");
            assert!(answer.header("cache-control").contains("max-age"), "{path}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        }
    }
}

// GT-28
#[tokio::test(flavor = "multi_thread")]
async fn every_resource_has_its_own_document_and_the_root_means_the_first() {
    let proxy = two().await;
    for (path, resource) in [
        (RESOURCE.to_owned(), "/u1"),
        (format!("{RESOURCE}/u1"), "/u1"),
        (format!("{RESOURCE}/u1/"), "/u1"),
        (format!("/u1{RESOURCE}"), "/u1"),
        (format!("{RESOURCE}/team/u2"), "/team/u2"),
        (format!("/team/u2{RESOURCE}"), "/team/u2"),
    ] {
        let document = proxy.get(&path).await.expect(200).json();
        assert_eq!(document["resource"], format!("{PUBLIC}{resource}"), "{path}");
        // AS-D2: byte for byte the issuer.
        let issuer = proxy.get(SERVER[0]).await.json()["issuer"].clone();
        assert_eq!(document["authorization_servers"], Value::Array(vec![issuer]), "{path}");
    }
}

// GT-28, and clients that abort discovery on anything but a 4xx.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_well_known_paths_are_a_json_404_without_echo() {
    let proxy = two().await;
    for path in [
        "/.well-known/oauth-protected-resource/evil",
        "/.well-known/oauth-protected-resource/u1/evil",
        "/.well-known/oauth-protected-resource//u1",
        "/.well-known/oauth-protected-resource/u1//",
        "/.well-known/oauth-protected-resource/%75%31",
        "/.well-known/oauth-protected-resource/U1",
        "/.well-known/oauth-protected-resourcex",
        "/.well-known/oauth-authorization-server/evil",
        "/.well-known/jwks.json",
        "/.well-known/",
        "/.well-known",
        "/evil/.well-known/oauth-authorization-server",
    ] {
        let answer = proxy.get(path).await.expect(404);
        assert_eq!(answer.error(), "not_found", "{path}");
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        assert!(!answer.text().contains("evil"), "{path}");
        // A page that looks for metadata must be able to read that there is none.
        let exposed = answer.header("access-control-allow-origin") == "*";
        assert_eq!(exposed, path.starts_with("/.well-known/"), "{path}");
    }
}

// AS-D11, GT-22
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_any_origin_may_read_metadata() {
    let proxy = two().await;
    let paths = [SERVER[0].to_owned(), format!("{}/u1", SERVER[1]), format!("{RESOURCE}/u1")];
    for path in paths {
        let answer = get_with(&proxy, &path, &[("origin", "http://localhost:6274")]).await.expect(200);
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), "", "{path}");
        let preflight = proxy
            .request(Method::OPTIONS, &path)
            .header(header::ORIGIN, "http://localhost:6274")
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "mcp-protocol-version");
        let answer = proxy.send(preflight.body(Bytes::new()).expect("a request")).await.expect(204);
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
        assert!(answer.header("access-control-allow-methods").contains("GET"), "{path}");
        let allowed = answer.header("access-control-allow-headers").to_ascii_lowercase();
        assert!(allowed.contains("mcp-protocol-version"), "{path}: {allowed}");
    }
}

// AS-D12, AS-D13, GT-14, GT-19
#[tokio::test(flavor = "multi_thread")]
async fn nothing_a_request_says_changes_a_document() {
    let proxy = two().await;
    for path in [SERVER[0], RESOURCE] {
        let expected = proxy.get(path).await.expect(200).body;
        for headers in [
            [("x-forwarded-host", "evil.test")].as_slice(),
            &[("x-forwarded-proto", "http"), ("x-forwarded-prefix", "/evil")],
            &[("forwarded", "host=evil.test;proto=http")],
            &[("x-original-url", "/evil"), ("x-rewrite-url", "/evil")],
            &[("mcp-protocol-version", "2025-03-26")],
            &[("mcp-protocol-version", "nonsense")],
            &[("authorization", "Bearer nonsense")],
            &[("cookie", "mcp-consent=x")],
            &[("accept", "text/html")],
        ] {
            let answer = get_with(&proxy, path, headers).await.expect(200);
            assert_eq!(answer.body, expected, "{path} {headers:?}");
        }
        assert_eq!(proxy.get(&format!("{path}?resource=evil")).await.expect(200).body, expected);
    }
}

// GT-19: a foreign Host is refused, and a name of this machine does not get into the document.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_header_is_ours_or_refused() {
    let proxy = two().await;
    let ask = async |hosts: &[&str]| {
        let mut request = http::Request::builder().uri(SERVER[0]);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        proxy.send(request.body(Bytes::new()).expect("a request")).await
    };
    for foreign in ["evil.test", "p.test.evil.test", "p.test:8443", "evil@p.test"] {
        let answer = ask(&[foreign]).await;
        assert!([400, 421].contains(&answer.status), "{foreign}: {}", answer.status);
        assert!(!answer.text().contains("evil"), "{foreign}: {}", answer.text());
    }
    ask(&["p.test", "p.test"]).await.expect(400);
    ask(&[]).await.expect(400);
    for own in ["p.test", "P.TEST", "p.test:443", "localhost:8000", "127.0.0.1:1"] {
        assert_eq!(ask(&[own]).await.expect(200).json()["issuer"], PUBLIC, "{own}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_has_the_head_of_get() {
    let proxy = two().await;
    for path in [SERVER[0], RESOURCE] {
        let get = proxy.get(path).await.expect(200);
        let request = proxy.request(Method::HEAD, path).body(Bytes::new()).expect("a request");
        let head = proxy.send(request).await.expect(200);
        assert!(head.body.is_empty());
        for name in ["content-type", "content-length", "cache-control", "access-control-allow-origin"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_are_refused_with_allow() {
    let proxy = two().await;
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let request = proxy.request(method, SERVER[0]).body(Bytes::new()).expect("a request");
        assert_eq!(proxy.send(request).await.expect(405).header("allow"), "GET, HEAD, OPTIONS");
    }
}

// AS-D6, AS-D10: what is advertised is on the public URL and answers.
#[tokio::test(flavor = "multi_thread")]
async fn every_advertised_endpoint_answers() {
    let proxy = two().await;
    let document = proxy.get(SERVER[0]).await.expect(200).json();
    let endpoints = document.as_object().expect("an object").iter();
    let endpoints: Vec<_> = endpoints.filter(|(name, _)| name.ends_with("_endpoint")).collect();
    assert_eq!(endpoints.len(), 4, "{endpoints:?}");
    for (name, url) in endpoints {
        let path = url.as_str().and_then(|url| url.strip_prefix(PUBLIC));
        let path = path.unwrap_or_else(|| panic!("{name} is elsewhere: {url}"));
        let answer = proxy.post_form(path, &[]).await;
        assert!(![404, 405, 500].contains(&answer.status), "{name}: {}", answer.status);
    }
    for resource in document["protected_resources"].as_array().expect("a list") {
        let path = resource.as_str().and_then(|url| url.strip_prefix(PUBLIC)).expect("ours");
        proxy.get(path).await.expect(401);
    }
}

// DR-09, AS-D8, AS-D9
#[tokio::test(flavor = "multi_thread")]
async fn what_is_switched_off_is_not_advertised() {
    let plain = with("").await;
    // DR-09, AS-D8, AS-D9
    for (extra, member) in [
        ("registration: off", "registration_endpoint"),
        ("registration: 'off'", "registration_endpoint"),
        ("iss: false", "authorization_response_iss_parameter_supported"),
        ("client_metadata: {enabled: false}", "client_id_metadata_document_supported"),
    ] {
        assert!(plain.get(member).is_some(), "{member} is there by default");
        let changed = with(extra).await;
        assert_eq!(changed.get(member), None, "{extra}");
        let mut rest = plain.clone();
        rest.as_object_mut().expect("an object").remove(member);
        assert_eq!(changed, rest, "{extra} changes nothing else");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_challenge_leads_to_the_document_of_the_resource_asked() {
    let proxy = two().await;
    for path in ["/u1", "/team/u2", "/u1/", "/team/u2/"] {
        let answer = proxy.get(path).await.expect(401);
        let challenge = answer.header("www-authenticate");
        let url = support::browser::between(challenge, "resource_metadata=\"", "\"").expect("quoted");
        let document = proxy.get(url.strip_prefix(PUBLIC).expect("absolute")).await.expect(200).json();
        assert_eq!(document["resource"], format!("{PUBLIC}{}", path.trim_end_matches('/')));
        // Clients ask for the scopes of the challenge: they are those of the document.
        let scope = support::browser::between(challenge, "scope=\"", "\"").expect("a scope");
        let listed: Vec<_> = document["scopes_supported"].as_array().expect("a list").iter().collect();
        assert_eq!(listed, scope.split(' ').collect::<Vec<_>>());
    }
}
