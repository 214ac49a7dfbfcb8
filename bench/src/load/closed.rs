//! The closed loop: so many at once, each begins anew when it has ended.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

/// How long a loop goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// It is measured for so long, after a warming up.
    Time { warm: Duration, measured: Duration },
    /// So many in all.
    Count(usize),
}

/// Who may begin another, and its number.
#[derive(Debug)]
pub(crate) struct Tickets {
    next: AtomicUsize,
    count: usize,
    end: Option<Instant>,
}

impl Tickets {
    fn new(until: Until) -> Tickets {
        let (count, end) = match until {
            Until::Time { warm, measured } => (usize::MAX, Some(Instant::now() + warm + measured)),
            Until::Count(count) => (count, None),
        };
        Tickets { next: AtomicUsize::new(0), count, end }
    }

    /// The number of the next; none where the loop is over.
    pub(crate) fn take(&self) -> Option<usize> {
        if self.end.is_some_and(|end| Instant::now() >= end) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.count).then_some(number)
    }
}

/// What a loop gave.
#[derive(Debug)]
pub(crate) struct Closed<T> {
    /// What each worker brought back.
    pub(crate) of_workers: Vec<T>,
    /// From when on it counts, and until when.
    from: Instant,
    to: Instant,
}

/// Lets so many workers take tickets until there are no more.
///
/// # Errors
/// The first of a worker's; the others are dropped.
pub(crate) async fn closed<T, W, F>(in_flight: usize, until: Until, worker: W) -> Result<Closed<T>>
where
    T: Send + 'static,
    W: Fn(Arc<Tickets>) -> F,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let began = Instant::now();
    let tickets = Arc::new(Tickets::new(until));
    let mut workers = JoinSet::new();
    for _ in 0..in_flight {
        workers.spawn(worker(tickets.clone()));
    }
    let mut of_workers = Vec::with_capacity(in_flight);
    while let Some(brought) = workers.join_next().await {
        of_workers.push(brought??);
    }
    let (from, to) = match until {
        Until::Time { warm, measured } => (began + warm, began + warm + measured),
        Until::Count(_) => (began, Instant::now()),
    };
    Ok(Closed { of_workers, from, to })
}

impl<T> Closed<T> {
    /// Whether it falls into the time that counts.
    pub(crate) fn counts(&self, at: Instant) -> bool {
        self.from <= at && at <= self.to
    }

    pub(crate) fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }
}
