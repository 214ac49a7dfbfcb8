//! What was measured, as a table for people and as JSON for programs (bench/README.md has its form).

use std::fmt::Write;

use serde::Serialize;

use crate::rig::machine::Machine;

/// Violations that are told whole; more are counted.
const TOLD_MAX: usize = 20;

/// What a figure should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(least) => value >= least,
            Goal::AtMost(most) => value <= most,
        }
    }
}

/// A limit or a peer that was measured beside a figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Beside {
    /// `B`, say.
    pub(crate) name: String,
    pub(crate) value: f64,
    /// The figure's value divided by this one.
    pub(crate) ratio: f64,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) case: String,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) beside: Option<Beside>,
    /// For the ratio, where the figure has something beside it; else for its value.
    pub(crate) goal: Option<Goal>,
    pub(crate) is_met: Option<bool>,
}

impl Figure {
    pub(crate) fn new(case: &str, name: impl Into<String>, value: f64, unit: &str) -> Figure {
        Figure {
            case: case.to_owned(),
            name: name.into(),
            value,
            unit: unit.to_owned(),
            beside: None,
            goal: None,
            is_met: None,
        }
    }

    /// Puts a limit or a peer beside it; before the goal, which is then the ratio's.
    pub(crate) fn beside(mut self, name: &str, value: f64) -> Figure {
        let ratio = self.value / value;
        self.beside = Some(Beside { name: name.to_owned(), value, ratio });
        self
    }

    pub(crate) fn goal(mut self, goal: Goal) -> Figure {
        let judged = self.beside.as_ref().map_or(self.value, |beside| beside.ratio);
        self.goal = Some(goal);
        self.is_met = Some(goal.is_met(judged));
        self
    }
}

/// What a case gave.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) figures: Vec<Figure>,
    pub(crate) violations: Violations,
}

/// What went wrong: no figure is worth anything beside it.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    told: Vec<String>,
    count: usize,
}

impl Violations {
    pub(crate) fn add(&mut self, what: impl Into<String>) {
        self.count += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(what.into());
        }
    }

    /// Adds one where it does not hold.
    pub(crate) fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.add(what());
        }
    }

    pub(crate) fn extend(&mut self, other: Violations) {
        self.count += other.count;
        self.told.extend(other.told);
        self.told.truncate(TOLD_MAX);
    }
}

/// The whole report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of this form.
    format: u32,
    machine: Machine,
    store: String,
    size: String,
    figures: Vec<Figure>,
    violations: Vec<String>,
    /// Also those that are not told.
    violation_count: usize,
    seconds: f64,
}

impl Report {
    pub(crate) fn new(machine: Machine, store: &str, size: &str) -> Report {
        Report {
            format: 1,
            machine,
            store: store.to_owned(),
            size: size.to_owned(),
            figures: Vec::new(),
            violations: Vec::new(),
            violation_count: 0,
            seconds: 0.0,
        }
    }

    pub(crate) fn add(&mut self, case: &str, outcome: Outcome) {
        // Of a few runs no figure says anything.
        let is_smoke = self.size == "smoke";
        self.figures.extend(outcome.figures.into_iter().map(|figure| match is_smoke {
            true => Figure { goal: None, is_met: None, ..figure },
            false => figure,
        }));
        let told = outcome.violations.told.into_iter().map(|what| format!("{case}: {what}"));
        self.violations.extend(told);
        self.violation_count += outcome.violations.count;
    }

    pub(crate) fn took(&mut self, seconds: f64) {
        self.seconds = seconds;
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.violation_count == 0
    }

    pub(crate) fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("numbers and text are JSON");
        text + "\n"
    }

    pub(crate) fn to_table(&self) -> String {
        let Machine { cpu, cores, memory_mib, kernel, fsync_ms, load, postgres, binary, commit } =
            &self.machine;
        let mut table = format!(
            "{cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, fsync {fsync_ms:.2} ms, \
             load {load}\n{binary} ({commit}) on {}, PostgreSQL {postgres}, {}, {:.0} s\n\n",
            self.store, self.size, self.seconds
        );
        let head = ["case", "figure", "value", "beside it", "ratio", "goal", ""].map(str::to_owned);
        let rows: Vec<[String; 7]> =
            std::iter::once(head).chain(self.figures.iter().map(row)).collect();
        let widths: Vec<usize> = (0..7)
            .map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0))
            .collect();
        for row in rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(table, "{}", line.trim_end()).expect("a string takes all");
        }
        for violation in &self.violations {
            writeln!(table, "WRONG {violation}").expect("a string takes all");
        }
        if self.violation_count > self.violations.len() {
            writeln!(table, "WRONG {} in all", self.violation_count).expect("a string takes all");
        }
        table
    }
}

fn row(figure: &Figure) -> [String; 7] {
    let Figure { case, name, value, unit, beside, goal, is_met } = figure;
    let goal = goal.map(|goal| match goal {
        Goal::AtLeast(least) => format!(">= {least}"),
        Goal::AtMost(most) => format!("<= {most}"),
    });
    [
        case.clone(),
        name.clone(),
        format!("{} {unit}", short(*value)),
        beside.as_ref().map(|it| format!("{} {}", it.name, short(it.value))).unwrap_or_default(),
        beside.as_ref().map(|it| format!("{:.3}", it.ratio)).unwrap_or_default(),
        goal.unwrap_or_default(),
        is_met.map(|is_met| if is_met { "met" } else { "missed" }).unwrap_or_default().to_owned(),
    ]
}

/// Three digits are as many as a shared machine can give.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_the_ratio_s_where_there_is_one() {
        let figure = Figure::new("plain", "64", 500.0, "runs/s").goal(Goal::AtLeast(0.5));
        assert_eq!(figure.is_met, Some(true));
        let figure = Figure::new("plain", "64", 500.0, "runs/s").beside("B", 2000.0);
        assert_eq!(figure.clone().goal(Goal::AtLeast(0.5)).is_met, Some(false));
        let row = row(&figure.goal(Goal::AtMost(0.25)));
        assert_eq!(row, ["plain", "64", "500 runs/s", "B 2000", "0.250", "<= 0.25", "met"]);
    }

    #[test]
    fn violations_are_all_counted_and_some_told() {
        let mut violations = Violations::default();
        for n in 0..30 {
            violations.check(n % 2 == 0, || format!("{n} is odd"));
        }
        let mut all = Violations::default();
        all.add("the first");
        all.extend(violations);
        assert_eq!((all.count, all.told[1].as_str()), (16, "1 is odd"));
    }
}
