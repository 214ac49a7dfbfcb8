//! The append lane: collects what waits of all runs, commits it in one transaction, advances the
//! hub, answers. There is no linger: while one commit is under way the next batch forms by itself.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::batch::{self, Size, Text, Waiting, Written};
use super::{Clock, Committed, Effects, PenId, Refused, timestamp};
use crate::failpoint::{Step, reach};
use crate::hub::Hub;
use crate::run::{Body, Event, RunId, Seq};
use crate::store::{Append, Appended, BatchNumber, Node, Store, StoreError};

/// How many messages one batch takes from the channel; merged, they are far fewer events.
const BATCH_MAX: usize = 4096;

/// How long the writer waits before it asks an unavailable store again; doubled each time.
const DOUBT_WAIT: Duration = Duration::from_millis(20);

/// The longest such wait: a store that is back is used within a second.
const DOUBT_WAIT_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Job {
    Open { node: Node, run: RunId, pen: PenId, head: Seq, last_at_ms: i64 },
    Push { run: RunId, pen: PenId, text: Text },
    Append { run: RunId, pen: PenId, entry: Entry },
    Close { run: RunId, done: oneshot::Sender<()> },
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) drafts: Vec<Written>,
    pub(super) effects: Effects,
    pub(super) answer: oneshot::Sender<Result<Committed, Refused>>,
}

/// A run that has a pen.
#[derive(Debug)]
struct Open {
    pen: PenId,
    head: Seq,
    last_at_ms: i64,
    waiting: Waiting,
    entry: Option<Entry>,
    /// It stands in `ready`: once is enough.
    is_ready: bool,
    /// Who wait until it is forgotten: one, or two where a close was dropped and asked again.
    closing: Vec<oneshot::Sender<()>>,
    refused: Option<Refused>,
    /// Committed since the last answer.
    unanswered: Vec<Event>,
}

impl Open {
    fn new(pen: PenId, head: Seq, last_at_ms: i64) -> Open {
        Open {
            pen,
            head,
            last_at_ms,
            waiting: Waiting::default(),
            entry: None,
            is_ready: false,
            closing: Vec::new(),
            refused: None,
            unanswered: Vec::new(),
        }
    }

    /// An append that may be refused waits until the text before it is committed, so that its refusal
    /// takes no text with it.
    fn entry_waits(&self) -> bool {
        let is_guarded = |entry: &Entry| entry.effects.only_if_inbox_n.is_some();
        self.entry.as_ref().is_some_and(is_guarded) && !self.waiting.texts.is_empty()
    }

    /// How much of the next batch it takes.
    fn size(&self) -> Size {
        let mut size = self.waiting.size();
        if !self.entry_waits() {
            for draft in self.entry.iter().flat_map(|entry| &entry.drafts) {
                size += draft.size();
            }
        }
        size
    }

    fn is_idle(&self) -> bool {
        self.waiting.texts.is_empty() && self.entry.is_none()
    }
}

/// One run's part of a batch, as the store gets it, and what it becomes once it is committed.
struct Part {
    run: RunId,
    events: Vec<Event>,
    entry: Option<Entry>,
}

/// The loop of the append lane.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    hub: Hub,
    /// The node whose pens these are; none before the first.
    node: Option<Node>,
    clock: Arc<Clock>,
    jobs: mpsc::Receiver<Job>,
    open: BTreeMap<RunId, Open>,
    /// Runs with something to commit, in the order in which they asked.
    ready: VecDeque<RunId>,
    /// The last batch was full: what it left goes first, and callers wait for it in their channel.
    is_behind: bool,
    /// The last batch's. This is the node's only writer.
    number: BatchNumber,
}

impl Writer {
    pub(super) fn new(
        store: Store,
        hub: Hub,
        clock: Arc<Clock>,
        jobs: mpsc::Receiver<Job>,
    ) -> Writer {
        Writer {
            store,
            hub,
            node: None,
            clock,
            jobs,
            open: BTreeMap::new(),
            ready: VecDeque::new(),
            is_behind: false,
            number: BatchNumber::default(),
        }
    }

