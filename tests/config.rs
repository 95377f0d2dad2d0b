//! proxy.yaml: what is taken, what is refused with which words, and that the shipped file tells the truth.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcp_auth_proxy::config::{Allow, Config, Problem, StoreConfig};
use mcp_auth_proxy::limit::Rate;
use mcp_auth_proxy::telemetry::audit::Destination;
use support::TempDir;
use support::proxy::parse;

const SHIPPED: &str = include_str!("../proxy.yaml");

/// As a container would set it.
fn environment(name: &str) -> Option<String> {
    let set = [
        ("MCP_GITHUB_CLIENT_ID", "Ov23liEXAMPLE"),
        ("MCP_GITHUB_CLIENT_SECRET", "CANARY-from-environment"),
        ("HOST", "mcp.example.com"),
        ("ID", "1234567e89"),
        ("SECRET", "CANARY-${HOST}"),
        ("USER_ONE", "octocat"),
        ("EMPTY", ""),
        ("PORT", "9000"),
        ("SIZE", "1MiB"),
        ("WORKERS", "3"),
        ("ISS", "false"),
    ];
    set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn with_environment(text: &str) -> Result<Config, Vec<Problem>> {
    Config::parse(text, &environment)
}

#[track_caller]
fn valid(text: &str) -> Config {
    with_environment(text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

/// The yaml files of a folder, by name.
fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let paths = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|kind| kind == "yaml")).collect();
    paths.sort();
    assert!(paths.len() > 3);
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).expect("text"))).collect()
}

