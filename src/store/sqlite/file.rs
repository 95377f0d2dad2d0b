//! The file itself: for whose eyes it is, whether it is ours and whole, and whether it is still where it was.
//!
//! Nothing here deletes or repairs: what is wrong with a file is told, and the file is left as it was.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tracing::warn;

use crate::store::StoreError;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot create {}: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("{} {problem}", path.display())]
    Exposed { path: PathBuf, problem: &'static str },
    #[error("cannot use {} as a database: {source}", path.display())]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error("{} is a database of another program; it is left as it was", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "{} is damaged ({finding}); restore a backup, or move it away together with its -wal file to start anew",
        path.display()
    )]
    Damaged { path: PathBuf, finding: String },
    #[error("{} was written by a newer version of this program (schema {found}, known {SCHEMA})", path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Makes the file when there is none, looks at it before anything is changed, and brings it up to date.
pub(super) fn prepare(path: &Path) -> Result<Connection, OpenError> {
    private(path)?;
    let failed = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => {
            OpenError::Damaged { path: path.into(), finding: source.to_string() }
        }
        _ => OpenError::Database { path: path.into(), source },
    };
    let connection = open(path).map_err(failed)?;
    vet(path, &connection, failed)?;
    settle(&connection).map_err(failed)?;
    connection.execute_batch(MIGRATE).map_err(failed)?;
    Ok(connection)
}

/// One more connection to a file that was prepared.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open(path)?;
    settle(&connection)?;
    Ok(connection)
}

/// A connection after one whose commit failed. What that one wrote may stand in the write-ahead log as if it
/// had been committed, and would be found there after a crash although nobody was told so: the log is emptied.
pub(super) fn reconnect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    // A reader in another process may hold the log; then our next write takes the place of the failed one.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(connection)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

fn settle(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", MAX_IDLE_LOG)
}

/// Whether it is a database, of this program, of a version we know, and whole. Only reads.
fn vet(
    path: &Path,
    connection: &Connection,
    failed: impl Fn(rusqlite::Error) -> OpenError,
) -> Result<(), OpenError> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(&failed);
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    let ours = number("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'records'")?;
    let application = number("PRAGMA application_id")?;
    if (tables > 0 && ours == 0) || ![0, APPLICATION].contains(&application) {
        return Err(OpenError::Foreign { path: path.into() });
    }
    let found = number("PRAGMA user_version")?;
    if found > SCHEMA {
        return Err(OpenError::Newer { path: path.into(), found });
    }
    // Each page is looked at once: with SQLite's usual cache the program would keep 2 MiB of them for good.
    let remember = |kib: u32| connection.pragma_update(None, "cache_size", -i64::from(kib)).map_err(&failed);
    remember(CACHE_OF_A_LOOK)?;
    let check: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(&failed)?;
    remember(CACHE)?;
    match check.as_str() {
        "ok" => Ok(()),
        _ => Err(OpenError::Damaged { path: path.into(), finding: check.replace('\n', " ") }),
    }
}

/// Creates the file for its owner only (SQLite gives its companions the same mode), and refuses one that
/// others can read or write, or that is somewhere else than it seems.
fn private(path: &Path) -> Result<(), OpenError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(OpenError::Create { path: path.into(), source });
        }
        _ => {}
    }
    for companion in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(companion);
        let file = PathBuf::from(name);
        let problem = std::fs::symlink_metadata(&file).ok().and_then(|metadata| exposure(&metadata));
        if let Some(problem) = problem {
            return Err(OpenError::Exposed { path: file, problem });
        }
    }
    if let Some(directory) = path.parent().filter(|directory| is_open_to_all(directory)) {
        warn!(directory = %directory.display(), "everybody on this machine can replace files in the store's directory");
    }
    Ok(())
}

#[cfg(unix)]
fn exposure(metadata: &std::fs::Metadata) -> Option<&'static str> {
    use std::os::unix::fs::PermissionsExt as _;
    if metadata.is_symlink() {
        return Some("is a symbolic link; name the file that it leads to");
    }
    if !metadata.is_file() {
        return Some("is not a plain file");
    }
    let open = metadata.permissions().mode() & 0o077 != 0;
    open.then_some("can be read or written by others; run chmod 600 on it")
}

#[cfg(not(unix))]
fn exposure(metadata: &std::fs::Metadata) -> Option<&'static str> {
    (!metadata.is_file()).then_some("is not a plain file")
}

#[cfg(unix)]
fn is_open_to_all(directory: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    // In a sticky directory like /tmp nobody can replace what is another's.
    std::fs::metadata(here).is_ok_and(|metadata| metadata.permissions().mode() & 0o1002 == 0o002)
}

#[cfg(not(unix))]
fn is_open_to_all(_: &Path) -> bool {
    false
}

/// Which file was opened. One that was moved or removed under a running program can still be written to, and
/// nobody would ever find again what was acknowledged.
pub(super) struct Whereabouts {
    path: PathBuf,
    #[cfg(unix)]
    opened: (u64, u64),
}

#[cfg(unix)]
impl Whereabouts {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Whereabouts { path: path.into(), opened: number(path)? })
    }

    /// Whether the file is still where it was opened.
    pub(super) fn still_hold(&self) -> Result<(), StoreError> {
        match number(&self.path) {
            Ok(found) if found == self.opened => Ok(()),
            Ok(_) => Err(StoreError::new("another file took the place of the database; restart on it")),
            Err(error) => Err(StoreError::new(format_args!("the database was moved or removed: {error}"))),
        }
    }
}

#[cfg(unix)]
fn number(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Files in use cannot be moved or removed elsewhere.
#[cfg(not(unix))]
impl Whereabouts {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Whereabouts { path: path.into() })
    }

    pub(super) fn still_hold(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Whereabouts {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// KiB of pages that a connection remembers: SQLite's own default.
const CACHE: u32 = 2_000;
const CACHE_OF_A_LOOK: u32 = 128;
const SCHEMA: i64 = 1;
/// "mapx", for `file` and for ourselves.
const APPLICATION: i64 = 0x6d61_7078;
const MIGRATE: &str = "
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS records (
        key TEXT PRIMARY KEY, bytes BLOB NOT NULL, version INTEGER NOT NULL,
        owner TEXT NOT NULL, expires INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS records_by_owner ON records (owner) WHERE owner <> '';
    CREATE INDEX IF NOT EXISTS records_by_expiry ON records (expires);
    PRAGMA user_version = 1;
    PRAGMA application_id = 0x6d617078;
    COMMIT;";
/// How long another process may hold the write lock before we answer 503.
const BUSY: Duration = Duration::from_secs(5);
/// Bytes that a write-ahead log keeps once a large one has been written back.
const MAX_IDLE_LOG: i64 = 8 << 20;
