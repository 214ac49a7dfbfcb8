//! Runs of two turns with a call of an HTTP tool between them.

use anyhow::Result;
use serde_json::json;

use super::plain::DELTAS;
use super::rate::{Way, rate};
use crate::Size;
use crate::load::runs::Ask;
use crate::report::{Goal, Outcome};
use crate::rig::Rig;
use crate::rig::service::Setup;

const CASE: &str = "tools";

/// How many are in flight, and the goal for their rate divided by B.
const LEVELS: &[(usize, f64)] = &[(64, 0.35), (256, 0.5), (1000, 0.6)];
const LEVELS_SMOKE: &[(usize, f64)] = &[(16, 0.35)];

pub(super) async fn run(rig: &Rig) -> Result<Outcome> {
    let tool = json!({
        "type": "http",
        "name": "echo",
        "description": "Says that all is well.",
        "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}},
        "url": rig.stub.tool_url(),
    });
    let ask = Ask::with_tools(&format!("t1-d{DELTAS}"), DELTAS, &json!([tool]));
    let mut outcome = Outcome::default();
    let levels = if rig.options.size == Size::Smoke { LEVELS_SMOKE } else { LEVELS };
    for (in_flight, goal) in levels {
        let service = rig.service(1, &Setup::default()).await?;
        let [turns, calls] = [rig.stub.turns(), rig.stub.tool_calls()];
        let rate = rate(rig, &service, &ask, *in_flight, Way::Wait).await?;
        let figure = rate.figure(CASE, format!("{in_flight} in flight"));
        outcome.figures.push(figure.goal(Goal::AtLeast(*goal)));
        outcome.figures.push(rate.events_figure(CASE, format!("{in_flight} in flight, events")));
        outcome.violations.extend(rate.violations);
        let [turns, calls] = [rig.stub.turns() - turns, rig.stub.tool_calls() - calls];
        let runs = rate.count as u64;
        outcome.violations.check((turns, calls) == (2 * runs, runs), || {
            format!("{runs} runs asked for {turns} turns and called the tool {calls} times")
        });
        rig.stop(service).await?;
    }
    Ok(outcome)
}
