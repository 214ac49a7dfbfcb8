//! The append lane: one transaction for everything that the node has waiting.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;

use super::labels::{label, unlabel};
use super::{Sqlite, as_i64, id_of, store_error};
use crate::run::{RunId, Seq};
use crate::store::{Append, Appended, BatchNumber, NodeId, StoreError};

/// Of these runs, those that the node owns. The `+` keeps SQLite from going through all runs of the
/// node for each that is asked for: without it 1000 of 1000 take 1 s, with it 1 ms.
pub(super) const OWNED: &str = "select id, last_seq, inbox_n, cancel_at is not null
       from runs
      where id in (select unhex(value) from json_each($1)) and +node_id = $2";

/// How the rows of runs change with an append. The `+` is there for the same reason.
pub(super) const UPDATE_RUNS: &str = "update runs
        set last_seq = coalesce(value ->> 'last_seq', last_seq),
            inbox_read = coalesce(value ->> 'inbox_read', inbox_read),
            crashes = iif(value ->> 'reset', 0, crashes),
            turn_started_at = coalesce(value ->> 'turn_at', turn_started_at),
            status = coalesce(value ->> 'status', status),
            stop_reason = coalesce(value ->> 'stop_reason', stop_reason),
            output_preview = coalesce(value ->> 'preview', output_preview),
            started_at = coalesce(started_at, value ->> 'started'),
            finished_at = coalesce(finished_at, value ->> 'finished'),
            turn_count = coalesce(value ->> 'turn_count', turn_count),
            usage = coalesce(value ->> 'usage', usage),
            error = coalesce(value ->> 'error', error),
            elapsed = coalesce(value ->> 'elapsed', elapsed),
            metadata = coalesce(value ->> 'metadata', metadata),
            node_id = iif(value ->> 'finished' is null, node_id, null)
       from json_each($1)
      where runs.id = unhex(value ->> 'id') and +runs.node_id = $2";

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
        number: BatchNumber,
        batch: Arc<Vec<Append>>,
    ) -> Result<Vec<Appended>, StoreError> {
        #[cfg(test)]
        let faults = self.faults.clone();
        self.write(move |connection| {
            async move {
                let (last, answers) = last_batch(connection, node).await?;
                let is_again = number == last;
                #[cfg(test)]
                let is_again = is_again && !faults.are_batches_forgotten();
                if is_again {
                    return recall(&answers, batch.len());
                }
                if number < last {
                    let late = format!("batch {} came after batch {}", number.0, last.0);
                    return Err(StoreError::Data(late));
                }
                let ids: Vec<RunId> = batch.iter().map(|append| append.run).collect();
                let rows = owned(connection, node, &ids).await?;
                let judged: Vec<(Appended, usize)> =
                    batch.iter().map(|append| judge(append, &rows)).collect::<Result<_, _>>()?;
                insert_events(connection, &batch, &judged).await?;
                relabel(connection, &batch, &judged).await?;
                update_runs(connection, node, &batch, &judged).await?;
                release_ended(connection, &batch, &judged).await?;
                let answers: Vec<Appended> = judged.iter().map(|(answer, _)| *answer).collect();
                remember(connection, node, number, &answers).await?;
                Ok(answers)
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
    last_batch(connection, node).await.map(|_alive| ())
}

/// The fence, and the last batch that the node committed with its answers.
async fn last_batch(
    connection: &mut SqliteConnection,
    node: NodeId,
) -> Result<(BatchNumber, String), StoreError> {
    let alive: Option<(i64, String)> = sqlx::query_as(
        "select last_batch, last_answers from nodes where node_id = $1 and dead_at is null",
    )
    .bind(node.0)
    .fetch_optional(connection)
    .await
    .map_err(store_error)?;
    let (number, answers) = alive.ok_or(StoreError::Fenced)?;
    Ok((BatchNumber(number.unsigned_abs()), answers))
}

/// The answers of a batch of this size, as they were the first time.
fn recall(exceptions: &str, size: usize) -> Result<Vec<Appended>, StoreError> {
    let exceptions: Vec<(usize, Appended)> = serde_json::from_str(exceptions)
        .map_err(|error| StoreError::Corrupt(format!("a batch's answers: {error}")))?;
    let mut answers = vec![Appended::All; size];
    for (place, answer) in exceptions {
        let told = answers.get_mut(place);
        *told.ok_or_else(|| StoreError::Data("two batches have one number".to_owned()))? = answer;
    }
    Ok(answers)
}

async fn remember(
    connection: &mut SqliteConnection,
    node: NodeId,
    number: BatchNumber,
    answers: &[Appended],
) -> Result<(), StoreError> {
    let exceptions: Vec<(usize, Appended)> = answers
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, answer)| *answer != Appended::All)
        .collect();
    sqlx::query("update nodes set last_batch = $2, last_answers = $3 where node_id = $1")
        .bind(node.0)
        .bind(as_i64(number.0))
        .bind(json!(exceptions).to_string())
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(())
}

async fn owned(
    connection: &mut SqliteConnection,
    node: NodeId,
    runs: &[RunId],
) -> Result<HashMap<RunId, Row>, StoreError> {
    let ids: Vec<String> = runs.iter().map(|run| run.0.simple().to_string()).collect();
    let rows: Vec<(Vec<u8>, i64, i64, bool)> = sqlx::query_as(OWNED)
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
    let Some(row) = rows.get(&append.run) else {
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
        .flat_map(|(append, (_, taken))| {
            let id = append.run.0.simple().to_string();
            append.events[..*taken]
                .iter()
                .map(move |event| (id.clone(), event.seq.0, event.kind, &*event.data))
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
        .map(|(append, (appended, taken))| {
            let update = append.update.as_ref();
            json!({
                "id": append.run.0.simple().to_string(),
                "last_seq": append.events[..*taken].last().map(|event| event.seq.0),
                "inbox_read": append.inbox_read,
                "reset": append.reset_crashes,
                "turn_at": append.turn_started_at_ms.filter(|_| *appended == Appended::All),
                "status": update.map(|update| update.status.name()),
                "stop_reason": update.and_then(|update| update.stop_reason.as_ref()),
                "preview": update.and_then(|update| update.output_preview.as_ref()),
                "started": update.filter(|update| !update.status.is_terminal())
                    .map(|update| update.at_ms),
                "finished": update.filter(|update| update.status.is_terminal())
                    .map(|update| update.at_ms),
                "turn_count": append.shown.turn_count,
                "usage": append.shown.usage,
                "error": append.shown.error,
                "elapsed": append.shown.elapsed,
                "metadata": append.shown.metadata,
            })
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(UPDATE_RUNS)
        .bind(serde_json::Value::Array(rows).to_string())
        .bind(node.0)
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(())
}

/// Whoever looks for a run by its labels finds it by those that it has now.
async fn relabel(
    connection: &mut SqliteConnection,
    batch: &[Append],
    judged: &[(Appended, usize)],
) -> Result<(), StoreError> {
    for (append, (appended, _)) in batch.iter().zip(judged) {
        let is_taken = matches!(appended, Appended::All | Appended::StartsRefused);
        if let (Some(metadata), true) = (&append.shown.metadata, is_taken) {
            unlabel(connection, append.run).await?;
            label(connection, append.run, metadata).await?;
        }
    }
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
        .map(|(append, _)| append.run.0.simple().to_string())
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
