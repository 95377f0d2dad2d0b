//! How long a program takes from exec until it answers.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

pub fn run(port: u16, program: &str, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn()?;
    let answered = loop {
        match ask(port) {
            Ok(true) => break Ok(began.elapsed()),
            _ if began.elapsed() > Duration::from_secs(20) => break Err("it does not answer"),
            _ => thread::sleep(Duration::from_micros(50)),
        }
    };
    child.kill()?;
    child.wait()?;
    println!("start_ms={:.2}", answered?.as_secs_f64() * 1e3);
    Ok(())
}

fn ask(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: p.test\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}
