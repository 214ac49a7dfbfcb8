//! A journal over a store of its own, and short words for what goes through it.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::hub::Hub;
use crate::journal::{
    Committed, Effects, Journal, Loops, NewRun, Pen, Placement, Refused, Text, journal, timestamp,
};
use crate::run::event::{RunResult, Usage};
use crate::run::{Body, Draft, Event, RunId, Seq, Status};
use crate::store::sqlite::faults::Faults;
use crate::store::{Create, Created, Node, RunUpdate, Store, StoredEvent};

/// A store in a folder of its own, and a journal whose loops run when they are started.
pub(super) struct Bench {
    pub(super) store: Store,
    pub(super) hub: Hub,
    pub(super) node: Node,
    pub(super) journal: Journal,
    pub(super) new_runs: mpsc::Receiver<NewRun>,
    loops: Option<Loops>,
    tasks: JoinSet<()>,
    _folder: Folder,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind lies in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Bench {
    /// The loops don't run yet: what is sent waits.
    pub(super) async fn new() -> Bench {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("runledger-journal-{}-{number}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        let store = Store::open_sqlite(&folder.0).await.expect("the store opens");
        let (node, _) = store.register("bench").await.expect("it registers");
        let node = Node::new(node, "bench");
        let hub = Hub::alone();
        let (sender, new_runs) = mpsc::channel(64);
        let (journal, loops) = journal(store.clone(), hub.clone(), sender);
        let (loops, tasks) = (Some(loops), JoinSet::new());
        Bench { store, hub, node, journal, new_runs, loops, tasks, _folder: folder }
    }

    pub(super) async fn started() -> Bench {
        let mut bench = Bench::new().await;
        bench.start();
        bench
    }

    pub(super) fn start(&mut self) {
        let loops = self.loops.take().expect("they are started once");
        self.tasks.spawn(loops.writer.run());
        self.tasks.spawn(loops.creator.run());
    }

    /// Drops the last handle and joins the loops.
    pub(super) async fn stop(self) -> Stopped {
        let Bench { store, journal, mut tasks, _folder, .. } = self;
        drop(journal);
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a loop does not panic");
        }
        Stopped { store, _folder }
    }

    pub(super) fn faults(&self) -> &Faults {
        let Store::Sqlite(store) = &self.store else { panic!("it is the embedded store") };
        store.faults()
    }

    /// Runs that this node owns; each has one event.
    pub(super) async fn runs(&self, count: usize) -> Vec<RunId> {
        let creates: Vec<Create> = (0..count)
            .map(|_| {
                let data = r#"{"seq":1,"at":"","type":"log","turn":0,"attempt":1,"level":"info","message":"born","data":null}"#;
                let first = StoredEvent { seq: Seq(1), kind: 12, data: Arc::from(data) };
                Create { owner: Some(self.node.id), events: vec![first], ..intent() }
            })
            .collect();
        let runs = creates.iter().map(|create| create.id).collect();
        let created = self.store.create(creates).await.expect("they are created");
        assert!(created.iter().all(|one| *one == Created::New));
        runs
    }

    /// A place for a run on this node.
    pub(super) async fn here(&self) -> Placement {
        let slot = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("it is open");
        Placement::Here(self.node.clone(), slot)
    }

    /// The runs that this node owns.
    pub(super) async fn owned(&self) -> Vec<RunId> {
        self.store.heartbeat(self.node.id, 1, 0).await.expect("the node lives").owned
    }

    pub(super) async fn run(&self) -> RunId {
        self.runs(1).await[0]
    }

    pub(super) async fn open(&self, run: RunId) -> Pen {
        let row = self.store.load(run).await.expect("it is read").expect("it is there");
        self.journal.open(&self.node, run, row.last_seq, 0).await.expect("it is opened")
    }

    /// Appends with every pen before the loops run, so that all goes into one batch as far as it
    /// fits; then starts them.
    pub(super) async fn append_all(
        &mut self,
        pens: &mut [Pen],
        drafts: impl Fn(RunId) -> Vec<Draft>,
    ) -> Vec<Result<Committed, Refused>> {
        let mut appends: Vec<_> = pens
            .iter_mut()
            .map(|pen| Box::pin(pen.append(drafts(pen.run), Effects::default())))
            .collect();
        for append in &mut appends {
            assert!(is_pending(append).await);
        }
        self.start();
        let mut answers = Vec::new();
        for append in appends {
            answers.push(append.await);
        }
        answers
    }

    pub(super) async fn log(&self, run: RunId) -> Vec<Event> {
        log(&self.store, run).await
    }

    pub(super) async fn transcript(&self, run: RunId) -> Vec<String> {
        self.log(run).await[1..].iter().map(|event| words(&event.body)).collect()
    }
}

/// What is left of a bench whose loops have ended.
pub(super) struct Stopped {
    store: Store,
    _folder: Folder,
}

impl Stopped {
    pub(super) async fn log(&self, run: RunId) -> Vec<Event> {
        log(&self.store, run).await
    }
}

async fn log(store: &Store, run: RunId) -> Vec<Event> {
    let stored = store.events(run, Seq(0), 100_000).await.expect("the log is read");
    stored
        .iter()
        .map(|one| {
            let event: Event = serde_json::from_str(&one.data).expect("it is an event");
            assert_eq!(event.seq, one.seq, "the text and the row say the same place");
            event
        })
        .collect()
}

/// A body in short.
pub(super) fn words(body: &Body) -> String {
    match body {
        Body::Text { item, content } => format!("{item}:{content}"),
        Body::Log { message, .. } => message.clone(),
        other => other.name().to_owned(),
    }
}

/// Joins neighbouring texts of one item: how they were cut into events depends on the commits.
pub(super) fn joined(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    for word in words {
        match (joined.last_mut(), word.split_once(':')) {
            (Some(last), Some((item, content))) if last.starts_with(&format!("{item}:")) => {
                last.push_str(content);
            }
            (_, _) => joined.push(word),
        }
    }
    joined
}

/// Polls once: whether it waits for something.
pub(super) async fn is_pending<F: Future>(future: &mut Pin<Box<F>>) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = std::future::ready(()) => true,
    }
}

