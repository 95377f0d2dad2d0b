//! Client ID Metadata Documents from outside: a machine on which all addresses are ours, its name server, https hosts,
//! and strangers who choose what is fetched.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use tokio::time::Instant;

use crate::alone::{Dead, Everywhere, alone, alone_with, names};
use crate::rig::Rig;
use crate::support::documents::{Documents, Speech, whole};
use crate::support::http::Answer;
use crate::support::names::{Names, Says};
use crate::support::proxy::{CALLBACK, PUBLIC, Proxy, Setup};
use crate::support::tls::{Authority, expired, self_signed};
use crate::support::{TempDir, all};

/// A program with the documents' authority, the machine's name server, and one good host.
struct Stage {
    rig: Rig,
    names: Names,
    authority: Authority,
    /// `https://good.example/client.json`, at a public address.
    good: Documents,
    _dir: TempDir,
}

impl Stage {
    async fn start() -> Self {
        Self::with("").await
    }

    /// Behind a front, so that every asker can have an address of his own.
    async fn trusting() -> Self {
        Self::with("\ntrusted_proxies: ['127.0.0.1/32']").await
    }

    /// With further keys.
    async fn with(more: &str) -> Self {
        let (names, authority, dir) = (names().await, Authority::new(), TempDir::new());
        let pair = authority.pair(&["good.example"]);
        let good = Documents::at(address(GOOD), "good.example", authority.clone(), &pair).await;
        good.publish(PATH, &good.document(PATH, &["http://127.0.0.1/callback"]));
        names.say("good.example", Says::addresses(&[GOOD]));
        let ca = good.ca_file(dir.path());
        let extra = format!("client_metadata: {{ca_file: '{}'}}{more}", ca.display());
        let rig = Rig::with(Setup { extra, ..Setup::default() }).await;
        Stage { rig, names, authority, good, _dir: dir }
    }

    /// Another host, with a good certificate and a good document at `PATH`.
    async fn host(&self, name: &str, at: &str) -> Documents {
        let pair = self.authority.pair(&[name]);
        let host = Documents::at(address(at), name, self.authority.clone(), &pair).await;
        host.publish(PATH, &host.document(PATH, &["http://127.0.0.1/callback"]));
        self.names.say(name, Says::addresses(&[at]));
        host
    }

    async fn ask(&self, id: &str) -> Answer {
        ask(&self.rig.proxy, id).await
    }

    async fn is_refused(&self, id: &str, why: &str) {
        let answer = self.ask(id).await;
        refused(&answer, why, id);
    }
}

/// Opens the authorization URL of a client with this id.
async fn ask(proxy: &Proxy, id: &str) -> Answer {
    from(proxy, "", id).await
}

/// The same as somebody whose address the front in front of the proxy tells.
async fn from(proxy: &Proxy, asker: &str, id: &str) -> Answer {
    let url = proxy.authorize_url(id, CALLBACK, &[]);
    let request = proxy.request(Method::GET, url.strip_prefix(PUBLIC).expect("ours"));
    let request = request.header(header::ACCEPT, "text/html").header("x-forwarded-for", asker);
    proxy.send(request.body(Bytes::new()).expect("a request")).await
}

/// A page that says why; nobody is redirected.
#[track_caller]
fn refused(answer: &Answer, why: &str, case: &str) {
    assert_eq!(answer.status, 400, "{case}: {}", answer.text());
    assert_eq!(answer.header("location"), "", "{case}");
    assert!(answer.text().contains(why), "{case}: not {why:?}: {}", answer.text());
}

fn address(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 443)
}

const JSON: (&str, &str) = ("content-type", "application/json");
/// Five seconds, and what a busy machine adds.
const WITHIN: Duration = Duration::from_millis(5_900);
const PATH: &str = "/client.json";
/// Public by its number; on this machine it is ours.
const GOOD: &str = "93.184.215.14";
const OTHER: &str = "93.184.215.15";
/// Fetches from one host at a time, whoever asks.
const AT_ONE_HOST: usize = 24;
const TOO_SLOW: &str = "no answer within five seconds";
const UNREACHABLE: &str = "cannot be reached safely";

