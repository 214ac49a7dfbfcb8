//! A node dies in the middle of a run: another finishes it, and nothing is done or told twice.

use serde_json::json;

use super::{Nodes, owner};
use crate::client::{kinds, of};
use crate::recovery::violations;
use crate::stub::{Do, calculate, say};

#[tokio::test]
async fn killed_in_turn_2_a_run_completes_elsewhere_and_a_stream_on_a_third_node_has_no_gap() {
    let nodes = Nodes::new().await;
    nodes.stub.on("two", |call| match (call.turn, call.attempt) {
        (1, _) => [vec![Do::Say("First. ".into())], calculate(1)].concat(),
        (2, 1) => vec![Do::Say("Half of the seco".into()), Do::Hang],
        _ => say("Second."),
    });
    let mut services = Vec::from(nodes.start_many::<3>().await);
    let run = services[0].client.run("openai/two", "killed").await;
    nodes.stub.called("two", 2).await;
    let dies = owner(&services, &run).await;
    let reader = (dies + 1) % 3;
    let path = format!("/runs/{run}/stream");
    let mut stream = services[reader].client.stream(&path, &[]).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|block: &crate::client::Block| !block.lines.contains("seco")) {
        seen.extend(stream.take(1).await);
    }
    drop(services.remove(dies).kill().await);
    seen.extend(stream.rest().await);
    let ids: Vec<u64> = seen.iter().map(|block| block.id()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "no gap, no repetition");
    for service in &services {
        let done = service.client.ended(&run).await;
        assert_eq!(
            (&done["status"], &done["final_output"]),
            (&json!("COMPLETED"), &json!("Second."))
        );
        let again = service.client.stream(&path, &[]).await.rest().await;
        assert_eq!(again, seen, "the whole log, byte for byte, on every node");
    }
    assert_eq!(nodes.stub.counts("killed"), [(1, 1), (2, 2)].into(), "turn 1 was asked for once");
    let log = services[0].client.log(&run).await;
    assert_eq!(violations(&log, &[], &nodes.stub.counts("killed")), Vec::<String>::new());
    let starts = of(&log, "run.started");
    assert_eq!((&starts[1]["reason"], &starts[1]["crashes"]), (&json!("crash"), &json!(1)));
    assert_ne!(starts[0]["node"], starts[1]["node"]);
    assert_eq!(of(&log, "turn.aborted")[0]["reason"], "crash");
}

#[tokio::test]
async fn a_frozen_node_that_wakes_writes_nothing_calls_nothing_and_goes_on_as_another() {
    let nodes = Nodes::new().await;
    let gate = crate::stub::Gate::new();
    let opened = gate.clone();
    nodes.stub.on("freeze", move |call| match (call.turn, call.attempt) {
        (1, 1) => vec![
            Do::Say("Of the frozen. ".into()),
            Do::Wait(opened.clone()),
            Do::Say("Late. ".into()),
            Do::Finish("stop"),
        ],
        _ => say("Of the other."),
    });
    let services = nodes.start_many::<2>().await;
    let run = services[0].client.run("openai/freeze", "frozen").await;
    nodes.stub.called("freeze", 1).await;
    let frozen = owner(&services, &run).await;
    let (frozen, other) = (&services[frozen], &services[1 - frozen]);
    other.client.event(&run, "text").await;
    frozen.signal("STOP");
    let done = other.client.ended(&run).await;
    assert_eq!(done["final_output"], "Of the other.");
    let log = other.client.log(&run).await;
    // The rest of its answer waits in its socket when it wakes.
    gate.open();
    frozen.signal("CONT");
    frozen.ready().await;
    assert_eq!(frozen.client.log(&run).await, log, "the zombie wrote nothing");
    assert_eq!(of(&log, "run.started").len(), 2);
    assert_eq!(kinds(&log).last(), Some(&"run.completed"));
    assert_eq!(nodes.stub.calls("freeze").len(), 2);
    let dead = nodes.count("select count(*) from nodes where dead_at is not null").await;
    let alive = nodes.count("select count(*) from nodes where dead_at is null").await;
    assert_eq!((dead, alive), (1, 2), "it lives on as another node");
    let next = frozen.client.run("openai/plain", "after").await;
    assert_eq!(frozen.client.ended(&next).await["status"], "COMPLETED");
}
