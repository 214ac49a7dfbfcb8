//! All nodes are replaced one after the other, under load and with open streams.

use std::time::Duration;

use super::Nodes;
use crate::client::{is_terminal, of};
use crate::door::Door;
use crate::recovery::violations;
use crate::service::Service;
use crate::stub::{Call, Do, calculate};

const RUNS: usize = 24;
const TURNS: usize = 10;

fn turns(call: &Call) -> Vec<Do> {
    let words = Do::Words(12, Duration::from_millis(10));
    match call.turn {
        1..TURNS => [vec![words], calculate(1)].concat(),
        _ => vec![words, Do::Finish("stop")],
    }
}

/// Reads a run's stream to its end over as many connections as it takes, as `EventSource` does.
async fn follow(door: &Door, run: String) -> (Vec<String>, usize) {
    let client = crate::client::Client::new(&door.url, None);
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

#[tokio::test]
async fn all_nodes_are_replaced_under_load_and_no_run_fails_and_no_stream_has_a_gap() {
    let nodes = Nodes::new().await.with("RUNLEDGER_DRAIN", "3").with("RUNLEDGER_LEASE", "5");
    nodes.stub.on("deploy", turns);
    let mut services: Vec<Service> = Vec::from(nodes.start_many::<2>().await);
    let door = Door::open(&services[1].client.url).await;
    let mut runs = Vec::new();
    for n in 0..RUNS {
        runs.push(services[n % 2].client.run("openai/deploy", &format!("deploy {n}")).await);
    }
    let following =
        futures_util::future::join_all(runs.iter().map(|run| follow(&door, run.clone())));
    let deploying = async {
        for _ in 0..4 {
            let calls = nodes.stub.calls("deploy").len();
            nodes.stub.called("deploy", (calls + 10).min(RUNS * TURNS)).await;
            let next = nodes.start().await;
            let old = services.remove(0);
            door.leads_to(&next.client.url);
            services.push(next);
            let (status, _) = old.terminate().await;
            assert!(status.success(), "{status}");
        }
    };
    let (streams, ()) = tokio::join!(following, deploying);
    let client = &services[0].client;
    let (mut found, mut cuts, mut moves) = (Vec::new(), 0, 0);
    for (n, (run, (lines, cut))) in runs.iter().zip(streams).enumerate() {
        let ended = client.ended(run).await;
        assert!(is_terminal(&ended) && ended["status"] == "COMPLETED", "{ended}");
        let log = client.log(run).await;
        assert_eq!(log.len(), lines.len(), "the stream was the whole log");
        found.extend(violations(&log, &[], &nodes.stub.counts(&format!("deploy {n}"))));
        let starts = of(&log, "run.started");
        assert!(starts.iter().all(|one| one["crashes"] == 0), "a deploy is no crash: {starts:?}");
        cuts += cut;
        moves += starts.len() - 1;
    }
    println!("row=6 faults_fired=4 moves={moves} cuts={cuts} ops_ok={RUNS} value={}", found.len());
    assert_eq!(found, Vec::<String>::new());
    assert!(moves > 0 && cuts > 0, "too little was hit: {moves} moves, {cuts} cuts");
}
