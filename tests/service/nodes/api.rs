//! What one node is asked holds on the others: changes, batches, lists, tokens, erasing.

use serde_json::{Value, json};

use super::Nodes;
use crate::client::{of, spec};
use crate::stub::{Do, Gate, calculate, say};

#[tokio::test]
async fn a_change_that_another_node_was_asked_for_holds_where_the_run_is_driven() {
    let nodes = Nodes::new().await;
    let gate = Gate::new();
    let opened = gate.clone();
    nodes.stub.on("two", move |call| match call.turn {
        1 => [vec![Do::Wait(opened.clone())], calculate(1)].concat(),
        _ => say("It is 2."),
    });
    let [one, other] = nodes.start_many().await;
    let mut body = spec("openai/two", "go");
    body["config"] = json!({"max_turns": 1, "metadata": {"of": "one"}});
    let run = one.client.create(&body).await;
    nodes.stub.called("two", 1).await;
    let token = other.client.post(&format!("/runs/{run}/stream_tokens"), &json!({})).await;
    let url = token.expect(201)["url"].as_str().unwrap().to_owned();
    let mut stream = one.client.stream(&url, &[]).await;
    assert_eq!(stream.status, 200, "the key is the installation's");

    let change = json!({"config": {"max_turns": 2}, "metadata": {"of": "other"}});
    let path = format!("/runs/{run}");
    other.client.send(reqwest::Method::PATCH, &path, &change, &[]).await.expect(202);
    one.client.event(&run, "run.updated").await;
    for node in [&one, &other] {
        for (label, count) in [("of:one", 0), ("of:other", 1)] {
            let listed = node.client.get(&format!("/runs?metadata={label}")).await.expect(200);
            assert_eq!(listed["data"].as_array().unwrap().len(), count, "{label}");
        }
    }
    gate.open();
    let ended = other.client.ended(&run).await;
    assert_eq!((&ended["status"], &ended["turn_count"]), (&json!("COMPLETED"), &json!(2)));
    assert_eq!(stream.rest().await.last().unwrap().kind(), "run.completed");
    let log = one.client.log(&run).await;
    assert_eq!(of(&log, "run.updated").len(), 1);
    let listed = other.client.get("/runs?status=COMPLETED").await.expect(200);
    assert_eq!(listed["data"][0]["usage"], ended["usage"]);
    assert_eq!(listed["data"][0]["elapsed_time"], ended["elapsed_time"]);

    let purged = other.client.post(&format!("{path}/purge"), &Value::Null).await;
    assert_eq!(purged.status, 204);
    one.client.get(&path).await.expect(404);
    one.client.get(&url).await.expect(401);
}

#[tokio::test]
async fn a_batch_is_created_at_one_node_shared_and_cancelled_at_another() {
    const RUNS: usize = 40;
    let nodes = Nodes::new().await.with("RUNLEDGER_SLOTS", "8");
    nodes.stub.on("hang", |_| vec![Do::Hang]);
    let [one, other] = nodes.start_many().await;
    let runs: Vec<Value> = (0..RUNS).map(|n| spec("openai/hang", &format!("{n}"))).collect();
    let body = json!({"runs": runs});
    let key = [("idempotency-key", "night")];
    let (first, second) = tokio::join!(
        one.client.post_with("/batches", &body, &key),
        other.client.post_with("/batches", &body, &key),
    );
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201], "{} {}", first.text, second.text);
    let (first, second) = (first.json(), second.json());
    assert_eq!((&first["batch_id"], &first["run_ids"]), (&second["batch_id"], &second["run_ids"]));
    nodes.stub.called("hang", 16).await;
    let id = first["batch_id"].as_str().unwrap();
    let path = format!("/batches/{id}");
    let active = one.client.get(&path).await.expect(200);
    assert_eq!(
        (&active["counts"]["RUNNING"], &active["counts"]["QUEUED"]),
        (&json!(16), &json!(RUNS - 16))
    );
    other.client.delete(&path).await.expect(202);
    let done = one.client.get(&format!("{path}?wait=80")).await.expect(200);
    assert_eq!(done["counts"]["CANCELLED"], RUNS);
    assert_eq!(nodes.stub.calls("hang").len(), 16, "nothing started after the cancel");
    let listed = other.client.get(&format!("/runs?batch_id={id}&limit=200")).await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), RUNS);
}
