//! Which headers, statuses and bodies pass, in both directions. RFC 9110 §7.6; RFC 9700 §4.13.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, header};
use http_body_util::{BodyExt, Full};
use support::github::{Endpoint, User};
use support::http::Answer;
use support::proxy::{PING, Proxy, Setup, Tokens, in_front_of};
use support::raw;
use support::upstream::{Body, RESULT, Raw, json, whole};

async fn send(proxy: &Proxy, tokens: &Tokens, headers: &[(&str, &str)]) -> Answer {
    let mut request = proxy.call("/mcp", &tokens.access);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    proxy.send(request.body(Bytes::from_static(PING)).unwrap()).await
}

fn with_headers(headers: &'static [(&'static str, &'static str)]) -> Response<Body> {
    let mut response = json(RESULT);
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        response.headers_mut().append(name, HeaderValue::from_static(value));
    }
    response
}

fn with_status(status: u16, text: &'static str) -> Response<Body> {
    let mut response = whole("application/json", text);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    response
}

// PX-H5
#[tokio::test(flavor = "multi_thread")]
async fn what_an_mcp_server_needs_passes_unchanged() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let sent = [
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "=?base64?Zm9vIGJhcg==?="),
        ("mcp-param-x-y", "=?base64?4pyT?="),
        ("mcp-unheard-of", "a, b;c=\"d\""),
        ("last-event-id", "17/\"x\""),
        ("accept-language", "de, en;q=0.5"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=b"),
        ("baggage", "k=v"),
        ("user-agent", "some client/1.0 (x)"),
        ("x-request-id", "r-1"),
        ("accept-encoding", "gzip, br"),
        ("content-language", "en"),
    ];
    send(&proxy, &tokens, &sent).await.expect(200);
    let heard = proxy.mcp.last();
    for (name, value) in sent {
        assert_eq!(heard.header(name), value, "{name}");
    }
    assert_eq!(heard.header("content-type"), "application/json");
    assert_eq!(heard.header("accept"), "application/json, text/event-stream");
    assert_eq!(heard.header("content-length"), PING.len().to_string());
    // PX-H7, PX-H8
    assert_eq!(format!("http://{}", heard.header("host")), proxy.mcp.origin());
    assert_eq!(heard.header("via"), "1.1 mcp-auth-proxy");
}

// GT-08, GT-09, GT-13, GT-14, PX-H1, PX-H4, PX-H8, PX-H9
#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_us_or_from_a_stranger_stays_here() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let dropped = [
        ("cookie", "a=b"),
        ("proxy-authorization", "Basic YTpi"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("upgrade", "websocket"),
        ("origin", "https://p.test"),
        ("referer", "https://p.test/x"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-prefix", "/x"),
        ("x-forwarded-uri", "/x"),
        ("x-forwarded-user", "root"),
        ("x-forwarded-email", "root@evil"),
        ("x-forwarded-access-token", "x"),
        ("x-original-url", "/x"),
        ("x-rewrite-url", "/x"),
        ("x-real-ip", "1.2.3.4"),
        ("x-remote-user", "root"),
        ("x-http-method-override", "DELETE"),
        ("x-whatever", "1"),
        ("if-none-match", "\"x\""),
        ("range", "bytes=0-1"),
        ("x-named", "1"),
    ];
    let connection = [("connection", "keep-alive, X-Named , mcp-param-a"), ("connection", "traceparent")];
    let named = [("mcp-param-a", "1"), ("traceparent", "00-x"), ("via", "1.0 client")];
    send(&proxy, &tokens, &[&dropped[..], &connection, &named].concat()).await.expect(200);
    let heard = proxy.mcp.last();
    for (name, _) in dropped.iter().chain(&connection).chain(&named).filter(|(name, _)| *name != "via") {
        assert!(!heard.headers.contains_key(*name), "{name}: {:?}", heard.headers);
    }
    assert!(!heard.headers.contains_key("authorization"));
    assert!(!format!("{:?}", heard.headers).contains(&tokens.access));
    assert!(!heard.headers.contains_key("transfer-encoding"));
}

