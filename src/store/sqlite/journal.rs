//! The append lane: one transaction for everything that the node has waiting.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;

use super::{Sqlite, id_of, store_error};
use crate::run::{RunId, Seq};
use crate::store::{Append, Appended, Head, NodeId, StoreError};

/// What the store knows of a run before it appends.
struct Row {
    last_seq: Seq,
    inbox_n: i64,
    is_cancelled: bool,
}

impl Sqlite {
    pub(in crate::store) async fn append(
        &self,
        node: NodeId,
        batch: Arc<Vec<Append>>,
    ) -> Result<Vec<Appended>, StoreError> {
        self.write(move |connection| {
            async move {
                fence(connection, node).await?;
                let ids: Vec<RunId> = batch.iter().filter_map(|append| append.run).collect();
                let rows = owned(connection, node, &ids).await?;
                let judged: Vec<(Appended, usize)> =
                    batch.iter().map(|append| judge(append, &rows)).collect::<Result<_, _>>()?;
                insert_events(connection, &batch, &judged).await?;
                update_runs(connection, node, &batch, &judged).await?;
                release_ended(connection, &batch, &judged).await?;
                Ok(judged.into_iter().map(|(appended, _)| appended).collect())
            }
            .boxed()
        })
        .await
    }

    pub(in crate::store) async fn heads(
        &self,
        node: NodeId,
        runs: Vec<RunId>,
    ) -> Result<Vec<Head>, StoreError> {
        self.write(move |connection| {
            async move {
                fence(connection, node).await?;
                let rows = owned(connection, node, &runs).await?;
                Ok(runs
                    .iter()
                    .map(|run| Head {
                        run: *run,
                        last_seq: rows.get(run).map_or(Seq(0), |row| row.last_seq),
                        is_owned: rows.contains_key(run),
                    })
                    .collect())
            }
            .boxed()
        })
        .await
    }
}

/// Nothing is written by a node whose row is dead.
pub(super) async fn fence(
    connection: &mut SqliteConnection,
    node: NodeId,
) -> Result<(), StoreError> {
    let alive: Option<(i64,)> =
        sqlx::query_as("select 1 from nodes where node_id = $1 and dead_at is null")
            .bind(node.0)
            .fetch_optional(connection)
            .await
            .map_err(store_error)?;
    alive.map(|_| ()).ok_or(StoreError::Fenced)
}

async fn owned(
    connection: &mut SqliteConnection,
    node: NodeId,
    runs: &[RunId],
) -> Result<HashMap<RunId, Row>, StoreError> {
    let ids: Vec<String> = runs.iter().map(|run| run.0.simple().to_string()).collect();
    let rows: Vec<(Vec<u8>, i64, i64, bool)> = sqlx::query_as(
        "select id, last_seq, inbox_n, cancel_at is not null
           from runs
          where id in (select unhex(value) from json_each($1)) and node_id = $2",
    )
    .bind(json!(ids).to_string())
    .bind(node.0)
    .fetch_all(connection)
    .await
    .map_err(store_error)?;
    rows.into_iter()
        .map(|(id, last_seq, inbox_n, is_cancelled)| {
            let last_seq = Seq(last_seq.unsigned_abs());
            Ok((id_of(&id)?, Row { last_seq, inbox_n, is_cancelled }))
        })
        .collect()
}

/// What becomes of an append, and how many of its events are committed.
fn judge(append: &Append, rows: &HashMap<RunId, Row>) -> Result<(Appended, usize), StoreError> {
    let Some(row) = append.run.and_then(|run| rows.get(&run)) else {
        return Ok((Appended::NotOwner, 0));
    };
    if append.only_if_inbox_n.is_some_and(|read| row.inbox_n != read) {
        return Ok((Appended::InboxNews, 0));
    }
    let mut expected = row.last_seq;
    for event in &append.events {
        expected = expected.next();
        if event.seq != expected {
            return Err(StoreError::Data(format!(
                "event {} would leave a gap behind {}",
                event.seq, row.last_seq
            )));
        }
    }
    match append.starts_at {
        Some(starts) if row.is_cancelled => Ok((Appended::StartsRefused, starts)),
        Some(_) | None => Ok((Appended::All, append.events.len())),
    }
}

