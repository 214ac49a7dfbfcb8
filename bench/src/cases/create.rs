//! How long `POST /runs` takes while many runs are in flight.

use anyhow::Result;

use super::plain;
use super::rate::{Way, rate};
use crate::Size;
use crate::report::{Figure, Goal, Outcome};
use crate::rig::Rig;
use crate::rig::service::Setup;

const CASE: &str = "create";

/// Runs in flight.
const IN_FLIGHT: usize = 256;
const IN_FLIGHT_SMOKE: usize = 8;

/// Milliseconds, for the median and for 99 of a hundred.
const GOALS: (f64, f64) = (10.0, 50.0);

pub(super) async fn run(rig: &Rig) -> Result<Outcome> {
    let in_flight = if rig.options.size == Size::Smoke { IN_FLIGHT_SMOKE } else { IN_FLIGHT };
    let service = rig.service(1, &Setup::default()).await?;
    let rate = rate(rig, &service, &plain::ask(), in_flight, Way::CreateThenWait).await?;
    rig.stop(service).await?;
    let ms = |name: &str, value: f64| {
        Figure::new(CASE, format!("{in_flight} in flight, {name} of a POST"), value, "ms")
    };
    let figures = vec![
        ms("p50", rate.created.ms(0.5)).goal(Goal::AtMost(GOALS.0)),
        ms("p99", rate.created.ms(0.99)).goal(Goal::AtMost(GOALS.1)),
        ms("max", rate.created.max_ms()),
        rate.figure(CASE, format!("{in_flight} in flight, created and then waited for")),
    ];
    Ok(Outcome { figures, violations: rate.violations })
}
