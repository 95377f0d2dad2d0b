//! GitHub's scopes: which of them contains which. An answer names the widest ones only (`user,user:email` comes
//! back as `user`).
//!
//! GitHub documentation, "Scopes for OAuth apps".

/// What was asked for and is not among what was granted.
pub fn missing<'a>(asked: &'a [String], granted: &[String]) -> Vec<&'a str> {
    beyond(asked, granted)
}

/// What was granted although nobody asked.
pub fn surplus<'a>(asked: &[String], granted: &'a [String]) -> Vec<&'a str> {
    beyond(granted, asked)
}

/// The scopes that none of the others contains.
fn beyond<'a>(scopes: &'a [String], others: &[String]) -> Vec<&'a str> {
    let covered = |scope: &&str| others.iter().any(|other| contains(other, scope));
    scopes.iter().map(String::as_str).filter(|scope| !covered(scope)).collect()
}

fn contains(wider: &str, narrower: &str) -> bool {
    if wider == narrower || narrower.split_once(':').is_some_and(|(_, object)| wider == object) {
        return true;
    }
    // user: user:email; repo: repo:status
    if narrower.strip_prefix(wider).is_some_and(|rest| rest.starts_with(':')) {
        return true;
    }
    match (wider.split_once(':'), narrower.split_once(':')) {
        (Some(("admin", one)), Some((_, other))) => one == other,
        (Some(("write", one)), Some(("read", other))) => one == other,
        _ => wider == "repo" && IN_REPO.contains(&narrower),
    }
}

const IN_REPO: [&str; 3] = ["repo_deployment", "public_repo", "security_events"];

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn wider_scopes_contain_narrower_ones_and_never_the_other_way() {
        for (wider, narrower) in [
            ("user", "read:user user:email user:follow"),
            ("repo", "repo:status public_repo repo:invite security_events repo_deployment repo"),
            ("admin:org", "write:org read:org manage_runners:org"),
            ("write:org", "read:org"),
            ("write:packages", "read:packages"),
            ("admin:repo_hook", "write:repo_hook read:repo_hook"),
            ("project", "read:project"),
            ("codespace", "codespace:secrets"),
            ("admin:enterprise", "read:enterprise manage_billing:enterprise"),
        ] {
            assert!(missing(&scopes(narrower), &scopes(wider)).is_empty(), "{wider}");
            for narrower in scopes(narrower).into_iter().filter(|narrower| narrower != wider) {
                assert_eq!(missing(&scopes(wider), std::slice::from_ref(&narrower)), [wider], "{narrower}");
            }
        }
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_named() {
        let (asked, granted) = (scopes("read:org read:user gist"), scopes("user repo"));
        assert_eq!(missing(&asked, &granted), ["read:org", "gist"]);
        assert_eq!(surplus(&asked, &granted), ["user", "repo"]);
        assert!(missing(&scopes("read:org"), &scopes("read:organisation user")).len() == 1);
    }
}