// CI-01
#[test]
fn what_is_no_client_id_asks_no_name_server() {
    alone(async || {
        let stage = Stage::start().await;
        let everywhere = Everywhere::on(&[443, 80, 8_443, 22, 25]).await;
        let long = "x".repeat(8 << 10);
        for id in [
            "http://good.example/client.json",
            "https://good.example",
            "https://good.example/",
            "https://good.example/client.json#f",
            "https://user@good.example/client.json",
            "https://a:b@good.example/client.json",
            "https://good.example/a/../client.json",
            "https://good.example/%2e%2e/client.json",
            "HTTPS://good.example/client.json",
            "https://GOOD.example/client.json",
            "https://good.example./client.json",
            "https:good.example/client.json",
            "https:/good.example/client.json",
            "https:\\\\good.example\\client.json",
            "https://good.example:443/client.json",
            "https://good.example:8443/client.json",
            "https://good.example:22/client.json",
            "https://good.example:25/client.json",
            "https://good.example:0/client.json",
            "https://good.exam\tple/client.json",
            "https://good.example%00.evil.example/client.json",
            &format!("https://good.example/{long}"),
            // Names that mean something here and nothing elsewhere.
            "https://intranet/client.json",
            "https://localhost/client.json",
            "https://a.localhost/client.json",
            "https://printer.local/client.json",
            "https://metadata.google.internal/client.json",
            "https://router.home.arpa/client.json",
        ] {
            assert_eq!(stage.ask(id).await.status, 400, "{}", &id[..id.len().min(80)]);
        }
        let asked = stage.names.asked();
        assert!(asked.iter().all(|name| name == "localhost"), "{asked:?}");
        assert_eq!(everywhere.met(), []);
        stage.ask(&stage.good.url(PATH)).await.expect(200);
        assert_eq!(stage.names.count("good.example"), 2, "both kinds of address");
        stage.rig.verify().await;
    });
}

// CI-02
#[test]
fn no_connection_leaves_for_an_address_inside() {
    alone(async || {
        let stage = Stage::start().await;
        let everywhere = Everywhere::on(&[443]).await;
        for host in [
            "127.0.0.1",
            "127.1",
            "127.255.255.254",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "0.0.0.0",
            "0",
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::127.0.0.1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::7f00:1]",
            "[100::1]",
            "[2001::1]",
            "[2001:db8::1]",
            "[2002:7f00:1::]",
            "[3fff::1]",
            "[5f00::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "127。0。0。1",
            "①②⑦.0.0.1",
            "127.0.0.1.",
        ] {
            let answer = stage.ask(&format!("https://{host}{PATH}")).await;
            assert_eq!(answer.status, 400, "{host}: {}", answer.text());
        }
        assert_eq!(everywhere.met(), []);
        let asked = stage.names.asked();
        assert!(asked.iter().all(|name| name == "localhost"), "{asked:?}");
        // The trap works: a public address is connected to, and is no https host here.
        let answer = stage.ask("https://93.184.215.77/client.json").await;
        assert_eq!(answer.status, 400);
        assert_eq!(everywhere.met(), [address("93.184.215.77")]);
        stage.rig.verify().await;
    });
}

