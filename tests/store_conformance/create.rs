//! Creating runs: one intent, one run.

use std::collections::BTreeSet;

use runledger::run::{RunId, Status};
use runledger::store::{Create, Created, StoredRun};

use crate::bench::{Bench, client_id, intent, key};

pub(crate) async fn the_same_key_and_body_are_the_same_run(bench: Bench) {
    let first = Create { keys: vec![key("a")], ..intent("body") };
    assert_eq!(bench.create_one(first.clone()).await, Created::New);
    let again = Create { keys: vec![key("a")], ..intent("body") };
    assert_eq!(bench.create_one(again.clone()).await, Created::Existing(first.id));
    assert_eq!(bench.store.load(again.id).await.expect("it is read").map(|row| row.id), None);
}

/// A driver and a client are told what was created, without a look.
pub(crate) async fn what_is_told_of_a_new_run_is_what_is_stored(bench: Bench) {
    for owner in [None, Some(bench.node().await.id)] {
        let keys =
            vec![key(&format!("{owner:?}")), client_id(&format!("mine-{}", owner.is_some()))];
        let create = Create { keys, owner, ..intent("body") };
        assert_eq!(bench.create_one(create.clone()).await, Created::New);
        let told = StoredRun::of(create);
        let run = told.row.id;
        assert_eq!(bench.row(run).await, told.row);
        assert_eq!(bench.store.log_for_fold(run).await.expect("it is read"), told.log);
    }
}

pub(crate) async fn the_same_key_and_another_body_are_refused(bench: Bench) {
    let first = Create { keys: vec![key("a")], ..intent("body") };
    assert_eq!(bench.create_one(first).await, Created::New);
    let other = Create { keys: vec![key("a"), key("b")], ..intent("another body") };
    assert_eq!(bench.create_one(other).await, Created::Conflict);
    let free = Create { keys: vec![key("b")], ..intent("a third body") };
    assert_eq!(bench.create_one(free).await, Created::New, "a refused create binds no key");
}

pub(crate) async fn two_keys_of_two_runs_are_refused(bench: Bench) {
    for name in ["a", "b"] {
        let one = Create { keys: vec![key(name)], ..intent("body") };
        assert_eq!(bench.create_one(one).await, Created::New);
    }
    let both = Create { keys: vec![key("a"), key("b")], ..intent("body") };
    assert_eq!(bench.create_one(both).await, Created::Conflict);
}

pub(crate) async fn a_second_key_is_bound_in_the_same_commit(bench: Bench) {
    let first = Create { keys: vec![key("a")], ..intent("body") };
    assert_eq!(bench.create_one(first.clone()).await, Created::New);
    let both = Create { keys: vec![key("a"), client_id("mine")], ..intent("body") };
    assert_eq!(bench.create_one(both).await, Created::Existing(first.id));
    let second = Create { keys: vec![client_id("mine")], ..intent("body") };
    assert_eq!(bench.create_one(second).await, Created::Existing(first.id));
}

pub(crate) async fn of_64_racers_with_one_key_one_makes_the_run(bench: Bench) {
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (store, create) = (bench.store.clone(), intent("body"));
        let create = Create { keys: vec![key("a")], ..create };
        racers.spawn(async move {
            let id = create.id;
            match store.create(vec![create]).await.expect("it is asked").remove(0) {
                Created::New => (id, true),
                Created::Existing(run) => (run, false),
                other @ (Created::Conflict | Created::Fenced | Created::Busy) => {
                    panic!("{other:?}")
                }
            }
        });
    }
    let answers = racers.join_all().await;
    let runs: BTreeSet<RunId> = answers.iter().map(|(run, _)| *run).collect();
    assert_eq!(runs.len(), 1);
    assert_eq!(answers.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert_eq!(bench.store.counts().await.expect("it is counted").queued, 1);
}

pub(crate) async fn a_key_is_of_its_tenant_and_its_kind(bench: Bench) {
    let mine = Create { keys: vec![key("a")], ..intent("body") };
    let theirs =
        Create { tenant: "other".to_owned(), ..Create { id: intent("").id, ..mine.clone() } };
    let of_another_kind = Create { keys: vec![client_id("a")], ..intent("another body") };
    let created = bench.store.create(vec![mine, theirs, of_another_kind]).await;
    assert_eq!(created.expect("they are asked"), [Created::New; 3]);
}

pub(crate) async fn a_run_is_born_with_an_owner_or_it_is_queued(bench: Bench) {
    let node = bench.node().await;
    let (born, queued) = (node.born().await, bench.queued().await);
    assert_eq!(bench.owned(node.id).await, [born]);
    assert_eq!(bench.store.queue_position(born).await.expect("it is read"), None);
    assert_eq!(bench.store.queue_position(queued).await.expect("it is read"), Some(1));
    for run in [born, queued] {
        let row = bench.row(run).await;
        assert_eq!((row.status, row.last_seq.0), (Status::Queued, 1));
        assert_eq!(bench.seqs(run).await, [1]);
    }
}

pub(crate) async fn a_dead_node_gives_birth_to_nothing(bench: Bench) {
    let node = bench.node().await;
    bench.store.hand_over(node.id).await.expect("it stops");
    let born = Create { owner: Some(node.id), keys: vec![key("a")], ..intent("body") };
    assert_eq!(bench.create_one(born.clone()).await, Created::Fenced);
    assert!(bench.store.load(born.id).await.expect("it is read").is_none());
    let queued = Create { owner: None, ..born };
    assert_eq!(bench.create_one(queued).await, Created::New, "the key is still free");
}

pub(crate) async fn a_create_that_is_sent_again_is_the_same_run(bench: Bench) {
    let node = bench.node().await;
    for keys in [vec![], vec![key("a"), client_id("mine")]] {
        let create = Create { keys, owner: Some(node.id), ..intent("body") };
        assert_eq!(bench.create_one(create.clone()).await, Created::New);
        assert_eq!(bench.create_one(create.clone()).await, Created::New);
        assert_eq!(bench.seqs(create.id).await, [1]);
    }
    assert_eq!(bench.store.counts().await.expect("it is counted").owned, 2);
}
