//! Batches: all or none, one key, counted and cancelled together.

use serde_json::{Value, json};

use crate::client::{kinds, spec};
use crate::service::{Service, Setup};
use crate::stub::{Do, Gate, Stub, say};

fn counts(queued: u64, running: u64, completed: u64, failed: u64, cancelled: u64) -> Value {
    json!({"QUEUED": queued, "RUNNING": running, "COMPLETED": completed, "FAILED": failed,
        "CANCELLED": cancelled})
}

fn names(batch: &Value) -> Vec<String> {
    let ids = batch["run_ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_batch_runs_each_of_its_runs_and_counts_them() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("wait", move |call| [vec![Do::Wait(opened.clone())], say(&call.input)].concat());
    stub.on("length", |_| vec![Do::Finish("length")]);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let agent = spec("openai/wait", "")["agent"].clone();
    let body = json!({
        "defaults": {"agent": agent, "config": {"max_turns": 3, "metadata": {"of": "all"}}},
        "runs": [
            {"input": "one"},
            {"input": "two", "config": {"run_id": "mine", "max_turns": 5}},
            {"input": "three", "agent": spec("openai/length", "")["agent"],
             "config": {"metadata": {"of": "its own"}}},
        ],
        "metadata": {"night": "1"},
    });
    let created = http.post_with("/batches", &body, &[("idempotency-key", "b")]).await;
    let location = created.header("location").to_owned();
    let batch = created.expect(201);
    let id = batch["batch_id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/batches/{id}"));
    let runs = names(&batch);
    assert_eq!((runs.len(), runs[1].as_str()), (3, "mine"));
    stub.called("wait", 2).await;
    http.ended(&runs[2]).await;
    let active = http.get(&format!("/batches/{id}?wait=0")).await.expect(200);
    assert_eq!(active["counts"], counts(0, 2, 0, 1, 0));
    assert_eq!((&active["metadata"], &active["batch_id"]), (&json!({"night": "1"}), &json!(id)));
    assert!(active["created_at"].is_string());

    let waiting = format!("/batches/{id}?wait=80");
    let (done, ()) = tokio::join!(http.get(&waiting), async { gate.open() });
    assert_eq!(done.expect(200)["counts"], counts(0, 0, 2, 1, 0));
    for (name, input, turns, of) in [
        (&runs[0], "one", 3, "all"),
        (&runs[1], "two", 5, "all"),
        (&runs[2], "three", 3, "its own"),
    ] {
        let run = http.get(&format!("/runs/{name}")).await.expect(200);
        assert_eq!((&run["input"], &run["batch_id"]), (&json!(input), &json!(id)));
        assert_eq!(run["config"]["max_turns"], turns, "{name}");
        assert_eq!(run["metadata"]["of"], of, "{name}");
        assert_eq!(http.log(name).await[0]["by"], "local");
    }
    let listed = http.get(&format!("/runs?batch_id={id}")).await.expect(200);
    let listed = listed["data"].as_array().unwrap();
    assert!(listed.iter().all(|run| run["batch_id"] == json!(id)));
    let mut listed: Vec<&str> = listed.iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    listed.reverse();
    assert_eq!(listed, runs);

    let again = http.post_with("/batches", &body, &[("idempotency-key", "\"b\"")]).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    let again = again.expect(200);
    assert_eq!((&again["batch_id"], names(&again)), (&json!(id), runs));
    assert_eq!(again["counts"], counts(0, 0, 2, 1, 0));
    http.get("/batches/nobody").await.expect(404);
    http.get(&format!("/batches/{}", http.log("mine").await[0]["uuid"].as_str().unwrap()))
        .await
        .expect(404);
}

