//! Runs that are created together, all or none.

use super::rows::{Create, Key};
use crate::run::{RunId, Status};

/// A batch's id: a UUIDv7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub uuid::Uuid);

impl std::fmt::Display for BatchId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A batch to create.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are those of the table `batches`")]
pub struct CreateBatch {
    pub id: BatchId,
    pub tenant: String,
    /// The key of the whole.
    pub key: Option<Key>,
    /// SHA-256 of the request's body with sorted keys, hex.
    pub digest: String,
    pub metadata: String,
    pub created_by: String,
    pub created_at_ms: i64,
    /// Its runs, in the order of their ids. They are queued; each may have a key of its own.
    pub runs: Vec<Create>,
}

/// What became of a [`CreateBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchCreated {
    /// It exists now, and so do all of its runs.
    New,
    /// Its key names this batch already, created from the same body.
    Existing(BatchId),
    /// Its key was used for something else.
    Conflict,
    /// The keys of the runs at these places name runs already: nothing was created.
    Taken(Vec<usize>),
}

/// A batch as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the table `batches`")]
pub struct BatchRow {
    pub id: BatchId,
    pub metadata: String,
    pub created_at_ms: i64,
    /// Its runs, in order, without those that were erased.
    pub runs: Vec<BatchRun>,
}

/// A run of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the table `runs`")]
pub struct BatchRun {
    pub id: RunId,
    pub public_id: String,
    pub status: Status,
}

/// What became of an erasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purged {
    /// Nothing of the run is left.
    Erased,
    /// The run has not ended: nothing was done.
    Active,
    /// There is no such run.
    NoRun,
}
