//! Crashes, by killing the real process: what was committed stays, and is never done again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sqlx::{ConnectOptions, Connection};

use crate::client::{kinds, of, spec};
use crate::service::{Service, Setup};
use crate::stub::{Call, Do, Stub, calculate, say};
use crate::waiting::until;

/// What a crash must never do to a run: `seen` is what a client had read before, `counts` how often
/// the model was asked for each turn.
pub fn violations(log: &[Value], seen: &[Value], counts: &BTreeMap<usize, usize>) -> Vec<String> {
    let mut found = Vec::new();
    if log.get(..seen.len()) != Some(seen) {
        found.push("an event that a client had seen is gone or changed".to_owned());
    }
    for (event, place) in log.iter().zip(1..) {
        if event["seq"] != place {
            found.push(format!("a gap at {place}"));
        }
    }
    let ends = kinds(log)
        .iter()
        .filter(|kind| ["run.completed", "run.failed", "run.cancelled"].contains(kind))
        .count();
    if ends != 1 {
        found.push(format!("{ends} terminal events"));
    }
    for (turn, asked) in counts {
        let of_turn = |kind: &str| of(log, kind).iter().filter(|one| one["turn"] == *turn).count();
        let (started, completed) = (of_turn("turn.started"), of_turn("turn.completed"));
        if *asked > started {
            found.push(format!(
                "turn {turn} was asked for {asked} times and started {started} times"
            ));
        }
        if completed > 1 {
            found.push(format!("turn {turn} was completed {completed} times"));
        }
        let done_at =
            log.iter().position(|one| one["type"] == "turn.completed" && one["turn"] == *turn);
        let last_start =
            log.iter().rposition(|one| one["type"] == "turn.started" && one["turn"] == *turn);
        if done_at < last_start && done_at.is_some() {
            found.push(format!("turn {turn} was started again after it was completed"));
        }
    }
    for call in of(log, "tool_call") {
        let results = of(log, "tool_result");
        let answers = results.iter().filter(|one| one["call_id"] == call["call_id"]).count();
        if answers > 1 {
            found.push(format!("call {} has {answers} results", call["call_id"]));
        }
    }
    found
}

/// Turns of the runs that are killed.
const TURNS: usize = 8;

/// Turns with tools, each some milliseconds long, then an answer.
fn many_turns(call: &Call) -> Vec<Do> {
    let words = Do::Words(6, Duration::from_millis(4));
    match call.turn {
        1..TURNS => [vec![words], calculate(2)].concat(),
        _ => vec![words, Do::Finish("stop")],
    }
}

