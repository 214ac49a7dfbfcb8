//! All nodes are replaced one after the other, under load and with open streams.

use std::time::{Duration, Instant};

use super::Nodes;
use crate::client::of;
use crate::door::Door;
use crate::recovery::violations;
use crate::scale::scaled;
use crate::service::Service;
use crate::stub::{Call, Do, calculate};
use crate::waiting::within;

/// Runs that begin with each deploy.
const RUNS: usize = 8;
const TURNS: usize = 10;

fn turns(call: &Call) -> Vec<Do> {
    let words = Do::Words(12, Duration::from_millis(10));
    match call.turn {
        1..TURNS => [vec![words], calculate(1)].concat(),
        _ => vec![words, Do::Finish("stop")],
    }
}

/// Reads a run's stream to its end over as many connections as it takes, as `EventSource` does.
async fn follow(door: String, run: String) -> (Vec<String>, usize) {
    let client = crate::client::Client::new(&door, None);
    let (mut lines, mut last, mut cuts) = (Vec::new(), 0, 0);
    loop {
        let id = [("last-event-id", last.to_string())];
        let headers: Vec<(&str, &str)> = id.iter().map(|(name, id)| (*name, id.as_str())).collect();
        let path = format!("/runs/{run}/stream");
        let Ok(mut stream) = client.try_stream(&path, &headers).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (blocks, is_clean) = stream.all().await;
        for block in blocks {
            assert_eq!(block.id(), last + 1, "no gap, no repetition");
            last = block.id();
            lines.push(block.lines);
        }
        if is_clean && stream.status == 200 {
            return (lines, cuts);
        }
        cuts += 1;
    }
}

/// What came of some deploys.
#[derive(Default)]
struct Deployed {
    runs: usize,
    found: Vec<String>,
    cuts: usize,
    moves: usize,
    /// What was counted as a crash.
    crashes: usize,
    /// How long the slowest node took to end, in seconds.
    exit_max: f64,
}

/// Replaces the older of two nodes so often, each time with new runs under way whose streams are
/// followed through a door.
async fn deploy(times: usize, is_clean: bool) -> Deployed {
    let nodes = Nodes::new().await.with("RUNLEDGER_DRAIN", "3");
    let nodes = nodes.with("RUNLEDGER_LEASE", if is_clean { "5" } else { super::LEASE });
    nodes.stub.on("deploy", turns);
    let mut services: Vec<Service> = Vec::from(nodes.start_many::<2>().await);
    let door = Door::open(&services[1].client.url).await;
    let (mut done, mut runs) = (Deployed::default(), Vec::new());
    for n in 0..times {
        // The streams are read at the node that leaves next.
        door.leads_to(&services[0].client.url);
        for place in 0..RUNS {
            let input = format!("deploy {n}, {place}");
            let run = services[place % 2].client.run("openai/deploy", &input).await;
            let stream = tokio::spawn(follow(door.url.clone(), run.clone()));
            runs.push((run, input, stream));
        }
        let calls = nodes.stub.calls("deploy").len();
        nodes.stub.called("deploy", calls + 10).await;
        let next = nodes.start().await;
        let old = services.remove(0);
        door.leads_to(&next.client.url);
        services.push(next);
        let begun = Instant::now();
        if is_clean {
            let (status, _) = old.terminate().await;
            assert!(status.success(), "{status}");
        } else {
            drop(old.kill().await);
        }
        done.exit_max = done.exit_max.max(begun.elapsed().as_secs_f64());
    }
    let client = &services[0].client;
    for (run, input, stream) in runs {
        let (lines, cuts) = within("the end of a stream", stream).await.unwrap();
        let ended = client.ended(&run).await;
        let log = client.log(&run).await;
        done.found.extend(violations(&log, &[], &nodes.stub.counts(&input)));
        if ended["status"] != "COMPLETED" || log.len() != lines.len() {
            done.found.push(format!("{} lines of {}: {ended}", lines.len(), log.len()));
        }
        let starts = of(&log, "run.started");
        done.crashes += starts.iter().filter(|one| one["crashes"] != 0).count();
        done.cuts += cuts;
        done.moves += starts.len() - 1;
        done.runs += 1;
    }
    done
}

/// reliability.md, row 6.
#[tokio::test]
async fn all_nodes_are_replaced_under_load_and_no_run_fails_and_no_stream_has_a_gap() {
    let times = scaled(3, 20);
    let done = deploy(times, true).await;
    println!(
        "row=6 faults_fired={times} ops_ok={} value={} moves={} cuts={} exit_max_s={:.2}",
        done.runs,
        done.found.len() + done.crashes,
        done.moves,
        done.cuts,
        done.exit_max
    );
    assert_eq!((done.found, done.crashes), (Vec::new(), 0), "a deploy is no crash");
    assert!(done.moves > 0 && done.cuts > 0, "too little was hit: {} {}", done.moves, done.cuts);
    assert!(done.runs == times * RUNS);
    assert!(scaled(1, 0) == 1 || done.exit_max <= 10.0, "{} s", done.exit_max);
}

/// The control: a kill in the place of a stop is seen.
#[tokio::test]
async fn a_deploy_that_kills_is_seen_as_a_crash() {
    let done = deploy(1, false).await;
    println!("row=6 control=true faults_fired=1 value={}", done.crashes);
    assert_eq!(done.found, Vec::<String>::new());
    assert!(done.crashes > 0);
}
