//! Where facts live: all SQL, and only SQL. About a dozen coarse, batched operations.
//!
//! Everything written goes through [`Store::create`] and [`Store::append`] (both called by the
//! journal alone), the inbox, and the owner-less moves: claim and rescue. No operation can be left
//! half done by dropping its future: each write is one transaction in a task of its own.

mod batches;
mod clients;
mod listing;
#[cfg(feature = "testing")]
pub mod memory;
pub mod postgres;
mod rows;
pub mod sqlite;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

pub use batches::*;
pub use listing::*;
#[cfg(feature = "testing")]
pub use memory::Memory;
pub use postgres::{Listen, Postgres, PostgresOptions};
pub use rows::*;
pub use sqlite::Sqlite;

use clients::Reader;

use crate::run::id::is_client_id;
use crate::run::{RunId, Seq};

/// A page of events ends here: a client reads on, and no answer fills the memory.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What can go wrong in a store, by what the caller does about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// This node has been declared dead: it must stop all its runs.
    #[error("this node's ownership has ended")]
    Fenced,
    /// A value was refused as data: the batch is split, and the run that has it fails alone.
    #[error("the store refused the data: {0}")]
    Data(String),
    /// It may work later. Whether it was committed is not known: creates and batches of appends can
    /// be sent again, and whatever else was done shows in a later read.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored can't be read.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// The store of this installation.
#[derive(Clone, Debug)]
pub enum Store {
    /// One file, one node.
    Sqlite(Sqlite),
    /// One database, several nodes.
    Postgres(Arc<Postgres>),
    /// What a simulation holds in memory, for several nodes.
    #[cfg(feature = "testing")]
    Memory(Memory),
}

/// The same of whichever store it is.
macro_rules! of {
    ($this:expr, $store:ident => $what:expr) => {
        match $this {
            Store::Sqlite($store) => $what,
            Store::Postgres($store) => $what,
            #[cfg(feature = "testing")]
            Store::Memory($store) => $what,
        }
    };
}
use of;

impl Store {
    /// Opens (and makes, and migrates) the embedded store in a folder, and locks it for this process.
    ///
    /// # Errors
    /// Where the folder can't be made or another process has it.
    pub async fn open_sqlite(folder: &Path) -> anyhow::Result<Store> {
        Ok(Store::Sqlite(Sqlite::open(folder).await?))
    }

    /// Opens the store of several nodes, and brings its schema up to date.
    ///
    /// # Errors
    /// Where the database can't be reached, isn't ours, or is of a newer release: they say what to do.
    pub async fn open_postgres(options: PostgresOptions) -> anyhow::Result<Store> {
        Ok(Store::Postgres(Arc::new(Postgres::open(options).await?)))
    }

    /// Brings the schema of a database up to date, and does nothing else.
    ///
    /// # Errors
    /// As those of [`Store::open_postgres`].
    pub async fn migrate_postgres(url: &str) -> anyhow::Result<()> {
        postgres::migrate(url).await
    }

