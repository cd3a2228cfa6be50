//! Standard output: data and nothing else, whole lines, and no complaint when nobody reads it.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};

use crate::{exit::Failure, json::Paint};

/// Whether to print JSON: where it was asked for, and wherever no person reads.
pub(crate) fn wants_json(asked: bool) -> bool {
    asked || !std::io::stdout().is_terminal()
}

/// Whether standard output takes colours: as --color says, else if it is a terminal and the environment (NO_COLOR, CLICOLOR, TERM)
/// does not say otherwise.
pub(crate) fn paint() -> Paint {
    Paint(AutoStream::choice(&std::io::stdout()) != ColorChoice::Never)
}

pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

pub(crate) fn print_bytes(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(cause) if cause.kind() != ErrorKind::BrokenPipe => Err(unwritable(&cause)),
        _ => Ok(()),
    }
}

pub(crate) fn unwritable(cause: &std::io::Error) -> Failure {
    Failure::io(format!("standard output cannot be written: {cause}"))
}

/// A number of things, as a person says it.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// Columns as wide as their widest cell: text to the left, numbers to the right.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    // A dash stands where there is no number. 16 digits may be an epoch without a letter.
    let is_number =
        |text: &str| text == "-" || (text.len() < 16 && text.bytes().all(|byte| byte.is_ascii_digit()));
    let column = |at: usize| rows.iter().map(move |row| row[at].as_str());
    let widths = heads.iter().enumerate().map(|(at, head)| {
        column(at).chain([*head]).map(|text| text.chars().count()).max().unwrap_or_default()
    });
    let widths: Vec<_> = widths.collect();
    let right: Vec<_> = (0..N).map(|at| !rows.is_empty() && column(at).all(is_number)).collect();
    let line = |cells: [&str; N]| {
        let cells = cells.into_iter().enumerate().map(|(at, text)| match (widths[at], right[at]) {
            (width, true) => format!("{text:>width$}"),
            (width, false) => format!("{text:<width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().fold(line(heads), |out, row| out + &line(row.each_ref().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let rows = [["a", "-", "x"], ["bcd", "1000", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["T", "N", "LAST"], &rows), "T       N  LAST\na       -  x\nbcd  1000\n");
        assert_eq!(table(["T", "N"], &[]), "T  N\n");
        let named = [["2026-12", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["KID", "T"], &named), "KID      T\n2026-12  x\n");
        let epoch = [["9365087828050430", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["EPOCH", "T"], &epoch), "EPOCH             T\n9365087828050430  x\n");
    }

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "update")), ["0 updates", "1 update", "2 updates"]);
    }
}
