//! The list of runs: filters, pages, and the same words as the run itself has.

use serde_json::{Value, json};

use crate::client::{Client, spec};
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub, calculate, say};

async fn list(http: &Client, query: &str) -> Vec<Value> {
    let page = http.get(&format!("/runs?{query}")).await.expect(200);
    page["data"].as_array().unwrap().clone()
}

async fn ids(http: &Client, query: &str) -> Vec<String> {
    let runs = list(http, query).await;
    runs.iter().map(|run| run["run_id"].as_str().unwrap().to_owned()).collect()
}

/// What a list leaves out of a run.
const LEFT_OUT: [&str; 7] =
    ["history", "tool_calls", "input", "output", "final_output", "variables", "config"];

#[tokio::test]
async fn an_item_says_what_the_run_says_without_its_long_parts() {
    let stub = Stub::start().await;
    stub.on("tools", |call| match call.turn {
        1 => calculate(1),
        _ => say(&format!("It\n is  {}", "2 ".repeat(200))),
    });
    stub.on("length", |_| vec![Do::Say("Cut".into()), Do::Finish("length")]);
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start_with(&stub, Setup::default().env("RUNLEDGER_SLOTS", "1")).await;
    let http = &service.client;
    let mut body = spec("openai/tools", "What is\n\n 1+1?");
    body["config"] = json!({"run_id": "mine", "metadata": {"user": "17"}});
    http.create(&body).await;
    http.ended("mine").await;
    let failed = http.run("openai/length", "b").await;
    http.ended(&failed).await;
    let active = http.run("openai/hang", "c").await;
    stub.called("hang", 1).await;
    let queued = http.run("openai/hang", "d").await;
    let last = http.run("openai/hang", "e").await;
    http.delete(&format!("/runs/{last}")).await;
    http.ended(&last).await;
    let listed = list(http, "").await;
    let names: Vec<&str> = listed.iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!(names, [&last, &queued, &active, &failed, "mine"], "newest first");
    for item in &listed {
        let run = http.get(&format!("/runs/{}", item["run_id"].as_str().unwrap())).await.json();
        for (field, value) in run.as_object().unwrap() {
            match field.as_str() {
                left_out if LEFT_OUT.contains(&left_out) => assert!(item.get(field).is_none()),
                "elapsed_time" if item["finished_at"].is_null() => {
                    assert!(item[field].as_f64().unwrap() <= value.as_f64().unwrap());
                }
                _ => assert_eq!(&item[field], value, "{field} of {}", item["run_id"]),
            }
        }
        assert_eq!(item.as_object().unwrap().len(), run.as_object().unwrap().len() - 7 + 2);
    }
    let done = &listed[4];
    assert_eq!(done["input_preview"], "What is 1+1?");
    let preview = done["output_preview"].as_str().unwrap();
    assert!(preview.starts_with("It is 2 2") && preview.chars().count() == 160, "{preview}");
    assert_eq!((&done["turn_count"], &done["usage"]["total_tokens"]), (&json!(2), &json!(30)));
    assert_eq!(listed[3]["error"]["code"], "max_output_tokens");
    assert_eq!(
        (&listed[1]["queue_position"], &listed[1]["output_preview"]),
        (&json!(1), &json!(null))
    );
}

