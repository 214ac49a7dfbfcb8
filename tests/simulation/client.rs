//! The clients of the simulation: each creates a run, changes or cancels it, and reads its stream.

use std::sync::Arc;
use std::time::Duration;

use runledger::journal::{Placement, Refused};
use runledger::run::event::{AgentRef, FORMAT, is_terminal};
use runledger::run::{Body, Draft, RunId, Seq, Spec};
use runledger::store::{Create, InboxNote, Key, KeyKind, Left, Notice, StoreError, StoredEvent};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::check::starts;
use crate::process::Life;
use crate::rng::Rng;
use crate::world::{TENANT, World};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A client's whole life.
pub(crate) async fn client(world: Arc<World>, number: u64) {
    let mut rng = world.rng(&[7, number]);
    sleep(rng.ms(0, 6000)).await;
    let key = rng.percent(85).then(|| format!("key-{number}"));
    let Some(run) = create(&world, number, key, &mut rng).await else { return };
    let mut tasks = JoinSet::new();
    for reader in 0..rng.between(0, 2) {
        tasks.spawn(read(Arc::clone(&world), run, number, reader));
    }
    for change in 0..rng.between(0, 2) {
        tasks.spawn(update(Arc::clone(&world), run, number, change));
    }
    if rng.percent(25) {
        tasks.spawn(cancel(Arc::clone(&world), run, number));
    }
    while let Some(done) = tasks.join_next().await {
        if let Err(error) = done {
            world.violation(format!("a client broke: {error}"));
        }
    }
}

/// A process that takes requests.
fn somebody(world: &World, rng: &mut Rng) -> Option<(usize, Life)> {
    let places = world.processes.len() as u64;
    let first = usize::try_from(rng.below(places)).unwrap();
    (0..world.processes.len())
        .map(|more| (first + more) % world.processes.len())
        .find_map(|place| Some((place, world.processes[place].life()?)))
}

/// Asks a process; none where it dies or is silent.
async fn ask<T>(life: &Life, asking: impl Future<Output = T>) -> Option<T> {
    let answered = async {
        life.gate.pass().await;
        let answer = asking.await;
        life.gate.pass().await;
        answer
    };
    life.gate.died.run_until_cancelled(timeout(PATIENCE, answered)).await?.ok()
}

/// Until it is told of the run. Without a key it asks once.
async fn create(world: &World, number: u64, key: Option<String>, rng: &mut Rng) -> Option<RunId> {
    loop {
        let Some((place, life)) = somebody(world, rng) else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let id = world.new_run_id(life.doors.journal.now_ms());
        world.ledger().asked.insert(id, number);
        let (create, queued) = intent(id, number, key.as_deref());
        let creating = async {
            if life.lease.is_away() {
                return Err(Refused::Unavailable("away".to_owned()));
            }
            let placement = match life.doors.admission.born_slot() {
                Some(slot) if life.lease.is_held() => Placement::Here(life.lease.node(), slot),
                Some(_) | None => Placement::Queue,
            };
            life.doors.journal.create(create, queued, placement).await
        };
        let answer = ask(&life, creating).await;
        world.say(|| format!("c{number} creates {id} at p{place}: {answer:?}"));
        match answer {
            Some(Ok(intent)) => {
                match intent.run() {
                    Some(run) => {
                        world.ledger().accepted.entry(number).or_default().insert(run);
                    }
                    None => {
                        world.violation(format!("the key of client {number} is somebody else's"));
                    }
                }
                return intent.run();
            }
            Some(Err(_)) | None if key.is_none() => return None,
            // Nobody knows whether it was created: it is asked again.
            Some(Err(_)) | None => sleep(rng.ms(50, 400)).await,
        }
    }
}

fn spec(number: u64) -> Value {
    let tool = |name: &str, effect: &str| {
        let url = "http://tools.test/";
        json!({"type": "http", "name": name, "effect": effect, "timeout": 3.0, "url": url})
    };
    json!({
        "agent": {
            "model": ["played/first", "played/second"],
            "tools": [tool("read", "read"), tool("again", "idempotent"), tool("once", "once")],
        },
        "input": number.to_string(),
        "config": {"timeout_per_turn": 6.0, "max_time": 40.0, "max_turns": 8},
    })
}

fn intent(id: RunId, number: u64, key: Option<&str>) -> (Create, Draft) {
    let spec: Spec = serde_json::from_value(spec(number)).unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    let key_of = |key: &str| Key { kind: KeyKind::Idempotency, key: key.to_owned() };
    let create = Create {
        id,
        public_id: id.to_string(),
        tenant: TENANT.to_owned(),
        keys: key.map(key_of).into_iter().collect(),
        digest: format!("digest-{number}"),
        owner: None,
        agent: None,
        model: "played/first".to_owned(),
        created_by: "local".to_owned(),
        created_at_ms: id.made_at_ms(),
        input_preview: number.to_string(),
        metadata: "{}".to_owned(),
        spec: text,
        events: Vec::new(),
    };
    let body = Body::RunQueued {
        format: FORMAT,
        run_id: id.to_string(),
        uuid: id.to_string(),
        agent: AgentRef::default(),
        model: "played/first".to_owned(),
        by: "local".to_owned(),
        parent_run_id: None,
        continued_from: None,
        input: json!(number.to_string()),
        truncated: None,
        traceparent: None,
    };
    (create, Draft { turn: 0, attempt: 1, body })
}

