//! Tools over HTTP, through the socket, against a server of the tests' own.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::client::{Client, kinds, of};
use crate::service::Service;
use crate::stub::{Do, Stub, say};
use crate::tool_stub::{Reply, ToolStub, json as good, send, text};

/// The body that runs an agent with these tools at the server, each at the path of its name.
pub fn body(model: &str, tools: &ToolStub, each: &[(&str, Value)]) -> Value {
    let tools: Vec<Value> = each
        .iter()
        .map(|(name, fields)| {
            let mut tool =
                json!({"type": "http", "name": name, "url": format!("{}/{name}", tools.url)});
            for (field, value) in fields.as_object().unwrap() {
                tool[field] = value.clone();
            }
            tool
        })
        .collect();
    json!({
        "agent": {"name": "Test", "model": format!("openai/{model}"), "tools": tools},
        "input": model,
    })
}

/// A model that calls these tools once, then is done.
pub fn calls(stub: &Stub, model: &str, tools: &[(&'static str, Value)]) {
    let tools = tools.to_vec();
    stub.on(model, move |call| match call.turn {
        1 => {
            let calls = tools.iter().map(|(name, arguments)| Do::Call(name, arguments.clone()));
            calls.chain([Do::Finish("tool_calls")]).collect()
        }
        _ => say("Done."),
    });
}

pub async fn ended(http: &Client, body: &Value) -> (Value, Vec<Value>) {
    let id = http.create(body).await;
    let run = http.ended(&id).await;
    let log = http.log(&id).await;
    (run, log)
}

/// Runs one call of the tool `t`, with these fields; gives its result and all of the log.
pub async fn one_call(
    service: &Service,
    stub: &Stub,
    tools: &ToolStub,
    fields: Value,
) -> (Value, Vec<Value>) {
    calls(stub, "one", &[("t", json!({"q": 1}))]);
    let (run, log) = ended(&service.client, &body("one", tools, &[("t", fields)])).await;
    assert_eq!(run["status"], "COMPLETED", "{run}");
    let results = of(&log, "tool_result");
    assert_eq!(results.len(), 1, "{results:?}");
    (results[0].clone(), log.clone())
}

#[tokio::test]
async fn a_tool_is_told_the_call_and_its_answer_goes_to_the_model() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    tools.on("/find_order", |_| good(&json!({"id": 17, "state": "sent"})));
    tools.on("/note", |_| text("Noted: ü"));
    let arguments = json!({"order": 17});
    calls(&stub, "two", &[("find_order", arguments.clone()), ("note", json!({}))]);
    let service = Service::start(&stub).await;
    let schema = json!({"type": "object", "properties": {"order": {"type": "integer"}}});
    let fields = json!({"description": "Finds an order.", "parameters": schema, "effect": "read",
                        "headers": {"X-Team": "blue"}});
    let mut body = body("two", &tools, &[("find_order", fields), ("note", json!({}))]);
    body["variables"] = json!({"user": "Alice"});
    let (run, log) = ended(&service.client, &body).await;
    assert_eq!((&run["status"], &run["final_output"]), (&json!("COMPLETED"), &json!("Done.")));

    let offered = &stub.calls("two")[0].request["tools"][0]["function"];
    assert_eq!(
        (&offered["description"], &offered["parameters"]),
        (&json!("Finds an order."), &schema)
    );
    let proposed = of(&log, "tool_call");
    assert_eq!(
        (&proposed[0]["effect"], &proposed[1]["effect"]),
        (&json!("read"), &json!("idempotent"))
    );
    let called = &tools.calls("/find_order")[0];
    let call_id = proposed[0]["call_id"].as_str().unwrap();
    let told = json!({"run_id": run["run_id"], "call_id": call_id, "tool_name": "find_order",
                      "arguments": arguments, "variables": {"user": "Alice"}});
    assert_eq!((&called.body, called.key.as_str()), (&told, call_id));
    let header = |name: &str| called.headers[name].to_str().unwrap();
    assert_eq!((header("content-type"), header("x-team")), ("application/json", "blue"));
    let trace = header("traceparent");
    assert!(trace.starts_with("00-") && trace.len() == 55, "{trace}");
    let other = tools.calls("/note")[0].headers["traceparent"].to_str().unwrap().to_owned();
    assert!(other[..35] == trace[..35] && other != trace, "one trace, two spans: {other}");

    let results = of(&log, "tool_result");
    let result = |name: &str| *results.iter().find(|one| one["tool_name"] == name).unwrap();
    let found = result("find_order");
    assert_eq!(found["result"], json!({"id": 17, "state": "sent"}));
    assert_eq!((&found["outcome"], &found["http_status"]), (&json!("ok"), &json!(200)));
    assert_eq!(result("note")["result"], "Noted: ü");
    let messages = stub.calls("two")[1].request["messages"].clone();
    let sent: Vec<&str> = (2..4).map(|n| messages[n]["content"].as_str().unwrap()).collect();
    assert_eq!(sent, [r#"{"id":17,"state":"sent"}"#, "Noted: ü"]);
    // Committed before the call.
    let first = |kind: &str| log.iter().position(|event| event["type"] == kind).unwrap();
    assert!(
        first("turn.completed") < first("tool.started")
            && first("tool.started") < first("tool_result")
    );
}

#[tokio::test]
async fn a_trace_that_the_request_belongs_to_is_continued() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    calls(&stub, "trace", &[("t", json!({}))]);
    let run = body("trace", &tools, &[("t", json!({}))]);
    let given = format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8));
    for (header, is_continued) in [(given.as_str(), true), ("00-broken", false)] {
        let made = service.client.post_with("/runs", &run, &[("traceparent", header)]).await;
        let id = made.expect(201)["run_id"].as_str().unwrap().to_owned();
        service.client.ended(&id).await;
        let told =
            tools.calls("/t").last().unwrap().headers["traceparent"].to_str().unwrap().to_owned();
        assert_eq!(told.starts_with(&given[..36]), is_continued, "{told}");
        assert!(told.ends_with("-01") && !told.contains(&"cd".repeat(8)), "{told}");
        let kept = service.client.log(&id).await[0].get("traceparent").cloned();
        assert_eq!(kept, is_continued.then(|| json!(given)));
    }
}

