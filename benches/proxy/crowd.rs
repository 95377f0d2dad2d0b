//! Fills a SQLite store with people and their logins, as `tests/scale.rs` does:
//! `cargo run --example crowd -- FILE PEOPLE > TOKENS`. Prints "access refresh" of each.
//!
//! Ten thousand logins through the flow would take a minute of every run, and leave the same behind.

use std::error::Error;
use std::io::{BufWriter, Write as _, stdout};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use mcp_auth_proxy::clock::Clock;
use mcp_auth_proxy::store::sqlite::Sqlite;

#[path = "../../tests/support/crowd.rs"]
mod crowd;

/// What the crowd is of; `benches/proxy/contenders.py` configures the same.
mod proxy {
    pub const PUBLIC: &str = "https://p.test";
}

mod stores {
    pub const KEY: &str = "Y2FuYXJ5LWtleS0wMTIzNDU2Nzg5YWJjZGVmZ2hpams=";
}

/// People with one login each, put into a store
#[derive(Parser)]
#[command(name = "crowd")]
struct Arguments {
    file: PathBuf,
    people: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let records = Arc::new(Sqlite::open(&arguments.file, Clock::system())?);
    let crowd = crowd::Crowd::of(records, Clock::system(), "a client".to_owned());
    let mut out = BufWriter::new(stdout());
    for first in (1..=arguments.people).step_by(AT_A_TIME) {
        let people = first..(first + AT_A_TIME as u64).min(arguments.people + 1);
        crowd.credentials(people.clone(), |person| format!("gho_{person:036}")).await;
        for login in crowd.families(people).await {
            writeln!(out, "{} {}", login.access, login.refresh)?;
        }
    }
    out.flush()?;
    Ok(())
}

const AT_A_TIME: usize = 20_000;
