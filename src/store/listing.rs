//! What a list of runs asks for, and what it shows of each.

use super::BatchId;
use crate::run::{RunId, Seq, Status};

/// Which runs of a tenant are listed: those that all of this holds for, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// With one of these statuses; none: any.
    pub statuses: Vec<Status>,
    /// Ended for one of these reasons; none: any.
    pub stop_reasons: Vec<String>,
    /// Of the agent of this name.
    pub agent: Option<String>,
    /// That ask this model first.
    pub model: Option<String>,
    /// Of this thread.
    pub thread: Option<String>,
    /// Of this batch.
    pub batch: Option<BatchId>,
    /// Called by this run.
    pub parent: Option<RunId>,
    /// That wait for one of these; none: whether they wait or not.
    pub waiting: Vec<&'static str>,
    /// Only these, by whichever name.
    pub names: Option<Vec<String>>,
    /// With all of these labels.
    pub labels: Vec<(String, String)>,
    /// With this id or a newer one.
    pub from: Option<RunId>,
    /// Older than this id.
    pub below: Option<RunId>,
}

/// A run as a list shows it.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the table `runs`")]
pub struct Listed {
    pub id: RunId,
    pub public_id: String,
    pub status: Status,
    pub stop_reason: Option<String>,
    pub agent: Option<String>,
    pub model: String,
    pub turn_count: u32,
    pub usage: Option<String>,
    pub error: Option<String>,
    pub elapsed: Option<f64>,
    pub metadata: String,
    pub thread: Option<String>,
    pub batch: Option<BatchId>,
    pub parent: Option<RunId>,
    pub cancel_at_ms: Option<i64>,
    pub last_seq: Seq,
    pub created_by: String,
    pub created_at_ms: i64,
    pub started_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    pub input_preview: Option<String>,
    pub output_preview: Option<String>,
    /// 1 is next. None where it isn't queued, or stands behind [`PLACES`].
    pub queue_position: Option<u64>,
}

/// Up to which place in the queue lists tell places: counting further would make a list as slow as
/// the queue is long.
pub const PLACES: u32 = 1000;
