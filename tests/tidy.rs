//! The house's own rules, read off the sources: which way imports go, who may read time, how long a file is.

use std::fs;
use std::path::{Path, PathBuf};

/// (who, whom): pairs that must not exist (ARCHITECTURE.md, "Which way imports go").
const FORBIDDEN: &[(&str, &str)] = &[
    ("store", "hyper"),
    ("store", "http::"),
    ("oauth", "crate::gate"),
    ("oauth", "crate::upstream"),
    ("upstream", "crate::store"),
    ("upstream", "crate::oauth"),
    ("gate", "crate::upstream"),
    ("gate", "crate::oauth"),
    ("gate", "crate::server"),
    ("github", "crate::oauth"),
    ("github", "crate::gate"),
    ("protocol", "crate::store"),
    ("protocol", "crate::github"),
    ("protocol", "crate::oauth"),
    ("protocol", "crate::gate"),
    ("protocol", "crate::upstream"),
    ("protocol", "crate::server"),
    ("protocol", "tokio"),
    ("tls", "hyper"),
    ("tls", "crate::server"),
    ("tls", "crate::oauth"),
    ("limit", "crate::server"),
    ("limit", "crate::oauth"),
    ("limit", "crate::gate"),
    ("limit", "http::"),
    ("clock", "crate::"),
    ("telemetry", "crate::server"),
    ("telemetry", "crate::oauth"),
    ("telemetry", "crate::gate"),
    ("telemetry", "crate::github"),
    ("telemetry", "crate::store"),
    ("telemetry", "crate::upstream"),
    ("store", "crate::telemetry"),
];

#[test]
fn imports_go_one_way() {
    for (file, text) in sources() {
        let product = product_part(&text);
        let room = room(&file);
        for (who, whom) in FORBIDDEN.iter().filter(|(who, _)| *who == room) {
            assert!(!product.contains(whom), "{}: {who} must not know {whom}", file.display());
        }
        if !["app", "cli", "config", "fuzzing", "main", "lib"].contains(&room.as_str()) {
            assert!(!product.contains("crate::config"), "{}: only app and cli see Config", file.display());
        }
        if !["app", "cli", "main", "lib"].contains(&room.as_str()) {
            assert!(
                !product.contains("crate::app"),
                "{}: nothing imports the composition root",
                file.display()
            );
        }
    }
}

#[test]
fn files_answer_one_question() {
    for (file, text) in sources() {
        let lines = product_part(&text).lines().count();
        assert!(lines <= 400, "{} has {lines} lines without its tests", file.display());
    }
}

#[test]
fn nothing_reachable_panics_on_purpose() {
    for (file, text) in sources().into_iter().filter(|(file, _)| !file.ends_with("tests.rs")) {
        let product = product_part(&text);
        for word in [".unwrap()", "panic!(", "todo!(", "unimplemented!(", "dbg!("] {
            assert!(!product.contains(word), "{}: {word}", file.display());
        }
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for (file, text) in sources() {
        let exempt = file.ends_with("tests.rs");
        assert!(exempt || text.starts_with("//!"), "{} starts without a module comment", file.display());
    }
}

/// Every source file with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(&entry).expect("text");
                found.push((entry, text));
            }
        }
    }
    assert!(found.len() > 40, "the sources were found");
    found
}

/// Without the tests at the end.
fn product_part(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

/// The module a file belongs to.
fn room(file: &Path) -> String {
    let inside = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("below src");
    let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}
