//! The pool over a real store: what the socket can't show, because real tools answer at once.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Drain, Keeper, Pool, Tools};
use crate::admission::{Admission, BootClock, BootTime, Lease};
use crate::hub::{Hub, Watch};
use crate::journal::{Journal, Placement, journal};
use crate::model::Registry;
use crate::run::event::{AgentRef, is_terminal};
use crate::run::{Body, CallId, Catalog, Draft, RunId, Seq, State};
use crate::store::{self, Create, InboxNote, Left, Rescued, Store, StoredEvent};
use crate::tool::Toolbox;

/// More events than any log here has.
const EVENTS_MAX: u32 = 5000;

/// Fails a test that would wait for ever.
const DEADLINE: Duration = Duration::from_secs(60);

/// The driver's own mistake, made where the model asks for it.
pub(super) fn break_where_told(state: &State, started: &[CallId]) {
    let mut calls = state.calls().filter(|call| started.contains(&call.call_id));
    assert!(!calls.any(|call| call.tool_name == "breaks_the_driver"), "told to break");
}

/// One start of a node: store, journal and pool.
struct Node {
    store: Store,
    hub: Hub,
    journal: Journal,
    admission: Admission,
    node: store::Node,
    rescued: Rescued,
    drain: Drain,
    tasks: JoinSet<()>,
}

impl Node {
    async fn start(folder: &TempDir) -> Node {
        let store = Store::open_sqlite(folder.path()).await.expect("the store opens");
        let (id, rescued) = store.register("bench").await.expect("it registers");
        let node = store::Node::new(id, "bench");
        let lease = Lease::new(node.clone(), BootTime::NEVER, BootClock::Machine);
        let hub = Hub::alone();
        let (sender, new_runs) = mpsc::channel(64);
        let (journal, loops) = journal(store.clone(), hub.clone(), sender);
        let admission = Admission::new(8);
        let (keeper, beats) = Keeper::new(store.clone(), lease.clone(), admission.clone(), "bench");
        let models = Registry::new(Vec::new(), "demo/by_input".to_owned());
        let toolbox = Toolbox::for_tests();
        let catalog = Catalog { builtins: toolbox.builtins(), ..Catalog::default() };
        let tools = Tools {
            store: store.clone(),
            journal: journal.clone(),
            admission: admission.clone(),
            models: models.into(),
            toolbox,
            catalog: catalog.into(),
            lease,
            node: node.clone(),
        };
        let drain = Drain::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(loops.writer.run());
        tasks.spawn(loops.creator.run());
        tasks.spawn(Pool::new(tools, new_runs, beats).run(drain.clone()));
        tasks.spawn(keeper.run(drain.soon.clone()));
        Node { store, hub, journal, admission, node, rescued, drain, tasks }
    }

    /// Ends everything as a crash would.
    async fn crash(mut self) {
        self.tasks.shutdown().await;
        self.store.close().await;
    }

    /// Stops as `app` does, with no time left for what is under way.
    async fn stop(self) {
        let Node { store, journal, node, drain, mut tasks, .. } = self;
        drop(journal);
        drain.soon.cancel();
        drain.now.cancel();
        while let Some(ended) = within(tasks.join_next()).await {
            ended.expect("no part panics");
        }
        store.hand_over(node.id).await.expect("it is handed over");
        store.close().await;
    }

    /// The run that plays this script: `[TEXT, [TOOL, …]]` for each turn.
    fn create(&self, script: &Value, config: &Value) -> (Create, Draft) {
        let id = self.journal.new_run_id();
        let tools = ["calculator", "never", "never_once", "panics", "breaks_the_driver"];
        let tool = |name| json!({"type": "builtin", "name": name});
        let input = script.to_string();
        let spec = json!({
            "agent": {"name": "Test", "model": "demo/by_input", "tools": tools.map(tool)},
            "input": input,
            "config": config,
        });
        let create = Create {
            id,
            public_id: id.to_string(),
            tenant: "default".to_owned(),
            keys: Vec::new(),
            digest: String::new(),
            owner: None,
            agent: None,
            model: "demo/by_input".to_owned(),
            created_by: "local".to_owned(),
            created_at_ms: self.journal.now_ms(),
            input_preview: String::new(),
            metadata: "{}".to_owned(),
            spec: spec.to_string(),
            events: Vec::new(),
        };
        let queued = Body::RunQueued {
            format: 1,
            run_id: id.to_string(),
            uuid: id.to_string(),
            agent: AgentRef::default(),
            model: "demo/by_input".to_owned(),
            by: "local".to_owned(),
            parent_run_id: None,
            continued_from: None,
            input: Value::String(input),
            truncated: None,
            traceparent: None,
        };
        (create, Draft { turn: 0, attempt: 1, body: queued })
    }

    async fn run(&self, script: Value, config: Value) -> RunId {
        let (create, queued) = self.create(&script, &config);
        let run = create.id;
        self.journal.create(create, queued, Placement::Queue).await.expect("it is created");
        run
    }

