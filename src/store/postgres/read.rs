//! Reads: rows and logs.

use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::edge::Edge;
use super::{Postgres, seq_of, unreadable};
use crate::run::id::is_client_id;
use crate::run::{RunId, Seq, Status};
use crate::store::{
    BatchId, Counts, KeyKind, PAGE_BYTES, PLACES, Reader, RunRow, STRANDED_LOOK, StoreError,
    StoredEvent, TypeFilter,
};

const RUN: &str = "select id, public_id, tenant, status, crashes, inbox_n, inbox_read, last_seq,
            created_by, created_at, started_at, finished_at, turn_started_at, cancel_at, batch_id, spec
       from runs where id = $1 and ($2 is null or tenant = $2)";

impl Postgres {
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
        row(&self.readers, id.0, Some(tenant.to_owned())).await
    }

    /// The run that a client has given this name.
    pub(in crate::store) async fn named(
        &self,
        tenant: &str,
        name: &str,
    ) -> Result<Option<RunId>, StoreError> {
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        self.readers
            .run(|connection| {
                Box::pin(async move {
                    let row: Option<(Uuid,)> = sqlx::query_as(
                        "select run_id from run_keys where tenant = $1 and kind = $2 and key = $3",
                    )
                    .bind(tenant)
                    .bind(KeyKind::RunId.name())
                    .bind(name)
                    .fetch_optional(connection)
                    .await?;
                    Ok(row.map(|(id,)| RunId(id)))
                })
            })
            .await
    }

    pub(in crate::store) async fn load(
        &self,
        run: RunId,
        reader: Reader,
    ) -> Result<Option<RunRow>, StoreError> {
        row(self.edge_of(reader), run.0, None).await
    }

    fn edge_of(&self, reader: Reader) -> &Edge {
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
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let after = i64::try_from(after.0).unwrap_or(i64::MAX);
        self.readers
            .run(move |connection| {
                Box::pin(async move {
                    let rows: Vec<(i64, i16, String)> = sqlx::query_as(
                        "select seq, type, data
                           from (select seq, type, data,
                                        sum(octet_length(data)) over (order by seq)
                                            - octet_length(data) as before
                                   from (select seq, type, data from events
                                          where run_id = $1 and seq > $2
                                          order by seq limit $3) as page) as page
                          where before < $4
                          order by seq",
                    )
                    .bind(run.0)
                    .bind(after)
                    .bind(i64::from(limit))
                    .bind(bytes)
                    .fetch_all(connection)
                    .await?;
                    Ok(rows.into_iter().map(stored).collect())
                })
            })
            .await
    }

    pub(in crate::store) async fn events_before(
        &self,
        run: RunId,
        before: Seq,
        limit: u32,
        types: &TypeFilter,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let before = i64::try_from(before.0).unwrap_or(i64::MAX);
        let (only, kinds) = match types {
            TypeFilter::All => (false, Vec::new()),
            TypeFilter::Only(kinds) => (true, kinds.clone()),
            TypeFilter::Without(kinds) => (false, kinds.clone()),
        };
        let kinds: Vec<i16> = kinds.into_iter().map(i16::from).collect();
        self.readers
            .run(move |connection| {
                Box::pin(async move {
                    let rows: Vec<(i64, i16, String)> = sqlx::query_as(
                        "select seq, type, data
                           from (select seq, type, data,
                                        sum(octet_length(data)) over (order by seq desc)
                                            - octet_length(data) as before
                                   from (select seq, type, data from events
                                          where run_id = $1 and seq < $2
                                            and (type = any ($3)) = $4
                                          order by seq desc limit $5) as page) as page
                          where before < $6
                          order by seq",
                    )
                    .bind(run.0)
                    .bind(before)
                    .bind(kinds)
                    .bind(only)
                    .bind(i64::from(limit))
                    .bind(i64::try_from(PAGE_BYTES).unwrap_or(i64::MAX))
                    .fetch_all(connection)
                    .await?;
                    Ok(rows.into_iter().map(stored).collect())
                })
            })
            .await
    }

    pub(in crate::store) async fn log_for_fold(
        &self,
        run: RunId,
        reader: Reader,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.edge_of(reader)
            .run(move |connection| {
                Box::pin(async move {
                    // 2 is turn.started, 6 turn.completed, 7 turn.aborted; 3 and 4 are the deltas. An
                    // attempt needs them while it is open, and where its cut text stands. The reason
                    // is looked for in the text, because PostgreSQL's JSON refuses some that we keep:
                    // inside of a string, a quote has a backslash before it.
                    let rows: Vec<(i64, i16, String)> = sqlx::query_as(
                        r#"with attempt as (
                               select seq from events where run_id = $1 and type = 2
                                order by seq desc limit 1),
                           needed as (
                               select seq from attempt
                                where not exists (
                                    select from events as ended
                                     where ended.run_id = $1 and ended.seq > attempt.seq
                                       and (ended.type = 6
                                            or ended.type = 7
                                               and position('"reason":"limit"' in ended.data) = 0
                                               and position('"reason":"cancelled"' in ended.data)
                                                   = 0)))
                           select seq, type, data from events
                            where run_id = $1
                              and (type not in (3, 4)
                                   or seq > (select seq from needed))
                            order by seq"#,
                    )
                    .bind(run.0)
                    .fetch_all(connection)
                    .await?;
                    Ok(rows.into_iter().map(stored).collect())
                })
            })
            .await
    }

    pub(in crate::store) async fn positions(
        &self,
        runs: &[RunId],
    ) -> Result<Vec<(RunId, Seq)>, StoreError> {
        let ids: Vec<Uuid> = runs.iter().map(|run| run.0).collect();
        self.clients
            .run(|connection| {
                Box::pin(async move {
                    // Planned each time: a plan for any ids looks at all days.
                    let rows: Vec<(Uuid, i64)> =
                        sqlx::query_as("select id, last_seq from runs where id = any ($1)")
                            .persistent(false)
                            .bind(ids)
                            .fetch_all(connection)
                            .await?;
                    Ok(rows.into_iter().map(|(id, seq)| (RunId(id), seq_of(seq))).collect())
                })
            })
            .await
    }

    pub(in crate::store) async fn queue_position(
        &self,
        run: RunId,
    ) -> Result<Option<u64>, StoreError> {
        self.readers
            .run(move |connection| {
                Box::pin(async move {
                    let row: Option<(i64,)> = sqlx::query_as(
                        "select (select count(*)
                                   from (select from queue as before
                                          where kind = 'drive'
                                            and (before.priority, before.run_at, before.run_id)
                                             <= (queue.priority, queue.run_at, queue.run_id)
                                          order by priority, run_at, run_id limit $2 + 1) as counted)
                              + (select count(*)
                                   from (select from queue as before
                                          where kind = 'inbox'
                                            and (before.priority, before.run_at, before.run_id)
                                             <= (queue.priority, queue.run_at, queue.run_id)
                                          order by priority, run_at, run_id limit $2 + 1) as counted)
                           from queue where run_id = $1",
                    )
                    .bind(run.0)
                    .bind(i64::from(PLACES))
                    .fetch_optional(connection)
                    .await?;
                    let place = row.map(|(place,)| place.unsigned_abs());
                    Ok(place.filter(|place| *place <= u64::from(PLACES)))
                })
            })
            .await
    }

    pub(in crate::store) async fn ping(&self) -> Result<(), StoreError> {
        self.readers
            .run(|connection| {
                Box::pin(async move {
                    sqlx::query("select 1").execute(connection).await?;
                    Ok(())
                })
            })
            .await
    }

    pub(in crate::store) async fn counts(&self) -> Result<Counts, StoreError> {
        self.clients
            .run(|connection| {
                Box::pin(async move {
                    let (queued, owned): (i64, i64) = sqlx::query_as(
                        "select (select count(*) from queue),
                                (select count(*) from runs where node_id is not null)",
                    )
                    .fetch_one(connection)
                    .await?;
                    Ok(Counts { queued: queued.unsigned_abs(), owned: owned.unsigned_abs() })
                })
            })
            .await
    }

    pub(in crate::store) async fn stranded(&self) -> Result<Vec<RunId>, StoreError> {
        self.upkeep
            .run(|connection| {
                Box::pin(async move {
                    // By tenant, one after the other: so begins the index that knows which runs have
                    // not ended.
                    let rows: Vec<(Uuid,)> = sqlx::query_as(
                        "with recursive tenants (tenant) as (
                             (select tenant from runs order by tenant limit 1)
                             union all
                             select (select tenant from runs where runs.tenant > tenants.tenant
                                      order by tenant limit 1)
                               from tenants where tenants.tenant is not null
                         ), active as materialized (
                             select runs.id, runs.node_id
                               from tenants
                              cross join (values ('QUEUED'), ('RUNNING')) as open (status)
                              cross join lateral (
                                  select id, node_id from runs
                                   where runs.tenant = tenants.tenant and runs.status = open.status
                                   order by id
                                   limit $1
                              ) as runs
                              limit $1
                         )
                         select id from active
                          where case when node_id is null
                                     then not exists (select from queue where run_id = active.id)
                                     else not exists (select from nodes
                                                       join node_leases using (node_id)
                                                      where nodes.node_id = active.node_id
                                                        and dead_at is null
                                                        and lease_until > clock_timestamp())
                                 end",
                    )
                    .bind(STRANDED_LOOK)
                    .fetch_all(connection)
                    .await?;
                    Ok(rows.into_iter().map(|(id,)| RunId(id)).collect())
                })
            })
            .await
    }
}

