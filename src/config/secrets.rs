//! Secrets that the operator gives: inline, in a file or in the environment, and none that anybody could guess.

use secrecy::SecretString;

use super::raw::{Environment, Node};

/// The app's secret at GitHub; left out, it is read from the environment.
pub(super) fn of_github(node: &Node<'_>, environment: Environment<'_>) -> Option<SecretString> {
    let (secret, file) = (node.get("client_secret"), node.get("client_secret_file"));
    match secret.exists() || file.exists() {
        true => given(&secret, &file, MIN_OF_GITHUB),
        false => {
            let text = from_environment(&secret, "MCP_GITHUB_CLIENT_SECRET", environment)?;
            strong(&secret, text, MIN_OF_GITHUB)
        }
    }
}

/// A configured client's secret: whoever guesses it is that client.
pub(super) fn of_client(inline: &Node<'_>, file: &Node<'_>) -> Option<SecretString> {
    given(inline, file, MIN_OF_CLIENT)
}

pub(super) fn from_environment(node: &Node<'_>, name: &str, environment: Environment<'_>) -> Option<String> {
    let value = environment(name).filter(|value| !value.trim().is_empty());
    if value.is_none() {
        node.problem(format_args!("is missing, and the environment variable {name} is not set"));
    }
    value
}

/// Written in the file (usually as `${NAME}`) or kept in a file of its own.
fn given(inline: &Node<'_>, file: &Node<'_>, min: usize) -> Option<SecretString> {
    if inline.exists() && file.exists() {
        file.problem("is given beside the secret itself; keep one of them");
        return None;
    }
    if !file.exists() {
        return strong(inline, inline.quoted()?, min);
    }
    let read =
        |path: &str| std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
    let text = file.parsed(read)?.trim().to_owned();
    strong(file, text, min)
}

fn strong(node: &Node<'_>, text: String, min: usize) -> Option<SecretString> {
    match weakness(&text, min) {
        Some(problem) => {
            node.problem(problem);
            None
        }
        None => Some(SecretString::from(text)),
    }
}

/// Never repeats the secret.
fn weakness(text: &str, min: usize) -> Option<String> {
    let text = text.trim();
    let letters: String = text.chars().filter(|letter| letter.is_alphanumeric()).collect();
    let shape = text.contains("...") || text.contains('…') || (text.starts_with('<') && text.ends_with('>'));
    let Some(first) = text.chars().next() else { return Some("is empty".to_owned()) };
    if EXAMPLES.contains(&letters.to_lowercase().as_str()) || shape {
        Some("is an example, not a secret".to_owned())
    } else if text.chars().all(|letter| letter == first) {
        Some("is one character over and over, not a secret".to_owned())
    } else if text.chars().count() < min {
        Some(format!("is too short to be a secret: expected at least {min} characters"))
    } else {
        None
    }
}

/// What documents, ours and others', write where a secret belongs; letters and digits, in lower case.
const EXAMPLES: [&str; 16] = [
    "changeme",
    "changethis",
    "replaceme",
    "yourclientsecret",
    "yourgithubclientsecret",
    "yoursecret",
    "yoursecrethere",
    "clientsecret",
    "githubclientsecret",
    "mcpgithubclientsecret",
    "myclientsecret",
    "secret",
    "password",
    "placeholder",
    "example",
    "todo",
];
/// GitHub makes 40 characters; a truncated paste should be told as such, GitHub itself tells the rest.
const MIN_OF_GITHUB: usize = 6;
/// Below it guessing is no longer hopeless at the rate that `limits:` leave a guesser (43 000 a day per address).
const MIN_OF_CLIENT: usize = 12;