// GT-10, GT-11, PX-H2, PX-H3
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_an_injected_name_gets_through_and_ours_is_there_once() {
    // The second name is one that clients may otherwise send.
    let resources = r#"[{path: /mcp, upstream: "MCP/mcp",
        inject: {X-GitHub-Token: "{github_token}", X-Request-Id: "{github_login}/{github_id}"}}]"#;
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let live = proxy.github.world().live_tokens("octocat")[0].clone();
    for spoof in [
        &[("x-github-token", "evil")][..],
        &[("X-GitHub-Token", "evil"), ("x-GITHUB-token", "evil")],
        &[("x_github_token", "evil"), ("X-Github_Token", "evil")],
        &[("x.github.token", "evil"), ("xgithubtoken", "evil")],
        &[("x-request-id", "evil"), ("x_request_id", "evil"), ("xrequestid", "evil")],
        &[("connection", "x-github-token, x-request-id"), ("x-github-token", "evil")],
        &[("x-github-token", ""), ("x-request-id", "")],
    ] {
        send(&proxy, &tokens, spoof).await.expect(200);
        let heard = proxy.mcp.last();
        assert!(!format!("{:?}", heard.headers).contains("evil"), "{spoof:?}: {:?}", heard.headers);
        let values = |name: &str| heard.headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values("x-github-token"), [live.as_str()], "{spoof:?}");
        assert_eq!(values("x-request-id"), ["octocat/583231"], "{spoof:?}");
    }
}

// GT-12, PX-H3
#[tokio::test(flavor = "multi_thread")]
async fn identity_is_injected_and_its_absence_too() {
    let resources = r#"[{path: /mcp, upstream: "MCP/mcp", inject: {
        Authorization: "Bearer {github_token}", X-Login: "{github_login}", X-Id: "{github_id}",
        Baggage: "{github_email}", X-Team: "blue"}}]"#;
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let spoof = [("baggage", "evil@evil"), ("x-login", "root"), ("x-team", "red")];
    send(&proxy, &tokens, &spoof).await.expect(200);
    let heard = proxy.mcp.last();
    let live = proxy.github.world().live_tokens("octocat")[0].clone();
    assert_eq!(
        heard.headers.get_all("authorization").iter().collect::<Vec<_>>(),
        [&format!("Bearer {live}")]
    );
    for (name, value) in
        [("x-login", "octocat"), ("x-id", "583231"), ("baggage", "octocat@example.com"), ("x-team", "blue")]
    {
        assert_eq!(heard.header(name), value);
    }
    // Somebody whose address is not verified: the header is missing, and nobody may fill the gap.
    proxy.github.world().add_user(User::new(7, "shy").with_email("shy@example.com", true, false));
    proxy.github.world().sign_in("shy");
    let shy = proxy.login().await;
    send(&proxy, &shy, &spoof).await.expect(200);
    let heard = proxy.mcp.last();
    assert_eq!(heard.header("x-login"), "shy");
    assert!(!heard.headers.contains_key("baggage"), "{:?}", heard.headers);
}

// GT-13
#[tokio::test(flavor = "multi_thread")]
async fn the_github_token_goes_only_where_it_is_configured() {
    let resources = r#"[{path: /u1, upstream: "MCP/a", inject: {X-GitHub-Token: "{github_token}"}}, {path: /u2, upstream: "MCP/b"}]"#;
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let two = proxy.login_for(&[("resource", "https://p.test/u2")]).await;
    let live = proxy.github.world().live_tokens("octocat")[0].clone();
    proxy.send(proxy.call("/u2", &two.access).body(Bytes::new()).unwrap()).await.expect(200);
    let heard = format!("{:?}", proxy.mcp.last());
    assert!(!heard.contains(&live) && !heard.contains("token"), "{heard}");
}

