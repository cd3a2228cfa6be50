//! How a fanout is connected. Only said here; `setup.rs` holds it against the world.

use std::{fmt, path::PathBuf, time::Duration};

use khala_core::health::Health;

/// How a [`NatsFanout`](crate::NatsFanout) is connected.
///
/// No secret is in its `Debug`. It has no serde, because addresses and credentials are secrets: an application reads them
/// by its own means.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct NatsOptions {
    /// The servers, of one cluster, as `nats://host:4222`, `tls://host` or `host`; tried in any order. Default: one,
    /// `nats://127.0.0.1:4222`.
    ///
    /// A user and password in an address, or a token in the place of a user, are taken as `credentials` are.
    pub servers: Vec<String>,
    /// What all subjects start with. Nodes hear each other if they have the same; applications that share a NATS need
    /// different ones. It is words of `A-Z a-z 0-9 _ -` with single dots between them. Default: `khala`.
    pub prefix: String,
    /// What the server lists the connection as. Default: `khala`.
    pub name: String,
    /// Whether a connection without TLS is refused. Default: no; yes for `tls://`, root certificates and client certificates.
    pub require_tls: bool,
    /// PEM: the authorities that servers are trusted by, and no others. Default: those that the system trusts.
    pub root_certificates: Option<PathBuf>,
    /// PEM: the certificate with which this node shows who it is, and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// How long one attempt to connect may take. Default: 2 s.
    pub connect_timeout: Duration,
    /// How often a quiet connection is pinged. One that has died without a word is noticed after three of these. At least every
    /// millisecond. Default: 2 s.
    pub ping_interval: Duration,
    /// How long announced heads are remembered, to be told again to nodes that missed them. More than the interval at which
    /// subscribers poll gains nothing. Default: 30 s.
    pub remember: Duration,
    /// What the fanout's tasks report to. Default: a health of its own.
    pub health: Health,
    /// How this node authenticates. Default: by nothing but the address.
    pub credentials: NatsCredentials,
}

/// How a node authenticates to NATS. No secret is in its `Debug`.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum NatsCredentials {
    /// A credentials file (`.creds`: a JWT and the seed that goes with it). It is read once.
    CredentialsFile(PathBuf),
    /// None, or those in the address of a server.
    #[default]
    None,
    /// A file with the seed of a user's nkey. It is read once.
    NkeyFile(PathBuf),
    /// A token.
    Token(String),
    /// A user and a password.
    User {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for NatsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CredentialsFile(path) => f.debug_tuple("CredentialsFile").field(path).finish(),
            Self::None => f.write_str("None"),
            Self::NkeyFile(path) => f.debug_tuple("NkeyFile").field(path).finish(),
            Self::Token(_) => f.write_str("Token(…)"),
            Self::User { user, .. } => write!(f, "User({user:?}, …)"),
        }
    }
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.servers.iter().map(|server| without_secrets(server)).collect();
        f.debug_struct("NatsOptions")
            .field("servers", &servers)
            .field("prefix", &self.prefix)
            .field("name", &self.name)
            .field("require_tls", &self.require_tls)
            .field("root_certificates", &self.root_certificates)
            .field("client_certificate", &self.client_certificate)
            .field("connect_timeout", &self.connect_timeout)
            .field("ping_interval", &self.ping_interval)
            .field("remember", &self.remember)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

/// An address without what stands before its `@`, whether it can be parsed or not.
fn without_secrets(server: &str) -> String {
    match server.rsplit_once('@') {
        None => server.to_owned(),
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…@{host}"),
            None => format!("…@{host}"),
        },
    }
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            prefix: "khala".to_owned(),
            name: "khala".to_owned(),
            require_tls: false,
            root_certificates: None,
            client_certificate: None,
            connect_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(2),
            remember: Duration::from_secs(30),
            health: Health::new(),
            credentials: NatsCredentials::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_in_what_debug_prints() {
        let servers = ["nats://ann:s3cret@host:4222", "tok-s3cret@host", "nats://plain"];
        let secret = || "s3cret".to_owned();
        let user = NatsCredentials::User { user: "ann".to_owned(), password: secret() };
        for credentials in [user, NatsCredentials::Token(secret())] {
            let servers = servers.map(str::to_owned).to_vec();
            let text = format!("{:?}", NatsOptions { servers, credentials, ..NatsOptions::default() });
            assert!(!text.contains("s3cret"), "{text}");
            assert!(text.contains("nats://…@host:4222") && text.contains("nats://plain"), "{text}");
        }
    }
}