async fn row(edge: &Edge, id: Uuid, tenant: Option<String>) -> Result<Option<RunRow>, StoreError> {
    edge.run(move |connection| {
        Box::pin(async move {
            let row = sqlx::query(RUN).bind(id).bind(tenant).fetch_optional(connection).await?;
            row.map(|row| run_row(&row)).transpose()
        })
    })
    .await
}

fn stored((seq, kind, data): (i64, i16, String)) -> StoredEvent {
    StoredEvent {
        seq: seq_of(seq),
        kind: u8::try_from(kind).unwrap_or(u8::MAX),
        data: Arc::from(data),
    }
}

fn run_row(row: &PgRow) -> Result<RunRow, sqlx::Error> {
    let status: String = row.try_get("status")?;
    let crashes: i32 = row.try_get("crashes")?;
    Ok(RunRow {
        id: RunId(row.try_get("id")?),
        public_id: row.try_get("public_id")?,
        tenant: row.try_get("tenant")?,
        status: Status::parse(&status)
            .ok_or_else(|| unreadable(format!("the status `{status}`")))?,
        crashes: u32::try_from(crashes).unwrap_or(u32::MAX),
        inbox_n: row.try_get("inbox_n")?,
        inbox_read: row.try_get("inbox_read")?,
        last_seq: seq_of(row.try_get("last_seq")?),
        created_by: row.try_get("created_by")?,
        created_at_ms: row.try_get("created_at")?,
        started_at_ms: row.try_get("started_at")?,
        finished_at_ms: row.try_get("finished_at")?,
        turn_started_at_ms: row.try_get("turn_started_at")?,
        cancel_at_ms: row.try_get("cancel_at")?,
        batch: row.try_get::<Option<Uuid>, _>("batch_id")?.map(BatchId),
        spec: Arc::from(row.try_get::<String, _>("spec")?),
    })
}