// PX-S7, GT-09, GT-23, GT-25, GT-26
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_cannot_speak_for_our_origin() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    proxy.mcp.say(|heard| {
        let mut response = with_headers(&[
            ("set-cookie", "__Host-x=1"),
            ("set-cookie", "b=2"),
            ("set-cookie2", "c"),
            ("strict-transport-security", "max-age=1"),
            ("alt-svc", "h3=\":443\""),
            ("clear-site-data", "*"),
            ("service-worker-allowed", "/"),
            ("location", "http://10.0.0.1/x"),
            ("refresh", "0;url=http://x"),
            ("www-authenticate", "Bearer resource_metadata=\"https://evil\""),
            ("proxy-authenticate", "Basic"),
            ("access-control-allow-origin", "https://evil"),
            ("access-control-allow-credentials", "true"),
            ("content-security-policy", "default-src *"),
            ("x-content-type-options", "sniff"),
            ("content-security-policy-report-only", "default-src *; report-uri http://evil"),
            ("connection", "x-named"),
            ("x-named", "1"),
            ("keep-alive", "timeout=5"),
            ("trailer", "x-t"),
            ("upgrade", "h2c"),
            ("report-to", "{}"),
            ("nel", "{}"),
            ("x-kept", "1"),
            ("x-kept", "2"),
            ("retry-after", "7"),
            ("content-language", "en"),
            ("mcp-protocol-version", "2025-11-25"),
            ("x-github-token", "echo"),
        ]);
        let echoed = format!("a {} b", heard.header("x-github-token"));
        response.headers_mut().insert("x-echo", HeaderValue::from_str(&echoed).unwrap());
        response
    });
    let answer = send(&proxy, &tokens, &[("origin", "http://localhost:6274")]).await.expect(200);
    for gone in [
        "set-cookie",
        "set-cookie2",
        "strict-transport-security",
        "alt-svc",
        "clear-site-data",
        "service-worker-allowed",
        "location",
        "refresh",
        "www-authenticate",
        "proxy-authenticate",
        "access-control-allow-credentials",
        "content-security-policy-report-only",
        "connection",
        "x-named",
        "keep-alive",
        "trailer",
        "upgrade",
        "report-to",
        "nel",
        "x-echo",
        "x-github-token",
    ] {
        assert!(!answer.headers.contains_key(gone), "{gone}: {:?}", answer.headers);
    }
    let values = |name: &str| answer.headers.get_all(name).iter().cloned().collect::<Vec<_>>();
    assert_eq!(values("access-control-allow-origin"), ["*"]);
    assert_eq!(values("content-security-policy"), ["sandbox; default-src 'none'"]);
    assert_eq!(values("x-content-type-options"), ["nosniff"]);
    assert_eq!(values("x-kept"), ["1", "2"]);
    for (name, value) in
        [("retry-after", "7"), ("content-language", "en"), ("mcp-protocol-version", "2025-11-25")]
    {
        assert_eq!(answer.header(name), value);
    }
    let live = proxy.github.world().live_tokens("octocat")[0].clone();
    assert!(!format!("{answer:?}").contains(&live));
}

