//! What nodes tell each other: hints, told once, and a word where some may have been lost.

use std::time::Duration;

use runledger::run::Seq;
use runledger::store::{Heard, Listen, NodeId, Notice, PostgresOptions, Store};
use tokio::time::timeout;

use crate::bench::{Bench, PATIENCE, Place, intent, options};

const LISTENER: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

async fn hear(store: &Store) -> Heard {
    let heard = timeout(PATIENCE, store.hear(LISTENER)).await.expect("something is told");
    heard.expect("it can be heard")
}

async fn notices(store: &Store) -> Vec<Notice> {
    match hear(store).await {
        Heard::Notices(notices) => notices,
        Heard::Missed => panic!("nothing was lost"),
    }
}

async fn tell(store: &Store, node: NodeId, notices: Vec<Notice>) {
    store.notify(node, notices).await.expect("it is told");
}

/// A listener that has begun to listen, and somebody else.
async fn pair() -> (Bench, Store) {
    let bench = Bench::postgres().await;
    let other = bench.place.open().await;
    assert_eq!(hear(&bench.store).await, Heard::Missed, "before it listened it heard nothing");
    (bench, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_tells_the_others_hear_and_itself_does_not() {
    let (bench, other) = pair().await;
    let run = intent("").id;
    let told = vec![
        Notice::Queued,
        Notice::News(NodeId(7), run),
        Notice::Committed(run, Seq(12)),
        Notice::Listened(run),
    ];
    tell(&bench.store, LISTENER, vec![Notice::Queued]).await;
    tell(&other, OTHER, told.clone()).await;
    assert_eq!(notices(&bench.store).await, told);
    tell(&other, OTHER, vec![]).await;
    tell(&other, OTHER, vec![Notice::Queued]).await;
    assert_eq!(notices(&bench.store).await, [Notice::Queued]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_notices_are_told_in_pieces() {
    let (bench, other) = pair().await;
    let told: Vec<Notice> =
        (1..=2000).map(|seq| Notice::Committed(intent("").id, Seq(seq))).collect();
    tell(&other, OTHER, told.clone()).await;
    let mut heard = Vec::new();
    let mut pieces = 0;
    while heard.len() < told.len() {
        heard.extend(notices(&bench.store).await);
        pieces += 1;
    }
    assert_eq!(heard, told);
    assert!(pieces > 5, "PostgreSQL takes less than 8000 bytes at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_dropped_loses_nothing() {
    let (bench, other) = pair().await;
    let telling = tokio::spawn(async move {
        for seq in 1..=200 {
            tell(&other, OTHER, vec![Notice::Committed(intent("").id, Seq(seq))]).await;
        }
    });
    let (mut heard, mut dropped) = (Vec::new(), 0);
    while heard.len() < 200 {
        for turns in [0, 1, 2, 5, 40, 1000] {
            let few = async {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                told = bench.store.hear(LISTENER) => match told.expect("it can be heard") {
                    Heard::Notices(notices) => heard.extend(notices),
                    Heard::Missed => panic!("nothing was lost"),
                },
                () = few => dropped += 1,
            }
        }
    }
    telling.await.expect("all is told");
    let seqs: Vec<u64> = heard
        .iter()
        .map(|notice| match notice {
            Notice::Committed(_, seq) => seq.0,
            other @ (Notice::Queued | Notice::News(..) | Notice::Listened(_)) => {
                panic!("{other:?}")
            }
        })
        .collect();
    println!("row=dropped_wait faults_fired={dropped} ops_ok={} value=0", seqs.len());
    assert!(seqs.into_iter().eq(1..=200));
    assert!(dropped > 50, "too few to prove anything: {dropped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_was_cut_off_says_that_it_may_have_missed_something() {
    let (bench, other) = pair().await;
    let mut session = bench.session().await;
    for _ in 0..3 {
        let ended: i64 = sqlx::query_scalar(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
              where datname = current_database() and application_name = 'runledger listen'",
        )
        .fetch_one(&mut session)
        .await
        .expect("it is ended");
        assert_eq!(ended, 1);
        let cut = timeout(PATIENCE, bench.store.hear(LISTENER)).await.expect("it is noticed");
        assert!(cut.is_err(), "{cut:?}");
        tell(&other, OTHER, vec![Notice::Queued]).await;
        assert_eq!(hear(&bench.store).await, Heard::Missed);
        let run = intent("").id;
        tell(&other, OTHER, vec![Notice::Listened(run)]).await;
        assert_eq!(notices(&bench.store).await, [Notice::Listened(run)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_told_to_be_quiet_neither_hears_nor_tells() {
    let (bench, other) = pair().await;
    let Place::Url(url) = &bench.place else { panic!("it is PostgreSQL") };
    let quiet = PostgresOptions { listen: Listen::Off, ..options(url) };
    let quiet = Store::open_postgres(quiet).await.expect("it opens");
    tell(&quiet, NodeId(3), vec![Notice::Queued]).await;
    let run = intent("").id;
    let mut hears = std::pin::pin!(quiet.hear(NodeId(3)));
    tell(&other, OTHER, vec![Notice::Listened(run)]).await;
    assert_eq!(notices(&bench.store).await, [Notice::Listened(run)]);
    assert!(timeout(Duration::ZERO, &mut hears).await.is_err(), "for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listener_may_have_an_address_of_its_own() {
    let bench = Bench::postgres().await;
    let Place::Url(url) = &bench.place else { panic!("it is PostgreSQL") };
    let separate = PostgresOptions { listen: Listen::At(url.clone()), ..options(url) };
    let separate = Store::open_postgres(separate).await.expect("it opens");
    assert_eq!(hear(&separate).await, Heard::Missed);
    tell(&bench.store, OTHER, vec![Notice::Queued]).await;
    assert_eq!(notices(&separate).await, [Notice::Queued]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_understood_is_passed_over() {
    let (bench, _other) = pair().await;
    let mut session = bench.session().await;
    for payload in ["", "2", "garbage", "2 ", "2 x", "2 c1.2", "2 n5", "2 l", "2 z9 q1", "ä ö q q"]
    {
        sqlx::query("select pg_notify('runledger', $1)")
            .bind(payload)
            .execute(&mut session)
            .await
            .expect("it is told");
    }
    sqlx::raw_sql("select pg_notify('runledger', '2 of-the-future q')")
        .execute(&mut session)
        .await
        .expect("it is told");
    assert_eq!(notices(&bench.store).await, [Notice::Queued, Notice::Queued]);
    assert_eq!(notices(&bench.store).await, [Notice::Queued]);
}
