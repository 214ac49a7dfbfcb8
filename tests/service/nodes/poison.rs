//! A run whose driving kills the process, among many that do nothing wrong, on both stores; and one
//! long run over many deploys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{is_terminal, kinds, of, spec};
use crate::postgres::Database;
use crate::recovery::violations;
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::{Do, Gate, Stub, calculate, say};
use crate::waiting::until;

/// How often a run may kill its process in one turn; the next time was the last.
const CRASHES: usize = 6;

#[derive(Clone, Copy, PartialEq)]
enum On {
    Sqlite,
    Postgres,
}

/// One node on SQLite, or two on PostgreSQL.
async fn fleet(on: On, setup: Setup, stub: &Stub) -> Vec<Service> {
    let mut setup = setup.env("OPENAI_BASE_URL", &stub.base_url);
    if on == On::Postgres {
        let url = Database::new().await.url;
        setup = setup.env("DATABASE_URL", url).env("RUNLEDGER_LEASE", super::LEASE);
    }
    let mut nodes = Vec::new();
    for _ in 0..if on == On::Postgres { 2 } else { 1 } {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        nodes.push(Service::in_folder(folder, setup.clone()).await);
    }
    nodes
}

/// Which of the nodes may drive a run: one, or all where one has lost its lease and has another name.
async fn drivers(nodes: &[Service], run: &str) -> Vec<usize> {
    let log = nodes[0].client.log(run).await;
    let name = of(&log, "run.started").last().unwrap()["node"].as_str().unwrap().to_owned();
    let is_it = |at: &usize| nodes.len() == 1 || nodes[*at].node_name() == name;
    match (0..nodes.len()).find(is_it) {
        Some(at) => vec![at],
        None => (0..nodes.len()).collect(),
    }
}

/// Half of the others come before the poison, half behind it. Gives the others, and it.
async fn create(nodes: &[Service], runs: usize) -> (Vec<String>, String) {
    let (mut others, mut poison) = (Vec::new(), String::new());
    for n in 0..runs {
        let client = &nodes[n % nodes.len()].client;
        if n == runs / 2 {
            poison = client.run("openai/poison", "poison").await;
        } else {
            others.push(client.run("openai/other", &format!("other {n}")).await);
        }
    }
    (others, poison)
}

fn others(stub: &Stub) {
    stub.on("other", |call| {
        let words = Do::Words(4, Duration::from_millis(10));
        match call.turn {
            1 => [vec![words], calculate(1)].concat(),
            _ => vec![words, Do::Finish("stop")],
        }
    });
}

/// What is wrong with the end of it all: the poison is given up, and nobody else.
async fn wrongs(nodes: &[Service], stub: &Stub, ids: &[String], poison: &str) -> Vec<String> {
    let mut found = Vec::new();
    let client = &nodes[0].client;
    let given_up = client.ended(poison).await;
    if (&given_up["status"], &given_up["stop_reason"]) != (&json!("FAILED"), &json!("crash_loop")) {
        found.push(format!("the poison: {given_up}"));
    }
    for (n, id) in ids.iter().enumerate() {
        let (run, log) = (client.ended(id).await, client.log(id).await);
        let number = n + usize::from(n >= ids.len().div_ceil(2));
        found.extend(violations(&log, &[], &stub.counts(&format!("other {number}"))));
        if run["status"] != "COMPLETED" {
            found.push(format!("an other: {run}"));
        }
        found.extend(wrong_times(&log));
    }
    let log = client.log(poison).await;
    let crashes: Vec<&Value> = of(&log, "run.started").iter().map(|one| &one["crashes"]).collect();
    let is_counted = crashes.is_sorted_by_key(|one| one.as_u64())
        && crashes.first().is_some_and(|one| **one == 0)
        && crashes.last().is_some_and(|one| **one == CRASHES);
    if !is_counted || kinds(&log).last() != Some(&"run.failed") {
        found.push(format!("the poison's crashes are {crashes:?}"));
    }
    // Once more for each lease that was lost on a slow machine.
    if stub.counts("poison")[&1] < CRASHES {
        found.push(format!("the poison was tried {:?} times", stub.counts("poison")));
    }
    found
}

