//! Properties of clients: registrations, metadata documents, `client_id`s and Basic credentials.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;
use url::{Host, Url, form_urlencoded};

use super::clients::Registration;
use super::document::{self, Fetcher};
use super::{
    Answer, AuthorizationServer, Documents, Failure, Parts, Published, Request, Settings, client_auth,
};
use crate::fuzzing::{change, world};
use crate::limit::Source;
use crate::protocol::client::{AuthMethod, Client, Origin, display_name};
use crate::protocol::redirect::{RedirectKind, RedirectUri};
use crate::telemetry::Telemetry;
use crate::tls::Authorities;

/// A registration and a metadata document; the first line may be a URL where the document would be.
pub fn clients(data: &[u8]) {
    register(data);
    let (first, rest) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let id = String::from_utf8_lossy(first);
    vetted(&id);
    document("https://a.example/c", data);
    if !rest.is_empty() {
        document(&id, rest);
    }
}

/// What is answered is what was sent, as far as it was taken, and what the `client_id` carries.
fn register(data: &[u8]) {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = Bytes::copy_from_slice(data);
    let source = Source { address: Ipv4Addr::LOCALHOST.into(), by_page: false, many: true };
    let request = Request { method: Method::POST, query: None, headers, body, source };
    let body = match world().runtime.block_on(server().register(&request)) {
        Ok(Answer::Json { status: 201, body }) => body,
        Ok(_) => unreachable!("a registration is answered with 201"),
        Err(Failure::Json { error, basic: false }) => {
            let fit =
                error.public.len() < 200 && error.public.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            return assert!(fit, "{error}");
        }
        Err(other) => unreachable!("{other:?}"),
    };
    // What we take no notice of may be no JSON to others: a number beyond all numbers, bytes that are no text.
    let sent: Option<Value> = serde_json::from_slice(data).ok();
    let id = body["client_id"].as_str().expect("an id");
    let client = server().known_client(id).expect("it knows itself");
    assert_eq!(body["client_name"], client.name);
    assert_eq!(display_name(&client.name), client.name);
    assert_eq!(body["token_endpoint_auth_method"], client.auth.as_str());
    assert_eq!(client.origin, Origin::Registered);
    let mut asked = sent.as_ref().map(|sent| sent["redirect_uris"].as_array().expect("a list").iter());
    let mut was_asked =
        |uri: &RedirectUri| asked.as_mut().is_none_or(|asked| asked.any(|asked| asked == uri.as_str()));
    let mut total = 0;
    for (uri, shown) in client.redirect_uris.iter().zip(body["redirect_uris"].as_array().expect("a list")) {
        assert!(shown == uri.as_str() && was_asked(uri), "{uri} was not asked for");
        total += uri.as_str().len();
    }
    let count = body["redirect_uris"].as_array().map(Vec::len);
    assert!(count == Some(client.redirect_uris.len()) && (1..=10).contains(&client.redirect_uris.len()));
    assert!(total <= 4096 && id.len() < 8 << 10 && !id.starts_with("https:"));
    match (client.auth, body["client_secret"].as_str()) {
        (AuthMethod::None, secret) => assert_eq!(secret, None),
        (_, secret) => {
            let secret = secret.expect("a secret");
            assert!(server().is_secret_of(&client, secret));
            assert!(!server().is_secret_of(&client, &secret[1..]) && !server().is_secret_of(&client, ""));
        }
    }
}

/// A document is taken for its own URL only, without a secret, with somewhere to return to.
fn document(id: &str, data: &[u8]) {
    let Ok(client) = document::client(id, "a.example".to_owned(), data) else { return };
    let Ok(said) = serde_json::from_slice::<Value>(data) else { return };
    assert!(said["client_id"] == id && client.id == id);
    assert!(said["client_secret"].is_null() && said["client_secret_expires_at"].is_null());
    assert_eq!((client.auth, display_name(&client.name)), (AuthMethod::None, client.name.clone()));
    let mut listed = said["redirect_uris"].as_array().expect("a list").iter();
    assert!(!client.redirect_uris.is_empty() && client.redirect_uris.len() <= 32);
    for uri in &client.redirect_uris {
        assert!(listed.any(|listed| listed == uri.as_str()), "{uri}");
    }
}

