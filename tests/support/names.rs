//! A name server for a machine of the test's own: it says what it is told, late, wrongly or not at all, and
//! remembers what it was asked. RFC 1035 §4; the little of it that a stub resolver needs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What a name comes to.
#[derive(Clone, Debug)]
pub enum Says {
    /// These addresses, with a TTL of zero.
    Addresses(Vec<IpAddr>),
    /// Another name (CNAME) and what it comes to.
    Alias(String, Vec<IpAddr>),
    /// There is no such name (NXDOMAIN).
    Missing,
    /// The name server itself is in trouble (SERVFAIL).
    Trouble,
    /// Nothing, ever.
    Silence,
    /// Bytes that are no answer.
    Garbage,
    /// Over UDP that the answer does not fit, over TCP the addresses.
    Long(Vec<IpAddr>),
    /// Another answer, after a while.
    Late(Duration, Box<Says>),
}

impl Says {
    /// Addresses, as text.
    pub fn addresses(addresses: &[&str]) -> Self {
        Says::Addresses(parse(addresses))
    }

    /// Another name and its addresses.
    pub fn alias(name: &str, addresses: &[&str]) -> Self {
        Says::Alias(name.to_owned(), parse(addresses))
    }
}

fn parse(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().expect("an address")).collect()
}

/// A running name server.
pub struct Names {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct Shared {
    /// By name, then what is said to each question for one kind of address; the last of them stays.
    zone: Mutex<BTreeMap<String, Vec<Says>>>,
    /// What every name comes to that is not in the zone.
    rest: Mutex<Option<Says>>,
    /// Names and kinds, in order.
    asked: Mutex<Vec<(String, u16)>>,
}

impl Names {
    /// Serves on port 53 of an address; knows no names yet.
    pub async fn start(address: IpAddr) -> Self {
        let address = SocketAddr::new(address, 53);
        let udp = Arc::new(UdpSocket::bind(address).await.expect("port 53 is ours"));
        let tcp = TcpListener::bind(address).await.expect("port 53 is ours");
        let shared = Arc::new(Shared::default());
        let tasks = [tokio::spawn(packets(udp, shared.clone())), tokio::spawn(streams(tcp, shared.clone()))];
        Names { shared, tasks }
    }

    /// From now on a name comes to this.
    pub fn say(&self, name: &str, says: Says) {
        self.say_in_turn(name, vec![says]);
    }

    /// One after another, for each kind of address by itself; the last stays.
    pub fn say_in_turn(&self, name: &str, says: Vec<Says>) {
        self.forget(name);
        lock(&self.shared.zone).insert(name.to_owned(), says);
    }

    /// What all other names come to.
    pub fn say_otherwise(&self, says: Says) {
        *lock(&self.shared.rest) = Some(says);
    }

    /// How often a name was asked for, of either kind.
    pub fn count(&self, name: &str) -> usize {
        lock(&self.shared.asked).iter().filter(|(asked, _)| asked == name).count()
    }

    /// Every name that was asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).iter().map(|(name, _)| name.clone()).collect()
    }

    fn forget(&self, name: &str) {
        lock(&self.shared.asked).retain(|(asked, _)| asked != name);
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn packets(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut packet = [0; 1_500];
    while let Ok((read, from)) = socket.recv_from(&mut packet).await {
        let (question, socket, shared) = (packet[..read].to_vec(), socket.clone(), shared.clone());
        tokio::spawn(async move {
            if let Some(answer) = shared.answer(&question, true).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn streams(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(over_tcp(stream, shared.clone()));
    }
}

/// RFC 1035 §4.2.2: two bytes of length first.
async fn over_tcp(mut stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    loop {
        let length = stream.read_u16().await.ok()?;
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.ok()?;
        let answer = shared.answer(&question, false).await?;
        stream.write_u16(answer.len().try_into().ok()?).await.ok()?;
        stream.write_all(&answer).await.ok()?;
    }
}

impl Shared {
    async fn answer(&self, question: &[u8], over_udp: bool) -> Option<Vec<u8>> {
        let (name, kind, end) = read(question)?;
        let mut says = self.says(&name, kind);
        while let Says::Late(wait, then) = says {
            sleep(wait).await;
            says = *then;
        }
        let reply = |code, truncated, records| reply(&question[..end], code, truncated, records);
        Some(match says {
            Says::Addresses(addresses) => reply(0, false, records(None, &addresses, kind)),
            Says::Alias(target, addresses) => reply(0, false, records(Some(&target), &addresses, kind)),
            Says::Long(_) if over_udp => reply(0, true, Vec::new()),
            Says::Long(addresses) => reply(0, false, records(None, &addresses, kind)),
            Says::Missing => reply(3, false, Vec::new()),
            Says::Trouble => reply(2, false, Vec::new()),
            // The right id and question, and records that point at themselves.
            Says::Garbage => reply(0, false, vec![[0xc0, 0x0c, 0xff].repeat(40); 3]),
            Says::Silence | Says::Late(..) => return None,
        })
    }

    fn says(&self, name: &str, kind: u16) -> Says {
        let turn = {
            let mut asked = lock(&self.asked);
            asked.push((name.to_owned(), kind));
            asked.iter().filter(|(of, as_kind)| of == name && *as_kind == kind).count() - 1
        };
        let zone = lock(&self.zone);
        let says = zone.get(name).and_then(|says| says.get(turn).or(says.last())).cloned();
        says.or_else(|| lock(&self.rest).clone()).unwrap_or(Says::Missing)
    }
}

/// The name (lower case, without the last dot), the kind, and where the question ends.
fn read(packet: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at + 1..at + 1 + length)?).to_ascii_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes(packet.get(at + 1..at + 3)?.try_into().ok()?);
    Some((labels.join("."), kind, at + 5))
}

/// The records for one kind of address, each whole.
fn records(alias: Option<&str>, addresses: &[IpAddr], kind: u16) -> Vec<Vec<u8>> {
    let record = |owner: &[u8], kind: u16, data: &[u8]| {
        let length = u16::try_from(data.len()).expect("short").to_be_bytes();
        [owner, &kind.to_be_bytes()[..], &[0, 1, 0, 0, 0, 0], &length, data].concat()
    };
    // A pointer to the name in the question.
    let asked = [0xc0, 0x0c];
    let target = alias.map(spelt);
    let owner = target.as_deref().unwrap_or(&asked);
    let mut all: Vec<Vec<u8>> = target.iter().map(|target| record(&asked, CNAME, target)).collect();
    all.extend(addresses.iter().filter_map(|address| match address {
        IpAddr::V4(v4) => (kind == A).then(|| record(owner, A, &v4.octets())),
        IpAddr::V6(v6) => (kind == AAAA).then(|| record(owner, AAAA, &v6.octets())),
    }));
    all
}

fn spelt(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name
        .split('.')
        .flat_map(|label| [&[u8::try_from(label.len()).expect("short")], label.as_bytes()].concat())
        .collect();
    bytes.push(0);
    bytes
}

/// A header that repeats the question's id, the question, the records.
fn reply(question: &[u8], code: u8, truncated: bool, records: Vec<Vec<u8>>) -> Vec<u8> {
    let flags = [0x81 | if truncated { 2 } else { 0 }, 0x80 | code];
    let count = u16::try_from(records.len()).expect("few").to_be_bytes();
    [&question[..2], &flags, &[0, 1], &count, &[0; 4], &question[12..], &records.concat()].concat()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
