//! What goes into the store and comes out of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::BatchId;
use crate::run::{RunId, Seq, Status};

/// One start of one process; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub i64);

/// One life of one node: from its registration to the end of its ownership. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its name, for the log.
    pub name: Arc<str>,
    /// Cancelled when it owns nothing any more: whatever it drives has to stop.
    pub lost: CancellationToken,
}

impl Node {
    /// A node that was just registered, on a machine of this name.
    pub fn new(id: NodeId, machine: &str) -> Node {
        let name = Arc::from(format!("{machine}-{}", id.0));
        Node { id, name, lost: CancellationToken::new() }
    }
}

/// What `register` took over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Runs whose node died under them.
    pub crashed: u64,
    /// Runs that a clean stop handed over.
    pub handed_over: u64,
}

/// A key that a client gave an intent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its name space.
    pub kind: KeyKind,
    /// The key.
    pub key: String,
}

/// The two name spaces of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// The `Idempotency-Key` header.
    Idempotency,
    /// `config.run_id`.
    RunId,
}

impl KeyKind {
    /// As stored.
    pub fn name(self) -> &'static str {
        match self {
            KeyKind::Idempotency => "idempotency",
            KeyKind::RunId => "run_id",
        }
    }
}

/// A run to create.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are those of the table `runs`")]
pub struct Create {
    pub id: RunId,
    pub public_id: String,
    pub tenant: String,
    pub keys: Vec<Key>,
    /// SHA-256 of the request's body with sorted keys, hex.
    pub digest: String,
    /// The node on which it is born running, or none: then it is queued.
    pub owner: Option<NodeId>,
    pub agent: Option<String>,
    pub model: String,
    pub created_by: String,
    pub created_at_ms: i64,
    pub input_preview: String,
    pub metadata: String,
    pub spec: String,
    /// Its first events, from seq 1.
    pub events: Vec<StoredEvent>,
}

/// What became of a [`Create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It exists now.
    New,
    /// One of its keys names this run already, created from the same body.
    Existing(RunId),
    /// A key names a run that was created from another body, or two keys name two runs.
    Conflict,
    /// It should have been born on a node that is dead: create it queued.
    Fenced,
    /// Somebody who does not come to an end is binding one of its keys: nothing was done.
    Busy,
}

/// An event as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place.
    pub seq: Seq,
    /// The number of its type.
    pub kind: u8,
    /// Its JSON, byte for byte what clients get.
    pub data: Arc<str>,
}

/// What a node calls one of its batches of appends. Its numbers only go up: a batch that is sent
/// again under its number is the same batch, and is committed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchNumber(pub u64);

impl BatchNumber {
    /// The number after this one; a node's first is 1.
    pub fn next(self) -> BatchNumber {
        BatchNumber(self.0 + 1)
    }
}

/// What one run appends.
#[derive(Clone, Debug)]
pub struct Append {
    /// The run; its owner must be the appending node.
    pub run: RunId,
    /// The events, densely behind the run's head.
    pub events: Vec<StoredEvent>,
    /// Where the events that start something begin, if any do: they stand last, and are refused once
    /// a cancel has been accepted. What goes with the others is committed all the same.
    pub starts_at: Option<usize>,
    /// The inbox is read up to here with this append.
    pub inbox_read: Option<i64>,
    /// Refuse the whole append where the inbox has rows beyond this.
    pub only_if_inbox_n: Option<i64>,
    /// The run's new status and what goes with it.
    pub update: Option<RunUpdate>,
    /// The turn under way began with this append (milliseconds since 1970).
    pub turn_started_at_ms: Option<i64>,
    /// A turn was completed: the count of crashes begins anew.
    pub reset_crashes: bool,
    /// What lists show of the run from now on.
    pub shown: Shown,
}

impl Append {
    /// Nothing yet, for this run.
    pub fn to(run: RunId) -> Append {
        Append {
            run,
            events: Vec::new(),
            starts_at: None,
            inbox_read: None,
            only_if_inbox_n: None,
            update: None,
            turn_started_at_ms: None,
            reset_crashes: false,
            shown: Shown::default(),
        }
    }
}

/// What lists show of a run beside its status: an index over its log. What is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Committed turns.
    pub turn_count: Option<u32>,
    /// What was used, as JSON.
    pub usage: Option<String>,
    /// Why it failed, as JSON.
    pub error: Option<String>,
    /// Seconds that it took, once it has ended.
    pub elapsed: Option<f64>,
    /// Its labels, as JSON, whole: they can be searched for.
    pub metadata: Option<String>,
}

/// How a run's row changes with an append.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the table `runs`")]
pub struct RunUpdate {
    pub status: Status,
    pub stop_reason: Option<String>,
    pub output_preview: Option<String>,
    pub at_ms: i64,
}

/// What became of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Appended {
    /// All of it is committed.
    All,
    /// A cancel was accepted: everything before the starts is committed, the starts are not.
    StartsRefused,
    /// The inbox has news: nothing is committed.
    InboxNews,
    /// This node doesn't own the run: nothing is committed.
    NotOwner,
}

