//! Nodes die and freeze at random under many runs: nothing is lost, nothing committed is repeated.

use std::time::Duration;

use super::Nodes;
use crate::client::of;
use crate::recovery::violations;
use crate::service::Service;
use crate::stub::{Call, Do, calculate};

const TURNS: usize = 6;

fn turns(call: &Call) -> Vec<Do> {
    let words = Do::Words(10, Duration::from_millis(40));
    match call.turn {
        1..TURNS => [vec![words], calculate(2)].concat(),
        _ => vec![words, Do::Finish("stop")],
    }
}

/// reliability.md, row 1 in short.
#[tokio::test]
async fn killed_and_frozen_at_random_three_nodes_lose_and_repeat_nothing() {
    const RUNS: usize = 48;
    const FAULTS: usize = 8;
    let nodes = Nodes::new().await.with("RUNLEDGER_LEASE", "1").with("RUNLEDGER_SLOTS", "12");
    nodes.stub.on("faults", turns);
    let mut services: Vec<Service> = Vec::from(nodes.start_many::<3>().await);
    let mut runs = Vec::new();
    for n in 0..RUNS {
        runs.push(services[n % 3].client.run("openai/faults", &format!("fault {n}")).await);
    }
    let (mut kills, mut freezes) = (0, 0);
    while kills + freezes < FAULTS {
        let calls = nodes.stub.calls("faults").len();
        let victim = (kills + freezes) % 3;
        if calls + 13 < RUNS * TURNS {
            nodes.stub.called("faults", calls + 13).await;
        }
        if (kills + freezes) % 2 == 0 {
            kills += 1;
            drop(services.remove(victim).kill().await);
            services.insert(victim, nodes.start().await);
        } else {
            freezes += 1;
            let frozen = &services[victim];
            let dead = "select count(*) from nodes where dead_at is not null";
            let before = nodes.count(dead).await;
            frozen.signal("STOP");
            crate::waiting::until("the frozen node counts as dead", || async {
                (nodes.count(dead).await > before).then_some(())
            })
            .await;
            frozen.signal("CONT");
        }
    }
    let (mut found, mut takeovers) = (Vec::new(), 0);
    for (n, run) in runs.iter().enumerate() {
        let ended = services[n % 3].client.ended(run).await;
        let log = services[(n + 1) % 3].client.log(run).await;
        assert_eq!(ended["status"], "COMPLETED", "{ended}");
        assert_eq!(ended["turn_count"], TURNS);
        found.extend(violations(&log, &[], &nodes.stub.counts(&format!("fault {n}"))));
        takeovers += of(&log, "run.started").len() - 1;
    }
    println!(
        "row=1 faults_fired={} kills={kills} freezes={freezes} takeovers={takeovers} ops_ok={RUNS} \
         value={}",
        kills + freezes,
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(takeovers >= FAULTS, "too little was hit: {takeovers} takeovers");
}
