//! Room for active runs on this node: slots, whether somebody older waits for one, and the wake-ups
//! of drivers whose run has news in its inbox.

mod files;
mod lease;
mod pulse;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use files::connections_max;
pub use lease::{BootClock, BootTime, Lease};
pub use pulse::Pulse;

use crate::run::RunId;

/// The slots of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission {
    slots: Arc<Semaphore>,
    /// How many runs may wait without their slot, each with its state in memory: as many as may be
    /// active.
    beds: Arc<Semaphore>,
    total: usize,
    /// Older runs wait in the queue: a new one takes its place behind them.
    has_backlog: Arc<AtomicBool>,
    freed: Arc<Notify>,
    drivers: Arc<Mutex<HashMap<RunId, Arc<Pulse>>>>,
    stuck: Arc<AtomicUsize>,
}

/// A slot; it is free again when this is dropped. While its run only waits, it can be lent.
#[derive(Debug)]
pub struct Slot {
    admission: Admission,
    permit: Option<OwnedSemaphorePermit>,
    /// The place among those that wait without a slot.
    bed: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// `total` active runs at once.
    pub fn new(total: usize) -> Admission {
        Admission {
            slots: Arc::new(Semaphore::new(total)),
            beds: Arc::new(Semaphore::new(total)),
            total,
            has_backlog: Arc::new(AtomicBool::new(true)),
            freed: Arc::new(Notify::new()),
            drivers: Arc::new(Mutex::new(HashMap::new())),
            stuck: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Wakes whoever must read the run's inbox: its driver on this node, else the claimer.
    pub fn wake(&self, run: RunId) {
        match self.drivers().get(&run) {
            Some(driver) => driver.wake(),
            None => self.freed.notify_one(),
        }
    }

    /// Registers the run's driver. False where it has one already.
    pub fn attach(&self, run: RunId, pulse: Arc<Pulse>) -> bool {
        match self.drivers().entry(run) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(pulse);
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

    /// Runs whose driver should have moved by now.
    pub fn late(&self) -> Vec<RunId> {
        let now = Instant::now();
        let drivers = self.drivers();
        drivers.iter().filter(|(_, pulse)| pulse.is_late(now)).map(|(run, _)| *run).collect()
    }

    /// How many runs nobody moves, as far as this node can see.
    pub fn stuck(&self) -> usize {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Says how many.
    pub fn set_stuck(&self, runs: usize) {
        self.stuck.store(runs, Ordering::Relaxed);
    }

    fn drivers(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Pulse>>> {
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
        Slot { admission: self.clone(), permit: Some(permit), bed: None }
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

    /// Another node has queued a run: the claimer looks where a slot is free.
    pub fn queued_elsewhere(&self) {
        // Before the look at the slots: one that is freed after it wakes the claimer.
        self.set_backlog(true);
        if self.slots.available_permits() > 0 {
            self.freed.notify_one();
        }
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

impl Slot {
    /// Lets another run have the slot, where there is room for one more that waits.
    pub fn lend(&mut self) {
        if self.permit.is_some()
            && let Ok(bed) = Arc::clone(&self.admission.beds).try_acquire_owned()
        {
            self.bed = Some(bed);
            self.free();
        }
    }

    /// Waits until the slot, or another, is this run's again, in the order of asking and before any
    /// run of the queue; at once where it was not lent.
    ///
    /// # Cancel safety
    /// Dropping it loses the place in that order.
    pub async fn take_back(&mut self) {
        if self.permit.is_none() {
            let slots = Arc::clone(&self.admission.slots);
            self.permit = Some(slots.acquire_owned().await.expect("it is never closed"));
            self.bed = None;
        }
    }

    fn free(&mut self) {
        drop(self.permit.take());
        // Without a backlog there is nothing to claim, and each claim is a transaction.
        if self.admission.has_backlog() {
            self.admission.freed.notify_one();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.free();
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

    #[tokio::test(start_paused = true)]
    async fn a_driver_is_late_when_it_has_not_moved_by_its_own_word() {
        let admission = Admission::new(1);
        let (run, pulse) = (RunId(uuid::Uuid::from_u128(1)), Arc::new(Pulse::default()));
        let seconds = std::time::Duration::from_secs;
        pulse.promise(Instant::now() + seconds(10));
        assert!(admission.attach(run, Arc::clone(&pulse)));
        tokio::time::advance(seconds(10)).await;
        assert_eq!(admission.late(), []);
        tokio::time::advance(seconds(1)).await;
        assert_eq!(admission.late(), [run]);
        pulse.promise(Instant::now() + seconds(10));
        assert_eq!(admission.late(), [], "it has moved");
        tokio::time::advance(seconds(11)).await;
        admission.detach(run);
        assert_eq!(admission.late(), [], "nobody drives it");
    }

    #[tokio::test]
    async fn a_lent_slot_comes_back_before_the_queue_gets_one() {
        let admission = Admission::new(1);
        let lend = |permits: Vec<OwnedSemaphorePermit>| {
            let mut slot = admission.slot(permits.into_iter().next().expect("it is free"));
            slot.lend();
            slot
        };
        let mut waiting = lend(admission.take(1));
        let mut active = admission.slot(admission.take(1).pop().expect("it was lent"));
        active.lend();
        assert_eq!(admission.usage(), (1, 1), "one may wait without a slot, and one does");
        let mut back = Box::pin(waiting.take_back());
        let early = tokio::time::timeout(std::time::Duration::ZERO, &mut back).await;
        assert!(early.is_err(), "nobody has freed a slot");
        drop(active);
        assert!(admission.take(1).is_empty(), "whoever lent it has it");
        back.await;
        assert_eq!(admission.usage(), (1, 1));
        waiting.take_back().await;
        drop(waiting);
        assert_eq!(lend(admission.take(1)).admission.usage(), (0, 1), "the bed was free again");
    }
}
