//! `khala key`: adds keys to the file that a server trusts, takes them out, and says which there are.
//!
//! # Invariants
//! Nothing that it prints holds a secret or a private key.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use clap::{Args, Subcommand};
use khala_auth::{Key, KeyAlgorithm, KeySet};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    exit::Failure,
    file,
    key_file::{self, KeyFile, Set},
    notice, output, pem,
};

/// Keep the keys that a server trusts: the JWK Set of its auth.keys_file
///
/// A running server takes a change within a second, and keeps the keys that it has where the file is wrong.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala key add keys.json 2026-12.pem --kid 2026-12
  khala key list keys.json
  khala key remove keys.json --kid 2026-11")]
pub(crate) struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Add),
    List(List),
    Remove(Remove),
}

impl Keys {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Add(add) => add.run(),
            Command::List(list) => list.run(),
            Command::Remove(remove) => remove.run(),
        }
    }
}

/// Trust one more key: the public half of a PEM file, or a fresh HS256 secret
///
/// The file is made if it is not there, readable by its owner alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala key add keys.json 2026-12.pem --kid 2026-12
  khala key add keys.json --kid internal")]
struct Add {
    /// The file of the JWK Set
    file: PathBuf,
    /// A PEM file: a public key, or a private key whose public half is taken
    pem: Option<PathBuf>,
    /// The name of the key, which its tokens carry as kid; the set must not have it yet
    #[arg(long)]
    kid: String,
    /// EdDSA, ES256, HS256 or RS256; the default is the algorithm that the key is for
    #[arg(long)]
    algorithm: Option<KeyAlgorithm>,
}

impl Add {
    fn run(self) -> Result<(), Failure> {
        let key = self.key()?;
        let mut file = KeyFile::open(&self.file)?;
        let shown = self.file.display();
        if file.kids().any(|kid| kid == self.kid) {
            return Err(Failure::usage(format!(
                "{shown} has a key {:?} already; tokens would not say which of the two they mean",
                self.kid
            )));
        }
        file.push(key.to_jwk());
        file.check().map_err(|fault| {
            Failure::usage(format!("a server would not take {shown} with that key: {fault}"))
        })?;
        file.store()?;
        let thumbprint = thumbprint(&key).map(|print| format!(", thumbprint {print}")).unwrap_or_default();
        notice::tell(format_args!(
            "{shown} now has the key {:?} ({}{thumbprint})",
            self.kid,
            key.algorithm()
        ));
        Ok(())
    }

    fn key(&self) -> Result<Key, Failure> {
        let Some(path) = &self.pem else { return self.fresh() };
        let shown = path.display();
        let text = file::read_text(path)
            .map_err(|cause| Failure::unreadable(format_args!("the key {shown}"), &cause))?;
        let kid = Some(self.kid.as_str());
        let key = pem::made(self.algorithm, |algorithm| match pem::is_private(&text) {
            true => Key::from_private_pem(kid, algorithm, &text),
            false => Key::from_pem(kid, algorithm, &text),
        });
        key.map_err(|fault| Failure::usage(format!("the key {shown} cannot be used: {fault}")))
    }

    fn fresh(&self) -> Result<Key, Failure> {
        if let Some(other) = self.algorithm.filter(|algorithm| *algorithm != KeyAlgorithm::Hs256) {
            return Err(Failure::usage(format!(
                "a key for {other} is not made here: give the PEM file of one, as `openssl genpkey` makes them"
            )));
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|cause| Failure::io(format!("there is no randomness for a secret: {cause}")))?;
        Key::hs256(Some(&self.kid), &secret).map_err(|fault| Failure::usage(fault.to_string()))
    }
}

/// List the keys: names, algorithms and thumbprints (RFC 7638), never a secret
///
/// On a terminal a table; else, and with --json, one JSON object a line: {"kid":"…","algorithm":"…","thumbprint":"…"}.
/// An HS256 secret has no thumbprint, for that could be guessed from. What a server would not take is said on standard
/// error, and ends it with 2.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala key list keys.json
  khala key list keys.json --json")]
struct List {
    /// The file of the JWK Set
    file: PathBuf,
    /// JSON lines, on a terminal too
    #[arg(long)]
    json: bool,
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let text = key_file::read(&self.file)?;
        let unusable =
            |fault| Failure::usage(format!("a server would not take {}: {fault}", self.file.display()));
        let (set, left_out) = KeySet::from_jwks_in_part(&text).map_err(unusable)?;
        let keys: Vec<_> =
            set.key(None).into_iter().chain(set.kids().filter_map(|kid| set.key(Some(kid)))).collect();
        let lines = || keys.iter().map(|key| line(key) + "\n").collect();
        output::print(&if output::wants_json(self.json) { lines() } else { table(&keys) })?;
        left_out.into_iter().next().map_or(Ok(()), |fault| Err(unusable(fault)))
    }
}

