//! What things cost: operations of the store, processor time, memory. docs/scaling.md shows the figures, and
//! examples/capacity.rs reckons with them.
//!
//! Operations are counted exactly, and held by a table. Everything else depends on the machine and is measured when
//! it is asked for, with the servers of `tests/backends/run` around:
//! `MCP_AUTH_PROXY=target/release/mcp-auth-proxy tests/backends/run cargo test --test scale -- --ignored --nocapture --test-threads 1`

mod support;

use std::net::{SocketAddr, TcpListener as PortFinder};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use mcp_auth_proxy::clock::Clock;
use support::TempDir;
use support::crowd::{Crowd, Login};
use support::github::User;
use support::http as plain;
use support::program::{Program, is_for_people, processor_ticks};
use support::proxy::{CALLBACK, Proxy, Setup, Tokens, in_front_of, param};
use support::stores::{self, Store};
use support::upstream::{RESULT, events, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

// === Operations ===

/// Questions to the store by verb, and calls to GitHub.
type Asked = [u64; 6];

const VERBS: [&str; 6] = ["read", "create", "replace", "delete", "owned_by", "github"];

/// What each thing may cost. Whoever makes one of them dearer has to say so here, in docs/scaling.md and in
/// examples/capacity.rs.
const COSTS: [(&str, Asked); 13] = [
    ("requests of strangers", [0, 0, 0, 0, 0, 0]),
    ("the way to GitHub", [0, 0, 0, 0, 0, 0]),
    ("the rest of a first login", [2, 3, 1, 0, 0, 2]),
    ("a first call", [2, 0, 0, 0, 0, 0]),
    ("nine more within a second", [0, 0, 0, 0, 0, 0]),
    ("five seconds of ten calls each", [10, 0, 0, 0, 0, 0]),
    ("a refresh", [4, 0, 2, 0, 0, 1]),
    ("a repeated refresh", [2, 0, 0, 0, 0, 0]),
    ("a call a quarter of an hour later", [4, 0, 1, 0, 0, 1]),
    ("another login of the same person", [2, 2, 2, 0, 0, 2]),
    ("a revocation that leaves a login", [3, 0, 0, 1, 1, 0]),
    // GitHub is told of the token of each login.
    ("the last revocation", [2, 0, 1, 1, 1, 2]),
    ("a call after it", [1, 0, 0, 0, 0, 0]),
];

/// A proxy whose questions are counted.
struct Meter {
    metrics: SocketAddr,
    before: Asked,
    costs: std::slice::Iter<'static, (&'static str, Asked)>,
}

impl Meter {
    async fn at(metrics: SocketAddr) -> Self {
        Meter { metrics, before: asked(metrics).await, costs: COSTS.iter() }
    }

    /// What happened since the last time cost what the next row of the table says. Some of it is done on the side:
    /// it is waited for, and must be all.
    async fn read(&mut self, store: &Store, what: &str) {
        let (row, expected) = self.costs.next().expect("a row");
        assert_eq!(*row, what);
        let mut spent = self.spent().await;
        for _ in 0..200 {
            if spent == *expected {
                break;
            }
            sleep(Duration::from_millis(20)).await;
            spent = self.spent().await;
        }
        sleep(Duration::from_millis(30)).await;
        let after = asked(self.metrics).await;
        spent = difference(after, self.before);
        assert_eq!(spent, *expected, "{what} on {}: {VERBS:?}", store.name);
        for (verb, count) in VERBS.iter().zip(spent).filter(|(_, count)| *count > 0) {
            println!("{}: {what}: {verb} = {count} operations", store.name);
        }
        self.before = after;
    }

    async fn spent(&self) -> Asked {
        difference(asked(self.metrics).await, self.before)
    }
}

fn difference(after: Asked, before: Asked) -> Asked {
    std::array::from_fn(|verb| after[verb] - before[verb])
}

async fn asked(metrics: SocketAddr) -> Asked {
    let told = told(metrics).await;
    VERBS.map(|verb| match verb {
        "github" => sum(&told, "mcp_auth_proxy_github_duration_seconds_count") as u64,
        verb => sum(&told, &format!("mcp_auth_proxy_store_duration_seconds_count{{verb=\"{verb}\"}}")) as u64,
    })
}

