//! The create lane: once, whatever becomes of the answer or of whoever waits for it.

use super::bench::{Bench, intent, is_pending, note};
use super::scale::scaled;
use crate::journal::{Intent, NewRun, Placement, Refused};
use crate::store::{Create, Key, KeyKind, StoreError};

#[tokio::test]
async fn the_pool_and_the_hub_hear_of_a_run_before_its_client_does() {
    let mut bench = Bench::started().await;
    let (queued, born) = (intent(), intent());
    let watch = bench.hub.watch(born.id);
    let (queued_id, born_id) = (queued.id, born.id);
    let intents = [
        bench.journal.create(queued, note(1), Placement::Queue).await,
        bench.journal.create(born, note(1), bench.here().await).await,
    ];
    let news = intents.map(|intent| match intent {
        Ok(Intent::New { run, is_born }) => (run.row.id, is_born),
        other => panic!("{other:?}"),
    });
    assert_eq!(news, [(queued_id, false), (born_id, true)]);
    assert_eq!(watch.position().0, 1);
    assert!(matches!(bench.new_runs.try_recv(), Ok(NewRun::Queued)));
    match bench.new_runs.try_recv() {
        Ok(NewRun::Born { run, fresh: Some(fresh), .. }) => {
            assert_eq!((run, fresh.row.id), (born_id, born_id));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.owned().await, [born_id]);
}

#[tokio::test]
async fn dropping_a_create_loses_only_its_answer() {
    let mut bench = Bench::new().await;
    let create = intent();
    let run = create.id;
    let journal = bench.journal.clone();
    let here = bench.here().await;
    let mut creating = Box::pin(journal.create(create, note(1), here));
    assert!(is_pending(&mut creating).await);
    drop(creating);
    bench.start();
    let news = bench.new_runs.recv().await;
    assert!(matches!(&news, Some(NewRun::Born { run: born, .. }) if *born == run), "{news:?}");
    assert_eq!(bench.transcript(run).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_create_whose_answer_is_lost_is_one_run_and_is_answered() {
    let mut bench = Bench::started().await;
    let (times, mut ok) = (scaled(10, 60), 0);
    for number in 0..times {
        let key = Key { kind: KeyKind::Idempotency, key: number.to_string() };
        let keys = if number % 2 == 0 { vec![key] } else { Vec::new() };
        let create = Create { keys, ..intent() };
        let run = create.id;
        if number % 3 == 0 {
            bench.faults().fail_commits(1);
        } else {
            bench.faults().lose_answers(1);
        }
        let intent = bench.journal.create(create, note(1), bench.here().await).await;
        assert!(matches!(intent, Ok(Intent::New { .. })), "{intent:?}");
        assert_eq!(intent.expect("it was created").run(), Some(run));
        // It may have been there for a while: its driver reads what has become of it.
        let news = bench.new_runs.try_recv();
        assert!(matches!(&news, Ok(NewRun::Born { fresh: None, .. })), "{news:?}");
        ok += 1;
    }
    let owned = bench.owned().await.len();
    println!(
        "row=29 fault=lost-answers-of-creates faults_fired={} ops_ok={ok} value={}",
        bench.faults().fired(),
        ok - owned
    );
    assert_eq!((bench.faults().fired() as usize, owned), (times, times));
}

#[tokio::test]
async fn a_store_that_stays_away_is_told_and_the_run_is_found_by_the_sweep() {
    let bench = Bench::started().await;
    bench.faults().lose_answers(3);
    let create = intent();
    let run = create.id;
    let intent = bench.journal.create(create, note(1), bench.here().await).await;
    assert!(matches!(intent, Err(Refused::Unavailable(_))), "{intent:?}");
    assert_eq!(bench.owned().await, [run]);
}

#[tokio::test]
async fn a_dead_node_queues_what_it_would_have_driven() {
    let mut bench = Bench::started().await;
    let (next, _) = bench.store.register("successor").await.expect("it registers");
    let create = intent();
    let run = create.id;
    let intent = bench.journal.create(create, note(1), bench.here().await).await;
    assert_eq!(intent.map(|intent| intent.run()), Ok(Some(run)));
    assert!(matches!(bench.new_runs.try_recv(), Ok(NewRun::Queued)));
    let claimed = bench.store.claim(next, 1).await.expect("the queue is read").runs;
    assert_eq!(claimed.iter().map(|one| one.run).collect::<Vec<_>>(), [run]);
    let refused = bench.store.claim(bench.node.id, 1).await;
    assert!(matches!(refused, Err(StoreError::Fenced)), "{refused:?}");
}
