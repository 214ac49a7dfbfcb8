//! The contract of the door, over a real store: order, answers, refusals, cancel safety.

mod bench;
mod creating;
mod doubt;
mod order;
#[path = "../../tests/torture/scale.rs"]
#[expect(unreachable_pub, reason = "it is shared with the tests outside")]
mod scale;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::{Bench, ended, is_pending, joined, note, start, text, updated};

use super::{Effects, QUEUE_MAX, Refused};
use crate::run::event::kind_of;
use crate::run::{Body, RunId, Seq, Status};
use crate::store::{Append, BatchNumber, InboxNote, Left, LetGo, StoreError, StoredEvent};

/// Fails a test that would wait for ever.
const DEADLINE: Duration = Duration::from_secs(30);

impl Bench {
    async fn cancel(&self, run: RunId) {
        let note = InboxNote {
            kind: "cancel",
            dedupe_key: "cancel".to_owned(),
            body: r#"{"by":"local"}"#.to_owned(),
        };
        let left = self.store.leave("default", run, note).await.expect("it is left");
        assert_eq!(left, Left::Accepted(Some(self.node.id)));
    }
}

#[tokio::test]
async fn what_waits_is_committed_in_order_and_its_texts_are_merged() {
    let mut bench = Bench::new().await;
    let run = bench.run().await;
    let mut pen = bench.open(run).await;
    for (item, content) in [(1, "a"), (1, "b"), (2, "c"), (1, "d")] {
        pen.push(text(item, content)).await.expect("there is room");
    }
    let mut append = Box::pin(pen.append(vec![note(1), note(2)], Effects::default()));
    assert!(is_pending(&mut append).await);
    bench.start();
    let committed = append.await.expect("it is committed");
    assert!(!committed.starts_refused);
    let places: Vec<u64> = committed.events.iter().map(|event| event.seq.0).collect();
    assert_eq!(places, [2, 3, 4, 5, 6]);
    assert_eq!(bench.transcript(run).await, ["1:ab", "2:c", "1:d", "note 1", "note 2"]);
    assert_eq!(bench.log(run).await[1..], committed.events);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hears_an_answer_finds_the_events_in_the_hub() {
    let bench = Bench::started().await;
    let run = bench.run().await;
    let watch = bench.hub.watch(run);
    let mut pen = bench.open(run).await;
    for number in 0..300 {
        let committed =
            pen.append(vec![note(number)], Effects::default()).await.expect("it is committed");
        let last = committed.events.last().expect("there is one").seq;
        assert_eq!(watch.position(), last);
        let tail = watch.tail(Seq(last.0 - 1)).expect("it is in memory");
        assert_eq!(tail.last().map(|event| event.seq), Some(last));
    }
}

/// reliability.md, row 27. The control is with those of the stores, which refuse it.
#[tokio::test]
async fn a_run_that_is_not_ours_is_refused_alone() {
    let mut bench = Bench::new().await;
    let runs = bench.runs(10).await;
    let lost = runs[3];
    let watch = bench.hub.watch(lost);
    let mut pens = Vec::new();
    for run in &runs {
        pens.push(bench.open(*run).await);
    }
    bench.store.requeue(bench.node.id, lost, LetGo::ForSlot).await.expect("it is let go");
    let answers = bench.append_all(&mut pens, |_| vec![note(1)]).await;
    let committed = answers.iter().filter(|answer| answer.is_ok()).count();
    println!("row=27 faults_fired=1 ops_ok={committed} value={}", 9 - committed);
    for (run, answer) in runs.iter().zip(answers) {
        let is_lost = *run == lost;
        assert_eq!(answer.err(), is_lost.then_some(Refused::NotOwner));
        assert_eq!(bench.log(*run).await.len(), if is_lost { 1 } else { 2 });
    }
    assert_eq!(watch.position(), Seq(0), "the hub heard nothing of it");
}

#[tokio::test]
async fn a_poisoned_run_is_refused_alone() {
    let mut bench = Bench::new().await;
    let runs = bench.runs(1000).await;
    let poisoned = runs[617];
    let mut pens = Vec::new();
    for run in &runs {
        pens.push(bench.open(*run).await);
    }
    let since = Instant::now();
    // Two ends of one run: the store refuses the second, whenever it is tried.
    let answers = bench
        .append_all(&mut pens, |run| match run == poisoned {
            true => vec![ended(run), ended(run)],
            false => vec![note(1)],
        })
        .await;
    let committed = answers.iter().filter(|answer| answer.is_ok()).count();
    println!(
        "row=14 faults_fired=1 ops_ok={committed} value={} delay_ms={}",
        999 - committed,
        since.elapsed().as_millis()
    );
    assert_eq!(committed, 999);
    assert!(matches!(answers[617], Err(Refused::Poisoned(_))), "{:?}", answers[617]);
    assert_eq!(bench.log(poisoned).await.len(), 1, "nothing of it is committed");
    let refused = pens[617].append(vec![note(1)], Effects::default()).await;
    assert!(matches!(refused, Err(Refused::Poisoned(_))), "it stays refused: {refused:?}");
}

/// The control: a batch that is not halved is refused whole.
#[tokio::test]
async fn where_nobody_halves_a_batch_a_poisoned_run_spoils_all() {
    let bench = Bench::new().await;
    let runs = bench.runs(1000).await;
    let second = |place| if place == 617 { 3 } else { 2 };
    let batch = runs.iter().enumerate().map(|(place, run)| {
        let kind = kind_of("log").expect("there is such a type");
        let event = StoredEvent { seq: Seq(second(place)), kind, data: Arc::from("{}") };
        Append { events: vec![event], ..Append::to(*run) }
    });
    let batch = Arc::new(batch.collect());
    let refused = bench.store.append(bench.node.id, BatchNumber::default().next(), batch).await;
    assert!(matches!(refused, Err(StoreError::Data(_))), "{refused:?}");
    let mut spoiled = 0;
    for run in runs.iter().filter(|run| **run != runs[617]) {
        spoiled += usize::from(bench.log(*run).await.len() == 1);
    }
    println!("row=14 control=true faults_fired=1 value={spoiled}");
    assert_eq!(spoiled, 999);
}

#[tokio::test]
async fn a_refused_end_takes_no_text_with_it() {
    let mut bench = Bench::new().await;
    let run = bench.run().await;
    bench.cancel(run).await;
    let mut pen = bench.open(run).await;
    pen.push(text(1, "before")).await.expect("there is room");
    let guarded = Effects { only_if_inbox_n: Some(0), ..updated(Status::Completed) };
    let mut append = Box::pin(pen.append(vec![ended(run)], guarded));
    assert!(is_pending(&mut append).await);
    bench.start();
    assert_eq!(append.await, Err(Refused::InboxNews));
    assert_eq!(bench.transcript(run).await, ["1:before"]);
    let read = Effects { inbox_read: Some(1), ..Effects::default() };
    let committed = pen.append(vec![note(1)], read).await.expect("it is committed");
    assert_eq!(committed.events.len(), 2, "the text is told with the next answer");
    let guarded = Effects { only_if_inbox_n: Some(1), ..updated(Status::Completed) };
    pen.append(vec![ended(run)], guarded).await.expect("it is committed");
    assert_eq!(bench.transcript(run).await, ["1:before", "note 1", "run.completed"]);
}

#[tokio::test]
async fn starts_are_left_out_after_a_cancel() {
    let bench = Bench::started().await;
    let run = bench.run().await;
    bench.cancel(run).await;
    let mut pen = bench.open(run).await;
    let committed = pen.append(vec![note(1), start()], Effects::default()).await;
    let committed = committed.expect("what stands before is committed");
    assert!(committed.starts_refused && committed.events.len() == 1, "{committed:?}");
    let committed = pen.append(vec![note(2)], Effects::default()).await.expect("it is committed");
    assert_eq!(committed.events[0].seq, Seq(3), "no place is left empty");
    assert_eq!(bench.transcript(run).await, ["note 1", "note 2"]);
}

#[tokio::test]
async fn dropping_an_append_loses_only_its_answer() {
    let mut bench = Bench::new().await;
    let run = bench.run().await;
    let mut pen = bench.open(run).await;
    pen.push(text(1, "before")).await.expect("there is room");
    let mut append = Box::pin(pen.append(vec![note(1)], Effects::default()));
    assert!(is_pending(&mut append).await);
    drop(append);
    drop(pen);
    bench.start();
    bench.journal.close(run).await;
    assert_eq!(bench.transcript(run).await, ["1:before", "note 1"]);
    let mut pen = bench.open(run).await;
    pen.append(vec![note(2)], Effects::default()).await.expect("the run goes on");
}

#[tokio::test]
#[should_panic(expected = "a pen whose append was dropped is dropped too")]
async fn a_pen_whose_append_was_dropped_writes_no_more() {
    let bench = Bench::new().await;
    let run = bench.run().await;
    let mut pen = bench.open(run).await;
    let mut append = Box::pin(pen.append(vec![note(1)], Effects::default()));
    assert!(is_pending(&mut append).await);
    drop(append);
    let _refused = pen.push(text(1, "after")).await;
}

#[tokio::test]
async fn callers_wait_while_the_writer_has_enough() {
    let mut bench = Bench::new().await;
    let run = bench.run().await;
    let mut pen = bench.open(run).await;
    for _ in 1..QUEUE_MAX {
        let mut push = Box::pin(pen.push(text(1, "x")));
        assert!(!is_pending(&mut push).await, "there is room");
    }
    let mut push = Box::pin(pen.push(text(1, "y")));
    assert!(is_pending(&mut push).await, "there is no more room");
    bench.start();
    tokio::time::timeout(DEADLINE, push).await.expect("room is made").expect("it is taken");
    pen.close().await;
    let expected = format!("1:{}y", "x".repeat(QUEUE_MAX - 1));
    assert!(joined(bench.transcript(run).await) == [expected], "nothing of it is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_closed_can_be_opened_at_once() {
    let bench = Bench::started().await;
    let run = bench.run().await;
    for number in 0..100 {
        let mut pen = bench.open(run).await;
        pen.push(text(number, "x")).await.expect("there is room");
        pen.close().await;
        let row = bench.store.load(run).await.expect("it is read").expect("it is there");
        assert_eq!(row.last_seq.0, u64::from(number) + 2, "the close came before the commit");
    }
    bench.journal.close(run).await;
}

#[tokio::test]
async fn a_run_that_is_opened_twice_is_refused_to_both() {
    let bench = Bench::started().await;
    let run = bench.run().await;
    let (mut first, mut second) = (bench.open(run).await, bench.open(run).await);
    for pen in [&mut first, &mut second] {
        let refused = pen.append(vec![note(1)], Effects::default()).await;
        assert_eq!(refused, Err(Refused::NotOwner));
    }
    assert_eq!(bench.log(run).await.len(), 1);
    let mut third = bench.open(run).await;
    third.append(vec![note(1)], Effects::default()).await.expect("the run goes on");
    first.push(text(1, "late")).await.expect("there is room");
    let refused = second.append(vec![note(2)], Effects::default()).await;
    assert_eq!(refused, Err(Refused::NotOwner), "a pen that was refused stays so");
    third.append(vec![note(3)], Effects::default()).await.expect("the run goes on");
    assert_eq!(bench.transcript(run).await, ["note 1", "note 3"]);
}

#[tokio::test]
async fn a_damaged_store_stops_everything() {
    let bench = Bench::started().await;
    let run = bench.run().await;
    let mut pen = bench.open(run).await;
    bench.faults().damage();
    let refused = pen.append(vec![note(1)], Effects::default()).await;
    assert_eq!(refused, Err(Refused::NotOwner), "it is not asked again for ever");
    assert!(bench.node.lost.is_cancelled());
    pen.close().await;
}

#[tokio::test]
async fn a_node_that_is_declared_dead_stops_everything() {
    let bench = Bench::started().await;
    let (run, other) = (bench.run().await, bench.run().await);
    let (mut pen, mut idle) = (bench.open(run).await, bench.open(other).await);
    pen.append(vec![note(1)], Effects::default()).await.expect("it is alive");
    let (_successor, _) = bench.store.register("successor").await.expect("it registers");
    for pen in [&mut pen, &mut idle] {
        assert_eq!(pen.append(vec![note(2)], Effects::default()).await, Err(Refused::NotOwner));
    }
    assert!(bench.node.lost.is_cancelled());
    pen.close().await;
    assert_eq!(bench.transcript(run).await, ["note 1"]);
    assert_eq!(bench.log(other).await.len(), 1);
}

#[tokio::test]
async fn the_loops_end_with_the_last_handle_after_everything_that_waits() {
    let mut bench = Bench::new().await;
    let run = bench.run().await;
    let mut pen = bench.open(run).await;
    for item in 1..=5000 {
        if item == 100 {
            bench.start();
        }
        pen.push(text(item, "x")).await.expect("there is room");
    }
    drop(pen);
    let bench = tokio::time::timeout(DEADLINE, bench.stop()).await.expect("the loops end");
    let log = bench.log(run).await;
    assert_eq!(log.len(), 5001);
    let items = log.iter().filter_map(|event| match &event.body {
        Body::Text { item, .. } => Some(*item),
        _other => None,
    });
    assert!(items.eq(1..=5000));
}