    /// What kind it is, for anybody: `/readyz` says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Store::Sqlite(_) => "SQLite (one node)",
            Store::Postgres(_) => "PostgreSQL",
            #[cfg(feature = "testing")]
            Store::Memory(_) => "memory",
        }
    }

    /// What it is and where, for the operator: the start line says it.
    pub fn describe(&self) -> String {
        of!(self, store => store.describe())
    }

    /// The store's time, milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        match self {
            Store::Sqlite(_) => jiff::Timestamp::now().as_millisecond(),
            Store::Postgres(store) => store.now_ms(),
            #[cfg(feature = "testing")]
            Store::Memory(store) => store.now_ms(),
        }
    }

    /// How far this machine's wall clock is ahead of the store's, milliseconds, when last looked at.
    pub fn clock_skew_ms(&self) -> i64 {
        match self {
            Store::Sqlite(_) => 0,
            Store::Postgres(store) => store.clock_skew_ms(),
            #[cfg(feature = "testing")]
            Store::Memory(store) => store.clock_skew_ms(),
        }
    }

    /// Why nothing can be written at the moment though what is there can be read: the disk is full,
    /// say. A database that is away tells it by its heartbeats.
    pub fn trouble(&self) -> Option<String> {
        if let Store::Sqlite(store) = self { store.trouble() } else { None }
    }

    /// What has to be done about once an hour, so that there is room for the days to come.
    ///
    /// # Errors
    /// Where there will be none: without today's, no run can be created.
    pub async fn maintain(&self) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(_) => Ok(()),
            Store::Postgres(store) => store.maintain().await,
            #[cfg(feature = "testing")]
            Store::Memory(store) => store.maintain().await,
        }
    }

    /// Makes a new node row and takes over what dead nodes left: their runs are queued again.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn register(&self, name: &str) -> Result<(NodeId, Rescued), StoreError> {
        of!(self, store => store.register(name).await)
    }

    /// Ends this node's ownership: every run that it still has is queued for whoever comes next, and
    /// no crash is counted.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn hand_over(&self, node: NodeId) -> Result<u64, StoreError> {
        of!(self, store => store.hand_over(node).await)
    }

    /// Creates runs, each with its keys and first events, in one transaction. A create that is sent
    /// again, because nobody knows whether it was committed, is the same run.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn create(&self, batch: Vec<Create>) -> Result<Vec<Created>, StoreError> {
        of!(self, store => store.create(batch).await)
    }

    /// Creates a batch: its key, its row and all its runs, or nothing. One that is sent again, because
    /// nobody knows whether it was committed, is the same batch.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn create_batch(&self, batch: Arc<CreateBatch>) -> Result<BatchCreated, StoreError> {
        of!(self, store => store.create_batch(batch).await)
    }

    /// Appends to runs that this node owns, in one transaction. A run that it doesn't own is refused
    /// alone.
    ///
    /// Whoever can't know whether a batch was committed sends it again under its number: where it
    /// was, nothing is done and the answer is the first one's; where it was not, it is now. A batch
    /// below the last number is refused as data, so that one that was delayed can't come in late.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn append(
        &self,
        node: NodeId,
        number: BatchNumber,
        batch: Arc<Vec<Append>>,
    ) -> Result<Vec<Appended>, StoreError> {
        of!(self, store => store.append(node, number, batch).await)
    }

    /// Takes due runs from the queue: up to `slots` to drive, and those with inbox news besides. Of
    /// several nodes each takes its share by free slots.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn claim(&self, node: NodeId, slots: u32) -> Result<Claims, StoreError> {
        of!(self, store => store.claim(node, slots).await)
    }

    /// How long a node's ownership lasts from one heartbeat on; none where a node is alone, and
    /// owns its runs until its process ends.
    pub fn lease(&self) -> Option<Duration> {
        match self {
            Store::Sqlite(_) => None,
            Store::Postgres(store) => Some(store.lease()),
            #[cfg(feature = "testing")]
            Store::Memory(store) => Some(store.lease()),
        }
    }

    /// Renews this node's lease, says how many of its slots are in use, and tells what it owns, where
    /// that is found in time: a run of it that has no driver was lost between two steps.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn heartbeat(&self, node: NodeId, slots: u32, busy: u32) -> Result<Beat, StoreError> {
        match self {
            Store::Sqlite(store) => store.heartbeat(node).await,
            Store::Postgres(store) => store.heartbeat(node, slots, busy).await,
            #[cfg(feature = "testing")]
            Store::Memory(store) => store.heartbeat(node, slots, busy).await,
        }
    }

    /// Takes over what nodes left whose lease has ended: their runs are queued again. Where a node is
    /// alone, there are none but at its start.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn rescue(&self, node: NodeId) -> Result<Rescued, StoreError> {
        match self {
            Store::Sqlite(_) => Ok(Rescued::default()),
            Store::Postgres(store) => store.rescue(node).await,
            #[cfg(feature = "testing")]
            Store::Memory(store) => store.rescue(node).await,
        }
    }

    /// How far each of these runs is committed. A run that is not told is not there any more.
    pub async fn positions(&self, runs: Vec<RunId>) -> Result<Vec<(RunId, Seq)>, StoreError> {
        of!(self, store => store.positions(&runs).await)
    }

    /// Tells the other nodes. A hint: it may be lost.
    ///
    /// # Cancel safety
    /// Dropping it may lose the notices.
    pub async fn notify(&self, node: NodeId, notices: Vec<Notice>) -> Result<(), StoreError> {
        match self {
            Store::Sqlite(_) => Ok(()),
            Store::Postgres(store) => store.notify(node, notices).await,
            #[cfg(feature = "testing")]
            Store::Memory(store) => store.notify(node, notices).await,
        }
    }

    /// Waits for what other nodes tell this one; for ever where there are no others, or where the
    /// operator has turned it off.
    ///
    /// # Errors
    /// Where it can't be heard now: it is asked again after a while, and then says
    /// [`Heard::Missed`] first.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing that was not told.
    pub async fn hear(&self, node: NodeId) -> Result<Heard, StoreError> {
        match self {
            Store::Sqlite(_) => std::future::pending().await,
            Store::Postgres(store) => store.hear(node).await,
            #[cfg(feature = "testing")]
            Store::Memory(store) => store.hear(node).await,
        }
    }

    /// Lets go of a run that has not ended and queues it. A run that this node doesn't own is left
    /// as it is.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn requeue(&self, node: NodeId, run: RunId, why: LetGo) -> Result<(), StoreError> {
        of!(self, store => store.requeue(node, run, why).await)
    }

    /// Leaves something in a run's inbox and wakes its owner, or queues it where it has none.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn leave(
        &self,
        tenant: &str,
        run: RunId,
        note: InboxNote,
    ) -> Result<Left, StoreError> {
        of!(self, store => store.leave(tenant, run, note).await)
    }

    /// Leaves the same note in the inboxes of several runs, in one transaction; answers in their order.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn leave_all(
        &self,
        tenant: &str,
        runs: Vec<RunId>,
        note: InboxNote,
    ) -> Result<Vec<Left>, StoreError> {
        of!(self, store => store.leave_all(tenant, runs, note).await)
    }

    /// Erases a run that has ended, with its log and its keys; with the last run of a batch, the
    /// batch.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn purge(&self, tenant: &str, run: RunId) -> Result<Purged, StoreError> {
        of!(self, store => store.purge(tenant, run).await)
    }

    /// The inbox rows that the owner has not read, in order.
    pub async fn inbox(&self, run: RunId) -> Result<Vec<InboxRow>, StoreError> {
        of!(self, store => store.inbox(run).await)
    }

    /// Events of a run behind `after`, in order, at most `limit` and about 4 MiB.
    pub async fn events(
        &self,
        run: RunId,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.events_within(run, after, limit, PAGE_BYTES).await
    }

    /// The same, but the page ends with the event that fills so many bytes.
    pub async fn events_within(
        &self,
        run: RunId,
        after: Seq,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        of!(self, store => store.events(run, after, limit, bytes).await)
    }

    /// The last `limit` events below `before` that `types` lets pass, in ascending order.
    pub async fn events_before(
        &self,
        run: RunId,
        before: Seq,
        limit: u32,
        types: &TypeFilter,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        of!(self, store => store.events_before(run, before, limit, types).await)
    }

    /// What a driver needs to fold: everything but the deltas of turns that have ended.
    pub async fn log_for_fold(&self, run: RunId) -> Result<Vec<StoredEvent>, StoreError> {
        of!(self, store => store.log_for_fold(run, Reader::Driver).await)
    }

    /// Which run a client means: by our id, whether there is one or not, or by one of its own choosing.
    pub async fn resolve(&self, tenant: &str, name: &str) -> Result<Option<RunId>, StoreError> {
        match (name.parse::<RunId>(), self) {
            (Ok(run), _) => Ok(Some(run)),
            (Err(_), _) if !is_client_id(name) => Ok(None),
            (Err(_), this) => of!(this, store => store.named(tenant, name).await),
        }
    }

    /// The run that a client means: by our id, or by one of its own choosing.
    pub async fn find(&self, tenant: &str, name: &str) -> Result<Option<RunRow>, StoreError> {
        of!(self, store => store.find(tenant, name).await)
    }

    /// A run's row, for its owner.
    pub async fn load(&self, run: RunId) -> Result<Option<RunRow>, StoreError> {
        of!(self, store => store.load(run, Reader::Driver).await)
    }

    /// How many queued runs come before this one, and itself: 1 is next. None where it isn't queued,
    /// or stands behind [`PLACES`].
    pub async fn queue_position(&self, run: RunId) -> Result<Option<u64>, StoreError> {
        of!(self, store => store.queue_position(run).await)
    }

    /// The newest runs that pass the filter, at most `limit`. It reads no log.
    pub async fn list(
        &self,
        tenant: &str,
        filter: &Filter,
        limit: u32,
    ) -> Result<Vec<Listed>, StoreError> {
        of!(self, store => store.list(tenant, filter, limit).await)
    }

    /// A batch and its runs.
    pub async fn batch(
        &self,
        tenant: &str,
        batch: BatchId,
    ) -> Result<Option<BatchRow>, StoreError> {
        of!(self, store => store.batch(tenant, batch).await)
    }

    /// What this installation keeps to itself under this name: what it had, else `candidate`, from
    /// now on.
    ///
    /// # Cancel safety
    /// Dropping it loses the answer only: what has begun is done whole or not at all.
    pub async fn secret(
        &self,
        name: &'static str,
        candidate: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        of!(self, store => store.secret(name, candidate).await)
    }

    /// How many runs wait and how many have an owner.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        of!(self, store => store.counts().await)
    }

    /// Runs that have not ended and that nobody has: no living node owns them, and they don't wait in
    /// the queue. For a moment that may be so, for longer never. Looks at the oldest [`STRANDED_LOOK`].
    pub async fn stranded(&self) -> Result<Vec<RunId>, StoreError> {
        of!(self, store => store.stranded().await)
    }

    /// Ends the store's connections after what is under way.
    pub async fn close(&self) {
        of!(self, store => store.close().await)
    }
}

/// Labels of a run, as stored.
pub type Metadata = Map<String, Value>;
