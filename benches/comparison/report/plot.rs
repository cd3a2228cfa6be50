//! One picture of all workloads: a bar for each competitor, as long as the median of the workload's headline, with a line from the
//! least to the most.

use std::path::Path;

use khala_testing::{During as _, Failure};
use plotters::prelude::*;

use crate::comparison::{runner::Outcome, workload::Role};

const WIDTH: u32 = 900;
const BAR: i32 = 22;
const HEAD: i32 = 56;
/// Where bars begin, and the longest of them ends.
const LEFT: i32 = 190;
const RIGHT: i32 = 780;

const INK: RGBColor = RGBColor(40, 40, 40);

pub(super) fn write(path: &Path, outcomes: &[Outcome]) -> Result<(), Failure> {
    let height: i32 = outcomes.iter().map(height).sum();
    let area = SVGBackend::new(path, (WIDTH, height.max(1) as u32)).into_drawing_area();
    draw(&area, outcomes).during("drawing")
}

fn height(outcome: &Outcome) -> i32 {
    HEAD + BAR * outcome.results.len() as i32 + BAR
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(area: &Area<'a>, outcomes: &[Outcome]) -> Drawn<'a> {
    area.fill(&WHITE)?;
    let mut top = 0;
    for outcome in outcomes {
        draw_workload(area, outcome, top)?;
        top += height(outcome);
    }
    area.present()
}

fn draw_workload<'a>(area: &Area<'a>, outcome: &Outcome, top: i32) -> Drawn<'a> {
    let style = |size: i32| ("sans-serif", size).into_font().color(&INK);
    area.draw(&Text::new(format!("{}: {}", outcome.workload, outcome.title), (16, top + 16), style(17)))?;
    let words = format!("{}; less is better", outcome.headline.words());
    area.draw(&Text::new(words, (16, top + 36), style(13)))?;
    let most = outcome.results.iter().filter_map(|result| result.headline(&outcome.headline));
    let most = most.map(|summary| summary.most).fold(f64::MIN_POSITIVE, f64::max);
    let at = |value: f64| LEFT + (value / most * f64::from(RIGHT - LEFT)) as i32;
    for (place, result) in outcome.results.iter().enumerate() {
        let y = top + HEAD + BAR * place as i32;
        area.draw(&Text::new(result.who.as_str(), (16, y + 4), style(13)))?;
        let Some(summary) = result.headline(&outcome.headline) else { continue };
        let color = match result.role {
            Role::Floor => RGBColor(170, 170, 170),
            Role::Khala => RGBColor(214, 110, 30),
            Role::Other => RGBColor(110, 150, 190),
        };
        let bar = [(LEFT, y + 2), (at(summary.median).max(LEFT + 1), y + BAR - 4)];
        area.draw(&Rectangle::new(bar, color.filled()))?;
        let middle = y + BAR / 2 - 1;
        area.draw(&PathElement::new(vec![(at(summary.least), middle), (at(summary.most), middle)], INK))?;
        let value = format!("{:.2}", summary.median);
        area.draw(&Text::new(value, (at(summary.most) + 8, y + 4), style(13)))?;
    }
    Ok(())
}