async fn told(metrics: SocketAddr) -> String {
    let request = plain::request(Method::GET, &format!("http://{metrics}/metrics"));
    plain::send(metrics, request.body(Bytes::new()).expect("a request")).await.expect(200).text()
}

/// The sum of all values whose name and labels begin like this.
fn sum(told: &str, name: &str) -> f64 {
    let lines = told.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A family in use need not be read while SQLite says that nobody else wrote, and whoever else writes is heard at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_changes_is_not_read_again_and_what_others_do_is_obeyed() {
    let dir = TempDir::new();
    let mut setup = Setup::on(&dir);
    setup.extra.push_str("\nmetrics: 127.0.0.1:0");
    setup.tuning.still = Duration::from_millis(5);
    let proxy = Proxy::with(setup).await;
    let metrics = proxy.app().metrics_address().expect("configured");
    let tokens = proxy.login().await;
    let other = proxy.login().await;
    let reads = async || asked(metrics).await[0];
    // Until it was looked for the first time, and then for a minute.
    let mut before = reads().await;
    let mut quiet = 0;
    for _ in 0..50 {
        proxy.forward(Duration::from_millis(500));
        proxy.ping(&tokens.access).await.expect(200);
        sleep(Duration::from_millis(20)).await;
        let now = reads().await;
        quiet += usize::from(now == before);
        before = now;
    }
    assert!(quiet >= 40, "read in {} of 50 half seconds", 50 - quiet);
    // Another process ends the login, and one that nobody uses here.
    let replica = proxy.replica();
    let pairs = [("token", tokens.refresh.as_str()), ("client_id", &tokens.client_id)];
    proxy.post_form_at(replica.address(), "/revoke", &pairs).await.expect(200);
    proxy.forward(Duration::from_secs(1));
    proxy.ping(&tokens.access).await.expect(401);
    proxy.ping(&other.access).await.expect(200);
    // A minute later the store is asked, whatever was heard: GitHub's word is wanted anew now and then.
    before = reads().await;
    for _ in 0..130 {
        proxy.forward(Duration::from_millis(500));
        proxy.ping(&other.access).await.expect(200);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(reads().await > before, "never again");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_login_costs_the_store_what_is_known() {
    for store in stores::all("every_step_of_a_login_costs_the_store_what_is_known").await {
        let mut setup = store.setup();
        setup.extra.push_str("\nmetrics: 127.0.0.1:0");
        let proxy = Proxy::with(setup).await;
        let mut meter = Meter::at(proxy.app().metrics_address().expect("configured")).await;
        proxy.get("/mcp").await.expect(401);
        proxy.ping("mapa_forged").await.expect(401);
        meter.read(&store, "requests of strangers").await;
        let client_id = proxy.register(&[CALLBACK]).await;
        let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
        let mut browser = proxy.browser();
        let back = browser.reach_callback(&url).await;
        // The stand-in's own pages are no calls of ours.
        meter.read(&store, "the way to GitHub").await;
        let back = browser.get(&back).await.header("location").to_owned();
        let code = param(&back, "code").expect("a code");
        let answer = proxy.redeem(&client_id, &code).await.expect(200).json();
        let mut tokens = Tokens::read(client_id, answer);
        meter.read(&store, "the rest of a first login").await;
        proxy.ping(&tokens.access).await.expect(200);
        meter.read(&store, "a first call").await;
        for _ in 0..9 {
            proxy.ping(&tokens.access).await.expect(200);
        }
        meter.read(&store, "nine more within a second").await;
        for _ in 0..5 {
            proxy.forward(Duration::from_secs(1));
            for _ in 0..10 {
                proxy.ping(&tokens.access).await.expect(200);
            }
        }
        meter.read(&store, "five seconds of ten calls each").await;
        let renewed = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
        meter.read(&store, "a refresh").await;
        proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
        meter.read(&store, "a repeated refresh").await;
        tokens = Tokens::read(tokens.client_id, renewed);
        proxy.forward(Duration::from_secs(15 * 60));
        proxy.ping(&tokens.access).await.expect(200);
        meter.read(&store, "a call a quarter of an hour later").await;
        let other = proxy.login().await;
        meter.read(&store, "another login of the same person").await;
        let end = async |tokens: &Tokens| {
            let pairs = [("token", tokens.refresh.as_str()), ("client_id", &tokens.client_id)];
            proxy.post_form("/revoke", &pairs).await.expect(200);
        };
        end(&other).await;
        meter.read(&store, "a revocation that leaves a login").await;
        end(&tokens).await;
        meter.read(&store, "the last revocation").await;
        proxy.ping(&tokens.access).await.expect(401);
        meter.read(&store, "a call after it").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_login_costs_the_store_nothing_and_an_idle_stream_two_reads_at_every_look() {
    const LOOK: Duration = Duration::from_millis(300);
    let dir = TempDir::new();
    let store = Store::sqlite(&dir);
    let mut setup = store.setup();
    setup.extra.push_str("\nmetrics: 127.0.0.1:0");
    (setup.tuning.sweep, setup.tuning.stream_recheck) = (Duration::from_millis(50), LOOK);
    let proxy = Proxy::with(setup).await;
    let metrics = proxy.app().metrics_address().expect("configured");
    let crowd = Crowd::of(store.open(proxy.clock.clock()).await, proxy.clock.clock(), "a client".to_owned());
    crowd.credentials(1..1_000, |person| format!("gho_{person}")).await;
    crowd.families(1..1_000).await;
    let sweeps = async || sum(&told(metrics).await, SWEEPS);
    let begun = sweeps().await;
    while sweeps().await < begun + 5.0 {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(asked(metrics).await, [0; 6], "{VERBS:?}: nobody did anything");
    // The stream keeps what feeds it.
    let feeds: Arc<std::sync::Mutex<Vec<_>>> = Arc::default();
    let kept = feeds.clone();
    proxy.mcp.say(move |heard| match heard.method {
        Method::GET => {
            let (response, feed) = events();
            kept.lock().expect("whole").push(feed);
            response
        }
        _ => json(RESULT),
    });
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(200);
    let (before, opened) = (asked(metrics).await, Instant::now());
    let request = proxy.request(Method::GET, "/mcp").header(header::ACCEPT, "text/event-stream");
    let request = request.header(header::AUTHORIZATION, format!("Bearer {}", tokens.access));
    let stream = plain::open(proxy.address(), request.body(Bytes::new()).expect("a request")).await;
    let spent = loop {
        let spent = difference(asked(metrics).await, before);
        if spent[0] >= 6 {
            break spent;
        }
        sleep(Duration::from_millis(20)).await;
    };
    let looks = opened.elapsed().as_millis() / LOOK.as_millis();
    assert!(u128::from(spent[0]) <= 2 * looks, "{} reads at {looks} looks", spent[0]);
    assert_eq!(spent[1..], [0; 5], "{VERBS:?}: it only looks");
    drop(stream);
}

const SWEEPS: &str = "mcp_auth_proxy_store_duration_seconds_count{verb=\"sweep\"}";

// === Measuring ===

/// The program itself before an upstream that costs next to nothing, on a store with people in it.
struct Site {
    store: Store,
    proxy: Proxy,
    program: Program,
    metrics: SocketAddr,
    crowd: Crowd,
    client_id: String,
    _dir: TempDir,
}

impl Site {
    async fn on(store: Store) -> Self {
        assert!(is_for_people(), "figures are those of a release build: name it in MCP_AUTH_PROXY");
        let metrics = free_port();
        let mut setup = store.setup();
        setup.resources = in_front_of(&format!("http://{}", quick_upstream().await), "");
        let unlimited = "{register: off, authorize: off, callback: off, logins: off, refreshes: off}";
        setup.extra.push_str(&format!("\nmetrics: {metrics}\nlimits: {unlimited}"));
        let dir = TempDir::new();
        let (proxy, program) = Proxy::as_process(setup, &dir, "info").await;
        let client_id = proxy.register(&[CALLBACK]).await;
        let records = store.open(Clock::system()).await;
        let crowd = Crowd::of(records, Clock::system(), client_id.clone());
        Site { store, proxy, program, metrics, crowd, client_id, _dir: dir }
    }

    /// One for each store there is.
    async fn all(test: &str) -> Vec<Self> {
        let mut sites = Vec::new();
        for store in stores::all(test).await {
            sites.push(Self::on(store).await);
        }
        sites
    }

    /// People that no GitHub knows, with one login each.
    async fn populate(&self, number: u64) -> Arc<Vec<Login>> {
        self.crowd.credentials(1..number + 1, |person| format!("gho_{person:036}")).await;
        Arc::new(self.crowd.families(1..number + 1).await)
    }

    /// Calls for a while, and what that took.
    async fn spend(
        &self,
        logins: &Arc<Vec<Login>>,
        connections: usize,
        most: usize,
        within: Duration,
    ) -> Spent {
        let (reads, began) = (asked(self.metrics).await[0], Instant::now());
        let (ticks, server) = (self.program.processor_ticks(), server_seconds(&self.store).await);
        let calls = load(self.proxy.address(), logins, connections, most, within).await;
        let took = began.elapsed();
        let ticks = self.program.processor_ticks() - ticks;
        let server = server_seconds(&self.store).await - server;
        let reads = asked(self.metrics).await[0] - reads;
        Spent {
            calls: calls as f64,
            micros: ticks as f64 * 10_000.0,
            server: server * 1e6,
            reads: reads as f64,
            took,
        }
    }

    fn tell(&self, name: &str, value: f64, unit: &str) {
        println!("{}: {name} = {value:.1} {unit}", self.store.name);
    }
}

/// What some calls took: microseconds of the program and of the server that keeps the store.
struct Spent {
    calls: f64,
    micros: f64,
    server: f64,
    reads: f64,
    took: Duration,
}

fn free_port() -> SocketAddr {
    PortFinder::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port")
}

/// Answers a GET with a stream that stays silent and everything else with one and the same result.
async fn quick_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{:400}"}}]}}}}"#,
        ""
    );
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while hear(&mut stream, &mut buffer).await {
                    let answer = if buffer.starts_with(b"GET") { SILENT_STREAM } else { &*answer };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

const SILENT_STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
     B\r\n: welcome\n\n\r\n";

/// Reads one message with a Content-Length; `false` at the end of the connection.
async fn hear(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return false;
        }
        let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length = text.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
        let length: usize = length.map_or(0, |length| length.trim().parse().expect("a number"));
        if buffer.len() >= head + 4 + length {
            return true;
        }
    }
}

/// Calls with one login after the other over connections that stay open, as many as may be within this time;
/// returns how many that were. Over no connection it waits.
async fn load(
    to: SocketAddr,
    logins: &Arc<Vec<Login>>,
    connections: usize,
    most: usize,
    within: Duration,
) -> usize {
    let next = Arc::new(AtomicUsize::new(0));
    let (until, mut callers) = (Instant::now() + within, JoinSet::new());
    for _ in 0..connections {
        let (next, logins) = (next.clone(), logins.clone());
        callers.spawn(async move {
            let mut stream = TcpStream::connect(to).await.expect("connects");
            let (mut buffer, mut calls) = (Vec::new(), 0);
            while Instant::now() < until {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    break;
                }
                let login = &logins[number % logins.len()];
                stream.write_all(call(&login.access).as_bytes()).await.expect("writes");
                assert!(hear(&mut stream, &mut buffer).await, "an answer");
                assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
                calls += 1;
            }
            calls
        });
    }
    if connections == 0 {
        tokio::time::sleep_until(until).await;
    }
    callers.join_all().await.into_iter().sum()
}

/// A call of a tool.
fn call(token: &str) -> String {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{}}}"#;
    format!(
        "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The processor time that the server of a store has used for it so far.
async fn server_seconds(store: &Store) -> f64 {
    match store.name {
        "postgres" => {
            let pids = query(
                &store.url,
                "SELECT pid::bigint FROM pg_stat_activity WHERE datname = current_database() \
                 AND pid <> pg_backend_pid()",
            )
            .await;
            pids.into_iter().map(|pid| processor_ticks(pid as u32) as f64 / 100.0).sum()
        }
        "redis" => redis_says(store, "used_cpu_user").await + redis_says(store, "used_cpu_sys").await,
        _ => 0.0,
    }
}

/// A column of numbers.
async fn query(url: &str, sql: &str) -> Vec<i64> {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("it is there");
    tokio::spawn(connection);
    let rows = client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// A line of Redis' INFO.
async fn redis_says(store: &Store, name: &str) -> f64 {
    let told: String = stores::say(&store.url, redis::cmd("INFO").arg("everything")).await;
    let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("it is told");
    line.trim().parse().expect("a number")
}

/// What a store takes, in bytes: the file, the table with its indices, the memory.
async fn bytes(store: &Store) -> f64 {
    match store.name {
        "postgres" => {
            query(&store.url, "SELECT pg_total_relation_size('mcp_auth_proxy_records')").await[0] as f64
        }
        "redis" => redis_says(store, "used_memory").await,
        _ => {
            let file = Path::new(store.url.trim_start_matches("sqlite:"));
            let connection = rusqlite::Connection::open(file).expect("it opens");
            let moved = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            moved.expect("all is in one file");
            std::fs::metadata(file).expect("it is there").len() as f64
        }
    }
}

/// The middle and the ends.
fn middle(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn tell_middle(name: &str, values: Vec<f64>, unit: &str) {
    let (middle, least, most) = middle(values);
    println!("{name} = {middle:.1} {unit} (from {least:.1} to {most:.1})");
}

const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes: MCP_AUTH_PROXY=target/release/mcp-auth-proxy tests/backends/run cargo test --test scale -- --ignored --nocapture a_call_costs"]
async fn a_call_costs_so_much_processor_time() {
    let sites = Site::all("a_call_costs_so_much_processor_time").await;
    let mut cases = Vec::new();
    for site in &sites {
        let logins = site.populate(1_000).await;
        let one = Arc::new(logins[..1].to_vec());
        for connections in [1, 64] {
            cases.push((site, one.clone(), connections, Vec::new(), Vec::new()));
            cases.push((site, logins.clone(), connections, Vec::new(), Vec::new()));
        }
    }
    // Round by round, so that a bad moment of the machine is everybody's; the first one warms up.
    for round in 0..=ROUNDS {
        for (site, logins, connections, costs, reads) in &mut cases {
            let spent = site.spend(logins, *connections, usize::MAX, Duration::from_millis(1_500)).await;
            if round > 0 {
                costs.push(spent.micros / spent.calls);
                reads.push(spent.reads / spent.calls);
            }
        }
    }
    for (site, logins, connections, costs, reads) in cases {
        let name = format!(
            "{}: call with one of {} logins on {connections} connections",
            site.store.name,
            logins.len()
        );
        println!("{name}: per core = {:.0} calls/s", 1e6 / middle(costs.clone()).0);
        tell_middle(&name, costs, "µs");
        println!("{name}: store = {:.2} reads per call", middle(reads).0);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes: MCP_AUTH_PROXY=target/release/mcp-auth-proxy tests/backends/run cargo test --test scale -- --ignored --nocapture a_hundred_thousand"]
async fn a_hundred_thousand_logins_take_so_much_room_and_their_first_calls_so_much_time() {
    const MANY: u64 = 100_000;
    for site in Site::all("a_hundred_thousand_logins_take_so_much_room").await {
        // The tables of an empty store are nobody's.
        let empty = bytes(&site.store).await;
        site.crowd.credentials(1..MANY + 1, |person| format!("gho_{person:036}")).await;
        let with_credentials = bytes(&site.store).await;
        let logins = Arc::new(site.crowd.families(1..MANY + 1).await);
        let full = bytes(&site.store).await;
        site.tell("credential in the store", (with_credentials - empty) / MANY as f64, "bytes");
        site.tell("family in the store", (full - with_credentials) / MANY as f64, "bytes");
        // Connections and everything that is made at first use come before.
        let warm = Arc::new(logins[..64].to_vec());
        site.tell("memory when idle", site.program.rss_kib() as f64, "KiB");
        site.spend(&warm, 64, 20_000, Duration::from_secs(5)).await;
        let before = site.program.rss_kib();
        site.tell("memory after 64 connections", before as f64, "KiB");
        let spent = site.spend(&logins, 64, logins.len(), Duration::from_secs(100)).await;
        let live = sum(&told(site.metrics).await, "mcp_auth_proxy_live_families");
        let grown = |site: &Site| (site.program.rss_kib() - before) as f64 * 1024.0;
        site.tell("first calls", spent.calls, "calls");
        site.tell("first calls", spent.calls / spent.took.as_secs_f64(), "calls/s");
        site.tell("live families", live, "families");
        site.tell("memory of a live family", grown(&site) / live, "bytes");
        site.tell("first call", spent.micros / spent.calls, "µs");
        site.tell("first call at the store", spent.reads / spent.calls, "reads");
        site.tell("a read at the store's server", spent.server / spent.reads, "µs");
        // Read anew, they take the place of what was known.
        let again = site.spend(&logins, 64, logins.len(), Duration::from_secs(100)).await;
        site.tell("second call", again.micros / again.calls, "µs");
        site.tell("memory of a live family after its second call", grown(&site) / live, "bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes: MCP_AUTH_PROXY=target/release/mcp-auth-proxy tests/backends/run cargo test --test scale -- --ignored --nocapture a_silent_stream"]
async fn a_silent_stream_of_each_of_many_people_costs_so_much() {
    const STREAMS: usize = 2_000;
    const WATCHED: Duration = Duration::from_secs(45);
    raise_own_limit();
    for site in Site::all("a_silent_stream_of_each_of_many_people_costs_so_much").await {
        let logins = site.populate(STREAMS as u64).await;
        // Each has called before: what a family takes is another figure.
        site.spend(&logins, 64, STREAMS, Duration::from_secs(60)).await;
        let before = site.program.rss_kib();
        let mut streams = Vec::new();
        for login in &*logins {
            let mut stream = TcpStream::connect(site.proxy.address()).await.expect("connects");
            let request = format!(
                "GET /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nAccept: text/event-stream\r\n\r\n",
                login.access
            );
            stream.write_all(request.as_bytes()).await.expect("writes");
            let mut buffer = Vec::new();
            while !buffer.ends_with(b": welcome\n\n\r\n") {
                assert!(stream.read_buf(&mut buffer).await.expect("reads") > 0, "it stays open");
            }
            streams.push(stream);
        }
        let grown = site.program.rss_kib() - before;
        site.tell("memory of a silent stream", grown as f64 / STREAMS as f64, "KiB");
        let spent = site.spend(&logins, 0, 0, WATCHED).await;
        let seconds = STREAMS as f64 * spent.took.as_secs_f64();
        site.tell("a silent stream", spent.micros / seconds, "µs per s");
        site.tell("a thousand silent streams", 1_000.0 * spent.reads / seconds, "reads per s");
        site.tell("a silent stream at the store's server", spent.server / seconds, "µs per s");
    }
}

/// Lets this process open as much as it may.
fn raise_own_limit() {
    let own = format!("prlimit --pid {} --nofile=$(ulimit -Hn):$(ulimit -Hn)", std::process::id());
    let _ = std::process::Command::new("sh").arg("-c").arg(own).status();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes: MCP_AUTH_PROXY=target/release/mcp-auth-proxy tests/backends/run cargo test --test scale -- --ignored --nocapture refreshes_and_logins"]
async fn refreshes_and_logins_cost_so_much_processor_time() {
    const PEOPLE: u64 = 100;
    const LOGINS: u64 = 100;
    let mut cases = Vec::new();
    for site in Site::all("refreshes_and_logins_cost_so_much_processor_time").await {
        for person in 1..=PEOPLE + LOGINS * (ROUNDS as u64 + 1) {
            site.proxy.github.world().add_user(User::new(person, &format!("person-{person}")));
        }
        let github = site.proxy.github.clone();
        let issue = move |person| github.world().issue(&format!("person-{person}"), "read:user");
        site.crowd.credentials(1..PEOPLE + 1, issue).await;
        let logins = site.crowd.families(1..PEOPLE + 1).await;
        cases.push((site, logins, [const { Vec::new() }; 6]));
    }
    for round in 0..=ROUNDS {
        for (site, logins, figures) in &mut cases {
            let refreshed = site.timed(async |site| refresh_all(site, logins).await).await;
            let first = PEOPLE + 1 + LOGINS * round as u64;
            let logged_in = site.timed(async |site| log_in(site, first..first + LOGINS).await).await;
            if round > 0 {
                let new = [refreshed, logged_in].concat();
                figures.iter_mut().zip(new).for_each(|(figures, new)| figures.push(new));
            }
        }
    }
    for (site, _, figures) in cases {
        let names = ["refresh", "refreshes, 16 at a time", "refresh at the store's server"];
        let more = ["login", "logins, one after the other", "login at the store's server"];
        for ((name, figures), unit) in
            [names, more].concat().iter().zip(figures).zip(["µs", "per s", "µs"].iter().cycle())
        {
            tell_middle(&format!("{}: {name}", site.store.name), figures, unit);
        }
    }
}

impl Site {
    /// What something took that says how often it did it: microseconds each, how many in a second, and microseconds
    /// of the store's server.
    async fn timed(&self, what: impl AsyncFnOnce(&Self) -> u64) -> [f64; 3] {
        let (ticks, server, began) =
            (self.program.processor_ticks(), server_seconds(&self.store).await, Instant::now());
        let times = what(self).await as f64;
        let took = began.elapsed().as_secs_f64();
        let ticks = (self.program.processor_ticks() - ticks) as f64;
        let server = server_seconds(&self.store).await - server;
        [ticks * 10_000.0 / times, times / took, server * 1e6 / times]
    }
}

/// Each login gets its next pair, ten times.
async fn refresh_all(site: &Site, logins: &mut [Login]) -> u64 {
    let share = logins.len().div_ceil(16);
    support::all(logins.chunks_mut(share).map(async |part| {
        for login in part {
            for _ in 0..10 {
                let answer = site.proxy.refresh(&site.client_id, &login.refresh).await.expect(200).json();
                login.refresh = answer["refresh_token"].as_str().expect("a token").to_owned();
            }
        }
    }))
    .await;
    10 * logins.len() as u64
}

async fn log_in(site: &Site, people: std::ops::Range<u64>) -> u64 {
    let number = people.end - people.start;
    for person in people {
        site.proxy.github.world().sign_in(&format!("person-{person}"));
        site.proxy.login().await;
    }
    number
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes: MCP_AUTH_PROXY=target/release/mcp-auth-proxy tests/backends/run cargo test --test scale -- --ignored --nocapture a_million_expired"]
async fn a_million_expired_records_are_swept_in_so_much_time() {
    const MILLION: f64 = 1e6;
    let dir = TempDir::new();
    let sqlite = Store::sqlite(&dir);
    let postgres = stores::postgres("a_million_expired_records_are_swept_in_so_much_time").await;
    for store in [Some(sqlite), postgres].into_iter().flatten() {
        // Makes the tables.
        drop(store.open(Clock::system()).await);
        match store.name {
            "postgres" => stores::admin(&store.url, EXPIRED_IN_POSTGRES).await,
            _ => {
                let file = store.url.trim_start_matches("sqlite:").to_owned();
                let connection = rusqlite::Connection::open(file).expect("it opens");
                connection.execute_batch(EXPIRED_IN_SQLITE).expect("written");
            }
        }
        // The first sweep begins with the program.
        let site = Site::on(store).await;
        let began = Instant::now();
        let mut told_last = told(site.metrics).await;
        while sum(&told_last, SWEEPS) < 1.0 && began.elapsed() < Duration::from_secs(400) {
            sleep(Duration::from_millis(100)).await;
            told_last = told(site.metrics).await;
        }
        let seconds = sum(&told_last, "mcp_auth_proxy_store_duration_seconds_sum{verb=\"sweep\"}");
        site.tell("sweep of a million expired records", seconds, "s");
        site.tell("an expired record", site.program.processor_ticks() as f64 * 1e4 / MILLION, "µs");
        site.tell("store after the sweep", bytes(&site.store).await, "bytes");
    }
}

const EXPIRED_IN_POSTGRES: &str = "INSERT INTO mcp_auth_proxy_records (key, bytes, version, owner, expires)
    SELECT 'family/' || md5(n::text), decode(repeat(md5(n::text), 14), 'hex'), n, 'person/' || n, n
    FROM generate_series(1, 1000000) AS n";
const EXPIRED_IN_SQLITE: &str = "INSERT INTO records (key, bytes, version, owner, expires)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000000)
    SELECT 'family/' || hex(randomblob(16)), randomblob(224), n, 'person/' || n, n FROM numbers";
