//! A simulated process: a node of the real parts, which starts, dies, freezes and stops by the seed.
//!
//! A death drops every task where it stands; what was sent to the database is carried out all the same.
//! A frozen process neither sends nor hears anything, and its clock of leases stands still, until it
//! goes on: then that clock has jumped, and what was told meanwhile is heard all at once. Its timers
//! do run meanwhile; what they lead to waits at the gate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use runledger::admission::{BootClock, BootTime, Lease};
use runledger::app::node::{self, Doors, Parts};
use runledger::model::Registry;
use runledger::run::Catalog;
use runledger::store::memory::{Link, Op, Trip};
use runledger::store::{Store, StoreError};
use runledger::tool::Toolbox;
use runledger::tool::guard::Guard;
use runledger::tool::http::Caller;
use runledger::worker::Drain;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::play::Play;
use crate::rng::Rng;
use crate::world::{LEASE, World};

/// The time to drain.
const DRAIN: Duration = Duration::from_secs(4);

/// How soon a statement is given up that can't reach the database.
const GIVEN_UP: Duration = Duration::from_millis(500);

/// Where a process stands, over all of its lives.
#[derive(Debug, Default)]
pub(crate) struct Process {
    life: Mutex<Option<Life>>,
    gate: Mutex<Option<Arc<Gate>>>,
}

/// A process that takes requests.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) gate: Arc<Gate>,
    pub(crate) doors: Doors,
    pub(crate) store: Store,
    pub(crate) lease: Lease,
    pub(crate) drain: Drain,
}

impl Process {
    pub(crate) fn life(&self) -> Option<Life> {
        self.life.lock().unwrap().clone()
    }

    pub(crate) fn gate(&self) -> Option<Arc<Gate>> {
        self.gate.lock().unwrap().clone()
    }
}

/// Between one life of a process and everything outside of it.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) died: CancellationToken,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    frozen: Option<(Instant, Instant)>,
    cut_until: Option<Instant>,
    /// Statements until it dies, and whether it dies with the last one sent.
    dies_in: Option<(u64, bool)>,
}

