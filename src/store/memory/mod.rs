//! The store of a simulation: one database in memory, which several nodes open, with the ownership of
//! the store on PostgreSQL, a clock that the simulation moves, and a way to it on which things go wrong.
//!
//! Each operation is one closure under one lock. A statement that was sent is a task of its own, as
//! at the edge to PostgreSQL: it may be carried out long after whoever sent it has given up or died.

mod batch;
mod claim;
mod create;
mod journal;
mod link;
mod list;
mod notices;
mod ownership;
mod read;
mod tables;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use link::{Link, Op, Sound, Trip};

use super::{Store, StoreError};
use crate::run::RunId;
use crate::store::{NodeId, RunRow, StoredEvent};
use notices::Ear;
use tables::Tables;

/// What the clock of a new database says: 2026-01-01, in milliseconds since 1970.
const BEGINNING_MS: i64 = 1_767_225_600_000;

/// Protections that are switched off, so that a simulation must find what follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// A node that was declared dead may append and claim, and a run's owner is not asked for.
    pub has_no_fence: bool,
    /// A run may end though its inbox has news.
    pub has_no_inbox_guard: bool,
    /// A batch of appends is taken whatever its number.
    pub has_no_batch_numbers: bool,
    /// Turns and tools may start after an accepted cancel.
    pub starts_after_cancel: bool,
    /// An append whose answer is lost, or that is refused, is told as committed.
    pub acknowledges_early: bool,
    /// A create that is sent again under its key is another run.
    pub forgets_keys: bool,
}

/// One database. Nodes open it, each by a handle of its own.
#[derive(Debug)]
pub struct Database {
    tables: Mutex<Tables>,
    began: Instant,
    /// By how much its clock was put forward, milliseconds.
    skew_ms: AtomicI64,
    ears: Mutex<Vec<Weak<Ear>>>,
    flaws: Flaws,
    refused: AtomicU64,
}

/// What of a run is left beside its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Its owner.
    pub owner: Option<NodeId>,
    /// Whether it stands in the queue.
    pub is_queued: bool,
    /// How many rows its inbox has.
    pub inbox_rows: usize,
}

impl Database {
    /// An empty one, with these protections off.
    pub fn new(flaws: Flaws) -> Arc<Database> {
        Arc::new(Database {
            tables: Mutex::default(),
            began: Instant::now(),
            skew_ms: AtomicI64::new(0),
            ears: Mutex::default(),
            flaws,
            refused: AtomicU64::new(0),
        })
    }

    /// A node's way to it. Leases last so long; what goes wrong on the way is the link's.
    pub fn open(self: &Arc<Database>, lease: Duration, link: Arc<dyn Link>) -> Store {
        Store::Memory(Memory {
            database: Arc::clone(self),
            lease,
            link,
            skew_ms: Arc::new(AtomicI64::new(self.skew_ms.load(Ordering::Relaxed))),
            ear: self.listen(),
            is_closed: Arc::default(),
        })
    }