async fn one_run_kills_its_process(on: On, name: &str) {
    let runs = scaled(24, 100);
    let stub = Stub::start().await;
    others(&stub);
    stub.on("poison", |_| vec![Do::Hang]);
    let mut nodes = fleet(on, Setup::default(), &stub).await;
    let (ids, poison) = create(&nodes, runs).await;
    let mut calls = 0;
    loop {
        let (http, looked) = (&nodes[0].client, &stub);
        let path = format!("/runs/{poison}");
        let is_over = until("the poison's call, or its end", || async {
            let count = looked.calls("poison").len();
            if count > calls {
                return Some(false);
            }
            is_terminal(&http.get(&path).await.json()).then_some(true)
        })
        .await;
        if is_over {
            break;
        }
        calls = stub.calls("poison").len();
        for at in drivers(&nodes, &poison).await {
            let killed = nodes.remove(at).kill().await;
            nodes.insert(at, killed.start().await);
        }
    }
    let begun = Instant::now();
    let found = wrongs(&nodes, &stub, &ids, &poison).await;
    println!(
        "row=30 store={name} faults_fired={CRASHES} ops_ok={} value={} end_s={:.1}",
        ids.len(),
        found.len(),
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(found, Vec::<String>::new());
}

/// reliability.md, row 30.
#[tokio::test]
async fn one_run_among_many_that_kills_its_process_is_given_up_and_spends_nobody_elses() {
    one_run_kills_its_process(On::Sqlite, "sqlite").await;
}

#[tokio::test]
async fn one_run_among_many_that_kills_its_node_is_given_up_and_spends_nobody_elses() {
    one_run_kills_its_process(On::Postgres, "postgres").await;
}

/// The process ends by itself, where the poison's failure is known and no other run comes to.
#[tokio::test]
async fn a_run_on_which_the_process_aborts_is_given_up_and_spends_nobody_elses() {
    let runs = scaled(24, 100);
    let stub = Stub::start().await;
    others(&stub);
    let created = Gate::new();
    let opened = created.clone();
    stub.on("poison", move |_| {
        vec![Do::Wait(opened.clone()), Do::Words(1, Duration::from_millis(250)), Do::Cut]
    });
    let setup = Setup::default().env("FAILPOINTS", "turn.failed=return");
    let mut nodes = fleet(On::Sqlite, setup, &stub).await;
    let (ids, poison) = create(&nodes, runs).await;
    created.open();
    for _ in 0..CRASHES {
        let (status, stopped) = nodes.remove(0).ends().await;
        assert!(!status.success(), "{status}");
        nodes.push(stopped.start().await);
    }
    let found = wrongs(&nodes, &stub, &ids, &poison).await;
    let value = found.len();
    println!("row=30 store=sqlite faults_fired={CRASHES} ops_ok={} value={value}", ids.len());
    assert_eq!(found, Vec::<String>::new());
}

/// The control: were a node's death counted for every run that it drove, many would be given up.
#[tokio::test]
async fn where_every_death_counted_for_everybody_the_others_would_be_given_up() {
    let stub = Stub::start().await;
    others(&stub);
    stub.on("poison", |_| vec![Do::Hang]);
    stub.on("other", |_| vec![Do::Hang]);
    let service = Service::start(&stub).await;
    let (ids, poison) = create(std::slice::from_ref(&service), 4).await;
    stub.called("other", 3).await;
    let stopped = service.kill().await;
    count_for_everybody(&stopped.folder()).await;
    let nodes = [stopped.start().await];
    for id in &ids {
        nodes[0].client.ended(id).await;
    }
    nodes[0].client.ended(&poison).await;
    let found = wrongs(&nodes, &stub, &ids, &poison).await;
    println!("row=30 control=true faults_fired=1 value={}", found.len());
    assert!(found.iter().filter(|one| one.starts_with("an other")).count() == ids.len());
}

/// What five more deaths would do then.
async fn count_for_everybody(folder: &std::path::Path) {
    use sqlx::{ConnectOptions, Connection};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("runledger.db"));
    let mut connection = options.connect().await.unwrap();
    let all = sqlx::query("update runs set crashes = 5").execute(&mut connection).await.unwrap();
    assert_eq!(all.rows_affected(), 4);
    connection.close().await.unwrap();
}

