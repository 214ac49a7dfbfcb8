//! Erasing runs, and what an installation keeps to itself.

use std::sync::Arc;

use runledger::run::Seq;
use runledger::store::{
    Append, Appended, BatchCreated, BatchId, Create, CreateBatch, Created, Filter, INBOX_NOTES,
    Left, Purged, Shown,
};
use uuid::Uuid;

use crate::bench::{Bench, TENANT, client_id, ending, event, intent, key, texts, to};

pub(crate) async fn an_erased_run_leaves_nothing_and_its_keys_are_free(mut bench: Bench) {
    let mut node = bench.node().await;
    let create = Create {
        owner: Some(node.id),
        keys: vec![key("a"), client_id("mine")],
        metadata: r#"{"user":"17"}"#.to_owned(),
        ..intent("body")
    };
    let run = create.id;
    assert_eq!(bench.create_one(create.clone()).await, Created::New);
    let neighbour = node.born().await;
    assert_eq!(bench.store.purge(TENANT, run).await.ok(), Some(Purged::Active));
    bench.leave(run, "note", "n").await;
    let shown = Shown { metadata: Some(r#"{"user":"18"}"#.to_owned()), ..Shown::default() };
    let relabelled = Append { events: vec![event(2, "run.updated")], shown, ..to(run) };
    let batch = vec![relabelled, texts(neighbour, 2..=3)];
    assert_eq!(node.append(batch).await, Ok(vec![Appended::All; 2]));
    assert_eq!(node.append(vec![ending(run, 3)]).await, Ok(vec![Appended::All]));
    assert_eq!(bench.store.purge("other", run).await.ok(), Some(Purged::NoRun));
    assert_eq!(bench.store.purge(TENANT, run).await.ok(), Some(Purged::Erased));
    bench.reopen().await;
    assert_eq!(bench.store.purge(TENANT, run).await.ok(), Some(Purged::NoRun), "it stays so");
    assert!(bench.store.load(run).await.expect("it is read").is_none());
    assert!(bench.store.find(TENANT, "mine").await.expect("it is read").is_none());
    assert_eq!(bench.store.events(run, Seq(0), 9).await.ok(), Some(Vec::new()));
    assert_eq!(bench.store.log_for_fold(run).await.ok(), Some(Vec::new()));
    assert_eq!(bench.store.positions(vec![run]).await.ok(), Some(Vec::new()));
    assert_eq!(bench.store.inbox(run).await.ok(), Some(Vec::new()));
    for user in ["17", "18"] {
        let labels = vec![("user".to_owned(), user.to_owned())];
        let listed = bench.store.list(TENANT, &Filter { labels, ..Filter::default() }, 9).await;
        assert_eq!(listed.ok(), Some(Vec::new()));
    }
    assert_eq!(bench.seqs(neighbour).await, [1, 2, 3], "nobody else loses anything");
    let again = Create { id: intent("").id, owner: None, digest: "other".to_owned(), ..create };
    assert_eq!(bench.create_one(again).await, Created::New, "both keys are free");
}

pub(crate) async fn a_batch_is_erased_with_its_last_run(bench: Bench) {
    let mut node = bench.node().await;
    let batch = CreateBatch {
        id: BatchId(Uuid::now_v7()),
        tenant: TENANT.to_owned(),
        key: Some(key("a")),
        digest: "batch".to_owned(),
        metadata: "{}".to_owned(),
        created_by: "local".to_owned(),
        created_at_ms: bench.store.now_ms(),
        runs: vec![intent("x"), intent("y")],
    };
    let created = bench.store.create_batch(Arc::new(batch.clone())).await;
    assert_eq!(created.ok(), Some(BatchCreated::New));
    let runs = node.claim_runs(9).await;
    let ends = runs.iter().map(|run| ending(*run, 2)).collect();
    assert_eq!(node.append(ends).await, Ok(vec![Appended::All; 2]));
    for (run, left) in runs.iter().zip([Some(1), None]) {
        assert_eq!(bench.store.purge(TENANT, *run).await.ok(), Some(Purged::Erased));
        let row = bench.store.batch(TENANT, batch.id).await.expect("it is read");
        assert_eq!(row.map(|row| row.runs.len()), left);
    }
    let again = CreateBatch {
        id: BatchId(Uuid::now_v7()),
        digest: "other".to_owned(),
        runs: vec![intent("z")],
        ..batch
    };
    let created = bench.store.create_batch(Arc::new(again)).await;
    assert_eq!(created.ok(), Some(BatchCreated::New), "its key is free");
}

pub(crate) async fn a_secret_is_made_up_once(mut bench: Bench) {
    let first = bench.store.secret("one", vec![1, 2]).await.expect("it is kept");
    assert_eq!(first, [1, 2]);
    assert_eq!(bench.store.secret("one", vec![3]).await.ok(), Some(vec![1, 2]));
    assert_eq!(bench.store.secret("two", vec![0, 255]).await.ok(), Some(vec![0, 255]));
    bench.reopen().await;
    assert_eq!(bench.store.secret("one", vec![4]).await.ok(), Some(vec![1, 2]));
}

pub(crate) async fn a_full_inbox_takes_a_cancel_and_nothing_else(bench: Bench) {
    let node = bench.node().await;
    let (run, other) = (node.born().await, node.born().await);
    for n in 0..INBOX_NOTES {
        assert_eq!(
            bench.leave(run, "update", &format!("{n}")).await,
            Left::Accepted(Some(node.id))
        );
    }
    assert_eq!(bench.leave(run, "update", "more").await, Left::Full);
    let again = bench.leave(run, "update", "0").await;
    assert_eq!(again, Left::Accepted(Some(node.id)), "what is there already takes no room");
    assert_eq!(bench.row(run).await.inbox_n, INBOX_NOTES);
    assert_eq!(bench.leave(other, "update", "more").await, Left::Accepted(Some(node.id)));
    assert_eq!(bench.leave(run, "cancel", "cancel").await, Left::Accepted(Some(node.id)));
    assert!(bench.row(run).await.cancel_at_ms.is_some());
}

pub(crate) async fn a_page_ends_where_its_reader_says(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    assert_eq!(node.append(vec![texts(run, 2..=50)]).await, Ok(vec![Appended::All]));
    let size = event(10, "text").data.len();
    let page = bench.store.events_within(run, Seq(9), 100, size * 3).await.expect("it is read");
    assert_eq!(page.iter().map(|event| event.seq.0).collect::<Vec<_>>(), [10, 11, 12]);
    let page = bench.store.events_within(run, Seq(9), 100, 1).await.expect("it is read");
    assert_eq!(page.len(), 1, "one at least");
}
