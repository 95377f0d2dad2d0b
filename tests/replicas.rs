//! Restarts as people see them: behind a balancer, and under open streams; and a changed configuration without one.
//! All of it with the program itself.

mod support;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::balancer::{Balancer, Shares};
use support::github::User;
use support::http::{self as plain, Answer};
use support::program::Program;
use support::proxy::{CALLBACK, PING, Proxy, Setup, Tokens, param};
use support::tls::{Authority, section};
use support::upstream::{Mcp, RESULT, events, json, late};
use support::{TempDir, all, eventually, free_address, raw, stores};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Something to hear.
const EVENT: &str = "data: 1\n\n";

type Feed = mpsc::UnboundedSender<Result<Bytes, io::Error>>;

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

/// Waits for the end of a program, and returns how long that took.
async fn ended(program: &mut Program) -> Duration {
    let since = Instant::now();
    let end = async {
        while program.is_running() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    soon(end).await;
    assert!(program.wait().success(), "{}", program.said());
    since.elapsed()
}

/// A stream of events for this token, once its head is there.
async fn stream(proxy: &Proxy, token: &str) -> Incoming {
    let request = proxy.call("/mcp", token).method(Method::GET).body(Bytes::new()).expect("a request");
    let (head, body) = plain::open(proxy.address(), request).await;
    assert_eq!(head.status, 200);
    body
}

/// From now on the upstream opens a stream for each GET, whose feed comes out here, and answers calls after a while.
fn streams(mcp: &Mcp, wait: Duration) -> mpsc::UnboundedReceiver<Feed> {
    let (feeds, fed) = mpsc::unbounded_channel();
    mcp.say(move |heard| match heard.method == Method::GET {
        true => {
            let (response, feed) = events();
            let _ = feeds.send(feed);
            response
        }
        false => late(wait, json(RESULT)),
    });
    fed
}

fn say(feed: &Feed, text: &'static str) {
    feed.send(Ok(Bytes::from_static(text.as_bytes()))).expect("the proxy listens");
}

async fn hears(body: &mut Incoming, text: &str) {
    assert_eq!(soon(plain::next(body)).await.expect("not the end").expect("not cut"), text);
}

// Rolling restarts.

/// One connection, kept for the next request for as long as the other side keeps it.
struct Kept {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Kept {
    fn to(address: SocketAddr) -> Self {
        Kept { address, sender: None }
    }

    /// An answer to the end. What was closed before a request is no failure: the client knows that nothing was sent.
    async fn send(&mut self, request: Request<Bytes>) -> Result<Answer, Box<dyn std::error::Error>> {
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        if sender.ready().await.is_err() {
            sender = self.connect().await?;
        }
        let (parts, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.sender = (!parts.headers.contains_key("connection")).then_some(sender);
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error>> {
        let stream = TcpStream::connect(self.address).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// What people do at one address, all the time, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    refreshes: Arc<AtomicUsize>,
    logins: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    async fn begin(proxy: &Arc<Proxy>) -> Self {
        let count = Arc::<AtomicUsize>::default;
        let (calls, refreshes, logins) = (count(), count(), count());
        let mut load = Load {
            stop: Arc::default(),
            calls,
            refreshes,
            logins,
            failures: Arc::default(),
            tasks: Vec::new(),
        };
        for _ in 0..4 {
            let token: Arc<str> = proxy.login().await.access.into();
            for _ in 0..4 {
                load.tasks.push(load.calls(proxy, token.clone()));
            }
        }
        let tokens = proxy.login().await;
        load.tasks.push(load.refreshes(proxy, tokens));
        load.tasks.push(load.logins(proxy));
        load
    }

    fn calls(&self, proxy: &Arc<Proxy>, token: Arc<str>) -> JoinHandle<()> {
        let (proxy, stop, done, failures) =
            (proxy.clone(), self.stop.clone(), self.calls.clone(), self.failures.clone());
        tokio::spawn(async move {
            let mut connection = Kept::to(proxy.address());
            while !stop.load(Ordering::Relaxed) {
                let call = proxy.call("/mcp", &token).body(Bytes::from_static(PING)).expect("a request");
                match connection.send(call).await {
                    Ok(answer) if answer.status == 200 && answer.body == RESULT => {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    outcome => failures.lock().expect("no panic").push(format!("{outcome:?}")),
                }
                sleep(Duration::from_millis(10)).await;
            }
        })
    }

    /// Each refresh token buys the next.
    fn refreshes(&self, proxy: &Arc<Proxy>, mut tokens: Tokens) -> JoinHandle<()> {
        let (proxy, stop, done) = (proxy.clone(), self.stop.clone(), self.refreshes.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
                tokens = Tokens::read(tokens.client_id, answer);
                proxy.ping(&tokens.access).await.expect(200);
                done.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
        })
    }

    fn logins(&self, proxy: &Arc<Proxy>) -> JoinHandle<()> {
        let (proxy, stop, done) = (proxy.clone(), self.stop.clone(), self.logins.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let tokens = proxy.login().await;
                proxy.ping(&tokens.access).await.expect(200);
                done.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(50)).await;
            }
        })
    }

    /// How many calls, refreshes and logins there were; all of them went well.
    async fn end(self) -> [usize; 3] {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            soon(task).await.expect("no request failed");
        }
        let failures = self.failures.lock().expect("no panic");
        assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), &failures[..failures.len().min(5)]);
        [self.calls, self.refreshes, self.logins].map(|count| count.load(Ordering::Relaxed))
    }
}

