//! The one door through which facts become durable: creates and appends, each lane committing all
//! that the node has waiting in one transaction.
//!
//! The contract: what a driver pushes or appends has its place behind everything that it pushed or
//! appended before; an append's answer comes after its commit, with every event committed since the
//! last answer; and the hub knows of a commit before any answer does.

mod batch;
mod creator;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use uuid::ContextV7;

pub use batch::Text;
pub use creator::Creator;
pub use writer::Writer;

use crate::hub::Hub;
use crate::run::{Draft, Event, RunId, Seq};
use crate::store::{
    BatchCreated, BatchId, Create, CreateBatch, Node, NodeId, RunUpdate, Shown, Store, StoredRun,
};

/// How many pushes and appends may wait for the writer before callers wait for room: some thousand
/// runs with a few deltas each.
const QUEUE_MAX: usize = 4096;

/// How many creates may wait before callers wait for room.
const CREATES_MAX: usize = 1024;

/// By how much the store's clock may go back before it is followed: less is drift, and is waited out.
const CLOCK_BACK_MS_MAX: i64 = 60_000;

/// The door. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    creates: mpsc::Sender<creator::Job>,
    appends: mpsc::Sender<writer::Job>,
    clock: Arc<Clock>,
    pens: Arc<AtomicU64>,
    /// Counts the ids of one millisecond, so that they keep the order in which they were made.
    ids: Arc<Mutex<ContextV7>>,
}

/// Tells a run's pen from one that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PenId(u64);

/// The loops that carry out what comes through the door; `app` runs and joins them. They end when
/// the last handle is dropped, after everything that waits.
#[derive(Debug)]
pub struct Loops {
    /// The append lane.
    pub writer: Writer,
    /// The create lane.
    pub creator: Creator,
}

/// What the create lane tells the workers.
#[derive(Debug)]
pub enum NewRun {
    /// Born running here, on this node, with its slot.
    Born {
        /// This node.
        node: NodeId,
        /// The run.
        run: RunId,
        /// The run as it was committed a moment ago, where nobody can have done anything to it since.
        fresh: Option<Arc<StoredRun>>,
        /// Its slot.
        permit: OwnedSemaphorePermit,
    },
    /// Queued: somebody may claim it.
    Queued,
}

/// Where a new run goes.
#[derive(Debug)]
pub enum Placement {
    /// To this node at once, with this slot.
    Here(Node, OwnedSemaphorePermit),
    /// Into the queue.
    Queue,
}

/// The answer to a create.
#[derive(Clone, Debug, PartialEq)]
pub enum Intent {
    /// The run is new.
    New {
        /// As it was committed.
        run: Arc<StoredRun>,
        /// It is this node's, and waits in no queue.
        is_born: bool,
    },
    /// The same intent was there already.
    Existing(RunId),
    /// One of its keys belongs to another intent.
    Conflict,
}

impl Intent {
    /// The run that it is; none where there is a conflict.
    pub fn run(&self) -> Option<RunId> {
        match self {
            Intent::New { run, .. } => Some(run.row.id),
            Intent::Existing(run) => Some(*run),
            Intent::Conflict => None,
        }
    }
}

/// Why the journal doesn't take something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The store is away, or the service is stopping; nothing was committed.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// This node doesn't own the run (any more), or owns nothing any more.
    #[error("this node does not own the run")]
    NotOwner,
    /// The store refused the data of this run.
    #[error("the store refused the data: {0}")]
    Poisoned(String),
    /// The inbox has rows that the run has not read: nothing was committed.
    #[error("the inbox has news")]
    InboxNews,
}

/// An append's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Everything committed since the last answer, in order.
    pub events: Vec<Event>,
    /// A cancel had been accepted: the starts at the end were left out.
    pub starts_refused: bool,
}

/// What goes with the events of an append.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// The inbox is read up to here.
    pub inbox_read: Option<i64>,
    /// Refuse all of it where the inbox has rows beyond this.
    pub only_if_inbox_n: Option<i64>,
    /// How the run's row changes. Its time is filled in by the journal.
    pub update: Option<RunUpdate>,
    /// What lists show of the run from now on.
    pub shown: Shown,
}

