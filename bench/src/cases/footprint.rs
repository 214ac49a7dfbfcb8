//! What the service takes when little happens: memory, the time of its start, the size of its binary.

use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;

use crate::load::client::{Connection, Events};
use crate::load::runs::Ask;
use crate::report::{Figure, Goal, Outcome};
use crate::rig::Rig;
use crate::rig::process::resident_kib;
use crate::rig::service::{Node, Setup};
use crate::{Size, Store};

const FOOTPRINT: &str = "footprint";
const SUBSCRIBERS: &str = "subscribers";

/// A service that has just started does what it does once; then it is looked at.
const SETTLED: Duration = Duration::from_secs(2);

/// How many open their streams at a time.
const AT_ONCE: usize = 200;

/// Opens streams of runs that say one word and no more; they are open when all have said it.
async fn hanging(address: std::net::SocketAddr, count: usize) -> Result<Vec<Events>> {
    let ask = Ask::new("d1-hang", 1);
    let mut open = Vec::with_capacity(count);
    for first in (0..count).step_by(AT_ONCE) {
        let mut some = JoinSet::new();
        for number in first..(first + AT_ONCE).min(count) {
            let body = ask.body(&format!("hanging {number}"));
            some.spawn(async move {
                let connection = Connection::open(address).await?;
                until_text(connection.post_stream("/runs", &body).await?).await
            });
        }
        while let Some(one) = some.join_next().await {
            open.push(one??.1);
        }
    }
    Ok(open)
}

/// Reads a stream to its first text; the run's id, and the stream.
async fn until_text(mut events: Events) -> Result<(String, Events)> {
    let mut run = String::new();
    while let Some(event) = events.next().await? {
        if event.data.contains("\"type\":\"run.queued\"") {
            let data: serde_json::Value = serde_json::from_str(event.data)?;
            run = data["run_id"].as_str().unwrap_or_default().to_owned();
        }
        if event.data.contains("\"type\":\"text\"") {
            return Ok((run, events));
        }
    }
    anyhow::bail!("a stream ended")
}

fn resident(node: &Node) -> Result<f64> {
    Ok(resident_kib(node.pid())? as f64)
}

pub(super) async fn footprint(rig: &Rig) -> Result<Outcome> {
    let active = if rig.options.size == Size::Smoke { 4 } else { 1000 };
    let mut outcome = Outcome::default();
    let figure = |name: &str, value, unit| Figure::new(FOOTPRINT, name, value, unit);
    let size = std::fs::metadata(&rig.options.binary)?.len() as f64 / f64::from(1 << 20);
    outcome.figures.push(figure("binary", size, "MiB").goal(Goal::AtMost(30.0)));

    // The second start finds its files, and the binary in memory.
    let service = rig.service_on(Store::Sqlite, 1, &Setup::default()).await?;
    let place = service.place.clone();
    rig.stop(service).await?;
    let mut node = Node::start(&place, &Setup::default()).await?;
    let start = node.start.as_secs_f64() * 1e3;
    outcome.figures.push(figure("start, SQLite", start, "ms").goal(Goal::AtMost(100.0)));
    node.stop().await?;

    let service = rig.service(1, &Setup::default()).await?;
    if rig.options.size != Size::Smoke {
        tokio::time::sleep(SETTLED).await;
    }
    let idle = resident(&service.nodes[0])?;
    let mib = figure("idle", idle / 1024.0, "MiB resident");
    outcome.figures.push(mib.goal(Goal::AtMost(30.0)));
    let open = hanging(service.address(), active).await?;
    let each = (resident(&service.nodes[0])? - idle) / active as f64;
    let name = format!("each of {active} active runs, with a reader");
    outcome.figures.push(figure(&name, each, "KiB").goal(Goal::AtMost(64.0)));
    outcome.violations.check(open.len() == active, || "not all streams are open".to_owned());
    drop(open);
    rig.stop(service).await?;
    Ok(outcome)
}

/// Readers of ten runs that say nothing for a while.
pub(super) async fn subscribers(rig: &Rig) -> Result<Outcome> {
    const RUNS: usize = 10;
    let readers = if rig.options.size == Size::Smoke { 20 } else { 10_000 };
    let mut outcome = Outcome::default();
    let service = rig.service(1, &Setup::default()).await?;
    let address = service.address();
    let ask = Ask::new("d1-hang", 1);
    let (mut runs, mut first) = (Vec::new(), Vec::new());
    for number in 0..RUNS {
        let connection = Connection::open(address).await?;
        let events = connection.post_stream("/runs", &ask.body(&format!("read {number}"))).await?;
        let (run, events) = until_text(events).await?;
        runs.push(run);
        first.push(events);
    }
    let before = resident(&service.nodes[0])?;
    let mut open = Vec::with_capacity(readers);
    for from in (0..readers).step_by(AT_ONCE) {
        let mut some = JoinSet::new();
        for number in from..(from + AT_ONCE).min(readers) {
            let path = format!("/runs/{}/stream", runs[number % RUNS]);
            some.spawn(async move {
                let connection = Connection::open(address).await?;
                until_text(connection.get_stream(&path).await?).await
            });
        }
        while let Some(one) = some.join_next().await {
            open.push(one??.1);
        }
    }
    let each = (resident(&service.nodes[0])? - before) / readers as f64;
    let name = format!("each of {readers} readers that wait");
    outcome.figures.push(Figure::new(SUBSCRIBERS, name, each, "KiB").goal(Goal::AtMost(10.0)));
    outcome.violations.check(open.len() == readers, || "not all streams are open".to_owned());
    drop((open, first));
    rig.stop(service).await?;
    Ok(outcome)
}