// CI-03
#[test]
fn names_of_addresses_inside_are_not_connected_to() {
    alone(async || {
        let stage = Stage::start().await;
        let everywhere = Everywhere::on(&[443]).await;
        let id = |name: &str| format!("https://{name}{PATH}");
        for (number, inside) in [
            "127.0.0.1",
            "10.0.0.5",
            "172.20.0.5",
            "192.168.1.5",
            "169.254.169.254",
            "100.64.0.5",
            "0.0.0.0",
            "192.0.2.5",
            "198.18.0.5",
            "240.0.0.5",
            "::1",
            "::",
            "fd00::5",
            "fe80::5",
            "::ffff:10.0.0.5",
            "64:ff9b::a00:5",
            "2002:a00:5::",
            "2001:db8::5",
        ]
        .into_iter()
        .enumerate()
        {
            let (direct, alias) = (format!("inside{number}.example"), format!("alias{number}.example"));
            stage.names.say(&direct, Says::addresses(&[inside]));
            stage.names.say(&alias, Says::alias("db.corp.internal", &[inside]));
            for name in [direct, alias] {
                refused(&stage.ask(&id(&name)).await, UNREACHABLE, inside);
            }
        }
        assert_eq!(everywhere.met(), []);
        // Among public addresses only these are used; when they are dead, still only these.
        let mixed = stage.host("mixed.example", OTHER).await;
        for addresses in [["10.0.0.5", OTHER], [OTHER, "10.0.0.5"], ["fd00::5", OTHER], [OTHER, "127.0.0.1"]]
        {
            stage.names.say("mixed.example", Says::addresses(&addresses));
            let text = mixed.document(PATH, &["http://127.0.0.1/callback"]).to_string();
            mixed.say(PATH, move || whole(200, &[JSON, ("cache-control", "no-store")], text.clone()));
            stage.ask(&mixed.url(PATH)).await.expect(200);
        }
        assert_eq!(everywhere.met(), []);
        stage.names.say("mixed.example", Says::addresses(&["10.0.0.5", "93.184.215.77", "::1"]));
        refused(&stage.ask(&mixed.url(PATH)).await, TOO_SLOW, "public and mute");
        assert_eq!(everywhere.met(), [address("93.184.215.77")]);
        stage.rig.verify().await;
    });
}

// CI-03
#[test]
fn names_that_only_this_machine_knows_are_nobodys() {
    alone(async || {
        let stage = Stage::start().await;
        let everywhere = Everywhere::on(&[443]).await;
        // From the search domain of /etc/resolv.conf, and from /etc/hosts: both public addresses.
        stage.names.say("payments.svc.corp.internal", Says::addresses(&[OTHER]));
        for name in ["payments.svc", "filed.example"] {
            refused(&stage.ask(&format!("https://{name}{PATH}")).await, UNREACHABLE, name);
            assert!(stage.names.count(name) > 0, "{name} was looked up as it is");
        }
        assert_eq!(stage.names.count("payments.svc.corp.internal"), 0);
        assert_eq!(everywhere.met(), []);
        stage.rig.verify().await;
    });
}

// CI-05
#[test]
fn a_second_answer_of_the_name_server_changes_nothing() {
    alone(async || {
        let stage = Stage::start().await;
        let everywhere = Everywhere::on(&[443]).await;
        let rebound = stage.host("rebound.example", OTHER).await;
        let text = rebound.document(PATH, &["http://127.0.0.1/callback"]).to_string();
        rebound.say(PATH, move || whole(200, &[JSON, ("cache-control", "no-store")], text.clone()));
        let (public, inside) = (Says::addresses(&[OTHER]), Says::addresses(&["127.0.0.1"]));
        stage.names.say_in_turn("rebound.example", vec![public.clone(), inside.clone()]);
        stage.ask(&rebound.url(PATH)).await.expect(200);
        assert_eq!(stage.names.count("rebound.example"), 2, "one look-up, for both kinds of address");
        refused(&stage.ask(&rebound.url(PATH)).await, UNREACHABLE, "the next time");
        // The same with a first connection that fails: no second look-up to try again with.
        stage.names.say_in_turn("dead.example", vec![Says::addresses(&["93.184.215.77"]), inside]);
        refused(&stage.ask(&format!("https://dead.example{PATH}")).await, TOO_SLOW, "mute");
        assert_eq!(stage.names.count("dead.example"), 2);
        assert_eq!(everywhere.met(), [address("93.184.215.77")]);
        stage.rig.verify().await;
    });
}

