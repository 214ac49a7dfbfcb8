//! The create lane: keys, run, queue row and first events in one statement (`commit_creates`).

use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::error::is_contended;
use super::journal::{Events, place};
use super::{Postgres, unreadable};
use crate::run::RunId;
use crate::store::{Create, Created, StoreError};

/// How often creates are sent that meet others on their way. From the second time on each waits for
/// its keys by itself and a few milliseconds only, so that one which waits for somebody who does not
/// come to an end keeps nobody else.
const TRIES_MAX: usize = 4;

/// How many creates that are each asked alone share one deadline.
const ALONE_MAX: usize = 16;

const CREATE: &str = "select letters, holders
       from commit_creates($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                           $17, $18, $19, $20, $21)";

/// The same where a run has labels.
const CREATE_AND_LABEL: &str = "select letters, holders, label_new($1, letters)
       from commit_creates($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                           $17, $18, $19, $20, $21)";

impl Postgres {
    pub(in crate::store) async fn create(
        &self,
        batch: Vec<Create>,
    ) -> Result<Vec<Created>, StoreError> {
        let mut done = vec![Created::Busy; batch.len()];
        // What two keys name is found out one create at a time.
        let (alone, together): (Vec<usize>, Vec<usize>) =
            (0..batch.len()).partition(|place| batch[*place].keys.len() > 1);
        let alone: Vec<Vec<usize>> = alone.into_iter().map(|place| vec![place]).collect();
        let parts = alone.chunks(ALONE_MAX).map(<[_]>::to_vec).chain([vec![together]]);
        let batch = Arc::new(batch);
        for groups in parts {
            for (place, created) in self.create_groups(Arc::clone(&batch), groups).await? {
                done[place] = created;
            }
        }
        Ok(done)
    }

    /// Creates groups of a batch, one after another, within one deadline.
    async fn create_groups(
        &self,
        batch: Arc<Vec<Create>>,
        groups: Vec<Vec<usize>>,
    ) -> Result<Vec<(usize, Created)>, StoreError> {
        if groups.iter().all(Vec::is_empty) {
            return Ok(Vec::new());
        }
        self.creates
            .run(move |connection| {
                Box::pin(async move {
                    let mut done = Vec::new();
                    for group in groups {
                        done.extend(create_group(connection, &batch, group).await?);
                    }
                    Ok(done)
                })
            })
            .await
    }
}

/// Creates those that stand at these places.
async fn create_group(
    connection: &mut PgConnection,
    batch: &[Create],
    mut open: Vec<usize>,
) -> Result<Vec<(usize, Created)>, sqlx::Error> {
    let mut done = Vec::new();
    for attempt in 1..=TRIES_MAX {
        let creates: Vec<&Create> = open.iter().map(|place| &batch[*place]).collect();
        let created = match ask(connection, &creates, attempt > 1).await {
            Err(error) if is_contended(&error) && attempt < TRIES_MAX => continue,
            asked => asked?,
        };
        let told: Vec<(usize, Created)> = open.into_iter().zip(created).collect();
        open =
            told.iter().filter(|(_, of)| *of == Created::Busy).map(|(place, _)| *place).collect();
        done.extend(told);
        if open.is_empty() {
            break;
        }
    }
    Ok(done)
}

async fn ask(
    connection: &mut PgConnection,
    creates: &[&Create],
    is_careful: bool,
) -> Result<Vec<Created>, sqlx::Error> {
    fn column<'a, T>(creates: &[&'a Create], of: impl Fn(&'a Create) -> T) -> Vec<T> {
        creates.iter().map(|create| of(create)).collect()
    }
    let events = Events::of(creates.iter().map(|create| create.events.as_slice()));
    let keys: Vec<_> = creates
        .iter()
        .zip(1..)
        .flat_map(|(create, of)| create.keys.iter().map(move |key| (of, key)))
        .collect();
    let is_labelled = creates.iter().any(|create| create.metadata != "{}");
    let statement = if is_labelled { CREATE_AND_LABEL } else { CREATE };
    let row = sqlx::query(statement)
        .bind(column(creates, |create| create.id.0))
        .bind(column(creates, |create| create.tenant.as_str()))
        .bind(column(creates, |create| create.owner.map(|node| node.0)))
        .bind(column(creates, |create| create.digest.as_str()))
        .bind(column(creates, |create| create.public_id.as_str()))
        .bind(column(creates, |create| create.agent.as_deref()))
        .bind(column(creates, |create| create.model.as_str()))
        .bind(column(creates, |create| create.created_by.as_str()))
        .bind(column(creates, |create| create.created_at_ms))
        .bind(column(creates, |create| create.input_preview.as_str()))
        .bind(column(creates, |create| create.metadata.as_str()))
        .bind(column(creates, |create| create.spec.as_str()))
        .bind(column(creates, |create| create.events.last().map_or(0, |event| place(event.seq))))
        .bind(keys.iter().map(|(of, _)| *of).collect::<Vec<i32>>())
        .bind(keys.iter().map(|(_, key)| key.kind.name()).collect::<Vec<&str>>())
        .bind(keys.iter().map(|(_, key)| key.key.as_str()).collect::<Vec<&str>>())
        .bind(events.places)
        .bind(events.seqs)
        .bind(events.types)
        .bind(events.data)
        .bind(is_careful)
        .fetch_one(connection)
        .await?;
    let (letters, holders): (Vec<String>, Vec<Uuid>) = (row.try_get(0)?, row.try_get(1)?);
    let answers = letters.iter().zip(holders);
    answers.map(|(letter, holder)| created(letter, RunId(holder))).collect()
}

fn created(letter: &str, holder: RunId) -> Result<Created, sqlx::Error> {
    match letter {
        "n" => Ok(Created::New),
        "e" => Ok(Created::Existing(holder)),
        "c" => Ok(Created::Conflict),
        "f" => Ok(Created::Fenced),
        "b" => Ok(Created::Busy),
        other => Err(unreadable(format!("the answer `{other}`"))),
    }
}
