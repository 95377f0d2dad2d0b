//! A way to a server that can be cut, blocked and slowed down: the network between a proxy and its store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// What happens to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Nobody listens, and what was open is cut.
    Down,
    /// Everything is taken and nothing is passed on, in either direction.
    BlackHole,
    /// Answers come late.
    Slow(Duration),
    /// Questions arrive, and the next answer is lost with its connection; then it is fair again.
    LosesAnswer,
    /// Fair until a question holds this; that one does not arrive, and then it is down.
    DownAt(&'static str),
}

/// A relay on a port of its own.
pub struct Relay {
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
}

impl Relay {
    /// In front of `host:port`.
    pub async fn to(target: String, weather: Weather) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let weather = Arc::new(watch::Sender::new(weather));
        tokio::spawn(accept(listener, target, weather.clone()));
        Relay { address, weather }
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// A URL that leads here instead of to its own host and port.
    pub fn redirect(&self, url: &str) -> String {
        let (before, host, after) = split(url);
        let _ = host;
        format!("{before}{}{after}", self.address)
    }

    /// In front of the server of a URL.
    pub async fn before(url: &str, weather: Weather) -> (Self, String) {
        let relay = Self::to(split(url).1.to_owned(), weather).await;
        let url = relay.redirect(url);
        (relay, url)
    }
}

/// What stands before, at and behind the `host:port` of a URL.
fn split(url: &str) -> (&str, &str, &str) {
    let start = url.find("://").expect("a URL") + 3;
    let start = url[start..].find('@').map_or(start, |at| start + at + 1);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    (&url[..start], &url[start..end], &url[end..])
}

async fn accept(listener: TcpListener, target: String, weather: Arc<watch::Sender<Weather>>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        if *weather.borrow() == Weather::Down {
            let _ = client.set_zero_linger();
            continue;
        }
        let (target, weather) = (target.clone(), weather.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            let mut ends = weather.subscribe();
            tokio::select! {
                () = pass(from_client, to_server, weather.clone(), false) => {}
                () = pass(from_server, to_client, weather.clone(), true) => {}
                _ = ends.wait_for(|weather| *weather == Weather::Down) => {}
            }
        });
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    weather_of: Arc<watch::Sender<Weather>>,
    answers: bool,
) {
    let mut seen = weather_of.subscribe();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let weather = *seen.borrow_and_update();
        match weather {
            Weather::Fair | Weather::Down => {}
            Weather::BlackHole => {
                // What was swallowed does not come out again.
                let _ = seen.wait_for(|weather| *weather != Weather::BlackHole).await;
                return;
            }
            Weather::Slow(by) if answers => sleep(by).await,
            Weather::LosesAnswer if answers => {
                weather_of.send_replace(Weather::Fair);
                return;
            }
            Weather::DownAt(words) if !answers && holds(&buffer[..read], words) => {
                weather_of.send_replace(Weather::Down);
                return;
            }
            Weather::Slow(_) | Weather::LosesAnswer | Weather::DownAt(_) => {}
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

fn holds(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}
