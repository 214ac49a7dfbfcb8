//! Long runs: whether the hundredth turn is as soon begun as the second.

use anyhow::{Context, Result};

use crate::Size;
use crate::load::client::Connection;
use crate::load::delays::Delays;
use crate::load::runs::Ask;
use crate::report::{Figure, Goal, Outcome};
use crate::rig::Rig;
use crate::rig::service::Setup;

const CASE: &str = "long";

/// Turns of a run, each but the last with a call of the calculator.
const TURNS: usize = 110;
const TURNS_SMOKE: usize = 12;

/// Turns that are compared, from the first on: those around the second and around the last but one.
const WINDOW: usize = 8;

pub(super) async fn run(rig: &Rig) -> Result<Outcome> {
    let (turns, runs) = match rig.options.size {
        Size::Smoke => (TURNS_SMOKE, 1),
        Size::Short => (TURNS, 20),
        Size::Whole => (TURNS, 100),
    };
    let mut outcome = Outcome::default();
    let tools = serde_json::json!([{"type": "builtin", "name": "calculator"}]);
    let ask = Ask::with_tools(&format!("c{turns}-d1"), 1, &tools);
    let service = rig.service(1, &Setup::default()).await?;
    let mut connection = Connection::open(service.address()).await?;
    let (mut early, mut late) = (Delays::new(), Delays::new());
    rig.stub.keep(true);
    for number in 0..runs {
        let input = format!("long {number}");
        let run = ask.run(&mut connection, &input).await?;
        if let Some(wrong) = ask.wrong(&run) {
            outcome.violations.add(wrong);
            continue;
        }
        let record = rig.stub.record(&input).context("the stub was asked")?;
        let gaps: Vec<_> = record.asked.windows(2).map(|two| two[1] - two[0]).collect();
        outcome.violations.check(gaps.len() == turns, || {
            format!("run {} has {} turns of {}", run.run_id, gaps.len() + 1, turns + 1)
        });
        let window = WINDOW.min(gaps.len() / 2);
        gaps.iter().take(window).for_each(|gap| early.add(*gap));
        gaps.iter().rev().take(window).for_each(|gap| late.add(*gap));
    }
    rig.stub.keep(false);
    rig.stop(service).await?;
    let figure = |name: String, value, unit| Figure::new(CASE, name, value, unit);
    let (early, late) = (early.ms(0.5), late.ms(0.5));
    outcome.figures.push(figure("p50 between the first turns".to_owned(), early, "ms"));
    let ratio = figure(format!("p50 between turns around {turns}"), late, "ms");
    outcome.figures.push(ratio.beside("first", early).goal(Goal::AtMost(1.1)));
    Ok(outcome)
}
