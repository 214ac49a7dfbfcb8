//! What several nodes are for: a cancel that reaches the run's node, and another node that goes on when
//! one is killed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::load::client::{Connection, Events};
use crate::load::delays::Delays;
use crate::load::runs::Ask;
use crate::report::{Figure, Goal, Outcome};
use crate::rig::Rig;
use crate::rig::service::Setup;
use crate::{Size, Store};

const CANCEL: &str = "cancel";
const RECOVERY: &str = "recovery";

/// Seconds of the lease under which nodes are killed, and how much later a run must go on at most.
const LEASE: f64 = 2.0;
const SLACK: f64 = 1.0;

/// How long something may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Asks for a run whose model says one word and no more, and waits for that.
async fn hanging(address: std::net::SocketAddr, input: &str) -> Result<(String, Events)> {
    let ask = Ask::new("d1-hang", 1);
    let connection = Connection::open(address).await?;
    let mut events = connection.post_stream("/runs", &ask.body(input)).await?;
    let mut run = None;
    while let Some(event) = events.next().await? {
        if event.data.contains("\"type\":\"run.queued\"") {
            let data: serde_json::Value = serde_json::from_str(event.data)?;
            run = data["run_id"].as_str().map(str::to_owned);
        }
        if event.data.contains("\"type\":\"text\"") {
            return Ok((run.context("the first event names the run")?, events));
        }
    }
    anyhow::bail!("the stream of {input} ended")
}

/// Looks until there is something.
async fn seen<T>(what: &str, look: impl Fn() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what} does not come");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// From the DELETE to the end of the provider's connection: asked at the run's node, and at another.
pub(super) async fn cancel(rig: &Rig) -> Result<Outcome> {
    let count = if rig.options.size == Size::Smoke { 2 } else { 100 };
    // SQLite has one node.
    let nodes = if rig.options.store == Store::Postgres { 2 } else { 1 };
    let mut outcome = Outcome::default();
    let service = rig.service(nodes, &Setup::default()).await?;
    rig.stub.keep(true);
    for (asked, at, goal) in [(0, "the same node", 50.0), (1, "another node", 100.0)] {
        let Some(other) = service.nodes.get(asked) else { continue };
        let mut connection = Connection::open(other.address).await?;
        let mut delays = Delays::new();
        for number in 0..count {
            let input = format!("cancel {asked} {number}");
            let (run, mut events) = hanging(service.address(), &input).await?;
            let began = Instant::now();
            let answer = connection.delete(&format!("/runs/{run}")).await?;
            ensure!(answer.status == 202, "a cancel is answered with {}", answer.status);
            let closed = seen("the end of the model's connection", || {
                rig.stub.record(&input).and_then(|record| record.hung_up)
            });
            delays.add(closed.await?.saturating_duration_since(began));
            let mut is_cancelled = false;
            while let Some(event) = events.next().await? {
                is_cancelled |= event.data.contains("\"type\":\"run.cancelled\"");
            }
            outcome.violations.check(is_cancelled, || format!("run {run} is not cancelled"));
        }
        let name = |what| format!("{what} until the model's connection is closed, {at}");
        outcome.figures.push(Figure::new(CANCEL, name("p50"), delays.ms(0.5), "ms"));
        let p99 = Figure::new(CANCEL, name("p99"), delays.ms(0.99), "ms");
        outcome.figures.push(p99.goal(Goal::AtMost(goal)));
    }
    rig.stub.keep(false);
    rig.stop(service).await?;
    Ok(outcome)
}

/// From `kill -9` of a node to the next call of a model for one of its runs, at another node.
pub(super) async fn recovery(rig: &Rig) -> Result<Outcome> {
    let count = if rig.options.size == Size::Smoke { 1 } else { 8 };
    let mut outcome = Outcome::default();
    let setup = Setup { env: vec![("RUNLEDGER_LEASE", LEASE.to_string())], ..Setup::default() };
    let mut delays = Delays::new();
    rig.stub.keep(true);
    for number in 0..count {
        let mut service = rig.service_on(Store::Postgres, 2, &setup).await?;
        let input = format!("recovery {number}");
        let (run, _events) = hanging(service.address(), &input).await?;
        let mut dead = service.nodes.remove(0);
        let began = Instant::now();
        dead.kill()?;
        let asked = seen("the next call of the model", || {
            rig.stub.record(&input).and_then(|record| record.asked.get(1).copied())
        });
        delays.add(asked.await?.saturating_duration_since(began));
        let mut connection = Connection::open(service.address()).await?;
        let answer = connection.delete(&format!("/runs/{run}?wait=30")).await?;
        let is_cancelled = String::from_utf8_lossy(&answer.body).contains("\"CANCELLED\"");
        outcome.violations.check(is_cancelled, || format!("run {run} is not cancelled"));
        rig.stop(service).await?;
    }
    rig.stub.keep(false);
    let seconds = |part| delays.ms(part) / 1e3;
    let lease = format!("with a lease of {LEASE} s");
    let p50 = format!("p50 until another node goes on, {lease}");
    outcome.figures.push(Figure::new(RECOVERY, p50, seconds(0.5), "s"));
    let most = Figure::new(RECOVERY, format!("the most, {lease}"), seconds(1.0), "s");
    outcome.figures.push(most.goal(Goal::AtMost(LEASE + SLACK)));
    Ok(outcome)
}
