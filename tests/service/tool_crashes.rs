//! Tools and crashes, by killing the real process in the middle of a call: what may be called again
//! is, with the same key; what may not is not.

use serde_json::{Value, json};

use crate::client::of;
use crate::effects::{self, Effects};
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub, say};
use crate::tool_stub::{Reply, ToolStub, text};
use crate::tools::{body, calls};

/// Runs that are hit by one kill.
fn runs_at_once() -> usize {
    scaled(6, 50)
}

/// What is wrong with a run whose process was killed when one call had its answer and three had none.
fn wrongs(run: &Value, log: &[Value], once: &Effects, answered: &Effects) -> Vec<String> {
    let mut found = Vec::new();
    let results = of(log, "tool_result");
    let of_tool = |name: &str| -> Vec<&Value> {
        results.iter().filter(|one| one["tool_name"] == name).copied().collect()
    };
    for (name, outcome, result) in [
        ("read", "ok", Some("again")),
        ("idempotent", "ok", Some("again")),
        ("answered", "ok", Some("first")),
        ("once", "unknown", None),
    ] {
        let is_so = match *of_tool(name) {
            [one] => one["outcome"] == outcome && result.is_none_or(|words| one["result"] == words),
            ref _none_or_more => false,
        };
        if !is_so {
            found.push(format!("{name}: {:?}", of_tool(name)));
        }
    }
    let mut unknown = 0;
    found.extend(once.lies(log, "once", &mut unknown));
    found.extend(answered.lies(log, "answered", &mut unknown));
    if run["status"] != "COMPLETED" || unknown != 1 {
        found.push(format!("{unknown} unknown, {run}"));
    }
    found
}

/// reliability.md, row 34, and rows 4 and 5 on the embedded store.
#[tokio::test]
async fn killed_in_the_middle_of_a_call_each_tool_is_treated_by_its_effect() {
    let (kills, at_once) = (scaled(2, 10), runs_at_once());
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let names = ["read", "idempotent", "once", "answered"];
    stub.on("crash", move |call| match call.turn {
        1 => {
            let calls = names.iter().map(|name| effects::call(call, name, 1));
            calls.chain([Do::Finish("tool_calls")]).collect()
        }
        _ => say("Done."),
    });
    for path in ["/read", "/idempotent", "/once"] {
        tools.on(path, |call| if call.attempt == 1 { Reply::Hang } else { text("again") });
    }
    tools.on("/answered", |_| text("first"));
    let mut service = Service::start(&stub).await;
    let mut found = Vec::new();
    for kill in 1..=kills {
        let creates = (0..at_once).map(|n| {
            let fields = names.map(|name| {
                let effect = if name == "answered" { "once" } else { name };
                (name, json!({"effect": effect}))
            });
            let mut spec = body("crash", &tools, &fields);
            spec["input"] = json!(format!("kill {kill}, run {n}"));
            let http = service.client.clone();
            async move { http.create(&spec).await }
        });
        let ids = futures_util::future::join_all(creates).await;
        tools.called("/read", (2 * kill - 1) * at_once).await;
        tools.called("/idempotent", (2 * kill - 1) * at_once).await;
        tools.called("/once", kill * at_once).await;
        for id in &ids {
            service.client.event(id, "tool_result").await;
        }
        service = service.kill().await.start().await;
        let mut ended = Vec::new();
        for id in &ids {
            ended.push((service.client.ended(id).await, service.client.log(id).await));
        }
        let (once, answered) = (Effects::of(&tools, "/once"), Effects::of(&tools, "/answered"));
        found.extend(ended.iter().flat_map(|(run, log)| wrongs(run, log, &once, &answered)));
    }
    let rounds = kills * at_once;
    let effects = names.map(|name| Effects::of(&tools, &format!("/{name}")));
    let [read, idempotent, once, answered] = &effects;
    let repeated = once.repeated() + answered.repeated();
    let other_keys = idempotent.with_other_keys(|call| call.key.clone());
    println!("row=34 faults_fired={rounds} ops_ok={rounds} value={} kills={kills}", found.len());
    println!("row=34 control=true faults_fired={rounds} value={}", read.repeated());
    println!("row=4 faults_fired={rounds} ops_ok={} value={repeated}", once.len());
    println!("row=5 faults_fired={rounds} ops_ok={} value={other_keys}", idempotent.repeated());
    assert_eq!(found, Vec::<String>::new());
    assert_eq!((repeated, other_keys), (0, 0));
    // Each was hit, and those that may be called again were: the control of the count.
    assert_eq!(effects.each_ref().map(Effects::len), [rounds; 4]);
    assert_eq!([read.repeated(), idempotent.repeated()], [rounds; 2]);
    let sent = stub.calls("crash").last().unwrap().request["messages"].to_string();
    assert!(sent.contains("may or may not have taken effect"), "the model is told: {sent}");
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