fn shown(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

// === Files ===

#[test]
fn every_valid_file_is_taken() {
    for (path, text) in files("tests/config/valid") {
        let config = with_environment(&text)
            .unwrap_or_else(|problems| panic!("{}: {}", path.display(), shown(&problems)));
        assert!(!format!("{config:?}").contains("CANARY"), "{} shows a secret", path.display());
    }
}

/// All problems at once, each with its path and none with a secret.
#[test]
fn every_invalid_file_is_refused_with_the_words_beside_it() {
    for (path, text) in files("tests/config/invalid") {
        let problems = parse(&text).err().unwrap_or_else(|| panic!("{} is valid", path.display()));
        let expected = std::fs::read_to_string(path.with_extension("problems")).expect("the words beside it");
        assert_eq!(shown(&problems), expected, "{}", path.display());
        assert!(!expected.contains("CANARY"), "{} shows a secret", path.display());
        let distinct: BTreeSet<&Problem> = problems.iter().collect();
        assert_eq!(distinct.len(), problems.len(), "{} says something twice", path.display());
    }
}

#[test]
fn a_file_that_is_not_there_is_one_problem() {
    let problems = Config::load(Path::new("/nonexistent/proxy.yaml")).expect_err("no file");
    assert_eq!(shown(&problems), "cannot read the file: No such file or directory (os error 2)\n");
}

// === What was written is what counts ===

#[test]
fn everything_that_is_written_is_read() {
    let config = valid(include_str!("config/valid/everything.yaml"));
    assert_eq!(config.issuer.as_str(), "https://mcp.example.com:8443");
    assert_eq!(config.callback_url(), "https://mcp.example.com:8443/github/callback");
    assert_eq!(config.listen.to_string(), "0.0.0.0:9443");
    assert_eq!(config.github.base_url, "https://github.com");
    assert_eq!(config.github.api_url, "https://api.github.com");
    let Allow::Listed { users, orgs, teams } = &config.allow else { panic!("{:?}", config.allow) };
    assert_eq!((users, orgs), (&vec!["octocat".into(), "583231".into()], &vec!["my-company".to_owned()]));
    assert_eq!(teams, &[("my-company".to_owned(), "platform".to_owned())]);
    let [mcp, other] = &config.resources[..] else { panic!("two resources") };
    assert_eq!(mcp.resource.url(), "https://mcp.example.com:8443/mcp");
    assert_eq!(mcp.upstreams, ["https://mcp.internal:9443/mcp?tenant=1"]);
    // user:email and read:org because inject and allow cannot work without them.
    assert_eq!(mcp.github_scopes, ["read:org", "read:user", "repo", "user:email"]);
    assert_eq!(mcp.inject.len(), 3);
    assert_eq!(mcp.resource.scopes().to_string(), "read write");
    assert_eq!(
        (mcp.connect_timeout, mcp.response_timeout),
        (Duration::from_secs(1), Duration::from_secs(120))
    );
    assert_eq!(mcp.max_body, 512 << 10);
    assert_eq!(other.resource.path(), "/team/other-2.x_y~z");
    assert_eq!(config.store, StoreConfig::Sqlite("/var/lib/mcp/proxy.db".into()));
    assert_eq!(config.store_connections, 33);
    assert_eq!((config.drain, config.drain_delay), (Duration::from_secs(20), Duration::from_secs(3)));
    assert_eq!(config.metrics.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:9464"));
    assert_eq!(config.audit, Some(Destination::File("/var/log/mcp/audit.jsonl".into())));
    let traces = config.traces.as_ref().expect("traces");
    assert_eq!(
        (traces.endpoint.as_str(), traces.service.as_str()),
        ("http://127.0.0.1:4318/v1/traces", "mine")
    );
    assert!((traces.sample - 0.25).abs() < f64::EPSILON);
    let tokens = &config.lifetimes;
    assert_eq!(tokens.access, Duration::from_secs(3_600));
    assert_eq!(tokens.refresh_idle, Duration::from_secs(7 * 86_400));
    assert_eq!(tokens.refresh_max, Duration::from_secs(90 * 86_400));
    assert_eq!(tokens.refresh_grace, Duration::from_secs(600));
    assert!(!config.registration && !config.private_use_schemes && !config.iss);
    assert_eq!(config.clients.len(), 2);
    assert_eq!(config.clients[0].0.name, "My client");
    assert!(config.clients[0].1.is_some() && config.clients[1].1.is_none());
    assert!(!config.client_metadata.enabled && config.client_metadata.allow_private_addresses);
    assert_eq!(config.client_metadata.allow_hosts, ["claude.ai"]);
    assert_eq!(config.keys.len(), 2);
    assert_eq!(config.trusted_proxies.len(), 3);
    assert_eq!(config.allowed_origins, ["https://app.example.com", "http://intranet:8080"]);
    let limits = &config.limits;
    assert_eq!((limits.connections, limits.connections_per_address), (Some(5_000), Some(100)));
    assert_eq!((limits.streams_per_person, limits.head_timeout), (20, Duration::from_secs(10)));
    assert_eq!(
        (limits.body_timeout, limits.write_timeout),
        (Duration::from_secs(60), Duration::from_secs(300))
    );
    let rates = &limits.rates;
    let rate = |count, seconds| Some(Rate::new(count, Duration::from_secs(seconds)));
    assert_eq!((rates.register, rates.authorize), (rate(10, 1), rate(11, 120)));
    assert_eq!((rates.callback, rates.bad_callbacks), (rate(12, 10_800), rate(13, 86_400)));
    assert_eq!((rates.metadata_fetches, rates.bad_secrets), (rate(14, 60), rate(15, 60)));
    assert_eq!((rates.bad_grants, rates.bad_bearers), (rate(16, 60), rate(17, 60)));
    assert_eq!((rates.ended_logins, rates.logins, rates.refreshes), (None, None, rate(u32::MAX, 60)));
    assert_eq!((config.workers, config.drain), (2, Duration::from_secs(20)));
}

#[test]
fn enterprise_hosts_have_their_own_api() {
    for (file, api) in [
        (include_str!("config/valid/enterprise_server.yaml"), "https://github.corp.example/api/v3"),
        (include_str!("config/valid/enterprise_cloud.yaml"), "https://api.octo.ghe.com"),
        (include_str!("config/valid/minimal.yaml"), "https://api.github.com"),
    ] {
        assert_eq!(valid(file).github.api_url, api);
    }
}

#[test]
fn github_scopes_are_what_is_written_and_what_we_need() {
    for (file, scopes) in [
        (include_str!("config/valid/github_app.yaml"), [].as_slice()),
        (include_str!("config/valid/minimal.yaml"), &["read:user"]),
        (include_str!("config/valid/laptop.yaml"), &["read:user", "user:email"]),
    ] {
        assert_eq!(valid(file).resources[0].github_scopes, scopes, "{file}");
    }
}

#[test]
fn without_listen_the_port_of_a_local_public_url_is_taken() {
    assert_eq!(valid(include_str!("config/valid/laptop.yaml")).listen.to_string(), "127.0.0.1:3000");
    assert_eq!(valid(include_str!("config/valid/minimal.yaml")).listen.to_string(), "127.0.0.1:8000");
    assert_eq!(valid(include_str!("config/valid/empty_values.yaml")).listen.to_string(), "127.0.0.1:8000");
}

/// Once, in values only; an empty variable is an unset one.
#[test]
fn variables_are_expanded_in_values() {
    use secrecy::ExposeSecret as _;
    let config = valid(include_str!("config/valid/variables.yaml"));
    assert_eq!(config.issuer.as_str(), "https://mcp.example.com");
    assert_eq!(config.github.client_id, "1234567e89", "not a number");
    assert_eq!(config.github.client_secret.expose_secret(), "CANARY-${HOST}", "not expanded again");
    let Allow::Listed { users, .. } = &config.allow else { panic!("{:?}", config.allow) };
    assert_eq!(users, &["octocat", "hubot"]);
    let resource = &config.resources[0];
    assert_eq!(resource.resource.path(), "/mcp");
    assert_eq!(resource.upstreams, ["http://127.0.0.1:9000/mcp"]);
    assert_eq!((resource.max_body, config.workers, config.iss), (1 << 20, 3, false));
}

#[test]
fn secrets_may_live_in_files() {
    use secrecy::ExposeSecret as _;
    let dir = TempDir::new();
    let write = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).expect("writes");
        file.display().to_string()
    };
    let (github, client) = (write("github", "CANARY one\n"), write("client", "  CANARY-two-9f86d081\r\n"));
    let keys = write(
        "keys",
        "\nTeNPs6a3vH1Bw0b1sXzJ4m8rQ5yK2pL9dF6gH7jU8kI=\n\n  UeNPs6a3vH1Bw0b1sXzJ4m8rQ5yK2pL9dF6gH7jU8kI\n",
    );
    let yaml = format!(
        "public_url: https://mcp.example.com\ngithub: {{client_id: a, client_secret_file: '{github}'}}\nallow: anyone\n\
         resources: [{{path: /mcp, upstream: http://127.0.0.1/}}]\nkeys_file: '{keys}'\n\
         clients: [{{id: a, secret_file: '{client}', redirect_uris: [https://a.example/]}}]\n"
    );
    let config = valid(&yaml);
    assert_eq!(config.github.client_secret.expose_secret(), "CANARY one");
    assert_eq!(
        config.clients[0].1.as_ref().map(|secret| secret.expose_secret()),
        Some("CANARY-two-9f86d081")
    );
    assert_eq!(config.keys.len(), 2);
    // Bad contents are told by the file's place, without a word of what is in it.
    for (name, text) in [("github", " \n"), ("client", ""), ("keys", "CANARY\n"), ("keys", "\n")] {
        let good = std::fs::read_to_string(dir.path().join(name)).expect("text");
        write(name, text);
        let problems = with_environment(&yaml).err().unwrap_or_else(|| panic!("{name}: {text:?} is taken"));
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        let place = match name {
            "github" => "github.client_secret_file",
            "client" => "clients[0].secret_file",
            _ => "keys_file",
        };
        assert_eq!(problem.path, place);
        assert!(!problem.text.contains("CANARY"), "{problem}");
        write(name, &good);
    }
}

