//! Session ids and legacy endpoints belong to a person. MCP security best practices, session hijacking.

mod support;

use bytes::Bytes;
use http::{HeaderValue, Method};
use support::TempDir;
use support::github::User;
use support::http::{self as plain, Answer};
use support::proxy::{PING, Proxy, Setup, Tokens};
use support::upstream::{RESULT, events, json};

const ID: &str = "0b6a7c1e-session.with~odd!chars";

const TWO: &str = r#"[{path: /mcp, upstream: "MCP/mcp"}, {path: /two, upstream: "MCP/two"}]"#;

/// Two people, and an upstream that opens a session for whoever comes without one.
async fn two_people(setup: Setup) -> (Proxy, Tokens, Tokens) {
    let proxy = Proxy::with(Setup { resources: TWO, ..setup }).await;
    let ann = proxy.login().await;
    proxy.github.world().add_user(User::new(7, "bob"));
    proxy.github.world().sign_in("bob");
    let bob = proxy.login().await;
    proxy.mcp.say(|heard| {
        let mut response = json(RESULT);
        if !heard.headers.contains_key("mcp-session-id") {
            response.headers_mut().insert("mcp-session-id", HeaderValue::from_static(ID));
        }
        response
    });
    (proxy, ann, bob)
}

async fn call(proxy: &Proxy, method: Method, path: &str, token: &str, sessions: &[&[u8]]) -> Answer {
    let mut request = proxy.call(path, token).method(method);
    for session in sessions {
        request = request.header("mcp-session-id", HeaderValue::from_bytes(session).unwrap());
    }
    proxy.send(request.body(Bytes::from_static(PING)).unwrap()).await
}

