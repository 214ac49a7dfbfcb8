//! Tools and crashes, by killing the real process in the middle of a call: what may be called again
//! is, with the same key; what may not is not.

use serde_json::{Value, json};

use crate::client::of;
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub, say};
use crate::tool_stub::{Reply, ToolStub, text};
use crate::tools::{body, calls};

#[tokio::test]
async fn killed_in_the_middle_of_a_call_each_tool_is_treated_by_its_effect() {
    const ROUNDS: usize = 6;
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let names = ["read", "idempotent", "once", "answered"];
    calls(&stub, "crash", &names.map(|name| (name, json!({}))));
    for path in ["/read", "/idempotent", "/once"] {
        tools.on(path, |call| if call.attempt == 1 { Reply::Hang } else { text("again") });
    }
    tools.on("/answered", |_| text("first"));
    let mut service = Service::start(&stub).await;
    let (mut unknown, mut again) = (0, 0);
    for round in 1..=ROUNDS {
        let fields = |name: &'static str| match name {
            "answered" => (name, json!({"effect": "once"})),
            name => (name, json!({"effect": name})),
        };
        let id = service.client.create(&body("crash", &tools, &names.map(fields))).await;
        for path in ["/read", "/idempotent", "/once"] {
            tools.called(path, 2 * round - 1 - usize::from(path == "/once") * (round - 1)).await;
        }
        service.client.event(&id, "tool_result").await;
        service = service.kill().await.start().await;
        let run = service.client.ended(&id).await;
        assert_eq!(run["status"], "COMPLETED", "{run}");
        let log = service.client.log(&id).await;
        let results = of(&log, "tool_result");
        assert_eq!(results.len(), 4, "{results:?}");
        let result = |name: &str| *results.iter().find(|one| one["tool_name"] == name).unwrap();
        for name in ["read", "idempotent"] {
            assert_eq!(
                (&result(name)["result"], &result(name)["try"]),
                (&json!("again"), &json!(2))
            );
            again += 1;
        }
        assert_eq!(result("answered")["result"], "first");
        let once = result("once");
        assert_eq!((&once["outcome"], &once["is_error"]), (&json!("unknown"), &json!(true)));
        let words = once["result"].as_str().unwrap();
        assert!(words.contains("may or may not have taken effect"), "{words}");
        let sent = stub.calls("crash").last().unwrap().request["messages"].to_string();
        assert!(sent.contains("may or may not have taken effect"), "the model is told: {sent}");
        unknown += 1;
    }
    let repeated: usize = ["/once", "/answered"]
        .iter()
        .flat_map(|path| tools.counts(path).into_values())
        .filter(|times| *times > 1)
        .count();
    let keys = |path: &str| tools.counts(path).into_values().collect::<Vec<usize>>();
    println!("row=4,34 faults_fired={ROUNDS} ops_ok={unknown} value={repeated}");
    assert_eq!((repeated, keys("/once").len()), (0, ROUNDS));
    for path in ["/read", "/idempotent"] {
        assert_eq!(keys(path), [2; ROUNDS], "each key came twice, before and after the crash");
    }
    println!("row=5 faults_fired={ROUNDS} ops_ok={again} value=0");
}

/// The control: a tool that says of itself that it may be called again, and is counted as if it might
/// not be, is found to be called twice.
#[tokio::test]
async fn a_second_call_of_a_tool_is_found_by_the_count() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    calls(&stub, "control", &[("t", json!({}))]);
    tools.on("/t", |call| if call.attempt == 1 { Reply::Hang } else { text("again") });
    let service = Service::start(&stub).await;
    let id = service.client.create(&body("control", &tools, &[("t", json!({}))])).await;
    tools.called("/t", 1).await;
    let service = service.kill().await.start().await;
    service.client.ended(&id).await;
    let repeated = tools.counts("/t").into_values().filter(|times| *times > 1).count();
    println!("row=4 control=true value={repeated}");
    assert_eq!(repeated, 1);
}

/// Between two tries nobody is called: a crash there makes the next try, and no other, again.
#[tokio::test]
async fn killed_between_two_tries_a_call_goes_on_with_its_key_and_its_count() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    calls(&stub, "between", &[("t", json!({}))]);
    tools.on("/t", |call| match call.attempt {
        1 | 2 => Reply::Send(503, vec![("retry-after", "60".to_owned())], Vec::new()),
        _ => text("at last"),
    });
    let mut service = Service::start(&stub).await;
    let fields = json!({"timeout": 120});
    let mut run = body("between", &tools, &[("t", fields)]);
    run["config"] = json!({"timeout_per_turn": 300});
    let id = service.client.create(&run).await;
    for call in 1..=2 {
        tools.called("/t", call).await;
        service = service.kill().await.start().await;
    }
    let done = service.client.ended(&id).await;
    assert_eq!(done["tool_calls"][0]["result"], "at last");
    let log = service.client.log(&id).await;
    let tries: Vec<&Value> = of(&log, "tool.started").iter().map(|one| &one["try"]).collect();
    assert_eq!(tries, [1, 2, 3]);
    assert_eq!(tools.counts("/t").into_values().collect::<Vec<_>>(), [3], "one key");
}

#[tokio::test]
async fn a_drain_drops_the_call_and_the_next_start_makes_it_again() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    stub.on("drain", |call| match call.turn {
        1 => vec![Do::Call("t", json!({})), Do::Finish("tool_calls")],
        _ => say("Done."),
    });
    tools.on("/t", |call| if call.attempt == 1 { Reply::Hang } else { text("again") });
    let setup = Setup::default().env("RUNLEDGER_DRAIN", "2");
    let service = Service::start_with(&stub, setup).await;
    let id = service.client.create(&body("drain", &tools, &[("t", json!({}))])).await;
    tools.called("/t", 1).await;
    let (status, stopped) = service.terminate().await;
    assert!(status.success());
    tools.hung_up("/t", 1).await;
    let service = stopped.start().await;
    let done = service.client.ended(&id).await;
    assert_eq!(done["tool_calls"][0]["result"], "again");
    assert_eq!(tools.counts("/t").into_values().collect::<Vec<_>>(), [2]);
    let log = service.client.log(&id).await;
    assert!(of(&log, "run.started").iter().all(|one| one["crashes"] == 0));
}