/// What is wrong with the time that a run was given: where it waited in line, that is none of it.
fn wrong_times(log: &[Value]) -> Vec<String> {
    let starts = of(log, "run.started");
    let at = |event: &Value| event["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let (mut found, mut in_line) = (Vec::new(), 0.0);
    for start in &starts {
        let waited = start["waited"].as_f64().unwrap();
        let is_suspect = start["crashes"].as_u64().unwrap() >= 2;
        in_line += waited;
        let since = at(start).duration_since(at(starts[0])).as_secs_f64();
        let all = start["elapsed"].as_f64().unwrap() + in_line;
        if is_suspect != (waited > 0.0) || all > since + 0.1 {
            found.push(format!("{waited} s in line, {all} s in all, {since} s since the start"));
        }
    }
    found
}

/// The price of the suspicion: of the runs that were hit twice in one turn, a node drives one at a time,
/// each to its turn's end. All complete, also where the line is longer than their time; how long it is
/// is told.
#[tokio::test]
async fn runs_that_were_all_hit_twice_complete_one_after_the_other() {
    const TURN: Duration = Duration::from_millis(200);
    let runs = scaled(6, 40);
    let stub = Stub::start().await;
    stub.on("hit", |call| match call.attempt {
        1 | 2 => vec![Do::Hang],
        _ => vec![Do::Words(10, TURN / 10), Do::Finish("stop")],
    });
    let mut service = Service::start(&stub).await;
    let mut ids = Vec::new();
    for n in 0..runs {
        let mut body = spec("openai/hit", &format!("hit {n}"));
        // In the whole form the line alone takes longer.
        body["config"] = json!({"max_time": scaled(60, 10)});
        ids.push(service.client.create(&body).await);
    }
    for kill in 1..=2 {
        stub.called("hit", kill * runs).await;
        service = service.kill().await.start().await;
    }
    let begun = Instant::now();
    let mut found = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let (run, log) = (service.client.ended(id).await, service.client.log(id).await);
        found.extend(violations(&log, &[], &stub.counts(&format!("hit {n}"))));
        found.extend(wrong_times(&log));
        let crashes = of(&log, "run.started").last().unwrap()["crashes"].clone();
        if run["status"] != "COMPLETED" || crashes != 2 {
            found.push(format!("{crashes} crashes: {run}"));
        }
    }
    let line = begun.elapsed().as_secs_f64();
    println!(
        "row=30 store=sqlite faults_fired=2 suspects={runs} ops_ok={runs} value={} line_s={line:.1} \
         turn_s={:.1}",
        found.len(),
        TURN.as_secs_f64()
    );
    assert_eq!(found, Vec::<String>::new());
}

async fn deploys_count_no_crash(on: On, name: &str) {
    let deploys = scaled(6, 20);
    let stub = Stub::start().await;
    stub.on("long", move |call| match call.attempt <= deploys {
        true => vec![Do::Say("Half".into()), Do::Hang],
        false => say("Done."),
    });
    let mut nodes = fleet(on, Setup::default().env("RUNLEDGER_DRAIN", "0.3"), &stub).await;
    let run = nodes[0].client.run("openai/long", "deploys").await;
    for deploy in 1..=deploys {
        stub.called("long", deploy).await;
        for at in drivers(&nodes, &run).await {
            let (status, stopped) = nodes.remove(at).terminate().await;
            assert!(status.success(), "{status}");
            nodes.insert(at, stopped.start().await);
        }
    }
    let done = nodes[0].client.ended(&run).await;
    let log = nodes[0].client.log(&run).await;
    let mut found = violations(&log, &[], &stub.counts("deploys"));
    let starts = of(&log, "run.started");
    if done["status"] != "COMPLETED" || starts.len() <= deploys {
        found.push(format!("{done}"));
    }
    found.extend(
        starts.iter().filter(|one| one["crashes"] != 0).map(|one| format!("a crash: {one}")),
    );
    let aborted = of(&log, "turn.aborted");
    found.extend(
        aborted.iter().filter(|one| one["reason"] != "drain").map(|one| format!("no drain: {one}")),
    );
    println!(
        "row=30 store={name} faults_fired={deploys} deploys={deploys} ops_ok=1 value={}",
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn one_long_run_goes_through_many_deploys_of_its_process() {
    deploys_count_no_crash(On::Sqlite, "sqlite").await;
}

#[tokio::test]
async fn one_long_run_goes_through_many_deploys_of_its_nodes() {
    deploys_count_no_crash(On::Postgres, "postgres").await;
}