// CI-06
#[test]
fn no_redirect_is_followed_anywhere() {
    alone(async || {
        let stage = Stage::start().await;
        let everywhere = Everywhere::on(&[443, 80]).await;
        let other = stage.host("other.example", OTHER).await;
        let text = stage.good.document("/moved.json", &["http://127.0.0.1/callback"]).to_string();
        for status in [301, 302, 303, 307, 308] {
            for to in [
                stage.good.url(PATH),
                other.url(PATH),
                "https://169.254.169.254/latest/meta-data/".to_owned(),
                "http://10.0.0.5/".to_owned(),
                "//other.example/client.json".to_owned(),
                "client.json".to_owned(),
            ] {
                let (text, location) = (text.clone(), to.clone());
                stage.good.say("/moved.json", move || {
                    let headers = [JSON, ("location", &*location), ("refresh", "0;url=/client.json")];
                    whole(status, &headers, text.clone())
                });
                refused(&stage.ask(&stage.good.url("/moved.json")).await, "not 200", &to);
            }
        }
        assert!(stage.good.paths().iter().all(|path| path == "/moved.json"), "{:?}", stage.good.paths());
        assert_eq!((other.connections(), stage.names.count("other.example")), (0, 0));
        assert_eq!(everywhere.met(), []);
        stage.rig.verify().await;
    });
}

// CI-07, CI-08
#[test]
fn a_host_cannot_make_us_keep_what_it_sends() {
    alone(async || {
        let stage = Stage::start().await;
        let host = stage.host("rude.example", OTHER).await;
        let good = host.document(PATH, &["http://127.0.0.1/callback"]).to_string();
        let head =
            |more: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}\r\n\r\n");
        let said = |head: String, body: &[u8]| Speech {
            bytes: [head.as_bytes(), body].concat(),
            ..Speech::default()
        };
        let endless = |bytes: String, again: &[u8]| Speech {
            bytes: bytes.into_bytes(),
            endless: again.to_vec(),
            ..Speech::default()
        };
        let padded = |length: usize| {
            let mut text = good.clone();
            text.insert_str(1, &" ".repeat(length - good.len()));
            text.into_bytes()
        };
        let sized = |body: &[u8]| format!("content-length: {}", body.len());
        let (limit, over) = (padded(5 << 10), padded((5 << 10) + 1));
        let encoded = |name: &str, body: &[u8]| {
            said(head(&format!("content-encoding: {name}\r\n{}", sized(body))), body)
        };
        let bombs = [("gzip", gzip_bomb()), ("zstd", zstd_bomb())];
        let mut cases = vec![
            ("limit and one", said(head(&sized(&over)), &over)),
            ("limit and one, to the end of the connection", said(head("connection: close"), &over)),
            ("more than announced", said(head("content-length: 20"), good.as_bytes())),
            ("less than announced", said(head("content-length: 4000"), good.as_bytes())),
            (
                "two lengths",
                said(head(&format!("content-length: 10\r\n{}", sized(good.as_bytes()))), good.as_bytes()),
            ),
            (
                "a length and chunks",
                said(head("content-length: 10\r\ntransfer-encoding: chunked"), b"5\r\n{\"a\":\r\n"),
            ),
            ("a negative length", said(head("content-length: -1"), good.as_bytes())),
            (
                "a length beyond all numbers",
                said(head("content-length: 99999999999999999999999"), good.as_bytes()),
            ),
            ("a terabyte", endless(head("content-length: 1099511627776"), &[b' '; 1 << 14])),
            ("no end", endless(head("connection: close"), &[b' '; 1 << 14])),
            (
                "chunks without end",
                endless(
                    head("transfer-encoding: chunked"),
                    &[&b"400\r\n"[..], &[b' '; 1_024], b"\r\n"].concat(),
                ),
            ),
            ("tiny chunks without end", endless(head("transfer-encoding: chunked"), b"1\r\n \r\n")),
            (
                "chunk extensions without end",
                endless(head("transfer-encoding: chunked") + "1;", &[b'a'; 1 << 14]),
            ),
            ("trailers without end", endless(head("transfer-encoding: chunked") + "0\r\n", b"a: b\r\n")),
            ("a head without end", endless("HTTP/1.1 200 OK\r\n".into(), b"a: b\r\n")),
            ("a header without end", endless("HTTP/1.1 200 OK\r\na: ".into(), &[b'a'; 1 << 14])),
            ("interim answers without end", endless(String::new(), b"HTTP/1.1 103 Early Hints\r\n\r\n")),
            ("a status line without end", endless("HTTP/1.1 200 ".into(), &[b'O'; 1 << 14])),
            ("no HTTP", said(String::new(), b"220 mail.example ESMTP\r\n")),
            ("HTTP/2", said(String::new(), b"\0\0\0\x04\0\0\0\0\0")),
            (
                "an upgrade",
                said(
                    "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".into(),
                    b"",
                ),
            ),
            ("nothing", Speech::default()),
        ];
        for (name, bomb) in &bombs {
            cases.push((name, encoded(name, bomb)));
            cases.push(("an upper-case bomb", encoded(&name.to_uppercase(), bomb)));
            cases.push(("a bomb in a bomb", encoded(&format!("{name}, {name}"), bomb)));
            cases.push(("a bomb without a name", said(head(&sized(bomb)), bomb)));
        }
        for name in ["br", "deflate", "x-gzip", "compress", "identity"] {
            cases.push((name, encoded(name, good.as_bytes())));
        }
        let id = host.url(PATH);
        let before = stage.rig.vitals().peak_kib;
        for (case, speech) in cases {
            host.speak(speech);
            let begun = Instant::now();
            let answer = stage.ask(&id).await;
            refused(&answer, "metadata document", case);
            assert!(begun.elapsed() < WITHIN, "{case}: {:?}", begun.elapsed());
        }
        let grown = stage.rig.vitals().peak_kib - before;
        assert!(grown < 8 << 10, "{grown} KiB at the most");
        // The limit itself is not over it.
        host.speak(said(head(&sized(&limit)), &limit));
        stage.ask(&id).await.expect(200);
        stage.rig.verify().await;
    });
}

