//! What the journal's two lanes carry on this machine, as a ratio: `cargo test --release --test
//! store_conformance lanes -- --ignored --nocapture`. The measure is single-row inserts of 32 sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runledger::run::RunId;
use runledger::store::{Append, Create, NodeId};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;

use crate::bench::{Bench, Place, intent, texts};

const TIME: Duration = Duration::from_secs(4);

/// Transactions per second, each of which inserts one row.
async fn bare(url: &str) -> f64 {
    let mut session = PgConnection::connect(url).await.expect("it connects");
    let table = "create table bare (id bigint generated always as identity primary key, data text)";
    sqlx::raw_sql(table).execute(&mut session).await.expect("it is made");
    let end = Instant::now() + TIME;
    let mut sessions = JoinSet::new();
    for _ in 0..32 {
        let mut session = PgConnection::connect(url).await.expect("it connects");
        sessions.spawn(async move {
            let mut done = 0.0;
            while Instant::now() < end {
                sqlx::query("insert into bare (data) values ($1)")
                    .bind("x".repeat(170))
                    .execute(&mut session)
                    .await
                    .expect("it is inserted");
                done += 1.0;
            }
            done
        });
    }
    sessions.join_all().await.iter().sum::<f64>() / TIME.as_secs_f64()
}

async fn creates(bench: &Bench, node: NodeId, at_once: usize) -> f64 {
    let (began, mut runs) = (Instant::now(), 0_u32);
    while began.elapsed() < TIME {
        let batch: Vec<Create> =
            (0..at_once).map(|_| Create { owner: Some(node), ..intent("lane") }).collect();
        runs += u32::try_from(batch.len()).expect("it is small");
        bench.store.create(batch).await.expect("they are created");
    }
    f64::from(runs) / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures, and takes the whole machine"]
async fn what_the_lanes_carry() {
    let bench = Bench::postgres().await;
    let Place::Url(url) = &bench.place else { panic!("it is PostgreSQL") };
    let bare = bare(url).await;
    println!("bare inserts: {bare:.0}/s");
    let mut node = bench.node().await;
    for at_once in [1, 64, 256] {
        let rate = creates(&bench, node.id, at_once).await;
        println!("creates, {at_once} at once: {rate:.0} runs/s, {:.2}", rate / bare);
    }
    for at_once in [1, 64, 256, 1000] {
        let owner = Some(node.id);
        let fresh: Vec<Create> = (0..at_once).map(|_| Create { owner, ..intent("lane") }).collect();
        let runs: Vec<RunId> = fresh.iter().map(|create| create.id).collect();
        bench.store.create(fresh).await.expect("they are created");
        let mut head = 1;
        let (began, mut batches) = (Instant::now(), 0_u32);
        while began.elapsed() < TIME {
            head += 1;
            let batch: Vec<Append> = runs.iter().map(|run| texts(*run, head..=head)).collect();
            node.number = node.number.next();
            let sent = bench.store.append(node.id, node.number, Arc::new(batch)).await;
            sent.expect("it is committed");
            batches += 1;
        }
        let (took, batches) = (began.elapsed().as_secs_f64(), f64::from(batches));
        let events = batches * runs.len() as f64 / took;
        println!(
            "appends, {} runs at once: {events:.0} events/s, {:.2}; {:.1} ms each",
            runs.len(),
            events / bare,
            1000.0 * took / batches
        );
    }
}
