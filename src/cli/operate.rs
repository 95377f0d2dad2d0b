//! What operators ask of a store, while the proxy runs or not: who is there, what they granted, and an end to it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::table::{self, Row, say};
use super::{EXIT_USAGE, fail, refuse};
use crate::app::operate::{self, Chosen, Copied, Grant, Health, OperateError, Operator, Person, Revoked};
use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::config::raw::duration;

#[derive(Subcommand)]
pub(super) enum People {
    /// Everybody whose GitHub credential is kept
    List(Listing),
}

#[derive(Args)]
pub(super) struct Listing {
    /// As JSON, for scripts
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
pub(super) enum Grants {
    /// Grants, all or some
    List {
        #[command(flatten)]
        listing: Listing,
        #[command(flatten)]
        of: Of,
    },
    /// Ends grants: their tokens are refused everywhere within a second
    Revoke {
        /// As `grants list` names them
        #[arg(value_name = "GRANT")]
        grants: Vec<String>,
        #[command(flatten)]
        of: Of,
        /// Only tell which it would be
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args)]
pub(super) struct Of {
    /// Of this person: a GitHub login, or the numeric id (id:583231 when a login is a number)
    #[arg(long, value_name = "LOGIN")]
    person: Option<String>,
    /// Of this client: its name or its id
    #[arg(long, value_name = "CLIENT")]
    client: Option<String>,
}

#[derive(Args)]
pub(super) struct Revoke {
    /// Really all
    #[arg(long, required = true)]
    all: bool,
    /// Only those granted before: 2026-11-28T12:00:00Z, a date, or an age like 2h or 7d
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
    /// Only tell which it would be
    #[arg(long)]
    dry_run: bool,
}

#[derive(Subcommand)]
pub(super) enum Keys {
    /// Prints a new key; put it in front of `keys:`, the old ones behind it
    New,
}

#[derive(Subcommand)]
pub(super) enum Store {
    /// Whether the store can be reached and is in order, and what is in it
    Check(Listing),
    /// Copies everything from one store into another, empty one. Keys are not in a store: give the proxy the same ones
    Copy {
        /// Like `sqlite:mcp-auth-proxy.db`
        from: String,
        /// Like '${STORE_URL}' in single quotes: what is expanded here stays out of the list of processes
        to: String,
        /// Further certificate authorities, in PEM
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
    },
}

impl People {
    pub(super) fn run(self, config: &Path) -> ExitCode {
        let People::List(Listing { json }) = self;
        with(config, |operator| {
            table::print(&operator.people()?, json);
            Ok(())
        })
    }
}

impl Grants {
    pub(super) fn run(self, config: &Path) -> ExitCode {
        match self {
            Grants::List { listing: Listing { json }, of } => with(config, |operator| {
                table::print(&operator.grants(&of.chosen(Vec::new()))?, json);
                Ok(())
            }),
            Grants::Revoke { grants, of, dry_run } => {
                if grants.is_empty() && of.person.is_none() && of.client.is_none() {
                    return usage(
                        "name grants, --person or --client; all of them: mcp-auth-proxy revoke --all",
                    );
                }
                with(config, |operator| revoke(operator, &of.chosen(grants), dry_run))
            }
        }
    }
}

impl Of {
    fn chosen(&self, grants: Vec<String>) -> Chosen {
        Chosen { grants, person: self.person.clone(), client: self.client.clone(), before: None }
    }
}

impl Revoke {
    pub(super) fn run(self, config: &Path) -> ExitCode {
        let now = Clock::system().now();
        let before = match self.before.as_deref().map(|text| moment(text, now)).transpose() {
            Ok(before) => before,
            Err(problem) => return usage(&format!("--before: {problem}")),
        };
        with(config, |operator| revoke(operator, &Chosen { before, ..Chosen::default() }, self.dry_run))
    }
}

fn revoke(operator: &Operator, chosen: &Chosen, dry_run: bool) -> Result<(), OperateError> {
    let grants = operator.grants(chosen)?;
    let number = grants.len();
    let plural = if number == 1 { "" } else { "s" };
    if dry_run {
        table::print(&grants, false);
        say(&format!("{number} grant{plural} would be revoked\n"));
        return Ok(());
    }
    let Revoked { grants, left_at_github, trouble } = operator.revoke(&grants)?;
    say(&format!("{grants} grant{} revoked\n", if grants == 1 { "" } else { "s" }));
    if let Some(error) = trouble {
        return Err(OperateError::Refused(format!("not all of {number}: {error}; the rest is as it was")));
    }
    if left_at_github.is_empty() {
        return Ok(());
    }
    // They are no longer kept here, so this is the last that is heard of them.
    Err(OperateError::Refused(format!(
        "GitHub did not delete the tokens of {}; they can end them at GitHub, under Settings, Applications",
        left_at_github.join(", ")
    )))
}

impl Keys {
    pub(super) fn run(self) -> ExitCode {
        let Keys::New = self;
        say(&format!("{}\n", operate::new_key(&Clock::system())));
        ExitCode::SUCCESS
    }
}

impl Store {
    pub(super) fn run(self, config: &Path) -> ExitCode {
        match self {
            Store::Check(Listing { json }) => {
                let Some(config) = load(config) else { return ExitCode::from(EXIT_USAGE) };
                let store = config.store.to_string();
                let health = operate::health(config, Clock::system());
                told(health.map_err(|error| error.at(&store)), |health| {
                    say(&shown(&health, json));
                    if health.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
                })
            }
            Store::Copy { from, to, ca_file } => {
                let copied = operate::copy(&from, &to, ca_file.as_deref(), Clock::system());
                told(copied, |Copied { records, later, key }| {
                    say(&format!(
                        "{records} records copied, {later} of them changed meanwhile and were copied again\n"
                    ));
                    if let Some(key) = key {
                        let key = key.display();
                        say(&format!(
                            "They are read with the key in {key}: put it in keys: of whoever uses the copy\n"
                        ));
                    }
                    ExitCode::SUCCESS
                })
            }
        }
    }
}

fn with(path: &Path, work: impl FnOnce(&Operator) -> Result<(), OperateError>) -> ExitCode {
    let Some(config) = load(path) else { return ExitCode::from(EXIT_USAGE) };
    let store = config.store.to_string();
    let done = Operator::open(config, Clock::system()).and_then(|operator| {
        let done = work(&operator);
        if operator.is_partial() {
            eprintln!(
                "mcp-auth-proxy: {store} has logins that none of the configured keys reads; see `store check`"
            );
        }
        done
    });
    told(done.map_err(|error| error.at(&store)), |()| ExitCode::SUCCESS)
}

fn load(path: &Path) -> Option<Config> {
    Config::load(path).map_err(|problems| refuse(path, &problems)).ok()
}

fn told<T>(done: Result<T, OperateError>, then: impl FnOnce(T) -> ExitCode) -> ExitCode {
    match done {
        Ok(done) => then(done),
        Err(OperateError::Arguments(problem)) => usage(&problem),
        Err(error) => fail(error),
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("mcp-auth-proxy: {problem}");
    ExitCode::from(EXIT_USAGE)
}

/// A moment as people write it: RFC 3339, a date, or how long ago.
fn moment(text: &str, now: Time) -> Result<Time, String> {
    if let Ok(age) = duration(text) {
        let past = now.millis().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        return Ok(Time::from_millis(past));
    }
    let whole = if text.contains(['T', ' ']) { text.to_owned() } else { format!("{text}T00:00:00Z") };
    let read = humantime::parse_rfc3339_weak(&whole).ok();
    let since = read.and_then(|moment| moment.duration_since(UNIX_EPOCH).ok());
    let millis = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    let told = || format!("expected 2026-11-28T12:00:00Z, 2026-11-28, or an age like 2h, got {text:?}");
    millis.map(Time::from_millis).ok_or_else(told)
}

impl Row for Person {
    const COLUMNS: &'static [&'static str] = &["LOGIN", "ID", "GRANTS", "LAST ACTIVE", "CONFIRMED BY GITHUB"];

    fn cells(&self) -> Vec<String> {
        let active = self.last_active.map_or_else(|| "-".to_owned(), Time::to_rfc3339);
        vec![
            self.login.clone(),
            self.id.to_string(),
            self.grants.to_string(),
            active,
            self.checked.to_rfc3339(),
        ]
    }
}

impl Row for Grant {
    const COLUMNS: &'static [&'static str] =
        &["GRANT", "LOGIN", "CLIENT", "RESOURCE", "SCOPES", "GRANTED", "REFRESHED", "ENDS"];

