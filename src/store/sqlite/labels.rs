//! The metadata of runs as rows of their own, so that runs are found by it.

use sqlx::sqlite::SqliteConnection;

use super::{id_bytes, store_error};
use crate::run::RunId;
use crate::store::StoreError;

/// Enters the labels of a run that is there.
pub(super) async fn label(
    connection: &mut SqliteConnection,
    run: RunId,
    metadata: &str,
) -> Result<(), StoreError> {
    if metadata == "{}" {
        return Ok(());
    }
    sqlx::query(
        "insert into run_labels (tenant, key, value, run_id)
         select runs.tenant, label.key, label.value, runs.id
           from runs, json_each($2) label where runs.id = $1",
    )
    .bind(id_bytes(run))
    .bind(metadata.to_owned())
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// Takes out the labels that a run has, by the metadata of its row.
pub(super) async fn unlabel(
    connection: &mut SqliteConnection,
    run: RunId,
) -> Result<(), StoreError> {
    let labels: Vec<(String, String, String)> = sqlx::query_as(
        "select runs.tenant, label.key, label.value
           from runs, json_each(runs.metadata) label
          where runs.id = $1 and runs.metadata <> ''",
    )
    .bind(id_bytes(run))
    .fetch_all(&mut *connection)
    .await
    .map_err(store_error)?;
    for (tenant, key, value) in labels {
        sqlx::query(
            "delete from run_labels
              where tenant = $1 and key = $2 and value = $3 and run_id = $4",
        )
        .bind(tenant)
        .bind(key)
        .bind(value)
        .bind(id_bytes(run))
        .execute(&mut *connection)
        .await
        .map_err(store_error)?;
    }
    Ok(())
}
