//! The TLS port as strangers and renewals meet it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::rig::Rig;
use crate::support::http::{self as plain, next};
use crate::support::proxy::{CALLBACK, PING, Setup, param};
use crate::support::tls::{Authority, Front, Pair, section, self_signed, write_key};
use crate::support::{TempDir, all, upstream};

/// A rig whose program ends TLS itself.
async fn rig(authority: &Authority, dir: &TempDir, alpn: &[&str]) -> (Rig, Pair) {
    let pair = authority.pair(&["p.test"]);
    pair.write(dir.path());
    let setup =
        Setup { extra: section(dir.path()), client: Some(authority.client(alpn)), ..Setup::default() };
    let mut rig = Rig::with(setup).await;
    rig.canary("the TLS key", pair.key.lines().nth(1).expect("a line of it"));
    (rig, pair)
}

/// The certificate that a new connection is shown.
async fn shown(rig: &Rig, authority: &Authority) -> Vec<u8> {
    let stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
    let connector = TlsConnector::from(Arc::new(authority.client(&[])));
    let stream = connector.connect(ServerName::try_from("p.test").expect("a name"), stream).await;
    let stream = stream.expect("TLS comes up");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

/// Returns once the program has written this; lines are written in blocks.
async fn says(rig: &Rig, words: &str) {
    let said = async {
        while !rig.program.said().contains(words) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(Duration::from_secs(20), said).await.is_ok(), "{words}: {}", rig.program.said());
}

const REFUSED: &str = "the TLS files have changed and cannot be used";
const RENEWED: &str = "are shown the new TLS certificate";

#[tokio::test(flavor = "multi_thread")]
async fn noise_at_the_tls_port_leaves_nothing_behind() {
    let (authority, dir) = (Authority::new(), TempDir::new());
    let (rig, _) = rig(&authority, &dir, &["http/1.1"]).await;
    let heard = rig.proxy.mcp.heard().len();
    // A record head, then: a hello that lies about its length, an endless one, an alert, application data.
    let noises: [&[u8]; 9] = [
        b"",
        b"GET /mcp HTTP/1.1\r\nHost: p.test\r\n\r\n",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
        b"\x16\x03\x01\xff\xff\x01\x00\xff\xff",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x05hello",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
        b"\x00\x00\x00\x00\xff\xff\xff\xff",
    ];
    let rounds = (0..30).flat_map(|_| noises).map(async |noise| {
        let mut stream = TcpStream::connect(rig.proxy.address()).await.expect("connects");
        let _ = stream.write_all(noise).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        // Nothing, an alert, or the word for plain HTTP.
        assert!(
            answer.is_empty() || answer[0] == 21 || text.starts_with("HTTP/1.1 400 "),
            "{noise:?}: {text}"
        );
    });
    all(rounds).await;
    assert_eq!(rig.proxy.mcp.heard().len(), heard);
    rig.verify().await;
}

/// The person is told to try again, the operator why.
// GH-01, SE-11
#[tokio::test(flavor = "multi_thread")]
async fn a_github_that_cannot_be_verified_gets_nothing_and_is_told_to_the_operator() {
    const NAMES: [&str; 2] = ["127.0.0.1", "p.test"];
    let (authority, dir) = (Authority::new(), TempDir::new());
    let good = authority.pair(&NAMES);
    let front = Arc::new(Front::start(&good).await);
    plain::over_tls(front.address(), authority.client(&[]));
    let setup = Setup {
        extra: format!("ca_file: '{}'", authority.file(dir.path())),
        github: Some(front.clone()),
        ..Setup::default()
    };
    let rig = Rig::with(setup).await;
    let client_id = rig.proxy.register(&[CALLBACK]).await;
    let mut browser = rig.proxy.browser();
    let callback = browser.reach_callback(&rig.proxy.authorize_url(&client_id, CALLBACK, &[])).await;
    let (_, handshakes) = front.counts();
    front.show(&self_signed(&NAMES));
    let answer = browser.get(&callback).await;
    assert_eq!(param(answer.header("location"), "error").as_deref(), Some("temporarily_unavailable"));
    assert!(!answer.header("location").contains("certificate"), "{}", answer.header("location"));
    assert_eq!(front.counts().1, handshakes, "nothing was said");
    says(&rig, "certificate is not trusted").await;
    front.show(&good);
    rig.verify().await;
}

/// What an operator sees of a renewal that goes wrong, and then right.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_goes_wrong_is_told_once_and_harms_nobody() {
    let (authority, dir) = (Authority::new(), TempDir::new());
    let (mut rig, first) = rig(&authority, &dir, &["h2"]).await;
    let tokens = rig.login().await;
    let (response, feed) = upstream::events();
    let response = std::sync::Mutex::new(Some(response));
    rig.proxy.mcp.say(move |_| response.lock().unwrap().take().expect("asked once"));
    let request = rig.proxy.call("/mcp", &tokens.access).body(Bytes::from_static(PING)).unwrap();
    let (_, mut body) = plain::open(rig.proxy.address(), request).await;

    // The new certificate is there, the new key is not yet.
    let second = authority.pair(&["p.test"]);
    rig.canary("the next TLS key", second.key.lines().nth(1).expect("a line of it"));
    std::fs::write(dir.path().join("cert.pem"), &second.cert).unwrap();
    says(&rig, REFUSED).await;
    assert_eq!(shown(&rig, &authority).await, first.der().to_vec());
    write_key(&dir.path().join("key.pem"), &second.key);
    let renewed = async {
        while shown(&rig, &authority).await != second.der().to_vec() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    soon(renewed).await;
    says(&rig, "is not the key of the first certificate in").await;
    says(&rig, RENEWED).await;
    for line in [REFUSED, RENEWED] {
        assert_eq!(rig.program.said().matches(line).count(), 1, "{}", rig.program.said());
    }

    feed.send(Ok(Bytes::from("data: still here\n\n"))).unwrap();
    assert_eq!(soon(next(&mut body)).await.unwrap().unwrap(), "data: still here\n\n");
    drop((feed, body));
    rig.verify().await;
}
