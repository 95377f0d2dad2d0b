//! Certificates of every kind, a client that speaks TLS, and a front that lends TLS to a server without.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A certificate authority of our own; clones are the same.
#[derive(Clone)]
pub struct Authority {
    issuer: Arc<Issuer<'static, KeyPair>>,
    pem: String,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signs").pem();
        Authority { issuer: Arc::new(Issuer::new(params, key)), pem }
    }

    /// A good certificate for these names.
    pub fn pair(&self, names: &[&str]) -> Pair {
        self.signed(names, |_| ())
    }

    /// A certificate that differs in some way.
    pub fn signed(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().expect("a key");
        Pair { cert: self.certificate(names, &key, change), key: key.serialize_pem() }
    }

    /// A certificate for a key that is there already.
    pub fn for_key(&self, names: &[&str], key: &str) -> String {
        self.certificate(names, &KeyPair::from_pem(key).expect("a key"), |_| ())
    }

    fn certificate(
        &self,
        names: &[&str],
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        params.signed_by(key, &*self.issuer).expect("signs").pem()
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes its certificate into a folder; returns the file.
    pub fn file(&self, folder: &Path) -> String {
        let file = folder.join("authority.pem");
        std::fs::write(&file, &self.pem).expect("writes");
        file.display().to_string()
    }

    /// Settings of a client that believes it alone.
    pub fn client(&self, alpn: &[&str]) -> ClientConfig {
        self.client_with(rustls::DEFAULT_VERSIONS, alpn)
    }

    /// The same for chosen versions of TLS.
    pub fn client_with(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&str],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("a root");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

/// A certificate that only its own key vouches for.
pub fn self_signed(names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().expect("a key");
    let cert = CertificateParams::new(names).expect("names").self_signed(&key).expect("signs");
    Pair { cert: cert.pem(), key: key.serialize_pem() }
}

/// Dates in the past.
pub fn expired(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 3, 31);
}

impl Pair {
    /// Writes both files into a folder, as an operator would.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("cert.pem"), &self.cert).expect("writes");
        write_key(&folder.join("key.pem"), &self.key);
    }

    /// The certificate as the other side of a handshake sees it.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("PEM")
    }

    /// Settings of a server that shows it.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM");
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![self.der()], key);
        Arc::new(config.expect("key and certificate fit"))
    }
}

/// The `tls:` section for the files of [`Pair::write`].
pub fn section(folder: &Path) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    format!("tls: {{cert: '{}', key: '{}'}}\n", file("cert.pem"), file("key.pem"))
}

/// For its owner only.
pub fn write_key(file: &Path, key: &str) {
    std::fs::write(file, key).expect("writes");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).expect("changes");
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Speaks TLS to the world and passes everything on in clear.
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    shown: watch::Sender<Arc<ServerConfig>>,
    server: Mutex<Option<SocketAddr>>,
    /// Said instead of a handshake.
    rude: Mutex<Option<Vec<u8>>>,
    connections: AtomicUsize,
    handshakes: AtomicUsize,
    open: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Front {
    /// Shows a pair, in front of nothing yet.
    pub async fn start(pair: &Pair) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            shown: watch::Sender::new(pair.server()),
            server: Mutex::default(),
            rude: Mutex::default(),
            connections: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            failures: Mutex::default(),
        });
        let ours = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                ours.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass(stream, ours.clone()));
            }
        });
        Front { address, shared, task }
    }

    /// Passes on to this server.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.shared.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }

    /// `https://127.0.0.1:port`
    pub fn origin(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, show this; connections that were shown another are cut.
    pub fn show(&self, pair: &Pair) {
        *self.shared.rude.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.shown.send_replace(pair.server());
    }

    /// From now on, answer hellos with these bytes; connections that are open are cut.
    pub fn say(&self, bytes: &[u8]) {
        *self.shared.rude.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.to_vec());
        self.shared.shown.send_modify(|_| ());
    }

    /// How many connections there were, and on how many TLS came up.
    pub fn counts(&self) -> (usize, usize) {
        let count = |number: &AtomicUsize| number.load(Ordering::SeqCst);
        (count(&self.shared.connections), count(&self.shared.handshakes))
    }

    /// How many are passed on now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// What clients said of the certificate before they left.
    pub fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut stream: TcpStream, shared: Arc<Shared>) {
    let rude = shared.rude.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(bytes) = rude {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(&bytes).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
        return;
    }
    let mut shows = shared.shown.subscribe();
    let shown = shows.borrow_and_update().clone();
    let mut outside = match TlsAcceptor::from(shown).accept(stream).await {
        Ok(outside) => outside,
        Err(error) => {
            shared.failures.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
            return;
        }
    };
    shared.handshakes.fetch_add(1, Ordering::SeqCst);
    let server = *shared.server.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(server) = server else { return };
    let Ok(mut inside) = TcpStream::connect(server).await else { return };
    shared.open.fetch_add(1, Ordering::SeqCst);
    tokio::select! {
        _ = copy_bidirectional(&mut outside, &mut inside) => {}
        _ = shows.changed() => {}
    }
    drop((outside, inside));
    shared.open.fetch_sub(1, Ordering::SeqCst);
}