/// One last dynamic block is not needed: fixed codes, a zero, then (258 bytes, one back) 13 bits each.
fn gzip_bomb() -> Vec<u8> {
    let mut bits: Vec<bool> = vec![true, true, false];
    bits.extend([false, false, true, true, false, false, false, false]);
    for _ in 0..3_000 {
        bits.extend([true, true, false, false, false, true, false, true, false, false, false, false, false]);
    }
    let deflated =
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (n, bit)| sum | u8::from(*bit) << n));
    [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255].into_iter().chain(deflated).collect()
}

/// RFC 8878: a frame of 1 GiB announced, in blocks that repeat one byte 128 KiB times in four bytes each.
fn zstd_bomb() -> Vec<u8> {
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x98];
    for _ in 0..1_200 {
        let header = 0b010 | (128_u32 << 10) << 3;
        bomb.extend([&header.to_le_bytes()[..3], b" "].concat());
    }
    bomb
}

// CI-09
#[test]
fn slow_hosts_and_name_servers_get_five_seconds_altogether() {
    alone(async || {
        let stage = Stage::trusting().await;
        let _everywhere = Everywhere::on(&[443]).await;
        let _dead = Dead::at(address("93.184.215.80")).await;
        let slow = stage.host("slow.example", OTHER).await;
        let document = slow.document(PATH, &["http://127.0.0.1/callback"]).to_string();
        let text = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{document}");
        slow.speak(Speech { bytes: text.into(), pause: Duration::from_secs(1), ..Speech::default() });
        let silent = stage.host("silent.example", "93.184.215.16").await;
        silent.speak(Speech { stay: true, ..Speech::default() });
        let late = |says| Says::Late(Duration::from_secs(3), Box::new(says));
        for (name, says) in [
            ("unanswered.example", Says::Silence),
            ("garbage.example", Says::Garbage),
            ("trouble.example", Says::Trouble),
            ("missing.example", Says::Missing),
            ("no-syn-ack.example", Says::addresses(&["93.184.215.80"])),
            ("no-tls.example", Says::addresses(&["93.184.215.81"])),
            ("all-slow.example", late(Says::addresses(&["93.184.215.81"]))),
        ] {
            stage.names.say(name, says);
        }
        let hosts = [
            "slow.example",
            "silent.example",
            "unanswered.example",
            "garbage.example",
            "trouble.example",
            "missing.example",
            "no-syn-ack.example",
            "no-tls.example",
            "all-slow.example",
        ];
        let stage_ref = &stage;
        let asked = hosts.iter().zip(1..).map(|(host, asker)| async move {
            let begun = Instant::now();
            let asker = format!("198.51.100.{asker}");
            let answer = from(&stage_ref.rig.proxy, &asker, &format!("https://{host}{PATH}")).await;
            (host, answer, begun.elapsed())
        });
        for (host, answer, took) in all(asked).await {
            refused(&answer, "could not be fetched", host);
            assert!(took < WITHIN, "{host}: {took:?}");
        }
        // Late, but in time; and too long for a packet.
        stage.names.say("good.example", late(Says::addresses(&[GOOD])));
        stage.ask(&stage.good.url(PATH)).await.expect(200);
        let long = stage.host("long.example", "93.184.215.17").await;
        stage.names.say("long.example", Says::Long(vec!["93.184.215.17".parse().expect("an address")]));
        stage.ask(&long.url(PATH)).await.expect(200);
        stage.rig.verify().await;
    });
}

