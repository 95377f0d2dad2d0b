//! The program as an operator meets it: arguments, words, exit codes, signals.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use support::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mcp-auth-proxy");

/// A configuration in a folder of its own.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new(extra: &str) -> Self {
        let dir = TempDir::new();
        let yaml = format!(
            "public_url: https://mcp.example.com\nlisten: 127.0.0.1:0\nworkers: 1\ndrain: 5s\n\
             github: {{client_id: Ov23liEXAMPLE, client_secret: CANARY}}\nallow: anyone\n\
             resources: [{{path: /mcp, upstream: http://127.0.0.1:9/mcp, inject: {{X-GitHub-Token: '{{github_token}}'}}}}]\n{extra}\n"
        );
        std::fs::write(dir.path().join("proxy.yaml"), yaml).expect("writes");
        Place { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).current_dir(self.path()).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("runs")
    }

    /// Starts it and waits for the line that says where it listens.
    fn serve(&self) -> Running {
        Running::of(self.command(&[]))
    }
}

/// A running program; killed when the test fails.
struct Running {
    child: Child,
    stderr: Option<BufReader<std::process::ChildStderr>>,
    said: String,
    address: Option<SocketAddr>,
}

impl Running {
    fn of(mut command: Command) -> Self {
        let child = command.spawn().expect("runs");
        // Owned from here on: whatever fails below, it does not outlive the test.
        let mut running = Running { child, stderr: None, said: String::new(), address: None };
        running.stderr = running.child.stderr.take().map(BufReader::new);
        while running.address.is_none() {
            let line = running.line();
            running.said.push_str(&line);
            let listen = line.split("serving").nth(1).and_then(|rest| rest.split("listen=").nth(1));
            running.address = listen.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        }
        running
    }

    fn address(&self) -> SocketAddr {
        self.address.expect("it serves")
    }

