//! The create lane: collects what waits, commits it in one transaction, tells hub, workers, callers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

pub(super) use batch_job::BatchJob;

use super::{Clock, Intent, NewRun, Placement, Refused, batch, timestamp};
use crate::failpoint::{Step, reach};
use crate::hub::Hub;
use crate::run::{Draft, Seq};
use crate::store::{Create, Created, Node, Notice, Store, StoreError, StoredRun};

/// How many runs one transaction creates: more would let the first wait for the last.
const BATCH_MAX: usize = 256;

/// How often a create is sent before its client is told that the store is away.
const TRIES_MAX: u32 = 3;

/// How long a create is tried at most, but for what a statement under way takes: a client who is told
/// sooner asks another node sooner.
const TRY_TIME: Duration = Duration::from_secs(2);

/// How long a create waits before it is sent again; doubled each time.
const TRY_WAIT: Duration = Duration::from_millis(20);

/// How many bytes of specs and events one transaction takes: what is larger goes alone.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

mod batch_job;

/// What waits for the lane.
#[derive(Debug)]
pub(super) enum Job {
    One(Box<RunJob>),
    Batch(Box<BatchJob>),
}

pub(super) struct RunJob {
    pub(super) create: Create,
    pub(super) queued: Draft,
    pub(super) placement: Placement,
    pub(super) answer: oneshot::Sender<Result<Intent, Refused>>,
}

impl std::fmt::Debug for RunJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunJob").field("run", &self.create.id).finish_non_exhaustive()
    }
}

/// The loop of the create lane.
#[derive(Debug)]
pub struct Creator {
    store: Store,
    hub: Hub,
    clock: Arc<Clock>,
    jobs: mpsc::Receiver<Job>,
    new_runs: mpsc::Sender<NewRun>,
}

/// What became of a batch of creates.
struct Settled {
    done: Vec<Created>,
    /// By the first answer. Where that was lost, a run may have been there for a while, and in other
    /// hands.
    is_at_once: bool,
}

/// Who waits for a create, and the slot that it may be born into.
struct Waiter {
    answer: oneshot::Sender<Result<Intent, Refused>>,
    here: Option<(Node, OwnedSemaphorePermit)>,
}

impl Creator {
    pub(super) fn new(
        store: Store,
        hub: Hub,
        clock: Arc<Clock>,
        jobs: mpsc::Receiver<Job>,
        new_runs: mpsc::Sender<NewRun>,
    ) -> Creator {
        Creator { store, hub, clock, jobs, new_runs }
    }

    /// Runs until the last handle is dropped.
    pub async fn run(mut self) {
        let mut jobs = Vec::new();
        while self.jobs.recv_many(&mut jobs, BATCH_MAX).await > 0 {
            let at = timestamp(self.clock.now_ms());
            let mut bytes = 0;
            let (mut creates, mut waiters) = (Vec::new(), Vec::new());
            for job in jobs.drain(..) {
                let job = match job {
                    Job::One(job) => *job,
                    Job::Batch(job) => {
                        // In the order of asking: what came before is committed before.
                        self.commit(std::mem::take(&mut creates), std::mem::take(&mut waiters))
                            .await;
                        bytes = 0;
                        self.create_batch(*job).await;
                        continue;
                    }
                };
                let (create, waiter) = self.prepare(job, &at);
                let more = create.spec.len()
                    + create.events.iter().map(|event| event.data.len()).sum::<usize>();
                if bytes + more > BATCH_BYTES_MAX && !creates.is_empty() {
                    self.commit(std::mem::take(&mut creates), std::mem::take(&mut waiters)).await;
                    bytes = 0;
                }
                bytes += more;
                creates.push(create);
                waiters.push(waiter);
            }
            self.commit(creates, waiters).await;
        }
    }

    fn prepare(&self, job: RunJob, at: &str) -> (Create, Waiter) {
        let RunJob { mut create, queued, placement, answer } = job;
        let (stored, _events) = batch::number(Seq(0), at, [batch::Written::new(queued)]);
        // Lists go by ids: a run was created when its id was made.
        create.created_at_ms = create.id.made_at_ms();
        create.events = stored;
        let here = match placement {
            Placement::Here(node, permit) => Some((node, permit)),
            Placement::Queue => None,
        };
        create.owner = here.as_ref().map(|(node, _)| node.id);
        (create, Waiter { answer, here })
    }

