//! Serving: until a signal ends it, with a changed configuration when another asks for that.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{fail, refuse};
use crate::app::{App, Tuning};
use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry;

pub(super) fn serve(path: &Path) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => return refuse(path, &problems),
    };
    telemetry::start();
    // Before anything is served: a signal that comes early must not kill.
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("cannot listen for signals: {error}")),
    };
    match App::start(config, Clock::system(), &Tuning::default()) {
        Ok(app) => until_signalled(app, signals, path),
        Err(error) => fail(error),
    }
}

fn until_signalled(mut app: App, mut signals: Signals, path: &Path) -> ExitCode {
    while let Told::Reload = signals.wait() {
        reload(&mut app, path);
    }
    tracing::info!(
        "draining: not ready any more; after drain_delay nothing new is taken and what is open finishes; a second signal cuts it"
    );
    let cut = app.cut();
    let second = std::thread::spawn(move || {
        while let Told::Reload = signals.wait() {}
        cut();
    });
    app.stop();
    drop(second);
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

/// A file that is wrong, or changes what cannot change, is told with all its problems, and changes nothing.
fn reload(app: &mut App, path: &Path) {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => {
            for problem in &problems {
                tracing::error!("{}: {problem}", path.display());
            }
            tracing::error!(
                problems = problems.len(),
                "the configuration was not reloaded; the one before stays"
            );
            app.could_not_read();
            return;
        }
    };
    match app.reload(config) {
        Ok(()) => tracing::info!("the configuration was reloaded"),
        Err(error) => tracing::error!("{}: {error}; the configuration before stays", path.display()),
    }
}

/// What a signal asks for.
enum Told {
    End,
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP, from the moment this exists.
#[cfg(unix)]
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = signal(SignalKind::hangup())?;
        drop(inside);
        Ok(Signals { runtime, terminate, interrupt, hangup })
    }

    /// Returns at the next one.
    fn wait(&mut self) -> Told {
        let Signals { runtime, terminate, interrupt, hangup } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => Told::End,
                _ = interrupt.recv() => Told::End,
                _ = hangup.recv() => Told::Reload,
            }
        })
    }
}

/// Ctrl-C, which is all there is elsewhere.
#[cfg(not(unix))]
struct Signals {
    runtime: Runtime,
}

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Signals { runtime: Builder::new_current_thread().enable_all().build()? })
    }

    /// Returns at the next one.
    fn wait(&mut self) -> Told {
        // Without a handler there is nothing to wait for: then it ends.
        let _ = self.runtime.block_on(tokio::signal::ctrl_c());
        Told::End
    }
}
