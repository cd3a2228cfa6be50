//! `khala token`: mints a token, and finds the key that a development server left in the working directory.

use std::{fs, path::Path, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use khala_core::{Clock as _, JwtIssuer, JwtOptions, Scope, SystemClock, Token};

use crate::{duration::duration, exit::Failure};

/// The key that `khala-server` makes for itself when it is given none: one line of text, whose bytes are the key.
pub(crate) const DEV_KEY: &str = "khala.dev.key";

/// Mint a token and print it.
///
/// The key is that of --key-file or --key; without either, that of the development key file khala.dev.key in the
/// working directory.
#[derive(Debug, Args)]
pub(crate) struct Mint {
    /// The file that holds the HS256 key as one line of text
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The HS256 key itself (better in the environment than here, where others see it)
    #[arg(long, env = "KHALA_AUTH__HS256_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Whose token it is
    #[arg(long, default_value = "khala-cli")]
    sub: String,
    /// What it allows; may be given more than once
    #[arg(long = "scope", value_delimiter = ',', default_values = ["read", "publish"])]
    scopes: Vec<ScopeName>,
    /// How long it is good: 30s, 5m, 12h, 2d
    #[arg(long, value_parser = duration, default_value = "1h")]
    ttl: Duration,
    /// The issuer that the server asks for, if it does
    #[arg(long, env = "KHALA_AUTH__ISSUER")]
    issuer: Option<String>,
    /// The audience that the server asks for, if it does
    #[arg(long, env = "KHALA_AUTH__AUDIENCE")]
    audience: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScopeName {
    #[value(alias = "khala:read")]
    Read,
    #[value(alias = "khala:publish")]
    Publish,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Read => Self::Read,
            ScopeName::Publish => Self::Publish,
        }
    }
}

impl Mint {
    #[expect(clippy::print_stdout, reason = "the token is what was asked for")]
    pub(crate) fn run(self) -> Result<(), Failure> {
        let (secret, from) = match (&self.key_file, &self.key) {
            (Some(file), _) => (read_key(file)?, file.display().to_string()),
            (None, Some(key)) => (key.clone().into_bytes(), "--key (KHALA_AUTH__HS256_KEY)".to_owned()),
            (None, None) if Path::new(DEV_KEY).exists() => {
                (read_key(Path::new(DEV_KEY))?, DEV_KEY.to_owned())
            }
            (None, None) => {
                return Err(Failure::usage(format!(
                    "there is no key: give --key-file or KHALA_AUTH__HS256_KEY, or run this where a development \
                     server keeps its {DEV_KEY}"
                )));
            }
        };
        let mut options = JwtOptions::default();
        if let Some(issuer) = self.issuer {
            options = options.with_issuer(issuer);
        }
        if let Some(audience) = self.audience {
            options = options.with_audience(audience);
        }
        let scopes: Vec<Scope> = self.scopes.into_iter().map(Scope::from).collect();
        let token = issue(&secret, options, &from, &self.sub, &scopes, self.ttl)?;
        println!("{}", token.reveal());
        Ok(())
    }
}

/// A short-lived token from the development key; none where there is no such file.
pub(crate) fn of_dev_key(ttl: Duration) -> Result<Option<Token>, Failure> {
    let path = Path::new(DEV_KEY);
    if !path.exists() {
        return Ok(None);
    }
    let mut options = JwtOptions::default();
    if let Ok(issuer) = std::env::var("KHALA_AUTH__ISSUER") {
        options = options.with_issuer(issuer);
    }
    if let Ok(audience) = std::env::var("KHALA_AUTH__AUDIENCE") {
        options = options.with_audience(audience);
    }
    issue(&read_key(path)?, options, DEV_KEY, "khala-cli", &[Scope::Read, Scope::Publish], ttl).map(Some)
}

fn issue(
    secret: &[u8],
    options: JwtOptions,
    from: &str,
    sub: &str,
    scopes: &[Scope],
    ttl: Duration,
) -> Result<Token, Failure> {
    let issuer = JwtIssuer::hs256(secret, options)
        .map_err(|fault| Failure::usage(format!("the key of {from} cannot be used: {fault}")))?;
    Ok(issuer.issue(sub, scopes, SystemClock::new().now(), ttl))
}

/// Takes the file as the server does: its bytes, without a line end after them.
fn read_key(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = fs::read(path).map_err(|cause| {
        Failure::usage(format!("the key file {} cannot be read: {cause}", path.display()))
    })?;
    Ok(bytes.trim_ascii_end().to_vec())
}
