//! Which server a command asks, and with which token: the global options, the environment, the contexts.
//!
//! # Invariants
//! An option wins over a variable of the environment, and that over a context. A context's tokens go to the URL of that context,
//! and to another one only where the context is named beside it. A token from the development key goes to a loopback address only.

use std::{env, time::Duration};

use clap::{Args, ValueHint};
use khala_client::{Backoff, Client, ClientBuilder, ClientOptions};
use khala_core::Token;
use url::{Host, Url};

use crate::{
    context::{Context, Contexts},
    exit::Failure,
    mint::{DEV_KEY, of_dev_key},
    notice::Notices,
    source::Source,
};

/// Where a development server listens.
const DEFAULT_URL: &str = "http://127.0.0.1:4510";
/// How long a token from the development key is good; another is minted when it has run out.
const DEV_TTL: Duration = Duration::from_secs(15 * 60);
/// The heading of these options in the help.
pub(crate) const GLOBAL: &str = "Global options";

/// The options that say where the server is and what to show it.
#[derive(Debug, Args)]
pub(crate) struct Server {
    /// The context to use [env: KHALA_CONTEXT]
    ///
    /// `khala context ls` lists the contexts. The default is the current context, if there is one.
    #[arg(long, global = true, value_name = "NAME", value_hint = ValueHint::Other, help_heading = GLOBAL)]
    context: Option<String>,
    /// The server's address [env: KHALA_URL]
    ///
    /// The default is the address of the context, and without a context http://127.0.0.1:4510.
    /// With another address than that of the current context, the context is not used: its token is for its own server. A context that
    /// --context or KHALA_CONTEXT names is used with this address.
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) url: Option<String>,
    /// The token [env: KHALA_TOKEN]
    ///
    /// Other users of this machine can see the options of a command: KHALA_TOKEN, --token-file and contexts keep the token to yourself.
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) token: Option<String>,
    /// A file that holds the token
    ///
    /// It is read again when the token has expired.
    /// Without --token, --token-file and KHALA_TOKEN, the token is that of the context. Without a context, a short-lived token is
    /// minted from the development key file khala.dev.key, if the working directory has one and the server is on this machine.
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) token_file: Option<std::path::PathBuf>,
    /// A file that holds the admin token
    ///
    /// The admin token is the server's auth.admin_token. KHALA_ADMIN_TOKEN may hold the token itself.
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) admin_token_file: Option<std::path::PathBuf>,
}

/// The server of a command, and the context that is used.
#[derive(Debug)]
struct Target {
    url: String,
    context: Option<Context>,
}

/// A variable of the environment. An empty one is as good as none.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

impl Server {
    /// The context that is named by --context or KHALA_CONTEXT.
    pub(crate) fn named_context(&self) -> Option<String> {
        self.context.clone().or_else(|| variable("KHALA_CONTEXT"))
    }

    fn target(&self) -> Result<Target, Failure> {
        let given = self.url.clone().or_else(|| variable("KHALA_URL"));
        let named = self.named_context();
        let context = match (&named, &given) {
            (Some(name), _) => Some(Contexts::load()?.get(name)?.clone()),
            (None, None) => Contexts::load()?.current()?.cloned(),
            (None, Some(given)) => {
                let own = |context: &&Context| same_url(&context.url, given);
                Contexts::load()?.current()?.filter(own).cloned()
            }
        };
        let of_context =
            || context.as_ref().map_or_else(|| DEFAULT_URL.to_owned(), |context| context.url.clone());
        Ok(Target { url: given.unwrap_or_else(of_context), context })
    }

    /// A client to finish building, with its token or the source of its tokens, that tries again for `retry_for`.
    pub(crate) async fn client(
        &self,
        notices: &Notices,
        retry_for: Option<Duration>,
    ) -> Result<ClientBuilder, Failure> {
        let Target { url, context } = self.target()?;
        let client = Client::builder(&url).options(options(&url, retry_for));
        if self.token.is_some() && self.token_file.is_some() {
            // The parser does not see it where one stands before the command and the other after it.
            return Err(Failure::usage("give one of --token and --token-file"));
        }
        if let Some(token) = &self.token {
            return Ok(client.token(Token::new(token.trim())));
        }
        let source = match &self.token_file {
            Some(path) => Some(Source::File(path.clone())),
            None if variable("KHALA_TOKEN").is_some() => Some(Source::Env("KHALA_TOKEN".to_owned())),
            None => context.and_then(|context| context.token),
        };
        if let Some(source) = source {
            return source.give_to(client, "token").await;
        }
        if !is_loopback(&url) || of_dev_key(DEV_TTL)?.is_none() {
            return Ok(client);
        }
        notices.inform(format_args!("no token was given; using one minted from {DEV_KEY}"));
        let mint = || {
            let minted = of_dev_key(DEV_TTL).map_err(|failure| failure.to_string());
            minted.and_then(|token| token.ok_or_else(|| format!("{DEV_KEY} is gone"))).map_err(Into::into)
        };
        Ok(client.token_from(move || std::future::ready(mint())))
    }

    /// A client for the internal routes, which asks once, and waits for the answer for `most`.
    pub(crate) async fn operator(&self, most: Duration) -> Result<Client, Failure> {
        let Target { url, context } = self.target()?;
        let source = match &self.admin_token_file {
            Some(path) => Some(Source::File(path.clone())),
            None if variable("KHALA_ADMIN_TOKEN").is_some() => {
                Some(Source::Env("KHALA_ADMIN_TOKEN".to_owned()))
            }
            None => context.and_then(|context| context.admin_token),
        };
        let Some(source) = source else {
            return Err(Failure::token(
                "there is no admin token: give --admin-token-file or KHALA_ADMIN_TOKEN, or a context that has one; it is the \
                 server's auth.admin_token",
            ));
        };
        let options = ClientOptions { answer_timeout: most, ..options(&url, Some(Duration::ZERO)) };
        let client = Client::builder(&url).token(source.read("admin token").await?).options(options);
        Ok(client.build()?)
    }
}

/// How a client waits. A server on this machine is asked again soon: it has no crowd to fear.
fn options(url: &str, retry_for: Option<Duration>) -> ClientOptions {
    let backoff = match is_loopback(url) {
        true => Backoff { first: Duration::from_millis(100), most: Duration::from_secs(2) },
        false => Backoff::default(),
    };
    ClientOptions { backoff, retry_for, ..ClientOptions::default() }
}

/// Whether two addresses of a server are one: a slash at the end makes no other.
fn same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// Whether it is the address of a server on this machine.
fn is_loopback(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    match url.host().filter(|_| matches!(url.scheme(), "http" | "https" | "ws" | "wss")) {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_on_this_machine() {
        for url in ["http://localhost:1", "ws://a.localhost", "https://127.9.9.9", "http://[::1]:1/path"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://nosuch.invalid",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://10.0.0.1",
            "http://0.0.0.0:4510",
            "http://127.0.0.1@khala.example",
            "ftp://127.0.0.1",
            "127.0.0.1:4510",
            "foo",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
        assert!(same_url("http://localhost:4510/", "http://localhost:4510"));
    }

    #[test]
    fn a_server_on_this_machine_is_asked_again_soon() {
        for (url, first) in [
            ("http://localhost:4510", 100),
            ("http://[::1]/", 100),
            ("https://127.0.0.2", 100),
            ("https://khala.example", 200),
            ("?", 200),
        ] {
            assert_eq!(options(url, None).backoff.first, Duration::from_millis(first), "{url}");
        }
    }
}
