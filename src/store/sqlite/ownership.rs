//! Who owns which run: registration, rescue, claim, hand-over, and the inbox.

use futures_util::FutureExt;
use sqlx::sqlite::SqliteConnection;

use super::journal::fence;
use super::{Sqlite, id_bytes, id_of, now_ms, store_error};
use crate::run::RunId;
use crate::store::{
    Beat, Claimed, Claims, INBOX_NOTES, InboxNote, InboxRow, Left, LetGo, NodeId, Rescued,
    StoreError,
};

/// How many runs with inbox news are claimed at once, beyond the free slots: reading an inbox is
/// short work.
const INBOX_CLAIMS: i64 = 64;

// From 2 crashes on a run is suspected of killing its node: only one such run is owned at a time, and
// while it is, the node's death counts for it alone. The number stands in the statements themselves,
// because only so can SQLite use the index `runs_suspect`.

/// Due rows of one kind, in order. Of the suspects only the first, and none where the node has one:
/// those behind them pass. Beyond 5 crashes a run is only ended: nobody waits for one whose end can't be
/// written. The `cross join` makes SQLite begin with the suspects, who are few, and
/// not with the queue.
pub(super) const DUE: &str = "with suspect (run_id) as (
         select queue.run_id
           from runs cross join queue on queue.run_id = runs.id
          where runs.crashes >= 2 and queue.kind = $1 and queue.run_at <= $2
            and not exists (select 1 from runs owned
                             where owned.node_id = $3 and owned.crashes >= 2
                               and owned.crashes <= 5)
          order by queue.priority, queue.run_at, queue.run_id
          limit 1)
     select queue.run_id, queue.reason
       from queue join runs on runs.id = queue.run_id
      where queue.kind = $1 and queue.run_at <= $2
        and (runs.crashes < 2 or queue.run_id in (select run_id from suspect))
      order by queue.priority, queue.run_at, queue.run_id
      limit $4";

impl Sqlite {
    pub(in crate::store) async fn register(
        &self,
        name: &str,
    ) -> Result<(NodeId, Rescued), StoreError> {
        let name = name.to_owned();
        self.write(move |connection| {
            async move {
                let crashed = rescue(connection).await?;
                let_none_wait_for_the_clock(connection).await?;
                let (handed_over,): (i64,) =
                    sqlx::query_as("select count(*) from queue where reason = 'drain'")
                        .fetch_one(&mut *connection)
                        .await
                        .map_err(store_error)?;
                let (node,): (i64,) = sqlx::query_as(
                    "insert into nodes (name, started_at) values ($1, $2) returning node_id",
                )
                .bind(name)
                .bind(now_ms())
                .fetch_one(&mut *connection)
                .await
                .map_err(store_error)?;
                let handed_over = handed_over.unsigned_abs();
                Ok((NodeId(node), Rescued { crashed, handed_over }))
            }
            .boxed()
        })
        .await
    }

    pub(in crate::store) async fn hand_over(&self, node: NodeId) -> Result<u64, StoreError> {
        self.write(move |connection| {
            async move {
                let queued = release(connection, Some(node), "drain").await?;
                mark_dead(connection, Some(node)).await?;
                Ok(queued)
            }
            .boxed()
        })
        .await
    }

    pub(in crate::store) async fn claim(
        &self,
        node: NodeId,
        slots: u32,
    ) -> Result<Claims, StoreError> {
        self.write(move |connection| {
            async move {
                fence(connection, node).await?;
                let mut claims = Claims::default();
                for (kind, limit) in [("inbox", INBOX_CLAIMS), ("drive", i64::from(slots))] {
                    let due = due(connection, node, kind, limit).await?;
                    claims.is_more |= due.len() as u64 == limit.unsigned_abs();
                    claims.runs.extend(take(connection, node, due).await?);
                }
                Ok(claims)
            }
            .boxed()
        })
        .await
    }

