//! The table of `docs/security.md`: every attack and fault, its outcome, and the tests that hold it.
//!
//! Rows stand in `tests/catalogue/rows.md`. A test names the rows it holds in the comments above it or inside it,
//! a browser case in its title. A row without a test needs a reason in `tests/catalogue/reasons.md`.
//! `UPDATE=1 cargo test --test catalogue` writes the table anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn the_table_of_docs_security_is_what_rows_and_tests_say() {
    let table = table();
    let file = root().join("docs/security.md");
    if std::env::vars().any(|(name, _)| name == "UPDATE") {
        fs::write(&file, &table).expect("written");
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == table, "docs/security.md is out of date: UPDATE=1 cargo test --test catalogue");
}

#[test]
fn every_row_has_a_test_or_a_reason() {
    let (held, reasons) = (held(), reasons());
    let bare: Vec<String> = rows()
        .into_iter()
        .flat_map(|section| section.rows)
        .map(|row| row.id)
        .filter(|id| !held.contains_key(id) && !reasons.contains_key(id))
        .collect();
    assert!(bare.is_empty(), "neither test nor reason: {bare:?}");
}

#[test]
fn the_promises_of_security_md_name_tests_that_exist() {
    let mut named = 0;
    for line in text("SECURITY.md").lines().filter(|line| line.contains("tests/") && line.starts_with('|')) {
        for place in line.split("tests/").skip(1) {
            let (file, tests) = place.split_once(": ").unwrap_or_else(|| panic!("no test named: {line}"));
            let source = text(&format!("tests/{file}"));
            for test in tests.split('`').skip(1).step_by(2) {
                assert!(source.contains(&format!("fn {test}(")), "{file} has no test {test}");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
}

#[test]
fn ids_that_tests_and_reasons_name_are_rows() {
    let known: Vec<String> = rows().into_iter().flat_map(|section| section.rows).map(|row| row.id).collect();
    for (id, tests) in held() {
        assert!(known.contains(&id), "{tests:?} names {id}, which is no row");
    }
    for id in reasons().keys() {
        assert!(known.contains(id), "reasons.md names {id}, which is no row");
    }
}

struct Section {
    title: String,
    rows: Vec<Row>,
}

struct Row {
    id: String,
    attack: String,
    outcome: String,
}

fn table() -> String {
    let (held, reasons) = (held(), reasons());
    let mut body = String::new();
    let (mut total, mut tested) = (0, 0);
    for section in rows() {
        let _ = write!(
            body,
            "\n## {}\n\n| row | attack or fault | safe outcome | held by |\n|---|---|---|---|\n",
            section.title
        );
        for Row { id, attack, outcome } in section.rows {
            total += 1;
            tested += usize::from(held.contains_key(&id));
            let tests = held.get(&id).map(|tests| by_file(tests)).unwrap_or_default();
            let reason = reasons.get(&id).map(|reason| format!("*{reason}*"));
            let by: Vec<String> = tests.into_iter().chain(reason).collect();
            let _ = writeln!(body, "| {id} | {attack} | {outcome} | {} |", by.join("<br>"));
        }
    }
    let words = text("tests/catalogue/rows.md");
    let words = words.split("**Words.**").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("words");
    format!(
        "# Attacks and faults, and the tests that hold the outcome\n\n\
         Made by `UPDATE=1 cargo test --test catalogue` from the ids that tests carry; `cargo test` fails when it is out of date.\n\
         {total} rows: {tested} held by tests, {} with a reason why there is none. In italics: a reason, or what a row's tests leave out.\n\
         Cases of `tests/attacks` run the real program and end with the rig's oracles: same process, nothing secret in log or\n\
         store, no unprovoked 5xx, somebody else served, memory and descriptors given back.\n\n**Words.**{words}\n{body}",
        total - tested
    )
}

/// `file: test, test`, a line per file.
fn by_file(tests: &[(String, String)]) -> Vec<String> {
    let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (file, test) in tests {
        let test = format!("`{}`", test.replace('|', "\\|"));
        let known = files.entry(file).or_default();
        if !known.contains(&test) {
            known.push(test);
        }
    }
    files.iter().map(|(file, tests)| format!("{file}: {}", tests.join(", "))).collect()
}

fn rows() -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text("tests/catalogue/rows.md").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            sections.push(Section { title: title.to_owned(), rows: Vec::new() });
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let ([id, attack, outcome], Some(section)) = (&cells[..], sections.last_mut())
            && ids(id).len() == 1
        {
            let (attack, outcome) = ((*attack).to_owned(), (*outcome).to_owned());
            section.rows.push(Row { id: (*id).to_owned(), attack, outcome });
        }
    }
    sections
}

fn reasons() -> BTreeMap<String, String> {
    let mut reasons = BTreeMap::new();
    for line in text("tests/catalogue/reasons.md").lines() {
        if let Some((names, reason)) = line.strip_prefix("- ").and_then(|line| line.split_once(": ")) {
            reasons.extend(ids(names).into_iter().map(|id| (id, reason.to_owned())));
        }
    }
    reasons
}

/// Row → (file, test).
fn held() -> BTreeMap<String, Vec<(String, String)>> {
    let mut held: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for file in files() {
        let name = file.strip_prefix(root()).expect("below it").display().to_string();
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => in_rust(&text(&name)),
            _ => in_titles(&text(&name)),
        };
        for (id, test) in found {
            held.entry(id).or_default().push((name.clone(), test));
        }
    }
    held
}

