//! Batches (`make_batch`), and notes for all of their runs (`leave_notes`).

use std::sync::Arc;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::error::is_contended;
use super::inbox::left;
use super::{Postgres, unreadable};
use crate::run::{RunId, Status};
use crate::store::{
    BatchCreated, BatchId, BatchRow, BatchRun, Create, CreateBatch, InboxNote, Left, StoreError,
};

/// How often a batch is sent that meets others on its way.
const TRIES_MAX: usize = 4;

const MAKE: &str = "select letter, holder, taken
       from make_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                       $18, $19, $20, $21)";

/// The batch, and a run of it: a batch that has none is one row all the same.
type Member = (String, i64, Option<Uuid>, Option<String>, Option<String>);

impl Postgres {
    pub(in crate::store) async fn create_batch(
        &self,
        batch: Arc<CreateBatch>,
    ) -> Result<BatchCreated, StoreError> {
        self.creates
            .run(move |connection| {
                Box::pin(async move {
                    for _ in 1..TRIES_MAX {
                        match make(connection, &batch).await {
                            Err(error) if is_contended(&error) => {}
                            made => return made,
                        }
                    }
                    make(connection, &batch).await
                })
            })
            .await
    }

    pub(in crate::store) async fn batch(
        &self,
        tenant: &str,
        batch: BatchId,
    ) -> Result<Option<BatchRow>, StoreError> {
        let tenant = tenant.to_owned();
        self.clients
            .run(move |connection| {
                Box::pin(async move {
                    let rows: Vec<Member> = sqlx::query_as(
                        "select batches.metadata, batches.created_at, runs.id, runs.public_id,
                                runs.status
                           from batches
                           left join runs
                             on runs.tenant = batches.tenant and runs.batch_id = batches.id
                          where batches.id = $1 and batches.tenant = $2
                          order by runs.id",
                    )
                    .bind(batch.0)
                    .bind(tenant)
                    .fetch_all(connection)
                    .await?;
                    members(batch, rows)
                })
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
        self.clients
            .run(move |connection| {
                Box::pin(async move {
                    let ids: Vec<Uuid> = runs.iter().map(|run| run.0).collect();
                    let (outcomes, owners): (Vec<String>, Vec<Option<i64>>) = sqlx::query_as(
                        "select outcomes, owners from leave_notes($1, $2, $3, $4, $5)",
                    )
                    .bind(tenant)
                    .bind(ids)
                    .bind(note.kind)
                    .bind(note.dedupe_key)
                    .bind(note.body)
                    .fetch_one(connection)
                    .await?;
                    let told = outcomes.iter().zip(owners);
                    told.map(|(outcome, owner)| left(outcome, owner)).collect()
                })
            })
            .await
    }
}

fn members(id: BatchId, rows: Vec<Member>) -> Result<Option<BatchRow>, sqlx::Error> {
    let Some((metadata, created_at_ms, ..)) = rows.first().cloned() else { return Ok(None) };
    let mut runs = Vec::with_capacity(rows.len());
    for (_, _, id, public_id, status) in rows {
        let (Some(id), Some(public_id), Some(status)) = (id, public_id, status) else { continue };
        let status =
            Status::parse(&status).ok_or_else(|| unreadable(format!("the status `{status}`")))?;
        runs.push(BatchRun { id: RunId(id), public_id, status });
    }
    Ok(Some(BatchRow { id, metadata, created_at_ms, runs }))
}

async fn make(
    connection: &mut PgConnection,
    batch: &CreateBatch,
) -> Result<BatchCreated, sqlx::Error> {
    fn column<'a, T>(batch: &'a CreateBatch, of: impl Fn(&'a Create) -> T) -> Vec<T> {
        batch.runs.iter().map(of).collect()
    }
    let keys: Vec<(i32, &str)> = batch
        .runs
        .iter()
        .zip(1..)
        .flat_map(|(run, place)| run.keys.iter().map(move |key| (place, key.key.as_str())))
        .collect();
    let one = |run: &Create| run.events.first().map_or(0, |event| i16::from(event.kind));
    let (letter, holder, taken): (String, Uuid, Option<Vec<i32>>) = sqlx::query_as(MAKE)
        .bind(batch.id.0)
        .bind(&batch.tenant)
        .bind(batch.key.as_ref().map(|key| key.key.as_str()))
        .bind(&batch.digest)
        .bind(&batch.metadata)
        .bind(&batch.created_by)
        .bind(batch.created_at_ms)
        .bind(column(batch, |run| run.id.0))
        .bind(column(batch, |run| run.digest.as_str()))
        .bind(column(batch, |run| run.public_id.as_str()))
        .bind(column(batch, |run| run.agent.as_deref()))
        .bind(column(batch, |run| run.model.as_str()))
        .bind(column(batch, |run| run.created_by.as_str()))
        .bind(column(batch, |run| run.created_at_ms))
        .bind(column(batch, |run| run.input_preview.as_str()))
        .bind(column(batch, |run| run.metadata.as_str()))
        .bind(column(batch, |run| run.spec.as_str()))
        .bind(column(batch, one))
        .bind(column(batch, |run| run.events.first().map_or("", |event| &*event.data)))
        .bind(keys.iter().map(|(place, _)| *place).collect::<Vec<i32>>())
        .bind(keys.iter().map(|(_, name)| *name).collect::<Vec<&str>>())
        .fetch_one(connection)
        .await?;
    match letter.as_str() {
        "n" => Ok(BatchCreated::New),
        "e" => Ok(BatchCreated::Existing(BatchId(holder))),
        "c" => Ok(BatchCreated::Conflict),
        "t" => {
            let place = |place: i32| usize::try_from(place - 1).unwrap_or(0);
            Ok(BatchCreated::Taken(taken.unwrap_or_default().into_iter().map(place).collect()))
        }
        other => Err(unreadable(format!("the answer `{other}`"))),
    }
}
