//! The audit trail: one JSON object per line for what people, clients and operators did. Who, which client, which
//! resource, what came of it; never a token, a code, a secret, an address or the arguments of a call.

use std::cell::RefCell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use tracing::error;

use crate::clock::Time;
use crate::protocol::family::Family;
use crate::protocol::token::FamilyId;

/// Where the trail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Stdout,
    /// Appended to; opened anew at every change of configuration, so that it can be rotated.
    File(PathBuf),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Stdout => f.write_str("standard output"),
            Destination::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What happened, by whom, with what. Absent parts are left out of the line.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Event<'a> {
    /// `login`, `consent`, `grant`, `redeem`, `refresh`, `reuse`, `revoke` or `call`.
    pub event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Numeric GitHub id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<&'a str>,
    /// What it calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<&'a str>,
    /// The short name of the grant, as `grants list` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// Of JSON-RPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<&'a str>,
    /// Of HTTP; absent when the client did not wait for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Until the head of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
}

impl<'a> Event<'a> {
    /// One about a grant.
    pub fn of(event: &'static str, id: &FamilyId, family: &'a Family) -> Self {
        Event {
            event,
            person: Some(family.person),
            client_id: Some(&family.client_id),
            client: Some(&family.client_name),
            resource: Some(&family.resource),
            grant: Some(id.short()),
            ..Event::default()
        }
    }

    /// With what came of it.
    pub fn with(self, outcome: &'static str) -> Self {
        Event { outcome: Some(outcome), ..self }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// A trail that is written.
pub struct Audit {
    destination: Destination,
    out: Mutex<Out>,
}

struct Out {
    to: To,
    is_torn: bool,
}

enum To {
    Stdout,
    File(File),
}

impl Audit {
    /// Opens the trail, for its owner's eyes only.
    pub fn open(destination: Destination) -> io::Result<Self> {
        let to = match &destination {
            Destination::Stdout => To::Stdout,
            Destination::File(path) => To::File(append(path)?),
        };
        Ok(Audit { destination, out: Mutex::new(Out { to, is_torn: false }) })
    }

    /// Where it goes.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Writes one line, whole; with others of its thread where those are collected.
    pub(super) fn write(self: &Arc<Self>, now: Time, event: &Event<'_>) {
        let moment = UNIX_EPOCH + Duration::from_millis(now.millis());
        let time = humantime::format_rfc3339_millis(moment).to_string();
        let Ok(mut line) = serde_json::to_vec(&Line { time, event }) else { return };
        line.push(b'\n');
        let collected =
            TRAIL.with_borrow_mut(|trail| trail.as_mut().is_some_and(|trail| trail.take(self, &line)));
        if !collected {
            self.write_all(&line);
        }
    }

    fn write_all(&self, lines: &[u8]) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let Out { to, is_torn } = &mut *out;
        let mut write = |bytes: &[u8]| match to {
            To::Stdout => io::stdout().lock().write_all(bytes),
            To::File(file) => file.write_all(bytes),
        };
        // After what was written in part, a line of its own begins.
        let written = if *is_torn { write(b"\n").and_then(|()| write(lines)) } else { write(lines) };
        *is_torn = written.is_err();
        if let Err(error) = written {
            error!(%error, "the audit trail cannot be written");
        }
    }
}

/// The lines of a thread that carries requests: a system call for each would be the dearest part of many.
#[derive(Default)]
struct Trail {
    audit: Option<Arc<Audit>>,
    lines: Vec<u8>,
}

impl Trail {
    fn take(&mut self, audit: &Arc<Audit>, line: &[u8]) -> bool {
        if !self.audit.as_ref().is_some_and(|known| Arc::ptr_eq(known, audit)) {
            self.flush();
            self.audit = Some(audit.clone());
        }
        self.lines.extend_from_slice(line);
        if self.lines.len() >= BLOCK {
            self.flush();
        }
        true
    }

    fn flush(&mut self) {
        if let Some(audit) = self.audit.as_ref().filter(|_| !self.lines.is_empty()) {
            audit.write_all(&self.lines);
            self.lines.clear();
        }
    }
}

thread_local! {
    static TRAIL: RefCell<Option<Trail>> = const { RefCell::new(None) };
}

/// Makes this thread collect its lines.
pub(super) fn collect_on_this_thread() {
    TRAIL.with_borrow_mut(|trail| *trail = Some(Trail::default()));
}

/// Writes what this thread has collected.
pub(super) fn flush() {
    TRAIL.with_borrow_mut(|trail| trail.iter_mut().for_each(Trail::flush));
}

fn append(path: &Path) -> io::Result<File> {
    // A pipe would hold up the start until somebody reads it, and a link leads where somebody else decides.
    if std::fs::symlink_metadata(path).is_ok_and(|known| !known.is_file()) {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Bytes that are written together.
const BLOCK: usize = 16 << 10;
