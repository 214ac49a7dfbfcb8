//! The detector of stuck runs: a run that is made to be nobody's is found, and one that is somebody's
//! again is forgotten.

use serde_json::Value;
use sqlx::{ConnectOptions, Connection};

use crate::client::Client;
use crate::nodes::Nodes;
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub};
use crate::waiting::until;

/// How many runs a service says are stuck, by both of its words.
pub async fn stuck(client: &Client) -> u64 {
    let metrics = client.get("/metrics").await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix("runledger_runs_stuck "));
    let metric: u64 = line.map_or(0, |number| number.parse().unwrap());
    let ready: Value = client.get("/readyz").await.json();
    match ready["runs_stuck"].as_u64() {
        Some(detail) => detail.max(metric),
        None => metric,
    }
}

async fn says(client: &Client, runs: u64) {
    let look = || async { (stuck(client).await == runs).then_some(()) };
    until(&format!("{runs} stuck runs"), look).await;
}

/// reliability.md, row 19, and its control: what is taken out of the queue behind the service's back
/// is nobody's, and is found.
#[tokio::test]
async fn a_run_that_is_in_no_queue_and_has_no_owner_is_found_on_one_node() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start_with(&stub, Setup::default().env("RUNLEDGER_SLOTS", "1")).await;
    let driven = service.client.run("openai/hang", "driven").await;
    service.client.event(&driven, "turn.started").await;
    let waits = service.client.run("openai/plain", "waits").await;
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(service.folder().join("runledger.db"))
        .busy_timeout(crate::waiting::TEST_MAX);
    let mut connection = options.connect().await.unwrap();
    for statement in ["create table kept as select * from queue", "delete from queue"] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    says(&service.client, 1).await;
    for statement in ["insert into queue select * from kept", "drop table kept"] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    says(&service.client, 0).await;
    service.client.delete(&format!("/runs/{driven}")).await.expect(202);
    assert_eq!(service.client.ended(&waits).await["status"], "COMPLETED");
    println!("row=19 faults_fired=1 ops_ok=2 value=0");
    println!("row=19 control=true faults_fired=1 value=1");
}

#[tokio::test]
async fn a_run_whose_owner_is_no_more_is_found_among_several_nodes() {
    let nodes = Nodes::new().await.with("RUNLEDGER_SLOTS", "4");
    nodes.stub.on("hang", |_| vec![Do::Hang]);
    let [one, two] = nodes.start_many::<2>().await;
    let run = one.client.run("openai/hang", "lost").await;
    one.client.event(&run, "turn.started").await;
    let owner = nodes.count("select node_id from runs").await;
    nodes.execute("update runs set node_id = 999999").await;
    says(&one.client, 1).await;
    says(&two.client, 1).await;
    nodes.execute(&format!("update runs set node_id = {owner}")).await;
    says(&one.client, 0).await;
    says(&two.client, 0).await;
    println!("row=19 faults_fired=1 ops_ok=2 value=0 nodes=2");
}
