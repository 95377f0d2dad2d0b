use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

#[test]
fn what_was_found_once_is_not_found_again() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files.map(|file| file.expect("an entry").path()) {
            // So that a failure says which file it was.
            println!("{}", file.display());
            target(&fs::read(&file).expect("a file"));
            count += 1;
        }
        assert!((3..=80).contains(&count), "{name} has {count} inputs");
    }
}

/// One of the first, and now and then one of the others.
pub(crate) fn mostly(
    plain: &[&'static str],
    odd: &[&'static str],
) -> impl Strategy<Value = &'static str> + use<> {
    prop_oneof![24 => select(plain.to_vec()), 1 => select(odd.to_vec())]
}

/// The name as an upstream could still read it: any case, any of `-`, `_`, `.` or nothing between its letters.
fn spelling(name: &'static str) -> impl Strategy<Value = String> {
    let letters: Vec<char> = name.chars().filter(char::is_ascii_alphanumeric).collect();
    vec((select(vec!["", "", "", "-", "_", ".", "_-"]), any::<bool>()), letters.len()).prop_map(move |how| {
        let spelt = letters.iter().zip(how).map(|(letter, (between, upper))| {
            format!("{}{between}", if upper { letter.to_ascii_uppercase() } else { *letter })
        });
        spelt.collect()
    })
}

/// A header of the connection, of ours in some spelling, or one that may pass.
fn line() -> impl Strategy<Value = String> {
    let ours = prop_oneof![spelling("x-github-token"), spelling("authorization"), spelling("x-email")];
    let passing = select(vec![
        "Accept",
        "Content-Type",
        "Last-Event-ID",
        "MCP-Protocol-Version",
        "Mcp-Name",
        "mcp_session_id",
        "User-Agent",
        "Cache-Control",
        "Accept-Encoding",
    ]);
    let hop = select(vec![
        "TE",
        "Trailer",
        "Upgrade",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "Transfer-Encoding",
        "Set-Cookie",
        "Cookie",
        "Location",
        "Content-Security-Policy",
        "Host",
        "Via",
    ]);
    let value =
        select(vec!["evil", "no-store", "public, max-age=9", "private", "a\u{fc}", "Bearer gho_CANARY", ""]);
    let named = vec(prop_oneof![ours, passing.prop_map(str::to_owned), hop.prop_map(str::to_owned)], 1..4);
    (named, any::<bool>(), select(vec![",", ", ", " ,\t"]), value).prop_map(|(names, lists, comma, value)| {
        if lists { format!("Connection: {}", names.join(comma)) } else { format!("{}: {value}", names[0]) }
    })
}

/// A redirect URI that is nearly one of a few.
fn uri() -> impl Strategy<Value = String> {
    let scheme = select(vec!["http://", "http://", "https://", "cursor://", "HTTP://", "http:/"]);
    let host = select(vec![
        "localhost",
        "127.0.0.1",
        "[::1]",
        "app.example",
        "LOCALHOST",
        "127.1",
        "localhost.",
        "u@localhost",
    ]);
    let port = select(vec!["", "", ":", ":1", ":80", ":443", ":65535", ":65536", ":1:2"]);
    let tail = select(vec![
        "",
        "/",
        "/cb",
        "/cb/",
        "/cb?a=b",
        "/cb?a=b?",
        "/cb?",
        "?",
        "?x=/cb",
        "/../cb",
        "/cb?%63ode=x",
    ]);
    (scheme, host, port, tail).prop_map(|(scheme, host, port, tail)| format!("{scheme}{host}{port}{tail}"))
}

proptest! {
    // GT-09, GT-10, GT-12
    #[test]
    fn headers_of_the_connection_and_spellings_of_ours_go_neither_way(
        asked in vec(line(), 0..8),
        answered in vec(line(), 0..8),
        method in select(vec!["GET", "POST", "DELETE"]),
    ) {
        head(format!("{method} /mcp?a=b\n{}\n\n{}", asked.join("\n"), answered.join("\n")).as_bytes());
    }

    #[test]
    fn only_the_port_of_a_loopback_host_is_free(registered in uri(), asked in uri(), state in ".{0,12}") {
        redirect(format!("{registered}\n{asked}\n{}\n", state.replace('\n', "")).as_bytes());
    }

    #[test]
    fn a_resource_is_named_by_its_own_path(path in "[/mcpteamother.%2e?x#]{0,14}", at in select(vec!["https://p.test", "https://P.TEST:443", "http://p.test", "https:p.test", "https://p.test@evil"])) {
        redirect(format!("\n\n\n{at}{path}").as_bytes());
    }

    #[test]
    fn scopes_are_sorted_tokens_and_only_get_fewer(scopes in "[a-e:\"\\\\ \u{fc}\n]{0,60}") {
        forms(scopes.as_bytes());
    }

    #[test]
    fn parameters_come_once_and_as_text(form in "(([ab%61+]|%6[12]|%00|%ff|%C3%BC){0,3}(=[a&%+=]{0,4})?&?){0,6}") {
        forms(form.as_bytes());
    }

    #[test]
    fn session_ids_are_good_only_as_they_were_sealed(
        id in "[!-~]{1,40}|.{0,10}",
        changes in vec(any::<u8>(), 0..12),
    ) {
        crate::upstream::fuzzing::sessions(id.as_bytes(), &changes);
    }

    #[test]
    fn what_we_issue_is_good_only_as_it_was(claims in vec(any::<u8>(), 26), at in any::<u8>(), new in "[A-Za-z0-9_=-]") {
        sealed(&[claims.as_slice(), &[at, 0, new.as_bytes()[0]]].concat());
    }
}