#[tokio::test]
async fn of_racers_with_one_key_one_makes_the_batch() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let http = &service.client;
    let runs: Vec<Value> = (0..20).map(|n| spec("openai/any", &format!("racer {n}"))).collect();
    let body = json!({"runs": runs});
    let key = [("idempotency-key", "one")];
    let racing = (0..16).map(|_| http.post_with("/batches", &body, &key));
    let answers = futures_util::future::join_all(racing).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 15);
    let first = answers[0].json()["batch_id"].clone();
    assert!(answers.iter().all(|answer| answer.json()["batch_id"] == first));
    let id = first.as_str().unwrap();
    let done = http.get(&format!("/batches/{id}?wait=80")).await.expect(200);
    assert_eq!(done["counts"], counts(0, 0, 20, 0, 0));
    assert_eq!(stub.calls("any").len(), 20, "each ran once");
    let other = json!({"runs": [spec("openai/any", "other")]});
    let refused = http.post_with("/batches", &other, &key).await.expect(422);
    assert_eq!(refused["code"], "idempotency_conflict");
    let run = http.post_with("/runs", &spec("openai/any", "other"), &key).await.expect(422);
    assert_eq!(run["code"], "idempotency_conflict", "a key is of one intent, whatever it makes");
    assert_eq!(stub.calls("any").len(), 20);
}

#[tokio::test]
async fn a_batch_with_one_mistake_makes_nothing_and_says_where_it_is() {
    let service = Service::demo().await;
    let http = &service.client;
    let agent = json!({"name": "A"});
    let good = json!({"agent": agent, "input": "x"});
    let named = |name: &str| json!({"agent": agent, "input": "x", "config": {"run_id": name}});
    http.create(&named("taken")).await;
    let mut with_taken = vec![good.clone(); 17];
    with_taken.push(named("taken"));
    for (body, pointer, words) in [
        (json!({"runs": with_taken}), "/runs/17/config/run_id", "is there already"),
        (json!({"runs": [good, named("a"), named("a")]}), "/runs/2/config/run_id", "run 1 of this"),
        (json!({"runs": [good, {"agent": agent}]}), "/runs/1/input", "is required"),
        (
            json!({"runs": [good, {"agent": agent, "input": "x", "inptu": 1}]}),
            "/runs/1/inptu",
            "unknown field",
        ),
        (
            json!({"runs": [{"input": "x"}], "defaults": {"agent": {"name": ""}}}),
            "/defaults/agent/name",
            "1 to 128",
        ),
        (
            json!({"runs": [good, good], "defaults": {"config": {"max_turns": 0}}}),
            "/defaults/config/max_turns",
            "between 1 and 1000",
        ),
        (
            json!({"runs": [good], "defaults": {"config": {"run_id": "x"}}}),
            "/defaults/config/run_id",
            "can't be shared",
        ),
        (json!({"runs": [good], "defaults": []}), "/defaults", "must be an object"),
        (json!({"runs": [good], "metadata": {"a": 1}}), "/metadata/a", "must be a string"),
        (json!({"runs": [good], "name": "x"}), "/name", "known are runs, defaults, metadata"),
        (json!({"runs": []}), "/runs", "1 to 1000"),
        (json!({"runs": vec![json!({}); 1001]}), "/runs", "got 1001"),
        (json!({"runs": {}}), "/runs", "must be a list"),
        (json!({"runs": [17]}), "/runs/0", "must be an object"),
        (json!([]), "", "must be an object"),
        (
            json!({"runs": vec![json!({"input": "x"}); 1000],
                "defaults": {"agent": {"name": "A", "instructions": "y".repeat(40_000)}}}),
            "/runs",
            "33554432 bytes",
        ),
    ] {
        let refused = http.post("/batches", &body).await.expect(422);
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
        assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
        assert_eq!(refused["errors"].as_array().unwrap().len(), 1, "{refused}");
    }
    let listed = http.get("/runs").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "nothing was made");
    // The names are still free.
    http.create(&named("a")).await;
}

#[tokio::test]
async fn a_field_that_nobody_knows_is_refused_also_with_null_and_a_wrong_default_is_told_once() {
    let service = Service::demo().await;
    let agent = json!({"name": "A"});
    let good = json!({"agent": agent, "input": "x"});
    for (body, pointer, words) in [
        (json!({"runs": [good], "defaults": {"config": 5}}), "/defaults/config", "an object"),
        (json!({"runs": [good], "meta": null}), "/meta", "unknown field"),
        (json!({"runs": [good], "defaults": {"agnet": null}}), "/defaults/agnet", "unknown field"),
        (
            json!({"runs": [{"agent": agent, "input": "x", "max_turn": null}]}),
            "/runs/0/max_turn",
            "unknown field",
        ),
        // A default that is wrong is told once, and no run behind it is looked at.
        (
            json!({"runs": [{"agent": agent}, {"agent": agent, "input": "x", "inptu": 1}],
                "defaults": {"input": 17}}),
            "/defaults/input",
            "must be",
        ),
    ] {
        let refused = service.client.post("/batches", &body).await.expect(422);
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
        assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
        assert_eq!(refused["errors"].as_array().unwrap().len(), 1, "{refused}");
    }
}

