//! Lists of runs: each walks one index from the newest run on, and reads no log.
//!
//! The statements are put together, so that each filter is planned by itself. Each arm asks for one
//! value of the column that is walked and for the order of its index, partition by partition from the
//! newest day on.

use sqlx::postgres::PgRow;
use sqlx::{QueryBuilder, Row};
use uuid::Uuid;

use super::{Postgres, seq_of, unreadable};
use crate::run::{RunId, Status};
use crate::store::{BatchId, Filter, KeyKind, Listed, PLACES, StoreError};

const COLUMNS: &str = "runs.id, public_id, status, stop_reason, agent, model, turn_count, usage,
    error, elapsed, metadata, thread_id, batch_id, parent_id, cancel_at, last_seq, created_by,
    created_at, started_at, finished_at, input_preview, output_preview";

/// A value that a column must have.
#[derive(Clone, Debug)]
enum Given {
    Text(String),
    Id(Uuid),
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

impl Postgres {
    pub(in crate::store) async fn list(
        &self,
        tenant: &str,
        filter: &Filter,
        limit: u32,
    ) -> Result<Vec<Listed>, StoreError> {
        let plan = plan(tenant, filter, limit);
        let mut listed: Vec<Listed> = self
            .clients
            .run(move |connection| {
                Box::pin(async move {
                    let mut query = statement(&plan);
                    // Planned for these values and not kept: there are too many kinds of lists.
                    let rows = query.build().persistent(false).fetch_all(connection).await?;
                    rows.iter().map(row).collect::<Result<_, _>>()
                })
            })
            .await?;
        if listed.iter().any(|run| run.status == Status::Queued) {
            let places = self.places().await?;
            for run in listed.iter_mut().filter(|run| run.status == Status::Queued) {
                let place = places.iter().position(|id| *id == run.id);
                run.queue_position = place.map(|place| place as u64 + 1);
            }
        }
        Ok(listed)
    }

    /// Who comes next in the queue, as far as places are told.
    async fn places(&self) -> Result<Vec<RunId>, StoreError> {
        self.clients
            .run(|connection| {
                Box::pin(async move {
                    let rows: Vec<(Uuid,)> = sqlx::query_as(
                        "select run_id
                           from ((select run_id, priority, run_at from queue
                                   where kind = 'drive'
                                   order by priority, run_at, run_id limit $1)
                                 union all
                                 (select run_id, priority, run_at from queue
                                   where kind = 'inbox'
                                   order by priority, run_at, run_id limit $1)) as next
                          order by priority, run_at, run_id limit $1",
                    )
                    .bind(i64::from(PLACES))
                    .fetch_all(connection)
                    .await?;
                    Ok(rows.into_iter().map(|(id,)| RunId(id)).collect())
                })
            })
            .await
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
        one("batch_id", batch.map(|batch| Given::Id(batch.0))),
        one("parent_id", parent.map(|parent| Given::Id(parent.0))),
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

type Query = QueryBuilder<sqlx::Postgres>;

/// The whole statement: the newest of what each walk finds, as lists show them.
fn statement(plan: &Plan) -> Query {
    let mut query = QueryBuilder::new(format!("select {COLUMNS} from (select id from ("));
    match &plan.walk {
        Walk::Names(names) => of_names(&mut query, plan, names),
        Walk::Label(label) => of_label(&mut query, plan, label),
        Walk::All => of_column(&mut query, plan, None),
        Walk::Column(Condition { column, values }) => {
            for (place, value) in values.iter().enumerate() {
                if place > 0 {
                    query.push(") as arm union all select id from (");
                }
                of_column(&mut query, plan, Some((*column, value)));
            }
        }
    }
    query.push(") as arm order by id desc limit ").push_bind(i64::from(plan.limit));
    query.push(") as page join runs on runs.id = page.id order by page.id desc");
    query
}

fn of_names(query: &mut Query, plan: &Plan, names: &[String]) {
    let ours = |name: &String| name.parse::<RunId>().ok().map(|run| run.0);
    let ids: Vec<Uuid> = names.iter().filter_map(ours).collect();
    query
        .push("select r.id as id from runs r where r.tenant = ")
        .push_bind(plan.tenant.clone())
        .push(" and r.id = any (array(select unnest(")
        .push_bind(ids)
        .push("::uuid[]) union select run_id from run_keys where tenant = ")
        .push_bind(plan.tenant.clone())
        .push(" and kind = ")
        .push_bind(KeyKind::RunId.name())
        .push(" and key = any (")
        .push_bind(names.to_vec())
        .push(")))");
    rest(query, plan, "r.id");
}

fn of_label(query: &mut Query, plan: &Plan, (key, value): &(String, String)) {
    query
        .push(
            "select l.run_id as id from run_labels l join runs r on r.id = l.run_id
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
            // So it is known that the index has them.
            query.push(" and r.stop_reason <> 'end_turn'");
        }
    }
    rest(query, plan, "r.id");
}

/// What is asked of each run on the walk, and where the walk ends.
fn rest(query: &mut Query, plan: &Plan, id: &str) {
    for Condition { column, values } in &plan.conditions {
        query.push(format!(" and r.{column} in ("));
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
        query.push(format!(" and {id} >= ")).push_bind(from.0);
    }
    if let Some(below) = plan.below {
        query.push(format!(" and {id} < ")).push_bind(below.0);
    }
    query.push(format!(" order by {id} desc limit ")).push_bind(i64::from(plan.limit));
}

fn bind(query: &mut Query, value: &Given) {
    match value {
        Given::Text(text) => query.push_bind(text.clone()),
        Given::Id(id) => query.push_bind(*id),
    };
}

fn row(row: &PgRow) -> Result<Listed, sqlx::Error> {
    let status: String = row.try_get("status")?;
    let turns: i32 = row.try_get("turn_count")?;
    Ok(Listed {
        id: RunId(row.try_get("id")?),
        public_id: row.try_get("public_id")?,
        status: Status::parse(&status)
            .ok_or_else(|| unreadable(format!("the status `{status}`")))?,
        stop_reason: row.try_get("stop_reason")?,
        agent: row.try_get("agent")?,
        model: row.try_get("model")?,
        turn_count: turns.unsigned_abs(),
        usage: row.try_get("usage")?,
        error: row.try_get("error")?,
        elapsed: row.try_get("elapsed")?,
        metadata: row.try_get("metadata")?,
        thread: row.try_get("thread_id")?,
        batch: row.try_get::<Option<Uuid>, _>("batch_id")?.map(BatchId),
        parent: row.try_get::<Option<Uuid>, _>("parent_id")?.map(RunId),
        cancel_at_ms: row.try_get("cancel_at")?,
        last_seq: seq_of(row.try_get("last_seq")?),
        created_by: row.try_get("created_by")?,
        created_at_ms: row.try_get("created_at")?,
        started_at_ms: row.try_get("started_at")?,
        finished_at_ms: row.try_get("finished_at")?,
        input_preview: row.try_get("input_preview")?,
        output_preview: row.try_get("output_preview")?,
        queue_position: None,
    })
}
