//! A run whose driving kills the process, among many that do nothing wrong, on both stores; and one
//! long run over many deploys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{kinds, of};
use crate::postgres::Database;
use crate::recovery::violations;
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::{Do, Gate, Stub, calculate, say};

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

/// Which of the nodes drives a run.
async fn driver(nodes: &[Service], run: &str) -> usize {
    if nodes.len() == 1 { 0 } else { super::owner(nodes, run).await }
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
    }
    let log = client.log(poison).await;
    let crashes: Vec<&Value> = of(&log, "run.started").iter().map(|one| &one["crashes"]).collect();
    if crashes != [0, 1, 2, 3, 4, 5, 6] || kinds(&log).last() != Some(&"run.failed") {
        found.push(format!("the poison's crashes are {crashes:?}"));
    }
    if stub.counts("poison")[&1] != CRASHES {
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
    for call in 1..=CRASHES {
        stub.called("poison", call).await;
        let at = driver(&nodes, &poison).await;
        let killed = nodes.remove(at).kill().await;
        nodes.insert(at, killed.start().await);
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
        let at = driver(&nodes, &run).await;
        let (status, stopped) = nodes.remove(at).terminate().await;
        assert!(status.success(), "{status}");
        nodes.push(stopped.start().await);
    }
    let done = nodes[0].client.ended(&run).await;
    let log = nodes[0].client.log(&run).await;
    let mut found = violations(&log, &[], &stub.counts("deploys"));
    let starts = of(&log, "run.started");
    if done["status"] != "COMPLETED" || starts.len() != deploys + 1 {
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
