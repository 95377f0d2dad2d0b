//! From a name to a connection: an address that does not answer is overtaken by the next, and a name server that
//! does not answer is done without for a while.
//!
//! RFC 8305 §5, and RFC 8767 for names that were good. "There is no such name" is an answer and is obeyed: the old
//! address may be somebody else's by now.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::{Clock, Time};

/// Makes connections to one upstream, from any core.
pub(super) struct Dialer {
    clock: Clock,
    known: Arc<Mutex<Known>>,
}

/// What is known of a name.
#[derive(Default)]
struct Known {
    /// The last good answer, and when it came.
    good: Option<(Vec<SocketAddr>, Time)>,
    /// A look-up under way, and since when: everybody waits for the same.
    running: Option<(watch::Receiver<Option<Found>>, Time)>,
    /// Addresses that refused or had to be overtaken lately.
    slow: Vec<(SocketAddr, Time)>,
}

type Found = Result<Vec<SocketAddr>, NotFound>;

/// Why a name comes to nothing.
#[derive(Clone)]
struct NotFound {
    cause: String,
    /// Nobody said so: the name servers could not be asked.
    unanswered: bool,
}

impl Dialer {
    pub(super) fn new(clock: Clock) -> Self {
        Dialer { clock, known: Arc::default() }
    }

    /// A connection to whichever address answers first. Takes as long as it takes: the caller has the limit.
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let text = |error: io::Error| error.to_string();
        let stream = match host.parse::<IpAddr>() {
            Ok(address) => TcpStream::connect((address, port)).await.map_err(text)?,
            Err(_) => self.race(self.addresses(host, port).await?).await?,
        };
        // An upstream that vanished without a word would leave streams that look alive for ever: clients get our
        // comments in them.
        let keep_alive = TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE / 4);
        SockRef::from(&stream).set_tcp_keepalive(&keep_alive).map_err(text)?;
        Ok(stream)
    }

    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let (mut running, since) = self.look_up(host, port);
        let found = async {
            let found = running.wait_for(Option::is_some).await;
            // Its core may have stopped meanwhile.
            found.map_or_else(
                |_| Err(unanswered("the look-up was broken off")),
                |found| (*found).clone().expect("waited for"),
            )
        };
        let Some(good) = self.good() else { return found.await.map_err(|error| error.cause) };
        let patience = PATIENCE.saturating_sub(self.clock.now().since(since));
        match timeout(patience, found).await.unwrap_or_else(|_| Err(unanswered("no answer in time"))) {
            Ok(found) => Ok(found),
            Err(error) if error.unanswered => Ok(good),
            Err(error) => Err(error.cause),
        }
    }

    /// Joins the look-up that runs, or starts one.
    fn look_up(&self, host: &str, port: u16) -> (watch::Receiver<Option<Found>>, Time) {
        let mut known = lock(&self.known);
        if let Some(running) = known.running.as_ref().filter(|(running, _)| running.has_changed().is_ok()) {
            return running.clone();
        }
        let (say, receiver) = watch::channel(None);
        let running = (receiver, self.clock.now());
        known.running = Some(running.clone());
        let (shared, clock, host) = (self.known.clone(), self.clock.clone(), host.to_owned());
        tokio::spawn(async move {
            let found = tokio::net::lookup_host((host, port)).await;
            let found = found.map(Iterator::collect::<Vec<_>>).map_err(|error| not_found(&error));
            let mut known = lock(&shared);
            if let Ok(addresses) = &found {
                known.good = Some((addresses.clone(), clock.now()));
            }
            known.running = None;
            say.send_replace(Some(found));
        });
        running
    }

    fn good(&self) -> Option<Vec<SocketAddr>> {
        let (now, known) = (self.clock.now(), lock(&self.known));
        let good = known.good.as_ref().filter(|(_, since)| now.since(*since) < KEPT);
        good.map(|(addresses, _)| addresses.clone())
    }

    /// One after the other, but none waits for the one before it for long.
    async fn race(&self, addresses: Vec<SocketAddr>) -> Result<TcpStream, String> {
        let mut rest = self.slow_last(addresses).into_iter();
        let (mut tried, mut attempts) = (Vec::new(), JoinSet::new());
        let mut cause = "the name has no address".to_owned();
        loop {
            if let Some(address) = rest.next() {
                tried.push(address);
                attempts.spawn(async move { (address, TcpStream::connect(address).await) });
            }
            let wait = if rest.len() == 0 { Duration::MAX } else { HEAD_START };
            match timeout(wait, attempts.join_next()).await {
                Ok(Some(Ok((address, Ok(stream))))) => {
                    tried.retain(|other| *other != address);
                    self.remember_slow(tried);
                    return Ok(stream);
                }
                Ok(Some(Ok((_, Err(error))))) => cause = error.to_string(),
                Ok(Some(Err(error))) => cause = error.to_string(),
                Ok(None) => return Err(cause),
                Err(_) => {}
            }
        }
    }

    fn slow_last(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let (now, mut known) = (self.clock.now(), lock(&self.known));
        known.slow.retain(|(_, since)| now.since(*since) < SLOW_FOR);
        addresses.sort_by_key(|address| known.slow.iter().any(|(slow, _)| slow == address));
        addresses
    }

    fn remember_slow(&self, addresses: Vec<SocketAddr>) {
        let (now, mut known) = (self.clock.now(), lock(&self.known));
        known.slow.retain(|(slow, _)| !addresses.contains(slow));
        known.slow.extend(addresses.into_iter().map(|address| (address, now)));
    }
}

fn unanswered(cause: &str) -> NotFound {
    NotFound { cause: cause.to_owned(), unanswered: true }
}

/// The resolver tells EAI_AGAIN from EAI_NONAME by its words only (glibc's, musl's).
fn not_found(error: &io::Error) -> NotFound {
    let cause = error.to_string();
    let again = ["Temporary failure", "Try again"].iter().any(|words| cause.contains(words));
    NotFound { unanswered: again || error.raw_os_error().is_some(), cause }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// RFC 8305 §8: how long an address has for itself before the next is tried as well.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long a name server may take when a good answer is there.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a good answer is good for when the name servers cannot be asked.
const KEPT: Duration = Duration::from_secs(3_600);
/// How long an address that did not answer goes last.
const SLOW_FOR: Duration = Duration::from_secs(30);
/// After this long without a word an upstream is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_upstream_that_is_silent_is_asked_whether_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let stream = Dialer::new(Clock::system()).connect("127.0.0.1", port).await.expect("connects");
        assert!(SockRef::from(&stream).keepalive().expect("asked"));
    }
}
