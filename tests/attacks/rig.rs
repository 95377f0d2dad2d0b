//! The rig: the real program between a GitHub and an upstream of ours, and what must hold after every case.
#![allow(dead_code, reason = "every case uses its own part")]
use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::sleep;

use crate::support::TempDir;
use crate::support::canary::is_nowhere;
use crate::support::github::User;
use crate::support::program::Program;
use crate::support::proxy::{Proxy, Setup, Tokens, VERIFIER};
use crate::support::stores::Store;

/// One case: a program of its own on a SQLite file of its own, at the most talkative log level of ours.
pub struct Rig {
    pub proxy: Proxy,
    pub program: Program,
    pub dir: TempDir,
    store: Store,
    canaries: Vec<(&'static str, String)>,
    /// Statuses of 500 and above that the case provokes on purpose.
    expected: Vec<u16>,
    before: Vitals,
    /// What a heap may keep of what the case held at a time.
    spare_kib: u64,
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Vitals {
    pub rss_kib: u64,
    /// The most it ever had.
    pub peak_kib: u64,
    pub descriptors: usize,
}

impl Rig {
    /// The plain one: `/mcp` with the GitHub token injected, anyone may log in.
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// With another configuration. The store is always the rig's own; keys are its own canaries.
    pub async fn with(setup: Setup) -> Self {
        let dir = TempDir::new();
        let store = Store::sqlite(&dir);
        Self::over(dir, store, setup).await
    }

    /// On a store of any kind.
    pub async fn on(store: Store, setup: Setup) -> Self {
        Self::over(TempDir::new(), store, setup).await
    }

    async fn over(dir: TempDir, store: Store, mut setup: Setup) -> Self {
        setup.store = store.url.clone();
        let key = STANDARD.encode(b"canary-key-0123456789abcdefghijk");
        setup.extra.push_str(&format!("\nkeys: ['{key}']\n"));
        let (proxy, program) = Proxy::as_process(setup, &dir, LOG).await;
        proxy.github.world().add_user(User::new(4_242, "bystander"));
        let canaries = vec![
            ("the GitHub secret", "standin-secret".to_owned()),
            ("the key", key),
            ("the verifier", VERIFIER.to_owned()),
        ];
        let before = Vitals { rss_kib: 0, peak_kib: 0, descriptors: 0 };
        let mut rig =
            Rig { proxy, program, dir, store, canaries, expected: Vec::new(), before, spare_kib: SPARE_KIB };
        // Once through everything, so that what is built at first use is not held against the case.
        rig.login().await;
        rig.before = rig.vitals();
        rig
    }

    /// The case makes answers of these statuses on purpose.
    pub fn expect_statuses(&mut self, statuses: &[u16]) {
        self.expected.extend(statuses);
    }

    /// The case holds so much at a time that the allocator keeps some of it.
    pub fn expect_memory(&mut self, kib: u64) {
        self.spare_kib = SPARE_KIB + kib;
    }

    /// Something that must not be written down anywhere.
    pub fn canary(&mut self, name: &'static str, secret: &str) {
        self.canaries.push((name, secret.to_owned()));
    }

    /// A whole login as octocat; its tokens are canaries from now on.
    pub async fn login(&mut self) -> Tokens {
        let tokens = self.proxy.login().await;
        self.canary("an access token", &tokens.access);
        self.canary("a refresh token", &tokens.refresh);
        tokens
    }

    /// A second process on the same file; give it back with [`Rig::retire`].
    pub fn replica(&self) -> Program {
        let yaml = fs::read_to_string(self.dir.path().join("proxy.yaml")).expect("written at the start");
        Program::start(&self.dir, &yaml, LOG)
    }

    /// Ends a second process, and judges what it said.
    pub fn retire(&self, mut replica: Program) {
        assert!(replica.is_running(), "the replica ended: {}", replica.said());
        replica.terminate();
        assert!(replica.wait().success(), "it ends cleanly: {}", replica.said());
        self.judge_log(&replica.said());
    }

    /// `kill -9`, and up again on the same file.
    pub fn kill_and_start_again(&mut self) {
        self.program.kill();
        self.judge_log(&self.program.said());
        let address = self.program.again(&self.dir, LOG);
        self.proxy.moved_to(address);
    }

    fn judge_log(&self, log: &str) {
        is_nowhere("the log", log.as_bytes(), &self.canaries);
        assert!(!log.contains("panicked"), "{log}");
        for line in log.lines().filter(|line| line.contains(" status=5")) {
            let provoked = self.expected.iter().any(|status| line.contains(&format!(" status={status} ")));
            assert!(provoked, "an answer nobody provoked: {line}");
        }
    }

    /// What the program holds now.
    pub fn vitals(&self) -> Vitals {
        let process = format!("/proc/{}", self.program.pid());
        let status = fs::read_to_string(format!("{process}/status")).expect("it runs");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        let (rss_kib, peak_kib) = (kib("VmRSS:"), kib("VmHWM:"));
        // Shut to everybody but root.
        let descriptors = fs::read_dir(format!("{process}/fd")).map_or(0, Iterator::count);
        Vitals { rss_kib, peak_kib, descriptors }
    }

    /// The oracles: the same process serves somebody else as before, said nothing it must not say, and gave back
    /// what it took.
    pub async fn verify(mut self) {
        assert!(self.program.is_running(), "the program ended: {}", self.program.said());
        self.somebody_else_is_served().await;
        self.gave_everything_back().await;
        let tokens = ["octocat", "bystander"].map(|login| self.proxy.github.world().live_tokens(login));
        self.canaries.extend(tokens.into_iter().flatten().map(|token| ("a GitHub token", token)));
        for (name, bytes) in self.store.dump().await {
            is_nowhere(&name, &bytes, &self.canaries);
        }
        let arguments = fs::read(format!("/proc/{}/cmdline", self.program.pid())).expect("it runs");
        is_nowhere("the arguments", &arguments, &self.canaries);
        self.program.terminate();
        assert!(self.program.wait().success(), "it ends cleanly: {}", self.program.said());
        self.judge_log(&self.program.said());
    }

    async fn somebody_else_is_served(&mut self) {
        self.proxy.github.world().heal();
        self.proxy.mcp.say(|_| crate::support::upstream::json(crate::support::upstream::RESULT));
        self.proxy.github.world().sign_in("bystander");
        let tokens = self.login().await;
        self.proxy.ping(&tokens.access).await.expect(200);
    }

    /// Connections may take a moment to be closed; what is still held then is a leak.
    async fn gave_everything_back(&self) {
        // A pool keeps its connections for the next minute.
        let spare = SPARE_DESCRIPTORS + if self.store.name == "postgres" { 10 } else { 0 };
        let mut now = self.vitals();
        for _ in 0..100 {
            if now.descriptors <= self.before.descriptors + spare {
                break;
            }
            sleep(Duration::from_millis(100)).await;
            now = self.vitals();
        }
        let before = self.before;
        assert!(now.descriptors <= before.descriptors + spare, "{before:?} became {now:?}");
        assert!(now.rss_kib < before.rss_kib + self.spare_kib, "{before:?} became {now:?}");
    }
}

/// Everything of ours, and what the libraries say of themselves short of every frame.
const LOG: &str = "mcp_auth_proxy=trace,debug";
/// Kept-alive connections to the upstream and to GitHub.
const SPARE_DESCRIPTORS: usize = 8;
const SPARE_KIB: u64 = 20 << 10;
