//! Settings of NATS, where it carries the announcements between nodes.

use std::path::{Path, PathBuf};

use khala_fanout_nats::{NatsCredentials, NatsOptions};
use serde::{Deserialize, Serialize};

use super::{
    address::Addresses,
    values::{Secret, exclude},
};

/// Where NATS is, and how this node shows who it is.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct NatsSettings {
    /// None: PostgreSQL carries the announcements.
    pub(crate) servers: Addresses,
    /// What all subjects start with.
    prefix: String,
    credentials_file: Option<PathBuf>,
    user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) token: Option<Secret>,
    pub(crate) token_file: Option<PathBuf>,
    nkey_seed_file: Option<PathBuf>,
    tls_ca_file: Option<PathBuf>,
    tls_cert_file: Option<PathBuf>,
    tls_key_file: Option<PathBuf>,
    require_tls: bool,
    /// Whether to LISTEN on PostgreSQL too.
    pub(crate) listen: bool,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            servers: Addresses::default(),
            prefix: NatsOptions::default().prefix,
            credentials_file: None,
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            nkey_seed_file: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            require_tls: false,
            listen: false,
        }
    }
}

impl NatsSettings {
    /// Whether NATS is used.
    pub(crate) fn is_on(&self) -> bool {
        !self.servers.0.is_empty()
    }

    /// How the node connects; with the password and the token that the settings give, or their files hold.
    pub(crate) fn options(
        &self,
        password: Option<String>,
        token: Option<String>,
        node: Option<&str>,
    ) -> NatsOptions {
        let defaults = NatsOptions::default();
        let credentials = match (&self.user, password, token, &self.credentials_file, &self.nkey_seed_file) {
            (_, _, _, _, Some(file)) => NatsCredentials::NkeyFile(file.clone()),
            (_, _, _, Some(file), _) => NatsCredentials::CredentialsFile(file.clone()),
            (_, _, Some(token), ..) => NatsCredentials::Token(token),
            (Some(user), Some(password), ..) => NatsCredentials::User { user: user.clone(), password },
            _ => NatsCredentials::None,
        };
        NatsOptions {
            servers: self.servers.0.iter().map(|server| server.reveal().to_owned()).collect(),
            prefix: self.prefix.clone(),
            name: node.map_or(defaults.name, |node| format!("khala {node}")),
            credentials,
            require_tls: self.require_tls,
            root_certificates: self.tls_ca_file.clone(),
            client_certificate: self.tls_cert_file.clone().zip(self.tls_key_file.clone()),
            ..defaults
        }
    }

    /// What cannot be told from one value alone. `postgres`: whether the database is one of PostgreSQL.
    pub(super) fn check(&self, postgres: bool) -> Result<(), String> {
        let file =
            |file: &Option<PathBuf>| file.as_deref().is_some_and(|file: &Path| !file.as_os_str().is_empty());
        let password = self.password.is_some() || file(&self.password_file);
        let token = self.token.is_some() || file(&self.token_file);
        let set = [
            ("nats.credentials_file", file(&self.credentials_file)),
            ("nats.nkey_seed_file", file(&self.nkey_seed_file)),
            ("nats.token", token),
            ("nats.user", self.user.is_some()),
            ("nats.password", password),
            ("nats.tls_ca_file", file(&self.tls_ca_file)),
            ("nats.tls_cert_file", file(&self.tls_cert_file)),
            ("nats.tls_key_file", file(&self.tls_key_file)),
            ("nats.require_tls", self.require_tls),
            ("nats.listen", self.listen),
        ];
        if !self.is_on() {
            return match set.iter().find(|(_, set)| *set) {
                Some((key, _)) => Err(format!("{key} needs nats.servers, where NATS is")),
                None => Ok(()),
            };
        }
        if !postgres {
            return Err("nats.servers needs a database of PostgreSQL: an SQLite file belongs to one machine, and who \
                        shares it there hears of what is new without NATS"
                .to_owned());
        }
        exclude("nats.password", self.password.is_some(), "nats.password_file", file(&self.password_file))?;
        exclude("nats.token", self.token.is_some(), "nats.token_file", file(&self.token_file))?;
        let mut identities = set[..4].iter().filter(|(_, set)| *set);
        if let (Some((one, _)), Some((other, _))) = (identities.next(), identities.next()) {
            return Err(format!("{one} and {other} exclude each other"));
        }
        for (one, other) in [(3, 4), (4, 3), (6, 7), (7, 6)] {
            let ((key, set_one), (needed, set_other)) = (set[one], set[other]);
            if set_one && !set_other {
                return Err(format!("{key} needs {needed}"));
            }
        }
        Ok(())
    }
}
