//! Cancelling: whenever it comes, it is proved, and it comes once.

use serde_json::{Value, json};

use crate::bulk;
use crate::client::{kinds, of, spec};
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::{Do, Gate, Stub, calculate, say};
use crate::waiting::until;

#[tokio::test]
async fn a_queued_run_is_cancelled_without_a_slot_and_never_starts() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start_with(&stub, Setup::default().env("RUNLEDGER_SLOTS", "1")).await;
    let http = &service.client;
    let active = http.run("openai/hang", "a").await;
    stub.called("hang", 1).await;
    let queued = http.run("openai/hang", "b").await;
    let next = http.run("openai/hang", "c").await;
    let waiting = http.get(&format!("/runs/{queued}")).await.expect(200);
    assert_eq!((&waiting["status"], &waiting["queue_position"]), (&json!("QUEUED"), &json!(1)));
    let second = http.get(&format!("/runs/{next}")).await.expect(200);
    assert_eq!(second["queue_position"], 2);

    let answer = http.delete(&format!("/runs/{queued}?wait=80")).await;
    assert!([200, 202].contains(&answer.status), "{}", answer.text);
    let run = answer.json();
    assert_eq!((&run["status"], &run["stop_reason"]), (&json!("CANCELLED"), &json!("cancelled")));
    assert!(run["cancel_requested_at"].is_string());
    assert_eq!((&run["elapsed_time"], &run["error"]), (&json!(0.0), &json!(null)));
    let log = http.log(&queued).await;
    assert_eq!(kinds(&log), ["run.queued", "cancel.requested", "run.cancelled"]);
    assert_eq!(stub.calls("hang").len(), 1, "only the active run called its model");
    let second = http.get(&format!("/runs/{next}")).await.expect(200);
    assert_eq!(second["queue_position"], 1);
    http.delete(&format!("/runs/{active}")).await.expect(202);
    stub.called("hang", 2).await;
}

#[tokio::test]
async fn in_a_model_call_the_provider_sees_its_connection_close() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Say("So far ".into()), Do::Say("so good".into()), Do::Hang]);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let id = http.run("openai/hang", "a").await;
    let mut stream = http.stream(&format!("/runs/{id}/stream?types=text"), &[]).await;
    let mut text = String::new();
    while text != "So far so good" {
        text.push_str(stream.take(1).await[0].data()["content"].as_str().unwrap());
    }
    let stopping = http.post(&format!("/runs/{id}/cancel"), &json!(null)).await.expect(202);
    assert!(stopping["cancel_requested_at"].is_string());
    stub.hung_up("hang", 1).await;
    let run = http.ended(&id).await;
    assert_eq!(run["status"], "CANCELLED");
    assert_eq!(run["final_output"], "So far so good", "what there was is kept");
    assert_eq!(stream.rest().await.last().unwrap().kind(), "run.cancelled");
    let log = http.log(&id).await;
    assert_eq!(kinds(&log)[log.len() - 3..], ["cancel.requested", "turn.aborted", "run.cancelled"]);
    assert_eq!(of(&log, "turn.aborted")[0]["reason"], "cancelled");
    assert_eq!(of(&log, "cancel.requested")[0]["by"], "local");
    // The next run of the conversation takes the history as it is.
    let mut next = crate::client::spec("openai/next", "go on");
    next["history"] = run["history"].clone();
    assert_eq!(http.ended(&http.create(&next).await).await["status"], "COMPLETED");
}

#[tokio::test]
async fn after_the_end_it_changes_nothing_and_twice_is_once() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let done = http.run("openai/any", "a").await;
    let before = http.ended(&done).await;
    let after = http.delete(&format!("/runs/{done}")).await.expect(200);
    assert_eq!(before, after);

    let id = http.run("openai/hang", "b").await;
    stub.called("hang", 1).await;
    let path = format!("/runs/{id}");
    let (first, second) = tokio::join!(http.delete(&path), http.delete(&path));
    for answer in [first, second] {
        assert!([200, 202].contains(&answer.status), "{}", answer.text);
    }
    http.ended(&id).await;
    assert_eq!(http.delete(&path).await.expect(200)["status"], "CANCELLED");
    let log = http.log(&id).await;
    assert_eq!(of(&log, "cancel.requested").len(), 1);
    assert_eq!(of(&log, "run.cancelled").len(), 1);
    http.delete("/runs/nobody").await.expect(404);
}

#[tokio::test]
async fn a_wait_for_a_retry_holds_no_slot_and_is_cancelled_at_once() {
    let stub = Stub::start().await;
    stub.on("busy", |_| vec![Do::Refuse(429, &[("retry-after", "40")], "{}".into())]);
    stub.on("later", |call| match call.attempt {
        1 => vec![Do::Refuse(429, &[("retry-after-ms", "1500")], "{}".into())],
        _ => say("Later."),
    });
    let service = Service::start_with(&stub, Setup::default().env("RUNLEDGER_SLOTS", "1")).await;
    let http = &service.client;
    let busy = http.run("openai/busy", "a").await;
    let aborted = http.event(&busy, "turn.aborted").await;
    assert!(aborted["retry_in"].as_f64().unwrap() >= 40.0);
    // Others have the only slot meanwhile, and it goes back to one whose wait is over.
    let later = http.run("openai/later", "b").await;
    for input in ["c", "d"] {
        assert_eq!(http.ended(&http.run("openai/any", input).await).await["status"], "COMPLETED");
    }
    assert_eq!(http.ended(&later).await["final_output"], "Later.");
    http.delete(&format!("/runs/{busy}")).await.expect(202);
    let run = http.ended(&busy).await;
    assert_eq!(run["status"], "CANCELLED");
    assert!(run["elapsed_time"].as_f64().unwrap() < 40.0, "it did not wait for the retry");
    assert_eq!(stub.calls("busy").len(), 1);
}