async fn insert_events(
    connection: &mut SqliteConnection,
    batch: &[Append],
    judged: &[(Appended, usize)],
) -> Result<(), StoreError> {
    let rows: Vec<(String, u64, u8, &str)> = batch
        .iter()
        .zip(judged)
        .filter_map(|(append, (_, taken))| Some((append.run?, &append.events[..*taken])))
        .flat_map(|(run, events)| {
            let id = run.0.simple().to_string();
            events.iter().map(move |event| (id.clone(), event.seq.0, event.kind, &*event.data))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into events (run_id, seq, type, data)
         select unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3 from json_each($1)",
    )
    .bind(serde_json::to_string(&rows).map_err(|error| StoreError::Data(error.to_string()))?)
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(())
}

async fn update_runs(
    connection: &mut SqliteConnection,
    node: NodeId,
    batch: &[Append],
    judged: &[(Appended, usize)],
) -> Result<(), StoreError> {
    let rows: Vec<serde_json::Value> = batch
        .iter()
        .zip(judged)
        .filter(|(_, (appended, _))| matches!(appended, Appended::All | Appended::StartsRefused))
        .filter_map(|(append, (appended, taken))| {
            let whole = *appended == Appended::All;
            let update = append.update.as_ref().filter(|_| whole);
            Some(json!({
                "id": append.run?.0.simple().to_string(),
                "last_seq": append.events[..*taken].last().map(|event| event.seq.0),
                "inbox_read": append.inbox_read,
                "reset": append.reset_crashes,
                "turn_at": append.turn_started_at_ms.filter(|_| whole),
                "status": update.map(|update| update.status.name()),
                "stop_reason": update.and_then(|update| update.stop_reason.as_ref()),
                "preview": update.and_then(|update| update.output_preview.as_ref()),
                "started": update.filter(|update| !update.status.is_terminal())
                    .map(|update| update.at_ms),
                "finished": update.filter(|update| update.status.is_terminal())
                    .map(|update| update.at_ms),
            }))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update runs
            set last_seq = coalesce(value ->> 'last_seq', last_seq),
                inbox_read = coalesce(value ->> 'inbox_read', inbox_read),
                crashes = iif(value ->> 'reset', 0, crashes),
                turn_started_at = coalesce(value ->> 'turn_at', turn_started_at),
                status = coalesce(value ->> 'status', status),
                stop_reason = coalesce(value ->> 'stop_reason', stop_reason),
                output_preview = coalesce(value ->> 'preview', output_preview),
                started_at = coalesce(started_at, value ->> 'started', value ->> 'finished'),
                finished_at = coalesce(finished_at, value ->> 'finished'),
                node_id = iif(value ->> 'finished' is null, node_id, null)
           from json_each($1)
          where runs.id = unhex(value ->> 'id') and runs.node_id = $2",
    )
    .bind(serde_json::Value::Array(rows).to_string())
    .bind(node.0)
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// A run that has ended has no inbox any more.
async fn release_ended(
    connection: &mut SqliteConnection,
    batch: &[Append],
    judged: &[(Appended, usize)],
) -> Result<(), StoreError> {
    let ended: Vec<String> = batch
        .iter()
        .zip(judged)
        .filter(|(append, (appended, _))| {
            *appended == Appended::All
                && append.update.as_ref().is_some_and(|update| update.status.is_terminal())
        })
        .filter_map(|(append, _)| Some(append.run?.0.simple().to_string()))
        .collect();
    if ended.is_empty() {
        return Ok(());
    }
    sqlx::query("delete from inbox where run_id in (select unhex(value) from json_each($1))")
        .bind(json!(ended).to_string())
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(())
}
