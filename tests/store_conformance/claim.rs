//! Ownership: claim, letting go, hand-over, rescue.

use std::collections::BTreeSet;
use std::sync::Arc;

use runledger::run::RunId;
use runledger::store::{
    Append, Appended, BatchCreated, BatchId, Create, CreateBatch, LetGo, StoreError,
};

use crate::bench::{Bench, Node, TENANT, event, intent, to};

impl Bench {
    /// Queues a run that has so many crashes, at its own place.
    async fn crashed(&self, node: &Node, run: RunId, times: u32) {
        for _ in 0..times {
            assert_eq!(node.claim_runs(1).await, [run], "nothing else may wait meanwhile");
            self.let_go(node, run, LetGo::Crashed).await;
        }
    }

    async fn let_go(&self, node: &Node, run: RunId, why: LetGo) {
        self.store.requeue(node.id, run, why).await.expect("it is let go");
    }

    async fn crashes(&self, run: RunId) -> u32 {
        self.row(run).await.crashes
    }
}

pub(crate) async fn runs_are_claimed_in_order_up_to_the_slots(bench: Bench) {
    let node = bench.node().await;
    let (third, first) = (bench.queued_at(30).await, bench.queued_at(10).await);
    let (fourth, second) = (bench.queued_at(40).await, bench.queued_at(20).await);
    assert_eq!(node.claim_runs(0).await, []);
    assert_eq!(node.claim_runs(2).await, [first, second]);
    assert_eq!(node.claim_runs(9).await, [third, fourth]);
    assert_eq!(node.claim_runs(9).await, []);
    let owned: BTreeSet<RunId> = bench.owned(node.id).await.into_iter().collect();
    assert_eq!(owned, BTreeSet::from([first, second, third, fourth]));
}

pub(crate) async fn a_run_is_claimed_once_however_many_ask(bench: Bench) {
    let node = bench.node().await;
    for _ in 0..50 {
        bench.queued().await;
    }
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (store, node) = (bench.store.clone(), node.id);
        claims.spawn(async move { store.claim(node, 5).await.expect("the queue is read").runs });
    }
    let claimed: Vec<RunId> =
        claims.join_all().await.into_iter().flatten().map(|one| one.run).collect();
    assert_eq!(claimed.len(), 50);
    assert_eq!(claimed.into_iter().collect::<BTreeSet<RunId>>().len(), 50);
}

pub(crate) async fn a_claim_that_is_dropped_is_made_whole_or_not_at_all(bench: Bench) {
    let node = bench.node().await;
    let (mut dropped, mut done, mut torn) = (0, 0, 0);
    // How far a claim comes within so many turns is the machine's: until both have happened enough.
    for round in (0..60).cycle().take(1200) {
        if dropped >= 10 && done >= 10 && round == 0 {
            break;
        }
        let run = bench.queued().await;
        tokio::select! {
            biased;
            _ = node.claim(1) => {}
            () = yields(round) => dropped += 1,
        }
        // Claims are made one after another: this one comes after that, if that was begun.
        node.claim(0).await;
        let place = async || bench.store.queue_position(run).await.expect("it is read");
        let (is_owned, place) = loop {
            let before = place().await;
            let is_owned = bench.owned(node.id).await.contains(&run);
            if place().await == before {
                break (is_owned, before);
            }
        };
        torn += usize::from(is_owned == place.is_some());
        done += usize::from(is_owned);
        node.claim(9).await;
    }
    println!("row=dropped_claim faults_fired={dropped} ops_ok={done} value={torn}");
    assert!(dropped >= 10 && done >= 10, "too few to prove anything");
    assert_eq!(torn, 0);
}

