//! The store of several nodes: one PostgreSQL database.
//!
//! What takes more than one step is a function in the database (`migrations/postgres`), so that each
//! operation is one statement: no lock is held while a node has the word. Every statement has a
//! deadline and runs in a task of its own (`edge.rs`).

mod batch;
mod claim;
mod clock;
mod create;
mod edge;
mod erase;
mod error;
mod inbox;
mod journal;
mod list;
mod notices;
mod open;
mod ownership;
mod read;

use std::sync::Arc;
use std::time::Duration;

use super::{Seq, StoreError};
use clock::Clock;
use edge::Edge;
use notices::Ear;

pub(super) use open::migrate;
pub use open::{Listen, PostgresOptions};

/// How long a read may take: whoever asked is told rather than kept waiting.
const READ: Duration = Duration::from_secs(3);

/// How long a write may take, waits for others included.
const WRITE: Duration = Duration::from_secs(5);

/// How long a node's beginning and end may take, and a rescue: they change all runs that a node owns.
const TAKE_OVER: Duration = Duration::from_secs(20);

/// How long the making of partitions may take: it waits for whoever holds the tables.
const MAINTAIN: Duration = Duration::from_secs(30);

/// How many connections read one run for clients, or leave it a note: that is short, and more would only
/// wait for the database's cores.
const READERS: u32 = 4;

/// How many connections answer clients who ask about many runs.
const CLIENTS: u32 = 2;

/// How many connections load runs and let go of them, apart from those of the clients, so that
/// neither starves the other.
const DRIVERS: u32 = 4;

/// For how many days ahead there are partitions.
const DAYS_AHEAD: i32 = 7;

/// How many connections begin and end nodes: a rescue that takes long holds up no other.
const NODES: u32 = 2;

/// The store of several nodes. At most 20 connections each: ten for clients and drivers, and ten that
/// nobody else's work may hold up (two lanes, claims, heartbeats, what a node owns, notices, the
/// listener, upkeep, and two for the beginning and the end of nodes).
#[derive(Clone, Debug)]
pub struct Postgres {
    /// Host, port and database, without the password.
    place: Arc<str>,
    lease: Duration,
    clock: Clock,
    /// The journal's two lanes.
    appends: Edge,
    creates: Edge,
    /// One claim at a time.
    claims: Edge,
    /// Never behind anybody's work.
    beats: Edge,
    /// What this node owns: it may be slow, and no heartbeat waits for it.
    owned: Edge,
    nodes: Edge,
    notices: Edge,
    drivers: Edge,
    /// What is about one run.
    readers: Edge,
    /// What is about many.
    clients: Edge,
    upkeep: Edge,
    ear: Ear,
}

impl Postgres {
    pub(super) fn describe(&self) -> String {
        format!("PostgreSQL, {}", self.place)
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// How far the wall clock here is ahead of the database's.
    pub(super) fn clock_skew_ms(&self) -> i64 {
        self.clock.skew_ms()
    }

    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// Makes partitions ahead.
    pub(super) async fn maintain(&self) -> Result<(), StoreError> {
        let made: i32 = self
            .upkeep
            .run(|connection| {
                Box::pin(async move {
                    let (made,) = sqlx::query_as("select make_days($1)")
                        .bind(DAYS_AHEAD)
                        .fetch_one(connection)
                        .await?;
                    Ok(made)
                })
            })
            .await
            .map_err(|error| match error {
                StoreError::Unavailable(reason) | StoreError::Data(reason) => {
                    StoreError::Unavailable(format!(
                        "the partitions for the next {DAYS_AHEAD} days can't be made ({reason}): \
                         without today's, no run can be created"
                    ))
                }
                other @ (StoreError::Fenced | StoreError::Corrupt(_)) => other,
            })?;
        if made > 0 {
            tracing::debug!("made {made} partitions");
        }
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.ear.close().await;
        // What may still write first.
        for edge in [
            &self.creates,
            &self.appends,
            &self.claims,
            &self.beats,
            &self.owned,
            &self.nodes,
            &self.notices,
            &self.drivers,
            &self.readers,
            &self.clients,
            &self.upkeep,
        ] {
            edge.close().await;
        }
    }
}

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).expect("nothing is counted that far")
}

fn seq_of(number: i64) -> Seq {
    Seq(number.unsigned_abs())
}

/// What is stored and can't be: it is told as unreadable.
fn unreadable(what: String) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}
