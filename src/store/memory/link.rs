//! The way between a node and the database: a simulation decides what goes wrong on it.

use std::time::Duration;

use futures_util::future::BoxFuture;

/// What a node asks of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are the operations of `Store`")]
pub enum Op {
    Register,
    HandOver,
    Create,
    Append,
    Claim,
    Heartbeat,
    Owned,
    Rescue,
    Requeue,
    Leave,
    Purge,
    Notify,
    Hear,
    Inbox,
    Load,
    Log,
    Read,
}

/// How an operation fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trip {
    /// Carried out after a while, and told after another.
    Done {
        /// Until it is carried out.
        out: Duration,
        /// From then on until it is told.
        back: Duration,
    },
    /// Carried out, but its caller is told that the store is away, before or after.
    Lost {
        /// Until it is carried out.
        out: Duration,
        /// Until its caller gives up.
        told_after: Duration,
    },
    /// Never carried out; its caller is told that the store is away.
    Refused {
        /// Until its caller gives up.
        told_after: Duration,
    },
}

impl Trip {
    /// At once, and in the caller's own task: it is done before its caller can be dropped.
    pub const DIRECT: Trip = Trip::Done { out: Duration::ZERO, back: Duration::ZERO };
}

/// One node's way to the database.
pub trait Link: std::fmt::Debug + Send + Sync {
    /// An operation is sent. It does not end where its process has died.
    fn go(&self, op: Op) -> BoxFuture<'_, Trip>;

    /// Its answer has come, and waits to be read. It does not end where its process has died.
    fn come(&self, op: Op) -> BoxFuture<'_, ()>;
}

/// Nothing goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sound;

impl Link for Sound {
    fn go(&self, _op: Op) -> BoxFuture<'_, Trip> {
        let (out, back) = (Duration::from_micros(1), Duration::ZERO);
        Box::pin(async move { Trip::Done { out, back } })
    }

    fn come(&self, _op: Op) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
