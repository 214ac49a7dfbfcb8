//! Nodes: their beginning, their heartbeats, their end, and who takes over.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Postgres, as_i64};
use crate::run::RunId;
use crate::store::{Beat, NodeId, Rescued, StoreError};

/// How many dead nodes are taken over before the rescuer looks up again.
const RESCUES_MAX: usize = 64;

/// How long a rescue waits for what a dead node has under way, before it is ended.
const PATIENCE: Duration = Duration::from_millis(500);

/// Renews a lease. A node that was declared dead has none. It looks at nothing else: what a node owns
/// is found slowly where a long transaction keeps the vacuum from what it owned before.
const BEAT: &str = "update node_leases
        set lease_until = clock_timestamp() + $2 * interval '1 millisecond', slots = $3, busy = $4
      where node_id = $1
        and exists (select from nodes where nodes.node_id = $1 and dead_at is null)
     returning floor(extract(epoch from clock_timestamp()) * 1000000)::bigint";

const OWNED: &str = "select id, inbox_n > inbox_read from runs where node_id = $1";

/// The part of the lease that a heartbeat waits for what its node owns, once the lease is renewed.
const OWNED_PART: u32 = 5;

impl Postgres {
    /// Takes nothing over: that is for `rescue`.
    pub(in crate::store) async fn register(
        &self,
        name: &str,
    ) -> Result<(NodeId, Rescued), StoreError> {
        let (name, lease_ms) = (name.to_owned(), self.lease_ms());
        self.nodes
            .run(move |connection| {
                Box::pin(async move {
                    let (node, handed_over): (i64, i64) =
                        sqlx::query_as("select node, handed_over from register_node($1, $2)")
                            .bind(name)
                            .bind(lease_ms)
                            .fetch_one(connection)
                            .await?;
                    let handed_over = handed_over.unsigned_abs();
                    Ok((NodeId(node), Rescued { crashed: 0, handed_over }))
                })
            })
            .await
    }

    pub(in crate::store) async fn hand_over(&self, node: NodeId) -> Result<u64, StoreError> {
        self.nodes
            .run(move |connection| {
                Box::pin(async move {
                    let (queued,): (i64,) = sqlx::query_as("select hand_over($1)")
                        .bind(node.0)
                        .fetch_one(connection)
                        .await?;
                    Ok(queued.unsigned_abs())
                })
            })
            .await
    }

    pub(in crate::store) async fn heartbeat(
        &self,
        node: NodeId,
        slots: u32,
        busy: u32,
    ) -> Result<Beat, StoreError> {
        let (clock, lease_ms) = (self.clock.clone(), self.lease_ms());
        let renewed: Option<(i64,)> = self
            .beats
            .run(move |connection| {
                Box::pin(async move {
                    let asked = Instant::now();
                    let renewed: Option<(i64,)> = sqlx::query_as(BEAT)
                        .bind(node.0)
                        .bind(lease_ms)
                        .bind(i32::try_from(slots).unwrap_or(i32::MAX))
                        .bind(i32::try_from(busy).unwrap_or(i32::MAX))
                        .fetch_optional(connection)
                        .await?;
                    if let Some((database_us,)) = renewed {
                        clock.learn(asked, database_us);
                    }
                    Ok(renewed)
                })
            })
            .await?;
        if renewed.is_none() {
            return Err(StoreError::Fenced);
        }
        match timeout(self.lease / OWNED_PART, self.owned(node)).await {
            Ok(Ok(beat)) => Ok(beat),
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "what this node owns can't be listed");
                Ok(Beat::default())
            }
            Err(_late) => {
                tracing::warn!("what this node owns takes too long to list");
                Ok(Beat::default())
            }
        }
    }

    async fn owned(&self, node: NodeId) -> Result<Beat, StoreError> {
        self.owned
            .run(move |connection| {
                Box::pin(async move {
                    let rows: Vec<(Uuid, bool)> =
                        sqlx::query_as(OWNED).bind(node.0).fetch_all(connection).await?;
                    let mut beat = Beat { is_listed: true, ..Beat::default() };
                    for (id, has_news) in rows {
                        beat.owned.push(RunId(id));
                        beat.news.extend(has_news.then_some(RunId(id)));
                    }
                    Ok(beat)
                })
            })
            .await
    }

    /// Takes over from the nodes whose lease has ended, one after another.
    pub(in crate::store) async fn rescue(&self, me: NodeId) -> Result<Rescued, StoreError> {
        let mut rescued = Rescued::default();
        for _ in 0..RESCUES_MAX {
            match self.rescue_one(me).await? {
                Some(runs) => rescued.crashed += runs,
                None => break,
            }
        }
        Ok(rescued)
    }

    /// None where no lease has ended. What a dead node still has under way may hold it up; after a
    /// while that is ended: it would be refused anyway. Others who have one of its runs in hand get
    /// another while to come to their end.
    async fn rescue_one(&self, me: NodeId) -> Result<Option<u64>, StoreError> {
        let clients = self.clients.clone();
        self.nodes
            .run(move |connection| {
                Box::pin(async move {
                    let (pid,): (i32,) = sqlx::query_as("select pg_backend_pid()")
                        .fetch_one(&mut *connection)
                        .await?;
                    let mut rescue = std::pin::pin!(rescue_node(connection, me));
                    let mut round = 0;
                    loop {
                        if let Ok(done) = timeout(PATIENCE, &mut rescue).await {
                            return done;
                        }
                        round += 1;
                        let ended = clients.run(move |connection| {
                            Box::pin(async move { end_blockers(connection, pid, round).await })
                        });
                        match ended.await {
                            Ok(0) => {}
                            Ok(ended) => tracing::warn!(
                                "ended {ended} connections that held up the rescue of a dead node"
                            ),
                            Err(error) => tracing::warn!(
                                error = %error,
                                "what holds up the rescue of a dead node can't be ended"
                            ),
                        }
                    }
                })
            })
            .await
    }

    fn lease_ms(&self) -> i64 {
        as_i64(u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX))
    }
}

async fn rescue_node(
    connection: &mut PgConnection,
    me: NodeId,
) -> Result<Option<u64>, sqlx::Error> {
    let (runs,): (Option<i64>,) =
        sqlx::query_as("select rescue_node($1)").bind(me.0).fetch_one(connection).await?;
    Ok(runs.map(i64::unsigned_abs))
}

/// Ends the sessions for which this one waits. The same database role may do so. As long as this one
/// has not come to the runs, they hold the dead node's fence; those who hold a run of it may be of
/// nodes that live, and are spared in the first round.
async fn end_blockers(
    connection: &mut PgConnection,
    pid: i32,
    round: u32,
) -> Result<i64, sqlx::Error> {
    let (ended,): (i64,) = sqlx::query_as(
        "select count(*) from unnest(pg_blocking_pids($1)) as blocker (pid)
          where case when $2 or not exists (select from pg_locks
                                             where pid = $1 and relation = 'runs'::regclass)
                     then pg_terminate_backend(blocker.pid)
                     else false end",
    )
    .bind(pid)
    .bind(round > 1)
    .fetch_one(connection)
    .await?;
    Ok(ended)
}
