//! One workload as a table in Markdown: medians over the rounds, and for the headline the least and the most.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::comparison::{
    runner::{Outcome, Samples},
    sample::Sample,
    workload::{Headline, Role},
};

pub(in crate::comparison) fn table(outcome: &Outcome) -> String {
    let Outcome { workload, title, unit, headline, notes, results } = outcome;
    let mut text =
        format!("## {workload}: {title}\n\nA unit of work is {unit}. Compared is: {}.\n\n", headline.words());
    let rounds = results.iter().map(|result| result.rounds.len()).max().unwrap_or(0);
    let extras: BTreeSet<&String> = results
        .iter()
        .flat_map(|result| &result.rounds)
        .flat_map(|sample| sample.extras.keys())
        .filter(|name| {
            **name != "published" && !matches!(headline, Headline::Extra(shown, _) if *shown == **name)
        })
        .collect();
    let mut head = vec!["who".to_owned(), "over".to_owned()];
    if let Headline::Extra(name, unit) = headline {
        head.push(format!("{name}, {unit}"));
    }
    let fixed = [
        "CPU-s per million",
        "× floor",
        "× best competitor",
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

fn cells(outcome: &Outcome, result: &Samples, extras: &BTreeSet<&String>) -> Vec<String> {
    let headline = &outcome.headline;
    let (floor, other) = outcome.marks();
    let ours = result.headline(headline).map(|summary| summary.median);
    let ratio = |mark: Option<f64>| {
        ours.zip(mark).map_or_else(String::new, |(ours, mark)| format!("{:.2}", ours / mark))
    };
    let median = |value: &dyn Fn(&Sample) -> Option<f64>| {
        result.summary(value).map_or_else(String::new, |summary| number(summary.median))
    };
    let range = |value: &dyn Fn(&Sample) -> Option<f64>| {
        result.summary(value).map_or_else(String::new, |summary| {
            let (median, least, most) = (number(summary.median), number(summary.least), number(summary.most));
            if result.rounds.len() > 1 { format!("{median} ({least} to {most})") } else { median }
        })
    };
    let name = if result.role == Role::Khala { format!("**{}**", result.who) } else { result.who.clone() };
    let mut cells = vec![name, result.over.clone()];
    if matches!(headline, Headline::Extra(..)) {
        cells.push(range(&|sample| headline.of(sample)));
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    cells.extend([
        range(&|sample| Some(sample.cost())),
        ratio(floor),
        ratio(other),
        median(&|sample| Some(sample.units_per_second())),
        median(&|sample| Some(sample.latency?.p50)),
        median(&|sample| Some(sample.latency?.p99)),
        median(&|sample| Some(sample.latency?.p999)),
        median(&|sample| Some(mib(sample.resident_bytes))),
        median(&|sample| Some(mib(sample.peak_bytes))),
        median(&|sample| Some(sample.load_cpu_seconds)),
        median(&|sample| Some(sample.server_cpu_seconds)),
        result.rounds.iter().map(|sample| sample.lost).sum::<u64>().to_string(),
        median(&|sample| Some(sample.stolen * 100.0)) + " %",
    ]);
    cells.extend(extras.iter().map(|name| median(&|sample| sample.extra(name))));
    cells.push(result.durability.clone());
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