/// Take a key out of the file; a server closes the connections whose tokens it signed
///
/// A key that the server's mint.key_file names stays trusted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala key remove keys.json --kid 2026-11
  khala key remove keys.json --kid internal --force")]
struct Remove {
    /// The file of the JWK Set
    file: PathBuf,
    /// The name of the key
    #[arg(long)]
    kid: String,
    /// Remove the last key too, after which every token is refused
    #[arg(long)]
    force: bool,
}

impl Remove {
    fn run(self) -> Result<(), Failure> {
        let mut file = KeyFile::open(&self.file)?;
        let shown = self.file.display();
        if !file.exists() {
            return Err(Failure::io(format!("there is no key file {shown}")));
        }
        if !file.kids().any(|kid| kid == self.kid) {
            let kids: Vec<_> = file.kids().map(|kid| format!("{kid:?}")).collect();
            let there = if kids.is_empty() { "none that has a name".to_owned() } else { kids.join(", ") };
            return Err(Failure::usage(format!("{shown} has no key {:?}; there is {there}", self.kid)));
        }
        file.remove(&self.kid);
        if file.len() == 0 && !self.force {
            return Err(Failure::usage(format!(
                "{:?} is the last key of {shown}, and without it every token is refused; add the next one first, or \
                 say --force",
                self.kid
            )));
        }
        file.store()?;
        notice::tell(format_args!("{shown} no longer has the key {:?}", self.kid));
        Ok(())
    }
}

fn line(key: &Key) -> String {
    let mut line = json!({"kid": key.kid(), "algorithm": key.algorithm().as_str()});
    if let Some(thumbprint) = thumbprint(key) {
        line["thumbprint"] = thumbprint.into();
    }
    line.to_string()
}

fn table(keys: &[&Key]) -> String {
    let row = |key: &&Key| {
        let kid = key.kid().map_or_else(|| "(no name)".to_owned(), str::to_owned);
        let thumbprint = thumbprint(key).unwrap_or_else(|| "-".to_owned());
        [kid, key.algorithm().as_str().to_owned(), thumbprint]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    output::table(["KID", "ALGORITHM", "THUMBPRINT"], &rows)
}

/// RFC 7638, section 3; of a public key only, for the thumbprint of a weak secret gives it away.
fn thumbprint(key: &Key) -> Option<String> {
    let members: &[&str] = match key.algorithm() {
        KeyAlgorithm::EdDsa => &["crv", "kty", "x"],
        KeyAlgorithm::Es256 => &["crv", "kty", "x", "y"],
        KeyAlgorithm::Rs256 => &["e", "kty", "n"],
        _ => return None,
    };
    let jwk: Value = serde_json::from_str(&key.to_jwk()).expect("the core writes JSON");
    // The members are in the order of their names, which is what is hashed.
    let text: Vec<_> = members.iter().map(|name| format!("{}:{}", json!(name), jwk[name])).collect();
    Some(BASE64.encode(Sha256::digest(format!("{{{}}}", text.join(",")))))
}

/// The HS256 secret of that name in `text`, if that is a JWK Set and not a secret itself.
pub(crate) fn secret_in_set(text: &str, kid: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    let Some(set) = Set::parse(text) else { return Ok(None) };
    let kid = kid.ok_or("it is a JWK Set, and --kid does not say which of its keys")?;
    let key = set.keys.iter().find(|key| key_file::kid(key).as_deref() == Some(kid));
    let key: Value = key
        .and_then(|key| serde_json::from_str(key.get()).ok())
        .ok_or_else(|| format!("it is a JWK Set without a key {kid:?}"))?;
    let secret = key.get("k").filter(|_| key["kty"] == "oct").and_then(Value::as_str);
    let secret = secret.and_then(|secret| BASE64.decode(secret).ok());
    secret
        .map(Some)
        .ok_or_else(|| format!("its key {kid:?} is not a secret; sign with the private key as PEM"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbprints_are_those_of_the_standards() {
        // RFC 7638, section 3.1, and RFC 8037, appendix A.3.
        let rsa = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK\
                   RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMic\
                   AtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3\
                   XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let set = json!({"keys": [
            {"kid": "rsa", "kty": "RSA", "e": "AQAB", "n": rsa},
            {"kid": "ed", "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kid": "hs", "kty": "oct", "k": BASE64.encode([7; 32])},
        ]});
        let set = KeySet::from_jwks(&set.to_string()).unwrap();
        let of = |kid| thumbprint(set.key(Some(kid)).unwrap());
        assert_eq!(of("rsa").as_deref(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
        assert_eq!(of("ed").as_deref(), Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"));
        assert_eq!(of("hs"), None);
        assert_eq!(line(set.key(Some("hs")).unwrap()), r#"{"algorithm":"HS256","kid":"hs"}"#);
        let keys: Vec<_> = set.kids().filter_map(|kid| set.key(Some(kid))).collect();
        let table = table(&keys);
        let row: Vec<_> = table.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(row, ["hs", "HS256", "-"]);
    }
}
