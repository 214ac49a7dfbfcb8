//! Erasing runs (`erase_run`), and what the installation keeps to itself.

use super::{Postgres, unreadable};
use crate::run::RunId;
use crate::store::{Purged, StoreError};

impl Postgres {
    pub(in crate::store) async fn purge(
        &self,
        tenant: &str,
        run: RunId,
    ) -> Result<Purged, StoreError> {
        let tenant = tenant.to_owned();
        self.clients
            .run(move |connection| {
                Box::pin(async move {
                    let (outcome,): (String,) = sqlx::query_as("select erase_run($1, $2)")
                        .bind(tenant)
                        .bind(run.0)
                        .fetch_one(connection)
                        .await?;
                    match outcome.as_str() {
                        "erased" => Ok(Purged::Erased),
                        "active" => Ok(Purged::Active),
                        "no_run" => Ok(Purged::NoRun),
                        other => Err(unreadable(format!("the answer `{other}`"))),
                    }
                })
            })
            .await
    }

    pub(in crate::store) async fn secret(
        &self,
        name: &'static str,
        candidate: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        self.clients
            .run(move |connection| {
                Box::pin(async move {
                    sqlx::query(
                        "insert into secrets (name, value) values ($1, $2) on conflict do nothing",
                    )
                    .bind(name)
                    .bind(candidate)
                    .execute(&mut *connection)
                    .await?;
                    // Whoever came first is committed by now.
                    let (value,) = sqlx::query_as("select value from secrets where name = $1")
                        .bind(name)
                        .fetch_one(connection)
                        .await?;
                    Ok(value)
                })
            })
            .await
    }
}
