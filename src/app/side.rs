//! The runtime of the authorization server and of what must not be interrupted.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// The runtime of everything that is not a request's own path. Ends without waiting wherever it is dropped.
pub(super) struct Side(Option<Runtime>);

impl Side {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("side").enable_all().build();
        runtime.map(|runtime| Side(Some(runtime)))
    }

    /// Waits for something. Blocks.
    pub(super) fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.handle().block_on(work)
    }

    pub(super) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("there until it ends").handle()
    }

    /// Waits for what runs, but not for long. Blocks.
    pub(super) fn end_within(&mut self, grace: Duration) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(grace);
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
