//! Knows who is listening to which run and how far each run has been committed, and wakes listeners.
//!
//! A listener wants everything behind some place in a log. The hub tells positions; events come from
//! the run's tail in memory where they are still there, and from the store else. So a notice that is
//! late or repeated is harmless, a slow listener costs only its own place, and joining is no special
//! case.

mod remote;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

pub use remote::{Remote, Wakes};

use crate::run::{RunId, Seq};
use crate::store::{Notice, StoredEvent};

/// How many of its last events a watched run keeps in memory: a listener that is further behind
/// reads the store.
const TAIL_EVENTS: usize = 256;

/// How many bytes of events a watched run keeps in memory.
const TAIL_BYTES: usize = 256 * 1024;

/// How long after its create a run may be without a driver: until then nobody is told that somebody here
/// waits for it.
const SOON: Duration = Duration::from_millis(25);

/// How many notices to other nodes may wait: each is a hint, and those beyond are dropped.
const NOTICES_MAX: usize = 4096;

/// The positions of the watched runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    runs: Arc<Mutex<Runs>>,
    others: Option<Others>,
}

/// The way to the other nodes.
#[derive(Clone, Debug)]
struct Others {
    notices: mpsc::Sender<Notice>,
    /// Somebody listens to a run of another node: it is looked at soon.
    look: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Runs {
    watched: BTreeMap<RunId, Watched>,
    /// Runs that this node appends to: it hears of their commits first.
    local: BTreeSet<RunId>,
    /// Runs to which other nodes listen, and until when they are told.
    listened: BTreeMap<RunId, Instant>,
}

#[derive(Debug)]
struct Watched {
    position: watch::Sender<Seq>,
    listeners: usize,
    /// It is only being created: nobody looks for it in the store.
    is_expected: bool,
    /// The other nodes were told that somebody waits for its commits.
    is_announced: bool,
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
    /// The hub of a node that is alone.
    pub fn alone() -> Hub {
        Hub { runs: Arc::default(), others: None }
    }

    /// Begins to listen to a run. Listen first, then look up the run: what is committed between is
    /// then seen by one or the other.
    pub fn watch(&self, run: RunId) -> Watch {
        self.listen(run, false)
    }

    /// Begins to listen to a run that is going to be created here, and misses nothing from its first
    /// commit on. Until then it is not missed in the store.
    pub fn expect(&self, run: RunId) -> Watch {
        self.listen(run, true)
    }

    fn listen(&self, run: RunId, is_expected: bool) -> Watch {
        let mut runs = self.lock();
        let entry = runs.watched.entry(run).or_insert_with(|| Watched {
            position: watch::Sender::new(Seq(0)),
            listeners: 0,
            is_expected,
            is_announced: false,
            tail: VecDeque::new(),
            tail_bytes: 0,
        });
        entry.listeners += 1;
        Watch { hub: self.clone(), run, position: entry.position.subscribe() }
    }

    /// Whether a run is driven elsewhere, as far as is known here, and the others have not been told that
    /// somebody waits for it.
    fn is_elsewhere(&self, run: RunId) -> bool {
        let runs = self.lock();
        let is_told = || runs.watched.get(&run).is_some_and(|entry| entry.is_announced);
        self.others.is_some() && !runs.local.contains(&run) && !is_told()
    }

    /// Somebody waits for a run's commits: where it is driven elsewhere, the others are told, once.
    fn announce(&self, run: RunId) {
        let Some(others) = &self.others else { return };
        let mut runs = self.lock();
        let Runs { watched, local, .. } = &mut *runs;
        let is_news = |entry: &mut Watched| !std::mem::replace(&mut entry.is_announced, true);
        if !local.contains(&run) && watched.get_mut(&run).is_some_and(is_news) {
            drop(runs);
            self.tell(Notice::Listened(run));
            others.look.notify_one();
        }
    }

