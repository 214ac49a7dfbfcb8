//! Doubt: answers that are lost after the commit, and commits that fail. Nothing is lost, nothing is
//! there twice, and a driver is always told what is so. The control sends batches again without what
//! tells them from new ones.

use tokio::task::JoinSet;

use super::DEADLINE;
use super::bench::{Bench, ended, joined, note, start, text, updated, words};
use super::scale::scaled;
use crate::journal::{Effects, Pen, Refused};
use crate::run::{Event, RunId, Status};
use crate::store::sqlite::faults::Faults;

/// How many runs append at once, and how often each.
const RUNS: usize = 6;

fn rounds() -> usize {
    scaled(12, 180)
}

/// What a driver believes when it stops.
struct Believed {
    run: RunId,
    /// What it was told of, in order.
    told: Vec<Event>,
    /// What it gave, in order.
    given: Vec<String>,
    ok: usize,
    refused: usize,
}

/// Drives a run; where it has the store's faults in its hand, something goes wrong in every round.
async fn drive(run: RunId, mut pen: Pen, faults: Option<Faults>) -> Believed {
    let mut believed = Believed { run, told: Vec::new(), given: Vec::new(), ok: 0, refused: 0 };
    for round in 0..rounds() {
        let item = u32::try_from(round).expect("there are few rounds");
        match (&faults, round % 3) {
            (Some(faults), 0) => faults.lose_answers(1),
            (Some(faults), 1) => faults.fail_commits(1),
            (Some(faults), _) => faults.lose_answers(2),
            (None, _) => {}
        }
        for content in ["a", "b"] {
            if pen.push(text(item, content)).await.is_err() {
                believed.refused += 1;
            }
        }
        believed.given.push(format!("{item}:ab"));
        // Every third append has no event of its own.
        let (drafts, effects) = if round % 3 == 2 {
            (Vec::new(), Effects { inbox_read: Some(0), ..Effects::default() })
        } else {
            believed.given.push(format!("note {round}"));
            (vec![note(round)], Effects::default())
        };
        match pen.append(drafts, effects).await {
            Ok(committed) => {
                believed.told.extend(committed.events);
                believed.ok += 1;
            }
            Err(_) => believed.refused += 1,
        }
    }
    pen.close().await;
    believed
}

/// Drives some runs through faults; gives the faults, the appends that were answered with success,
/// and the violations.
async fn through_faults(is_protected: bool) -> (u32, usize, usize) {
    let bench = Bench::started().await;
    if !is_protected {
        bench.faults().forget_batches();
    }
    let mut drivers = JoinSet::new();
    for (place, run) in bench.runs(RUNS).await.into_iter().enumerate() {
        let faults = (place == 0).then(|| bench.faults().clone());
        drivers.spawn(drive(run, bench.open(run).await, faults));
    }
    let ended = tokio::time::timeout(DEADLINE, drivers.join_all()).await.expect("they end");
    let mut violations = 0;
    let mut ok = 0;
    for believed in ended {
        ok += believed.ok;
        violations += believed.refused;
        let log = bench.log(believed.run).await;
        let is_dense = log.iter().map(|event| event.seq.0).eq(1..=log.len() as u64);
        let is_told = log[1..] == believed.told;
        let is_given = joined(log[1..].iter().map(|event| words(&event.body))) == believed.given;
        violations += [is_dense, is_told, is_given].iter().filter(|holds| !**holds).count();
    }
    (bench.faults().fired(), ok, violations)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_lose_nothing_and_double_nothing() {
    let (faults_fired, ops_ok, value) = through_faults(true).await;
    println!("row=9 store=sqlite faults_fired={faults_fired} ops_ok={ops_ok} value={value}");
    let enough = u32::try_from(scaled(10, 200)).expect("it is small");
    assert!(faults_fired >= enough, "too few faults to prove anything");
    assert_eq!((ops_ok, value), (RUNS * rounds(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_numbers_of_batches_lost_answers_are_found_out() {
    let (faults_fired, ops_ok, value) = through_faults(false).await;
    println!("row=9 control=true faults_fired={faults_fired} ops_ok={ops_ok} value={value}");
    assert!(faults_fired >= 1);
    assert!(value > 0, "the test would not notice a violation");
}

/// Every kind of answer, lost once: the driver hears it all the same.
#[tokio::test]
async fn an_answer_that_is_lost_is_told_as_it_was() {
    let bench = Bench::started().await;
    let run = bench.run().await;
    let mut pen = bench.open(run).await;
    let lose = || bench.faults().lose_answers(1);
    lose();
    let committed = pen.append(vec![note(1)], updated(Status::Running)).await;
    assert_eq!(committed.map(|committed| committed.events.len()), Ok(1));
    bench.cancel(run).await;
    lose();
    let guarded = Effects { only_if_inbox_n: Some(0), ..Effects::default() };
    assert_eq!(pen.append(vec![note(2)], guarded).await, Err(Refused::InboxNews));
    lose();
    let read = Effects { inbox_read: Some(1), ..Effects::default() };
    assert_eq!(pen.append(Vec::new(), read).await.map(|read| read.events.len()), Ok(0));
    assert!(bench.store.inbox(run).await.expect("it is read").is_empty());
    for drafts in [vec![note(3), start()], vec![start()]] {
        lose();
        let before = drafts.len() - 1;
        let committed = pen.append(drafts, Effects::default()).await.expect("it is answered");
        assert!(committed.starts_refused, "{committed:?}");
        assert_eq!(committed.events.len(), before);
    }
    lose();
    let guarded = Effects { only_if_inbox_n: Some(1), ..updated(Status::Completed) };
    let committed = pen.append(vec![ended(run)], guarded).await;
    assert_eq!(committed.map(|committed| committed.events.len()), Ok(1));
    lose();
    assert_eq!(pen.append(vec![note(4)], Effects::default()).await, Err(Refused::NotOwner));
    assert_eq!(bench.faults().fired(), 7);
    assert_eq!(bench.transcript(run).await, ["note 1", "note 3", "run.completed"]);
}

/// A poisoned run among others, with answers lost while the batch is halved.
#[tokio::test]
async fn doubt_in_the_middle_of_halving_refuses_nobody_else() {
    let mut bench = Bench::new().await;
    let runs = bench.runs(9).await;
    let poisoned = runs[5];
    let mut pens = Vec::new();
    for run in &runs {
        pens.push(bench.open(*run).await);
    }
    bench.faults().lose_answers(3);
    let answers = bench
        .append_all(&mut pens, |run| match run == poisoned {
            true => vec![ended(run), ended(run)],
            false => vec![note(1)],
        })
        .await;
    assert_eq!(bench.faults().fired(), 3);
    for (run, answer) in runs.iter().zip(answers) {
        assert_eq!(answer.is_ok(), *run != poisoned, "{answer:?}");
        assert_eq!(bench.log(*run).await.len(), if *run == poisoned { 1 } else { 2 });
    }
}
