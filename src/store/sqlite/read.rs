//! Reads: rows and logs, on connections that cannot write.

use std::sync::Arc;

use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::{Sqlite, id_bytes, id_of, store_error};
use crate::run::id::is_client_id;
use crate::run::{RunId, Seq, Status};
use crate::store::{
    BatchId, Counts, KeyKind, PAGE_BYTES, PLACES, Reader, RunRow, STRANDED_LOOK, StoreError,
    StoredEvent, TypeFilter,
};

const RUN: &str = "select id, public_id, tenant, status, crashes, inbox_n, inbox_read, last_seq,
            created_by, created_at, started_at, finished_at, turn_started_at, cancel_at,
            batch_id, spec
       from runs join specs on specs.run_id = runs.id
      where id = $1 and ($2 is null or tenant = $2)";

impl Sqlite {
    pub(in crate::store) async fn find(
        &self,
        tenant: &str,
        name: &str,
    ) -> Result<Option<RunRow>, StoreError> {
        let id = match name.parse::<RunId>() {
            Ok(id) => Some(id),
            Err(_) if is_client_id(name) => self.named(tenant, name).await?,
            Err(_) => None,
        };
        let Some(id) = id else { return Ok(None) };
        row(&self.readers, id_bytes(id), Some(tenant.to_owned())).await
    }

    /// The run that a client has given this name.
    pub(in crate::store) async fn named(
        &self,
        tenant: &str,
        name: &str,
    ) -> Result<Option<RunId>, StoreError> {
        let row: Option<(Vec<u8>,)> = sqlx::query_as(
            "select run_id from run_keys where tenant = $1 and kind = $2 and key = $3",
        )
        .bind(tenant.to_owned())
        .bind(KeyKind::RunId.name())
        .bind(name.to_owned())
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error)?;
        row.map(|(id,)| id_of(&id)).transpose()
    }

    pub(in crate::store) async fn load(
        &self,
        run: RunId,
        reader: Reader,
    ) -> Result<Option<RunRow>, StoreError> {
        row(self.pool_of(reader), id_bytes(run), None).await
    }

    fn pool_of(&self, reader: Reader) -> &SqlitePool {
        match reader {
            Reader::Driver => &self.drivers,
            Reader::Client => &self.readers,
        }
    }

    pub(in crate::store) async fn events(
        &self,
        run: RunId,
        after: Seq,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let rows = sqlx::query_as(
            "select seq, type, data from events where run_id = $1 and seq > $2
              order by seq limit $3",
        )
        .bind(id_bytes(run))
        .bind(i64::try_from(after.0).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch(&self.readers);
        page(rows, bytes).await
    }

    pub(in crate::store) async fn events_before(
        &self,
        run: RunId,
        before: Seq,
        limit: u32,
        types: &TypeFilter,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let (only, kinds) = match types {
            TypeFilter::All => (false, Vec::new()),
            TypeFilter::Only(kinds) => (true, kinds.clone()),
            TypeFilter::Without(kinds) => (false, kinds.clone()),
        };
        let rows = sqlx::query_as(
            "select seq, type, data from events
              where run_id = $1 and seq < $2
                and (type in (select value from json_each($3))) = $4
              order by seq desc limit $5",
        )
        .bind(id_bytes(run))
        .bind(i64::try_from(before.0).unwrap_or(i64::MAX))
        .bind(json!(kinds).to_string())
        .bind(only)
        .bind(i64::from(limit))
        .fetch(&self.readers);
        let mut page = page(rows, PAGE_BYTES).await?;
        page.reverse();
        Ok(page)
    }

    pub(in crate::store) async fn log_for_fold(
        &self,
        run: RunId,
        reader: Reader,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        // 2 is turn.started, 6 turn.completed, 7 turn.aborted; 3 and 4 are the deltas. An attempt
        // needs them while it is open, and where its cut text stands.
        let rows: Vec<(i64, i64, String)> = sqlx::query_as(
            "with attempt (seq) as (
                 select seq from events where run_id = $1 and type = 2 order by seq desc limit 1),
             needed (seq) as (
                 select seq from attempt
                  where not exists (
                      select 1 from events ended
                       where ended.run_id = $1 and ended.seq > attempt.seq
                         and (ended.type = 6
                              or ended.type = 7
                                 and ended.data ->> 'reason' not in ('limit', 'cancelled'))))
             select seq, type, data from events
              where run_id = $1
                and (type not in (3, 4)
                     or seq > (select seq from needed))
              order by seq",
        )
        .bind(id_bytes(run))
        .fetch_all(self.pool_of(reader))
        .await
        .map_err(store_error)?;
        Ok(rows.into_iter().map(stored).collect())
    }

    pub(in crate::store) async fn positions(
        &self,
        runs: &[RunId],
    ) -> Result<Vec<(RunId, Seq)>, StoreError> {
        let ids: Vec<String> = runs.iter().map(|run| run.0.simple().to_string()).collect();
        let rows: Vec<(Vec<u8>, i64)> = sqlx::query_as(
            "select id, last_seq from runs
              where id in (select unhex(value) from json_each($1))",
        )
        .bind(json!(ids).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        rows.iter().map(|(id, seq)| Ok((id_of(id)?, Seq(seq.unsigned_abs())))).collect()
    }

    pub(in crate::store) async fn queue_position(
        &self,
        run: RunId,
    ) -> Result<Option<u64>, StoreError> {
        let row: Option<(i64,)> = sqlx::query_as(
            "select (select count(*)
                       from (select 1 from queue before
                              where kind = 'drive'
                                and (before.priority, before.run_at, before.run_id)
                                 <= (queue.priority, queue.run_at, queue.run_id)
                              order by priority, run_at, run_id limit $2 + 1))
                  + (select count(*)
                       from (select 1 from queue before
                              where kind = 'inbox'
                                and (before.priority, before.run_at, before.run_id)
                                 <= (queue.priority, queue.run_at, queue.run_id)
                              order by priority, run_at, run_id limit $2 + 1))
               from queue where run_id = $1",
        )
        .bind(id_bytes(run))
        .bind(i64::from(PLACES))
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error)?;
        let place = row.map(|(place,)| place.unsigned_abs());
        Ok(place.filter(|place| *place <= u64::from(PLACES)))
    }

    pub(in crate::store) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select 1").execute(&self.readers).await.map_err(store_error)?;
        Ok(())
    }

    pub(in crate::store) async fn counts(&self) -> Result<Counts, StoreError> {
        let (queued, owned): (i64, i64) = sqlx::query_as(
            "select (select count(*) from queue),
                    (select count(*) from runs where node_id is not null)",
        )
        .fetch_one(&self.readers)
        .await
        .map_err(store_error)?;
        Ok(Counts { queued: queued.unsigned_abs(), owned: owned.unsigned_abs() })
    }

    pub(in crate::store) async fn stranded(&self) -> Result<Vec<RunId>, StoreError> {
        // By tenant, one after the other: so begins the index that knows which runs have not ended.
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
            "with recursive tenants (tenant) as (
                 select min(tenant) from runs
                 union all
                 select (select min(tenant) from runs where runs.tenant > tenants.tenant)
                   from tenants where tenants.tenant is not null
             ), active (id, node_id) as (
                 select runs.id, runs.node_id
                   from tenants
                   cross join (select 'QUEUED' as status union all select 'RUNNING') as open
                   join runs on runs.tenant = tenants.tenant and runs.status = open.status
                  limit $1
             )
             select id from active
              where case when node_id is null
                         then not exists (select 1 from queue where run_id = active.id)
                         else not exists (select 1 from nodes
                                           where nodes.node_id = active.node_id and dead_at is null)
                     end",
        )
        .bind(STRANDED_LOOK)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        rows.iter().map(|(id,)| id_of(id)).collect()
    }
}

