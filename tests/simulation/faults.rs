//! What goes wrong with whole processes, and with the database's clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::process::Gate;
use crate::rng::Rng;
use crate::world::{LEASE, World};

/// How many processes die with each seed, at least.
const CRASHES_MIN: u64 = 3;

/// How often it is looked whether something has happened.
const STEP: Duration = Duration::from_millis(50);

/// Makes things go wrong, then no more.
pub(crate) async fn faults(world: Arc<World>) {
    let mut rng = world.rng(&[11]);
    sleep(rng.ms(100, 1500)).await;
    let crashes = rng.between(CRASHES_MIN, CRASHES_MIN + 1);
    for _ in 0..crashes {
        for _ in 0..rng.below(3) {
            annoy(&world, &mut rng);
            sleep(rng.ms(50, 1200)).await;
        }
        let before = world.ledger().counts.crashes;
        crash(&world, &mut rng);
        if rng.percent(60) {
            crash_in_recovery(&world, &mut rng).await;
        }
        for _ in 0..100 {
            if world.ledger().counts.crashes > before {
                break;
            }
            sleep(STEP).await;
        }
        sleep(rng.ms(0, 1500)).await;
    }
    while world.ledger().counts.crashes < CRASHES_MIN {
        crash(&world, &mut rng);
        sleep(Duration::from_millis(500)).await;
    }
    world.calm_down();
    for process in &world.processes {
        if let Some(gate) = process.gate() {
            gate.mend();
        }
    }
}

/// Somebody, rather one who drives runs.
fn somebody(world: &World, rng: &mut Rng) -> Option<(usize, Arc<Gate>)> {
    let places: Vec<usize> = (0..world.processes.len()).collect();
    let busy: Vec<usize> =
        places.iter().copied().filter(|place| !owned(world, *place).is_empty()).collect();
    let place =
        if busy.is_empty() || rng.percent(25) { rng.pick(&places) } else { rng.pick(&busy) };
    Some((place, world.processes[place].gate()?))
}

/// The crashes of the runs that a process drives.
fn owned(world: &World, place: usize) -> Vec<u32> {
    let node = world.processes[place].life().map(|life| life.lease.node().id);
    let owned = node.map_or_else(Vec::new, |node| world.database.owned(node));
    owned.into_iter().map(|(_, crashes)| crashes).collect()
}

/// Waits until somebody has taken over a run that another's death has left, and crashes whoever it is in
/// the middle of it.
async fn crash_in_recovery(world: &World, rng: &mut Rng) {
    let steps = 2 * LEASE.as_millis() / STEP.as_millis();
    for _ in 0..steps {
        let recovering = (0..world.processes.len())
            .find(|place| owned(world, *place).iter().any(|crashes| *crashes > 0));
        if let Some(gate) = recovering.and_then(|place| world.processes[place].gate()) {
            gate.die_in(rng.below(10), rng.percent(50));
            return;
        }
        sleep(STEP).await;
    }
}

/// A process dies now, or in a few statements.
fn crash(world: &World, rng: &mut Rng) {
    let Some((place, gate)) = somebody(world, rng) else { return };
    if rng.percent(40) {
        world.say(|| format!("p{place} is killed"));
        gate.died.cancel();
    } else {
        gate.die_in(rng.below(12), rng.percent(50));
    }
}

fn annoy(world: &World, rng: &mut Rng) {
    let Some((place, gate)) = somebody(world, rng) else { return };
    match rng.below(4) {
        0 if world.swarm.freezes => {
            let time = rng.ms(50, 7000);
            world.say(|| format!("p{place} freezes for {time:?}"));
            gate.freeze(time);
            world.count(|counts| counts.freezes += 1);
        }
        1 if world.swarm.cuts => {
            let time = rng.ms(100, 6000);
            world.say(|| format!("p{place} is cut off for {time:?}"));
            gate.cut(time);
            world.count(|counts| counts.cuts += 1);
        }
        2 if world.swarm.drains => {
            let Some(life) = world.processes[place].life() else { return };
            world.say(|| format!("p{place} is told to stop"));
            life.drain.soon.cancel();
            world.count(|counts| counts.drains += 1);
        }
        3 if world.swarm.jumps => {
            let by_ms = i64::try_from(rng.between(500, 8000)).unwrap();
            let by_ms = if rng.percent(50) { by_ms } else { -by_ms };
            world.say(|| format!("the database's clock is put by {by_ms} ms"));
            world.database.put_clock(by_ms);
            world.count(|counts| counts.jumps += 1);
        }
        _ => {}
    }
}