#[tokio::test]
async fn killed_at_any_moment_every_run_goes_on_from_its_last_event() {
    const RUNS: usize = 64;
    const KILLS: usize = 12;
    let stub = Stub::start().await;
    stub.on("many", many_turns);
    let mut service =
        Service::start_with(&stub, Setup::default().env("RUNLEDGER_SLOTS", "16")).await;
    let creates = (0..RUNS).map(|n| {
        let http = service.client.clone();
        async move { http.run("openai/many", &format!("kill {n}")).await }
    });
    let ids = futures_util::future::join_all(creates).await;
    let mut seen: Vec<Vec<Value>> = vec![Vec::new(); RUNS];
    let mut kills = 0;
    // The moments differ by themselves: whatever the machine is doing when the count is reached.
    while kills < KILLS {
        let enough = stub.calls("many").len() + 17 + kills % 5;
        let http = &service.client;
        let is_over = until("more calls or the end", || async {
            let metrics = http.get("/metrics").await.text;
            let none = ["runledger_runs_owned 0", "runledger_runs_queued 0"];
            match none.iter().all(|line| metrics.contains(line)) {
                true => Some(true),
                false => (stub.calls("many").len() >= enough).then_some(false),
            }
        })
        .await;
        if is_over {
            break;
        }
        // What clients have seen of some of them.
        for (id, seen) in ids.iter().zip(&mut seen).skip(kills % 4).step_by(4) {
            *seen = service.client.log(id).await;
        }
        service = service.kill().await.start().await;
        kills += 1;
    }
    let (mut takeovers, mut found) = (0, Vec::new());
    for (n, id) in ids.iter().enumerate() {
        let run = service.client.ended(id).await;
        let log = service.client.log(id).await;
        let counts = stub.counts(&format!("kill {n}"));
        found.extend(violations(&log, &seen[n], &counts));
        assert_eq!(run["status"], "COMPLETED", "{run}");
        assert_eq!(run["turn_count"], TURNS);
        assert_eq!(of(&log, "tool_result").len(), 2 * (TURNS - 1));
        takeovers += of(&log, "run.started").len() - 1;
    }
    println!(
        "row=kill faults_fired={kills} takeovers={takeovers} ops_ok={RUNS} value={}",
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(
        kills >= 6 && takeovers >= kills,
        "too little was hit: {kills} kills, {takeovers} takeovers"
    );
}

/// The control: where the store loses a committed turn, the checker finds it.
#[tokio::test]
async fn a_store_that_forgets_a_committed_turn_is_found_out() {
    let stub = Stub::start().await;
    stub.on("forget", |call| match (call.turn, call.attempt) {
        (1, _) => [vec![Do::Say("One. ".into())], calculate(1)].concat(),
        (2, 1) => vec![Do::Say("Two".into()), Do::Hang],
        _ => say("Done."),
    });
    for forgets in [false, true] {
        let input = format!("forgets {forgets}");
        let service = Service::start(&stub).await;
        let run = service.client.run("openai/forget", &input).await;
        stub.called("forget", if forgets { 5 } else { 2 }).await;
        let seen = service.client.log(&run).await;
        let stopped = service.kill().await;
        if forgets {
            let started = of(&seen, "turn.started")[0]["seq"].as_i64().unwrap();
            forget_behind(&stopped.folder(), started).await;
        }
        let service = stopped.start().await;
        service.client.ended(&run).await;
        let log = service.client.log(&run).await;
        let found = violations(&log, &seen, &stub.counts(&input));
        println!("row=kill control={forgets} value={}", found.len());
        assert_eq!(found.is_empty(), !forgets, "{found:?}");
    }
}

/// Takes every event behind this one out of the only run's log.
async fn forget_behind(folder: &Path, seq: i64) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("runledger.db"));
    let mut connection = options.connect().await.unwrap();
    sqlx::query("delete from events where seq > $1")
        .bind(seq)
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::query("update runs set last_seq = $1").bind(seq).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// reliability.md, rows 18 and 35: acknowledged is kept, whatever dies right after.
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_at_once() {
    const ROUNDS: usize = 8;
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let mut service = Service::start(&stub).await;
    let (mut cancelled, mut created) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let cancel = service.client.run("openai/hang", &format!("cancel {round}")).await;
        service.client.event(&cancel, "turn.started").await;
        let body = spec("openai/plain", &format!("keep {round}"));
        let path = format!("/runs/{cancel}");
        let (_, run) =
            tokio::join!(service.client.delete(&path), service.client.post("/runs", &body));
        service = service.kill().await.start().await;
        cancelled.push(cancel);
        created.push(run.expect(201)["run_id"].as_str().unwrap().to_owned());
        // Each is hit by one kill: more would count as crashes of one run.
        for id in [&cancelled[round], &created[round]] {
            service.client.ended(id).await;
        }
    }
    for id in &cancelled {
        assert_eq!(service.client.ended(id).await["status"], "CANCELLED");
    }
    for id in &created {
        assert_eq!(service.client.ended(id).await["status"], "COMPLETED");
    }
    println!("row=18,35 faults_fired={ROUNDS} ops_ok={} value=0", cancelled.len() + created.len());
}
