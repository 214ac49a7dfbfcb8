//! Room for active runs on this node: slots, whether somebody older waits for one, and the wake-ups
//! of drivers whose run has news in its inbox.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::run::RunId;

/// The slots of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission {
    slots: Arc<Semaphore>,
    total: usize,
    /// Older runs wait in the queue: a new one takes its place behind them.
    has_backlog: Arc<AtomicBool>,
    freed: Arc<Notify>,
    drivers: Arc<Mutex<HashMap<RunId, Arc<Notify>>>>,
}

/// A slot; it is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    has_backlog: Arc<AtomicBool>,
    freed: Arc<Notify>,
}

impl Admission {
    /// `total` active runs at once.
    pub fn new(total: usize) -> Admission {
        Admission {
            slots: Arc::new(Semaphore::new(total)),
            total,
            has_backlog: Arc::new(AtomicBool::new(true)),
            freed: Arc::new(Notify::new()),
            drivers: Arc::new(Mutex::new(HashMap::new())),
        }
    }

    /// Wakes whoever must read the run's inbox: its driver on this node, else the claimer.
    pub fn wake(&self, run: RunId) {
        match self.drivers().get(&run) {
            Some(driver) => driver.notify_one(),
            None => self.freed.notify_one(),
        }
    }

    /// Registers the run's driver. False where it has one already.
    pub fn attach(&self, run: RunId, nudge: Arc<Notify>) -> bool {
        match self.drivers().entry(run) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(nudge);
                true
            }
        }
    }

    /// Whether somebody on this node drives the run.
    pub fn has_driver(&self, run: RunId) -> bool {
        self.drivers().contains_key(&run)
    }

    /// The run has no driver on this node any more.
    pub fn detach(&self, run: RunId) {
        self.drivers().remove(&run);
    }

    fn drivers(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Notify>>> {
        self.drivers.lock().expect("nothing panics while it holds this lock")
    }

    /// A slot for a run that is just being created, where one is free and nothing older waits.
    pub fn born_slot(&self) -> Option<OwnedSemaphorePermit> {
        if self.has_backlog.load(Ordering::Relaxed) {
            return None;
        }
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Up to `most` free slots, taken.
    pub fn take(&self, most: usize) -> Vec<OwnedSemaphorePermit> {
        std::iter::from_fn(|| Arc::clone(&self.slots).try_acquire_owned().ok()).take(most).collect()
    }

    /// A permit as a slot whose release wakes the claimer where somebody waits for it.
    pub fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        let (has_backlog, freed) = (Arc::clone(&self.has_backlog), Arc::clone(&self.freed));
        Slot { permit: Some(permit), has_backlog, freed }
    }

    /// Says whether the queue held more than was claimed.
    pub fn set_backlog(&self, has_backlog: bool) {
        self.has_backlog.store(has_backlog, Ordering::Relaxed);
    }

    /// A run was put back into the queue: the claimer looks.
    pub fn queued(&self) {
        self.set_backlog(true);
        self.freed.notify_one();
    }

    /// Whether older runs wait.
    pub fn has_backlog(&self) -> bool {
        self.has_backlog.load(Ordering::Relaxed)
    }

    /// Waits for a slot that somebody waits for, or for news of a run without a driver.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Active runs and slots.
    pub fn usage(&self) -> (usize, usize) {
        (self.total - self.slots.available_permits(), self.total)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.permit.take());
        // Without a backlog there is nothing to claim, and each claim is a transaction.
        if self.has_backlog.load(Ordering::Relaxed) {
            self.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_run_never_overtakes_those_that_wait() {
        let admission = Admission::new(1);
        assert!(admission.born_slot().is_none(), "at the start the queue has not been looked at");
        admission.set_backlog(false);
        let slot = admission.slot(admission.born_slot().expect("the slot is free"));
        assert!(admission.born_slot().is_none(), "there is one slot");
        assert_eq!(admission.usage(), (1, 1));
        admission.set_backlog(true);
        drop(slot);
        admission.freed().await;
        assert_eq!(admission.take(5).len(), 1);
    }
}