    /// Commits a batch; one that is refused as data is committed run by run, so that a run's data
    /// spoils no neighbour.
    async fn commit(&self, creates: Vec<Create>, waiters: Vec<Waiter>) {
        if creates.is_empty() {
            return;
        }
        reach(Step::CreateTaken);
        match self.settle(&creates).await {
            Ok(Settled { done, is_at_once }) => {
                reach(Step::CreateCommitted);
                for ((create, created), waiter) in creates.into_iter().zip(done).zip(waiters) {
                    match created {
                        Created::Fenced => self.queue(create, waiter).await,
                        done => self.tell(create, done, is_at_once, waiter).await,
                    }
                }
            }
            Err(StoreError::Data(_)) if creates.len() > 1 => {
                for (create, waiter) in creates.into_iter().zip(waiters) {
                    Box::pin(self.commit(vec![create], vec![waiter])).await;
                }
            }
            Err(error) => {
                tracing::error!(error = %error, "{} creates were not committed", creates.len());
                let refused = match error {
                    StoreError::Data(reason) => Refused::Poisoned(reason),
                    StoreError::Fenced | StoreError::Corrupt(_) | StoreError::Unavailable(_) => {
                        Refused::Unavailable(error.to_string())
                    }
                };
                for waiter in waiters {
                    // Whoever has stopped waiting needs no answer.
                    let _ = waiter.answer.send(Err(refused.clone()));
                }
            }
        }
    }

    /// Creates a run for whoever comes after this node, which is dead.
    async fn queue(&self, mut create: Create, waiter: Waiter) {
        create.owner = None;
        let waiter = Waiter { here: None, ..waiter };
        Box::pin(self.commit(vec![create], vec![waiter])).await;
    }

    /// Asks the store a few times. A create that was committed though its answer was lost is found
    /// by asking again; a store that is away is the client's to wait for.
    async fn settle(&self, creates: &[Create]) -> Result<Settled, StoreError> {
        let (mut wait, begun) = (TRY_WAIT, Instant::now());
        let mut is_at_once = true;
        for _ in 1..TRIES_MAX {
            match self.store.create(creates.to_vec()).await {
                Err(StoreError::Unavailable(reason)) if begun.elapsed() < TRY_TIME => {
                    tracing::warn!(reason, "the store is away; {} creates wait", creates.len());
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                    is_at_once = false;
                }
                settled => return settled.map(|done| Settled { done, is_at_once }),
            }
        }
        let done = self.store.create(creates.to_vec()).await?;
        Ok(Settled { done, is_at_once: false })
    }

    async fn tell(&self, create: Create, created: Created, is_at_once: bool, waiter: Waiter) {
        let Waiter { answer, here } = waiter;
        let intent = match created {
            Created::New => {
                let stored = Arc::new(StoredRun::of(create));
                let (run, is_born) = (stored.row.id, here.is_some());
                self.hub.advance([(run, stored.log.as_slice())]);
                let news = match here {
                    Some((node, permit)) => {
                        let fresh = is_at_once.then(|| Arc::clone(&stored));
                        NewRun::Born { node: node.id, run, fresh, permit }
                    }
                    None => {
                        self.hub.tell(Notice::Queued);
                        NewRun::Queued
                    }
                };
                // Workers that have stopped leave the run to the next start.
                let _ = self.new_runs.send(news).await;
                reach(Step::CreateTold);
                Ok(Intent::New { run: stored, is_born })
            }
            Created::Existing(run) => Ok(Intent::Existing(run)),
            Created::Conflict => Ok(Intent::Conflict),
            Created::Busy => {
                Err(Refused::Unavailable("another create with its key does not end".to_owned()))
            }
            Created::Fenced => {
                Err(Refused::Unavailable("this node has been declared dead".to_owned()))
            }
        };
        // Whoever has stopped waiting needs no answer.
        let _ = answer.send(intent);
    }
}