#[test]
fn a_ca_file_that_is_no_certificate_is_refused() {
    let dir = TempDir::new();
    let file = dir.path().join("ca.pem");
    let yaml = |file: &Path| {
        format!(
            "public_url: https://mcp.example.com\nallow: anyone\nresources: [{{path: /mcp, upstream: http://127.0.0.1/}}]\n\
             client_metadata: {{ca_file: '{}'}}\n",
            file.display()
        )
    };
    for text in ["", "hello", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&file, text).expect("writes");
        let problems = with_environment(&yaml(&file)).err().unwrap_or_else(|| panic!("{text:?} is taken"));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].path, "client_metadata.ca_file");
    }
}

/// `on`, `off`, `true` and their quoted forms.
#[test]
fn switches_read_what_people_write() {
    for (text, open) in
        [("open", true), ("off", false), ("'off'", false), ("true", true), ("false", false), ("on", true)]
    {
        let yaml = format!("{}registration: {text}\n", include_str!("config/valid/minimal.yaml"));
        assert_eq!(valid(&yaml).registration, open, "{text}");
    }
}

// === The shipped file ===

#[test]
fn the_shipped_file_needs_two_variables_and_nothing_else() {
    let config = valid(SHIPPED);
    assert_eq!(config.issuer.as_str(), "http://localhost:8000");
    assert_eq!(config.callback_url(), "http://localhost:8000/github/callback");
    let problems = parse(SHIPPED).expect_err("nothing is set");
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["github.client_id", "github.client_secret"]);
}

