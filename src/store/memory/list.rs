//! Lists of runs: every run of the tenant is looked at, from the newest on.

use serde_json::{Map, Value};

use super::tables::{Run, Tables};
use super::{Memory, Op};
use crate::run::{RunId, Status};
use crate::store::{Filter, Listed, PLACES, StoreError};

impl Memory {
    pub(in crate::store) async fn list(
        &self,
        tenant: &str,
        filter: &Filter,
        limit: u32,
    ) -> Result<Vec<Listed>, StoreError> {
        let (tenant, filter) = (tenant.to_owned(), filter.clone());
        self.run(Op::Read, move |tables, _| {
            let waiting = tables.in_order();
            let place = |run: RunId| {
                let place = waiting.iter().position(|(id, _)| *id == run)?;
                (place < PLACES as usize).then_some(place as u64 + 1)
            };
            let named = names(tables, &tenant, &filter);
            let passes = |(id, run): &(&RunId, &Run)| {
                run.tenant == tenant
                    && named.as_ref().is_none_or(|named| named.contains(id))
                    && passes(&filter, **id, run)
            };
            let found = tables.runs.iter().rev().filter(passes).take(limit as usize);
            Ok(found.map(|(id, run)| listed(*id, run, place)).collect())
        })
        .await
    }
}

/// The runs of the names that are asked for.
fn names(tables: &Tables, tenant: &str, filter: &Filter) -> Option<Vec<RunId>> {
    let run = |name: &String| name.parse().ok().or_else(|| tables.named(tenant, name));
    filter.names.as_ref().map(|names| names.iter().filter_map(run).collect())
}

fn passes(filter: &Filter, id: RunId, run: &Run) -> bool {
    let Filter {
        statuses,
        stop_reasons,
        agent,
        model,
        thread,
        batch,
        parent,
        waiting,
        names: _,
        labels,
        from,
        below,
    } = filter;
    let ended_for = |reason: &String| run.stop_reason.as_ref() == Some(reason);
    (statuses.is_empty() || statuses.contains(&run.status))
        && (stop_reasons.is_empty() || stop_reasons.iter().any(ended_for))
        && (agent.is_none() || *agent == run.agent)
        && model.as_ref().is_none_or(|model| *model == run.model)
        && (batch.is_none() || *batch == run.batch)
        // No run of this release has a thread or a parent, or waits for one of these.
        && thread.is_none()
        && parent.is_none()
        && waiting.is_empty()
        && has_labels(run, labels)
        && from.is_none_or(|from| id >= from)
        && below.is_none_or(|below| id < below)
}

fn has_labels(run: &Run, labels: &[(String, String)]) -> bool {
    if labels.is_empty() {
        return true;
    }
    let has: Map<String, Value> = serde_json::from_str(&run.metadata).unwrap_or_default();
    labels.iter().all(|(key, value)| match has.get(key) {
        Some(Value::String(text)) => text == value,
        // Labels are texts.
        Some(_) | None => false,
    })
}

fn listed(id: RunId, run: &Run, place: impl Fn(RunId) -> Option<u64>) -> Listed {
    Listed {
        id,
        public_id: run.public_id.clone(),
        status: run.status,
        stop_reason: run.stop_reason.clone(),
        agent: run.agent.clone(),
        model: run.model.clone(),
        turn_count: run.turn_count,
        usage: run.usage.clone(),
        error: run.error.clone(),
        elapsed: run.elapsed,
        metadata: run.metadata.clone(),
        thread: None,
        batch: run.batch,
        parent: None,
        cancel_at_ms: run.cancel_at_ms,
        last_seq: run.last_seq(),
        created_by: run.created_by.clone(),
        created_at_ms: run.created_at_ms,
        started_at_ms: run.started_at_ms,
        finished_at_ms: run.finished_at_ms,
        input_preview: Some(run.input_preview.clone()),
        output_preview: run.output_preview.clone(),
        queue_position: if run.status == Status::Queued { place(id) } else { None },
    }
}
