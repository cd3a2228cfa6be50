//! One row as a table in Markdown: medians over the rounds, and for the headline the least and the most.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::beside::{
    contest::{Contested, Outcome},
    figures::Figures,
    row::{Headline, Role},
};

pub(in crate::beside) fn table(outcome: &Outcome) -> String {
    let Outcome { row, title, unit, headline, notes, results } = outcome;
    let mut text =
        format!("## {row}: {title}\n\nA unit of work is {unit}. Compared is: {}.\n\n", headline.words());
    let rounds = results.iter().map(|result| result.rounds.len()).max().unwrap_or(0);
    let extras: BTreeSet<&String> = results
        .iter()
        .flat_map(|result| &result.rounds)
        .flat_map(|figures| figures.more.keys())
        .filter(|name| {
            **name != "published" && !matches!(headline, Headline::More(shown, _) if shown == name)
        })
        .collect();
    let mut head = vec!["who".to_owned(), "over".to_owned()];
    if let Headline::More(name, unit) = headline {
        head.push(format!("{name}, {unit}"));
    }
    let fixed = [
        "CPU-s per million",
        "× floor",
        "× best peer",
        "units/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "MiB",
        "most MiB",
        "generator CPU-s",
        "server CPU-s",
        "lost",
        "steal",
    ];
    head.extend(fixed.map(str::to_owned));
    head.extend(extras.iter().map(|name| (*name).clone()));
    head.push("durability".to_owned());
    line(&mut text, &head);
    line(&mut text, &vec!["---".to_owned(); head.len()]);
    for result in results {
        line(&mut text, &cells(outcome, result, &extras));
    }
    writeln!(text, "\nMedians of {rounds} rounds (least to most).").expect("a String takes every write");
    for note in notes {
        writeln!(text, "{note}").expect("a String takes every write");
    }
    text
}

fn cells(outcome: &Outcome, result: &Contested, extras: &BTreeSet<&String>) -> Vec<String> {
    let headline = outcome.headline;
    let (floor, peer) = outcome.marks();
    let ours = result.headline(headline).map(|spread| spread.median);
    let ratio = |mark: Option<f64>| {
        ours.zip(mark).map_or_else(String::new, |(ours, mark)| format!("{:.2}", ours / mark))
    };
    let median = |value: &dyn Fn(&Figures) -> Option<f64>| {
        result.spread(value).map_or_else(String::new, |spread| number(spread.median))
    };
    let range = |value: &dyn Fn(&Figures) -> Option<f64>| {
        result.spread(value).map_or_else(String::new, |spread| {
            let (median, least, most) = (number(spread.median), number(spread.least), number(spread.most));
            if result.rounds.len() > 1 { format!("{median} ({least} to {most})") } else { median }
        })
    };
    let name = if result.role == Role::Khala { format!("**{}**", result.who) } else { result.who.to_owned() };
    let mut cells = vec![name, result.over.to_owned()];
    if matches!(headline, Headline::More(..)) {
        cells.push(range(&|figures| headline.of(figures)));
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    cells.extend([
        range(&|figures| Some(figures.cost())),
        ratio(floor),
        ratio(peer),
        median(&|figures| Some(figures.units_per_second())),
        median(&|figures| Some(figures.latency?.p50)),
        median(&|figures| Some(figures.latency?.p99)),
        median(&|figures| Some(figures.latency?.p999)),
        median(&|figures| Some(mib(figures.resident_bytes))),
        median(&|figures| Some(mib(figures.peak_bytes))),
        median(&|figures| Some(figures.load_cpu_seconds)),
        median(&|figures| Some(figures.server_cpu_seconds)),
        result.rounds.iter().map(|figures| figures.lost).sum::<u64>().to_string(),
        median(&|figures| Some(figures.stolen * 100.0)) + " %",
    ]);
    cells.extend(extras.iter().map(|name| median(&|figures| figures.extra(name))));
    cells.push(result.durability.to_owned());
    cells
}

/// With three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn line(text: &mut String, cells: &[String]) {
    writeln!(text, "| {} |", cells.join(" | ")).expect("a String takes every write");
}
