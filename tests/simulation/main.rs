//! A cluster of real nodes over the store in memory, under virtual time: each seed is another story of
//! crashes, freezes, partitions, lost and late statements, and failing models and tools. The logs
//! must keep every promise, and the same seed writes the same logs.
//!
//! `RUNLEDGER_SEED=n cargo test --test simulation every_seed -- --nocapture` tells the story of one
//! seed; `RUNLEDGER_SEEDS=n` tries so many.

mod check;
mod client;
mod faults;
mod play;
mod process;
mod rng;
#[path = "../torture/scale.rs"]
#[expect(unreachable_pub, reason = "it is a part of several tests")]
mod scale;
mod seed;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use runledger::store::memory::Flaws;

use scale::scaled;
use seed::{Outcome, THREAD, simulate};
use world::Counts;

/// Seeds that once found a mistake.
const REGRESSIONS: &[u64] = &[];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Simulates on threads of their own, as long as `next` says which seed.
fn simulate_all(threads: usize, seeds: u64, until: impl Fn(u64, Outcome) -> bool + Sync) {
    let next = AtomicU64::new(1);
    let is_over = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let work = || {
                while is_over.load(Ordering::Relaxed) == 0 {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds {
                        break;
                    }
                    if until(seed, simulate(seed, Flaws::default(), false)) {
                        is_over.store(1, Ordering::Relaxed);
                    }
                }
            };
            let thread = std::thread::Builder::new().name(THREAD.to_owned());
            thread.spawn_scoped(scope, work).unwrap();
        }
    });
}

/// The same on a thread that is named so that its panics are heard.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(THREAD.to_owned());
        thread.spawn_scoped(scope, work).unwrap().join().unwrap()
    })
}

fn tell(seed: u64, outcome: &Outcome) {
    println!("seed {seed} breaks {} promises:", outcome.violations.len());
    for violation in &outcome.violations {
        println!("  {violation}");
    }
    println!(
        "again, with its story: RUNLEDGER_SEED={seed} cargo test --test simulation every_seed -- \
         --nocapture"
    );
}

#[test]
fn every_seed_keeps_every_promise() {
    if let Some(seed) = number("RUNLEDGER_SEED") {
        let outcome = on_a_thread(|| simulate(seed, Flaws::default(), true));
        println!("{:?}", outcome.counts);
        tell(seed, &outcome);
        assert!(outcome.violations.is_empty());
        return;
    }
    let seeds = number("RUNLEDGER_SEEDS").unwrap_or(scaled(600, 10_000) as u64);
    let (total, broken) = (Mutex::new((Counts::default(), 0)), AtomicU64::new(0));
    simulate_all(2, seeds, |seed, outcome| {
        let (counts, runs) = &mut *total.lock().unwrap();
        counts.add(&outcome.counts);
        *runs += outcome.runs;
        if outcome.violations.is_empty() {
            return false;
        }
        tell(seed, &outcome);
        broken.fetch_add(1, Ordering::Relaxed) >= 9
    });
    let ((counts, runs), broken) = (*total.lock().unwrap(), broken.into_inner());
    println!(
        "row=24 seeds={seeds} faults_fired={} ops_ok={} value={broken} runs={runs} crashes={} \
         in_recovery={} freezes={} partitions={} drains={} clock_jumps={} statements={} calls={} \
         fenced={}",
        counts.faults(),
        counts.ok,
        counts.crashes,
        counts.in_recovery,
        counts.freezes,
        counts.cuts,
        counts.drains,
        counts.jumps,
        counts.statements,
        counts.calls,
        counts.fenced,
    );
    assert_eq!(broken, 0);
    assert!(counts.crashes >= 3 * seeds && counts.in_recovery * 2 >= seeds, "{counts:?}");
    assert!(counts.ok >= 100 * seeds, "{counts:?}");
}

#[test]
fn the_same_seed_writes_the_same_logs() {
    for seed in 1..=30 {
        let [one, other] =
            [(); 2].map(|()| on_a_thread(|| simulate(seed, Flaws::default(), false)));
        assert_eq!(one, other, "seed {seed}");
    }
}

#[test]
fn seeds_that_once_found_a_mistake_hold() {
    for seed in REGRESSIONS.iter().copied() {
        let outcome = on_a_thread(|| simulate(seed, Flaws::default(), false));
        if !outcome.violations.is_empty() {
            tell(seed, &outcome);
        }
        assert_eq!(outcome.violations, [] as [&str; 0], "seed {seed}");
    }
}

/// How many seeds it takes until the simulation finds what is wrong.
fn found(what: &str, flaws: Flaws) {
    const SEEDS_MAX: u64 = 2000;
    let outcome = on_a_thread(|| {
        (1..=SEEDS_MAX).find_map(|seed| {
            let outcome = simulate(seed, flaws, false);
            (!outcome.violations.is_empty()).then_some((seed, outcome))
        })
    });
    let Some((seed, outcome)) = outcome else {
        panic!("{SEEDS_MAX} seeds have not found {what}");
    };
    println!(
        "row=24 control=true planted={what} seeds={seed} faults_fired={} value={}",
        outcome.counts.faults(),
        outcome.violations.len()
    );
    println!("  {}", outcome.violations[0]);
}

#[test]
fn a_missing_fence_is_found() {
    found("no-fence", Flaws { has_no_fence: true, ..Flaws::default() });
}

#[test]
fn an_end_without_a_look_into_the_inbox_is_found() {
    found("no-inbox-guard", Flaws { has_no_inbox_guard: true, ..Flaws::default() });
}

#[test]
fn batches_without_numbers_are_found() {
    found("no-batch-numbers", Flaws { has_no_batch_numbers: true, ..Flaws::default() });
}

#[test]
fn starts_after_a_cancel_are_found() {
    found("starts-after-cancel", Flaws { starts_after_cancel: true, ..Flaws::default() });
}

#[test]
fn commits_that_are_told_too_early_are_found() {
    found("acknowledges-early", Flaws { acknowledges_early: true, ..Flaws::default() });
}

#[test]
fn forgotten_keys_are_found() {
    found("forgets-keys", Flaws { forgets_keys: true, ..Flaws::default() });
}
