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
        let child = self.command(&[]).spawn().expect("runs");
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
}

/// A running program; killed when the test fails.
struct Running {
    child: Child,
    stderr: Option<BufReader<std::process::ChildStderr>>,
    said: String,
    address: Option<SocketAddr>,
}

impl Running {
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

/// SE-06
#[test]
fn a_store_that_is_no_database_is_refused() {
    let place = Place::new("store: sqlite:proxy.db");
    let file = place.path().join("proxy.db");
    std::fs::create_dir(&file).expect("makes");
    does_not_start(&place, "proxy.db");
    std::fs::remove_dir(&file).expect("removes");
    std::fs::write(&file, "hello, this is a text file and no database at all\n".repeat(100)).expect("writes");
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
