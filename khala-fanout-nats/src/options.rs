//! How a fanout is connected. Only said here; `setup.rs` holds it against the world.

use std::{fmt, path::PathBuf, time::Duration};

use khala_core::health::Health;

/// How a [`NatsFanout`](crate::NatsFanout) is connected.
///
/// No secret is in its `Debug`.
#[derive(Clone)]
#[non_exhaustive]
pub struct NatsOptions {
    /// The servers, of one cluster, as `nats://host:4222`, `tls://host` or `host`; tried in any order. Default: one,
    /// `nats://127.0.0.1:4222`.
    ///
    /// A user and password in an address, or a token in the place of a user, are taken as [`with_user`](Self::with_user) and
    /// [`with_token`](Self::with_token) take them.
    pub servers: Vec<String>,
    /// What all subjects start with. Nodes hear each other if they have the same; applications that share a NATS need
    /// different ones. Default: `khala`.
    pub prefix: String,
    /// What the server lists the connection as. Default: `khala`.
    pub name: String,
    /// Whether a connection without TLS is refused. Default: no; yes for `tls://`, root certificates and client certificates.
    pub require_tls: bool,
    /// PEM: the authorities that servers are trusted by. Default: those that the system trusts.
    pub root_certificates: Option<PathBuf>,
    /// PEM: the certificate with which this node shows who it is, and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// How long one attempt to connect may take. Default: 2 s.
    pub connect_timeout: Duration,
    /// How often a quiet connection is pinged. One that has died without a word is noticed after three of these. Default: 2 s.
    pub ping_interval: Duration,
    /// How long announced heads are remembered, to be told again to nodes that missed them. More than the interval at which
    /// subscribers poll gains nothing. Default: 30 s.
    pub remember: Duration,
    /// What the fanout's tasks report to. Default: a health of its own.
    pub health: Health,
    pub(crate) identity: Identity,
}

/// How a node shows who it is.
#[derive(Clone)]
pub(crate) enum Identity {
    CredentialsFile(PathBuf),
    None,
    NkeyFile(PathBuf),
    Token(String),
    User(String, String),
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CredentialsFile(path) => f.debug_tuple("CredentialsFile").field(path).finish(),
            Self::None => f.write_str("None"),
            Self::NkeyFile(path) => f.debug_tuple("NkeyFile").field(path).finish(),
            Self::Token(_) => f.write_str("Token(…)"),
            Self::User(user, _) => write!(f, "User({user:?}, …)"),
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
            .field("identity", &self.identity)
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
            identity: Identity::None,
        }
    }
}

impl NatsOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says which servers there are.
    #[must_use]
    pub fn with_servers(mut self, servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.servers = servers.into_iter().map(Into::into).collect();
        self
    }

    /// Says what all subjects start with: words of `A-Z a-z 0-9 _ -`, with single dots between them.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Says what the server lists the connection as.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Shows who this node is by a user and a password. As with all credentials, the last that is said holds.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.identity = Identity::User(user.into(), password.into());
        self
    }

    /// Shows who this node is by a token.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.identity = Identity::Token(token.into());
        self
    }

    /// Shows who this node is by a credentials file (`.creds`: a JWT and the seed that goes with it). It is read once.
    #[must_use]
    pub fn with_credentials_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.identity = Identity::CredentialsFile(path.into());
        self
    }

    /// Shows who this node is by the seed of a user's nkey, in a file. It is read once.
    #[must_use]
    pub fn with_nkey_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.identity = Identity::NkeyFile(path.into());
        self
    }

    /// Says whether a connection without TLS is refused.
    #[must_use]
    pub fn with_require_tls(mut self, require: bool) -> Self {
        self.require_tls = require;
        self
    }

    /// Trusts servers by the authorities in this file, PEM, and by no others; and requires TLS.
    #[must_use]
    pub fn with_root_certificates(mut self, path: impl Into<PathBuf>) -> Self {
        self.root_certificates = Some(path.into());
        self
    }

    /// Shows who this node is by a certificate and its key, PEM; and requires TLS.
    #[must_use]
    pub fn with_client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.client_certificate = Some((certificate.into(), key.into()));
        self
    }

    /// Says how long one attempt to connect may take.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Says how often a quiet connection is pinged; at least every millisecond.
    #[must_use]
    pub fn with_ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Says how long announced heads are remembered.
    #[must_use]
    pub fn with_remember(mut self, remember: Duration) -> Self {
        self.remember = remember;
        self
    }

    /// Has the fanout's tasks report to `health`, which readiness is made from.
    #[must_use]
    pub fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_in_what_debug_prints() {
        let options = NatsOptions::new().with_servers([
            "nats://ann:s3cret@host:4222",
            "tok-s3cret@host",
            "nats://plain",
        ]);
        for options in [options.clone().with_user("ann", "s3cret"), options.with_token("s3cret")] {
            let text = format!("{options:?}");
            assert!(!text.contains("s3cret"), "{text}");
            assert!(text.contains("nats://…@host:4222") && text.contains("nats://plain"), "{text}");
        }
    }
}
