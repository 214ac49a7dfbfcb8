//! Whether this process may act for the runs that it drives: which node it is, and until when.
//!
//! A node owns its runs while its lease lasts. The lease is counted from the start of the heartbeat
//! that renewed it, by a clock that goes on while the machine sleeps, so that a process that was
//! stopped or frozen for longer finds out before it calls a model or a tool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::store::{Node, NodeId};

/// Milliseconds since the machine was started, sleep included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub u64);

/// The clock of boot times. Cheap to clone.
#[derive(Clone, Default)]
pub enum BootClock {
    /// The machine's.
    #[default]
    Machine,
    /// A simulated machine's.
    #[cfg(feature = "testing")]
    Played(Arc<dyn Fn() -> BootTime + Send + Sync>),
}

impl BootClock {
    /// Now.
    pub fn now(&self) -> BootTime {
        match self {
            BootClock::Machine => {
                let now = clock_gettime(ClockId::Boottime);
                let seconds = now.tv_sec.unsigned_abs();
                BootTime(seconds * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000)
            }
            #[cfg(feature = "testing")]
            BootClock::Played(now) => now(),
        }
    }
}

impl std::fmt::Debug for BootClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BootClock").field(&self.now()).finish()
    }
}

impl BootTime {
    /// Later than any.
    pub const NEVER: BootTime = BootTime(u64::MAX);

    /// So much later.
    #[must_use]
    pub fn after(self, time: std::time::Duration) -> BootTime {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        BootTime(self.0.saturating_add(ms))
    }
}

/// What this process is among the nodes, for everybody in it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lease {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The node that this process is, or was last.
    node: watch::Sender<Node>,
    /// The last node of which nothing is driven here any more.
    let_go: watch::Sender<Option<NodeId>>,
    until: AtomicU64,
    clock: BootClock,
    is_away: AtomicBool,
}

impl Lease {
    /// The lease of a node that was just registered, by this clock.
    pub fn new(node: Node, until: BootTime, clock: BootClock) -> Lease {
        Lease {
            inner: Arc::new(Inner {
                node: watch::Sender::new(node),
                let_go: watch::Sender::new(None),
                until: AtomicU64::new(until.0),
                clock,
                is_away: AtomicBool::new(false),
            }),
        }
    }

    /// The node that this process is, or was last.
    pub fn node(&self) -> Node {
        self.inner.node.borrow().clone()
    }

    /// Whether it may act for its runs at this moment.
    pub fn is_held(&self) -> bool {
        let until = BootTime(self.inner.until.load(Ordering::Relaxed));
        self.now() < until && !self.inner.node.borrow().lost.is_cancelled()
    }

    /// Whether the store did not answer the last heartbeat: new work is refused at once rather than
    /// after a wait.
    pub fn is_away(&self) -> bool {
        self.inner.is_away.load(Ordering::Relaxed)
    }

    /// Says whether the store answers.
    pub fn set_away(&self, is_away: bool) {
        self.inner.is_away.store(is_away, Ordering::Relaxed);
    }

    /// The lease lasts until then.
    pub fn extend(&self, until: BootTime) {
        self.inner.until.store(until.0, Ordering::Relaxed);
    }

    /// The time by which it is counted.
    pub fn now(&self) -> BootTime {
        self.inner.clock.now()
    }

    /// When it ends.
    pub fn until(&self) -> BootTime {
        BootTime(self.inner.until.load(Ordering::Relaxed))
    }

    /// This process is another node from now on.
    pub fn begin(&self, node: Node, until: BootTime) {
        self.extend(until);
        self.inner.node.send_replace(node);
    }

    /// Waits until this process is another node than this one.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn next(&self, last: NodeId) -> Node {
        let mut node = self.inner.node.subscribe();
        let next = node.wait_for(|node| node.id != last).await;
        next.expect("the sender lives as long as this handle").clone()
    }

    /// Nothing of this node is driven here any more.
    pub fn let_go(&self, node: NodeId) {
        self.inner.let_go.send_replace(Some(node));
    }

    /// Waits until nothing of this node is driven here any more.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn is_let_go(&self, node: NodeId) {
        let mut let_go = self.inner.let_go.subscribe();
        let done = let_go.wait_for(|last| *last == Some(node)).await;
        done.expect("the sender lives as long as this handle");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_lease_is_held_until_its_time_or_its_loss() {
        let node = Node::new(NodeId(1), "one");
        let lease = Lease::new(node, BootTime::NEVER, BootClock::Machine);
        assert!(lease.is_held());
        lease.extend(lease.now());
        assert!(!lease.is_held(), "its time has come");
        lease.extend(lease.now().after(Duration::from_secs(60)));
        assert!(lease.is_held());
        lease.node().lost.cancel();
        assert!(!lease.is_held(), "it was lost before its time");
        let next = Node::new(NodeId(2), "two");
        lease.begin(next, BootTime::NEVER);
        assert_eq!(lease.next(NodeId(1)).await.id, NodeId(2));
        assert!(lease.is_held());
    }
}
