//! Batches of runs: a transaction each, through the same lane, because only it creates runs.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Creator, TRIES_MAX, TRY_TIME, TRY_WAIT};
use crate::failpoint::{Step, reach};
use crate::journal::{NewRun, Refused, batch, timestamp};
use crate::run::{Draft, Seq};
use crate::store::{BatchCreated, CreateBatch, Notice, StoreError};

/// A batch that waits for the lane.
pub(in crate::journal) struct BatchJob {
    /// The batch; the runs' first events are made here.
    pub(in crate::journal) batch: CreateBatch,
    /// The first event of each run.
    pub(in crate::journal) queued: Vec<Draft>,
    pub(in crate::journal) answer: oneshot::Sender<Result<BatchCreated, Refused>>,
}

impl std::fmt::Debug for BatchJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchJob").field("batch", &self.batch.id).finish_non_exhaustive()
    }
}

impl Creator {
    /// Creates a batch, whole or not at all.
    pub(super) async fn create_batch(&self, job: BatchJob) {
        let BatchJob { mut batch, queued, answer } = job;
        let at = timestamp(self.clock.now_ms());
        for (create, queued) in batch.runs.iter_mut().zip(queued) {
            let (stored, _events) = batch::number(Seq(0), &at, [batch::Written::new(queued)]);
            create.events = stored;
            create.created_at_ms = create.id.made_at_ms();
        }
        let batch = Arc::new(batch);
        let settled = self.settle_batch(&batch).await;
        if let Ok(BatchCreated::New) = settled {
            reach(Step::BatchCommitted);
            let advances = batch.runs.iter().map(|run| (run.id, run.events.as_slice()));
            self.hub.advance(advances);
            self.hub.tell(Notice::Queued);
            // Workers that have stopped leave the runs to the next start.
            let _ = self.new_runs.send(NewRun::Queued).await;
        }
        let settled = settled.map_err(|error| {
            tracing::error!(error = %error, "a batch was not committed");
            match error {
                StoreError::Data(reason) => Refused::Poisoned(reason),
                StoreError::Fenced | StoreError::Corrupt(_) | StoreError::Unavailable(_) => {
                    Refused::Unavailable(error.to_string())
                }
            }
        });
        // Whoever has stopped waiting needs no answer.
        let _ = answer.send(settled);
    }

    /// Asks the store a few times, as for single runs.
    async fn settle_batch(&self, batch: &Arc<CreateBatch>) -> Result<BatchCreated, StoreError> {
        let (mut wait, begun) = (TRY_WAIT, Instant::now());
        for _ in 1..TRIES_MAX {
            match self.store.create_batch(Arc::clone(batch)).await {
                Err(StoreError::Unavailable(reason)) if begun.elapsed() < TRY_TIME => {
                    tracing::warn!(reason, "the store is away; a batch waits");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                settled => return settled,
            }
        }
        self.store.create_batch(Arc::clone(batch)).await
    }
}
