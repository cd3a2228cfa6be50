//! How a command fails: one line that says what to do, and a code for scripts (those of sysexits.h where they fit).

use std::{fmt, io};

use khala_client::{Error, Refused};
use khala_core::wire::Close;

/// What `khala --help` says at its end.
pub(crate) const HELP: &str = "\
Examples:
  khala publish orders:7 '{\"a\":1}' --kind paid
  khala tail orders:7 --since 10m
  khala documents orders:7
  khala context add prod --url https://khala.example --token-env PROD_TOKEN
  khala publish --help

Environment:
  KHALA_URL, KHALA_TOKEN, KHALA_ADMIN_TOKEN, KHALA_CONTEXT
      the server, the token, the admin token, the name of the context; options win over these variables, and these
      variables over the context
  NO_COLOR
      no colours, as `--color never`
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY
      the proxy to go by, as curl reads them; a server on this machine is asked without
  SSL_CERT_FILE, SSL_CERT_DIR
      the certificate authorities to trust, in place of the system's

Exit codes:
   0  done; publish: every update was acknowledged
   1  the server refused, for a reason that is not below; documents: there is no such document
   2  the command line, a setting, a key or a file of settings cannot be used
   3  tail: the cursor is stale (updates after it were trimmed, or the topic has another history now)
  65  bad input: a line that is not JSON, or that the server refuses
  69  the server could not be reached, or was busy, for too long
  74  standard input, standard output or a file cannot be read or written
  76  the server does not speak Khala's protocol
  77  the token was refused, is missing, has expired, was revoked, or lacks the scope
 130  publish: interrupted by Ctrl-C";

/// Why a command ends without success.
#[derive(Debug)]
pub(crate) struct Failure {
    code: i32,
    message: String,
}

impl Failure {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(2, message)
    }

    pub(crate) fn stale(message: impl Into<String>) -> Self {
        Self::new(3, message)
    }

    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self::new(65, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(1, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(69, message)
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(76, message)
    }

    pub(crate) fn token(message: impl Into<String>) -> Self {
        Self::new(77, message)
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(130, "interrupted")
    }

    pub(crate) fn io(message: impl Into<String>) -> Self {
        Self::new(74, message)
    }

    /// A file, named by `what`, that cannot be read.
    pub(crate) fn unreadable(what: impl fmt::Display, cause: &io::Error) -> Self {
        Self::io(format!("{what} cannot be read: {cause}"))
    }

    /// A server that has no such route, although each server of Khala has it.
    pub(crate) fn no_route(refused: &Refused) -> Option<Self> {
        let found = refused.status == Some(404) && matches!(&*refused.code, "unknown_route" | "http_404");
        found.then(|| {
            Self::protocol(format!(
                "the server has no such route ({}); is this the URL of a Khala server, and is the path in --url right?",
                refused.code
            ))
        })
    }

    pub(crate) fn code(&self) -> i32 {
        self.code
    }

    /// Says what went before: how much was done, say.
    pub(crate) fn after(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{} ({what})", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let retryable = error.is_retryable();
        if let Some(failure) = error.refused().and_then(Self::no_route) {
            return failure;
        }
        match &error {
            Error::Settings(_) => Self::new(2, error.to_string()),
            Error::Unreachable { .. } => Self::new(
                69,
                format!(
                    "{error}; is the server running, and is its address right (--url, KHALA_URL, `khala context show`)?"
                ),
            ),
            Error::Protocol(_) => Self::new(76, error.to_string()),
            // The server's own words are for those who write a client.
            Error::Refused(refused) if refused.code == "missing_token" => {
                Self::token(format!("the server asks for a token (missing_token); {}", advice(&refused.code)))
            }
            Error::Refused(refused) if refused.is_about_token() => {
                Self::token(format!("{error}; {}", advice(&refused.code)))
            }
            Error::Closed { reason, .. } if is_about_token(reason) => {
                Self::token(format!("{error}; {}", advice(reason)))
            }
            _ => Self::new(if retryable { 69 } else { 1 }, error.to_string()),
        }
    }
}

/// Whether a connection was closed because of its token.
fn is_about_token(reason: &str) -> bool {
    [Close::KeyWithdrawn, Close::TokenExpired, Close::TokenRevoked]
        .iter()
        .any(|close| close.reason() == reason)
}

/// What to do about a token that is refused with that code.
fn advice(code: &str) -> &'static str {
    match code {
        "forbidden_topic" => "no token opens this topic as the server is set up",
        "missing_jti" => {
            "use a token with a jti, as `khala token` mints them, or set the server's jwt.require_jti to false"
        }
        "missing_scope" => "use a token with that scope; `khala token --scope` mints one",
        "missing_token" => {
            "give one with --token-file, KHALA_TOKEN, --token or a context; `khala token` mints one with the server's key"
        }
        "owner_mismatch" => {
            "use a token of the topic's owner; `khala token --sub`, `--org` and `--sid` mint one"
        }
        "token_revoked" => "log in anew for another token; `khala revoke --list` says what is revoked",
        "token_too_old" => {
            "use a token that was issued later; how old one may be is the server's jwt.max_age_seconds"
        }
        "unknown_kid" => {
            "use a token that is signed with a key that the server trusts; its operator sees them with \
             `khala key list` and the server's key file"
        }
        _ => {
            "use another token; `khala token` mints one with the server's key, and where that key has a name, give --kid"
        }
    }
}