#[tokio::test]
async fn arguments_are_checked_against_the_tools_own_schema() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    let schema = json!({"type": "object", "properties": {"q": {"type": "string"}}});
    let (result, log) = one_call(&service, &stub, &tools, json!({"parameters": schema})).await;
    assert!(result["result"].as_str().unwrap().contains("/q"), "{result}");
    assert_eq!((result["try"].clone(), of(&log, "tool.started").len()), (json!(0), 0));
    assert_eq!(tools.calls("/t").len(), 0);
}

#[tokio::test]
async fn a_tool_sets_variables_and_the_next_request_is_made_with_them() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let envelope = "application/vnd.runledger.tool-result+json; charset=utf-8";
    tools.on("/t", move |call| match call.body["arguments"]["n"].as_i64() {
        Some(1) => send(200, envelope, r#"{"result": "ok", "variables": {"user": "Bob", "n": 7}}"#),
        Some(2) => {
            let long = json!({"result": "ok", "variables": {"long": "x".repeat(65_536)}});
            send(200, envelope, &long.to_string())
        }
        _ => good(&call.body["variables"]),
    });
    stub.on("vars", |call| match call.turn {
        turn @ 1..=3 => vec![Do::Call("t", json!({"n": turn})), Do::Finish("tool_calls")],
        _ => say("Done."),
    });
    let service = Service::start(&stub).await;
    let mut body = body("vars", &tools, &[("t", json!({}))]);
    body["agent"]["instructions"] = json!("You help {{user}}.");
    body["variables"] = json!({"user": "Alice"});
    let (run, log) = ended(&service.client, &body).await;
    let system = |turn: usize| stub.calls("vars")[turn].request["messages"][0]["content"].clone();
    assert_eq!((system(0), system(1)), (json!("You help Alice."), json!("You help Bob.")));
    let set = of(&log, "variables.set");
    assert_eq!(set.len(), 1, "what is too much is not set");
    assert_eq!(set[0]["values"], json!({"user": "Bob", "n": 7}));
    assert_eq!(run["variables"], json!({"user": "Bob", "n": 7}));
    let results = of(&log, "tool_result");
    assert_eq!(set[0]["seq"].as_u64().unwrap() + 1, results[0]["seq"].as_u64().unwrap());
    assert_eq!(set[0]["at"], results[0]["at"], "one append");
    assert_eq!((&results[0]["result"], &results[1]["is_error"]), (&json!("ok"), &json!(true)));
    assert!(results[1]["result"].as_str().unwrap().contains("65536"), "{}", results[1]);
    assert_eq!(results[2]["result"], json!({"user": "Bob", "n": 7}), "tools are told them too");
}

