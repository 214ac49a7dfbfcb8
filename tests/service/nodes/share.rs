//! Queued runs are shared by free slots, and a node that has none lets others have them.

use std::collections::BTreeMap;

use super::Nodes;
use crate::client::of;
use crate::stub::{Do, Gate, say};

#[tokio::test]
async fn what_a_full_node_queues_a_free_one_takes() {
    let nodes = Nodes::new().await.with("RUNLEDGER_SLOTS", "1");
    nodes.stub.on("hang", |_| vec![Do::Hang]);
    let services = nodes.start_many::<2>().await;
    services[0].client.run("openai/hang", "busy").await;
    nodes.stub.called("hang", 1).await;
    for n in 1..=5 {
        let run = services[0].client.run("openai/plain", &format!("passed on {n}")).await;
        assert_eq!(services[0].client.ended(&run).await["status"], "COMPLETED");
    }
}

#[tokio::test]
async fn nodes_take_queued_runs_by_their_free_slots() {
    const RUNS: usize = 60;
    let nodes = Nodes::new().await.with("RUNLEDGER_SLOTS", "40");
    let gate = Gate::new();
    let waits = gate.clone();
    nodes.stub.on("wait", move |_| [vec![Do::Wait(waits.clone())], say("Done.")].concat());
    // All of them wait in the queue when the nodes that drive them start.
    let first = nodes.start().await;
    let mut runs = Vec::new();
    for n in 0..RUNS {
        runs.push(first.client.run("openai/wait", &format!("shared {n}")).await);
    }
    drop(first.kill().await);
    let services = nodes.start_many::<2>().await;
    nodes.stub.called("wait", RUNS + 40).await;
    gate.open();
    let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
    for run in &runs {
        services[0].client.ended(run).await;
        let log = services[1].client.log(run).await;
        let node = of(&log, "run.started").last().unwrap()["node"].as_str().unwrap().to_owned();
        *by_node.entry(node).or_default() += 1;
    }
    let counts: Vec<usize> = by_node.values().copied().collect();
    println!("runs by node: {by_node:?}");
    assert_eq!(counts.len(), 2, "both drive some: {by_node:?}");
    assert!(counts.iter().all(|count| *count <= 40), "no more than its slots: {by_node:?}");
    assert!(counts.iter().all(|count| *count >= RUNS / 5), "each has its share: {by_node:?}");
}
