//! Claiming and letting go; the inbox, by which a run without an owner is queued.

use super::ownership::queued;
use super::tables::{Kind, Note, Queued, Tables};
use super::{Memory, Op};
use crate::run::{RunId, Status};
use crate::store::{
    Claimed, Claims, INBOX_NOTES, InboxNote, InboxRow, Left, LetGo, NodeId, StoreError,
};

/// How many runs with news one claim takes beyond the slots.
const INBOXES_MAX: usize = 64;

/// How many runs a node takes in any case, so that small queues are not shared out.
const SHARE_MIN: u64 = 8;

impl Memory {
    pub(in crate::store) async fn claim(
        &self,
        node: NodeId,
        slots: u32,
    ) -> Result<Claims, StoreError> {
        let flaws = self.database.flaws;
        self.run(Op::Claim, move |tables, now_ms| {
            if !tables.is_alive(node) && !flaws.has_no_fence {
                return Err(StoreError::Fenced);
            }
            let mut claims = Claims::default();
            for kind in [Kind::Inbox, Kind::Drive] {
                let room = match kind {
                    Kind::Inbox => INBOXES_MAX,
                    Kind::Drive => fair_share(tables, node, slots, now_ms),
                };
                claim_kind(tables, node, kind, room, now_ms, &mut claims);
            }
            Ok(claims)
        })
        .await
    }

    pub(in crate::store) async fn requeue(
        &self,
        node: NodeId,
        run: RunId,
        why: LetGo,
    ) -> Result<(), StoreError> {
        self.run(Op::Requeue, move |tables, now_ms| {
            let mine = tables.runs.get_mut(&run).filter(|row| row.node == Some(node));
            if let Some(row) = mine {
                row.node = None;
                if why == LetGo::Crashed {
                    row.crashes += 1;
                    row.reason = Some("crash".to_owned());
                }
                let reason = match &row.reason {
                    Some(reason) if reason != "new" => reason.clone(),
                    Some(_) | None if row.status == Status::Queued => "new".to_owned(),
                    Some(_) | None => "inbox".to_owned(),
                };
                let queued = queued(row, &reason, now_ms);
                tables.queue.insert(run, queued);
            }
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn leave(
        &self,
        tenant: &str,
        run: RunId,
        note: InboxNote,
    ) -> Result<Left, StoreError> {
        let left = self.leave_all(tenant, vec![run], note).await?;
        Ok(left[0])
    }

    pub(in crate::store) async fn leave_all(
        &self,
        tenant: &str,
        runs: Vec<RunId>,
        note: InboxNote,
    ) -> Result<Vec<Left>, StoreError> {
        let tenant = tenant.to_owned();
        self.run(Op::Leave, move |tables, now_ms| {
            Ok(runs.into_iter().map(|run| leave(tables, &tenant, run, &note, now_ms)).collect())
        })
        .await
    }

    pub(in crate::store) async fn inbox(&self, run: RunId) -> Result<Vec<InboxRow>, StoreError> {
        self.run(Op::Inbox, move |tables, _| {
            let Some(row) = tables.runs.get(&run) else { return Ok(Vec::new()) };
            let unread = row.inbox.iter().filter(|note| note.n > row.inbox_read);
            let told = |note: &Note| InboxRow {
                n: note.n,
                kind: note.kind.to_owned(),
                body: note.body.clone(),
            };
            Ok(unread.map(told).collect())
        })
        .await
    }
}

fn claim_kind(
    tables: &mut Tables,
    node: NodeId,
    kind: Kind,
    room: usize,
    now_ms: i64,
    claims: &mut Claims,
) {
    // From 2 crashes on a run is suspected of killing its node: only one such run is owned at a time.
    // Beyond 5 crashes it is only ended: nobody waits for one whose end can't be written.
    let has_suspect = tables.owned(node).any(|(_, run)| (2..=5).contains(&run.crashes));
    let waiting = tables.in_order();
    let of_kind =
        || waiting.iter().filter(|(_, queued)| queued.kind == kind && queued.run_at_ms <= now_ms);
    let suspect = of_kind().find(|(_, queued)| queued.crashes >= 2).map(|(run, _)| *run);
    let suspect = suspect.filter(|_| !has_suspect);
    let due: Vec<RunId> = of_kind()
        .filter(|(run, queued)| queued.crashes < 2 || suspect == Some(*run))
        .take(room)
        .map(|(run, _)| *run)
        .collect();
    let taken = due.len();
    for run in due {
        let Some(row) = tables.runs.get_mut(&run) else { continue };
        let Some(Queued { reason, .. }) = tables.queue.remove(&run) else { continue };
        row.node = Some(node);
        row.reason = Some(reason.clone());
        if row.crashes >= 2 {
            // A suspect had to wait for those before it, which is not its turn's time.
            row.turn_started_at_ms = Some(now_ms);
        }
        claims.runs.push(Claimed { run, for_inbox: kind == Kind::Inbox, reason });
    }
    let is_left =
        tables.queue.values().any(|queued| queued.kind == kind && queued.run_at_ms <= now_ms);
    claims.is_more |= taken >= room && is_left;
}

/// How many of the due runs a node takes: its part by free slots, of all nodes that live.
fn fair_share(tables: &Tables, me: NodeId, free_slots: u32, now_ms: i64) -> usize {
    let is_due = |queued: &&Queued| queued.kind == Kind::Drive && queued.run_at_ms <= now_ms;
    let due = tables.queue.values().filter(is_due).take(1024).count() as u64;
    let others: u64 = tables
        .leases
        .iter()
        .filter(|(node, lease)| **node != me && lease.until_ms > now_ms)
        .map(|(_, lease)| u64::from(lease.slots.saturating_sub(lease.busy)))
        .sum();
    let free = u64::from(free_slots);
    let share = (due * free).div_ceil((free + others).max(1)).max(SHARE_MIN);
    usize::try_from(share.min(free)).expect("a claim is small")
}

fn leave(tables: &mut Tables, tenant: &str, run: RunId, note: &InboxNote, now_ms: i64) -> Left {
    let Some(row) = tables.runs.get_mut(&run).filter(|row| row.tenant == tenant) else {
        return Left::NoRun;
    };
    if row.finished_at_ms.is_some() {
        return Left::Ended;
    }
    let is_there = row.inbox.iter().any(|there| there.dedupe_key == note.dedupe_key);
    if row.inbox_n >= INBOX_NOTES && note.kind != "cancel" && !is_there {
        return Left::Full;
    }
    if is_there {
        return Left::Accepted(row.node);
    }
    row.inbox_n += 1;
    row.inbox.push(Note {
        n: row.inbox_n,
        dedupe_key: note.dedupe_key.clone(),
        kind: note.kind,
        body: note.body.clone(),
    });
    if note.kind == "cancel" {
        row.cancel_at_ms.get_or_insert(now_ms);
    }
    // A run without an owner is queued for its inbox; one that waits already waits no longer.
    if row.node.is_none() {
        let fresh = Queued {
            kind: Kind::Inbox,
            reason: "inbox".to_owned(),
            run_at_ms: now_ms,
            crashes: row.crashes,
        };
        let queued = tables.queue.entry(run).or_insert(fresh);
        queued.kind = Kind::Inbox;
        queued.run_at_ms = queued.run_at_ms.min(now_ms);
    }
    Left::Accepted(row.node)
}