#[tokio::test]
async fn each_filter_finds_what_it_asks_for() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    stub.on("length", |_| vec![Do::Finish("length")]);
    let service = Service::start_with(&stub, Setup::default().env("RUNLEDGER_SLOTS", "2")).await;
    let http = &service.client;
    let labelled = |model: &str, run_id: &str, metadata: Value| {
        let mut body = spec(model, run_id);
        body["agent"]["name"] = json!(format!("agent of {run_id}"));
        body["config"] = json!({"run_id": run_id, "metadata": metadata});
        body
    };
    for (model, run_id, metadata) in [
        ("openai/any", "a", json!({"user": "1", "time": "10:30"})),
        ("openai/length", "b", json!({"user": "1"})),
        ("openai/any", "c", json!({"user": "2"})),
    ] {
        http.create(&labelled(model, run_id, metadata)).await;
        http.ended(run_id).await;
    }
    for run_id in ["d", "e", "f", "g"] {
        http.create(&labelled("openai/hang", run_id, json!({}))).await;
    }
    stub.called("hang", 2).await;
    http.delete("/runs/g").await;
    http.ended("g").await;
    let uuid = http.log("c").await[0]["uuid"].as_str().unwrap().to_owned();
    let created = http.get("/runs/c").await.json()["created_at"].as_str().unwrap().to_owned();
    for (query, expected) in [
        ("status=COMPLETED", &["c", "a"][..]),
        ("status=FAILED&status=CANCELLED", &["g", "b"]),
        ("status=RUNNING", &["e", "d"]),
        ("status=QUEUED", &["f"]),
        ("stop_reason=max_output_tokens", &["b"]),
        ("stop_reason=max_output_tokens&stop_reason=end_turn", &["c", "b", "a"]),
        ("agent=agent%20of%20d", &["d"]),
        ("model=openai/length", &["b"]),
        ("metadata=user:1", &["b", "a"]),
        ("metadata=user:1&metadata=time:10:30", &["a"]),
        ("metadata=user:1&status=FAILED", &["b"]),
        ("metadata=user:", &[]),
        ("run_id=a&run_id=g&run_id=nobody", &["g", "a"]),
        (&format!("run_id={uuid}"), &["c"]),
        (&format!("created_after={created}"), &["g", "f", "e", "d"]),
        (&format!("created_before={created}"), &["b", "a"]),
        (&format!("created_before={created}&created_after={created}"), &[]),
        ("created_after=2026-01-01T01:00:00%2B01:00&status=FAILED", &["b"]),
        ("thread_id=t", &[]),
        ("parent_run_id=a", &[]),
        ("parent_run_id=nobody", &[]),
        (&format!("batch_id={uuid}"), &[]),
        ("waiting=any", &[]),
        ("waiting=approval", &[]),
    ] {
        assert_eq!(ids(http, query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn pages_go_on_where_they_ended_whatever_comes_and_ends_between() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut made = Vec::new();
    for n in 0..7 {
        made.push(http.run("openai/hang", &format!("run {n}")).await);
    }
    stub.called("hang", 7).await;
    let mut seen = Vec::new();
    let mut query = "status=RUNNING&limit=2".to_owned();
    let mut cursors = Vec::new();
    loop {
        let page = http.get(&format!("/runs?{query}")).await.expect(200);
        let data = page["data"].as_array().unwrap();
        seen.extend(data.iter().map(|run| run["run_id"].as_str().unwrap().to_owned()));
        // What was seen ends, and a new one comes: the next page is the same.
        let first = data[0]["run_id"].as_str().unwrap();
        http.delete(&format!("/runs/{first}")).await;
        http.ended(first).await;
        http.run("openai/hang", "another").await;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        cursors.push(cursor.to_owned());
        query = format!("limit=2&status=RUNNING&cursor={cursor}");
    }
    made.reverse();
    assert_eq!(seen, made, "each once, in order");
    assert_eq!(cursors.len(), 3);

    let cursor = &cursors[0];
    let damaged = format!("{}x{}", &cursor[..10], &cursor[11..]);
    for (query, words) in [
        (format!("status=RUNNING&cursor={damaged}"), "damaged"),
        ("cursor=".to_owned(), "damaged"),
        (format!("cursor={cursor}"), "other filters"),
        (format!("status=FAILED&cursor={cursor}"), "other filters"),
        (format!("status=RUNNING&cursor={cursor}&cursor={cursor}"), "only once"),
    ] {
        let refused = http.get(&format!("/runs?{query}")).await.expect(422);
        assert_eq!(refused["errors"][0]["parameter"], "cursor", "{query}");
        assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
    }
    let again = http.get(&format!("/runs?status=RUNNING&limit=1&cursor={cursor}")).await;
    assert_eq!(again.expect(200)["data"].as_array().unwrap().len(), 1, "the limit is no filter");
}

#[tokio::test]
async fn what_is_no_filter_is_refused_by_name() {
    let service = Service::demo().await;
    let http = &service.client;
    let empty = http.get("/runs").await.expect(200);
    assert_eq!(empty, json!({"data": [], "next_cursor": null}));
    let many = |name: &str, count: usize| {
        let pairs: Vec<String> = (0..count).map(|n| format!("{name}={n}")).collect();
        pairs.join("&")
    };
    for (query, parameter, words) in [
        ("stats=RUNNING", "stats", "known here: status"),
        ("status=running", "status", "must be one of QUEUED, RUNNING"),
        ("status=", "status", "must be one of"),
        ("limit=0", "limit", "between 1 and 200"),
        ("limit=201", "limit", "between 1 and 200"),
        ("limit=x", "limit", "between 1 and 200"),
        ("waiting=all", "waiting", "tool_output, approval, budget or any"),
        ("metadata=user", "metadata", "KEY:VALUE"),
        ("batch_id=17", "batch_id", "a UUID"),
        ("created_after=yesterday", "created_after", "2026-11-22T10:00:00Z"),
        ("created_before=2026-11-22", "created_before", "2026-11-22T10:00:00Z"),
        ("parent_run_id=nobody&created_before=", "created_before", "2026-11-22T10:00:00Z"),
        ("agent=a&agent=b", "agent", "only once"),
        ("agent=a%00b", "agent", "NUL"),
        ("run_id=a&run_id=%00", "run_id", "NUL"),
        ("metadata=a:%00", "metadata", "NUL"),
        (&many("run_id", 201), "run_id", "at most 200 times"),
        (&many("stop_reason", 33), "stop_reason", "at most 32 times"),
        (&["status=FAILED"; 33].join("&"), "status", "at most 32 times"),
    ] {
        let refused = http.get(&format!("/runs?{query}")).await.expect(422);
        assert_eq!(refused["errors"][0]["parameter"], parameter, "{query}");
        assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
    }
    http.get(&format!("/runs?{}", many("run_id", 200))).await.expect(200);
}
