//! Lists of runs: each walks one index from the newest run on, and reads no log.
//!
//! The statements are put together, because SQLite plans a statement without looking at its
//! parameters: one that knew every filter would use the index of none. Which index is walked is
//! decided here, the narrowest first; the `+` before a column keeps SQLite from another.

use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};

use super::{Sqlite, id_bytes, id_of, store_error};
use crate::run::{RunId, Seq, Status};
use crate::store::{BatchId, Filter, KeyKind, Listed, PLACES, StoreError};

const COLUMNS: &str = "runs.id, public_id, status, stop_reason, agent, model, turn_count, usage,
    error, elapsed, metadata, thread_id, batch_id, parent_id, cancel_at, last_seq, created_by,
    created_at, started_at, finished_at, input_preview, output_preview";

/// A value that a column must have.
#[derive(Clone, Debug)]
enum Given {
    Text(String),
    Id(Vec<u8>),
}

/// Of these values one.
#[derive(Clone, Debug)]
struct Condition {
    column: &'static str,
    values: Vec<Given>,
}

/// What is walked.
#[derive(Clone, Debug)]
enum Walk {
    /// The runs of these names.
    Names(Vec<String>),
    /// The runs with this label.
    Label((String, String)),
    /// The runs with one of these values: an index for each.
    Column(Condition),
    /// All runs.
    All,
}

/// A list as it is carried out: what is walked, and what is then asked of each run.
#[derive(Clone, Debug)]
struct Plan {
    tenant: String,
    walk: Walk,
    conditions: Vec<Condition>,
    labels: Vec<(String, String)>,
    from: Option<RunId>,
    below: Option<RunId>,
    limit: u32,
}

impl Sqlite {
    pub(in crate::store) async fn list(
        &self,
        tenant: &str,
        filter: &Filter,
        limit: u32,
    ) -> Result<Vec<Listed>, StoreError> {
        let mut query = statement("", &plan(tenant, filter, limit));
        let rows = query.build().fetch_all(&self.readers).await.map_err(store_error)?;
        let mut listed: Vec<Listed> = rows.iter().map(row).collect::<Result<_, _>>()?;
        if listed.iter().any(|run| run.status == Status::Queued) {
            let places = self.places().await?;
            for run in listed.iter_mut().filter(|run| run.status == Status::Queued) {
                let place = places.iter().position(|id| *id == run.id);
                run.queue_position = place.map(|place| place as u64 + 1);
            }
        }
        Ok(listed)
    }

    /// How SQLite carries out a list, line by line.
    #[cfg(test)]
    pub(super) async fn explain_list(&self, filter: &Filter) -> Vec<String> {
        let mut query = statement("explain query plan ", &plan("default", filter, 50));
        let rows = query.build().fetch_all(&self.readers).await.expect("it is explained");
        rows.iter().map(|row| row.get::<String, _>("detail")).collect()
    }

    /// Who comes next in the queue, as far as places are told.
    async fn places(&self) -> Result<Vec<RunId>, StoreError> {
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
            "select run_id
               from (select * from (select run_id, priority, run_at from queue
                                     where kind = 'drive'
                                     order by priority, run_at, run_id limit $1)
                     union all
                     select * from (select run_id, priority, run_at from queue
                                     where kind = 'inbox'
                                     order by priority, run_at, run_id limit $1))
              order by priority, run_at, run_id limit $1",
        )
        .bind(i64::from(PLACES))
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        rows.iter().map(|(id,)| id_of(id)).collect()
    }
}

