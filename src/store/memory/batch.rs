//! Batches, erasing, and what the installation keeps to itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::create::{bind, name, queue_new};
use super::tables::{Batch, Run, Tables};
use super::{Memory, Op};
use crate::run::RunId;
use crate::store::{BatchCreated, BatchId, BatchRow, BatchRun, CreateBatch, Purged, StoreError};

impl Memory {
    pub(in crate::store) async fn create_batch(
        &self,
        batch: Arc<CreateBatch>,
    ) -> Result<BatchCreated, StoreError> {
        self.run(Op::Create, move |tables, now_ms| create(tables, &batch, now_ms)).await
    }

    pub(in crate::store) async fn batch(
        &self,
        tenant: &str,
        id: BatchId,
    ) -> Result<Option<BatchRow>, StoreError> {
        let tenant = tenant.to_owned();
        self.run(Op::Read, move |tables, _| {
            let found = tables.batches.get(&id).filter(|batch| batch.tenant == tenant);
            let Some(Batch { metadata, created_at_ms, .. }) = found else { return Ok(None) };
            let runs = tables.runs.iter().filter(|(_, run)| run.batch == Some(id));
            let runs = runs.map(|(run, row)| BatchRun {
                id: *run,
                public_id: row.public_id.clone(),
                status: row.status,
            });
            Ok(Some(BatchRow {
                id,
                metadata: metadata.clone(),
                created_at_ms: *created_at_ms,
                runs: runs.collect(),
            }))
        })
        .await
    }

    pub(in crate::store) async fn purge(
        &self,
        tenant: &str,
        run: RunId,
    ) -> Result<Purged, StoreError> {
        let tenant = tenant.to_owned();
        self.run(Op::Purge, move |tables, _| {
            let batch = match tables.runs.get(&run).filter(|row| row.tenant == tenant) {
                None => return Ok(Purged::NoRun),
                Some(row) if row.finished_at_ms.is_none() => return Ok(Purged::Active),
                Some(row) => row.batch,
            };
            tables.runs.remove(&run);
            tables.keys.retain(|_, (held, _)| *held != run.0);
            if let Some(batch) = batch
                && tables.runs.values().all(|row| row.batch != Some(batch))
            {
                tables.batches.remove(&batch);
                tables.keys.retain(|_, (held, _)| *held != batch.0);
            }
            Ok(Purged::Erased)
        })
        .await
    }

    pub(in crate::store) async fn secret(
        &self,
        name: &'static str,
        candidate: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        self.run(Op::Read, move |tables, _| {
            Ok(tables.secrets.entry(name).or_insert(candidate).clone())
        })
        .await
    }
}

fn create(
    tables: &mut Tables,
    batch: &CreateBatch,
    now_ms: i64,
) -> Result<BatchCreated, StoreError> {
    if let Some(key) = &batch.key {
        match tables.keys.get(&name(&batch.tenant, key)) {
            // Its own: it was committed, and the answer was lost.
            Some((holder, _)) if *holder == batch.id.0 => return Ok(BatchCreated::New),
            Some((holder, digest)) if *digest == batch.digest => {
                return Ok(BatchCreated::Existing(BatchId(*holder)));
            }
            Some(_) => return Ok(BatchCreated::Conflict),
            None => {}
        }
    }
    if tables.batches.contains_key(&batch.id) {
        return Ok(BatchCreated::New);
    }
    let taken = taken(tables, batch);
    if !taken.is_empty() {
        return Ok(BatchCreated::Taken(taken));
    }
    if batch.runs.iter().any(|run| !matches!(run.events.as_slice(), [one] if one.seq.0 == 1)) {
        return Err(StoreError::Data("a run of a batch is created with one event".to_owned()));
    }
    let row = Batch {
        tenant: batch.tenant.clone(),
        metadata: batch.metadata.clone(),
        created_at_ms: batch.created_at_ms,
    };
    tables.batches.insert(batch.id, row);
    if let Some(key) = &batch.key {
        bind(tables, &batch.tenant, key, batch.id.0, &batch.digest);
    }
    for run in &batch.runs {
        tables.runs.insert(run.id, Run { node: None, ..Run::of(run, Some(batch.id)) });
        queue_new(tables, run, now_ms);
        for key in &run.keys {
            bind(tables, &run.tenant, key, run.id.0, &run.digest);
        }
    }
    Ok(BatchCreated::New)
}

/// The places of the runs whose keys name runs already, or a run before them in the batch.
fn taken(tables: &Tables, batch: &CreateBatch) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let mut is_taken = |key| {
        let is_repeated = !seen.insert(key);
        is_repeated || tables.keys.contains_key(&name(&batch.tenant, key))
    };
    let mut taken = Vec::new();
    for (place, run) in batch.runs.iter().enumerate() {
        if run.keys.iter().filter(|key| is_taken(*key)).count() > 0 {
            taken.push(place);
        }
    }
    taken
}