    /// Runs until the last handle is dropped and everything that waited is committed.
    pub async fn run(mut self) {
        let mut jobs = Vec::new();
        loop {
            if self.ready.is_empty() && self.jobs.recv_many(&mut jobs, BATCH_MAX).await == 0 {
                return;
            }
            while !self.is_behind
                && jobs.len() < BATCH_MAX
                && let Ok(job) = self.jobs.try_recv()
            {
                jobs.push(job);
            }
            for job in jobs.drain(..) {
                self.take(job);
            }
            let (batch, parts) = self.assemble();
            if !batch.is_empty() {
                reach(Step::AppendTaken);
                metrics::histogram!("runledger_journal_batch_runs").record(batch.len() as f64);
                self.commit(Arc::new(batch), parts).await;
            }
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Open { node, run, pen, head, last_at_ms } => {
                if self.is_of(node) {
                    self.open(run, pen, head, last_at_ms);
                }
            }
            Job::Push { run, pen, text } => {
                if let Some(open) = self.open_with(run, pen)
                    && open.refused.is_none()
                {
                    open.waiting.push(text);
                    if !std::mem::replace(&mut open.is_ready, true) {
                        self.ready.push_back(run);
                    }
                }
            }
            Job::Append { run, pen, entry } => match self.open_with(run, pen) {
                Some(Open { refused: None, entry: waiting, is_ready, .. }) => {
                    assert!(waiting.is_none(), "a driver awaits each append before the next");
                    *waiting = Some(entry);
                    if !std::mem::replace(is_ready, true) {
                        self.ready.push_back(run);
                    }
                }
                Some(Open { refused: Some(refused), .. }) => {
                    // A driver that has gone needs no answer.
                    let _ = entry.answer.send(Err(refused.clone()));
                }
                None => {
                    // As above.
                    let _ = entry.answer.send(Err(Refused::NotOwner));
                }
            },
            Job::Close { run, done } => match self.open.get_mut(&run) {
                Some(open) => {
                    open.closing.push(done);
                    self.forget_if_closed(run);
                }
                None => {
                    // Whoever has stopped waiting needs no answer.
                    let _ = done.send(());
                }
            },
        }
    }

    fn open_with(&mut self, run: RunId, pen: PenId) -> Option<&mut Open> {
        self.open.get_mut(&run).filter(|open| open.pen == pen)
    }

    /// Whether the node may open a run: the present one, or a later one, with which all that the
    /// present one had ends. Its batches are numbered anew.
    fn is_of(&mut self, node: Node) -> bool {
        let last = self.node.as_ref().map(|node| node.id);
        if last.is_some_and(|last| last > node.id) {
            return false;
        }
        if last != Some(node.id) {
            self.refuse_all();
            for (run, open) in std::mem::take(&mut self.open) {
                self.hub.set_local(run, false);
                for done in open.closing {
                    // Whoever has stopped waiting needs no answer.
                    let _ = done.send(());
                }
            }
            self.number = BatchNumber::default();
            self.node = Some(node);
        }
        true
    }

    /// A run is opened by one driver at a time. If there are two, neither knows the log any more:
    /// both are refused, and whoever drives the run next folds it anew.
    fn open(&mut self, run: RunId, pen: PenId, head: Seq, last_at_ms: i64) {
        if let btree_map::Entry::Vacant(place) = self.open.entry(run) {
            place.insert(Open::new(pen, head, last_at_ms));
            self.hub.set_local(run, true);
            return;
        }
        tracing::error!(run.id = %run, "run {run} was opened twice");
        self.refuse_run(run, &Refused::NotOwner);
        self.hub.set_local(run, false);
        for done in self.open.remove(&run).into_iter().flat_map(|open| open.closing) {
            // Whoever has stopped waiting needs no answer.
            let _ = done.send(());
        }
    }

