//! Reads: rows and logs.

use super::tables::{Run, Tables};
use super::{Memory, Op};
use crate::run::event::kind_of;
use crate::run::{RunId, Seq, id};
use crate::store::{
    Counts, KeyKind, PAGE_BYTES, PLACES, Reader, RunRow, STRANDED_LOOK, StoreError, StoredEvent,
    TypeFilter,
};

impl Memory {
    pub(in crate::store) async fn find(
        &self,
        tenant: &str,
        name: &str,
    ) -> Result<Option<RunRow>, StoreError> {
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        self.run(Op::Read, move |tables, _| {
            let run = match name.parse::<RunId>() {
                Ok(run) => Some(run),
                Err(_) if id::is_client_id(&name) => tables.named(&tenant, &name),
                Err(_) => None,
            };
            let found = run.and_then(|run| Some((run, tables.runs.get(&run)?)));
            let ours = found.filter(|(_, row)| row.tenant == tenant);
            Ok(ours.map(|(run, row)| row.to_run_row(run)))
        })
        .await
    }

    /// The run that a client has given this name.
    pub(in crate::store) async fn named(
        &self,
        tenant: &str,
        name: &str,
    ) -> Result<Option<RunId>, StoreError> {
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        self.run(Op::Read, move |tables, _| Ok(tables.named(&tenant, &name))).await
    }

    pub(in crate::store) async fn load(
        &self,
        run: RunId,
        reader: Reader,
    ) -> Result<Option<RunRow>, StoreError> {
        self.run(op_of(reader, Op::Load), move |tables, _| {
            Ok(tables.runs.get(&run).map(|row| row.to_run_row(run)))
        })
        .await
    }

    pub(in crate::store) async fn events(
        &self,
        run: RunId,
        after: Seq,
        limit: u32,
        bytes: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.run(Op::Read, move |tables, _| {
            let behind = tables.log(run).iter().filter(|event| event.seq > after);
            Ok(page(behind, limit, bytes))
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
        let types = types.clone();
        self.run(Op::Read, move |tables, _| {
            let passes = |event: &&StoredEvent| event.seq < before && types.passes(event.kind);
            let mut page = page(tables.log(run).iter().rev().filter(passes), limit, PAGE_BYTES);
            page.reverse();
            Ok(page)
        })
        .await
    }

    pub(in crate::store) async fn log_for_fold(
        &self,
        run: RunId,
        reader: Reader,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.run(op_of(reader, Op::Log), move |tables, _| Ok(for_fold(tables.log(run)))).await
    }

    pub(in crate::store) async fn positions(
        &self,
        runs: &[RunId],
    ) -> Result<Vec<(RunId, Seq)>, StoreError> {
        let runs = runs.to_vec();
        self.run(Op::Read, move |tables, _| {
            let position = |run: RunId| Some((run, tables.runs.get(&run)?.last_seq()));
            Ok(runs.into_iter().filter_map(position).collect())
        })
        .await
    }

    pub(in crate::store) async fn queue_position(
        &self,
        run: RunId,
    ) -> Result<Option<u64>, StoreError> {
        self.run(Op::Read, move |tables, _| {
            let place = tables.in_order().iter().position(|(waiting, _)| *waiting == run);
            let place = place.map(|place| place as u64 + 1);
            Ok(place.filter(|place| *place <= u64::from(PLACES)))
        })
        .await
    }

    pub(in crate::store) async fn counts(&self) -> Result<Counts, StoreError> {
        self.run(Op::Read, |tables, _| {
            let owned = tables.runs.values().filter(|run| run.node.is_some()).count() as u64;
            Ok(Counts { queued: tables.queue.len() as u64, owned })
        })
        .await
    }

    pub(in crate::store) async fn stranded(&self) -> Result<Vec<RunId>, StoreError> {
        self.run(Op::Read, |tables, now_ms| {
            let is_alive = |node| {
                let lease = tables.leases.get(&node);
                tables.is_alive(node) && lease.is_some_and(|lease| lease.until_ms > now_ms)
            };
            let is_stranded = |(id, run): &(&RunId, &Run)| match run.node {
                None => !tables.queue.contains_key(id),
                Some(node) => !is_alive(node),
            };
            let open = tables.runs.iter().filter(|(_, run)| run.finished_at_ms.is_none());
            let open = open.take(usize::try_from(STRANDED_LOOK).expect("it is positive"));
            Ok(open.filter(is_stranded).map(|(id, _)| *id).collect())
        })
        .await
    }
}

impl Tables {
    pub(super) fn named(&self, tenant: &str, name: &str) -> Option<RunId> {
        let key = (tenant.to_owned(), KeyKind::RunId, name.to_owned());
        self.keys.get(&key).map(|(run, _)| RunId(*run))
    }

    fn log(&self, run: RunId) -> &[StoredEvent] {
        self.runs.get(&run).map_or(&[], |row: &Run| row.log.as_slice())
    }
}

fn op_of(reader: Reader, op: Op) -> Op {
    match reader {
        Reader::Driver => op,
        Reader::Client => Op::Read,
    }
}

fn page<'a>(
    events: impl Iterator<Item = &'a StoredEvent>,
    limit: u32,
    bytes: usize,
) -> Vec<StoredEvent> {
    let mut filled = 0;
    events
        .take(limit as usize)
        .take_while(|event| {
            let has_room = filled < bytes;
            filled += event.data.len();
            has_room
        })
        .cloned()
        .collect()
}

/// Everything but the deltas of turns that have ended, unless their cut text stands.
fn for_fold(log: &[StoredEvent]) -> Vec<StoredEvent> {
    let is = |event: &StoredEvent, name| Some(event.kind) == kind_of(name);
    let attempt = log.iter().rfind(|event| is(event, "turn.started")).map(|event| event.seq);
    let ends = |event: &StoredEvent| {
        let stands = |reason| event.data.contains(&format!(r#""reason":"{reason}""#));
        is(event, "turn.completed")
            || (is(event, "turn.aborted") && !stands("limit") && !stands("cancelled"))
    };
    let needed =
        attempt.filter(|attempt| !log.iter().any(|event| event.seq > *attempt && ends(event)));
    let is_delta = |event: &StoredEvent| is(event, "text") || is(event, "reasoning");
    log.iter()
        .filter(|event| !is_delta(event) || needed.is_some_and(|needed| event.seq > needed))
        .cloned()
        .collect()
}