/// Leaves a note until it is told what became of it.
async fn leave(world: &World, run: RunId, note: InboxNote, rng: &mut Rng) -> Left {
    loop {
        let Some((place, life)) = somebody(world, rng) else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answer = ask(&life, life.store.leave(TENANT, run, note.clone())).await;
        world.say(|| format!("{} for {run} at p{place}: {answer:?}", note.dedupe_key));
        match answer {
            Some(Ok(left)) => {
                if let Left::Accepted(owner) = left {
                    match owner {
                        Some(node) if node != life.lease.node().id => {
                            life.doors.hub.tell(Notice::News(node, run));
                        }
                        Some(_) | None => life.doors.admission.wake(run),
                    }
                }
                return left;
            }
            Some(Err(StoreError::Unavailable(_))) | None => sleep(rng.ms(50, 400)).await,
            Some(Err(error)) => {
                world.violation(format!("a note was refused: {error}"));
                return Left::NoRun;
            }
        }
    }
}

async fn cancel(world: Arc<World>, run: RunId, number: u64) {
    let mut rng = world.rng(&[8, number]);
    sleep(rng.ms(0, 5000)).await;
    let note = InboxNote {
        kind: "cancel",
        dedupe_key: "cancel".to_owned(),
        body: json!({"by": "local"}).to_string(),
    };
    match leave(&world, run, note, &mut rng).await {
        Left::Accepted(_) => {
            let by_then = starts(&world.database.log(run));
            world.ledger().cancels.insert(run, by_then);
        }
        Left::Ended => {}
        left @ (Left::Full | Left::NoRun) => {
            world.violation(format!("the cancel of {run}: {left:?}"));
        }
    }
}

async fn update(world: Arc<World>, run: RunId, number: u64, change: u64) {
    let mut rng = world.rng(&[9, number, change]);
    sleep(rng.ms(0, 6000)).await;
    let mark = format!("mark-{number}-{change}");
    let note = InboxNote {
        kind: "update",
        dedupe_key: format!("update:{mark}"),
        body: json!({"by": "local", "limits": null, "metadata": {"mark": mark}}).to_string(),
    };
    match leave(&world, run, note, &mut rng).await {
        Left::Accepted(_) => world.ledger().changes.push((run, mark)),
        Left::Ended => {}
        left @ (Left::Full | Left::NoRun) => {
            world.violation(format!("the change of {run}: {left:?}"));
        }
    }
}

/// Reads a run's stream to its end, over as many connections as it takes.
async fn read(world: Arc<World>, run: RunId, number: u64, reader: u64) {
    let mut rng = world.rng(&[10, number, reader]);
    loop {
        let free = somebody(&world, &mut rng)
            .filter(|(place, _)| world.ledger().reading.insert((*place, run)));
        if let Some((place, life)) = free {
            let time = rng.ms(200, 6000);
            let reading = timeout(time, follow(&world, &life, run, reader));
            let has_ended = life.gate.died.run_until_cancelled(reading).await;
            world.ledger().reading.remove(&(place, run));
            if matches!(has_ended, Some(Ok(true))) {
                return;
            }
        }
        sleep(rng.ms(50, 500)).await;
    }
}

/// One connection, as `api/stream.rs` serves it; true where the run has ended.
async fn follow(world: &World, life: &Life, run: RunId, reader: u64) -> bool {
    life.gate.pass().await;
    let mut watch = life.doors.hub.watch(run);
    let Ok(Some(row)) = life.store.load_for_client(run).await else { return false };
    let mut head = row.last_seq;
    loop {
        let seen = world
            .ledger()
            .reads
            .get(&(run, reader))
            .map_or(Seq(0), |seen| seen.last().map_or(Seq(0), |event| event.seq));
        head = head.max(watch.position());
        if head <= seen {
            watch.beyond(seen).await;
            continue;
        }
        let events = match watch.tail(seen).filter(|tail| !tail.is_empty()) {
            Some(tail) => tail,
            None => match life.store.events_within(run, seen, 20, 64 * 1024).await {
                Ok(events) => events,
                Err(_) => return false,
            },
        };
        if events.is_empty() {
            world.violation(format!("{run}: nothing is stored behind {seen}, told was {head}"));
            return false;
        }
        life.gate.pass().await;
        if take(world, run, reader, events) {
            return true;
        }
    }
}

fn take(world: &World, run: RunId, reader: u64, events: Vec<StoredEvent>) -> bool {
    let mut ends = false;
    for event in events {
        let mut ledger = world.ledger();
        let seen = ledger.reads.entry((run, reader)).or_default();
        let next = seen.last().map_or(Seq(1), |last| last.seq.next());
        let (seq, is_next) = (event.seq, event.seq == next);
        ends |= is_terminal(event.kind);
        seen.push(event);
        ledger.counts.ok += 1;
        drop(ledger);
        if !is_next {
            world.violation(format!("{run}: a reader saw {seq} where {next} comes"));
            return true;
        }
    }
    ends
}
