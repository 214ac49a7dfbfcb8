//! Batches: all or none, once.

use std::sync::Arc;

use runledger::run::{RunId, Status};
use runledger::store::{
    Appended, BatchCreated, BatchId, Create, CreateBatch, Created, Filter, InboxNote, Left,
};
use uuid::Uuid;

use crate::bench::{Bench, TENANT, client_id, ending, intent, key};

fn batch(runs: Vec<Create>) -> CreateBatch {
    CreateBatch {
        id: BatchId(Uuid::now_v7()),
        tenant: TENANT.to_owned(),
        key: None,
        digest: "batch".to_owned(),
        metadata: r#"{"night":"1"}"#.to_owned(),
        created_by: "local".to_owned(),
        created_at_ms: 1_700_000_000_000,
        runs,
    }
}

fn runs(count: usize) -> Vec<Create> {
    let named = |n: usize| Create {
        keys: vec![client_id(&format!("run-{n}"))],
        public_id: format!("run-{n}"),
        metadata: format!(r#"{{"n":"{n}"}}"#),
        ..intent("run")
    };
    (0..count).map(named).collect()
}

async fn create(bench: &Bench, batch: &CreateBatch) -> BatchCreated {
    bench.store.create_batch(Arc::new(batch.clone())).await.expect("it is asked")
}

async fn members(bench: &Bench, batch: BatchId) -> Vec<(RunId, Status)> {
    let row = bench.store.batch(TENANT, batch).await.expect("it is read").expect("it is there");
    row.runs.into_iter().map(|run| (run.id, run.status)).collect()
}

pub(crate) async fn a_batch_is_its_runs_queued_in_order(bench: Bench) {
    let mut node = bench.node().await;
    let before = bench.queued().await;
    let batch = CreateBatch { created_at_ms: bench.store.now_ms(), ..batch(runs(5)) };
    let expected: Vec<RunId> = batch.runs.iter().map(|run| run.id).collect();
    assert_eq!(create(&bench, &batch).await, BatchCreated::New);
    let queued: Vec<(RunId, Status)> = expected.iter().map(|id| (*id, Status::Queued)).collect();
    assert_eq!(members(&bench, batch.id).await, queued);
    let row = bench.store.batch(TENANT, batch.id).await.expect("it is read").expect("it is there");
    assert_eq!((row.metadata, row.created_at_ms), (batch.metadata.clone(), batch.created_at_ms));
    assert!(row.runs.iter().enumerate().all(|(n, run)| run.public_id == format!("run-{n}")));
    assert_eq!(bench.store.batch("other", batch.id).await.expect("it is read"), None);
    for (create, n) in batch.runs.iter().zip(0..) {
        let found = bench.store.find(TENANT, &format!("run-{n}")).await.expect("it is read");
        let found = found.expect("it is there");
        assert_eq!((found.id, found.batch), (create.id, Some(batch.id)));
        assert_eq!(*found.spec, *create.spec);
        let log = bench.store.events(create.id, runledger::run::Seq(0), 9).await;
        assert_eq!(log.expect("it is read"), create.events);
        let labels = vec![("n".to_owned(), n.to_string())];
        let listed = bench.store.list(TENANT, &Filter { labels, ..Filter::default() }, 9).await;
        let listed = listed.expect("it is read");
        assert_eq!((listed.len(), listed[0].batch), (1, Some(batch.id)));
    }
    let of_batch = Filter { batch: Some(batch.id), ..Filter::default() };
    let listed = bench.store.list(TENANT, &of_batch, 9).await.expect("it is read");
    assert!(listed.iter().map(|run| run.id).eq(expected.iter().rev().copied()));
    let mut claimed = node.claim_runs(9).await;
    claimed.retain(|run| *run != before);
    assert_eq!(claimed, expected);
    assert_eq!(node.append(vec![ending(expected[1], 2)]).await, Ok(vec![Appended::All]));
    assert_eq!(members(&bench, batch.id).await[1], (expected[1], Status::Completed));
}

pub(crate) async fn the_same_key_and_body_are_the_same_batch(bench: Bench) {
    let first = CreateBatch { key: Some(key("a")), ..batch(runs(2)) };
    assert_eq!(create(&bench, &first).await, BatchCreated::New);
    assert_eq!(create(&bench, &first).await, BatchCreated::New, "an answer was lost");
    let again = CreateBatch { key: Some(key("a")), ..batch(runs(2)) };
    assert_eq!(create(&bench, &again).await, BatchCreated::Existing(first.id));
    let other = CreateBatch { digest: "another".to_owned(), ..again.clone() };
    assert_eq!(create(&bench, &other).await, BatchCreated::Conflict);
    assert_eq!(members(&bench, first.id).await.len(), 2);
    assert_eq!(bench.store.counts().await.expect("it is counted").queued, 2);
    // A key is of one intent, whether that makes a run or a batch.
    let run = Create { keys: vec![key("a")], ..intent("run") };
    assert_eq!(bench.create_one(run).await, Created::Conflict);
    let run = Create { keys: vec![key("b")], ..intent("run") };
    assert_eq!(bench.create_one(run).await, Created::New);
    let of_a_run = CreateBatch { key: Some(key("b")), ..batch(vec![intent("x")]) };
    assert_eq!(create(&bench, &of_a_run).await, BatchCreated::Conflict);
}

pub(crate) async fn a_batch_with_a_name_that_is_taken_makes_nothing(bench: Bench) {
    let taken = Create { keys: vec![client_id("run-3")], ..intent("body") };
    assert_eq!(bench.create_one(taken).await, Created::New);
    let mut all = runs(5);
    all[4].keys = vec![client_id("run-0")];
    let refused = CreateBatch { key: Some(key("a")), ..batch(all) };
    assert_eq!(create(&bench, &refused).await, BatchCreated::Taken(vec![3, 4]));
    assert_eq!(bench.store.batch(TENANT, refused.id).await.expect("it is read"), None);
    assert_eq!(bench.store.counts().await.expect("it is counted").queued, 1);
    for run in &refused.runs {
        assert!(bench.store.load(run.id).await.expect("it is read").is_none());
    }
    let free = CreateBatch { key: Some(key("a")), ..batch(runs(3)) };
    assert_eq!(create(&bench, &free).await, BatchCreated::New, "nothing was bound");
}

pub(crate) async fn of_racers_with_one_key_one_makes_the_batch(bench: Bench) {
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = bench.store.clone();
        let batch = CreateBatch { key: Some(key("a")), ..batch(runs(3)) };
        racers.spawn(async move {
            let id = batch.id;
            match store.create_batch(Arc::new(batch)).await.expect("it is asked") {
                BatchCreated::New => (id, true),
                BatchCreated::Existing(batch) => (batch, false),
                other @ (BatchCreated::Conflict | BatchCreated::Taken(_)) => panic!("{other:?}"),
            }
        });
    }
    let answers = racers.join_all().await;
    assert!(answers.iter().all(|(batch, _)| *batch == answers[0].0));
    assert_eq!(answers.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert_eq!(bench.store.counts().await.expect("it is counted").queued, 3);
}

pub(crate) async fn a_note_is_left_for_several_runs(bench: Bench) {
    let mut node = bench.node().await;
    let (owned, ended, queued) = (node.born().await, node.born().await, bench.queued().await);
    assert_eq!(node.append(vec![ending(ended, 2)]).await, Ok(vec![Appended::All]));
    let note = InboxNote { kind: "cancel", dedupe_key: "cancel".to_owned(), body: "{}".to_owned() };
    let all = vec![queued, owned, ended, intent("").id];
    let left = bench.store.leave_all(TENANT, all.clone(), note.clone()).await;
    let expected = [Left::Accepted(None), Left::Accepted(Some(node.id)), Left::Ended, Left::NoRun];
    assert_eq!(left.expect("they are left"), expected);
    for run in [owned, queued] {
        let row = bench.row(run).await;
        assert_eq!((row.inbox_n, row.cancel_at_ms.is_some()), (1, true));
    }
    let again = bench.store.leave_all(TENANT, all, note).await;
    assert_eq!(again.expect("they are left"), expected);
    assert_eq!(bench.row(owned).await.inbox_n, 1);
    assert_eq!(node.claim(0).await.len(), 1, "who has no owner is queued for it");
}