#[tokio::test]
async fn what_is_no_result_is_the_tools_error_in_words() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    let to = format!("{}/elsewhere", tools.url);
    let redirect = Reply::Send(307, vec![("location", to)], Vec::new());
    let gzip = Reply::Send(200, vec![("content-encoding", "gzip".to_owned())], vec![0x1f, 0x8b]);
    let envelope = "application/vnd.runledger.tool-result+json";
    for (reply, status, words) in [
        (send(202, "application/json", "{}"), 202, "202"),
        (send(200, "text/event-stream", "data: x\n\n"), 200, "event stream"),
        (redirect, 307, "redirects are not followed"),
        (gzip, 200, "gzip"),
        (send(404, "text/plain", "no order 17"), 404, "no order 17"),
        (send(401, "application/json", r#"{"no":"key"}"#), 401, r#"{"no":"key"}"#),
        (send(200, envelope, "[1]"), 200, "tool-result+json"),
    ] {
        tools.on("/t", move |_| reply.clone());
        let before = tools.calls("/t").len();
        let (result, _) = one_call(&service, &stub, &tools, json!({})).await;
        assert_eq!((&result["is_error"], &result["outcome"]), (&json!(true), &json!("error")));
        assert_eq!(result["http_status"], status, "{result}");
        assert!(result["result"].as_str().unwrap().contains(words), "{words}: {result}");
        assert_eq!(tools.calls("/t").len(), before + 1, "it is not tried again: {words}");
    }
    assert_eq!(tools.calls("/elsewhere").len(), 0);
}

#[tokio::test]
async fn a_failing_tool_is_tried_again_with_the_same_key_and_every_try_is_committed_first() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    tools.on("/t", |call| match call.attempt {
        1 => send(503, "text/plain", "busy"),
        2 => Reply::Send(429, vec![("retry-after", "1".to_owned())], Vec::new()),
        3 => Reply::Cut,
        4 => send(408, "text/plain", ""),
        _ => text("at last"),
    });
    for effect in ["read", "idempotent"] {
        let (result, log) = one_call(&service, &stub, &tools, json!({"effect": effect})).await;
        assert_eq!((&result["result"], &result["try"]), (&json!("at last"), &json!(5)));
        let starts = of(&log, "tool.started");
        let tries: Vec<&Value> = starts.iter().map(|one| &one["try"]).collect();
        assert_eq!(tries, [1, 2, 3, 4, 5]);
        assert_eq!(starts[0].get("failed_before"), None);
        let before = |n: usize| &starts[n]["failed_before"];
        assert_eq!(
            (&before(1)["http_status"], &before(2)["http_status"]),
            (&json!(503), &json!(429))
        );
        assert!(before(1)["message"].as_str().unwrap().contains("busy"), "{}", before(1));
        assert!(before(3)["message"].as_str().unwrap().contains("broke"), "{}", before(3));
        assert_eq!(before(3).get("http_status"), None);
        assert!(result["elapsed_time"].as_f64().unwrap() >= 1.0, "Retry-After is waited for");
    }
    let counts = tools.counts("/t");
    let times: Vec<&usize> = counts.values().collect();
    assert_eq!(times, [&5, &5], "two calls, five times each: {counts:?}");
    println!("row=5 faults_fired=8 ops_ok=2 value=0");

    tools.on("/t", |_| send(500, "text/plain", "broken"));
    let (result, log) = one_call(&service, &stub, &tools, json!({})).await;
    assert_eq!((&result["result"], &result["http_status"]), (&json!("broken"), &json!(500)));
    assert_eq!((of(&log, "tool.started").len(), &result["outcome"]), (5, &json!("error")));
    // A wait that would pass the tool's time is not begun.
    let impatient = json!({"timeout": 0.2});
    tools.on("/t", |_| Reply::Send(503, vec![("retry-after", "60".to_owned())], Vec::new()));
    let (_, log) = one_call(&service, &stub, &tools, impatient).await;
    assert_eq!(of(&log, "tool.started").len(), 1);
}

