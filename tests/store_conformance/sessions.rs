//! Several sessions at one PostgreSQL: what holds when they come between each other.

use std::time::{Duration, Instant};

use runledger::run::{RunId, Status};
use runledger::store::{
    Append, Appended, Create, Created, Filter, Left, LetGo, NodeId, Shown, StoreError,
};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::bench::{Bench, PATIENCE, TENANT, ending, event, intent, key, texts, to, update};

/// Waits until so many sessions wait for another's lock.
pub(crate) async fn waiting(watch: &mut PgConnection, sessions: i64) {
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

/// Whether what a session has begun comes to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    Committed,
    TakenBack,
}

/// Does `first` in an open transaction of another session, then `second`, which must wait for it; the
/// transaction ends as it is told, and `second` goes on.
async fn between<T>(
    bench: &Bench,
    ends: Ends,
    first: impl AsyncFnOnce(&mut PgConnection),
    second: impl Future<Output = T>,
) -> T {
    let (mut session, mut watch) = (bench.session().await, bench.session().await);
    let mut open = session.begin().await.expect("it begins");
    first(&mut open).await;
    let end = async {
        waiting(&mut watch, 1).await;
        let ended = match ends {
            Ends::Committed => open.commit().await,
            Ends::TakenBack => open.rollback().await,
        };
        ended.expect("it ends");
    };
    let (done, ()) = tokio::join!(second, end);
    done
}

async fn leave_note(session: &mut PgConnection, run: RunId, kind: &str) {
    sqlx::query("select leave_note('default', $1, $2, $2, '{}')")
        .bind(run.0)
        .bind(kind)
        .execute(session)
        .await
        .expect("it is left");
}

async fn let_go(session: &mut PgConnection, node: NodeId, run: RunId) {
    let let_go = sqlx::query("select let_go($1, $2, false)").bind(node.0).bind(run.0);
    let_go.execute(session).await.expect("it is let go");
}

async fn claim_runs(session: &mut PgConnection, node: NodeId) {
    let claim = sqlx::query("select claim_runs($1, 9)").bind(node.0);
    claim.execute(session).await.expect("they are claimed");
}