/// A run that this node owns from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The run.
    pub run: RunId,
    /// Whether it was claimed for its inbox only, beyond the free slots.
    pub for_inbox: bool,
    /// Why it was in the queue: `new`, `drain`, `crash`, `inbox`, `timer`.
    pub reason: String,
}

/// What a claim brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    /// The runs, in the order of the queue.
    pub runs: Vec<Claimed>,
    /// More may be due than was taken: for want of slots, or because it is others' share.
    pub is_more: bool,
}

/// A heartbeat's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Whether the store could tell what the node owns. Where not, the lease is renewed all the same,
    /// and the lists are empty.
    pub is_listed: bool,
    /// All runs that the node owns.
    pub owned: Vec<RunId>,
    /// Those of them whose inbox has rows that they have not read.
    pub news: Vec<RunId>,
}

/// What nodes tell each other. Each is a hint: what it says is also found by looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Notice {
    /// Something waits in the queue.
    Queued,
    /// A run of this node has news in its inbox.
    News(NodeId, RunId),
    /// A run is committed up to here.
    Committed(RunId, Seq),
    /// Somebody listens to a run: its owner tells of its commits for a while.
    Listened(RunId),
}

/// What was heard of other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Notices of a node, never of the one that listens.
    Notices(Vec<Notice>),
    /// Some may have been lost: look everywhere.
    Missed,
}

/// Why a node lets go of a run that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// It was claimed for its inbox, which is read; it waits for a slot as it did before.
    ForSlot,
    /// Its driver panicked: that counts as a crash.
    Crashed,
}

/// What a driver is told of a run at the start.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the table `runs`")]
pub struct RunRow {
    pub id: RunId,
    pub public_id: String,
    pub tenant: String,
    pub status: Status,
    pub crashes: u32,
    pub inbox_n: i64,
    pub inbox_read: i64,
    pub last_seq: Seq,
    pub created_by: String,
    pub created_at_ms: i64,
    pub started_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    pub turn_started_at_ms: Option<i64>,
    pub cancel_at_ms: Option<i64>,
    pub batch: Option<BatchId>,
    pub spec: Arc<str>,
}

/// A run as it is stored: its row, and what of its log it takes to fold it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRun {
    /// The row.
    pub row: RunRow,
    /// The log, but for the deltas of turns that have ended.
    pub log: Vec<StoredEvent>,
}

impl StoredRun {
    /// What a create that was just committed has stored: nobody needs to read it.
    pub fn of(create: Create) -> StoredRun {
        let row = RunRow {
            id: create.id,
            public_id: create.public_id,
            tenant: create.tenant,
            status: Status::Queued,
            crashes: 0,
            inbox_n: 0,
            inbox_read: 0,
            last_seq: create.events.last().map_or(Seq(0), |event| event.seq),
            created_by: create.created_by,
            created_at_ms: create.created_at_ms,
            started_at_ms: None,
            finished_at_ms: None,
            turn_started_at_ms: None,
            cancel_at_ms: None,
            batch: None,
            spec: Arc::from(create.spec),
        };
        StoredRun { row, log: create.events }
    }
}

/// Something left for a run's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxNote {
    /// What it is: `cancel`, `update`.
    pub kind: &'static str,
    /// The same key twice is one note.
    pub dedupe_key: String,
    /// JSON.
    pub body: String,
}

/// A note, numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the table `inbox`")]
pub struct InboxRow {
    pub n: i64,
    pub kind: String,
    pub body: String,
}

/// What became of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It is there; the owner to wake, if the run has one.
    Accepted(Option<NodeId>),
    /// The run has ended: nothing was left.
    Ended,
    /// Its inbox has had as many notes as it takes: nothing was left. A cancel always fits.
    Full,
    /// There is no such run.
    NoRun,
}

/// How many notes a run's inbox takes in all: each is an event of its log, and all of them, unread at
/// its end, must fit into the room that is kept there, `run::limits::LOG_RESERVE`.
pub const INBOX_NOTES: i64 = 256;

/// How many runs that have not ended a look for stranded ones goes through: what a look costs doesn't
/// grow with the queue, and those that nobody moves are among the oldest before long.
pub const STRANDED_LOOK: i64 = 10_000;

/// Runs that are not terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting for an owner.
    pub queued: u64,
    /// With an owner.
    pub owned: u64,
}

/// Which event types a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TypeFilter {
    /// All.
    #[default]
    All,
    /// Only these.
    Only(Vec<u8>),
    /// All but these.
    Without(Vec<u8>),
}

impl TypeFilter {
    /// Whether an event of this type passes.
    pub fn passes(&self, kind: u8) -> bool {
        match self {
            TypeFilter::All => true,
            TypeFilter::Only(kinds) => kinds.contains(&kind),
            TypeFilter::Without(kinds) => !kinds.contains(&kind),
        }
    }
}