// PX-S16
#[tokio::test(flavor = "multi_thread")]
async fn a_session_works_for_its_owner_and_is_unknown_to_everybody_else() {
    let dir = TempDir::new();
    let (mut proxy, ann, bob) = two_people(Setup::on(&dir)).await;
    let opened = call(&proxy, Method::POST, "/mcp", &ann.access, &[]).await.expect(200);
    let session = opened.header("mcp-session-id").to_owned();
    assert!(session.bytes().all(|byte| byte.is_ascii_graphic()), "MCP transports: visible ASCII");
    for method in [Method::POST, Method::GET, Method::DELETE] {
        call(&proxy, method.clone(), "/mcp", &ann.access, &[session.as_bytes()]).await.expect(200);
        let heard = proxy.mcp.last();
        assert_eq!((heard.header("mcp-session-id"), &heard.method), (ID, &method), "the upstream's own id");
    }
    let before = proxy.mcp.heard().len();
    let elsewhere = proxy.login_for(&[("resource", "https://p.test/two")]).await;
    let changed = session.replace("0b6a", "0b6b");
    for (token, path, ids) in [
        (&bob.access, "/mcp", &[session.as_bytes()][..]),
        (&elsewhere.access, "/two", &[session.as_bytes()]),
        (&ann.access, "/mcp", &[ID.as_bytes()]),
        (&ann.access, "/mcp", &[changed.as_bytes()]),
        (&ann.access, "/mcp", &[&session.as_bytes()[..session.len() - 1]]),
        (&ann.access, "/mcp", &[b""]),
        (&ann.access, "/mcp", &[b"."]),
        (&ann.access, "/mcp", &[b"\xff\xfe"]),
        (&ann.access, "/mcp", &[session.as_bytes(), session.as_bytes()]),
    ] {
        for method in [Method::POST, Method::GET, Method::DELETE] {
            let answer = call(&proxy, method, path, token, ids).await.expect(404);
            assert!(!answer.headers.contains_key("www-authenticate"));
        }
    }
    // Servers that read `_` and `.` as `-` must not see an id that was not looked at.
    for spelling in ["mcp-session_id", "mcp_session-id", "mcp-session.id", "Mcp-SessionId"] {
        let request = proxy.call("/mcp", &bob.access).header(spelling, ID);
        proxy.send(request.body(Bytes::from_static(PING)).unwrap()).await.expect(200);
        let heard = proxy.mcp.last();
        assert!(!heard.headers.values().any(|value| value.as_bytes() == ID.as_bytes()), "{spelling}");
    }
    let before = proxy.mcp.heard().len().max(before);
    // Without a token it is no session at all.
    let bare = proxy.request(Method::DELETE, "/mcp").header("mcp-session-id", &session);
    proxy.send(bare.body(Bytes::new()).unwrap()).await.expect(401);
    assert_eq!(proxy.mcp.heard().len(), before);

    // The same person elsewhere, and after a restart: still theirs.
    proxy.github.world().sign_in("octocat");
    let again = proxy.login().await;
    call(&proxy, Method::POST, "/mcp", &again.access, &[session.as_bytes()]).await.expect(200);
    proxy.restart().await;
    call(&proxy, Method::POST, "/mcp", &ann.access, &[session.as_bytes()]).await.expect(200);
    call(&proxy, Method::POST, "/mcp", &bob.access, &[session.as_bytes()]).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstreams_id_that_is_no_id_is_not_passed_on() {
    let (proxy, ann, _) = two_people(Setup::default()).await;
    for id in [&b""[..], b"a b", b"\xc3\xbc", b"a\tb"] {
        proxy.mcp.say(move |_| {
            let mut response = json(RESULT);
            response.headers_mut().insert("mcp-session-id", HeaderValue::from_bytes(id).unwrap());
            response
        });
        let answer = call(&proxy, Method::POST, "/mcp", &ann.access, &[]).await.expect(502);
        assert!(!answer.headers.contains_key("mcp-session-id"), "{id:?}");
    }
}

// PX-S16, PX-V0, UP-11
#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_endpoint_works_for_its_owner_and_is_unknown_to_everybody_else() {
    let dir = TempDir::new();
    let (mut proxy, ann, bob) = two_people(Setup::on(&dir)).await;
    let (response, feed) = events();
    let response = std::sync::Mutex::new(Some(response));
    proxy.mcp.say(move |heard| match heard.method == Method::GET {
        true => response.lock().unwrap().take().unwrap(),
        false => {
            let mut accepted = json("");
            *accepted.status_mut() = http::StatusCode::ACCEPTED;
            accepted
        }
    });
    let request = proxy.call("/mcp", &ann.access).method(Method::GET).body(Bytes::new()).unwrap();
    let (head, mut body) = plain::open(proxy.address(), request).await;
    assert_eq!(head.status, 200);
    feed.send(Ok(Bytes::from("event: endpoint\ndata: /messages/?session_id=abc&x=%2F\n\n"))).unwrap();
    let event = plain::next(&mut body).await.unwrap().unwrap();
    let event = std::str::from_utf8(&event).unwrap();
    let endpoint = event.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end().to_owned();
    assert!(endpoint.starts_with("/mcp?endpoint=") && !endpoint.contains("abc"), "{endpoint}");

    call(&proxy, Method::POST, &endpoint, &ann.access, &[]).await.expect(202);
    let heard = proxy.mcp.last();
    assert_eq!((heard.target.as_str(), &heard.body[..]), ("/messages/?session_id=abc&x=%2F", PING));
    proxy.restart().await;
    call(&proxy, Method::POST, &endpoint, &ann.access, &[]).await.expect(202);

    let before = proxy.mcp.heard().len();
    let elsewhere = proxy.login_for(&[("resource", "https://p.test/two")]).await;
    call(&proxy, Method::POST, &endpoint, &bob.access, &[]).await.expect(404);
    call(&proxy, Method::POST, &endpoint.replace("/mcp", "/two"), &elsewhere.access, &[]).await.expect(404);
    let cut = &endpoint[..endpoint.len() - 2];
    let more = format!("{endpoint}&session_id=other");
    for odd in [
        cut,
        &more,
        "/mcp?endpoint=",
        "/mcp?endpoint=L21lc3NhZ2Vz",
        "/mcp?endpoint=/messages/?session_id=abc",
    ] {
        call(&proxy, Method::POST, odd, &ann.access, &[]).await.expect(404);
    }
    // PX-V0b: without a token, the same challenge as everywhere.
    let bare = proxy.request(Method::POST, &endpoint).body(Bytes::from_static(PING)).unwrap();
    let challenge = proxy.send(bare).await.expect(401);
    assert!(challenge.header("www-authenticate").contains("/.well-known/oauth-protected-resource/mcp\""));
    assert_eq!(proxy.mcp.heard().len(), before);
}
