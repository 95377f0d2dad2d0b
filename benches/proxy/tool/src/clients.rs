//! What the clients share: requests from templates, answers.

use std::cell::Cell;
use std::io::{BufWriter, Write as _};
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::Outcome;

/// The requests of all logins, each a whole one.
pub fn requests(template: &str, logins: &str) -> Outcome<Vec<String>> {
    let template = std::fs::read_to_string(template)?;
    let logins = std::fs::read_to_string(logins)?;
    let requests = logins.lines().map(|line| {
        let (token, session) = line.split_once(' ').unwrap_or((line, ""));
        template.replace("TOKEN", token).replace("SESSION", session)
    });
    Ok(requests.collect())
}

/// The length of the answer at the beginning of what was read, once all of it is there.
pub fn answer_length(read: &[u8]) -> Outcome<Option<usize>> {
    let Some(head) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&read[..head])?;
    if !text.starts_with("HTTP/1.1 200") {
        return Err(format!("refused: {}", String::from_utf8_lossy(read)).into());
    }
    let length: usize = header(text, "content-length").ok_or("no Content-Length")?.parse()?;
    Ok(Some(head + 4 + length).filter(|length| read.len() >= *length))
}

/// A header of an answer.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
    lines.into_iter().find_map(|(found, value)| found.eq_ignore_ascii_case(name).then(|| value.trim()))
}

/// Begins a session for each token; that is everybody's first call.
pub async fn greet(to: &str, template: &str, tokens: &str, out: &str) -> Outcome {
    let tokens = std::fs::read_to_string(tokens)?;
    let tokens: Rc<Vec<String>> = Rc::new(tokens.lines().map(str::to_owned).collect());
    let template: Rc<str> = std::fs::read_to_string(template)?.into();
    let (to, next): (Rc<str>, _) = (to.into(), Rc::new(Cell::new(0)));
    let all = LocalSet::new();
    let mut callers = Vec::new();
    for _ in 0..CONNECTIONS {
        let (to, template, tokens, next) = (to.clone(), template.clone(), tokens.clone(), next.clone());
        callers.push(all.spawn_local(async move {
            let (mut stream, mut read) = (TcpStream::connect(&*to).await?, Vec::new());
            stream.set_nodelay(true)?;
            let mut sessions = Vec::new();
            while let Some(token) = tokens.get(next.replace(next.get() + 1)) {
                stream.write_all(template.replace("TOKEN", token).as_bytes()).await?;
                read.clear();
                let end = loop {
                    if let Some(end) = answer_length(&read)? {
                        break end;
                    }
                    if stream.read_buf(&mut read).await? == 0 {
                        return Err("no answer".into());
                    }
                };
                let head = std::str::from_utf8(&read[..end])?;
                sessions
                    .push((token.clone(), header(head, "mcp-session-id").ok_or("no session")?.to_owned()));
            }
            Outcome::Ok(sessions)
        }));
    }
    let mut file = BufWriter::new(std::fs::File::create(out)?);
    let mut count = 0;
    all.run_until(async {
        for caller in callers {
            for (token, session) in caller.await?? {
                writeln!(file, "{token} {session}")?;
                count += 1;
            }
        }
        Outcome::Ok(())
    })
    .await?;
    println!("greeted={count}");
    Ok(())
}

const CONNECTIONS: usize = 64;
