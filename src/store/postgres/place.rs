//! Where a PostgreSQL database is, as `store:` writes it.

use std::fmt;
use std::net::IpAddr;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::SILENCE;

/// A database, with the password it wants; shows no more than where it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Place(Config);

impl Place {
    /// Reads a `postgres://` URL as libpq knows it. `sslmode` is disable, prefer or require (verify-ca and verify-full
    /// mean the same, for certificates are verified always); left out, TLS is required of every other machine.
    pub fn parse(text: &str) -> Result<Self, String> {
        // libpq's words for what is the case here whenever TLS is spoken.
        let known = text
            .replace("sslmode=verify-full", "sslmode=require")
            .replace("sslmode=verify-ca", "sslmode=require");
        // Its own words may repeat what was written, password and all.
        let problem = || {
            "is not a PostgreSQL URL: expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, with any of libpq's \
             parameters that tokio-postgres knows"
                .to_owned()
        };
        // What follows the first @ would be taken for a host, and shown.
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.matches('@').count() > 1 {
            return Err("has more than one @ before its host: write one in a user's name or password as %40"
                .to_owned());
        }
        let mut config: Config = known.parse().map_err(|_| problem())?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(problem());
        }
        let is_here =
            config.get_hosts().iter().all(is_here) && config.get_hostaddrs().iter().all(IpAddr::is_loopback);
        let told = known.contains("sslmode=");
        // `prefer` would speak in clear to whoever says that it knows no TLS, password and all.
        match (config.get_ssl_mode(), is_here) {
            (SslMode::Prefer, false) => config.ssl_mode(SslMode::Require),
            (SslMode::Prefer, true) if !told => config.ssl_mode(SslMode::Disable),
            _ => &mut config,
        };
        config
            .tcp_user_timeout(SILENCE)
            .keepalives_idle(SILENCE)
            // After a fail-over the one that takes writes is wanted, whichever of the hosts that is.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_application_name().is_none() {
            config.application_name("mcp-auth-proxy");
        }
        Ok(Place(config))
    }

    /// Each host by itself, in their order: one that is silent must not use up the time of the next.
    pub(super) fn hosts(&self) -> Vec<Config> {
        let (names, addresses, ports) = (self.0.get_hosts(), self.0.get_hostaddrs(), self.0.get_ports());
        let alone = |at: usize| {
            let mut alone = Config::new();
            match names.get(at) {
                Some(Host::Tcp(name)) => _ = alone.host(name),
                #[cfg(unix)]
                Some(Host::Unix(path)) => _ = alone.host_path(path),
                None => {}
            }
            addresses.get(at).map(|address| alone.hostaddr(*address));
            ports.get(at).or(ports.first()).map(|port| alone.port(*port));
            self.0.get_user().map(|user| alone.user(user));
            self.0.get_password().map(|password| alone.password(password));
            self.0.get_dbname().map(|name| alone.dbname(name));
            self.0.get_options().map(|options| alone.options(options));
            self.0.get_application_name().map(|name| alone.application_name(name));
            alone
                .ssl_mode(self.0.get_ssl_mode())
                .ssl_negotiation(self.0.get_ssl_negotiation())
                .channel_binding(self.0.get_channel_binding())
                .target_session_attrs(self.0.get_target_session_attrs())
                .keepalives_idle(SILENCE)
                .tcp_user_timeout(SILENCE);
            alone
        };
        (0..names.len().max(addresses.len())).map(alone).collect()
    }

    pub(super) fn config(&self) -> &Config {
        &self.0
    }
}

/// Whether nobody on a wire could listen.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.0.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        });
        let addresses = self.0.get_hostaddrs().iter().map(ToString::to_string);
        let mut hosts: Vec<String> = hosts.collect();
        if hosts.is_empty() {
            hosts.extend(addresses);
        }
        let ports: Vec<u16> = self.0.get_ports().to_vec();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        let hosts = hosts.iter().enumerate().map(|(at, host)| format!("{host}:{}", port(at)));
        let hosts = hosts.collect::<Vec<_>>().join(",");
        write!(f, "postgres://{hosts}/{}", self.0.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(text: &str) -> SslMode {
        Place::parse(text).expect("valid").config().get_ssl_mode()
    }

    #[test]
    fn other_machines_are_spoken_to_over_tls_unless_somebody_says_otherwise() {
        assert_eq!(mode("postgres://u:p@db.example.com/x"), SslMode::Require);
        assert_eq!(mode("postgres://u:p@db.example.com/x?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgres://u:p@db.example.com/x?sslmode=verify-full"), SslMode::Require);
        assert_eq!(mode("postgres://u:p@db.example.com/x?sslmode=prefer"), SslMode::Require);
        assert_eq!(mode("postgres://u:p@localhost/x"), SslMode::Disable);
        assert_eq!(mode("postgres://u:p@127.0.0.1,db.example.com/x"), SslMode::Require);
        assert_eq!(mode("postgresql:///x?host=/var/run/postgresql"), SslMode::Disable);
    }

    #[test]
    fn it_shows_where_it_is_and_no_password() {
        let place = Place::parse("postgres://ann:s3cret@a.example:1,b.example:2/logins").expect("valid");
        assert_eq!(
            format!("{place} {place:?}"),
            "postgres://a.example:1,b.example:2/logins \
             postgres://a.example:1,b.example:2/logins"
        );
        for bad in [
            "postgres://",
            "postgres:///x",
            "postgres://u:s3cret@h/x?sslmode=s3cret",
            "postgres://u@h:s3cret/x",
            "postgres://u:p@s3cret@h/x",
        ] {
            let problem = Place::parse(bad).expect_err(bad);
            assert!(!problem.contains("s3cret"), "{problem}");
        }
    }
}