async fn row(
    pool: &SqlitePool,
    id: Vec<u8>,
    tenant: Option<String>,
) -> Result<Option<RunRow>, StoreError> {
    let row =
        sqlx::query(RUN).bind(id).bind(tenant).fetch_optional(pool).await.map_err(store_error)?;
    row.map(|row| run_row(&row)).transpose()
}

/// The first rows of an answer, as many as fit a page; the others are not even read.
async fn page(
    mut rows: BoxStream<'_, Result<(i64, i64, String), sqlx::Error>>,
    most: usize,
) -> Result<Vec<StoredEvent>, StoreError> {
    let mut page = Vec::new();
    let mut bytes = 0;
    while bytes < most
        && let Some(row) = rows.try_next().await.map_err(store_error)?
    {
        bytes += row.2.len();
        page.push(stored(row));
    }
    Ok(page)
}

fn stored((seq, kind, data): (i64, i64, String)) -> StoredEvent {
    StoredEvent {
        seq: Seq(seq.unsigned_abs()),
        kind: u8::try_from(kind).unwrap_or(u8::MAX),
        data: Arc::from(data),
    }
}

fn run_row(row: &SqliteRow) -> Result<RunRow, StoreError> {
    let corrupt = |error: sqlx::Error| StoreError::Corrupt(error.to_string());
    let status: String = row.try_get("status").map_err(corrupt)?;
    let id: Vec<u8> = row.try_get("id").map_err(corrupt)?;
    let crashes: i64 = row.try_get("crashes").map_err(corrupt)?;
    let last_seq: i64 = row.try_get("last_seq").map_err(corrupt)?;
    Ok(RunRow {
        id: id_of(&id)?,
        public_id: row.try_get("public_id").map_err(corrupt)?,
        tenant: row.try_get("tenant").map_err(corrupt)?,
        status: Status::parse(&status)
            .ok_or_else(|| StoreError::Corrupt(format!("the status `{status}`")))?,
        crashes: u32::try_from(crashes).unwrap_or(u32::MAX),
        inbox_n: row.try_get("inbox_n").map_err(corrupt)?,
        inbox_read: row.try_get("inbox_read").map_err(corrupt)?,
        last_seq: Seq(last_seq.unsigned_abs()),
        created_by: row.try_get("created_by").map_err(corrupt)?,
        created_at_ms: row.try_get("created_at").map_err(corrupt)?,
        started_at_ms: row.try_get("started_at").map_err(corrupt)?,
        finished_at_ms: row.try_get("finished_at").map_err(corrupt)?,
        turn_started_at_ms: row.try_get("turn_started_at").map_err(corrupt)?,
        cancel_at_ms: row.try_get("cancel_at").map_err(corrupt)?,
        batch: row
            .try_get::<Option<Vec<u8>>, _>("batch_id")
            .map_err(corrupt)?
            .map(|id| id_of(&id).map(|id| BatchId(id.0)))
            .transpose()?,
        spec: Arc::from(row.try_get::<String, _>("spec").map_err(corrupt)?),
    })
}