fn plan(tenant: &str, filter: &Filter, limit: u32) -> Plan {
    let Filter {
        statuses,
        stop_reasons,
        agent,
        model,
        thread,
        batch,
        parent,
        waiting,
        names,
        labels,
        from,
        below,
    } = filter;
    let text = |text: &String| Given::Text(text.clone());
    let one = |column, value: Option<Given>| Condition { column, values: Vec::from_iter(value) };
    let of_status = Condition {
        column: "status",
        values: statuses.iter().map(|status| Given::Text(status.name().to_owned())).collect(),
    };
    let of_reason =
        Condition { column: "stop_reason", values: stop_reasons.iter().map(text).collect() };
    let is_common = statuses.contains(&Status::Completed);
    let is_usual = stop_reasons.iter().any(|reason| reason == "end_turn");
    let narrow = |condition: &Condition, is_wide: bool| match is_wide {
        true => Condition { values: Vec::new(), ..condition.clone() },
        false => condition.clone(),
    };
    let waiting = waiting.iter().map(|kind| Given::Text((*kind).to_owned())).collect();
    // The first of them is walked.
    let mut columns = vec![
        one("batch_id", batch.map(|batch| Given::Id(batch.0.as_bytes().to_vec()))),
        one("parent_id", parent.map(|parent| Given::Id(id_bytes(parent)))),
        one("thread_id", thread.as_ref().map(text)),
        Condition { column: "waiting", values: waiting },
        narrow(&of_reason, is_usual),
        narrow(&of_status, is_common),
        one("agent", agent.as_ref().map(text)),
        one("model", model.as_ref().map(text)),
        narrow(&of_status, !is_common),
    ];
    columns.retain(|condition| !condition.values.is_empty());
    let belongs = |condition: &Condition| {
        ["batch_id", "parent_id", "thread_id", "waiting"].contains(&condition.column)
    };
    let mut labels = labels.clone();
    let walk = if let Some(names) = names {
        Walk::Names(names.clone())
    } else if !labels.is_empty() && !columns.first().is_some_and(belongs) {
        Walk::Label(labels.remove(0))
    } else if columns.is_empty() {
        Walk::All
    } else {
        Walk::Column(columns.remove(0))
    };
    // No index has the usual reason.
    columns.push(narrow(&of_reason, !is_usual));
    columns.retain(|condition| !condition.values.is_empty());
    let (tenant, from, below) = (tenant.to_owned(), *from, *below);
    Plan { tenant, walk, conditions: columns, labels, from, below, limit }
}

type Query = QueryBuilder<sqlx::Sqlite>;

/// The whole statement: the newest of what each walk finds, as lists show them.
fn statement(before: &str, plan: &Plan) -> Query {
    let mut query = QueryBuilder::new(format!("{before}select {COLUMNS} from (select id from ("));
    match &plan.walk {
        Walk::Names(names) => of_names(&mut query, plan, names),
        Walk::Label(label) => of_label(&mut query, plan, label),
        Walk::All => of_column(&mut query, plan, None),
        Walk::Column(Condition { column, values }) => {
            for (place, value) in values.iter().enumerate() {
                if place > 0 {
                    query.push(") union all select id from (");
                }
                of_column(&mut query, plan, Some((*column, value)));
            }
        }
    }
    query.push(") order by id desc limit ").push_bind(i64::from(plan.limit));
    query.push(") page cross join runs on runs.id = page.id order by page.id desc");
    query
}

fn of_names(query: &mut Query, plan: &Plan, names: &[String]) {
    let ours = |name: &String| name.parse::<RunId>().ok().map(|run| run.0.simple().to_string());
    let ids: Vec<String> = names.iter().filter_map(ours).collect();
    query
        .push("select r.id as id from runs r where +r.tenant = ")
        .push_bind(plan.tenant.clone())
        .push(" and r.id in (select unhex(value) from json_each(")
        .push_bind(json!(ids).to_string())
        .push(") union select run_id from run_keys where tenant = ")
        .push_bind(plan.tenant.clone())
        .push(" and kind = ")
        .push_bind(KeyKind::RunId.name())
        .push(" and key in (select value from json_each(")
        .push_bind(json!(names).to_string())
        .push(")))");
    rest(query, plan, "+r.id");
}

fn of_label(query: &mut Query, plan: &Plan, (key, value): &(String, String)) {
    query
        .push(
            "select l.run_id as id from run_labels l cross join runs r on r.id = l.run_id
              where l.tenant = ",
        )
        .push_bind(plan.tenant.clone())
        .push(" and l.key = ")
        .push_bind(key.clone())
        .push(" and l.value = ")
        .push_bind(value.clone());
    rest(query, plan, "l.run_id");
}

