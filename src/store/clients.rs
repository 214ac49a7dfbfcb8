//! What clients are told without a driver, on connections that no driver needs: a client that reads
//! much keeps no run from being driven.

use super::{RunRow, Store, StoreError, StoredEvent, of};
use crate::run::RunId;

/// Whose connections a read takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reader {
    /// Of those that drive runs.
    Driver,
    /// Of those that answer clients.
    Client,
}

impl Store {
    /// [`Store::load`] for clients.
    pub async fn load_for_client(&self, run: RunId) -> Result<Option<RunRow>, StoreError> {
        of!(self, store => store.load(run, Reader::Client).await)
    }

    /// [`Store::log_for_fold`] for clients.
    pub async fn log_for_client(&self, run: RunId) -> Result<Vec<StoredEvent>, StoreError> {
        of!(self, store => store.log_for_fold(run, Reader::Client).await)
    }

    /// Whether the store answers. It costs the store nothing.
    pub async fn ping(&self) -> Result<(), StoreError> {
        of!(self, store => store.ping().await)
    }
}