/// Milliseconds since 1970 by the store's clock, going back only where that was put back by a lot.
#[derive(Debug)]
struct Clock {
    store: Store,
    last: AtomicI64,
}

impl Clock {
    fn now_ms(&self) -> i64 {
        let now = self.store.now_ms();
        let last = self.last.fetch_max(now, Ordering::Relaxed).max(now);
        if last - now <= CLOCK_BACK_MS_MAX {
            return last;
        }
        // The store's clock was wrong, and is put right.
        self.last.store(now, Ordering::Relaxed);
        now
    }
}

/// RFC 3339 UTC with milliseconds.
pub fn timestamp(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Makes the door and the loops behind it. `new_runs` hears of every new run after its commit.
pub fn journal(store: Store, hub: Hub, new_runs: mpsc::Sender<NewRun>) -> (Journal, Loops) {
    let clock = Arc::new(Clock { store: store.clone(), last: AtomicI64::new(0) });
    let (creates, create_jobs) = mpsc::channel(CREATES_MAX);
    let (appends, append_jobs) = mpsc::channel(QUEUE_MAX);
    let creator =
        Creator::new(store.clone(), hub.clone(), Arc::clone(&clock), create_jobs, new_runs);
    let writer = Writer::new(store, hub, Arc::clone(&clock), append_jobs);
    let pens = Arc::new(AtomicU64::new(0));
    let ids = Arc::new(Mutex::new(ContextV7::new()));
    (Journal { creates, appends, clock, pens, ids }, Loops { writer, creator })
}

impl Journal {
    /// Creates a run: its keys, its row and its first event in one commit.
    ///
    /// # Cancel safety
    /// Dropping it before the lane has taken it means that nothing is created; later, only the
    /// answer is lost.
    pub async fn create(
        &self,
        create: Create,
        queued: Draft,
        placement: Placement,
    ) -> Result<Intent, Refused> {
        let (answer, answered) = oneshot::channel();
        let job = creator::RunJob { create, queued, placement, answer };
        let job = creator::Job::One(Box::new(job));
        let gone = || Refused::Unavailable("the service is stopping".to_owned());
        self.creates.send(job).await.map_err(|_closed| gone())?;
        answered.await.map_err(|_dropped| gone())?
    }

    /// Creates a batch of runs, each with the first event of its place: all in one commit, or none.
    ///
    /// # Cancel safety
    /// Dropping it before the lane has taken it means that nothing is created; later, only the
    /// answer is lost.
    pub async fn create_batch(
        &self,
        batch: CreateBatch,
        queued: Vec<Draft>,
    ) -> Result<BatchCreated, Refused> {
        assert_eq!(batch.runs.len(), queued.len(), "each run has its first event");
        let (answer, answered) = oneshot::channel();
        let job = creator::BatchJob { batch, queued, answer };
        let job = creator::Job::Batch(Box::new(job));
        let gone = || Refused::Unavailable("the service is stopping".to_owned());
        self.creates.send(job).await.map_err(|_closed| gone())?;
        answered.await.map_err(|_dropped| gone())?
    }

    /// Opens a run that this node owns for appending behind `head`. One pen at a time for a run: where
    /// there are two, neither writes any more. The first pen of a later node ends all those before.
    ///
    /// # Cancel safety
    /// Dropping it before there is room opens nothing; later, the run is to be closed with
    /// [`Journal::close`].
    pub async fn open(
        &self,
        node: &Node,
        run: RunId,
        head: Seq,
        last_at_ms: i64,
    ) -> Result<Pen, Refused> {
        let id = PenId(self.pens.fetch_add(1, Ordering::Relaxed));
        let job = writer::Job::Open { node: node.clone(), run, pen: id, head, last_at_ms };
        self.appends.send(job).await.map_err(|_closed| Refused::NotOwner)?;
        Ok(Pen { run, id, appends: self.appends.clone(), is_torn: false })
    }

    /// Closes a run whose pen was dropped without [`Pen::close`], as a driver that panics does. Like
    /// that, it returns when everything that was pushed or appended is committed or refused, and the
    /// writer has forgotten the run.
    ///
    /// # Cancel safety
    /// Dropping it before there is room closes nothing; later, only the answer is lost.
    pub async fn close(&self, run: RunId) {
        close(&self.appends, run).await;
    }

    /// A new run's id: a UUIDv7 by the store's clock.
    ///
    /// Each is above those before it, so that the order of ids is the order of creation.
    pub fn new_run_id(&self) -> RunId {
        RunId(self.new_id())
    }

    /// A new batch's id, of the same kind.
    pub fn new_batch_id(&self) -> BatchId {
        BatchId(self.new_id())
    }

    fn new_id(&self) -> uuid::Uuid {
        let ms = self.now_ms();
        let seconds = u64::try_from(ms.div_euclid(1000)).unwrap_or(0);
        let nanos = u32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap_or(0);
        let time = uuid::Timestamp::from_unix(&*self.ids, seconds, nanos);
        uuid::Uuid::new_v7(time)
    }

    /// The journal's time, milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }
}

/// A driver's hold on its run's log.
#[derive(Debug)]
pub struct Pen {
    run: RunId,
    id: PenId,
    appends: mpsc::Sender<writer::Job>,
    /// An append was dropped before its answer: whoever holds this pen no longer knows the log.
    is_torn: bool,
}

/// Closes a run and waits until the writer has forgotten it.
async fn close(appends: &mpsc::Sender<writer::Job>, run: RunId) {
    let (done, forgotten) = oneshot::channel();
    if appends.send(writer::Job::Close { run, done }).await.is_ok() {
        // A writer that ends before it answers has committed all that it had, and forgets all.
        let _ = forgotten.await;
    }
}

impl Pen {
    /// Puts text behind everything before. It is merged with what waits of the same item, and
    /// committed with the next batch; the next append tells how it went.
    ///
    /// # Cancel safety
    /// Dropping it before there is room means that the text was not taken.
    pub async fn push(&mut self, text: Text) -> Result<(), Refused> {
        assert!(!self.is_torn, "a pen whose append was dropped is dropped too");
        let job = writer::Job::Push { run: self.run, pen: self.id, text };
        self.appends.send(job).await.map_err(|_closed| Refused::NotOwner)
    }

    /// Puts events behind everything before, and answers after their commit.
    ///
    /// # Cancel safety
    /// Dropping it loses only the answer once the writer has taken it; whoever drops it must drop the
    /// pen too, and fold the log anew.
    pub async fn append(
        &mut self,
        drafts: Vec<Draft>,
        effects: Effects,
    ) -> Result<Committed, Refused> {
        assert!(!self.is_torn, "a pen whose append was dropped is dropped too");
        let starts = drafts.iter().position(|draft| draft.body.is_start());
        if let Some(starts) = starts {
            assert!(drafts[starts..].iter().all(|one| one.body.is_start()), "starts come last");
            let ends = effects.update.as_ref().is_some_and(|update| update.status.is_terminal());
            assert!(!ends, "a run that ends starts nothing");
        }
        // Written here, where other runs don't wait for it.
        let drafts = drafts.into_iter().map(batch::Written::new).collect();
        let (answer, answered) = oneshot::channel();
        let entry = writer::Entry { drafts, effects, answer };
        let job = writer::Job::Append { run: self.run, pen: self.id, entry };
        self.is_torn = true;
        let answer = match self.appends.send(job).await {
            Ok(()) => answered.await.unwrap_or(Err(Refused::NotOwner)),
            Err(_closed) => Err(Refused::NotOwner),
        };
        self.is_torn = false;
        answer
    }

    /// Ends the hold. It returns when everything that was pushed is committed or refused, and the
    /// writer has forgotten the run: only then may the run be let go, or be opened again.
    ///
    /// # Cancel safety
    /// Dropping it before there is room leaves the run open, to be closed with [`Journal::close`];
    /// later, only the answer is lost.
    pub async fn close(self) {
        close(&self.appends, self.run).await;
    }
}