fn of_column(query: &mut Query, plan: &Plan, walked: Option<(&'static str, &Given)>) {
    query.push("select r.id as id from runs r where r.tenant = ").push_bind(plan.tenant.clone());
    if let Some((column, value)) = walked {
        query.push(format!(" and r.{column} = "));
        bind(query, value);
        if column == "stop_reason" {
            // So SQLite knows that the index has them.
            query.push(" and r.stop_reason <> 'end_turn'");
        }
    }
    rest(query, plan, "r.id");
}

/// What is asked of each run on the walk, and where the walk ends.
fn rest(query: &mut Query, plan: &Plan, id: &str) {
    for Condition { column, values } in &plan.conditions {
        query.push(format!(" and +r.{column} in ("));
        for (place, value) in values.iter().enumerate() {
            if place > 0 {
                query.push(", ");
            }
            bind(query, value);
        }
        query.push(")");
    }
    for (key, value) in &plan.labels {
        query
            .push(" and exists (select 1 from run_labels other where other.tenant = ")
            .push_bind(plan.tenant.clone())
            .push(" and other.key = ")
            .push_bind(key.clone())
            .push(" and other.value = ")
            .push_bind(value.clone())
            .push(" and other.run_id = r.id)");
    }
    if let Some(from) = plan.from {
        query.push(format!(" and {id} >= ")).push_bind(id_bytes(from));
    }
    if let Some(below) = plan.below {
        query.push(format!(" and {id} < ")).push_bind(id_bytes(below));
    }
    query.push(format!(" order by {id} desc limit ")).push_bind(i64::from(plan.limit));
}

fn bind(query: &mut Query, value: &Given) {
    match value {
        Given::Text(text) => query.push_bind(text.clone()),
        Given::Id(id) => query.push_bind(id.clone()),
    };
}

fn row(row: &SqliteRow) -> Result<Listed, StoreError> {
    let corrupt = |error: sqlx::Error| StoreError::Corrupt(error.to_string());
    let status: String = row.try_get("status").map_err(corrupt)?;
    let id: Vec<u8> = row.try_get("id").map_err(corrupt)?;
    let turns: i64 = row.try_get("turn_count").map_err(corrupt)?;
    let last_seq: i64 = row.try_get("last_seq").map_err(corrupt)?;
    let batch: Option<Vec<u8>> = row.try_get("batch_id").map_err(corrupt)?;
    let parent: Option<Vec<u8>> = row.try_get("parent_id").map_err(corrupt)?;
    Ok(Listed {
        id: id_of(&id)?,
        public_id: row.try_get("public_id").map_err(corrupt)?,
        status: Status::parse(&status)
            .ok_or_else(|| StoreError::Corrupt(format!("the status `{status}`")))?,
        stop_reason: row.try_get("stop_reason").map_err(corrupt)?,
        agent: row.try_get("agent").map_err(corrupt)?,
        model: row.try_get("model").map_err(corrupt)?,
        turn_count: u32::try_from(turns).unwrap_or(u32::MAX),
        usage: row.try_get("usage").map_err(corrupt)?,
        error: row.try_get("error").map_err(corrupt)?,
        elapsed: row.try_get("elapsed").map_err(corrupt)?,
        metadata: row.try_get("metadata").map_err(corrupt)?,
        thread: row.try_get("thread_id").map_err(corrupt)?,
        batch: batch.map(|id| id_of(&id).map(|id| BatchId(id.0))).transpose()?,
        parent: parent.map(|id| id_of(&id)).transpose()?,
        cancel_at_ms: row.try_get("cancel_at").map_err(corrupt)?,
        last_seq: Seq(last_seq.unsigned_abs()),
        created_by: row.try_get("created_by").map_err(corrupt)?,
        created_at_ms: row.try_get("created_at").map_err(corrupt)?,
        started_at_ms: row.try_get("started_at").map_err(corrupt)?,
        finished_at_ms: row.try_get("finished_at").map_err(corrupt)?,
        input_preview: row.try_get("input_preview").map_err(corrupt)?,
        output_preview: row.try_get("output_preview").map_err(corrupt)?,
        queue_position: None,
    })
}
