//! The create lane: keys, run, queue row and first events in one transaction.

use futures_util::FutureExt;
use sqlx::sqlite::SqliteConnection;

use super::labels::label;
use super::{Sqlite, as_i64, id_bytes, id_of, now_ms, store_error};
use crate::run::RunId;
use crate::store::{Create, Created, Key, NodeId, StoreError};

impl Sqlite {
    pub(in crate::store) async fn create(
        &self,
        batch: Vec<Create>,
    ) -> Result<Vec<Created>, StoreError> {
        self.write(move |connection| {
            async move {
                let mut done = Vec::with_capacity(batch.len());
                for create in &batch {
                    done.push(create_one(connection, create).await?);
                }
                Ok(done)
            }
            .boxed()
        })
        .await
    }
}

async fn create_one(
    connection: &mut SqliteConnection,
    create: &Create,
) -> Result<Created, StoreError> {
    if let Some(owner) = create.owner
        && !is_alive(connection, owner).await?
    {
        return Ok(Created::Fenced);
    }
    let mut holder: Option<RunId> = None;
    for key in &create.keys {
        let Some((run, digest)) = key_holder(connection, &create.tenant, key).await? else {
            continue;
        };
        if digest != create.digest || holder.is_some_and(|other| other != run) {
            return Ok(Created::Conflict);
        }
        holder = Some(run);
    }
    let run = holder.unwrap_or(create.id);
    for key in &create.keys {
        bind_key(connection, &create.tenant, key, run, &create.digest).await?;
    }
    match holder {
        // Its own: it was committed, and the answer was lost.
        Some(run) if run == create.id => return Ok(Created::New),
        Some(run) => return Ok(Created::Existing(run)),
        None => {}
    }
    if !insert_run(connection, create).await? {
        return Ok(Created::New);
    }
    insert_spec(connection, create).await?;
    label(connection, create.id, &create.metadata).await?;
    for event in &create.events {
        sqlx::query("insert into events (run_id, seq, type, data) values ($1, $2, $3, $4)")
            .bind(id_bytes(create.id))
            .bind(as_i64(event.seq.0))
            .bind(i64::from(event.kind))
            .bind(event.data.to_string())
            .execute(&mut *connection)
            .await
            .map_err(store_error)?;
    }
    if create.owner.is_none() {
        sqlx::query(
            "insert into queue (run_id, kind, reason, tenant, priority, run_at)
             values ($1, 'drive', 'new', $2, 0, $3)",
        )
        .bind(id_bytes(create.id))
        .bind(&create.tenant)
        // Where the clock was put back, that is still to come.
        .bind(create.created_at_ms.min(now_ms()))
        .execute(&mut *connection)
        .await
        .map_err(store_error)?;
    }
    Ok(Created::New)
}

async fn is_alive(connection: &mut SqliteConnection, node: NodeId) -> Result<bool, StoreError> {
    let alive: Option<(i64,)> =
        sqlx::query_as("select 1 from nodes where node_id = $1 and dead_at is null")
            .bind(node.0)
            .fetch_optional(connection)
            .await
            .map_err(store_error)?;
    Ok(alive.is_some())
}

/// Which run, or which batch, a key names, and the digest of the body that it came with.
pub(super) async fn key_holder(
    connection: &mut SqliteConnection,
    tenant: &str,
    key: &Key,
) -> Result<Option<(RunId, String)>, StoreError> {
    let row: Option<(Vec<u8>, String)> = sqlx::query_as(
        "select run_id, digest from run_keys where tenant = $1 and kind = $2 and key = $3",
    )
    .bind(tenant.to_owned())
    .bind(key.kind.name())
    .bind(key.key.clone())
    .fetch_optional(connection)
    .await
    .map_err(store_error)?;
    row.map(|(run, digest)| Ok((id_of(&run)?, digest))).transpose()
}

pub(super) async fn bind_key(
    connection: &mut SqliteConnection,
    tenant: &str,
    key: &Key,
    run: RunId,
    digest: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "insert into run_keys (tenant, kind, key, run_id, digest) values ($1, $2, $3, $4, $5)
         on conflict do nothing",
    )
    .bind(tenant.to_owned())
    .bind(key.kind.name())
    .bind(key.key.clone())
    .bind(id_bytes(run))
    .bind(digest.to_owned())
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(())
}

/// False where the run is there already: its create was sent again.
async fn insert_run(
    connection: &mut SqliteConnection,
    create: &Create,
) -> Result<bool, StoreError> {
    let inserted = sqlx::query(
        "insert into runs (id, public_id, tenant, status, node_id, last_seq, agent, model,
                           created_by, created_at, input_preview, metadata)
         values ($1, $2, $3, 'QUEUED', $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (id) do nothing",
    )
    .bind(id_bytes(create.id))
    .bind(&create.public_id)
    .bind(&create.tenant)
    .bind(create.owner.map(|node| node.0))
    .bind(create.events.last().map_or(0, |event| as_i64(event.seq.0)))
    .bind(&create.agent)
    .bind(&create.model)
    .bind(&create.created_by)
    .bind(create.created_at_ms)
    .bind(&create.input_preview)
    .bind(&create.metadata)
    .execute(connection)
    .await
    .map_err(store_error)?;
    Ok(inserted.rows_affected() > 0)
}

async fn insert_spec(connection: &mut SqliteConnection, create: &Create) -> Result<(), StoreError> {
    sqlx::query("insert into specs (run_id, spec) values ($1, $2)")
        .bind(id_bytes(create.id))
        .bind(&create.spec)
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(())
}
