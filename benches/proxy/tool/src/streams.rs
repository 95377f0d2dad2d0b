//! Many event streams of one process. Prints `open=N` when all are open, then obeys standard input: `mark` forgets the
//! events so far, `stop` prints what came since and ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::LocalSet;

use crate::clients::requests;
use crate::{Outcome, percentiles};

pub async fn run(to: &str, template: &str, logins: &str, count: usize) -> Outcome {
    let requests = requests(template, logins)?;
    LocalSet::new().run_until(open_all(to, &requests, count)).await
}

async fn open_all(to: &str, requests: &[String], count: usize) -> Outcome {
    let delays = Rc::new(RefCell::new(Vec::new()));
    let broken = Rc::new(RefCell::new(0));
    for number in 0..count {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(requests[number % requests.len()].as_bytes()).await?;
        let mut read = Vec::with_capacity(1_024);
        while !read.windows(WELCOME.len()).any(|window| window == WELCOME) {
            if stream.read_buf(&mut read).await? == 0 || !read.starts_with(b"HTTP/1.1 200") {
                return Err(format!("stream {number}: {}", String::from_utf8_lossy(&read)).into());
            }
        }
        let (delays, broken) = (delays.clone(), broken.clone());
        tokio::task::spawn_local(async move {
            follow(stream, &delays).await;
            *broken.borrow_mut() += 1;
        });
    }
    println!("open={count}");
    // Standard input blocks: a thread of its own reads it.
    let (say, mut said) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = say.send(line);
        }
    });
    while said.recv().await.is_some_and(|line| line == "mark") {
        delays.borrow_mut().clear();
        println!("marked=1");
    }
    println!("broken={} {}", broken.borrow(), percentiles(delays.take()));
    Ok(())
}

/// Notes the delay of every event until the stream ends. An event comes in one piece on loopback, if perhaps with its
/// neighbours; one that did not would not be counted, and the count tells.
async fn follow(mut stream: TcpStream, delays: &RefCell<Vec<u64>>) {
    let mut block = Vec::with_capacity(512);
    loop {
        block.clear();
        match stream.read_buf(&mut block).await {
            Ok(length) if length > 0 => {}
            _ => return,
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let text = String::from_utf8_lossy(&block);
        for sent in
            text.split("sent ").skip(1).filter_map(|rest| rest.split('.').next()?.parse::<u128>().ok())
        {
            delays.borrow_mut().push(now.saturating_sub(sent) as u64);
        }
    }
}

const WELCOME: &[u8] = b": welcome\n\n";