    /// Its time, milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        let passed = i64::try_from(self.began.elapsed().as_millis()).expect("no test is that long");
        BEGINNING_MS + passed + self.skew_ms.load(Ordering::Relaxed)
    }

    /// Puts its clock forward by so much, or back.
    pub fn put_clock(&self, by_ms: i64) {
        self.skew_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// How many statements were refused because their node was dead or did not own the run.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Every lease has ended.
    pub fn end_leases(&self) {
        self.carry_out(|tables, _| {
            tables.leases.values_mut().for_each(|lease| lease.until_ms = i64::MIN);
        });
    }

    /// Puts a run that waits off until then.
    pub fn put_off(&self, run: RunId, until_ms: i64) {
        self.carry_out(|tables, _| {
            if let Some(queued) = tables.queue.get_mut(&run) {
                queued.run_at_ms = until_ms;
            }
        });
    }

    /// All runs, in the order of their ids.
    pub fn runs(&self) -> Vec<RunId> {
        self.carry_out(|tables, _| tables.runs.keys().copied().collect())
    }

    /// A run's row.
    pub fn row(&self, run: RunId) -> Option<RunRow> {
        self.carry_out(|tables, _| tables.runs.get(&run).map(|row| row.to_run_row(run)))
    }

    /// A run's log.
    pub fn log(&self, run: RunId) -> Vec<StoredEvent> {
        self.carry_out(|tables, _| {
            tables.runs.get(&run).map_or_else(Vec::new, |row| row.log.clone())
        })
    }

    /// What of a run is left beside its log.
    pub fn remains(&self, run: RunId) -> Option<Remains> {
        self.carry_out(|tables, _| {
            let row = tables.runs.get(&run)?;
            let is_queued = tables.queue.contains_key(&run);
            Some(Remains { owner: row.node, is_queued, inbox_rows: row.inbox.len() })
        })
    }

    /// The runs that a node owns, each with its crashes.
    pub fn owned(&self, node: NodeId) -> Vec<(RunId, u32)> {
        self.carry_out(|tables, _| {
            tables.owned(node).map(|(run, row)| (run, row.crashes)).collect()
        })
    }

    /// One transaction: nobody sees the half of it. What fails has changed nothing.
    fn carry_out<T>(&self, work: impl FnOnce(&mut Tables, i64) -> T) -> T {
        let now_ms = self.now_ms();
        work(&mut self.tables.lock().expect("nothing panics while it is held"), now_ms)
    }

    fn count_refused(&self, refused: u64) {
        self.refused.fetch_add(refused, Ordering::Relaxed);
    }
}

/// One node's handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Memory {
    database: Arc<Database>,
    lease: Duration,
    link: Arc<dyn Link>,
    /// By how much the database's clock was put forward, as far as this node knows.
    skew_ms: Arc<AtomicI64>,
    ear: Arc<Ear>,
    is_closed: Arc<AtomicBool>,
}

impl Memory {
    /// By the database's last answer to a heartbeat, and the time since.
    pub(super) fn now_ms(&self) -> i64 {
        let known = self.skew_ms.load(Ordering::Relaxed);
        self.database.now_ms() - self.database.skew_ms.load(Ordering::Relaxed) + known
    }

    pub(super) fn clock_skew_ms(&self) -> i64 {
        -self.skew_ms.load(Ordering::Relaxed)
    }

    fn learn_clock(&self) {
        self.skew_ms.store(self.database.skew_ms.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    pub(super) fn describe(&self) -> String {
        "memory".to_owned()
    }

    pub(super) async fn maintain(&self) -> Result<(), StoreError> {
        Ok(())
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.run(Op::Read, |_, _| Ok(())).await
    }

    pub(super) async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Sends one operation. It is carried out to its end, whatever becomes of the caller.
    async fn run<T, F>(&self, op: Op, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tables, i64) -> Result<T, StoreError> + Send + 'static,
    {
        let away = |words: &str| Err(StoreError::Unavailable(words.to_owned()));
        if self.is_closed.load(Ordering::Relaxed) {
            return away("the store is closed");
        }
        let answer = match self.link.go(op).await {
            Trip::DIRECT => self.database.carry_out(work),
            Trip::Done { out, back } => {
                let done = self.send(out, work).await;
                pause(back).await;
                done
            }
            Trip::Lost { out, told_after } => {
                drop(self.send(out, work));
                pause(told_after).await;
                away("its answer was lost")
            }
            Trip::Refused { told_after } => {
                pause(told_after).await;
                away("it can't be reached")
            }
        };
        self.link.come(op).await;
        answer
    }

    /// In a task that nobody joins: a database goes on with what it was sent.
    fn send<T, F>(
        &self,
        out: Duration,
        work: F,
    ) -> impl Future<Output = Result<T, StoreError>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tables, i64) -> Result<T, StoreError> + Send + 'static,
    {
        let database = Arc::clone(&self.database);
        let sent = tokio::spawn(async move {
            pause(out).await;
            database.carry_out(work)
        });
        async move { sent.await.unwrap_or_else(|ended| Err(StoreError::Data(ended.to_string()))) }
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