    async fn cancel(&self, run: RunId) {
        self.leave_cancel(run).await;
        self.admission.wake(run);
    }

    /// The cancel of another node, whose word is late.
    async fn leave_cancel(&self, run: RunId) -> Left {
        let note = InboxNote {
            kind: "cancel",
            dedupe_key: "cancel".to_owned(),
            body: json!({"by": "local"}).to_string(),
        };
        self.store.leave("default", run, note).await.expect("it is left")
    }

    /// The log once it has so many events that pass.
    async fn until(&self, run: RunId, what: impl Fn(&[StoredEvent]) -> bool) -> Vec<Value> {
        let mut watch: Watch = self.hub.watch(run);
        loop {
            let log = self.store.events(run, Seq(0), EVENTS_MAX).await.expect("it is read");
            assert!(log.len() < EVENTS_MAX as usize, "the log is longer than is looked at");
            if what(&log) {
                let parsed = log.iter().map(|event| serde_json::from_str(&event.data));
                return parsed.collect::<Result<_, _>>().expect("events are JSON");
            }
            let last = log.last().map_or(Seq(0), |event| event.seq);
            within(watch.beyond(last)).await;
        }
    }

    async fn ended(&self, run: RunId) -> Vec<Value> {
        self.until(run, |log| log.last().is_some_and(|last| is_terminal(last.kind))).await
    }

    /// The log once this many tools have been started.
    async fn started(&self, run: RunId, tools: usize) -> Vec<Value> {
        let kind = crate::run::event::kind_of("tool.started");
        let count = move |log: &[StoredEvent]| log.iter().filter(|e| Some(e.kind) == kind).count();
        self.until(run, |log| count(log) >= tools).await
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("the test hangs")
}

/// One word for each event that tells what was done with tools and why a run ended.
fn story(log: &[Value]) -> String {
    let name = |event: &Value| {
        let call =
            log.iter().find(|one| one["type"] == "tool_call" && one["call_id"] == event["call_id"]);
        call.map_or_else(String::new, |call| call["tool_name"].as_str().unwrap_or("").to_owned())
    };
    let words = log.iter().filter_map(|event| match event["type"].as_str()? {
        "run.started" => Some(format!("{}/{}", event["reason"].as_str()?, event["crashes"])),
        "tool.started" => Some(format!("start {} {}", name(event), event["try"])),
        "tool_result" => Some(format!("{} {}", name(event), event["outcome"].as_str()?)),
        "cancel.requested" => Some("cancel".to_owned()),
        "run.completed" | "run.failed" | "run.cancelled" => {
            Some(event["result"]["stop_reason"].as_str()?.to_owned())
        }
        _ => None,
    });
    words.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn a_cancel_in_a_tool_ends_the_tool_and_closes_every_call() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let run = node.run(json!([["", ["calculator", "never", "never_once"]]]), json!({})).await;
    node.started(run, 3).await;
    node.cancel(run).await;
    let log = node.ended(run).await;
    assert_eq!(
        story(&log),
        "new/0, start calculator 1, start never 1, start never_once 1, calculator ok, cancel, \
         never cancelled, never_once unknown, cancelled"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_cancel_that_wakes_nobody_is_seen_before_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let text = crate::run::event::kind_of("text");
    let mut accepted = 0;
    for _ in 0..3 {
        let run = node.run(json!([["word ".repeat(200), []]]), json!({})).await;
        node.until(run, |log| log.iter().any(|event| Some(event.kind) == text)).await;
        let is_accepted = matches!(node.leave_cancel(run).await, Left::Accepted(_));
        let log = node.ended(run).await;
        let end = if is_accepted { "new/0, cancel, cancelled" } else { "new/0, end_turn" };
        assert_eq!(story(&log), end);
        accepted += u32::from(is_accepted);
    }
    assert!(accepted > 0, "each cancel came too late");
    node.stop().await;
}

/// reliability.md, row 34.
#[tokio::test]
async fn after_a_crash_the_answered_call_never_runs_again_and_its_siblings_by_their_effect() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let script = json!([["", ["calculator", "never", "never_once"]], ["Done.", []]]);
    let run = node.run(script, json!({})).await;
    let answered = crate::run::event::kind_of("tool_result");
    node.until(run, |log| log.iter().any(|event| Some(event.kind) == answered)).await;
    node.crash().await;
    let node = Node::start(&folder).await;
    assert_eq!(node.rescued, Rescued { crashed: 1, handed_over: 0 });
    node.started(run, 4).await;
    node.cancel(run).await;
    let log = node.ended(run).await;
    assert_eq!(
        story(&log),
        "new/0, start calculator 1, start never 1, start never_once 1, calculator ok, crash/1, \
         never_once unknown, start never 2, cancel, never cancelled, cancelled"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_stop_cuts_a_tool_and_the_next_start_calls_it_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let run = node.run(json!([["", ["never"]]]), json!({})).await;
    node.started(run, 1).await;
    node.stop().await;
    let node = Node::start(&folder).await;
    assert_eq!(node.rescued, Rescued { crashed: 0, handed_over: 1 });
    node.started(run, 2).await;
    node.cancel(run).await;
    let log = node.ended(run).await;
    assert_eq!(
        story(&log),
        "new/0, start never 1, drain/0, start never 2, cancel, never cancelled, cancelled"
    );
    node.stop().await;
}

/// What is begun in vain would count as a try, and of a tool with effect `once` as a call.
#[tokio::test]
async fn while_draining_a_turn_comes_to_its_end_and_nothing_is_begun() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let words = "word ".repeat(2000);
    let run = node.run(json!([[words, ["never_once"]], ["Done.", []]]), json!({})).await;
    let text = crate::run::event::kind_of("text");
    node.until(run, |log| log.iter().any(|event| Some(event.kind) == text)).await;
    node.drain.soon.cancel();
    let completed = crate::run::event::kind_of("turn.completed");
    let log = node.until(run, |log| log.iter().any(|event| Some(event.kind) == completed)).await;
    assert_eq!(log.last().expect("there is one")["type"], "turn.completed");
    node.stop().await;
    let node = Node::start(&folder).await;
    let log = node.started(run, 1).await;
    assert_eq!(story(&log), "new/0, drain/0, start never_once 1");
    node.cancel(run).await;
    node.ended(run).await;
    node.stop().await;
}

#[tokio::test]
async fn a_tool_that_panics_has_failed_and_the_run_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let run = node.run(json!([["", ["panics", "calculator"]], ["Done.", []]]), json!({})).await;
    let log = node.ended(run).await;
    let story = story(&log);
    assert!(story.contains("panics error") && story.contains("calculator ok"), "{story}");
    assert!(story.ends_with("end_turn"), "{story}");
    assert!(!json!(log).to_string().contains("was called"), "the inside is not shown");
    node.stop().await;
}

