//! PostgreSQL on a disk that is full, fails or is slow.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::load::{Load, script};
use super::place::SmallDisk;
use super::strace::{self, Injection};
use crate::postgres::Cluster;
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::Stub;

/// Commits are flushed, and little is kept of the log of writes.
const SETTINGS: &str = "-c fsync=on -c wal_init_zero=on -c min_wal_size=32MB -c max_wal_size=64MB";

async fn cluster_in(parent: &Path) -> Cluster {
    let parent = parent.to_owned();
    tokio::task::spawn_blocking(move || Cluster::start_in(&parent, SETTINGS)).await.unwrap()
}

async fn service_on(cluster: &Cluster, stub: &Stub) -> Service {
    script(stub);
    let setup = Setup::default().env("DATABASE_URL", cluster.url()).env("RUNLEDGER_LEASE", "5");
    Service::start_with(stub, setup).await
}

/// Makes the database begin new files of its log of writes, for which there is no room.
async fn use_up_the_wal(url: &str) {
    for _ in 0..16 {
        let switching = async {
            let mut session = PgConnection::connect(url).await?;
            sqlx::query("select txid_current(), pg_switch_wal()").execute(&mut session).await?;
            session.close().await
        };
        if switching.await.is_err() {
            return;
        }
    }
}

/// All is well again; a server that has ended by itself is started by its keeper. How long it took.
async fn is_well_again(cluster: Cluster, service: &Service, load: &Load) -> (Cluster, Duration) {
    let began = Instant::now();
    let started = tokio::task::spawn_blocking(move || {
        let mut cluster = cluster;
        cluster.go_on();
        cluster
    });
    let cluster = started.await.unwrap();
    service.ready().await;
    load.acked_beyond(load.acked()).await;
    (cluster, began.elapsed())
}

#[tokio::test]
async fn postgresql_on_a_full_disk_loses_nothing_and_all_goes_on_by_itself() {
    let Some(disk) = SmallDisk::new(192) else {
        println!("row=10 not_possible=mount-is-not-permitted");
        return;
    };
    let stub = Stub::start().await;
    let mut cluster = cluster_in(disk.path()).await;
    let service = service_on(&cluster, &stub).await;
    let load = Load::on(&service.client);
    let (mut fired, mut back) = (0, Duration::ZERO);
    for round in 0..scaled(1, 10) {
        load.acked_beyond(load.acked()).await;
        load.look().await;
        disk.fill();
        if round % 2 == 0 {
            use_up_the_wal(&cluster.url()).await;
        }
        load.refused_beyond(load.refused()).await;
        assert_eq!(service.client.get("/healthz").await.status, 200);
        disk.free();
        fired += 1;
        let took;
        (cluster, took) = is_well_again(cluster, &service, &load).await;
        back = back.max(took);
    }
    let (ops, refused, slowest, found) = load.end(&stub).await;
    println!(
        "row=10 store=postgresql fault=full faults_fired={fired} ops_ok={ops} value={} \
         refused={refused} back_ms={} slowest_answer_ms={}",
        found.len(),
        back.as_millis(),
        slowest.as_millis()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(ops >= 2 * fired && refused >= fired, "too little: {ops} {refused}");
    drop(service);
    drop(cluster);
}

#[tokio::test]
async fn postgresql_on_a_disk_that_fails_or_is_slow_loses_nothing() {
    if !strace::is_there() {
        println!("row=10 not_possible=strace-can-not-watch");
        return;
    }
    let stub = Stub::start().await;
    let mut cluster = cluster_in(&std::env::temp_dir()).await;
    let service = service_on(&cluster, &stub).await;
    let load = Load::on(&service.client);
    let (mut fired, mut hits, mut back) = (0, 0, Duration::ZERO);
    for (what, times) in
        [("fdatasync:error=EIO", scaled(1, 5)), ("fdatasync:delay_enter=200000", scaled(0, 3))]
    {
        for _ in 0..times {
            load.acked_beyond(load.acked()).await;
            load.look().await;
            let mut session = PgConnection::connect(&cluster.url()).await.unwrap();
            let sessions: Vec<i32> = sqlx::query_scalar(
                "select pid from pg_stat_activity where application_name like 'runledger %'",
            )
            .fetch_all(&mut session)
            .await
            .unwrap();
            session.close().await.unwrap();
            let pids: Vec<u32> = sessions.into_iter().map(i32::unsigned_abs).collect();
            let strace_at = tempfile::tempdir().unwrap();
            let injection = Injection::into(&pids, what, strace_at.path()).await;
            crate::waiting::until("a flush that is hit", || async {
                (injection.hits() > 0).then_some(())
            })
            .await;
            hits += injection.end();
            fired += 1;
            let took;
            (cluster, took) = is_well_again(cluster, &service, &load).await;
            back = back.max(took);
        }
    }
    let (ops, refused, slowest, found) = load.end(&stub).await;
    println!(
        "row=10 store=postgresql fault=io faults_fired={fired} ops_ok={ops} value={} \
         calls_hit={hits} refused={refused} back_ms={} slowest_answer_ms={}",
        found.len(),
        back.as_millis(),
        slowest.as_millis()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(ops >= 2 * fired, "too little: {ops}");
    drop(service);
    drop(cluster);
}