// CI-09
#[test]
fn a_crowd_of_slow_fetches_leaves_everybody_else_alone() {
    alone(async || {
        let mut stage = Stage::trusting().await;
        let _everywhere = Everywhere::on(&[443]).await;
        stage.names.say_otherwise(Says::Silence);
        for number in 0..100 {
            stage.names.say(&format!("tls{number}.example"), Says::addresses(&["93.184.215.81"]));
        }
        stage.rig.expect_statuses(&[503]);
        let proxy = &stage.rig.proxy;
        let crowd = (0..200).map(|number| {
            let kind = if number < 100 { "tls" } else { "dns" };
            let id = format!("https://{kind}{}.example{PATH}", number % 100);
            async move {
                let begun = Instant::now();
                let answer = from(proxy, &format!("198.51.100.{number}"), &id).await;
                (answer, begun.elapsed())
            }
        });
        let others = async {
            let begun = Instant::now();
            let tokens = proxy.login().await;
            for _ in 0..20 {
                proxy.ping(&tokens.access).await.expect(200);
            }
            proxy.get("/.well-known/oauth-authorization-server").await.expect(200);
            begun.elapsed()
        };
        let (answers, others) = tokio::join!(all(crowd), others);
        assert!(others < Duration::from_secs(3), "{others:?}");
        for (answer, took) in answers {
            assert!([400, 503].contains(&answer.status), "{}", answer.text());
            assert!(took < WITHIN, "{took:?}");
        }
        stage.rig.verify().await;
    });
}