impl Gate {
    fn new(began: Instant) -> Arc<Gate> {
        Arc::new(Gate { died: CancellationToken::new(), began, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn frozen(&self) -> Option<(Instant, Instant)> {
        self.state().frozen.filter(|(_, until)| Instant::now() < *until)
    }

    pub(crate) fn freeze(&self, time: Duration) {
        let now = Instant::now();
        self.state().frozen = Some((now, now + time));
    }

    pub(crate) fn cut(&self, time: Duration) {
        self.state().cut_until = Some(Instant::now() + time);
    }

    pub(crate) fn die_in(&self, statements: u64, is_sent: bool) {
        self.state().dies_in = Some((statements, is_sent));
    }

    /// Goes on as if nothing had been.
    pub(crate) fn mend(&self) {
        *self.state() = State::default();
    }

    fn is_cut(&self) -> bool {
        self.state().cut_until.is_some_and(|until| Instant::now() < until)
    }

    /// Waits while the process is frozen, and for ever where it is dead.
    pub(crate) async fn pass(&self) {
        loop {
            if self.died.is_cancelled() {
                std::future::pending::<()>().await;
            }
            match self.frozen() {
                Some((_, until)) => sleep_until(until).await,
                None => return,
            }
        }
    }

    /// One statement more: whether the process dies now, and whether it is sent.
    fn step(&self) -> Option<bool> {
        let mut state = self.state();
        let (left, is_sent) = state.dies_in?;
        if left > 0 {
            state.dies_in = Some((left - 1, is_sent));
            return None;
        }
        Some(is_sent)
    }

    fn clock(self: &Arc<Gate>) -> BootClock {
        let gate = Arc::clone(self);
        BootClock::Played(Arc::new(move || {
            let now = gate.frozen().map_or_else(Instant::now, |(since, _)| since);
            let passed = now.duration_since(gate.began).as_millis();
            BootTime(1_000_000 + u64::try_from(passed).unwrap())
        }))
    }
}

/// The way from one life of a process to the database.
#[derive(Debug)]
struct Network {
    world: Arc<World>,
    gate: Arc<Gate>,
    rng: Mutex<Rng>,
    place: usize,
}

impl Network {
    fn trip(&self, op: Op) -> Trip {
        let rng = &mut *self.rng.lock().unwrap();
        let swarm = &self.world.swarm;
        if self.world.is_calm() {
            return Trip::DIRECT;
        }
        if self.gate.is_cut() {
            self.world.count(|counts| counts.statements += 1);
            return Trip::Refused { told_after: GIVEN_UP };
        }
        let dice = rng.below(100);
        let (lost, late) = (swarm.lost, swarm.lost + swarm.late);
        let (refused, slow) = (late + swarm.refused, late + swarm.refused + swarm.slow);
        let trip = if dice < lost {
            Trip::Lost { out: rng.ms(0, 3), told_after: rng.ms(3, 30) }
        } else if dice < late {
            Trip::Lost { out: rng.ms(500, 4000), told_after: GIVEN_UP }
        } else if dice < refused {
            Trip::Refused { told_after: rng.ms(0, 30) }
        } else if dice < slow {
            Trip::Done { out: rng.ms(0, 300), back: rng.ms(0, 200) }
        } else if dice < 70 {
            Trip::DIRECT
        } else {
            Trip::Done { out: rng.ms(0, 3), back: rng.ms(0, 3) }
        };
        match trip {
            Trip::Done { .. } => self.world.count(|counts| counts.ok += 1),
            Trip::Lost { .. } | Trip::Refused { .. } => {
                self.world.count(|counts| counts.statements += 1);
                self.world.say(|| format!("p{} {op:?}: {trip:?}", self.place));
            }
        }
        trip
    }
}

impl Link for Network {
    fn go(&self, op: Op) -> BoxFuture<'_, Trip> {
        Box::pin(async move {
            self.gate.pass().await;
            match self.gate.step() {
                None => self.trip(op),
                Some(is_sent) => {
                    let trip = self.trip(op);
                    let how = if is_sent { "behind" } else { "before" };
                    self.world.say(|| format!("p{} dies {how} {op:?}", self.place));
                    self.gate.died.cancel();
                    if !is_sent {
                        std::future::pending::<()>().await;
                    }
                    trip
                }
            }
        })
    }

    fn come(&self, _op: Op) -> BoxFuture<'_, ()> {
        Box::pin(self.gate.pass())
    }
}

/// All lives of a process.
pub(crate) async fn live(world: Arc<World>, place: usize) {
    let mut rng = world.rng(&[2, place as u64]);
    for life in 1.. {
        let gate = Gate::new(world.began);
        *world.processes[place].gate.lock().unwrap() = Some(Arc::clone(&gate));
        let link = Network {
            world: Arc::clone(&world),
            gate: Arc::clone(&gate),
            rng: Mutex::new(world.rng(&[3, place as u64, life])),
            place,
        };
        let store = world.database.open(LEASE, Arc::new(link));
        world.say(|| format!("p{place} starts"));
        let living = one_life(&world, place, &gate, &store);
        if gate.died.run_until_cancelled(living).await.is_none() {
            note_death(&world, place);
        }
        *world.processes[place].life.lock().unwrap() = None;
        *world.processes[place].gate.lock().unwrap() = None;
        sleep(rng.ms(20, 1500)).await;
    }
}

/// Until it is told to stop, and has stopped.
async fn one_life(world: &Arc<World>, place: usize, gate: &Arc<Gate>, store: &Store) {
    let machine = format!("p{place}");
    let lease = loop {
        match node::register(store, &machine, gate.clock()).await {
            Ok((lease, _)) => break lease,
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    };
    world.say(|| format!("p{place} is node {}", lease.node().id.0));
    let play = Arc::new(Play { world: Arc::clone(world), gate: Arc::clone(gate) });
    let parts = Parts {
        store: store.clone(),
        lease: lease.clone(),
        models: Arc::new(Registry::played(Arc::clone(&play) as _)),
        toolbox: toolbox().played(play),
        catalog: Arc::new(Catalog::default()),
        slots: 4,
        machine,
    };
    let drain = Drain::default();
    let (doors, mut running) = parts.start(drain.clone());
    let life =
        Life { gate: Arc::clone(gate), doors, store: store.clone(), lease: lease.clone(), drain };
    *world.processes[place].life.lock().unwrap() = Some(life);
    if let Some(why) = running.ended_early().await {
        world.violation(format!("p{place} ended by itself: {why}"));
    }
    *world.processes[place].life.lock().unwrap() = None;
    running.stop(DRAIN).await;
    match node::leave(store, lease.node().id).await {
        Ok(()) => {}
        Err(error) if is_of_the_store(&error) => {
            world.say(|| format!("p{place} could not hand over: {error}"));
        }
        Err(error) => world.violation(format!("p{place} could not hand over: {error}")),
    }
}

fn is_of_the_store(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Unavailable(_)))
}

fn note_death(world: &World, place: usize) {
    let life = world.processes[place].life();
    let owned = life.map_or_else(Vec::new, |life| world.database.owned(life.lease.node().id));
    let is_recovering = owned.iter().any(|(_, crashes)| *crashes > 0);
    world.say(|| format!("p{place} died with {} runs", owned.len()));
    world.count(|counts| {
        counts.crashes += 1;
        counts.in_recovery += u64::from(is_recovering);
    });
}

/// Made once: TLS takes milliseconds, and nothing is sent over it.
fn toolbox() -> Toolbox {
    static TOOLBOX: OnceLock<Toolbox> = OnceLock::new();
    TOOLBOX
        .get_or_init(|| Toolbox::new(Caller::new(Guard::default(), BTreeMap::new()).unwrap()))
        .clone()
}
