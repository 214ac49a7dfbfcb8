//! The inbox: how those who don't own a run tell its owner something.

use runledger::store::{Append, Appended, InboxNote, InboxRow, Left};

use crate::bench::{Bench, TENANT, ending, intent, to};

pub(crate) async fn a_note_is_left_once_for_its_key_and_has_a_number(bench: Bench) {
    let node = bench.node().await;
    let (run, other) = (node.born().await, node.born().await);
    for key in ["a", "b", "a", "b", "c"] {
        assert_eq!(bench.leave(run, "note", key).await, Left::Accepted(Some(node.id)));
    }
    assert_eq!(bench.leave(other, "note", "a").await, Left::Accepted(Some(node.id)));
    assert_eq!(numbers(&bench.store.inbox(run).await.expect("it is read")), [1, 2, 3]);
    assert_eq!(numbers(&bench.store.inbox(other).await.expect("it is read")), [1]);
    assert_eq!(bench.row(run).await.inbox_n, 3);
}

pub(crate) async fn what_is_read_is_not_told_again(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    bench.leave(run, "note", "a").await;
    let read = Append { inbox_read: Some(1), ..to(run) };
    assert_eq!(node.append(vec![read]).await, Ok(vec![Appended::All]));
    assert_eq!(numbers(&bench.store.inbox(run).await.expect("it is read")), Vec::<i64>::new());
    bench.leave(run, "note", "a").await;
    bench.leave(run, "note", "b").await;
    let rows = bench.store.inbox(run).await.expect("it is read");
    assert_eq!(rows, [InboxRow { n: 2, kind: "note".to_owned(), body: "{}".to_owned() }]);
    let row = bench.row(run).await;
    assert_eq!((row.inbox_n, row.inbox_read), (2, 1));
}

pub(crate) async fn a_cancel_stands_in_the_row(bench: Bench) {
    let node = bench.node().await;
    let run = node.born().await;
    bench.leave(run, "note", "a").await;
    assert_eq!(bench.row(run).await.cancel_at_ms, None);
    bench.leave(run, "cancel", "cancel").await;
    let first = bench.row(run).await.cancel_at_ms.expect("it was cancelled");
    bench.leave(run, "cancel", "another").await;
    assert_eq!(bench.row(run).await.cancel_at_ms, Some(first), "the first one counts");
}

pub(crate) async fn a_note_queues_a_run_without_an_owner(bench: Bench) {
    let node = bench.node().await;
    let later = bench.store.now_ms() + 3_600_000;
    let (run, other) = (bench.queued_at(later).await, bench.queued().await);
    assert_eq!(bench.leave(run, "cancel", "cancel").await, Left::Accepted(None));
    let claimed = node.claim(0).await;
    assert_eq!(claimed.len(), 1, "it is due at once and needs no slot");
    assert!(claimed[0].run == run && claimed[0].for_inbox);
    assert_eq!(claimed[0].reason, "new", "it waits for what it waited for");
    assert_eq!(node.claim_runs(9).await, [other]);
}

pub(crate) async fn who_has_ended_or_is_unknown_takes_no_note(bench: Bench) {
    let mut node = bench.node().await;
    let (ended, alive) = (node.born().await, node.born().await);
    bench.leave(ended, "note", "a").await;
    assert_eq!(node.append(vec![ending(ended, 2)]).await, Ok(vec![Appended::All]));
    assert_eq!(bench.leave(ended, "cancel", "cancel").await, Left::Ended);
    assert_eq!(bench.store.inbox(ended).await.expect("it is read"), []);
    assert_eq!(bench.row(ended).await.cancel_at_ms, None);
    assert_eq!(bench.leave(intent("").id, "cancel", "cancel").await, Left::NoRun);
    let note = InboxNote { kind: "cancel", dedupe_key: "cancel".to_owned(), body: "{}".to_owned() };
    for tenant in ["other", ""] {
        let left = bench.store.leave(tenant, alive, note.clone()).await.expect("it is asked");
        assert_eq!(left, Left::NoRun);
    }
    assert_eq!(bench.row(alive).await.inbox_n, 0);
    assert_eq!(
        bench.store.leave(TENANT, alive, note).await.ok(),
        Some(Left::Accepted(Some(node.id)))
    );
}

fn numbers(rows: &[InboxRow]) -> Vec<i64> {
    rows.iter().map(|row| row.n).collect()
}
