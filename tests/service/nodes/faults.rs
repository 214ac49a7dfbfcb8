//! Nodes die and freeze at random under many runs: nothing is lost, nothing committed is repeated, and
//! no tool is called again that must not be.

use std::sync::atomic::Ordering;

use super::storm::Storm;
use crate::chance::seed;
use crate::effects::Effects;
use crate::scale::scaled;

/// Now and then a heartbeat is held up for longer than the lease: meanwhile the node is as alive as the
/// others, does not know that it counts as dead, and goes on writing. And some appends are held up, so
/// that a freeze meets them on their way.
const STALLS: &str = "beat.asked=3%sleep(MS);append.taken=5%sleep(20)";

/// reliability.md, rows 1, 4 and 5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_frozen_at_random_four_nodes_lose_and_repeat_nothing() {
    let seed = seed(1);
    let (faults, lease, stalls) = match scaled(0, 1) {
        0 => (24, "1", STALLS.replace("MS", "1700")),
        _whole => (1000, "0.4", STALLS.replace("MS", "700")),
    };
    println!("row=1 seed={seed}");
    let storm = Storm::new(seed, faults, lease, &stalls).await;
    let found = storm.pass().await;
    let fired = storm.faults();
    let fenced = storm.fenced.load(Ordering::SeqCst);
    println!(
        "row=1 faults_fired={fired} ops_ok={} value={} kills={} freezes={} fenced={fenced} \
         dead={} stillborn={} takeovers={} crash_loops={}",
        found.runs,
        found.violations.len() - found.lies,
        storm.kills.load(Ordering::SeqCst),
        storm.freezes.load(Ordering::SeqCst),
        found.dead,
        storm.stillborn.load(Ordering::SeqCst),
        found.takeovers,
        found.crash_loops,
    );
    let once = Effects::of(&storm.tools, "/once");
    let repeated = once.repeated();
    println!(
        "row=4 faults_fired={fired} ops_ok={} value={} unknown={}",
        once.len(),
        repeated + found.lies,
        found.unknown
    );
    let idempotent = Effects::of(&storm.tools, "/idempotent");
    let other_keys = idempotent.with_other_keys(|call| call.key.clone());
    let again = idempotent.repeated();
    println!("row=5 faults_fired={fired} ops_ok={again} value={other_keys}");
    // The controls: a tool that may be called again is counted as if it might not; and each try is
    // taken to have had a key of its own.
    let read_again = Effects::of(&storm.tools, "/read").repeated();
    println!("row=4 control=true faults_fired={fired} value={read_again}");
    let own = idempotent.with_other_keys(|call| format!("{} {}", call.key, call.attempt));
    println!("row=5 control=true faults_fired={fired} value={own}");
    assert_eq!(found.violations, Vec::<String>::new());
    assert_eq!((repeated, other_keys), (0, 0));
    assert!(fired >= faults, "{fired} faults");
    assert!(found.takeovers >= faults / 2, "too little was hit: {} takeovers", found.takeovers);
    assert!(found.runs >= scaled(12, 300), "too little was done: {} runs", found.runs);
    assert!(once.len() >= scaled(40, 2000), "only {} calls of `once`", once.len());
    assert!(found.unknown >= scaled(1, 50), "only {} calls were cut", found.unknown);
    assert!(fenced >= scaled(0, 50), "only {fenced} writes of dead nodes were refused");
    assert!(again >= scaled(1, 50) && read_again > 0 && own > 0, "{again} {read_again} {own}");
    assert!(
        found.crash_loops <= found.runs / scaled(4, 20),
        "{} of {}",
        found.crash_loops,
        found.runs
    );
}
