//! How a fanout is connected. Only said here; `setup.rs` holds it against the world.

use std::{fmt, path::PathBuf, time::Duration};

use khala_core::{
    config::{Secret, seconds},
    health::Health,
};
use serde::{Deserialize, Serialize, Serializer};

/// How a [`NatsFanout`](crate::NatsFanout) is connected.
///
/// No secret is in its `Debug`, nor in what serde writes.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "options are data, written by field")]
pub struct NatsOptions {
    /// The servers of one NATS cluster, tried in any order. If they are set, NATS carries the announcements
    /// between nodes. A user and password in an address, or a token instead of a user, are used as credentials.
    /// Example: `["nats://nats-1:4222", "tls://nats-2:4222"]`.
    #[serde(serialize_with = "masked")]
    pub servers: Vec<String>,
    /// The first words of all subjects: words of `A-Z a-z 0-9 _ -` with single dots between them. It is the
    /// same on all nodes of one database, and different for applications that share a NATS.
    pub prefix: String,
    /// The name of the connection in NATS' lists. `khala-server` adds the name of the node.
    pub name: String,
    /// Whether a connection without TLS is refused. A connection without TLS is also refused if one of the next
    /// three settings is set, or a server is `tls://…`.
    pub require_tls: bool,
    /// The authorities whose certificates are accepted from NATS, as PEM. Without it, the authorities that the
    /// system trusts. Example: `"/etc/khala/nats-ca.pem"`.
    pub tls_ca_file: Option<PathBuf>,
    /// The certificate with which this node authenticates, as PEM. It needs `tls_key_file`. Example:
    /// `"/etc/khala/nats-cert.pem"`.
    pub tls_cert_file: Option<PathBuf>,
    /// The private key of `tls_cert_file`, as PEM. Example: `"/etc/khala/nats-key.pem"`.
    pub tls_key_file: Option<PathBuf>,
    /// How long one attempt to connect may take.
    #[serde(rename = "connect_timeout_seconds", with = "seconds")]
    pub connect_timeout: Duration,
    /// How often a quiet connection is pinged, at least every millisecond. A connection that died silently is
    /// noticed after three pings.
    #[serde(rename = "ping_interval_seconds", with = "seconds")]
    pub ping_interval: Duration,
    /// How long announced heads are remembered, so that they can be sent again to nodes that missed them. A
    /// time longer than `session.poll_interval_seconds` gains nothing.
    #[serde(rename = "remember_seconds", with = "seconds")]
    pub remember: Duration,
    /// What the fanout's tasks report to. Default: a health of its own.
    #[serde(skip)]
    pub health: Health,
    /// How this node authenticates. Default: by nothing but the address.
    pub credentials: NatsCredentials,
}

/// How a node authenticates to NATS. No secret is in its `Debug`.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(try_from = "CredentialFields", into = "CredentialFields")]
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
    /// A file with a token. It is read once.
    TokenFile(PathBuf),
    /// A user and a password.
    User {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A user, and a file with the password. It is read once.
    UserWithFile {
        /// The name.
        user: String,
        /// The file.
        password_file: PathBuf,
    },
}

/// How a node authenticates, as it stands in a settings file: one of the following, or nothing.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct CredentialFields {
    /// A credentials file (`.creds`), as `nsc generate creds` writes it. Example: `"/etc/khala/nats.creds"`.
    credentials_file: Option<PathBuf>,
    /// A file with the seed of a user's nkey. The seed begins with `SU`. Example: `"/etc/khala/nats.nk"`.
    nkey_seed_file: Option<PathBuf>,
    /// The token with which this node authenticates. Example: `"a-token-of-nats"`.
    token: Option<Secret>,
    /// A file that holds the token, instead of `token`. Example: `"/etc/khala/nats-token"`.
    token_file: Option<PathBuf>,
    /// The user with which this node authenticates. It needs `password` or `password_file`. Example: `"khala"`.
    user: Option<String>,
    /// The user's password. Example: `"a-password-of-nats"`.
    password: Option<Secret>,
    /// A file that holds the password, instead of `password`. Example: `"/etc/khala/nats-password"`.
    password_file: Option<PathBuf>,
}

impl TryFrom<CredentialFields> for NatsCredentials {
    type Error = String;

