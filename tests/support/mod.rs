//! What the integration tests share: a proxy in process, a GitHub, an MCP server, a browser.
#![allow(dead_code, reason = "every test file uses its own part")]

pub mod balancer;
pub mod browser;
pub mod canary;
pub mod crowd;
pub mod documents;
pub mod github;
pub mod http;
pub mod names;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod relay;
pub mod sabotage;
pub mod stores;
pub mod tls;
pub mod upstream;

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

/// Runs futures at once and returns their outcomes in order.
pub async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outcomes: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, outcome) in futures.iter_mut().zip(&mut outcomes).filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(ready) = future.as_mut().poll(context) {
                *outcome = Some(ready);
            }
        }
        if outcomes.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outcomes.into_iter().flatten().collect()
}

/// Waits until something holds that nobody announces; fails when it does not within a generous time.
#[track_caller]
pub fn eventually(holds: impl Fn() -> bool) -> impl Future<Output = ()> {
    let asked = Location::caller();
    async move {
        for _ in 0..2_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never holds: {asked}");
    }
}

/// A loopback address for a server that is to come back to it: nobody has it, and the kernel gives it to no connection
/// by itself, which it might do while that server is down.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id() * 37;
    loop {
        let number = (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 24_000 + number as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A directory that is gone when the test is over.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A fresh, empty directory below the build's own temporary directory.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a directory can be made");
        TempDir(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
