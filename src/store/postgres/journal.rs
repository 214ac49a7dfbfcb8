//! The append lane: one statement for everything that the node has waiting (`commit_batch`).

use std::sync::Arc;

use uuid::Uuid;

use super::error::is_fenced;
use super::{Postgres, as_i64, unreadable};
use crate::run::Seq;
use crate::store::{Append, Appended, BatchNumber, NodeId, StoreError, StoredEvent};

const APPEND: &str =
    "select commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                         $18, $19, $20, $21, $22, $23, $24, $25, $26)";

impl Postgres {
    pub(in crate::store) async fn append(
        &self,
        node: NodeId,
        number: BatchNumber,
        batch: Arc<Vec<Append>>,
    ) -> Result<Vec<Appended>, StoreError> {
        let size = batch.len();
        let letters: String = self
            .appends
            .run(move |connection| {
                Box::pin(async move {
                    let runs = Runs::of(&batch);
                    let events = Events::of(batch.iter().map(|append| append.events.as_slice()));
                    let query = sqlx::query_as(APPEND)
                        .bind(node.0)
                        .bind(as_i64(number.0))
                        .bind(runs.ids.iter().min().copied())
                        .bind(runs.ids.iter().max().copied())
                        .bind(runs.ids)
                        .bind(runs.first_seqs)
                        .bind(runs.counts)
                        .bind(runs.starts)
                        .bind(runs.guards)
                        .bind(runs.reads)
                        .bind(runs.resets)
                        .bind(runs.turns_at)
                        .bind(runs.statuses)
                        .bind(runs.stop_reasons)
                        .bind(runs.previews)
                        .bind(runs.started_ats)
                        .bind(runs.finished_ats)
                        .bind(runs.turn_counts)
                        .bind(runs.usages)
                        .bind(runs.errors)
                        .bind(runs.elapseds)
                        .bind(runs.metadatas)
                        .bind(events.places)
                        .bind(events.seqs)
                        .bind(events.types)
                        .bind(events.data);
                    // Counted here, where the database said it: the node that wakes from a freeze
                    // finds out by itself as well, and may not wait for this answer.
                    let answered = query.fetch_one(connection).await;
                    metrics::counter!("runledger_appends_fenced_total")
                        .increment(fenced(&answered));
                    answered.map(|(letters,)| letters)
                })
            })
            .await?;
        if letters.len() != size {
            return Err(StoreError::Data("two batches have one number".to_owned()));
        }
        letters.chars().map(appended).collect()
    }
}

/// How much of a batch was refused because it was not, or no longer, the node's to write: all of it
/// counts as one.
fn fenced(answered: &Result<(String,), sqlx::Error>) -> u64 {
    match answered {
        Ok((letters,)) => u64::from(letters.contains('n')),
        Err(error) => u64::from(is_fenced(error)),
    }
}

fn appended(letter: char) -> Result<Appended, StoreError> {
    match letter {
        'a' => Ok(Appended::All),
        's' => Ok(Appended::StartsRefused),
        'i' => Ok(Appended::InboxNews),
        'n' => Ok(Appended::NotOwner),
        other => Err(StoreError::Corrupt(unreadable(format!("the answer `{other}`")).to_string())),
    }
}

/// A batch by columns, a row a run.
#[derive(Default)]
struct Runs<'a> {
    ids: Vec<Uuid>,
    first_seqs: Vec<i64>,
    counts: Vec<i32>,
    starts: Vec<Option<i32>>,
    guards: Vec<Option<i64>>,
    reads: Vec<Option<i64>>,
    resets: Vec<bool>,
    turns_at: Vec<Option<i64>>,
    statuses: Vec<Option<&'static str>>,
    stop_reasons: Vec<Option<&'a str>>,
    previews: Vec<Option<&'a str>>,
    started_ats: Vec<Option<i64>>,
    finished_ats: Vec<Option<i64>>,
    turn_counts: Vec<Option<i32>>,
    usages: Vec<Option<&'a str>>,
    errors: Vec<Option<&'a str>>,
    elapseds: Vec<Option<f64>>,
    metadatas: Vec<Option<&'a str>>,
}

impl Runs<'_> {
    fn of(batch: &[Append]) -> Runs<'_> {
        let mut runs = Runs::default();
        for append in batch {
            let update = append.update.as_ref();
            let (finished, started): (Option<_>, Option<_>) = match update {
                Some(update) if update.status.is_terminal() => (Some(update.at_ms), None),
                Some(update) => (None, Some(update.at_ms)),
                None => (None, None),
            };
            runs.ids.push(append.run.0);
            runs.first_seqs.push(first_seq(&append.events));
            runs.counts.push(count(append.events.len()));
            runs.starts.push(append.starts_at.map(count));
            runs.guards.push(append.only_if_inbox_n);
            runs.reads.push(append.inbox_read);
            runs.resets.push(append.reset_crashes);
            runs.turns_at.push(append.turn_started_at_ms);
            runs.statuses.push(update.map(|update| update.status.name()));
            runs.stop_reasons.push(update.and_then(|update| update.stop_reason.as_deref()));
            runs.previews.push(update.and_then(|update| update.output_preview.as_deref()));
            runs.started_ats.push(started);
            runs.finished_ats.push(finished);
            let shown = &append.shown;
            let turns = shown.turn_count.map(|n| i32::try_from(n).unwrap_or(i32::MAX));
            runs.turn_counts.push(turns);
            runs.usages.push(shown.usage.as_deref());
            runs.errors.push(shown.error.as_deref());
            runs.elapseds.push(shown.elapsed);
            runs.metadatas.push(shown.metadata.as_deref());
        }
        runs
    }
}

/// Where dense events begin; of others, the place that leaves a gap, as a negative number.
fn first_seq(events: &[StoredEvent]) -> i64 {
    let Some(first) = events.first() else { return 0 };
    let mut expected = first.seq;
    for event in events {
        if event.seq != expected {
            return -place(event.seq);
        }
        expected = expected.next();
    }
    place(first.seq)
}

/// Events by columns; which of their runs each belongs to is told by its place, from 1.
#[derive(Default)]
pub(super) struct Events<'a> {
    pub(super) places: Vec<i32>,
    pub(super) seqs: Vec<i64>,
    pub(super) types: Vec<i16>,
    pub(super) data: Vec<&'a str>,
}

impl<'a> Events<'a> {
    pub(super) fn of(runs: impl Iterator<Item = &'a [StoredEvent]>) -> Events<'a> {
        let mut columns = Events::default();
        for (events, of) in runs.zip(1..) {
            for event in events {
                columns.places.push(of);
                columns.seqs.push(place(event.seq));
                columns.types.push(i16::from(event.kind));
                columns.data.push(&event.data);
            }
        }
        columns
    }
}

pub(super) fn place(seq: Seq) -> i64 {
    // No log is that long: it is refused as a gap.
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

fn count(events: usize) -> i32 {
    i32::try_from(events).expect("a batch is bounded far below")
}
