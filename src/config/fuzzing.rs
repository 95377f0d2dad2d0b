//! Properties of the configuration: it is taken or refused, and says nothing of its secrets either way.

use serde_json::Value;

use super::raw::{self, Problems};
use super::{Config, Problem};

/// A whole proxy.yaml; a single line is tried as a secret too, written without quotes where secrets go.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Files are the operator's to choose; a fuzzer must not choose /dev/zero.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let outcome = Config::parse(&text, &environment);
    let secrets = secrets(&text);
    silent(&outcome, &secrets);
    if !text.contains(['\n', '\r']) && !text.contains("${") {
        spliced(&text);
    }
}

fn environment(name: &str) -> Option<String> {
    match name {
        "MCP_GITHUB_CLIENT_ID" => Some("Ov23liEXAMPLE".to_owned()),
        "MCP_GITHUB_CLIENT_SECRET" => Some(FROM_ENVIRONMENT.to_owned()),
        _ => None,
    }
}

/// Neither the problems nor the debug output of a valid configuration hold a secret.
fn silent(outcome: &Result<Config, Vec<Problem>>, secrets: &[String]) {
    let shown = match outcome {
        Ok(config) => format!("{config:?}"),
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            problems.iter().map(|problem| format!("{problem}\n")).collect()
        }
    };
    for secret in secrets {
        assert!(!shown.contains(secret.as_str()), "{secret:?} is shown in {shown:?}");
    }
}

/// What is written where secrets go and nowhere else.
fn secrets(text: &str) -> Vec<String> {
    let tree = raw::parse(text, &environment, &Problems::default());
    let mut secrets = Vec::new();
    let mut add = |value: Option<&Value>| secrets.extend(value.and_then(Value::as_str).map(str::to_owned));
    add(tree.get("github").and_then(|github| github.get("client_secret")));
    let items = |key: &str| tree.get(key).and_then(Value::as_array).into_iter().flatten();
    items("clients").for_each(|client| add(client.get("secret")));
    items("keys").for_each(|key| add(Some(key)));
    if !text.contains("${") {
        secrets.push(FROM_ENVIRONMENT.to_owned());
    }
    // A secret that is a word of ours, or stands elsewhere too, may be shown from there.
    secrets.retain(|secret| is_telling(secret) && text.matches(secret.as_str()).count() <= 1);
    secrets
}

fn is_telling(secret: &str) -> bool {
    let has = |class: fn(&u8) -> bool| secret.as_bytes().iter().any(class);
    secret.len() >= 8 && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
}

/// However YAML reads what an operator pasted, no word of it is repeated.
fn spliced(secret: &str) {
    let words = secret.split(|c: char| !c.is_ascii_alphanumeric() && !"_-+/".contains(c));
    let words: Vec<String> = words.filter(|word| is_telling(word)).map(str::to_owned).collect();
    for text in [
        format!("{START}github: {{client_id: a}}\nkeys:\n  - {secret}\n{END}"),
        format!("{START}github:\n  client_id: a\n  client_secret: {secret}\n{END}"),
        format!(
            "{START}clients:\n  - id: a\n    secret: {secret}\n    redirect_uris: [http://localhost/]\n{END}"
        ),
    ] {
        silent(&Config::parse(&text, &environment), &words);
    }
}

const FROM_ENVIRONMENT: &str = "c4nary-from-environment";
const START: &str = "public_url: https://mcp.example.com\nallow: anyone\n";
const END: &str = "resources: [{path: /mcp, upstream: \"http://127.0.0.1/\"}]\n";
