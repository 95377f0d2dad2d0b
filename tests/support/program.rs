//! The real program as a process: what only shows from outside.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::TempDir;

/// A running program; killed when dropped.
pub struct Program {
    child: Child,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
    surroundings: Surroundings,
}

/// What a program is started in.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
    /// Shell commands that are run before it in its place, like `ulimit -n 64`.
    pub first: String,
}

impl Program {
    /// Starts it on a configuration kept in `dir` and waits until it serves.
    pub fn start(dir: &TempDir, yaml: &str, log: &str) -> Self {
        Self::start_in(Surroundings::default(), dir, yaml, log)
    }

    /// The same in other surroundings.
    pub fn start_in(surroundings: Surroundings, dir: &TempDir, yaml: &str, log: &str) -> Self {
        let config = dir.path().join("proxy.yaml");
        std::fs::write(&config, yaml).expect("written");
        let mut command = match surroundings.first.as_str() {
            "" => Command::new(path()),
            first => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]).arg(path());
                shell
            }
        };
        let mut child = command
            .arg("--config")
            .arg(&config)
            .current_dir(dir.path())
            .envs(surroundings.environment.clone())
            .env("MCP_AUTH_PROXY_LOG", log)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let said = Arc::default();
        let (serving, served) = channel();
        listen(child.stdout.take().expect("piped"), &said, serving.clone());
        listen(child.stderr.take().expect("piped"), &said, serving);
        let address = served.recv_timeout(Duration::from_secs(20));
        let address = address.unwrap_or_else(|_| panic!("it does not serve: {:?}", said.lock()));
        Program { child, address, said, surroundings }
    }

    /// Starts it again on the same configuration.
    pub fn again(&mut self, dir: &TempDir, log: &str) -> SocketAddr {
        let yaml = std::fs::read_to_string(dir.path().join("proxy.yaml")).expect("read");
        *self = Program::start_in(self.surroundings.clone(), dir, &yaml, log);
        self.address
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processor time it has used, in clock ticks of 10 ms.
    pub fn processor_ticks(&self) -> u64 {
        processor_ticks(self.pid())
    }

    /// The memory it has, in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_none()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }

    /// Everything it has written to standard output and standard error so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The processor time a process has used, in clock ticks of 10 ms.
pub fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
}

/// The program under test: this build's, or the one that `MCP_AUTH_PROXY` names, which should be a release build.
fn path() -> PathBuf {
    named().unwrap_or_else(|| env!("CARGO_BIN_EXE_mcp-auth-proxy").into())
}

/// Whether the program is one that people run: figures of memory and time are promised for those.
pub fn is_for_people() -> bool {
    named().is_some() || !cfg!(debug_assertions)
}

fn named() -> Option<PathBuf> {
    // It is started in another directory.
    std::env::var_os("MCP_AUTH_PROXY").map(|path| std::path::absolute(path).expect("a path"))
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(output: impl Read + Send + 'static, said: &Arc<Mutex<String>>, serving: Sender<SocketAddr>) {
    let said = said.clone();
    thread::spawn(move || {
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            let listen = text.contains("serving").then(|| text.split("listen=").nth(1)).flatten();
            let address = listen.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            said.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            if let Some(address) = address {
                let _ = serving.send(address);
            }
        }
    });
}
