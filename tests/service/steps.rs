//! The process dies at every named step of a run's life, and everything that it had to do is done by
//! whoever comes after it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use reqwest::Method;
use runledger::failpoint::Step;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::{Client, is_terminal, of, spec};
use crate::nodes::Nodes;
use crate::recovery::violations;
use crate::scale::scaled;
use crate::service::{Early, Service, Setup};
use crate::stub::{Call, Do, Stub, say};
use crate::tool_stub::{ToolStub, json as good, send};
use crate::waiting::within;

/// How many processes are tortured at once: most of the time they wait.
const AT_ONCE: usize = 8;

/// What `std::process::abort` ends a process with.
const SIGABRT: i32 = 6;

/// A model whose first call fails, whose second asks for tools, and whose third answers.
fn work(call: &Call) -> Vec<Do> {
    match (call.turn, call.attempt) {
        (1, 1) => vec![Do::Refuse(503, &[], "{}".to_owned())],
        (1, _) => vec![
            Do::Words(3, Duration::from_millis(2)),
            Do::Call("calculator", json!({"expression": "1+1"})),
            Do::Call("flaky", json!({})),
            Do::Finish("tool_calls"),
        ],
        _ => say("Done."),
    }
}

/// A server of tools whose one fails at first. Its second try is started with the failure, so that there is
/// always a commit between the calls: two that end at one moment have their results committed with
/// what follows them.
async fn flaky() -> ToolStub {
    let tools = ToolStub::start().await;
    tools.on("/flaky", |called| match called.attempt {
        1 => send(503, "text/plain", "not yet"),
        _ => good(&json!({"result": "now"})),
    });
    tools
}

/// The run of an agent with a calculator and the flaky tool.
fn work_for(tools: &ToolStub, input: &str) -> Value {
    let mut body = spec("openai/work", input);
    let flaky = json!({"type": "http", "name": "flaky", "url": format!("{}/flaky", tools.url)});
    body["agent"]["tools"].as_array_mut().unwrap().push(flaky);
    body
}

/// Where the service is reached at this moment: another place after each start.
type Door = watch::Receiver<Client>;

