//! A client that says exactly the bytes it is told.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Sends bytes on a connection of their own and returns all that comes back until the other side closes, or
/// the first answer when it does not close.
pub async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // The other side may refuse before it has read everything.
    let _ = stream.write_all(bytes).await;
    hear(&mut stream).await
}

/// Reads one answer with a Content-Length, or up to the end of the connection.
pub async fn hear(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    while !is_whole(&heard) {
        match timeout(PATIENCE, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(read)) => heard.extend_from_slice(&buffer[..read]),
            Err(_) => panic!("no end after {:?}", String::from_utf8_lossy(&heard)),
        }
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// The status of an answer; 0 when the connection was closed without one.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn is_whole(heard: &[u8]) -> bool {
    let text = String::from_utf8_lossy(heard).to_ascii_lowercase();
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let body = heard.len() - (heard.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0) + 4);
    if [" 204 ", " 304 "].iter().any(|status| head.contains(status)) {
        return true;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.and_then(|length| length.trim().parse::<usize>().ok()).is_some_and(|length| body >= length)
}

const PATIENCE: Duration = Duration::from_secs(20);