    fn cells(&self) -> Vec<String> {
        let refreshed = self.refreshed.map_or_else(|| "code pending".to_owned(), Time::to_rfc3339);
        let login = self.login.clone().unwrap_or_else(|| self.person.to_string());
        let (client, resource) = (self.client.clone(), self.resource.clone());
        let (granted, ends) = (self.granted.to_rfc3339(), self.ends.to_rfc3339());
        vec![self.grant.clone(), login, client, resource, self.scopes.clone(), granted, refreshed, ends]
    }
}

#[derive(Serialize)]
struct Told<'a> {
    is_well: bool,
    #[serde(flatten)]
    health: &'a Health,
}

fn shown(health: &Health, as_json: bool) -> String {
    if as_json {
        let told = Told { is_well: health.is_well(), health };
        return serde_json::to_string_pretty(&told).expect("plain data") + "\n";
    }
    let mut lines = vec![
        format!("Store            {}", health.store),
        format!("Reached in       {} ms", health.milliseconds),
        format!(
            "Keys             {}",
            match (health.keys_known, health.records.is_empty()) {
                (true, true) => "nothing is written yet, so any would do",
                (true, false) => "those of the store",
                (false, _) => "strange to the store",
            }
        ),
    ];
    let counts = health.records.iter().map(|(kind, number)| format!("{kind} {number}"));
    lines.push(format!("Records          {}", counts.collect::<Vec<_>>().join(", ")));
    lines.push(match health.unreadable {
        0 => "Unreadable       none".to_owned(),
        number => format!(
            "Unreadable       {number}: written under keys that are not configured, or changed by others"
        ),
    });
    lines.extend(health.concerns.iter().map(|concern| format!("Concern          {concern}")));
    lines.push(
        if health.is_well() { "The store is in order." } else { "The store is not in order." }.to_owned(),
    );
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = Time::from_seconds(1_800_000_000);
        assert_eq!(moment("2h", now), Ok(Time::from_seconds(1_800_000_000 - 7_200)));
        assert_eq!(moment("2026-11-28T12:00:00Z", now), Ok(Time::from_seconds(1_795_867_200)));
        assert_eq!(moment("2026-11-28", now), Ok(Time::from_seconds(1_795_824_000)));
        for bad in ["", "yesterday", "2026-13-01", "12:00", "-1h"] {
            assert!(moment(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn dates_are_written_in_utc() {
        assert_eq!(Time::from_seconds(1_795_867_200).to_rfc3339(), "2026-11-28T12:00:00Z");
    }
}
