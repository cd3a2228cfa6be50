//! Prints the public items of a crate, one on each line, from the JSON that rustdoc wrote of the crate.
//!
//! Left out is what follows from other lines: impls of auto traits, blanket impls, and the methods of `Clone`, `Debug`, `Display`,
//! `Hash` and comparisons, whose impls are listed.

use std::{env, error::Error, process::ExitCode};

const METHODS: [&str; 6] = ["clone", "cmp", "eq", "fmt", "hash", "partial_cmp"];

fn list(json: &str) -> Result<String, Box<dyn Error>> {
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_auto_trait_impls(true)
        .omit_blanket_impls(true)
        .build()?;
    let items = api.items().map(|item| format!("{item}\n")).filter(|item| tells_something(item));
    Ok(items.collect())
}

fn tells_something(item: &str) -> bool {
    let name =
        item.split_once(['(', '<']).filter(|_| item.starts_with("pub fn ")).map_or("", |(name, _)| name);
    let is_derived = name.rsplit_once("::").is_some_and(|(_, method)| METHODS.contains(&method));
    !is_derived && !item.starts_with("impl core::marker::StructuralPartialEq ")
}

fn main() -> ExitCode {
    let Some(json) = env::args().nth(1) else {
        eprintln!("usage: khala-public-api FILE.json");
        return ExitCode::FAILURE;
    };
    match list(&json) {
        Ok(items) => {
            print!("{items}");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("{json} cannot be read: {fault}");
            ExitCode::FAILURE
        }
    }
}
