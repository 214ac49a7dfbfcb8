//! The create lane.

use uuid::Uuid;

use super::tables::{KeyName, Kind, Queued, Run, Tables};
use super::{Flaws, Memory, Op};
use crate::run::RunId;
use crate::store::{Create, Created, Key, StoreError};

impl Memory {
    pub(in crate::store) async fn create(
        &self,
        batch: Vec<Create>,
    ) -> Result<Vec<Created>, StoreError> {
        let flaws = self.database.flaws;
        self.run(Op::Create, move |tables, now_ms| {
            Ok(batch.iter().map(|create| create_one(tables, create, flaws, now_ms)).collect())
        })
        .await
    }
}

fn create_one(tables: &mut Tables, create: &Create, flaws: Flaws, now_ms: i64) -> Created {
    if create.owner.is_some_and(|owner| !tables.is_alive(owner)) {
        return Created::Fenced;
    }
    let mut holder: Option<Uuid> = None;
    for key in create.keys.iter().filter(|_| !flaws.forgets_keys) {
        let Some((run, digest)) = tables.keys.get(&name(&create.tenant, key)) else { continue };
        if *digest != create.digest || holder.is_some_and(|other| other != *run) {
            return Created::Conflict;
        }
        holder = Some(*run);
    }
    let run = holder.unwrap_or(create.id.0);
    for key in &create.keys {
        bind(tables, &create.tenant, key, run, &create.digest);
    }
    match holder {
        // Its own: it was committed, and the answer was lost.
        Some(run) if run == create.id.0 => return Created::New,
        Some(run) => return Created::Existing(RunId(run)),
        None => {}
    }
    if let std::collections::btree_map::Entry::Vacant(place) = tables.runs.entry(create.id) {
        place.insert(Run::of(create, None));
        if create.owner.is_none() {
            queue_new(tables, create, now_ms);
        }
    }
    Created::New
}

pub(super) fn name(tenant: &str, key: &Key) -> KeyName {
    (tenant.to_owned(), key.kind, key.key.clone())
}

pub(super) fn bind(tables: &mut Tables, tenant: &str, key: &Key, to: Uuid, digest: &str) {
    tables.keys.entry(name(tenant, key)).or_insert_with(|| (to, digest.to_owned()));
}

pub(super) fn queue_new(tables: &mut Tables, create: &Create, now_ms: i64) {
    let queued = Queued {
        kind: Kind::Drive,
        reason: "new".to_owned(),
        // Where the clock was put back, that is still to come.
        run_at_ms: create.created_at_ms.min(now_ms),
        crashes: 0,
    };
    tables.queue.insert(create.id, queued);
}
