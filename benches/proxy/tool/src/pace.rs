//! Calls at moments that are fixed beforehand, whatever became of those before: a slow answer delays the calls behind
//! it on its connection, and that counts. Threads that block, because a sleep of theirs ends within 60 µs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::clients::{answer_length, requests};
use crate::{Outcome, percentiles};

pub fn run(to: &str, template: &str, logins: &str, rate: f64, connections: usize, seconds: f64) -> Outcome {
    let requests = Arc::new(requests(template, logins)?);
    let begin = Instant::now() + Duration::from_millis(50);
    let callers: Vec<_> = (0..connections)
        .map(|number| {
            let (requests, to) = (requests.clone(), to.to_owned());
            thread::spawn(move || {
                let mut stream = TcpStream::connect(to)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                let (mut read, mut delays) = (Vec::new(), Vec::new());
                let (mut turn, mut free) = (number, begin);
                loop {
                    let due = begin + Duration::from_secs_f64(turn as f64 / rate);
                    if due > begin + Duration::from_secs_f64(seconds) {
                        return Outcome::Ok(delays);
                    }
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    // That we woke late is our fault; that the connection was taken is not.
                    let sent = if free > due { due } else { Instant::now() };
                    stream.write_all(requests[turn % requests.len()].as_bytes())?;
                    read_answer(&mut stream, &mut read)?;
                    free = Instant::now();
                    delays.push((free - sent).as_nanos() as u64);
                    turn += connections;
                }
            })
        })
        .collect();
    let mut delays = Vec::new();
    for caller in callers {
        delays.extend(caller.join().map_err(|_| "a caller panicked")??);
    }
    println!("{}", percentiles(delays));
    Ok(())
}

fn read_answer(stream: &mut TcpStream, read: &mut Vec<u8>) -> Outcome {
    read.clear();
    let mut block = [0; 8_192];
    while answer_length(read)?.is_none() {
        match stream.read(&mut block)? {
            0 => return Err("no answer".into()),
            length => read.extend_from_slice(&block[..length]),
        }
    }
    Ok(())
}
