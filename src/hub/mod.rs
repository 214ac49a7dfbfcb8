//! Knows who is listening to which run and how far each run has been committed, and wakes listeners.
//!
//! A listener wants everything behind some place in a log. The hub tells positions; events come from
//! the run's tail in memory where they are still there, and from the store else. So a notice that is
//! late or repeated is harmless, a slow listener costs only its own place, and joining is no special
//! case.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::run::{RunId, Seq};
use crate::store::StoredEvent;

/// How many of its last events a watched run keeps in memory: a listener that is further behind
/// reads the store.
const TAIL_EVENTS: usize = 256;

/// How many bytes of events a watched run keeps in memory.
const TAIL_BYTES: usize = 256 * 1024;

/// The positions of the watched runs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    watched: Arc<Mutex<HashMap<RunId, Watched>>>,
}

#[derive(Debug)]
struct Watched {
    position: watch::Sender<Seq>,
    listeners: usize,
    tail: VecDeque<StoredEvent>,
    tail_bytes: usize,
}

impl Watched {
    fn advance(&mut self, events: &[StoredEvent]) {
        for event in events {
            if self.tail.back().is_some_and(|last| last.seq.next() != event.seq) {
                self.tail.clear();
                self.tail_bytes = 0;
            }
            self.tail_bytes += event.data.len();
            self.tail.push_back(event.clone());
        }
        while self.tail.len() > TAIL_EVENTS || (self.tail_bytes > TAIL_BYTES && self.tail.len() > 1)
        {
            let Some(oldest) = self.tail.pop_front() else { break };
            self.tail_bytes -= oldest.data.len();
        }
    }
}

impl Hub {
    /// Begins to listen to a run. Listen first, then look up the run: what is committed between is
    /// then seen by one or the other.
    pub fn watch(&self, run: RunId) -> Watch {
        let mut watched = self.lock();
        let entry = watched.entry(run).or_insert_with(|| Watched {
            position: watch::Sender::new(Seq(0)),
            listeners: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
        });
        entry.listeners += 1;
        Watch { hub: self.clone(), run, position: entry.position.subscribe() }
    }

    /// Says that these events of these runs are committed: one wake for each run. Only after a
    /// commit. Told twice or late, it changes nothing.
    pub fn advance<'a>(&self, commits: impl IntoIterator<Item = (RunId, &'a [StoredEvent])>) {
        let mut watched = self.lock();
        for (run, events) in commits {
            let (Some(entry), Some(last)) = (watched.get_mut(&run), events.last()) else {
                continue;
            };
            let seen = *entry.position.borrow();
            if last.seq <= seen {
                continue;
            }
            let news = events.iter().position(|event| event.seq > seen).unwrap_or(0);
            entry.advance(&events[news..]);
            entry.position.send_replace(last.seq);
        }
    }

    /// Forgets what a run's listeners have in memory: it was erased, and they are to find that out.
    pub fn erase(&self, run: RunId) {
        if let Some(entry) = self.lock().get_mut(&run) {
            entry.tail.clear();
            entry.tail_bytes = 0;
        }
    }

    /// How many runs are listened to.
    pub fn watched_runs(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Watched>> {
        self.watched.lock().expect("nothing panics while it holds the hub's lock")
    }
}

/// One listener's hold on a run.
#[derive(Debug)]
pub struct Watch {
    hub: Hub,
    run: RunId,
    position: watch::Receiver<Seq>,
}

impl Watch {
    /// How far the run has been committed since somebody listens; 0 where nothing came yet.
    pub fn position(&self) -> Seq {
        *self.position.borrow()
    }

    /// The events behind `after`, where all of them are in memory.
    pub fn tail(&self, after: Seq) -> Option<Vec<StoredEvent>> {
        let watched = self.hub.lock();
        let tail = &watched.get(&self.run)?.tail;
        let first = tail.front()?.seq;
        if after.next() < first {
            return None;
        }
        Some(tail.iter().filter(|event| event.seq > after).cloned().collect())
    }

    /// Waits until the run is committed beyond `seen`.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn beyond(&mut self, seen: Seq) {
        self.position
            .wait_for(|position| *position > seen)
            .await
            .expect("the sender lives as long as it has listeners");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.hub.lock();
        if let Some(entry) = watched.get_mut(&self.run) {
            entry.listeners -= 1;
            if entry.listeners == 0 {
                watched.remove(&self.run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(places: std::ops::RangeInclusive<u64>) -> Vec<StoredEvent> {
        places.map(|seq| StoredEvent { seq: Seq(seq), kind: 3, data: Arc::from("{}") }).collect()
    }

    fn run(number: u128) -> RunId {
        RunId(uuid::Uuid::from_u128(number))
    }

    fn seqs(tail: Option<Vec<StoredEvent>>) -> Option<Vec<u64>> {
        tail.map(|events| events.iter().map(|event| event.seq.0).collect())
    }

    #[tokio::test]
    async fn late_and_repeated_notices_change_nothing() {
        let hub = Hub::default();
        let mut watch = hub.watch(run(1));
        for told in [2..=3, 1..=2, 3..=3, 2..=5, 4..=4] {
            hub.advance([(run(1), events(told).as_slice())]);
        }
        watch.beyond(Seq(4)).await;
        assert_eq!(watch.position(), Seq(5));
        assert_eq!(seqs(watch.tail(Seq(1))), Some(vec![2, 3, 4, 5]));
        assert_eq!(watch.tail(Seq(0)), None, "1 was never told, so the store has to be asked");
    }

    #[test]
    fn the_tail_is_bounded_and_a_listener_behind_it_reads_the_store() {
        let hub = Hub::default();
        let watch = hub.watch(run(1));
        hub.advance([(run(1), events(1..=1000).as_slice())]);
        assert_eq!(watch.tail(Seq(10)), None);
        assert_eq!(watch.tail(Seq(990)).map(|tail| tail.len()), Some(10));
    }

    #[test]
    fn a_run_that_nobody_listens_to_costs_nothing() {
        let hub = Hub::default();
        let (first, second) = (hub.watch(run(1)), hub.watch(run(1)));
        hub.advance([(run(1), events(1..=2).as_slice()), (run(2), events(1..=2).as_slice())]);
        assert_eq!(hub.watched_runs(), 1);
        drop(first);
        assert_eq!(hub.watched_runs(), 1);
        drop(second);
        assert_eq!(hub.watched_runs(), 0);
    }
}
