//! PostgreSQL goes away and comes back, for a moment or for longer than the leases.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Nodes;
use crate::client::{is_terminal, spec};
use crate::recovery::violations;
use crate::scale::scaled;
use crate::stub::{Call, Do, Gate, calculate, say};
use crate::waiting::until;

const TURNS: usize = 5;

fn turns(call: &Call) -> Vec<Do> {
    let words = Do::Words(8, Duration::from_millis(10));
    match call.turn {
        1..TURNS => [vec![words], calculate(1)].concat(),
        _ => vec![words, Do::Finish("stop")],
    }
}

#[tokio::test]
async fn postgresql_is_restarted_under_load_and_nothing_acknowledged_is_lost() {
    let times = scaled(4, 10);
    let (nodes, mut cluster) = Nodes::on_a_server().await;
    nodes.stub.on("load", turns);
    let services = nodes.start_many::<2>().await;
    let mut runs: Vec<(String, String)> = Vec::new();
    let mut refused = 0;
    let mut restarts = 0;
    let (mut back, mut streams) = (Duration::ZERO, Vec::new());
    while restarts < times {
        let calls = nodes.stub.calls("load").len();
        for n in 0..8 {
            let input = format!("load {restarts} {n}");
            let run = services[n % 2].client.run("openai/load", &input).await;
            runs.push((run, input));
        }
        // A reader at the node that does not drive it, over the restart.
        let path = format!("/runs/{}/stream", runs[runs.len() - 8].0);
        streams.push((runs.len() - 8, services[1].client.stream(&path, &[]).await));
        nodes.stub.called("load", calls + 12).await;
        cluster.stop();
        let answer = services[0].client.post("/runs", &spec("openai/load", "away")).await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert_eq!(answer.json()["code"], "store_unavailable");
        assert!(answer.header("retry-after").parse::<u64>().is_ok());
        refused += 1;
        cluster.go_on();
        let began = Instant::now();
        restarts += 1;
        for service in &services {
            service.ready().await;
        }
        back = back.max(began.elapsed());
    }
    let mut found = Vec::new();
    for (place, stream) in &mut streams {
        let seen: Vec<_> = stream.rest().await.iter().map(|block| block.data()).collect();
        if seen != services[0].client.log(&runs[*place].0).await {
            found.push(format!("a reader of run {} saw what is not committed", runs[*place].0));
        }
    }
    for (run, input) in &runs {
        let ended = services[1].client.ended(run).await;
        assert_eq!(ended["status"], "COMPLETED", "{ended}");
        let log = services[0].client.log(run).await;
        found.extend(violations(&log, &[], &nodes.stub.counts(input)));
    }
    println!(
        "row=7 fault=restarts-under-services faults_fired={restarts} ops_ok={} value={} \
         refused={refused} back_ms={}",
        runs.len(),
        found.len(),
        back.as_millis()
    );
    assert_eq!(found, Vec::<String>::new());
    if scaled(0, 1) == 1 {
        assert!(back <= Duration::from_secs(3), "{back:?}");
    }
}

#[tokio::test]
async fn away_for_longer_than_the_lease_a_node_stops_its_runs_and_all_goes_on_by_itself() {
    let (nodes, mut cluster) = Nodes::on_a_server().await;
    let gate = Gate::new();
    nodes.stub.on("away", |call| match call.attempt {
        1 => vec![Do::Say("Before".into()), Do::Hang],
        _ => say("After."),
    });
    let services = nodes.start_many::<2>().await;
    let run = services[0].client.run("openai/away", "away").await;
    services[0].client.event(&run, "text").await;
    let path = format!("/runs/{run}/stream");
    let mut here = services[0].client.stream(&path, &[]).await;
    let mut there = services[1].client.stream(&path, &[]).await;
    let before = (here.take(4).await, there.take(4).await);
    assert_eq!(before.0, before.1);
    cluster.stop();
    // It may not call its model any longer than its lease lasts.
    nodes.stub.hung_up("away", 1).await;
    for service in &services {
        let unready =
            || async { (service.client.get("/readyz").await.status == 503).then_some(()) };
        until("the node says that it is not ready", unready).await;
        assert_eq!(service.client.get("/healthz").await.status, 200);
        let answer = service.client.get(&format!("/runs/{run}")).await;
        assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("store_unavailable")));
    }
    cluster.go_on();
    gate.open();
    let (here, there) = tokio::join!(here.rest(), there.rest());
    assert_eq!(here, there, "the streams stayed open, and went on");
    assert_eq!(here.last().unwrap().kind(), "run.completed");
    for service in &services {
        service.ready().await;
        let done = service.client.ended(&run).await;
        assert!(is_terminal(&done));
        assert_eq!(done["final_output"], "After.");
    }
    assert_eq!(nodes.stub.counts("away"), [(1, 2)].into());
}
