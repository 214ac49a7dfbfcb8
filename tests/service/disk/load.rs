//! Clients that create runs all the time, and remember what they were told.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::{Client, spec};
use crate::recovery::violations;
use crate::stub::{Call, Do, Stub, calculate};
use crate::waiting::until;

const CLIENTS: usize = 4;
const TURNS: usize = 3;

/// An answer comes within so long, whatever the disk does.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What the clients were told.
#[derive(Default)]
struct Told {
    /// Runs whose creation was acknowledged, with their inputs.
    acked: Vec<(String, String)>,
    refused: usize,
    /// Answers that are neither a run nor the refusal that says when to come again.
    wrong: Vec<String>,
    slowest: Duration,
    /// What a log had when it was read.
    seen: Vec<(usize, Vec<Value>)>,
}

/// Clients that go on until this is dropped.
pub(super) struct Load {
    told: Arc<Mutex<Told>>,
    tasks: JoinSet<()>,
    client: Client,
}

/// The model that the runs use.
pub(super) fn script(stub: &Stub) {
    stub.on("disk", |call: &Call| match call.turn {
        1..TURNS => [vec![Do::Say("Some words. ".into())], calculate(1)].concat(),
        _ => vec![Do::Say("Done.".into()), Do::Finish("stop")],
    });
}

impl Load {
    pub(super) fn on(client: &Client) -> Load {
        let told = Arc::new(Mutex::new(Told::default()));
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let (client, told) = (client.clone(), Arc::clone(&told));
            tasks.spawn(async move {
                for round in 0_usize.. {
                    ask(&client, &told, format!("{number}-{round} {}", "x".repeat(8000))).await;
                }
            });
        }
        Load { told, tasks, client: client.clone() }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    pub(super) fn acked(&self) -> usize {
        self.told().acked.len()
    }

    pub(super) fn first_acked(&self) -> String {
        self.told().acked[0].0.clone()
    }

    pub(super) fn refused(&self) -> usize {
        self.told().refused
    }

    pub(super) async fn acked_beyond(&self, count: usize) {
        until("more runs", || async { (self.acked() > count).then_some(()) }).await;
    }

    pub(super) async fn refused_beyond(&self, count: usize) {
        until("more refusals", || async { (self.refused() > count).then_some(()) }).await;
    }

    /// A client reads the log of the newest run: what it sees there stays.
    pub(super) async fn look(&self) {
        let newest = self.acked() - 1;
        let run = self.told().acked[newest].0.clone();
        let log = self.client.log(&run).await;
        self.told().seen.push((newest, log));
    }

    /// Stops the clients, and gives how many runs they were told of, the slowest answer, and all that
    /// should not be.
    pub(super) async fn end(mut self, stub: &Stub) -> (usize, usize, Duration, Vec<String>) {
        self.tasks.shutdown().await;
        let told = std::mem::take(&mut *self.told());
        let mut found = told.wrong;
        if told.slowest > ANSWER_MAX {
            found.push(format!("an answer took {:?}", told.slowest));
        }
        for (place, (run, input)) in told.acked.iter().enumerate() {
            let answer = self.client.get(&format!("/runs/{run}?wait=80")).await;
            if answer.status != 200 || answer.json()["status"] != "COMPLETED" {
                found.push(format!("run {run} did not end well: {}", answer.text));
                continue;
            }
            let log = self.client.log(run).await;
            let seen = told.seen.iter().filter(|(of, _)| *of == place).map(|(_, seen)| &seen[..]);
            for seen in seen.chain([&[][..]]) {
                found.extend(violations(&log, seen, &stub.counts(input)));
            }
        }
        (told.acked.len(), told.refused, told.slowest, found)
    }
}

/// Creates a run and waits for its end, so that there are not too many.
async fn ask(client: &Client, told: &Mutex<Told>, input: String) {
    let began = Instant::now();
    let answer = client.post("/runs", &spec("openai/disk", &input)).await;
    let took = began.elapsed();
    let run = {
        let mut told = told.lock().unwrap();
        told.slowest = told.slowest.max(took);
        match answer.status {
            201 => {
                let run = answer.json()["run_id"].as_str().unwrap().to_owned();
                told.acked.push((run.clone(), input));
                Some(run)
            }
            503 if answer.json()["code"] == "store_unavailable"
                && answer.headers.contains_key("retry-after") =>
            {
                told.refused += 1;
                None
            }
            status => {
                told.wrong.push(format!("{status}: {}", answer.text));
                None
            }
        }
    };
    if let Some(run) = run {
        // Whatever it says: what counts is looked at when all is over.
        client.get(&format!("/runs/{run}?wait=5")).await;
    }
}