// CI-09, CI-15
#[test]
fn one_askers_slow_names_leave_places_for_other_peoples_clients() {
    alone(async || {
        let stage = Stage::trusting().await;
        stage.names.say_otherwise(Says::Silence);
        let proxy = &stage.rig.proxy;
        let ask_at = |number: usize| async move {
            from(proxy, "198.51.100.1", &format!("https://slow{number}.example{PATH}")).await
        };
        let attack = async {
            let mut statuses: Vec<u16> =
                all((0..60).map(ask_at)).await.iter().map(|answer| answer.status).collect();
            statuses.sort_unstable();
            statuses
        };
        let honest = async {
            // Not before the attacker has all he can get.
            while stage.names.asked().iter().filter(|name| name.starts_with("slow")).count() < 8 {
                tokio::task::yield_now().await;
            }
            let begun = Instant::now();
            from(proxy, "198.51.100.2", &stage.good.url(PATH)).await.expect(200);
            begun.elapsed()
        };
        let (statuses, honest) = tokio::join!(attack, honest);
        assert!(honest < Duration::from_secs(2), "{honest:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 400).count(), 8, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 52, "{statuses:?}");
        // A look-up that nobody waits for still counts, or its threads would add up.
        let answer = ask_at(60).await;
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert_eq!(answer.header("retry-after"), "5");
        assert!(answer.text().contains("Reload this page in 5 s"), "{}", answer.text());
        // What was fetched before needs no place at all.
        from(proxy, "198.51.100.1", &stage.good.url(PATH)).await.expect(200);
        stage.rig.verify().await;
    });
}

// CI-15
#[test]
fn a_victim_host_is_asked_little_and_once_for_each_url() {
    alone(async || {
        let mut stage = Stage::trusting().await;
        let proxy = &stage.rig.proxy;
        let victim = stage.host("victim.example", OTHER).await;
        victim.hold();
        let stranger = |number: usize| format!("198.51.{}.{}", number / 200, number % 200);
        for round in 1..=5 {
            let path = format!("/{round}.json");
            victim.publish(&path, &victim.document(&path, &["http://127.0.0.1/callback"]));
            let everybody = (0..100).map(|number| {
                let (from_whom, id) = (stranger(number), victim.url(&path));
                async move { from(proxy, &from_whom, &id).await.status }
            });
            let release = async {
                victim.heard(round).await;
                victim.release();
            };
            let (statuses, ()) = tokio::join!(all(everybody), release);
            assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
            assert_eq!((victim.count(&path), victim.connections()), (1, round));
            victim.hold();
        }
        for round in 0..10 {
            let (begun, answered) = (victim.connections(), AtomicUsize::new(0));
            let answered = &answered;
            let crowd = (0..200).map(|number| {
                let (from_whom, id) = (stranger(number), victim.url(&format!("/{round}/{number}")));
                async move {
                    let status = from(proxy, &from_whom, &id).await.status;
                    answered.fetch_add(1, Ordering::SeqCst);
                    status
                }
            });
            // Held until all have their answer who are not asked for.
            let release = async {
                while answered.load(Ordering::SeqCst) < 200 - AT_ONE_HOST {
                    tokio::task::yield_now().await;
                }
                assert_eq!(victim.connections() - begun, AT_ONE_HOST);
                victim.release();
            };
            let (statuses, ()) = tokio::join!(all(crowd), release);
            assert_eq!(statuses.iter().filter(|status| **status == 400).count(), AT_ONE_HOST, "{statuses:?}");
            assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 200 - AT_ONE_HOST);
            victim.hold();
        }
        victim.release();
        stage.rig.expect_statuses(&[503]);
        stage.rig.verify().await;
    });
}

// CI-10, CI-11
#[test]
fn errors_are_never_kept_and_good_documents_as_long_as_they_say() {
    alone(async || {
        let stage = Stage::start().await;
        let (good, id) = (&stage.good, stage.good.url(PATH));
        let text = good.document(PATH, &["http://127.0.0.1/callback"]).to_string();
        let fresh = move || whole(200, &[JSON, ("cache-control", "max-age=1")], text.clone());
        good.say(PATH, fresh.clone());
        stage.ask(&id).await.expect(200);
        good.say(PATH, || whole(500, &[JSON], "{}"));
        stage.ask(&id).await.expect(200);
        assert_eq!(good.count(PATH), 1, "kept");
        let deadline = Instant::now() + Duration::from_secs(10);
        while stage.ask(&id).await.status == 200 {
            assert!(Instant::now() < deadline, "kept for longer than it said");
        }
        let failed = good.count(PATH);
        stage.is_refused(&id, "not 200").await;
        assert_eq!(good.count(PATH), failed + 1, "an error is not kept");
        good.say(PATH, fresh);
        stage.ask(&id).await.expect(200);
        stage.rig.verify().await;
    });
}