/// A client that opens its stream again whenever that has ended; counts how often it did, and fails when it was cut.
fn faithful(proxy: &Arc<Proxy>, token: Arc<str>) -> (Arc<AtomicUsize>, JoinHandle<()>) {
    let (proxy, ends) = (proxy.clone(), Arc::<AtomicUsize>::default());
    let counted = ends.clone();
    let task = tokio::spawn(async move {
        loop {
            let mut body = stream(&proxy, &token).await;
            while let Some(event) = plain::next(&mut body).await {
                event.expect("streams end, they are not cut");
            }
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (ends, task)
}

/// Two processes that differ in the number of their cores, on addresses that they come back to.
struct Pair {
    proxy: Arc<Proxy>,
    programs: [Program; 2],
    dirs: [TempDir; 2],
    addresses: [SocketAddr; 2],
}

impl Pair {
    async fn start(setup: Setup) -> Self {
        let dirs = [TempDir::new(), TempDir::new()];
        let (one, other) = (free_address(), free_address());
        let (proxy, first) = Proxy::as_process(Setup { listen: one, ..setup }, &dirs[0], "info").await;
        let yaml = std::fs::read_to_string(dirs[0].path().join("proxy.yaml")).expect("text");
        let yaml = yaml.replace(&one.to_string(), &other.to_string()).replace("workers: 1", "workers: 2");
        let second = Program::start(&dirs[1], &yaml, "info");
        for address in [one, other] {
            is_ready(address).await;
        }
        Pair { proxy: Arc::new(proxy), programs: [first, second], dirs, addresses: [one, other] }
    }

    /// From now on clients come through a balancer, if there is one.
    async fn behind(&mut self, test: &str, shares: Shares) -> Option<Balancer> {
        let balancer = Balancer::start(test, shares, &self.addresses).await?;
        Arc::get_mut(&mut self.proxy).expect("nobody else has it yet").moved_to(balancer.address());
        Some(balancer)
    }

    /// Another process in the place of one, which must end in time, and meanwhile the balancer sends nobody there.
    async fn restart(&mut self, number: usize, balancer: &Balancer) {
        let program = &mut self.programs[number];
        program.terminate();
        let took = ended(program).await;
        assert!(took >= DELAY && took < DELAY + GRACE + Duration::from_secs(1), "{took:?}");
        assert_eq!(program.again(&self.dirs[number], "info"), self.addresses[number]);
        is_ready(self.addresses[number]).await;
        balancer.sees(number, "status", "UP").await;
    }
}

/// Waits until requests are welcome there.
async fn is_ready(address: SocketAddr) {
    soon(async {
        while readiness(address).await != 200 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// What a balancer is told; 0 when nobody listens.
async fn readiness(address: SocketAddr) -> u16 {
    if TcpStream::connect(address).await.is_err() {
        return 0;
    }
    raw::status(&raw::say(address, b"GET /readyz HTTP/1.0\r\n\r\n").await)
}

const DELAY: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(5);
/// Rates are for strangers; here one person does it all.
const NO_RATES: &str = "limits: {register: off, authorize: off, callback: off, logins: off, refreshes: off}";

/// A store that both share, and what a restart may take.
async fn shared(test: &str) -> Option<Setup> {
    let mut setup = stores::postgres(test).await?.setup();
    setup.extra.push_str(&format!("\ndrain_delay: 2s\ndrain: 5s\n{NO_RATES}"));
    Some(setup)
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_restarted_one_after_the_other_and_nobody_notices() {
    let test = "replicas_are_restarted_one_after_the_other_and_nobody_notices";
    let Some(setup) = shared(test).await else { return };
    let mut pair = Pair::start(setup).await;
    let Some(balancer) = pair.behind(test, Shares::Requests).await else { return };
    let proxy = pair.proxy.clone();
    // Kept, so that no stream ends by itself.
    let _feeds = streams(&proxy.mcp, Duration::ZERO);
    let token: Arc<str> = proxy.login().await.access.into();
    let streams: Vec<_> = (0..10).map(|_| faithful(&proxy, token.clone())).collect();
    let load = Load::begin(&proxy).await;
    for number in [0, 1, 0, 1] {
        pair.restart(number, &balancer).await;
    }
    let [calls, refreshes, logins] = load.end().await;
    assert!(calls > 3_000 && refreshes > 50 && logins > 20, "{calls} {refreshes} {logins}");
    for number in [0, 1] {
        let served: usize = balancer.number(number, "hrsp_2xx").await.parse().expect("a number");
        assert!(served > calls / 10, "{served} of {calls}");
        assert_eq!(balancer.number(number, "chkdown").await, "2", "it was seen to leave");
    }
    for (ends, task) in streams {
        // Every restart but, for those that it did not concern, the first.
        let ends = ends.load(Ordering::Relaxed);
        assert!(!task.is_finished() && (3..=4).contains(&ends), "{ends}");
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_balancer_cannot_move_moves_by_itself() {
    let test = "a_connection_that_a_balancer_cannot_move_moves_by_itself";
    let Some(setup) = shared(test).await else { return };
    let mut pair = Pair::start(setup).await;
    let Some(balancer) = pair.behind(test, Shares::Connections).await else { return };
    let load = Load::begin(&pair.proxy).await;
    for number in [0, 1, 0, 1] {
        pair.restart(number, &balancer).await;
    }
    let [calls, refreshes, logins] = load.end().await;
    assert!(calls > 1_000 && refreshes > 20 && logins > 10, "{calls} {refreshes} {logins}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_let_go_while_requests_are_still_welcome() {
    let dir = TempDir::new();
    let extra = "drain_delay: 5s\ndrain: 5s".to_owned();
    let (proxy, mut program) = Proxy::as_process(Setup { extra, ..Setup::default() }, &dir, "info").await;
    let token = proxy.login().await.access;
    let call = || proxy.call("/mcp", &token).body(Bytes::from_static(PING)).expect("a request");
    let (mut one, mut two) = (Kept::to(proxy.address()), Kept::to(proxy.address()));
    for connection in [&mut one, &mut two] {
        assert!(!connection.send(call()).await.expect("an answer").headers.contains_key("connection"));
    }
    let mut http2 = over_http2(proxy.address()).await;
    assert_eq!(ask_ready(&mut http2).await, 200);
    program.terminate();
    leaves_readiness(&proxy).await;
    // The one that was there already, and whoever comes now.
    let mut late = Kept::to(proxy.address());
    for connection in [&mut one, &mut late] {
        is_last(&connection.send(call()).await.expect("an answer"));
        assert!(connection.sender.is_none());
    }
    takes_no_more(&mut http2).await;
    let mut http2 = over_http2(proxy.address()).await;
    assert_eq!(ask_ready(&mut http2).await, 503);
    takes_no_more(&mut http2).await;
    // One that was idle all the while is kept: a request could be on its way.
    sleep(Duration::from_secs(1)).await;
    is_last(&two.send(call()).await.expect("an answer"));
    ended(&mut program).await;
}

#[track_caller]
fn is_last(answer: &Answer) {
    assert_eq!(answer.status, 200);
    assert!(answer.headers.get_all("connection").iter().eq(["close"]), "{:?}", answer.headers);
}

/// A connection in clear to a server that is known to speak HTTP/2.
async fn over_http2(address: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Waits until the other side has said so, which follows its last answer.
async fn takes_no_more(connection: &mut http2::SendRequest<Full<Bytes>>) {
    soon(async {
        while connection.ready().await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn ask_ready(connection: &mut http2::SendRequest<Full<Bytes>>) -> u16 {
    let request = Request::get("http://p.test/readyz").body(Full::default()).expect("a request");
    soon(connection.send_request(request)).await.expect("an answer").status().as_u16()
}

/// Waits until no further requests are asked for, of which everybody is told at once.
async fn leaves_readiness(proxy: &Proxy) {
    let leaves = async {
        while proxy.get("/readyz").await.status != 503 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(1), leaves).await.expect("at once");
}

// The end.

/// A program with streams and calls open at its end.
struct Busy {
    proxy: Arc<Proxy>,
    program: Program,
    streams: Vec<Incoming>,
    feeds: Vec<Feed>,
    calls: Vec<JoinHandle<Option<Answer>>>,
    _dir: TempDir,
}

impl Busy {
    async fn start(setup: Setup, dir: TempDir, streams: usize, calls: usize) -> Self {
        let (proxy, program) = Proxy::as_process(setup, &dir, "info").await;
        let (proxy, mut open, mut feeds) = (Arc::new(proxy), Vec::new(), Vec::new());
        let token: Arc<str> = proxy.login().await.access.into();
        let mut fed = self::streams(&proxy.mcp, Duration::from_millis(1_500));
        for _ in 0..streams {
            open.push(stream(&proxy, &token).await);
            feeds.push(fed.recv().await.expect("a stream"));
        }
        let call = |_| {
            let (proxy, token) = (proxy.clone(), token.clone());
            let call = proxy.call("/mcp", &token).body(Bytes::from_static(PING)).expect("a request");
            tokio::spawn(async move { plain::try_send(proxy.address(), call).await })
        };
        let calls: Vec<_> = (0..calls).map(call).collect();
        soon(async {
            while proxy.mcp.heard().len() < streams + calls.len() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        Busy { proxy, program, streams: open, feeds, calls, _dir: dir }
    }

    async fn ends_cleanly(mut self, most: Duration) {
        self.program.terminate();
        let since = Instant::now();
        leaves_readiness(&self.proxy).await;
        let (mut program, calls) = (self.program, self.calls);
        let end = tokio::spawn(async move {
            ended(&mut program).await;
            program
        });
        // Streams go on until the end is near.
        for (feed, body) in self.feeds.iter().zip(&mut self.streams) {
            say(feed, EVENT);
            hears(body, EVENT).await;
        }
        for call in calls {
            let answer = soon(call).await.expect("no panic").expect("it was open");
            assert_eq!(answer.expect(200).text(), RESULT);
        }
        for body in &mut self.streams {
            let end = soon(plain::next(body)).await;
            assert!(end.is_none(), "a clean end, so that the client comes back: {end:?}");
        }
        let program = soon(end).await.expect("no panic");
        let took = since.elapsed();
        assert!(took < most, "{took:?}");
        assert!(program.said().contains("stopped"), "the last line is not lost");
    }

    async fn ends_at_once_when_told_twice(mut self) {
        self.program.terminate();
        eventually(|| self.program.said().contains("draining")).await;
        say(&self.feeds[0], EVENT);
        hears(&mut self.streams[0], EVENT).await;
        say(&self.feeds[0], "data: ha");
        hears(&mut self.streams[0], "data: ha").await;
        self.program.terminate();
        let took = ended(&mut self.program).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        for call in self.calls {
            assert!(soon(call).await.expect("no panic").is_none(), "it was cut");
        }
        // The others may end between two events.
        let [first, rest @ ..] = &mut self.streams[..] else { panic!("no streams") };
        soon(plain::next(first)).await.expect("not a clean end").expect_err("it was cut in an event");
        for body in rest {
            assert!(!matches!(soon(plain::next(body)).await, Some(Ok(_))));
        }
    }
}

// ST-16
#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_at_the_end_is_finished_and_streams_end_cleanly() {
    let setup = Setup { extra: "drain_delay: 1s\ndrain: 5s".to_owned(), ..Setup::default() };
    let busy = Busy::start(setup, TempDir::new(), 200, 50).await;
    busy.ends_cleanly(Duration::from_millis(6_500)).await;
}

// ST-16
#[tokio::test(flavor = "multi_thread")]
async fn over_http2_streams_end_as_cleanly() {
    let (authority, dir) = (Authority::new(), TempDir::new());
    authority.pair(&["p.test"]).write(dir.path());
    let extra = format!("drain_delay: 1s\ndrain: 4s\n{}", section(dir.path()));
    let setup = Setup { extra, client: Some(authority.client(&["h2"])), ..Setup::default() };
    let busy = Busy::start(setup, dir, 1, 1).await;
    busy.ends_cleanly(Duration::from_millis(5_500)).await;
}

// ST-16
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_cuts_whatever_is_open() {
    for extra in ["drain: 1h", "drain_delay: 1h\ndrain: 1h"] {
        let setup = Setup { extra: extra.to_owned(), ..Setup::default() };
        let busy = Busy::start(setup, TempDir::new(), 200, 50).await;
        busy.ends_at_once_when_told_twice().await;
    }
}

// SIGHUP.

/// A running program and the file that it reads again.
struct Reloaded {
    proxy: Proxy,
    program: Program,
    dir: TempDir,
}

impl Reloaded {
    async fn start(setup: Setup) -> Self {
        Self::start_in(TempDir::new(), setup).await
    }

    async fn start_in(dir: TempDir, setup: Setup) -> Self {
        let (proxy, program) = Proxy::as_process(setup, &dir, "info").await;
        Reloaded { proxy, program, dir }
    }

    /// With a changed file from now on.
    async fn with(&self, change: impl FnOnce(&str) -> String) {
        let said = self.told(change).await;
        assert!(said.contains("the configuration was reloaded"), "{said}");
    }

    /// The file is refused; what is said of it.
    async fn refuses(&self, change: impl FnOnce(&str) -> String) -> String {
        let before = self.file();
        let said = self.told(change).await;
        assert!(said.contains("stays"), "{said}");
        std::fs::write(self.path(), before).expect("written");
        said
    }

    /// What it says of a changed file.
    async fn told(&self, change: impl FnOnce(&str) -> String) -> String {
        std::fs::write(self.path(), change(&self.file())).expect("written");
        let before = self.program.said().len();
        let said = || self.program.said()[before..].to_owned();
        self.program.hang_up();
        eventually(|| ["was reloaded", "stays"].iter().any(|end| said().contains(end))).await;
        said()
    }

    fn file(&self) -> String {
        std::fs::read_to_string(self.path()).expect("text")
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("proxy.yaml")
    }
}

async fn revoke(proxy: &Proxy, tokens: &Tokens) {
    let pairs = [("token", tokens.refresh.as_str()), ("client_id", &tokens.client_id)];
    proxy.post_form("/revoke", &pairs).await.expect(200);
}

/// What comes of a login: a code, or this error.
async fn verdict(proxy: &Proxy) -> Option<String> {
    let client_id = proxy.register(&[CALLBACK]).await;
    let back = proxy.browser().approve(&proxy.authorize_url(&client_id, CALLBACK, &[])).await;
    param(&back, "error")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_served_at_once_and_open_streams_do_not_notice() {
    let running = Reloaded::start(Setup::default()).await;
    let (proxy, other) = (&running.proxy, Mcp::start().await);
    proxy.github.world().add_user(User::new(4_242, "bystander"));
    let tokens = proxy.login().await;
    let mut fed = streams(&proxy.mcp, Duration::ZERO);
    let mut body = stream(proxy, &tokens.access).await;
    let feed = fed.recv().await.expect("a stream");
    let mut kept = Kept::to(proxy.address());
    let call = || proxy.call("/mcp", &tokens.access).body(Bytes::from_static(PING)).expect("a request");
    assert_eq!(kept.send(call()).await.expect("an answer").status, 200);
    proxy.get("/two").await.expect(404);

    let (before, heard) = (proxy.mcp.origin(), proxy.mcp.heard().len());
    let resources = format!("}}}}, {{path: /two, upstream: '{before}/two', inject: {{}}}}]");
    let change = |file: &str| {
        let file = file.replace("allow: anyone", "allow: {users: [bystander]}");
        file.replace(&format!("{before}/mcp"), &format!("{}/mcp", other.origin())).replace("}}]", &resources)
    };
    running.with(change).await;
    // The connection is the one from before, the upstream is not.
    assert_eq!(kept.send(call()).await.expect("an answer").status, 200);
    assert_eq!((other.heard().len(), proxy.mcp.heard().len()), (1, heard));
    assert_eq!(verdict(proxy).await.as_deref(), Some("access_denied"));
    proxy.github.world().sign_in("bystander");
    assert_eq!(verdict(proxy).await, None);
    let two = proxy.login_for(&[("resource", "https://p.test/two")]).await;
    proxy
        .send(proxy.call("/two", &two.access).body(Bytes::from_static(PING)).expect("a request"))
        .await
        .expect(200);
    assert_eq!(proxy.mcp.last().target, "/two");
    proxy.ping(&two.access).await.expect(401);

    say(&feed, EVENT);
    hears(&mut body, EVENT).await;
    revoke(proxy, &tokens).await;
    say(&feed, EVENT);
    let end = timeout(Duration::from_secs(1), plain::next(&mut body)).await.expect("within a second");
    end.expect("not a clean end").expect_err("a stream from before ends with its grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_reaches_streams_of_every_configuration_there_was() {
    let running = Reloaded::start(Setup::default()).await;
    let proxy = &running.proxy;
    let mut fed = streams(&proxy.mcp, Duration::ZERO);
    let (tokens, bystander) = (proxy.login().await, proxy.login().await);
    let mut open = Vec::new();
    for number in 1..=4 {
        for token in [&tokens.access, &bystander.access] {
            open.push((stream(proxy, token).await, fed.recv().await.expect("a stream")));
        }
        running
            .with(|file| {
                format!("{file}\ntokens: {{access: {number}h}}\n").replacen(
                    &format!("\ntokens: {{access: {}h}}\n", number - 1),
                    "",
                    1,
                )
            })
            .await;
    }
    revoke(proxy, &tokens).await;
    let since = Instant::now();
    for (number, (body, feed)) in open.iter_mut().enumerate() {
        say(feed, EVENT);
        match number % 2 {
            0 => drop(soon(plain::next(body)).await.expect("not a clean end").expect_err("it was cut")),
            _ => hears(body, EVENT).await,
        }
    }
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_refused_with_all_its_problems_and_changes_nothing() {
    let running = Reloaded::start(Setup::default()).await;
    let tokens = running.proxy.login().await;
    let change = |file: &str| {
        file.replace("allow: anyone", "allow: nobody").replace("drain: 1s", "drain: soon") + "colour: blue\n"
    };
    let said = running.refuses(change).await;
    for problem in ["allow", "drain", "colour", "problems=3"] {
        assert!(said.contains(problem), "{problem}: {said}");
    }
    for file in ["", "allow: [", "\u{0}"] {
        running.refuses(|_| file.to_owned()).await;
    }
    running.proxy.ping(&tokens.access).await.expect(200);
    assert_eq!(verdict(&running.proxy).await, None);
    // The next good one is taken.
    running.with(|file| file.replace("allow: anyone", "allow: {users: [bystander]}")).await;
    assert_eq!(verdict(&running.proxy).await.as_deref(), Some("access_denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_needs_a_restart_is_refused_and_told() {
    let running = Reloaded::start(Setup::default()).await;
    let tokens = running.proxy.login().await;
    let elsewhere = free_address().to_string();
    // What could change does not either.
    let change = |file: &str| {
        let file = file.replace("allow: anyone", "allow: {users: [bystander]}");
        let file = file.replace("listen: 127.0.0.1:0", &format!("listen: {elsewhere}"));
        file.replace("store: 'memory:'", "store: 'sqlite:other.db'").replace("drain: 1s", "drain: 2s")
    };
    let said = running.refuses(change).await;
    for path in ["listen: ", "store: ", "drain: "] {
        assert!(said.contains(&format!("{path}cannot change while the program runs")), "{path}: {said}");
    }
    assert!(!said.contains("workers: cannot"), "{said}");
    running.proxy.ping(&tokens.access).await.expect(200);
    assert_eq!(verdict(&running.proxy).await, None);
    assert!(TcpStream::connect(&elsewhere).await.is_err());
    assert!(!running.dir.path().join("other.db").exists());
}

const NEW_KEY: &str = "bmV3LWtleS1vZi1hLXJlbG9hZC0wMTIzNDU2Nzg5YWI=";

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_a_new_key_in_front_ends_no_login() {
    for store in stores::all("a_reload_with_a_new_key_in_front_ends_no_login").await {
        let running = Reloaded::start(store.setup()).await;
        is_ready(running.proxy.address()).await;
        let (proxy, mut fed) = (&running.proxy, streams(&running.proxy.mcp, Duration::ZERO));
        let before = proxy.login().await;
        let mut body = stream(proxy, &before.access).await;
        let feed = fed.recv().await.expect("a stream");
        running.with(|file| file.replace("keys: [", &format!("keys: ['{NEW_KEY}', "))).await;
        proxy.ping(&before.access).await.expect(200);
        let refreshed = proxy.refresh(&before.client_id, &before.refresh).await.expect(200).json();
        let refreshed = Tokens::read(before.client_id.clone(), refreshed);
        for access in [&before.access, &refreshed.access] {
            proxy.ping(access).await.expect(200);
        }
        say(&feed, EVENT);
        hears(&mut body, EVENT).await;
        let after = proxy.login().await;
        proxy.ping(&after.access).await.expect(200);
        // On one machine it writes at once, so the old one can go; replicas would have to learn it first.
        if store.name == "sqlite" {
            running.with(|file| file.replace(&format!(", '{}'", stores::KEY), "")).await;
            proxy.ping(&after.access).await.expect(200);
            proxy.ping(&before.access).await.expect(401);
        }
    }
}

// A key that was just given to this replica is not new to it, whatever the streams still hold that came before.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_a_new_key_is_not_taken_for_another_replicas() {
    let test = "a_reload_with_a_new_key_is_not_taken_for_another_replicas";
    let Some(store) = stores::redis(test).await else { return };
    let running = Reloaded::start(store.setup()).await;
    is_ready(running.proxy.address()).await;
    let (proxy, _fed) = (&running.proxy, streams(&running.proxy.mcp, Duration::ZERO));
    let _open = stream(proxy, &proxy.login().await.access).await;
    running.with(|file| file.replace("keys: [", &format!("keys: ['{NEW_KEY}', "))).await;
    // It looks every fifteen seconds.
    sleep(Duration::from_secs(16)).await;
    assert!(!running.program.said().contains("another replica"), "{}", running.program.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_counts_what_was_open_before() {
    let extra = "limits: {streams_per_person: 3}".to_owned();
    let running = Reloaded::start(Setup { extra, ..Setup::default() }).await;
    let (proxy, mut fed) = (&running.proxy, streams(&running.proxy.mcp, Duration::ZERO));
    let tokens = proxy.login().await;
    let before = (stream(proxy, &tokens.access).await, stream(proxy, &tokens.access).await);
    running.with(|file| file.replace("allow: anyone", "allow: {users: [octocat]}")).await;
    let after = stream(proxy, &tokens.access).await;
    proxy.ping(&tokens.access).await.expect(429);
    running.with(|file| file.replace("person: 3", "person: 4")).await;
    proxy.ping(&tokens.access).await.expect(200);
    running.with(|file| file.replace("person: 4", "person: 2")).await;
    drop(before.0);
    soon(fed.recv().await.expect("a stream").closed()).await;
    proxy.ping(&tokens.access).await.expect(429);
    // What is given back after a reload is counted too.
    drop((before.1, after));
    for _ in 0..2 {
        soon(fed.recv().await.expect("a stream").closed()).await;
    }
    soon(async {
        while proxy.ping(&tokens.access).await.status != 200 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_gives_back_what_the_configuration_before_held() {
    let running = Reloaded::start(Setup::default()).await;
    let proxy = &running.proxy;
    let tokens = proxy.login().await;
    let mut allowed = ["anyone", "{users: [octocat]}"].iter().cycle();
    for _ in 0..10 {
        all((0..3).map(|_| proxy.ping(&tokens.access))).await;
        let (now, next) = (allowed.next().expect("endless"), allowed.clone().next().expect("endless"));
        running.with(|file| file.replace(&format!("allow: {now}"), &format!("allow: {next}"))).await;
    }
    proxy.ping(&tokens.access).await.expect(200);
    // Connections to the upstream that are kept for the next request.
    eventually(|| connections_to(proxy.mcp.address()) <= 3).await;
}

/// How many connections to this address are open, as the kernel counts them.
fn connections_to(address: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let remote = format!("0100007F:{:04X}", address.port());
    let open = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next() == Some(remote.as_str()) && words.next() == Some("01")
    };
    table.lines().filter(open).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_during_the_end_neither_happens_nor_ends_it() {
    for extra in ["drain: 4s", "drain_delay: 2s\ndrain: 3s"] {
        let setup = Setup { extra: extra.to_owned(), ..Setup::default() };
        let busy = Busy::start(setup, TempDir::new(), 1, 1).await;
        let Busy { proxy, mut program, mut streams, feeds, calls, _dir } = busy;
        program.terminate();
        eventually(|| program.said().contains("draining")).await;
        for _ in 0..3 {
            program.hang_up();
            sleep(Duration::from_millis(200)).await;
        }
        assert!(program.is_running(), "{}", program.said());
        say(&feeds[0], EVENT);
        hears(&mut streams[0], EVENT).await;
        for call in calls {
            soon(call).await.expect("no panic").expect("it was open").expect(200);
        }
        let end = soon(plain::next(&mut streams[0])).await;
        assert!(end.is_none(), "{end:?}");
        ended(&mut program).await;
        assert!(!program.said().contains("reloaded"), "{}", program.said());
        drop(proxy);
    }
}
