//! Streams: `prefix(k) ++ resume(k) == replay from 1`, byte for byte, whenever and wherever.

use std::time::Duration;

use serde_json::json;

use crate::chance::Chance;
use crate::client::{Block, Client, spec};
use crate::service::{Service, Setup};
use crate::stub::{Call, Do, Gate, Stub, calculate, say};

/// Every resume of an ended run gives exactly what the replay has behind it.
async fn law_holds(http: &Client, run: &str, replay: &[Block]) {
    let path = format!("/runs/{run}/stream");
    let last = replay.len() as u64;
    for k in 0..last {
        let at = usize::try_from(k).unwrap();
        let mut resumed = http.stream(&path, &[("last-event-id", &k.to_string())]).await;
        assert_eq!(resumed.rest().await, replay[at..], "behind {k}");
    }
    let at_end = http.stream(&path, &[("last-event-id", &last.to_string())]).await;
    assert_eq!(at_end.status, 204, "a finished stream is not opened again");
}

async fn replay(http: &Client, run: &str) -> Vec<Block> {
    let mut stream = http.stream(&format!("/runs/{run}/stream"), &[]).await;
    let blocks = stream.rest().await;
    assert_eq!(stream.asides, ["retry: 1000"], "it stands in the first event's block, once");
    for (block, place) in blocks.iter().zip(1..) {
        assert_eq!(block.id(), place, "dense");
        assert_eq!(block.data()["seq"], place);
        assert_eq!(block.data()["type"], block.kind());
    }
    blocks
}

const SAYINGS: [&str; 5] = ["ä", "👩‍👩‍👧", "line\nbreak\r\n", "\u{0}\"\\", "data: x\n\n"];

const OVERLOADED: &str = "data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\n\n";

/// A script of the stub by chance: text, reasoning, tools, failures, for up to five turns.
fn by_chance(seed: u64) -> impl Fn(&Call) -> Vec<Do> + Send + Sync {
    move |call| {
        let mut chance = Chance::new(seed * 1000 + (call.turn * 10 + call.attempt) as u64);
        let mut steps = Vec::new();
        for _ in 0..chance.below(5) {
            steps.push(match chance.below(4) {
                0 => Do::Think("hm ".repeat(chance.below(4) + 1)),
                1 => Do::Words(chance.below(6), Duration::ZERO),
                _ => Do::Say(SAYINGS[chance.below(SAYINGS.len())].to_owned()),
            });
        }
        if call.attempt == 1 && chance.below(4) == 0 {
            steps.push([Do::Cut, Do::Raw(OVERLOADED.to_owned())][chance.below(2)].clone());
        } else if call.turn < 5 && chance.below(3) > 0 {
            steps.extend(calculate(chance.below(3) + 1));
        } else {
            steps.push(Do::Finish(["stop", "stop", "length"][chance.below(3)]));
        }
        steps
    }
}

#[tokio::test]
async fn the_law_holds_over_logs_made_by_chance() {
    const LOGS: u64 = 24;
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut events = 0;
    for seed in 1..=LOGS {
        let model = format!("chance-{seed}");
        stub.on(&model, by_chance(seed));
        let mut live = http.post_stream(&spec(&format!("openai/{model}"), &model), &[]).await;
        let run =
            live.headers["location"].to_str().unwrap().trim_start_matches("/runs/").to_owned();
        assert_eq!(live.headers["content-location"], format!("/runs/{run}/stream"));
        let seen = live.rest().await;
        let replayed = replay(http, &run).await;
        assert_eq!(seen, replayed, "seed {seed}: live is the replay");
        law_holds(http, &run, &replayed).await;
        events += replayed.len();
    }
    println!("row=law seeds={LOGS} ops_ok={events} value=0");
    assert!(events > 300, "the logs are too short to prove anything: {events}");
}