    /// The next line it says.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let stderr = self.stderr.as_mut().expect("piped");
        assert_ne!(stderr.read_line(&mut line).expect("text"), 0, "it ended: {}", self.said);
        line
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("runs").success());
    }

    /// Waits for its end; returns everything it said.
    fn ended(mut self) -> (ExitStatus, String) {
        let mut said = std::mem::take(&mut self.said);
        self.stderr.as_mut().expect("piped").read_to_string(&mut said).expect("text");
        (self.child.wait().expect("it ran"), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// One line on stderr, exit 1: something about the machine, not about the file.
#[track_caller]
fn does_not_start(place: &Place, expected: &str) {
    let output = place.run(&[]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let words: Vec<&str> = stderr.lines().filter(|line| line.starts_with("mcp-auth-proxy: ")).collect();
    assert_eq!(words.len(), 1, "{stderr}");
    assert!(words[0].contains(expected), "{stderr}");
    assert!(
        !stderr.contains("serving") && !stderr.contains("panicked") && !stderr.contains("CANARY"),
        "{stderr}"
    );
    assert_eq!(text(&output.stdout), "");
}

// === Words ===

#[test]
fn check_says_what_operators_will_see_and_what_stands_in_the_way() {
    let all = "drain_delay: 5s\nmetrics: 127.0.0.1:9464\naudit: /nowhere/trail.jsonl\n\
               traces: {endpoint: 'http://127.0.0.1:4318/v1/traces'}\n";
    let said = text(&Place::new(all).run(&["check"]).stdout);
    for expected in [
        "Metrics on       http://127.0.0.1:9464/metrics\n",
        "Audit trail      /nowhere/trail.jsonl\n",
        "Traces to        http://127.0.0.1:4318/v1/traces\n",
        "Drains for       5s, after 5s of being not ready\n",
        "would not start: the directory /nowhere of the audit trail does not exist\n",
    ] {
        assert!(said.contains(expected), "{expected}{said}");
    }
    let place = Place::new("metrics: 127.0.0.1:9464");
    let file = place.path().join("proxy.yaml");
    let yaml = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, yaml.replace("listen: 127.0.0.1:0", "listen: 127.0.0.1:9464")).expect("written");
    let said = text(&place.run(&["check"]).stdout);
    assert!(said.contains("would not start: metrics: and listen: are both 127.0.0.1:9464\n"), "{said}");
}

#[test]
fn check_says_what_would_be_served_where() {
    let elsewhere = Place::new("store: sqlite:/nowhere/at/all/proxy.db");
    let output = elsewhere.run(&["check"]);
    assert!(text(&output.stdout).contains("directory /nowhere/at/all does not exist"), "{output:?}");
    assert_eq!(output.status.code(), Some(0), "the file is right all the same");
    let place = Place::new("store: sqlite:proxy.db");
    let output = place.run(&["check"]);
    assert_eq!(text(&output.stdout), include_str!("golden/check.txt"));
    assert_eq!((text(&output.stderr), output.status.code()), (String::new(), Some(0)));
    // It looks, and makes nothing.
    let names: Vec<_> = std::fs::read_dir(place.path()).expect("a folder").collect();
    assert_eq!(names.len(), 1);
    for arguments in [["check", "--config", "proxy.yaml"], ["check", "-c", "proxy.yaml"]] {
        assert_eq!(text(&place.run(&arguments).stdout), include_str!("golden/check.txt"));
    }
}

/// A certificate that works may still be the wrong one: it starts, and says so.
#[cfg(unix)]
#[test]
fn what_is_odd_about_a_certificate_is_told_by_check_and_at_start() {
    use std::os::unix::fs::PermissionsExt as _;
    use support::tls::{Authority, section};
    let place = Place::new("store: 'memory:'");
    let authority = Authority::new();
    let yaml = std::fs::read_to_string(place.path().join("proxy.yaml")).expect("text");
    std::fs::write(place.path().join("proxy.yaml"), yaml + &section(place.path())).expect("writes");
    authority.pair(&["*.example.com"]).write(place.path());
    let good = text(&place.run(&["check"]).stdout);
    assert!(good.contains("Listens on       127.0.0.1:0, TLS with ") && !good.contains("Warning"), "{good}");
    authority.pair(&["www.example.com"]).write(place.path());
    let key = place.path().join("key.pem");
    // As a Kubernetes secret with fsGroup, which is nothing to say.
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).expect("changes");
    let named = text(&place.run(&["check"]).stdout);
    assert!(named.contains("is not for mcp.example.com, so clients will refuse it"), "{named}");
    assert!(!named.contains("can read"), "{named}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("changes");
    let output = place.run(&["check"]);
    let open = text(&output.stdout);
    assert!(open.contains("Warning: tls.key: every user of this machine can read"), "{open}");
    assert_eq!(output.status.code(), Some(0));
    let running = place.serve();
    running.signal("TERM");
    let (status, said) = running.ended();
    assert_eq!(status.code(), Some(0), "{said}");
    for expected in ["is not for mcp.example.com", "every user of this machine can read"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_bad_file_is_64_with_every_problem() {
    let place = Place::new("store: postgres:CANARY\nworkes: 2\nkeys: [CANARY]\n");
    for arguments in [&["check"][..], &[]] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(64));
        assert_eq!(text(&output.stderr), include_str!("golden/problems.txt"), "{arguments:?}");
        assert_eq!(text(&output.stdout), "");
    }
    let output = place.run(&["--config", "elsewhere.yaml"]);
    assert_eq!(output.status.code(), Some(64));
    let expected = "elsewhere.yaml: cannot read the file: No such file or directory (os error 2)\n1 problem; nothing was started\n";
    assert_eq!(text(&output.stderr), expected);
}

#[test]
fn help_fits_a_small_terminal() {
    let place = Place::new("");
    for arguments in [&["--help"][..], &["-h"], &["help"], &["check", "--help"]] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let help = text(&output.stdout);
        assert!(help.lines().count() <= 24, "{arguments:?}: {} lines\n{help}", help.lines().count());
        let longest = help.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(longest <= 100, "{arguments:?}: {longest} columns\n{help}");
        assert!(help.contains("--config <FILE>") && help.contains("[default: proxy.yaml]"), "{help}");
    }
}

#[test]
fn version_is_one_line() {
    let place = Place::new("");
    for flag in ["--version", "-V"] {
        let output = place.run(&[flag]);
        assert_eq!(text(&output.stdout), concat!("mcp-auth-proxy ", env!("CARGO_PKG_VERSION"), "\n"));
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn wrong_arguments_are_64() {
    let place = Place::new("");
    for arguments in
        [&["--nonsense"][..], &["serve-me"], &["--config"], &["check", "--port", "1"], &["proxy.yaml"]]
    {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("--help"), "{arguments:?}");
        assert_eq!(text(&output.stdout), "");
    }
}

// === What keeps it from starting ===

#[test]
fn a_port_in_use_is_told_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound");
    for workers in ["workers: 1", "workers: 3"] {
        let place = Place::new("store: 'memory:'");
        let yaml = std::fs::read_to_string(place.path().join("proxy.yaml")).expect("text");
        let yaml = yaml.replace("127.0.0.1:0\n", &format!("{address}\n")).replace("workers: 1", workers);
        std::fs::write(place.path().join("proxy.yaml"), yaml).expect("writes");
        does_not_start(&place, &format!("cannot use {address}"));
    }
}

/// SE-06
#[cfg(unix)]
#[test]
fn keys_that_others_can_read_are_refused() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let place = Place::new("store: sqlite:proxy.db");
    place.serve().signal_and_wait();
    let key = place.path().join("proxy.db.key");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&key), mode(&place.path().join("proxy.db"))), (0o600, 0o600));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("changes");
    does_not_start(&place, "can be read by others");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("changes");
    // A link may lead to a file that somebody else planted.
    let hidden = place.path().join("hidden");
    std::fs::rename(&key, &hidden).expect("moves");
    symlink(&hidden, &key).expect("links");
    does_not_start(&place, "is not a plain file");
    std::fs::remove_file(&key).expect("removes");
    symlink(place.path().join("nowhere"), &key).expect("links");
    does_not_start(&place, "proxy.db.key");
    assert!(!place.path().join("nowhere").exists(), "nothing is written through a link");
    std::fs::remove_file(&key).expect("removes");
    std::fs::create_dir(&key).expect("makes");
    does_not_start(&place, "is not a plain file");
    std::fs::remove_dir(&key).expect("removes");
    for broken in ["", "hello\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"] {
        std::fs::write(&key, broken).expect("writes");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("changes");
        does_not_start(&place, "proxy.db.key");
    }
}

