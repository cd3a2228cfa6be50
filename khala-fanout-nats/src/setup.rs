//! The options as the client takes them: addresses parsed, files read, TLS made. What is wrong with any of it is told here,
//! before anything is tried, by the name of the option.

use std::{fmt::Display, fs, path::Path, sync::Arc, time::Duration};

use async_nats::{
    ConnectOptions, ServerAddr,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use khala_core::{Error, ErrorKind, text::without_byte_order_mark};
use nkeys::{KeyPair, KeyPairType};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::{
    BACKEND,
    options::{NatsCredentials, NatsOptions},
    subject::prefix_fault,
};

/// Between attempts to connect at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Before the first attempt after a loss: so that all nodes of a server that went away do not come back at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Reads files, and blocks while it does.
pub(crate) fn prepare(options: &NatsOptions) -> Result<(Vec<ServerAddr>, ConnectOptions), Error> {
    if let Some(fault) = prefix_fault(&options.prefix) {
        return Err(invalid(format!("the prefix {:?} {fault}", options.prefix)));
    }
    let (servers, credentials) = servers(options)?;
    let secured = options.require_tls
        || options.tls_ca_file.is_some()
        || options.tls_cert_file.is_some()
        || servers.iter().any(ServerAddr::tls_required);
    let mut connect = signed_in(ConnectOptions::new(), &credentials)?
        .name(&options.name)
        .require_tls(secured)
        .connection_timeout(options.connect_timeout)
        .ping_interval(options.ping_interval.max(Duration::from_millis(1)))
        .retry_on_initial_connect()
        .reconnect_delay_callback(pause);
    if let Some(config) = tls(options, secured)? {
        connect = connect.tls_client_config(config);
    }
    Ok((servers, connect))
}

/// The addresses, without secrets, and the credentials: those that were said, or else those in the addresses.
fn servers(options: &NatsOptions) -> Result<(Vec<ServerAddr>, NatsCredentials), Error> {
    if options.servers.is_empty() {
        return Err(invalid("no server is named; name one as nats://host:4222"));
    }
    let mut found = None;
    let mut addresses = Vec::new();
    for (at, server) in options.servers.iter().enumerate() {
        // The address itself may hold a password, and is not in what is told.
        let fault = |what: &dyn Display| {
            invalid(format!("server {} is no address as nats://host:4222: {what}", at + 1))
        };
        let text = if server.contains("://") { server.clone() } else { format!("nats://{server}") };
        let mut url = Url::parse(&text).map_err(|cause| fault(&cause))?;
        if !matches!(url.scheme(), "nats" | "tls") {
            return Err(fault(&format!("the scheme {:?} is neither nats nor tls", url.scheme())));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(fault(&"it names no host"));
        }
        let own = (url.username().to_owned(), url.password().map(str::to_owned));
        if (&*own.0, &own.1) != ("", &None) {
            if found.as_ref().is_some_and(|other| *other != own) {
                return Err(invalid(
                    "the servers' addresses hold different credentials; give them apart from the addresses",
                ));
            }
            found = Some(own);
            // They cannot fail: there is a host.
            let _ = url.set_username("");
            let _ = url.set_password(None);
        }
        addresses.push(ServerAddr::from_url(url).map_err(|cause| fault(&cause))?);
    }
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let credentials = match (&options.credentials, found) {
        (NatsCredentials::None, Some((token, None))) => NatsCredentials::Token(decoded(&token)),
        (NatsCredentials::None, Some((user, Some(password)))) => {
            NatsCredentials::User { user: decoded(&user), password: decoded(&password) }
        }
        (_, Some(_)) => {
            return Err(invalid("credentials are given both in the servers' addresses and apart from them"));
        }
        (given, None) => given.clone(),
    };
    Ok((addresses, credentials))
}

fn signed_in(connect: ConnectOptions, credentials: &NatsCredentials) -> Result<ConnectOptions, Error> {
    Ok(match credentials {
        NatsCredentials::CredentialsFile(path) => {
            let text = text("the credentials file", path)?;
            let fault = |cause| {
                wrong("the credentials file", path, "is no file as `nsc generate creds` writes it", cause)
            };
            connect.credentials(&text).map_err(fault)?
        }
        NatsCredentials::None => connect,
        NatsCredentials::NkeyFile(path) => {
            let text = text("the nkey file", path)?;
            // The line that is the seed: around it there may be the frame that tools put there.
            let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
            let pair = seed.and_then(|seed| KeyPair::from_seed(seed).ok());
            match (seed, pair) {
                (Some(seed), Some(pair)) if pair.key_pair_type() == KeyPairType::User => {
                    connect.nkey(seed.to_owned())
                }
                _ => {
                    return Err(invalid(format!(
                        "the nkey file {} holds no seed of a user (it starts with SU)",
                        path.display()
                    )));
                }
            }
        }
        NatsCredentials::Token(token) => connect.token(token.clone()),
        NatsCredentials::TokenFile(path) => {
            connect.token(text("the token file", path)?.trim_end().to_owned())
        }
        NatsCredentials::User { user, password } => connect.user_and_password(user.clone(), password.clone()),
        NatsCredentials::UserWithFile { user, password_file } => {
            let password = text("the password file", password_file)?;
            connect.user_and_password(user.clone(), password.trim_end().to_owned())
        }
    })
}

/// TLS by ring, whatever other users of rustls in this process have chosen. None where TLS is not asked for and the system
/// trusts nobody: if the server requires it then, the client says so.
fn tls(options: &NatsOptions, secured: bool) -> Result<Option<ClientConfig>, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &options.tls_ca_file {
        for certificate in certificates("the root certificates", path)? {
            let added = roots.add(certificate);
            added.map_err(|cause| {
                wrong("the root certificates", path, "hold one that is no authority's", cause)
            })?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() && secured {
            return Err(invalid(
                "no certificate authorities were found on this system; install them (often the package \
                 ca-certificates), or name a file of root certificates",
            ));
        }
    }
    if roots.is_empty() {
        return Ok(None);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| Error::caused_by(ErrorKind::Invalid, BACKEND, "TLS is not to be had", cause))?
        .with_root_certificates(roots);
    let (certificate, key) = match (&options.tls_cert_file, &options.tls_key_file) {
        (None, None) => return Ok(Some(builder.with_no_client_auth())),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return Err(invalid("tls_cert_file needs tls_key_file")),
        (None, Some(_)) => return Err(invalid("tls_key_file needs tls_cert_file")),
    };
    let chain = certificates("the client certificate", certificate)?;
    let read = PrivateKeyDer::from_pem_slice(text("the client key", key)?.as_bytes());
    let read =
        read.map_err(|cause| wrong("the client key", key, "cannot be read as a private key, PEM", cause))?;
    let config = builder.with_client_auth_cert(chain, read);
    config
        .map(Some)
        .map_err(|cause| wrong("the client key", key, "does not go with the client certificate", cause))
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = text(what, path)?;
    let read = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|cause| wrong(what, path, "cannot be read as certificates, PEM", cause))?;
    if read.is_empty() {
        return Err(invalid(format!("{what} {} holds no certificate, PEM", path.display())));
    }
    Ok(read)
}

