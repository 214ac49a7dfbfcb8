//! The tables, and what several operations do with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::run::{RunId, Seq, Status};
use crate::store::{Append, Appended, BatchId, Create, KeyKind, NodeId, RunRow, StoredEvent};

/// A tenant's key of one kind.
pub(super) type KeyName = (String, KeyKind, String);

#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Every node that there was, and whether it lives.
    pub(super) nodes: BTreeMap<NodeId, bool>,
    pub(super) leases: BTreeMap<NodeId, Lease>,
    /// Each node's last batch of appends.
    pub(super) last_batches: BTreeMap<NodeId, (u64, Vec<Appended>)>,
    pub(super) runs: BTreeMap<RunId, Run>,
    /// Which run, or which batch, a key names, and the digest of the body that it came with.
    pub(super) keys: BTreeMap<KeyName, (Uuid, String)>,
    pub(super) queue: BTreeMap<RunId, Queued>,
    pub(super) batches: BTreeMap<BatchId, Batch>,
    pub(super) secrets: BTreeMap<&'static str, Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) until_ms: i64,
    pub(super) slots: u32,
    pub(super) busy: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Inbox,
    Drive,
}

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) kind: Kind,
    pub(super) reason: String,
    pub(super) run_at_ms: i64,
    pub(super) crashes: u32,
}

#[derive(Debug)]
pub(super) struct Note {
    pub(super) n: i64,
    pub(super) dedupe_key: String,
    pub(super) kind: &'static str,
    pub(super) body: String,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) tenant: String,
    pub(super) metadata: String,
    pub(super) created_at_ms: i64,
}

/// A run's row, its inbox and its log.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) public_id: String,
    pub(super) tenant: String,
    pub(super) status: Status,
    pub(super) node: Option<NodeId>,
    /// Why it last waited for an owner.
    pub(super) reason: Option<String>,
    pub(super) crashes: u32,
    pub(super) inbox_n: i64,
    pub(super) inbox_read: i64,
    pub(super) turn_started_at_ms: Option<i64>,
    pub(super) agent: Option<String>,
    pub(super) model: String,
    pub(super) created_by: String,
    pub(super) created_at_ms: i64,
    pub(super) started_at_ms: Option<i64>,
    pub(super) finished_at_ms: Option<i64>,
    pub(super) cancel_at_ms: Option<i64>,
    pub(super) stop_reason: Option<String>,
    pub(super) input_preview: String,
    pub(super) output_preview: Option<String>,
    pub(super) metadata: String,
    pub(super) spec: Arc<str>,
    pub(super) batch: Option<BatchId>,
    pub(super) turn_count: u32,
    pub(super) usage: Option<String>,
    pub(super) error: Option<String>,
    pub(super) elapsed: Option<f64>,
    pub(super) inbox: Vec<Note>,
    pub(super) log: Vec<StoredEvent>,
}

impl Run {
    pub(super) fn of(create: &Create, batch: Option<BatchId>) -> Run {
        Run {
            public_id: create.public_id.clone(),
            tenant: create.tenant.clone(),
            status: Status::Queued,
            node: create.owner,
            reason: None,
            crashes: 0,
            inbox_n: 0,
            inbox_read: 0,
            turn_started_at_ms: None,
            agent: create.agent.clone(),
            model: create.model.clone(),
            created_by: create.created_by.clone(),
            created_at_ms: create.created_at_ms,
            started_at_ms: None,
            finished_at_ms: None,
            cancel_at_ms: None,
            stop_reason: None,
            input_preview: create.input_preview.clone(),
            output_preview: None,
            metadata: create.metadata.clone(),
            spec: Arc::from(create.spec.as_str()),
            batch,
            turn_count: 0,
            usage: None,
            error: None,
            elapsed: None,
            inbox: Vec::new(),
            log: create.events.clone(),
        }
    }

    pub(super) fn last_seq(&self) -> Seq {
        self.log.last().map_or(Seq(0), |event| event.seq)
    }

    pub(super) fn has_news(&self) -> bool {
        self.inbox_n > self.inbox_read
    }

    pub(super) fn to_run_row(&self, id: RunId) -> RunRow {
        RunRow {
            id,
            public_id: self.public_id.clone(),
            tenant: self.tenant.clone(),
            status: self.status,
            crashes: self.crashes,
            inbox_n: self.inbox_n,
            inbox_read: self.inbox_read,
            last_seq: self.last_seq(),
            created_by: self.created_by.clone(),
            created_at_ms: self.created_at_ms,
            started_at_ms: self.started_at_ms,
            finished_at_ms: self.finished_at_ms,
            turn_started_at_ms: self.turn_started_at_ms,
            cancel_at_ms: self.cancel_at_ms,
            batch: self.batch,
            spec: Arc::clone(&self.spec),
        }
    }

    /// Commits an append of which so many events are taken, and what goes with it.
    pub(super) fn take(&mut self, append: &Append, events: usize, is_whole: bool) {
        self.log.extend_from_slice(&append.events[..events]);
        self.inbox_read = append.inbox_read.unwrap_or(self.inbox_read);
        if append.reset_crashes {
            self.crashes = 0;
        }
        if is_whole {
            self.turn_started_at_ms = append.turn_started_at_ms.or(self.turn_started_at_ms);
        }
        if let Some(update) = &append.update {
            self.status = update.status;
            if update.stop_reason.is_some() {
                self.stop_reason.clone_from(&update.stop_reason);
            }
            if update.output_preview.is_some() {
                self.output_preview.clone_from(&update.output_preview);
            }
            if update.status.is_terminal() {
                self.finished_at_ms.get_or_insert(update.at_ms);
                self.node = None;
                self.inbox.clear();
            } else {
                self.started_at_ms.get_or_insert(update.at_ms);
            }
        }
        let shown = &append.shown;
        self.turn_count = shown.turn_count.unwrap_or(self.turn_count);
        self.elapsed = shown.elapsed.or(self.elapsed);
        for (mine, told) in [(&mut self.usage, &shown.usage), (&mut self.error, &shown.error)] {
            if told.is_some() {
                mine.clone_from(told);
            }
        }
        if let Some(metadata) = &shown.metadata {
            self.metadata.clone_from(metadata);
        }
    }
}

impl Tables {
    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        self.nodes.get(&node).copied().unwrap_or(false)
    }

    pub(super) fn owned(&self, node: NodeId) -> impl Iterator<Item = (RunId, &Run)> {
        let is_mine = move |(_, run): &(&RunId, &Run)| run.node == Some(node);
        self.runs.iter().filter(is_mine).map(|(id, run)| (*id, run))
    }

    /// Who waits in the queue, in its order.
    pub(super) fn in_order(&self) -> Vec<(RunId, &Queued)> {
        let mut waiting: Vec<_> = self.queue.iter().map(|(run, queued)| (*run, queued)).collect();
        waiting.sort_by_key(|(run, queued)| (queued.run_at_ms, *run));
        waiting
    }
}
