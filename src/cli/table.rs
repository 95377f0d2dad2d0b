//! Tables for people, JSON for scripts.

use std::io::{self, Write as _};

use serde::Serialize;

/// Something that is listed, a line each.
pub(super) trait Row: Serialize {
    /// The heads of the columns.
    const COLUMNS: &'static [&'static str];
    /// What stands in them.
    fn cells(&self) -> Vec<String>;
}

/// Writes rows: as a table, or as a JSON array.
pub(super) fn print<R: Row>(rows: &[R], as_json: bool) {
    let text = match as_json {
        true => serde_json::to_string_pretty(rows).expect("rows are plain data") + "\n",
        false => table(rows),
    };
    say(&text);
}

/// Whoever reads it may stop early, like `head`.
pub(super) fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn table<R: Row>(rows: &[R]) -> String {
    let heads = R::COLUMNS.iter().map(|head| (*head).to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(heads).chain(rows.iter().map(shown)).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..R::COLUMNS.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Names are strangers' words: they must not write on the terminal what they like, nor fill it.
fn shown<R: Row>(row: &R) -> Vec<String> {
    let tame = |cell: String| -> String {
        let mut letters = cell.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter });
        let text: String = letters.by_ref().take(WIDEST).collect();
        if letters.next().is_some() { format!("{text}…") } else { text }
    };
    row.cells().into_iter().map(tame).collect()
}

/// Characters of a cell.
const WIDEST: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Fruit(&'static str, u32);

    impl Row for Fruit {
        const COLUMNS: &'static [&'static str] = &["NAME", "NUMBER"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string()]
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(table(&[Fruit("apple", 1), Fruit("pear", 20)]), "NAME   NUMBER\napple  1\npear   20\n");
        assert_eq!(table::<Fruit>(&[]), "NAME  NUMBER\n");
    }

    #[test]
    fn nobodys_name_writes_on_the_terminal() {
        let shown = table(&[Fruit("\u{1b}[2J\n\u{202e}x", 1)]);
        assert!(!shown.contains('\u{1b}') && shown.lines().count() == 2, "{shown:?}");
    }
}