/// The end of a run as its event 2, on the condition that its inbox is empty.
async fn end_run(session: &mut PgConnection, node: NodeId, run: RunId) {
    let letters: String = sqlx::query_scalar(
        "select commit_batch($1, 1, $2, $2, array[$2]::uuid[], array[2::bigint], array[1],
                array[null]::integer[], array[0::bigint], array[null]::bigint[], array[false],
                array[null]::bigint[], array['COMPLETED'], array[null]::text[], array[null]::text[],
                array[null]::bigint[], array[now_ms()], array[null]::integer[],
                array[null]::text[], array[null]::text[], array[null]::double precision[],
                array[null]::text[], array[1], array[2::bigint],
                array[13::smallint], array['{}'])",
    )
    .bind(node.0)
    .bind(run.0)
    .fetch_one(session)
    .await
    .expect("it ends");
    assert_eq!(letters, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_start_commits_after_a_cancel_that_came_before_it() {
    let bench = Bench::postgres().await;
    let mut node = bench.node().await;
    // The control is a cancel that is taken back: it keeps no start back.
    for (ends, expected, log) in [
        (Ends::Committed, Appended::StartsRefused, vec![1, 2]),
        (Ends::TakenBack, Appended::All, vec![1, 2, 3]),
    ] {
        let run = node.born().await;
        let start = Append {
            events: vec![event(2, "run.started"), event(3, "turn.started")],
            starts_at: Some(1),
            update: Some(update(Status::Running)),
            ..to(run)
        };
        let cancel = async |open: &mut PgConnection| leave_note(open, run, "cancel").await;
        let appended = between(&bench, ends, cancel, node.append(vec![start])).await;
        assert_eq!(appended, Ok(vec![expected]));
        assert_eq!(bench.seqs(run).await, log);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_does_not_end_over_a_note_that_came_before_it() {
    let bench = Bench::postgres().await;
    let mut node = bench.node().await;
    for (ends, expected) in
        [(Ends::Committed, Appended::InboxNews), (Ends::TakenBack, Appended::All)]
    {
        let run = node.born().await;
        let end = Append { only_if_inbox_n: Some(0), ..ending(run, 2) };
        let note = async |open: &mut PgConnection| leave_note(open, run, "note").await;
        let appended = between(&bench, ends, note, node.append(vec![end])).await;
        assert_eq!(appended, Ok(vec![expected]));
        let has_ended = bench.row(run).await.status == Status::Completed;
        assert_eq!(has_ended, expected == Appended::All);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_that_comes_while_a_run_ends_is_told_so() {
    let bench = Bench::postgres().await;
    for (ends, is_ended) in [(Ends::Committed, true), (Ends::TakenBack, false)] {
        let node = bench.node().await;
        let run = node.born().await;
        let end = async |open: &mut PgConnection| end_run(open, node.id, run).await;
        let left = between(&bench, ends, end, bench.leave(run, "note", "a")).await;
        let expected = if is_ended { Left::Ended } else { Left::Accepted(Some(node.id)) };
        assert_eq!(left, expected);
        let news = bench.store.inbox(run).await.expect("it is read").len();
        assert_eq!(news, usize::from(!is_ended), "an ended run has no inbox");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_that_comes_while_a_run_is_let_go_wakes_it() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    for ends in [Ends::Committed, Ends::TakenBack] {
        let run = node.born().await;
        let first = async |open: &mut PgConnection| let_go(open, node.id, run).await;
        let left = between(&bench, ends, first, bench.leave(run, "answer", "a")).await;
        let claimed = node.claim(0).await;
        if ends == Ends::Committed {
            assert_eq!(left, Left::Accepted(None));
            assert_eq!(claimed.first().map(|one| (one.run, one.for_inbox)), Some((run, true)));
        } else {
            assert_eq!((left, claimed.len()), (Left::Accepted(Some(node.id)), 0));
        }
        let beat = bench.store.heartbeat(node.id, 1, 0).await.expect("it lives");
        assert!(beat.news.contains(&run), "its owner is told, whoever that is");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_let_go_while_a_note_comes_is_queued_for_it() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    for (ends, for_inbox) in [(Ends::Committed, true), (Ends::TakenBack, false)] {
        let run = node.born().await;
        let note = async |open: &mut PgConnection| leave_note(open, run, "answer").await;
        let letting = bench.store.requeue(node.id, run, LetGo::ForSlot);
        between(&bench, ends, note, letting).await.expect("it is let go");
        let claimed = node.claim(9).await;
        assert_eq!(claimed.len(), 1);
        assert_eq!((claimed[0].run, claimed[0].for_inbox), (run, for_inbox));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_that_comes_while_a_run_is_claimed_wakes_its_owner() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    for ends in [Ends::Committed, Ends::TakenBack] {
        let run = bench.queued().await;
        let first = async |open: &mut PgConnection| claim_runs(open, node.id).await;
        let left = between(&bench, ends, first, bench.leave(run, "cancel", "cancel")).await;
        let beat = bench.store.heartbeat(node.id, 1, 0).await.expect("it lives");
        if ends == Ends::Committed {
            assert_eq!(left, Left::Accepted(Some(node.id)));
            assert!(beat.news.contains(&run));
        } else {
            assert_eq!((left, beat.news.contains(&run)), (Left::Accepted(None), false));
            assert!(node.claim(0).await[0].for_inbox);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_waits_for_nobody() {
    let bench = Bench::postgres().await;
    let (node, other) = (bench.node().await, bench.node().await);
    let (held, free) = (bench.queued().await, bench.queued().await);
    let noted = bench.queued().await;
    let (mut a, mut b) = (bench.session().await, bench.session().await);
    let mut claiming = a.begin().await.expect("it begins");
    sqlx::query("select claim_runs($1, 1)")
        .bind(other.id.0)
        .execute(&mut *claiming)
        .await
        .expect("it claims");
    let mut leaving = b.begin().await.expect("it begins");
    leave_note(&mut leaving, noted, "note").await;
    assert_eq!(node.claim_runs(9).await, [free], "what others hold is passed by");
    claiming.rollback().await.expect("it is taken back");
    leaving.rollback().await.expect("it is taken back");
    assert_eq!(node.claim_runs(9).await, [held, noted]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_sent_again_while_its_first_sending_is_under_way_is_committed_once() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    // The same node after a deadline: on a new connection.
    let again = bench.place.open().await;
    let (run, other) = (node.born().await, node.born().await);
    let batch = vec![texts(run, 2..=4), texts(other, 2..=2)];
    let number = node.number.next();
    let (mut session, mut watch) = (bench.session().await, bench.session().await);
    let mut open = session.begin().await.expect("it begins");
    leave_note(&mut open, run, "note").await;
    let first = node.send(number, batch.clone());
    let second = async {
        waiting(&mut watch, 1).await;
        again.append(node.id, number, std::sync::Arc::new(batch.clone())).await
    };
    let release = async {
        let mut watch = bench.session().await;
        waiting(&mut watch, 2).await;
        open.commit().await.expect("it ends");
    };
    let (first, second, ()) = tokio::join!(first, second, release);
    assert_eq!(first.expect("it is committed"), [Appended::All; 2]);
    assert_eq!(second.expect("it is remembered"), [Appended::All; 2]);
    assert_eq!((bench.seqs(run).await, bench.seqs(other).await), (vec![1, 2, 3, 4], vec![1, 2]));
    // What comes even later, after the next batch, is refused.
    let later = again.append(node.id, number.next(), std::sync::Arc::new(vec![texts(run, 5..=5)]));
    assert_eq!(later.await.expect("it is committed"), [Appended::All]);
    let late = node.send(number, batch).await;
    assert!(matches!(late, Err(StoreError::Data(_))), "{late:?}");
    assert_eq!(bench.seqs(run).await, [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_owners_append_is_refused_alone_among_nine() {
    let bench = Bench::postgres().await;
    let (mut old, mut new) = (bench.node().await, bench.node().await);
    let mut runs = Vec::new();
    for _ in 0..10 {
        runs.push(old.born().await);
    }
    let lost = runs[3];
    bench.store.requeue(old.id, lost, LetGo::ForSlot).await.expect("it is let go");
    assert_eq!(new.claim_runs(1).await, [lost]);
    assert_eq!(new.append(vec![texts(lost, 2..=2)]).await, Ok(vec![Appended::All]));
    let batch = runs.iter().map(|run| texts(*run, 2..=3)).collect();
    let answers = old.append(batch).await.expect("the others are not held up");
    for (run, answer) in runs.iter().zip(answers) {
        let (expected, log) = if *run == lost {
            (Appended::NotOwner, vec![1, 2])
        } else {
            (Appended::All, vec![1, 2, 3])
        };
        assert_eq!((answer, bench.seqs(*run).await), (expected, log));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_somebody_holds_keeps_only_its_own_create() {
    let bench = Bench::postgres().await;
    let mut session = bench.session().await;
    let mut stalled = session.begin().await.expect("it begins");
    sqlx::query("insert into run_keys values ('default', 'idempotency', 'held', $1, 'body')")
        .bind(intent("").id.0)
        .execute(&mut *stalled)
        .await
        .expect("the key is bound, as yet for nobody else");
    let held = Create { keys: vec![key("held")], ..intent("body") };
    let other = Create { keys: vec![key("free")], ..intent("body") };
    let both = Create { keys: vec![key("also free"), key("held")], ..intent("body") };
    let batch = vec![held.clone(), other, both.clone(), intent("body")];
    let began = Instant::now();
    let created = bench.store.create(batch).await.expect("the lane goes on");
    let took = began.elapsed();
    assert_eq!(created, [Created::Busy, Created::New, Created::Busy, Created::New]);
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("row=held_key faults_fired=2 ops_ok=2 value={took:?}");
    stalled.rollback().await.expect("it is taken back");
    let free = Create { keys: vec![key("also free")], ..intent("another body") };
    assert_eq!(bench.create_one(free).await, Created::New, "a busy create binds no key");
    assert_eq!(bench.create_one(held.clone()).await, Created::New);
    assert_eq!(bench.create_one(both).await, Created::Conflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_with_the_same_keys_in_any_order_none_fails() {
    let bench = Bench::postgres().await;
    let other = bench.place.open().await;
    let (mut new, mut existing) = (0, 0);
    for round in 0..40 {
        let batch = |reversed: bool| {
            let mut creates: Vec<Create> = (0..8)
                .map(|n| Create { keys: vec![key(&format!("{round}.{n}"))], ..intent("body") })
                .collect();
            if reversed {
                creates.reverse();
            }
            creates
        };
        let (a, b) = tokio::join!(bench.store.create(batch(false)), other.create(batch(true)));
        for created in [a, b].into_iter().flat_map(|created| created.expect("they are asked")) {
            match created {
                Created::New => new += 1,
                Created::Existing(_) => existing += 1,
                other @ (Created::Conflict | Created::Fenced | Created::Busy) => {
                    panic!("{other:?}")
                }
            }
        }
    }
    assert_eq!((new, existing), (320, 320));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_sent_again_says_nothing_of_runs_that_are_anothers_by_now() {
    let bench = Bench::postgres().await;
    let (old, mut new) = (bench.node().await, bench.node().await);
    let run = old.born().await;
    let turns = |seq, count| Append {
        shown: Shown { turn_count: Some(count), ..Shown::default() },
        ..texts(run, seq..=seq)
    };
    let number = old.number.next();
    assert_eq!(old.send(number, vec![turns(2, 1)]).await.ok(), Some(vec![Appended::All]));
    bench.store.requeue(old.id, run, LetGo::Crashed).await.expect("it is let go");
    assert_eq!(new.claim_runs(1).await, [run]);
    assert_eq!(new.append(vec![turns(3, 2)]).await, Ok(vec![Appended::All]));
    assert_eq!(old.send(number, vec![turns(2, 1)]).await.ok(), Some(vec![Appended::All]));
    let listed = bench.store.list(TENANT, &Filter::default(), 1).await.expect("it is listed");
    assert_eq!(listed[0].turn_count, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_note_wakes_a_run_that_waits_in_no_queue_and_it_is_as_suspect_as_before() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    let (run, other) = (node.born().await, node.born().await);
    for _ in 0..2 {
        for run in [run, other] {
            bench.store.requeue(node.id, run, LetGo::Crashed).await.expect("it is let go");
        }
        // What waits for an answer is in no queue: that comes with the first that does.
        sqlx::raw_sql("delete from queue")
            .execute(&mut bench.session().await)
            .await
            .expect("they wait for something else");
        for run in [run, other] {
            assert_eq!(
                bench.leave(run, "answer", &Uuid::now_v7().to_string()).await,
                Left::Accepted(None)
            );
        }
        let claimed = node.claim_runs(0).await;
        if claimed.len() == 2 {
            continue;
        }
        assert_eq!(claimed, [run], "of two suspects one");
        return;
    }
    panic!("both suspects were claimed");
}
