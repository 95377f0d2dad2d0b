//! A real HAProxy in front of replicas, as an operator would set it up: it asks `/readyz`, and sends nothing again that
//! may have arrived.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::http::{request, send};
use super::{TempDir, free_address};

/// What it shares out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shares {
    /// Requests, over connections to the servers that it keeps.
    Requests,
    /// Connections, whatever is said on them, as a Kubernetes Service does.
    Connections,
}

/// A running HAProxy; killed when dropped.
pub struct Balancer {
    child: Child,
    address: SocketAddr,
    numbers: SocketAddr,
    _dir: TempDir,
}

impl Balancer {
    /// In front of these, which serve already; `None`, and a word about it, on a machine that has none.
    pub async fn start(test: &str, shares: Shares, servers: &[SocketAddr]) -> Option<Self> {
        let program = program(test)?;
        let (dir, address, numbers) = (TempDir::new(), free_address(), free_address());
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, settings(shares, address, numbers, servers)).expect("written");
        // In the foreground, where it ends with us, and without a word about each server that comes and goes.
        let child = Command::new(program).args(["-db", "-q", "-f"]).arg(&file).stdin(Stdio::null()).spawn();
        let balancer = Balancer { child: child.expect("it starts"), address, numbers, _dir: dir };
        let up = async {
            while TcpStream::connect(numbers).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, up).await.expect("HAProxy starts");
        for number in 0..servers.len() {
            balancer.sees(number, "check_status", "L7OK").await;
        }
        Some(balancer)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until a number of a server is this.
    pub async fn sees(&self, server: usize, number: &str, expected: &str) {
        let seen = async {
            while self.number(server, number).await != expected {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, seen)
            .await
            .unwrap_or_else(|_| panic!("{number} of server {server} not {expected}"));
    }

    /// What it counts of a server: `status`, `hrsp_2xx`, `chkdown`, …
    pub async fn number(&self, server: usize, number: &str) -> String {
        let table = request(Method::GET, "http://haproxy/;csv").body(Bytes::new()).expect("a request");
        let table = send(self.numbers, table).await.expect(200).text();
        let mut lines = table.lines();
        let head = lines.next().expect("a head").trim_start_matches("# ").split(',');
        let column = head.into_iter().position(|name| name == number).expect("a number that it has");
        let row = lines.find(|line| line.starts_with(&format!("replicas,s{server},"))).expect("a server");
        row.split(',').nth(column).expect("a value").to_owned()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings(shares: Shares, address: SocketAddr, numbers: SocketAddr, servers: &[SocketAddr]) -> String {
    let sharing = match shares {
        Shares::Requests => "    mode http\n    http-reuse safe",
        Shares::Connections => "    mode tcp",
    };
    let mut settings = format!(
        "defaults
    timeout connect 2s
    timeout client 1m
    timeout server 1m
    timeout check 2s
    option redispatch
    retry-on conn-failure
{sharing}
frontend clients
    bind {address}
    default_backend replicas
frontend numbers
    mode http
    bind {numbers}
    stats enable
    stats uri /
backend replicas
    balance roundrobin
    option httpchk GET /readyz
"
    );
    for (number, server) in servers.iter().enumerate() {
        let _ = writeln!(settings, "    server s{number} {server} check inter 200ms fall 2 rise 2");
    }
    settings
}

fn program(test: &str) -> Option<&'static str> {
    let answers = |program: &&str| Command::new(program).arg("-v").stdout(Stdio::null()).status().is_ok();
    let found = ["haproxy", "/usr/sbin/haproxy"].into_iter().find(answers);
    if found.is_none() {
        assert!(std::env::var_os("RIG_REQUIRED").is_none(), "{test} needs haproxy");
        // Past the test runner, which shows nothing of tests that pass.
        let _ = std::io::stderr().write_all(format!("skipped in {test}: there is no haproxy\n").as_bytes());
    }
    found
}

const PATIENCE: Duration = Duration::from_secs(20);