/// Each mistake costs a look at the run, with the defaults put in.
#[tokio::test]
async fn mistakes_are_looked_for_in_no_more_than_a_batch_may_have() {
    let service = Service::demo().await;
    for (bytes, expected) in [(1, 100), (1024 * 1024, 32)] {
        let body = json!({
            "runs": vec![json!({"input": "x", "inptu": 1}); 1000],
            "defaults": {"agent": {"name": "A", "instructions": "y".repeat(bytes)}},
        });
        let refused = service.client.post("/batches", &body).await.expect(422);
        assert_eq!(refused["errors"].as_array().unwrap().len(), expected, "{bytes}");
    }
}

#[tokio::test]
async fn what_a_batch_leaves_open_with_null_is_left_open() {
    let service = Service::demo().await;
    let body = json!({
        "runs": [{"agent": null, "input": "x", "config": null}, {"input": "y", "history": null}],
        "defaults": {"agent": {"name": "A"}, "config": {"max_turns": 7}, "variables": null},
        "metadata": null,
    });
    let batch = service.client.post("/batches", &body).await.expect(201);
    for name in names(&batch) {
        let run = service.client.get(&format!("/runs/{name}")).await.expect(200);
        assert_eq!((&run["agent"]["name"], &run["config"]["max_turns"]), (&json!("A"), &json!(7)));
    }
}

#[tokio::test]
async fn a_thousand_runs_are_created_together_and_cancelled_together() {
    const RUNS: usize = 1000;
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start_with(&stub, Setup::default().env("RUNLEDGER_SLOTS", "3")).await;
    let http = &service.client;
    let runs: Vec<Value> = (0..RUNS).map(|n| spec("openai/hang", &format!("{n}"))).collect();
    let began = std::time::Instant::now();
    let batch = http.post("/batches", &json!({"runs": runs})).await.expect(201);
    println!("{RUNS} runs were created in {:?}", began.elapsed());
    let runs = names(&batch);
    assert_eq!(runs.len(), RUNS);
    stub.called("hang", 3).await;
    let path = format!("/batches/{}", batch["batch_id"].as_str().unwrap());
    let active = http.get(&path).await.expect(200);
    assert_eq!(active["counts"], counts(997, 3, 0, 0, 0));
    let began = std::time::Instant::now();
    let cancelled = http.delete(&path).await.expect(202);
    println!("and cancelled in {:?}", began.elapsed());
    assert_eq!(cancelled["batch_id"], batch["batch_id"]);
    let done = http.get(&format!("{path}?wait=80")).await.expect(200);
    assert_eq!(done["counts"], counts(0, 0, 0, 0, 1000));
    assert_eq!(stub.calls("hang").len(), 3, "nothing started after the cancel");
    let log = http.log(&runs[999]).await;
    assert_eq!(kinds(&log), ["run.queued", "cancel.requested", "run.cancelled"]);
    assert_eq!(http.delete(&path).await.expect(200)["counts"], done["counts"]);
}

#[tokio::test]
async fn a_batch_goes_with_its_last_run() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let http = &service.client;
    let body = json!({"runs": [spec("openai/any", "a"), spec("openai/any", "b")]});
    let key = [("idempotency-key", "k")];
    let batch = http.post_with("/batches", &body, &key).await.expect(201);
    let path = format!("/batches/{}", batch["batch_id"].as_str().unwrap());
    http.get(&format!("{path}?wait=80")).await.expect(200);
    for (run, left) in names(&batch).iter().zip([1, 0]) {
        let purged = http.post(&format!("/runs/{run}/purge"), &Value::Null).await;
        assert_eq!(purged.status, 204);
        if left > 0 {
            let batch = http.get(&path).await.expect(200);
            assert_eq!(batch["counts"], counts(0, 0, left, 0, 0));
        }
    }
    http.get(&path).await.expect(404);
    let again = http.post_with("/batches", &body, &key).await.expect(201);
    assert_ne!(again["batch_id"], batch["batch_id"], "the key was free");
}
