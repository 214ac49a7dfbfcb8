//! Cancelling a run through a node that doesn't drive it, with notifications and without.

use serde_json::json;

use super::{Nodes, owner};
use crate::client::{kinds, of};
use crate::stub::Do;

async fn cancelled_elsewhere(nodes: Nodes) {
    nodes.stub.on("hang", |_| vec![Do::Say("So far".into()), Do::Hang]);
    let services = nodes.start_many::<2>().await;
    for round in 1..=4 {
        let run = services[round % 2].client.run("openai/hang", &format!("cancel {round}")).await;
        services[0].client.event(&run, "text").await;
        let driver = owner(&services, &run).await;
        let (here, elsewhere) = (&services[driver], &services[1 - driver]);
        let mut stream = elsewhere.client.stream(&format!("/runs/{run}/stream"), &[]).await;
        let stopping = elsewhere.client.delete(&format!("/runs/{run}")).await.expect(202);
        assert!(stopping["cancel_requested_at"].is_string());
        nodes.stub.hung_up("hang", round).await;
        assert_eq!(stream.rest().await.last().unwrap().kind(), "run.cancelled");
        let run = here.client.ended(&run).await;
        assert_eq!((&run["status"], &run["final_output"]), (&json!("CANCELLED"), &json!("So far")));
        let log = here.client.log(run["run_id"].as_str().unwrap()).await;
        let tail = ["cancel.requested", "turn.aborted", "run.cancelled"];
        assert_eq!(kinds(&log)[log.len() - 3..], tail);
        assert_eq!(of(&log, "turn.started").len(), 1, "nothing starts after the cancel");
    }
}

#[tokio::test]
async fn a_run_is_cancelled_through_any_node() {
    cancelled_elsewhere(Nodes::new().await).await;
}

#[tokio::test]
async fn a_run_is_cancelled_and_streamed_through_any_node_without_notifications() {
    cancelled_elsewhere(Nodes::new().await.with("DATABASE_LISTEN_URL", "off")).await;
}

#[tokio::test]
async fn a_queued_run_is_cancelled_on_a_node_without_a_free_slot() {
    let nodes = Nodes::new().await.with("RUNLEDGER_SLOTS", "1");
    nodes.stub.on("hang", |_| vec![Do::Hang]);
    let services = nodes.start_many::<2>().await;
    for (service, n) in services.iter().zip(1..) {
        service.client.run("openai/hang", &format!("busy {n}")).await;
        nodes.stub.called("hang", n).await;
    }
    let queued = services[0].client.run("openai/hang", "queued").await;
    let answer = services[1].client.delete(&format!("/runs/{queued}?wait=80")).await;
    assert_eq!(answer.json()["status"], "CANCELLED", "{}", answer.text);
    let log = services[0].client.log(&queued).await;
    assert_eq!(kinds(&log), ["run.queued", "cancel.requested", "run.cancelled"]);
}