// GT-04, GT-26
#[tokio::test(flavor = "multi_thread")]
async fn trailers_go_nowhere() {
    let upstream = Raw::start().await;
    let proxy =
        Proxy::with(Setup { resources: in_front_of(&upstream.origin(), ""), ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-GitHub-Token\r\nConnection: close\r\n\r\n2\r\n{{}}\r\n0\r\nX-GitHub-Token: evil\r\nAuthorization: evil\r\n\r\n",
        tokens.access
    );
    let answered = async {
        let (mut stream, mut head) = upstream.accept().await;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while !head.contains("0\r\n\r\n") {
            let mut more = [0; 1024];
            let read = stream.read(&mut more).await.unwrap();
            assert!(read > 0, "{head}");
            head.push_str(std::str::from_utf8(&more[..read]).unwrap());
        }
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie\r\n\r\n2\r\n{}\r\n0\r\nSet-Cookie: a=b\r\nX-T: 1\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        head
    };
    let (answer, head) = tokio::join!(raw::say(proxy.address(), request.as_bytes()), answered);
    assert_eq!(raw::status(&answer), 200, "{answer}");
    assert!(
        !answer.contains("a=b") && !answer.contains("X-T") && !answer.to_lowercase().contains("trailer"),
        "{answer}"
    );
    assert!(!head.contains("evil") && !head.to_lowercase().contains("trailer"), "{head}");
}

// GT-29
#[tokio::test(flavor = "multi_thread")]
async fn no_shared_cache_may_keep_an_answer() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let table: [(&'static [(&'static str, &'static str)], &str); 15] = [
        (&[], "no-store"),
        (&[("cache-control", "public, max-age=60")], "no-store"),
        (&[("cache-control", "s-maxage=60")], "no-store"),
        (&[("cache-control", "max-age=60")], "no-store"),
        // RFC 9111 §3.5: these three make an answer to an authorized request shareable.
        (&[("cache-control", "max-age=60, must-revalidate")], "no-store"),
        (&[("cache-control", "private"), ("cache-control", "PUBLIC")], "no-store"),
        (&[("cache-control", "private, public")], "no-store"),
        (&[("cache-control", "private=\"x-a\", max-age=60")], "no-store"),
        (&[("cache-control", "x-private, max-age=60")], "no-store"),
        (&[("cache-control", "Private, max-age=60")], "Private, max-age=60"),
        (&[("cache-control", "no-store, private")], "no-store, private"),
        (&[("cache-control", "no-cache, no-transform")], "no-cache, no-transform"),
        (&[("cache-control", "no-cache=\"x-a\", max-age=60")], "no-store"),
        (&[("cache-control", "no-cache, no-transform, no-store")], "no-cache, no-transform, no-store"),
        (&[("cdn-cache-control", "max-age=60"), ("surrogate-control", "max-age=60")], "no-store"),
    ];
    for (headers, expected) in table {
        proxy.mcp.say(move |_| with_headers(headers));
        let answer = send(&proxy, &tokens, &[]).await.expect(200);
        let values: Vec<_> = answer.headers.get_all("cache-control").iter().collect();
        assert_eq!(values, [expected], "{headers:?}");
        assert!(!answer.headers.contains_key("cdn-cache-control"), "{headers:?}");
        assert!(!answer.headers.contains_key("surrogate-control"), "{headers:?}");
    }
}

// GT-29: nothing is kept in between, so nobody sees what another was answered.
#[tokio::test(flavor = "multi_thread")]
async fn two_people_with_the_same_request_get_their_own_answers() {
    let proxy = Proxy::start().await;
    let ann = proxy.login().await;
    proxy.github.world().add_user(User::new(7, "bob"));
    proxy.github.world().sign_in("bob");
    let bob = proxy.login().await;
    // An upstream that says the same of everybody's answer: good for a year, for all, of one version.
    proxy.mcp.say(|heard| {
        let token = heard.header("x-github-token").to_owned();
        let conditional = heard.headers.contains_key("if-none-match");
        let mut response =
            support::upstream::json(&format!("{:?}", token.len() * 7 + usize::from(token.ends_with('x'))));
        *response.status_mut() = match (conditional, heard.headers.contains_key("range")) {
            (true, _) => http::StatusCode::NOT_MODIFIED,
            (_, true) => http::StatusCode::PARTIAL_CONTENT,
            _ => http::StatusCode::OK,
        };
        for (name, value) in
            [("cache-control", "public, max-age=31536000, immutable"), ("etag", "\"one\""), ("age", "1")]
        {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response.headers_mut().insert("x-person", HeaderValue::from_str(&token[token.len() - 6..]).unwrap());
        response
    });
    let live = |login: &str| proxy.github.world().live_tokens(login)[0].clone();
    let (of_ann, of_bob) = (live("octocat"), live("bob"));
    for headers in [
        &[][..],
        &[("if-none-match", "\"one\"")],
        &[("range", "bytes=0-1")],
        &[("cache-control", "only-if-cached")],
    ] {
        let asked = (0..20).map(|number| send(&proxy, if number % 2 == 0 { &ann } else { &bob }, headers));
        let before = proxy.mcp.heard().len();
        for (number, answer) in support::all(asked).await.into_iter().enumerate() {
            let token = if number % 2 == 0 { &of_ann } else { &of_bob };
            assert_eq!(answer.header("x-person"), &token[token.len() - 6..], "{headers:?}");
            assert!([200, 206, 304].contains(&answer.status), "{headers:?}");
            assert_eq!(answer.header("cache-control"), "no-store", "{headers:?}");
        }
        assert_eq!(proxy.mcp.heard().len(), before + 20, "{headers:?}: the upstream answered every one");
    }
}

// PX-H6, PX-V1c
#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_byte_for_byte_in_both_directions() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    proxy.mcp.say(|heard| {
        Response::new(Full::new(heard.body.clone()).map_err(|never| match never {}).boxed_unsync())
    });
    let big: Vec<u8> = (0..20 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for body in [
        br#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b"}]"#.to_vec(),
        br#"{ "id": 123456789012345678901234567890, "b":1.0, "a":1e400,"a" : 2 }"#.to_vec(),
        b"\xff\xfe\x00{\"x\":\"\xc3\x28\"}\r\n".to_vec(),
        Vec::new(),
        vec![b'x'; 64 << 10],
        vec![b'x'; (64 << 10) + 1],
        big,
    ] {
        let body = Bytes::from(body);
        let answer =
            proxy.send(proxy.call("/mcp", &tokens.access).body(body.clone()).unwrap()).await.expect(200);
        assert!(answer.body == body, "{} bytes came back as {}", body.len(), answer.body.len());
        assert!(proxy.mcp.last().body == body);
    }
    // PX-H13: chunked, and with Expect.
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\
         Expect: 100-continue\r\nConnection: close\r\n\r\n3;x=y\r\n{{\"a\r\n4\r\n\":1}}\r\n0\r\n\r\n",
        tokens.access
    );
    let answer = raw::say(proxy.address(), request.as_bytes()).await;
    assert!(answer.ends_with("{\"a\":1}") && answer.contains("HTTP/1.1 200"), "{answer}");
    assert_eq!(&proxy.mcp.last().body[..], b"{\"a\":1}");
    assert!(!proxy.mcp.last().headers.contains_key("expect"));
}

// PX-S6
#[tokio::test(flavor = "multi_thread")]
async fn statuses_and_their_bodies_pass() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    for status in [200, 201, 202, 204, 304, 400, 403, 404, 405, 406, 409, 415, 422, 429, 500, 501, 503] {
        let text = if [202, 204, 304].contains(&status) {
            ""
        } else {
            r#"{"jsonrpc":"2.0","error":{"code":-32022}}"#
        };
        proxy.mcp.say(move |_| {
            let mut response = with_status(status, text);
            response.headers_mut().insert(header::RETRY_AFTER, 9.into());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            response
        });
        let answer = send(&proxy, &tokens, &[]).await.expect(status);
        assert_eq!(answer.text(), text, "{status}");
        assert_eq!((answer.header("retry-after"), answer.header("allow")), ("9", "POST"), "{status}");
        assert!(!answer.headers.contains_key("www-authenticate"), "{status}");
    }
}

