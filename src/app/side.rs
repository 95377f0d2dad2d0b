//! The runtime of the authorization server and of what must not be interrupted.

use std::io;
use std::sync::mpsc;
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

/// Has work done on the side and waits for it, wherever it is called: this blocks the thread, runtime or not. `None`
/// when the side ended first.
pub(super) fn done_on<T: Send + 'static>(
    side: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (tell, told) = mpsc::channel();
    side.spawn(async move {
        // Nobody waits any more when the start was given up.
        let _ = tell.send(work.await);
    });
    told.recv().ok()
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
