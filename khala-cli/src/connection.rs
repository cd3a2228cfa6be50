//! Where the server is and what to show it: the flags that most commands share.

use std::{error::Error as StdError, path::Path, path::PathBuf, time::Duration};

use clap::Args;
use khala_client::{Client, ClientBuilder};
use khala_core::Token;

use crate::{
    exit::Failure,
    file,
    mint::{DEV_KEY, of_dev_key},
    notice::Notices,
};

/// How long a token from the development key is good; another is minted when it has run out.
const DEV_TTL: Duration = Duration::from_secs(15 * 60);

/// The address and the token.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The server's address
    #[arg(long, env = "KHALA_URL", default_value = "http://127.0.0.1:4510")]
    url: String,
    /// The token (better in KHALA_TOKEN or a file than here, where others see it)
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file that holds the token; read again when the token has run out
    ///
    /// Without --token and --token-file, the environment's KHALA_TOKEN is used; without that, a short-lived token is
    /// minted from the development key file khala.dev.key, if the working directory has one.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Connection {
    /// A client to finish building, with its token or where tokens come from.
    pub(crate) fn client(&self, notices: &Notices) -> Result<ClientBuilder, Failure> {
        let client = Client::builder(&self.url);
        if let Some(token) = &self.token {
            return Ok(client.token(Token::new(token.trim())));
        }
        if let Some(path) = &self.token_file {
            // A file that is not there is said at once, and not after many attempts.
            read_token(path).map_err(|fault| Failure::usage(fault.to_string()))?;
            let path = path.clone();
            return Ok(client.token_from(move || std::future::ready(read_token(&path))));
        }
        if let Ok(token) = std::env::var("KHALA_TOKEN") {
            return Ok(client.token(Token::new(token.trim())));
        }
        if of_dev_key(DEV_TTL)?.is_none() {
            return Ok(client);
        }
        notices.say(format_args!("no token was given; using one minted from {DEV_KEY}"));
        let mint = || {
            let minted = of_dev_key(DEV_TTL).map_err(|failure| failure.to_string());
            minted.and_then(|token| token.ok_or_else(|| format!("{DEV_KEY} is gone"))).map_err(Into::into)
        };
        Ok(client.token_from(move || std::future::ready(mint())))
    }
}

fn read_token(path: &Path) -> Result<Token, Box<dyn StdError + Send + Sync>> {
    let text = file::read_text(path)
        .map_err(|cause| format!("the token file {} cannot be read: {cause}", path.display()))?;
    match text.trim() {
        "" => Err(format!("the token file {} is empty", path.display()).into()),
        token => Ok(Token::new(token)),
    }
}
