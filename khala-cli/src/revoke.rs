//! `khala revoke`: takes tokens back before their end, on every node.

use bytes::Bytes;
use clap::Args;
use http::Method;
use khala_core::{
    Timestamp, Watermark,
    auth::RevocationId,
    clock::{Clock as _, SystemClock},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    admin,
    exit::Failure,
    moment::{Moment, local, moment},
    output,
    server::Server,
};

/// Revoke tokens before they expire, or list what is revoked
///
/// When it prints, the revocation is stored: the connections of such tokens are closed on every node within a second, with
/// 4003, and such tokens are refused with token_revoked. It needs an admin token. On a terminal it prints a sentence; else, and with
/// --json, the revocation as one JSON object: {"watermark":7,"by":"sid","id":"…","at":…,"until":…}, moments in milliseconds
/// since 1970.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  khala revoke --sub ada --reason 'lost laptop'
  khala revoke --sid login-7
  khala revoke --jti 0f6c41 --until 2d
  khala revoke --list")]
pub(crate) struct Revoke {
    #[command(flatten)]
    what: What,
    /// When the revocation may be forgotten: a moment (2026-12-31T18:00:00Z) or a duration from now (2d)
    ///
    /// The default is the moment at which the last token that it names has expired; the revocation of a login is kept for ever. For a
    /// subject, a moment before the default is refused.
    #[arg(long, value_name = "WHEN", value_parser = moment, conflicts_with = "list")]
    until: Option<Moment>,
    /// The reason, for the server's log; --list does not show it
    #[arg(long, value_name = "TEXT", conflicts_with = "list")]
    reason: Option<String>,
    /// JSON lines, on a terminal too
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Revoke one token, by its jti
    #[arg(long, value_name = "ID", value_parser = id)]
    jti: Option<RevocationId>,
    /// Revoke every token of one login, and the tokens that it gets later
    #[arg(long, value_name = "ID", value_parser = id)]
    sid: Option<RevocationId>,
    /// Revoke every token of one subject that was issued until now, or that is issued within the server's leeway from now
    #[arg(long, value_name = "ID", value_parser = id)]
    sub: Option<RevocationId>,
    /// List what is revoked, the oldest first: on a terminal a table, else JSON lines
    #[arg(long)]
    list: bool,
}

fn id(text: &str) -> Result<RevocationId, String> {
    RevocationId::parse(text).map_err(|fault| fault.to_string())
}

/// A revocation as the server tells it.
#[derive(Debug, Deserialize, Serialize)]
struct Told {
    watermark: Watermark,
    by: String,
    id: String,
    at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

#[derive(Deserialize)]
struct Page {
    revocations: Vec<Told>,
    complete: bool,
}

impl Revoke {
    pub(crate) async fn run(self, server: &Server) -> Result<(), Failure> {
        let What { jti, sid, sub, .. } = &self.what;
        let named = [("jti", jti), ("sid", sid), ("sub", sub)];
        let Some((by, id)) = named.into_iter().find_map(|(by, id)| Some((by, id.as_ref()?))) else {
            return self.list(server).await;
        };
        let mut order = json!({"by": by, "id": id.as_str()});
        if let Some(until) = self.until {
            order["until"] = until.after(SystemClock::new().now()).as_millis().into();
        }
        if let Some(reason) = &self.reason {
            order["reason"] = reason.as_str().into();
        }
        let answer = admin::call(server, Method::POST, "revocations", Bytes::from(order.to_string())).await?;
        let told: Told = admin::read(&answer)?;
        output::print(&if output::wants_json(self.json) { lines(&[told]) } else { sentence(&told) })
    }

    async fn list(&self, server: &Server) -> Result<(), Failure> {
        let mut all: Vec<Told> = Vec::new();
        loop {
            let after = all.last().map_or(Watermark::ORIGIN, |last| last.watermark);
            let answer =
                admin::call(server, Method::GET, &format!("revocations?after={after}"), Bytes::new()).await?;
            let Page { revocations, complete } = admin::read(&answer)?;
            let over = complete || revocations.is_empty();
            all.extend(revocations);
            if over {
                break;
            }
        }
        output::print(&if output::wants_json(self.json) { lines(&all) } else { table(&all) })
    }
}

fn lines(all: &[Told]) -> String {
    all.iter().map(|told| serde_json::to_string(told).expect("a revocation has a JSON form") + "\n").collect()
}

fn shown(moment: u64) -> String {
    local(Timestamp::from_millis(moment))
}

fn sentence(Told { by, id, until, .. }: &Told) -> String {
    let until = until.map_or_else(|| "for ever".to_owned(), |until| format!("until {}", shown(until)));
    format!("revoked the tokens with the {by} {id:?}; the revocation is kept {until}\n")
}

fn table(all: &[Told]) -> String {
    let row = |Told { by, id, at, until, .. }: &Told| {
        [shown(*at), until.map_or_else(|| "-".to_owned(), shown), by.clone(), id.clone()]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    output::table(["AT", "UNTIL", "BY", "ID"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_say_the_same() {
        let all = [
            Told {
                watermark: Watermark::new(3).unwrap(),
                by: "sid".into(),
                id: "a b".into(),
                at: 0,
                until: None,
            },
            Told {
                watermark: Watermark::new(4).unwrap(),
                by: "jti".into(),
                id: "\u{e9}".into(),
                at: 999,
                until: Some(86_400_000),
            },
        ];
        assert_eq!(
            lines(&all),
            "{\"watermark\":3,\"by\":\"sid\",\"id\":\"a b\",\"at\":0}\n\
             {\"watermark\":4,\"by\":\"jti\",\"id\":\"\u{e9}\",\"at\":999,\"until\":86400000}\n"
        );
        let (first, second, until) = (shown(0), shown(999), shown(86_400_000));
        assert_eq!(
            table(&all),
            format!(
                "AT                       UNTIL                    BY   ID\n\
                 {first}  -                        sid  a b\n\
                 {second}  {until}  jti  \u{e9}\n"
            )
        );
        assert_eq!(
            all.each_ref().map(sentence),
            [
                "revoked the tokens with the sid \"a b\"; the revocation is kept for ever\n".to_owned(),
                format!("revoked the tokens with the jti \"\u{e9}\"; the revocation is kept until {until}\n"),
            ]
        );
    }
}