/// Every key that the program reads is in the file, and every default it names is the default.
#[test]
fn the_shipped_file_documents_every_key_and_tells_the_truth() {
    let keys = known_keys();
    assert!(keys.len() > 35, "{keys:?}");
    // An alternative at the end of another key's line counts as well.
    let written: BTreeSet<&str> =
        SHIPPED.split_whitespace().filter_map(|word| word.strip_suffix(':')).collect();
    for key in &keys {
        assert!(written.contains(key.as_str()), "{key} is not in proxy.yaml");
    }
    // What is commented out with its default changes nothing when it is not.
    let defaults: BTreeMap<&str, usize> = DEFAULTS.iter().map(|key| (*key, 0)).collect();
    let mut found = defaults.clone();
    let mut uncommented = String::new();
    for line in SHIPPED.lines() {
        match line.split_once('#') {
            Some((indent, rest))
                if indent.trim().is_empty() && key_of(line).is_some_and(|key| defaults.contains_key(key)) =>
            {
                *found.get_mut(key_of(line).expect("a key")).expect("known") += 1;
                uncommented.push_str(&format!("{indent}{}\n", rest.strip_prefix(' ').unwrap_or(rest)));
            }
            _ => uncommented.push_str(&format!("{line}\n")),
        }
    }
    for (key, times) in found {
        let places = DEFAULTS.iter().filter(|known| **known == key).count();
        assert_eq!(times, places, "{key} is there once in every place, with its default");
    }
    assert_eq!(format!("{:?}", valid(&uncommented)), format!("{:?}", valid(SHIPPED)), "{uncommented}");
    // And what the file sets itself is what one gets without it.
    for set in ["listen", "store"] {
        let without: String = SHIPPED
            .lines()
            .filter(|line| key_of(line) != Some(set))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(format!("{:?}", valid(&without)), format!("{:?}", valid(SHIPPED)), "{set}");
    }
}

/// Keys that proxy.yaml shows with their default, commented out.
const DEFAULTS: [&str; 38] = [
    "ca_file",
    "base_url",
    "api_url",
    "scopes",
    "connect_timeout",
    "response_timeout",
    "max_body",
    "tokens",
    "access",
    "refresh_idle",
    "refresh_max",
    "refresh_grace",
    "registration",
    "private_use_schemes",
    "client_metadata",
    "enabled",
    "allow_hosts",
    "ca_file",
    "allow_private_addresses",
    "keys",
    "keys_file",
    "iss",
    "limits",
    "register",
    "authorize",
    "callback",
    "bad_callbacks",
    "metadata_fetches",
    "bad_secrets",
    "bad_grants",
    "bad_bearers",
    "ended_logins",
    "logins",
    "refreshes",
    "allowed_origins",
    "drain",
    "drain_delay",
    "store_connections",
];