#[tokio::test]
async fn a_verbose_run_tells_why_a_tool_is_tried_again() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    calls(&stub, "one", &[("t", json!({}))]);
    tools.on("/t", |call| match call.attempt {
        1 => send(503, "text/plain", "busy"),
        _ => text("ok"),
    });
    let mut run = body("one", &tools, &[("t", json!({}))]);
    run["config"] = json!({"verbose": true});
    let (_, log) = ended(&service.client, &run).await;
    let again = log.iter().position(|one| one["type"] == "tool.started" && one["try"] == 2);
    let line = &log[again.unwrap() - 1];
    assert_eq!((&line["type"], &line["level"]), (&json!("log"), &json!("warn")));
    let words = line["message"].as_str().unwrap();
    assert!(words.starts_with("a tool failed with status 503 in "), "{words}");
    assert!(words.ends_with("; try 2 follows") && !line.to_string().contains("busy"), "{line}");
    assert_eq!((&line["data"]["try"], &line["data"]["http_status"]), (&json!(2), &json!(503)));
}

#[tokio::test]
async fn a_tool_that_may_be_called_once_is_tried_again_only_where_nobody_heard_of_it() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    let once = json!({"effect": "once"});
    tools.on("/t", |_| send(503, "text/plain", "busy"));
    let (result, log) = one_call(&service, &stub, &tools, once.clone()).await;
    assert_eq!((&result["outcome"], &result["result"]), (&json!("error"), &json!("busy")));
    assert_eq!(of(&log, "tool.started").len(), 1);

    tools.on("/t", |_| Reply::Cut);
    let (cut, _) = one_call(&service, &stub, &tools, once.clone()).await;
    tools.on("/t", |_| Reply::Hang);
    let (late, _) =
        one_call(&service, &stub, &tools, json!({"effect": "once", "timeout": 0.3})).await;
    for result in [cut, late] {
        assert_eq!((&result["outcome"], &result["is_error"]), (&json!("unknown"), &json!(true)));
        let words = result["result"].as_str().unwrap();
        assert!(words.contains("may or may not have taken effect"), "{words}");
    }
    assert!(tools.counts("/t").values().all(|times| *times == 1), "{:?}", tools.counts("/t"));
    println!("row=4 faults_fired=3 ops_ok={} value=0", tools.calls("/t").len());

    // Nobody listens there: the call can't have been heard.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let fields = json!({"effect": "once", "url": format!("http://{closed}/")});
    let (result, log) = one_call(&service, &stub, &tools, fields).await;
    assert_eq!((of(&log, "tool.started").len(), &result["outcome"]), (5, &json!("error")));
    assert!(result["result"].as_str().unwrap().contains("can't be reached"), "{result}");
}

