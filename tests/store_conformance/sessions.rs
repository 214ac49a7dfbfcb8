//! Several sessions at one PostgreSQL: what holds when they come between each other.

use std::time::Instant;

use runledger::run::Status;
use runledger::store::{Append, Appended};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::bench::{Bench, PATIENCE, event, to, update};

/// Waits until so many sessions wait for another's lock.
async fn waiting(watch: &mut PgConnection, sessions: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
              where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0",
        )
        .fetch_one(&mut *watch)
        .await
        .expect("it is counted");
        if waiting == sessions {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting} sessions wait, not {sessions}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_start_commits_after_a_cancel_that_came_before_it() {
    let bench = Bench::postgres().await;
    let mut node = bench.node().await;
    let (mut client, mut watch) = (bench.session().await, bench.session().await);
    // The control is a cancel that is taken back: it keeps no start back.
    for is_committed in [true, false] {
        let run = node.born().await;
        let mut cancel = client.begin().await.expect("it begins");
        sqlx::query("select leave_note('default', $1, 'cancel', 'cancel', '{}')")
            .bind(run.0)
            .execute(&mut *cancel)
            .await
            .expect("it is left");
        let number = node.number.next();
        node.number = number;
        let start = Append {
            events: vec![event(2, "run.started"), event(3, "turn.started")],
            starts_at: Some(1),
            update: Some(update(Status::Running)),
            ..to(run)
        };
        let append = node.send(number, vec![start]);
        let between = async {
            waiting(&mut watch, 1).await;
            if is_committed {
                cancel.commit().await.expect("it is accepted");
            } else {
                cancel.rollback().await.expect("it never was");
            }
        };
        let (appended, ()) = tokio::join!(append, between);
        let (expected, log) = if is_committed {
            (Appended::StartsRefused, vec![1, 2])
        } else {
            (Appended::All, vec![1, 2, 3])
        };
        assert_eq!(appended.ok(), Some(vec![expected]));
        assert_eq!(bench.seqs(run).await, log);
    }
}
