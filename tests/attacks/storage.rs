//! Disks that are full, broken or gone, processes that are killed: nothing acknowledged is lost, nothing is told
//! wrong, and all is well again by itself.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use http::Method;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::faults::{EIO, EMFILE, ENOSPC, EROFS, Fault, Faults};
use crate::rig::Rig;
use crate::support::http::{self as plain, Answer};
use crate::support::program::{Program, Surroundings};
use crate::support::proxy::{CALLBACK, Proxy, Setup, Tokens, VERIFIER, database, param};
use crate::support::{TempDir, stores};

/// A rig on a machine that fails on demand.
async fn faulty() -> (Rig, Faults) {
    let faults = Faults::new();
    let surroundings = Surroundings { environment: faults.environment(), ..Surroundings::default() };
    let mut rig = Rig::with(Setup { surroundings, ..Setup::default() }).await;
    rig.expect_statuses(&[503]);
    (rig, faults)
}

/// Trouble of ours, told as such and in no more words than a stranger may know.
#[track_caller]
fn is_retriable(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.error(), "temporarily_unavailable");
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    says_nothing_inside(answer);
}

#[track_caller]
fn says_nothing_inside(answer: &Answer) {
    let said = format!("{:?} {}", answer.headers, answer.text()).to_lowercase();
    for word in
        ["sql", "database", "proxy.db", "disk", "i/o", "os error", "src/", ".rs", "panick", "/tmp", "wal"]
    {
        assert!(!said.contains(word), "{word}: {said}");
    }
}

/// What waits to be written: a code to redeem, a login to renew, one to end.
struct Waiting {
    client_id: String,
    code: String,
    renewed: Tokens,
    ended: Tokens,
}

impl Waiting {
    async fn prepare(rig: &mut Rig) -> Self {
        let (renewed, ended) = (rig.login().await, rig.login().await);
        let (client_id, code) = rig.proxy.code(&[]).await;
        rig.canary("a code", &code);
        Waiting { client_id, code, renewed, ended }
    }

    async fn ask(&self, proxy: &Proxy) -> [Answer; 3] {
        let revoke = [("token", self.ended.refresh.as_str()), ("client_id", &self.ended.client_id)];
        [
            proxy.redeem(&self.client_id, &self.code).await,
            proxy.refresh(&self.renewed.client_id, &self.renewed.refresh).await,
            proxy.post_form("/revoke", &revoke).await,
        ]
    }

    /// All of it is refused for now, and what is known goes on.
    async fn must_wait(&self, proxy: &Proxy) {
        for answer in self.ask(proxy).await {
            is_retriable(&answer);
        }
        for tokens in [&self.renewed, &self.ended] {
            proxy.ping(&tokens.access).await.expect(200);
        }
        // A login that could not be kept goes back to the client as one to be tried again.
        let url = proxy.authorize_url(&self.client_id, CALLBACK, &[]);
        let mut browser = proxy.browser();
        let callback = browser.reach_callback(&url).await;
        let answer = browser.get(&callback).await;
        says_nothing_inside(&answer);
        assert_eq!(param(answer.header("location"), "error").as_deref(), Some("temporarily_unavailable"));
    }

    /// All of it works, as if nothing had been.
    async fn works(self, rig: &mut Rig) {
        let [redeemed, renewed, revoked] = self.ask(&rig.proxy).await;
        let redeemed = Tokens::read(self.client_id.clone(), redeemed.expect(200).json());
        let renewed = Tokens::read(self.renewed.client_id.clone(), renewed.expect(200).json());
        revoked.expect(200);
        for tokens in [&redeemed, &renewed] {
            rig.proxy.ping(&tokens.access).await.expect(200);
            rig.canary("an access token", &tokens.access);
            rig.canary("a refresh token", &tokens.refresh);
        }
        rig.proxy.ping(&self.ended.access).await.expect(401);
        let again = rig.proxy.redeem(&self.client_id, &self.code).await.expect(400);
        assert_eq!(again.error(), "invalid_grant", "it was redeemed, and once");
    }
}

// ST-02, ST-05, SE-02
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_ends_nothing_and_is_used_again_once_it_heals() {
    let (mut rig, faults) = faulty().await;
    for (fault, error) in [
        (Fault::Write, ENOSPC),
        (Fault::Write, EIO),
        (Fault::Write, EROFS),
        (Fault::Sync, EIO),
        (Fault::Sync, ENOSPC),
    ] {
        let waiting = Waiting::prepare(&mut rig).await;
        let before = faults.hits(fault);
        faults.fail_on(fault, error);
        waiting.must_wait(&rig.proxy).await;
        assert!(faults.hits(fault) > before, "{fault:?} {error} was met");
        faults.heal();
        waiting.works(&mut rig).await;
    }
    rig.verify().await;
}

