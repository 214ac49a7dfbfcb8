//! Models that call all their calls by one name: the keys that tools get are different all the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::of;
use crate::service::Service;
use crate::stub::{Do, Stub};
use crate::tool_stub::{ToolStub, text};
use crate::tools::body;

const TURNS: usize = 3;

/// One call of the tool `t`, with the id that this model gives each of its calls.
fn call_0() -> Vec<Do> {
    let call = json!([{"index": 0, "id": "call_0", "type": "function",
                       "function": {"name": "t", "arguments": "{}"}}]);
    let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": call}}]});
    vec![Do::Raw(format!("data: {chunk}\n\n")), Do::Finish("tool_calls")]
}

/// reliability.md, row 31. There is one tenant: the two runs of one id are in two databases.
#[tokio::test]
async fn a_model_that_always_says_call_0_has_a_key_of_its_own_for_each_call() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    stub.on("zero", |call| match call.turn {
        1..=TURNS => call_0(),
        _ => crate::stub::say("Done."),
    });
    tools.on("/t", |_| text("good"));
    let services = [Service::start(&stub).await, Service::start(&stub).await];
    let mut provider_ids = Vec::new();
    for service in &services {
        for chosen in ["the-same", "another"] {
            let mut spec = body("zero", &tools, &[("t", json!({}))]);
            spec["config"] = json!({"run_id": chosen});
            assert_eq!(service.client.create(&spec).await, chosen);
            assert_eq!(service.client.ended(chosen).await["status"], "COMPLETED");
            let log = service.client.log(chosen).await;
            let ids = |field: &str| -> Vec<Value> {
                of(&log, "tool_call").iter().map(|one| one[field].clone()).collect()
            };
            provider_ids.extend(ids("provider_call_id"));
            let keys: Vec<Value> = tools
                .calls("/t")
                .iter()
                .rev()
                .take(TURNS)
                .rev()
                .map(|one| json!(one.key))
                .collect();
            assert_eq!(ids("call_id"), keys, "the key is the call's id");
        }
    }
    let calls = tools.calls("/t");
    let keys: BTreeSet<&String> = calls.iter().map(|call| &call.key).collect();
    println!(
        "row=31 faults_fired={} ops_ok={} value={}",
        provider_ids.iter().filter(|id| **id == "call_0").count(),
        calls.len(),
        calls.len() - keys.len()
    );
    // The control: by the model's own ids, the same count finds that they are all one.
    let own: BTreeSet<String> = provider_ids.iter().map(Value::to_string).collect();
    let value = provider_ids.len() - own.len();
    println!("row=31 control=true faults_fired={} value={value}", provider_ids.len());
    assert_eq!((calls.len(), keys.len()), (4 * TURNS, 4 * TURNS));
    assert_eq!(value, 4 * TURNS - 1);
}