/// Comments above a test and inside it, up to the next one.
fn in_rust(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let mut found = Vec::new();
    let (mut pending, mut current, mut is_test) = (Vec::new(), None::<String>, false);
    for (number, line) in lines.iter().enumerate() {
        if line.starts_with("//") {
            // Above an attribute it belongs to what follows, else to the test it stands in.
            let next = lines[number..].iter().find(|line| !line.starts_with("//")).unwrap_or(&"");
            match &current {
                Some(test) if !next.starts_with("#[") => {
                    found.extend(ids(line).into_iter().map(|id| (id, test.clone())));
                }
                _ => pending.extend(ids(line)),
            }
        } else if line.starts_with("#[") && line.contains("test") && !line.contains("cfg(") {
            (is_test, current) = (true, None);
        } else if is_test && let Some(test) = function(line) {
            found.extend(pending.drain(..).map(|id| (id, test.clone())));
            (is_test, current) = (false, Some(test));
        } else if !is_test && !line.starts_with("#[") && line.contains("fn ") {
            pending.clear();
        }
    }
    found
}

fn function(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("fn ")?;
    Some(rest.split(['(', '<']).next()?.to_owned())
}

/// `test('the title', …` with ids above it or in the title, in a browser case.
fn in_titles(text: &str) -> Vec<(String, String)> {
    let (mut found, mut pending) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("// ") {
            pending.extend(ids(comment));
            continue;
        }
        if let Some(title) = line.strip_prefix("test('").and_then(|rest| rest.split("',").next()) {
            pending.extend(ids(title));
            found.extend(pending.drain(..).map(|id| (id, title.to_owned())));
        }
        pending.clear();
    }
    found
}

/// The ids in a text; `GT-01 .. GT-05` is five.
fn ids(text: &str) -> Vec<String> {
    let words: Vec<&str> =
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '.')).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let Some((group, number)) = id(word) else { continue };
        let first = match (at.checked_sub(2).map(|two| words[two]), at.checked_sub(1).map(|one| words[one])) {
            (Some(from), Some("..")) => id(from).map_or(number, |(_, from)| from + 1),
            _ => number,
        };
        found.extend((first..=number).map(|number| format!("{group}-{number:02}")));
    }
    found
}

fn id(word: &str) -> Option<(&str, u8)> {
    let (group, number) = word.trim_end_matches('.').split_once('-')?;
    (GROUPS.contains(&group) && number.len() == 2).then_some((group, number.parse().ok()?))
}

fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join("tests"), root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if entry.is_dir()
                && !["node_modules", "support", "golden", "config", "catalogue"].contains(&&*name)
            {
                folders.push(entry);
            } else if ["rs", "mjs", "py"].iter().any(|kind| name.ends_with(&format!(".{kind}")))
                || name == "run"
            {
                files.push(entry);
            }
        }
    }
    files.sort();
    files.retain(|file| !file.ends_with("tests/catalogue.rs"));
    files
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

const GROUPS: [&str; 14] =
    ["AZ", "CO", "CD", "TK", "CA", "DR", "CI", "GT", "PO", "SE", "ST", "GH", "UP", "DS"];
