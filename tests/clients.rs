//! Client authentication at the token endpoint. RFC 6749 §2.3, §5.2.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, header};
use serde_json::json;
use support::http::{Answer, form};
use support::proxy::{CALLBACK, Proxy, Setup, VERIFIER, param};

/// Id and secret that only survive when they are encoded and decoded as RFC 6749 §2.3.1 says.
const ODD_ID: &str = "my:app%41+one&two";
const ODD_SECRET: &str = "s:e%c+r e\u{fc}t&=;0123456789-0123456789";

fn configured() -> Setup {
    let extra = format!(
        "clients:\n  - {{id: '{ODD_ID}', secret: '{ODD_SECRET}', redirect_uris: ['{CALLBACK}']}}\n  \
         - {{id: open-app, redirect_uris: ['{CALLBACK}']}}\n"
    );
    Setup { extra, ..Setup::default() }
}

/// A client, as /register or the operator made it.
struct Client {
    id: String,
    secret: String,
}

async fn registered(proxy: &Proxy, method: &str) -> Client {
    let metadata = json!({ "redirect_uris": [CALLBACK], "token_endpoint_auth_method": method });
    let answer = proxy.post_json("/register", &metadata).await.expect(201).json();
    assert_eq!(answer["token_endpoint_auth_method"], method);
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    Client { id: text("client_id"), secret: text("client_secret") }
}

async fn code(proxy: &Proxy, client_id: &str) -> String {
    let back = proxy.browser().approve(&proxy.authorize_url(client_id, CALLBACK, &[])).await;
    param(&back, "code").unwrap_or_else(|| panic!("no code in {back}"))
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// `Basic` as RFC 6749 §2.3.1 wants it.
fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret))))
}

/// Redeems a code with these Authorization headers and further form parameters.
async fn redeem(proxy: &Proxy, code: &str, authorization: &[&str], more: &[(&str, &str)]) -> Answer {
    let mut pairs = vec![("grant_type", "authorization_code"), ("code", code), ("code_verifier", VERIFIER)];
    pairs.extend_from_slice(more);
    let mut request = proxy
        .request(Method::POST, "/token")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    for value in authorization {
        request = request.header(header::AUTHORIZATION, *value);
    }
    proxy.send(request.body(form(&pairs)).unwrap()).await
}

// CA-01, CA-04
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_client_authenticates_in_its_own_way() {
    let proxy = Proxy::with(configured()).await;
    let (none, post) = (registered(&proxy, "none").await, registered(&proxy, "client_secret_post").await);
    let header = registered(&proxy, "client_secret_basic").await;
    let odd = Client { id: ODD_ID.to_owned(), secret: ODD_SECRET.to_owned() };
    let in_header = basic(&header.id, &header.secret);
    let (lower, odd_basic) = (in_header.replacen("Basic", "bAsIc", 1), basic(ODD_ID, ODD_SECRET));
    let (in_header, lower, odd_basic) = (in_header.as_str(), lower.as_str(), odd_basic.as_str());
    assert!(none.secret.is_empty());
    for (client, authorization, more) in [
        (&none.id, &[][..], &[("client_id", none.id.as_str())][..]),
        (&post.id, &[], &[("client_id", &post.id), ("client_secret", &post.secret)]),
        (&header.id, &[in_header], &[]),
        // CA-04
        (&header.id, &[lower], &[]),
        (&header.id, &[in_header], &[("client_id", &header.id)]),
        (&odd.id, &[odd_basic], &[]),
        (&odd.id, &[], &[("client_id", ODD_ID), ("client_secret", ODD_SECRET)]),
        (&"open-app".to_owned(), &[], &[("client_id", "open-app")]),
    ] {
        let code = code(&proxy, client).await;
        redeem(&proxy, &code, authorization, more).await.expect(200);
    }
}

