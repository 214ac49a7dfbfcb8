//! Runs of one turn and twenty deltas of text: how many end in a second, beside what the database
//! can commit, and what one costs.

use anyhow::Result;

use super::rate::{Way, rate};
use crate::Size;
use crate::load::runs::Ask;
use crate::report::{Figure, Goal, Outcome};
use crate::rig::Rig;
use crate::rig::service::Setup;

const CASE: &str = "plain";

/// Deltas of an answer.
pub(super) const DELTAS: usize = 20;

/// How many are in flight, and the goal for their rate divided by B.
const LEVELS: &[(usize, Option<f64>)] =
    &[(1, None), (16, None), (64, Some(0.5)), (256, Some(0.7)), (1000, Some(1.0))];
const LEVELS_SMOKE: &[(usize, Option<f64>)] = &[(1, None), (16, None)];

/// Where the cost of a run is told, and the goal for it in milliseconds.
const COST: (usize, f64) = (64, 0.6);

pub(super) fn ask() -> Ask {
    Ask::new(&format!("d{DELTAS}"), DELTAS)
}

pub(super) async fn run(rig: &Rig) -> Result<Outcome> {
    let ask = ask();
    let mut outcome = Outcome::default();
    let levels = if rig.options.size == Size::Smoke { LEVELS_SMOKE } else { LEVELS };
    for (in_flight, goal) in levels {
        let service = rig.service(1, &Setup::default()).await?;
        let rate = rate(rig, &service, &ask, *in_flight, Way::Wait).await?;
        let figure = rate.figure(CASE, format!("{in_flight} in flight"));
        outcome.figures.push(match goal {
            Some(goal) => figure.goal(Goal::AtLeast(*goal)),
            None => figure,
        });
        outcome.figures.push(rate.events_figure(CASE, format!("{in_flight} in flight, events")));
        let name = format!("{in_flight} in flight, p50 of a run");
        outcome.figures.push(Figure::new(CASE, name, rate.whole.ms(0.5), "ms"));
        if *in_flight == COST.0 {
            let name = format!("{in_flight} in flight, CPU of a run");
            let cost = Figure::new(CASE, name, rate.cpu_ms, "ms");
            outcome.figures.push(cost.goal(Goal::AtMost(COST.1)));
        }
        outcome.violations.extend(rate.violations);
        rig.stop(service).await?;
    }
    Ok(outcome)
}
