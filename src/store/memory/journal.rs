//! The append lane.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::tables::Tables;
use super::{Flaws, Memory, Op};
use crate::run::event::is_terminal;
use crate::store::{Append, Appended, BatchNumber, NodeId, StoreError};

impl Memory {
    pub(in crate::store) async fn append(
        &self,
        node: NodeId,
        number: BatchNumber,
        batch: Arc<Vec<Append>>,
    ) -> Result<Vec<Appended>, StoreError> {
        let (database, sent) = (Arc::clone(&self.database), Arc::clone(&batch));
        let flaws = database.flaws;
        let done = self
            .run(Op::Append, move |tables, _| {
                let done = append(tables, node, number, &sent, flaws);
                database.count_refused(match &done {
                    Ok(answers) => {
                        answers.iter().filter(|one| **one == Appended::NotOwner).count() as u64
                    }
                    Err(_) => 1,
                });
                done
            })
            .await;
        match done {
            Err(StoreError::Unavailable(_)) if flaws.acknowledges_early => {
                Ok(vec![Appended::All; batch.len()])
            }
            done => done,
        }
    }
}

fn append(
    tables: &mut Tables,
    node: NodeId,
    number: BatchNumber,
    batch: &[Append],
    flaws: Flaws,
) -> Result<Vec<Appended>, StoreError> {
    if !tables.is_alive(node) && !flaws.has_no_fence {
        return Err(StoreError::Fenced);
    }
    let (last, answers) = tables.last_batches.entry(node).or_default();
    if !flaws.has_no_batch_numbers {
        if number.0 == *last && answers.len() != batch.len() {
            return Err(StoreError::Data("two batches have one number".to_owned()));
        } else if number.0 == *last {
            return Ok(answers.clone());
        } else if number.0 < *last {
            let late = format!("batch {} came after batch {last}", number.0);
            return Err(StoreError::Data(late));
        }
    }
    let judged: Vec<(Appended, usize)> =
        batch.iter().map(|append| judge(tables, node, append, flaws)).collect::<Result<_, _>>()?;
    end_once(batch, &judged)?;
    for (append, (answer, taken)) in batch.iter().zip(&judged) {
        if let Some(run) = tables.runs.get_mut(&append.run)
            && matches!(answer, Appended::All | Appended::StartsRefused)
        {
            run.take(append, *taken, *answer == Appended::All);
        }
    }
    let answers: Vec<Appended> = judged.into_iter().map(|(answer, _)| answer).collect();
    tables.last_batches.insert(node, (number.0, answers.clone()));
    Ok(answers)
}

/// What becomes of an append, and how many of its events are committed.
fn judge(
    tables: &Tables,
    node: NodeId,
    append: &Append,
    flaws: Flaws,
) -> Result<(Appended, usize), StoreError> {
    let is_owner = |run: &&super::tables::Run| {
        run.node == Some(node) || (flaws.has_no_fence && run.finished_at_ms.is_none())
    };
    let Some(run) = tables.runs.get(&append.run).filter(is_owner) else {
        return Ok((Appended::NotOwner, 0));
    };
    let has_news = append.only_if_inbox_n.is_some_and(|read| run.inbox_n != read);
    if has_news && !flaws.has_no_inbox_guard {
        return Ok((Appended::InboxNews, 0));
    }
    let mut expected = run.last_seq();
    for event in &append.events {
        expected = expected.next();
        if event.seq != expected {
            return Err(StoreError::Data(format!(
                "event {} would leave a gap behind {}",
                event.seq,
                run.last_seq()
            )));
        }
    }
    match append.starts_at {
        Some(starts) if run.cancel_at_ms.is_some() && !flaws.starts_after_cancel => {
            Ok((Appended::StartsRefused, starts))
        }
        Some(_) | None => Ok((Appended::All, append.events.len())),
    }
}

/// A run has one end: the index over the ends refuses a second.
fn end_once(batch: &[Append], judged: &[(Appended, usize)]) -> Result<(), StoreError> {
    let mut ends = BTreeMap::new();
    for (append, (_, taken)) in batch.iter().zip(judged) {
        let more = append.events[..*taken].iter().filter(|event| is_terminal(event.kind)).count();
        *ends.entry(append.run).or_insert(0) += more;
    }
    match ends.into_iter().find(|(_, ends)| *ends > 1) {
        Some((run, _)) => Err(StoreError::Data(format!("run {run} would end twice"))),
        None => Ok(()),
    }
}