// CI-16
#[test]
fn a_host_must_prove_its_name_and_hears_nothing_otherwise() {
    alone(async || {
        let stage = Stage::start().await;
        stage.ask(&stage.good.url(PATH)).await.expect(200);
        assert_eq!(stage.good.names(), ["good.example"]);
        let heard = stage.good.last();
        let mut headers: Vec<&str> = heard.keys().map(header::HeaderName::as_str).collect();
        headers.sort_unstable();
        assert_eq!(headers, ["accept", "host", "user-agent"]);
        let authority = &stage.authority;
        for (number, pair) in [
            authority.signed(&["bad.example"], expired),
            self_signed(&["bad.example"]),
            Authority::new().pair(&["bad.example"]),
            authority.pair(&["other.example"]),
            authority.pair(&["*.bad.example"]),
            authority.pair(&["93.184.215.35"]),
        ]
        .iter()
        .enumerate()
        {
            let at = format!("93.184.215.{}", 30 + number);
            let host = Documents::at(address(&at), "bad.example", authority.clone(), pair).await;
            host.publish(PATH, &host.document(PATH, &["http://127.0.0.1/callback"]));
            stage.names.say("bad.example", Says::addresses(&[&at]));
            stage.is_refused(&host.url(PATH), UNREACHABLE).await;
            assert_eq!((host.connections(), host.paths().len()), (1, 0), "{number}: TLS ends it");
        }
        stage.rig.verify().await;
    });
}

// CI-17
#[test]
fn no_client_lives_on_the_proxy_or_behind_it() {
    alone(async || {
        let stage = Stage::start().await;
        let everywhere = Everywhere::on(&[443, 8_443, 9_090]).await;
        // The public name leads here, the upstream's to the network inside.
        stage.names.say("p.test", Says::addresses(&["93.184.215.40"]));
        stage.names.say("mcp.corp.example", Says::addresses(&["10.20.0.5"]));
        let inner = stage.rig.proxy.authorize_url("https://p.test/authorize", CALLBACK, &[]);
        for id in [
            "https://p.test/client.json",
            "https://p.test/authorize",
            "https://p.test:8443/client.json",
            "https://p.test:9090/metrics",
            "https://P.test/client.json",
            "https://p.test./client.json",
            "https://mcp.corp.example/mcp",
            &inner,
        ] {
            assert_eq!(stage.ask(id).await.status, 400, "{id}");
        }
        assert_eq!(everywhere.met(), []);
        assert_eq!(stage.names.count("p.test"), 0);
        stage.rig.verify().await;
    });
}

// CI-02
#[test]
fn a_forward_proxy_of_the_environment_is_not_asked_for_documents() {
    let proxy = "http://10.30.0.1:3128";
    let environment = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];
    let mut environment: Vec<(&str, &str)> = environment.iter().map(|name| (*name, proxy)).collect();
    environment.push(("NO_PROXY", "127.0.0.1"));
    alone_with(&environment, async || {
        let stage = Stage::start().await;
        let everywhere = Everywhere::on(&[3_128]).await;
        stage.ask(&stage.good.url(PATH)).await.expect(200);
        stage.names.say("inside.example", Says::addresses(&["10.0.0.5"]));
        stage.is_refused(&format!("https://inside.example{PATH}"), UNREACHABLE).await;
        assert_eq!(everywhere.met(), []);
        stage.rig.verify().await;
    });
}