// PX-S8, GT-25
#[tokio::test(flavor = "multi_thread")]
async fn an_upstreams_401_is_502_without_a_challenge_and_makes_us_look_at_the_token() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    proxy.mcp.say(|_| {
        let mut response = with_status(401, "{}");
        let evil = HeaderValue::from_static("Bearer resource_metadata=\"https://evil\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, evil);
        response
    });
    proxy.forward(Duration::from_secs(31));
    let answer = send(&proxy, &tokens, &[]).await.expect(502);
    assert_eq!(answer.error(), "upstream_unauthorized");
    assert!(!answer.headers.contains_key("www-authenticate"));
    proxy.github.called(Endpoint::CheckToken, 1).await;
    // GH-06: one spurious 401 ends nothing.
    proxy.mcp.say(|_| json(RESULT));
    proxy.forward(Duration::from_secs(2));
    send(&proxy, &tokens, &[]).await.expect(200);
}

// GT-27, PX-S15
#[tokio::test(flavor = "multi_thread")]
async fn redirects_within_the_upstream_are_followed_and_others_are_not() {
    let proxy = Proxy::start().await;
    let tokens = proxy.login().await;
    let elsewhere = Raw::start().await;
    let redirect = |status: u16, location: String| {
        proxy.mcp.say(move |heard| match heard.target.as_str() {
            "/mcp" | "/mcp?a=b" => {
                let mut response = with_status(status, "");
                response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).unwrap());
                response
            }
            _ => json(RESULT),
        });
    };
    let live = proxy.github.world().live_tokens("octocat")[0].clone();
    let absolute = format!("{}/mcp/", proxy.mcp.origin());
    for (status, location, target) in [
        (307, "/mcp/".to_owned(), "/mcp/"),
        (308, absolute, "/mcp/"),
        (307, "mcp/?c=d".to_owned(), "/mcp/?c=d"),
    ] {
        redirect(status, location);
        let answer = send(&proxy, &tokens, &[("mcp-method", "ping")]).await.expect(200);
        assert_eq!(answer.text(), RESULT);
        let heard = proxy.mcp.last();
        assert_eq!((heard.target.as_str(), &heard.body[..], heard.method), (target, PING, Method::POST));
        assert_eq!(
            (heard.headers["x-github-token"].to_str().unwrap(), &heard.headers["mcp-method"]),
            (live.as_str(), &HeaderValue::from_static("ping"))
        );
    }
    let before = proxy.mcp.heard().len();
    let port = proxy.mcp.origin().rsplit(':').next().unwrap().to_owned();
    let locations = [
        "http://169.254.169.254/latest".to_owned(),
        format!("{}/mcp/", elsewhere.origin()),
        "//evil.test/mcp".to_owned(),
        format!("https://127.0.0.1:{port}/mcp/"),
        format!("http://127.0.0.1:{port}@evil.test/"),
        "http://[".to_owned(),
        "javascript:alert(1)".to_owned(),
        format!("http://localhost:{port}/mcp/"),
    ];
    for status in [301, 302, 303, 307, 308] {
        for location in &locations {
            redirect(status, location.clone());
            let answer = send(&proxy, &tokens, &[]).await.expect(502);
            assert_eq!(answer.error(), "upstream_redirect");
            assert!(!format!("{answer:?}").contains(location.as_str()), "internal names stay here");
        }
    }
    assert_eq!(proxy.mcp.heard().len(), before + 5 * locations.len(), "nothing was asked twice");
    // Itself, for ever.
    redirect(307, "/mcp".to_owned());
    send(&proxy, &tokens, &[]).await.expect(502);
}
