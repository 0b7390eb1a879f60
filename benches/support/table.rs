//! Medians over the rounds, in columns.

use crate::Values;
use crate::rows::{Figure, Row, Run};
use std::collections::HashMap;
use std::fmt;

/// Cells, by rows.
pub(crate) struct Table(Vec<[String; COLUMNS]>);

const COLUMNS: usize = 8;

impl Table {
    pub(crate) fn new() -> Self {
        let titles = [
            "row",
            "",
            "offspring",
            "min - max",
            "baseline",
            "cost",
            "min - max",
            "limit / goal",
        ];
        Table(vec![titles.map(str::to_owned)])
    }

    /// Adds the results of all rounds for a row.
    pub(crate) fn row(&mut self, row: &Row, rounds: &[HashMap<Run, Values>]) {
        let Figure {
            value,
            factor,
            is_rate,
            unit,
        } = row.figure;
        let figure = |round: &HashMap<Run, Values>, run: Run| {
            round.get(&run).map(|values| values[value] * factor)
        };
        let ours = Spread::of(rounds.iter().filter_map(|round| figure(round, row.ours)));
        let baseline = row
            .baseline
            .and_then(|run| Spread::of(rounds.iter().filter_map(|round| figure(round, run))));
        let ratio = row.baseline.and_then(|run| {
            Spread::of(rounds.iter().filter_map(|round| {
                let (ours, baseline) = (figure(round, row.ours)?, figure(round, run)?);
                let ratio = if is_rate {
                    baseline / ours
                } else {
                    ours / baseline
                };
                ratio.is_finite().then_some(ratio)
            }))
        });
        let median = |spread: &Option<Spread>| spread.as_ref().map(|s| number(s.median));
        let range = |spread: &Option<Spread>| spread.as_ref().and_then(Spread::range);
        let unit = |text: String| format!("{text} {unit}").trim_end().to_owned();
        let ratio_text = median(&ratio).map(|ratio| format!("x{ratio}"));
        self.0.push([
            row.key.to_owned(),
            row.title.to_owned(),
            median(&ours).map(unit).unwrap_or_default(),
            range(&ours).unwrap_or_default(),
            median(&baseline).map(unit).unwrap_or_default(),
            ratio_text.unwrap_or_default(),
            range(&ratio).unwrap_or_default(),
            row.goal.to_owned(),
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; COLUMNS];
        for row in &self.0 {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.0 {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Words are left-aligned, numbers right-aligned.
                line += &match column {
                    0 | 1 | 7 => format!("{cell:width$}  "),
                    _ => format!("{cell:>width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

struct Spread {
    median: f64,
    min: f64,
    max: f64,
    count: usize,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let count = values.len();
        let median = (values[(count - 1) / 2] + values[count / 2]) / 2.0;
        Some(Spread {
            median,
            min,
            max,
            count,
        })
    }

    fn range(&self) -> Option<String> {
        (self.count > 1).then(|| format!("{} - {}", number(self.min), number(self.max)))
    }
}

/// At least three digits, with no more decimals than that needs.
fn number(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