#[tokio::test]
async fn the_law_holds_while_the_run_goes_on() {
    let stub = Stub::start().await;
    let gates: Vec<Gate> = (0..6).map(|_| Gate::new()).collect();
    let stops = gates.clone();
    stub.on("steps", move |call| {
        let mut steps = Vec::new();
        for gate in &stops[(call.turn - 1) * 3..call.turn * 3] {
            steps.push(Do::Wait(gate.clone()));
            steps.push(Do::Words(3, Duration::ZERO));
        }
        steps.extend(if call.turn == 1 { calculate(2) } else { vec![Do::Finish("stop")] });
        steps
    });
    let service = Service::start(&stub).await;
    let http = &service.client;
    let run = http.run("openai/steps", "go").await;
    let path = format!("/runs/{run}/stream");
    let mut first = http.stream(&path, &[]).await;
    let mut seen = first.take(3).await;
    let mut readers = Vec::new();
    for gate in &gates {
        // One more reader from every place so far, then on.
        for k in 0..=seen.len() {
            let id = k.to_string();
            readers.push((k, http.stream(&path, &[("last-event-id", &id)]).await));
        }
        gate.open();
        seen.extend(first.take(1).await);
    }
    seen.extend(first.rest().await);
    assert_eq!(seen.last().unwrap().kind(), "run.completed");
    let readers_count = readers.len();
    for (k, mut reader) in readers {
        assert_eq!(reader.rest().await, seen[k..], "joined behind {k}");
    }
    assert_eq!(replay(http, &run).await, seen);
    law_holds(http, &run, &seen).await;
    println!("row=law_live readers={readers_count} value=0");
}

#[tokio::test]
async fn the_law_holds_across_a_crash() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("crash", move |call| match (call.turn, call.attempt) {
        (1, _) => [vec![Do::Words(5, Duration::ZERO)], calculate(2)].concat(),
        (2, 1) => vec![Do::Words(7, Duration::ZERO), Do::Hang],
        _ => [vec![Do::Wait(opened.clone())], say("Done after all.")].concat(),
    });
    let service = Service::start(&stub).await;
    let run = service.client.run("openai/crash", "go").await;
    let mut stream = service.client.stream(&format!("/runs/{run}/stream"), &[]).await;
    let mut seen = Vec::new();
    loop {
        let block = stream.next().await.unwrap().unwrap();
        let data = block.data();
        seen.push(block);
        if data["content"].as_str().is_some_and(|text| text.contains("w7")) && data["turn"] == 2 {
            break;
        }
    }
    let service = service.kill().await.start().await;
    let http = &service.client;
    let path = format!("/runs/{run}/stream");
    // While the new process drives the run: from every place, what was seen comes again.
    let mut resumed = Vec::new();
    for k in 0..seen.len() {
        let mut reader = http.stream(&path, &[("last-event-id", &k.to_string())]).await;
        assert_eq!(reader.take(seen.len() - k).await, seen[k..]);
        resumed.push((seen.len(), reader));
    }
    gate.open();
    let replayed = replay(http, &run).await;
    assert_eq!(replayed[..seen.len()], seen, "a crash takes nothing back");
    for (k, mut reader) in resumed {
        assert_eq!(reader.rest().await, replayed[k..]);
    }
    law_holds(http, &run, &replayed).await;
    let kinds: Vec<&str> = replayed[seen.len()..].iter().map(Block::kind).collect();
    assert_eq!(kinds[..3], ["run.started", "turn.aborted", "turn.started"]);
    let started = replayed[seen.len()].data();
    assert_eq!((&started["reason"], &started["crashes"]), (&json!("crash"), &json!(1)));
    assert_eq!(
        stub.counts("go"),
        [(1, 1), (2, 2)].into(),
        "the committed turn was not called again"
    );
}

