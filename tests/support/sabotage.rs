//! Takes a store away from a running proxy, and gives it back.

use std::path::{Path, PathBuf};

/// A SQLite store that fails at every verb until this is dropped.
pub struct Sabotage(PathBuf);

impl Sabotage {
    pub fn of(path: &Path) -> Self {
        run(path, "ALTER TABLE records RENAME TO away");
        Sabotage(path.to_owned())
    }
}

impl Drop for Sabotage {
    fn drop(&mut self) {
        run(&self.0, "ALTER TABLE away RENAME TO records");
    }
}

fn run(path: &Path, sql: &str) {
    rusqlite::Connection::open(path).and_then(|store| store.execute_batch(sql)).expect("the store obeys");
}