    /// Says that these events of these runs are committed: one wake for each run. Only after a
    /// commit. Told twice or late, it changes nothing.
    pub fn advance<'a>(&self, commits: impl IntoIterator<Item = (RunId, &'a [StoredEvent])>) {
        let mut runs = self.lock();
        let mut to_tell = Vec::new();
        for (run, events) in commits {
            let Some(last) = events.last() else { continue };
            if runs.listened.contains_key(&run) {
                to_tell.push(Notice::Committed(run, last.seq));
            }
            let Some(entry) = runs.watched.get_mut(&run) else { continue };
            entry.is_expected = false;
            let seen = *entry.position.borrow();
            if last.seq <= seen {
                continue;
            }
            let news = events.iter().position(|event| event.seq > seen).unwrap_or(0);
            entry.advance(&events[news..]);
            entry.position.send_replace(last.seq);
        }
        drop(runs);
        for notice in to_tell {
            self.tell(notice);
        }
    }

    /// A hint for the other nodes, where there are any.
    pub fn tell(&self, notice: Notice) {
        if let Some(others) = &self.others {
            // Full: what it says is found by looking.
            let _ = others.notices.try_send(notice);
        }
    }

    /// This node appends to the run from now on, or no longer: then its listeners here have to learn
    /// from the store how far it is.
    pub fn set_local(&self, run: RunId, is_local: bool) {
        let Some(others) = &self.others else { return };
        let mut runs = self.lock();
        if is_local {
            runs.local.insert(run);
        } else if runs.local.remove(&run)
            && let Some(entry) = runs.watched.get_mut(&run)
        {
            entry.is_announced = true;
            drop(runs);
            self.tell(Notice::Listened(run));
            others.look.notify_one();
        }
    }

    /// Forgets what a run's listeners have in memory: it was erased, and they are to find that out.
    pub fn erase(&self, run: RunId) {
        if let Some(entry) = self.lock().watched.get_mut(&run) {
            entry.tail.clear();
            entry.tail_bytes = 0;
        }
    }

    /// How many runs are listened to.
    pub fn watched_runs(&self) -> usize {
        self.lock().watched.len()
    }

    fn lock(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().expect("nothing panics while it holds the hub's lock")
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
        let runs = self.hub.lock();
        let Watched { tail, position, .. } = runs.watched.get(&self.run)?;
        let (first, last) = (tail.front()?.seq, tail.back()?.seq);
        // What another node has committed is in the store only.
        if after.next() < first || last < *position.borrow() {
            return None;
        }
        // There are no gaps: its place says where an event is.
        let seen =
            usize::try_from(after.next().0 - first.0).map_or(tail.len(), |n| n.min(tail.len()));
        Some(tail.range(seen..).cloned().collect())
    }

    /// Waits until the run is committed beyond `seen`.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn beyond(&mut self, seen: Seq) {
        if self.position() <= seen && self.hub.is_elsewhere(self.run) {
            // A run that was just created is taken over here in a moment, and nobody has to be told.
            let moved = self.position.wait_for(|position| *position > seen);
            if tokio::time::timeout(SOON, moved).await.is_ok() {
                return;
            }
            self.hub.announce(self.run);
        }
        self.position
            .wait_for(|position| *position > seen)
            .await
            .expect("the sender lives as long as it has listeners");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut runs = self.hub.lock();
        if let Some(entry) = runs.watched.get_mut(&self.run) {
            entry.listeners -= 1;
            if entry.listeners == 0 {
                runs.watched.remove(&self.run);
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
        let hub = Hub::alone();
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
        let hub = Hub::alone();
        let watch = hub.watch(run(1));
        hub.advance([(run(1), events(1..=1000).as_slice())]);
        assert_eq!(watch.tail(Seq(10)), None);
        assert_eq!(watch.tail(Seq(990)).map(|tail| tail.len()), Some(10));
    }

    #[test]
    fn a_run_that_nobody_listens_to_costs_nothing() {
        let hub = Hub::alone();
        let (first, second) = (hub.watch(run(1)), hub.watch(run(1)));
        hub.advance([(run(1), events(1..=2).as_slice()), (run(2), events(1..=2).as_slice())]);
        assert_eq!(hub.watched_runs(), 1);
        drop(first);
        assert_eq!(hub.watched_runs(), 1);
        drop(second);
        assert_eq!(hub.watched_runs(), 0);
    }
}