#[tokio::test]
async fn the_cursor_filters_and_names_can_be_chosen() {
    let stub = Stub::start().await;
    stub.on("tools", |call| if call.turn == 1 { calculate(2) } else { say("Two.") });
    let service = Service::start(&stub).await;
    let http = &service.client;
    let run = http.run("openai/tools", "go").await;
    http.ended(&run).await;
    let all = replay(http, &run).await;
    let path = format!("/runs/{run}/stream");
    let read = |query: &str, headers: Vec<(&'static str, &'static str)>| {
        let path = format!("{path}?{query}");
        async move { http.stream(&path, &headers).await.rest().await }
    };
    assert_eq!(read("after=4", vec![]).await, all[4..]);
    assert_eq!(read("after=4", vec![("last-event-id", "6")]).await, all[6..], "the header wins");
    let calls = read("types=tool_call,tool_result", vec![]).await;
    let kinds: Vec<&str> = calls.iter().map(Block::kind).collect();
    assert_eq!(kinds, ["tool_call", "tool_call", "tool_result", "tool_result", "run.completed"]);
    let without = read("types=-text,-run.completed", vec![]).await;
    assert_eq!(
        without.last().unwrap().kind(),
        "run.completed",
        "a terminal event passes every filter"
    );
    assert!(without.iter().all(|block| block.kind() != "text"));
    let unnamed = read("named=false", vec![]).await;
    assert!(unnamed.iter().all(|block| !block.lines.contains("event: ")));
    assert_eq!(unnamed.len(), all.len());

    let head = http.stream(&path, &[]).await.headers;
    assert_eq!(head["content-type"], "text/event-stream");
    assert_eq!(head["cache-control"], "no-cache, no-transform");
    assert_eq!(head["x-accel-buffering"], "no");
    assert!(!head.contains_key("content-encoding"));

    let beyond = (all.len() + 1).to_string();
    let refused = http.get(&format!("{path}?after={beyond}")).await.expect(422);
    assert_eq!(refused["errors"][0]["parameter"], "after");
    for wrong in ["after=x", "types=a", "named=1", "limit=3"] {
        let refused = http.get(&format!("{path}?{wrong}")).await.expect(422);
        assert_eq!(refused["code"], "invalid_request", "{wrong}");
    }
    for wrong in ["x", "-1", "1.5", "99999999999999999999"] {
        let answer = http.stream(&path, &[("last-event-id", wrong)]).await;
        assert_eq!(answer.status, 422, "{wrong}");
    }
    let wrong = format!("{path}?after=9223372036854775808");
    let answer = http.stream(&wrong, &[("last-event-id", "3")]).await;
    assert_eq!(answer.status, 422, "a mistake is told where the header wins, too");
    http.get("/runs/nobody/stream").await.expect(404);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_nothing_and_a_silent_stream_has_a_heartbeat() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("slow", move |_| [vec![Do::Wait(opened.clone())], say("Done.")].concat());
    let service = Service::start(&stub).await;
    let http = &service.client;
    let created = http.post_stream(&spec("openai/slow", "go"), &[]).await;
    let run = created.headers["location"].to_str().unwrap().trim_start_matches("/runs/").to_owned();
    stub.called("slow", 1).await;
    drop(created);
    let mut stream = http.stream(&format!("/runs/{run}/stream?types=run.completed"), &[]).await;
    assert_eq!(stream.aside().await, ":", "a heartbeat is a pure comment");
    gate.open();
    assert_eq!(stream.rest().await.len(), 1);
    assert_eq!(http.ended(&run).await["status"], "COMPLETED");
}

/// reliability.md, row 6, on one node.
#[tokio::test]
async fn a_stop_under_open_streams_ends_in_time_and_loses_nothing() {
    const RUNS: usize = 20;
    let stub = Stub::start().await;
    stub.on("long", |call| match (call.turn, call.attempt) {
        (1, _) => [vec![Do::Words(5, Duration::from_millis(5))], calculate(1)].concat(),
        // This one does not end by itself: the stop cuts it.
        (2, 1) => vec![Do::Words(5, Duration::from_millis(5)), Do::Hang],
        _ => say("Done."),
    });
    let setup = Setup::default().env("RUNLEDGER_DRAIN", "3");
    let service = Service::start_with(&stub, setup).await;
    let mut readers = Vec::new();
    for n in 0..RUNS {
        let body = spec("openai/long", &format!("long {n}"));
        let mut stream = service.client.post_stream(&body, &[]).await;
        let run =
            stream.headers["location"].to_str().unwrap().trim_start_matches("/runs/").to_owned();
        readers.push((run, tokio::spawn(async move { stream.all().await })));
    }
    stub.called("long", 2 * RUNS).await;
    let (status, stopped) = service.terminate().await;
    assert!(status.success(), "{status}");
    let service = stopped.start().await;
    let http = &service.client;
    let mut resumed = 0;
    for (run, reader) in readers {
        let (mut seen, is_clean) = reader.await.unwrap();
        assert!(!is_clean, "a clean end would say that the run has ended");
        let done = http.ended(&run).await;
        assert_eq!(
            (&done["status"], &done["final_output"]),
            (&json!("COMPLETED"), &json!("Done."))
        );
        let after = seen.last().unwrap().id().to_string();
        let path = format!("/runs/{run}/stream");
        let rest = http.stream(&path, &[("last-event-id", &after)]).await.rest().await;
        resumed += usize::from(!rest.is_empty());
        seen.extend(rest);
        assert_eq!(seen, replay(http, &run).await);
        let reasons: Vec<_> = seen
            .iter()
            .filter(|block| block.kind() == "run.started")
            .map(|block| (block.data()["reason"].clone(), block.data()["crashes"].clone()))
            .collect();
        assert_eq!(reasons, [(json!("new"), json!(0)), (json!("drain"), json!(0))]);
    }
    println!("row=6 faults_fired={RUNS} ops_ok={resumed} value=0");
    for n in 0..RUNS {
        assert_eq!(stub.counts(&format!("long {n}"))[&1], 1, "a committed turn was called again");
    }
}