/// A URL that is fetched is https, in normal form, and names nobody's own machine.
fn vetted(id: &str) {
    static FETCHER: OnceLock<Fetcher> = OnceLock::new();
    let fetcher = FETCHER.get_or_init(|| {
        let settings = document::Settings {
            allow_hosts: Vec::new(),
            authorities: Authorities::default(),
            allow_private_addresses: false,
            own: ("p.test".to_owned(), 443),
        };
        Fetcher::new(settings, world().clock.clone(), world().limits.clone()).expect("a client")
    });
    let Ok(url) = fetcher.vetted(id) else { return };
    assert!(
        id.starts_with("https://") && url.as_str() == id && !id.contains(['#', '@', '\\'])
            || id.contains("/")
    );
    assert!(id.len() <= 1024 && url.fragment().is_none() && url.username().is_empty(), "{id}");
    assert!(Url::parse(id).is_ok_and(|again| again == url));
    match url.host().expect("a host") {
        Host::Domain(name) => {
            assert!(name != "localhost" && name != "p.test" && !name.ends_with('.'), "{id}")
        }
        Host::Ipv4(address) => assert!(!address.is_loopback() && !address.is_private(), "{id}"),
        Host::Ipv6(address) => {
            let inside =
                address.to_ipv4_mapped().is_some_and(|inner| inner.is_private() || inner.is_loopback());
            assert!(!address.is_loopback() && !address.is_unique_local() && !inside, "{id}");
        }
    }
}

/// A `client_id` is good only as it was issued.
pub(crate) fn client_ids(claims: &[u8; 26], changes: &[u8]) {
    let keys = &world().keys;
    let registration = Registration {
        name: display_name(&String::from_utf8_lossy(&claims[4..])),
        redirect_uris: vec![RedirectUri::parse("http://localhost/cb").expect("valid")],
        auth: AuthMethod::ClientSecretBasic,
        issued: 1,
        salt: [claims[0], claims[1], claims[2], claims[3]].to_vec(),
    };
    let id = registration.client_id(keys);
    let read = Registration::read(keys, &id).expect("what was issued is good");
    assert_eq!((&read.name, &read.redirect_uris), (&registration.name, &registration.redirect_uris));
    assert_eq!((read.auth, read.issued, read.salt), (registration.auth, 1, registration.salt));
    assert!(read.redirect_uris.iter().all(|uri| uri.kind() == RedirectKind::Loopback));
    let changed = change(&id, changes);
    assert_eq!(Registration::read(keys, &changed).is_some(), changed == id, "{changed}");
    let secret = server().registered_secret(&id);
    let changed = change(&secret, changes);
    let client = Client {
        id,
        origin: Origin::Registered,
        name: read.name,
        redirect_uris: read.redirect_uris,
        auth: read.auth,
    };
    assert_eq!(server().is_secret_of(&client, &changed), changed == secret, "{changed}");
}

/// Basic credentials of any two texts come back as they were.
pub(crate) fn basic(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (id, secret) = text.split_once('\n').unwrap_or((&text, ""));
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let credentials = STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)));
    let value = HeaderValue::from_str(&format!("Basic {credentials}")).expect("a value");
    assert_eq!(client_auth::basic(&value), Some((id.to_owned(), secret.to_owned())));
}

/// Basic credentials that were read stay the same when they are written down again.
pub(crate) fn head(headers: &HeaderMap) {
    for value in headers.get_all(header::AUTHORIZATION) {
        if let Some((id, secret)) = client_auth::basic(value) {
            basic(format!("{}\n{secret}", id.replace('\n', "")).as_bytes());
        }
    }
}

/// The metadata documents of the world's resources.
pub(crate) fn documents() -> &'static Documents {
    static DOCUMENTS: OnceLock<Documents> = OnceLock::new();
    DOCUMENTS.get_or_init(|| Documents::new(&settings(), true))
}

fn server() -> &'static AuthorizationServer {
    static SERVER: OnceLock<AuthorizationServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let world = world();
        let parts = Parts {
            telemetry: Telemetry::silent(world.clock.clone()),
            spent: super::spent(),
            keys: world.keys.clone(),
            clock: world.clock.clone(),
            families: world.families.clone(),
            people: world.people.clone(),
            github: world.github.clone(),
            credentials: world.credentials.clone(),
            admission: world.admission.clone(),
            limits: world.limits.clone(),
            documents: None,
        };
        AuthorizationServer::new(settings(), parts)
    })
}

fn settings() -> Settings {
    let published = |resource: &crate::protocol::resource::Resource| Published {
        resource: resource.clone(),
        github_scopes: vec!["read:user".to_owned()],
        needs_email: false,
    };
    Settings {
        issuer: world().issuer.clone(),
        resources: world().resources.iter().map(published).collect(),
        registration: true,
        private_use_schemes: true,
        clients: Vec::new(),
        iss: true,
    }
}