pub(super) fn intent() -> Create {
    let id = RunId(uuid::Uuid::now_v7());
    Create {
        id,
        public_id: id.to_string(),
        tenant: "default".to_owned(),
        keys: Vec::new(),
        digest: "digest".to_owned(),
        owner: None,
        agent: None,
        model: "demo/assistant".to_owned(),
        created_by: "local".to_owned(),
        created_at_ms: 0,
        input_preview: String::new(),
        metadata: "{}".to_owned(),
        spec: "{}".to_owned(),
        events: Vec::new(),
    }
}

pub(super) fn text(item: u32, content: &str) -> Text {
    let (content, provider_metadata) = (content.to_owned(), None);
    Text { turn: 1, attempt: 1, item, is_reasoning: false, content, provider_metadata }
}

fn draft(body: Body) -> Draft {
    Draft { turn: 1, attempt: 1, body }
}

pub(super) fn note(number: usize) -> Draft {
    draft(Body::Log {
        level: "info".to_owned(),
        message: format!("note {number}"),
        data: serde_json::Value::Null,
    })
}

pub(super) fn start() -> Draft {
    draft(Body::TurnStarted { model: "m".to_owned(), request_sha256: String::new() })
}

pub(super) fn ended(run: RunId) -> Draft {
    draft(Body::RunCompleted {
        run_id: run.to_string(),
        result: RunResult {
            final_output: None,
            output: None,
            stop_reason: "completed".to_owned(),
            error: None,
            usage: Usage::default(),
            turn_count: 0,
            elapsed_time: 0.0,
            variables: serde_json::Map::new(),
        },
    })
}

pub(super) fn updated(status: Status) -> Effects {
    let update = RunUpdate { status, stop_reason: None, output_preview: None, at_ms: 0 };
    Effects { update: Some(update), ..Effects::default() }
}

#[test]
fn times_are_told_to_the_millisecond() {
    assert_eq!(timestamp(1_700_000_000_001), "2023-11-14T22:13:20.001Z");
    assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
}
