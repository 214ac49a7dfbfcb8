//! Runs of one kind in a closed loop, and what came of them: most cases are one or two of these.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Size;
use crate::load::client::Connection;
use crate::load::closed::{Closed, Tickets, closed};
use crate::load::delays::Delays;
use crate::load::runs::{Ask, Run, wrong_log};
use crate::report::{Figure, Violations};
use crate::rig::{Rig, Service};

/// Logs that are read whole, of all runs; in a smoke run all are.
const LOGS_READ: usize = 200;

/// How a client comes to the end of its run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// One request, answered when the run has ended.
    Wait,
    /// One that creates the run and one that waits.
    CreateThenWait,
}

/// What a closed loop of runs gave.
#[derive(Debug)]
pub(super) struct Rate {
    /// Runs that ended, and their events, each second.
    pub(super) runs: f64,
    pub(super) events: f64,
    /// B, before and after.
    pub(super) bare: f64,
    /// CPU time of the service and its database for one run.
    pub(super) cpu_ms: f64,
    /// All runs, those of the warming up too.
    pub(super) count: usize,
    /// Until the run is known to be there, where it was created first.
    pub(super) created: Delays,
    /// From the request to the run's end.
    pub(super) whole: Delays,
    pub(super) violations: Violations,
}

/// One run of a loop.
struct Done {
    run: Run,
    began: Instant,
    created: Duration,
    ended: Instant,
}

impl Rate {
    /// Runs each second beside B.
    pub(super) fn figure(&self, case: &str, name: impl Into<String>) -> Figure {
        Figure::new(case, name, self.runs, "runs/s").beside("B", self.bare)
    }

    /// Events each second beside B.
    pub(super) fn events_figure(&self, case: &str, name: impl Into<String>) -> Figure {
        Figure::new(case, name, self.events, "events/s").beside("B", self.bare)
    }
}

/// Keeps so many runs in flight on a service's first node, and checks what became of them.
pub(super) async fn rate(
    rig: &Rig,
    service: &Service,
    ask: &Ask,
    in_flight: usize,
    way: Way,
) -> Result<Rate> {
    let address = service.address();
    let before = rig.bare()?;
    let cpu = rig.cpu(service)?;
    let done = closed(in_flight, rig.until(in_flight), |tickets| {
        let ask = ask.clone();
        async move {
            let mut connection = Connection::open(address).await?;
            work(&mut connection, &ask, &tickets, way).await
        }
    })
    .await?;
    let cpu = rig.cpu(service)?.saturating_sub(cpu);
    let after = rig.bare()?;
    let mut rate = judged(ask, &done);
    check_logs(rig, service, ask, &done, &mut rate.violations).await?;
    rate.bare = f64::midpoint(before, after);
    rate.cpu_ms = cpu.as_secs_f64() * 1e3 / rate.count as f64;
    Ok(rate)
}

async fn work(
    connection: &mut Connection,
    ask: &Ask,
    tickets: &Arc<Tickets>,
    way: Way,
) -> Result<Vec<Done>> {
    let mut all = Vec::new();
    while let Some(number) = tickets.take() {
        let began = Instant::now();
        let input = format!("run {number}");
        let (run, created) = match way {
            Way::Wait => (ask.run(connection, &input).await?, Duration::ZERO),
            Way::CreateThenWait => {
                let run = ask.create(connection, &input).await?;
                let created = began.elapsed();
                (Run::ended(connection, &run.run_id).await?, created)
            }
        };
        all.push(Done { run, began, created, ended: Instant::now() });
    }
    Ok(all)
}

fn judged(ask: &Ask, done: &Closed<Vec<Done>>) -> Rate {
    let mut rate = Rate {
        runs: 0.0,
        events: 0.0,
        bare: 0.0,
        cpu_ms: 0.0,
        count: 0,
        created: Delays::new(),
        whole: Delays::new(),
        violations: Violations::default(),
    };
    let (mut runs, mut events) = (0_u64, 0_u64);
    for one in done.of_workers.iter().flatten() {
        rate.count += 1;
        if let Some(wrong) = ask.wrong(&one.run) {
            rate.violations.add(wrong);
        }
        if done.counts(one.ended) {
            runs += 1;
            events += one.run.last_seq;
            rate.created.add(one.created);
            rate.whole.add(one.ended - one.began);
        }
    }
    rate.violations.check(rate.count > 0, || "no run was asked for".to_owned());
    rate.runs = runs as f64 / done.seconds();
    rate.events = events as f64 / done.seconds();
    rate
}

/// Reads the logs of some runs, evenly chosen, and in a smoke run of all.
async fn check_logs(
    rig: &Rig,
    service: &Service,
    ask: &Ask,
    done: &Closed<Vec<Done>>,
    violations: &mut Violations,
) -> Result<()> {
    let count: usize = done.of_workers.iter().map(Vec::len).sum();
    let step = match rig.options.size {
        Size::Smoke => 1,
        Size::Short | Size::Whole => count.div_ceil(LOGS_READ).max(1),
    };
    let mut connection = Connection::open(service.address()).await?;
    for one in done.of_workers.iter().flatten().step_by(step) {
        if let Some(wrong) = wrong_log(&mut connection, &one.run.run_id, &ask.text).await? {
            violations.add(wrong);
        }
    }
    Ok(())
}