/// reliability.md, row 29.
#[tokio::test]
async fn a_driver_that_panics_is_a_crash_and_ends_in_crash_loop() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let run = node.run(json!([["", ["breaks_the_driver"]]]), json!({})).await;
    let bystander = node.run(json!([["", ["calculator"]], ["Done.", []]]), json!({})).await;
    let log = node.ended(run).await;
    let story_of_run = story(&log);
    assert!(
        story_of_run.starts_with("new/0, start breaks_the_driver 1, crash/1, "),
        "{story_of_run}"
    );
    assert!(
        story_of_run.ends_with("crash/6, breaks_the_driver cancelled, crash_loop"),
        "{story_of_run}"
    );
    assert!(story(&node.ended(bystander).await).ends_with("end_turn"));
    node.stop().await;
}

#[tokio::test]
async fn a_tool_that_never_answers_is_cut_by_its_timeout_or_by_the_turns() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let run = node.run(json!([["", ["never"]]]), json!({"timeout_per_turn": 0.3})).await;
    let log = node.ended(run).await;
    assert_eq!(story(&log), "new/0, start never 1, never cancelled, turn_timeout");
    node.stop().await;
}

/// reliability.md, row 29: the create is committed, and its answer never came to the pool.
#[tokio::test]
async fn a_run_that_is_owned_and_not_driven_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let (mut create, queued) = node.create(&json!([["Done.", []]]), &json!({}));
    let run = create.id;
    create.owner = Some(node.node.id);
    let data = format!(r#"{{"seq":1,"at":"2026-11-24T00:00:00.000Z",{}"#, queued.to_text());
    create.events = vec![StoredEvent { seq: Seq(1), kind: queued.body.kind(), data: data.into() }];
    node.store.create(vec![create]).await.expect("it is created");
    let log = node.ended(run).await;
    assert_eq!(story(&log), "new/0, end_turn");
    node.stop().await;
}

#[tokio::test]
async fn a_run_whose_log_cannot_be_read_is_left_alone_and_harms_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(&folder).await;
    let (mut create, _queued) = node.create(&json!([["Done.", []]]), &json!({}));
    let broken = create.id;
    let data = r#"{"seq":1,"type":"of.a.later.release"}"#.into();
    create.events = vec![StoredEvent { seq: Seq(1), kind: 0, data }];
    node.store.create(vec![create]).await.expect("it is created");
    node.admission.queued();
    for _ in 0..20 {
        let run = node.run(json!([["Done.", []]]), json!({})).await;
        assert!(story(&node.ended(run).await).ends_with("end_turn"));
    }
    // It was claimed before the twenty, once: it is owned, and not in and out of the queue.
    for _ in 0..20 {
        assert_eq!(node.store.counts().await.expect("they are counted").queued, 0);
        let beat = node.store.heartbeat(node.node.id, 1, 0).await.expect("they are listed");
        assert!(beat.owned.contains(&broken));
    }
    node.stop().await;
}
