//! The embedded store on a disk that is full, fails or is slow.

use std::time::{Duration, Instant};

use super::load::{Load, script};
use super::place::SmallDisk;
use super::strace::{self, Injection};
use crate::scale::scaled;
use crate::service::{Service, Setup};
use crate::stub::Stub;
use crate::waiting::until;

/// While nothing can be written: it says so, clients are refused at once, and what is there is read.
async fn says_that_it_cannot_write(service: &Service, load: &Load) {
    load.refused_beyond(load.refused()).await;
    let unready = || async {
        let answer = service.client.get("/readyz").await;
        (answer.status == 503).then_some(answer.text)
    };
    let text = until("the node says that it is not ready", unready).await;
    assert!(text.contains("nothing can be written"), "{text}");
    assert_eq!(service.client.get("/healthz").await.status, 200);
    load.look().await;
}

/// Everything is well again, without anybody's doing; how long that took.
async fn is_well_again(service: &Service, load: &Load) -> Duration {
    let began = Instant::now();
    service.ready().await;
    load.acked_beyond(load.acked()).await;
    began.elapsed()
}

#[tokio::test]
async fn a_full_disk_refuses_new_work_loses_nothing_and_is_left_behind_by_itself() {
    let Some(disk) = SmallDisk::new(scaled(32, 128)) else {
        println!("row=10 not_possible=mount-is-not-permitted");
        return;
    };
    let fills = scaled(1, 8);
    let stub = Stub::start().await;
    script(&stub);
    let setup = Setup::default().env("OPENAI_BASE_URL", &stub.base_url);
    let service = Service::in_folder(disk.folder.clone(), setup).await;
    let load = Load::on(&service.client);
    let mut back = Duration::ZERO;
    for _ in 0..fills {
        load.acked_beyond(load.acked()).await;
        load.look().await;
        disk.fill();
        says_that_it_cannot_write(&service, &load).await;
        disk.free();
        back = back.max(is_well_again(&service, &load).await);
    }
    let (ops, refused, slowest, found) = load.end(&stub).await;
    println!(
        "row=10 store=sqlite fault=full faults_fired={fills} ops_ok={ops} value={} \
         refused={refused} back_ms={} slowest_answer_ms={}",
        found.len(),
        back.as_millis(),
        slowest.as_millis()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(ops >= 2 * fills && refused >= fills, "too little: {ops} {refused}");
}

#[tokio::test]
async fn a_disk_that_fails_or_is_slow_loses_nothing_and_the_service_goes_on_by_itself() {
    if !strace::is_there() {
        println!("row=10 not_possible=strace-can-not-watch");
        return;
    }
    let stub = Stub::start().await;
    script(&stub);
    let service = Service::start_with(&stub, Setup::default()).await;
    let load = Load::on(&service.client);
    let (mut fired, mut hits, mut back) = (0, 0, Duration::ZERO);
    for (what, times) in [
        ("fsync,fdatasync:error=EIO", scaled(1, 6)),
        ("pwrite64:error=ENOSPC", scaled(1, 6)),
        ("pwrite64:error=EIO", scaled(0, 2)),
        ("fsync,fdatasync:delay_enter=200000", scaled(0, 2)),
    ] {
        for _ in 0..times {
            load.acked_beyond(load.acked()).await;
            load.look().await;
            let strace_at = tempfile::tempdir().unwrap();
            let injection = Injection::into(&[service.pid()], what, strace_at.path()).await;
            if what.contains("delay") {
                load.acked_beyond(load.acked() + 1).await;
            } else {
                says_that_it_cannot_write(&service, &load).await;
            }
            let hit = injection.end();
            assert!(hit > 0, "{what} hit nothing");
            (fired, hits) = (fired + 1, hits + hit);
            back = back.max(is_well_again(&service, &load).await);
        }
    }
    let (ops, refused, slowest, found) = load.end(&stub).await;
    println!(
        "row=10 store=sqlite fault=io faults_fired={fired} ops_ok={ops} value={} calls_hit={hits} \
         refused={refused} back_ms={} slowest_answer_ms={}",
        found.len(),
        back.as_millis(),
        slowest.as_millis()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(ops >= 2 * fired && refused >= 2, "too little: {ops} {refused}");
}

/// The control: a run that was acknowledged and is not there is found.
#[tokio::test]
async fn a_run_that_a_disk_has_lost_is_found_out() {
    use sqlx::{ConnectOptions, Connection};

    let stub = Stub::start().await;
    script(&stub);
    let service = Service::start_with(&stub, Setup::default()).await;
    let load = Load::on(&service.client);
    load.acked_beyond(0).await;
    let run = load.first_acked();
    service.client.ended(&run).await;
    let file = service.folder().join("runledger.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut connection = options.connect().await.unwrap();
    // The newest event of it, as if it had never been flushed.
    let lose = "delete from events where seq = (select max(seq) from events)";
    let lost = sqlx::query(lose).execute(&mut connection).await.unwrap().rows_affected();
    connection.close().await.unwrap();
    let (ops, _, _, found) = load.end(&stub).await;
    println!("row=10 control=true faults_fired={lost} ops_ok={ops} value={}", found.len());
    assert!(!found.is_empty(), "the check would not notice a loss");
}
