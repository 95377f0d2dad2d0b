//! proxy.yaml as a tree whose every value knows its path, so that all problems can be told at once.
//!
//! Expands `${NAME}` and `${NAME:-default}` once in scalar values. Knows no key of ours; `resolve.rs` does.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use serde_json::Value;
use serde_saphyr::Error;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Like `resources[0].upstream`; empty for the file as a whole.
    pub path: String,
    /// What was expected, and what was found unless it could be a secret.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.text),
            path => write!(f, "{path}: {}", self.text),
        }
    }
}

/// Collects problems while the tree is read.
#[derive(Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Notes one.
    pub fn add(&self, path: &str, text: impl fmt::Display) {
        self.0.borrow_mut().push(Problem { path: path.to_owned(), text: text.to_string() });
    }

    /// All that were noted, in the order of the file's keys as they were read.
    pub fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }

    /// Whether nothing was wrong.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// Looks up environment variables.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads YAML into a tree and expands variables; syntax errors come with line and column.
pub fn parse(text: &str, environment: Environment<'_>, problems: &Problems) -> Value {
    // Snippets would print neighbouring secrets.
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_str_with_options::<Value>(text, options) {
        Ok(mut tree) => {
            expand(&mut tree, "", environment, problems);
            tree
        }
        Err(error) => {
            problems.add("", format_args!("not valid YAML: {}", told(&error)));
            Value::Null
        }
    }
}

/// The parser's words without what it stumbled over: that may be a secret.
fn told(error: &Error) -> String {
    let what = match error {
        Error::DuplicateMappingKey { .. } => "duplicate mapping key",
        Error::NonFiniteFloat { .. } => "a number beyond all numbers, put it in quotes",
        Error::UnsupportedTag { .. } => "unsupported tag",
        _ => return error.to_string(),
    };
    match error.location() {
        Some(place) => format!("{what} at line {}, column {}", place.line(), place.column()),
        None => what.to_owned(),
    }
}

fn expand(value: &mut Value, path: &str, environment: Environment<'_>, problems: &Problems) {
    match value {
        Value::String(text) if text.contains("${") => match expanded(text, environment) {
            Ok(expanded) => *text = expanded,
            Err(problem) => {
                problems.add(path, problem);
                // Told once; the readers below must not complain about the same place again.
                *value = Value::String(UNSET.to_owned());
            }
        },
        Value::Array(items) => {
            let items = items.iter_mut().enumerate();
            items.for_each(|(at, item)| expand(item, &format!("{path}[{at}]"), environment, problems));
        }
        Value::Object(fields) => {
            let fields = fields.iter_mut();
            fields.for_each(|(key, field)| expand(field, &join(path, key), environment, problems));
        }
        _ => {}
    }
}

/// Replaces `${NAME}` and `${NAME:-default}`.
pub fn expanded(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("has a ${ without its }")?;
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (name, None),
        };
        let value = environment(name).filter(|value| !value.is_empty());
        let value = value.or_else(|| default.map(str::to_owned));
        out.push_str(before);
        out.push_str(&value.ok_or_else(|| format!("the environment variable {name} is not set"))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// One value of the tree, or its absence, with its path.
#[derive(Clone)]
pub struct Node<'a> {
    path: String,
    value: Option<&'a Value>,
    problems: &'a Problems,
}

impl<'a> Node<'a> {
    /// The whole file.
    pub fn root(value: &'a Value, problems: &'a Problems) -> Self {
        Node { path: String::new(), value: Some(value), problems }.present()
    }