/// Lets the others go on so many times.
async fn yields(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn what_is_not_due_waits(bench: Bench) {
    let node = bench.node().await;
    let later = bench.queued().await;
    bench.put_off(later, bench.store.now_ms() + 3_600_000).await;
    let now = bench.queued().await;
    assert_eq!(node.claim_runs(9).await, [now]);
    assert_eq!(bench.store.queue_position(later).await.expect("it is read"), Some(1));
}

pub(crate) async fn a_clock_that_was_put_back_keeps_nothing_waiting(bench: Bench) {
    let node = bench.node().await;
    let later = bench.store.now_ms() + 3_600_000;
    // The node that creates it still goes by the clock of before.
    let run = bench.queued_at(later).await;
    let of_a_batch = Create { created_at_ms: later, ..intent("in a batch") };
    let in_batch = of_a_batch.id;
    let batch = CreateBatch {
        id: BatchId(intent("").id.0),
        tenant: TENANT.to_owned(),
        key: None,
        digest: String::new(),
        metadata: "{}".to_owned(),
        created_by: "local".to_owned(),
        created_at_ms: later,
        runs: vec![of_a_batch],
    };
    let created = bench.store.create_batch(Arc::new(batch)).await;
    assert_eq!(created.ok(), Some(BatchCreated::New));
    let claimed: BTreeSet<RunId> = node.claim_runs(9).await.into_iter().collect();
    assert_eq!(claimed, BTreeSet::from([run, in_batch]));
    bench.let_go(&node, run, LetGo::ForSlot).await;
    // It was queued before the clock was put back.
    bench.put_off(run, later).await;
    assert_eq!(node.claim_runs(9).await, [], "the control waits");
    for _start in 0..2 {
        let (node, _rescued) = bench.successor().await;
        let claimed: BTreeSet<RunId> = node.claim_runs(9).await.into_iter().collect();
        assert_eq!(claimed, BTreeSet::from([run, in_batch]), "a new start may read another clock");
        bench.let_go(&node, run, LetGo::ForSlot).await;
        assert_eq!(node.claim_runs(9).await, [run]);
        // The next start rescues it, by the time of its creation.
    }
}

pub(crate) async fn runs_with_news_are_claimed_beyond_the_slots(bench: Bench) {
    let node = bench.node().await;
    let (with_news, without) = (bench.queued().await, bench.queued().await);
    bench.leave(with_news, "note", "a").await;
    let claimed = node.claim(1).await;
    let for_inbox: Vec<(RunId, bool)> =
        claimed.iter().map(|one| (one.run, one.for_inbox)).collect();
    assert_eq!(for_inbox, [(with_news, true), (without, false)]);
}

pub(crate) async fn a_suspects_turn_has_its_time_when_its_place_comes(bench: Bench) {
    let mut node = bench.node().await;
    let run = bench.queued_at(10).await;
    assert_eq!(node.claim_runs(1).await, [run]);
    let begun =
        Append { events: vec![event(2, "turn.started")], turn_started_at_ms: Some(5), ..to(run) };
    assert_eq!(node.append(vec![begun]).await, Ok(vec![Appended::All]));
    bench.let_go(&node, run, LetGo::Crashed).await;
    assert_eq!(node.claim_runs(1).await, [run]);
    assert_eq!(bench.row(run).await.turn_started_at_ms, Some(5), "one crash is no suspicion");
    bench.let_go(&node, run, LetGo::Crashed).await;
    let waited_until = bench.store.now_ms();
    assert_eq!(node.claim_runs(1).await, [run]);
    let began = bench.row(run).await.turn_started_at_ms;
    assert!(began.is_some_and(|at| at >= waited_until), "{began:?}");
}

pub(crate) async fn nothing_waits_behind_a_suspect(bench: Bench) {
    let node = bench.node().await;
    let first = bench.queued_at(10).await;
    bench.crashed(&node, first, 2).await;
    assert_eq!(node.claim_runs(1).await, [first], "one suspect is driven");
    let second = bench.queued_at(20).await;
    bench.crashed(&node, second, 1).await;
    assert_eq!(node.claim_runs(1).await, [second], "one crash is no suspicion");
    bench.let_go(&node, second, LetGo::Crashed).await;
    let (healthy, last) = (bench.queued_at(30).await, bench.queued_at(40).await);
    assert_eq!(node.claim_runs(1).await, [healthy], "the second suspect waits for the first");
    bench.leave(second, "note", "a").await;
    assert_eq!(node.claim_runs(9).await, [last], "with news too");
    bench.let_go(&node, first, LetGo::ForSlot).await;
    assert_eq!(node.claim_runs(9).await, [second], "one suspect at a time, whatever it is for");
    let news_read = Append { inbox_read: Some(1), ..to(second) };
    let mut node = node;
    assert_eq!(node.append(vec![news_read]).await, Ok(vec![Appended::All]));
    bench.let_go(&node, second, LetGo::ForSlot).await;
    assert_eq!(node.claim_runs(9).await, [first]);
}

pub(crate) async fn nobody_waits_for_a_run_that_is_given_up(bench: Bench) {
    let node = bench.node().await;
    let first = bench.queued_at(10).await;
    bench.crashed(&node, first, runledger::run::limits::CRASHES).await;
    assert_eq!(node.claim_runs(1).await, [first]);
    let second = bench.queued_at(20).await;
    bench.crashed(&node, second, 2).await;
    assert_eq!(node.claim_runs(9).await, [], "the control: it may be driven once more");
    bench.let_go(&node, first, LetGo::Crashed).await;
    assert_eq!(node.claim_runs(9).await, [first], "its end is to be written");
    assert_eq!(node.claim_runs(9).await, [second], "which may not succeed");
    let third = bench.queued_at(30).await;
    bench.crashed(&node, third, 2).await;
    assert_eq!(node.claim_runs(9).await, [], "still one suspect at a time");
}

pub(crate) async fn a_run_that_waits_for_a_slot_keeps_its_place_and_its_reason(bench: Bench) {
    let mut node = bench.node().await;
    let run = bench.queued_at(10).await;
    let behind = bench.queued_at(20).await;
    assert_eq!(node.claim_runs(1).await, [run]);
    node.start(run).await;
    bench.store.hand_over(node.id).await.expect("it stops");
    let mut node = bench.node().await;
    bench.leave(run, "note", "a").await;
    let claimed = node.claim(0).await;
    assert_eq!((claimed.len(), claimed[0].for_inbox), (1, true));
    bench.leave(run, "note", "b").await;
    bench.let_go(&node, run, LetGo::ForSlot).await;
    assert!(node.claim(0).await[0].for_inbox, "it has news still");
    let read = Append { inbox_read: Some(2), ..to(run) };
    assert_eq!(node.append(vec![read]).await, Ok(vec![Appended::All]));
    bench.let_go(&node, run, LetGo::ForSlot).await;
    assert_eq!(bench.store.queue_position(behind).await.expect("it is read"), Some(2));
    let claimed = node.claim(1).await;
    assert_eq!((claimed[0].run, claimed[0].for_inbox), (run, false));
    assert_eq!(claimed[0].reason, "drain");
}

pub(crate) async fn a_panic_counts_as_a_crash(bench: Bench) {
    let node = bench.node().await;
    let run = bench.queued().await;
    bench.crashed(&node, run, 1).await;
    assert_eq!(bench.crashes(run).await, 1);
    assert_eq!(node.claim(1).await[0].reason, "crash");
}

pub(crate) async fn only_the_owner_lets_go(bench: Bench) {
    let old = bench.node().await;
    let run = bench.queued().await;
    assert_eq!(old.claim_runs(1).await, [run]);
    let (node, _rescued) = bench.successor().await;
    assert_eq!(node.claim_runs(1).await, [run]);
    for why in [LetGo::ForSlot, LetGo::Crashed] {
        bench.let_go(&old, run, why).await;
    }
    assert_eq!(bench.owned(node.id).await, [run]);
    assert_eq!(bench.crashes(run).await, 0);
    assert_eq!(bench.store.queue_position(run).await.expect("it is read"), None);
}

pub(crate) async fn a_clean_stop_counts_no_crash(mut bench: Bench) {
    let mut node = bench.node().await;
    let (started, waiting) = (node.started().await, node.born().await);
    assert_eq!(bench.store.hand_over(node.id).await.ok(), Some(2));
    bench.reopen().await;
    let (next, rescued) = bench.successor().await;
    assert_eq!((rescued.crashed, rescued.handed_over), (0, 1));
    let claimed = next.claim(9).await;
    for one in claimed {
        let reason = if one.run == started { "drain" } else { "new" };
        assert_eq!(one.reason, reason);
    }
    assert_eq!((bench.crashes(started).await, bench.crashes(waiting).await), (0, 0));
}

pub(crate) async fn a_dead_nodes_started_runs_count_a_crash(mut bench: Bench) {
    let mut node = bench.node().await;
    let (started, waiting) = (node.started().await, node.born().await);
    let with_news = node.started().await;
    bench.leave(with_news, "cancel", "cancel").await;
    bench.reopen().await;
    let (next, rescued) = bench.successor().await;
    assert_eq!((rescued.crashed, rescued.handed_over), (3, 0));
    let crashes = [
        bench.crashes(started).await,
        bench.crashes(waiting).await,
        bench.crashes(with_news).await,
    ];
    assert_eq!(crashes, [1, 0, 1], "a run that was never started has killed nobody");
    let claimed = next.claim(9).await;
    assert_eq!(claimed.len(), 3);
    for one in claimed {
        let reason = if one.run == waiting { "new" } else { "crash" };
        assert_eq!((one.reason.as_str(), one.for_inbox), (reason, one.run == with_news));
    }
}

pub(crate) async fn the_death_of_a_node_with_a_suspect_counts_for_the_suspect_alone(bench: Bench) {
    let mut node = bench.node().await;
    let suspect = bench.queued().await;
    bench.crashed(&node, suspect, 2).await;
    assert_eq!(node.claim_runs(1).await, [suspect]);
    let healthy = node.started().await;
    let (node, _rescued) = bench.successor().await;
    assert_eq!((bench.crashes(suspect).await, bench.crashes(healthy).await), (3, 0));
    assert_eq!(node.claim_runs(9).await.len(), 2);
    bench.let_go(&node, suspect, LetGo::ForSlot).await;
    let _next = bench.successor().await;
    let after = (bench.crashes(suspect).await, bench.crashes(healthy).await);
    assert_eq!(after, (3, 1), "a suspect that waits has killed nobody");
}

pub(crate) async fn a_dead_node_claims_nothing(bench: Bench) {
    let node = bench.node().await;
    let run = bench.queued().await;
    bench.store.hand_over(node.id).await.expect("it stops");
    let refused = bench.store.claim(node.id, 9).await;
    assert!(matches!(refused, Err(StoreError::Fenced)), "{refused:?}");
    assert_eq!(bench.node().await.claim_runs(9).await, [run]);
}

pub(crate) async fn places_in_the_queue_and_counts_are_told(bench: Bench) {
    let node = bench.node().await;
    let (second, first) = (bench.queued_at(20).await, bench.queued_at(10).await);
    let place = async |run| bench.store.queue_position(run).await.expect("it is read");
    assert_eq!((place(first).await, place(second).await), (Some(1), Some(2)));
    assert_eq!(node.claim_runs(1).await, [first]);
    assert_eq!((place(first).await, place(second).await), (None, Some(1)));
    let counts = bench.store.counts().await.expect("it is counted");
    assert_eq!((counts.queued, counts.owned), (1, 1));
    bench.store.ping().await.expect("it answers");
}