/// What is in a file, without a byte order mark before it.
fn text(what: &str, path: &Path) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|cause| wrong(what, path, "cannot be read", cause))?;
    let text = std::str::from_utf8(without_byte_order_mark(&bytes));
    text.map(str::to_owned).map_err(|cause| wrong(what, path, "is not UTF-8", cause))
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, BACKEND, what)
}

fn wrong(
    what: &str,
    path: &Path,
    fault: &str,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let message = format!("{what} {} {fault}: {cause}", path.display());
    Error::caused_by(ErrorKind::Invalid, BACKEND, message, cause)
}

/// How long to wait before an attempt, of which this is the how-manieth since there was a connection.
pub(crate) fn pause(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    let longest = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE);
    // Without randomness all wait the longest.
    let part = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    longest.mul_f64(if attempts <= 1 { part } else { 0.5 + part / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(options: &NatsOptions) -> String {
        let error = prepare(options).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    }

    #[test]
    fn wrong_addresses_are_named_by_their_place_and_without_secrets() {
        for (servers, what) in [
            (vec![], "no server"),
            (vec!["nats://ok", "http://ann:s3cret@host"], "server 2 is no address"),
            (vec!["nats://"], "host"),
            (vec!["nats://ann:s3cret@host:port"], "port"),
            (vec!["nats://ann:s3cret@a", "nats://bob:s3cret@b"], "different credentials"),
        ] {
            let text = told(&NatsOptions {
                servers: servers.into_iter().map(str::to_owned).collect(),
                ..NatsOptions::default()
            });
            assert!(text.contains(what) && !text.contains("s3cret"), "{text}");
        }
        let both = NatsOptions {
            servers: vec!["nats://ann:s3cret@a".into()],
            credentials: NatsCredentials::Token("other".into()),
            ..NatsOptions::default()
        };
        assert!(told(&both).contains("both"));
        assert!(
            told(&NatsOptions { prefix: "a.*".into(), ..NatsOptions::default() })
                .contains("the prefix \"a.*\"")
        );
    }

    #[test]
    fn credentials_in_addresses_are_taken_and_removed() {
        let options = NatsOptions {
            servers: vec!["nats://ann:p%40ss@a:1".into(), "b:2".into()],
            ..NatsOptions::default()
        };
        let (addresses, credentials) = servers(&options).unwrap();
        assert_eq!(addresses[0].as_url_str(), "nats://a:1");
        assert_eq!(addresses[1].as_url_str(), "nats://b:2");
        assert!(
            matches!(credentials, NatsCredentials::User { user, password } if user == "ann" && password == "p@ss")
        );
        let (_, credentials) =
            servers(&NatsOptions { servers: vec!["tok@a".into()], ..NatsOptions::default() }).unwrap();
        assert!(matches!(credentials, NatsCredentials::Token(token) if token == "tok"));
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        fs::write(&empty, "nothing\n").unwrap();
        let missing = folder.path().join("missing");
        let new = || NatsOptions { servers: vec!["nats://host".into()], ..NatsOptions::default() };
        for path in [&empty, &missing] {
            for (options, what) in [
                (
                    NatsOptions { credentials: NatsCredentials::CredentialsFile(path.into()), ..new() },
                    "the credentials file",
                ),
                (
                    NatsOptions { credentials: NatsCredentials::NkeyFile(path.into()), ..new() },
                    "the nkey file",
                ),
                (NatsOptions { tls_ca_file: Some(path.into()), ..new() }, "the root certificates"),
                (
                    NatsOptions {
                        tls_cert_file: Some(path.into()),
                        tls_key_file: Some(path.into()),
                        ..new()
                    },
                    "the client certificate",
                ),
            ] {
                let text = told(&options);
                assert!(text.contains(what) && text.contains(path.to_str().unwrap()), "{text}");
            }
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        assert!(pause(1) <= FIRST_PAUSE);
        for attempts in [2, 5, 50, usize::MAX] {
            assert!(pause(attempts) >= FIRST_PAUSE && pause(attempts) <= LONGEST_PAUSE, "{attempts}");
        }
        assert!((0..20).any(|_| pause(9) != pause(9)));
    }
}