// ST-05: and what had reached the log of the database is not found there after a crash.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_fsync_failed_never_was_even_if_the_program_dies_next() {
    let (mut rig, faults) = faulty().await;
    for error in [EIO, ENOSPC] {
        let (client_id, code) = rig.proxy.code(&[]).await;
        let tokens = rig.login().await;
        faults.fail(Fault::Sync, error, 1);
        is_retriable(&rig.proxy.redeem(&client_id, &code).await);
        assert_eq!(faults.hits(Fault::Sync) % 2, 1, "one fsync failed");
        rig.kill_and_start_again();
        let redeemed = rig.proxy.redeem(&client_id, &code).await.expect(200);
        rig.proxy.ping(&Tokens::read(client_id, redeemed.json()).access).await.expect(200);
        // And without a crash: the same connection is not simply used on.
        faults.fail(Fault::Sync, error, 1);
        is_retriable(&rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await);
        rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
        let late = rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200);
        rig.proxy.ping(&Tokens::read(tokens.client_id, late.json()).access).await.expect(200);
    }
    rig.verify().await;
}

// ST-02: a file that was moved away can still be written to, and nobody would ever read that again.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_moved_away_is_not_written_to_until_it_is_back() {
    let mut rig = Rig::start().await;
    rig.expect_statuses(&[503]);
    let waiting = Waiting::prepare(&mut rig).await;
    let (here, away) = (rig.dir.path().to_owned(), rig.dir.path().with_extension("away"));
    std::fs::rename(&here, &away).expect("moved");
    waiting.must_wait(&rig.proxy).await;
    // Another file in its place is not the one that we know.
    std::fs::create_dir(&here).expect("made");
    std::fs::copy(away.join("proxy.db"), here.join("proxy.db")).expect("copied");
    waiting.must_wait(&rig.proxy).await;
    std::fs::remove_dir_all(&here).expect("removed");
    std::fs::rename(&away, &here).expect("moved back");
    waiting.works(&mut rig).await;
    let said = rig.program.said();
    assert!(said.contains("the database was moved or removed"), "{said}");
    assert!(said.contains("another file took the place of the database"), "{said}");
    rig.verify().await;
}

// ST-02: with every descriptor in use what is open goes on, and nothing stays broken.
#[tokio::test(flavor = "multi_thread")]
async fn running_out_of_descriptors_is_survived() {
    let (mut rig, faults) = faulty().await;
    let waiting = Waiting::prepare(&mut rig).await;
    // A broken commit, and no descriptor left for a new connection to the file.
    faults.fail_on(Fault::Open, EMFILE);
    faults.fail(Fault::Sync, EIO, 1);
    waiting.must_wait(&rig.proxy).await;
    assert!(faults.hits(Fault::Open) > 0, "it was asked for one");
    faults.heal();
    waiting.works(&mut rig).await;
    rig.verify().await;
}

// ST-06: two processes may share one file (design.md §2), and a copy that SQLite makes meanwhile is whole.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_one_file_and_it_can_be_copied_meanwhile() {
    let mut rig = Rig::start().await;
    let yaml = std::fs::read_to_string(rig.dir.path().join("proxy.yaml")).expect("read");
    let other_dir = TempDir::new();
    let mut other = Program::start(&other_dir, &yaml, "info");
    let tokens = rig.login().await;
    rig.proxy.ping_at(other.address(), &tokens.access).await.expect(200);
    // One refresh token at both at once: one successor.
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", tokens.refresh.as_str()),
        ("client_id", &tokens.client_id),
    ];
    let (here, there) = tokio::join!(
        rig.proxy.refresh(&tokens.client_id, &tokens.refresh),
        rig.proxy.post_form_at(other.address(), "/token", &form)
    );
    let (here, there) = (here.expect(200).json(), there.expect(200).json());
    assert_eq!(here["refresh_token"], there["refresh_token"]);
    let next = Tokens::read(tokens.client_id.clone(), here);
    // One code at both at once: one pair, or none that lives.
    let (client_id, code) = rig.proxy.code(&[]).await;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("client_id", &client_id),
        ("code_verifier", VERIFIER),
    ];
    let (here, there) = tokio::join!(
        rig.proxy.redeem(&client_id, &code),
        rig.proxy.post_form_at(other.address(), "/token", &form)
    );
    assert!([here.status, there.status].contains(&400), "{here:?} {there:?}");

    let copy = other_dir.path().join("proxy.db");
    let source = rusqlite::Connection::open(database(&rig.dir)).expect("opens");
    source.execute("VACUUM INTO ?1", [copy.display().to_string()]).expect("copied");
    drop(source);

    // What one ends is ended at the other.
    let revoke = [("token", next.refresh.as_str()), ("client_id", &next.client_id)];
    rig.proxy.ping(&next.access).await.expect(200);
    rig.proxy.post_form_at(other.address(), "/revoke", &revoke).await.expect(200);
    let revoked = Instant::now();
    while rig.proxy.ping(&next.access).await.status != 401 {
        assert!(
            revoked.elapsed() < Duration::from_secs(2),
            "a revocation elsewhere is obeyed within a second"
        );
        sleep(Duration::from_millis(50)).await;
    }
    // One that is killed holds up nobody.
    other.kill();
    let more = rig.login().await;
    rig.proxy.ping(&more.access).await.expect(200);

    // The copy is a store of its own, as of the moment it was made.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).expect("changed");
    }
    let yaml = yaml.replace(&database(&rig.dir).display().to_string(), &copy.display().to_string());
    let restored = Program::start(&other_dir, &yaml, "info");
    rig.proxy.ping_at(restored.address(), &next.access).await.expect(200);
    rig.proxy.ping_at(restored.address(), &more.access).await.expect(401);
    drop(restored);
    rig.verify().await;
}

