//! Erasing runs, and what the installation keeps to itself.

use futures_util::FutureExt;
use sqlx::sqlite::SqliteConnection;

use super::labels::unlabel;
use super::{Sqlite, id_bytes, store_error};
use crate::run::RunId;
use crate::store::{Purged, StoreError};

/// Everything that belongs to a run, and the run.
const ERASE: [&str; 5] = [
    "delete from events where run_id = $1",
    "delete from inbox where run_id = $1",
    "delete from run_keys where run_id = $1",
    "delete from specs where run_id = $1",
    "delete from runs where id = $1",
];

impl Sqlite {
    pub(in crate::store) async fn purge(
        &self,
        tenant: &str,
        run: RunId,
    ) -> Result<Purged, StoreError> {
        let tenant = tenant.to_owned();
        self.write(move |connection| async move { erase(connection, &tenant, run).await }.boxed())
            .await
    }

    /// Writes something, and nothing that stays.
    pub(super) async fn try_to_write(&self) -> Result<(), StoreError> {
        self.write(|connection| {
            async move {
                for statement in [
                    "insert into secrets (name, value) values ('', x'')",
                    "delete from secrets where name = ''",
                ] {
                    sqlx::query(statement).execute(&mut *connection).await.map_err(store_error)?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
    }

    pub(in crate::store) async fn secret(
        &self,
        name: &'static str,
        candidate: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        self.write(move |connection| {
            async move {
                sqlx::query(
                    "insert into secrets (name, value) values ($1, $2) on conflict do nothing",
                )
                .bind(name)
                .bind(candidate)
                .execute(&mut *connection)
                .await
                .map_err(store_error)?;
                let (value,): (Vec<u8>,) =
                    sqlx::query_as("select value from secrets where name = $1")
                        .bind(name)
                        .fetch_one(connection)
                        .await
                        .map_err(store_error)?;
                Ok(value)
            }
            .boxed()
        })
        .await
    }
}

async fn erase(
    connection: &mut SqliteConnection,
    tenant: &str,
    run: RunId,
) -> Result<Purged, StoreError> {
    let row: Option<(bool, Option<Vec<u8>>)> = sqlx::query_as(
        "select finished_at is not null, batch_id from runs where id = $1 and tenant = $2",
    )
    .bind(id_bytes(run))
    .bind(tenant.to_owned())
    .fetch_optional(&mut *connection)
    .await
    .map_err(store_error)?;
    let batch = match row {
        None => return Ok(Purged::NoRun),
        Some((false, _)) => return Ok(Purged::Active),
        Some((true, batch)) => batch,
    };
    unlabel(connection, run).await?;
    for delete in ERASE {
        sqlx::query(delete)
            .bind(id_bytes(run))
            .execute(&mut *connection)
            .await
            .map_err(store_error)?;
    }
    if let Some(batch) = batch {
        erase_empty(connection, tenant, batch).await?;
    }
    Ok(Purged::Erased)
}

/// A batch goes with its last run, and its key is free again.
async fn erase_empty(
    connection: &mut SqliteConnection,
    tenant: &str,
    batch: Vec<u8>,
) -> Result<(), StoreError> {
    let erased = sqlx::query(
        "delete from batches
          where id = $1
            and not exists (select 1 from runs where tenant = $2 and batch_id = $1)",
    )
    .bind(batch.clone())
    .bind(tenant.to_owned())
    .execute(&mut *connection)
    .await
    .map_err(store_error)?;
    if erased.rows_affected() > 0 {
        sqlx::query("delete from run_keys where run_id = $1")
            .bind(batch)
            .execute(connection)
            .await
            .map_err(store_error)?;
    }
    Ok(())
}