// CA-03
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_authenticates_in_another_way_is_refused_with_the_right_challenge() {
    let proxy = Proxy::with(configured()).await;
    let (none, post) = (registered(&proxy, "none").await, registered(&proxy, "client_secret_post").await);
    let header = registered(&proxy, "client_secret_basic").await;
    let id = |client: &'static str| ("client_id", client);
    let other_secret = format!("{}A", &post.secret[..post.secret.len() - 1]);
    let none_basic = [basic(&none.id, ""), basic(&none.id, "x")];
    let post_basic = basic(&post.id, &post.secret);
    let header_wrong = [basic(&header.id, ""), basic(&header.id, &post.secret)];
    let odd_wrong = [basic(ODD_ID, ""), basic(ODD_ID, "x"), basic("open-app", "x")];
    let unencoded = format!("Basic {}", STANDARD.encode(format!("{ODD_ID}:{ODD_SECRET}")));
    for (client, authorization, more) in [
        (&none.id, "", &[("client_id", none.id.as_str()), ("client_secret", "x")][..]),
        (&none.id, "", &[("client_id", &none.id), ("client_secret", "")]),
        (&none.id, &none_basic[0], &[]),
        (&none.id, &none_basic[1], &[]),
        (&post.id, "", &[("client_id", &post.id)]),
        (&post.id, "", &[("client_id", &post.id), ("client_secret", "")]),
        (&post.id, "", &[("client_id", &post.id), ("client_secret", &other_secret)]),
        (&post.id, "", &[("client_id", &post.id), ("client_secret", &header.secret)]),
        (&post.id, &post_basic, &[]),
        (&header.id, "", &[("client_id", &header.id), ("client_secret", &header.secret)]),
        (&header.id, "", &[("client_id", &header.id)]),
        (&header.id, &header_wrong[0], &[]),
        (&header.id, &header_wrong[1], &[]),
        (&ODD_ID.to_owned(), "", &[id(ODD_ID)]),
        (&ODD_ID.to_owned(), &odd_wrong[0], &[]),
        (&ODD_ID.to_owned(), &odd_wrong[1], &[]),
        (&ODD_ID.to_owned(), &unencoded, &[]),
        (&"open-app".to_owned(), &odd_wrong[2], &[]),
        (&"open-app".to_owned(), "", &[id("open-app"), ("client_secret", "")]),
    ] {
        let code = code(&proxy, client).await;
        let authorization: Vec<&str> =
            Some(authorization).filter(|text| !text.is_empty()).into_iter().collect();
        let answer = redeem(&proxy, &code, &authorization, more).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (401, "invalid_client"),
            "{authorization:?} {more:?}"
        );
        // RFC 6749 §5.2: the scheme the client used, and only then.
        let challenged = answer.header("www-authenticate").starts_with("Basic realm=");
        assert_eq!(challenged, !authorization.is_empty(), "{answer:?}");
    }
}

// CA-02, CA-04, CA-05
#[tokio::test(flavor = "multi_thread")]
async fn two_methods_at_once_and_malformed_headers_are_refused() {
    let proxy = Proxy::start().await;
    let client = registered(&proxy, "client_secret_basic").await;
    let other = registered(&proxy, "none").await;
    let code = code(&proxy, &client.id).await;
    let good = basic(&client.id, &client.secret);
    let both = redeem(&proxy, &code, &[&good], &[("client_secret", &client.secret)]).await.expect(400);
    assert_eq!(both.error(), "invalid_request");
    let both = redeem(&proxy, &code, &[&good], &[("client_secret", "")]).await.expect(400);
    assert_eq!(both.error(), "invalid_request");
    let no_colon = format!("Basic {}", STANDARD.encode("no colon"));
    let not_text = format!("Basic {}", STANDARD.encode(b"\xff\xfe:x"));
    let bearer = format!("Bearer {}", &good[6..]);
    for (authorization, more) in [
        (&[good.as_str()][..], &[("client_id", other.id.as_str())][..]),
        (&[&good, &good], &[]),
        (&["Basic"], &[]),
        (&["Basic !!!"], &[]),
        (&[&no_colon], &[]),
        (&[&not_text], &[]),
        (&["Basic \u{fc}"], &[]),
        (&[&bearer], &[]),
        // A good body does not excuse a bad header.
        (&["Bearer x"], &[("client_id", &other.id)]),
        (&[""], &[("client_id", &other.id)]),
    ] {
        let answer = redeem(&proxy, &code, authorization, more).await.expect(401);
        assert_eq!(answer.error(), "invalid_client", "{authorization:?}");
        assert!(answer.header("www-authenticate").starts_with("Basic "), "{authorization:?}");
    }
    redeem(&proxy, &code, &[&good], &[]).await.expect(200);
}

