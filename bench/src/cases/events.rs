//! Durable events a second: many runs whose text comes over time, so that each commit takes an event
//! of many of them.

use anyhow::Result;

use super::rate::{Way, rate};
use crate::Size;
use crate::load::runs::Ask;
use crate::report::{Figure, Goal, Outcome};
use crate::rig::Rig;
use crate::rig::service::Setup;

const CASE: &str = "events";

/// Runs in flight: more than can be kept up with at a delta each ten milliseconds.
const IN_FLIGHT: usize = 512;
const IN_FLIGHT_SMOKE: usize = 8;

/// Deltas of an answer.
const DELTAS: usize = 100;
const DELTAS_SMOKE: usize = 10;

/// Events each second divided by B.
const GOAL: f64 = 6.0;

pub(super) async fn run(rig: &Rig) -> Result<Outcome> {
    let (in_flight, deltas) = match rig.options.size {
        Size::Smoke => (IN_FLIGHT_SMOKE, DELTAS_SMOKE),
        Size::Short | Size::Whole => (IN_FLIGHT, DELTAS),
    };
    let ask = Ask::new(&format!("d{deltas}-g10"), deltas);
    let service = rig.service(1, &Setup::default()).await?;
    let rate = rate(rig, &service, &ask, in_flight, Way::Wait).await?;
    rig.stop(service).await?;
    let name = |what: &str| format!("{in_flight} in flight{what}");
    let figures = vec![
        rate.events_figure(CASE, name("")).goal(Goal::AtLeast(GOAL)),
        Figure::new(CASE, name(", deltas"), rate.runs * deltas as f64, "deltas/s"),
        Figure::new(CASE, name(", CPU of an event"), rate.cpu_ms * rate.runs / rate.events, "ms"),
    ];
    Ok(Outcome { figures, violations: rate.violations })
}
