//! TLS on our own listener, and towards GitHub and upstreams.
//!
//! RFC 8446; RFC 5246 (1.2); RFC 7301 (ALPN); RFC 9113 §3.2, §9.2; RFC 6797.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mcp_auth_proxy::app::Tuning;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use support::TempDir;
use support::http::{self as plain, next, over_tls};
use support::proxy::{PING, Proxy, Setup, in_front_of, parse};
use support::tls::{Authority, Front, Pair, expired, section, self_signed, write_key};
use support::{raw, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A proxy that ends TLS itself, with the authority its clients believe.
struct Stage {
    proxy: Proxy,
    authority: Authority,
    dir: TempDir,
}

impl Stage {
    async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with(mut setup: Setup) -> Self {
        let (authority, dir) = (Authority::new(), TempDir::new());
        authority.pair(&["p.test"]).write(dir.path());
        setup.extra.push_str(&section(dir.path()));
        setup.tuning = Tuning { tls_files: Duration::from_millis(20), ..setup.tuning };
        Stage { proxy: Proxy::with(setup).await, authority, dir }
    }

    /// A handshake as a client of these protocols; TLS is up when it returns.
    async fn connect(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        self.connect_as(self.authority.client(alpn), "p.test").await.expect("TLS comes up")
    }

    async fn connect_as(&self, config: ClientConfig, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        connect(self.proxy.address(), &Arc::new(config), name).await
    }

    /// Returns once new connections are shown this certificate.
    async fn shows(&self, pair: &Pair) {
        let shown = async {
            while shown_on(&self.connect(&[]).await) != pair.der() {
                tokio::task::yield_now().await;
            }
        };
        soon(shown).await;
    }
}

async fn connect(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(config.clone()).connect(name, stream).await
}

fn shown_on(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it happens soon")
}

/// Asks for the health over HTTP/1.1 and returns the answer.
async fn ask<T: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut T) -> String {
    stream.write_all(HEALTH.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.expect("an answer to the end");
    answer
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: p.test\r\nConnection: close\r\n\r\n";

// === Our own listener ===

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_and_streams_flow_over_tls() {
    for alpn in ["h2", "http/1.1"] {
        let stage = Stage::start().await;
        let proxy = &stage.proxy;
        over_tls(proxy.address(), stage.authority.client(&[alpn]));
        let tokens = proxy.login().await;
        proxy.ping(&tokens.access).await.expect(200);
        assert!(!proxy.mcp.last().header("x-github-token").is_empty());
        let (response, feed) = upstream::events();
        let response = std::sync::Mutex::new(Some(response));
        proxy.mcp.say(move |_| response.lock().unwrap().take().expect("asked once"));
        let request = proxy.call("/mcp", &tokens.access).body(Bytes::from_static(PING)).unwrap();
        let (head, mut body) = plain::open(proxy.address(), request).await;
        let version = if alpn == "h2" { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
        assert_eq!((head.status.as_u16(), head.version), (200, version));
        for event in ["data: one\n\n", "data: two\n\n"] {
            feed.send(Ok(Bytes::from(event))).unwrap();
            // Each arrives by itself: nothing waits for the next.
            assert_eq!(soon(next(&mut body)).await.unwrap().unwrap(), event);
        }
        drop(feed);
        assert!(soon(next(&mut body)).await.is_none(), "the end is clean");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_does_not_end_cleanly_over_tls() {
    for alpn in ["h2", "http/1.1"] {
        let stage = Stage::start().await;
        let proxy = &stage.proxy;
        over_tls(proxy.address(), stage.authority.client(&[alpn]));
        let tokens = proxy.login().await;
        let (response, feed) = upstream::events();
        let response = std::sync::Mutex::new(Some(response));
        proxy.mcp.say(move |_| response.lock().unwrap().take().expect("asked once"));
        let request = proxy.call("/mcp", &tokens.access).body(Bytes::from_static(PING)).unwrap();
        let (_, mut body) = plain::open(proxy.address(), request).await;
        feed.send(Ok(Bytes::from("data: one\n\n"))).unwrap();
        soon(next(&mut body)).await.unwrap().unwrap();
        feed.send(Err(std::io::ErrorKind::ConnectionReset.into())).unwrap();
        assert!(soon(next(&mut body)).await.expect("no end").is_err(), "{alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_from_1_2_on_are_spoken() {
    let stage = Stage::start().await;
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let config = stage.authority.client_with(&[version], &[]);
        let mut stream = stage.connect_as(config, "p.test").await.expect("TLS comes up");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
}

/// RFC 8996: no client is talked down, and none is answered in an old version.
#[tokio::test(flavor = "multi_thread")]
async fn versions_before_1_2_are_refused() {
    let stage = Stage::start().await;
    for minor in [0, 1, 2] {
        let mut stream = TcpStream::connect(stage.proxy.address()).await.unwrap();
        stream.write_all(&old_hello(minor)).await.unwrap();
        let mut answer = Vec::new();
        // It may reset once it has said why.
        let _ = soon(stream.read_to_end(&mut answer)).await;
        // A fatal alert (21, 2): protocol_version (70).
        assert_eq!((answer.len(), answer[0], &answer[5..]), (7, 21, &[2, 70][..]), "3.{minor}: {answer:?}");
    }
    assert!(ask(&mut stage.connect(&[]).await).await.starts_with("HTTP/1.1 200"));
}

/// The hello of SSL 3.0 (3.0), TLS 1.0 (3.1) and 1.1 (3.2), with suites that every version knows.
fn old_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.push(0);
    let suites = [0xc0, 0x13, 0xc0, 0x14, 0xc0, 0x2b, 0xc0, 0x2f, 0, 0x2f, 0, 0x35];
    body.extend([0, suites.len() as u8]);
    body.extend(suites);
    body.extend([1, 0]);
    let extensions = [
        [0, 10, 0, 6, 0, 4, 0, 23, 0, 29].as_slice(), // groups
        &[0, 11, 0, 2, 1, 0],                         // point formats
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4],             // signatures
        &[0, 23, 0, 0],                               // extended master secret
    ]
    .concat();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend((body.len() as u16).to_be_bytes());
    handshake.extend(body);
    let mut record = vec![22, 3, minor.min(1)];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_is_agreed_on_in_the_handshake() {
    let stage = Stage::start().await;
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["spdy/3", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let mut stream = stage.connect(offered).await;
        let spoken =
            stream.get_ref().1.alpn_protocol().map(|spoken| String::from_utf8(spoken.to_vec()).unwrap());
        assert_eq!(spoken.as_deref(), agreed, "{offered:?}");
        if agreed == Some("h2") {
            is_http2(stream).await;
        } else {
            assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"), "{offered:?}");
        }
    }
    // Without a word in the handshake the preface tells.
    is_http2(stage.connect(&[]).await).await;
    // RFC 7301 §3.2: nothing in common is an end.
    let refused = stage.connect_as(stage.authority.client(&["acme-tls/1"]), "p.test").await;
    assert!(refused.is_err());
}

/// What was agreed on counts, not what the bytes look like.
#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_the_agreement_is_not_served() {
    let stage = Stage::start().await;
    let mut stream = stage.connect(&["h2"]).await;
    stream.write_all(HEALTH.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    assert!(!String::from_utf8_lossy(&answer).contains("200"), "{answer:?}");
    let mut stream = stage.connect(&["http/1.1"]).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    // No SETTINGS frame comes back.
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
}

async fn is_http2(mut stream: TlsStream<TcpStream>) {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.expect("writes");
    let mut head = [0; 9];
    soon(stream.read_exact(&mut head)).await.expect("a frame");
    assert_eq!(head[3], 4, "SETTINGS");
}

/// There is one certificate: whoever names another host, or none, is shown it too. What a request may name is the
/// gate's to say.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_may_name_anything_or_nothing() {
    let stage = Stage::start().await;
    let pair = stage.authority.pair(&["p.test", "other.test", "127.0.0.1"]);
    pair.write(stage.dir.path());
    stage.shows(&pair).await;
    for name in ["p.test", "other.test", "127.0.0.1"] {
        let mut stream = stage.connect_as(stage.authority.client(&[]), name).await.expect(name);
        assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"), "{name}");
    }
    let mut silent = stage.authority.client(&[]);
    silent.enable_sni = false;
    let mut stream = stage.connect_as(silent, "p.test").await.expect("without a name");
    assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
    let mut stream = stage.connect_as(stage.authority.client(&[]), "p.test").await.unwrap();
    stream.write_all(b"GET /mcp HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_told_to_come_by_https() {
    let stage = Stage::start().await;
    let tokens = {
        over_tls(stage.proxy.address(), stage.authority.client(&[]));
        stage.proxy.login().await
    };
    let heard = stage.proxy.mcp.heard().len();
    for request in [
        "GET / HTTP/1.1\r\nHost: p.test\r\n\r\n".to_owned(),
        format!(
            "POST /mcp HTTP/1.1\r\nHost: p.test\r\nAuthorization: Bearer {}\r\nContent-Length: 100000\r\n\r\n{}",
            tokens.access,
            "x".repeat(50_000)
        ),
        "get".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let answer = raw::say(stage.proxy.address(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.contains("this port speaks https: https://p.test\"}"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n") && !answer.contains(&tokens.access), "{answer}");
    }
    assert_eq!(stage.proxy.mcp.heard().len(), heard, "nothing went on");
    // What is neither is ended.
    for bytes in
        [&b"\0\0\0\0"[..], b"\x80\x2e\x01\0\x02", b"\x16\x03\x01\xff\xff\xff", b"\x15\x03\x03\0\x02\x01\0"]
    {
        let mut stream = TcpStream::connect(stage.proxy.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty() || answer[0] == 21, "{bytes:?}: {answer:?}");
    }
    stage.proxy.ping(&tokens.access).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_take_too_long_are_cut_off() {
    let tuning = Tuning { handshake: Duration::from_millis(300), ..Setup::default().tuning };
    let stage = Stage::with(Setup { tuning, ..Setup::default() }).await;
    let hello = old_hello(3);
    for said in [0, 1, 5, hello.len() - 1] {
        let mut stream = TcpStream::connect(stage.proxy.address()).await.unwrap();
        stream.write_all(&hello[..said]).await.unwrap();
        // Others are served meanwhile.
        assert!(ask(&mut stage.connect(&[]).await).await.starts_with("HTTP/1.1 200"));
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{said} bytes: {answer:?}");
    }
}

/// Tickets spare a handshake; early data, which can be replayed, is not taken.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_resume_without_early_data() {
    let stage = Stage::start().await;
    for version in [&TLS12, &TLS13] {
        let mut config = stage.authority.client_with(&[version], &[]);
        config.enable_early_data = true;
        let config = Arc::new(config);
        let kind = async || {
            let mut stream = connect(stage.proxy.address(), &config, "p.test").await.unwrap();
            assert!(stream.get_mut().1.early_data().is_none());
            // Tickets come with the first answer.
            ask(&mut stream).await;
            stream.get_ref().1.handshake_kind()
        };
        assert_eq!(kind().await, Some(HandshakeKind::Full));
        assert_eq!(kind().await, Some(HandshakeKind::Resumed));
        // Who was shown another certificate is shown the new one: nothing resumes across.
        let pair = stage.authority.pair(&["p.test"]);
        pair.write(stage.dir.path());
        stage.shows(&pair).await;
        assert_eq!(kind().await, Some(HandshakeKind::Full));
    }
}

// === New files ===

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_without_a_restart_and_streams_live_on() {
    let stage = Stage::start().await;
    let proxy = &stage.proxy;
    over_tls(proxy.address(), stage.authority.client(&["h2"]));
    let tokens = proxy.login().await;
    let (response, feed) = upstream::events();
    let response = std::sync::Mutex::new(Some(response));
    proxy.mcp.say(move |_| response.lock().unwrap().take().expect("asked once"));
    let request = proxy.call("/mcp", &tokens.access).body(Bytes::from_static(PING)).unwrap();
    let (_, mut body) = plain::open(proxy.address(), request).await;
    let renewed = stage.authority.pair(&["p.test"]);
    renewed.write(stage.dir.path());
    stage.shows(&renewed).await;
    feed.send(Ok(Bytes::from("data: still here\n\n"))).unwrap();
    assert_eq!(soon(next(&mut body)).await.unwrap().unwrap(), "data: still here\n\n");
}

/// Kubernetes: files are links into a folder that is itself a link, which is swapped.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_swapped_are_followed() {
    use std::os::unix::fs::symlink;
    let (authority, dir) = (Authority::new(), TempDir::new());
    let first = authority.pair(&["p.test"]);
    let folder = |name: &str| dir.path().join(name);
    let fill = |name: &str, pair: &Pair| {
        std::fs::create_dir(folder(name)).unwrap();
        pair.write(&folder(name));
    };
    fill("..2026_1", &first);
    symlink("..2026_1", folder("..data")).unwrap();
    for file in ["cert.pem", "key.pem"] {
        symlink(Path::new("..data").join(file), folder(file)).unwrap();
    }
    let tuning = Tuning { tls_files: Duration::from_millis(20), ..Setup::default().tuning };
    let proxy = Proxy::with(Setup { extra: section(dir.path()), tuning, ..Setup::default() }).await;
    let stage = Stage { proxy, authority, dir };
    stage.shows(&first).await;
    let second = stage.authority.pair(&["p.test"]);
    let folder = |name: &str| stage.dir.path().join(name);
    std::fs::create_dir(folder("..2026_2")).unwrap();
    second.write(&folder("..2026_2"));
    symlink("..2026_2", folder("..data_tmp")).unwrap();
    std::fs::rename(folder("..data_tmp"), folder("..data")).unwrap();
    stage.shows(&second).await;
}

/// Whatever the files become, what was shown stays until they are good again.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pair_is_not_shown() {
    let stage = Stage::start().await;
    let shown = shown_on(&stage.connect(&[]).await);
    let (cert, key) = (stage.dir.path().join("cert.pem"), stage.dir.path().join("key.pem"));
    let other = stage.authority.pair(&["p.test"]);
    let late = stage.authority.signed(&["p.test"], expired);
    let half = &other.cert[..other.cert.len() / 2];
    let before = std::fs::read_to_string(&key).unwrap();
    for (name, cert_text, key_text) in [
        ("half a certificate", half, &*other.key),
        ("a certificate without its key", &other.cert, &before),
        ("an expired one", &late.cert, &late.key),
        ("nothing", "", ""),
        ("noise", "hello", "hello"),
    ] {
        std::fs::write(&cert, cert_text).unwrap();
        write_key(&key, key_text);
        // Long enough for several looks; that nothing happens has no sign of its own.
        for _ in 0..20 {
            assert_eq!(shown_on(&stage.connect(&[]).await), shown, "{name}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    std::fs::remove_file(&key).unwrap();
    assert_eq!(shown_on(&stage.connect(&[]).await), shown);
    other.write(stage.dir.path());
    stage.shows(&other).await;
}

// === What a configuration may name ===

/// Every form of key that openssl, certbot and cert-manager write.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_form_are_taken() {
    for (name, key, plain_key) in [
        ("RSA in PKCS#8", include_str!("tls/rsa.pkcs8.pem"), include_str!("tls/rsa.pkcs8.pem")),
        ("RSA in PKCS#1", include_str!("tls/rsa.pkcs1.pem"), include_str!("tls/rsa.pkcs8.pem")),
        ("EC in PKCS#8", include_str!("tls/ec.pkcs8.pem"), include_str!("tls/ec.pkcs8.pem")),
        ("EC in SEC1", include_str!("tls/ec.sec1.pem"), include_str!("tls/ec.pkcs8.pem")),
    ] {
        let (authority, dir) = (Authority::new(), TempDir::new());
        let leaf = authority.for_key(&["p.test"], plain_key);
        // A chain, with the text that `openssl x509 -text` puts before.
        let chain = format!("Certificate:\n    Data:\n{leaf}{}", authority.pem());
        Pair { cert: chain, key: key.to_owned() }.write(dir.path());
        let proxy = Proxy::with(Setup { extra: section(dir.path()), ..Setup::default() }).await;
        let stage = Stage { proxy, authority, dir };
        for version in [&TLS12, &TLS13] {
            let config = stage.authority.client_with(&[version], &[]);
            let mut stream = stage.connect_as(config, "p.test").await.expect(name);
            assert_eq!(stream.get_ref().1.peer_certificates().map(<[_]>::len), Some(2), "{name}");
            assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"), "{name}");
        }
    }
}

/// Each with the place in the file, none with a word of the key.
#[test]
fn files_that_cannot_be_shown_are_problems() {
    let (authority, dir) = (Authority::new(), TempDir::new());
    let good = authority.pair(&["p.test"]);
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let with = |text: &str, change: &dyn Fn(&mut rcgen::CertificateParams)| Pair {
        key: text.to_owned(),
        ..authority.signed(&["p.test"], change)
    };
    let late = authority.signed(&["p.test"], expired);
    let early = authority.signed(&["p.test"], |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
    let person = authority.signed(&["p.test"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let encrypted = with(include_str!("tls/ec.encrypted.pem"), &|_| ());
    let other = with(&authority.pair(&["p.test"]).key, &|_| ());
    let broken = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "AAAA".repeat(20));
    let of = |cert: &str, key: &str| Pair { cert: cert.to_owned(), key: key.to_owned() };
    for (name, pair, place, words) in [
        ("expired", &late, "tls.cert", "days ago"),
        ("not yet valid", &early, "tls.cert", "is valid only in"),
        ("for clients", &person, "tls.cert", "is not for servers"),
        ("no certificate", &of("", &good.key), "tls.cert", "holds no certificate"),
        ("the key twice", &of(&good.key, &good.key), "tls.cert", "holds no certificate"),
        ("the files swapped", &of(&good.key, &good.cert), "tls.cert", "holds no certificate"),
        ("half a certificate", &of(&good.cert[..300], &good.key), "tls.cert", "PEM"),
        (
            "not base64",
            &of("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &good.key),
            "tls.cert",
            "PEM",
        ),
        ("not a certificate", &of(&broken, &good.key), "tls.cert", "broken"),
        ("no key", &of(&good.cert, "hello"), "tls.key", "holds no private key"),
        ("the certificate twice", &of(&good.cert, &good.cert), "tls.key", "holds no private key"),
        ("an encrypted key", &encrypted, "tls.key", "without a password"),
        ("a foreign key", &other, "tls.key", "is not the key of the first certificate in"),
        ("a weak key", &of(&good.cert, include_str!("tls/rsa.weak.pem")), "tls.key", "RSA of 2048"),
    ] {
        pair.write(dir.path());
        let problem = only_problem(&section(dir.path()));
        assert_eq!(problem.path, place, "{name}: {problem}");
        assert!(problem.text.contains(words), "{name}: {problem}");
        let secret = pair.key.lines().nth(1).unwrap_or("hello");
        assert!(!problem.text.contains(secret), "{name}: {problem}");
    }
    good.write(dir.path());
    for (file, place) in [(&cert, "tls.cert"), (&key, "tls.key")] {
        let text = std::fs::read_to_string(file).unwrap();
        std::fs::remove_file(file).unwrap();
        let problem = only_problem(&section(dir.path()));
        assert_eq!(problem.path, place);
        assert!(problem.text.contains(&format!("cannot read {}", file.display())), "{problem}");
        std::fs::write(file, text).unwrap();
    }
    let config = parse(&format!("{MINIMAL}{}", section(dir.path()))).expect("good again");
    assert_eq!(config.listen.to_string(), "127.0.0.1:8000", "the default stays");
    let local = MINIMAL.replace("https://p.test", "http://localhost:8000");
    let problems = parse(&format!("{local}{}", section(dir.path()))).expect_err("clients would speak http");
    assert_eq!((problems.len(), problems[0].path.as_str()), (1, "tls"));
}

#[track_caller]
fn only_problem(section: &str) -> mcp_auth_proxy::config::Problem {
    let problems =
        parse(&format!("{MINIMAL}{section}")).err().unwrap_or_else(|| panic!("{section} is taken"));
    let [problem] = <[_; 1]>::try_from(problems).unwrap_or_else(|problems| panic!("{problems:?}"));
    problem
}

const MINIMAL: &str = "public_url: https://p.test\ngithub: {client_id: a, client_secret: b-secret-of-github}\nallow: anyone\n\
                       resources: [{path: /mcp, upstream: http://127.0.0.1/}]\n";

/// RFC 6797 §7.2: said where TLS ends here, and never of a machine's own name.
#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_to_come_by_https_only() {
    let stage = Stage::start().await;
    over_tls(stage.proxy.address(), stage.authority.client(&[]));
    for path in ["/", "/healthz", "/mcp", "/nothing"] {
        assert_eq!(
            stage.proxy.get(path).await.header("strict-transport-security"),
            "max-age=31536000",
            "{path}"
        );
    }
    let behind = Proxy::start().await;
    assert_eq!(behind.get("/").await.header("strict-transport-security"), "", "the terminator's to say");
}

// === Others' certificates ===

/// Names the front may be asked for, by the proxy and by the test's own browser.
const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "p.test"];

// UP-01, SE-11
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_believed_only_with_a_good_certificate() {
    let (authority, dir) = (Authority::new(), TempDir::new());
    let front = Front::start(&self_signed(&NAMES)).await;
    let extra = format!("ca_file: '{}'\n", authority.file(dir.path()));
    let resources = in_front_of(&front.origin(), "");
    let proxy = Proxy::with(Setup { extra, resources, ..Setup::default() }).await;
    front.lead_to(proxy.mcp.origin().trim_start_matches("http://").parse().unwrap());
    let tokens = proxy.login().await;
    for (name, pair) in [
        ("vouched for by nobody", self_signed(&NAMES)),
        ("vouched for by a stranger", Authority::new().pair(&NAMES)),
        ("expired", authority.signed(&NAMES, expired)),
        (
            "not valid yet",
            authority.signed(&NAMES, |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1)),
        ),
        ("of another host", authority.pair(&["other.test", "127.0.0.2"])),
        (
            "of clients",
            authority.signed(&NAMES, |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ),
    ] {
        front.show(&pair);
        let before = front.counts();
        let answer = soon(proxy.ping(&tokens.access)).await.expect(502);
        assert_eq!(answer.error(), "upstream_unreachable", "{name}");
        assert!(!answer.text().to_lowercase().contains("certificate"), "{name}: {}", answer.text());
        // One attempt, TLS, given up: nothing is tried in clear.
        assert_eq!(front.counts(), (before.0 + 1, before.1), "{name}");
    }
    assert!(proxy.mcp.heard().is_empty(), "nothing was said");
    front.show(&authority.pair(&NAMES));
    proxy.ping(&tokens.access).await.expect(200);
    assert!(!proxy.mcp.last().header("x-github-token").is_empty());
}

// UP-07
#[tokio::test(flavor = "multi_thread")]
async fn calls_to_an_upstream_share_a_connection_over_tls_and_none_that_was_closed() {
    let (authority, dir) = (Authority::new(), TempDir::new());
    let front = Front::start(&authority.pair(&NAMES)).await;
    let extra = format!("ca_file: '{}'\n", authority.file(dir.path()));
    let resources = in_front_of(&front.origin(), "");
    let proxy = Proxy::with(Setup { extra, resources, ..Setup::default() }).await;
    front.lead_to(proxy.mcp.origin().trim_start_matches("http://").parse().unwrap());
    let tokens = proxy.login().await;
    for connections in 1..=3 {
        for _ in 0..5 {
            soon(proxy.ping(&tokens.access)).await.expect(200);
        }
        assert_eq!(front.counts(), (connections, connections));
        // Cuts what is open.
        front.show(&authority.pair(&NAMES));
        support::eventually(|| front.open() == 0).await;
    }
}

/// RFC 8446 §6.1: whoever cuts a connection must not be able to shorten what it carries.
// PX-S3
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_ends_with_its_connection_needs_a_farewell_over_tls() {
    let (authority, dir) = (Authority::new(), TempDir::new());
    let acceptor = TlsAcceptor::from(authority.pair(&NAMES).server());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let extra = format!("ca_file: '{}'\n", authority.file(dir.path()));
    let origin = format!("https://{}", listener.local_addr().unwrap());
    let proxy = Proxy::with(Setup { extra, resources: in_front_of(&origin, ""), ..Setup::default() }).await;
    let tokens = proxy.login().await;
    for kind in ["text/event-stream", "application/json"] {
        for says_farewell in [true, false] {
            let serve = async {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\ndata: 1\n\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                match says_farewell {
                    true => stream.shutdown().await.unwrap(),
                    // The end of the connection below is as clean as it can be.
                    false => stream.get_mut().0.shutdown().await.unwrap(),
                }
                stream
            };
            let request = proxy.call("/mcp", &tokens.access).body(Bytes::from_static(PING)).unwrap();
            let ((_, mut body), stream) =
                soon(async { tokio::join!(plain::open(proxy.address(), request), serve) }).await;
            let mut heard = Vec::new();
            let is_clean = loop {
                match soon(next(&mut body)).await {
                    Some(Ok(data)) => heard.extend_from_slice(&data),
                    end => break end.is_none(),
                }
            };
            assert_eq!(is_clean, says_farewell, "{kind}: {}", String::from_utf8_lossy(&heard));
            assert_eq!(heard, b"data: 1\n\n");
            drop(stream);
        }
    }
}

// UP-01, SE-11
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_of_old_tls_is_not_talked_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://{}", listener.local_addr().unwrap());
    let proxy = Proxy::with(Setup { resources: in_front_of(&origin, ""), ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let token = proxy.github.world().live_tokens("octocat").pop().expect("a token");
    for answer in [
        // ServerHello of TLS 1.0 and of 1.1.
        server_hello(1),
        server_hello(2),
        // protocol_version, as servers say that know no more.
        vec![21, 3, 1, 0, 2, 2, 70],
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
    ] {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; 4096];
            let read = stream.read(&mut heard).await.unwrap();
            heard.truncate(read);
            stream.write_all(&answer).await.unwrap();
            let _ = soon(stream.read_to_end(&mut heard)).await;
            heard
        };
        let (refused, heard) = tokio::join!(soon(proxy.ping(&tokens.access)), serve);
        assert_eq!(refused.expect(502).error(), "upstream_unreachable");
        assert_eq!(heard[0], 22, "a handshake");
        let heard = String::from_utf8_lossy(&heard);
        assert!(!heard.contains(&token) && !heard.contains("POST"), "{heard}");
    }
    // Nobody knocks again in another way.
    assert!(timeout(Duration::from_millis(100), listener.accept()).await.is_err());
}

/// Connecting is over when TLS is up, not before.
// UP-01
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_never_shakes_hands_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://{}", listener.local_addr().unwrap());
    let resources = in_front_of(&origin, ", connect_timeout: 1s, response_timeout: 1h");
    let proxy = Proxy::with(Setup { resources, ..Setup::default() }).await;
    let tokens = proxy.login().await;
    let silent = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        let _ = soon(stream.read_to_end(&mut heard)).await;
        heard
    };
    let (answer, heard) = tokio::join!(soon(proxy.ping(&tokens.access)), silent);
    assert_eq!(answer.expect(502).error(), "upstream_unreachable");
    assert_eq!(heard[0], 22, "a handshake and no more");
}

fn server_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([9; 32]);
    body.extend([0, 0xc0, 0x13, 0]);
    let mut record = vec![22, 3, minor, 0, body.len() as u8 + 4, 2, 0, 0, body.len() as u8];
    record.extend(body);
    record
}

// GH-01, SE-11
#[tokio::test(flavor = "multi_thread")]
async fn github_is_believed_only_with_a_good_certificate() {
    let (authority, dir) = (Authority::new(), TempDir::new());
    let good = authority.pair(&NAMES);
    let front = Arc::new(Front::start(&good).await);
    over_tls(front.address(), authority.client(&[]));
    let extra = format!("ca_file: '{}'\n", authority.file(dir.path()));
    let github = Some(front.clone());
    let proxy = Proxy::with(Setup { extra, github, ..Setup::default() }).await;
    // A login that is there before goes on, whatever becomes of GitHub's certificate.
    let earlier = proxy.login().await;
    for (name, pair) in [
        ("vouched for by nobody", Some(self_signed(&NAMES))),
        ("expired", Some(authority.signed(&NAMES, expired))),
        ("of another host", Some(authority.pair(&["p.test"]))),
        ("of old TLS", None),
    ] {
        let client_id = proxy.register(&[support::proxy::CALLBACK]).await;
        let mut browser = proxy.browser();
        let url = proxy.authorize_url(&client_id, support::proxy::CALLBACK, &[]);
        let callback = browser.reach_callback(&url).await;
        match &pair {
            Some(pair) => front.show(pair),
            None => front.say(&server_hello(1)),
        }
        let exchanged = proxy.github.world().count(support::github::Endpoint::Exchange);
        let answer = browser.get(&callback).await;
        let back = answer.header("location").to_owned();
        assert_eq!(
            support::proxy::param(&back, "error").as_deref(),
            Some("temporarily_unavailable"),
            "{name}: {answer:?}"
        );
        let now = proxy.github.world().count(support::github::Endpoint::Exchange);
        assert_eq!(now, exchanged, "{name}: nothing was sent");
        proxy.ping(&earlier.access).await.expect(200);
        front.show(&good);
        proxy.login().await;
    }
}

/// Without `ca_file` only the machine's own authorities count, and one for metadata documents does not count here.
#[tokio::test(flavor = "multi_thread")]
async fn each_list_of_authorities_counts_where_it_is_written() {
    let (authority, dir) = (Authority::new(), TempDir::new());
    let front = Front::start(&authority.pair(&NAMES)).await;
    let extra = format!("client_metadata: {{ca_file: '{}'}}\n", authority.file(dir.path()));
    let resources = in_front_of(&front.origin(), "");
    let proxy = Proxy::with(Setup { extra, resources, ..Setup::default() }).await;
    front.lead_to(proxy.mcp.origin().trim_start_matches("http://").parse().unwrap());
    let tokens = proxy.login().await;
    proxy.ping(&tokens.access).await.expect(502);
    assert!(proxy.mcp.heard().is_empty());
}