// SE-06: what others could have planted, read or changed is refused; what we make is for the owner alone.
#[cfg(unix)]
#[test]
fn databases_that_others_can_touch_are_refused() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let place = Place::new("store: sqlite:proxy.db");
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(place.path().join(name), std::fs::Permissions::from_mode(mode))
            .expect("changes");
    };
    // Whatever the umask lets through.
    let mut loose = Command::new("sh");
    loose.args(["-c", "umask 000; exec \"$0\"", PROGRAM]).current_dir(place.path()).env_clear();
    loose.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let running = Running::of(loose);
    for name in ["proxy.db", "proxy.db-wal", "proxy.db-shm", "proxy.db.key"] {
        let made = std::fs::metadata(place.path().join(name)).expect("there").permissions().mode();
        assert_eq!(made & 0o777, 0o600, "{name}");
    }
    running.signal_and_wait();
    for open in [0o644, 0o640, 0o602, 0o620] {
        mode("proxy.db", open);
        does_not_start(&place, "proxy.db can be read or written by others; run chmod 600 on it");
    }
    mode("proxy.db", 0o600);
    // SQLite believes what lies beside the file.
    for companion in ["proxy.db-wal", "proxy.db-shm", "proxy.db-journal"] {
        std::fs::write(place.path().join(companion), "planted").expect("writes");
        mode(companion, 0o666);
        does_not_start(&place, &format!("{companion} can be read or written by others"));
        assert_eq!(std::fs::read(place.path().join(companion)).expect("left alone"), b"planted");
        std::fs::remove_file(place.path().join(companion)).expect("removes");
    }
    let (file, hidden) = (place.path().join("proxy.db"), place.path().join("hidden"));
    std::fs::rename(&file, &hidden).expect("moves");
    symlink(&hidden, &file).expect("links");
    does_not_start(&place, "proxy.db is a symbolic link");
    std::fs::remove_file(&file).expect("removes");
    symlink(place.path().join("nowhere"), &file).expect("links");
    does_not_start(&place, "proxy.db is a symbolic link");
    assert!(!place.path().join("nowhere").exists(), "nothing is made through a link");
    std::fs::remove_file(&file).expect("removes");
    std::fs::rename(&hidden, &file).expect("moves");
    // A directory that is open to all is told; somebody else may have to keep it so.
    mode(".", 0o777);
    let running = place.serve();
    assert!(running.said.contains("can replace files in the store's directory"), "{}", running.said);
    running.signal_and_wait();
    mode(".", 0o1777);
    let running = place.serve();
    assert!(!running.said.contains("can replace files"), "{}", running.said);
    running.signal_and_wait();
}

