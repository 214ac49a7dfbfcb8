//! Runs of one turn and twenty deltas of text: how many end in a second, beside what the database
//! can commit.

use std::time::Instant;

use anyhow::Result;

use crate::Size;
use crate::load::client::Connection;
use crate::load::closed::closed;
use crate::load::delays::Delays;
use crate::load::runs::{Ask, Run, wrong_log};
use crate::report::{Figure, Goal, Outcome, Violations};
use crate::rig::service::Setup;
use crate::rig::{Rig, Service};

const CASE: &str = "plain";

/// Deltas of an answer.
pub(super) const DELTAS: usize = 20;

/// How many are in flight, and the goal for their rate divided by B.
const IN_FLIGHT: &[(usize, Option<f64>)] =
    &[(1, None), (16, None), (64, Some(0.5)), (256, Some(0.7)), (1000, Some(1.0))];

const IN_FLIGHT_SMOKE: &[(usize, Option<f64>)] = &[(1, None), (8, None)];

/// Logs that are read whole, of all runs; in a smoke run all are.
const LOGS_READ: usize = 200;

pub(super) async fn run(rig: &Rig) -> Result<Outcome> {
    let ask = Ask::new(&format!("d{DELTAS}"), DELTAS);
    let mut outcome = Outcome::default();
    let levels = if rig.options.size == Size::Smoke { IN_FLIGHT_SMOKE } else { IN_FLIGHT };
    for (in_flight, goal) in levels {
        let service = rig.service(1, &Setup::default()).await?;
        let rate = rate(rig, &service, &ask, *in_flight).await?;
        let figure = Figure::new(CASE, format!("{in_flight} in flight"), rate.runs, "runs/s");
        let figure = figure.beside("B", rate.bare);
        outcome.figures.push(match goal {
            Some(goal) => figure.goal(Goal::AtLeast(*goal)),
            None => figure,
        });
        let events = Figure::new(CASE, format!("{in_flight} events"), rate.events, "events/s");
        outcome.figures.push(events.beside("B", rate.bare));
        outcome.violations.extend(rate.violations);
        service.stop().await?;
    }
    Ok(outcome)
}

/// What a closed loop of runs gave.
pub(super) struct Rate {
    /// Runs that ended, and their events, each second.
    pub(super) runs: f64,
    pub(super) events: f64,
    /// B, before and after.
    pub(super) bare: f64,
    /// CPU time of the service and its database for one run.
    pub(super) cpu_ms: f64,
    pub(super) whole: Delays,
    pub(super) violations: Violations,
}

/// Runs of one kind in a closed loop.
pub(super) async fn rate(
    rig: &Rig,
    service: &Service,
    ask: &Ask,
    in_flight: usize,
) -> Result<Rate> {
    let address = service.address();
    let before = rig.bare()?;
    let cpu = rig.cpu(service)?;
    let done = closed(in_flight, rig.until(in_flight), |tickets| {
        let ask = ask.clone();
        async move {
            let mut connection = Connection::open(address).await?;
            let mut runs = Vec::new();
            while let Some(number) = tickets.take() {
                let began = Instant::now();
                let run = ask.run(&mut connection, &format!("run {number}")).await?;
                runs.push((run, began, Instant::now()));
            }
            Ok(runs)
        }
    })
    .await?;
    let cpu = rig.cpu(service)?.saturating_sub(cpu);
    let after = rig.bare()?;
    let mut violations = Violations::default();
    let mut delays = Delays::new();
    let (mut all, mut counted, mut events) = (Vec::new(), 0_u64, 0_u64);
    for (run, began, ended) in done.of_workers.iter().flatten() {
        if let Some(wrong) = ask.wrong(run) {
            violations.add(wrong);
        }
        all.push(run);
        if done.counts(*ended) {
            counted += 1;
            events += run.last_seq;
            delays.add(*ended - *began);
        }
    }
    check_logs(rig, service, ask, &all, &mut violations).await?;
    Ok(Rate {
        runs: counted as f64 / done.seconds(),
        events: events as f64 / done.seconds(),
        bare: f64::midpoint(before, after),
        cpu_ms: cpu.as_secs_f64() * 1e3 / all.len() as f64,
        whole: delays,
        violations,
    })
}

/// Reads the logs of some runs, evenly chosen, and in a smoke run of all.
pub(super) async fn check_logs(
    rig: &Rig,
    service: &Service,
    ask: &Ask,
    runs: &[&Run],
    violations: &mut Violations,
) -> Result<()> {
    let step = match rig.options.size {
        Size::Smoke => 1,
        Size::Short | Size::Whole => runs.len().div_ceil(LOGS_READ).max(1),
    };
    let mut connection = Connection::open(service.address()).await?;
    for run in runs.iter().step_by(step) {
        if let Some(wrong) = wrong_log(&mut connection, &run.run_id, &ask.text).await? {
            violations.add(wrong);
        }
    }
    Ok(())
}
