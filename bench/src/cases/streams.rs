//! Streams of text: how late a delta comes to its reader, how much longer a run takes than its model,
//! and whether all that is said comes through in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::Size;
use crate::load::client::Connection;
use crate::load::delays::Delays;
use crate::load::runs::Ask;
use crate::report::{Figure, Goal, Outcome, Violations};
use crate::rig::service::Setup;
use crate::rig::{Rig, Service};

const CASE: &str = "streams";
const FIRST: &str = "first";

/// Milliseconds between two deltas of a stream.
const GAP_MS: usize = 10;

/// Streams at once, and deltas of each.
const LEVELS: &[(usize, usize)] = &[(100, 500), (500, 200)];
const LEVELS_WHOLE: &[(usize, usize)] = &[(100, 1000), (500, 200), (1000, 200)];
const LEVELS_SMOKE: &[(usize, usize)] = &[(4, 20)];

/// Where delays and rate have goals, and where the time that is added has one.
const FEW: usize = 100;
const MANY: usize = 500;

/// Runs one after the other until their first delta.
const FIRSTS: usize = 300;
const FIRSTS_SMOKE: usize = 3;
/// So many of them warm up.
const FIRSTS_WARM: usize = 50;

/// What the reader of one stream saw.
struct Seen {
    input: String,
    /// When each delta came: the event that has it may have others.
    came: Vec<Instant>,
    began: Instant,
    ended: Instant,
    wrong: Option<String>,
}

/// Asks for a run and reads its stream to the end.
async fn read(service: std::net::SocketAddr, ask: &Ask, input: String) -> Result<Seen> {
    let connection = Connection::open(service).await?;
    let began = Instant::now();
    let mut events = connection.post_stream("/runs", &ask.body(&input)).await?;
    let (mut came, mut said, mut seq) = (Vec::new(), String::new(), 0);
    while let Some(event) = events.next().await? {
        seq += 1;
        if event.seq != seq {
            let wrong = Some(format!("{input}: event {} came as {seq}", event.seq));
            return Ok(Seen { input, came, began, ended: event.at, wrong });
        }
        if let Some(words) = event.words().filter(|_| event.data.contains("\"type\":\"text\"")) {
            said.push_str(words);
            came.resize(said.matches(' ').count(), event.at);
        }
        if event.data.contains("\"type\":\"run.completed\"") {
            let wrong = (said != *ask.text).then(|| format!("{input}: it says {said:?}"));
            return Ok(Seen { input, came, began, ended: event.at, wrong });
        }
    }
    let wrong = Some(format!("{input}: the stream ended behind event {seq}"));
    Ok(Seen { input, came, began, ended: Instant::now(), wrong })
}

/// So many streams, begun within a second.
async fn at_once(service: &Service, ask: &Ask, streams: usize) -> Result<Vec<Seen>> {
    let (address, mut readers) = (service.address(), JoinSet::new());
    let ask = Arc::new(ask.clone());
    for number in 0..streams {
        let ask = Arc::clone(&ask);
        let wait = Duration::from_secs_f64(number as f64 / streams as f64);
        readers.spawn(async move {
            tokio::time::sleep(wait).await;
            read(address, &ask, format!("stream {streams} {number}")).await
        });
    }
    readers.join_all().await.into_iter().collect()
}

/// From the first to the last, seconds.
fn span(times: &[Instant]) -> f64 {
    match times {
        [first, .., last] => (*last - *first).as_secs_f64(),
        [] | [_] => f64::NAN,
    }
}

pub(super) async fn run(rig: &Rig) -> Result<Outcome> {
    let levels = match rig.options.size {
        Size::Smoke => LEVELS_SMOKE,
        Size::Short => LEVELS,
        Size::Whole => LEVELS_WHOLE,
    };
    let mut outcome = Outcome::default();
    let service = rig.service(1, &Setup::default()).await?;
    for (streams, deltas) in levels {
        rig.stub.keep(true);
        let ask = Ask::new(&format!("d{deltas}-g{GAP_MS}"), *deltas);
        let cpu = rig.cpu(&service)?;
        let seen = at_once(&service, &ask, *streams).await?;
        let cpu = rig.cpu(&service)?.saturating_sub(cpu);
        outcome.figures.extend(figures(rig, &seen, *streams, &mut outcome.violations)?);
        let each = cpu.as_secs_f64() * 1e6 / (streams * deltas) as f64;
        let name = format!("{streams} streams, CPU of a delta");
        outcome.figures.push(Figure::new(CASE, name, each, "us"));
    }
    rig.stub.keep(false);
    rig.stop(service).await?;
    Ok(outcome)
}

fn figures(
    rig: &Rig,
    seen: &[Seen],
    streams: usize,
    violations: &mut Violations,
) -> Result<Vec<Figure>> {
    let (mut late, mut added, mut rates) = (Delays::new(), Delays::new(), 0.0);
    for one in seen {
        if let Some(wrong) = &one.wrong {
            violations.add(wrong.clone());
            continue;
        }
        let record = rig.stub.record(&one.input).context("the stub was asked")?;
        for (written, came) in record.deltas.iter().zip(&one.came) {
            late.add(came.saturating_duration_since(*written));
        }
        let asked = record.asked.first().context("it was asked for")?;
        let own = record.ended.context("it has answered")?.saturating_duration_since(*asked);
        added.add((one.ended - one.began).saturating_sub(own));
        rates += span(&record.deltas) / span(&one.came);
    }
    let rate = rates / seen.len() as f64;
    let ms =
        |what: &str, value| Figure::new(CASE, format!("{streams} streams, {what}"), value, "ms");
    let goal = |figure: Figure, at: usize, most: f64| match streams == at {
        true => figure.goal(Goal::AtMost(most)),
        false => figure,
    };
    let kept = Figure::new(CASE, format!("{streams} streams, rate of the model's"), rate, "");
    Ok(vec![
        goal(ms("p50 from the model to the reader", late.ms(0.5)), FEW, 5.0),
        goal(ms("p99 from the model to the reader", late.ms(0.99)), FEW, 25.0),
        if streams == FEW { kept.goal(Goal::AtLeast(0.98)) } else { kept },
        goal(ms("p50 of the time added to a run", added.ms(0.5)), MANY, 25.0),
        ms("p99 of the time added to a run", added.ms(0.99)),
    ])
}

/// From the POST to the first delta, one run after the other; the model sends it at once.
pub(super) async fn first(rig: &Rig) -> Result<Outcome> {
    let count = if rig.options.size == Size::Smoke { FIRSTS_SMOKE } else { FIRSTS };
    let warm = if rig.options.size == Size::Smoke { 0 } else { FIRSTS_WARM };
    let mut outcome = Outcome::default();
    let service = rig.service(1, &Setup::default()).await?;
    let ask = Ask::new("d3-g5", 3);
    let mut delays = Delays::new();
    for number in 0..count {
        let seen = read(service.address(), &ask, format!("first {number}")).await?;
        if let Some(wrong) = seen.wrong {
            outcome.violations.add(wrong);
        } else if number >= warm {
            delays.add(seen.came[0] - seen.began);
        }
    }
    rig.stop(service).await?;
    let flush = rig.machine.fsync_ms;
    let goal = Goal::AtMost(3.0 * flush + 2.0);
    let ms = |name: &str, value| Figure::new(FIRST, name, value, "ms");
    outcome.figures.push(ms("p50 until the first delta", delays.ms(0.5)).goal(goal));
    outcome.figures.push(ms("p99 until the first delta", delays.ms(0.99)));
    outcome.figures.push(ms("a flush of the disk", flush));
    Ok(outcome)
}