// SE-10: under other keys nothing in the store could be read, so nothing is started on it; rotation is no other key.
#[test]
fn a_store_that_was_written_under_other_keys_is_refused_and_kept() {
    let [one, two] =
        ["TeNPs6a3vH1Bw0b1sXzJ4m8rQ5yK2pL9dF6gH7jU8kI=", "UeNPs6a3vH1Bw0b1sXzJ4m8rQ5yK2pL9dF6gH7jU8kI="];
    let place = Place::new(&format!("store: sqlite:proxy.db\nkeys: [{one}]"));
    let file = place.path().join("proxy.yaml");
    let yaml = std::fs::read_to_string(&file).expect("text");
    let with = |keys: &str| std::fs::write(&file, yaml.replace(one, keys)).expect("writes");
    place.serve().signal_and_wait();
    with(two);
    does_not_start(&place, "keys: the store was written under other keys");
    with("");
    does_not_start(&place, "keys:");
    // Nothing was taken away: each of these finds what the one before has kept.
    for keys in [format!("{one}, {two}"), format!("{two}, {one}"), two.to_owned()] {
        with(&keys);
        place.serve().signal_and_wait();
    }
}

#[cfg(unix)]
fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("changes");
}

// ST-06
#[test]
fn a_database_of_another_program_or_of_a_later_version_is_left_as_it_was() {
    for (sql, expected) in [
        (
            "CREATE TABLE places (url TEXT); INSERT INTO places VALUES ('x')",
            "is a database of another program",
        ),
        ("PRAGMA application_id = 252006674", "is a database of another program"),
        ("CREATE TABLE records (key TEXT); PRAGMA user_version = 99", "was written by a newer version"),
    ] {
        let place =
            Place::new("store: sqlite:proxy.db\nkeys: [TeNPs6a3vH1Bw0b1sXzJ4m8rQ5yK2pL9dF6gH7jU8kI=]");
        let file = place.path().join("proxy.db");
        let theirs = rusqlite::Connection::open(&file).expect("opens");
        theirs.execute_batch(sql).expect("made");
        drop(theirs);
        #[cfg(unix)]
        private(&file);
        let before = std::fs::read(&file).expect("read");
        does_not_start(&place, expected);
        assert_eq!(std::fs::read(&file).expect("read"), before, "{sql}");
    }
}

// ST-06: a damaged file is told as such and kept for who can mend it; a damaged log ends where it is damaged.
#[test]
fn a_damaged_database_is_refused_and_kept() {
    let keys = "store: sqlite:proxy.db\nkeys: [TeNPs6a3vH1Bw0b1sXzJ4m8rQ5yK2pL9dF6gH7jU8kI=]";
    let place = Place::new(keys);
    let file = place.path().join("proxy.db");
    place.serve().signal_and_wait();
    let store = rusqlite::Connection::open(&file).expect("opens");
    store
        .execute_batch(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2000)
             INSERT INTO records SELECT 'filler/' || n, randomblob(200), n, 'person/' || n, 9e15 FROM n",
        )
        .expect("filled");
    drop(store);
    let whole = std::fs::read(&file).expect("read");
    let page = 4096;
    let pages = whole.len() / page;
    assert!(pages > 50, "{pages}");
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        bytes
    };
    for bytes in [
        damaged(&|bytes| bytes[page * 3..page * 4].fill(0xa5)),
        damaged(&|bytes| bytes[page * (pages / 2)..page * (pages / 2 + 1)].fill(0)),
        damaged(&|bytes| (2..pages).for_each(|number| bytes[page * number..page * number + 8].fill(0xff))),
        damaged(&|bytes| bytes.truncate(page * (pages / 2))),
        damaged(&|bytes| bytes[100..page].fill(0x5a)),
    ] {
        std::fs::write(&file, &bytes).expect("written");
        does_not_start(&place, "is damaged");
        does_not_start(&place, "restore a backup");
        assert_eq!(std::fs::read(&file).expect("read"), bytes, "nothing is changed");
    }
    std::fs::write(&file, &whole).expect("written");
    std::fs::write(place.path().join("proxy.db-wal"), vec![0x37; 100_000]).expect("written");
    #[cfg(unix)]
    private(&place.path().join("proxy.db-wal"));
    place.serve().signal_and_wait();
}

