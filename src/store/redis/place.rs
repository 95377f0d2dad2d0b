//! Where a Redis is, as `store:` writes it.

use std::fmt;

use redis::IntoConnectionInfo as _;
use url::Url;

/// A Redis, with the password it wants; shows no more than where it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    kind: Kind,
    shown: String,
    sentinels_want_it: bool,
}

/// URLs as the client library reads them.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    One(String),
    Cluster(Vec<String>),
    Sentinel {
        sentinels: Vec<String>,
        master: String,
        /// Of the servers that they name, whose host is not known before.
        data: String,
    },
}

impl Place {
    /// Reads `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, `rediss://…` for TLS, `redis+unix:///PATH`, with `redis+cluster`
    /// or `rediss+cluster` one to many `HOST:PORT,…` of a Cluster, and with `redis+sentinel` or `rediss+sentinel` those
    /// of Sentinels, and `?master=NAME` (`&sentinel_auth=true` when they want the same password).
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
        let place = match scheme {
            "redis" | "rediss" => {
                let url = whole(text)?;
                Place {
                    shown: shown(scheme, &[host_of(&url)], url.path()),
                    kind: Kind::One(text.to_owned()),
                    sentinels_want_it: false,
                }
            }
            "redis+unix" => {
                let url = whole(text)?;
                let shown = format!("redis+unix://{}", url.path());
                Place { shown, kind: Kind::One(text.to_owned()), sentinels_want_it: false }
            }
            "redis+cluster" | "rediss+cluster" => {
                let base = scheme.trim_end_matches("+cluster");
                let (credentials, hosts, path, _) = parts(rest);
                if !matches!(path, "" | "/") {
                    return Err("a Redis Cluster has one database and takes no number of one".to_owned());
                }
                let urls: Vec<String> =
                    hosts.iter().map(|host| format!("{base}://{credentials}{host}")).collect();
                for url in &urls {
                    whole(url)?;
                }
                Place {
                    shown: shown(scheme, &hosts, ""),
                    kind: Kind::Cluster(urls),
                    sentinels_want_it: false,
                }
            }
            "redis+sentinel" | "rediss+sentinel" => {
                let base = scheme.trim_end_matches("+sentinel");
                let (credentials, hosts, path, query) = parts(rest);
                let pairs: Vec<(String, String)> =
                    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
                let find = |name: &str| {
                    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
                };
                if let Some((unknown, _)) =
                    pairs.iter().find(|(name, _)| !["master", "sentinel_auth"].contains(&name.as_str()))
                {
                    return Err(format!("unknown parameter {unknown:?}; known: master, sentinel_auth"));
                }
                let master = find("master").filter(|name| !name.is_empty());
                let master = master.ok_or("needs ?master=NAME, the name that Sentinels know the Redis by")?;
                let sentinels: Vec<String> = hosts
                    .iter()
                    .map(|host| {
                        if has_port(host) {
                            format!("{base}://{host}")
                        } else {
                            format!("{base}://{host}:26379")
                        }
                    })
                    .collect();
                for url in &sentinels {
                    whole(url)?;
                }
                let data = format!("{base}://{credentials}redis{path}");
                whole(&data)?;
                let sentinels_want_it = find("sentinel_auth").as_deref() == Some("true");
                let shown = format!("{}?master={master}", shown(scheme, &hosts, path));
                Place { shown, kind: Kind::Sentinel { sentinels, master, data }, sentinels_want_it }
            }
            _ => return Err(EXPECTED.to_owned()),
        };
        Ok(place)
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    pub(super) fn sentinels_want_it(&self) -> bool {
        self.sentinels_want_it
    }
}

/// A URL that the client library takes. Its own words may repeat what was written, password and all.
fn whole(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| EXPECTED)?;
    let fits = url.query().is_none() || url.scheme() == "redis+unix";
    match fits && text.into_connection_info().is_ok() {
        true => Ok(url),
        false => Err(EXPECTED.to_owned()),
    }
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether a port is written behind a host, which may be an address in brackets.
fn has_port(host: &str) -> bool {
    host.rsplit_once(']').map_or(host, |(_, rest)| rest).contains(':')
}

/// Credentials with their `@`, hosts, path and query of what follows `://`.
fn parts(rest: &str) -> (&str, Vec<String>, &str, &str) {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (credentials, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    (credentials, hosts.split(',').map(str::to_owned).collect(), path, query)
}

fn shown(scheme: &str, hosts: &[String], path: &str) -> String {
    format!("{scheme}://{}{path}", hosts.join(","))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

const EXPECTED: &str = "is not a Redis URL: expected redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, \
     redis+cluster://HOST:PORT,… or redis+sentinel://HOST:PORT,…/DB?master=NAME";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_every_kind_are_read_and_shown_without_their_password() {
        for (text, shown) in [
            ("redis://127.0.0.1", "redis://127.0.0.1"),
            ("redis://:s3cret@127.0.0.1:1234/2", "redis://127.0.0.1:1234/2"),
            ("rediss://ann:s3cret@[::1]:6380", "rediss://[::1]:6380"),
            ("redis+unix:///run/redis.sock?pass=s3cret", "redis+unix:///run/redis.sock"),
            ("redis+cluster://u:s3cret@a:1,b:2", "redis+cluster://a:1,b:2"),
            ("rediss+sentinel://u:s3cret@a,b:2/3?master=m", "rediss+sentinel://a,b:2/3?master=m"),
        ] {
            let place = Place::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
            assert_eq!(format!("{place:?}"), shown);
        }
    }

    #[test]
    fn what_is_no_redis_is_told_without_being_repeated() {
        for bad in [
            "redis:s3cret",
            "redis://",
            "redis://:s3cret@host/database",
            "redis://:s3cret@host:port",
            "redis+cluster://:s3cret@a:1/2",
            "redis+sentinel://:s3cret@a:1",
            "redis+sentinel://:s3cret@a:1?master=m&x=1",
            "http://:s3cret@host",
        ] {
            let problem = Place::parse(bad).expect_err(bad);
            assert!(!problem.contains("s3cret"), "{bad}: {problem}");
        }
    }
}
