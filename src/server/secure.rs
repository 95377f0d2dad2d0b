//! TLS on the listener: a handshake within its time, and a plain word for those who do not begin one.
//!
//! RFC 8446 §4; RFC 7301 (ALPN); RFC 9113 §3.2.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::reply;
use super::sniff::{Opened, Sniffed, sniff};
use crate::protocol::issuer::Issuer;
use crate::tls::{HTTP2, Shown};

/// A connection on which TLS is up; large, so it is moved by its address only.
pub type Secure = Box<TlsStream<TcpStream>>;

/// A connection on which TLS is up, and whether HTTP/2 is spoken on it. `None`: it left, or spoke plain HTTP and
/// was told so.
pub async fn open(stream: TcpStream, tls: &Shown, issuer: &Issuer) -> Opened<Secure> {
    let Ok(shaken) = timeout(tls.handshake(), shake(stream, tls, issuer)).await else {
        return Err(io::ErrorKind::TimedOut.into());
    };
    let Some(stream) = shaken?.map(Box::new) else { return Ok(None) };
    match stream.get_ref().1.alpn_protocol() {
        Some(protocol) => {
            let is_http2 = protocol == HTTP2;
            Ok(Some((Sniffed::unread(stream), is_http2)))
        }
        None => sniff(stream).await,
    }
}

async fn shake(stream: TcpStream, tls: &Shown, issuer: &Issuer) -> io::Result<Option<TlsStream<TcpStream>>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    // Methods are written in capitals, lower case is close; a handshake begins with byte 22.
    if first[0].is_ascii_alphabetic() {
        refuse(stream, issuer).await?;
        return Ok(None);
    }
    tls.acceptor().accept(stream).await.map(Some)
}

/// Whatever is asked in clear, even with a token in it, is not even read as a request.
async fn refuse(mut stream: TcpStream, issuer: &Issuer) -> io::Result<()> {
    stream.write_all(&reply::speak_https(issuer)).await?;
    stream.shutdown().await?;
    // Closing on a client that still sends would reset the connection, and the answer would be lost.
    let discard = async {
        let (mut left, mut buffer) = (MAX_DISCARDED, [0; 1024]);
        while left > 0 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // Over or not, it ends now.
    let _ = timeout(LINGER, discard).await;
    Ok(())
}

const LINGER: Duration = Duration::from_secs(1);
const MAX_DISCARDED: usize = 64 << 10;