    /// Forgets a run that is closed and has nothing left to commit.
    fn forget_if_closed(&mut self, run: RunId) {
        let is_over = |open: &Open| open.is_idle() && !open.closing.is_empty();
        if self.open.get(&run).is_some_and(is_over)
            && let Some(open) = self.open.remove(&run)
        {
            self.hub.set_local(run, false);
            for done in open.closing {
                // Whoever has stopped waiting needs no answer.
                let _ = done.send(());
            }
        }
    }

    /// Numbers what waits of each ready run, as far as one statement takes it. A run whose own part
    /// is larger than that goes alone.
    fn assemble(&mut self) -> (Vec<Append>, Vec<Part>) {
        let now = self.clock.now_ms();
        let mut batch = Vec::new();
        let mut parts = Vec::new();
        let mut size = Size::default();
        let mut again = Vec::new();
        self.is_behind = false;
        while let Some(run) = self.ready.pop_front() {
            let Some(open) = self.open.get_mut(&run) else { continue };
            let more = open.size();
            match size.with(more) {
                Some(both) => size = both,
                None if batch.is_empty() => size = more,
                None => {
                    self.ready.push_front(run);
                    self.is_behind = true;
                    break;
                }
            }
            open.is_ready = open.entry_waits();
            if open.is_idle() {
                continue;
            }
            let entry = if open.is_ready {
                again.push(run);
                None
            } else {
                open.entry.take()
            };
            open.last_at_ms = open.last_at_ms.max(now);
            let (append, part) = number(run, open, entry);
            batch.push(append);
            parts.push(part);
        }
        for run in again.into_iter().rev() {
            self.ready.push_front(run);
        }
        (batch, parts)
    }

    /// Commits a batch. Data that the store refuses is found by halving, by run and never inside one:
    /// the run that has it is refused alone.
    async fn commit(&mut self, batch: Arc<Vec<Append>>, parts: Vec<Part>) {
        match self.settle(&batch).await {
            Ok(done) => self.committed(&batch, done, parts),
            Err(error @ (StoreError::Fenced | StoreError::Corrupt(_))) => {
                // A damaged file is not written to, and no run goes on that can't be continued
                // later: as with the fence, all that this node has ends here.
                tracing::error!(error = %error, "all runs of this node stop");
                if let Some(node) = &self.node {
                    node.lost.cancel();
                }
                for part in parts {
                    self.refuse(part, &Refused::NotOwner);
                }
                self.refuse_all();
            }
            Err(error) if batch.len() == 1 => {
                tracing::error!(error = %error, "an append was refused as data");
                for part in parts {
                    self.refuse(part, &Refused::Poisoned(error.to_string()));
                }
            }
            Err(_data) => {
                let half = batch.len() / 2;
                let mut first = parts;
                let second = first.split_off(half);
                Box::pin(self.commit(Arc::new(batch[..half].to_vec()), first)).await;
                Box::pin(self.commit(Arc::new(batch[half..].to_vec()), second)).await;
            }
        }
    }

    /// Asks the store until it has said what became of the batch. Where an answer was lost, nobody
    /// knows: the same batch is sent again under its number, and the store commits it once. With the
    /// node's ownership the asking ends: whoever takes over waits for what is still under way.
    async fn settle(&mut self, batch: &Arc<Vec<Append>>) -> Result<Vec<Appended>, StoreError> {
        let mut wait = DOUBT_WAIT;
        self.number = self.number.next();
        let Some(node) = self.node.clone() else { return Err(StoreError::Fenced) };
        loop {
            let appended = self.store.append(node.id, self.number, Arc::clone(batch));
            match node.lost.run_until_cancelled(appended).await {
                None => return Err(StoreError::Fenced),
                Some(Err(StoreError::Unavailable(reason))) => {
                    tracing::warn!(reason, "the store is away; {} runs wait", batch.len());
                    metrics::counter!("runledger_journal_doubts_total").increment(1);
                    node.lost.run_until_cancelled(tokio::time::sleep(wait)).await;
                    wait = (wait * 2).min(DOUBT_WAIT_MAX);
                }
                Some(settled) => return settled,
            }
        }
    }