    /// The value under a key.
    pub fn get(&self, key: &str) -> Node<'a> {
        let value = self.value.and_then(|value| value.get(key));
        Node { path: join(&self.path, key), value, problems: self.problems }.present()
    }

    /// `key:` without a value is the same as no key.
    fn present(mut self) -> Self {
        self.value = self.value.filter(|value| !value.is_null());
        self
    }

    /// Whether something is written there.
    pub fn exists(&self) -> bool {
        self.value.is_some()
    }

    /// Whether the value was lost to an unset variable, which has been told already.
    pub fn is_unset(&self) -> bool {
        self.value == Some(&Value::String(UNSET.to_owned()))
    }

    /// Notes a problem with this value.
    pub fn problem(&self, text: impl fmt::Display) {
        self.problems.add(&self.path, text);
    }

    /// Notes a problem that may be no more than the consequence of one told already, here or below.
    pub fn problem_unless_told(&self, text: impl fmt::Display) {
        let is_below = |problem: &Problem| match problem.path.strip_prefix(&self.path) {
            Some(rest) => rest.is_empty() || rest.starts_with(['.', '[']),
            None => false,
        };
        let told = self.problems.0.borrow().iter().any(is_below);
        if !told {
            self.problem(text);
        }
    }

    /// Refuses keys that nobody reads: a misspelt key must not be a silently missing one. Says whether there
    /// is anything to read, be it nothing but defaults.
    pub fn only(&self, known: &[&str]) -> bool {
        let Some(value) = self.value else { return true };
        let Value::Object(fields) = value else {
            if !self.is_unset() {
                self.problem(format_args!("expected a mapping with {}", known.join(", ")));
            }
            return false;
        };
        for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
            let near = known.iter().find(|known| is_near(known, key));
            let hint = match near {
                Some(near) => format!("unknown key; did you mean {near}?"),
                None => format!("unknown key; known here: {}", known.join(", ")),
            };
            self.problems.add(&join(&self.path, key), hint);
        }
        true
    }

    /// A text; numbers and booleans count as what was written.
    pub fn text(&self) -> Option<String> {
        match self.value? {
            Value::String(text) if text == UNSET => None,
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            // `{github_token}` without quotes is a mapping to YAML.
            Value::Object(_) => {
                self.problem("expected a text; if it has braces, put it in quotes");
                None
            }
            _ => {
                self.problem("expected a text");
                None
            }
        }
    }

    /// A text that must stay as it was written. YAML would drop the zeros of a number and work out an
    /// exponent, and ids and secrets can look like either.
    pub fn quoted(&self) -> Option<String> {
        match self.value? {
            Value::Number(_) | Value::Bool(_) => {
                self.problem("is read as a number or a truth value; put it in quotes");
                None
            }
            _ => self.text(),
        }
    }

    /// Whether a text is written there.
    pub fn is_text(&self) -> bool {
        matches!(self.value, Some(Value::String(_)))
    }

    /// Whether a list is written there.
    pub fn is_list(&self) -> bool {
        matches!(self.value, Some(Value::Array(_)))
    }

    /// Notes when nothing is written there.
    pub fn required(&self) {
        if !self.exists() {
            self.problem("is missing");
        }
    }

    /// A text read by `parse`, whose error becomes the problem.
    pub fn parsed<T, E: fmt::Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        parse(&self.text()?).map_err(|error| self.problem(error)).ok()
    }

    /// `true` or `false`.
    pub fn truth(&self, default: bool) -> bool {
        let read = self.parsed(|text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("expected true or false, got {other:?}")),
        });
        read.unwrap_or(default)
    }

    /// A duration like `6s`, `15m`, `8h` or `30d`.
    pub fn duration(&self, default: Duration) -> Duration {
        self.parsed(duration).unwrap_or(default)
    }

    /// The items of a list; one that is absent is empty.
    pub fn items(&self) -> Vec<Node<'a>> {
        match self.value {
            Some(Value::Array(items)) => {
                let path = |at| format!("{}[{at}]", self.path);
                let node = |(at, value)| Node { path: path(at), value: Some(value), problems: self.problems };
                items.iter().enumerate().map(node).collect()
            }
            Some(_) if self.is_unset() => Vec::new(),
            Some(_) => {
                self.problem("expected a list");
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// The entries of a mapping whose keys are the operator's own.
    pub fn entries(&self) -> Vec<(String, Node<'a>)> {
        match self.value {
            Some(Value::Object(fields)) => fields.keys().map(|key| (key.clone(), self.get(key))).collect(),
            Some(_) if self.is_unset() => Vec::new(),
            Some(_) => {
                self.problem("expected a mapping");
                Vec::new()
            }
            None => Vec::new(),
        }
    }
}

/// Reads `6s`, `15m`, `8h`, `30d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("expected a duration like 6s, 15m, 8h or 30d, got {text:?}");
    let unit = text.chars().last().ok_or_else(problem)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(problem()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| problem())?;
    match u64::from(number) * seconds {
        0 => Err("must be longer than nothing".to_owned()),
        seconds if seconds > MAX_SECONDS => Err("must be shorter than ten years".to_owned()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The same but for separators, case or one letter that is missing or too many.
fn is_near(known: &str, key: &str) -> bool {
    let letters = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let (known, key) = (letters(known), letters(key));
    let lacks_one = |long: &str, short: &str| {
        long.len() == short.len() + 1
            && (0..long.len()).any(|at| long[..at] == short[..at] && long[at + 1..] == short[at..])
    };
    known == key || lacks_one(&known, &key) || lacks_one(&key, &known)
}

const MAX_SECONDS: u64 = 3_650 * 86_400;
/// Stands for a value whose variable is not set; cannot be written in YAML.
const UNSET: &str = "\u{0}unset";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_refuse() {
        assert_eq!(duration("6s"), Ok(Duration::from_secs(6)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(2_592_000)));
        for bad in ["", "6", "s", "-1s", "1.5h", "0s", "99999d", "6 s", "6S", "4294967296s", "6ü"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_expand_once_with_defaults() {
        let environment = |name: &str| (name == "A").then(|| "x${B}".to_owned());
        assert_eq!(expanded("<${A}|${C:-d}>", &environment), Ok("<x${B}|d>".to_owned()));
        assert!(expanded("${B}", &environment).unwrap_err().contains("B is not set"));
        assert!(expanded("${B", &environment).is_err());
    }

    #[test]
    fn duplicate_keys_and_syntax_errors_are_told_with_their_place() {
        for bad in ["a: 1\na: 2\n", "a: [1\n", "a: \"x"] {
            let problems = Problems::default();
            parse(bad, &|_| None, &problems);
            let [problem] =
                problems.into_vec().try_into().unwrap_or_else(|other| panic!("{bad:?}: {other:?}"));
            assert!(problem.text.contains("line"), "{problem}");
        }
    }
}