/// The key that a line sets or would set.
fn key_of(line: &str) -> Option<&str> {
    let text = line.trim_start().trim_start_matches('#').trim_start().trim_start_matches("- ");
    let (key, rest) = text.split_once(':')?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (is_key && (rest.is_empty() || rest.starts_with(' '))).then_some(key)
}

/// Every key in a list that `Node::only` is given, read off the sources.
fn known_keys() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let mut keys = BTreeSet::new();
    for file in std::fs::read_dir(folder).expect("a folder") {
        let text = std::fs::read_to_string(file.expect("an entry").path()).expect("text");
        for start in ["only(&[", "KEYS: [&str; "] {
            for list in text.split(start).skip(1) {
                let list = list.split(']').find(|part| part.contains('"')).unwrap_or_default();
                keys.extend(list.split('"').skip(1).step_by(2).map(str::to_owned));
            }
        }
    }
    keys
}

/// The compose example with the environment it ships.
#[test]
fn the_compose_example_is_taken_with_its_own_environment() {
    let lines = include_str!("../examples/compose/.env.example").lines();
    let set: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once('=')).collect();
    let yaml = include_str!("../examples/compose/proxy.yaml");
    let mut set: BTreeMap<&str, String> =
        set.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    // SE-05: who has not filled it in yet is told so.
    let config = Config::parse(yaml, &|name| set.get(name).cloned());
    let problems = config.expect_err("the placeholder is no secret");
    assert_eq!(problems[0].to_string(), "github.client_secret: is an example, not a secret");
    assert_eq!(problems.len(), 1);
    set.insert("MCP_GITHUB_CLIENT_SECRET", "CANARY-filled-in".to_owned());
    let config = Config::parse(yaml, &|name| set.get(name).cloned());
    let config = config.unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(config.listen.to_string(), "0.0.0.0:8000");
}

/// The example of two replicas, with its environment filled in.
#[test]
fn the_example_of_replicas_is_taken_once_it_is_filled_in() {
    let lines = include_str!("../examples/replicas/.env.example").lines();
    let mut set: BTreeMap<&str, String> =
        lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name, value.to_owned())).collect();
    set.insert("MCP_GITHUB_CLIENT_SECRET", "CANARY-filled-in".to_owned());
    set.insert("MCP_KEY", "TeNPs6a3vH1Bw0b1sXzJ4m8rQ5yK2pL9dF6gH7jU8kI=".to_owned());
    set.insert("POSTGRES_PASSWORD", "CANARY".to_owned());
    let yaml = include_str!("../examples/replicas/proxy.yaml");
    let config = Config::parse(yaml, &|name| set.get(name).cloned());
    let config = config.unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(config.store.is_shared());
    assert_eq!(config.store.to_string(), "postgres://postgres:5432/mcp");
    let balancer = include_str!("../examples/replicas/haproxy.cfg");
    assert!(balancer.contains("GET /readyz") && balancer.contains("timeout http-keep-alive 25s"));
    assert!(
        config.limits.head_timeout > Duration::from_secs(25),
        "kept open for longer than the balancer does"
    );
}

/// The configuration on the README's first screen is what it says: eight lines, and all that is needed.
#[test]
fn the_configuration_of_the_readme_is_taken() {
    let readme = include_str!("../README.md");
    let yaml = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    assert_eq!(yaml.lines().count(), 8, "{yaml}");
    let config = valid(yaml);
    assert_eq!(config.resources.len(), 1);
    assert_eq!(config.resources[0].inject[0].name, "x-github-token");
}