/// What is wrong with a run that was cancelled or ended: another end, or a start behind the cancel.
fn violations(log: &[Value], status: u16, seen: u64) -> Vec<String> {
    let mut found = Vec::new();
    let ends = log.iter().filter(|event| {
        event["result"].is_object() && event["type"].as_str().unwrap().starts_with("run.")
    });
    let ends = ends.count();
    if ends != 1 || !log.last().is_some_and(|last| last["result"].is_object()) {
        found.push(format!("{ends} terminal events, the last is {:?}", kinds(log).last()));
    }
    if status == 202 {
        if kinds(log).last() != Some(&"run.cancelled") {
            found.push("a 202 was not kept".to_owned());
        }
        let starts = log.iter().filter(|event| {
            let kind = event["type"].as_str().unwrap();
            event["seq"].as_u64().unwrap() > seen
                && ["turn.started", "tool.started"].contains(&kind)
        });
        found.extend(starts.map(|start| format!("a start after the 202: {start}")));
    }
    if of(log, "tool_result").len() != of(log, "tool_call").len() {
        found.push("a call is not closed".to_owned());
    }
    found
}

/// reliability.md, row 15.
#[tokio::test]
async fn racing_the_end_there_is_one_end_and_no_start_after_the_202() {
    const ROUND: usize = 125;
    let rounds = scaled(1, 16);
    let stub = Stub::start().await;
    let gates: Vec<Gate> = (0..rounds).map(|_| Gate::new()).collect();
    let opened = gates.clone();
    stub.on("race", move |call| match call.turn {
        1 => {
            let round: usize = call.input.split(' ').nth(1).unwrap().parse().unwrap();
            [vec![Do::Wait(opened[round].clone())], calculate(2)].concat()
        }
        2 => calculate(1),
        _ => say("Done."),
    });
    let service = Service::start(&stub).await;
    let http = &service.client;
    let (mut fired, mut late, mut found, mut ended) = (0, 0, Vec::new(), Vec::new());
    for (round, gate) in gates.iter().enumerate() {
        let bodies: Vec<Value> =
            (0..ROUND).map(|n| spec("openai/race", &format!("race {round} {n}"))).collect();
        let ids = bulk::create(http, &bodies).await;
        stub.called("race", ROUND).await;
        gate.open();
        let stub = &stub;
        let cancels = ids.iter().enumerate().map(|(n, id)| async move {
            // Some before their last turn, some in it, some behind it.
            let (input, turn) = (format!("race {round} {n}"), 1 + n % 3);
            let asked = || async { stub.counts(&input).contains_key(&turn).then_some(()) };
            until("the model's call", asked).await;
            for _ in 0..(n + round) % 7 {
                http.get("/healthz").await;
            }
            let answer = http.delete(&format!("/runs/{id}")).await;
            (answer.status, answer.json()["last_seq"].as_u64().unwrap())
        });
        let answers = futures_util::future::join_all(cancels).await;
        for (id, (status, seen)) in ids.iter().zip(answers) {
            let run = bulk::ended(http, id).await;
            found.extend(violations(&bulk::log(http, id).await, status, seen));
            match status {
                202 => fired += 1,
                200 => late += 1,
                other => panic!("{other}"),
            }
            ended.push((id.clone(), run));
        }
        stub.forget();
    }
    for (id, run) in &ended {
        if bulk::get(http, &format!("/runs/{id}")).await != *run {
            found.push(format!("run {id} changed after its end"));
        }
    }
    println!(
        "row=15 faults_fired={fired} ops_ok={} late={late} value={}",
        ended.len(),
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
    let runs = rounds * ROUND;
    assert!(fired >= runs / 4 && ended.len() == runs, "too few came in time: {fired} of {runs}");
}

/// The control: a run with two ends, and one that went on behind its cancel.
#[tokio::test]
async fn a_second_end_and_a_start_behind_a_cancel_are_found() {
    let stub = Stub::start().await;
    stub.on("two", |call| if call.turn == 1 { calculate(1) } else { say("Done.") });
    let service = Service::start(&stub).await;
    let id = service.client.run("openai/two", "x").await;
    service.client.ended(&id).await;
    let mut log = service.client.log(&id).await;
    assert_eq!(violations(&log, 200, 0), Vec::<String>::new());
    let went_on = violations(&log, 202, 2);
    log.push(log.last().unwrap().clone());
    let twice = violations(&log, 200, 0);
    println!("row=15 control=true faults_fired=2 value={}", went_on.len() + twice.len());
    assert!(!twice.is_empty() && went_on.len() >= 3, "{twice:?} {went_on:?}");
}
