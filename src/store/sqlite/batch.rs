//! Batches: their key, their row and all their runs in one transaction, or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnection;

use super::create::{bind_key, key_holder};
use super::{Sqlite, id_of, now_ms, store_error};
use crate::run::{RunId, Status};
use crate::store::{BatchCreated, BatchId, BatchRow, BatchRun, CreateBatch, StoreError};

/// Every run by one statement each for a table: run by run, all other commits of the node would wait
/// for thousands of them.
const INSERTS: [&str; 5] = [
    "insert into runs (id, public_id, tenant, status, last_seq, agent, model, created_by,
                       created_at, input_preview, metadata, batch_id)
     select unhex(value ->> 'id'), value ->> 'public_id', value ->> 'tenant', 'QUEUED', 1,
            value ->> 'agent', value ->> 'model', value ->> 'created_by',
            value ->> 'created_at', value ->> 'input_preview', value ->> 'metadata',
            unhex(value ->> 'batch')
       from json_each($1)",
    "insert into specs (run_id, spec)
     select unhex(value ->> 'id'), value ->> 'spec' from json_each($1)",
    "insert into events (run_id, seq, type, data)
     select unhex(value ->> 'id'), 1, value ->> 'type', value ->> 'data' from json_each($1)",
    "insert into queue (run_id, kind, reason, tenant, priority, run_at)
     select unhex(value ->> 'id'), 'drive', 'new', value ->> 'tenant', 0, value ->> 'queued_at'
       from json_each($1)",
    "insert into run_labels (tenant, key, value, run_id)
     select run.value ->> 'tenant', label.key, label.value, unhex(run.value ->> 'id')
       from json_each($1) run, json_each(run.value ->> 'metadata') label",
];

/// The batch, and a run of it: a batch that has none is one row all the same.
type Member = (String, i64, Option<Vec<u8>>, Option<String>, Option<String>);

impl Sqlite {
    pub(in crate::store) async fn create_batch(
        &self,
        batch: Arc<CreateBatch>,
    ) -> Result<BatchCreated, StoreError> {
        self.write(move |connection| async move { create(connection, &batch).await }.boxed()).await
    }

    pub(in crate::store) async fn batch(
        &self,
        tenant: &str,
        batch: BatchId,
    ) -> Result<Option<BatchRow>, StoreError> {
        let rows: Vec<Member> = sqlx::query_as(
            "select batches.metadata, batches.created_at, runs.id, runs.public_id, runs.status
                   from batches
                   left join runs on runs.tenant = batches.tenant and runs.batch_id = batches.id
                  where batches.id = $1 and batches.tenant = $2
                  order by runs.id",
        )
        .bind(batch.0.as_bytes().to_vec())
        .bind(tenant.to_owned())
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        let Some((metadata, created_at_ms, ..)) = rows.first().cloned() else { return Ok(None) };
        let mut runs = Vec::with_capacity(rows.len());
        for (_, _, id, public_id, status) in rows {
            let (Some(id), Some(public_id), Some(status)) = (id, public_id, status) else {
                continue;
            };
            let status = Status::parse(&status)
                .ok_or_else(|| StoreError::Corrupt(format!("the status `{status}`")))?;
            runs.push(BatchRun { id: id_of(&id)?, public_id, status });
        }
        Ok(Some(BatchRow { id: batch, metadata, created_at_ms, runs }))
    }
}

async fn create(
    connection: &mut SqliteConnection,
    batch: &CreateBatch,
) -> Result<BatchCreated, StoreError> {
    let own = RunId(batch.id.0);
    if let Some(key) = &batch.key {
        match key_holder(connection, &batch.tenant, key).await? {
            // Its own: it was committed, and the answer was lost.
            Some((holder, _)) if holder == own => return Ok(BatchCreated::New),
            Some((holder, digest)) if digest == batch.digest => {
                return Ok(BatchCreated::Existing(BatchId(holder.0)));
            }
            Some(_) => return Ok(BatchCreated::Conflict),
            None => {}
        }
    }
    if is_there(connection, batch.id).await? {
        return Ok(BatchCreated::New);
    }
    let taken = taken(connection, batch).await?;
    if !taken.is_empty() {
        return Ok(BatchCreated::Taken(taken));
    }
    insert(connection, batch).await?;
    if let Some(key) = &batch.key {
        bind_key(connection, &batch.tenant, key, own, &batch.digest).await?;
    }
    for run in &batch.runs {
        for key in &run.keys {
            bind_key(connection, &run.tenant, key, run.id, &run.digest).await?;
        }
    }
    Ok(BatchCreated::New)
}

async fn is_there(connection: &mut SqliteConnection, batch: BatchId) -> Result<bool, StoreError> {
    let there: Option<(i64,)> = sqlx::query_as("select 1 from batches where id = $1")
        .bind(batch.0.as_bytes().to_vec())
        .fetch_optional(connection)
        .await
        .map_err(store_error)?;
    Ok(there.is_some())
}

/// The places of the runs whose keys name runs already, or a run before them in the batch.
async fn taken(
    connection: &mut SqliteConnection,
    batch: &CreateBatch,
) -> Result<Vec<usize>, StoreError> {
    let mut taken = Vec::new();
    let mut seen = BTreeSet::new();
    for (place, run) in batch.runs.iter().enumerate() {
        let mut is_taken = false;
        for key in &run.keys {
            is_taken |=
                !seen.insert(key) || key_holder(connection, &batch.tenant, key).await?.is_some();
        }
        taken.extend(is_taken.then_some(place));
    }
    Ok(taken)
}

async fn insert(connection: &mut SqliteConnection, batch: &CreateBatch) -> Result<(), StoreError> {
    sqlx::query(
        "insert into batches (id, tenant, metadata, created_by, created_at)
         values ($1, $2, $3, $4, $5)",
    )
    .bind(batch.id.0.as_bytes().to_vec())
    .bind(&batch.tenant)
    .bind(&batch.metadata)
    .bind(&batch.created_by)
    .bind(batch.created_at_ms)
    .execute(&mut *connection)
    .await
    .map_err(store_error)?;
    let rows = rows(batch)?;
    for insert in INSERTS {
        sqlx::query(insert)
            .bind(rows.clone())
            .execute(&mut *connection)
            .await
            .map_err(store_error)?;
    }
    Ok(())
}

/// The runs as one JSON parameter.
fn rows(batch: &CreateBatch) -> Result<String, StoreError> {
    let now_ms = now_ms();
    let row = |run: &crate::store::Create| match run.events.as_slice() {
        [queued] if queued.seq.0 == 1 => Ok(json!({
            "id": run.id.0.simple().to_string(),
            "public_id": run.public_id,
            "tenant": run.tenant,
            "agent": run.agent,
            "model": run.model,
            "created_by": run.created_by,
            "created_at": run.created_at_ms,
            // Where the clock was put back, that is still to come.
            "queued_at": run.created_at_ms.min(now_ms),
            "input_preview": run.input_preview,
            "metadata": run.metadata,
            "batch": batch.id.0.simple().to_string(),
            "spec": run.spec,
            "type": queued.kind,
            "data": &*queued.data,
        })),
        _other => Err(StoreError::Data("a run of a batch is created with one event".to_owned())),
    };
    let rows: Vec<Value> = batch.runs.iter().map(row).collect::<Result<_, _>>()?;
    Ok(Value::Array(rows).to_string())
}
