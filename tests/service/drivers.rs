//! A driver panics, wherever it is: its run is driven again, and nobody else's suffers.

use std::time::Duration;

use serde_json::Value;

use crate::client::of;
use crate::recovery::violations;
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::{Call, Do, Stub, calculate};

/// Where a driver panics.
const PLACES: [&str; 8] = [
    "run.loaded",
    "run.opened",
    "run.started",
    "turn.started",
    "turn.answered",
    "tools.started",
    "tool.answered",
    "run.ending",
];

/// Two heartbeats of a node that is alone.
const TWO_BEATS: f64 = 4.0;

fn turns(call: &Call) -> Vec<Do> {
    match call.turn {
        1 => [vec![Do::Say("Let me see. ".into())], calculate(2)].concat(),
        _ => vec![Do::Say("Done.".into()), Do::Finish("stop")],
    }
}

/// Seconds from what stood in the log before each take-over to it.
fn gaps(log: &[Value]) -> Vec<f64> {
    let at = |event: &Value| event["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let starts = (1..log.len()).filter(|place| log[*place]["type"] == "run.started").skip(1);
    starts.map(|place| at(&log[place]).duration_since(at(&log[place - 1])).as_secs_f64()).collect()
}

#[tokio::test]
async fn a_driver_that_panics_anywhere_is_followed_by_another_within_two_beats() {
    let times = scaled(2, 20);
    let stub = Stub::start().await;
    stub.on("panics", turns);
    let (mut fired, mut ops, mut found, mut slowest) = (0, 0, Vec::new(), 0.0_f64);
    for place in PLACES {
        // Every other time, so that no run is suspected of more than it does.
        let actions = format!("{place}={}", vec!["1*off->1*panic"; times].join("->"));
        let service = Service::start_with(&stub, Setup::default().env("FAILPOINTS", actions)).await;
        let mut panics = 0;
        for round in 0..3 * times {
            if panics >= times {
                break;
            }
            let input = format!("{place} {round}");
            let run = service.client.run("openai/panics", &input).await;
            let ended = service.client.ended(&run).await;
            let log = service.client.log(&run).await;
            if ended["status"] != "COMPLETED" {
                found.push(format!("{place}: {ended}"));
            }
            found.extend(violations(&log, &[], &stub.counts(&input)));
            // A run that panics before it says that it is driven shows it in its count alone.
            let starts = of(&log, "run.started");
            let crashes = starts.iter().filter_map(|one| one["crashes"].as_u64()).max();
            panics += usize::try_from(crashes.unwrap_or(0)).unwrap();
            slowest = gaps(&log).into_iter().fold(slowest, f64::max);
            ops += 1;
        }
        assert!(panics >= times, "{place} was hit {panics} times");
        fired += panics;
    }
    let late = usize::from(slowest > TWO_BEATS);
    println!(
        "row=29 fault=panics faults_fired={fired} ops_ok={ops} value={} driven_again_ms={:.0}",
        found.len() + late,
        slowest * 1000.0
    );
    assert_eq!(found, Vec::<String>::new());
}

/// The control: where the pool can't queue what its driver left, nobody drives it, and it is found.
#[tokio::test]
async fn a_run_that_nobody_drives_after_a_panic_is_found_out() {
    let stub = Stub::start().await;
    stub.on("panics", turns);
    let faults = "run.opened=1*panic;requeue.asked=1*panic";
    let service = Service::start_with(&stub, Setup::default().env("FAILPOINTS", faults)).await;
    service.client.run("openai/panics", "left").await;
    let waits = Duration::from_secs_f64(TWO_BEATS);
    let driven = tokio::time::timeout(waits, stub.called("panics", 1)).await;
    let left = usize::from(driven.is_err());
    println!("row=29 control=true faults_fired=2 value={left}");
    assert_eq!(left, 1);
}
