//! Floods from outside: what they cost the attacker, and that nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::rig::Rig;
use crate::support;
use crate::support::documents::Documents;
use crate::support::http::{self as plain, form};
use crate::support::proxy::{CALLBACK, PING, PUBLIC, Setup, database};

const ATTACKER: &str = "203.0.113.9";
const HONEST: &str = "198.51.100.7";

/// A connection that is used again and again, behind a proxy that says where its client is.
struct Line {
    to: SocketAddr,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Line {
    fn to(rig: &Rig) -> Self {
        Line { to: rig.proxy.address(), open: None }
    }

    async fn say(&mut self, request: Request<Bytes>) -> (u16, HeaderMap, Bytes) {
        if self.open.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(self.to).await.expect("connects");
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("speaks HTTP");
            tokio::spawn(connection);
            self.open = Some(sender);
        }
        let sender = self.open.as_mut().expect("just opened");
        sender.ready().await.expect("ready");
        let (parts, body) =
            sender.send_request(request.map(Full::new)).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        (parts.status.as_u16(), parts.headers, body)
    }

    async fn register(&mut self, from: &str) -> u16 {
        let body = json!({"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}).to_string();
        let request =
            request(Method::POST, "/register", from).header(header::CONTENT_TYPE, "application/json");
        self.say(request.body(body.into()).expect("a request")).await.0
    }

    async fn call(&mut self, token: &str, from: &str) -> (u16, HeaderMap) {
        let request = request(Method::POST, "/mcp", from)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream");
        let (status, headers, _) = self.say(request.body(Bytes::from_static(PING)).expect("a request")).await;
        (status, headers)
    }
}

fn request(method: Method, path: &str, from: &str) -> http::request::Builder {
    plain::request(method, &format!("{PUBLIC}{path}")).header("x-forwarded-for", from)
}

async fn behind(extra: &str) -> Rig {
    let extra = format!("trusted_proxies: [127.0.0.0/8]\n{extra}");
    Rig::with(Setup { extra, ..Setup::default() }).await
}

/// Bytes that the store takes.
fn stored(rig: &Rig) -> u64 {
    let file = database(&rig.dir);
    let log = file.with_extension("db-wal");
    [file, log].iter().filter_map(|file| std::fs::metadata(file).ok()).map(|file| file.len()).sum()
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

// DR-01
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_registrations_store_nothing_and_stop_nobody_else() {
    let rig = behind("").await;
    let before = stored(&rig);
    let mut line = Line::to(&rig);
    let mut registered = 0;
    for number in 0..10_000_u32 {
        // From the middle on with made-up addresses before the one that the proxy adds.
        let spoofed =
            format!("{}, {ATTACKER}", std::net::Ipv4Addr::from_bits(number.wrapping_mul(2_654_435_761)));
        let status = line.register(if number < 5_000 { ATTACKER } else { &spoofed }).await;
        match status {
            201 => registered += 1,
            status => assert_eq!(status, 429, "registration {number}"),
        }
        if number % 1_000 == 999 {
            assert_eq!(line.register(&format!("198.51.100.{}", number / 1_000)).await, 201, "a neighbour");
        }
    }
    // 300 a minute, whatever time it takes.
    assert!((300..=3_000).contains(&registered), "{registered}");
    assert_eq!(stored(&rig), before, "nothing is stored for a stranger");
    let told = rig.program.said().matches("limited: too often").count();
    assert!((1..=20).contains(&told), "the log hears of it once a minute, not {told} times");
    rig.verify().await;
}

// CA-06
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_guesses_at_a_secret_do_not_lock_the_client_out() {
    let clients =
        format!("clients: [{{id: web, secret: w3b-7f3a9c41e2d85b60, redirect_uris: ['{CALLBACK}']}}]");
    let mut rig = behind(&clients).await;
    rig.canary("a configured secret", "w3b-7f3a9c41e2d85b60");
    let mut line = Line::to(&rig);
    let mut attempt = async |id: &str, secret: &str, from: &str| {
        let pairs = [
            ("grant_type", "refresh_token"),
            ("refresh_token", "x"),
            ("client_id", id),
            ("client_secret", secret),
        ];
        let kind = "application/x-www-form-urlencoded";
        let request = request(Method::POST, "/token", from).header(header::CONTENT_TYPE, kind);
        let began = Instant::now();
        let (status, _, body) = line.say(request.body(form(&pairs)).expect("a request")).await;
        (status, body, began.elapsed())
    };
    let (mut wrong, mut unknown, mut refused) = (Vec::new(), Vec::new(), 0);
    for number in 0..1_000 {
        let guess = format!("guess-{number}");
        let (known, other) =
            (attempt("web", &guess, ATTACKER).await, attempt("nobody", &guess, ATTACKER).await);
        // The seconds of Retry-After may tick between the two.
        assert_eq!(known.0, other.0, "guess {number} tells who exists");
        refused += u32::from(known.0 == 429);
        wrong.push(known.2);
        unknown.push(other.2);
    }
    assert!(refused >= 800, "{refused} of 1000 guesses were refused");
    let (wrong, unknown) = (median(wrong), median(unknown));
    assert!(
        wrong.max(unknown) < wrong.min(unknown) * 2 + Duration::from_millis(1),
        "{wrong:?} and {unknown:?}"
    );
    let (status, body, _) = attempt("web", "w3b-7f3a9c41e2d85b60", HONEST).await;
    assert_eq!(status, 400);
    assert!(
        String::from_utf8_lossy(&body).contains("invalid_grant"),
        "authenticated, and told of its refresh token"
    );
    rig.verify().await;
}

// CI-15
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_document_urls_at_one_host_reach_it_a_few_times() {
    let documents = Documents::start().await;
    let ca = support::TempDir::new();
    let file = documents.ca_file(ca.path());
    documents.publish("/good", &documents.document("/good", &[CALLBACK]));
    let metadata = format!("{{ca_file: '{}', allow_private_addresses: true}}", file.display());
    let rig = behind(&format!("client_metadata: {metadata}\nlimits: {{authorize: off}}")).await;
    let open = |path: String, from: &'static str| {
        let url = rig.proxy.authorize_url(&documents.url(&path), CALLBACK, &[]);
        let request = request(Method::GET, url.strip_prefix(PUBLIC).expect("ours"), from);
        let mut line = Line::to(&rig);
        async move { line.say(request.body(Bytes::new()).expect("a request")).await.0 }
    };
    // One URL, 500 times at once: one fetch.
    documents.hold();
    let asked = support::all((0..500).map(|_| open("/good".to_owned(), HONEST)));
    let (statuses, ()) = tokio::join!(asked, async {
        documents.heard(1).await;
        documents.release();
    });
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(documents.connections(), 1);
    let mut reached = 0;
    for batch in 0..40 {
        let paths = (0..50).map(|number| open(format!("/{batch}/{number}"), ATTACKER));
        let statuses = support::all(paths).await;
        reached += statuses.iter().filter(|status| **status == 400).count();
        assert!(statuses.iter().all(|status| [400, 429].contains(status)), "{statuses:?}");
        assert_eq!(open("/good".to_owned(), ATTACKER).await, 200, "a client that is known");
    }
    // 30 a minute, some at once, whatever time it takes.
    assert!((30..=300).contains(&reached), "{reached}");
    assert_eq!(documents.connections(), 1 + reached);
    rig.verify().await;
}

// DS-06
#[tokio::test(flavor = "multi_thread")]
async fn random_bearers_by_the_ten_thousand_delay_nobody_who_has_one() {
    let mut rig = behind("").await;
    let tokens = rig.login().await;
    let before = stored(&rig);
    let honest = async |calls: usize| {
        let mut line = Line::to(&rig);
        let mut took = Vec::new();
        for _ in 0..calls {
            let began = Instant::now();
            // From the attacker's own address: one office.
            assert_eq!(line.call(&tokens.access, ATTACKER).await.0, 200);
            took.push(began.elapsed());
        }
        took.sort_unstable();
        (took[calls / 2], took[calls * 99 / 100])
    };
    let quiet = honest(500).await;
    let attack = async || {
        let mut line = Line::to(&rig);
        let (mut refused, mut closed) = (0, 0);
        for number in 0..10_000_u32 {
            let (status, headers) = line.call(&format!("mapa_{number:064}"), ATTACKER).await;
            match status {
                401 => refused += 1,
                status => {
                    assert_eq!(status, 429);
                    assert!(headers.contains_key(header::RETRY_AFTER));
                    closed += 1;
                }
            }
        }
        (refused, closed)
    };
    let (first, second, loud) = tokio::join!(attack(), attack(), honest(1_000));
    let (refused, closed) = (first.0 + second.0, first.1 + second.1);
    println!(
        "honest p50, p99: {quiet:?} alone, {loud:?} beside {refused} answers 401 and {closed} answers 429"
    );
    assert!(closed > refused, "{refused} {closed}");
    assert!(loud.1 < quiet.1 * 10 + Duration::from_millis(500), "{quiet:?} became {loud:?}");
    assert_eq!(stored(&rig), before);
    rig.verify().await;
}

// DS-07
#[tokio::test(flavor = "multi_thread")]
async fn addresses_without_number_take_no_memory() {
    let rig = behind("").await;
    let flood = async |lane: u32| {
        let mut line = Line::to(&rig);
        for number in 0..10_000_u32 {
            let from = format!("2001:db8:{:x}:{:x}::1", number >> 8, (number & 0xff) << 4 | lane);
            let (status, _) = line.call("forged", &from).await;
            assert_eq!(status, 401, "{from} is new here");
        }
    };
    tokio::join!(flood(0), flood(1));
    rig.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_nobody_declared_has_room_for_several_and_is_told_of_once() {
    let rig = Rig::with(Setup { extra: "limits: {register: 3/1m}".to_owned(), ..Setup::default() }).await;
    let mut line = Line::to(&rig);
    for number in 0..20 {
        assert_eq!(line.register(&format!("203.0.113.{number}")).await, 201);
    }
    assert_eq!(rig.program.said().matches("trusted_proxies does not name it").count(), 1);
    rig.verify().await;
}