/// Posts a form to a program that may be killed meanwhile: `None` when there is no whole answer.
async fn try_form(proxy: &Proxy, path: &str, pairs: &[(&str, &str)]) -> Option<Value> {
    let request =
        proxy.request(Method::POST, path).header("content-type", "application/x-www-form-urlencoded");
    let answer = plain::try_send(proxy.address(), request.body(plain::form(pairs)).unwrap()).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    Some(if answer.body.is_empty() { Value::Null } else { answer.json() })
}

fn text<'a>(pair: &'a Value, name: &str) -> &'a str {
    pair[name].as_str().unwrap_or_else(|| panic!("no {name} in {pair}"))
}

/// What a program acknowledged before it was killed.
#[derive(Default)]
struct Acknowledged {
    spent: Vec<String>,
    live: Vec<Value>,
    rotated: Vec<(String, Value)>,
    revoked: Vec<Value>,
}

/// Redeems, rotates and revokes until the program is gone.
async fn load(proxy: &Proxy, client_id: &str, codes: &[String]) -> Acknowledged {
    let mut done = Acknowledged::default();
    for (number, code) in codes.iter().enumerate() {
        let client = ("client_id", client_id);
        let redeem =
            [("grant_type", "authorization_code"), ("code", code), ("code_verifier", VERIFIER), client];
        let Some(first) = try_form(proxy, "/token", &redeem).await else { break };
        done.spent.push(code.clone());
        done.live.push(first.clone());
        let refresh = text(&first, "refresh_token");
        let rotate = [("grant_type", "refresh_token"), ("refresh_token", refresh), client];
        let Some(next) = try_form(proxy, "/token", &rotate).await else { break };
        done.live.pop();
        if number % 3 == 0 {
            let revoke = [("token", text(&next, "refresh_token")), client];
            if try_form(proxy, "/revoke", &revoke).await.is_none() {
                break;
            }
            done.revoked.push(next);
        } else {
            done.rotated.push((refresh.to_owned(), next));
        }
    }
    done
}

/// Logs in until the program is gone; the codes that arrived.
async fn logins(proxy: &Proxy, client_id: &str) -> Vec<String> {
    let mut codes = Vec::new();
    let url = proxy.authorize_url(client_id, CALLBACK, &[]);
    while let Some(back) = proxy.browser().try_approve(&url).await {
        codes.push(param(&back, "code").expect("a code"));
    }
    codes
}

