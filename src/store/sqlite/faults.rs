//! What may go wrong between a transaction and its caller, made to go wrong by tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::store::StoreError;

/// How often what goes wrong, from now on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    lost_answers: Arc<AtomicU32>,
    failed_commits: Arc<AtomicU32>,
    fired: Arc<AtomicU32>,
    forgets_batches: Arc<AtomicBool>,
    is_damaged: Arc<AtomicBool>,
}

impl Faults {
    /// So many more transactions are committed, and their callers are told that they failed.
    pub(crate) fn lose_answers(&self, times: u32) {
        self.lost_answers.fetch_add(times, Ordering::SeqCst);
    }

    /// So many more transactions fail just before their commit.
    pub(crate) fn fail_commits(&self, times: u32) {
        self.failed_commits.fetch_add(times, Ordering::SeqCst);
    }

    /// From now on every transaction finds the file damaged.
    pub(crate) fn damage(&self) {
        self.is_damaged.store(true, Ordering::SeqCst);
    }

    /// Switches off what tells a batch that is sent again from a new one: for controls.
    pub(crate) fn forget_batches(&self) {
        self.forgets_batches.store(true, Ordering::SeqCst);
    }

    pub(crate) fn are_batches_forgotten(&self) -> bool {
        self.forgets_batches.load(Ordering::SeqCst)
    }

    /// How many faults there have been.
    pub(crate) fn fired(&self) -> u32 {
        self.fired.load(Ordering::SeqCst)
    }

    pub(super) fn before_commit(&self) -> Result<(), StoreError> {
        if self.is_damaged.load(Ordering::SeqCst) {
            return Err(StoreError::Corrupt("a test damaged it".to_owned()));
        }
        self.fire(&self.failed_commits, "failed before its commit")
    }

    pub(super) fn after_commit(&self) -> Result<(), StoreError> {
        self.fire(&self.lost_answers, "its answer was lost")
    }

    fn fire(&self, left: &AtomicU32, what: &str) -> Result<(), StoreError> {
        let had = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if had.is_err() {
            return Ok(());
        }
        self.fired.fetch_add(1, Ordering::SeqCst);
        Err(StoreError::Unavailable(what.to_owned()))
    }
}
