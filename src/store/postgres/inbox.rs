//! The inbox (`leave_note`).

use super::{Postgres, unreadable};
use crate::run::RunId;
use crate::store::{InboxNote, InboxRow, Left, NodeId, StoreError};

pub(super) fn left(outcome: &str, owner: Option<i64>) -> Result<Left, sqlx::Error> {
    match outcome {
        "accepted" => Ok(Left::Accepted(owner.map(NodeId))),
        "ended" => Ok(Left::Ended),
        "full" => Ok(Left::Full),
        "no_run" => Ok(Left::NoRun),
        other => Err(unreadable(format!("the answer `{other}`"))),
    }
}

impl Postgres {
    pub(in crate::store) async fn leave(
        &self,
        tenant: &str,
        run: RunId,
        note: InboxNote,
    ) -> Result<Left, StoreError> {
        let tenant = tenant.to_owned();
        self.readers
            .run(move |connection| {
                Box::pin(async move {
                    let (outcome, owner): (String, Option<i64>) =
                        sqlx::query_as("select outcome, owner from leave_note($1, $2, $3, $4, $5)")
                            .bind(tenant)
                            .bind(run.0)
                            .bind(note.kind)
                            .bind(note.dedupe_key)
                            .bind(note.body)
                            .fetch_one(connection)
                            .await?;
                    left(&outcome, owner)
                })
            })
            .await
    }

    pub(in crate::store) async fn inbox(&self, run: RunId) -> Result<Vec<InboxRow>, StoreError> {
        self.drivers
            .run(move |connection| {
                Box::pin(async move {
                    let rows: Vec<(i64, String, String)> = sqlx::query_as(
                        "select inbox.n, inbox.kind, inbox.body
                           from inbox join runs on runs.id = inbox.run_id
                          where inbox.run_id = $1 and inbox.n > runs.inbox_read
                          order by inbox.n",
                    )
                    .bind(run.0)
                    .fetch_all(connection)
                    .await?;
                    let row = |(n, kind, body)| InboxRow { n, kind, body };
                    Ok(rows.into_iter().map(row).collect())
                })
            })
            .await
    }
}
