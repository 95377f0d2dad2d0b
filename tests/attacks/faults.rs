//! A machine whose disk and clock do as a test says: `faults.c`, between the real program and libc.
#![allow(dead_code, reason = "every case uses its own part")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::TempDir;

/// What can fail, for the files of the store alone.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Sync = 0,
    Write = 1,
    Open = 2,
}

/// The switches; every program that was started with its environment obeys them.
pub struct Faults {
    dir: TempDir,
    control: File,
}

impl Faults {
    /// Builds the shim.
    pub fn new() -> Self {
        let dir = TempDir::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/faults.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("faults.so")).arg(source);
        assert!(compile.status().expect("a C compiler, as for SQLite").success());
        let control = dir.path().join("control");
        std::fs::write(&control, [0; 4096]).expect("written");
        let control = OpenOptions::new().read(true).write(true).open(control).expect("opens");
        Faults { dir, control }
    }

    /// What the program must be started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        vec![("LD_PRELOAD".to_owned(), path("faults.so")), ("FAULTS_CONTROL".to_owned(), path("control"))]
    }

    /// Fails the next `times` calls.
    pub fn fail(&self, fault: Fault, error: i32, times: i64) {
        self.set(fault as u64 * 3 + 1, error.into());
        self.set(fault as u64 * 3, times);
    }

    /// Fails every call until [`Faults::heal`].
    pub fn fail_on(&self, fault: Fault, error: i32) {
        self.fail(fault, error, -1);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        [Fault::Sync, Fault::Write, Fault::Open].into_iter().for_each(|fault| self.fail(fault, 0, 0));
    }

    /// How many calls have failed.
    pub fn hits(&self, fault: Fault) -> i64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, (fault as u64 * 3 + 2) * 8).expect("read");
        i64::from_ne_bytes(bytes)
    }

    /// Moves the wall clock by so many seconds from what it really is.
    pub fn clock(&self, seconds: i64) {
        self.set(9, seconds);
    }

    /// Moves it in every other second.
    pub fn wobble(&self, seconds: i64) {
        self.set(10, seconds);
    }

    fn set(&self, number: u64, value: i64) {
        self.control.write_all_at(&value.to_ne_bytes(), number * 8).expect("written");
    }
}

pub const ENOSPC: i32 = 28;
pub const EIO: i32 = 5;
pub const EROFS: i32 = 30;
pub const EMFILE: i32 = 24;
