//! The identity that new connections are shown: exchanged when its files change, without a restart.
//!
//! The files are read again every few seconds and compared by content, so it does not matter how they change:
//! in place, by rename, or behind links that are swapped (Kubernetes, certbot).

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::identity::{Fault, Files, Identity};
use crate::clock::{Clock, Time};

/// What listeners show.
pub struct Shown {
    files: Files,
    /// The name clients use.
    host: String,
    /// How long a handshake may take.
    handshake: Duration,
    current: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
}

/// What the last look found.
struct Seen {
    contents: Result<[u8; 32], Fault>,
    /// Whether that is what is shown.
    usable: bool,
    identity: Identity,
    /// Whether it was told that the identity expires soon.
    warned: bool,
}

impl Shown {
    /// Reads the files for the first time. Blocks.
    pub fn load(files: Files, host: &str, handshake: Duration, now: Time) -> Result<Self, Fault> {
        let contents = files.read()?;
        let identity = files.judge(&contents, now)?;
        let current = RwLock::new(identity.config().clone());
        let warned = identity.ends_soon(now).is_some();
        let seen = Mutex::new(Seen { contents: Ok(contents.digest()), usable: true, identity, warned });
        Ok(Shown { files, host: host.to_owned(), handshake, current, seen })
    }

    /// For one new connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// How long a handshake may take.
    pub fn handshake(&self) -> Duration {
        self.handshake
    }

    /// What an operator should know about what is shown.
    pub fn concerns(&self, now: Time) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.files.concerns(&seen.identity, &self.host, now)
    }

    /// Looks at the files again and again.
    pub async fn follow(self: Arc<Self>, clock: Clock, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (this, now) = (self.clone(), clock.now());
            // The files may lie on a network; nobody else must wait for them.
            if tokio::task::spawn_blocking(move || this.look(now)).await.is_err() {
                return;
            }
        }
    }

    /// One look. A pair that cannot be shown is told once, and the one from before stays.
    fn look(&self, now: Time) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = self.files.read();
        let digest = contents.as_ref().map(|contents| contents.digest()).map_err(Clone::clone);
        let is_news = digest != seen.contents;
        if !is_news && seen.usable {
            return self.remind(&mut seen, now);
        }
        seen.contents = digest;
        // What could not be shown is judged at every look: a certificate from an authority whose clock is ahead of
        // ours is not valid yet, and will be.
        let judged = contents.and_then(|contents| self.files.judge(&contents, now));
        seen.usable = judged.is_ok();
        match judged {
            Ok(identity) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = identity.config().clone();
                info!(cert = %self.files.cert.display(), "new connections are shown the new TLS certificate");
                for concern in self.files.concerns(&identity, &self.host, now) {
                    warn!("{concern}");
                }
                seen.warned = identity.ends_soon(now).is_some();
                seen.identity = identity;
            }
            Err(fault) => {
                if is_news {
                    warn!(%fault, "the TLS files have changed and cannot be used; what was shown stays");
                }
                self.remind(&mut seen, now);
            }
        }
    }

    /// Renewal that does not happen must not be noticed by clients first.
    fn remind(&self, seen: &mut Seen, now: Time) {
        if let Some(ends) = seen.identity.ends_soon(now).filter(|_| !seen.warned) {
            seen.warned = true;
            warn!(cert = %self.files.cert.display(), "the TLS certificate expires {ends}");
        }
    }
}

/// The name of HTTP/2 in ALPN. RFC 9113 §3.1.
pub const HTTP2: &[u8] = b"h2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_becomes_valid_while_we_look_is_shown_then() {
        let directory = std::env::temp_dir().join(format!("mcp-auth-proxy-shown-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let files = Files { cert: directory.join("cert.pem"), key: directory.join("key.pem") };
        let write = |since: i32| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut params = rcgen::CertificateParams::new(vec!["p.test".to_owned()]).expect("a name");
            params.not_before = rcgen::date_time_ymd(since, 1, 1);
            params.not_after = rcgen::date_time_ymd(2040, 1, 1);
            let cert = params.self_signed(&key).expect("signs").pem();
            std::fs::write(&files.cert, cert).expect("writes");
            std::fs::write(&files.key, key.serialize_pem()).expect("writes");
        };
        // 1 January 2027 and 2 January 2028.
        let (now, later) = (Time::from_seconds(1_798_761_600), Time::from_seconds(1_830_384_000));
        write(2026);
        let shown = Shown::load(files.clone(), "p.test", Duration::from_secs(1), now).expect("loads");
        let config = || Arc::as_ptr(&shown.current.read().expect("not poisoned"));
        let first = config();
        write(2028);
        shown.look(now);
        shown.look(now);
        assert_eq!(config(), first, "it is not valid yet: the one from before stays");
        shown.look(later);
        let second = config();
        assert_ne!(second, first, "now it is");
        shown.look(later);
        assert_eq!(config(), second, "and is not loaded again and again");
        std::fs::remove_dir_all(&directory).expect("it was there");
    }
}