    /// What the node owns. It is alone, and needs no lease. Where the last write failed, this finds
    /// out whether one goes through by now: nobody else may be writing.
    pub(in crate::store) async fn heartbeat(&self, node: NodeId) -> Result<Beat, StoreError> {
        if self.trouble.reason().is_some()
            && let Err(error) = self.try_to_write().await
        {
            tracing::warn!(error = %error, "nothing can be written yet");
        }
        let rows: Vec<(Option<Vec<u8>>, Option<bool>)> = sqlx::query_as(
            "select runs.id, runs.inbox_n > runs.inbox_read
               from nodes left join runs on runs.node_id = nodes.node_id
              where nodes.node_id = $1 and nodes.dead_at is null",
        )
        .bind(node.0)
        .fetch_all(&self.drivers)
        .await
        .map_err(store_error)?;
        if rows.is_empty() {
            return Err(StoreError::Fenced);
        }
        let mut beat = Beat { is_listed: true, ..Beat::default() };
        for (id, has_news) in rows {
            let Some(id) = id else { continue };
            let run = id_of(&id)?;
            beat.owned.push(run);
            beat.news.extend((has_news == Some(true)).then_some(run));
        }
        Ok(beat)
    }

    pub(in crate::store) async fn requeue(
        &self,
        node: NodeId,
        run: RunId,
        why: LetGo,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            async move {
                if let_go(connection, node, run, why).await? {
                    queue_again(connection, run).await?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }

    pub(in crate::store) async fn leave(
        &self,
        tenant: &str,
        run: RunId,
        note: InboxNote,
    ) -> Result<Left, StoreError> {
        let tenant = tenant.to_owned();
        self.write(move |connection| {
            async move { leave_one(connection, &tenant, run, &note).await }.boxed()
        })
        .await
    }

    pub(in crate::store) async fn leave_all(
        &self,
        tenant: &str,
        runs: Vec<RunId>,
        note: InboxNote,
    ) -> Result<Vec<Left>, StoreError> {
        let tenant = tenant.to_owned();
        self.write(move |connection| {
            async move {
                let mut left = Vec::with_capacity(runs.len());
                for run in runs {
                    left.push(leave_one(connection, &tenant, run, &note).await?);
                }
                Ok(left)
            }
            .boxed()
        })
        .await
    }

    pub(in crate::store) async fn inbox(&self, run: RunId) -> Result<Vec<InboxRow>, StoreError> {
        let rows: Vec<(i64, String, String)> = sqlx::query_as(
            "select inbox.n, inbox.kind, inbox.body
               from inbox join runs on runs.id = inbox.run_id
              where inbox.run_id = $1 and inbox.n > runs.inbox_read
              order by inbox.n",
        )
        .bind(id_bytes(run))
        .fetch_all(&self.drivers)
        .await
        .map_err(store_error)?;
        Ok(rows.into_iter().map(|(n, kind, body)| InboxRow { n, kind, body }).collect())
    }
}

/// Runs stand in the queue by the time of their creation. Where the clock has been put back since,
/// that is still to come, and they would wait for it.
async fn let_none_wait_for_the_clock(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query("update queue set run_at = $1 where run_at > $1 and reason <> 'timer'")
        .bind(now_ms())
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(())
}

/// Queues what dead nodes own. Under the file lock every other node is dead. Runs that were never
/// started cannot have killed anybody. Where a suspect was owned, it did it, and nobody else.
async fn rescue(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    sqlx::query(
        "update runs set crashes = crashes + 1
          where node_id is not null
            and (crashes >= 2
                 or (status = 'RUNNING'
                     and not exists (select 1 from runs suspect
                                      where suspect.node_id is not null
                                        and suspect.crashes >= 2)))",
    )
    .execute(&mut *connection)
    .await
    .map_err(store_error)?;
    let queued = release(connection, None, "crash").await?;
    mark_dead(connection, None).await?;
    Ok(queued)
}

/// Queues all runs of a node, or of all nodes.
async fn release(
    connection: &mut SqliteConnection,
    node: Option<NodeId>,
    reason: &str,
) -> Result<u64, StoreError> {
    let queued = sqlx::query(
        "insert into queue (run_id, kind, reason, tenant, priority, run_at)
         select id, iif(inbox_n > inbox_read, 'inbox', 'drive'),
                iif(status = 'QUEUED', 'new', $2), tenant, 0, created_at
           from runs
          where node_id is not null and ($1 is null or node_id = $1)
         on conflict (run_id) do update set kind = excluded.kind, reason = excluded.reason,
                                            run_at = min(run_at, excluded.run_at)",
    )
    .bind(node.map(|node| node.0))
    .bind(reason.to_owned())
    .execute(&mut *connection)
    .await
    .map_err(store_error)?;
    sqlx::query(
        "update runs set node_id = null
          where node_id is not null and ($1 is null or node_id = $1)",
    )
    .bind(node.map(|node| node.0))
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(queued.rows_affected())
}

/// Lets go of a run; false where it isn't this node's.
async fn let_go(
    connection: &mut SqliteConnection,
    node: NodeId,
    run: RunId,
    why: LetGo,
) -> Result<bool, StoreError> {
    let let_go = sqlx::query(
        "update runs
            set node_id = null,
                crashes = crashes + iif($3, 1, 0),
                reason = iif($3, 'crash', reason)
          where id = $1 and node_id = $2",
    )
    .bind(id_bytes(run))
    .bind(node.0)
    .bind(match why {
        LetGo::ForSlot => false,
        LetGo::Crashed => true,
    })
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(let_go.rows_affected() > 0)
}

/// Queues a run that was let go, at the place that it had, for the reason for which it waited; one
/// that has been started since is no new one any more.
async fn queue_again(connection: &mut SqliteConnection, run: RunId) -> Result<(), StoreError> {
    sqlx::query(
        "insert into queue (run_id, kind, reason, tenant, priority, run_at)
         select id, iif(inbox_n > inbox_read, 'inbox', 'drive'),
                case when coalesce(reason, 'new') <> 'new' then reason
                     when status = 'QUEUED' then 'new'
                     else 'inbox' end,
                tenant, 0, min(created_at, $2)
           from runs where id = $1",
    )
    .bind(id_bytes(run))
    .bind(now_ms())
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(())
}

async fn mark_dead(
    connection: &mut SqliteConnection,
    node: Option<NodeId>,
) -> Result<(), StoreError> {
    sqlx::query(
        "update nodes set dead_at = $1
          where dead_at is null and ($2 is null or node_id = $2)",
    )
    .bind(now_ms())
    .bind(node.map(|node| node.0))
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(())
}

async fn due(
    connection: &mut SqliteConnection,
    node: NodeId,
    kind: &str,
    limit: i64,
) -> Result<Vec<Claimed>, StoreError> {
    let rows: Vec<(Vec<u8>, String)> = sqlx::query_as(DUE)
        .bind(kind.to_owned())
        .bind(now_ms())
        .bind(node.0)
        .bind(limit)
        .fetch_all(connection)
        .await
        .map_err(store_error)?;
    rows.into_iter()
        .map(|(run, reason)| Ok(Claimed { run: id_of(&run)?, for_inbox: kind == "inbox", reason }))
        .collect()
}

/// Makes the node the owner of due runs; gives those that have none.
async fn take(
    connection: &mut SqliteConnection,
    node: NodeId,
    due: Vec<Claimed>,
) -> Result<Vec<Claimed>, StoreError> {
    let mut taken = Vec::with_capacity(due.len());
    for claimed in due {
        unqueue(connection, claimed.run).await?;
        if own(connection, node, &claimed).await? {
            taken.push(claimed);
        } else {
            tracing::error!(run.id = %claimed.run, "run {} waited for an owner and has one", claimed.run);
        }
    }
    Ok(taken)
}

/// A suspect had to wait for those before it, which is not its turn's time.
async fn own(
    connection: &mut SqliteConnection,
    node: NodeId,
    claimed: &Claimed,
) -> Result<bool, StoreError> {
    let owned = sqlx::query(
        "update runs
            set node_id = $2, reason = $3,
                turn_started_at = iif(crashes >= 2, $4, turn_started_at)
          where id = $1 and node_id is null",
    )
    .bind(id_bytes(claimed.run))
    .bind(node.0)
    .bind(&claimed.reason)
    .bind(now_ms())
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(owned.rows_affected() > 0)
}

async fn unqueue(connection: &mut SqliteConnection, run: RunId) -> Result<(), StoreError> {
    sqlx::query("delete from queue where run_id = $1")
        .bind(id_bytes(run))
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(())
}

/// Whether the note was left before: then it takes no more room.
async fn is_there(
    connection: &mut SqliteConnection,
    run: RunId,
    note: &InboxNote,
) -> Result<bool, StoreError> {
    let there: Option<(i64,)> =
        sqlx::query_as("select 1 from inbox where run_id = $1 and dedupe_key = $2")
            .bind(id_bytes(run))
            .bind(&note.dedupe_key)
            .fetch_optional(connection)
            .await
            .map_err(store_error)?;
    Ok(there.is_some())
}

async fn leave_one(
    connection: &mut SqliteConnection,
    tenant: &str,
    run: RunId,
    note: &InboxNote,
) -> Result<Left, StoreError> {
    let row: Option<(Option<i64>, bool, i64)> = sqlx::query_as(
        "select node_id, finished_at is not null, inbox_n from runs where id = $1 and tenant = $2",
    )
    .bind(id_bytes(run))
    .bind(tenant.to_owned())
    .fetch_optional(&mut *connection)
    .await
    .map_err(store_error)?;
    let owner = match row {
        None => return Ok(Left::NoRun),
        Some((_, true, _)) => return Ok(Left::Ended),
        Some((_, false, notes))
            if notes >= INBOX_NOTES
                && note.kind != "cancel"
                && !is_there(connection, run, note).await? =>
        {
            return Ok(Left::Full);
        }
        Some((owner, false, _)) => owner,
    };
    let added = sqlx::query(
        "insert into inbox (run_id, n, dedupe_key, kind, body, at)
         select id, inbox_n + 1, $2, $3, $4, $5 from runs where id = $1
         on conflict (run_id, dedupe_key) do nothing",
    )
    .bind(id_bytes(run))
    .bind(&note.dedupe_key)
    .bind(note.kind.to_owned())
    .bind(&note.body)
    .bind(now_ms())
    .execute(&mut *connection)
    .await
    .map_err(store_error)?;
    if added.rows_affected() > 0 {
        sqlx::query(
            "update runs
                set inbox_n = inbox_n + 1,
                    cancel_at = iif($2 = 'cancel', coalesce(cancel_at, $3), cancel_at)
              where id = $1",
        )
        .bind(id_bytes(run))
        .bind(note.kind.to_owned())
        .bind(now_ms())
        .execute(&mut *connection)
        .await
        .map_err(store_error)?;
        if owner.is_none() {
            queue_for_inbox(connection, run).await?;
        }
    }
    Ok(Left::Accepted(owner.map(NodeId)))
}

/// A run without an owner is queued for its inbox; one that waits already waits no longer.
async fn queue_for_inbox(connection: &mut SqliteConnection, run: RunId) -> Result<(), StoreError> {
    sqlx::query(
        "insert into queue (run_id, kind, reason, tenant, priority, run_at)
         select id, 'inbox', 'inbox', tenant, 0, $2 from runs where id = $1
         on conflict (run_id) do update set kind = 'inbox', run_at = min(run_at, excluded.run_at)",
    )
    .bind(id_bytes(run))
    .bind(now_ms())
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(())
}