/// Asks until one of these answers comes, as a client would whose service may be away.
async fn ask(
    door: &Door,
    method: Method,
    path: &str,
    body: &Value,
    key: &str,
    wanted: &[u16],
) -> Value {
    let asking = async {
        loop {
            let client = door.borrow().clone();
            let headers: &[(&str, &str)] =
                if key.is_empty() { &[] } else { &[("idempotency-key", key)] };
            let asked = client.attempt(method.clone(), path, body, headers);
            // One that was stopped in the middle of an answer doesn't answer any more.
            match tokio::time::timeout(Duration::from_secs(3), asked).await {
                Ok(Some(answer)) if wanted.contains(&answer.status) => {
                    return serde_json::from_str(&answer.text).unwrap_or(Value::Null);
                }
                Ok(Some(answer)) => assert!(
                    answer.status >= 500 || answer.status == 409,
                    "{method} {path}: {} {}",
                    answer.status,
                    answer.text
                ),
                Ok(None) | Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(&format!("an answer to {path}"), asking).await
}

async fn read(door: &Door, path: &str) -> Value {
    ask(door, Method::GET, path, &Value::Null, "", &[200]).await
}

async fn ended(door: &Door, run: &str) -> Value {
    let ending = async {
        loop {
            let run = read(door, &format!("/runs/{run}?wait=1")).await;
            if is_terminal(&run) {
                return run;
            }
        }
    };
    within("a run's end", ending).await
}

/// What has been asked for, and what has to come of it.
struct Asked {
    /// Runs that complete, with the words by which the stub knows them.
    runs: Vec<(String, String)>,
    /// A run that was cancelled and erased.
    erased: String,
}

/// Creates, changes, cancels and erases, however often the service dies meanwhile.
async fn life(door: &Door, tools: &ToolStub, name: &str) -> Asked {
    let post = |path: &'static str, body: Value, key: String| async move {
        ask(door, Method::POST, path, &body, &key, &[201, 200]).await
    };
    let alone = format!("{name}-alone");
    let agent = work_for(tools, "")["agent"].clone();
    let inputs: Vec<String> = (0..3).map(|n| format!("{name}-batch-{n}")).collect();
    let of_batch: Vec<Value> = inputs.iter().map(|input| json!({"input": input})).collect();
    let batch = json!({"defaults": {"agent": agent}, "runs": of_batch});
    let hang = spec("openai/hang", &format!("{name}-hang"));
    let (run, hung, batch) = tokio::join!(
        post("/runs", work_for(tools, &alone), alone.clone()),
        post("/runs", hang, format!("{name}-hang")),
        post("/batches", batch, format!("{name}-batch")),
    );
    let id = |run: &Value| run.as_str().unwrap().to_owned();
    let erased = id(&hung["run_id"]);
    let path = format!("/runs/{erased}");
    let change = json!({"metadata": {"changed": "yes"}});
    ask(door, Method::PATCH, &path, &change, "", &[202]).await;
    ask(door, Method::DELETE, &path, &Value::Null, "", &[202, 200]).await;
    let hung = ended(door, &erased).await;
    assert_eq!(
        (&hung["status"], &hung["metadata"]["changed"]),
        (&json!("CANCELLED"), &json!("yes"))
    );
    ask(door, Method::POST, &format!("{path}/purge"), &Value::Null, "", &[204, 404]).await;
    let ids = batch["run_ids"].as_array().unwrap().iter().map(id).zip(inputs);
    let runs: Vec<(String, String)> = ids.chain([(id(&run["run_id"]), alone)]).collect();
    for (run, _) in &runs {
        ended(door, run).await;
    }
    Asked { runs, erased }
}

/// Everything that is wrong with what came of it.
async fn wrongs(door: &Door, stub: &Stub, asked: &Asked) -> Vec<String> {
    let mut found = Vec::new();
    for (id, words) in &asked.runs {
        let run = ended(door, id).await;
        let log = read(door, &format!("/runs/{id}/events?limit=1000")).await;
        let log = log["data"].as_array().unwrap();
        if run["status"] != "COMPLETED" || run["turn_count"] != 2 {
            found.push(format!("not done: {run}"));
        }
        let results = of(log, "tool_result");
        if results.len() != 2 || results.iter().any(|one| one["is_error"] == true) {
            found.push(format!("not all tools have answered: {log:?}"));
        }
        found.extend(violations(log, &[], &stub.counts(words)));
    }
    let path = format!("/runs/{}", asked.erased);
    ask(door, Method::GET, &path, &Value::Null, "", &[404]).await;
    found
}

/// What the process does at the step, which comes for the `nth` time.
fn plan(step: Step, nth: usize) -> String {
    let dies = format!("{}={nth}*off->return", step.name());
    match step {
        // A run is put back when its driver has panicked.
        Step::RequeueAsked | Step::RequeueCommitted => format!("run.started=1*panic;{dies}"),
        _ => dies,
    }
}

/// Where a service is started, again and again.
enum Place {
    /// In one folder: the next start goes on.
    Folder(Arc<tempfile::TempDir>, Setup),
    /// On one PostgreSQL, each start as another node.
    Among(Setup),
}

impl Place {
    /// A service that dies at these steps, or serves.
    async fn start(&self, failpoints: &str) -> Result<Service, Early> {
        let starting = async {
            loop {
                let (folder, setup) = match self {
                    Place::Folder(folder, setup) => (Arc::clone(folder), setup.clone()),
                    Place::Among(setup) => (Arc::new(tempfile::tempdir().unwrap()), setup.clone()),
                };
                let setup = setup.env("RUNLEDGER_SLOTS", "2").env("RUNLEDGER_LOG", "off");
                let setup = setup.env("FAILPOINTS", failpoints);
                match (Service::try_in_folder(folder, setup).await, self) {
                    // A third of a lease is short for the first answer of a loaded server: whoever
                    // starts nodes starts another.
                    (Err(early), Place::Among(_)) if !has_aborted(early.status) => {}
                    (started, _) => return started,
                }
            }
        };
        within("a start", starting).await
    }
}

/// What the services call.
struct Around {
    stub: Stub,
    tools: ToolStub,
}

/// One death at a step, and what was wrong afterwards.
struct Death {
    /// The process died of the step.
    is_hit: bool,
    wrongs: Vec<String>,
}

/// A service that dies at a step is followed by one that does not, and everything gets done.
async fn death(place: &Place, around: &Around, step: Step, nth: usize, name: &str) -> Death {
    let left = match step {
        Step::RescueAsked | Step::RescueCommitted => Some(dead_node(place, name).await),
        _ => None,
    };
    let first = place.start(&plan(step, nth)).await;
    let (here, door) = watch::channel(Client::new("http://127.0.0.1:9", None));
    let mut life = Box::pin(life(&door, &around.tools, name));
    let mut asked = None;
    let is_hit = match first {
        // It has died before it served.
        Err(early) => has_aborted(early.status),
        Ok(mut first) => {
            here.send_replace(first.client.clone());
            let status = tokio::select! {
                biased;
                status = first.gone() => status,
                done = &mut life => {
                    asked = Some(done);
                    first.signal("TERM");
                    within("the end after SIGTERM", first.gone()).await
                }
            };
            has_aborted(status)
        }
    };
    let next = place.start("").await.unwrap();
    here.send_replace(next.client.clone());
    let asked = match asked {
        Some(asked) => asked,
        None => life.await,
    };
    if let Some(run) = left {
        ask(&door, Method::DELETE, &format!("/runs/{run}"), &Value::Null, "", &[202, 200]).await;
        assert_eq!(ended(&door, &run).await["status"], "CANCELLED");
    }
    let wrongs = wrongs(&door, &around.stub, &asked).await;
    // The next one that starts in its folder must not find it there.
    next.kill().await;
    Death { is_hit, wrongs }
}

fn has_aborted(status: ExitStatus) -> bool {
    status.signal() == Some(SIGABRT)
}

/// Another node dies before, so that there is something to rescue; gives the run that it had.
async fn dead_node(place: &Place, name: &str) -> String {
    let mut dead = place.start("").await.unwrap();
    let run = dead.client.run("openai/hang", &format!("{name}-left")).await;
    dead.client.event(&run, "turn.started").await;
    dead.signal("KILL");
    dead.gone().await;
    run
}

/// Lets processes die at these steps, each at its first and at later times, until each has hit so
/// often; prints and judges what came of it.
async fn torture(row: &str, steps: Vec<Step>, hits: usize, place: impl AsyncFn() -> (Place, Stub)) {
    let each = steps.iter().flat_map(|step| (0..hits).map(|round| (*step, round)));
    let deaths = stream::iter(each).map(|(step, round)| {
        let place = &place;
        async move {
            let (place, stub) = place().await;
            let around = Around { stub, tools: flaky().await };
            let stub = &around.stub;
            stub.on("work", work);
            stub.on("hang", |_| vec![Do::Hang]);
            // Later times, where there are such; the first time comes always.
            let mut hit = None;
            for nth in [round % 3, 0] {
                let name = format!("{}-{round}-{nth}", step.name());
                let death = death(&place, &around, step, nth, &name).await;
                assert_eq!(death.wrongs, Vec::<String>::new(), "after {name}");
                if death.is_hit {
                    hit = Some(nth);
                    break;
                }
            }
            assert!(hit.is_some(), "no process came to {}", step.name());
        }
    });
    let fired = deaths.buffer_unordered(AT_ONCE).count().await;
    assert_eq!(fired, steps.len() * hits);
    println!("row={row} faults_fired={fired} steps={} ops_ok={} value=0", steps.len(), fired * 5);
}

/// reliability.md, row 3.
#[tokio::test]
async fn a_process_that_dies_at_any_step_is_followed_by_one_that_does_the_rest() {
    let steps = Step::ALL.iter().copied();
    let of_one_node = steps.filter(|step| !is_of_several_nodes(*step)).collect();
    torture("3 store=sqlite", of_one_node, scaled(1, 20), async || {
        let stub = Stub::start().await;
        let setup = Setup::default().env("OPENAI_BASE_URL", &stub.base_url);
        (Place::Folder(Arc::new(tempfile::tempdir().unwrap()), setup), stub)
    })
    .await;
}

/// Row 3 on PostgreSQL: the next is another node. `make test` looks at the commits alone, where the two
/// stores differ.
#[tokio::test]
async fn a_node_that_dies_at_any_step_is_followed_by_one_that_does_the_rest() {
    let is_short = scaled(0, 1) == 0;
    let is_wanted = |step: &Step| {
        let name = step.name();
        *step != Step::Committing
            && (!is_short || name.ends_with(".committed") || is_of_several_nodes(*step))
    };
    let steps = Step::ALL.iter().copied().filter(is_wanted).collect();
    torture("3 store=postgres", steps, scaled(1, 20), async || {
        let Nodes { stub, setup, .. } = Nodes::new().await.with("RUNLEDGER_LEASE", "1");
        (Place::Among(setup), stub)
    })
    .await;
}

fn is_of_several_nodes(step: Step) -> bool {
    matches!(step, Step::RescueAsked | Step::RescueCommitted)
}