#[tokio::test]
async fn a_tools_time_holds_over_all_its_tries_and_a_turns_time_cuts_it() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    tools.on("/t", |call| match call.attempt {
        1 => send(503, "text/plain", ""),
        _ => Reply::Hang,
    });
    let (result, log) = one_call(&service, &stub, &tools, json!({"timeout": 0.6})).await;
    assert_eq!((&result["outcome"], &result["try"]), (&json!("timeout"), &json!(2)));
    let elapsed = result["elapsed_time"].as_f64().unwrap();
    assert!((0.6..3.0).contains(&elapsed), "{elapsed}");
    assert_eq!(of(&log, "tool.started").len(), 2);
    tools.hung_up("/t", 1).await;

    let mut cut = body("one", &tools, &[("t", json!({}))]);
    cut["config"] = json!({"timeout_per_turn": 0.4});
    let (run, log) = ended(&service.client, &cut).await;
    assert_eq!(run["stop_reason"], "turn_timeout");
    assert_eq!(of(&log, "tool_result")[0]["outcome"], "unknown");
    tools.hung_up("/t", 2).await;
}

#[tokio::test]
async fn a_cancel_closes_the_tools_connection_and_stops_its_retries() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    calls(&stub, "cancel", &[("hangs", json!({})), ("fails", json!({}))]);
    tools.on("/hangs", |_| Reply::Hang);
    tools.on("/fails", |_| Reply::Send(503, vec![("retry-after", "2".to_owned())], Vec::new()));
    let run = &body("cancel", &tools, &[("hangs", json!({})), ("fails", json!({}))]);
    let id = service.client.create(run).await;
    tools.called("/hangs", 1).await;
    tools.called("/fails", 1).await;
    let path = format!("/runs/{id}?wait=30");
    let answer = service.client.delete(&path).await;
    assert!([200, 202].contains(&answer.status), "{answer:?}");
    let run = service.client.ended(&id).await;
    assert_eq!(run["status"], "CANCELLED");
    tools.hung_up("/hangs", 1).await;
    let log = service.client.log(&id).await;
    let cancelled = log.iter().position(|one| one["type"] == "cancel.requested").unwrap();
    assert!(!kinds(&log[cancelled..]).contains(&"tool.started"));
    let outcomes: Vec<&Value> = of(&log, "tool_result").iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, ["unknown", "unknown"]);
    assert_eq!(tools.calls("/fails").len(), of(&log, "tool.started").len() - 1);
}

#[tokio::test]
async fn other_tools_go_on_while_one_is_tried_again() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    calls(&stub, "beside", &[("slow", json!({})), ("quick", json!({}))]);
    tools.on("/slow", |call| match call.attempt {
        1 => Reply::Send(503, vec![("retry-after", "1".to_owned())], Vec::new()),
        _ => text("slow"),
    });
    tools.on("/quick", |_| text("quick"));
    let run = body("beside", &tools, &[("slow", json!({})), ("quick", json!({}))]);
    let (_, log) = ended(&service.client, &run).await;
    let told: Vec<&Value> = of(&log, "tool_result").iter().map(|one| &one["result"]).collect();
    assert_eq!(told, ["quick", "slow"]);
    let second = log.iter().position(|one| one["try"] == 2 && one["type"] == "tool.started");
    let quick = log.iter().position(|one| one["result"] == "quick");
    assert!(quick < second, "it had not to wait for the other's second try");
    let messages = stub.calls("beside")[1].request["messages"].clone();
    assert_eq!(
        (&messages[2]["content"], &messages[3]["content"]),
        (&json!("slow"), &json!("quick"))
    );
}

#[tokio::test]
async fn a_tools_error_ends_the_run_where_it_says_so() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    calls(&stub, "stop", &[("t", json!({}))]);
    tools.on("/t", |_| send(400, "text/plain", "no"));
    let mut run = body("stop", &tools, &[("t", json!({}))]);
    run["config"] = json!({"stop_on_tool_error": true});
    let (run, _) = ended(&service.client, &run).await;
    assert_eq!((&run["status"], &run["stop_reason"]), (&json!("FAILED"), &json!("tool_error")));
    assert_eq!(run["error"]["message"], "the tool `t` failed: no");
}

