//! Appending: the owner's, dense, once, and refused run by run.

use std::sync::Arc;

use runledger::run::{Seq, Status};
use runledger::store::{Append, Appended, BatchNumber, LetGo, StoreError, StoredEvent};

use crate::bench::{Bench, ending, event, texts, to, update};

pub(crate) async fn what_is_stored_is_read_byte_for_byte(mut bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    let contents =
        ["", r#"\u0000"#, r#"\ud800"#, r#"\"\\\n"#, "ß € 😀", "1e200000", "{\\\"a\\\":[1]}"];
    let events: Vec<StoredEvent> = contents
        .iter()
        .zip(2..)
        .map(|(content, seq)| StoredEvent {
            data: Arc::from(format!(r#"{{"seq":{seq}, "type":"text","content":"{content}"}}"#)),
            ..event(seq, "text")
        })
        .collect();
    let append = Append { events: events.clone(), ..to(run) };
    assert_eq!(node.append(vec![append]).await, Ok(vec![Appended::All]));
    bench.reopen().await;
    let read = bench.store.events(run, Seq(1), 100).await.expect("the log is read");
    assert_eq!(read, events);
    assert_eq!(bench.row(run).await.last_seq.0, 8);
}

pub(crate) async fn a_gap_is_refused_with_nothing_of_it_committed(bench: Bench) {
    let mut node = bench.node().await;
    let (run, healthy) = (node.born().await, node.born().await);
    for wrong in [texts(run, 3..=3), texts(run, 1..=2)] {
        let refused = node.send(node.number.next(), vec![texts(healthy, 2..=2), wrong]).await;
        assert!(matches!(refused, Err(StoreError::Data(_))), "{refused:?}");
    }
    assert_eq!((bench.seqs(run).await, bench.seqs(healthy).await), (vec![1], vec![1]));
    let right = node.append(vec![texts(healthy, 2..=2), texts(run, 2..=3)]).await;
    assert_eq!(right, Ok(vec![Appended::All; 2]));
    assert_eq!(bench.seqs(run).await, [1, 2, 3]);
}

pub(crate) async fn a_run_of_somebody_else_is_refused_alone_and_nine_healthy_ones_commit(
    bench: Bench,
) {
    let (committed, wrong) = beside_nine(&bench).await;
    println!("row=27 faults_fired=1 ops_ok={committed} value={wrong}");
    assert_eq!((committed, wrong), (9, 0));
}

/// A batch of ten runs, one of which is no longer the node's: how many of the healthy ones were
/// committed, and how many of the ten are not as they should be.
async fn beside_nine(bench: &Bench) -> (usize, usize) {
    let mut node = bench.node().await;
    let mut runs = Vec::new();
    for _ in 0..10 {
        runs.push(node.born().await);
    }
    let lost = runs[4];
    bench.store.requeue(node.id, lost, LetGo::ForSlot).await.expect("it is let go");
    let batch = runs.iter().map(|run| texts(*run, 2..=3)).collect();
    let answers = node.append(batch).await.expect("the others are not held up");
    let (mut committed, mut wrong) = (0, 0);
    for (run, answer) in runs.iter().zip(answers) {
        let (expected, log) = if *run == lost {
            (Appended::NotOwner, vec![1])
        } else {
            (Appended::All, vec![1, 2, 3])
        };
        let is_right = (answer, bench.seqs(*run).await) == (expected, log);
        committed += usize::from(is_right && *run != lost);
        wrong += usize::from(!is_right);
    }
    (committed, wrong)
}

/// The control: where the statement does not ask whose a run is, the stale append is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_condition_on_the_owner_a_stale_append_is_found_out() {
    let bench = Bench::postgres().await;
    let condition = "and node_id is not distinct from me";
    let is_off = bench.change("commit_batch", condition, "").await;
    let (committed, wrong) = beside_nine(&bench).await;
    println!("row=27 control=true faults_fired={is_off} ops_ok={committed} value={wrong}");
    assert_eq!((committed, wrong), (9, 1));
}

pub(crate) async fn a_dead_node_appends_nothing(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    let _successor = bench.successor().await;
    assert_eq!(node.append(vec![texts(run, 2..=2)]).await, Err(StoreError::Fenced.to_string()));
    assert_eq!(bench.seqs(run).await, [1]);
}

pub(crate) async fn no_start_commits_after_a_cancel_but_all_before_it_does(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    bench.leave(run, "cancel", "cancel").await;
    let append = Append {
        events: vec![event(2, "run.started"), event(3, "turn.started")],
        starts_at: Some(1),
        update: Some(update(Status::Running)),
        turn_started_at_ms: Some(7),
        ..to(run)
    };
    assert_eq!(node.append(vec![append]).await, Ok(vec![Appended::StartsRefused]));
    let row = bench.row(run).await;
    assert_eq!(bench.seqs(run).await, [1, 2]);
    assert_eq!((row.status, row.last_seq.0), (Status::Running, 2));
    assert_eq!(row.turn_started_at_ms, None, "no turn was started");
    let only = Append { events: vec![event(3, "tool.started")], starts_at: Some(0), ..to(run) };
    assert_eq!(node.append(vec![only]).await, Ok(vec![Appended::StartsRefused]));
    assert_eq!(node.append(vec![texts(run, 3..=3)]).await, Ok(vec![Appended::All]));
}

pub(crate) async fn news_refuse_an_append_that_must_have_none(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    bench.leave(run, "note", "a").await;
    let guarded = |seen| Append { only_if_inbox_n: Some(seen), ..ending(run, 2) };
    assert_eq!(node.append(vec![guarded(0)]).await, Ok(vec![Appended::InboxNews]));
    assert_eq!((bench.seqs(run).await, bench.row(run).await.status), (vec![1], Status::Queued));
    assert_eq!(node.append(vec![guarded(1)]).await, Ok(vec![Appended::All]));
    assert_eq!(bench.row(run).await.status, Status::Completed);
}

pub(crate) async fn a_run_ends_once(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.started().await;
    let twice = vec![event(3, "run.completed"), event(4, "run.failed")];
    let refused = node.send(node.number.next(), vec![Append { events: twice, ..to(run) }]).await;
    assert!(matches!(refused, Err(StoreError::Data(_))), "{refused:?}");
    assert_eq!(bench.seqs(run).await, [1, 2], "a run is never split");
}

pub(crate) async fn an_ended_run_takes_nothing_more(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.started().await;
    assert_eq!(node.append(vec![ending(run, 3)]).await, Ok(vec![Appended::All]));
    assert_eq!(node.append(vec![texts(run, 4..=4)]).await, Ok(vec![Appended::NotOwner]));
    let row = bench.row(run).await;
    assert_eq!((row.status, row.last_seq.0), (Status::Completed, 3));
    assert_eq!(row.finished_at_ms, Some(1_700_000_000_001));
    assert_eq!(bench.owned(node.id).await, []);
    let counts = bench.store.counts().await.expect("it is counted");
    assert_eq!((counts.queued, counts.owned), (0, 0));
}

pub(crate) async fn a_batch_that_is_sent_again_is_committed_once_and_answered_alike(bench: Bench) {
    let mut node = bench.node().await;
    let (whole, ended, cancelled) = (node.born().await, node.born().await, node.born().await);
    let (news, lost, silent) = (node.born().await, node.born().await, node.born().await);
    bench.leave(cancelled, "cancel", "cancel").await;
    bench.leave(news, "note", "a").await;
    bench.leave(silent, "note", "a").await;
    bench.store.requeue(node.id, lost, LetGo::ForSlot).await.expect("it is let go");
    let batch = vec![
        texts(whole, 2..=4),
        ending(ended, 2),
        Append {
            events: vec![event(2, "run.started"), event(3, "turn.started")],
            starts_at: Some(1),
            ..to(cancelled)
        },
        Append { only_if_inbox_n: Some(0), ..ending(news, 2) },
        texts(lost, 2..=2),
        Append { inbox_read: Some(1), only_if_inbox_n: Some(1), ..to(silent) },
    ];
    let number = node.number.next();
    let first = node.send(number, batch.clone()).await.expect("it is committed");
    bench.leave(silent, "note", "b").await;
    for _ in 0..2 {
        let again = node.send(number, batch.clone()).await.expect("it is remembered");
        assert_eq!(again, first);
    }
    assert_eq!(first[..2], [Appended::All; 2]);
    assert_eq!(
        first[2..],
        [Appended::StartsRefused, Appended::InboxNews, Appended::NotOwner, Appended::All]
    );
    assert_eq!(bench.seqs(whole).await, [1, 2, 3, 4]);
    assert_eq!(bench.seqs(cancelled).await, [1, 2]);
    assert_eq!(bench.row(silent).await.inbox_read, 1);
    node.number = number;
    assert_eq!(node.append(vec![texts(whole, 5..=5)]).await, Ok(vec![Appended::All]));
}

pub(crate) async fn a_batch_that_comes_late_is_refused(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    node.number = BatchNumber(7);
    assert_eq!(node.append(vec![texts(run, 2..=2)]).await, Ok(vec![Appended::All]));
    let late = node.send(BatchNumber(7), vec![texts(run, 3..=3)]).await;
    assert!(matches!(late, Err(StoreError::Data(_))), "{late:?}");
    assert_eq!(bench.seqs(run).await, [1, 2]);
}

pub(crate) async fn a_completed_turn_ends_the_count_of_crashes(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.started().await;
    bench.store.requeue(node.id, run, LetGo::Crashed).await.expect("it is let go");
    assert_eq!(node.claim_runs(1).await, [run]);
    assert_eq!(bench.row(run).await.crashes, 1);
    let turn = Append { events: vec![event(3, "turn.completed")], reset_crashes: true, ..to(run) };
    assert_eq!(node.append(vec![turn]).await, Ok(vec![Appended::All]));
    assert_eq!(bench.row(run).await.crashes, 0);
}