    /// Advances the hub before the answers: whoever hears an answer may look.
    fn committed(&mut self, batch: &[Append], done: Vec<Appended>, parts: Vec<Part>) {
        reach(Step::AppendCommitted);
        let taken = |append: &Append, appended: Appended| match appended {
            Appended::All => append.events.len(),
            Appended::StartsRefused => append.starts_at.unwrap_or(0),
            Appended::InboxNews | Appended::NotOwner => 0,
        };
        let advances = batch
            .iter()
            .zip(&done)
            .map(|(append, appended)| (append.run, &append.events[..taken(append, *appended)]));
        self.hub.advance(advances);
        reach(Step::AppendTold);
        for ((append, appended), part) in batch.iter().zip(done).zip(parts) {
            self.answer(part, appended, taken(append, appended));
        }
    }

    /// Tells a driver what became of its part, of which so many events are committed.
    fn answer(&mut self, mut part: Part, appended: Appended, taken: usize) {
        if appended == Appended::NotOwner {
            self.refuse(part, &Refused::NotOwner);
            return;
        }
        part.events.truncate(taken);
        let Some(open) = self.open.get_mut(&part.run) else { return };
        if let Some(last) = part.events.last() {
            open.head = last.seq;
        }
        open.unanswered.append(&mut part.events);
        if let Some(entry) = part.entry {
            let answer = if appended == Appended::InboxNews {
                Err(Refused::InboxNews)
            } else {
                let events = std::mem::take(&mut open.unanswered);
                Ok(Committed { events, starts_refused: appended == Appended::StartsRefused })
            };
            // A driver that has gone needs no answer.
            let _ = entry.answer.send(answer);
        }
        self.forget_if_closed(part.run);
    }

    fn refuse(&mut self, part: Part, why: &Refused) {
        if let Some(entry) = part.entry {
            // A driver that has gone needs no answer.
            let _ = entry.answer.send(Err(why.clone()));
        }
        self.refuse_run(part.run, why);
    }

    /// Takes nothing more for any run.
    fn refuse_all(&mut self) {
        let open: Vec<RunId> = self.open.keys().copied().collect();
        for run in open {
            self.refuse_run(run, &Refused::NotOwner);
        }
    }

    /// Takes nothing more for this run.
    fn refuse_run(&mut self, run: RunId, why: &Refused) {
        let Some(open) = self.open.get_mut(&run) else { return };
        open.refused = Some(why.clone());
        open.waiting = Waiting::default();
        if let Some(entry) = open.entry.take() {
            // A driver that has gone needs no answer.
            let _ = entry.answer.send(Err(why.clone()));
        }
        self.forget_if_closed(run);
    }
}

fn number(run: RunId, open: &mut Open, entry: Option<Entry>) -> (Append, Part) {
    let mut drafts: Vec<Written> = open.waiting.drain().collect();
    let mut append = Append::to(run);
    let entry = entry.map(|mut entry| {
        drafts.append(&mut entry.drafts);
        append.inbox_read = entry.effects.inbox_read;
        append.only_if_inbox_n = entry.effects.only_if_inbox_n;
        append.update = entry.effects.update.take();
        append.shown = std::mem::take(&mut entry.effects.shown);
        if let Some(update) = &mut append.update {
            update.at_ms = open.last_at_ms;
        }
        entry
    });
    append.starts_at = drafts.iter().position(|written| written.draft.body.is_start());
    for Written { draft, .. } in &drafts {
        match &draft.body {
            Body::TurnStarted { .. } if draft.attempt == 1 => {
                append.turn_started_at_ms = Some(open.last_at_ms);
            }
            Body::TurnCompleted { .. } => append.reset_crashes = true,
            _other => {}
        }
    }
    let (stored, events) = batch::number(open.head, &timestamp(open.last_at_ms), drafts);
    append.events = stored;
    (append, Part { run, events, entry })
}

#[cfg(test)]
mod tests;
