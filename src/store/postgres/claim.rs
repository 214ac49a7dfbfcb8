//! Claiming and letting go (`claim_runs`, `let_go`).

use uuid::Uuid;

use super::Postgres;
use crate::run::RunId;
use crate::store::{Claimed, Claims, LetGo, NodeId, StoreError};

impl Postgres {
    pub(in crate::store) async fn claim(
        &self,
        node: NodeId,
        slots: u32,
    ) -> Result<Claims, StoreError> {
        self.claims
            .run(move |connection| {
                Box::pin(async move {
                    let (runs, for_inbox, reasons, is_more): (
                        Vec<Uuid>,
                        Vec<bool>,
                        Vec<String>,
                        bool,
                    ) = sqlx::query_as(
                        "select run_ids, for_inbox, reasons, is_more from claim_runs($1, $2)",
                    )
                    .bind(node.0)
                    .bind(i32::try_from(slots).unwrap_or(i32::MAX))
                    .fetch_one(connection)
                    .await?;
                    let claimed = runs.into_iter().zip(for_inbox).zip(reasons);
                    let runs = claimed
                        .map(|((run, for_inbox), reason)| Claimed {
                            run: RunId(run),
                            for_inbox,
                            reason,
                        })
                        .collect();
                    Ok(Claims { runs, is_more })
                })
            })
            .await
    }

    pub(in crate::store) async fn requeue(
        &self,
        node: NodeId,
        run: RunId,
        why: LetGo,
    ) -> Result<(), StoreError> {
        let is_crashed = match why {
            LetGo::ForSlot => false,
            LetGo::Crashed => true,
        };
        self.drivers
            .run(move |connection| {
                Box::pin(async move {
                    sqlx::query("select let_go($1, $2, $3)")
                        .bind(node.0)
                        .bind(run.0)
                        .bind(is_crashed)
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }
}