/// SE-06
#[test]
fn a_store_that_is_no_database_is_refused() {
    let place = Place::new("store: sqlite:proxy.db");
    let file = place.path().join("proxy.db");
    std::fs::create_dir(&file).expect("makes");
    does_not_start(&place, "proxy.db");
    std::fs::remove_dir(&file).expect("removes");
    std::fs::write(&file, "hello, this is a text file and no database at all\n".repeat(100)).expect("writes");
    #[cfg(unix)]
    private(&file);
    does_not_start(&place, "as a database");
    assert!(std::fs::read_to_string(&file).expect("text").starts_with("hello"), "it is left as it was");
    let elsewhere = Place::new("store: sqlite:/proc/no/such/folder/proxy.db");
    does_not_start(&elsewhere, "/proc/no/such/folder");
}

// === Running ===

impl Running {
    fn signal_and_wait(self) {
        self.signal("TERM");
        let (status, said) = self.ended();
        assert_eq!(status.code(), Some(0), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_and_says_where() {
    let place = Place::new("store: 'memory:'");
    let running = place.serve();
    for path in ["/healthz", "/readyz"] {
        let request = support::http::request(http::Method::GET, &format!("http://localhost{path}"));
        let answer =
            support::http::send(running.address(), request.body(bytes::Bytes::new()).expect("a request"))
                .await;
        assert_eq!(answer.expect(200).json()["status"], "ok");
    }
    running.signal("TERM");
    let (status, said) = running.ended();
    assert_eq!(status.code(), Some(0), "{said}");
    for expected in ["serving", "draining", "stopped", "store is memory"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("CANARY") && !said.contains('\u{1b}'), "{said}");
}

/// ST-16: what is open when the signal comes is finished.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_request_is_finished_before_the_end() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    for signal in ["TERM", "INT"] {
        let place = Place::new("store: 'memory:'");
        let mut running = place.serve();
        let mut stream = tokio::net::TcpStream::connect(running.address()).await.expect("connects");
        // Half of a registration.
        let body = r#"{"redirect_uris":["http://localhost/cb"]}"#;
        let head = format!(
            "POST /register HTTP/1.1\r\nHost: mcp.example.com\r\nContent-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("writes");
        // It asks for the body: the request is in its hands.
        let mut hundred = [0; 25];
        stream.read_exact(&mut hundred).await.expect("reads");
        assert!(hundred.starts_with(b"HTTP/1.1 100"), "{hundred:?}");
        running.signal(signal);
        while !running.line().contains("draining") {}
        stream.write_all(body.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer to the end");
        assert!(answer.starts_with("HTTP/1.1 201"), "{signal}: {answer}");
        let (status, said) = running.ended();
        assert_eq!(status.code(), Some(0), "{signal}: {said}");
    }
}

/// ST-16: who does not want to wait says so twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_cuts() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let place = Place::new("store: 'memory:'");
    let file = place.path().join("proxy.yaml");
    let yaml = std::fs::read_to_string(&file).expect("text").replace("drain: 5s", "drain: 1h");
    std::fs::write(&file, yaml).expect("writes");
    let mut running = place.serve();
    let mut stream = tokio::net::TcpStream::connect(running.address()).await.expect("connects");
    let head = "POST /register HTTP/1.1\r\nHost: mcp.example.com\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream.read_exact(&mut [0; 25]).await.expect("reads");
    running.signal("TERM");
    while !running.line().contains("draining") {}
    running.signal("TERM");
    let (status, said) = running.ended();
    assert_eq!(status.code(), Some(0), "{said}");
}