#[tokio::test]
async fn twenty_calls_run_side_by_side_and_keep_their_order() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    stub.on("many", |call| match call.turn {
        1 => (1..=20)
            .map(|n| Do::Call("t", json!({"n": n})))
            .chain([Do::Finish("tool_calls")])
            .collect(),
        _ => say("Done."),
    });
    tools.on("/t", |call| {
        let answer = good(&call.body["arguments"]["n"]);
        Reply::After(Duration::from_millis(100), Box::new(answer))
    });
    let (run, _) = ended(&service.client, &body("many", &tools, &[("t", json!({}))])).await;
    assert_eq!(run["status"], "COMPLETED");
    let told: Vec<i64> = run["tool_calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["result"].as_i64().unwrap())
        .collect();
    assert_eq!(told, (1..=20).collect::<Vec<i64>>());
    assert!((2..=8).contains(&tools.at_once()), "{} at once", tools.at_once());
    assert_eq!(tools.counts("/t").len(), 20, "each call has a key of its own");
}

#[tokio::test]
async fn a_long_result_is_cut_and_says_so_and_costs_no_memory() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let service = Service::start(&stub).await;
    tools.on("/t", |_| Reply::Flood(10 * 1024 * 1024));
    // What the first run costs is none of its.
    service.client.ended(&service.client.run("openai/plain", "warm").await).await;
    let before = service.memory_kib("VmHWM");
    let (result, _) = one_call(&service, &stub, &tools, json!({})).await;
    let told = result["result"].as_str().unwrap();
    assert_eq!((&result["truncated"], &result["outcome"]), (&json!(true), &json!("ok")));
    assert!(told.len() <= 256 * 1024 && told.ends_with("there is more]"), "{}", told.len());
    tools.on("/t", |_| send(200, "text/plain", &"x".repeat(1_000_000)));
    let (result, _) = one_call(&service, &stub, &tools, json!({})).await;
    let told = result["result"].as_str().unwrap();
    assert!(told.ends_with("of 1000000 bytes]"), "{}", &told[told.len() - 60..]);
    let more = service.memory_kib("VmHWM") - before;
    println!("row=13 faults_fired=2 ops_ok=2 value={more}");
    assert!(more <= 64 * 1024, "{more} KiB");
}

/// Large results of the kinds that cost the most memory once they are read, eight at once, beside the
/// same bytes as plain text.
#[tokio::test]
async fn results_that_are_made_to_cost_memory_cost_no_more_than_text() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let numbers = format!("[{}0]", "0,".repeat(120_000));
    let objects = format!("[{}{{}}]", "{\"\":0},".repeat(20_000));
    let names: String = (0..20_000).map(|n| format!("\"{n}\":0,")).collect();
    let names = format!("{{{names}\"x\":0}}");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies = [numbers, objects, names, deep];
    tools.on("/t", move |call| {
        let arguments = &call.body["arguments"];
        let n = usize::try_from(arguments["n"].as_u64().unwrap()).unwrap();
        send(200, arguments["as"].as_str().unwrap(), &bodies[n % bodies.len()])
    });
    let mut costs = Vec::new();
    for media_type in ["text/plain", "application/json"] {
        stub.on("costly", move |call| match call.turn {
            1 => {
                let call = |n| Do::Call("t", json!({"n": n, "as": media_type}));
                (0..8).map(call).chain([Do::Finish("tool_calls")]).collect()
            }
            _ => say("Done."),
        });
        let service = Service::start(&stub).await;
        // What the first run costs is none of theirs.
        service.client.ended(&service.client.run("openai/plain", "warm").await).await;
        let before = service.memory_kib("VmHWM");
        let id = service.client.create(&body("costly", &tools, &[("t", json!({}))])).await;
        service.client.event(&id, "run.completed").await;
        costs.push(service.memory_kib("VmHWM") - before);
        let log = service.client.log(&id).await;
        assert!(of(&log, "tool_result").iter().all(|one| one["outcome"] == "ok"));
    }
    println!("row=13 faults_fired=8 ops_ok=16 value={costs:?}");
    assert!(costs[1] <= costs[0] + 16 * 1024, "text and JSON, KiB: {costs:?}");
}
