//! Nodes: their beginning, their heartbeats, their end, and who takes over.

use super::tables::{Kind, Lease, Queued, Run, Tables};
use super::{Memory, Op};
use crate::run::{RunId, Status};
use crate::store::{Beat, NodeId, Rescued, StoreError};

/// How many dead nodes are taken over before the rescuer looks up again.
const RESCUES_MAX: usize = 64;

impl Memory {
    /// Takes nothing over: that is for `rescue`.
    pub(in crate::store) async fn register(
        &self,
        _name: &str,
    ) -> Result<(NodeId, Rescued), StoreError> {
        let lease_ms = self.lease_ms();
        let registered = self
            .run(Op::Register, move |tables, now_ms| {
                let last = tables.nodes.last_key_value().map_or(0, |(node, _)| node.0);
                let node = NodeId(last + 1);
                tables.nodes.insert(node, true);
                let until_ms = now_ms + lease_ms;
                tables.leases.insert(node, Lease { until_ms, slots: 0, busy: 0 });
                // Runs stand in the queue by the time of their creation. Where the clock has been put
                // back since, that is still to come, and they would wait for it.
                let mut handed_over = 0;
                for queued in tables.queue.values_mut() {
                    if queued.reason != "timer" {
                        queued.run_at_ms = queued.run_at_ms.min(now_ms);
                    }
                    handed_over += u64::from(queued.reason == "drain");
                }
                Ok((node, Rescued { crashed: 0, handed_over }))
            })
            .await?;
        self.learn_clock();
        Ok(registered)
    }

    pub(in crate::store) async fn hand_over(&self, node: NodeId) -> Result<u64, StoreError> {
        self.run(Op::HandOver, move |tables, now_ms| {
            if let Some(is_alive) = tables.nodes.get_mut(&node) {
                *is_alive = false;
            }
            Ok(release(tables, node, "drain", now_ms))
        })
        .await
    }

    pub(in crate::store) async fn heartbeat(
        &self,
        node: NodeId,
        slots: u32,
        busy: u32,
    ) -> Result<Beat, StoreError> {
        let lease_ms = self.lease_ms();
        self.run(Op::Heartbeat, move |tables, now_ms| {
            let is_alive = tables.is_alive(node);
            match tables.leases.get_mut(&node) {
                Some(lease) if is_alive => {
                    *lease = Lease { until_ms: now_ms + lease_ms, slots, busy };
                    Ok(())
                }
                Some(_) | None => Err(StoreError::Fenced),
            }
        })
        .await?;
        self.learn_clock();
        // Where what it owns can't be told, the lease is renewed all the same.
        let owned = self.run(Op::Owned, move |tables, _| {
            let mut beat = Beat { is_listed: true, ..Beat::default() };
            for (run, row) in tables.owned(node) {
                beat.owned.push(run);
                beat.news.extend(row.has_news().then_some(run));
            }
            Ok(beat)
        });
        Ok(owned.await.unwrap_or_default())
    }

    /// Takes over from the nodes whose lease has ended, one after another.
    pub(in crate::store) async fn rescue(&self, me: NodeId) -> Result<Rescued, StoreError> {
        let mut rescued = Rescued::default();
        for _ in 0..RESCUES_MAX {
            let one = self.run(Op::Rescue, move |tables, now_ms| Ok(rescue(tables, me, now_ms)));
            match one.await? {
                Some(runs) => rescued.crashed += runs,
                None => break,
            }
        }
        Ok(rescued)
    }

    fn lease_ms(&self) -> i64 {
        i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Declares one node dead whose lease has ended; none where there is none.
fn rescue(tables: &mut Tables, me: NodeId, now_ms: i64) -> Option<u64> {
    let ended =
        tables.leases.iter().filter(|(node, lease)| lease.until_ms < now_ms && **node != me);
    let (dead, _) = ended.min_by_key(|(_, lease)| lease.until_ms)?;
    let dead = *dead;
    tables.nodes.insert(dead, false);
    let has_suspect = tables.owned(dead).any(|(_, run)| run.crashes >= 2);
    // Runs that were never started cannot have killed anybody. Where a suspect was owned, it did it,
    // and nobody else.
    for run in tables.runs.values_mut().filter(|run| run.node == Some(dead)) {
        let counts = run.crashes >= 2 || (run.status == Status::Running && !has_suspect);
        run.crashes += u32::from(counts);
    }
    Some(release(tables, dead, "crash", now_ms))
}

/// Queues the runs of a node that is dead: all of them.
fn release(tables: &mut Tables, node: NodeId, why: &str, now_ms: i64) -> u64 {
    let owned: Vec<RunId> = tables.owned(node).map(|(run, _)| run).collect();
    let released = owned.len() as u64;
    for id in owned {
        let run = tables.runs.get_mut(&id).expect("it was found");
        run.node = None;
        let reason = if run.status == Status::Queued { "new" } else { why };
        tables.queue.insert(id, queued(run, reason, now_ms));
    }
    tables.leases.remove(&node);
    tables.last_batches.remove(&node);
    released
}

/// A run's place in the queue: the one that it had, by the time of its creation.
pub(super) fn queued(run: &Run, reason: &str, now_ms: i64) -> Queued {
    Queued {
        kind: if run.has_news() { Kind::Inbox } else { Kind::Drive },
        reason: reason.to_owned(),
        run_at_ms: run.created_at_ms.min(now_ms),
        crashes: run.crashes,
    }
}