    fn try_from(fields: CredentialFields) -> Result<Self, String> {
        let CredentialFields {
            credentials_file,
            nkey_seed_file,
            token,
            token_file,
            user,
            password,
            password_file,
        } = fields;
        let set = [
            ("credentials_file", credentials_file.is_some()),
            ("nkey_seed_file", nkey_seed_file.is_some()),
            ("token", token.is_some()),
            ("token_file", token_file.is_some()),
            ("password", password.is_some()),
            ("password_file", password_file.is_some()),
        ];
        let mut given = set.iter().filter(|(_, set)| *set).map(|(name, _)| *name);
        let one = given.next();
        if let (Some(one), Some(other)) = (one, given.next()) {
            return Err(format!("{one} and {other} exclude each other"));
        }
        match (one, user) {
            (None, None) => Ok(Self::None),
            (None, Some(_)) => Err("user needs password or password_file".to_owned()),
            (Some(one @ ("password" | "password_file")), None) => Err(format!("{one} needs user")),
            (Some("password" | "password_file"), Some(user)) => Ok(match (password, password_file) {
                (Some(password), _) => Self::User { user, password: password.reveal().to_owned() },
                (None, file) => Self::UserWithFile { user, password_file: file.unwrap_or_default() },
            }),
            (Some(one), Some(_)) => Err(format!("user and {one} exclude each other")),
            (Some(_), None) => Ok(match (credentials_file, nkey_seed_file, token, token_file) {
                (Some(file), ..) => Self::CredentialsFile(file),
                (_, Some(file), ..) => Self::NkeyFile(file),
                (_, _, Some(token), _) => Self::Token(token.reveal().to_owned()),
                (.., file) => Self::TokenFile(file.unwrap_or_default()),
            }),
        }
    }
}

impl From<NatsCredentials> for CredentialFields {
    fn from(credentials: NatsCredentials) -> Self {
        let none = Self::default();
        match credentials {
            NatsCredentials::CredentialsFile(file) => Self { credentials_file: Some(file), ..none },
            NatsCredentials::None => none,
            NatsCredentials::NkeyFile(file) => Self { nkey_seed_file: Some(file), ..none },
            NatsCredentials::Token(token) => Self { token: Some(Secret::new(token)), ..none },
            NatsCredentials::TokenFile(file) => Self { token_file: Some(file), ..none },
            NatsCredentials::User { user, password } => {
                Self { user: Some(user), password: Some(Secret::new(password)), ..none }
            }
            NatsCredentials::UserWithFile { user, password_file } => {
                Self { user: Some(user), password_file: Some(password_file), ..none }
            }
        }
    }
}

/// Writes addresses without what may be a secret in them.
fn masked<S: Serializer>(servers: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(servers.iter().map(|server| without_secrets(server)))
}

impl fmt::Debug for NatsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CredentialsFile(path) => f.debug_tuple("CredentialsFile").field(path).finish(),
            Self::None => f.write_str("None"),
            Self::NkeyFile(path) => f.debug_tuple("NkeyFile").field(path).finish(),
            Self::Token(_) => f.write_str("Token(…)"),
            Self::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
            Self::User { user, .. } => write!(f, "User({user:?}, …)"),
            Self::UserWithFile { user, password_file } => {
                f.debug_tuple("UserWithFile").field(user).field(password_file).finish()
            }
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
            .field("tls_ca_file", &self.tls_ca_file)
            .field("tls_cert_file", &self.tls_cert_file)
            .field("tls_key_file", &self.tls_key_file)
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
            servers: Vec::new(),
            prefix: "khala".to_owned(),
            name: "khala".to_owned(),
            require_tls: false,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
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

    #[test]
    fn they_can_stand_in_a_settings_file() {
        let of = |text: &str| serde_json::from_str::<NatsOptions>(text).map_err(|fault| fault.to_string());
        let written = |options: &NatsOptions| serde_json::to_value(options).unwrap();
        let defaults = written(&NatsOptions::default());
        assert_eq!(written(&of("{}").unwrap()), defaults);
        assert_eq!(written(&of(&defaults.to_string()).unwrap()), defaults);
        for credentials in [
            r#"{"token": "s3cret"}"#,
            r#"{"token_file": "a"}"#,
            r#"{"user": "ann", "password": "s3cret"}"#,
            r#"{"user": "ann", "password_file": "a"}"#,
            r#"{"nkey_seed_file": "a"}"#,
            r#"{"credentials_file": "a"}"#,
        ] {
            let text = format!(r#"{{"servers": ["ann:s3cret@host"], "credentials": {credentials}}}"#);
            let text = written(&of(&text).unwrap()).to_string();
            let masked = credentials.replace("s3cret", "***").replace(": ", ":").replace(", ", ",");
            assert!(!text.contains("s3cret"), "{text}");
            for part in masked.trim_matches(['{', '}']).split(',') {
                assert!(text.contains(part), "{text} {part}");
            }
        }
        for (credentials, says) in [
            (r#"{"token": "a", "token_file": "b"}"#, "token and token_file exclude each other"),
            (r#"{"user": "a", "token": "b"}"#, "user and token exclude each other"),
            (r#"{"user": "a"}"#, "user needs password or password_file"),
            (r#"{"password_file": "a"}"#, "password_file needs user"),
            (r#"{"tokn": "a"}"#, "unknown field"),
        ] {
            let fault = of(&format!(r#"{{"credentials": {credentials}}}"#)).unwrap_err();
            assert!(fault.contains(says), "{fault}");
        }
    }
}
