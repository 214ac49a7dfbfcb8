//! One key, many racers, two nodes: one run.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::Value;

use crate::bulk;
use crate::client::spec;
use crate::nodes::Nodes;
use crate::scale::scaled;
use crate::service::Service;

/// Requests with one key.
const RACERS: usize = 64;

/// The runs that racers got, the statuses that were none of success, and how many replays said so.
async fn race(
    services: &[Service],
    body: &Value,
    key: Option<&str>,
) -> (BTreeSet<String>, Vec<u16>, usize) {
    let racers = (0..RACERS).map(|n| {
        let headers: Vec<(&str, &str)> = key.iter().map(|key| ("idempotency-key", *key)).collect();
        let client = &services[n % services.len()].client;
        async move { bulk::try_ask(client, Method::POST, "/runs", body, &headers).await.unwrap() }
    });
    let answers = join_all(racers).await;
    let replays = answers.iter().filter(|(status, _)| *status == 200).count();
    let other = answers.iter().map(|(status, _)| *status).filter(|status| *status > 201).collect();
    let runs = answers.iter().filter_map(|(_, run)| run["run_id"].as_str().map(str::to_owned));
    (runs.collect(), other, replays)
}

/// reliability.md, row 17, and its control.
#[tokio::test]
async fn of_racers_on_two_nodes_with_one_key_one_makes_the_run() {
    let keys = scaled(6, 500);
    let nodes = Nodes::new().await;
    let services = nodes.start_many::<2>().await;
    let (mut found, mut runs) = (Vec::new(), 0);
    for n in 0..keys {
        let input = format!("key {n}");
        let body = spec("openai/any", &input);
        let (made, other, replays) = race(&services, &body, Some(&format!("key-{n}"))).await;
        if made.len() != 1 || !other.is_empty() || replays != RACERS - 1 {
            found.push(format!("{input}: {made:?}, {replays} replays, {other:?}"));
        }
        let run = made.first().unwrap();
        bulk::ended(&services[n % 2].client, run).await;
        runs += 1;
        if nodes.stub.counts(&input) != [(1, 1)].into() {
            found.push(format!("{input}: {:?} calls", nodes.stub.counts(&input)));
        }
        nodes.stub.forget();
    }
    let stored = nodes.count("select count(*) from runs").await;
    println!(
        "row=17 faults_fired={} ops_ok={runs} runs={stored} value={}",
        keys * (RACERS - 1),
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
    assert_eq!((runs, stored), (keys, i64::try_from(keys).unwrap()));

    let (made, ..) = race(&services, &spec("openai/any", "no key"), None).await;
    println!("row=17 control=true faults_fired={RACERS} value={}", made.len() - 1);
    assert_eq!(made.len(), RACERS);
}
