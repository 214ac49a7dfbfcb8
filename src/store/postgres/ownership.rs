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

/// Renews a lease, and tells what its node owns. A node that was declared dead has none.
const BEAT: &str = "with beat as (
         update node_leases
            set lease_until = clock_timestamp() + $2 * interval '1 millisecond', slots = $3, busy = $4
          where node_id = $1
            and exists (select from nodes where nodes.node_id = $1 and dead_at is null)
         returning node_id)
     select floor(extract(epoch from clock_timestamp()) * 1000000)::bigint,
            runs.id, runs.inbox_n > runs.inbox_read
       from beat left join runs on runs.node_id = beat.node_id and runs.node_id = $1";

impl Postgres {
    /// Takes nothing over: that is for `rescue`.
    pub(in crate::store) async fn register(
        &self,
        name: &str,
    ) -> Result<(NodeId, Rescued), StoreError> {
        let (name, lease_ms) = (name.to_owned(), self.lease_ms());
        self.drivers
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
        self.drivers
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
        let rows: Vec<(i64, Option<Uuid>, Option<bool>)> = self
            .beats
            .run(move |connection| {
                Box::pin(async move {
                    let asked = Instant::now();
                    let rows: Vec<(i64, Option<Uuid>, Option<bool>)> = sqlx::query_as(BEAT)
                        .bind(node.0)
                        .bind(lease_ms)
                        .bind(i32::try_from(slots).unwrap_or(i32::MAX))
                        .bind(i32::try_from(busy).unwrap_or(i32::MAX))
                        .fetch_all(connection)
                        .await?;
                    if let Some((database_us, ..)) = rows.first() {
                        clock.learn(asked, *database_us);
                    }
                    Ok(rows)
                })
            })
            .await?;
        if rows.is_empty() {
            return Err(StoreError::Fenced);
        }
        let mut beat = Beat::default();
        for (_, id, has_news) in rows {
            let Some(run) = id.map(RunId) else { continue };
            beat.owned.push(run);
            beat.news.extend((has_news == Some(true)).then_some(run));
        }
        Ok(beat)
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
    /// while that is ended: it would be refused anyway.
    async fn rescue_one(&self, me: NodeId) -> Result<Option<u64>, StoreError> {
        let clients = self.clients.clone();
        self.drivers
            .run(move |connection| {
                Box::pin(async move {
                    let (pid,): (i32,) = sqlx::query_as("select pg_backend_pid()")
                        .fetch_one(&mut *connection)
                        .await?;
                    let mut rescue = std::pin::pin!(rescue_node(connection, me));
                    loop {
                        if let Ok(done) = timeout(PATIENCE, &mut rescue).await {
                            return done;
                        }
                        let ended = clients.run(move |connection| {
                            Box::pin(async move { end_blockers(connection, pid).await })
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

/// Ends the sessions for which this one waits. The same database role may do so.
async fn end_blockers(connection: &mut PgConnection, pid: i32) -> Result<i64, sqlx::Error> {
    let (ended,): (i64,) = sqlx::query_as(
        "select count(*) from unnest(pg_blocking_pids($1)) as blocker (pid)
          where pg_terminate_backend(blocker.pid)",
    )
    .bind(pid)
    .fetch_one(connection)
    .await?;
    Ok(ended)
}
