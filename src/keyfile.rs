//! The key that is made for the embedded store when none is configured: a file beside it, for its owner only.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use tracing::info;

use crate::clock::Clock;
use crate::seal::{MasterKey, parse_key};

/// Reads the generated key file, or makes it: whole or not at all, readable by its owner only.
///
/// A database without its key is refused: with a new one every login in it would be dead.
pub fn own_key(path: &Path, database: &Path, clock: &Clock) -> Result<MasterKey, String> {
    if !path.exists() {
        if is_database(database) {
            let database = database.display();
            return Err(format!(
                "is missing, but {database} is there: put its key back, or move both away to start anew"
            ));
        }
        let key = MasterKey::new(Box::new(clock.random()));
        let text = format!("{}\n", STANDARD.encode(key.expose_secret()));
        write_private(path, text.as_bytes()).map_err(|error| format!("cannot be written: {error}"))?;
        info!(file = %path.display(), "made a key; keep it with the database");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = std::fs::symlink_metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
        if !metadata.is_file() {
            return Err("is not a plain file".to_owned());
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err("can be read by others; run chmod 600 on it".to_owned());
        }
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    parse_key(text.trim())
}

/// Whether there is a SQLite file; anything else is the store's to refuse.
fn is_database(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"))
}

/// A new file appears under its name only when it is complete; one that is there already wins.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let _ = std::fs::remove_file(&draft);
    linked
}
