//! A machine of a case's own: a network namespace in which every address of the internet is this machine, with a
//! name server of ours. Nothing leaves it; what the program connects to, anywhere, is seen.

use std::fs;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::TempDir;
use crate::support::documents::listener;
use crate::support::names::{Names, Says};

/// Runs a case on a machine of its own: this test binary starts itself again in new namespaces. Where that is not
/// allowed the case is left out, and says so, unless `RIG_REQUIRED` is set.
#[track_caller]
pub fn alone<F: Future<Output = ()>>(case: impl FnOnce() -> F) {
    alone_with(&[], case);
}

/// The same with further environment variables.
#[track_caller]
pub fn alone_with<F: Future<Output = ()>>(environment: &[(&str, &str)], case: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        return runtime.block_on(async { timeout(LIMIT, case()).await.expect("the case ends in time") });
    }
    let test = name_of(&case);
    if let Err(reason) = possible() {
        assert!(std::env::var_os(REQUIRED).is_none(), "{test} cannot run: {reason}");
        eprintln!("{test} is left out, because this machine gives it no network of its own: {reason}");
        return;
    }
    let dir = TempDir::new();
    let inner = std::env::current_exe().expect("this binary");
    let output = unshared(&dir)
        .arg(inner)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .envs(environment.iter().copied())
        .output()
        .expect("unshare is there");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complained}");
}

/// The path of a test from the closure in it, as the test harness spells it.
fn name_of<T>(_: &T) -> &'static str {
    let name = std::any::type_name::<T>();
    let name = name.split_once("::").map_or(name, |(_, inside)| inside);
    name.split_once("::{{closure}}").map_or(name, |(test, _)| test)
}

/// Whether this machine has what it takes.
fn possible() -> Result<(), String> {
    let dir = TempDir::new();
    let tried = unshared(&dir).arg("true").stdin(Stdio::null()).output();
    let output = tried.map_err(|error| format!("unshare: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// A command in namespaces of its own, to which the program's name and arguments are still to be added.
fn unshared(dir: &TempDir) -> Command {
    let script = dir.path().join("alone.sh");
    fs::write(&script, SCRIPT).expect("written");
    for (name, text) in [("resolv.conf", RESOLVER), ("nsswitch.conf", SWITCH), ("hosts", HOSTS)] {
        fs::write(dir.path().join(name), text).expect("written");
    }
    let mut command = Command::new("unshare");
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !is_root {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "sh"]).arg(script).arg(dir.path());
    command
}

/// Every address but those of other listeners: who connects to it went where it should not.
pub struct Everywhere {
    met: Arc<Mutex<Vec<SocketAddr>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Everywhere {
    /// Listens on these ports of all addresses.
    pub async fn on(ports: &[u16]) -> Self {
        let met: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let mut tasks = Vec::new();
        for port in ports {
            let listener = listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)));
            let met = met.clone();
            tasks.push(tokio::spawn(async move {
                let mut open = Vec::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let mut address = stream.local_addr().expect("connected");
                    address.set_ip(address.ip().to_canonical());
                    met.lock().unwrap_or_else(PoisonError::into_inner).push(address);
                    open.push(stream);
                }
            }));
        }
        Everywhere { met, tasks }
    }

    /// Where somebody connected to, in order.
    pub fn met(&self) -> Vec<SocketAddr> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Everywhere {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// An address at which packets vanish: its queue is full, so the kernel drops every further SYN.
pub struct Dead {
    _listener: tokio::net::TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Dead {
    pub async fn at(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.set_reuseport(true).expect("an option");
        socket.bind(address).expect("the address is ours");
        let listener = socket.listen(1).expect("listens");
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            waiting.push(stream);
        }
        Dead { _listener: listener, _waiting: waiting }
    }
}

/// The name server that the machine's resolver asks.
pub async fn names() -> Names {
    let names = Names::start(IpAddr::V4(Ipv4Addr::LOCALHOST)).await;
    names.say("localhost", Says::addresses(&["127.0.0.1"]));
    names
}

const INSIDE: &str = "RIG_ALONE";
const REQUIRED: &str = "RIG_REQUIRED";
/// So that a case ends with its own words, and takes its program with it.
const LIMIT: Duration = Duration::from_secs(120);
/// The machine's own timeouts stay as they are everywhere: five seconds, two attempts.
const RESOLVER: &str = "nameserver 127.0.0.1\nsearch corp.internal\n";
const SWITCH: &str = "hosts: files dns\n";
const HOSTS: &str = "93.184.215.15 filed.example\n";
/// `ip route add local`: all addresses are this machine.
const SCRIPT: &str = "set -e
dir=$1; shift
ip link set lo up
ip route add local 0.0.0.0/0 dev lo
ip -6 route add local ::/0 dev lo
for file in resolv.conf nsswitch.conf hosts; do
  if [ -e /etc/$file ]; then mount --bind \"$dir/$file\" /etc/$file; fi
done
exec \"$@\"
";