// CA-06
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_client_and_a_wrong_secret_get_the_same_answer() {
    let proxy = Proxy::start().await;
    let client = registered(&proxy, "client_secret_post").await;
    let forged = format!("{}AAAA", &client.id[..client.id.len() - 4]);
    let mut seen = Vec::new();
    for id in [client.id.as_str(), "unknown", "mcp-client-", &forged, "javascript:alert(1)"] {
        let more = [("client_id", id), ("client_secret", "maps_wrong")];
        let answer = redeem(&proxy, "mapc_x", &[], &more).await.expect(401);
        seen.push((answer.body.clone(), answer.header("www-authenticate").to_owned()));
    }
    assert!(seen.iter().all(|answer| *answer == seen[0]), "{seen:?}");
}

// TK-11
#[tokio::test(flavor = "multi_thread")]
async fn a_confidential_client_refreshes_with_its_secret_only() {
    let proxy = Proxy::start().await;
    let client = registered(&proxy, "client_secret_post").await;
    let code = code(&proxy, &client.id).await;
    let proof = [("client_id", client.id.as_str()), ("client_secret", client.secret.as_str())];
    let tokens = redeem(&proxy, &code, &[], &proof).await.expect(200).json();
    let refresh = tokens["refresh_token"].as_str().unwrap();
    assert_eq!(proxy.refresh(&client.id, refresh).await.expect(401).error(), "invalid_client");
    let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh), proof[0], proof[1]];
    proxy.post_form("/token", &pairs).await.expect(200);
}

// TK-11, CD-04: whoever proves to be one client holds nothing of another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_confidential_client_cannot_use_what_another_was_given() {
    let proxy = Proxy::with(configured()).await;
    let (owner, thief) =
        (registered(&proxy, "client_secret_post").await, registered(&proxy, "client_secret_post").await);
    let own = [("client_id", owner.id.as_str()), ("client_secret", owner.secret.as_str())];
    let odd = [("client_id", ODD_ID), ("client_secret", ODD_SECRET)];
    let theirs = [("client_id", thief.id.as_str()), ("client_secret", thief.secret.as_str())];
    let code = code(&proxy, &owner.id).await;
    for other in [theirs, odd] {
        assert_eq!(redeem(&proxy, &code, &[], &other).await.expect(400).error(), "invalid_grant");
    }
    let tokens = redeem(&proxy, &code, &[], &own).await.expect(200).json();
    let (access, refresh) =
        (tokens["access_token"].as_str().unwrap(), tokens["refresh_token"].as_str().unwrap());
    for other in [theirs, odd] {
        let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh), other[0], other[1]];
        assert_eq!(proxy.post_form("/token", &pairs).await.expect(400).error(), "invalid_grant");
        // Nor does a replay of the code by somebody else end it.
        assert_eq!(redeem(&proxy, &code, &[], &other).await.expect(400).error(), "invalid_grant");
    }
    proxy.ping(access).await.expect(200);
    let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh), own[0], own[1]];
    proxy.post_form("/token", &pairs).await.expect(200);
}

// CA-07: assertions are not offered, and one that comes anyway proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_no_authentication() {
    let proxy = Proxy::start().await;
    let metadata = proxy.get("/.well-known/oauth-authorization-server").await.expect(200).json();
    for list in ["token_endpoint_auth_methods_supported", "revocation_endpoint_auth_methods_supported"] {
        let Some(methods) = metadata[list].as_array() else { continue };
        assert!(
            methods.iter().all(|method| !method.as_str().unwrap().ends_with("_jwt")),
            "{list}: {methods:?}"
        );
    }
    assert!(metadata["token_endpoint_auth_methods_supported"].is_array());
    assert!(!metadata.to_string().contains("signing_alg"), "{metadata}");
    let client = registered(&proxy, "client_secret_post").await;
    let code = code(&proxy, &client.id).await;
    let kind = ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    for assertion in ["eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"] {
        let pairs = [("client_id", client.id.as_str()), kind, ("client_assertion", assertion)];
        assert_eq!(redeem(&proxy, &code, &[], &pairs).await.expect(401).error(), "invalid_client");
        assert!([400, 401].contains(&redeem(&proxy, &code, &[], &pairs[1..]).await.status));
    }
    redeem(&proxy, &code, &[], &[("client_id", &client.id), ("client_secret", &client.secret)])
        .await
        .expect(200);
}