// ST-01: fifty kills by default, KILLS=500 before a release; SEED repeats a run.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    const LOG: &str = "info";
    let number = |name: &str| std::env::var_os(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
    let kills = number("KILLS").unwrap_or(50);
    let seed = number("SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("SEED={seed} KILLS={kills}");
    for store in stores::all("kill_9_loses_nothing_that_was_acknowledged").await {
        let mut random = StdRng::seed_from_u64(seed);
        let dir = TempDir::new();
        let (mut proxy, mut program) = Proxy::as_process(store.setup(), &dir, LOG).await;
        let client_id = proxy.register(&[CALLBACK]).await;
        let mut codes: Vec<String> = Vec::new();
        let (mut acknowledged, mut slowest) = (0, Duration::ZERO);
        for _ in 0..kills {
            while codes.len() < 5 {
                let url = proxy.authorize_url(&client_id, CALLBACK, &[]);
                codes.push(param(&proxy.browser().approve(&url).await, "code").expect("a code"));
            }
            let wait = Duration::from_micros(random.random_range(0..60_000));
            let killing = async {
                sleep(wait).await;
                program.kill();
            };
            let kept = codes.remove(0);
            let halves = codes.split_at(codes.len() / 2);
            let (one, two, new, ()) = tokio::join!(
                load(&proxy, &client_id, halves.0),
                load(&proxy, &client_id, halves.1),
                logins(&proxy, &client_id),
                killing
            );
            let began = Instant::now();
            proxy.moved_to(program.again(&dir, LOG));
            slowest = slowest.max(began.elapsed());
            proxy.redeem(&client_id, &kept).await.expect(200);
            for done in [one, two] {
                acknowledged += done.spent.len();
                for pair in &done.revoked {
                    proxy.ping(text(pair, "access_token")).await.expect(401);
                }
                for pair in &done.live {
                    proxy.ping(text(pair, "access_token")).await.expect(200);
                    proxy.refresh(&client_id, text(pair, "refresh_token")).await.expect(200);
                }
                for (used, pair) in &done.rotated {
                    proxy.ping(text(pair, "access_token")).await.expect(200);
                    // Inside the grace window the used one yields the very pair that was acknowledged, and no other.
                    let again = proxy.refresh(&client_id, used).await.expect(200).json();
                    assert_eq!(again["refresh_token"], pair["refresh_token"]);
                }
                // No code works twice, however its first use ended.
                for code in &done.spent {
                    assert_eq!(proxy.redeem(&client_id, code).await.expect(400).error(), "invalid_grant");
                }
            }
            // Their first use may have been cut off unanswered: nothing is known of those. The new ones are good.
            codes = new;
        }
        println!("{}: {acknowledged} redemptions acknowledged, slowest restart {slowest:?}", store.name);
        assert!(acknowledged as u64 > kills, "there was something to lose: {acknowledged}");
        assert!(slowest < Duration::from_secs(2), "a restart took {slowest:?}");
        assert!(!program.said().contains("panicked"), "{}", program.said());
    }
}

/// The slowest of a hundred renewals but one.
async fn p99(rig: &mut Rig, tokens: &mut Tokens) -> Duration {
    let mut took = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        let next = rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await.expect(200).json();
        took.push(began.elapsed());
        *tokens = Tokens::read(tokens.client_id.clone(), next);
    }
    took.sort();
    took[98]
}

// ST-15: SWEPT=1000000 for a release; what is measured includes a debug build and a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn sweeping_many_records_holds_up_nobody_and_the_file_is_bounded() {
    let swept = std::env::var_os("SWEPT").and_then(|value| value.to_str()?.parse::<u64>().ok());
    let swept = swept.unwrap_or(200_000);
    let extra = "limits: {refreshes: off}".to_owned();
    let mut rig = Rig::with(Setup { extra, ..Setup::default() }).await;
    let mut tokens = rig.login().await;
    let quiet = p99(&mut rig, &mut tokens).await;
    let file = database(&rig.dir);
    let size = |name: &str| std::fs::metadata(rig_path(&file, name)).map_or(0, |metadata| metadata.len());
    let mut sizes = Vec::new();
    for round in 0..2 {
        rig.program.kill();
        let store = rusqlite::Connection::open(&file).expect("opens");
        store
            .execute_batch(&format!(
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {swept})
                 INSERT INTO records SELECT 'flow/{round}/' || hex(randomblob(8)), x'', n, '', 1000 FROM n"
            ))
            .expect("filled");
        drop(store);
        let address = rig.program.again(&rig.dir, "info");
        rig.proxy.moved_to(address);
        let busy = p99(&mut rig, &mut tokens).await;
        println!("p99 of a renewal: {quiet:?}, {busy:?} while {swept} records are swept");
        assert!(busy < (2 * quiet).max(Duration::from_millis(250)), "{quiet:?} became {busy:?}");
        let store = rusqlite::Connection::open(&file).expect("opens");
        let began = Instant::now();
        loop {
            let left: i64 = store
                .query_row("SELECT count(*) FROM records WHERE expires = 1000", [], |row| row.get(0))
                .expect("counts");
            if left == 0 {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{left} are left");
            sleep(Duration::from_millis(50)).await;
        }
        drop(store);
        sizes.push(size("proxy.db"));
        assert!(size("proxy.db-wal") < 16 << 20, "{}", size("proxy.db-wal"));
    }
    assert!(sizes[1] < sizes[0] + sizes[0] / 4, "{sizes:?}");
    rig.program.terminate();
    assert!(rig.program.wait().success(), "{}", rig.program.said());
}

fn rig_path(file: &std::path::Path, name: &str) -> std::path::PathBuf {
    file.with_file_name(name)
}
